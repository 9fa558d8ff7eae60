# SPDX-License-Identifier: Apache-2.0
"""Infers which of the sent trajectories the controller executes, without assumptions about their delivery.

A command may be lost, and one that is late replaces the executed trajectory when it arrives. So a trajectory counts as
executed only once that is observed: in the reference that the controller publishes, in which trajectories can be told
apart as soon as they diverge, or else in the measured positions, which takes longer and needs the lag of the arm.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from lewm_model.planning.motion import Trajectory
from lewm_ros.safety.limits import state_at

TOLD_RAD = 3e-4  # greatest error of a reference, by the controller's interpolation; more tells trajectories apart
UNSURE_RAD = 4e-3  # greatest step of the command that is risked when it is unknown which trajectory is executed
MOVES_RAD_S, ENOUGH = 0.2, 10  # commanded speed above which the lag of the arm is measured, and number of samples
LONGEST_LAG_S = 0.5  # a longer one is not lag but an arm that does not follow
DELAYS = 16  # number of the newest commands whose delay, and whose lag, is remembered
MOST_APART_S = 0.05  # from the middle one, up to which the lag of a single command counts
BEYOND = 0.5  # of the range of the lags so far, by which the next command's may lie beyond it on either side
LAGS = 9  # between the least and the greatest lag that a position is compared with trajectories at
LOOK_S = 0.005  # between the times at which two trajectories are compared


@dataclass(frozen=True)
class Sent:
    """A trajectory and when it was sent."""

    sent_s: float
    trajectory: Trajectory


@dataclass
class Lag:
    """Mean lag of the arm behind one trajectory. Each has one of its own where a controller begins a trajectory when it
    arrives, whatever its stamp says, or where the clock has coarse steps.
    """

    behind: Sent
    looks: int = 0
    mean_s: float = 0.0

    def look(self, lag_s: float) -> None:
        self.looks += 1
        self.mean_s += (lag_s - self.mean_s) / self.looks


class Execution:
    """The trajectories that the controller may be executing. Times are seconds on the ROS clock.

    :param seen: columns of the joints whose position is informative, None for all. A gripper's is not: an object in it
        may keep it from moving.
    :param measured_rad: tracking error of the arm; a greater difference tells trajectories apart by measured positions.
    """

    def __init__(self, seen: np.ndarray | None, measured_rad: float) -> None:
        self._measured_rad = measured_rad
        self._seen: np.ndarray | slice = slice(None) if seen is None else seen
        self._sent: deque[Sent] = deque(maxlen=16)  # the newest last
        self._possible: list[Sent] = []  # those that may be executed, the newest last
        self._behind: Sent | None = None  # the executed one when last observed, if a newer one had been sent
        self._refers = False  # whether the controller publishes its reference
        self._off = 0.0  # rad, distance of the newest reference from the nearest trajectory that may be executed
        self._lags: deque[Lag] = deque(maxlen=DELAYS)  # of the newest commands by which the arm moved
        self._delays: deque[float] = deque(maxlen=DELAYS)  # s, from sending to execution; 0 of commands in time

    def forget(self) -> None:
        """Forgets everything: the arm may be anywhere now."""
        self._sent.clear()
        self._possible, self._behind, self._off = [], None, 0.0

    def begin(self, position: np.ndarray, now_s: float) -> None:
        """The arm rests at `position` (A,) rad, and earlier trajectories are no longer executed."""
        self.forget()
        rest = Trajectory(np.array([now_s - 1.0, now_s]), np.stack([position, position]), np.zeros((2, len(position))))
        self.add(rest, now_s)

    def add(self, trajectory: Trajectory, now_s: float) -> None:
        """Adds a trajectory that has just been sent."""
        self._sent.append(Sent(now_s, trajectory))
        self._possible.append(self._sent[-1])

    def shift(self, jump_s: float) -> None:
        """Moves the executed trajectories along with a clock that has jumped."""
        moved = [
            Sent(sent.sent_s + jump_s, replace(sent.trajectory, times_s=sent.trajectory.times_s + jump_s))
            for sent in self._possible
        ]
        self._sent.clear()
        self._sent.extend(moved)
        self._possible, self._behind = moved, None

    @property
    def newest(self) -> Trajectory | None:
        """The trajectory that was sent last, None without one."""
        return self._possible[-1].trajectory if self._possible else None

    @property
    def delay_s(self) -> float:
        """Recent delay from sending to execution, s: the second greatest of the last DELAYS commands. A single late
        one tells nothing about the next: processes pause now and then, and a stop that waits that long is late itself.
        """
        return sorted(self._delays)[-2] if len(self._delays) > 1 else 0.0

    @property
    def end_s(self) -> float:
        """When the arm will rest, whichever trajectory is executed, s."""
        return max((float(sent.trajectory.times_s[-1]) for sent in self._suspects()), default=-np.inf)

    def _suspects(self) -> list[Sent]:
        """The trajectories that may be executed, the newest last. Without a reference, a command counts as delivered
        until measured positions contradict that.
        """
        if self._refers or not self._possible:
            return self._possible
        return [*([self._behind] if self._behind else []), self._possible[-1]]

    def parting_s(self, now_s: float) -> float:
        """When the newest trajectory diverges from the one it replaces, s; `now_s` where it does not within a second.

        Until then it makes no difference which of them is executed, and the newest may be sent again.
        """
        if len(self._sent) < 2:
            return now_s
        times = now_s + LOOK_S * np.arange(round(1.0 / LOOK_S))
        ways = [state_at(sent.trajectory, times)[0] for sent in (self._sent[-2], self._sent[-1])]
        apart = np.flatnonzero((np.abs(ways[1] - ways[0]) > TOLD_RAD).any(1))
        return float(times[apart[0]]) if len(apart) else now_s

    def doubt(self, now_s: float, within_s: float) -> str | None:
        """A sentence if no trajectory may be sent that continues the newest one, else None.

        :param within_s: time from now until a new trajectory reaches the controller.
        """
        if self._off > UNSURE_RAD:
            return f"the controller's reference is {self._off:.4f} rad from every trajectory that it was sent"
        for other in self._suspects()[:-1]:
            for time_s in (now_s, now_s + within_s):
                ways = [state_at(sent.trajectory, time_s)[0] for sent in (other, self._possible[-1])]
                if (apart := float(np.abs(ways[1] - ways[0])[self._seen].max())) > UNSURE_RAD:
                    return f"the last command is not seen to be executed; the one before it is {apart:.4f} rad away"
        return None

    def error(self, stamp_s: float, position: np.ndarray) -> np.ndarray:
        """Distances (A,) rad of `position` from the nearest trajectory that may have been executed at `stamp_s`; 0 for
        joints that are not in `seen`.

        Without a reference it is the newest trajectory of that time: an arm that stays behind it may be blocked.
        """
        told = [sent for sent in self._sent if sent.sent_s <= stamp_s][-1:] or [self._possible[-1]]
        if self._refers:
            told += self._possible
        ways = [state_at(sent.trajectory, stamp_s)[0] for sent in told]
        off = np.zeros_like(position)
        off[self._seen] = min(
            (np.abs(way - position)[self._seen] for way in ways), key=lambda error: float(error.max())
        )
        return off

    def refer(self, stamp_s: float, position: np.ndarray) -> None:
        """The reference of the controller was `position` (A,) rad at `stamp_s`."""
        self._refers = True
        if self._possible:
            self._off = float(self.error(stamp_s, position).max())
            self._tell(np.array([stamp_s]), position, TOLD_RAD)

    def measure(self, stamp_s: float, position: np.ndarray) -> None:
        """The arm was measured at `position` (A,) rad; for a controller that does not publish its reference."""
        self._refers, self._off = False, 0.0
        if not self._possible:
            return
        known = sum(lag.looks for lag in self._lags) >= ENOUGH
        if not known or len(self._possible) == 1:
            self._look_at_lag(self._possible[-1], stamp_s, position)
        if known:
            lags_s = np.array([lag.mean_s for lag in self._lags])
            middle = np.median(lags_s)  # an arm that was blocked for a while does not make it blind to lost commands
            least, most = np.clip([lags_s.min(), lags_s.max()], middle - MOST_APART_S, middle + MOST_APART_S)
            more = BEYOND * (most - least)
            self._tell(stamp_s - np.linspace(least - more, most + more, LAGS), position, self._measured_rad)

    def _tell(self, times_s: np.ndarray, position: np.ndarray, told_rad: float) -> None:
        """Drops trajectories older than the one nearest to `position` (A,) rad, where the two can be told apart.

        A position away from both tells nothing: something blocks or pushes the arm, whatever is executed.

        :param times_s: (N,) s, in order, any of which the position may be of; a trajectory is as near as it is at the
            one that fits it best.
        """
        stamp_s = float(times_s.min())
        judged = [sent for sent in self._possible if sent.sent_s <= stamp_s]
        if not judged:
            return
        at_any = np.stack([state_at(sent.trajectory, times_s)[0][:, self._seen] for sent in judged])
        ways = at_any[:, len(times_s) // 2]
        off = np.abs(at_any - position[self._seen]).max(2).min(1)
        nearest = int(off.argmin())
        apart = np.abs(ways - ways[nearest]).max(1)
        told = (apart > told_rad) & (off - off[nearest] > 0.5 * apart) & (off[nearest] < 0.5 * apart)
        replaced = [sent for i, sent in enumerate(judged[:nearest]) if told[i]]
        self._possible = [sent for sent in self._possible if not any(sent is old for old in replaced)]
        if told[-1]:
            self._behind = judged[nearest]
        elif replaced:
            late = self._behind is not None
            self._delays.append(stamp_s - judged[nearest].sent_s if late else 0.0)
            self._behind = None

    def _look_at_lag(self, sent: Sent, stamp_s: float, position: np.ndarray) -> None:
        """Updates the lag of a moving arm behind its trajectory."""
        way, velocity = (values[self._seen] for values in state_at(sent.trajectory, stamp_s))
        speed2 = float(velocity @ velocity)
        if sent.sent_s <= stamp_s and speed2 > MOVES_RAD_S**2:
            seen_s = float(velocity @ (way - position[self._seen])) / speed2
            if not self._lags or self._lags[-1].behind is not sent:
                self._lags.append(Lag(sent))
            self._lags[-1].look(float(np.clip(seen_s, 0.0, LONGEST_LAG_S)))
