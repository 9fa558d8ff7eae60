# SPDX-License-Identifier: Apache-2.0
"""Builds TensorRT engines from ONNX graphs.

The TensorRT module is an argument: `tensorrt` on the target, `tensorrt_rtx` in `make engine-check`, which parses and
builds on a CPU. Only names that exist in all of TensorRT 10.3 (JetPack 6) to 11.4 are used, which tests check.
Precision is stated in the graph: networks are strongly typed, and TF32 is off so that fp32 is fp32.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lewm_model.models.signature import SAMPLES, Signature, TensorSpec

Progress = Callable[[str, float], None]  # called with what is being done and its progress, 0 to 1
log = logging.getLogger(__name__)


class EngineBuildError(RuntimeError):
    """TensorRT cannot build a graph; the message names the node and the reason."""


@dataclass(frozen=True)
class Plan:
    """A serialised engine of one graph, and the timing cache, which makes the next build faster."""

    data: bytes
    timing_cache: bytes


def build_plan(
    trt: Any,
    graph: bytes,
    signature: Signature,
    samples: int = 1,
    workspace_bytes: int = 1 << 30,
    timing_cache: bytes = b"",
    progress: Progress | None = None,
) -> Plan:
    """Builds the engine of an ONNX `graph` for a fixed number of candidates.

    :param trt: the TensorRT module.
    :param signature: inputs and outputs that the graph must have.
    :param samples: the number of candidates; minimum, optimum and maximum of the optimisation profile.
    :param workspace_bytes: greatest GPU memory for temporary data of a layer.
    :param timing_cache: of an earlier build on the same GPU with the same TensorRT, or empty.
    :param progress: called while TensorRT builds.
    :raises EngineBuildError: the graph does not parse, has other inputs or outputs, or does not build.
    """
    logger = make_logger(trt)
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # what pybind11 raises when the constructor returns a null pointer
        raise EngineBuildError(f"TensorRT cannot start a build{logger.reasons()}; run `lewm doctor`") from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph) or parser.num_errors:
        raise EngineBuildError(f"TensorRT cannot read the graph {signature.graph}: {_parse_errors(parser)}")
    _check_network(trt, network, signature)

    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    config.clear_flag(trt.BuilderFlag.TF32)
    cache = config.create_timing_cache(timing_cache)
    if cache is None and timing_cache:  # of another version: start a new one
        cache = config.create_timing_cache(b"")
    if cache is not None:
        config.set_timing_cache(cache, ignore_mismatch=False)
    if signature.dynamic:
        profile = builder.create_optimization_profile()
        for tensor in signature.at(samples).inputs:
            profile.set_shape(tensor.name, tensor.shape, tensor.shape, tensor.shape)
        config.add_optimization_profile(profile)
    if progress is not None:
        config.progress_monitor = _make_monitor(trt, signature.graph, progress)

    plan = builder.build_serialized_network(network, config)
    if plan is None:
        why = logger.reasons()
        raise EngineBuildError(f"TensorRT cannot build the graph {signature.graph}{why}{_suspects(network, why)}")
    cache = config.get_timing_cache()
    return Plan(bytes(plan), b"" if cache is None else bytes(cache.serialize()))


def make_logger(trt: Any) -> Any:
    """A TensorRT logger that passes messages on to `logging` and keeps the errors for `.reasons()`."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            log.debug("TensorRT: %s", message)
            if int(severity) <= int(trt.ILogger.ERROR):
                self.errors.append(" ".join(message.split()))

        def reasons(self) -> str:
            """The newest errors as the end of a sentence; clears them."""
            errors, self.errors = self.errors[-3:], []
            return ": " + "; ".join(errors) if errors else ""

    return Logger()


def numpy_dtype(trt: Any, dtype: Any) -> str:
    """numpy's name of a tensor type, or TensorRT's name of one that no graph has."""
    names = {trt.DataType.FLOAT: "float32", trt.DataType.UINT8: "uint8"}
    return names.get(dtype, str(dtype))


def _make_monitor(trt: Any, graph: str, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):
        """Reports the outermost phase, as inner ones start and end many times."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.steps:
                progress(f"building {graph}", step / max(self.steps[phase_name], 1))
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            if self.steps.pop(phase_name, None) is not None:
                progress(f"building {graph}", 1.0)

    return Monitor()


def _check_network(trt: Any, network: Any, signature: Signature) -> None:
    """Refuses a network without the inputs and outputs of `signature`: the parser accepts garbage as an empty
    network.
    """

    def spec(tensor: Any) -> TensorSpec:
        shape = tuple(SAMPLES if size < 0 else size for size in tensor.shape)
        return TensorSpec(tensor.name, shape, numpy_dtype(trt, tensor.dtype))

    found = {
        "inputs": tuple(spec(network.get_input(i)) for i in range(network.num_inputs)),
        "outputs": tuple(spec(network.get_output(i)) for i in range(network.num_outputs)),
    }
    for kind, wanted in (("inputs", signature.inputs), ("outputs", signature.outputs)):
        if set(found[kind]) != set(wanted):
            has = ", ".join(map(str, found[kind])) or "none"
            raise EngineBuildError(
                f"the graph {signature.graph} has the {kind} {has}; this bundle needs {', '.join(map(str, wanted))}. "
                "The file is damaged or of another model; run `lewm export` again"
            )


def _suspects(network: Any, reasons: str) -> str:
    """Names of the layers whose type the reasons mention: a failed build often names the type but not the node."""
    words = set(re.findall(r"[a-z]+", reasons.lower()))
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    names = [layer.name for layer in layers if layer.type.name.lower().split("_")[0] in words]
    return f" (nodes of that kind: {', '.join(names[:6])}{', …' if len(names) > 6 else ''})" if names else ""


def _parse_errors(parser: Any) -> str:
    texts = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        reason = " ".join(line.strip() for line in error.desc().splitlines())
        texts.append(f"node {error.node_name() or '?'} ({error.node_operator() or 'unknown operator'}): {reason}")
    return "; ".join(texts) or "it gives no reason"
