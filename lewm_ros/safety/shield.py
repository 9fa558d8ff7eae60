# SPDX-License-Identifier: Apache-2.0
"""The shield between planner and arm. Does not depend on ROS.

A plan is sent to the arm only if `Shield.release` allows it: the arm is armed, no cause to hold exists, every limit is
kept, the links stay in the workspace and clear of each other, the trajectory continues the one that the controller
executes, and it ends at rest. Otherwise it is refused, counted by its reason and explained; the arm then executes the
trajectory that it has to its end, which is a smooth stop.

A stop passes the same checks except three: it needs no arming, no cause to hold stops it, and it may leave the
workspace, since the alternative is to continue the plan for longer. In a stop no joint moves farther than it needs to
brake. The plan moves each joint at least as far, but not all at the same time, so links may leave the box where the
plan would have turned along its side: by 25 mm at most in 43,000 stops of the simulated arm at full speed, from plans
that just fit into their boxes. A stop must therefore end no later than the plan that it replaces.

This is software on a general-purpose computer: it reduces faults of the planner, it is not a safety function. A real
arm needs its own emergency stop and the limits of its controller.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np

from lewm_model.planning.motion import Trajectory
from lewm_model.robot.chain import Chain, Workspace
from lewm_model.robot.collision import SelfCollision
from lewm_model.robot.limits import JointLimits
from lewm_ros.safety.execution import Execution
from lewm_ros.safety.limits import MAX_STEP_S, REST_RAD_S, Intervention, Reason, find_violation, state_at

LOOK_S = 0.0125  # between checks of the workspace along a trajectory; an arm of 1 m leaves it by 1 mm in between
START_ROOM_M = 0.01  # tolerance of the workspace when the arm is armed, for sag and measurement errors
CLOCK_BACK_S, CLOCK_AHEAD_S = 1e-3, 0.1  # a ROS clock that goes back, or gains on the steady one, by more has jumped
FOLLOWING = 0.5  # share of the tracking tolerance beyond which a lagging arm gets no new plan
MEASURED = 0.2  # share of the start tolerance within which positions do not tell trajectories apart: tracking error
FULL_SPEED = 0.99  # least speed scaling of a controller: a slower one jumps where a trajectory replaces another
TRANSPORT_S = 0.02  # until a new trajectory reaches the controller; it must agree with the old one until then


class State(Enum):
    """What the shield lets through."""

    DISARMED = "disarmed"  # stops only
    ARMED = "armed"  # trajectories that pass every check
    HOLDING = "holding"  # stops only, until the cause is gone; then it is armed again by itself
    STOPPED = "stopped"  # stops only, until `reset`


@dataclass(frozen=True)
class ShieldConfig:
    """Timeouts and tolerances of the shield."""

    frame_timeout_s: float = 0.5  # greatest age of a frame to plan from, and time without a new one
    joint_timeout_s: float = 0.25  # longest time without a joint state
    deadman_timeout_s: float = 0.5  # without a message that the button is pressed
    tracking_tolerance_rad: float = 0.2  # between measured and commanded position; beyond it the stop latches
    start_tolerance_rad: float = 0.05  # between measured and commanded position when a motion begins from rest
    jump_tolerance_rad: float = 1e-3  # between two trajectories where one replaces the other
    jump_tolerance_rad_s: float = 0.05  # the same for velocities

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"shield setting {name} is {value}; it must be finite and above 0")


class Shield:
    """Decides which trajectories may be sent to the arm. Thread-safe.

    Times of frames, joint states and trajectories are seconds on the ROS clock, `clock`; freshness is measured on
    `steady`, which does not jump.

    :param workspace: box for the links, or None; its chain has the first joints of the limits, all but a gripper's.
    :param self_collision: check for self-collision, or None; its chain has the same joints.
    :param needs_deadman: whether the arm holds unless `deadman` keeps being called with a pressed button.
    :param needs_frames: whether the arm holds unless `frame` keeps being called.
    :param efforts: effort limits (A,), in the unit of `effort`; None for none.
    :param grips: (A,) bool, which joints are a gripper's. An object may keep a gripper from its commanded position, so
        it has no tracking error; all limits apply to it.
    """

    def __init__(
        self,
        limits: JointLimits,
        config: ShieldConfig,
        clock: Callable[[], float],
        steady: Callable[[], float],
        workspace: Workspace | None = None,
        needs_deadman: bool = False,
        self_collision: SelfCollision | None = None,
        needs_frames: bool = True,
        efforts: np.ndarray | None = None,
        grips: np.ndarray | None = None,
    ) -> None:
        self.limits, self.config = limits, config
        self.workspace, self.self_collision, self.needs_deadman = workspace, self_collision, needs_deadman
        self.needs_frames, self.efforts = needs_frames, efforts
        self._grips = np.zeros(len(limits.names), bool) if grips is None else grips
        self.interventions: Counter[Reason] = Counter()
        self._clock, self._steady = clock, steady
        self._latest, self._lead = -np.inf, np.inf  # newest ROS time, and most that it was ahead of the steady clock
        self._lock = threading.RLock()
        self._armed = False
        self._stopped: str | None = None  # why the stop is latched; None when it is not
        self._holding: list[Intervention] = []  # causes to hold at the last `watch`
        informative = np.flatnonzero(~self._grips) if self._grips.any() else None
        self._execution = Execution(informative, MEASURED * config.start_tolerance_rad)  # since it was armed
        self._reference: tuple[float, np.ndarray] | None = None  # steady s of arrival, newest reference (A,) rad
        self._reference_rests = True  # whether the one before was the same
        self._scaling = 1.0  # factor by which the controller slows trajectories down
        self._plan_end_s = -np.inf  # end of the last plan that was sent
        self._frame: float | None = None  # steady time of arrival of the last fresh frame
        self._age: dict[str, float] = {}  # age of the newest input that was too old or ahead, s
        self._joints: tuple[float, np.ndarray] | None = None  # positions (A,) rad, after their steady time of arrival
        self._off = 0.0  # rad, greatest distance of the newest joint state from its command
        self._measured_s = -np.inf  # stamp of the last joint state
        self._still = False  # whether the last two joint states agree
        self._pressed: float | None = None  # steady time of the last message that the button is pressed; None: released
        self._surprise: str | None = None  # a sentence about the surprise; None without one
        self._unheard: str | None = None  # a sentence about a missing controller; None when it is there
        self._paused: str | None = None  # a sentence when a person wants the arm to hold

    @property
    def state(self) -> State:
        """The state, which says what is let through now."""
        with self._lock:
            if self._stopped is not None:
                return State.STOPPED
            if not self._armed:
                return State.DISARMED
            return State.HOLDING if self._holding else State.ARMED

    @property
    def message(self) -> str:
        """The state and its cause, for people."""
        with self._lock:
            if self._stopped is not None:
                return f"stopped: {self._stopped}; reset to go on"
            holding = "; ".join(cause.text for cause in self._holding)
            return f"holding: {holding}" if self._armed and holding else self.state.value

    @property
    def holding(self) -> tuple[Intervention, ...]:
        """The causes to hold at the last `watch`, also while disarmed."""
        with self._lock:
            return tuple(self._holding)

    # ---- arming ------------------------------------------------------------------------------------------------------

    def arm(self) -> str | None:
        """Arms; returns None, or why it refuses.

        The position of the arm must be known. A released dead-man's button, a surprise or a missing controller do not
        prevent arming: the arm then holds until they are gone, so that one can enable it first and press the button
        then.
        """
        with self._lock:
            if self._stopped is not None:
                return f"stopped ({self._stopped}): reset first"
            if self._armed:
                return None
            if stale := self._stale():
                return stale[0].text
            assert self._joints is not None
            outside = self._outside(self._joints[1])
            if outside is not None:
                return f"{outside}; move it inside by hand first"
            if self.at_rest():
                self._execution.forget()  # the arm may have been moved meanwhile
            self._armed, self._holding = True, []
            self.watch()
            return None

    def disarm(self) -> None:
        """Lets only stops through from now on."""
        with self._lock:
            self._armed = False

    def stop(self, why: str, reason: Reason = Reason.STOP) -> None:
        """Latches the stop: nothing moves until `reset` and a new `arm`."""
        with self._lock:
            if self._stopped is None:
                self._count(Intervention(reason, why))
                self._stopped, self._armed = why, False

    def reset(self) -> None:
        """Releases a latched stop. The arm stays disarmed."""
        with self._lock:
            self._stopped, self._armed = None, False

    # ---- inputs ------------------------------------------------------------------------------------------------------

    def frame(self, stamp_s: float) -> None:
        """The latent of a frame with this stamp has arrived; one that is too old does not count."""
        with self._lock:
            if self._is_recent("camera frame", stamp_s, self.config.frame_timeout_s):
                self._frame = self._steady()

    def joints(self, positions: np.ndarray, stamp_s: float) -> bool:
        """Measured positions (A,) rad have arrived; returns whether they count: they are fresh and finite."""
        with self._lock:
            if positions.shape != (len(self.limits.names),) or not np.isfinite([*positions, stamp_s]).all():
                self._count(Intervention(Reason.NOT_FINITE, f"measured joint positions are {positions} at {stamp_s} s"))
                return False
            if not self._is_recent("joint state", stamp_s, self.config.joint_timeout_s):
                return False
            moved = np.inf if self._joints is None else np.abs(positions - self._joints[1]).max()
            stands_still = stamp_s == self._measured_s  # a stamp that does not change says nothing about when
            self._still = bool(moved <= self.config.start_tolerance_rad)
            self._joints, self._measured_s = (self._steady(), np.array(positions, float)), stamp_s
            if self.reference is None:
                self._execution.measure(stamp_s, self._joints[1])
            if not self._armed or self._execution.newest is None or stands_still:
                return True
            error = self._execution.error(stamp_s, positions)
            self._off = float(error.max())
            if (error > self.config.tracking_tolerance_rad).any():
                j = int(error.argmax())
                self.stop(
                    f"joint '{self.limits.names[j]}' is {error[j]:.3f} rad from where it was commanded; "
                    "look whether something blocks the arm, and whether its controller takes the commands",
                    Reason.TRACKING,
                )
            return True

    def effort(self, efforts: np.ndarray) -> None:
        """Efforts (A,) of the joints have arrived, NaN where unknown. One beyond its limit latches the stop."""
        with self._lock:
            if self.efforts is None or not self._armed:
                return
            over = np.abs(efforts) / self.efforts
            if (over > 1.0).any():
                j = int(np.nanargmax(over))
                self.stop(
                    f"joint '{self.limits.names[j]}' needs an effort of {efforts[j]:.3g}, {self.efforts[j]:.3g} is "
                    "allowed; look whether something blocks the arm",
                    Reason.EFFORT,
                )

    def refer(self, positions: np.ndarray, stamp_s: float, speed_scaling: float) -> None:
        """The reference (A,) rad of the controller at a time, and its speed scaling, have arrived. NaN stands for a
        gripper whose controller publishes none; its commanded, or else measured, position is taken.

        From the first call on, a trajectory counts as executed only once it is seen in the reference.
        """
        with self._lock:
            if not self._is_recent("controller state", stamp_s, self.config.joint_timeout_s):
                return
            if self._joints is None and np.isnan(positions).any():
                return
            if self._joints is not None:
                positions = np.where(np.isnan(positions), self._followed(self._joints[1], stamp_s), positions)
            before = self._reference
            self._reference_rests = before is None or bool(
                np.abs(positions - before[1]).max() <= self.config.jump_tolerance_rad
            )
            self._reference, self._scaling = (self._steady(), np.array(positions, float)), speed_scaling
            self._execution.refer(stamp_s, self._reference[1])
            self.watch()

    @property
    def reference(self) -> np.ndarray | None:
        """The reference of the controller, (A,) rad; None without a fresh one."""
        with self._lock:
            if self._reference is None or self._steady() - self._reference[0] > self.config.joint_timeout_s:
                return None
            return self._reference[1]

    @property
    def newest(self) -> Trajectory | None:
        """The trajectory that was sent last, or that of the rest position; None before the first motion."""
        with self._lock:
            return self._execution.newest

    @property
    def delay_s(self) -> float:
        """Recent delay from sending a command until the controller executed it, s; 0 where none was seen to be late."""
        with self._lock:
            return self._execution.delay_s

    @property
    def parting_s(self) -> float:
        """Until when the last trajectory may be sent again, s: from then on it differs from the one it replaces."""
        with self._lock:
            return self._execution.parting_s(self._now())

    @property
    def measured(self) -> np.ndarray | None:
        """Measured positions (A,) rad; None without a fresh joint state."""
        with self._lock:
            if self._joints is None or self._steady() - self._joints[0] > self.config.joint_timeout_s:
                return None
            return self._joints[1]

    def deadman(self, pressed: bool) -> None:
        """A message about the dead-man's button has arrived; without one for too long it counts as released."""
        with self._lock:
            self._pressed = self._steady() if pressed else None
            self.watch()

    def surprise(self, text: str | None) -> None:
        """Sets the sentence about a surprise, which holds the arm; None clears it."""
        with self._lock:
            self._surprise = text
            self.watch()

    def unheard(self, text: str | None) -> None:
        """Sets the sentence about a missing controller, which holds the arm; None clears it."""
        with self._lock:
            self._unheard = text
            self.watch()

    def pause(self, text: str | None) -> None:
        """Sets the sentence with which a person holds the arm, and how to go on; None clears it."""
        with self._lock:
            self._paused = text
            self.watch()

    def at_rest(self) -> bool:
        """Whether every trajectory that was sent has been executed to its end."""
        with self._lock:
            return self._now() >= self._execution.end_s

    # ---- trajectories ------------------------------------------------------------------------------------------------

    def watch(self) -> Intervention | None:
        """The watchdog, to be called often; returns the first cause to hold the arm now, None without one.

        While the arm is armed, each cause is counted once, when it begins.
        """
        with self._lock:
            self._now()
            causes = self._causes_to_hold()
            if self._armed:
                known = [cause.reason for cause in self._holding]
                for cause in causes:
                    if cause.reason not in known:
                        self._count(cause)
            self._holding = causes
            return causes[0] if causes else None

    def restart(self) -> np.ndarray | None:
        """Where a motion may start from rest now, (A,) rad; the arm then counts as commanded to rest there.

        It is the reference of the controller, or else the measured position. None while the arm must not move, still
        moves, has no joint state since its last motion ended, or has two successive ones that differ.
        """
        with self._lock:
            now = self._now()
            ready = self.state is State.ARMED and not self._causes_to_hold() and self.at_rest()
            seen_at_rest = self._measured_s >= self._execution.end_s
            if not (ready and seen_at_rest and self._still) or self._joints is None:
                return None
            if self.reference is not None and not self._reference_rests:
                return None
            rests = self._followed(self._joints[1], now) if self.reference is None else self.reference
            start = np.clip(rests, self.limits.lower, self.limits.upper)
            self._plan_end_s, self._off = now, 0.0
            self._execution.begin(start, now)
            return start

    def release(self, trajectory: Trajectory, frame_s: float | None = None) -> Intervention | None:
        """Checks a trajectory that is about to be sent; returns the reason to refuse it, or None and counts it as sent.

        :param frame_s: stamp of the frame that it was planned from; None for a stop, which needs no arming.
        """
        with self._lock:
            problem = self._refusal(trajectory, frame_s)
            if problem is None:
                self._execution.add(trajectory, self._now())
                if frame_s is not None:
                    self._plan_end_s = float(trajectory.times_s[-1])
            else:
                self._count(problem)
            return problem

    def _refusal(self, trajectory: Trajectory, frame_s: float | None) -> Intervention | None:
        now = self._now()
        if frame_s is not None:
            if self.state in (State.DISARMED, State.STOPPED):
                return Intervention(Reason.NOT_ARMED, self.message)
            if causes := self._causes_to_hold():
                return causes[0]
            if not abs(now - frame_s) <= self.config.frame_timeout_s:
                return Intervention(Reason.STALE_PLAN, f"the plan's frame is {now - frame_s:.2f} s old")
            if self._off > FOLLOWING * self.config.tracking_tolerance_rad:
                return Intervention(
                    Reason.TRACKING,
                    f"the arm is {self._off:.3f} rad from where it was commanded, too far to catch up",
                )
        if violation := find_violation(trajectory, self.limits):
            return violation
        newest = self._execution.newest
        if newest is None or self._joints is None:
            return Intervention(Reason.NOT_ARMED, "the motion has no start; call restart first")
        if trajectory.times_s[0] > now + TRANSPORT_S:
            wait_s = trajectory.times_s[0] - now
            return Intervention(
                Reason.TIMES, f"the motion begins in {wait_s:.3g} s; what the arm does until then is open"
            )
        if self.at_rest():
            gap = float(np.abs(state_at(trajectory, now)[0] - self._followed(self._joints[1], now)).max())
            if gap > self.config.start_tolerance_rad:
                return Intervention(Reason.JUMP, f"the motion starts {gap:.3f} rad from where the arm is")
        if doubt := self._execution.doubt(now, TRANSPORT_S):
            return Intervention(Reason.LOST, doubt)
        for time in (now, now + TRANSPORT_S):
            (q0, v0), (q1, v1) = state_at(newest, time), state_at(trajectory, time)
            dq, dv = float(np.abs(q1 - q0).max()), float(np.abs(v1 - v0).max())
            if dq > self.config.jump_tolerance_rad or dv > self.config.jump_tolerance_rad_s:
                return Intervention(Reason.JUMP, f"the commanded motion would jump by {dq:.4f} rad and {dv:.3f} rad/s")
        if frame_s is None:
            return self._lasting(trajectory)
        return self._leaving(trajectory, now)

    def _lasting(self, stop: Trajectory) -> Intervention | None:
        """Refuses a stop that ends later than the plan would have, by more than the time between points."""
        moves = (np.abs(stop.velocities) > REST_RAD_S) | (np.abs(stop.positions - stop.positions[-1]) > REST_RAD_S)
        last = np.flatnonzero(moves.any(1))
        late_s = stop.times_s[last[-1] + 1] - self._plan_end_s if last.size else -np.inf
        if late_s <= MAX_STEP_S:
            return None
        return Intervention(Reason.NO_STOP, f"the stop ends {late_s:.2f} s after the motion that it is to end")

    def _leaving(self, plan: Trajectory, now: float) -> Intervention | None:
        """Refuses a plan that leaves the workspace or leads to self-collision from now on. An arm that is outside, or
        touches itself, may come back.
        """
        if self.workspace is None and self.self_collision is None:
            return None
        path = state_at(plan, np.arange(now, max(plan.times_s[-1], now) + LOOK_S, LOOK_S))[0]
        links: dict[Chain, np.ndarray] = {}
        for part in (self.workspace, self.self_collision):
            if part is not None and part.chain not in links:
                links[part.chain] = part.chain.positions(path[:, : part.chain.columns])
        if self.workspace is not None:
            outside = self.workspace.find_leaving(links[self.workspace.chain])
            if outside is not None:
                return Intervention(Reason.WORKSPACE, f"the arm would leave the workspace: {outside}")
        if self.self_collision is not None:
            touching = self.self_collision.find_meeting(links[self.self_collision.chain])
            if touching is not None:
                return Intervention(Reason.SELF_COLLISION, f"the arm would hit itself: {touching}")
        return None

    # ---- helpers, under the lock -------------------------------------------------------------------------------------

    def _now(self) -> float:
        """Now on the ROS clock, s. When that clock jumps, an armed arm stops, and the executed trajectories are moved
        along with it, so that the command does not jump.
        """
        now, steady = self._clock(), self._steady()
        gained = now - steady - self._lead
        jump = now - self._latest if now < self._latest - CLOCK_BACK_S else gained if gained > CLOCK_AHEAD_S else 0.0
        if jump:
            self._plan_end_s += jump
            self._measured_s += jump
            self._execution.shift(jump)
            if self._armed:
                self.stop(f"the clock of the stamps jumped by {jump:.2f} s", Reason.CLOCK)
        self._lead = now - steady if jump or not np.isfinite(self._lead) else max(self._lead, now - steady)
        self._latest = now
        return now

    def _causes_to_hold(self) -> list[Intervention]:
        """The causes that hold an armed arm and may pass by themselves."""
        causes = self._stale()
        if self.needs_deadman:
            timeout = self.config.deadman_timeout_s
            if self._pressed is None:
                causes.append(Intervention(Reason.DEADMAN, "the dead-man's button is not pressed"))
            elif (age := self._steady() - self._pressed) > timeout:
                causes.append(
                    Intervention(
                        Reason.DEADMAN,
                        f"nothing has been heard of the dead-man's button for {age:.2f} s, more than {timeout} s; "
                        "set the joystick's driver to repeat its messages",
                    )
                )
        if self._unheard is not None:
            causes.append(Intervention(Reason.NO_CONTROLLER, self._unheard))
        if self.reference is not None and self._scaling < FULL_SPEED:
            causes.append(
                Intervention(
                    Reason.SCALING,
                    f"the controller executes trajectories at {self._scaling:.0%} speed: each new one would make the "
                    "arm jump ahead; set the robot's speed slider to 100 % and reduce speed_scale instead",
                )
            )
        if self._paused is not None:
            causes.append(Intervention(Reason.PAUSED, self._paused))
        if self._surprise is not None:
            causes.append(Intervention(Reason.SURPRISE, f"surprise: {self._surprise}"))
        return causes

    def _stale(self) -> list[Intervention]:
        """The causes to hold of frames and joint states that have not arrived for too long."""
        now, stale = self._steady(), list[Intervention]()
        checks = (
            (Reason.STALE_FRAME, "camera frame", self._frame, self.config.frame_timeout_s),
            (Reason.STALE_JOINTS, "joint state", self._joints and self._joints[0], self.config.joint_timeout_s),
        )
        for reason, what, seen, timeout in checks[0 if self.needs_frames else 1 :]:
            if seen is not None and now - seen <= timeout:
                continue
            text = f"no fresh {what} has arrived yet"
            if seen is not None:
                text = f"the last fresh {what} came {now - seen:.2f} s ago, more than {timeout} s"
            if (age := self._age.get(what)) is not None:
                text += f"; the newest has a stamp {abs(age):.2f} s {'old' if age > 0 else 'ahead'}: look at the clocks"
            stale.append(Intervention(reason, text))
        return stale

    def _is_recent(self, what: str, stamp_s: float, timeout_s: float) -> bool:
        """Whether the stamp of an input that has just arrived is fresh; if not, keeps its age for the message."""
        age = self._now() - stamp_s
        if abs(age) <= timeout_s:
            self._age.pop(what, None)
            return True
        self._age[what] = age
        return False

    def _followed(self, positions: np.ndarray, time_s: float) -> np.ndarray:
        """Measured positions (A,) rad, with the commanded position of a gripper at a time, if there is one."""
        newest = self._execution.newest
        if newest is None or not self._grips.any():
            return positions
        return np.where(self._grips, state_at(newest, time_s)[0], positions)

    def _outside(self, positions: np.ndarray) -> str | None:
        room = self.config.start_tolerance_rad
        for j, name in enumerate(self.limits.names):
            if not self.limits.lower[j] - room <= positions[j] <= self.limits.upper[j] + room:
                return (
                    f"joint '{name}' is at {positions[j]:.3f} rad, outside its limits {self.limits.lower[j]:.3f} to "
                    f"{self.limits.upper[j]:.3f}"
                )
        if self.workspace is None:
            return None
        links = positions[None, : self.workspace.chain.columns]
        outside = self.workspace.find_outside(links, START_ROOM_M)
        return None if outside is None else f"the arm is outside the workspace: {outside}"

    def _count(self, intervention: Intervention) -> None:
        self.interventions[intervention.reason] += 1
