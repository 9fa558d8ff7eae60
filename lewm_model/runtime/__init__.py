"""What the robot asks of a model, and the back ends that answer it."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from lewm_model.bundle import Bundle
from lewm_model.runtime.errors import RuntimeLoadError as RuntimeLoadError


class Runtime(Protocol):
    """A loaded model. Arrays are numpy on the CPU; S is the number of candidates, H the horizon in action blocks."""

    backend: str
    bundle: Bundle

    def encode(self, image: np.ndarray) -> np.ndarray:
        """RGB picture (image_size, image_size, 3) uint8 -> latent (D,) float32."""

    def rollout(
        self, context: np.ndarray, past_actions: np.ndarray, candidates: np.ndarray, goal: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Imagines z-scored candidates (S, H, E) from context (h, D), with past_actions (h - 1, E) between its frames.

        Returns distances to goal (D,) as (S, H + 1) float32, column 0 that of the newest frame, and latents (S, H, D).
        """


def load_runtime(bundle: Bundle, backend: str = "auto", threads: int = 1) -> Runtime:
    """Loads `bundle` into the named back end; "auto" takes the first that works here. Raises RuntimeLoadError."""
    if backend == "torch":
        from lewm_model.runtime.torch_backend import TorchRuntime

        return TorchRuntime(bundle, threads)
    from lewm_model.runtime.onnx_backend import OnnxRuntime

    return OnnxRuntime(bundle, threads)
