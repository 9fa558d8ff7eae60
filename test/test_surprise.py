# SPDX-License-Identifier: Apache-2.0
"""Frames that do not show what was imagined slow the arm, hold it, and let it go on when the world is calm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_planning import SPEC, Arm, PerfectModel, calibrated, planner_for, run

from lewm_model.bundle.bundle import Calibration, load_bundle
from lewm_model.config import MonitorConfig, PlanConfig, resource
from lewm_model.monitoring.vigilance import Vigilance
from lewm_model.planning.planner import Planner
from lewm_model.runtime.onnx_backend import OnnxRuntime
from lewm_model.sim.arm import ArmSim
from lewm_model.tasks.reach import ANYWHERE
from lewm_model.tasks.task import draw_trials, picture_of

CALM_S, HOLD_FRAMES = MonitorConfig().calm_s, MonitorConfig().hold_frames


def test_one_surprising_frame_slows_and_several_in_a_row_hold_until_the_world_is_calm() -> None:
    vigilance = Vigilance()
    vigilance.see(1.9, 0.0)
    assert not vigilance.slow(0.0) and vigilance.alarm is None
    vigilance.see(2.1, 0.05)
    assert vigilance.slow(0.05) and vigilance.alarm is None
    vigilance.see(0.5, 0.10)
    assert vigilance.slow(0.10) and not vigilance.slow(0.05 + CALM_S)
    for frame in range(HOLD_FRAMES):
        vigilance.see(3.0, 1.0 + 0.05 * frame)
    assert vigilance.alarm is not None and "3.0 times the calibrated limit" in vigilance.alarm
    vigilance.forget()
    assert vigilance.alarm is None and not vigilance.slow(1.2)
    for frame in range(HOLD_FRAMES):
        vigilance.see(3.0, 1.0 + 0.05 * frame)
    last_s = 1.0 + 0.05 * (HOLD_FRAMES - 1)
    vigilance.see(0.1, last_s + 0.9 * CALM_S)
    assert vigilance.alarm is not None
    vigilance.see(0.1, last_s + 1.1 * CALM_S)
    assert vigilance.alarm is None and not vigilance.slow(last_s + 1.1 * CALM_S)


@pytest.mark.parametrize("history", [1, 3])
def test_a_world_that_does_what_is_imagined_does_not_surprise_and_one_that_does_not_does(history: int) -> None:
    arm = Arm(np.array([-1.5, 0.5]))
    planner = planner_for(arm, calibrated(PerfectModel(history)))
    assert planner.expectation.surprise() is None, "there is no frame yet"
    planner.set_goal(np.array([1.0, -1.0], np.float32))
    scores = []
    for _ in range(30):
        run(planner, arm, 0.05)
        score = planner.expectation.surprise()
        if score is not None:
            scores.append(score)
    assert len(scores) > 15
    assert np.abs(arm.position - [-1.5, 0.5]).max() > 0.5, "the arm has not moved"
    assert max(scores) < 1.0

    planner.set_goal(np.array([-1.5, 1.0], np.float32))
    frozen = arm.position.astype(np.float32)
    late = []
    for _ in range(12):  # the arm goes on, the picture does not
        planner.observe(arm.now_s, frozen)
        late.append(planner.expectation.surprise())
        arm.decision = planner.plan() or arm.decision
        arm.advance(0.05)
    assert max(score or 0.0 for score in late) > 100 * max(scores)


def test_a_slow_arm_before_a_frozen_camera_surprises_though_the_model_would_not_notice() -> None:
    arm = Arm(np.zeros(2))
    planner = planner_for(arm, calibrated(PerfectModel(), error=1.0))  # errors of a radian are usual

    def watch(pictures: list[np.ndarray]) -> float:
        for number, picture in enumerate(pictures):
            planner.measure(arm.now_s, np.array([0.005 * number, 0.0]))  # a fifteenth of full speed
            planner.observe(arm.now_s, picture)
            arm.now_s += 0.05
        return planner.expectation.surprise() or 0.0

    still, moving = np.zeros(2, np.float32), [np.full(2, 1e-6 * i, np.float32) for i in range(8)]
    assert watch(moving) < 1.0, "the least change of the picture is one"
    assert watch([still] * 8) > 2.0


def test_frames_from_before_the_motion_was_known_surprise_nobody() -> None:
    arm = Arm(np.zeros(2))
    planner = planner_for(arm, calibrated(PerfectModel()))
    for _ in range(8):  # moved by hand: the timeline knows nothing of it
        planner.observe(arm.now_s, (arm.position + arm.now_s).astype(np.float32))
        arm.now_s += 0.05
    planner.start(arm.position)
    planner.observe(arm.now_s + 0.01, arm.position.astype(np.float32))
    assert planner.expectation.surprise() is None


def test_without_a_motion_an_arm_that_rests_is_expected() -> None:
    arm = Arm(np.ones(2))
    planner = planner_for(arm, calibrated(PerfectModel()))
    run(planner, arm, 0.5)
    planner.stop()
    for place in (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0):
        planner.observe(arm.now_s, np.full(2, place, np.float32))
        score = planner.expectation.surprise()
        assert score is not None and (score > 2.0) == (place == 2.0)
        arm.now_s += 0.05


@pytest.mark.parametrize("history", [1, 3])
def test_an_arm_that_brakes_as_it_is_told_does_not_surprise_and_one_that_goes_on_does(history: int) -> None:
    for brakes in (True, False):
        arm = Arm(np.array([-1.5, 0.5]))
        planner = planner_for(arm, calibrated(PerfectModel(history)))
        planner.set_goal(np.array([2.0, -1.0], np.float32))
        run(planner, arm, 1.0)
        stop = planner.stop()
        assert stop is not None and np.abs(stop.velocities[0]).max() > 1.2 and not planner.active
        scores = []
        for time_s in np.arange(arm.now_s, stop.times_s[-1] + 1.0, 0.05):
            arm.now_s = time_s
            arm.position = stop.sample(np.array([time_s])).positions[0]
            if not brakes:
                arm.position = stop.positions[0] + (time_s - stop.times_s[0]) * stop.velocities[0]
            planner.observe(time_s, arm.position.astype(np.float32))
            scores.append(planner.expectation.surprise() or 0.0)
        assert (max(scores) < 1.0) == brakes


def test_stops_from_full_speed_do_not_surprise_the_shipped_model() -> None:
    runtime, tried = OnnxRuntime(load_bundle(resource("models", "reach"))), 0
    with ArmSim() as sim:
        for number, trial in enumerate(draw_trials(ANYWHERE, 20, 5, sim)):
            goal = runtime.encode(picture_of(trial.goal, sim, runtime.bundle.observation))
            sim.put(trial.start)
            planner = Planner(runtime, sim.limits, PlanConfig(), clock=lambda: sim.time_s)
            planner.set_goal(goal)
            planner.start(sim.joint_positions())
            stop_s, stop, scores = 0.5 + 0.02 * number, None, []
            while stop is None or sim.time_s < stop.times_s[-1] + 0.5:
                planner.observe(sim.time_s, runtime.encode(sim.picture(runtime.bundle.observation)))
                scores.append(planner.expectation.surprise() or 0.0)
                motion = None
                if stop is None and sim.time_s >= stop_s:
                    motion = stop = planner.stop()
                    scores.clear()
                    if stop is None or np.abs(stop.velocities[0]).max() < 1.2:
                        break
                elif stop is None:
                    decision = planner.plan()
                    motion = decision and decision.trajectory
                if motion is not None:
                    start_s = motion.times_s[0]
                    sim.set_trajectory(motion.times_s - start_s, motion.positions, motion.velocities, start_s)
                sim.step(sim.control_dt_s)
            else:
                tried += 1
                assert max(scores) < MonitorConfig().surprising
    assert tried >= 8


def test_what_is_imagined_but_not_finite_is_surprising() -> None:
    arm = Arm(np.zeros(2))
    planner = planner_for(arm, calibrated(PerfectModel()))
    run(planner, arm, 0.5)
    rollout = planner.runtime.rollout
    planner.runtime.rollout = lambda *arguments: tuple(np.nan * each for each in rollout(*arguments))
    run(planner, arm, 0.05)
    assert planner.expectation.surprise() == np.inf


def test_more_error_is_usual_where_more_change_is_imagined() -> None:
    calibration = Calibration(0.5, 1.0, (0.0, 1.0), (0.01, 0.11), 0.0, 1000)
    assert calibration.surprise(0.02, 0.0) == pytest.approx(2.0)
    assert calibration.surprise(0.02, 0.5) == pytest.approx(1 / 3)
    assert calibration.surprise(0.22, 5.0) == pytest.approx(2.0)


def test_a_bundle_that_is_not_calibrated_is_never_surprised() -> None:
    arm = Arm(np.zeros(2))
    planner = planner_for(arm)
    for _ in range(10):
        planner.observe(arm.now_s, np.full(2, arm.now_s, np.float32))
        arm.advance(0.05)
    assert planner.expectation.surprise() is None


@pytest.mark.parametrize("rate_hz", [8, 10, 15, 30])
def test_frames_are_judged_at_every_rate_of_a_camera(rate_hz: int) -> None:
    arm = Arm(np.array([-1.5, 0.5]))
    planner = planner_for(arm, calibrated(PerfectModel()))
    planner.set_goal(np.array([1.0, -1.0], np.float32))
    scores = []
    for _ in range(2 * rate_hz):
        planner.observe(arm.now_s, arm.position.astype(np.float32))
        scores.append(planner.expectation.surprise())
        for _ in range(10):
            arm.decision = planner.plan() or arm.decision
            arm.advance(0.1 / rate_hz)
    judged = [score for score in scores if score is not None]
    assert len(judged) > 1.5 * rate_hz
    assert max(judged) < 2.0


class PerfectProposer(PerfectModel):
    """With the head that says which way leads from one latent to another."""

    def __init__(self) -> None:
        super().__init__()
        self.bundle = replace(self.bundle, heads=("displacement", "proposal"))

    def propose(self, latents: np.ndarray, goal: np.ndarray, steps_to_go: np.ndarray) -> np.ndarray:
        velocity = (goal - latents[0]) / (steps_to_go[0] * SPEC.control_dt_s)
        return ((np.tile(velocity, SPEC.frameskip) - np.tile(SPEC.mean, 5)) / np.tile(SPEC.std, 5))[None]


def test_a_hold_ends_only_when_the_picture_shows_the_arm_where_it_is() -> None:
    arm = Arm(np.array([-1.5, 0.5]))
    planner = planner_for(arm, calibrated(PerfectProposer()))
    planner.set_goal(np.array([1.0, -1.0], np.float32))
    for _ in range(24):
        run(planner, arm, 0.05)
        planner.expectation.surprise()
    frozen = arm.position.astype(np.float32)
    assert planner.expectation.sees_the_arm()
    stop = planner.stop()
    assert stop is not None and np.abs(stop.positions[-1] - frozen).max() > 0.15
    arm.now_s = stop.times_s[-1] + 0.1
    vigilance = Vigilance()
    for frame in range(HOLD_FRAMES):
        vigilance.see(3.0, 0.05 * frame)
    # As far from where the arm was, but the other way.
    elsewhere = frozen - (stop.positions[-1] - frozen)
    assert np.abs(elsewhere - stop.positions[-1]).max() > 0.3
    for latent, sees in ((frozen, False), (stop.positions[-1], True), (elsewhere, False), (frozen, False)):
        planner.measure(arm.now_s, stop.positions[-1])
        planner.observe(arm.now_s, latent.astype(np.float32))
        assert planner.expectation.sees_the_arm() is sees
        arm.now_s += 0.05
    vigilance.see(0.0, 5.0, planner.expectation.sees_the_arm)
    assert vigilance.alarm is not None, "the world is calm, but the picture is an old one"
    assert planner.expectation.calibration is not None
    planner.expectation.calibration = replace(planner.expectation.calibration, way_errors=(9.0, 9.0))
    assert planner.expectation.sees_the_arm(), "such a difference is usual"
    planner.expectation.calibration = replace(planner.expectation.calibration, way_errors=(0.1, 9.0))
    assert not planner.expectation.sees_the_arm(), "but not in this joint"
    planner.expectation.trust(arm.now_s)
    vigilance.see(0.0, 5.1, planner.expectation.sees_the_arm)
    assert vigilance.alarm is None
