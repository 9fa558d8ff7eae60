# SPDX-License-Identifier: Apache-2.0
"""Recorded episodes: the file's layout, what the actions mean, and that a recording can be repeated or killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from lewm_model.data.episodes import EpisodeWriter
from lewm_model.planning.motion import KnotLimits, Timeline
from lewm_model.planning.random_motion import random_velocities
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.collect import collect

FRAME = np.zeros((3, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("episodes")
    for workers in (1, 2):
        collect(folder / f"{workers}.h5", episodes=4, steps=12, seed=3, image_size=32, workers=workers)
    return folder / "1.h5", folder / "2.h5"


def test_the_layout_is_stable_worldmodels(recordings: tuple[Path, Path]) -> None:
    with h5py.File(recordings[0]) as file:
        assert file["pixels"].shape == (52, 32, 32, 3) and file["pixels"].dtype == np.uint8
        assert file["action"].shape == (52, 2) and file["action"].dtype == np.float32
        assert file["proprio"].shape == (52, 2) and file["proprio"].dtype == np.float32
        assert file["ep_len"][:].tolist() == [13] * 4
        assert file["ep_offset"][:].tolist() == [0, 13, 26, 39]
        assert np.flatnonzero(np.isnan(file["action"][:]).all(axis=1)).tolist() == [12, 25, 38, 51]
        assert np.isnan(file["action"][:]).any(axis=1).sum() == 4
        assert file.attrs["control_dt_s"] == pytest.approx(0.05)
        assert json.loads(file.attrs["action_names"]) == ["shoulder", "elbow"]
        assert file.attrs["action_kind"] == "joint_velocity"
        assert file.attrs["seed"] == 3 and file.attrs["world"] == "tabletop.sdf"
        assert "--episodes 4 --steps 12 --seed 3" in file.attrs["command"]


def test_an_action_is_the_joint_velocity_between_its_frames(recordings: tuple[Path, Path]) -> None:
    with h5py.File(recordings[0]) as file:
        for offset in file["ep_offset"][:]:
            rows = slice(offset, offset + 13)
            proprio, action = file["proprio"][rows], file["action"][rows]
            # Commanded against measured: the servo lags by less than 5 mrad at either end.
            np.testing.assert_allclose(np.diff(proprio, axis=0), action[:-1] * 0.05, atol=0.008)
            np.testing.assert_allclose(
                proprio, proprio[0] + np.vstack([[0, 0], np.cumsum(action[:-1] * 0.05, 0)]), atol=0.005
            )
            moved = (file["pixels"][rows][1:] != file["pixels"][rows][:-1]).any(axis=(1, 2, 3))
            fast = np.abs(action[:-1]).max(axis=1) > 0.3
            assert moved[fast].all()


def test_the_result_does_not_depend_on_the_number_of_workers(recordings: tuple[Path, Path]) -> None:
    with h5py.File(recordings[0]) as one, h5py.File(recordings[1]) as two:
        for name in one:
            np.testing.assert_array_equal(one[name][:], two[name][:])


def test_random_motion_keeps_the_limits_and_covers_speeds_and_joint_space() -> None:
    with ArmSim(render=False) as sim:
        limits, joints = KnotLimits(sim.limits, 0.25), sim.limits
    actions, positions = [], []
    fine = 0.25 / 25
    for seed in range(150):
        rng = np.random.default_rng(seed)
        start = rng.uniform(0.9 * joints.lower, 0.9 * joints.upper)
        timeline = Timeline(0.0, start, limits)
        timeline.splice(0, random_velocities(rng, start, 20, limits))
        motion = timeline.sample(np.arange(0.0, 5.0 + 1e-9, fine))
        assert (motion.positions >= joints.lower - 1e-9).all() and (motion.positions <= joints.upper + 1e-9).all()
        assert (np.abs(motion.velocities) <= joints.velocity + 1e-9).all()
        acceleration = np.diff(motion.velocities, axis=0) / fine
        assert (np.abs(acceleration) <= joints.acceleration + 1e-6).all()
        assert (np.abs(np.diff(acceleration, axis=0)) / fine <= joints.jerk + 1e-6).all()
        coarse = motion.positions[::5]
        actions.append(np.diff(coarse, axis=0) / (5 * fine))
        positions.append(coarse)
    speeds = np.abs(np.vstack(actions))
    held = (speeds < 1e-6).all(axis=1).mean()
    assert 0.12 < held < 0.28
    assert 0.08 < ((speeds < 1e-6).sum(axis=1) == 1).mean() < 0.30  # one joint alone
    moving = speeds[speeds > 1e-6]
    shares = np.histogram(moving, 5, (0.0, 1.5))[0] / moving.size
    assert shares.min() > 0.07  # slow, fast and all between
    everywhere = np.vstack(positions)
    where = np.histogram2d(*everywhere.T, bins=6, range=[[-2.6, 2.6], [-2.2, 2.2]])[0] / len(everywhere)
    assert where.min() > 0.25 / 36  # every part of the joint space
    spans = np.ptp(np.array(positions), axis=1)
    assert np.quantile(spans, 0.9) > 2.6  # some strokes cross half of it


@pytest.mark.parametrize("count", ["episodes", "steps", "image_size", "workers"])
def test_a_count_below_one_is_refused(tmp_path: Path, count: str) -> None:
    with pytest.raises(ValueError, match=f"{count} is 0"):
        collect(tmp_path / "x.h5", **{"episodes": 1, count: 0})
    assert not list(tmp_path.iterdir())


def test_episodes_of_different_lengths_follow_one_another(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er.h5"
    with EpisodeWriter(path, 8, ("a",), 0.1) as writer:
        for frames in (3, 2, 5):
            pixels = np.full((frames, 8, 8, 3), frames, np.uint8)
            writer.append(pixels, np.full((frames - 1, 1), frames), np.full((frames, 1), frames))
        assert not path.exists()
    with h5py.File(path) as file:
        assert file["ep_len"][:].tolist() == [3, 2, 5] and file["ep_offset"][:].tolist() == [0, 3, 5]
        assert file["pixels"][:, 0, 0, 0].tolist() == [3] * 3 + [2] * 2 + [5] * 5
        np.testing.assert_array_equal(file["action"][:, 0], [3, 3, np.nan, 2, np.nan, 5, 5, 5, 5, np.nan])
    assert [file.name for file in path.parent.iterdir()] == ["er.h5"]


@pytest.mark.parametrize(
    ("pixels", "action", "proprio", "message"),
    [
        (FRAME.astype(np.float32), np.zeros((2, 1)), np.zeros((3, 1)), "uint8"),
        (FRAME[:1], np.zeros((0, 1)), np.zeros((1, 1)), "2 or more frames"),
        (FRAME[:, :4], np.zeros((2, 1)), np.zeros((3, 1)), "pixels are"),
        (FRAME, np.zeros((3, 1)), np.zeros((3, 1)), "action is"),
        (FRAME, np.zeros((2, 1)), np.zeros((3, 2)), "proprio is"),
        (FRAME, np.full((2, 1), np.nan), np.zeros((3, 1)), "action holds NaN"),
    ],
)
def test_an_episode_that_does_not_fit_is_refused(
    tmp_path: Path, pixels: np.ndarray, action: np.ndarray, proprio: np.ndarray, message: str
) -> None:
    with EpisodeWriter(tmp_path / "x.h5", 8, ("a",), 0.1) as writer:
        with pytest.raises(ValueError, match=message):
            writer.append(pixels, action, proprio)
        writer.append(FRAME, np.zeros((2, 1)), np.zeros((3, 1)))
    with h5py.File(tmp_path / "x.h5") as file:
        assert len(file["pixels"]) == len(file["action"]) == len(file["proprio"]) == 3


def test_a_killed_or_failed_recording_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with EpisodeWriter(path, 8, ("a",), 0.1) as writer:
        writer.append(FRAME, np.zeros((2, 1)), np.zeros((3, 1)))
    earlier = path.read_bytes()
    script = (
        "import os, signal, sys, numpy as np\n"
        "from lewm_model.data.episodes import EpisodeWriter\n"
        "writer = EpisodeWriter(sys.argv[1], 8, ('a',), 0.1)\n"
        "writer.append(np.zeros((3, 8, 8, 3), np.uint8), np.zeros((2, 1)), np.zeros((3, 1)))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=False, cwd=Path(__file__).parents[1])
    assert path.read_bytes() == earlier
    assert (tmp_path / "x.h5.part").exists()
    with pytest.raises(RuntimeError, match="stop"), EpisodeWriter(path, 8, ("a",), 0.1):
        raise RuntimeError("stop")
    assert path.read_bytes() == earlier
    assert [file.name for file in tmp_path.iterdir()] == ["x.h5"]
