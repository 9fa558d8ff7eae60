# SPDX-License-Identifier: Apache-2.0
"""Random tests of the shield: calls it with everything that can happen to it, in random order, and checks every motion
that it lets through.

`drive(inputs, seed)` runs them. An arm, two clocks, a camera, a correct planner, a hostile one and a person act on one
`Shield` at random; every call of the shield counts as an input. The checks are independent of the shield's own: they
know the limits, the path of the arm, which inputs are fresh, and who asked for a stop.

    python -m validation.shield_driver 1000000 0
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.random import Generator

from lewm_model.config import resource
from lewm_model.planning.motion import KnotLimits, Timeline, Trajectory
from lewm_model.robot.chain import Chain, Workspace
from lewm_model.robot.limits import JointLimits, limits_from_urdf
from lewm_ros.safety import (
    CUBIC_RAD,
    CUBIC_SHARE,
    MAX_STEP_S,
    TRANSPORT_S,
    Intervention,
    Reason,
    Shield,
    ShieldConfig,
    State,
)

BLOCK_S, CONTROL_S, MARGIN_S = 0.25, 0.05, 0.03
EPISODE = 400  # inputs to one shield
WATCH_S = 0.02  # period in which the planner checks the state of its shield
NOISE_RAD = 1e-4  # of joint states
FRACTIONS = np.linspace(0.0, 1.0, 9)[:-1]  # of the way between two points, at which the path is checked
STRAY_M = 2e-3  # that a link may leave the workspace between the poses that the shield checks
UPPER_ARM_M, FOREARM_M, ELBOW_Z_M, TIP_Z_M = 0.30, 0.25, 0.14, 0.007  # of the arm of worlds/tabletop.sdf
ODD_NUMBERS = (np.nan, np.inf, -np.inf, 1e308, -1e308, 1e16, 5e-324, -0.0, 1e-12)
FIELDS = ("times_s", "positions", "velocities")


def drive(inputs: int, seed: int) -> Counter[str]:
    """Makes at least `inputs` inputs; returns counts of the events by name, with the number of inputs as "inputs".

    :raises AssertionError: the shield let a motion through that breaks a limit, jumps, is not permitted or does not end
        at rest; or it refused a stop of the correct planner without need; or it raised. The message names seed and
        episode.
    """
    counts: Counter[str] = Counter()
    episode = 0
    while counts["inputs"] < inputs:
        try:
            Episode(np.random.default_rng([seed, episode]), counts).run()
        except Exception as error:
            raise AssertionError(f"seed {seed}, episode {episode}: {error!r}") from error
        episode += 1
    return counts


# ---- cubic motion between points -------------------------------------------------------------------------------------


def path(motion: Trajectory) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times (N,), positions (N, A) and velocities (N, A) on the cubic pieces between the points, ends included."""
    h = np.diff(motion.times_s)[:, None, None]
    u = FRACTIONS[:, None]
    ends = (motion.positions[:-1, None], motion.positions[1:, None])
    positions, velocities = cubic(h, u, *ends, motion.velocities[:-1, None], motion.velocities[1:, None])
    joints = motion.positions.shape[1]
    return (
        np.append((motion.times_s[:-1, None] + h[..., 0] * FRACTIONS).ravel(), motion.times_s[-1]),
        np.vstack([positions.reshape(-1, joints), motion.positions[-1]]),
        np.vstack([velocities.reshape(-1, joints), motion.velocities[-1]]),
    )


def at(motion: Trajectory, time_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Position and velocity (A,) at one time; at rest before the first point and after the last one."""
    times = motion.times_s
    if not times[0] <= time_s <= times[-1]:
        end = 0 if time_s < times[0] else -1
        return motion.positions[end], np.zeros_like(motion.velocities[end])
    i = min(int(np.searchsorted(times, time_s, side="right")), len(times) - 1)
    h = times[i] - times[i - 1]
    u = (time_s - times[i - 1]) / h
    return cubic(h, u, *motion.positions[i - 1 : i + 1], *motion.velocities[i - 1 : i + 1])


def cubic(h, u, p, q, v, w):  # type: ignore[no-untyped-def]  # numbers and arrays in any combination
    """Position and velocity after the fraction `u` of `h` s, on the cubic from p to q with end velocities v and w."""
    v, w = h * v, h * w
    c, d = 3 * (q - p) - 2 * v - w, 2 * (p - q) + v + w
    return p + u * (v + u * (c + u * d)), (v + u * (2 * c + u * 3 * d)) / h


def resting(position: np.ndarray, time_s: float) -> Trajectory:
    """Rest at a position (A,), up to a time and after it."""
    return Trajectory(np.array([time_s - 1.0, time_s]), np.tile(position, (2, 1)), np.zeros((2, len(position))))


# ---- one shield ------------------------------------------------------------------------------------------------------


class Episode:
    """One shield, from its first input to its last. Times are on the arm's own clock, which never jumps."""

    def __init__(self, rng: Generator, counts: Counter[str]) -> None:
        self.rng, self.counts = rng, counts
        self.now = 50.0
        self.clock_ahead = float(rng.uniform(-40.0, 1e4))  # s, of the clock of the stamps ahead of the arm's
        self.steady = float(rng.uniform(0.0, 1e4))
        self.slowness = float(rng.choice([1.0, 1.0, 1.0, 3.0]))  # steady seconds per second of the arm
        self.limits, self.workspace = some_arm(rng)
        self.joints = len(self.limits.names)
        self.reported_s = -np.inf  # stamp of the last joint state
        self.knots = KnotLimits(self.limits, BLOCK_S)
        self.config, self.needs_deadman = ShieldConfig(), bool(rng.random() < 0.3)
        self.shield = Shield(
            self.limits,
            self.config,
            clock=lambda: self.clock,
            steady=lambda: self.steady,
            workspace=self.workspace,
            needs_deadman=self.needs_deadman,
        )
        # The arm follows its command, unless a hand or an obstacle holds it elsewhere.
        self.command = resting(self.somewhere(), self.now)
        self.replaced: list[Trajectory] = []  # the commands before it, since the last start from rest
        self.held_by = np.zeros(self.joints)  # rad from the command to the arm
        self.timeline: Timeline | None = None  # of the correct planner
        # For the checks: when the inputs were last fresh, on the steady clock, and what the shield was told.
        self.frame = self.joint_state = self.pressed = -np.inf
        self.surprised = self.unheard = self.paused = self.armed = self.stopped = False
        self.started = False  # whether the shield has given a position where a motion may start
        self.plan_end = -np.inf
        self.measured = self.really = self.position  # of the last joint state, and of the arm at that time
        self.glitch = False  # whether the last joint state was a single wrong one
        self.mistakable = False  # whether a joint state since the last start was that of a replaced command

    def run(self) -> None:
        """Makes inputs in random order, until there were EPISODE."""
        deeds: dict[Callable[[], None], float] = {
            self.pass_time: 30.0,
            self.good_sensors: 20.0,
            self.bad_frame: 3.0,
            self.bad_joint_state: 4.0,
            self.honest_plan: 20.0,
            self.hostile_plan: 14.0,
            self.hostile_stop: 3.0,
            self.person_gets_it_going: 4.0,
            self.person_disarms: 0.4,
            self.person_stops: 0.2,
            self.person_and_button: 1.0,
            self.surprise: 0.5,
            self.controller_leaves: 0.2,
            self.person_sets_the_speed: 0.4,
            self.clock_jumps: 0.2,
            self.hand_moves_the_arm: 0.5,
        }
        weights = np.array(list(deeds.values()))
        order = self.rng.choice(np.array(list(deeds)), size=EPISODE, p=weights / weights.sum())
        end = self.counts["inputs"] + EPISODE
        self.person_gets_it_going()
        for deed in order:
            deed()
            if self.counts["inputs"] >= end:
                break

    @property
    def clock(self) -> float:
        """Now on the clock of the stamps."""
        return self.now + self.clock_ahead

    @property
    def position(self) -> np.ndarray:
        """The true position of the arm, (A,) rad."""
        return at(self.command, self.now)[0] + self.held_by

    # ---- correct inputs ----------------------------------------------------------------------------------------------

    def pass_time(self) -> None:
        """A short time, or sometimes a stall, in which the planner keeps checking its shield."""
        rng = self.rng
        longest = rng.choice([0.05, 0.3, 1.2], p=[0.9, 0.08, 0.02])
        left = float(rng.uniform(0.0, longest))
        while left > 0.0:
            step = min(left, WATCH_S)
            left -= step
            self.now += step
            self.steady += step * self.slowness
            self.planner_looks()

    def planner_looks(self) -> None:
        """What planner_node does every 20 ms: it stops the arm when the shield does not let plans through."""
        self.counts["inputs"] += 1
        self.shield.watch()
        if self.shield.state is not State.ARMED and self.timeline is not None:
            self.honest_stop()

    def good_sensors(self) -> None:
        self.counts["inputs"] += 1
        self.frame = self.steady
        self.shield.frame(self.clock - float(self.rng.uniform(0.0, 0.1)))
        self.report(self.position + NOISE_RAD * self.rng.normal(size=self.joints))
        self.glitch = False

    def report(self, positions: np.ndarray) -> None:
        """A joint state that is fresh and finite."""
        self.counts["inputs"] += 1
        self.joint_state, self.measured, self.really = self.steady, positions, self.position
        self.shield.joints(positions, self.clock)
        error = np.abs(at(self.command, self.now)[0] - positions).max()
        self.mistakable |= self.looks_replaced(positions)
        # A joint state with the stamp of the one before cannot be compared with the command at its time.
        later, self.reported_s = self.clock != self.reported_s, self.clock
        if later and self.armed and self.started and error > self.config.tracking_tolerance_rad + 2e-3:
            assert self.shield.state is State.STOPPED, f"the arm is {error} rad from its command and goes on"
        self.see_stop()

    def looks_replaced(self, positions: np.ndarray) -> bool:
        """Whether joint positions (A,) rad, held off or noisy, are those of a command that has been replaced: within
        half the distance to where the executed one is.
        """
        own = at(self.command, self.now)[0]
        olds = (at(motion, self.now)[0] for motion in self.replaced)
        return any(np.abs(positions - old).max() < 0.5 * np.abs(own - old).max() for old in olds)

    def person_gets_it_going(self) -> None:
        """A person who wants the arm to move resets, enables and presses the button, and the planner begins."""
        self.good_sensors()
        self.good_sensors()
        if self.stopped and self.rng.random() < 0.8:
            self.counts["inputs"] += 1
            self.shield.reset()
            self.stopped = self.armed = False
        self.counts["inputs"] += 1
        if self.shield.arm() is None:
            assert not self.stopped, "armed although stopped"
            if not self.armed and self.now >= self.command.times_s[-1]:
                self.started = False  # since the arm may have been moved while it was disarmed
            self.armed = True
        if self.needs_deadman and self.rng.random() < 0.9:
            self.button(True)
        if self.surprised and self.rng.random() < 0.9:
            self.say_surprise(False)
        if self.unheard and self.rng.random() < 0.9:
            self.say_unheard(False)
        if self.paused and self.rng.random() < 0.9:
            self.say_paused(False)
        self.planner_looks()
        if self.timeline is None:
            self.begin()

    def begin(self) -> None:
        self.counts["inputs"] += 1
        start = self.shield.restart()
        if start is None:
            return
        assert self.permission() is None, f"a start although {self.permission()}"
        assert self.now >= self.command.times_s[-1] - 1e-6, "a start from rest while the arm moves"
        np.testing.assert_array_equal(start, np.clip(self.measured, self.limits.lower, self.limits.upper))
        gap = np.abs(self.measured - self.really).max()
        assert gap <= self.config.start_tolerance_rad + 10 * NOISE_RAD, f"a start {gap} rad from where the arm was"
        self.held_by = self.position - start
        self.command, self.started, self.plan_end = resting(start, self.now), True, self.now
        self.replaced, self.mistakable = [], False
        self.timeline = Timeline(self.now + float(self.rng.uniform(-0.2, 0.05)), start, self.knots)
        self.counts["starts"] += 1

    def honest_plan(self) -> None:
        """A plan as the planner makes it: from the newest frame, continuing the motion that it has sent before."""
        if self.timeline is None:
            self.begin()
        if self.timeline is None:
            return
        timeline = copied(self.timeline)
        knot = timeline.knot_at_or_after(self.now + 0.05)
        position, velocity = timeline.state(knot)
        wanted = self.rng.normal(size=(1, int(self.rng.integers(1, 4)), self.joints)) * 2 * self.limits.velocity
        timeline.splice(knot, self.knots.project(position, velocity, wanted)[0])
        refusal = self.send(self.sampled(timeline), self.clock - float(self.rng.uniform(0.0, 0.2)))
        self.counts[f"honest plan: {'sent' if refusal is None else refusal.reason.value}"] += 1
        if refusal is None:
            self.timeline = timeline
        else:
            self.honest_stop()

    def honest_stop(self) -> None:
        assert self.timeline is not None
        timeline, self.timeline = self.timeline, None
        moving = np.abs(at(self.command, self.now)[1]).max() > 1e-3
        refusal = self.send(timeline.stop(self.now, self.now + MARGIN_S), None)
        self.counts[f"honest stop: {'sent' if refusal is None else refusal.reason.value}"] += 1
        if moving and refusal is not None:
            # A stop continues the newest command; if an older one is executed, the arm would jump. It does not know
            # that none is lost here, so it may wait for the command's own end at rest.
            lost = refusal.reason is Reason.LOST and self.mistakable
            assert lost, f"a moving arm was not stopped: {refusal}"
            assert self.command.times_s[-1] <= self.plan_end + MAX_STEP_S + 1e-6, "a command that does not end"
        elif moving:
            lasts = self.command.times_s[-1] - self.now - MARGIN_S
            assert lasts < self.knots.longest_stop_s + 0.02, f"the stop lasts {lasts:.3f} s"

    # ---- wrong and hostile inputs ------------------------------------------------------------------------------------

    def bad_frame(self) -> None:
        self.counts["inputs"] += 1
        late = self.config.frame_timeout_s + 0.1
        stamp = self.rng.choice([np.nan, np.inf, -np.inf, self.clock - late, self.clock + late, self.clock - 1e6])
        self.shield.frame(float(stamp))

    def bad_joint_state(self) -> None:
        rng, positions = self.rng, self.position
        kind = rng.integers(5)
        if kind == 4:  # a very noisy encoder
            self.report(positions + 1e-2 * rng.uniform(-1.0, 1.0, self.joints))
        elif kind == 3 and not self.glitch and rng.random() < 0.2:  # a single wrong position
            self.report(positions + rng.choice([-1.0, 1.0], self.joints) * 10.0 ** rng.uniform(-0.5, 3, self.joints))
            self.glitch = True
        else:
            self.counts["inputs"] += 1
            positions[rng.integers(self.joints)] = rng.choice([np.nan, np.inf, -np.inf])
            good = self.position
            wrong = [positions, np.append(good, 0.0), good[None], np.array(0.0), np.empty(0)]
            stamp = self.clock
            if kind == 2:
                off = self.config.joint_timeout_s + 0.1
                stamps = [np.nan, np.inf, -np.inf, stamp - off, stamp + off, stamp - 1e6]
                wrong, stamp = [good], float(rng.choice(stamps))
            self.shield.joints(wrong[rng.integers(len(wrong))], stamp)

    def hostile_plan(self) -> None:
        ages = [0.0, 0.1, 0.49, 0.51, -0.51, np.nan, np.inf]
        age = float(self.rng.choice(ages, p=[0.6, 0.2, 0.1, 0.025, 0.025, 0.025, 0.025]))
        refusal = self.send(self.hostile_motion(), self.clock - age)
        assert refusal is not None or abs(age) <= self.config.frame_timeout_s, f"a plan from a frame {age} s old"
        self.after_hostile("plan", refusal)

    def hostile_stop(self) -> None:
        self.after_hostile("stop", self.send(self.hostile_motion(), None))

    def after_hostile(self, kind: str, refusal: Intervention | None) -> None:
        self.counts[f"hostile {kind}: {'sent' if refusal is None else refusal.reason.value}"] += 1
        if refusal is None:
            self.timeline = None  # the correct planner's motion is no longer executed

    def hostile_motion(self) -> Trajectory:
        """A motion that continues the arm's or starts anew, mostly spoilt in one of many ways."""
        rng, joints = self.rng, self.joints
        if self.timeline is not None and rng.random() < 0.7:
            timeline = copied(self.timeline)
            knot = timeline.knot_at_or_after(self.now + float(rng.uniform(-0.1, 0.3)))
        else:
            beside = rng.normal(size=joints) * 10.0 ** rng.uniform(-6, 0) * (rng.random() < 0.7)
            timeline = Timeline(self.now + float(rng.uniform(-0.3, 0.3)), self.position + beside, self.knots)
            knot = 0
        wanted = rng.normal(size=(1, 2, joints)) * 2 * self.limits.velocity
        if rng.random() < 0.8:
            wanted = self.knots.project(*timeline.state(knot), wanted)
        timeline.splice(knot, wanted[0])
        motion = self.sampled(timeline, float(rng.choice([0.01, 0.02, 0.05, 0.09, 0.2])))
        return spoilt(motion, rng, self.now)

    def person_disarms(self) -> None:
        self.counts["inputs"] += 1
        self.shield.disarm()
        self.armed = False

    def person_stops(self) -> None:
        self.counts["inputs"] += 1
        self.shield.stop("a person said so")
        self.stopped, self.armed = True, False

    def person_and_button(self) -> None:
        self.button(bool(self.rng.random() < 0.7))

    def button(self, pressed: bool) -> None:
        self.counts["inputs"] += 1
        self.shield.deadman(pressed)
        self.pressed = self.steady if pressed else -np.inf

    def surprise(self) -> None:
        self.say_surprise(bool(self.rng.random() < 0.7))

    def say_surprise(self, surprised: bool) -> None:
        self.counts["inputs"] += 1
        self.shield.surprise("a hand" if surprised else None)
        self.surprised = surprised

    def controller_leaves(self) -> None:
        self.say_unheard(bool(self.rng.random() < 0.7))

    def say_unheard(self, unheard: bool) -> None:
        self.counts["inputs"] += 1
        self.shield.unheard("no controller takes the commands" if unheard else None)
        self.unheard = unheard

    def person_sets_the_speed(self) -> None:
        """The speed becomes 0, which holds the arm, or greater again."""
        self.say_paused(bool(self.rng.random() < 0.7))

    def say_paused(self, paused: bool) -> None:
        self.counts["inputs"] += 1
        self.shield.pause("the speed is 0" if paused else None)
        self.paused = paused

    def clock_jumps(self) -> None:
        """The clock of the stamps jumps by at least 0.128 s, below which time daemons slew, or as when a simulation
        restarts.
        """
        if self.slowness > 1.0:
            return  # a slow clock that jumps ahead cannot be told from one that ran at full speed
        self.planner_looks()
        self.clock_ahead += float(self.rng.choice([-1.0, 1.0])) * 10.0 ** self.rng.uniform(np.log10(0.128), 4)
        self.timeline = None  # its times are wrong now, so it can neither plan nor stop; the arm finishes its motion
        self.counts["inputs"] += 1
        self.shield.watch()
        assert not self.armed or self.shield.state is State.STOPPED, "goes on after the clock jumped"
        self.see_stop()

    def hand_moves_the_arm(self) -> None:
        self.held_by = self.held_by + self.rng.normal(size=self.joints) * 10.0 ** self.rng.uniform(-4, 0)

    # ---- checks of what the shield lets through ----------------------------------------------------------------------

    def send(self, motion: Trajectory, frame_s: float | None) -> Intervention | None:
        """Gives a motion, in the arm's time, to the shield; without the stamp of a frame it is a stop. If the shield
        lets it through, it is checked and the arm follows it.
        """
        self.counts["inputs"] += 1
        refusal = self.shield.release(replace(motion, times_s=motion.times_s + self.clock_ahead), frame_s)
        self.see_stop()
        if refusal is None:
            self.must_keep_limits(motion)
            self.must_be_allowed(motion, is_stop=frame_s is None)
            self.must_go_on_from_the_command(motion)
            self.replaced.append(self.command)
            self.command = motion
        return refusal

    def must_keep_limits(self, motion: Trajectory) -> None:
        limits, h = self.limits, np.diff(motion.times_s)[:, None]
        assert motion.positions.shape == motion.velocities.shape == (len(motion.times_s), self.joints)
        assert (h > 0).all() and h.max() <= MAX_STEP_S * (1 + 1e-5), "points too far apart"
        times, positions, velocities = path(motion)
        assert all(np.isfinite(values).all() for values in (times, positions, velocities)), "not finite"
        room = CUBIC_RAD + 2e-6 * (limits.upper - limits.lower) + 1e-8
        assert (positions >= limits.lower - room).all() and (positions <= limits.upper + room).all(), "position"
        assert (np.abs(velocities) <= limits.velocity * (1 + CUBIC_SHARE) * (1 + 1e-5) + 1e-8).all(), "velocity"
        rates = np.diff(motion.velocities, axis=0) / h
        assert (np.abs(rates) <= limits.acceleration * (1 + 1e-4) + 1e-6).all(), "acceleration"
        jerks = np.diff(rates, axis=0) / (0.5 * (h[1:] + h[:-1]))
        assert (np.abs(jerks) <= limits.jerk * (1 + 1e-4) + 1e-4).all(), "jerk"
        assert np.abs(motion.velocities[-1]).max() <= 2e-6, "does not end at rest"

    def must_be_allowed(self, motion: Trajectory, is_stop: bool) -> None:
        times, positions, velocities = path(motion)
        if is_stop:
            moves = np.abs(velocities).max(1) > 1e-2
            assert not moves.any() or times[moves][-1] <= self.plan_end + MAX_STEP_S + 1e-6, "a stop that lasts"
            return
        assert self.permission() is None, f"a plan went out although {self.permission()}"
        self.plan_end = float(motion.times_s[-1])
        if self.workspace is not None:
            way = np.vstack([at(motion, self.now)[0], positions[times > self.now]])
            outside = beyond(way, self.workspace.lower, self.workspace.upper)
            assert (outside - outside[0]).max() <= STRAY_M, f"{outside.max():.4f} m out of the workspace"

    def must_go_on_from_the_command(self, motion: Trajectory) -> None:
        assert self.started, "a plan was committed before the arm started"
        if self.now >= self.command.times_s[-1]:
            gap = np.abs(at(motion, self.now)[0] - self.measured).max()
            assert gap <= self.config.start_tolerance_rad + 1e-6, f"starts {gap} rad from where the arm is"
        somewhen = float(self.rng.uniform(0.0, TRANSPORT_S))
        # The shield checks both ends of TRANSPORT_S; between them two feasible motions may differ a little.
        for delay, part in ((0.0, 0.0), (TRANSPORT_S, 0.0), (somewhen, self.limits.acceleration * TRANSPORT_S)):
            (q0, v0), (q1, v1) = at(self.command, self.now + delay), at(motion, self.now + delay)
            dq, dv = np.abs(q1 - q0), np.abs(v1 - v0)
            assert (dq <= self.config.jump_tolerance_rad + part * TRANSPORT_S / 4 + 1e-7).all(), f"jumps by {dq} rad"
            assert (dv <= self.config.jump_tolerance_rad_s + part + 1e-6).all(), f"jumps by {dv} rad/s"

    def permission(self) -> str | None:
        """Why no plan may go out now; None when one may."""
        config, steady = self.config, self.steady - 1e-9
        reasons = {
            "it is stopped": self.stopped,
            "it is not armed": not self.armed,
            "it is surprised": self.surprised,
            "no controller takes the commands": self.unheard,
            "the speed is 0": self.paused,
            "no frame is fresh": steady - self.frame > config.frame_timeout_s,
            "no joint state is fresh": steady - self.joint_state > config.joint_timeout_s,
            "the button is released": self.needs_deadman and steady - self.pressed > config.deadman_timeout_s,
        }
        return next((reason for reason, true in reasons.items() if true), None)

    def see_stop(self) -> None:
        """Notes that the shield has stopped by itself."""
        if self.shield.state is State.STOPPED:
            self.stopped, self.armed = True, False

    # ---- helpers -----------------------------------------------------------------------------------------------------

    def sampled(self, timeline: Timeline, step_s: float = CONTROL_S) -> Trajectory:
        """The motion as the planner samples it, from the stamp of a frame on."""
        begin = self.now - float(self.rng.uniform(0.0, 0.1))
        count = max(1, int(np.ceil((timeline.end_s - begin) / step_s))) + 2
        return timeline.sample(begin + step_s * np.arange(count))

    def somewhere(self) -> np.ndarray:
        """A random pose (A,) within the limits and the workspace, sometimes with a joint at its limit."""
        lower, upper = self.limits.lower, self.limits.upper
        for _ in range(1000):
            pose = self.rng.uniform(lower, upper)
            if self.rng.random() < 0.2:
                j = self.rng.integers(self.joints)
                pose[j] = (lower, upper)[self.rng.integers(2)][j]
            if self.workspace is None or self.workspace.find_outside(pose[None]) is None:
                return pose
        raise AssertionError("the workspace has no pose")


def some_arm(rng: Generator) -> tuple[JointLimits, Workspace | None]:
    """Limits and workspace of an arm: of worlds/tabletop.sdf with a box, or a random one of 1 to 7 joints without."""
    if rng.random() < 0.4:
        urdf = resource("config", "arms", "tabletop.urdf")
        names: tuple[str, ...] = ("shoulder", "elbow")
        chain = Chain.from_urdf(urdf, "base", "end_effector", names)
        lower = rng.uniform([-0.7, -0.7, -0.1], [-0.3, -0.3, 0.0])
        upper = rng.uniform([0.3, 0.3, 0.15], [0.7, 0.7, 0.3])
        return limits_from_urdf(urdf, names, 9.0, 150.0), Workspace(chain, lower, upper)
    joints = int(rng.integers(1, 8))
    while True:
        middle, half = rng.uniform(-3.0, 3.0, joints), rng.uniform(0.1, 3.0, joints)
        velocity, acceleration = 10.0 ** rng.uniform(-1.5, 0.6, joints), 10.0 ** rng.uniform(0.3, 1.5, joints)
        names = tuple(f"joint_{i}" for i in range(joints))
        jerk = 10.0 ** rng.uniform(1.3, 3.0, joints)
        limits = JointLimits(names, middle - half, middle + half, velocity, acceleration, jerk)
        try:
            KnotLimits(limits, BLOCK_S)
        except ValueError:  # with these limits the arm cannot stop within a block
            continue
        return limits, None


def beyond(poses: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """How far elbow or tip of worlds/tabletop.sdf's arm are beyond each side of a box, (N, 6) m, at poses (N, 2)."""
    shoulder, sum_ = poses[:, 0], poses.sum(1)
    elbow = UPPER_ARM_M * np.stack([np.cos(shoulder), np.sin(shoulder)], -1)
    tip = elbow + FOREARM_M * np.stack([np.cos(sum_), np.sin(sum_)], -1)
    heights = np.broadcast_to([[ELBOW_Z_M], [TIP_Z_M]], (len(poses), 2, 1))
    points = np.concatenate([np.stack([elbow, tip], 1), heights], -1)
    return np.maximum(np.concatenate([lower - points, points - upper], -1).max(1), 0.0)


def spoilt(motion: Trajectory, rng: Generator, now: float) -> Trajectory:
    """The motion after one of many changes, some of which leave it correct."""
    fields = {name: np.array(getattr(motion, name)) for name in FIELDS}
    times, positions, velocities = fields.values()
    name = FIELDS[rng.integers(3)]
    values, size = fields[name], 10.0 ** rng.uniform(-9, 3)
    kind = rng.integers(14)
    if kind == 0:  # noise
        values += size * rng.normal(size=values.shape)
    elif kind == 1:
        some = rng.random(values.shape) < 0.1
        values[some] += size * rng.normal(size=int(some.sum()))
    elif kind == 2:
        values.flat[rng.integers(values.size)] = rng.choice(ODD_NUMBERS)
    elif kind == 3:
        values[...] = rng.choice(ODD_NUMBERS, size=values.shape)
    elif kind == 4:  # other shapes
        others = [values[1:], values[:0], values[..., None], values[:1], np.array(1.0), values.T]
        fields[name] = others[rng.integers(len(others))]
    elif kind == 5:
        fields["times_s"] = times[::-1] if rng.random() < 0.5 else np.full_like(times, times[0])
    elif kind == 6:  # shifted in time
        times += rng.choice([-1.0, 1.0]) * 10.0 ** rng.uniform(-5, 6)
    elif kind == 7:  # shifted in space
        positions += rng.normal(size=positions.shape[1]) * 10.0 ** rng.uniform(-6, 1)
    elif kind == 8:  # faster, by much or very little, from its beginning or from now on
        factor = 10.0 ** rng.uniform(-3, 1) if rng.random() < 0.5 else 1.0 + 10.0 ** rng.uniform(-8, -1)
        begin = times[0] if rng.random() < 0.5 else now
        times[:] = begin + (times - begin) / factor
        velocities *= factor
    elif kind == 9:  # with points left out
        kept = rng.random(len(times)) < rng.uniform(0.3, 1.0)
        fields = {key: value[kept] for key, value in fields.items()}
    elif kind == 10:  # positions that change while the velocities are 0
        velocities[:] = 0.0
        step = rng.normal(size=positions.shape[1]) * 10.0 ** rng.uniform(-9, -1)
        positions[:] = positions[0] + step * np.arange(len(times))[:, None]
    elif kind == 11:  # scaled beyond the limits
        factor = 1.0 + 10.0 ** rng.uniform(-6, 1)
        positions[:] = positions[0] + factor * (positions - positions[0])
        velocities *= factor
    elif kind == 12:  # suddenly faster or slower from a later time on
        begin, factor = now + rng.uniform(TRANSPORT_S, 0.5), 2.0 ** rng.uniform(-1, 1)
        later = times > begin
        times[later] = begin + (times[later] - begin) / factor
        velocities[later] *= factor
    return Trajectory(**fields)


def copied(timeline: Timeline) -> Timeline:
    """A copy of a timeline that can be spliced without changing the original."""
    copy = Timeline(timeline.start_s, timeline._positions[0], timeline.limits)
    copy._first, copy._positions, copy._velocities = timeline._first, [*timeline._positions], [*timeline._velocities]
    return copy


if __name__ == "__main__":
    for what, count in sorted(drive(int(sys.argv[1]), int(sys.argv[2])).items()):
        print(f"{count:10,d}  {what}")
