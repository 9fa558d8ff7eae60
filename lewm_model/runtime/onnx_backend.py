"""ONNX Runtime back end: the default on a CPU."""

from __future__ import annotations

import numpy as np

from lewm_model.bundle import Bundle, BundleError
from lewm_model.runtime.errors import RuntimeLoadError


class OnnxRuntime:
    """Runs a bundle's exported graphs on the CPU."""

    backend = "onnxruntime"

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise RuntimeLoadError(f"ONNX Runtime is not installed ({error}); run `pip install onnxruntime`") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the robot has other work for the cores
        sessions = []
        for name in ("onnx/encoder.onnx", "onnx/rollout.onnx"):
            try:
                path = bundle.path(name)
            except BundleError as error:
                raise RuntimeLoadError(f"{error}; run `lewm export {bundle.folder}`") from error
            sessions.append(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))
        self.bundle = bundle
        self._encoder, self._rollout = sessions
        self.horizon: int = self._rollout.get_inputs()[1].shape[1]

    def encode(self, image: np.ndarray) -> np.ndarray:
        return self._encoder.run(None, {"image": image[None]})[0][0]

    def rollout(
        self, context: np.ndarray, past_actions: np.ndarray, candidates: np.ndarray, goal: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        inputs = {"context": context, "candidates": np.ascontiguousarray(candidates, np.float32), "goal": goal}
        if len(past_actions):
            inputs["past_actions"] = past_actions
        distances, latents = self._rollout.run(None, inputs)
        return distances, latents
