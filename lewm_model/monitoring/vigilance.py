# SPDX-License-Identifier: Apache-2.0
"""What to do about frames that do not show what was imagined, or something new: slow down, hold, and go on when the
world is calm.
"""

from __future__ import annotations

from collections.abc import Callable

from lewm_model.config import MonitorConfig

SURPRISING = MonitorConfig().surprising  # what calibrations and reports count with, whatever a robot is told


class Vigilance:
    """Turns the surprise of one frame after the other into what the arm should do. Used from one thread; times in s,
    on any clock.
    """

    def __init__(self, config: MonitorConfig | None = None) -> None:
        self.config = MonitorConfig() if config is None else config
        self.forget()

    def forget(self) -> None:
        """Is calm again at once: a person who moves the arm by hand knows about it."""
        self.score = 0.0  # of the newest frame
        self._in_a_row = 0
        self._worst = 0.0  # score since the world was calm
        self._last_s: float | None = None  # when the last surprising frame was
        self._holds = False

    def see(self, score: float, now_s: float, sees_the_arm: Callable[[], bool] = lambda: True) -> None:
        """Takes the surprise of a new frame, in times the usual.

        `sees_the_arm` is asked before a hold ends: whether the picture shows the arm where it is.
        """
        self.score = score
        if score > self.config.surprising:
            self._in_a_row += 1
            self._last_s = now_s
        else:
            self._in_a_row = 0
        self._worst = max(self._worst, score)
        if self._in_a_row >= self.config.hold_frames:
            self._holds = True
        elif not self.slow(now_s) and not (self._holds and not sees_the_arm()):
            self._holds, self._worst = False, score

    def slow(self, now_s: float) -> bool:
        """Whether a surprising frame was seen a short while ago."""
        return self._last_s is not None and now_s - self._last_s < self.config.calm_s

    @property
    def alarm(self) -> str | None:
        """Why the arm must hold, for people; None when it need not."""
        if not self._holds:
            return None
        return (
            f"the picture was {self._worst:.1f} times as strange as usual at most; "
            "look for something moved, covered or lit otherwise"
        )
