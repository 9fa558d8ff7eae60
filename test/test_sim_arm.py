# SPDX-License-Identifier: Apache-2.0
"""ArmSim follows trajectories like the arm, keeps limits, is deterministic, and its pictures show the arm."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from lewm_model.planning.motion import KnotLimits, Timeline
from lewm_model.robot.limits import JointLimits
from lewm_model.robot.observation import to_model_image
from lewm_model.sim.arm import ArmSim

BLOCK_S = 0.25


@pytest.fixture(scope="module")
def shared() -> Iterator[ArmSim]:
    with ArmSim() as sim:
        yield sim


@pytest.fixture
def sim(shared: ArmSim) -> ArmSim:
    shared.reset(joint_positions=[0.0, 0.0])
    return shared


def closed_form(a: float, b: float) -> np.ndarray:
    return np.array([0.30 * np.cos(a) + 0.25 * np.cos(a + b), 0.30 * np.sin(a) + 0.25 * np.sin(a + b)])


def test_facts_of_the_packaged_world(sim: ArmSim) -> None:
    assert sim.names == ("shoulder", "elbow")
    assert sim.control_dt_s == pytest.approx(0.05)
    assert sim.reach_m == pytest.approx(0.55)
    np.testing.assert_array_equal(sim.limits.velocity, [1.5, 1.5])
    np.testing.assert_array_equal(sim.limits.lower, [-2.6, -2.2])
    assert np.linalg.norm(sim.object_pose("block")[:2]) > sim.reach_m + 0.08  # the arm cannot touch the block there


def test_the_tip_is_where_the_closed_form_says(sim: ArmSim) -> None:
    for a, b in np.random.default_rng(0).uniform(sim.limits.lower, sim.limits.upper, (50, 2)):
        np.testing.assert_allclose(sim.end_effector([a, b])[:2], closed_form(a, b), atol=1e-12)
    np.testing.assert_allclose(sim.end_effector(), [0.55, 0.0, 0.007], atol=1e-12)  # asking did not move the arm
    sim.reset(joint_positions=[1.0, -2.0])
    np.testing.assert_allclose(sim.end_effector()[:2], closed_form(1.0, -2.0), atol=1e-12)


@pytest.mark.parametrize("dense_dt_s", [0.01, 0.05])
def test_tracking_error_stays_below_5_mrad_at_the_limits_of_motion(sim: ArmSim, dense_dt_s: float) -> None:
    limits = KnotLimits(sim.limits, BLOCK_S)
    rng = np.random.default_rng(1)
    worst = 0.0
    for start in ([0.0, 0.0], [0.0, 2.0], [1.0, -2.0]):
        for swing in (
            rng.choice([-1.5, 0.0, 1.5], (24, 2)),
            np.tile([[1.5, 1.5], [0, 0], [-1.5, -1.5], [0, 0]], (6, 1)),
        ):
            sim.reset(joint_positions=start)
            timeline = Timeline(0.0, np.array(start), limits)
            timeline.splice(0, limits.project(np.array(start), np.zeros(2), swing[None].astype(float))[0])
            motion = timeline.sample(np.arange(0.0, timeline.end_s + 1e-9, dense_dt_s))
            assert np.abs(motion.velocities).max() > 1.4
            sim.set_trajectory(motion.times_s, motion.positions, motion.velocities)
            while sim.time_s < timeline.end_s:
                sim.step(0.01)
                wanted = timeline.sample(np.array([sim.time_s])).positions[0]
                worst = max(worst, float(np.abs(sim.joint_positions() - wanted).max()))
    assert worst < 0.005


def test_limits_hold_whatever_the_trajectory_commands(sim: ArmSim) -> None:
    sim.set_trajectory([0.1, 0.2, 6.0], [[9.0, -9.0], [-9.0, 9.0], [50.0, -50.0]])
    last = sim.commanded_positions()
    for _ in range(2000):
        sim.step(0.002)
        command = sim.commanded_positions()
        assert (np.abs(command - last) <= 1.5 * 0.002 * (1 + 1e-6)).all()
        assert (command >= sim.limits.lower).all() and (command <= sim.limits.upper).all()
        assert (np.abs(sim.joint_positions()) < sim.limits.upper + 0.01).all()
        last = command
    sim.step(3.0)
    np.testing.assert_allclose(sim.joint_positions(), [2.6, -2.2], atol=2e-3)


def test_a_command_that_comes_late_is_caught_up_with_and_no_joint_exceeds_its_speed(sim: ArmSim) -> None:
    limits = KnotLimits(sim.limits, BLOCK_S)
    rng = np.random.default_rng(0)
    for late_s in rng.uniform(0.1, 0.8, 12):
        start = rng.uniform([-2.2, -2.0], [2.2, 2.0])
        motions = []
        for _ in range(2):  # the second is meant to replace the first from the start on, and comes late
            timeline = Timeline(0.0, start, limits)
            timeline.splice(0, limits.project(start, np.zeros(2), rng.choice([-1.5, 1.5], (1, 6, 2)))[0])
            motions.append(timeline.sample(np.arange(0.0, timeline.end_s + 1.0, 0.05)))
        first, late = motions
        sim.reset(joint_positions=start)
        sim.set_trajectory(first.times_s, first.positions, first.velocities)
        sim.step(late_s)
        sim.set_trajectory(late.times_s, late.positions, late.velocities, start_s=0.0)
        fastest = np.zeros(2)
        while sim.time_s < late.times_s[-1] + 1.0:
            sim.step(0.002)
            fastest = np.maximum(fastest, np.abs(sim.joint_velocities()))
        assert (fastest > 0.9).any()
        assert (fastest < 1.05 * sim.limits.velocity).all()
        np.testing.assert_allclose(sim.joint_positions(), late.positions[-1], atol=2e-3)


def test_the_arm_rests_where_the_trajectory_ended(sim: ArmSim) -> None:
    sim.set_trajectory([1.0], [[0.5, -0.4]], [[0.0, 0.0]])
    sim.step(1.0)
    sim.step(1.0)
    np.testing.assert_allclose(sim.joint_positions(), [0.5, -0.4], atol=1e-4)
    np.testing.assert_allclose(sim.joint_velocities(), 0.0, atol=1e-3)
    assert sim.time_s == pytest.approx(2.0)


def test_a_new_trajectory_replaces_the_old_without_a_jump(sim: ArmSim) -> None:
    sim.set_trajectory([1.0], [[1.0, 0.0]], [[0.0, 0.0]])
    sim.step(0.5)
    before = sim.joint_velocities()
    sim.set_trajectory([1.0], [[0.0, 0.0]], [[0.0, 0.0]])
    sim.step(0.01)
    np.testing.assert_allclose(sim.joint_velocities(), before, atol=0.15)
    sim.step(1.5)
    np.testing.assert_allclose(sim.joint_positions(), [0.0, 0.0], atol=1e-3)


def test_time_that_is_no_whole_physics_step_is_not_lost(sim: ArmSim) -> None:
    for _ in range(30):
        sim.step(1 / 30)
    assert sim.time_s == pytest.approx(1.0, abs=0.002)


def test_the_same_calls_give_the_same_bits() -> None:
    runs = []
    for _ in range(2):
        with ArmSim() as sim:
            sim.reset(seed=7)
            state = [sim.joint_positions()]
            frames = [sim.render()]
            sim.set_trajectory([0.5, 1.0], state[0] + [[0.3, -0.3], [0.0, 0.2]])
            for _ in range(10):
                sim.step(sim.control_dt_s)
                state.append(sim.joint_positions())
                frames.append(sim.render())
            sim.reset(seed=7)
            np.testing.assert_array_equal(sim.joint_positions(), state[0])
            np.testing.assert_array_equal(sim.render(), frames[0])
        runs.append((np.array(state), np.array(frames)))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    assert (runs[0][1][0] != runs[0][1][-1]).any()


def test_random_starts_fill_the_joint_space(sim: ArmSim) -> None:
    starts = []
    for seed in range(200):
        sim.reset(seed=seed)
        starts.append(sim.joint_positions())
    assert (np.abs(starts) < sim.limits.upper).all()
    reachable = list(zip(sim.limits.lower, sim.limits.upper, strict=True))
    counts = np.histogram2d(*np.array(starts).T, bins=3, range=reachable)[0]
    assert counts.min() >= 8


@pytest.mark.parametrize("positions", [[0.0], [0.0, 3.0], [np.nan, 0.0]])
def test_an_impossible_start_is_refused(sim: ArmSim, positions: list[float]) -> None:
    with pytest.raises(ValueError, match="joint positions"):
        sim.reset(joint_positions=positions)


def test_the_arm_never_touches_itself_the_table_or_the_block(sim: ArmSim) -> None:
    for a, b in np.random.default_rng(3).uniform(sim.limits.lower, sim.limits.upper, (200, 2)):
        sim.reset(joint_positions=[a, b])
        assert not sim.touches([[a, b]])
        sim.step(0.002)
        np.testing.assert_allclose(sim.joint_positions(), [a, b], atol=1e-6)


def test_the_tip_pushes_the_block(sim: ArmSim) -> None:
    sim.reset(joint_positions=[0.0, 0.0])
    sim.set_object_pose("block", [0.55 * np.cos(0.4), 0.55 * np.sin(0.4), 0.025, 1.0, 0.0, 0.0, 0.0])
    sim.set_trajectory([2.0], [[0.8, 0.0]], [[0.0, 0.0]])
    sim.step(2.5)
    angle = np.arctan2(*sim.object_pose("block")[1::-1])
    assert angle > 0.8
    assert sim.object_pose("block")[2] == pytest.approx(0.025, abs=2e-3)  # still on the table
    assert np.abs(sim.joint_positions() - [0.8, 0.0]).max() < 0.01
    sim.reset(joint_positions=[0.0, 0.0])
    np.testing.assert_allclose(sim.object_pose("block")[:3], [0.54, 0.54, 0.025])


@pytest.mark.parametrize("pose", [[0.0] * 3, [0.0] * 7, [np.nan] * 7])
def test_an_impossible_object_pose_is_refused(sim: ArmSim, pose: list[float]) -> None:
    with pytest.raises(ValueError, match="is not a pose"):
        sim.set_object_pose("block", pose)


COLOURS = {  # of the world's materials, percent
    "link 1": (25, 45, 95),
    "link 2": (75, 2, 5),
    "tip": (4, 4, 6),
    "block": (5, 60, 15),
    "pedestal": (12, 12, 14),
    "shoulder cap": (5, 10, 40),
    "elbow cap": (40, 2, 5),
    "table": (86, 86, 84),
}


def pixels_of(picture: np.ndarray, part: str) -> np.ndarray:
    """(n, 2) row, column of the pixels whose colour is nearest to that of `part`."""
    colours = 2.55 * np.array(list(COLOURS.values()))
    distances = np.linalg.norm(picture[:, :, None].astype(float) - colours, axis=3)
    return np.argwhere(distances.argmin(axis=2) == list(COLOURS).index(part))


def test_the_camera_sees_the_tip_where_a_pinhole_camera_would(sim: ArmSim) -> None:
    focal = 96 / np.tan(0.6376 / 2)
    for a, b in np.random.default_rng(4).uniform(-2.2, 2.2, (15, 2)):
        sim.reset(joint_positions=[a, b])
        x, y = closed_form(a, b) * focal / (2.0 - 0.16)  # the tip's upper end is 0.16 m above the table
        seen = pixels_of(sim.render(), "tip").mean(axis=0)
        np.testing.assert_allclose(seen, [95.5 - y, 95.5 + x], atol=4.0)  # the forearm hides a part


@pytest.mark.parametrize("size", [64, 192])
def test_every_part_is_in_the_picture_in_every_pose(sim: ArmSim, size: int) -> None:
    scale = (size / 64) ** 2
    stretched = [(a, 0.0) for a in np.linspace(-2.6, 2.6, 12)]
    folded = [(a, b) for a in (-2.0, 0.5) for b in (-2.2, 2.2)]
    for pose in stretched + folded:
        sim.reset(joint_positions=pose)
        picture = to_model_image(sim.render(), size)
        assert picture.shape == (size, size, 3)
        for part, least in (("link 1", 12), ("link 2", 8), ("tip", 4), ("block", 3)):
            assert len(pixels_of(picture, part)) >= least * scale, (part, pose)
        edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert np.ptp(edge.astype(int), axis=0).max() <= 3, pose  # only table at the edge: nothing is cut off


def test_a_second_thread_may_not_render(sim: ArmSim) -> None:
    sim.render()
    errors: list[Exception] = []

    def render() -> None:
        try:
            sim.render()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=render)
    thread.start()
    thread.join()
    assert len(errors) == 1 and "thread" in str(errors[0])


def test_without_render_there_are_no_pictures() -> None:
    with ArmSim(render=False) as sim, pytest.raises(RuntimeError, match="render=True"):
        sim.render()


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("upper", [np.nan, 1.0], "'upper' of joint 'a' is nan"),
        ("velocity", [1.0, -1.0], "'velocity' of joint 'b' is -1.0"),
        ("jerk", [1.0, 0.0], "'jerk' of joint 'b'"),
        ("lower", [0.0, 1.0], "joint 'b' has lower limit 1.0"),
        ("acceleration", [1.0], "shape"),
    ],
)
def test_impossible_joint_limits_are_refused(field: str, values: list[float], message: str) -> None:
    good = {"lower": [-1, -1], "upper": [1, 1], "velocity": [1, 1], "acceleration": [1, 1], "jerk": [1, 1]}
    JointLimits(names=("a", "b"), **good)
    with pytest.raises(ValueError, match=message):
        JointLimits(names=("a", "b"), **{**good, field: values})
