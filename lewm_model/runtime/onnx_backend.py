"""ONNX Runtime back end: the default on a CPU."""

from __future__ import annotations

import numpy as np

from lewm_model.bundle import Bundle, BundleError
from lewm_model.runtime.errors import RuntimeLoadError
from lewm_model.runtime.signature import ENCODER, PROPOSAL, ROLLOUT, onnx_file


class OnnxRuntime:
    """Runs a bundle's exported graphs on the CPU. fp16 graphs run slowly here; they are for comparison."""

    backend = "onnxruntime"

    def __init__(self, bundle: Bundle, threads: int = 1, precision: str = "fp32") -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise RuntimeLoadError(f"ONNX Runtime is not installed ({error}); run `pip install onnxruntime`") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores have other work
        self._sessions = {}
        for graph in (ENCODER, ROLLOUT, *([PROPOSAL] if PROPOSAL in bundle.heads else [])):
            try:
                path = bundle.path(onnx_file(graph, precision))
            except BundleError as error:
                raise RuntimeLoadError(f"{error}; run `lewm export {bundle.folder}`") from error
            self._sessions[graph] = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.bundle = bundle
        self.notes: list[str] = []
        self.horizon: int = self._sessions[ROLLOUT].get_inputs()[1].shape[1]

    def encode(self, image: np.ndarray) -> np.ndarray:
        return self._sessions[ENCODER].run(None, {"image": image[None]})[0][0]

    def rollout(
        self, context: np.ndarray, past_actions: np.ndarray, candidates: np.ndarray, goal: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        inputs = {"context": context, "candidates": np.ascontiguousarray(candidates, np.float32), "goal": goal}
        if len(past_actions):
            inputs["past_actions"] = past_actions
        distances, latents = self._sessions[ROLLOUT].run(None, inputs)
        return distances, latents

    def propose(self, latent: np.ndarray, goal: np.ndarray, steps_to_go: float) -> np.ndarray:
        inputs = {"latent": latent[None], "goal": goal[None], "steps_to_go": np.array([steps_to_go], np.float32)}
        return self._sessions[PROPOSAL].run(None, inputs)[0][0]
