# SPDX-License-Identifier: Apache-2.0
"""Engines are built on the target, checked, remembered, built again when they do not fit, and refused when wrong.

There is no GPU here: a stand-in for CUDA and TensorRT (fake_gpu.py) runs the graphs in ONNX Runtime.
`make engine-check` tries the graphs with NVIDIA's own library.
"""

import dataclasses
import fcntl
import gc
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from awake import HEAD_NAMES, exported_folder, pictures
from fake_gpu import FAKED, FakeCuda, FakeTensorRT, cudaError_t
from test_export import MODELS, random_rollout

from lewm_model.bundle.bundle import Bundle, load_bundle
from lewm_model.models.signature import signatures
from lewm_model.runtime import InferenceError, RuntimeLoadError, equivalence
from lewm_model.runtime.onnx_backend import OnnxRuntime
from lewm_model.runtime.tensorrt.backend import TensorRTRuntime
from lewm_model.runtime.tensorrt.builder import EngineBuildError, build_plan
from lewm_model.runtime.tensorrt.engines import Engines, engine_root

NAMES = json.loads((Path(__file__).parent / "data/tensorrt_names.json").read_text())


class Robot:
    """A machine with a GPU, and a bundle on it."""

    def __init__(self, folder: Path, model: str = "conv-1", heads: tuple[str, ...] = HEAD_NAMES) -> None:
        shutil.copytree(exported_folder(MODELS[model], heads), folder / "bundle")
        self.bundle: Bundle = load_bundle(folder / "bundle")
        self.cuda = FakeCuda()
        self.trt = FakeTensorRT(self.cuda)

    def load(self, **options: Any) -> TensorRTRuntime:
        """Loads as after a restart of the program."""
        return Engines(self.bundle, self.trt, self.cuda).load(**{"samples": (16,), **options})

    @property
    def built(self) -> int:
        return len(self.trt.builds)


@pytest.fixture
def robot(tmp_path: Path) -> Robot:
    return Robot(tmp_path)


def manifests(robot: Robot) -> dict[str, dict[str, Any]]:
    files = robot.bundle.folder.glob("engines/*/manifest.json")
    return {path.parent.name: json.loads(path.read_text()) for path in files}


def test_the_first_load_builds_and_the_manifest_says_from_what_for_what_and_how_well(robot: Robot) -> None:
    runtime = robot.load()
    assert robot.trt.builds == ["latent", "distances 16", "block"]
    assert runtime.precision == "fp16" and runtime.backend == "tensorrt"
    assert "built fp16 engines in" in runtime.notes[0] and "there are no engines in" in runtime.notes[0]
    found = manifests(robot)["orin-sm87-trt10.3.0-fp16"]
    assert (found["gpu"], found["compute_capability"], found["tensorrt"]) == ("Orin", "8.7", "10.3.0")
    assert found["onnx"]["rollout"] == robot.bundle.files["onnx/rollout.fp16.onnx"]
    assert found["plans"]["rollout-16"]["inputs"][1] == "candidates (16, 2, 10) float32"
    assert found["plans"]["encoder"]["outputs"] == ["latent (1, 8) float32"]
    assert found["equivalence"]["rank_correlation"] > 0.99 and found["refused"] == ""
    assert load_bundle(robot.bundle.folder).files == robot.bundle.files  # engines are outside the bundle's hashes


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("recordable", [True, False])
def test_any_number_of_candidates_is_as_in_onnx_runtime(tmp_path: Path, model: str, recordable: bool) -> None:
    robot = Robot(tmp_path, model)
    robot.trt.unrecordable = not recordable
    runtime, reference = robot.load(precision="fp32", samples=(4, 16)), OnnxRuntime(robot.bundle)
    for picture in pictures(robot.bundle.model, 3):
        np.testing.assert_array_equal(runtime.encode(picture), reference.encode(picture))
    for samples in (1, 4, 5, 16, 17, 40):
        inputs = random_rollout(robot.bundle.model, samples)
        for found, wanted in zip(runtime.rollout(*inputs), reference.rollout(*inputs), strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-6)
    context, _, _, goal = random_rollout(robot.bundle.model, 1)
    blocks = [each.propose(context[:1], goal, np.full(1, 9.0, np.float32)) for each in (runtime, reference)]
    np.testing.assert_allclose(*blocks, atol=1e-6)
    assert any("without a CUDA graph" in note for note in runtime.notes) == (not recordable)


@pytest.mark.parametrize("model", ["conv-1", "patch-3"])  # "all-1" is "conv-1" but for how the encoder reads its tokens
def test_a_policy_is_followed_as_in_onnx_runtime_and_its_steps_pass_the_gate(tmp_path: Path, model: str) -> None:
    robot = Robot(tmp_path, model, ("policy", "displacement"))
    runtime, reference = robot.load(precision="fp32", samples=(4, 16)), OnnxRuntime(robot.bundle)
    history, latent = robot.bundle.model.history, robot.bundle.model.latent_dim
    rng = np.random.default_rng(0)
    for ways in (1, 4, 16, 17):
        contexts = rng.standard_normal((ways, history, latent)).astype(np.float32)
        past, blocks = (rng.standard_normal((ways, n, 10)).astype(np.float32) for n in (history - 1, 1))
        goal, steps = contexts[0, 0], np.arange(ways, dtype=np.float32)
        for found, wanted in (
            (runtime.propose(contexts[:, -1], goal, steps), reference.propose(contexts[:, -1], goal, steps)),
            (runtime.step(contexts, past, blocks[:, 0]), reference.step(contexts, past, blocks[:, 0])),
        ):
            np.testing.assert_allclose(found, wanted, atol=1e-5)
    plans = manifests(robot)["orin-sm87-trt10.3.0-fp32"]["plans"]
    assert {"proposal-4", "proposal-16", "step-4", "step-16"} <= plans.keys()

    golden = equivalence.load_golden(robot.bundle)
    assert len(golden.answers.stepped) == len(golden.frames) - history + 1
    right = runtime.step
    runtime.step = lambda *inputs: right(*inputs) + 0.3  # type: ignore[method-assign]
    assert "standard deviations" in equivalence.measure(runtime, golden).problem


def test_a_call_launches_one_recorded_graph_and_allocates_nothing(robot: Robot) -> None:
    runtime = robot.load()
    inputs = random_rollout(robot.bundle.model, 16)
    robot.cuda.calls.clear()
    runtime.rollout(*inputs)
    assert robot.cuda.calls == ["cudaGraphLaunch", "cudaStreamSynchronize"]


def test_results_stay_what_they_are_when_the_next_call_reuses_the_buffers(robot: Robot) -> None:
    runtime = robot.load()
    first, second = pictures(robot.bundle.model, 2)
    latent = runtime.encode(first)
    copy = latent.copy()
    assert not np.array_equal(runtime.encode(second), latent)
    np.testing.assert_array_equal(latent, copy)


def test_a_second_load_builds_nothing(robot: Robot) -> None:
    robot.load()
    before = robot.built
    runtime = robot.load()
    assert robot.built == before and runtime.notes == []


def test_a_rebuild_can_be_asked_for_and_reuses_the_timings(robot: Robot) -> None:
    robot.load()
    cache = next(robot.bundle.folder.glob("engines/timing-orin-sm87-trt10.3.0.cache"))
    assert cache.read_bytes() == b"+++"
    robot.load(rebuild=True)
    assert robot.built == 6 and cache.read_bytes() == b"++++++"


def test_everything_is_given_back_when_the_runtime_goes(robot: Robot) -> None:
    runtime = robot.load()
    assert robot.cuda.leaked > 0
    del runtime
    gc.collect()
    assert robot.cuda.leaked == 0


def other_gpu(robot: Robot) -> None:
    for path in robot.bundle.folder.glob("engines/*/manifest.json"):
        path.write_text(path.read_text().replace('"Orin"', '"Thor"'))


def other_board(robot: Robot) -> None:
    robot.cuda.multiprocessors = 16


def other_version(robot: Robot) -> None:
    for path in robot.bundle.folder.glob("engines/*/manifest.json"):
        path.write_text(path.read_text().replace('"10.3.0"', '"10.13.3"'))


def other_onnx(robot: Robot) -> None:
    files = {**robot.bundle.files, "onnx/encoder.fp16.onnx": "0" * 64}
    robot.bundle = dataclasses.replace(robot.bundle, files=files)


def damaged_engine(robot: Robot) -> None:
    path = next(robot.bundle.folder.glob("engines/*-fp16/rollout-16.plan"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def lost_engine(robot: Robot) -> None:
    next(robot.bundle.folder.glob("engines/*-fp16/encoder.plan")).unlink()


def damaged_manifest(robot: Robot) -> None:
    next(robot.bundle.folder.glob("engines/*-fp16/manifest.json")).write_text('{"gpu": "Orin"')


def strange_manifest(robot: Robot) -> None:
    next(robot.bundle.folder.glob("engines/*-fp16/manifest.json")).write_text('{"plans": []}')


def no_candidates(robot: Robot) -> None:
    path = next(robot.bundle.folder.glob("engines/*-fp16/manifest.json"))
    path.write_text(path.read_text().replace('"samples": 16', '"samples": 0'))


def candidates_of_the_encoder(robot: Robot) -> None:
    path = next(robot.bundle.folder.glob("engines/*-fp16/manifest.json"))
    path.write_text(path.read_text().replace('"samples": 1,', '"samples": 2,'))


def does_not_deserialise(robot: Robot) -> None:
    robot.trt.unreadable = 1


CHANGES = {
    other_gpu: "the engines were built for GPU Thor, here it is Orin",
    other_board: "the engines were built for GPU multiprocessors 8, here it is 16",
    other_version: "the engines were built for TensorRT 10.13.3, here it is 10.3.0",
    other_onnx: "the engines were built from other ONNX graphs",
    damaged_engine: "rollout-16.plan is missing or damaged",
    lost_engine: "encoder.plan is missing or damaged",
    damaged_manifest: "manifest.json cannot be read",
    strange_manifest: "manifest.json cannot be read",
    no_candidates: "engine for 0 candidates, which it cannot take",
    candidates_of_the_encoder: "encoder engine for 2 candidates, which it cannot take",
    does_not_deserialise: "TensorRT does not read the encoder engine: The engine plan file is not compatible",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_engines_that_do_not_fit_are_built_again_with_the_reason(robot: Robot, change: Callable[[Robot], None]) -> None:
    robot.load()
    change(robot)
    runtime = robot.load()
    assert robot.built == 6 and CHANGES[change] in runtime.notes[0]
    assert robot.load().notes == []


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_engines_that_do_not_fit_are_refused_with_the_reason_where_building_is_off(
    robot: Robot, change: Callable[[Robot], None]
) -> None:
    robot.load()
    change(robot)
    with pytest.raises(RuntimeLoadError) as caught:
        robot.load(build=False)
    assert CHANGES[change] in str(caught.value) and "run `lewm engine" in str(caught.value)
    assert robot.built == 3


def test_a_gpu_with_another_name_gets_engines_of_its_own(robot: Robot) -> None:
    robot.load()
    robot.cuda.name, robot.cuda.capability = "NVIDIA Thor", (11, 0)
    robot.trt.__version__ = "10.13.3.9"
    robot.load()
    assert sorted(manifests(robot)) == ["nvidia-thor-sm110-trt10.13.3.9-fp16", "orin-sm87-trt10.3.0-fp16"]


def test_wrong_results_in_half_precision_lead_to_single_precision_and_are_remembered(robot: Robot) -> None:
    robot.trt.wrong = {"fp16"}
    runtime = robot.load()
    assert runtime.precision == "fp32"
    assert "not in use, fp16: refused by the check of numerical equivalence, latents have cosine" in runtime.notes[0]
    assert "rank correlation" in manifests(robot)["orin-sm87-trt10.3.0-fp16"]["refused"]
    before = robot.built
    runtime = robot.load()
    assert robot.built == before and runtime.precision == "fp32"
    assert "fp16: refused when built" in runtime.notes[0]


def test_wrong_results_in_every_precision_are_refused(robot: Robot) -> None:
    robot.trt.wrong = {"fp16", "fp32"}
    with pytest.raises(RuntimeLoadError, match=r"no engine can be used; fp16: refused .* \| fp32: refused"):
        robot.load()


def test_engines_that_compute_something_else_than_when_they_were_built_are_refused_at_load(robot: Robot) -> None:
    robot.load(precision="fp16")
    robot.trt.wrong = {"fp16"}
    with pytest.raises(RuntimeLoadError, match="do not compute what they did when they were built"):
        robot.load(precision="fp16")


def test_a_bundle_whose_half_precision_export_was_refused_runs_in_single_precision(robot: Robot) -> None:
    files = {name: digest for name, digest in robot.bundle.files.items() if "fp16" not in name}
    evaluation = {"fp16": {"problem": "costs have rank correlation 0.9"}}
    robot.bundle = dataclasses.replace(robot.bundle, files=files, evaluation=evaluation)
    runtime = robot.load()
    assert runtime.precision == "fp32" and "its export was refused: costs have rank correlation 0.9" in runtime.notes[0]


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaMallocHost"])
def test_a_full_gpu_is_said_so_and_nothing_is_kept(robot: Robot, call: str) -> None:
    robot.load()
    gc.collect()
    robot.cuda.failures[call] = cudaError_t.cudaErrorMemoryAllocation
    with pytest.raises(RuntimeLoadError, match=f"{call} failed with .*MemoryAllocation; the GPU's memory is full"):
        robot.load()
    gc.collect()
    assert robot.cuda.leaked == 0


def test_an_engine_without_memory_to_run_in_is_said_so(robot: Robot) -> None:
    robot.trt.no_context = True
    with pytest.raises(RuntimeLoadError, match=r"no memory for the encoder engine \(12 MB\); stop other programs"):
        robot.load()


def test_a_graph_that_does_not_build_names_node_and_reason(robot: Robot) -> None:
    robot.trt.build_fails = "Softmax kernel not found"
    with pytest.raises(RuntimeLoadError, match=r"cannot build the graph encoder: Softmax .* kind: node_.*Softmax"):
        robot.load()


def test_a_failed_run_says_what_to_do(robot: Robot) -> None:
    robot.trt.unrecordable = True
    runtime = robot.load()
    robot.trt.execution_fails = True
    with pytest.raises(InferenceError, match=r"TensorRT did not run the encoder engine; restart the program"):
        runtime.encode(pictures(robot.bundle.model)[0])
    robot.trt.execution_fails = False
    robot.cuda.failures["cudaStreamSynchronize"] = cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(InferenceError, match="cudaStreamSynchronize failed with cudaErrorIllegalAddress"):
        runtime.encode(pictures(robot.bundle.model)[0])


def test_a_build_that_breaks_off_leaves_no_engines_behind_that_would_be_used(
    robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot.load()

    def power_cut(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lewm_model.runtime.tensorrt.engines.equivalence.measure", power_cut)
        with pytest.raises(KeyboardInterrupt):
            robot.load(rebuild=True)
    assert "there are no engines in" in robot.load().notes[0]


def test_a_full_disk_is_a_reason_not_a_crash(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lewm_model.runtime.tensorrt.engines._replace", full)
    with pytest.raises(RuntimeLoadError, match="No space left on device"):
        robot.load()


def test_a_second_program_waits_for_the_one_that_builds_and_then_builds_nothing(robot: Robot) -> None:
    root = robot.bundle.folder / "engines"
    root.mkdir()
    loaded: list[TensorRTRuntime] = []
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=lambda: loaded.append(robot.load()))
        thread.start()
        time.sleep(0.3)
        assert not robot.built and not loaded
    thread.join(60)
    assert robot.built == 3 and loaded


def test_building_reports_progress(robot: Robot) -> None:
    seen: list[tuple[str, float]] = []
    robot.load(progress=lambda what, share: seen.append((what, share)))
    ended = [what for what, share in seen if share == 1.0]
    assert ended == ["building encoder", "building rollout", "building proposal"]
    assert all(0 <= share <= 1 for _, share in seen)


def test_engines_of_a_bundle_that_cannot_be_written_to_lie_in_the_users_cache(
    robot: Robot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != robot.bundle.folder and real(path, mode))
    robot.load()
    assert engine_root(robot.bundle).parent == tmp_path / "cache/lewm_ros"
    assert not (robot.bundle.folder / "engines").exists() and len(list(tmp_path.glob("cache/**/manifest.json"))) == 1


def test_an_unknown_precision_is_refused(robot: Robot) -> None:
    with pytest.raises(RuntimeLoadError, match="the precision is 'int8'; it must be auto, fp16, fp32"):
        robot.load(precision="int8")


@pytest.mark.parametrize(
    ("graph", "complaint"),
    [
        (b"\x00garbage", "has the inputs none; this bundle needs image"),
        ("rollout", "has the inputs context .* this bundle needs image"),
    ],
)
def test_a_file_that_is_not_the_graph_is_refused_although_the_parser_takes_it(
    robot: Robot, graph: bytes | str, complaint: str
) -> None:
    data = robot.bundle.path(f"onnx/{graph}.onnx").read_bytes() if isinstance(graph, str) else graph
    with pytest.raises(EngineBuildError, match=complaint):
        build_plan(robot.trt, data, signatures(robot.bundle.model, 2)["encoder"])


def test_a_timing_cache_of_another_version_is_replaced(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    import fake_gpu

    real = fake_gpu.IBuilderConfig.create_timing_cache
    monkeypatch.setattr(
        fake_gpu.IBuilderConfig, "create_timing_cache", lambda self, data: None if data == b"old" else real(self, data)
    )
    graph = robot.bundle.path("onnx/encoder.onnx").read_bytes()
    plan = build_plan(robot.trt, graph, signatures(robot.bundle.model, 2)["encoder"], timing_cache=b"old")
    assert plan.timing_cache == b"+"


def test_the_stand_in_for_tensorrt_has_no_name_that_a_supported_release_lacks() -> None:
    trt = FakeTensorRT(FakeCuda())
    for cls in (*FAKED, trt.Builder, trt.Runtime):
        for release, names in NAMES.items():
            fields = {name for name in dir(cls) if not name.startswith("_")}
            if cls.__init__ is not object.__init__:
                fields |= {name for name in cls.__init__.__code__.co_names if name in vars(cls)}
            assert fields <= set(names[cls.__name__]), f"TensorRT {release}'s {cls.__name__}"
