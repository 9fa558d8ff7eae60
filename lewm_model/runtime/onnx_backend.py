# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime back end: the default on a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from lewm_model.bundle.bundle import Bundle, BundleError
from lewm_model.models.signature import (
    ENCODER,
    PROPOSAL,
    ROLLOUT,
    SAMPLES,
    STEP,
    TensorSpec,
    onnx_file,
    signatures,
)
from lewm_model.runtime.errors import InferenceError, RuntimeLoadError


class OnnxRuntime:
    """Runs a bundle's exported graphs on the CPU. fp16 graphs are slow there and run for comparison only.

    :raises RuntimeLoadError: ONNX Runtime is not installed, or a graph is missing or of another model.
    """

    backend = "onnxruntime"

    def __init__(self, bundle: Bundle, threads: int = 1, precision: str = "fp32") -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise RuntimeLoadError(f"ONNX Runtime is not installed ({error}); run `pip install onnxruntime`") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leaves the cores to others
        self._sessions = {}
        for graph in signatures(bundle.model, 1, bundle.heads):
            try:
                path = bundle.path(onnx_file(graph, precision))
            except BundleError as error:
                raise RuntimeLoadError(f"{error}; run `lewm export {bundle.folder}`") from error
            try:
                session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            except Exception as error:  # ONNX Runtime has no common class of errors
                raise RuntimeLoadError(
                    f"ONNX Runtime does not read {path}: {error}; run `lewm export {bundle.folder}`"
                ) from error
            self._sessions[graph] = session
        self.bundle = bundle
        self.notes: list[str] = []
        self.horizon = self._check_graphs()

    def _check_graphs(self) -> int:
        """The horizon of the rollout graph. Raises RuntimeLoadError where a graph does not fit model.json."""
        shapes = {value.name: value.shape for value in self._sessions[ROLLOUT].get_inputs()}
        horizon = (shapes.get("candidates") or [None])[1:2]
        steps = horizon[0] if horizon and isinstance(horizon[0], int) else 0
        wanted = signatures(self.bundle.model, steps, self.bundle.heads)
        for graph, session in self._sessions.items():
            for kind, found, needed in (
                ("inputs", session.get_inputs(), wanted[graph].inputs),
                ("outputs", session.get_outputs(), wanted[graph].outputs),
            ):
                specs = {_spec(value) for value in found}
                if specs != set(needed):
                    raise RuntimeLoadError(
                        f"the graph {graph} has the {kind} {', '.join(map(str, specs)) or 'none'}; this bundle needs "
                        f"{', '.join(map(str, needed))}. It is of another model: run `lewm export {self.bundle.folder}`"
                    )
        return steps

    def encode(self, image: np.ndarray) -> np.ndarray:
        return self._run(ENCODER, {"image": image[None]})[0][0]

    def rollout(
        self, context: np.ndarray, past_actions: np.ndarray, candidates: np.ndarray, goal: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        inputs = {"context": context, "candidates": np.ascontiguousarray(candidates, np.float32), "goal": goal}
        if len(past_actions):
            inputs["past_actions"] = past_actions
        distances, latents = self._run(ROLLOUT, inputs)
        return distances, latents

    def propose(self, latents: np.ndarray, goal: np.ndarray, steps_to_go: np.ndarray) -> np.ndarray:
        inputs = {"latent": latents, "goal": goal[None], "steps_to_go": steps_to_go.astype(np.float32)}
        return self._run(PROPOSAL, inputs)[0]

    def step(self, contexts: np.ndarray, past_actions: np.ndarray, blocks: np.ndarray) -> np.ndarray:
        inputs = {"contexts": contexts, "blocks": np.ascontiguousarray(blocks, np.float32)}
        if past_actions.shape[1]:
            inputs["past_actions"] = np.ascontiguousarray(past_actions, np.float32)
        return self._run(STEP, inputs)[0]

    def _run(self, graph: str, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return self._sessions[graph].run(None, inputs)
        except Exception as error:  # ONNX Runtime has no common class of errors
            raise InferenceError(
                f"ONNX Runtime does not run the graph {graph}: {error}; run `lewm export {self.bundle.folder}`"
            ) from error


def _spec(value: Any) -> TensorSpec:
    """An input or output of an ONNX Runtime session; a named dimension is the number of candidates."""
    kinds = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}
    shape = tuple(size if isinstance(size, int) else SAMPLES for size in value.shape)
    return TensorSpec(value.name, shape, kinds.get(value.type, value.type))
