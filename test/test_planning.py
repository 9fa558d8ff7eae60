# SPDX-License-Identifier: Apache-2.0
"""The planner reaches goals, keeps what it committed to, and returns in time."""

from __future__ import annotations

import dataclasses
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_model

from lewm_model.bundle.bundle import Bundle, Calibration
from lewm_model.config import POLICY_PLAN, ConfigError, PlanConfig, TrainConfig, from_dict
from lewm_model.planning import solvers
from lewm_model.planning.planner import Decision, Planner
from lewm_model.planning.solvers import coloured_noise, search
from lewm_model.robot.actions import ActionSpec
from lewm_model.robot.limits import JointLimits

LIMITS = JointLimits(("a", "b"), np.full(2, -2.6), np.full(2, 2.6), np.full(2, 1.5), np.full(2, 9.0), np.full(2, 150.0))
SPEC = ActionSpec.of_one_kind(
    ("a", "b"), "joint_velocity", "rad/s", 0.05, 5, (0.1, 0.0), (0.7, 0.6), (-1.5, -1.5), (1.5, 1.5)
)


class PerfectModel:
    """A runtime whose latent is the joint position, so that what it imagines is what happens.

    Distances are in control steps at full speed, or with `head` False plain squared ones.
    """

    backend = "perfect"

    def __init__(self, history: int = 1, head: bool = True) -> None:
        heads = ("displacement",) if head else ()
        self.bundle = Bundle(Path("perfect"), tiny_model(history=history, latent_dim=2), SPEC, heads)

    def rollout(
        self, context: np.ndarray, past_actions: np.ndarray, candidates: np.ndarray, goal: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        assert past_actions.shape == (self.bundle.model.history - 1, 10)
        steps = candidates.reshape(*candidates.shape[:2], 5, 2) * np.array(SPEC.std) + np.array(SPEC.mean)
        latents = context[-1] + np.cumsum(steps.sum(2) * SPEC.control_dt_s, 1)
        ways = np.concatenate([np.broadcast_to(context[-1], (len(latents), 1, 2)), latents], 1)
        squared = ((ways - goal) ** 2).sum(-1)
        return (np.sqrt(squared) / 0.075 if self.bundle.heads else squared), latents


class Arm:
    """Follows trajectories exactly; time moves by `advance`."""

    def __init__(self, position: np.ndarray) -> None:
        self.now_s, self.position = 5.0, position
        self.decision: Decision | None = None

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
        if self.decision is not None and self.decision.trajectory is not None:
            motion = self.decision.trajectory
            self.position = np.array(
                [np.interp(self.now_s, motion.times_s, motion.positions[:, j]) for j in range(len(self.position))]
            )


def run(planner: Planner, arm: Arm, seconds: float) -> list[Decision]:
    decisions = []
    for _ in range(round(seconds / 0.05)):
        planner.measure(arm.now_s, arm.position)
        planner.observe(arm.now_s, arm.position.astype(np.float32))
        decision = planner.plan()
        if decision is not None:
            decisions.append(decision)
            arm.decision = decision if decision.trajectory is not None else arm.decision
        arm.advance(0.05)
    return decisions


def planner_for(arm: Arm, runtime: PerfectModel | None = None, **settings: object) -> Planner:
    config = from_dict(PlanConfig, settings)
    planner = Planner(runtime or PerfectModel(), LIMITS, config, clock=lambda: arm.now_s)
    planner.start(arm.position)
    return planner


@pytest.mark.parametrize("sampler", ["cem", "icem", "mppi"])
@pytest.mark.parametrize(("history", "head"), [(1, True), (3, True), (1, False)])
def test_with_a_perfect_model_the_arm_reaches_the_goal_and_stays(sampler: str, history: int, head: bool) -> None:
    arm, goal = Arm(np.array([-1.5, 0.5])), np.array([1.0, -1.0])
    planner = planner_for(arm, PerfectModel(history, head), sampler=sampler)
    planner.set_goal(goal.astype(np.float32))
    run(planner, arm, 5.0)
    assert np.abs(arm.position - goal).max() < 0.05
    run(planner, arm, 1.0)
    assert np.abs(arm.position - goal).max() < 0.05


def test_the_arm_moves_on_while_it_plans_and_committed_points_are_never_rewritten() -> None:
    arm = Arm(np.zeros(2))
    planner = planner_for(arm)
    planner.set_goal(np.array([1.5, -1.5], np.float32))
    decisions = run(planner, arm, 2.0)
    trajectories = [decision.trajectory for decision in decisions if decision.trajectory is not None]
    assert len(trajectories) == len(decisions) >= 6
    for before, after in pairwise(trajectories):
        handover_s = before.times_s[0] + 0.25  # at the earliest: a plan is made from a frame of the running block
        times = np.arange(after.times_s[0], handover_s, 0.01)
        for joint in range(2):
            old = np.interp(times, before.times_s, before.positions[:, joint])
            new = np.interp(times, after.times_s, after.positions[:, joint])
            assert np.abs(old - new).max() < 2e-3  # between points both are interpolated
    middle = trajectories[3]
    assert np.abs(middle.velocities[0]).max() > 0.5, "the arm stands still between blocks"
    assert all((t.velocities[-1] == 0).all() for t in trajectories), "a trajectory must end at rest by itself"


def looked_at(planner: Planner, arm: Arm, arrivals_s: list[float], transport_s: float) -> list[tuple[float, Decision]]:
    """Plans with frames that are observed at these times, `transport_s` after their stamps, while the planner is asked
    every millisecond; the decisions, each with the time at which it was made.
    """
    decisions = []
    while arrivals_s:
        if arm.now_s >= arrivals_s[0] - 1e-9:
            planner.measure(arm.now_s, arm.position)
            planner.observe(arrivals_s.pop(0) - transport_s, arm.position.astype(np.float32))
        if (decision := planner.plan()) is not None:
            decisions.append((arm.now_s, decision))
            arm.decision = decision
        arm.advance(0.001)
    return decisions


@pytest.mark.parametrize("phase_s", [0.0, 0.01, 0.02, 0.03, 0.04])
def test_a_plan_begins_when_the_frame_that_it_is_made_from_arrives(phase_s: float) -> None:
    arm = Arm(np.zeros(2))
    planner = planner_for(arm)
    planner.set_goal(np.array([1.5, -1.5], np.float32))
    arrivals = [5.0 + phase_s + 0.05 * i + 0.002 * (i % 2) for i in range(60)]  # a little unsteady
    decisions = looked_at(planner, arm, arrivals, 0.008)[2:]  # of the first two frames no period is known
    assert len(decisions) >= 9
    for now_s, decision in decisions:
        assert now_s - decision.frame_s == pytest.approx(0.008, abs=1.1e-3)
        assert decision.trajectory is not None


def test_a_frame_that_is_waited_for_in_vain_does_not_delay_the_plan() -> None:
    arm = Arm(np.zeros(2))
    planner = planner_for(arm)
    planner.set_goal(np.array([1.5, -1.5], np.float32))
    before_s, _ = looked_at(planner, arm, [5.0 + 0.05 * i for i in range(41)], 0.008)[-1]
    first_s = 5.0 + 0.05 * 48  # after seven lost frames
    now_s, decision = looked_at(planner, arm, [first_s + 0.05 * i for i in range(10)], 0.008)[0]
    assert now_s < first_s and now_s - before_s < 0.25 + 0.05, "the frame before them is planned from"
    assert decision.trajectory is not None


def test_a_plan_that_begins_a_little_too_late_searches_for_less_time() -> None:
    arm = Arm(np.zeros(2))
    planner = planner_for(arm)
    planner.set_goal(np.array([1.5, -1.5], np.float32))
    planner.observe(arm.now_s, arm.position.astype(np.float32))
    arm.advance(0.025)  # 0.085 s remain until the first hand-over, 0.015 less than planning and handing over may take
    decision = planner.plan()
    assert decision is not None and (motion := decision.trajectory) is not None
    assert np.interp(5.11 + 0.2, motion.times_s, motion.velocities[:, 0]) > 0.5, "it waits for the next hand-over"


def test_without_goal_or_frame_or_arming_nothing_is_planned() -> None:
    arm = Arm(np.zeros(2))
    planner = Planner(PerfectModel(), LIMITS, PlanConfig(), clock=lambda: arm.now_s)
    planner.observe(arm.now_s, np.zeros(2, np.float32))
    planner.set_goal(np.ones(2, np.float32))
    assert planner.plan() is None and not planner.active and planner.stop() is None
    planner.start(arm.position)
    planner.set_goal(None)
    assert planner.plan() is None and planner.active


def test_an_arm_that_was_never_armed_is_shown_what_it_would_begin_with() -> None:
    arm = Arm(np.zeros(2))
    planner = Planner(PerfectModel(history=3), LIMITS, PlanConfig(), clock=lambda: arm.now_s)
    planner.observe(arm.now_s, arm.position.astype(np.float32))
    planner.set_goal(np.array([1.5, -1.5], np.float32))
    decision = planner.preview(arm.position)
    assert decision is not None and not planner.active
    np.testing.assert_allclose(decision.joint_path[0], arm.position)
    assert (np.sign(decision.joint_path[-1]) == [1, -1]).all()


def test_stop_brings_a_moving_arm_to_rest_without_a_jump() -> None:
    arm = Arm(np.zeros(2))
    planner = planner_for(arm)
    planner.set_goal(np.array([2.5, -2.5], np.float32))
    run(planner, arm, 1.3)
    stop = planner.stop()
    assert stop is not None and not planner.active
    assert np.abs(stop.positions[0] - arm.position).max() < 5e-3 and (stop.velocities[-1] == 0).all()
    assert stop.times_s[-1] - arm.now_s < 1.0


def test_a_plan_that_comes_too_late_is_not_executed() -> None:
    arm = Arm(np.zeros(2))
    planner = planner_for(arm)
    planner.set_goal(np.array([1.0, 1.0], np.float32))
    run(planner, arm, 0.5)
    slow = planner.runtime.rollout

    def rollout(*arguments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        arm.now_s += 0.1  # every rollout takes 0.1 s
        return slow(*arguments)

    planner.runtime.rollout = rollout  # type: ignore[method-assign]
    late = [decision for decision in run(planner, arm, 0.5) if decision.late]
    assert late and all(decision.trajectory is None for decision in late)


def calibrated(runtime: PerfectModel, error: float = 1e-4) -> PerfectModel:
    runtime.bundle = dataclasses.replace(runtime.bundle, calibration=Calibration(0.5, 1.0, (0.0,), (error,), 0.0, 1000))
    return runtime


def test_a_goal_that_is_reached_is_held_without_planning_until_the_arm_is_pushed_away() -> None:
    arm, goal = Arm(np.array([0.5, 0.5])), np.array([0.6, 0.3], np.float32)
    planner = planner_for(arm, calibrated(PerfectModel()))
    planner.set_goal(goal)
    run(planner, arm, 3.0)
    assert planner.reached
    assert np.abs(arm.position - goal).max() < 0.5 * 0.075
    held = run(planner, arm, 1.0)
    assert held and all(d.iterations == 0 and d.trajectory is None and not d.late for d in held)

    arm.decision = None  # nothing is commanded: it stays where it is pushed
    arm.position = arm.position + 0.03  # less than what counts as left
    assert all(decision.iterations == 0 for decision in run(planner, arm, 0.5)) and planner.reached
    arm.position = arm.position + 0.2
    assert run(planner, arm, 0.5)[-1].iterations > 0 and not planner.reached

    planner.set_goal(np.zeros(2, np.float32))
    assert not planner.reached
    planner.set_goal(None)
    assert run(planner, arm, 0.5) == []


def test_without_calibration_no_goal_counts_as_reached() -> None:
    arm = Arm(np.array([0.5, 0.5]))
    planner = planner_for(arm)
    planner.set_goal(np.array([0.6, 0.3], np.float32))
    assert all(decision.iterations > 0 for decision in run(planner, arm, 3.0)) and not planner.reached


def test_a_slow_planner_moves_at_half_speed() -> None:
    speeds = {}
    for slow in (False, True):
        arm = Arm(np.array([-2.0, 2.0]))
        planner = planner_for(arm)
        planner.slow = slow
        planner.set_goal(np.array([2.0, -2.0], np.float32))
        motions = [d.trajectory.velocities for d in run(planner, arm, 1.5) if d.trajectory is not None]
        speeds[slow] = max(np.abs(velocities).max() for velocities in motions)
    assert speeds[False] == pytest.approx(1.5, rel=0.05) and speeds[True] == pytest.approx(0.75, rel=0.05)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_speed_that_a_person_turned_down_holds_from_the_first_command_on(share: float) -> None:
    arm = Arm(np.array([-1.0, 1.0]))
    planner = planner_for(arm)
    planner.speed_scale = share
    planner.set_goal(np.array([1.5, -1.0], np.float32))
    planner.start(arm.position)
    sent = [each.trajectory for each in run(planner, arm, 1.5) if each.trajectory is not None]
    fastest = [np.abs(motion.velocities).max() for motion in sent]
    assert len(sent) > 3 and max(fastest) <= share * 1.5 + 1e-6 and max(fastest) > 0.9 * share * 1.5


def test_an_arm_that_stops_to_plan_executes_each_plan_to_its_end() -> None:
    arm, goal = Arm(np.array([-1.5, 0.5])), np.array([1.0, -1.0], np.float32)
    planner = planner_for(arm, while_moving=False)
    planner.set_goal(goal)
    trajectories = [d.trajectory for d in run(planner, arm, 6.0) if d.trajectory is not None]
    assert len(trajectories) >= 2
    for before, after in pairwise(trajectories):
        assert after.times_s[0] >= before.times_s[-2] - 0.05, "it was planned while the arm still moved"
    assert np.abs(arm.position - goal).max() < 0.05


@pytest.mark.parametrize(("deadline_s", "iterations"), [(0.1, 5), (0.01, 1), (0.0, 1), (100.0, 8)])
def test_a_search_returns_the_best_so_far_within_one_iteration_of_its_deadline(
    monkeypatch: pytest.MonkeyPatch, deadline_s: float, iterations: int
) -> None:
    now_s = [0.0]
    monkeypatch.setattr(solvers.time, "monotonic", lambda: now_s[0])

    def cost(knots: np.ndarray) -> np.ndarray:
        now_s[0] += 0.0201
        return (knots**2).sum((1, 2))

    start, rng = np.full((5, 2), 2.0), np.random.default_rng(0)
    found = search(PlanConfig(iterations=8), start[None], 1.0, lambda x: x, cost, rng, deadline_s=deadline_s)
    assert found.iterations == iterations and found.cost <= 40.0
    if iterations < 8:
        assert now_s[0] < deadline_s + 0.0202


@pytest.mark.parametrize("deadline_s", [0.005, 0.05, 0.5])
def test_what_a_plan_computes_before_its_search_counts_towards_its_deadline(
    monkeypatch: pytest.MonkeyPatch, deadline_s: float
) -> None:
    arm, now_s = Arm(np.zeros(2)), [0.0]
    planner = planner_for(arm, deadline_s=deadline_s, iterations=100)
    planner.set_goal(np.ones(2, np.float32))
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    rollout = planner.runtime.rollout

    def slow(*arguments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        now_s[0] += 0.01 if len(arguments[2]) > 1 else 0.002  # candidates, or a single plan
        return rollout(*arguments)

    planner.runtime.rollout = slow  # type: ignore[method-assign]
    decision = run(planner, arm, 1.0)[0]
    assert decision.plan_s <= deadline_s + 0.01 + 0.002 + 1e-9  # an iteration, and what the plan leads to
    assert decision.iterations == max(1, int(np.ceil((deadline_s - 0.002) / 0.01 - 1e-9)))


@pytest.mark.parametrize("sampler", ["cem", "icem", "mppi"])
def test_a_search_finds_the_minimum_of_a_bowl(sampler: str) -> None:
    target = np.random.default_rng(1).normal(size=(5, 2))
    config = PlanConfig(sampler=sampler, samples=200, elites=20, iterations=30)
    found = search(
        config,
        np.zeros((2, 5, 2)),
        1.0,
        lambda knots: knots,
        lambda knots: ((knots - target) ** 2).sum((1, 2)),
        np.random.default_rng(0),
        deadline_s=60.0,
    )
    near = 0.1 if sampler == "mppi" else 0.01  # its noise stays as wide as it began
    assert found.cost < near and np.abs(found.best - target).max() < 2 * near**0.5


@pytest.mark.parametrize("sampler", ["cem", "icem", "mppi"])
@pytest.mark.parametrize(("guess", "enough", "iterations"), [(1.0, 0.5, 1), (0.0, 0.5, 8), (1.0, -np.inf, 8)])
def test_a_search_ends_with_the_iteration_that_finds_what_is_good_enough(
    sampler: str, guess: float, enough: float, iterations: int
) -> None:
    evaluated: list[int] = []

    def cost(candidates: np.ndarray) -> np.ndarray:
        evaluated.append(len(candidates))
        return np.abs(candidates - 1.0).max((1, 2)) + (candidates != 1.0).any((1, 2))

    config = PlanConfig(sampler=sampler, iterations=8)
    guesses = np.stack([np.full((5, 2), guess), np.zeros((5, 2))])
    rng = np.random.default_rng(0)
    found = search(config, guesses, 1.0, lambda x: x, cost, rng, deadline_s=60.0, enough=enough)
    assert found.iterations == iterations
    assert evaluated[0] == (len(guesses) if np.isfinite(enough) else config.samples)
    if iterations == 1:
        np.testing.assert_array_equal(found.best, guesses[0])


@pytest.mark.parametrize("colour", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("length", [2, 5, 8])
def test_coloured_noise_has_unit_variance_and_its_colour(colour: float, length: int) -> None:
    noise = coloured_noise(np.random.default_rng(0), (20_000, length, 2), colour)
    assert noise.shape == (20_000, length, 2)
    np.testing.assert_allclose(noise.var(0), 1.0, atol=0.06)
    neighbours = np.mean(noise[:, 1:] * noise[:, :-1])
    white = colour == 0 or length == 2  # two points have one frequency beside the mean, and no colour
    assert neighbours == pytest.approx(0, abs=0.02) if white else neighbours > 0.05


@pytest.mark.parametrize("sampler", ["cem", "icem", "mppi", "shooting"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_plan_that_is_not_finite_is_never_sent_and_it_is_said(sampler: str, value: float) -> None:
    arm = Arm(np.zeros(2))
    planner = planner_for(arm, sampler=sampler)
    planner.set_goal(np.array([1.5, -1.5], np.float32))
    assert all(decision.reason is None for decision in run(planner, arm, 0.5))
    rollout, plan = planner.runtime.rollout, arm.decision

    def broken(*arguments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        distances, latents = rollout(*arguments)
        return np.full_like(distances, value), latents

    planner.runtime.rollout = broken  # type: ignore[method-assign]
    decisions = run(planner, arm, 2.0)
    assert len(decisions) > 4
    assert all(d.trajectory is None and "not finite" in (d.reason or "") and not d.late for d in decisions)
    assert plan is not None and plan.trajectory is not None
    np.testing.assert_allclose(arm.position, plan.trajectory.positions[-1])  # it came to rest as the earlier plan says
    planner.runtime.rollout = rollout  # type: ignore[method-assign]
    assert all(decision.trajectory is not None for decision in run(planner, arm, 1.0)), "there are numbers again"


@pytest.mark.parametrize("sampler", ["cem", "icem", "mppi"])
def test_a_search_leaves_candidates_out_whose_cost_is_not_a_number(sampler: str) -> None:
    def cost(candidates: np.ndarray) -> np.ndarray:
        costs = ((candidates - 0.5) ** 2).sum((1, 2))
        costs[1::2] = np.nan
        return costs

    config = PlanConfig(sampler=sampler, samples=200, elites=20, iterations=10)
    found = search(config, np.zeros((1, 5, 2)), 1.0, lambda x: x, cost, np.random.default_rng(0), deadline_s=60.0)
    assert found.iterations == 10 and np.isfinite(found.best).all() and found.cost < 1.0


def test_a_frame_that_is_too_old_to_plan_from_is_said_once_a_block() -> None:
    arm = Arm(np.zeros(2))
    planner = planner_for(arm)
    planner.set_goal(np.ones(2, np.float32))
    run(planner, arm, 0.5)
    told = []
    for _ in range(60):  # no frame comes any more
        told.append(planner.plan())
        arm.advance(0.05)
    reasons = [decision.reason for decision in told if decision is not None and decision.reason is not None]
    assert 6 <= len(reasons) <= 12 and "s old, too old to plan from" in reasons[-1]
    assert all(decision is None or decision.trajectory is None for decision in told[20:])


def test_a_horizon_that_ends_before_a_plan_is_made_is_refused() -> None:
    with pytest.raises(ConfigError, match="horizon is 1; it must be 2 or more: the first block is executed while"):
        PlanConfig(horizon=1)
    slow = PlanConfig(horizon=2, deadline_s=0.3)
    with pytest.raises(ValueError, match=r"takes 0\.33 s .* set horizon to 3 or more, or a shorter deadline_s"):
        Planner(PerfectModel(), LIMITS, slow, clock=time.monotonic)
    arm, goal = Arm(np.array([-0.5, 0.5])), np.array([0.5, -0.5], np.float32)
    planner = planner_for(arm, horizon=2)
    planner.set_goal(goal)
    run(planner, arm, 4.0)
    assert np.abs(arm.position - goal).max() < 0.05


def test_of_what_is_proposed_shooting_takes_the_best_and_draws_nothing() -> None:
    arm, goal = Arm(np.array([-0.5, 0.5])), np.array([0.5, -0.5], np.float32)
    planner = planner_for(arm, sampler="shooting")
    planner.set_goal(goal)
    before = planner.rng.bit_generator.state
    decisions = run(planner, arm, 1.0)
    assert all(decision.iterations == 1 and len(decision.elite_paths) == 2 for decision in decisions)
    assert planner.rng.bit_generator.state == before


@pytest.mark.parametrize(("control_dt_s", "steps"), [(0.05, 2), (0.1, 1), (0.02, 5), (0.03, 4)])
def test_a_policy_learns_to_propose_what_comes_after_the_plan_was_made(control_dt_s: float, steps: int) -> None:
    assert TrainConfig().policy_delay_s == POLICY_PLAN.deadline_s + POLICY_PLAN.handover_margin_s
    assert TrainConfig().policy_delay_steps(control_dt_s) == steps


@pytest.mark.parametrize("rate_hz", [20, 1000])
def test_the_past_reaches_back_for_as_long_as_a_plan_looks_ahead_whatever_the_rates(rate_hz: int) -> None:
    history = planner_for(Arm(np.zeros(2))).history
    times = np.arange(0.0, 5.0, 1.0 / rate_hz)
    for time_s in times:
        history.observe(time_s, np.full(2, time_s))
        history.measure(time_s, np.array([time_s, -time_s]))
    for age_s in (0.0, 0.0123, 0.5, 1.25):
        measured = history.measured_at(times[-1] - age_s)
        np.testing.assert_allclose(measured, (times[-1] - age_s) * np.array([1.0, -1.0]), atol=1e-9)
        assert history.frame_near(times[-1] - age_s) is not None
    assert history.measured_at(times[-1] - 4.0) is None
    assert len(history.since(0.0)) <= 2.0 * rate_hz


def test_an_arm_with_other_joints_than_the_model_is_refused() -> None:
    other = dataclasses.replace(LIMITS, names=("x", "y"))
    with pytest.raises(ValueError, match=r"joints are \('x', 'y'\), the model was trained on \('a', 'b'\)"):
        Planner(PerfectModel(), other, PlanConfig(), clock=time.monotonic)


def test_a_planner_setting_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="elites is 100; it must be at most samples = 64"):
        PlanConfig(elites=100)
