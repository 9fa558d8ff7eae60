# SPDX-License-Identifier: Apache-2.0
"""Whether a goal picture is usable. A model encodes any picture, also a camera's black first frame, a crop or one with
red and blue swapped: the arm would then go to some pose, and the goal would count as reached there.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from lewm_model.bundle.bundle import Calibration
from lewm_model.config import MonitorConfig
from lewm_model.monitoring.novelty import FLATTEST, Novelty, contrast, most_together
from lewm_model.monitoring.vigilance import SURPRISING

ROOM = 1.25  # factor by which a goal's squared latent norm may lie outside the range of the recordings
STEADY_S = 0.5  # for which the exposure must be steady; until it has settled, it changes within that time
STEADY_FRAMES = 3  # frames in that time, at least: fewer say nothing about a trend


@dataclass(frozen=True)
class GoalReport:
    """Why a goal picture is refused, None where it is not, and what was measured, by name."""

    problem: str | None
    values: dict[str, float]


def examine_goal(
    picture: np.ndarray, latent: np.ndarray, calibration: Calibration | None, novelty: Novelty | None
) -> GoalReport:
    """Examines a goal picture (H, W, 3) uint8, as the model takes it, and its latent (D,).

    Without a calibration only a picture of one colour is refused.
    """
    values = {"contrast": contrast(picture)}
    if values["contrast"] < FLATTEST:
        return GoalReport(
            f"the picture is of one colour: the standard deviation of its grey levels is {values['contrast']:.1f}, "
            f"{FLATTEST:g} is the least; wait for the camera's first frames, and check lens cap and lighting",
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
                f"times the calibrated limit, {SURPRISING:g} times is allowed; check that it is from this camera, not "
                "cropped, with red and blue not swapped, in the same light, and without new objects; where the scene "
                "itself looks otherwise now, run `lewm calibrate` with a recording of it",
                values,
            )
        if (found := novelty.shown(picture)) is not None:
            values["shown"], least = found
            if values["shown"] < least:
                return GoalReport(
                    f"hardly anything of the arm is in the picture: {values['shown']:.0f} pixels differ from what is "
                    f"usual there, {least:.0f} is the least; take it with the camera of the recordings, not covered",
                    values,
                )
    if calibration.latent_squares is not None:
        least, most = calibration.latent_squares
        values["latent_square"] = float(np.square(latent, dtype=float).sum())
        if not least / ROOM <= values["latent_square"] <= most * ROOM:
            return GoalReport(
                f"the picture is unlike all recorded ones to the model: the squared norm of its latent is "
                f"{values['latent_square']:.1f}, {least / ROOM:.1f} to {most * ROOM:.1f} is allowed; take the picture "
                "with the camera of the recordings, not cropped and in the same light",
                values,
            )
    return GoalReport(None, values)


class Exposure:
    """Whether a camera's automatic exposure has settled: for a second or two its frames are too dark or too bright.

    Used from one thread.

    :param steady_levels: grey levels of 255 that the mean red, green or blue may vary by while the exposure is steady.
    """

    def __init__(self, steady_levels: float = MonitorConfig.steady_levels) -> None:
        self._steady_levels = steady_levels
        self._means: deque[tuple[float, np.ndarray]] = deque(maxlen=256)  # arrival, s; mean red, green, blue

    def see(self, picture: np.ndarray, now_s: float) -> str | None:
        """Takes a frame (H, W, 3) uint8 that arrived at `now_s`; returns why no goal may be captured yet, else None."""
        self._means.append((now_s, picture.reshape(-1, 3).mean(0)))
        while len(self._means) > STEADY_FRAMES and self._means[1][0] <= now_s - STEADY_S:
            self._means.popleft()
        if len(self._means) < STEADY_FRAMES or now_s - self._means[0][0] < STEADY_S:
            return f"the camera has sent frames for less than {STEADY_S} s"
        spread = float(np.ptp([mean for _, mean in self._means], axis=0).max())
        if spread <= self._steady_levels:
            return None
        return (
            f"the exposure is not steady: the mean of a colour changed by {spread:.1f} of 255 within {STEADY_S} s, "
            f"{self._steady_levels:g} is allowed"
        )
