"""Planned motion keeps every limit by construction, and the committed past never changes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lewm_model.limits import JointLimits
from lewm_model.planning.controller import _path_weights
from lewm_model.planning.motion import KEPT_BLOCKS, KnotLimits, Timeline

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
    ways = _path_weights(times / BLOCK_S, 3, BLOCK_S) @ np.vstack([np.zeros((1, 2)), knots])
    np.testing.assert_allclose(ways, timeline.sample(times).positions, atol=1e-12)


def test_an_arm_that_cannot_stop_is_refused() -> None:
    with pytest.raises(ValueError, match="lower its velocity limit"):
        KnotLimits(joint_limits(velocity=10.0, acceleration=0.5), BLOCK_S)
