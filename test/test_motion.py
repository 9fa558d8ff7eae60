# SPDX-License-Identifier: Apache-2.0
"""Planned motion keeps every limit by construction, and the committed past never changes."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lewm_model.planning.motion import KEPT_BLOCKS, STOP_STEP_S, CommandedMotion, KnotLimits, Timeline, stop_from
from lewm_model.planning.parameterisations import path_weights
from lewm_model.robot.limits import JointLimits

BLOCK_S = 0.25


def joint_limits(velocity: float = 1.5, acceleration: float = 9.0, jerk: float = 150.0) -> JointLimits:
    return JointLimits(
        ("a", "b"),
        np.array([-2.6, -1.0]),
        np.array([2.6, 1.2]),
        np.array([velocity, velocity]),
        np.array([acceleration, acceleration]),
        np.array([jerk, jerk]),
    )


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    velocity=st.floats(0.1, 4.0),
    acceleration=st.floats(2.0, 30.0),
    jerk=st.floats(20.0, 400.0),
    wildness=st.sampled_from([0.1, 1.0, 100.0]),
)
def test_projected_knots_keep_position_velocity_acceleration_and_jerk_limits(
    seed: int, velocity: float, acceleration: float, jerk: float, wildness: float
) -> None:
    limits = joint_limits(velocity, acceleration, jerk)
    try:
        knot_limits = KnotLimits(limits, BLOCK_S)
    except ValueError as error:
        assert "cannot stop" in str(error)
        return
    rng = np.random.default_rng(seed)
    start = rng.uniform(limits.lower, limits.upper)
    timeline = Timeline(10.0, start, knot_limits)
    position, speed = timeline.state(0)
    wanted = rng.normal(size=(2, 8, 2)) * wildness
    knots = knot_limits.project(position, speed, wanted)
    for candidate in knots:
        timeline.splice(0, candidate)
        dt = 2e-3
        motion = timeline.sample(np.arange(10.0 - 0.1, timeline.end_s + 0.1, dt))
        rate = np.diff(motion.velocities, axis=0) / dt
        assert (motion.positions >= limits.lower - 1e-6).all() and (motion.positions <= limits.upper + 1e-6).all()
        assert np.abs(motion.velocities).max() <= velocity + 1e-9
        assert np.abs(rate).max() <= acceleration * 1.001 + 1e-6
        assert np.abs(np.diff(rate, axis=0)).max() / dt <= jerk * 1.01 + 1e-3
        assert np.abs(np.diff(motion.positions, axis=0) / dt - motion.velocities[:-1]).max() <= acceleration * dt
        assert (motion.velocities[-1] == 0).all()


def test_a_feasible_plan_is_left_as_it_is() -> None:
    knot_limits = KnotLimits(joint_limits(), BLOCK_S)
    knots = np.array([[[0.5, -0.5], [1.0, 0.0], [0.2, 0.3], [0.0, 0.0]]])
    np.testing.assert_array_equal(knot_limits.project(np.zeros(2), np.zeros(2), knots), knots)


def test_splicing_changes_nothing_before_the_handover_and_is_smooth_across_it() -> None:
    knot_limits = KnotLimits(joint_limits(), BLOCK_S)
    timeline = Timeline(0.0, np.zeros(2), knot_limits)
    timeline.splice(0, np.array([[1.0, 0.4], [0.8, -0.2]]))
    before = timeline.sample(np.arange(0.0, 0.5, 0.01))
    timeline.splice(2, np.array([[-0.3, 0.1]]))
    after = timeline.sample(np.arange(0.0, 0.5, 0.01))
    np.testing.assert_array_equal(before.positions, after.positions)
    np.testing.assert_array_equal(before.velocities, after.velocities)
    across = timeline.sample(np.array([0.5 - 1e-4, 0.5, 0.5 + 1e-4]))
    assert np.abs(np.diff(across.velocities, axis=0)).max() < 1e-5


def test_a_timeline_that_runs_for_long_forgets_the_far_past_only() -> None:
    timeline = Timeline(0.0, np.zeros(2), KnotLimits(joint_limits(), BLOCK_S))
    rng = np.random.default_rng(0)
    for knot in range(500):
        position, velocity = timeline.state(knot)
        timeline.splice(knot, timeline.limits.project(position, velocity, rng.normal(size=(1, 1, 2)))[0])
    recent = timeline.sample(np.array([500 * BLOCK_S]))
    np.testing.assert_allclose(recent.positions[0], timeline.state(500)[0], atol=1e-12)
    assert len(timeline._positions) <= KEPT_BLOCKS + 4


def test_path_weights_agree_with_the_timeline() -> None:
    timeline = Timeline(0.0, np.zeros(2), KnotLimits(joint_limits(), BLOCK_S))
    knots = np.array([[1.0, 0.4], [0.8, -0.2], [0.1, 0.0]])
    timeline.splice(0, knots)
    times = np.linspace(0.0, 0.75, 31)
    ways = path_weights(times / BLOCK_S, 3, BLOCK_S) @ np.vstack([np.zeros((1, 2)), knots])
    np.testing.assert_allclose(ways, timeline.sample(times).positions, atol=1e-12)


def test_an_arm_that_cannot_stop_is_refused() -> None:
    with pytest.raises(ValueError, match="lower its velocity limit"):
        KnotLimits(joint_limits(velocity=10.0, acceleration=0.5), BLOCK_S)


# ---- the stop that does not wait for a knot --------------------------------------------------------------------------

seeds = st.integers(0, 2**32 - 1)
velocities, accelerations, jerks = st.floats(0.1, 4.0), st.floats(2.0, 30.0), st.floats(20.0, 400.0)


def random_timeline(seed: int, limits: JointLimits) -> tuple[Timeline, float]:
    """A moving arm, and a time somewhere in its motion."""
    rng = np.random.default_rng(seed)
    try:
        knot_limits = KnotLimits(limits, BLOCK_S)
    except ValueError:
        assume(False)
        raise
    start = rng.uniform(limits.lower, limits.upper)
    if rng.random() < 0.3:  # at a position limit
        start = np.where(rng.random(2) < 0.5, limits.lower, limits.upper)
    timeline = Timeline(10.0, start, knot_limits)
    wanted = rng.normal(size=(1, 6, 2)) * limits.velocity * 10.0 ** rng.uniform(-1, 1)
    timeline.splice(0, knot_limits.project(start, np.zeros(2), wanted)[0])
    return timeline, float(rng.uniform(9.9, timeline.end_s + 0.1))


def knot_stop_end(timeline: Timeline, handover_s: float) -> float:
    """The time at which a stop that waits for the next knot comes to rest."""
    knot = timeline.knot_at_or_after(handover_s)
    _, velocity = timeline.state(knot)
    return timeline.knot_time(knot) + BLOCK_S * len(timeline.limits.stop_knots(velocity)) * velocity.any()


@settings(max_examples=150, deadline=None)
@given(seeds, velocities, accelerations, jerks)
def test_a_stop_from_anywhere_keeps_every_limit_and_rests_no_later_than_one_at_a_knot(
    seed: int, velocity: float, acceleration: float, jerk: float
) -> None:
    limits = joint_limits(velocity, acceleration, jerk)
    timeline, now = random_timeline(seed, limits)
    handover = now + 0.03
    committed = timeline.sample(np.linspace(now, handover, 4))
    latest = knot_stop_end(timeline, handover)
    stop = timeline.stop(now, handover)
    np.testing.assert_array_equal(stop.positions[:4], committed.positions)
    np.testing.assert_array_equal(stop.velocities[:4], committed.velocities)
    assert stop.times_s[0] == now
    assert np.allclose(np.diff(stop.times_s), STOP_STEP_S)
    assert (stop.velocities[-1] == 0).all()
    moves = stop.velocities.any(1)
    assert not moves.any() or stop.times_s[moves][-1] <= latest + 1e-6
    assert (stop.positions >= limits.lower - 1e-9).all()
    assert (stop.positions <= limits.upper + 1e-9).all()
    assert (np.abs(stop.velocities) <= limits.velocity * (1 + 1e-9)).all()
    rate = np.diff(stop.velocities, axis=0) / STOP_STEP_S
    assert (np.abs(rate) <= limits.acceleration * (1 + 1e-6)).all()
    assert (np.abs(np.diff(rate, axis=0)) / STOP_STEP_S <= limits.jerk * (1 + 1e-6)).all()
    assert stop.times_s[-1] - handover <= timeline.limits.longest_stop_s + STOP_STEP_S, "it did not wait"


@settings(max_examples=150, deadline=None)
@given(seeds, velocities, accelerations, jerks)
def test_the_fastest_stop_is_as_long_as_its_bound_at_most_and_its_path_fits_its_velocities(
    seed: int, velocity: float, acceleration: float, jerk: float
) -> None:
    timeline, now = random_timeline(seed, joint_limits(velocity, acceleration, jerk))
    state = timeline.sample(np.array([now]))
    begin = state.positions[0], state.velocities[0], timeline.acceleration(now)
    stop = stop_from(*begin, timeline.limits)
    assert stop.times_s[-1] <= timeline.limits.longest_stop_s + STOP_STEP_S
    fine = stop_from(*begin, timeline.limits, step_s=1e-4)
    np.testing.assert_array_equal(stop.positions[0], begin[0])
    np.testing.assert_allclose(fine.positions[-1], stop.positions[-1], rtol=0, atol=1e-9)
    ways = np.cumsum(0.5e-4 * (fine.velocities[1:] + fine.velocities[:-1]), axis=0)
    np.testing.assert_allclose(begin[0] + ways, fine.positions[1:], rtol=0, atol=1e-6)


def test_an_arm_at_full_speed_stops_in_less_than_a_block() -> None:
    limits = KnotLimits(joint_limits(), BLOCK_S)
    stop = stop_from(np.zeros(2), np.array([1.5, -1.5]), np.zeros(2), limits, step_s=1e-3)
    assert stop.times_s[-1] == pytest.approx(1.5 / 9 + 9 / 150, abs=1e-3)  # 0.227 s
    np.testing.assert_allclose(stop.positions[-1, 0], 1.5 * 0.2267 / 2, atol=1e-3)
    np.testing.assert_allclose(stop.positions[:, 0], -stop.positions[:, 1], rtol=0, atol=1e-12)
    assert limits.longest_stop_s == pytest.approx(1.5 / 9 + 2 * 9 / 150)


def test_an_arm_that_brakes_too_hard_to_stop_turns_round_and_rests() -> None:
    limits = KnotLimits(joint_limits(), BLOCK_S)
    stop = stop_from(np.zeros(2), np.array([0.1, 0.0]), np.array([-9.0, 0.0]), limits)
    assert stop.velocities[:, 0].min() < -0.05
    assert (stop.velocities[-1] == 0).all()
    assert (stop.positions[:, 1] == 0).all()


def test_a_stop_that_would_leave_the_position_limits_waits_for_the_knot() -> None:
    limits = KnotLimits(joint_limits(), BLOCK_S)
    timeline = Timeline(0.0, limits.upper - 0.05, limits)
    timeline.splice(0, np.array([[0.8, 0.0], [-0.8, 0.0]]))  # not projected: there is no room for this
    stop = timeline.stop(0.3, 0.33)
    assert timeline.end_s == 0.75, "one block to the knot, one to rest"
    np.testing.assert_array_equal(stop.positions, timeline.sample(stop.times_s).positions)
    assert (stop.velocities[-1] == 0).all()


def test_the_acceleration_of_a_timeline_is_the_slope_of_its_velocity() -> None:
    timeline, _ = random_timeline(5, joint_limits())
    for time in np.linspace(9.9, timeline.end_s + 0.1, 50):
        velocities = timeline.sample(np.array([time - 1e-6, time + 1e-6])).velocities
        np.testing.assert_allclose(timeline.acceleration(time), np.diff(velocities, axis=0)[0] / 2e-6, atol=1e-3)


def test_what_was_commanded_is_one_motion_after_the_other_and_rest_where_nothing_was() -> None:
    timeline = Timeline(0.0, np.zeros(2), KnotLimits(joint_limits(), BLOCK_S))
    timeline.splice(0, np.array([[1.0, -0.5], [1.0, -0.5]]))
    commanded, grid = CommandedMotion(), np.arange(-0.2, 3.0, 0.05)
    assert not commanded.displacements(grid, 2).any()
    commanded.begin(0.0, timeline)
    stop = timeline.stop(0.42, 0.45)
    commanded.begin(0.42, stop)
    commanded.begin(2.0, Timeline(2.0, np.ones(2), timeline.limits))  # it was moved by hand meanwhile
    moved = commanded.displacements(grid, 2)
    where = np.vstack([np.zeros(2), np.cumsum(moved, axis=0)])
    for time_s, motion in ((0.3, timeline), (0.6, stop), (2.9, stop)):
        wanted = motion.sample(np.array([time_s])).positions[0]
        found = [np.interp(time_s, grid, column) for column in where.T]
        np.testing.assert_allclose(found, wanted, atol=2e-3)
    assert not moved[grid[:-1] > stop.times_s[-1]].any() and not moved[grid[1:] < 0.0].any()
