# SPDX-License-Identifier: Apache-2.0
"""Recordings become episodes that say what happened: right frames, right actions, and gaps that are gaps."""

from __future__ import annotations

import json
import shlex
import sqlite3
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
import zstandard
from bags import DEFINITIONS, BagWriter, time, write_motion
from mcap.opcode import Opcode
from mcap.reader import make_reader
from mcap.writer import CompressionType
from mcap.writer import Writer as RawWriter
from typer.testing import CliRunner

import lewm_model.data.converters.rosbag2.episodes as episodes_module
from lewm_model.cli.main import app
from lewm_model.data import pairing
from lewm_model.data.clips import DataError, Episodes, load_episodes
from lewm_model.data.converters.columns import Columns, refuse_wrong
from lewm_model.data.converters.convert import convert as convert_any
from lewm_model.data.converters.rosbag2.convert import convert_bag
from lewm_model.data.converters.rosbag2.episodes import BagReport
from lewm_model.data.converters.rosbag2.files import LOST, bag_files, read_messages
from lewm_model.data.converters.rosbag2.messages import Topics
from lewm_model.data.converters.view import View
from lewm_model.robot.limits import JointLimits
from lewm_model.robot.observation import Camera

NAMES = ("shoulder", "elbow")
DT = 0.05
TOPIC_STATES = "/left/joint_states"


def motion(times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Commanded positions and velocities (N, 2), rad and rad/s."""
    t = np.asarray(times_s)[:, None]
    rate, phase = np.array([[1.3, 2.1]]), np.array([[0.2, 1.0]])
    return 0.6 * np.sin(rate * t + phase), 0.6 * rate * np.cos(rate * t + phase)


def picture(i: int) -> np.ndarray:
    """Frame i, recognisable after compression: its number in the brightness of two halves."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, :32] = 8 + 16 * (i // 15 % 15)
    image[:, 32:] = 8 + 16 * (i % 15)
    return image


def number(pixels: np.ndarray) -> int:
    """Which `picture` this was."""
    left, right = pixels[16, 4].astype(int).mean(), pixels[16, 28].astype(int).mean()
    return 15 * round((left - 8) / 16) + round((right - 8) / 16)


def numbers(data: Episodes) -> list[int]:
    return [number(pixels) for pixels in data.pixels]


def convert(path: Path, out: Path, **settings: object) -> tuple[BagReport, Episodes]:
    report = convert_bag([path], out, **{"control_dt_s": DT, "image_size": 32, **settings})  # type: ignore[arg-type]
    return report, load_episodes(out)


def check_truth(data: Episodes, frame_times_s: np.ndarray, lag_s: float = 0.0) -> None:
    """Actions and positions of every episode belong to the stamps of its frames."""
    assert data.proprio is not None
    for offset, length in zip(data.offsets, data.lengths, strict=True):
        rows = slice(offset, offset + length)
        times_s = frame_times_s[[number(pixels) for pixels in data.pixels[rows]]]
        expected = np.diff(motion(times_s)[0], axis=0) / DT
        # Cubic interpolation of points 0.02 s apart: h^4 / 384 times the fourth derivative, far below this.
        np.testing.assert_allclose(data.actions[rows][:-1], expected, atol=1e-5)
        assert np.isnan(data.actions[rows][-1]).all()
        np.testing.assert_allclose(data.proprio[rows], motion(times_s - lag_s)[0], atol=1e-4)


def test_frames_actions_and_positions_are_those_of_the_recorded_motion(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    times_s = DT * np.arange(100) + rng.uniform(-0.004, 0.004, 100)
    with BagWriter(tmp_path / "a.mcap") as bag:
        write_motion(bag, motion, times_s, picture, lag_s=0.02)
    report, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    assert list(data.lengths) == [100]
    assert numbers(data) == list(range(100))
    check_truth(data, times_s, lag_s=0.02)
    # Actions times control_dt_s add up to the whole commanded motion.
    travelled = motion(times_s[[0, -1]])[0]
    np.testing.assert_allclose(data.actions[:-1].sum(0) * DT, travelled[1] - travelled[0], atol=1e-5)
    assert (report.frames_recorded, report.frames_used) == (100, 100)
    assert report.gaps == []
    assert report.problems == []
    assert 0.001 < report.offset_s < 0.01
    assert 0.005 < report.tracking_rad < 0.02 * 0.6 * 2.1 + 1e-3
    assert data.control_dt_s == DT
    assert data.action_names == NAMES
    assert set(data.action_kinds) == {"joint_velocity"}
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["command"].startswith("lewm convert")
        assert file.attrs["tolerance_s"] == 0.025


@pytest.mark.parametrize(
    ("reach", "speed", "said"),
    [
        (3.0, 0.3, r"shoulder goes from .* the robot file allows 0.3 rad/s; its unit or its clock is wrong"),
        (0.3, 3.0, r"the robot file allows -0.3 to 0.3; its unit or its zero is wrong"),
    ],
)
def test_what_the_robot_s_own_file_does_not_allow_is_refused(
    tmp_path: Path, reach: float, speed: float, said: str
) -> None:
    with BagWriter(tmp_path / "a.mcap") as bag:
        write_motion(bag, motion, DT * np.arange(60), picture)
    every = np.ones(2)
    limits = JointLimits(NAMES, -reach * every, reach * every, speed * every, 9.0 * every, 150.0 * every)
    with pytest.raises(DataError, match=said):
        convert(tmp_path / "a.mcap", tmp_path / "a.h5", columns=Columns(limits=limits))
    wide = JointLimits(NAMES, -every, every, 1.5 * every, 9.0 * every, 150.0 * every)
    assert list(convert(tmp_path / "a.mcap", tmp_path / "a.h5", columns=Columns(limits=wide))[1].lengths) == [60]
    others = JointLimits(("a", "b"), -every, every, every, every, every)
    with pytest.raises(DataError, match="has the joints shoulder, elbow, the robot file a, b"):
        convert(tmp_path / "a.mcap", tmp_path / "a.h5", columns=Columns(limits=others))


def test_lewm_record_looks_for_state_and_calibration_beside_the_topics_it_is_given(monkeypatch) -> None:
    started: list[str] = []
    monkeypatch.setattr("os.execv", lambda _, words: started.extend(words))
    monkeypatch.setattr("lewm_model.cli.data.find_spec", lambda _: True)
    arguments = ["--image-topic", "/camera/camera/color/image_raw", "--command-topic", "scaled/joint_trajectory"]
    result = CliRunner().invoke(app, ["record", "session.mcap", *arguments, "--compressed"])
    assert result.exit_code == 0, result.output
    assert "camera/image_raw/compressed:=/camera/camera/color/image_raw/compressed" in started
    assert "camera/camera_info:=/camera/camera/color/camera_info" in started
    assert "arm_controller/controller_state:=scaled/controller_state" in started
    assert "input:=compressed" in started


def write_references(bag: BagWriter, frame_times_s: np.ndarray, silent_s: tuple[float, float] = (9.0, 9.0)) -> None:
    """What a controller, an arm and a camera publish while somebody moves the arm by an action or from a pendant."""
    events = [(at, 0, i) for i, at in enumerate(frame_times_s)]
    for at in np.arange(-0.1037, frame_times_s[-1] + 0.1, 0.01):
        events += [(at, 1, 0)] + ([(at + 0.002, 2, 0)] if not silent_s[0] < at < silent_s[1] else [])
    for at, what, i in sorted(events):
        stamp_s, log_s, there = 1000.0 + at, 1000.003 + at, motion(np.array([at]))[0][0]
        if what == 0:
            bag.image(picture(i), stamp_s, log_s)
        elif what == 1:
            bag.joints(NAMES, there, stamp_s, log_s)
        else:
            bag.reference(NAMES[::-1], there[::-1], stamp_s, log_s)


def check_references(data: Episodes, frame_times_s: np.ndarray) -> None:
    for offset, length in zip(data.offsets, data.lengths, strict=True):
        rows = slice(offset, offset + length)
        times_s = frame_times_s[[number(pixels) for pixels in data.pixels[rows]]]
        expected = np.diff(motion(times_s)[0], axis=0) / DT
        # Linear interpolation of points 0.01 s apart: h^2 / 8 times the acceleration, at either end of a step.
        np.testing.assert_allclose(data.actions[rows][:-1], expected, atol=2 * 0.01**2 / 8 * 0.6 * 2.1**2 / DT + 1e-4)


def test_what_others_command_is_taken_from_what_the_controller_says_it_demands(tmp_path: Path) -> None:
    """MoveIt, servo, leader arms, pendants: nothing on the topic of commands, and the joints in any order."""
    times_s = DT * np.arange(60)
    with BagWriter(tmp_path / "a.mcap") as bag:
        write_references(bag, times_s)
    report, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5", columns=Columns(NAMES))
    assert numbers(data) == list(range(60))
    check_references(data, times_s)
    note = "actions come from what the controller demanded of the arm, on /arm_controller/controller_state"
    assert note in str(report)
    _, unnamed = convert(tmp_path / "a.mcap", tmp_path / "b.h5")
    assert unnamed.action_names == NAMES[::-1], "as the controller lists them"


def test_a_command_that_the_controller_never_got_is_no_action(tmp_path: Path) -> None:
    times_s = DT * np.arange(60)
    with BagWriter(tmp_path / "a.mcap") as bag:
        for log_s in (999.0, 1001.0):  # lost on the way to the controller, though not to the recorder
            bag.command(NAMES, [0.5], np.array([[2.0, 2.0]]), None, None, log_s)
        write_references(bag, times_s)
    _, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    assert data.action_names == NAMES
    check_references(data, times_s)


def test_where_the_controller_was_silent_the_episode_is_cut(tmp_path: Path) -> None:
    times_s = DT * np.arange(60)
    with BagWriter(tmp_path / "a.mcap") as bag:
        write_references(bag, times_s, silent_s=(1.0, 1.3))
    report, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5", columns=Columns(NAMES))
    assert len(data.lengths) == 2
    assert not set(range(21, 26)) & set(numbers(data))
    check_references(data, times_s)
    assert report.left_out["frames without a known command"] >= 5


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_compressed_images_convert_like_raw_ones(tmp_path: Path, suffix: str) -> None:
    times_s = DT * np.arange(30)
    with BagWriter(tmp_path / "a.mcap") as bag:
        write_motion(bag, motion, times_s, picture, compressed=suffix)
    _, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    assert numbers(data) == list(range(30))
    check_truth(data, times_s)


def test_padded_bgr_images_convert_like_plain_ones(tmp_path: Path) -> None:
    times_s = DT * np.arange(10)
    red = np.zeros((40, 40, 3), np.uint8)
    red[..., 0] = 200
    with BagWriter(tmp_path / "a.mcap") as bag:
        write_motion(bag, motion, times_s - 0.001, picture)  # for the commands and joint states
        for i, at in enumerate(times_s):
            padded = np.zeros((40, 128), np.uint8)
            padded[:, :120] = red[..., ::-1].reshape(40, 120)
            fields = {"encoding": "bgr8", "step": 128, "data": padded.tobytes()}
            bag.image(red, 1000 + at, 1000 + at + 0.01 * (i > 0), topic="/wrist/image_raw", **fields)
    _, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5", topics=Topics(image="wrist/image_raw"))
    assert (data.pixels[..., 0] == 200).all()
    assert (data.pixels[..., 1:] == 0).all()


CAMERAS = (Camera("front", 32, 32), Camera("wrist", 32, 16, "wrist/image_raw", crop=(0, 0, 20, 10)))


def two_cameras(path: Path, late_s: float = 0.01, frames: int = 30) -> np.ndarray:
    """The motion with a wrist camera whose pictures are red above row 20 and left of column 10, else blue."""
    times_s = DT * np.arange(frames)
    wrist = np.zeros((40, 60, 3), np.uint8)
    wrist[..., 2] = 200
    wrist[:20, :10] = (200, 0, 0)
    with BagWriter(path) as bag:

        def seen(i: int) -> np.ndarray:
            stamp_s = 1000 + times_s[i] + late_s
            if i != 12:
                bag.image(wrist, stamp_s, stamp_s + 0.002, topic="/wrist/image_raw")
            return picture(i)

        write_motion(bag, motion, times_s, seen)
    return times_s


def test_pictures_of_two_cameras_lie_side_by_side_each_with_its_crop(tmp_path: Path) -> None:
    times_s = two_cameras(tmp_path / "a.mcap")
    report, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5", view=View(CAMERAS, ("--robot", "mine.yaml")))
    assert data.image_size == (32, 48) and data.cameras == CAMERAS
    assert list(data.lengths) == [12, 17], "where one camera has no picture the episode ends"
    assert report.left_out["frames that not every camera has a picture of"] == 1
    assert numbers(data) == [i for i in range(30) if i != 12]
    assert (data.pixels[:, :, 32:] == (200, 0, 0)).all(), "the part of the picture that the robot file names"
    check_truth(data, times_s)


def test_a_camera_that_lags_by_more_than_half_a_step_is_no_part_of_a_frame(tmp_path: Path) -> None:
    two_cameras(tmp_path / "a.mcap", late_s=0.02, frames=20)
    with pytest.raises(DataError, match="no episode of 2 frames or more is left"):
        convert(tmp_path / "a.mcap", tmp_path / "a.h5", view=View(CAMERAS), tolerance_s=0.01)
    assert not list(tmp_path.glob("*.h5*"))


def test_the_command_takes_cameras_and_crop_from_the_robot_file_and_says_so(tmp_path: Path) -> None:
    two_cameras(tmp_path / "a.mcap")
    robot = tmp_path / "mine.yaml"
    robot.write_text(
        "joints:\n  shoulder: {lower: -3, upper: 3, velocity: 9, acceleration: 9, jerk: 99}\n"
        "  elbow: {lower: -3, upper: 3, velocity: 9, acceleration: 9, jerk: 99}\n"
        "cameras:\n  front: {height: 32, width: 32}\n"
        "  wrist: {height: 32, width: 16, topic: wrist/image_raw, crop: [0, 0, 20, 10]}\n"
    )
    line = ["convert", str(tmp_path / "a.mcap"), "--robot", str(robot), "--control-dt-s", str(DT), "--accept-doubts"]
    CliRunner().invoke(app, [*line, "--cameras", "all", "--out", str(tmp_path / "both.h5")], catch_exceptions=False)
    both = load_episodes(tmp_path / "both.h5")
    assert both.cameras == CAMERAS and f"--robot {robot}" in both.recorded["command"]
    CliRunner().invoke(app, [*line, "--cameras", "wrist", "--out", str(tmp_path / "w.h5")], catch_exceptions=False)
    assert load_episodes(tmp_path / "w.h5").cameras == CAMERAS[1:]
    wrong = {
        "--cameras top": "no camera 'top'; its file has front, wrist",
        "--cameras all --image-size 9": "leave --image-size or",
    }
    for more, said in wrong.items():
        failed = CliRunner().invoke(app, [*line, *more.split(), "--out", str(tmp_path / "no.h5")])
        assert said in str(failed.exception)


def test_a_faster_camera_is_thinned_out_to_the_control_rate(tmp_path: Path) -> None:
    times_s = np.arange(181) / 60
    with BagWriter(tmp_path / "a.mcap") as bag:
        write_motion(bag, motion, times_s, picture)
    report, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    assert numbers(data) == list(range(0, 181, 3))
    check_truth(data, times_s)
    assert report.gaps == []
    assert report.offset_s < 1e-6


def test_a_camera_of_30_hz_at_20_hz_uses_each_frame_once_and_keeps_the_motion_right(tmp_path: Path) -> None:
    times_s = np.arange(0, 3, 1 / 30)
    with BagWriter(tmp_path / "a.mcap") as bag:
        write_motion(bag, motion, times_s, picture)
    report, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    assert len(data.lengths) == 1
    assert len(set(numbers(data))) == len(data.pixels) == 60
    check_truth(data, times_s)
    assert report.offset_s == pytest.approx(1 / 60, abs=1e-6)
    with pytest.raises(DataError, match=r"no episode of 2 frames(.|\n)*no frame within 5 ms of 0.050 s"):
        convert(tmp_path / "a.mcap", tmp_path / "b.h5", tolerance_s=0.005)


def test_a_slow_drift_of_the_camera_costs_a_cut_now_and_then_and_never_a_repeated_frame(tmp_path: Path) -> None:
    times_s = 1.01 * DT * np.arange(120)  # half a step behind after 50 frames
    with BagWriter(tmp_path / "a.mcap") as bag:
        write_motion(bag, motion, times_s, picture)
    _, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    assert numbers(data) == list(range(120))
    assert len(data.lengths) == 3
    check_truth(data, times_s)


def test_lost_frames_split_the_episode(tmp_path: Path) -> None:
    kept = [i for i in range(100) if i not in (40, 41, 42, 70)]
    times_s = DT * np.array(kept)
    with BagWriter(tmp_path / "a.mcap") as bag:
        write_motion(bag, motion, times_s, lambda i: picture(kept[i]))
    report, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    assert list(data.lengths) == [40, 27, 29]
    assert numbers(data) == kept
    check_truth(data, DT * np.arange(100))
    assert len(report.gaps) == 2
    assert "no frame within 25 ms of 2.000 s, the next is at 2.150 s" in report.gaps[0]
    assert "gap: no frame within 25 ms of 3.500 s" in str(report)


def test_lost_joint_states_split_the_episode(tmp_path: Path) -> None:
    times_s = DT * np.arange(60)
    with BagWriter(tmp_path / "a.mcap") as bag:
        original = bag.joints

        def lossy(names: object, positions: object, stamp_s: float, log_s: float) -> None:
            if not 1001.0 < stamp_s < 1001.3:
                original(names, positions, stamp_s, log_s)  # type: ignore[arg-type]

        bag.joints = lossy  # type: ignore[method-assign, assignment]
        write_motion(bag, motion, times_s, picture)
    report, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    # The frames from 1.00 to 1.30 lie between joint states of 0.996 and 1.306.
    assert numbers(data) == [*range(20), *range(27, 60)]
    assert len(data.lengths) == 2
    check_truth(data, times_s)
    assert report.gaps == ["7 frames lie between joint states more than 50 ms apart, the first at 1.000 s"]


def test_frames_before_the_first_command_are_left_out(tmp_path: Path) -> None:
    times_s = DT * np.arange(60)
    with BagWriter(tmp_path / "a.mcap") as bag:
        original = bag.command
        bag.command = lambda *arguments: original(*arguments) if arguments[-1] > 1001.0 else None  # type: ignore
        write_motion(bag, motion, times_s, picture)
    report, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    first = number(data.pixels[0])
    # A command takes effect when it is received: the first one here at 1.1 s.
    assert times_s[first] == pytest.approx(1.15, abs=0.051)
    assert numbers(data) == list(range(first, 60))
    assert report.left_out["frames without a known command"] == first
    check_truth(data, times_s)


def test_markers_cut_episodes_and_discard_drops_one(tmp_path: Path) -> None:
    times_s = DT * np.arange(100)
    with BagWriter(tmp_path / "a.mcap") as bag:
        original, said = bag.image, []
        marks = {10: "start: push left", 30: "end", 40: "start", 60: "discard", 70: "start again", 90: "strat"}

        def image(rgb: np.ndarray, stamp_s: float, log_s: float) -> None:
            frame = round((stamp_s - 1000) / DT)
            if frame in marks:
                bag.marker(marks[frame], log_s - 0.001)
                said.append(frame)
            original(rgb, stamp_s, log_s)

        bag.image = image  # type: ignore[method-assign, assignment]
        write_motion(bag, motion, times_s, picture)
    assert said == list(marks)
    report, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    assert numbers(data) == [*range(10, 30), *range(70, 100)]
    assert list(data.lengths) == [20, 30]
    check_truth(data, times_s)
    assert "'push left': 20 frames" in report.episodes[0]
    assert report.problems == ["episode marker 'strat' is unknown; send start, end or discard"]


def test_a_clock_that_is_set_back_begins_a_new_episode(tmp_path: Path) -> None:
    times_s = DT * np.arange(40)
    with BagWriter(tmp_path / "a.mcap") as bag:
        write_motion(bag, motion, times_s, picture, epoch_s=1000.0)
        # A simulation that was reset: stamps start again, the recorder's clock goes on.
        write_motion(bag, motion, times_s, lambda i: picture(40 + i), epoch_s=500.0, log_minus_stamp_s=503.0)
    report, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    assert list(data.lengths) == [40, 40]
    assert numbers(data) == list(range(80))
    check_truth(data, np.concatenate([times_s, times_s]))
    assert any("the clock of the joint states on /joint_states went back by 502." in gap for gap in report.gaps)


def test_the_recorders_clock_may_differ_from_the_stamps(tmp_path: Path) -> None:
    """A simulation at half speed: commands with stamp 0 begin when they arrive, on the clock of the pictures."""
    times_s = DT * np.arange(40)
    with BagWriter(tmp_path / "a.mcap") as bag:
        write = bag.write
        bag.write = lambda topic, kind, message, log_s: write(topic, kind, message, 7e4 + 2 * log_s)  # type: ignore
        command = bag.command

        def without_stamp(names, times, positions, velocities, stamp_s, log_s):  # type: ignore[no-untyped-def]
            begins = log_s - 0.003  # what is received at this time on the clock of the pictures
            positions, velocities = motion(begins - 1000.0 + times)
            command(names, times, positions, velocities, None, log_s)

        bag.command = without_stamp  # type: ignore[method-assign]
        write_motion(bag, motion, times_s, picture)
    _, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    assert numbers(data) == list(range(40))
    check_truth(data, times_s)


def test_commands_that_the_controller_would_refuse_change_nothing(tmp_path: Path) -> None:
    times_s = DT * np.arange(40)
    zeros = np.zeros((2, 2))
    with BagWriter(tmp_path / "a.mcap") as bag:
        original = bag.image

        def image(rgb: np.ndarray, stamp_s: float, log_s: float) -> None:
            original(rgb, stamp_s, log_s)
            if round((stamp_s - 1000) / DT) == 20:
                bag.command(NAMES, [0.0, 0.1], zeros, zeros, stamp_s - 5, log_s)  # ended in the past
                bag.command(NAMES, [0.1, 0.1], zeros, zeros, stamp_s, log_s)  # times do not increase
                bag.command(NAMES, [0.0, 0.1], zeros * np.nan, None, stamp_s, log_s)
                bag.command(NAMES, [0.0, 0.1], np.zeros((2, 3)), None, stamp_s, log_s)
                bag.command(("wrist", "elbow"), [0.0, 0.1], zeros, None, stamp_s, log_s)
                bag.command(NAMES, [], zeros, None, stamp_s, log_s)

        bag.image = image  # type: ignore[method-assign, assignment]
        write_motion(bag, motion, times_s, picture)
    report, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    check_truth(data, times_s)
    assert sum(report.left_out.values()) == 6
    assert "left out: 3 x JointTrajectory messages: malformed, or ended in the past" in str(report)


def test_after_the_last_point_the_arm_is_held(tmp_path: Path) -> None:
    times_s = DT * np.arange(40)
    with BagWriter(tmp_path / "a.mcap") as bag:
        bag.command(NAMES, [0.0, 1.0], np.array([[0.0, 0.0], [0.5, -0.5]]), None, 1000.0, 999.9)
        for at in np.arange(-0.1, 2.0, 0.01):
            bag.joints(("gripper",), [0.3], 1000 + at, 1000 + at)  # of another device on the same topic
            bag.joints((*reversed(NAMES), "gripper"), [-0.5 * at, 0.5 * at, 0.1], 1000 + at, 1000 + at)
        for i, at in enumerate(times_s):
            bag.image(picture(i), 1000 + at, 1000 + at)
    _, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5", columns=Columns(("elbow", "shoulder")))
    assert data.action_names == ("elbow", "shoulder")
    np.testing.assert_allclose(data.actions[:20], [[-0.5, 0.5]] * 20, atol=1e-6)
    np.testing.assert_array_equal(data.actions[20:39], np.zeros((19, 2)))
    assert data.proprio is not None
    np.testing.assert_allclose(data.proprio[10], [-0.25, 0.25], atol=1e-6)


def test_unreadable_pictures_split_the_episode_and_are_named(tmp_path: Path) -> None:
    times_s = DT * np.arange(40)
    with BagWriter(tmp_path / "a.mcap") as bag:
        original = bag.image

        def image(rgb: np.ndarray, stamp_s: float, log_s: float) -> None:
            broken = round((stamp_s - 1000) / DT) in (15, 16)
            original(rgb, stamp_s, log_s, **({"encoding": "32FC1"} if broken else {}))

        bag.image = image  # type: ignore[method-assign, assignment]
        write_motion(bag, motion, times_s, picture)
    report, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    assert numbers(data) == [*range(15), *range(17, 40)]
    assert list(data.lengths) == [15, 23]
    check_truth(data, times_s)
    assert report.left_out["images that cannot be read"] == 2
    assert any("image encoding '32FC1' cannot be read" in gap for gap in report.gaps)


def test_long_stretches_are_cut_so_that_memory_does_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episodes_module, "LONGEST_EPISODE", 30)
    times_s = DT * np.arange(100)
    with BagWriter(tmp_path / "a.mcap") as bag:
        write_motion(bag, motion, times_s, picture)
    report, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    assert list(data.lengths) == [30, 30, 30, 10]
    assert numbers(data) == list(range(100))
    check_truth(data, times_s)
    assert report.offset_s < 1e-6


def test_memory_does_not_grow_by_the_pictures_of_a_longer_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame more costs what is kept of its messages: a small part of its picture."""
    monkeypatch.setattr(episodes_module, "LONGEST_EPISODE", 30)
    monkeypatch.setattr(pairing, "LOOKED_AT", 2)
    peaks, counts, side = [], (100, 100, 300), 96  # the first one also loads what every later one finds loaded
    for count in counts:
        with BagWriter(tmp_path / "a.mcap") as bag:
            write_motion(bag, motion, DT * np.arange(count), picture)
        tracemalloc.start()
        try:
            report = convert_any([tmp_path / "a.mcap"], tmp_path / "a.h5", DT, image_size=side, accept_doubts=True)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert report.frames_used == count
    assert peaks[2] - peaks[1] < 0.25 * (counts[2] - counts[1]) * side * side * 3


# ---- files -----------------------------------------------------------------------------------------------------------


def test_a_damaged_index_behind_a_chunk_costs_nothing(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "a.mcap") as bag:
        write_motion(bag, motion, DT * np.arange(40), picture)
    content = bytearray((tmp_path / "a.mcap").read_bytes())
    at, damaged, complete = 8, 0, list(read_messages(tmp_path / "a.mcap"))
    while content[at] != Opcode.DATA_END:
        if content[at] == Opcode.MESSAGE_INDEX:
            content[at + 11 : at + 15] = b"\xff" * 4  # how many bytes its entries take
            damaged += 1
        at += 9 + int.from_bytes(content[at + 1 : at + 9], "little")
    (tmp_path / "a.mcap").write_bytes(content)
    problems: list[str] = []
    assert [m.data for m in read_messages(tmp_path / "a.mcap", problems)] == [m.data for m in complete]
    assert damaged and not problems


@pytest.mark.parametrize("compression", list(CompressionType))
def test_a_killed_recording_is_read_up_to_its_last_whole_chunk(tmp_path: Path, compression: CompressionType) -> None:
    times_s = DT * np.arange(100)
    bag = BagWriter(tmp_path / "a.mcap", chunk_size=64 * 1024, compression=compression)
    write_motion(bag, motion, times_s, picture)
    bag.kill()
    report, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    assert 80 <= len(data.pixels) < 100  # a chunk of 64 kB holds 7 frames of 9 kB
    assert numbers(data) == list(range(len(data.pixels)))
    check_truth(data, times_s)
    assert len(report.problems) == 1
    assert "a.mcap was not closed, its recorder was killed" in report.problems[0]


def test_wherever_a_recording_is_cut_off_what_is_left_is_right(tmp_path: Path) -> None:
    times_s = DT * np.arange(40)
    with BagWriter(tmp_path / "a.mcap") as bag:
        write_motion(bag, motion, times_s, picture)
    whole = (tmp_path / "a.mcap").read_bytes()
    complete = list(read_messages(tmp_path / "a.mcap"))
    cut = tmp_path / "cut.mcap"
    for size in [*range(0, 60, 7), *np.linspace(60, len(whole) - 1, 60, dtype=int)]:
        cut.write_bytes(whole[:size])
        problems: list[str] = []
        if size < 8:
            with pytest.raises(DataError, match=r"cut\.mcap is (empty|no MCAP file)"):
                list(read_messages(cut, problems))
            continue
        found = list(read_messages(cut, problems))
        assert [message.data for message in found] == [message.data for message in complete[: len(found)]]
        assert len(problems) == 1


def test_damage_anywhere_is_survived_and_named(tmp_path: Path) -> None:
    times_s = DT * np.arange(40)
    with BagWriter(tmp_path / "a.mcap") as bag:
        write_motion(bag, motion, times_s, picture)
    whole = (tmp_path / "a.mcap").read_bytes()
    complete = {message.data for message in read_messages(tmp_path / "a.mcap")}
    damaged = tmp_path / "damaged.mcap"
    rng = np.random.default_rng(0)
    named = 0
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            content[rng.integers(8, len(content))] ^= int(rng.integers(1, 256))
        damaged.write_bytes(content)
        problems: list[str] = []
        found = list(read_messages(damaged, problems))
        named += bool(problems)
        assert all(message.data in complete for message in found if message.type != LOST)
    assert named > 40


def test_a_damaged_chunk_costs_its_own_messages_only(tmp_path: Path) -> None:
    times_s = DT * np.arange(100)
    with BagWriter(tmp_path / "a.mcap", compression=CompressionType.NONE) as bag:
        write_motion(bag, motion, times_s, picture)
    content = bytearray((tmp_path / "a.mcap").read_bytes())
    content[len(content) // 3] ^= 0xFF
    (tmp_path / "a.mcap").write_bytes(content)
    report, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    assert numbers(data)[0] == 0
    assert numbers(data)[-1] == 99
    assert 80 <= len(data.pixels) < 99
    check_truth(data, times_s)
    assert "a chunk after message" in report.problems[0]


def test_a_recording_in_several_files_is_one(tmp_path: Path) -> None:
    times_s = DT * np.arange(120)
    folder = tmp_path / "session"
    folder.mkdir()
    files = [BagWriter(folder / f"session_{i}.mcap") for i in (8, 9, 10)]

    class Split:
        def write(self, topic: str, kind: str, message: object, log_s: float) -> None:
            files[min(2, max(0, int((log_s - 1000) // 2)))].write(topic, kind, message, log_s)

    whole = BagWriter(tmp_path / "unused.mcap")
    whole.write = Split().write  # type: ignore[method-assign]
    write_motion(whole, motion, times_s, picture)
    whole.kill()
    for file in files:
        file.__exit__(None, None, None)
    assert [file.name for file in bag_files(folder)] == ["session_8.mcap", "session_9.mcap", "session_10.mcap"]
    _, data = convert(folder, tmp_path / "a.h5")
    assert numbers(data) == list(range(120))
    assert len(data.lengths) == 1
    check_truth(data, times_s)


def as_sqlite(mcap: Path, path: Path) -> Path:
    """The messages of an MCAP file as rosbag2's SQLite plugin stores them."""
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT);"
        "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB);"
    )
    topics: dict[tuple[str, str], int] = {}
    for message in read_messages(mcap):
        key = (message.topic, message.type)
        if key not in topics:
            topics[key] = len(topics) + 1
            connection.execute("INSERT INTO topics VALUES (?, ?, ?, 'cdr')", (topics[key], *key))
        row = (topics[key], message.log_ns, message.data)
        connection.execute("INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)", row)
    connection.commit()
    connection.close()
    return path


@pytest.mark.parametrize("suffix", ["", ".jpg"])
def test_sqlite_recordings_convert_like_mcap_ones(tmp_path: Path, suffix: str) -> None:
    times_s = DT * np.arange(60)
    with BagWriter(tmp_path / "a.mcap") as bag:
        bag.marker("start push", 999.0)
        write_motion(bag, motion, times_s, picture, compressed=suffix)
    (tmp_path / "bag").mkdir()
    path = as_sqlite(tmp_path / "a.mcap", tmp_path / "bag/bag_0.db3")
    report, data = convert(tmp_path / "bag", tmp_path / "a.h5")
    assert numbers(data) == list(range(60))
    check_truth(data, times_s)
    assert "'push': 60 frames" in report.episodes[0] and report.problems == []
    size = path.stat().st_size
    with path.open("r+b") as stream:  # cut off: pages are missing
        stream.truncate(size // 2)
    report, data = convert(path, tmp_path / "b.h5")
    assert 10 <= len(data.pixels) < 50
    assert numbers(data) == list(range(len(data.pixels)))
    check_truth(data, times_s)
    assert "bag_0.db3 was cut off" in report.problems[0]
    assert "bag_0.db3 is damaged after message" in report.problems[1]
    assert path.stat().st_size == size // 2  # the recording itself stays as it is


def test_a_file_of_several_that_cannot_be_read_at_all_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    times_s = DT * np.arange(30)
    folder = tmp_path / "session"
    folder.mkdir()
    with BagWriter(folder / "session_0.mcap") as bag:
        write_motion(bag, motion, times_s, picture)
    (folder / "session_1.mcap").touch()
    report, data = convert(folder, tmp_path / "a.h5")
    assert numbers(data) == list(range(30))
    assert len(report.problems) == 1 and "session_1.mcap is empty" in report.problems[0]


def test_two_recordings_go_into_one_file(tmp_path: Path) -> None:
    times_s = DT * np.arange(30)
    for i in range(2):
        with BagWriter(tmp_path / f"{i}.mcap") as bag:
            write_motion(bag, motion, times_s, lambda k, i=i: picture(30 * i + k))
    report = convert_bag([tmp_path / "0.mcap", tmp_path / "1.mcap"], tmp_path / "a.h5", image_size=32)
    data = load_episodes(tmp_path / "a.h5")
    assert list(data.lengths) == [30, 30]
    assert numbers(data) == list(range(60))
    assert len(report.episodes) == 2


def test_what_cannot_be_converted_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    times_s = DT * np.arange(10)
    with BagWriter(tmp_path / "two.mcap") as bag:
        write_motion(bag, motion, times_s, picture)
        bag.joints(NAMES, [0, 0], 1000, 1000, topic=TOPIC_STATES)
        bag.joints(NAMES, [0, 0], 1000, 1000, topic="/right/joint_states")
    note = convert_bag([tmp_path / "two.mcap"], out).notes[0]
    assert "/joint_states was taken of /joint_states, /left/joint_states, /right/joint_states" in note
    out.unlink()
    with BagWriter(tmp_path / "two.mcap") as bag:
        write_motion(bag, motion, times_s, picture, joints_topic=TOPIC_STATES)
        bag.joints(NAMES, [0, 0], 1000, 1000, topic="/right/joint_states")
    with pytest.raises(DataError, match="joint states on /left/joint_states and /right/joint_states; say which"):
        convert_bag([tmp_path / "two.mcap"], out)
    with BagWriter(tmp_path / "silent.mcap") as bag:
        bag.image(picture(0), 1000, 1000)
    with pytest.raises(DataError, match="holds no command on a topic 'arm_controller/joint_trajectory'"):
        convert_bag([tmp_path / "silent.mcap"], out)
    with pytest.raises(DataError, match=r"no joint states on a topic 'joint_states'; of their type it has none"):
        convert_bag([tmp_path / "silent.mcap"], out, columns=Columns(NAMES))
    with BagWriter(tmp_path / "blind.mcap") as bag:
        write_motion(bag, motion, times_s, picture)
    with pytest.raises(DataError, match="no pictures on a topic 'wrist/image'; of their type it has /cam"):
        convert_bag([tmp_path / "blind.mcap"], out, topics=Topics(image="wrist/image"))
    with pytest.raises(DataError, match="at most half"):
        convert_bag([tmp_path / "blind.mcap"], out, tolerance_s=0.03)
    with pytest.raises(DataError, match="no recording was given"):
        convert_bag([], out)
    with pytest.raises(DataError, match="there is no recording at"):
        convert_bag([tmp_path / "nowhere.mcap"], out)
    (tmp_path / "text.mcap").write_text("This is no recording at all, only a text.")
    with pytest.raises(DataError, match="is no MCAP file"):
        convert_bag([tmp_path / "text.mcap"], out)
    (tmp_path / "sqlite").mkdir()
    (tmp_path / "sqlite" / "x.db3").write_text("This is no recording at all, only a text.")
    with pytest.raises(DataError, match="is no SQLite recording"):
        convert_bag([tmp_path / "sqlite"], out)
    (tmp_path / "sqlite" / "x.db3").rename(tmp_path / "sqlite" / "x.mcap.zstd")
    with pytest.raises(DataError, match="no command"):
        convert_bag([tmp_path / "sqlite"], out)
    assert not out.exists()
    assert not list(tmp_path.glob("*.part"))


def test_the_command_line_converts_and_says_what_it_left_out(tmp_path: Path) -> None:
    times_s = DT * np.arange(60)
    with BagWriter(tmp_path / "a.mcap") as bag:
        write_motion(bag, motion, times_s, picture)
    arguments = ["convert", str(tmp_path / "a.mcap"), "--out", str(tmp_path / "a.h5"), "--image-size", "32"]
    result = CliRunner().invoke(app, [*arguments, "--joints", "elbow, shoulder"])
    assert result.exit_code == 0, result.output
    assert "1 episodes, 60 of 60 recorded frames used" in result.output
    data = load_episodes(tmp_path / "a.h5")
    assert data.action_names == ("elbow", "shoulder")
    assert data.recorded["command"].startswith("lewm convert")
    assert "--joints elbow,shoulder" in data.recorded["command"]
    # Running the recorded command again gives the same pictures.
    (tmp_path / "a.h5").unlink()
    assert CliRunner().invoke(app, shlex.split(data.recorded["command"])[1:]).exit_code == 0
    np.testing.assert_array_equal(load_episodes(tmp_path / "a.h5").pixels, data.pixels)


# ---- recordings as people have them ----------------------------------------------------------------------------------


def recorded(path: Path, frames: int = 40, **settings: Any) -> Path:
    """A whole recording of `motion` in which frame i shows `picture(first + i)`."""
    first = settings.pop("first", 0)
    with BagWriter(path) as bag:
        write_motion(bag, motion, DT * np.arange(frames), lambda i: picture(first + i), **settings)
    return path


def test_a_simulation_that_was_reset_gives_each_run_its_own_commands(tmp_path: Path) -> None:
    """Recorded in simulated time: stamps and the recorder's clock start again, and run 2 goes the other way."""
    times_s = DT * np.arange(40)

    def back(times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        positions, velocities = motion(times_s)
        return -positions, -velocities

    with BagWriter(tmp_path / "a.mcap") as bag:
        write_motion(bag, motion, times_s, picture, epoch_s=1.0)
        write_motion(bag, back, times_s, lambda i: picture(40 + i), epoch_s=1.13)
    report, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    assert list(data.lengths) == [40, 40] and numbers(data) == list(range(80))
    for episode, way in ((0, 1), (1, -1)):
        expected = way * np.diff(motion(times_s)[0], axis=0) / DT
        np.testing.assert_allclose(data.actions[40 * episode : 40 * episode + 39], expected, atol=1e-5)
    assert sum("went back" in gap for gap in report.gaps) == 1


@pytest.mark.parametrize("step_s", [-0.07, -0.3, -0.9, -3.0])
def test_a_clock_that_steps_back_by_any_amount_cuts_the_episode(tmp_path: Path, step_s: float) -> None:
    times_s = DT * np.arange(80)
    with BagWriter(tmp_path / "a.mcap") as bag:
        write = bag.write

        def stepped(topic: str, kind: str, message: Any, log_s: float) -> None:
            if log_s > 1002.01:  # the machine's clock is set: stamps and the recorder's own time
                header = message["header"]["stamp"]
                at = header["sec"] + header["nanosec"] / 1e9
                message["header"]["stamp"] = time(at + step_s) if at > 1002.0 else header
                log_s += step_s
            write(topic, kind, message, log_s)

        bag.write = stepped  # type: ignore[method-assign]
        write_motion(bag, motion, times_s, picture)
    report, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    assert len(data.lengths) >= 2
    truth = motion(times_s)[0]
    for offset, length in zip(data.offsets, data.lengths, strict=True):
        shown = [number(pixels) for pixels in data.pixels[offset : offset + length]]
        assert shown == list(range(shown[0], shown[0] + length)), "no step is longer than the others"
        moved = np.diff(truth[shown], axis=0) / DT
        # One trajectory may have begun on the old clock: the controller follows it until the next one.
        wrong = np.abs(data.actions[offset : offset + length - 1] - moved).max(1) > 0.05
        assert wrong.sum() <= 6
    assert any("went back" in gap for gap in report.gaps)


@pytest.mark.parametrize(
    ("ahead_s", "said"), [(3.0, "3.00 s ahead of"), (-3.0, "3.0. s behind"), (0.3, "0.30 s ahead")]
)
def test_clocks_apart_are_refused_with_the_number_and_aligned_by_arrival(
    tmp_path: Path, ahead_s: float, said: str
) -> None:
    path = recorded(tmp_path / "a.mcap", camera_ahead_s=ahead_s)
    with pytest.raises(DataError, match=f"camera's stamps lie {said}(.|\n)*--clock recorder"):
        convert(path, tmp_path / "a.h5")
    _, data = convert(path, tmp_path / "a.h5", clock="recorder")
    assert numbers(data) == list(range(len(data.pixels))) and len(data.pixels) >= 39
    check_truth(data, DT * np.arange(40))


@pytest.mark.parametrize("silent", ["sensor_msgs/msg/Image", "sensor_msgs/msg/JointState"])
def test_messages_without_stamps_are_refused_or_go_by_their_arrival(tmp_path: Path, silent: str) -> None:
    with BagWriter(tmp_path / "a.mcap") as bag:
        write = bag.write

        def unstamped(topic: str, kind: str, message: Any, log_s: float) -> None:
            if kind in (silent, "trajectory_msgs/msg/JointTrajectory") and silent.endswith("JointState"):
                message["header"]["stamp"] = time(0.0)
            if kind == silent:
                message["header"]["stamp"] = time(0.0)
            write(topic, kind, message, log_s)

        bag.write = unstamped  # type: ignore[method-assign]
        write_motion(bag, motion, DT * np.arange(40), picture)
    with pytest.raises(DataError, match=r"have no stamps(.|\n)*--clock recorder"):
        convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    _, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5", clock="recorder")
    assert len(data.pixels) >= 36


def test_units_that_no_arm_has_are_named_and_the_right_one_converts(tmp_path: Path) -> None:
    path = recorded(tmp_path / "deg.mcap", unit=180 / np.pi)
    with pytest.raises(DataError, match=r"shoulder goes from .* that looks like degrees(.|\n)*--units"):
        convert(path, tmp_path / "a.h5")
    _, data = convert(path, tmp_path / "a.h5", columns=Columns(units="deg"))
    check_truth(data, DT * np.arange(40))
    _, data = convert(path, tmp_path / "a.h5", columns=Columns(units="shoulder=deg,elbow=0.017453292519943295"))
    check_truth(data, DT * np.arange(40))
    with pytest.raises(DataError, match="--units 'inch' is not understood"):
        convert(path, tmp_path / "a.h5", columns=Columns(units="inch"))


def test_degrees_of_an_arm_that_moves_slowly_are_named_and_a_joint_that_turns_on_is_not() -> None:
    times_s = np.arange(0, 60, DT)[:, None]
    slow = 50 * np.sin(times_s * [0.1, 0.08, 0.05])  # at most 5 deg/s; taken for rad/s, some arms reach that
    with pytest.raises(DataError, match=r"one, two, three go more than 2 turns from zero: that looks like degrees"):
        refuse_wrong(("one", "two", "three"), [slow], DT, "session.mcap")
    turning = np.hstack([times_s, np.sin(times_s), np.cos(times_s)])
    refuse_wrong(("wheel", "two", "three"), [turning], DT, "session.mcap")
    refuse_wrong(("one", "two", "three"), [np.radians(slow)], DT, "session.mcap")


@pytest.mark.parametrize("commands_wrap", [True, False])
def test_a_joint_whose_numbers_wrap_at_pi_turns_on(tmp_path: Path, commands_wrap: bool) -> None:
    def turning(times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        t = np.asarray(times_s)[:, None]
        return np.concatenate([2.0 + 1.5 * t, 0.5 * np.sin(t)], 1), np.concatenate([1.5 + 0 * t, 0.5 * np.cos(t)], 1)

    with BagWriter(tmp_path / "a.mcap") as bag:
        joints, command = bag.joints, bag.command
        bag.joints = lambda n, q, *rest: joints(n, (np.asarray(q) + np.pi) % (2 * np.pi) - np.pi, *rest)  # type: ignore
        if commands_wrap:
            bag.command = (  # type: ignore[method-assign]
                lambda n, t, p, *rest: command(n, t, (p + np.pi) % (2 * np.pi) - np.pi, *rest)
            )
        write_motion(bag, turning, DT * np.arange(80), picture)
    report, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    np.testing.assert_allclose(data.actions[:79, 0], 1.5, atol=1e-4)
    assert "the numbers of shoulder wrap at pi; its turns were counted" in report.notes


def test_speeds_that_no_arm_has_are_refused(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "a.mcap") as bag:
        joints, command = bag.joints, bag.command
        bag.joints = lambda n, q, at, *rest: joints(n, np.asarray(q) + 1.5 * (at > 1001), at, *rest)  # type: ignore
        bag.command = lambda n, t, p, v, at, log: command(n, t, p + 1.5 * (at > 1001), v, at, log)  # type: ignore
        write_motion(bag, motion, DT * np.arange(100), picture)
    with pytest.raises(DataError, match="looks like a simulation that was reset"):
        convert(tmp_path / "a.mcap", tmp_path / "a.h5")


def compress_files(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        file = folder / name
        file.with_name(name + ".zstd").write_bytes(zstandard.compress(file.read_bytes()))
        file.unlink()


@pytest.mark.parametrize("storage", ["mcap", "db3"])
def test_a_folder_of_compressed_and_plain_splits_is_read_whole(tmp_path: Path, storage: str) -> None:
    folder = tmp_path / "bag"
    folder.mkdir()
    for i in range(3):
        path = recorded(folder / f"bag_{i}.mcap", 20, first=20 * i, epoch_s=1000.0 + 10 * i)
        if storage == "db3":
            as_sqlite(path, folder / f"bag_{i}.db3")
            path.unlink()
    compress_files(folder, [f"bag_0.{storage}", f"bag_1.{storage}"])
    report, data = convert(folder, tmp_path / "a.h5")
    assert numbers(data) == list(range(60)) and report.frames_recorded == 60
    single = convert(folder / f"bag_1.{storage}.zstd", tmp_path / "b.h5")[1]
    assert numbers(single) == list(range(20, 40))
    listed = {"relative_file_paths": [f"bag_{i}.{storage}" for i in range(4)]}
    (folder / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": listed}))
    (folder / "bag_1.mcap" if storage == "db3" else folder / "bag_1.db3").write_bytes(b"of another recorder")
    (folder / f"bag_0.{storage}.zstd").write_bytes((folder / f"bag_0.{storage}.zstd").read_bytes()[:2000])
    report, data = convert(folder, tmp_path / "c.h5")
    assert numbers(data)[-40:] == list(range(20, 60))
    told = "\n".join(report.problems)
    assert f"bag_3.{storage}, which the recording names, is missing" in told
    assert f"bag_0.{storage}" in told and "not read: the folder's other files are" in told


def test_messages_that_rosbag2_compressed_one_by_one_are_read(tmp_path: Path) -> None:
    path, folder = recorded(tmp_path / "a.mcap"), tmp_path / "bag"
    folder.mkdir()
    with open(folder / "bag_0.mcap", "wb") as stream:
        writer = RawWriter(stream)
        writer.start(profile="ros2")
        channels: dict[str, int] = {}
        for schema, channel, message in make_reader(open(path, "rb")).iter_messages():  # noqa: SIM115
            if channel.topic not in channels:
                number = writer.register_schema(schema.name, schema.encoding, schema.data)
                channels[channel.topic] = writer.register_channel(channel.topic, "cdr", number)
            data = zstandard.compress(message.data)
            writer.add_message(channels[channel.topic], message.log_time, data, message.publish_time)
        writer.finish()
    _, data = convert(folder, tmp_path / "a.h5")
    check_truth(data, DT * np.arange(40))


def test_splits_in_the_wrong_order_lose_nothing_and_mix_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "bag"
    folder.mkdir()
    for i, begin in enumerate((20.0, 0.0, 10.0)):
        recorded(folder / f"bag_{i}.mcap", 20, first=20 * i, epoch_s=1000.0 + begin)
    _, data = convert(folder, tmp_path / "a.h5")
    assert list(data.lengths) == [20, 20, 20] and numbers(data) == list(range(60))
    check_truth(data, np.tile(DT * np.arange(20), 3))


def test_the_joints_of_most_commands_count_not_those_of_the_first(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "a.mcap") as bag:
        bag.command(["elbow"], [0.5], np.zeros((1, 1)), np.zeros((1, 1)), None, 999.0)  # homing
        write_motion(bag, motion, DT * np.arange(40), picture)
    report, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    assert data.action_names == NAMES
    check_truth(data, DT * np.arange(40))
    assert sum(report.left_out.values()) == 1


def test_commands_of_velocities_alone_are_integrated(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "a.mcap") as bag:
        command = bag.command

        def velocities(names: Any, times: Any, positions: Any, velocities: Any, stamp: Any, log: float) -> None:
            command(names, times, np.zeros((len(times), 0)), velocities, stamp, log)

        bag.command = velocities  # type: ignore[method-assign, assignment]
        write_motion(bag, motion, DT * np.arange(40), picture)
    _, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    moved = np.diff(motion(DT * np.arange(40))[0], axis=0) / DT
    assert np.corrcoef(data.actions[5:39, 0], moved[5:, 0])[0, 1] > 0.97


def test_single_points_of_velocity_lead_on_from_one_another(tmp_path: Path) -> None:
    times_s = DT * np.arange(60)
    with BagWriter(tmp_path / "a.mcap") as bag:
        frame = 0
        for at in np.arange(-0.2, 3.0, 0.01):
            bag.joints(NAMES, motion(np.array([at]))[0][0], 1000 + at, 1000 + at)
            if round(100 * at) % 2 == 0:  # as a servo loop sends them
                bag.command(NAMES, [0.02], np.zeros((1, 0)), motion(np.array([at]))[1], None, 1000 + at)
            if frame < 60 and at >= times_s[frame] - 1e-6:
                bag.image(picture(frame), 1000 + times_s[frame], 1000 + at)
                frame += 1
    _, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    moved = np.diff(motion(times_s)[0], axis=0) / DT
    for joint in range(2):
        assert np.corrcoef(data.actions[5:59, joint], moved[5:59, joint])[0, 1] > 0.95


@pytest.mark.parametrize(
    ("schema", "encoding", "said"),
    [
        ("trajectory_msgs/JointTrajectory", "ros1", "ROS 1, convert it with `rosbags-convert`"),
        ("trajectory_msgs/msg/JointTrajectory", "json", "json instead of ROS 2"),
        ("foxglove.JointTrajectory", "protobuf", "protobuf instead of ROS 2"),
        ("std_msgs/msg/Float64MultiArray", "cdr", "numbers without joint names and without times"),
    ],
)
def test_commands_of_another_kind_are_named_for_what_they_are(
    tmp_path: Path, schema: str, encoding: str, said: str
) -> None:
    with open(tmp_path / "a.mcap", "wb") as stream:
        writer = RawWriter(stream)
        writer.start()
        number = writer.register_schema(schema, "jsonschema", b"{}")
        channel = writer.register_channel("/arm_controller/joint_trajectory", encoding, number)
        writer.add_message(channel, 10**12, b"{}", 10**12)
        writer.finish()
    with pytest.raises(DataError, match=f"Commands that it could be: /arm_controller.*{said}"):
        convert(tmp_path / "a.mcap", tmp_path / "a.h5")


def test_a_recording_without_message_definitions_is_read_by_those_of_ros(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.mcap")
    with open(tmp_path / "b.mcap", "wb") as stream:
        writer = RawWriter(stream)
        writer.start(profile="ros2")
        channels: dict[str, int] = {}
        for message in read_messages(path):
            if message.topic not in channels:
                number = writer.register_schema(message.type, "", b"")
                channels[message.topic] = writer.register_channel(message.topic, "cdr", number)
            writer.add_message(channels[message.topic], message.log_ns, message.data, message.log_ns)
        writer.finish()
    _, data = convert(tmp_path / "b.mcap", tmp_path / "a.h5")
    check_truth(data, DT * np.arange(40))


@pytest.mark.parametrize(("rate", "step_s"), [(6, 1 / 6), (15, 1 / 15), (25, 1 / 25), (30, 1 / 15), (60, 1 / 20)])
def test_the_step_fits_the_cameras_rate(tmp_path: Path, rate: int, step_s: float) -> None:
    with BagWriter(tmp_path / "a.mcap") as bag:
        write_motion(bag, motion, np.arange(4 * rate) / rate, picture)
    _, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5", control_dt_s=None)
    assert data.control_dt_s == pytest.approx(step_s) and len(data.lengths) == 1
    if rate < 20:
        with pytest.raises(DataError, match=rf"the camera has {rate} Hz(.|\n)*give --control-dt-s {1 / rate:.4g}"):
            convert(tmp_path / "a.mcap", tmp_path / "b.h5")


def test_a_joint_can_be_left_out_held_or_be_a_gripper(tmp_path: Path) -> None:
    names = ("shoulder", "elbow", "gripper")

    def three(times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        positions, velocities = motion(times_s)
        opened = np.where(np.asarray(times_s) < 2.0, 0.3, 0.8)[:, None]
        return np.concatenate([positions, opened], 1), np.concatenate([velocities, 0 * opened], 1)

    with BagWriter(tmp_path / "a.mcap") as bag:
        write_motion(bag, three, DT * np.arange(100), picture, names=names)
    _, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5", columns=Columns(("shoulder", "elbow")))
    assert data.action_names == NAMES and len(data.pixels) == 100
    check_truth(data, DT * np.arange(100))
    report, data = convert(tmp_path / "a.mcap", tmp_path / "b.h5", columns=Columns(held=("gripper",)))
    assert data.action_names == NAMES and numbers(data) == list(range(41, 100))
    assert report.left_out["frames in which gripper had moved"] == 41 and "gripper is held at 0.800 rad" in report.notes
    convert_bag([tmp_path / "a.mcap"], tmp_path / "c.h5", DT, None, 32, Columns(grippers=("gripper",)))
    with h5py.File(tmp_path / "c.h5") as file:
        assert json.loads(file.attrs["action_kind"]) == ["joint_velocity", "joint_velocity", "gripper"]
    with pytest.raises(DataError, match="--gripper hand must be among"):
        convert(tmp_path / "a.mcap", tmp_path / "d.h5", columns=Columns(grippers=("hand",)))


@pytest.mark.parametrize("option", [["--actions-are", "joint-positions-deg"], ["--camera", "front"], ["--action", "a"]])
def test_an_option_that_says_nothing_about_the_recording_is_refused(tmp_path: Path, option: list[str]) -> None:
    arguments = ["convert", str(recorded(tmp_path / "a.mcap", 5)), "--out", str(tmp_path / "a.h5"), *option]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, DataError) and f"{option[0]} do not apply" in str(result.exception)


def test_points_with_accelerations_are_of_fifth_degree_as_the_controller_follows_them(tmp_path: Path) -> None:
    times_s = DT * np.arange(40)
    ends = np.zeros((2, 2))
    with BagWriter(tmp_path / "a.mcap") as bag:
        bag.command(NAMES, [0.0, 2.0], np.array([[0.0, 0.0], [1.0, -1.0]]), ends, 1000.0, 999.9, accelerations=ends)
        for at in np.arange(-0.15, 2.1, 0.01):
            bag.joints(NAMES, [0.0, 0.0], 1000 + at, 1000 + at)
        for i, at in enumerate(times_s):
            bag.image(picture(i), 1000 + at, 1000 + at)
    _, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    u = times_s / 2.0
    smooth = u**3 * (10 - 15 * u + 6 * u**2)  # the minimum-jerk way from 0 to 1
    first = number(data.pixels[0])
    np.testing.assert_allclose(data.actions[:-1, 0], np.diff(smooth[first:]) / DT, atol=1e-5)


def edited(bag: BagWriter, change: Any) -> BagWriter:
    """The writer with `change(write, topic, kind, message, log_s)` in place of its `write`."""
    write = bag.write
    bag.write = lambda *message: change(write, *message)  # type: ignore[method-assign]
    return bag


def test_joints_that_come_in_messages_of_their_own_are_joined_at_their_stamps(tmp_path: Path) -> None:
    def apart(write: Any, topic: str, kind: str, message: Any, log_s: float) -> None:
        if topic != "/joint_states":
            return write(topic, kind, message, log_s)
        for i, name in enumerate(message["name"]):
            if i == 0 or not 1000.5 < log_s < 1000.7:  # one of the two is silent for a while
                one = {**message, "name": [name], "position": [message["position"][i]]}
                write(topic, kind, one, log_s + 0.001 * i)

    times_s = DT * np.arange(60)
    with BagWriter(tmp_path / "a.mcap") as bag:
        write_motion(edited(bag, apart), motion, times_s, picture)
    _, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    check_truth(data, times_s)
    assert list(data.lengths) == [10, 45], "the frames of the silence are left out"


def test_joints_that_no_joint_state_has_are_named(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "a.mcap") as bag:
        write_motion(bag, motion, DT * np.arange(20), picture)
    with pytest.raises(DataError, match=r"on /joint_states do not have finger; .* --joints shoulder,elbow"):
        convert(tmp_path / "a.mcap", tmp_path / "a.h5", columns=Columns((*NAMES, "finger")))
    with pytest.raises(DataError, match=r"/joint_states \(of the joints shoulder, elbow\)"):
        convert(tmp_path / "a.mcap", tmp_path / "a.h5", columns=Columns(("a", "b")))


@pytest.mark.parametrize(
    "order", [("Image", "JointTrajectory", "JointState"), ("JointState", "Image", "JointTrajectory")]
)
def test_topics_in_blocks_one_after_the_other_and_latched_messages_are_no_reset(
    tmp_path: Path, order: Sequence[str]
) -> None:
    times_s = DT * np.arange(80)
    queue: list[tuple[Any, ...]] = []
    with BagWriter(tmp_path / "a.mcap") as bag:
        write = bag.write
        write_motion(edited(bag, lambda _, *message: queue.append(message)), motion, times_s, picture)
        queue.sort(key=lambda one: (int(one[3]), order.index(one[1].rpartition("/")[2]), one[3]))
        for i, message in enumerate(queue):
            if i % 100 == 0:
                write("/robot_description", "std_msgs/msg/String", {"data": ""}, 900.0)
            write(*message)
    report, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    assert list(data.lengths) == [80] and report.gaps == []
    check_truth(data, times_s)


def test_the_step_fits_joint_states_that_come_more_slowly_than_pictures(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "a.mcap") as bag:
        write_motion(bag, motion, DT * np.arange(60), picture, joint_dt_s=1 / 15)
    with pytest.raises(DataError, match=r"joint states come every 0.0667 s, .* give --control-dt-s 0.1 or a multiple"):
        convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    report, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5", control_dt_s=None)
    assert data.control_dt_s == 0.1 and list(data.lengths) == [31]
    assert "and joint states come every 0.0667 s" in str(report)


def test_pictures_that_become_of_another_shape_are_left_out_and_counted(tmp_path: Path) -> None:
    def wider(write: Any, topic: str, kind: str, message: Any, log_s: float) -> None:
        if kind.endswith("Image") and log_s > 1001.0:
            message |= {"width": 96, "step": 288, "data": bytes(48 * 288)}
        write(topic, kind, message, log_s)

    with BagWriter(tmp_path / "a.mcap") as bag:
        write_motion(edited(bag, wider), motion, DT * np.arange(40), picture)
    report, data = convert(tmp_path / "a.mcap", tmp_path / "a.h5")
    assert numbers(data) == list(range(len(data.pixels))) and len(data.pixels) in (20, 21)
    assert report.left_out["pictures of another shape than the first, 64 x 48"] == 40 - len(data.pixels)


def test_a_recording_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "session").mkdir()
    with BagWriter(tmp_path / "session/session_0.mcap") as bag:
        write_motion(bag, motion, DT * np.arange(20), picture)
    (tmp_path / "link.mcap").symlink_to("session/session_0.mcap")
    for other, said in ((tmp_path / "session", "twice; give"), (tmp_path / "link.mcap", "twice, also as .*session_0")):
        with pytest.raises(DataError, match=said):
            convert_bag([tmp_path / "session/session_0.mcap", other], tmp_path / "a.h5")


def test_files_of_a_folder_that_are_compressed_otherwise_are_named_and_ros_1_is_told(tmp_path: Path) -> None:
    (tmp_path / "session").mkdir()
    with BagWriter(tmp_path / "session/session_1.mcap") as bag:
        write_motion(bag, motion, DT * np.arange(20), picture)
    (tmp_path / "session/session_0.mcap.lz4").write_bytes(b"compressed")
    report, _ = convert(tmp_path / "session", tmp_path / "a.h5")
    assert len(report.problems) == 1 and "session_0.mcap.lz4 was not read" in report.problems[0]
    (tmp_path / "old.bag").write_bytes(b"#ROSBAG V2.0\n")
    with pytest.raises(DataError, match=r"old.bag is a recording of ROS 1; `rosbags-convert"):
        convert(tmp_path / "old.bag", tmp_path / "b.h5")


@pytest.mark.parametrize("defined", [True, False])
def test_a_controller_state_in_sqlite_is_read_by_its_definition_or_its_loss_is_told(
    tmp_path: Path, defined: bool
) -> None:
    """SQLite files have definitions since Iron. Without them, a command that the controller never got would count."""
    times_s = DT * np.arange(60)
    with BagWriter(tmp_path / "a.mcap") as bag:
        bag.command(NAMES, [0.5], np.array([[2.0, 2.0]]), None, None, 999.0)
        write_references(bag, times_s)
    path = as_sqlite(tmp_path / "a.mcap", tmp_path / "a.db3")
    if defined:
        kind = "control_msgs/msg/JointTrajectoryControllerState"
        with sqlite3.connect(path) as connection:
            connection.execute(
                "CREATE TABLE message_definitions(id INTEGER PRIMARY KEY, topic_type TEXT, encoding TEXT, "
                "encoded_message_definition TEXT, type_description_hash TEXT)"
            )
            row = (kind, "ros2msg", DEFINITIONS[kind], "")
            connection.execute("INSERT INTO message_definitions VALUES (1, ?, ?, ?, ?)", row)
    report, data = convert(path, tmp_path / "a.h5", columns=Columns(NAMES))
    if defined:
        check_references(data, times_s)
    told = [problem for problem in report.problems if "/arm_controller/controller_state was not read" in problem]
    assert len(told) == (0 if defined else 1)
