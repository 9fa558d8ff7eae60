# SPDX-License-Identifier: Apache-2.0
"""The shield: what goes out respects every limit and is continuous with what went out before, whatever comes in."""

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lewm_model.config import resource
from lewm_model.planning.motion import KnotLimits, Timeline, Trajectory
from lewm_model.robot.chain import Chain, Workspace
from lewm_model.robot.limits import JointLimits
from lewm_ros.safety import (
    CUBIC_RAD,
    CUBIC_SHARE,
    Reason,
    Shield,
    ShieldConfig,
    State,
    find_violation,
    state_at,
)

LIMITS = JointLimits(
    ("shoulder", "elbow"),
    np.array([-2.6, -1.0]),
    np.array([2.6, 2.0]),
    np.array([1.5, 1.0]),
    np.array([9.0, 6.0]),
    np.array([150.0, 100.0]),
)
BLOCK_S = 0.25
seeds = st.integers(0, 2**32 - 1)


def random_motion(seed: int, blocks: int = 8, step_s: float = 0.05, phase: float = 0.0) -> Trajectory:
    """A motion as the planner makes it: random feasible knots from a random rest, and a smooth stop."""
    rng = np.random.default_rng(seed)
    knots = KnotLimits(LIMITS, BLOCK_S)
    start = rng.uniform(LIMITS.lower, LIMITS.upper)
    timeline = Timeline(0.0, start, knots)
    wanted = rng.normal(size=(1, blocks, 2)) * 3 * LIMITS.velocity
    timeline.splice(0, knots.project(start, np.zeros(2), wanted)[0])
    count = int(np.ceil(timeline.end_s / step_s)) + 2
    motion = timeline.sample(phase * step_s + step_s * np.arange(count))
    return motion


# ---- one trajectory by itself ----------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(seeds, st.sampled_from([0.01, 0.02, 0.05]), st.floats(0, 1))
def test_every_motion_within_the_limits_passes_however_it_is_sampled(seed, step_s, phase):
    assert find_violation(random_motion(seed, step_s=step_s, phase=phase), LIMITS) is None


@settings(max_examples=200, deadline=None)
@given(seeds, st.sampled_from(["times_s", "positions", "velocities"]), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_not_a_number_anywhere_is_found(seed, field, value):
    motion = random_motion(seed)
    values = getattr(motion, field).copy()
    values.flat[np.random.default_rng(seed).integers(values.size)] = value
    violation = find_violation(dataclasses.replace(motion, **{field: values}), LIMITS)
    assert violation is not None
    assert violation.reason is Reason.NOT_FINITE


@pytest.mark.parametrize(
    ("factor", "reasons"),
    [
        (1.01, {Reason.VELOCITY}),
        (3.0, {Reason.VELOCITY, Reason.ACCELERATION, Reason.JERK}),
    ],
)
def test_a_motion_played_faster_than_the_limits_is_found(factor, reasons):
    # Full speed for a while, in the middle of the range.
    knots = KnotLimits(LIMITS, BLOCK_S)
    timeline = Timeline(0.0, np.array([-1.0, 0.0]), knots)
    timeline.splice(0, np.tile([1.5, 0.0], (4, 1)))
    motion = timeline.sample(0.02 * np.arange(75))
    assert find_violation(motion, LIMITS) is None
    faster = Trajectory(motion.times_s / factor, motion.positions, motion.velocities * factor)
    violation = find_violation(faster, LIMITS)
    assert violation is not None
    assert violation.reason in reasons
    assert "shoulder" in violation.text


def test_each_limit_is_named_with_joint_value_and_limit():
    times = 0.02 * np.arange(101)

    def violation(position: np.ndarray, velocity: np.ndarray, limits: JointLimits = LIMITS):
        zero = np.zeros_like(times)
        return find_violation(Trajectory(times, np.stack([zero, position], 1), np.stack([zero, velocity], 1)), limits)

    u = times / 2.0
    ramp = 2.5 * (10 * u**3 - 15 * u**4 + 6 * u**5)  # smooth from 0 to 2.5 rad in 2 s
    speed = 2.5 * (30 * u**2 - 60 * u**3 + 30 * u**4) / 2.0
    wide = dataclasses.replace(LIMITS, velocity=np.array([5.0, 5.0]))
    found = violation(ramp, speed, wide)
    assert found.reason is Reason.POSITION
    assert "'elbow'" in found.text
    assert "2.5 rad" in found.text
    wide = dataclasses.replace(LIMITS, upper=np.array([9.0, 9.0]))
    found = violation(ramp, speed, wide)
    assert found.reason is Reason.VELOCITY
    assert "1 is allowed" in found.text
    assert violation(0.7 * ramp, 0.7 * speed, dataclasses.replace(wide, velocity=np.array([2.0, 2.0]))) is None
    tight = dataclasses.replace(wide, velocity=np.array([9.0, 9.0]), acceleration=np.array([1.0, 1.0]))
    assert violation(ramp, speed, tight).reason is Reason.ACCELERATION
    tight = dataclasses.replace(wide, velocity=np.array([9.0, 9.0]), jerk=np.array([5.0, 5.0]))
    assert violation(ramp, speed, tight).reason is Reason.JERK


def test_times_that_do_not_increase_or_lie_far_apart_are_found():
    motion = random_motion(0)
    for times in (motion.times_s[::-1], np.zeros_like(motion.times_s), 4 * motion.times_s):
        assert find_violation(dataclasses.replace(motion, times_s=times), LIMITS).reason is Reason.TIMES
    short = Trajectory(motion.times_s[:1], motion.positions[:1], motion.velocities[:1])
    assert find_violation(short, LIMITS).reason is Reason.TIMES
    other_arm = Trajectory(motion.times_s, motion.positions[:, :1], motion.velocities[:, :1])
    assert find_violation(other_arm, LIMITS).reason is Reason.TIMES


def test_a_motion_that_does_not_end_at_rest_is_found():
    motion = random_motion(3)
    moving = int(np.abs(motion.velocities).max(1).argmax()) + 1
    cut = Trajectory(motion.times_s[:moving], motion.positions[:moving], motion.velocities[:moving])
    assert find_violation(cut, LIMITS).reason is Reason.NO_STOP


def test_positions_that_jump_while_velocities_say_rest_are_found():
    times = 0.02 * np.arange(10)
    positions = np.zeros((10, 2))
    positions[5:, 0] = 0.01
    assert find_violation(Trajectory(times, positions, np.zeros((10, 2))), LIMITS) is not None


@settings(max_examples=500, deadline=None)
@given(seeds, st.floats(0, 1), st.sampled_from(["positions", "velocities", "times_s"]))
def test_whatever_passes_keeps_position_and_velocity_limits_between_the_points_too(seed, size, field):
    rng = np.random.default_rng(seed)
    motion = random_motion(seed, blocks=4)
    values = getattr(motion, field).copy()
    scale = size**6 * 10.0  # from nothing to absurd
    values += rng.normal(size=values.shape) * scale * (rng.random(values.shape) < 0.2)
    motion = dataclasses.replace(motion, **{field: values})
    assume(find_violation(motion, LIMITS) is None)
    for time in np.linspace(motion.times_s[0], motion.times_s[-1], 400):
        position, velocity = state_at(motion, time)
        assert (position <= LIMITS.upper + CUBIC_RAD + 1e-6).all()
        assert (position >= LIMITS.lower - CUBIC_RAD - 1e-6).all()
        assert (np.abs(velocity) <= LIMITS.velocity * (1 + CUBIC_SHARE) + 1e-5).all()


# ---- the shield over time --------------------------------------------------------------------------------------------


class World:
    """A shield whose clocks the test sets, and an arm that follows what the shield lets through."""

    def __init__(self, workspace: Workspace | None = None, needs_deadman: bool = False, **config) -> None:
        self.now, self.jumped = 100.0, 0.0
        self.shield = Shield(
            LIMITS,
            ShieldConfig(**config),
            clock=lambda: self.now,
            steady=lambda: 7.0 + self.now - self.jumped,
            workspace=workspace,
            needs_deadman=needs_deadman,
        )
        self.position = np.array([0.2, 0.1])
        self.commanded: Trajectory | None = None

    def live(self, seconds: float = 0.0, frames: bool = True, joints: bool = True, step_s: float = 0.02) -> None:
        """Lets time pass, with fresh frames and joint states unless told otherwise."""
        for _ in range(max(1, round(seconds / step_s))):
            self.now += step_s if seconds else 0.0
            if self.commanded is not None:
                self.position = state_at(self.commanded, self.now)[0]
            if frames:
                self.shield.frame(self.now - 0.03)
            if joints:
                self.shield.joints(self.position, self.now)
            self.shield.watch()

    def armed_only(self) -> "World":
        self.live(0.04)
        assert self.shield.arm() is None
        return self

    def armed(self) -> "World":
        self.armed_only()
        assert self.shield.restart() is not None
        return self

    def motion(self, *knots: tuple[float, float], start: np.ndarray | None = None) -> Trajectory:
        timeline = Timeline(self.now, self.position if start is None else start, KnotLimits(LIMITS, BLOCK_S))
        timeline.splice(0, np.array(knots))
        return timeline.sample(self.now - 0.05 + 0.05 * np.arange(round((timeline.end_s - self.now) / 0.05) + 3))

    def send(self, motion: Trajectory):
        refusal = self.shield.release(motion, self.now - 0.05)
        if refusal is None:
            self.commanded = motion
        return refusal


def test_nothing_goes_out_before_it_is_armed_and_arming_needs_frames_and_joint_states():
    world = World()
    assert world.shield.state is State.DISARMED
    assert "no fresh camera frame" in world.shield.arm()
    world.shield.frame(world.now)
    assert "no fresh joint state" in world.shield.arm()
    world.shield.joints(world.position, world.now)
    assert world.send(world.motion((0.5, 0.0))).reason is Reason.NOT_ARMED
    assert world.shield.arm() is None
    assert world.send(world.motion((0.5, 0.0))).reason is Reason.NOT_ARMED, "nothing says where it starts"
    assert world.shield.restart() is None, "one joint state might be wrong"
    world.live()
    np.testing.assert_array_equal(world.shield.restart(), world.position)
    assert world.send(world.motion((0.5, 0.0))) is None
    world.shield.disarm()
    assert world.send(world.motion((0.5, 0.0))).reason is Reason.NOT_ARMED
    assert world.shield.interventions[Reason.NOT_ARMED] == 3


def test_an_arm_outside_its_limits_is_not_armed():
    world = World()
    world.position = np.array([0.0, 2.2])
    world.live()
    assert "'elbow' is at 2.200 rad, outside its limits" in world.shield.arm()


def test_a_stop_latches_until_reset_and_then_stays_disarmed():
    world = World().armed()
    world.shield.stop("the button was pressed")
    assert world.shield.state is State.STOPPED
    assert "button" in world.shield.message
    assert "reset first" in world.shield.arm()
    assert world.send(world.motion((0.5, 0.0))).reason is Reason.NOT_ARMED
    world.shield.reset()
    assert world.shield.state is State.DISARMED
    assert world.shield.arm() is None


def test_a_stale_frame_or_joint_state_holds_and_lets_go_by_itself():
    for source, reason in (("frames", Reason.STALE_FRAME), ("joints", Reason.STALE_JOINTS)):
        world = World().armed()
        world.live(1.0)
        assert world.shield.state is State.ARMED
        world.live(0.6, **{source: False})
        assert world.shield.state is State.HOLDING
        assert world.shield.restart() is None
        assert world.send(world.motion((0.5, 0.0))).reason is reason
        world.live(0.1)
        assert world.shield.state is State.ARMED
        assert world.shield.restart() is not None
        assert world.shield.interventions[reason] == 2, "one hold, one refused plan"


def test_a_frozen_camera_that_repeats_its_old_stamp_counts_as_stale():
    world = World().armed()
    old = world.now
    for _ in range(60):
        world.now += 0.02
        world.shield.frame(old)
        world.shield.joints(world.position, world.now)
        world.shield.watch()
    assert world.shield.state is State.HOLDING


def test_a_plan_from_an_old_frame_is_held_back():
    world = World().armed()
    assert world.shield.release(world.motion((0.5, 0.0)), world.now - 1.0).reason is Reason.STALE_PLAN
    assert world.shield.release(world.motion((0.5, 0.0)), float("nan")).reason is Reason.STALE_PLAN


def test_a_motion_from_rest_must_start_where_the_arm_was_told_to_be_and_is():
    world = World().armed()
    assert world.send(world.motion((0.5, 0.0), start=world.position + 0.01)).reason is Reason.JUMP
    told = world.position
    world.position = told + 0.08  # pushed, not far enough for the tracking check
    world.live()
    refusal = world.send(world.motion((0.5, 0.0), start=told))
    assert refusal.reason is Reason.JUMP
    assert "0.080 rad from where the arm is" in refusal.text
    world.live()
    np.testing.assert_array_equal(world.shield.restart(), world.position)
    assert world.send(world.motion((0.5, 0.0))) is None


def test_rearming_while_a_stop_still_moves_the_arm_waits_for_its_end():
    world = World().armed()
    assert world.send(world.motion((1.0, 0.5))) is None
    world.live(0.1)
    world.shield.disarm()
    assert world.shield.arm() is None
    assert world.shield.restart() is None
    assert world.send(world.motion((0.5, 0.0))).reason is Reason.JUMP
    world.live(1.0)
    assert world.shield.restart() is not None


def test_an_arm_that_was_moved_while_disarmed_starts_from_there():
    world = World().armed()
    assert world.send(world.motion((1.0, 0.5))) is None
    world.live(1.0)
    world.shield.disarm()
    world.commanded, world.position = None, np.array([-1.0, 1.0])
    world.live(0.1)
    assert world.shield.arm() is None
    world.live(0.1)
    assert world.shield.state is State.ARMED
    np.testing.assert_array_equal(world.shield.restart(), [-1.0, 1.0])


def test_a_new_motion_must_go_on_from_the_one_before():
    world = World().armed()
    knots = KnotLimits(LIMITS, BLOCK_S)
    timeline = Timeline(world.now, world.position, knots)
    timeline.splice(0, np.array([[1.0, 0.5], [1.0, 0.5]]))
    first = timeline.sample(world.now + 0.05 * np.arange(25))
    assert world.send(first) is None
    world.live(0.3)
    timeline.splice(2, np.array([[0.2, -0.5]]))  # what lies before the hand-over stays as it is
    assert world.send(timeline.sample(world.now - 0.05 + 0.05 * np.arange(25))) is None
    world.live(0.1)
    assert world.send(world.motion((0.5, 0.0))).reason is Reason.JUMP, "starts at rest while the arm moves"


def test_a_single_joint_state_that_is_far_off_is_no_place_to_start_from():
    world = World()
    world.live(0.1)
    assert world.shield.arm() is None
    world.shield.joints(world.position + 1.0, world.now)
    assert world.shield.restart() is None
    world.live()
    assert world.shield.restart() is None, "still unlike the one before"
    world.live()
    np.testing.assert_array_equal(world.shield.restart(), world.position)


def test_a_motion_that_begins_later_is_held_back():
    world = World().armed()
    motion = world.motion((0.5, 0.0))
    refusal = world.send(dataclasses.replace(motion, times_s=motion.times_s + 3600.0))
    assert refusal.reason is Reason.TIMES
    assert "begins in 3.6e+03 s" in refusal.text


def test_an_arm_that_does_not_follow_latches_the_stop():
    world = World().armed()
    assert world.send(world.motion((1.0, 0.5), (1.0, 0.5), (1.0, 0.5))) is None
    world.commanded = None  # something holds the arm
    world.live(0.6)
    assert world.shield.state is State.STOPPED
    assert "look whether something blocks the arm" in world.shield.message
    assert world.shield.interventions[Reason.TRACKING] == 1


def test_joint_states_whose_stamp_stands_still_hold_the_arm_and_blame_nothing_for_blocking_it():
    world = World().armed()
    motion = world.motion((1.5, 0.0), (1.5, 0.0), (1.5, 0.0))
    assert world.send(motion) is None
    world.live(0.2)
    stamp_s = world.now
    for _ in range(30):
        world.now += 0.02
        world.shield.frame(world.now)
        world.shield.joints(state_at(motion, world.now)[0], stamp_s)
        world.shield.watch()
    assert world.shield.state is State.HOLDING
    assert "look at the clocks" in world.shield.message


def test_an_arm_that_missed_its_first_command_gets_no_second_one_to_race_after():
    world = World().armed()
    first = world.motion((1.5, 0.0), (1.5, 0.0))
    assert world.send(first) is None
    world.commanded = None  # its controller was not there yet
    world.live(0.19)
    assert world.shield.state is State.ARMED, "not far enough off to latch the stop"
    refusal = world.shield.release(first, world.now - 0.05)
    assert refusal is not None and refusal.reason is Reason.TRACKING
    stop = Trajectory(*(values[1:] for values in (first.times_s, first.positions, first.velocities)))
    assert world.shield.release(stop) is None, "a stop is not held back"


def test_a_joint_state_that_comes_late_is_compared_with_what_was_commanded_at_its_stamp():
    world = World().armed()
    motion = world.motion((1.5, 0.0), (1.5, 0.0), (1.5, 0.0))
    assert world.send(motion) is None
    world.live(0.6)
    timeline = Timeline(motion.times_s[1], motion.positions[1], KnotLimits(LIMITS, BLOCK_S))
    timeline.splice(0, np.array([(1.5, 0.0)] * 3))
    stop = timeline.stop(world.now, world.now + 0.03)
    assert world.shield.release(stop) is None
    late_s = 0.2
    world.shield.joints(state_at(motion, world.now - late_s)[0], world.now - late_s)
    assert world.shield.state is State.ARMED, world.shield.message


def test_joint_states_with_stamps_far_off_do_not_count_and_the_clocks_are_named():
    world = World().armed()
    for _ in range(20):
        world.live(0.02, joints=False)
        world.shield.joints(world.position, world.now + 100.0)
    assert world.shield.state is State.HOLDING
    assert "the newest has a stamp 100.00 s ahead: look at the clocks" in world.shield.message
    world.live(0.1)
    assert world.shield.state is State.ARMED


def test_a_measured_position_that_is_not_a_number_does_not_count_as_fresh():
    world = World().armed()
    for _ in range(20):
        world.now += 0.02
        world.shield.frame(world.now)
        world.shield.joints(np.array([np.nan, 0.0]), world.now)
        world.shield.watch()
    assert world.shield.state is State.HOLDING
    assert "joint state" in world.shield.message


def test_a_stop_needs_no_arming_but_every_other_check():
    world = World().armed()
    assert world.send(world.motion((1.0, 0.5))) is None
    world.live(0.1)
    world.shield.stop("now")
    assert world.shield.release(world.motion((0.1, 0.0))).reason is Reason.JUMP
    assert world.shield.release(world.commanded) is None


def test_restarting_waits_until_the_motion_has_ended():
    world = World().armed()
    assert world.send(world.motion((1.0, 0.5))) is None
    world.live(0.2)
    assert world.shield.restart() is None
    world.live(1.0)
    np.testing.assert_allclose(world.shield.restart(), world.position)


def test_what_is_to_be_a_stop_must_not_last_longer_than_the_plan_that_it_ends():
    world = World().armed()
    assert world.send(world.motion((1.0, 0.5))) is None
    world.live(0.1)
    world.shield.disarm()
    timeline = Timeline(world.now - 0.1, world.commanded.positions[1], KnotLimits(LIMITS, BLOCK_S))
    timeline.splice(0, np.array([[1.0, 0.5], [1.0, 0.5]]))  # goes on for a block
    longer = timeline.sample(world.now - 0.05 + 0.05 * np.arange(25))
    refusal = world.shield.release(longer)
    assert refusal.reason is Reason.NO_STOP
    assert "the stop ends 0.20 s after the motion that it is to end" in refusal.text
    assert world.shield.release(world.commanded) is None


def test_a_stop_of_an_arm_at_rest_may_say_that_it_rests():
    world = World().armed()
    world.live(1.0)
    still = Trajectory(world.now + np.array([0.0, 0.05]), np.tile(world.position, (2, 1)), np.zeros((2, 2)))
    assert world.shield.release(still) is None


@settings(max_examples=200, deadline=None)
@given(seeds, st.floats(0.02, 1.0), st.floats(0.0, 3.0), st.floats(0.0, 0.005))
def test_the_stop_that_does_not_wait_for_a_knot_is_let_through_from_anywhere(seed, speed, moment, delay_s):
    """Down to a fiftieth of full speed, where the cubics between the points overshoot most."""
    rng = np.random.default_rng(seed)
    slow = dataclasses.replace(LIMITS, velocity=speed * LIMITS.velocity)
    world = World().armed()
    world.shield.limits = slow
    timeline = Timeline(world.now + 0.1, world.position, KnotLimits(slow, BLOCK_S))
    wanted = rng.normal(size=(1, 8, 2)) * 3 * slow.velocity
    timeline.splice(0, timeline.limits.project(world.position, np.zeros(2), wanted)[0])
    count = int(np.ceil((timeline.end_s - world.now) / 0.05)) + 2
    assert world.send(timeline.sample(world.now - 0.05 + 0.05 * np.arange(count))) is None  # as a plan is sampled
    world.now += moment
    world.live()
    stop = timeline.stop(world.now, world.now + 0.03)
    world.now += delay_s  # until the shield looks
    assert world.shield.release(stop) is None


# ---- the dead-man's button, surprise and clock -----------------------------------------------------------------------


def test_the_arm_holds_unless_the_deadmans_button_is_pressed_and_heard_of():
    world = World(needs_deadman=True).armed_only()
    assert world.shield.state is State.HOLDING
    assert world.shield.message == "holding: the dead-man's button is not pressed"
    assert world.shield.restart() is None
    world.shield.deadman(True)
    assert world.shield.state is State.ARMED
    assert world.shield.restart() is not None
    assert world.send(world.motion((0.5, 0.0))) is None

    world.shield.deadman(False)
    assert world.shield.state is State.HOLDING
    assert world.send(world.motion((0.5, 0.0))).reason is Reason.DEADMAN
    world.live(1.0)
    world.shield.deadman(True)
    assert world.shield.state is State.ARMED
    world.live(0.4)
    assert world.shield.state is State.ARMED
    world.live(0.2)  # joystick unplugged
    assert world.shield.state is State.HOLDING
    assert "nothing has been heard of the dead-man's button for 0.60 s" in world.shield.message
    world.shield.deadman(False)
    world.live(0.2)
    assert world.shield.interventions[Reason.DEADMAN] == 4, "three holds and one refused plan"


def test_the_deadmans_button_does_not_matter_unless_it_is_asked_for():
    world = World().armed()
    world.shield.deadman(False)
    world.live(1.0)
    assert world.shield.state is State.ARMED


def test_a_surprise_holds_and_lets_go_by_itself_and_counts_once():
    world = World().armed()
    for score in (3, 4, 5):
        world.shield.surprise(f"the picture is {score} times as strange as usual")
        world.live(0.1)
    assert world.shield.state is State.HOLDING
    assert world.shield.message == "holding: surprise: the picture is 5 times as strange as usual"
    assert world.shield.interventions[Reason.SURPRISE] == 1
    assert world.send(world.motion((0.5, 0.0))).reason is Reason.SURPRISE
    world.shield.surprise(None)
    assert world.shield.state is State.ARMED
    world.shield.surprise("again")
    assert world.shield.interventions[Reason.SURPRISE] == 3


def test_a_surprised_shield_can_be_armed_and_then_holds():
    world = World()
    world.shield.surprise("a hand")
    world.live(0.1)
    assert world.shield.interventions[Reason.SURPRISE] == 0, "nothing to intervene in"
    assert world.shield.arm() is None
    assert world.shield.state is State.HOLDING
    assert world.shield.interventions[Reason.SURPRISE] == 1
    world.shield.surprise(None)
    assert world.shield.state is State.ARMED


def test_the_arm_holds_while_nobody_takes_its_commands():
    world = World().armed()
    world.shield.unheard("no controller takes the commands on /arm")
    assert world.shield.state is State.HOLDING
    assert world.shield.message == "holding: no controller takes the commands on /arm"
    assert world.send(world.motion((0.5, 0.0))).reason is Reason.NO_CONTROLLER
    assert world.shield.restart() is None
    world.shield.unheard(None)
    assert world.shield.state is State.ARMED
    assert world.shield.restart() is not None


def test_a_motion_starts_where_the_arm_was_measured_after_the_last_one_and_not_on_the_way():
    world = World().armed()
    assert world.send(world.motion((0.5, 0.0), (0.5, 0.0))) is None
    world.live(0.4)
    on_the_way = world.position
    while not world.shield.at_rest():
        world.live(0.02, joints=False)
        world.shield.joints(on_the_way, world.now - 0.2)  # the same state again and again, as old as it may be
    assert world.shield.restart() is None
    world.live(0.04)
    np.testing.assert_array_equal(world.shield.restart(), world.position)
    assert np.abs(world.position - on_the_way).max() > 0.1


def test_every_cause_to_hold_is_named_and_counted():
    world = World(needs_deadman=True).armed_only()
    world.shield.surprise("a hand")
    world.live(0.6, frames=False)
    assert "camera frame" in world.shield.message
    assert "; the dead-man's button is not pressed; surprise: a hand" in world.shield.message
    counted = world.shield.interventions
    assert [counted[reason] for reason in (Reason.STALE_FRAME, Reason.DEADMAN, Reason.SURPRISE)] == [1, 1, 1]
    world.shield.surprise(None)
    world.shield.deadman(True)
    assert world.shield.state is State.HOLDING
    world.live()
    assert world.shield.state is State.ARMED


@pytest.mark.parametrize("jump", [-5.0, -0.1, 0.5, 1000.0])
def test_a_clock_that_jumps_latches_the_stop_and_the_arm_counts_as_moving_until_it_rests(jump):
    world = World().armed()
    assert world.send(world.motion((1.0, 0.5))) is None
    world.live(0.1)
    world.now += jump
    world.jumped += jump
    assert world.shield.release(world.motion((1.0, 0.5)), world.now).reason is Reason.NOT_ARMED
    assert world.shield.state is State.STOPPED
    assert f"jumped by {jump:.2f} s" in world.shield.message
    assert world.shield.interventions[Reason.CLOCK] == 1
    world.commanded = dataclasses.replace(world.commanded, times_s=world.commanded.times_s + jump)
    world.shield.reset()
    world.live()
    assert world.shield.arm() is None
    assert world.shield.restart() is None, "still moves"
    world.live(1.0)
    assert world.shield.restart() is not None


def test_a_clock_that_is_slower_than_time_does_not_jump():
    world = World().armed()  # a simulation that runs at half speed, and stalls
    for step_s in (*[0.02] * 100, 0.4, *[0.02] * 10):
        world.jumped -= step_s / 2
        world.live(step_s, step_s=step_s)
        world.live(0.02)
    assert world.shield.state is State.ARMED


# ---- the workspace ---------------------------------------------------------------------------------------------------


def box(lower=(-0.6, -0.6, 0.0), upper=(0.6, 0.6, 0.2)) -> Workspace:
    chain = Chain.from_urdf(resource("config", "arms", "tabletop.urdf"), "base", "end_effector", LIMITS.names)
    return Workspace(chain, lower, upper)


def test_a_plan_that_takes_a_link_out_of_the_workspace_is_held_back():
    world = World(workspace=box()).armed()
    assert world.send(world.motion((1.5, 1.0), (1.5, 1.0))) is None
    world = World(workspace=box(upper=(0.6, 0.35, 0.2))).armed()
    refusal = world.send(world.motion((1.5, 1.0), (1.5, 1.0)))
    assert refusal.reason is Reason.WORKSPACE
    assert "the arm would leave the workspace: link 'end_effector' at y = 0." in refusal.text
    assert "the box ends at 0.350 m" in refusal.text
    assert world.send(world.motion((-0.5, 0.0))) is None


def test_the_way_between_the_points_counts_too():
    # The arm swings out and back; between the two points at 0.2975 rad it is 5 mm farther out than at them.
    world = World(workspace=box(upper=(0.6, 0.55 * np.sin(0.2975) + 5e-4, 0.2)))
    world.position = np.array([0.27, 0.0])
    world.armed()
    times = world.now + np.array([-0.05, 0.05, 0.15, 0.25, 0.35, 0.45])
    angle = 0.27 + np.array([0.0, 0.0, 0.0275, 0.0275, 0.0, 0.0])
    speed = np.array([0.0, 0.0, 0.4, -0.4, 0.0, 0.0])
    zero = np.zeros(6)
    motion = Trajectory(times, np.stack([angle, zero], 1), np.stack([speed, zero], 1))
    assert find_violation(motion, LIMITS) is None
    assert world.shield.workspace.find_outside(motion.positions) is None
    assert world.send(motion).reason is Reason.WORKSPACE


def test_an_arm_outside_the_workspace_is_not_armed_but_one_that_sags_a_little_is():
    world = World(workspace=box(upper=(0.5, 0.6, 0.2)))
    world.position = np.array([0.0, 0.0])
    world.live()
    refusal = world.shield.arm()
    assert refusal == (
        "the arm is outside the workspace: link 'end_effector' at x = 0.550 m, the box ends at 0.500 m; "
        "move it inside by hand first"
    )
    world = World(workspace=box(upper=(0.545, 0.6, 0.2)))
    world.position = np.array([0.0, 0.0])
    world.armed()
    assert world.send(world.motion((0.5, 1.0), (0.5, 1.0))) is None, "it comes back"


def test_an_arm_that_was_pushed_out_may_come_back_but_not_go_farther():
    world = World(workspace=box(upper=(0.6, 0.24, 0.2))).armed()
    assert world.shield.workspace.find_outside(world.position[None]) is None
    world.position = world.position + np.array([0.18, 0.1])
    world.live(0.1)
    assert world.shield.workspace.find_outside(world.position[None]) is not None
    assert world.shield.restart() is not None
    assert world.send(world.motion((0.5, 0.0))).reason is Reason.WORKSPACE
    assert world.send(world.motion((-0.5, 0.0))) is None


def test_a_stop_goes_out_although_it_leaves_the_workspace():
    world = World().armed()
    assert world.send(world.motion((1.5, 0.0), (1.5, 0.0))) is None
    world.live(0.3)
    # From here on there is a box, whose side is nearer than the arm can stop.
    tip = box().chain.positions(world.position[None])[0, -1]
    world.shield.workspace = box(upper=(0.6, tip[1] + 0.01, 0.2))
    assert world.shield.release(world.commanded, world.now).reason is Reason.WORKSPACE
    assert world.shield.release(world.commanded) is None


def test_settings_that_would_switch_a_check_off_are_refused():
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="tracking_tolerance_rad"):
            ShieldConfig(tracking_tolerance_rad=bad)
