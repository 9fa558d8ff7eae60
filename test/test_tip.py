# SPDX-License-Identifier: Apache-2.0
"""Actions that are velocities of the tip: joints do them, keep their limits, and slow down instead of jumping."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from awake import awake_bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model

from lewm_model.config import PlanConfig
from lewm_model.planning.motion import KnotLimits, Timeline
from lewm_model.planning.parameterisations import TipKnots, VelocityKnots
from lewm_model.planning.planner import Planner
from lewm_model.robot.actions import ActionGroup, ActionSpec
from lewm_model.robot.chain import Chain
from lewm_model.robot.limits import JointLimits
from lewm_model.robot.tip import DAMPING, TipMotion
from lewm_model.runtime import load_runtime

BLOCK_S, HORIZON = 0.25, 6
JOINTS = ("pan", "lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
# Where each joint sits and what it turns about: an arm with a wrist of three axes; its finger is no link
SITS = ((0, 0, 0.15), (0, 0.1, 0), (0, 0, 0.4), (0, 0, 0.35), (0, -0.1, 0), (0, 0, 0.1))
AXES = ((0, 0, 1), (0, 1, 0), (0, 1, 0), (0, 1, 0), (0, 0, 1), (0, 1, 0))
ONE = np.ones(7)
LIMITS = JointLimits((*JOINTS, "finger"), -2.8 * ONE, 2.8 * ONE, 1.2 * ONE, 8.0 * ONE, 120.0 * ONE)
KNOTS = KnotLimits(LIMITS, BLOCK_S)


def make_chain() -> Chain:
    from lewm_model.robot.chain import _Joint

    sits = [
        _Joint(name, np.array(origin, float), np.eye(3), np.array(axis, float), False, i)
        for i, (name, origin, axis) in enumerate(zip(JOINTS, SITS, AXES, strict=True))
    ]
    return Chain(JOINTS, sits).with_tool(np.array([0.0, 0.0, 0.12]))


def group(kind: str, names: tuple[str, ...], unit: str, most: float) -> ActionGroup:
    high = (most,) * len(names)
    return ActionGroup(
        kind, names, unit, (0.0,) * len(names), tuple(0.5 * h for h in high), tuple(-h for h in high), high
    )


SPEC = ActionSpec(
    (
        group("cartesian_velocity", ("x", "y", "z"), "m/s", 0.3),
        group("cartesian_velocity", ("yaw",), "rad/s", 1.0),
        group("gripper", ("finger",), "rad/s", 1.0),
    ),
    control_dt_s=0.05,
    frameskip=5,
)
CHAIN = make_chain()
TIP = TipMotion(CHAIN, SPEC, LIMITS.names)
BENT = np.array([0.3, -0.6, 1.4, 0.8, 1.4, 0.5, 0.2])


@pytest.mark.parametrize("speed", [0.01, 0.3])
def test_joints_do_what_the_columns_say_or_the_same_more_slowly_and_turn_nothing_else(speed: float) -> None:
    rng = np.random.default_rng(0)
    poses, actions = BENT + 0.05 * rng.normal(size=(50, 7)), speed * rng.normal(size=(50, 5))
    velocities = TIP.joint_velocities(poses, actions)
    small = 1e-6 / speed
    moved = TIP.displacements(np.stack([poses, poses + small * velocities], 1))[:, 0] / small
    shares = (moved * actions)[:, :4].sum(1, keepdims=True) / np.square(actions[:, :4]).sum(1, keepdims=True)
    np.testing.assert_allclose(moved[:, :4], shares * actions[:, :4], atol=1e-4 * speed)
    np.testing.assert_allclose(moved[:, 4], actions[:, 4], rtol=1e-6)
    assert (shares > 0.99).all() if speed < 0.1 else (shares.min() < 0.9 and shares.max() <= 1.001)
    rates = np.einsum("nij,nj->ni", CHAIN.jacobian(poses[:, :6]), velocities[:, :6])
    np.testing.assert_allclose(rates[:, 3:5], 0.0, atol=1e-9)  # roll and pitch, which nobody commands


def test_a_column_that_nothing_can_do_is_refused_by_name() -> None:
    odd = ActionSpec((group("cartesian_velocity", ("x", "forwards"), "m/s", 0.3),), 0.05, 5)
    with pytest.raises(ValueError, match=r"'forwards' .* named x, y, z, roll, pitch, yaw"):
        TipMotion(CHAIN, odd, LIMITS.names)


states = st.builds(lambda seed: np.random.default_rng(seed).uniform(-2.6, 2.6, 7), st.integers(0, 2**32 - 1))
tips = st.builds(
    lambda seed, speed: speed * np.random.default_rng(seed).normal(size=5),
    st.integers(0, 2**32 - 1),
    st.floats(0.01, 3),
)


@settings(max_examples=40, deadline=None)
@given(position=states, action=tips, seed=st.integers(0, 2**32 - 1), singular=st.booleans())
def test_joint_velocities_are_bounded_and_continuous_also_at_singularities(
    position: np.ndarray, action: np.ndarray, seed: int, singular: bool
) -> None:
    if singular:
        position[2] = 0.0  # a stretched arm
    most = np.linalg.norm(action[:4]) * np.sqrt(2.0) / (2.0 * DAMPING * TIP.length_m)
    steps = np.linspace(0.0, 1.0, 100)[:, None] * 0.05 * np.random.default_rng(seed).normal(size=7)
    velocities = TIP.joint_velocities(position + steps, np.repeat(action[None], 100, 0))
    assert np.linalg.norm(velocities[:, :6], axis=1).max() <= most
    changes = np.abs(np.diff(velocities, axis=0)).max(1)
    assert changes.max() <= 0.05 * most


def knots_from(position: np.ndarray, candidates: np.ndarray) -> tuple[TipKnots, np.ndarray]:
    timeline = Timeline(0.0, position, KNOTS)
    joints = VelocityKnots(SPEC, timeline, KNOTS, 0.0, 0, HORIZON, 0.01 * ONE, np.ones_like(ONE))
    motions = TipKnots(SPEC, joints, TIP)
    feasible = motions.feasible(candidates)
    return motions, feasible


@settings(max_examples=40, deadline=None)
@given(position=states, seed=st.integers(0, 2**32 - 1), wildness=st.sampled_from([0.3, 3.0, 100.0]))
def test_a_plan_of_tip_velocities_keeps_every_limit_of_the_joints(
    position: np.ndarray, seed: int, wildness: float
) -> None:
    candidates = wildness * np.random.default_rng(seed).normal(size=(1, HORIZON, 5))
    motions, feasible = knots_from(position, candidates)
    motions.commit(feasible[0], HORIZON)
    dt = 2e-3
    motion = motions.timeline.sample(np.arange(0.0, motions.timeline.end_s + 0.1, dt))
    rate = np.diff(motion.velocities, axis=0) / dt
    assert (motion.positions >= LIMITS.lower - 1e-6).all() and (motion.positions <= LIMITS.upper + 1e-6).all()
    assert (np.abs(motion.velocities) <= LIMITS.velocity + 1e-9).all()
    assert (np.abs(rate) <= 1.001 * LIMITS.acceleration).all()
    assert (np.abs(np.diff(rate, axis=0)) / dt <= 1.01 * LIMITS.jerk + 1e-3).all()
    assert (motion.velocities[-1] == 0.0).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), speed=st.floats(0.1, 50.0))
def test_a_motion_from_rest_that_is_too_fast_is_slowed_down_and_keeps_its_direction(seed: int, speed: float) -> None:
    rng = np.random.default_rng(seed)
    position, wanted = rng.uniform(-2.7, 2.7, (1, 7)), speed * rng.normal(size=(1, 7))
    knot = KNOTS.slowed(position, np.zeros((1, 7)), wanted)[0]
    low, high = KNOTS.bounds(position, np.zeros((1, 7)))
    assert (knot >= low).all() and (knot <= high).all()
    share = float(knot @ wanted[0] / (wanted[0] @ wanted[0]))
    np.testing.assert_allclose(knot, share * wanted[0], atol=1e-9)
    assert 0.0 <= share <= 1.0
    closest = np.minimum(np.abs(knot - low), np.abs(high - knot)).min()
    assert share == pytest.approx(1.0) or closest < 1e-9  # no slower than it has to be


def test_the_tip_goes_where_it_is_told_and_rests_at_the_edge_of_its_reach() -> None:
    candidates = np.zeros((1, HORIZON, 5))
    candidates[..., 0] = 2.0  # 0.3 m/s along x
    position, ways = BENT, []
    for _ in range(8):  # plan after plan, until the arm is stretched
        motions, feasible = knots_from(position, candidates)
        motions.commit(feasible[0], HORIZON)
        motion = motions.timeline.sample(np.arange(0.0, motions.timeline.end_s + 0.02, 0.02))
        assert (np.abs(motion.velocities) <= LIMITS.velocity + 1e-9).all()
        ends = CHAIN.positions(motion.positions[[0, 25, -1], :6])[:, -1]
        ways.append(ends[1:] - ends[0])
        position = motion.positions[-1]
    assert ways[0][0, 0] > 0.05 and np.abs(ways[0][0, 1:]).max() < 0.1 * ways[0][0, 0]
    assert ways[0][1, 0] > 0.2 and np.linalg.norm(ways[-1][1]) < 0.02, "a way of 0.45 m leads nowhere any more"


def test_a_straight_way_ends_where_it_should() -> None:
    motions, _ = knots_from(BENT, np.zeros((1, HORIZON, 5)))
    way = np.array([0.1, -0.05, 0.08, 0.2, 0.1])
    path = motions.paths(motions.straight(way)[None])
    done = TIP.displacements(path)[0].sum(0)
    np.testing.assert_allclose(done, way, atol=0.02)
    assert motions.rests(motions.still) and not motions.rests(motions.straight(way))


def test_a_planner_plans_joint_motion_for_a_model_that_commands_the_tip(tmp_path: Path) -> None:
    bundle = awake_bundle(tmp_path, tiny_model(action_dim=5))
    bundle = dataclasses.replace(bundle, actions=SPEC)
    now = 100.0
    planner = Planner(load_runtime(bundle, "torch"), LIMITS, PlanConfig(), lambda: now, chain=CHAIN)
    planner.start(BENT)
    planner.set_goal(np.ones(bundle.model.latent_dim, np.float32))
    planner.measure(now, BENT)
    planner.observe(now, np.zeros(bundle.model.latent_dim, np.float32))
    plan = planner.plan()
    assert plan is not None and plan.trajectory is not None
    assert plan.trajectory.positions.shape[1] == 7 and (np.abs(plan.trajectory.velocities) <= 1.2 + 1e-9).all()
    with pytest.raises(ValueError, match="needs a robot file with `kinematics`"):
        Planner(load_runtime(bundle, "torch"), LIMITS, PlanConfig(), lambda: now)
