# SPDX-License-Identifier: Apache-2.0
"""`load_runtime` finds a back end that works, and says why the ones before it do not."""

import importlib
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from awake import exported_folder, pictures
from fake_gpu import FakeCuda, FakeTensorRT, cudaError_t
from test_export import MODELS

from lewm_model.bundle.bundle import Bundle, load_bundle
from lewm_model.runtime import RuntimeLoadError, load_runtime


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    shutil.copytree(exported_folder(MODELS["conv-1"]), tmp_path / "bundle")
    return load_bundle(tmp_path / "bundle")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A machine with a GPU and TensorRT."""
    cuda = FakeCuda()
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(cuda))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    return cuda


def absent(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)


def test_auto_takes_tensorrt_where_it_works(bundle: Bundle, cuda: FakeCuda) -> None:
    steps: list[str] = []
    runtime = load_runtime(bundle, samples=8, progress=lambda what, share: steps.append(what))
    assert runtime.backend == "tensorrt" and "building rollout" in steps
    assert sys.modules["tensorrt"].builds == ["latent", "distances 8", "block"]


def test_auto_without_engines_and_without_building_takes_onnx_runtime(bundle: Bundle, cuda: FakeCuda) -> None:
    runtime = load_runtime(bundle, build_engines=False)
    assert runtime.backend == "onnxruntime" and "run `lewm engine" in runtime.notes[0]


def test_without_tensorrt_auto_takes_onnx_runtime_and_tells_how_to_get_it(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent(monkeypatch, "tensorrt")
    runtime = load_runtime(bundle)
    assert runtime.backend == "onnxruntime"
    assert "tensorrt is not used: TensorRT's Python module does not import" in runtime.notes[0]
    assert "--system-site-packages" in runtime.notes[0]
    assert runtime.encode(pictures(bundle.model)[0]).shape == (8,)


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_a_named_back_end_is_loaded_without_trying_others(bundle: Bundle, cuda: FakeCuda, backend: str) -> None:
    runtime = load_runtime(bundle, backend)
    assert runtime.backend == backend and runtime.notes == [] and cuda.calls == []


def test_the_back_ends_agree(bundle: Bundle, cuda: FakeCuda) -> None:
    picture = pictures(bundle.model)[0]
    latents = [load_runtime(bundle, name).encode(picture) for name in ("tensorrt", "onnxruntime", "torch")]
    for latent in latents:
        assert latent.dtype == np.float32
        np.testing.assert_allclose(latent, latents[2], atol=5e-3)


def empty_namespace(cuda: FakeCuda, patch: pytest.MonkeyPatch) -> None:
    """What `tensorrt-stubs` leaves: a package without code."""
    module = types.ModuleType("tensorrt")
    module.__path__ = ["/somewhere/tensorrt-stubs"]
    patch.setitem(sys.modules, "tensorrt", module)


def broken_library(cuda: FakeCuda, patch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def load(name: str, package: str | None = None) -> Any:
        if name == "tensorrt":
            raise OSError("libnvinfer.so.10: cannot open shared object file")
        return real(name, package)

    patch.setattr(importlib, "import_module", load)


def too_old(cuda: FakeCuda, patch: pytest.MonkeyPatch) -> None:
    sys.modules["tensorrt"].__version__ = "8.6.2"


def too_new(cuda: FakeCuda, patch: pytest.MonkeyPatch) -> None:
    sys.modules["tensorrt"].__version__ = "12.0.0"


def no_binding(cuda: FakeCuda, patch: pytest.MonkeyPatch) -> None:
    absent(patch, "cuda.bindings.runtime", "cuda")


def no_driver(cuda: FakeCuda, patch: pytest.MonkeyPatch) -> None:
    cuda.failures["cudaGetDeviceCount"] = cudaError_t.cudaErrorInsufficientDriver


def no_gpu(cuda: FakeCuda, patch: pytest.MonkeyPatch) -> None:
    cuda.failures["cudaGetDeviceCount"] = cudaError_t.cudaErrorNoDevice


def null_builder(cuda: FakeCuda, patch: pytest.MonkeyPatch) -> None:
    def fail(logger: Any) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    patch.setattr(sys.modules["tensorrt"], "Builder", fail)


def never_deserialises(cuda: FakeCuda, patch: pytest.MonkeyPatch) -> None:
    sys.modules["tensorrt"].unreadable = 1000  # type: ignore[attr-defined]


def out_of_memory(cuda: FakeCuda, patch: pytest.MonkeyPatch) -> None:
    cuda.failures["cudaMalloc"] = cudaError_t.cudaErrorMemoryAllocation


def wrong_results(cuda: FakeCuda, patch: pytest.MonkeyPatch) -> None:
    sys.modules["tensorrt"].wrong = {"fp16", "fp32"}  # type: ignore[attr-defined]


FAULTS = {
    empty_namespace: "at /somewhere/tensorrt-stubs is empty",
    broken_library: "libnvinfer.so.10: cannot open",
    too_old: "TensorRT is 8.6.2; this version of lewm_ros runs with 10.3 to 11.x",
    too_new: "TensorRT is 12.0.0",
    no_binding: "run `pip install 'cuda-python",
    no_driver: "cudaErrorInsufficientDriver; no NVIDIA driver is loaded",
    no_gpu: "cudaErrorNoDevice; no NVIDIA GPU is visible",
    null_builder: "TensorRT cannot start a build; run `lewm doctor`",
    never_deserialises: "TensorRT does not read the encoder engine",
    out_of_memory: "the GPU's memory is full",
    wrong_results: "latents have cosine -0.",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_each_fault_ends_in_a_sentence_and_the_next_back_end(
    bundle: Bundle, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    fault(cuda, monkeypatch)
    runtime = load_runtime(bundle)
    assert runtime.backend == "onnxruntime" and FAULTS[fault] in runtime.notes[0]
    with pytest.raises(RuntimeLoadError) as caught:
        load_runtime(bundle, "tensorrt")
    assert FAULTS[fault] in str(caught.value)


def test_without_onnx_runtime_either_auto_takes_torch(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    absent(monkeypatch, "tensorrt", "onnxruntime")
    runtime = load_runtime(bundle)
    assert runtime.backend == "torch"
    assert [note.split(" is not used")[0] for note in runtime.notes] == ["tensorrt", "onnxruntime"]


def test_without_any_back_end_the_error_has_the_reason_of_each(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    absent(monkeypatch, "tensorrt", "onnxruntime", "torch")
    monkeypatch.delitem(sys.modules, "lewm_model.runtime.torch_backend", raising=False)
    with pytest.raises(RuntimeLoadError, match=r"no back end works here\. .*TensorRT's.*ONNX Runtime.*PyTorch is"):
        load_runtime(bundle)


def test_an_unknown_back_end_is_refused_with_the_ones_that_there_are(bundle: Bundle) -> None:
    with pytest.raises(RuntimeLoadError, match="there is no back end 'cuda'; use auto, tensorrt, onnxruntime, torch"):
        load_runtime(bundle, "cuda")


def test_a_bundle_without_golden_outputs_sends_auto_to_the_next_back_end(bundle: Bundle, cuda: FakeCuda) -> None:
    del bundle.files["onnx/golden.safetensors"]
    runtime = load_runtime(bundle)
    assert runtime.backend == "onnxruntime" and "run `lewm export" in runtime.notes[0]
