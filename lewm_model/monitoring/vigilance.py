# SPDX-License-Identifier: Apache-2.0
"""The reaction to surprising frames: slow down, hold, and continue once frames are as expected again."""

from __future__ import annotations

from collections.abc import Callable

from lewm_model.config import MonitorConfig

SURPRISING = MonitorConfig().surprising  # the limit in calibrations and reports, independent of a robot's parameters


class Vigilance:
    """Decides from the surprise of each frame whether the arm slows down or holds.

    Used from one thread. All times are seconds on the same clock; any will do.
    """

    def __init__(self, config: MonitorConfig | None = None) -> None:
        self.config = MonitorConfig() if config is None else config
        self.forget()

    def forget(self) -> None:
        """Forgets all surprising frames, as after a person moved the arm by hand, which is no fault."""
        self.score = 0.0  # of the newest frame
        self._in_a_row = 0
        self._worst = 0.0  # greatest score since the last calm frame
        self._last_s: float | None = None  # when the last surprising frame was
        self._holds = False

    def see(self, score: float, now_s: float, sees_the_arm: Callable[[], bool] = lambda: True) -> None:
        """Takes the surprise of a new frame, in multiples of the calibrated limit.

        :param sees_the_arm: whether the picture shows the arm where it is; called before a hold ends.
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
        """Whether a surprising frame came in the last `calm_s` seconds."""
        return self._last_s is not None and now_s - self._last_s < self.config.calm_s

    @property
    def alarm(self) -> str | None:
        """Why the arm must hold, as a message to users; None when it need not."""
        if not self._holds:
            return None
        return (
            f"the picture differs from what was expected by {self._worst:.1f} times the calibrated limit; "
            "look for an object that was moved, covered or lit differently"
        )
