# SPDX-License-Identifier: Apache-2.0
"""`lewm doctor`: whether this machine can run a model on a robot, and what to do about each failure."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lewm_model.bundle.bundle import Bundle, BundleError, load_bundle
from lewm_model.models.signature import PRECISIONS
from lewm_model.runtime import RuntimeLoadError
from lewm_model.runtime.machine import Target, this_machine
from lewm_model.runtime.tensorrt.backend import EngineError, import_tensorrt
from lewm_model.runtime.tensorrt.cuda import Cuda
from lewm_model.runtime.tensorrt.engines import MANIFEST, Engines, read_manifest

OK, WARN, FAIL = "ok", "warn", "fail"
NEEDED = {  # module -> command that installs it
    "numpy": "sudo apt-get install python3-numpy",
    "cv2": "sudo apt-get install python3-opencv",
    "yaml": "sudo apt-get install python3-yaml",
    "safetensors": "pip install safetensors",  # for the golden outputs of the check of numerical equivalence
    "scipy": "sudo apt-get install python3-scipy",  # for that check
}
JOINT_STATES = "joint states"
ROS_NOT_CHECKED = "ROS 2 is not in this shell"


@dataclass(frozen=True)
class Finding:
    """The result of one check. `fail` keeps a robot from running, `warn` costs speed or comfort."""

    check: str
    state: str  # "ok", "warn" or "fail"
    found: str
    advice: str = ""  # what to do; "" when it is ok


def examine(
    folder: Path,
    topics: dict[str, str] | None = None,
    seconds: float = 3.0,
    trt: Any = None,
    cuda_api: Any = None,
    target: Target | None = None,
) -> list[Finding]:
    """Checks packages, board, driver, TensorRT, model, engines, camera and topics, in that order.

    :param folder: the bundle that is to run here.
    :param topics: topics to listen to, by their purpose, such as "camera" or "joint states"; empty for none, None for
        those of the bundle.
    :param seconds: how long to listen.
    :param trt, cuda_api, target: stand-ins for `tensorrt`, `cuda.bindings.runtime` and this machine, in tests.
    """
    target = target or this_machine()
    findings = [*_packages(), _board(target)]
    findings += [_gpu(cuda_api, target), _tensorrt(trt, target)]
    model, bundle = _model(folder)
    findings.append(model)
    if bundle is not None:
        findings += _engines(bundle, trt, cuda_api, target)
    findings.append(_camera(Path("/dev")))
    listened = topics_of(bundle) if topics is None else topics
    if listened:
        findings += _topics(listened, seconds)
    return findings


def topics_of(bundle: Bundle | None) -> dict[str, str]:
    """The topics that a robot with this bundle listens to, of its cameras and the joint states, by their purpose."""
    cameras = () if bundle is None else bundle.cameras
    several = len(cameras) > 1
    found = {f"camera {camera.name}" if several else "camera": camera.topic for camera in cameras}
    return {**found, JOINT_STATES: "joint_states"}


def _packages() -> list[Finding]:
    findings = []
    version = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 10) <= sys.version_info[:2] <= (3, 12)
    findings.append(
        Finding("Python", OK if fits else FAIL, version, "" if fits else "use Python 3.10, 3.11 or 3.12, as ROS 2 does")
    )
    for module, advice in NEEDED.items():
        try:
            found = str(getattr(importlib.import_module(module), "__version__", "installed"))
            findings.append(Finding(module, OK, found))
        except ImportError as error:
            findings.append(Finding(module, FAIL, str(error), advice))
    return findings


def _board(target: Target) -> Finding:
    if not target.jetson:
        return Finding("board", OK, f"{target.board}, {target.cores} cores, not a Jetson")
    mode = target.power_mode or "unknown"
    found = f"{target.board}, JetPack {target.jetpack}, {target.cores} cores, power mode {mode}"
    if "MAXN" in mode.upper():
        return Finding("board", OK, found)
    advice = "for full speed: choose MAXN (`nvpmodel -p --verbose` lists the modes, `sudo nvpmodel -m N` sets one)"
    return Finding("board", WARN, found, advice + ", then sudo jetson_clocks for steady timings")


def _gpu(cuda_api: Any, target: Target) -> Finding:
    try:
        cuda = Cuda(cuda_api)
        gpu, free = cuda.gpu(), cuda.free_bytes()
        cuda.release()
    except RuntimeLoadError as error:
        return _missing("driver and GPU", error, target)
    found = f"{gpu.name}, sm_{gpu.compute_capability}, driver for CUDA {gpu.driver}, {free / 1e9:.1f} GB free"
    if free < 500e6:
        return Finding("driver and GPU", WARN, found, "stop programs that use the GPU; 0.5 GB should be free")
    return Finding("driver and GPU", OK, found)


def _tensorrt(trt: Any, target: Target) -> Finding:
    try:
        module = import_tensorrt() if trt is None else trt
    except RuntimeLoadError as error:
        return _missing("TensorRT", error, target)
    return Finding("TensorRT", OK, module.__version__)


def _missing(check: str, error: RuntimeLoadError, target: Target) -> Finding:
    """A failed check of the GPU: a PC runs the model on its CPU instead, a Jetson is too slow for that."""
    found, _, advice = str(error).partition("; ")
    if target.jetson:
        return Finding(check, FAIL, found, advice)
    return Finding(check, WARN, found, f"{advice}. Without it the model runs on the CPU: pip install onnxruntime")


def _model(folder: Path) -> tuple[Finding, Bundle | None]:
    try:
        bundle = load_bundle(folder)
    except BundleError as error:
        found, _, advice = str(error).partition("; ")
        return Finding("model", FAIL, found, advice), None
    joints = ", ".join(bundle.actions.names)
    high, wide = bundle.model.image_size
    found = f"{folder}: {high} x {wide} px, joints {joints}, {len(bundle.files)} files as hashed"
    graphs = [name for name in bundle.files if name.endswith(".onnx")]
    if not graphs:
        return Finding("model", FAIL, f"{folder} has no ONNX graphs", f"lewm export {folder}, where torch is"), bundle
    return Finding("model", OK, found), bundle


def _engines(bundle: Bundle, trt: Any, cuda_api: Any, target: Target) -> list[Finding]:
    try:
        engines = Engines(bundle, trt, cuda_api)
    except RuntimeLoadError as error:
        return [] if not target.jetson else [Finding("engines", FAIL, str(error), "fix the failures above first")]
    findings = []
    for precision in PRECISIONS:
        folder = engines.folder(precision)
        if not (folder / MANIFEST).exists():
            continue
        try:
            manifest = read_manifest(folder)
            reason = manifest.mismatch(engines.manifest(precision)) or manifest.refused
        except (EngineError, RuntimeLoadError) as error:
            findings.append(Finding(f"{precision} engines", WARN, str(error), f"lewm engine {bundle.folder}"))
            continue
        if reason:
            findings.append(Finding(f"{precision} engines", WARN, reason, f"lewm engine --rebuild {bundle.folder}"))
            continue
        correlation = manifest.equivalence.get("rank_correlation", float("nan"))
        found = f"{', '.join(manifest.plans)} in {folder}, cost rank correlation {correlation:.4f}"
        findings.append(Finding(f"{precision} engines", OK, found))
    if not any(finding.state == OK for finding in findings):
        advice = f"lewm engine {bundle.folder}; the first start of a node builds them too, and then takes minutes"
        findings.append(Finding("engines", WARN, f"none for this GPU in {engines.root}", advice))
    return findings


def _camera(devices: Path) -> Finding:
    cameras = sorted(devices.glob("video*"))
    if not cameras:
        advice = "plug it in, or ignore this if the pictures come from another machine or the simulator"
        return Finding("camera", WARN, f"no {devices}/video*", advice)
    locked = [str(path) for path in cameras if not os.access(path, os.R_OK | os.W_OK)]
    if locked:
        advice = "sudo usermod -aG video $USER, then log in again"
        return Finding("camera", FAIL, f"no permission for {', '.join(locked)}", advice)
    return Finding("camera", OK, ", ".join(map(str, cameras)))


def _topics(topics: dict[str, str], seconds: float) -> list[Finding]:
    command = [sys.executable, "-m", "lewm_ros.topic_check", "--seconds", str(seconds), *topics.values()]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
        answer = json.loads(run.stdout) if run.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError):
        run, answer = None, None
    if answer is None:
        lines = (run.stderr if run else "").strip().splitlines() or ["no answer"]
        advice = "source /opt/ros/$ROS_DISTRO/setup.bash and the workspace's install/setup.bash, then run this again"
        return [Finding("topics", WARN, f"{ROS_NOT_CHECKED} ({lines[-1]})", advice)]
    findings = []
    for what, topic in topics.items():
        seen = answer[topic]
        if seen["rate_hz"] > 0:
            found = f"{seen['name']}: {seen['rate_hz']} Hz, {seen['content']}"
            findings.append(Finding(f"{what} topic", OK, found))
        elif seen["publishers"]:
            advice = "do they have another type, or is the shared memory too small? See docs/install.md, images"
            kinds = ", ".join(seen["types"])
            found = f"{seen['name']} ({kinds}) has {seen['publishers']} publishers, and nothing came in {seconds:g} s"
            findings.append(Finding(f"{what} topic", FAIL, found, advice))
        else:
            domain = os.environ.get("ROS_DOMAIN_ID", "0")
            advice = f"start the driver, or remap its topic; is the driver in ROS_DOMAIN_ID {domain}, too?"
            findings.append(Finding(f"{what} topic", FAIL, f"nobody publishes {seen['name']}", advice))
    return findings
