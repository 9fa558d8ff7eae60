"""Frames that do not show what was imagined slow the arm, hold it, and let it go on when the world is calm."""

from __future__ import annotations

import numpy as np
import pytest
from test_planning import Arm, PerfectModel, calibrated, controller_for, run

from lewm_model.bundle.bundle import Calibration
from lewm_model.config import MonitorConfig
from lewm_model.monitoring.vigilance import Vigilance

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
    assert vigilance.alarm is not None and "3.0 times as strange" in vigilance.alarm
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
    controller = controller_for(arm, calibrated(PerfectModel(history)))
    assert controller.expectation.surprise() is None, "there is no frame yet"
    controller.set_goal(np.array([1.0, -1.0], np.float32))
    scores = []
    for _ in range(30):
        run(controller, arm, 0.05)
        score = controller.expectation.surprise()
        if score is not None:
            scores.append(score)
    assert len(scores) > 15
    assert np.abs(arm.position - [-1.5, 0.5]).max() > 0.5, "the arm has not moved"
    assert max(scores) < 1.0

    controller.set_goal(np.array([-1.5, 1.0], np.float32))
    frozen = arm.position.astype(np.float32)
    late = []
    for _ in range(12):  # the arm goes on, the picture does not
        controller.observe(arm.now_s, frozen)
        late.append(controller.expectation.surprise())
        arm.decision = controller.plan() or arm.decision
        arm.advance(0.05)
    assert max(score or 0.0 for score in late) > 100 * max(scores)


def test_frames_from_before_the_motion_was_known_surprise_nobody() -> None:
    arm = Arm(np.zeros(2))
    controller = controller_for(arm, calibrated(PerfectModel()))
    for _ in range(8):  # moved by hand: the timeline knows nothing of it
        controller.observe(arm.now_s, (arm.position + arm.now_s).astype(np.float32))
        arm.now_s += 0.05
    controller.start(arm.position)
    controller.observe(arm.now_s + 0.01, arm.position.astype(np.float32))
    assert controller.expectation.surprise() is None


def test_without_a_motion_an_arm_that_rests_is_expected() -> None:
    arm = Arm(np.ones(2))
    controller = controller_for(arm, calibrated(PerfectModel()))
    run(controller, arm, 0.5)
    controller.stop()
    for place in (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0):
        controller.observe(arm.now_s, np.full(2, place, np.float32))
        score = controller.expectation.surprise()
        assert score is not None and (score > 2.0) == (place == 2.0)
        arm.now_s += 0.05


def test_more_error_is_usual_where_more_change_is_imagined() -> None:
    calibration = Calibration(0.5, 1.0, (0.0, 1.0), (0.01, 0.11), 0.0, 1000)
    assert calibration.surprise(0.02, 0.0) == pytest.approx(2.0)
    assert calibration.surprise(0.02, 0.5) == pytest.approx(1 / 3)
    assert calibration.surprise(0.22, 5.0) == pytest.approx(2.0)


def test_a_bundle_that_is_not_calibrated_is_never_surprised() -> None:
    arm = Arm(np.zeros(2))
    controller = controller_for(arm)
    for _ in range(10):
        controller.observe(arm.now_s, np.full(2, arm.now_s, np.float32))
        arm.advance(0.05)
    assert controller.expectation.surprise() is None


@pytest.mark.parametrize("rate_hz", [8, 10, 15, 30])
def test_frames_are_judged_at_every_rate_of_a_camera(rate_hz: int) -> None:
    arm = Arm(np.array([-1.5, 0.5]))
    controller = controller_for(arm, calibrated(PerfectModel()))
    controller.set_goal(np.array([1.0, -1.0], np.float32))
    scores = []
    for _ in range(2 * rate_hz):
        controller.observe(arm.now_s, arm.position.astype(np.float32))
        scores.append(controller.expectation.surprise())
        for _ in range(10):
            arm.decision = controller.plan() or arm.decision
            arm.advance(0.1 / rate_hz)
    judged = [score for score in scores if score is not None]
    assert len(judged) > 1.5 * rate_hz
    assert max(judged) < 2.0


def test_a_hold_ends_only_when_the_picture_shows_the_arm_where_it_is() -> None:
    arm = Arm(np.array([-1.5, 0.5]))
    controller = controller_for(arm, calibrated(PerfectModel()))
    controller.set_goal(np.array([1.0, -1.0], np.float32))
    for _ in range(24):
        run(controller, arm, 0.05)
        controller.expectation.surprise()
    frozen = arm.position.astype(np.float32)
    assert controller.expectation.sees_the_arm()
    stop = controller.stop()
    assert stop is not None and np.abs(stop.positions[-1] - frozen).max() > 0.15
    arm.now_s = stop.times_s[-1] + 0.1
    vigilance = Vigilance()
    for frame in range(HOLD_FRAMES):
        vigilance.see(3.0, 0.05 * frame)
    for latent, sees in ((frozen, False), (stop.positions[-1], True), (frozen, False)):
        controller.measure(arm.now_s, stop.positions[-1])
        controller.observe(arm.now_s, latent.astype(np.float32))
        assert controller.expectation.sees_the_arm() is sees
        arm.now_s += 0.05
    vigilance.see(0.0, 5.0, controller.expectation.sees_the_arm)
    assert vigilance.alarm is not None, "the world is calm, but the picture is an old one"
    controller.expectation.trust(arm.now_s)
    vigilance.see(0.0, 5.1, controller.expectation.sees_the_arm)
    assert vigilance.alarm is None
