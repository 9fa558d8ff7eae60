# SPDX-License-Identifier: Apache-2.0
"""The data report finds what is wrong with a recording, and reports nothing about a good one."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer.main
from bags import BagWriter, write_motion
from tiny import dot_recording
from typer.testing import CliRunner

from lewm_model.cli.main import app
from lewm_model.data.clips import Episodes, load_episodes
from lewm_model.data.report import DataReport, report_on


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Episodes:
    found = load_episodes(dot_recording(tmp_path_factory.mktemp("data") / "dots.h5", episodes=20, steps=60))
    stamps = 0.05 * np.arange(len(found.pixels)) + np.random.default_rng(0).uniform(-1e-3, 1e-3, len(found.pixels))
    return replace(found, stamps_s=stamps)


def warnings(found: DataReport) -> dict[str, str]:
    return {one.what: one.warning for one in found.findings if one.warning}


def shifted(data: Episodes, steps: int) -> Episodes:
    """The same motion in pictures that come `steps` later than they should."""
    pixels = data.pixels.copy()
    for offset, length in zip(data.offsets, data.lengths, strict=True):
        rows = np.arange(length)
        pixels[offset : offset + length] = data.pixels[offset + np.clip(rows - steps, 0, length - 1)]
    return replace(data, pixels=pixels)


def test_a_good_recording_has_nothing_to_mend(data: Episodes) -> None:
    found = report_on(data)
    assert set(warnings(found)) <= {"action a", "action b"}  # which the recording does clip at 1.5
    assert found.numbers["episodes"] == 20 and found.numbers["frames"] == 1220
    assert found.numbers["duration_s"] == pytest.approx(61.0)
    assert found.numbers["rate_hz"] == pytest.approx(20, rel=0.01) and found.numbers["dropped_frames"] == 0
    assert 0.005 < found.numbers["jitter"] < 0.05
    assert list(np.sort(found.identity)) == list(found.identity)  # farther apart, less alike
    assert found.numbers["copied_pairs"] == 0


@pytest.mark.parametrize("steps", [-3, 0, 1, 4])
def test_a_known_lag_is_found(data: Episodes, steps: int) -> None:
    found = report_on(shifted(data, steps))
    assert found.numbers["lag_steps"] == pytest.approx(steps, abs=0.6)
    assert ("lag of the camera" in warnings(found)) == (steps != 0)
    if steps < 0:
        assert "the clocks differ" in warnings(found)["lag of the camera"]


def test_the_lag_is_found_of_commanded_positions_too(data: Episodes) -> None:
    actions = data.actions.copy()
    for offset, length in zip(data.offsets, data.lengths, strict=True):
        rows = slice(offset, offset + length - 1)
        actions[rows] = np.cumsum(data.actions[rows], axis=0) * 0.05
    found = report_on(shifted(replace(data, actions=actions, action_kinds=("recorded",) * actions.shape[1]), 3))
    assert found.numbers["lag_steps"] == pytest.approx(3, abs=0.6)


def test_pictures_that_have_nothing_to_do_with_the_actions_are_told(data: Episodes) -> None:
    order = np.random.default_rng(0).permutation(20)
    mixed = np.concatenate([data.pixels[61 * e : 61 * e + 61] for e in order])
    found = report_on(replace(data, pixels=mixed))
    assert found.numbers["lag_steps"] is None
    assert "they belong to other actions" in warnings(found)["lag of the camera"]


def test_saturated_and_dead_actions_are_told(data: Episodes) -> None:
    actions = np.clip(data.actions * [20.0, 0.0], -1, 1).astype(np.float32)
    told = warnings(report_on(replace(data, actions=actions)))
    assert "often at an end of its range, so the model learns little of the rest; command less" in told["action a"]
    assert "never changes" in told["action b"]


def test_lost_frames_uneven_stamps_and_repeated_pictures_are_told(data: Episodes) -> None:
    assert data.stamps_s is not None
    rng = np.random.default_rng(0)
    lossy = data.stamps_s + 0.05 * np.cumsum(rng.random(len(data.pixels)) < 0.05)
    found = report_on(replace(data, stamps_s=lossy))
    assert 40 < found.numbers["dropped_frames"] < 90 and "frames are lost" in warnings(found)["dropped frames"]
    uneven = data.stamps_s + rng.uniform(0, 0.02, len(data.pixels))
    assert "come unevenly" in warnings(report_on(replace(data, stamps_s=uneven)))["rate"]
    pixels = data.pixels.copy()
    pixels[1::3] = pixels[0::3][: len(pixels[1::3])]
    assert "repeats pictures" in warnings(report_on(replace(data, pixels=pixels)))["frozen frames"]


def test_an_episode_that_is_in_it_twice_is_a_leak(data: Episodes) -> None:
    pixels, actions = data.pixels.copy(), data.actions.copy()
    pixels[61 * 17 : 61 * 18], actions[61 * 17 : 61 * 18] = pixels[61 * 3 : 61 * 4], actions[61 * 3 : 61 * 4]
    before, found = report_on(data), report_on(replace(data, pixels=pixels, actions=actions))
    assert found.numbers["copied_pairs"] == 1
    assert any("such as 3 and 17" in one.value for one in found.findings)
    assert "remove the copies" in warnings(found)["copies between episodes"]
    near = [float(one.numbers["near_duplicate_share"] or 0) for one in (before, found)]
    assert near[1] > near[0] + 0.05


def test_a_picture_in_which_nothing_moves_is_told(data: Episodes) -> None:
    pixels = np.full_like(data.pixels, 100)
    pixels[::2, 0, 0] += 1
    told = warnings(report_on(replace(data, pixels=pixels)))
    assert "bring the camera closer" in told["identity baseline"]


GUIDE = (Path(__file__).parent.parent / "docs/data.md").read_text()
COMMANDS = re.findall(r"^(lewm .+?)$", "\n".join(re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)), re.M)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_guide_parses(command: str) -> None:
    known, (_, name, *arguments) = typer.main.get_command(app), shlex.split(command)
    if name == "data":
        known, (name, *arguments) = known.commands[name], arguments  # type: ignore[attr-defined]
    known.commands[name].make_context(name, arguments)  # type: ignore[attr-defined]


def test_the_guide_has_commands_to_check() -> None:
    assert {command.split()[1] for command in COMMANDS} == {"convert", "data"}


def test_the_command_reports_on_every_format(tmp_path: Path) -> None:
    def motion(times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.stack([np.sin(times_s), np.cos(times_s)], 1), np.stack([np.cos(times_s), -np.sin(times_s)], 1)

    kept = [i for i in range(80) if i not in (40, 41)]
    with BagWriter(tmp_path / "a.mcap") as bag:
        write_motion(
            bag, motion, 0.05 * np.array(kept), lambda i: np.full((16, 16, 3), 3 * kept[i], np.uint8), joint_dt_s=0.02
        )
    result = CliRunner().invoke(app, ["data", "report", str(tmp_path / "a.mcap"), "--json"])
    assert result.exit_code == 0, result.output
    numbers = json.loads(result.output)
    assert (numbers["dropped_frames"], numbers["episodes"], numbers["frames_left_out"]) == (2, 2, 0)
    assert (tmp_path / "a.mcap.report.png").stat().st_size > 10_000
    path = dot_recording(tmp_path / "dots.h5")
    result = CliRunner().invoke(app, ["data", "report", str(path), "--out", str(tmp_path / "x.png")])
    assert result.exit_code == 0, result.output
    assert "identity" in result.output and (tmp_path / "x.png").stat().st_size > 10_000


def test_stamps_that_do_not_differ_say_nothing_about_the_rate(data: Episodes) -> None:
    found = report_on(replace(data, stamps_s=np.zeros(len(data.pixels))))
    assert any(one.what == "rate" and "no stamps that differ" in one.value for one in found.findings)
    assert "rate_hz" not in found.numbers


def test_the_first_line_is_go_or_no_go_with_the_reasons(data: Episodes, tmp_path: Path) -> None:
    assert report_on(data).verdict.startswith("GO, with")
    for spoilt, reason in (
        (shifted(data, -3), "before its action"),
        (replace(data, actions=data.actions * np.array([1, 0], np.float32)), "b never moves"),
        (replace(data, actions=60 * data.actions), "no arm does: units, wraps or a reset"),
        (replace(data, offsets=data.offsets[:4], lengths=data.lengths[:4]), "too little to train with: 4 episodes"),
        (replace(data, actions=-data.actions), "the sign is wrong"),
    ):
        verdict = report_on(spoilt).verdict
        assert verdict.startswith("NO-GO") and reason in verdict
    path = dot_recording(tmp_path / "dots.h5", episodes=3)
    result = CliRunner().invoke(app, ["data", "report", str(path)])
    assert result.exit_code == 0 and result.output.splitlines()[0].startswith("NO-GO: too little to train with")


def test_a_camera_that_was_moved_and_light_that_changed_are_told(data: Episodes) -> None:
    rng = np.random.default_rng(0)
    scene = cv2.resize(rng.integers(0, 150, (8, 8, 3), np.uint8), (32, 32), interpolation=cv2.INTER_NEAREST)
    still = replace(data, pixels=np.maximum(data.pixels, scene))
    assert not {"exposure", "place of the camera"} & set(warnings(report_on(still)))
    row = int(data.offsets[12])
    moved = still.pixels.copy()
    moved[row:] = np.maximum(data.pixels[row:], np.roll(scene, 6, axis=1))
    assert "before episode 12" in str(report_on(replace(data, pixels=moved)).findings)
    brighter = still.pixels.copy()
    brighter[row:] = np.clip(brighter[row:].astype(int) + 40, 0, 255).astype(np.uint8)
    assert "fix exposure" in warnings(report_on(replace(data, pixels=brighter)))["exposure"]


def test_dark_pictures_and_too_little_motion_to_judge_are_told(data: Episodes) -> None:
    dark = replace(data, pixels=data.pixels // 16)  # 12 of 16 bits
    assert "12 bits" in warnings(report_on(dark))["brightest part"]
    assert "brightest part" not in warnings(report_on(data))
    assert "not judged" in warnings(report_on(data.first(2)))["lag of the camera"]
