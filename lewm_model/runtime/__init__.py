# SPDX-License-Identifier: Apache-2.0
"""The interface to a model at run time, and the choice of the back end that implements it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import numpy as np

from lewm_model.bundle.bundle import Bundle
from lewm_model.config import PlanConfig
from lewm_model.runtime.errors import InferenceError as InferenceError
from lewm_model.runtime.errors import RuntimeLoadError as RuntimeLoadError

BACKENDS = ("tensorrt", "onnxruntime", "torch")  # in the order in which "auto" tries them
log = logging.getLogger(__name__)


class Runtime(Protocol):
    """A loaded model. Arrays are numpy on the CPU; S is the number of candidates, H the horizon in action blocks."""

    backend: str
    bundle: Bundle
    notes: list[str]  # for diagnostics: why other back ends are not used, what was built

    def encode(self, image: np.ndarray) -> np.ndarray:
        """RGB picture (*image_size, 3) uint8 -> latent (D,) float32."""

    def rollout(
        self, context: np.ndarray, past_actions: np.ndarray, candidates: np.ndarray, goal: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rolls out z-scored candidates (S, H, E) from context (h, D), with past_actions (h - 1, E) between its frames.

        Returns distances to goal (D,), (S, H + 1) float32 with column 0 for the newest frame, and latents (S, H, D).
        """

    def propose(self, latents: np.ndarray, goal: np.ndarray, steps_to_go: np.ndarray) -> np.ndarray:
        """Z-scored blocks (N, E) that lead from latents (N, D) to goal (D,), each in steps_to_go (N,) control steps.

        For bundles with a head that proposes. N is 1, or any number with a policy.
        """

    def step(self, contexts: np.ndarray, past_actions: np.ndarray, blocks: np.ndarray) -> np.ndarray:
        """Imagines one z-scored block (S, E) from each of contexts (S, h, D), with past_actions (S, h - 1, E) between
        their frames -> latents (S, D). Unlike in `rollout`, the model's drift is not subtracted. For bundles with a
        policy.
        """


def load_runtime(
    bundle: Bundle,
    backend: str = "auto",
    threads: int = 1,
    samples: int = PlanConfig().samples,
    build_engines: bool = True,
    progress: Callable[[str, float], None] | None = None,
) -> Runtime:
    """Loads `bundle` into a back end.

    :param backend: one of BACKENDS, or "auto" for the first of them that works on this machine; the notes of the
        returned runtime say why those before it do not.
    :param threads: CPU threads; ignored by TensorRT.
    :param samples: number of candidates that TensorRT engines are built for.
    :param build_engines: whether TensorRT engines that are missing or do not fit are built, which takes minutes;
        otherwise TensorRT is then not used.
    :param progress: called with what is being built and its progress, 0 to 1.
    :raises RuntimeLoadError: the back end does not work on this machine; the message says why and what to do.
    """
    if backend not in ("auto", *BACKENDS):
        raise RuntimeLoadError(f"there is no back end {backend!r}; use auto, {', '.join(BACKENDS)}")
    problems: list[str] = []
    for name in BACKENDS if backend == "auto" else (backend,):
        try:
            runtime = _load(bundle, name, threads, samples, build_engines, progress)
        except RuntimeLoadError as error:
            if backend != "auto":
                raise
            log.info("%s is not used: %s", name, error)
            problems.append(f"{name} is not used: {error}")
            continue
        runtime.notes[:0] = problems
        return runtime
    raise RuntimeLoadError("no back end works here. " + " | ".join(problems))


def _load(
    bundle: Bundle,
    backend: str,
    threads: int,
    samples: int,
    build_engines: bool,
    progress: Callable[[str, float], None] | None,
) -> Runtime:
    if backend == "tensorrt":
        from lewm_model.runtime.tensorrt.engines import Engines

        return Engines(bundle).load((samples,), build=build_engines, progress=progress)
    if backend == "onnxruntime":
        from lewm_model.runtime.onnx_backend import OnnxRuntime

        return OnnxRuntime(bundle, threads)
    from lewm_model.runtime.torch_backend import TorchRuntime

    return TorchRuntime(bundle, threads)
