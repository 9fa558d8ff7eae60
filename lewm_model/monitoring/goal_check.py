# SPDX-License-Identifier: Apache-2.0
"""Is a picture one that an arm should be sent to? To a model everything is a picture: a camera's black first frame, a
crop, swapped colours. The arm would go to some pose, and the goal would count as reached there.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from lewm_model.bundle.bundle import Calibration
from lewm_model.config import MonitorConfig
from lewm_model.monitoring.novelty import Novelty, most_together
from lewm_model.monitoring.vigilance import SURPRISING

FLATTEST = 4.0  # standard deviation of the grey levels, 0 to 255; what has less shows nothing
ROOM = 1.25  # factor by which a goal's squared latent may lie outside of those of the recordings
STEADY_S = 0.5  # that the exposure must have been steady for
STEADY_FRAMES = 3  # of that time, at least


@dataclass(frozen=True)
class GoalReport:
    """What was found about a goal's picture: why it is refused (None: it is not), and the numbers."""

    problem: str | None
    values: dict[str, float]


def examine_goal(
    picture: np.ndarray, latent: np.ndarray, calibration: Calibration | None, novelty: Novelty | None
) -> GoalReport:
    """Examines the model's picture (S, S, 3) uint8 of a goal and its latent (D,).

    Without a calibration it is only refused when it is of one colour.
    """
    values = {"contrast": float(picture.std())}
    if values["contrast"] < FLATTEST:
        return GoalReport(
            f"the picture is of one colour: its grey levels spread by {values['contrast']:.1f}, {FLATTEST:g} is the "
            "least; wait until the camera delivers, and look at the lens and the lamp",
            values,
        )
    if calibration is None:
        return GoalReport(None, values)
    if novelty is not None and calibration.new_pixels is not None:
        new = novelty.new_pixels(picture)
        usual = calibration.new_pixels if calibration.goal_pixels is None else calibration.goal_pixels
        values["novelty"] = float(most_together(new) if calibration.goal_pixels is None else new.sum()) / usual
        if values["novelty"] > SURPRISING:
            return GoalReport(
                f"{new.mean():.1%} of the picture has colours that were never recorded there, {values['novelty']:.1f} "
                f"times the usual, {SURPRISING:g} times is allowed; is it from this camera, whole, with red and blue "
                "in their places, in the same light, with nothing new in it?",
                values,
            )
    if calibration.latent_squares is not None:
        least, most = calibration.latent_squares
        values["latent_square"] = float(np.square(latent, dtype=float).sum())
        if not least / ROOM <= values["latent_square"] <= most * ROOM:
            return GoalReport(
                f"the model finds nothing in the picture that it knows: its squared latent is "
                f"{values['latent_square']:.1f}, {least / ROOM:.1f} to {most * ROOM:.1f} is allowed; take the picture "
                "with the camera of the recordings, whole and in the same light",
                values,
            )
    return GoalReport(None, values)


class Exposure:
    """Whether a camera has settled: automatic exposure takes a second or two, and frames before are too dark or bright.

    Used from one thread.

    :param steady_levels: of 255, by which the mean of red, green or blue may change while the exposure is steady.
    """

    def __init__(self, steady_levels: float = MonitorConfig.steady_levels) -> None:
        self._steady_levels = steady_levels
        self._means: deque[tuple[float, np.ndarray]] = deque(maxlen=256)  # when it came, s; mean red, green and blue

    def see(self, picture: np.ndarray, now_s: float) -> str | None:
        """Takes a frame (S, S, 3) uint8; returns why it is too early for a goal, None when the exposure is steady."""
        self._means.append((now_s, picture.reshape(-1, 3).mean(0)))
        while len(self._means) > STEADY_FRAMES and self._means[1][0] <= now_s - STEADY_S:
            self._means.popleft()
        if len(self._means) < STEADY_FRAMES or now_s - self._means[0][0] < STEADY_S:
            return f"the camera has delivered for less than {STEADY_S} s"
        spread = float(np.ptp([mean for _, mean in self._means], axis=0).max())
        if spread <= self._steady_levels:
            return None
        return (
            f"the exposure is not steady: the mean of a colour changed by {spread:.1f} of 255 within {STEADY_S} s, "
            f"{self._steady_levels:g} is allowed"
        )
