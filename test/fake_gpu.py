# SPDX-License-Identifier: Apache-2.0
"""A GPU, its CUDA runtime and TensorRT, for machines without one: engines run in ONNX Runtime on the host.

Both fakes are as strict as the real things where that can catch a mistake: work on a stream happens when the stream is
synchronised, copies need memory that was allocated for them, recorded work does not run, an engine reads its inputs
from the addresses that it was given, and TensorRT has only the names that releases 10.3, 10.13 and 11.4 share.
"""

from __future__ import annotations

import ctypes
import enum
import hashlib
import json
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


OK = cudaError_t.cudaSuccess
Result = tuple[Any, ...]


class FakeCuda:
    """`cuda.bindings.runtime` of a machine with one GPU. `failures` maps a function's name to the error it returns."""

    cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode = cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode
    cudaStreamNonBlocking = 1

    def __init__(self, name: str = "Orin", capability: tuple[int, int] = (8, 7), memory: int = 1 << 30) -> None:
        self.name, self.capability, self.memory = name, capability, memory
        self.multiprocessors = 8
        self.failures: dict[str, cudaError_t] = {}
        self.device: dict[int, Any] = {}
        self.host: dict[int, Any] = {}
        self.queues: dict[int, list[Callable[[], None]]] = {}
        self.recording: dict[int, list[Callable[[], None]] | None] = {}  # by stream; None: the recording went wrong
        self.recorded: dict[int, list[Callable[[], None]]] = {}
        self.calls: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if not name.startswith("cuda") or not isinstance(value, types.MethodType):
            return value

        def call(*arguments: Any) -> Result:
            self.calls.append(name)
            return (self.failures[name], None) if name in self.failures else value(*arguments)

        return call

    @property
    def leaked(self) -> int:
        """Allocations, streams and recordings that were not given back."""
        return len(self.device) + len(self.host) + len(self.queues) + len(self.recorded)

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        if stream in self.recording:
            recording = self.recording[stream]
            if recording is not None:
                recording.append(work)
        else:
            self.queues[stream].append(work)

    def at(self, where: dict[int, Any], address: int, size: int) -> int:
        """Returns the address; fails unless the `size` bytes from there belong to one allocation."""
        assert any(start <= address and address + size <= start + len(b) for start, b in where.items()), "wild pointer"
        return address

    # ---- the functions of CUDA ---------------------------------------------------------------------------------------

    def cudaGetDeviceCount(self) -> Result:
        return OK, 1

    def cudaSetDevice(self, device: int) -> Result:
        return (OK,)

    def cudaDriverGetVersion(self) -> Result:
        return OK, 12060

    def cudaGetDeviceProperties(self, device: int) -> Result:
        major, minor = self.capability
        return OK, types.SimpleNamespace(
            name=self.name.encode(),
            major=major,
            minor=minor,
            multiProcessorCount=self.multiprocessors,
            totalGlobalMem=self.memory,
        )

    def cudaMemGetInfo(self) -> Result:
        return OK, self.memory - sum(map(len, self.device.values())), self.memory

    def cudaStreamCreateWithFlags(self, flags: int) -> Result:
        stream = 1 + max(self.queues, default=0)
        self.queues[stream] = []
        return OK, stream

    def cudaStreamDestroy(self, stream: int) -> Result:
        del self.queues[stream]
        return (OK,)

    def cudaStreamSynchronize(self, stream: int) -> Result:
        assert stream not in self.recording, "a stream that records cannot be waited for"
        work, self.queues[stream] = self.queues[stream], []
        for step in work:
            step()
        return (OK,)

    def _allocate(self, where: dict[int, Any], size: int) -> Result:
        if sum(map(len, where.values())) + size > self.memory:
            return cudaError_t.cudaErrorMemoryAllocation, None
        buffer = (ctypes.c_byte * size)()
        where[ctypes.addressof(buffer)] = buffer
        return OK, ctypes.addressof(buffer)

    def cudaMalloc(self, size: int) -> Result:
        return self._allocate(self.device, size)

    def cudaMallocHost(self, size: int) -> Result:
        return self._allocate(self.host, size)

    def cudaFree(self, address: int) -> Result:
        del self.device[address]
        return (OK,)

    def cudaFreeHost(self, address: int) -> Result:
        del self.host[address]
        return (OK,)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: cudaMemcpyKind, stream: int) -> Result:
        down = kind == cudaMemcpyKind.cudaMemcpyHostToDevice
        target = self.at(self.device if down else self.host, to, size)
        origin = self.at(self.host if down else self.device, source, size)
        self.enqueue(stream, lambda: ctypes.memmove(target, origin, size) and None)
        return (OK,)

    def cudaStreamBeginCapture(self, stream: int, mode: cudaStreamCaptureMode) -> Result:
        self.recording[stream] = []
        return (OK,)

    def cudaStreamEndCapture(self, stream: int) -> Result:
        recording = self.recording.pop(stream)
        return (OK, recording) if recording is not None else (cudaError_t.cudaErrorStreamCaptureInvalidated, None)

    def cudaGraphInstantiate(self, graph: list[Callable[[], None]], flags: int) -> Result:
        handle = 1 + max(self.recorded, default=0)
        self.recorded[handle] = list(graph)
        return OK, handle

    def cudaGraphDestroy(self, graph: Any) -> Result:
        return (OK,)

    def cudaGraphExecDestroy(self, handle: int) -> Result:
        del self.recorded[handle]
        return (OK,)

    def cudaGraphLaunch(self, handle: int, stream: int) -> Result:
        self.queues[stream] += self.recorded[handle]
        return (OK,)

    def cudaGetLastError(self) -> Result:
        return (OK,)


# ---- TensorRT --------------------------------------------------------------------------------------------------------


class DataType(enum.Enum):
    FLOAT = 0
    UINT8 = 5
    HALF = 1


DTYPES = {1: DataType.FLOAT, 2: DataType.UINT8, 10: DataType.HALF}
NUMPY = {DataType.FLOAT: np.float32, DataType.UINT8: np.uint8}


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)

    def log(self, severity: int, message: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...

    def phase_finish(self, phase_name: str) -> None: ...

    def step_complete(self, phase_name: str, step: int) -> bool:
        return True


class ITensor:
    def __init__(self, info: Any) -> None:
        kind = info.type.tensor_type
        self.name = info.name
        self.shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
        self.dtype = DTYPES[kind.elem_type]


class ILayer:
    def __init__(self, node: Any) -> None:
        self.name = node.name
        self.type = types.SimpleNamespace(name=node.op_type.upper())


class INetworkDefinition:
    def __init__(self) -> None:
        self._data = b""
        self._inputs: list[ITensor] = []
        self._outputs: list[ITensor] = []
        self._layers: list[ILayer] = []

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]

    def get_layer(self, index: int) -> ILayer:
        return self._layers[index]


class ParserError:
    def __init__(self, node: Any) -> None:
        self._node = node

    def desc(self) -> str:
        return "no such operator"

    def node_name(self) -> str:
        return self._node.name

    def node_operator(self) -> str:
        return self._node.op_type


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = network
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes) -> bool:
        """Like the real parser: bytes that are not a model give an empty network, not an error."""
        try:
            graph = onnx.load_from_string(model).graph
        except Exception:
            return True
        self._errors = [ParserError(node) for node in graph.node if node.domain not in ("", "ai.onnx")]
        self._network._data = model
        self._network._inputs = [ITensor(info) for info in graph.input]
        self._network._outputs = [ITensor(info) for info in graph.output]
        self._network._layers = [ILayer(node) for node in graph.node]
        return not self._errors


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, tuple[int, ...]] = {}

    def set_shape(self, input: str, min: tuple[int, ...], opt: tuple[int, ...], max: tuple[int, ...]) -> None:
        assert tuple(min) == tuple(opt) == tuple(max), "the shapes of this project are static"
        self._shapes[input] = tuple(min)


class ITimingCache:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def serialize(self) -> bytes:
        return self._data + b"+"


class IBuilderConfig:
    def __init__(self) -> None:
        self.progress_monitor: IProgressMonitor | None = None
        self._profiles: list[IOptimizationProfile] = []
        self._cleared: list[str] = []
        self._cache: ITimingCache | None = None

    def set_memory_pool_limit(self, pool: str, pool_size: int) -> None:
        assert pool == "WORKSPACE" and 0 < pool_size <= 2 << 30

    def clear_flag(self, flag: str) -> None:
        self._cleared.append(flag)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache


class FakeTensorRT(types.ModuleType):
    """The module `tensorrt`, running on `cuda`. The fields below `faults` make it go wrong."""

    def __init__(self, cuda: FakeCuda, version: str = "10.3.0") -> None:
        super().__init__("tensorrt")
        self.__version__ = version
        self.cuda = cuda
        self.builds: list[str] = []  # names of the graphs that were built, in order
        # faults
        self.build_fails = ""  # the message of a build that returns None
        self.unreadable = 0  # how many of the next engines do not deserialise
        self.no_context = False
        self.execution_fails = False
        self.unrecordable = False
        self.wrong: set[str] = set()  # precisions whose engines compute something else

        owner = self

        class Builder:
            def __init__(self, logger: ILogger) -> None:
                self._logger = logger

            def create_network(self, flags: int) -> INetworkDefinition:
                assert flags == 1 << 1, "networks must be strongly typed"
                return INetworkDefinition()

            def create_builder_config(self) -> IBuilderConfig:
                return IBuilderConfig()

            def create_optimization_profile(self) -> IOptimizationProfile:
                return IOptimizationProfile()

            def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> Any:
                assert "TF32" in config._cleared, "fp32 must not be TF32"
                if owner.build_fails:
                    self._logger.log(ILogger.ERROR, owner.build_fails)
                    return None
                dynamic = {t.name: t.shape for t in network._inputs if -1 in t.shape}
                shapes = config._profiles[0]._shapes if config._profiles else {}
                assert set(dynamic) <= set(shapes), "a dynamic input without a profile"
                if config.progress_monitor is not None:
                    config.progress_monitor.phase_start("Building", None, 2)
                    config.progress_monitor.phase_start("Timing", "Building", 9)
                    for step in range(2):
                        assert config.progress_monitor.step_complete("Building", step)
                    config.progress_monitor.phase_finish("Building")
                samples = {name: shapes[name][0] for name in dynamic}
                owner.builds.append(" ".join([network._outputs[0].name, *(str(n) for n in samples.values())]))
                return owner._serialise(network._data, shapes)

        class Runtime:
            def __init__(self, logger: ILogger) -> None:
                self._logger = logger

            def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
                header, _, data = serialized_engine.partition(b"\n")
                try:
                    facts = json.loads(header)
                    fits = facts["made_for"] == owner._place() and facts["sha"] == hashlib.sha256(data).hexdigest()
                except (ValueError, KeyError, TypeError):
                    fits = False
                if not fits or owner.unreadable:
                    owner.unreadable -= bool(owner.unreadable)
                    self._logger.log(ILogger.ERROR, "The engine plan file is not compatible with this version")
                    return None
                return ICudaEngine(owner, data, facts["shapes"])

        self.Builder, self.Runtime, self.OnnxParser = Builder, Runtime, OnnxParser
        self.ILogger, self.IProgressMonitor = ILogger, IProgressMonitor
        self.DataType = DataType
        self.MemoryPoolType = types.SimpleNamespace(WORKSPACE="WORKSPACE")
        self.BuilderFlag = types.SimpleNamespace(TF32="TF32")
        self.NetworkDefinitionCreationFlag = types.SimpleNamespace(STRONGLY_TYPED=1)

    def _place(self) -> str:
        return f"{self.__version__} {self.cuda.capability}"

    def _serialise(self, data: bytes, shapes: dict[str, tuple[int, ...]]) -> bytes:
        facts = {"made_for": self._place(), "sha": hashlib.sha256(data).hexdigest(), "shapes": shapes}
        return json.dumps(facts).encode() + b"\n" + data


class ICudaEngine:
    device_memory_size_v2 = 12_000_000

    def __init__(self, owner: FakeTensorRT, data: bytes, shapes: dict[str, list[int]]) -> None:
        self._owner, self._data = owner, data
        self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
        graph = onnx.load_from_string(data).graph
        self._tensors = {info.name: ITensor(info) for info in (*graph.input, *graph.output)}

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_dtype(self, name: str) -> DataType:
        return self._tensors[name].dtype

    def create_execution_context(self) -> Any:
        return None if self._owner.no_context else IExecutionContext(self._owner, self)


class IExecutionContext:
    def __init__(self, owner: FakeTensorRT, engine: ICudaEngine) -> None:
        self._owner, self._engine = owner, engine
        self._session = onnxruntime.InferenceSession(engine._data, providers=["CPUExecutionProvider"])
        half = any(t.data_type == 10 for t in onnx.load_from_string(engine._data).graph.initializer)
        self._wrong = ("fp16" if half else "fp32") in owner.wrong
        self._addresses: dict[str, int] = {}
        self._set: dict[str, tuple[int, ...]] = {}

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        fits = tuple(shape) == self._engine._shapes.get(name, self._engine._tensors[name].shape)
        if fits:
            self._set[name] = tuple(shape)
        return fits

    def execute_async_v3(self, stream_handle: int) -> bool:
        cuda = self._owner.cuda
        if stream_handle in cuda.recording and self._owner.unrecordable:
            cuda.recording[stream_handle] = None
            return False
        if self._owner.execution_fails or set(self._addresses) != set(self._engine._tensors):
            return False

        def run() -> None:
            inputs = {}
            for name, shape in self._set.items():
                dtype = NUMPY[self._engine._tensors[name].dtype]
                size = int(np.prod(shape)) * np.dtype(dtype).itemsize
                inputs[name] = np.frombuffer(
                    ctypes.string_at(cuda.at(cuda.device, self._addresses[name], size), size), dtype
                ).reshape(shape)
            names = [output.name for output in self._session.get_outputs()]
            for name, value in zip(names, self._session.run(None, inputs), strict=True):
                value = np.ascontiguousarray(value[..., ::-1] if self._wrong else value)
                address = cuda.at(cuda.device, self._addresses[name], value.nbytes)
                ctypes.memmove(address, value.tobytes(), value.nbytes)

        cuda.enqueue(stream_handle, run)
        return True


FAKED = (
    ILogger,
    IProgressMonitor,
    ITensor,
    ILayer,
    INetworkDefinition,
    ParserError,
    OnnxParser,
    IOptimizationProfile,
    ITimingCache,
    IBuilderConfig,
    ICudaEngine,
    IExecutionContext,
)
