"""PyTorch back end: what the exported graphs are checked against."""

from __future__ import annotations

import numpy as np

from lewm_model.bundle import Bundle, load_heads, load_model
from lewm_model.runtime.errors import RuntimeLoadError
from lewm_model.runtime.signature import proposing

try:
    import torch
except ImportError as error:
    raise RuntimeLoadError(f"PyTorch is not installed ({error}); run `pip install torch`") from error

from lewm_model.graphs import RolloutGraph


class TorchRuntime:
    """Runs a bundle's weights on the CPU."""

    backend = "torch"

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self.bundle = bundle
        self.notes: list[str] = []
        self._model, heads = load_model(bundle), load_heads(bundle)
        self._rollout = RolloutGraph(
            self._model, heads.get("steps_to_go"), torch.from_numpy(bundle.actions.still)
        ).eval()
        self._proposal = heads.get(proposing(heads) or "")

    @torch.inference_mode()
    def encode(self, image: np.ndarray) -> np.ndarray:
        return self._model.encode(torch.from_numpy(image)[None])[0].numpy()

    @torch.inference_mode()
    def rollout(
        self, context: np.ndarray, past_actions: np.ndarray, candidates: np.ndarray, goal: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        arrays = (context, candidates, goal, *([past_actions] if len(past_actions) else []))
        distances, latents = self._rollout(*(torch.from_numpy(np.ascontiguousarray(a, np.float32)) for a in arrays))
        return distances.numpy(), latents.numpy()

    @torch.inference_mode()
    def propose(self, latent: np.ndarray, goal: np.ndarray, steps_to_go: float) -> np.ndarray:
        assert self._proposal is not None, "the bundle has no head that proposes"
        inputs = (torch.from_numpy(latent)[None], torch.from_numpy(goal)[None], torch.tensor([steps_to_go]))
        return self._proposal(*inputs)[0].numpy()
