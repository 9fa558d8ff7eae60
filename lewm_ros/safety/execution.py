# SPDX-License-Identifier: Apache-2.0
"""Which of the trajectories that were sent the controller executes. Nothing about their delivery is assumed.

Controllers take commands as they come: one that is lost on the way is not sent again, and one that is late replaces
what is executed when it comes. So a trajectory counts as executed only once it is seen: in what the controller says
that it demands of the arm (its reference), which tells trajectories apart as soon as they part, or else in where the
joints are, which takes longer and has to know by how much the arm lags behind.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from lewm_model.planning.motion import Trajectory
from lewm_ros.safety.limits import state_at

# Trajectories that differ by more are told apart: by the reference, which differs from what was sent by what the
# controller's own interpolation adds, and by measured positions, which differ from it by what the arm does.
TOLD_RAD, TOLD_MEASURED_RAD = 3e-4, 0.01
UNSURE_RAD = 4e-3  # between trajectories of which one is executed: the step, should it be the other one
MOVES_RAD_S, ENOUGH = 0.2, 10  # commanded speed at which the lag of the arm shows, and how often it is looked at
LONGEST_LAG_S = 0.5
LOOK_S = 0.005  # between the times at which two trajectories are compared


@dataclass(frozen=True)
class Sent:
    """A trajectory, and when it was sent."""

    sent_s: float
    trajectory: Trajectory


class Execution:
    """What the controller may be executing. Times are seconds on the clock of the stamps.

    :param seen: columns of the joints that tell; None is all. A gripper's does not, it may be kept from moving.
    """

    def __init__(self, seen: np.ndarray | None = None) -> None:
        self._seen: np.ndarray | slice = slice(None) if seen is None else seen
        self._sent: deque[Sent] = deque(maxlen=16)  # the newest last
        self._possible: list[Sent] = []  # those that may be executed, the newest last
        self._behind: Sent | None = None  # what was executed, when last seen, although a newer one had been sent
        self._refers = False  # whether the controller says what it demands
        self._off = 0.0  # rad, of the newest reference from the nearest of what may be executed
        self._lag_s, self._looks = 0.0, 0
        self.delay_s = 0.0  # that commands took lately to be executed, where they were seen to be late

    def forget(self) -> None:
        """The arm may be anywhere now."""
        self._sent.clear()
        self._possible, self._behind, self._off = [], None, 0.0

    def begin(self, position: np.ndarray, now_s: float) -> None:
        """The arm rests at `position` (A,) rad, and nothing that was sent before is executed any more."""
        self.forget()
        rest = Trajectory(np.array([now_s - 1.0, now_s]), np.stack([position, position]), np.zeros((2, len(position))))
        self.add(rest, now_s)

    def add(self, trajectory: Trajectory, now_s: float) -> None:
        """It has just been sent."""
        self._sent.append(Sent(now_s, trajectory))
        self._possible.append(self._sent[-1])

    def shift(self, jump_s: float) -> None:
        """The clock has jumped, and what is executed goes with it."""
        moved = [
            Sent(sent.sent_s + jump_s, replace(sent.trajectory, times_s=sent.trajectory.times_s + jump_s))
            for sent in self._possible
        ]
        self._sent.clear()
        self._sent.extend(moved)
        self._possible, self._behind = moved, None

    @property
    def newest(self) -> Trajectory | None:
        """What was sent last."""
        return self._possible[-1].trajectory if self._possible else None

    @property
    def end_s(self) -> float:
        """When the arm rests, whichever is executed."""
        return max((float(sent.trajectory.times_s[-1]) for sent in self._suspects()), default=-np.inf)

    def _suspects(self) -> list[Sent]:
        """What may be executed, the newest last. Where only the joints are seen, a command counts as delivered until
        they say otherwise.
        """
        if self._refers or not self._possible:
            return self._possible
        return [*([self._behind] if self._behind else []), self._possible[-1]]

    def parting_s(self, now_s: float) -> float:
        """When the newest trajectory first differs from what it replaces; `now_s` where it does not within a second.

        Until then it makes no difference whether the controller has it, and it may be sent again.
        """
        if len(self._sent) < 2:
            return now_s
        times = now_s + LOOK_S * np.arange(round(1.0 / LOOK_S))
        ways = [state_at(sent.trajectory, times)[0] for sent in (self._sent[-2], self._sent[-1])]
        apart = np.flatnonzero((np.abs(ways[1] - ways[0]) > TOLD_RAD).any(1))
        return float(times[apart[0]]) if len(apart) else now_s

    def doubt(self, now_s: float, within_s: float) -> str | None:
        """Why a trajectory must not be sent that goes on from the newest one, for people; None: it may.

        :param within_s: from now on the arm follows what it has.
        """
        if self._off > UNSURE_RAD:
            return f"the controller demands positions {self._off:.4f} rad from all that it was sent"
        for other in self._suspects()[:-1]:
            for time_s in (now_s, now_s + within_s):
                ways = [state_at(sent.trajectory, time_s)[0] for sent in (other, self._possible[-1])]
                if (apart := float(np.abs(ways[1] - ways[0])[self._seen].max())) > UNSURE_RAD:
                    return f"the last command is not seen to be executed; the one before it is {apart:.4f} rad away"
        return None

    def error(self, stamp_s: float, position: np.ndarray) -> np.ndarray:
        """How far (A,) rad the arm was from where it was told to be: from the nearest of what may have been executed;
        0 for joints that do not tell.

        Where only the joints are seen, that is the newest of then: an arm that stays behind may as well be blocked.
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
        """The controller says that it demanded `position` (A,) rad at a time."""
        self._refers = True
        if self._possible:
            self._off = float(self.error(stamp_s, position).max())
            self._tell(stamp_s, position, TOLD_RAD)

    def measure(self, stamp_s: float, position: np.ndarray) -> None:
        """The arm was measured at `position` (A,) rad; for a controller that does not say what it demands."""
        self._refers, self._off = False, 0.0
        if not self._possible:
            return
        if self._looks < ENOUGH or len(self._possible) == 1:
            self._look_at_lag(self._possible[-1], stamp_s, position)
        if self._looks >= ENOUGH:
            self._tell(stamp_s - self._lag_s, position, TOLD_MEASURED_RAD)

    def _tell(self, stamp_s: float, position: np.ndarray, told_rad: float) -> None:
        """Drops what was replaced by what is nearest to `position` (A,) rad, where the two can be told apart."""
        judged = [sent for sent in self._possible if sent.sent_s <= stamp_s]
        if not judged:
            return
        ways = np.stack([state_at(sent.trajectory, stamp_s)[0][self._seen] for sent in judged])
        off = np.abs(ways - position[self._seen]).max(1)
        nearest = int(off.argmin())
        apart = np.abs(ways - ways[nearest]).max(1)
        told = (apart > told_rad) & (off - off[nearest] > 0.5 * apart)
        replaced = [sent for i, sent in enumerate(judged[:nearest]) if told[i]]
        self._possible = [sent for sent in self._possible if not any(sent is old for old in replaced)]
        if told[-1]:
            self._behind = judged[nearest]
        elif replaced:
            late = self._behind is not None
            self.delay_s = max(0.9 * self.delay_s, stamp_s - judged[nearest].sent_s if late else 0.0)
            self._behind = None

    def _look_at_lag(self, sent: Sent, stamp_s: float, position: np.ndarray) -> None:
        """By how much a moving arm is late on its way, on average."""
        way, velocity = (values[self._seen] for values in state_at(sent.trajectory, stamp_s))
        speed2 = float(velocity @ velocity)
        if sent.sent_s <= stamp_s and speed2 > MOVES_RAD_S**2:
            self._looks += 1
            seen_s = float(velocity @ (way - position[self._seen])) / speed2
            seen_s = float(np.clip(seen_s, 0.0, LONGEST_LAG_S))
            self._lag_s += (seen_s - self._lag_s) / min(self._looks, 2 * ENOUGH)
