# SPDX-License-Identifier: Apache-2.0
"""`lewm doctor` finds what keeps a robot from running, and tells what to do about each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from awake import awake_bundle, exported_folder
from fake_gpu import FakeCuda, FakeTensorRT, cudaError_t
from test_export import MODELS
from typer.testing import CliRunner

from lewm_model.bundle.bundle import load_bundle
from lewm_model.cli.main import app
from lewm_model.evaluation import doctor
from lewm_model.evaluation.doctor import Finding, examine, topics_of
from lewm_model.robot.observation import Camera
from lewm_model.runtime.machine import Target
from lewm_model.runtime.tensorrt.engines import Engines

JETSON = Target("NVIDIA Jetson AGX Orin Developer Kit", "6 (L4T 36.4.3)", "MAXN", 12)
PC = Target("AMD EPYC", "", "", 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(exported_folder(MODELS["conv-1"]), tmp_path / "bundle")
    return tmp_path / "bundle"


def look(folder: Path, cuda: FakeCuda | None = None, target: Target = JETSON, **options: Any) -> dict[str, Finding]:
    cuda = cuda or FakeCuda()
    findings = examine(folder, options.pop("topics", {}), 0.1, FakeTensorRT(cuda), cuda, target)
    return {finding.check: finding for finding in findings}


def test_a_machine_with_gpu_tensorrt_model_and_engines_is_ready(folder: Path) -> None:
    cuda = FakeCuda()
    Engines(load_bundle(folder), FakeTensorRT(cuda), cuda).load()
    found = look(folder, cuda)
    ready = ("Python", "numpy", "safetensors", "board", "driver and GPU", "TensorRT", "model", "fp16 engines")
    assert {check: found[check].state for check in ready} == dict.fromkeys(ready, "ok")
    assert "Orin, sm_8.7, driver for CUDA 12.6" in found["driver and GPU"].found
    assert "rollout-64" in found["fp16 engines"].found and "rank correlation" in found["fp16 engines"].found


def test_missing_engines_are_a_warning_with_the_command_that_builds_them(folder: Path) -> None:
    finding = look(folder)["engines"]
    assert finding.state == "warn" and finding.advice.startswith(f"lewm engine {folder}")


def test_engines_of_another_version_and_refused_engines_say_why(folder: Path) -> None:
    cuda = FakeCuda()
    trt = FakeTensorRT(cuda)
    trt.wrong = {"fp16"}
    engines = Engines(load_bundle(folder), trt, cuda)
    engines.load()
    found = look(folder, cuda)
    assert found["fp16 engines"].state == "warn" and "latents have cosine" in found["fp16 engines"].found
    assert found["fp32 engines"].state == "ok" and "engines" not in found
    manifest = engines.folder("fp32") / "manifest.json"
    manifest.write_text(manifest.read_text().replace("10.3.0", "10.13.3"))
    found = look(folder, cuda)
    assert "built for TensorRT 10.13.3, here it is 10.3.0" in found["fp32 engines"].found
    assert "lewm engine" in found["engines"].advice


def test_a_missing_driver_fails_on_a_jetson_and_warns_on_a_pc(folder: Path) -> None:
    cuda = FakeCuda()
    cuda.failures["cudaGetDeviceCount"] = cudaError_t.cudaErrorInsufficientDriver
    on_jetson, on_pc = look(folder, cuda)["driver and GPU"], look(folder, cuda, PC)["driver and GPU"]
    assert on_jetson.state == "fail" and "install JetPack" in on_jetson.advice
    assert on_pc.state == "warn" and "pip install onnxruntime" in on_pc.advice


def test_a_full_gpu_and_a_power_saving_mode_are_warnings(folder: Path) -> None:
    found = look(folder, FakeCuda(memory=100_000_000), Target(JETSON.board, JETSON.jetpack, "15W", 12))
    assert found["driver and GPU"].state == "warn" and "0.5 GB" in found["driver and GPU"].advice
    assert found["board"].state == "warn" and "nvpmodel" in found["board"].advice


def test_a_model_that_is_missing_damaged_or_without_graphs_fails(tmp_path: Path, folder: Path) -> None:
    assert "lewm train" in look(tmp_path / "nothing")["model"].advice
    (folder / "weights.safetensors").write_bytes(b"cut off")
    assert look(folder)["model"].state == "fail" and "SHA-256" in look(folder)["model"].found
    bare = awake_bundle(tmp_path / "bare", MODELS["conv-1"], ()).folder
    assert look(bare)["model"].advice.startswith("lewm export")


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    finding = look(folder)["safetensors"]
    assert (finding.state, finding.advice) == ("fail", "pip install safetensors")


def test_a_camera_without_permission_is_told_from_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._camera(tmp_path).state == "warn"
    (tmp_path / "video0").touch()
    assert doctor._camera(tmp_path).state == "ok"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert doctor._camera(tmp_path).state == "fail" and "usermod" in doctor._camera(tmp_path).advice


def answering(monkeypatch: pytest.MonkeyPatch, **topic: Any) -> None:
    """Has the topic check answer for the topic /picture."""
    answer = {"name": "/picture", "types": ["sensor_msgs/msg/Image"], "publishers": 0, "rate_hz": 0.0, "content": ""}
    done = subprocess.CompletedProcess([], 0, json.dumps({"picture": {**answer, **topic}}), "")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: done)


@pytest.mark.parametrize(
    ("topic", "state", "found", "advice"),
    [
        ({"publishers": 1, "rate_hz": 29.7, "content": "640 x 480 rgb8"}, "ok", "29.7 Hz, 640 x 480 rgb8", ""),
        ({"publishers": 1}, "fail", "has 1 publishers, and nothing came", "shared memory"),
        ({}, "fail", "nobody publishes /picture", "start the driver"),
    ],
)
def test_topics_are_listened_to(
    folder: Path, monkeypatch: pytest.MonkeyPatch, topic: dict[str, Any], state: str, found: str, advice: str
) -> None:
    answering(monkeypatch, **topic)
    finding = look(folder, topics={"camera": "picture"})["camera topic"]
    assert finding.state == state and found in finding.found and advice in finding.advice


def test_every_camera_of_the_bundle_is_listened_to(folder: Path, tmp_path: Path) -> None:
    one = load_bundle(folder)
    assert topics_of(one) == {"camera": "camera/image_raw", "joint states": "joint_states"}
    high, wide = one.model.image_size
    cameras = Camera("front", high, wide // 2), Camera("wrist", high, wide // 2, "wrist/image_raw")
    topics = topics_of(replace(one, cameras=cameras))
    assert topics["camera front"] == "camera/image_raw" and topics["camera wrist"] == "wrist/image_raw"


def test_without_ros_the_topics_are_not_checked_and_it_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "ModuleNotFoundError: No module named 'rclpy'")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: failed)
    finding = look(folder, topics={"camera": "picture"})["topics"]
    assert finding.state == "warn" and "No module named 'rclpy'" in finding.found and "setup.bash" in finding.advice


def test_the_command_ends_with_an_error_when_a_check_fails(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["doctor", str(tmp_path), "--no-topics"])
    assert "fail model: there is no model bundle" in answer.stdout and "-> train one with `lewm train`" in answer.stdout
    assert "checks failed" in str(answer.exception)
    answer = CliRunner().invoke(app, ["doctor", "machine", str(tmp_path), "--no-topics", "--json"])
    states = {finding["check"]: finding["state"] for finding in json.loads(answer.stdout)}
    assert states["model"] == "fail" and states["Python"] == "ok"
    assert "checks failed" in str(answer.exception)  # for the exit status


def test_without_the_word_model_it_is_the_machine_that_is_checked(tmp_path: Path) -> None:
    for arguments in (["doctor", "--no-topics"], ["doctor", "machine", "models/reach", "--no-topics"]):
        assert "Python: 3." in CliRunner().invoke(app, arguments).stdout
    answer = CliRunner().invoke(app, ["doctor", "model", str(tmp_path)])
    assert "there is no model bundle" in str(answer.exception) and "Python" not in answer.stdout
    assert "model" in CliRunner().invoke(app, ["doctor", "--help"]).stdout
