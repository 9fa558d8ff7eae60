# SPDX-License-Identifier: Apache-2.0
"""PyTorch back end: on the GPU where there is one, else on the CPU."""

from __future__ import annotations

import threading

import numpy as np

from lewm_model.bundle.bundle import Bundle, load_heads, load_model
from lewm_model.models.signature import POLICY, measuring, proposing
from lewm_model.runtime.errors import RuntimeLoadError

try:
    import torch
    from torch import Tensor, nn
except ImportError as error:
    raise RuntimeLoadError(f"PyTorch is not installed ({error}); run `pip install torch`") from error

from lewm_model.models.graphs import EncoderGraph, RolloutGraph, StepGraph


class TorchRuntime:
    """Runs a bundle's weights. On a GPU calls from several threads take turns."""

    backend = "torch"

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self.bundle = bundle
        self.notes: list[str] = []
        heads = load_heads(bundle)
        model = load_model(bundle)
        rollout = RolloutGraph(model, heads.get(measuring(heads) or ""), torch.from_numpy(bundle.actions.still))
        self._encoder, self._rollout = Computation(EncoderGraph(model)), Computation(rollout)
        proposal = heads.get(proposing(heads) or "")
        self._proposal = None if proposal is None else Computation(proposal)
        self._step = Computation(StepGraph(model)) if POLICY in heads else None

    def encode(self, image: np.ndarray) -> np.ndarray:
        return self._encoder(image[None])[0][0]

    def rollout(
        self, context: np.ndarray, past_actions: np.ndarray, candidates: np.ndarray, goal: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        distances, latents = self._rollout(context, candidates, goal, *([past_actions] if len(past_actions) else []))
        return distances, latents

    def propose(self, latents: np.ndarray, goal: np.ndarray, steps_to_go: np.ndarray) -> np.ndarray:
        assert self._proposal is not None, "the bundle has no head that proposes"
        return self._proposal(latents, goal[None], steps_to_go)[0]

    def step(self, contexts: np.ndarray, past_actions: np.ndarray, blocks: np.ndarray) -> np.ndarray:
        assert self._step is not None, "the bundle has no policy"
        return self._step(contexts, blocks, *([past_actions] if past_actions.shape[1] else []))[0]


class Computation:
    """A module in eval mode, called with numpy arrays; on a GPU each shape of its inputs is recorded as a CUDA graph.

    A rollout is some hundred small kernels, each of which a GPU finishes before Python can launch the next.
    """

    def __init__(self, module: nn.Module) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._module = module.to(self.device).eval()
        self._lock = threading.Lock()  # a recorded graph has a single set of input and output buffers
        self._recorded: dict[tuple[tuple[int, ...], ...], tuple[list[Tensor], torch.cuda.CUDAGraph, list[Tensor]]] = {}

    @torch.inference_mode()
    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        inputs = [
            torch.from_numpy(np.ascontiguousarray(a, np.uint8 if a.dtype == np.uint8 else np.float32)) for a in arrays
        ]
        if self.device == "cpu":
            return [output.numpy() for output in self._outputs(inputs)]
        shapes = tuple(tuple(tensor.shape) for tensor in inputs)
        with self._lock:
            if shapes not in self._recorded:
                self._recorded[shapes] = self._record(inputs)
            held, graph, outputs = self._recorded[shapes]
            for there, here in zip(held, inputs, strict=True):
                there.copy_(here)
            graph.replay()
            return [output.cpu().numpy() for output in outputs]  # waits for the GPU

    def _outputs(self, inputs: list[Tensor]) -> list[Tensor]:
        outputs = self._module(*inputs)
        return [outputs] if isinstance(outputs, Tensor) else list(outputs)

    def _record(self, inputs: list[Tensor]) -> tuple[list[Tensor], torch.cuda.CUDAGraph, list[Tensor]]:
        held = [tensor.to(self.device) for tensor in inputs]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries initialise in the first runs, which cannot be recorded
            for _ in range(3):
                self._outputs(held)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._outputs(held)
        return held, graph, outputs
