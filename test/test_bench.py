# SPDX-License-Identifier: Apache-2.0
"""`lewm bench` reports what a robot's engineer asks: encoder, rollout, plan, picture to plan, and on what machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from awake import exported_folder
from bundles import tiny_bundle
from test_export import MODELS
from typer.testing import CliRunner

from lewm_model.bundle.bundle import load_bundle
from lewm_model.cli.main import app
from lewm_model.config import PlanConfig
from lewm_model.evaluation.timing import bench, limits_for
from lewm_model.robot.actions import ActionSpec
from lewm_model.runtime import load_runtime
from lewm_model.runtime import machine as target


@pytest.mark.parametrize("model", MODELS)
def test_it_times_every_stage_and_says_on_which_back_end_and_machine(model: str) -> None:
    bundle = load_bundle(exported_folder(MODELS[model]))
    config = PlanConfig(horizon=2, samples=16, iterations=2, elites=4, deadline_s=0.2)
    found = bench(load_runtime(bundle, "onnxruntime"), config, repeats=6)
    for stage in ("encoder_ms", "rollout_ms", "plan_ms", "end_to_end_ms"):
        times = found[stage]
        assert 0 < times["p50"] <= times["p95"] <= times["p99"], stage
    assert found["end_to_end_ms"]["p99"] > found["plan_ms"]["p50"] > found["encoder_ms"]["p50"]
    assert 1 <= found["iterations_done"] <= 2 and found["backend"] == "onnxruntime"
    assert set(found["machine"]) == {"board", "jetpack", "power_mode", "cores", "gpu"}


def test_the_command_prints_json_for_programs(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path / "bundle").folder
    answer = CliRunner().invoke(app, ["bench", str(folder), "--repeats", "2", "--json"], catch_exceptions=False)
    assert answer.exit_code == 0
    assert json.loads(answer.stdout)["plan"]["samples"] == PlanConfig().samples


def test_plans_are_timed_within_the_recording_s_own_speeds() -> None:
    speeds = {"low": (-0.02, -3.0, 0.0), "high": (0.4, 2.0, 0.01)}
    spec = ActionSpec.of_one_kind(
        ("a", "b", "slide"), "joint_velocity", "rad/s", 0.1, 5, mean=(0.0,) * 3, std=(1.0,) * 3, **speeds
    )
    np.testing.assert_allclose(limits_for(spec).velocity, [0.4, 3.0, 0.01])
    np.testing.assert_allclose(limits_for(spec).upper, [0.8, 6.0, 0.02])


def test_a_jetson_tells_board_jetpack_and_power_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (
        ("proc/device-tree/model", "NVIDIA Jetson AGX Orin Developer Kit\0"),
        ("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"),
        ("bin/nvpmodel", "#!/bin/sh\necho 'NV Power Mode: MAXN'; echo 0\n"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "bin/nvpmodel").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    found = target.this_machine(tmp_path)
    assert found.board == "NVIDIA Jetson AGX Orin Developer Kit"
    assert (found.jetpack, found.power_mode, found.jetson) == ("6 (L4T 36.4.3)", "MAXN", True)


def test_another_machine_is_no_jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert not target.this_machine(tmp_path).jetson and target.this_machine().board
