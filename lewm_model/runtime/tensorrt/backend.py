# SPDX-License-Identifier: Apache-2.0
"""TensorRT back end, for a Jetson. `lewm_model.runtime.tensorrt.engines` builds, checks and finds engines.

All device memory and pinned host memory is allocated when an engine is loaded. A call copies the inputs into pinned
memory, launches one CUDA graph (copy to the GPU, engine, copy back) and waits for it. PyTorch is not needed.
"""

from __future__ import annotations

import importlib
import logging
import threading
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

from lewm_model.bundle.bundle import Bundle
from lewm_model.models.signature import ENCODER, PROPOSAL, ROLLOUT, SAMPLES, STEP, Signature, signatures
from lewm_model.runtime.errors import InferenceError, RuntimeLoadError
from lewm_model.runtime.tensorrt.builder import make_logger, numpy_dtype
from lewm_model.runtime.tensorrt.cuda import Cuda, CudaError

OLDEST, NEWEST_MAJOR = (10, 3), 11  # supported versions of TensorRT; JetPack 6 has 10.3
log = logging.getLogger(__name__)


class EngineError(RuntimeLoadError):
    """A serialised engine does not load on this machine; building it again may help."""


def import_tensorrt() -> Any:
    """The TensorRT module. Raises RuntimeLoadError when it is missing, empty, or of an unknown version."""
    try:
        trt = importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise RuntimeLoadError(
            f"TensorRT's Python module does not import ({error}); JetPack brings it: "
            "`sudo apt-get install python3-libnvinfer`, and make virtual environments with --system-site-packages"
        ) from error
    version = getattr(trt, "__version__", None)
    if version is None or not hasattr(trt, "Builder"):
        where = getattr(trt, "__file__", None) or ", ".join(getattr(trt, "__path__", ["?"]))
        raise RuntimeLoadError(
            f"the module `tensorrt` at {where} is empty: type stubs or remains of an installation hide the real one; "
            "run `pip uninstall tensorrt-stubs tensorrt`, so that JetPack's package is found"
        )
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < OLDEST or numbers[0] > NEWEST_MAJOR:
        raise RuntimeLoadError(
            f"TensorRT is {version}; this version of lewm_ros runs with {OLDEST[0]}.{OLDEST[1]} to {NEWEST_MAJOR}.x, "
            "as JetPack 6 and 7 bring it"
        )
    return trt


class Engine:
    """The engine of one graph for fixed shapes, with its buffers and its CUDA graph."""

    def __init__(self, trt: Any, runtime: Any, logger: Any, cuda: Cuda, plan: bytes, signature: Signature) -> None:
        self.signature, self._cuda, self._logger = signature, cuda, logger
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(f"TensorRT does not read the {signature.graph} engine{logger.reasons()}")
        _check_tensors(trt, engine, signature)
        self._engine, self._context = engine, engine.create_execution_context()
        if self._context is None:
            needed = engine.device_memory_size_v2 / 1e6
            raise RuntimeLoadError(
                f"there is no memory for the {signature.graph} engine ({needed:.0f} MB){logger.reasons()}; stop "
                "other programs that use the GPU, or plan with fewer candidates"
            )
        self._host: dict[str, np.ndarray] = {}
        self._device: dict[str, int] = {}
        for tensor in (*signature.inputs, *signature.outputs):
            self._host[tensor.name] = cuda.pinned(tensor.shape, tensor.dtype)
            self._device[tensor.name] = cuda.device_buffer(self._host[tensor.name].nbytes)
            self._context.set_tensor_address(tensor.name, self._device[tensor.name])
        for tensor in signature.inputs:
            if not self._context.set_input_shape(tensor.name, tensor.shape):
                raise EngineError(f"the {signature.graph} engine does not take {tensor}{logger.reasons()}")
        self._enqueue()  # TensorRT initialises in the first run, which cannot be recorded
        cuda.synchronise()
        self._recorded, self.note = self._record()

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Runs the engine. An input may have fewer rows than the engine; the outputs of the other rows are
        meaningless.
        """
        for tensor in self.signature.inputs:
            self._host[tensor.name][: len(inputs[tensor.name])] = inputs[tensor.name]
        if self._recorded is None:
            self._enqueue()
        else:
            self._cuda.launch(self._recorded)
        self._cuda.synchronise()
        return [self._host[tensor.name].copy() for tensor in self.signature.outputs]

    def _enqueue(self) -> None:
        for tensor in self.signature.inputs:
            self._cuda.to_device(self._device[tensor.name], self._host[tensor.name])
        if not self._context.execute_async_v3(self._cuda.stream):
            raise InferenceError(
                f"TensorRT did not run the {self.signature.graph} engine{self._logger.reasons()}; restart the program, "
                "and build the engines again with `lewm engine --rebuild` if it happens again"
            )
        for tensor in self.signature.outputs:
            self._cuda.to_host(self._host[tensor.name], self._device[tensor.name])

    def _record(self) -> tuple[Any, str]:
        """The run as a CUDA graph and "", or None and why TensorRT does not allow one."""
        self._cuda.begin_capture()
        recorded, problem = None, ""
        try:
            self._enqueue()
        except InferenceError as error:
            problem = str(error)
        try:
            recorded = self._cuda.end_capture()  # also after an error: the stream records until then
        except CudaError as error:
            problem = problem or str(error)
        if not problem:
            return recorded, ""
        self._cuda.clear_error()
        return None, f"the {self.signature.graph} engine runs without a CUDA graph, somewhat slower: {problem}"


class TensorRTRuntime:
    """Runs a bundle's engines on the GPU. Calls from several threads take turns.

    :param plans: serialised engines by graph and number of candidates, which is 1 for graphs without candidates.
    :raises RuntimeLoadError: an engine does not load, or memory runs out; EngineError when a new build may help.
    """

    backend = "tensorrt"

    def __init__(
        self, bundle: Bundle, horizon: int, plans: Mapping[tuple[str, int], bytes], trt: Any, cuda: Cuda, precision: str
    ) -> None:
        self.bundle, self.horizon, self.precision = bundle, horizon, precision
        self.notes: list[str] = []
        self._lock = threading.Lock()
        self.close = weakref.finalize(self, cuda.release)  # frees the GPU's memory, at the latest with this object
        self._engines: dict[str, dict[int, Engine]] = {}  # by graph and number of candidates
        try:
            self._load(plans, trt, cuda)
        except BaseException:
            self.close()
            raise

    def _load(self, plans: Mapping[tuple[str, int], bytes], trt: Any, cuda: Cuda) -> None:
        logger = make_logger(trt)
        runtime = trt.Runtime(logger)
        self._signatures = signatures(self.bundle.model, self.horizon, self.bundle.heads)
        for (graph, samples), plan in sorted(plans.items()):
            engine = Engine(trt, runtime, logger, cuda, plan, self._signatures[graph].at(samples))
            if engine.note:
                self.notes.append(engine.note)
            self._engines.setdefault(graph, {})[samples] = engine

    def encode(self, image: np.ndarray) -> np.ndarray:
        with self._lock:
            return self._engines[ENCODER][1]({"image": image[None]})[0][0]

    def rollout(
        self, context: np.ndarray, past_actions: np.ndarray, candidates: np.ndarray, goal: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        inputs = {"context": context, "goal": goal, "past_actions": past_actions, "candidates": candidates}
        distances, latents = self._in_parts(ROLLOUT, inputs, len(candidates))
        return distances, latents

    def propose(self, latents: np.ndarray, goal: np.ndarray, steps_to_go: np.ndarray) -> np.ndarray:
        inputs = {"latent": latents, "goal": goal[None], "steps_to_go": steps_to_go}
        return self._in_parts(PROPOSAL, inputs, len(latents))[0]

    def step(self, contexts: np.ndarray, past_actions: np.ndarray, blocks: np.ndarray) -> np.ndarray:
        inputs = {"contexts": contexts, "past_actions": past_actions, "blocks": blocks}
        return self._in_parts(STEP, inputs, len(blocks))[0]

    def _in_parts(self, graph: str, inputs: Mapping[str, np.ndarray], rows: int) -> list[np.ndarray]:
        """Runs `rows` candidates on the smallest engine of the graph that takes them, or in parts on the largest."""
        engines, specs = self._engines[graph], self._signatures[graph].inputs
        split = {tensor.name for tensor in specs if tensor.shape[0] == SAMPLES}
        largest, parts = max(engines), []
        with self._lock:
            for start in range(0, rows, largest):
                end = min(start + largest, rows)
                engine = engines[min(size for size in engines if size >= end - start)]
                part = {t.name: inputs[t.name][start:end] if t.name in split else inputs[t.name] for t in specs}
                parts.append([output[: end - start] for output in engine(part)])
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def _check_tensors(trt: Any, engine: Any, signature: Signature) -> None:
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {(name, numpy_dtype(trt, engine.get_tensor_dtype(name))) for name in names}
    wanted = {(tensor.name, tensor.dtype) for tensor in (*signature.inputs, *signature.outputs)}
    if found != wanted:
        raise EngineError(f"the {signature.graph} engine has the tensors {sorted(found)}, not {sorted(wanted)}")
