# SPDX-License-Identifier: Apache-2.0
"""The CUDA runtime calls that engines need, through the package `cuda-python`, with advice in their errors."""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from lewm_model.runtime.errors import InferenceError, RuntimeLoadError

OUT_OF_MEMORY = "cudaErrorMemoryAllocation"
ADVICE = {
    "cudaErrorInsufficientDriver": "no NVIDIA driver is loaded, or it is older than this CUDA: install JetPack or the "
    "driver, and start containers with `--runtime nvidia`",
    "cudaErrorNoDevice": "no NVIDIA GPU is visible: start containers with `--runtime nvidia`, and unset "
    "CUDA_VISIBLE_DEVICES",
    OUT_OF_MEMORY: "the GPU's memory is full (a Jetson shares it with the CPU): stop other programs, see `free -h`",
}


class CudaError(RuntimeLoadError, InferenceError):
    """A CUDA call that failed; `code` is CUDA's name of the error."""

    def __init__(self, call: str, code: str) -> None:
        super().__init__(f"CUDA {call} failed with {code}; {ADVICE.get(code, 'see `sudo dmesg`, restart the program')}")
        self.code = code


@dataclass(frozen=True)
class Gpu:
    """The GPU that engines are built for; engines of another one are not loaded."""

    name: str
    compute_capability: str  # such as "8.7"
    multiprocessors: int
    memory_bytes: int
    driver: str  # newest CUDA version that the driver supports, such as "12.6"


class Cuda:
    """A stream on the first visible GPU, and memory for it.

    :param api: the module `cuda.bindings.runtime`, or a replacement in tests.
    :raises RuntimeLoadError: there is no binding, no driver or no GPU.
    """

    def __init__(self, api: Any = None) -> None:
        if api is None:
            try:
                api = importlib.import_module("cuda.bindings.runtime")
            except ImportError as error:
                raise RuntimeLoadError(
                    f"the CUDA binding is not installed ({error}); run `pip install 'cuda-python~=12.8'` on JetPack 6, "
                    "`pip install 'cuda-python~=13.0'` on JetPack 7"
                ) from error
        self.api = api
        self._owned: list[tuple[str, Any]] = []  # (the call that frees it, address or handle)
        if self("cudaGetDeviceCount") == 0:
            raise CudaError("cudaGetDeviceCount", "cudaErrorNoDevice")
        self("cudaSetDevice", 0)
        self.stream = int(self("cudaStreamCreateWithFlags", api.cudaStreamNonBlocking))

    def __call__(self, name: str, *arguments: Any) -> Any:
        """Calls a CUDA runtime function; returns its result without the error code. Raises CudaError."""
        code, *results = getattr(self.api, name)(*arguments)
        if code != self.api.cudaError_t.cudaSuccess:
            raise CudaError(name, str(getattr(code, "name", code)))
        return results[0] if len(results) == 1 else tuple(results)

    def gpu(self) -> Gpu:
        properties, driver = self("cudaGetDeviceProperties", 0), int(self("cudaDriverGetVersion"))
        name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
        return Gpu(
            name.rstrip("\0"),
            f"{properties.major}.{properties.minor}",
            int(properties.multiProcessorCount),
            int(properties.totalGlobalMem),
            f"{driver // 1000}.{driver % 1000 // 10}",
        )

    def free_bytes(self) -> int:
        """Free GPU memory, bytes."""
        return int(self("cudaMemGetInfo")[0])

    def device_buffer(self, size: int) -> int:
        """Allocates `size` bytes on the GPU; returns their address."""
        address = int(self("cudaMalloc", size))
        self._owned.append(("cudaFree", address))
        return address

    def pinned(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """A zeroed array in page-locked host memory, which the GPU can access without an intermediate copy."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = int(self("cudaMallocHost", size))
        self._owned.append(("cudaFreeHost", address))
        array = np.frombuffer(memoryview((ctypes.c_byte * size).from_address(address)), dtype).reshape(shape)
        array.fill(0)
        return array

    def to_device(self, address: int, array: np.ndarray) -> None:
        """Copies a pinned array to the GPU, asynchronously on the stream."""
        kind = self.api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self.stream)

    def to_host(self, array: np.ndarray, address: int) -> None:
        """Copies from the GPU into a pinned array, asynchronously on the stream; read it after `synchronise`."""
        kind = self.api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self.stream)

    def synchronise(self) -> None:
        self("cudaStreamSynchronize", self.stream)

    def begin_capture(self) -> None:
        """From now on work on the stream is recorded instead of run."""
        self("cudaStreamBeginCapture", self.stream, self.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)

    def end_capture(self) -> Any:
        """The recorded CUDA graph, for `launch`. Raises CudaError for work that cannot be recorded."""
        graph = self("cudaStreamEndCapture", self.stream)
        try:
            recorded = self("cudaGraphInstantiate", graph, 0)
        finally:
            self("cudaGraphDestroy", graph)
        self._owned.append(("cudaGraphExecDestroy", recorded))
        return recorded

    def launch(self, recorded: Any) -> None:
        """Runs a recorded CUDA graph on the stream."""
        self("cudaGraphLaunch", recorded, self.stream)

    def clear_error(self) -> None:
        """Clears the last error, so that later calls do not report it again."""
        self.api.cudaGetLastError()

    def release(self) -> None:
        """Waits for the stream and frees all that was allocated; none of it may be used afterwards."""
        try:
            self.synchronise()
        except CudaError:  # the context is broken; its memory is freed with the process
            return
        while self._owned:
            call, what = self._owned.pop()
            self(call, what)
        self("cudaStreamDestroy", self.stream)
