# SPDX-License-Identifier: Apache-2.0
"""The shield between plan and arm. Pure Python: what it protects against does not depend on ROS.

A plan goes to the arm only if `Shield.release` lets it: the arm is armed, nothing says hold, every limit holds, the
links stay in the workspace, what comes next is continuous with what the controller executes, and it ends at rest.
What does not fit is held back, counted and named; the arm then runs to the end of the trajectory it has, which is a
smooth stop.

A stop has to pass the same checks but for three. It needs no arming, and nothing holds it back. It may leave the
workspace: what the arm would do otherwise is to go on with the plan, for longer. No joint then moves farther than it
needs to stop; a plan takes each joint at least as far, but not all of them at the same time, so the links may leave the
box where the plan would have turned along its side: by 25 mm at most in 43,000 stops of the arm on the table at full
speed, from plans that just fit into their boxes. For that a stop must not last: it ends no later than the plan.

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

LOOK_S = 0.0125  # how often on its way an arm is looked for outside the workspace; one of 1 m strays 1 mm in between
START_ROOM_M = 0.01  # that an arm may be outside the workspace when it is armed: it sags, and it is measured
CLOCK_BACK_S, CLOCK_AHEAD_S = 1e-3, 0.1  # a clock of the stamps that goes back or gains more than this has jumped
FOLLOWING = 0.5  # share of the tracking tolerance, beyond which an arm that lags gets no new plan to catch up with
FULL_SPEED = 0.99  # of time on a trajectory: a controller that is slower jumps where one replaces another
TRANSPORT_S = 0.02  # until the arm has a new trajectory it follows the old one, so both must agree that long


class State(Enum):
    """What the shield lets through."""

    DISARMED = "disarmed"  # stops only
    ARMED = "armed"  # trajectories that pass every check
    HOLDING = "holding"  # stops only, until the cause is gone; then armed by itself
    STOPPED = "stopped"  # stops only, until somebody resets


@dataclass(frozen=True)
class ShieldConfig:
    """What counts as stale, and as a jump."""

    frame_timeout_s: float = 0.5  # oldest frame that may be planned from, and longest time without a new one
    joint_timeout_s: float = 0.25  # longest time without a joint state
    deadman_timeout_s: float = 0.5  # longest time without a message that the dead-man's button is pressed
    tracking_tolerance_rad: float = 0.2  # between measured and commanded position; beyond it the stop latches
    start_tolerance_rad: float = 0.05  # between measured and commanded position when a motion begins from rest
    jump_tolerance_rad: float = 1e-3  # between two trajectories where one replaces the other
    jump_tolerance_rad_s: float = 0.05  # the same for velocities

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"shield setting {name} is {value}; it must be finite and above 0")


class Shield:
    """Lets trajectories through to the arm, or not. Safe to use from several threads.

    Times of frames, joint states and trajectories are seconds on the clock of the stamps, `clock`; freshness is
    measured on `steady`, which no clock jump touches.

    :param workspace: box for the links, None for none; the columns of its chain are the first joints of the limits, all
        but a gripper's.
    :param self_collision: what tells whether the arm hits itself, None for nothing; its chain likewise.
    :param needs_deadman: whether the arm holds unless `deadman` keeps hearing that the button is pressed.
    :param needs_frames: whether the arm holds unless `frame` keeps hearing of frames.
    :param efforts: (A,) that joints may need, in the unit in which `effort` hears of them; None for any.
    :param grips: (A,) bool, which joints are a gripper's: what it holds keeps it from where it is commanded, so it is
        not expected there. All limits are for it, too.
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
        self._latest, self._lead = -np.inf, np.inf  # of the clock: newest time, and most that it was ahead of steady
        self._lock = threading.RLock()
        self._armed = False
        self._stopped: str | None = None  # why the stop is latched
        self._holding: list[Intervention] = []  # what held when `watch` last looked
        self._execution = Execution(
            np.flatnonzero(~self._grips) if self._grips.any() else None
        )  # of what was sent since it was armed
        self._reference: tuple[float, np.ndarray] | None = None  # what the controller said last: when, steady, and (A,)
        self._reference_rests = True  # whether it said the same before
        self._scaling = 1.0  # how fast the controller lets time pass on a trajectory
        self._plan_end_s = -np.inf  # when the last plan that was sent ends
        self._frame: float | None = None  # when the last good frame came, steady
        self._age: dict[str, float] = {}  # s, of what came last and did not count because its stamp was off
        self._joints: tuple[float, np.ndarray] | None = None  # when the last joint state came, steady, and (A,) rad
        self._off = 0.0  # rad, of the newest joint state from where the arm was commanded
        self._measured_s = -np.inf  # stamp of the last joint state
        self._still = False  # whether the last two joint states agree
        self._pressed: float | None = None  # when the button was last said to be pressed, steady; None: released
        self._surprise: str | None = None  # what is surprising
        self._unheard: str | None = None  # that nobody takes the commands, and on which topic
        self._paused: str | None = None  # that a person wants the arm to hold, and how it goes on

    @property
    def state(self) -> State:
        """What is let through now."""
        with self._lock:
            if self._stopped is not None:
                return State.STOPPED
            if not self._armed:
                return State.DISARMED
            return State.HOLDING if self._holding else State.ARMED

    @property
    def message(self) -> str:
        """The state with its cause, for people."""
        with self._lock:
            if self._stopped is not None:
                return f"stopped: {self._stopped}; reset to go on"
            holding = "; ".join(cause.text for cause in self._holding)
            return f"holding: {holding}" if self._armed and holding else self.state.value

    @property
    def holding(self) -> tuple[Intervention, ...]:
        """Why the arm must hold, or would have to if it were armed, when `watch` last looked."""
        with self._lock:
            return tuple(self._holding)

    # ---- arming ------------------------------------------------------------------------------------------------------

    def arm(self) -> str | None:
        """Arms; returns None, or why the shield refuses.

        It needs to know where the arm is. A released dead-man's button, a surprise and a controller that is not there
        do not keep it from arming: it then holds until they are gone. Whoever enables the arm first and presses the
        button then needs that.
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
                self._execution.forget()  # while disarmed the arm may have been moved
            self._armed, self._holding = True, []
            self.watch()
            return None

    def disarm(self) -> None:
        """Lets nothing but a stop through from now on."""
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

    # ---- what comes in -----------------------------------------------------------------------------------------------

    def frame(self, stamp_s: float) -> None:
        """A latent of the frame with this stamp has arrived. One that is old when it arrives does not count."""
        with self._lock:
            if self._is_recent("camera frame", stamp_s, self.config.frame_timeout_s):
                self._frame = self._steady()

    def joints(self, positions: np.ndarray, stamp_s: float) -> bool:
        """A measured position (A,) rad has arrived; one that is not finite, or old when it arrives, does not count.

        Returns whether it counts.
        """
        with self._lock:
            if positions.shape != (len(self.limits.names),) or not np.isfinite([*positions, stamp_s]).all():
                self._count(Intervention(Reason.NOT_FINITE, f"measured joint positions are {positions} at {stamp_s} s"))
                return False
            if not self._is_recent("joint state", stamp_s, self.config.joint_timeout_s):
                return False
            moved = np.inf if self._joints is None else np.abs(positions - self._joints[1]).max()
            stands_still = stamp_s == self._measured_s  # the clock of the stamps: nobody knows where the arm was when
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
        """What the joints need, (A,); NaN where that is not known. More than is allowed latches the stop."""
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
        """The controller says what it demanded (A,) rad of the arm at a time, and how fast it lets time pass. NaN is a
        gripper's whose controller does not say it: it counts as where it was commanded, or else measured.

        From the first time on, a trajectory counts as executed only when it is seen there.
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
        """What the controller demands of the arm, (A,) rad; None when it did not say so lately."""
        with self._lock:
            if self._reference is None or self._steady() - self._reference[0] > self.config.joint_timeout_s:
                return None
            return self._reference[1]

    @property
    def newest(self) -> Trajectory | None:
        """What was sent last, or where the arm rests; None before a first motion."""
        with self._lock:
            return self._execution.newest

    @property
    def delay_s(self) -> float:
        """That commands took lately until the controller executed them, as far as they were seen to be late, s."""
        with self._lock:
            return self._execution.delay_s

    @property
    def parting_s(self) -> float:
        """Until when what was sent last may be sent again: from then on it differs from what it replaces."""
        with self._lock:
            return self._execution.parting_s(self._now())

    @property
    def measured(self) -> np.ndarray | None:
        """Where the arm is, (A,) rad; None when no joint state is fresh."""
        with self._lock:
            if self._joints is None or self._steady() - self._joints[0] > self.config.joint_timeout_s:
                return None
            return self._joints[1]

    def deadman(self, pressed: bool) -> None:
        """A message says whether the dead-man's button is pressed; one that comes too seldom counts as released."""
        with self._lock:
            self._pressed = self._steady() if pressed else None
            self.watch()

    def surprise(self, text: str | None) -> None:
        """The world does not do what was imagined, and what shows it, for people; None: it does again."""
        with self._lock:
            self._surprise = text
            self.watch()

    def unheard(self, text: str | None) -> None:
        """Nobody takes the commands, and where one should, for people; None: somebody does."""
        with self._lock:
            self._unheard = text
            self.watch()

    def pause(self, text: str | None) -> None:
        """A person wants the arm to hold, and how it goes on, for people; None: it may move."""
        with self._lock:
            self._paused = text
            self.watch()

    def at_rest(self) -> bool:
        """Whether everything that was sent has been executed."""
        with self._lock:
            return self._now() >= self._execution.end_s

    # ---- what goes out -----------------------------------------------------------------------------------------------

    def watch(self) -> Intervention | None:
        """The watchdog, to be called often: the first cause why the arm must hold now; None when it need not.

        While it is armed, each cause is counted once, when it begins.
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
        """Where a commanded motion may start from rest now, (A,) rad; None while the arm may not or still moves, was
        not measured since its last motion ended, or one joint state says something else than the next. From here on the
        arm counts as commanded to rest there: at what the controller demands, where that is known.
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
        """Checks a trajectory that is about to be sent; None lets it through and remembers it as sent.

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
        """Why a stop is none: it moves the arm for longer than the plan would have, give or take a point."""
        moves = (np.abs(stop.velocities) > REST_RAD_S) | (np.abs(stop.positions - stop.positions[-1]) > REST_RAD_S)
        last = np.flatnonzero(moves.any(1))
        late_s = stop.times_s[last[-1] + 1] - self._plan_end_s if last.size else -np.inf
        if late_s <= MAX_STEP_S:
            return None
        return Intervention(Reason.NO_STOP, f"the stop ends {late_s:.2f} s after the motion that it is to end")

    def _leaving(self, plan: Trajectory, now: float) -> Intervention | None:
        """Why a plan must not be executed from now on: the workspace, or the arm itself. An arm that is outside, or
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
        """Now on the clock of the stamps, s. Where that clock jumps, an armed arm stops, and what it executes is moved
        along with the clock: the arm does not jump.
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
        """All that keeps plans from going out although the arm is armed, and passes by itself."""
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
                        "let the joystick's driver repeat its message",
                    )
                )
        if self._unheard is not None:
            causes.append(Intervention(Reason.NO_CONTROLLER, self._unheard))
        if self.reference is not None and self._scaling < FULL_SPEED:
            causes.append(
                Intervention(
                    Reason.SCALING,
                    f"the controller lets time pass {self._scaling:.0%} as fast: each new trajectory would make the "
                    "arm jump ahead; turn the robot's speed slider up to 100 % and let the planner move slower",
                )
            )
        if self._paused is not None:
            causes.append(Intervention(Reason.PAUSED, self._paused))
        if self._surprise is not None:
            causes.append(Intervention(Reason.SURPRISE, f"surprise: {self._surprise}"))
        return causes

    def _stale(self) -> list[Intervention]:
        """What of frames and joint states has not come for too long."""
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
        """Whether the stamp of what has just arrived is as old as it may be; remembers by how much it is not."""
        age = self._now() - stamp_s
        if abs(age) <= timeout_s:
            self._age.pop(what, None)
            return True
        self._age[what] = age
        return False

    def _followed(self, positions: np.ndarray, time_s: float) -> np.ndarray:
        """Measured positions (A,) rad, with a gripper where it was commanded to be at a time, if it was."""
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
