# SPDX-License-Identifier: Apache-2.0
"""The Jetson guide, the container and the systemd unit name only commands, options and files that there are."""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from lewm_model.cli.main import app

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs/jetson.md").read_text()
COMMANDS = re.findall(r"^(lewm .+?)\s*(?:[#>].*)?$", "\n".join(re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)), re.M)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_lewm_command_of_the_guide_parses(command: str) -> None:
    name, *arguments = shlex.split(command)[1:]
    typer.main.get_command(app).commands[name].make_context(name, arguments)  # type: ignore[attr-defined]


def test_the_guide_has_commands_to_check() -> None:
    assert {command.split()[1] for command in COMMANDS} == {"doctor", "engine", "bench"}


def test_files_and_launch_arguments_that_are_named_exist() -> None:
    unit = (ROOT / "config/lewm_ros.service").read_text()
    container = (ROOT / "docker/Dockerfile.jetson").read_text()
    launch = (ROOT / "launch/plan.launch.py").read_text()
    arguments = re.findall(r"\b(\w+):=", GUIDE + unit + container)
    links, sources = re.findall(r"\]\(([^)#]+)\)", GUIDE), re.findall(r"^COPY (\S+)", container, re.MULTILINE)
    assert arguments and links and sources
    assert [argument for argument in arguments if f'"{argument}"' not in launch] == []
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_the_unit_never_arms_stops_smoothly_and_caches_where_it_says() -> None:
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(ROOT / "config/lewm_ros.service")
    service = dict(parser["Service"])
    assert "enable" not in service["ExecStart"] and service["KillSignal"] == "SIGINT"
    graces_s = re.findall(r'sigterm_timeout="(\d+)"', (ROOT / "launch/plan.launch.py").read_text())
    sigkill_s = 5  # launch's default, after SIGTERM
    assert int(service["TimeoutStopSec"]) > max(map(int, graces_s)) + sigkill_s
    assert service["Environment"] == f"XDG_CACHE_HOME=/var/cache/{service['CacheDirectory']}"


def test_a_robot_that_runs_engines_imports_neither_torch_nor_onnx() -> None:
    imports = "lewm_model.runtime.tensorrt.engines, lewm_model.evaluation.doctor, lewm_model.runtime"
    code = f"import sys, {imports}; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "lewm_model.runtime.tensorrt.backend" in modules
    assert not {"torch", "onnx", "onnxruntime", "mujoco", "h5py", "rclpy"} & set(modules)


def test_what_checks_engines_needs_neither_opencv_nor_safetensors() -> None:
    """`make engine-check` imports it in an environment that has TensorRT-RTX, numpy and PyYAML alone."""
    code = "import sys, lewm_model.runtime.tensorrt.builder, lewm_model.runtime.tensorrt.backend; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"cv2", "safetensors", "torch", "mujoco"} & set(modules)
