# SPDX-License-Identifier: Apache-2.0
"""A camera that keeps sending an identical picture although the arm moves.

With a slow arm the imagined frame hardly differs from the one before, so surprise notices a frozen picture late. But
two pictures of a moving arm are never identical, not even those of a simulated camera without noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lewm_model.config import MonitorConfig


def frozen(
    pictures: Sequence[np.ndarray],
    positions: Sequence[np.ndarray],
    full_step: np.ndarray,
    usual_steps: float = MonitorConfig.frozen_steps,
) -> float:
    """How far the arm has moved since the newest picture first came, in multiples of `usual_steps`.

    :param pictures: pictures or latents, the newest last; two are the same where all their numbers are equal.
    :param positions: (A,) rad, joint positions at each of them.
    :param full_step: (A,) rad that each joint moves in a control step at full speed.
    :param usual_steps: control steps at full speed that the arm may move without a change of the picture.
    """
    first = len(pictures) - 1
    while first > 0 and np.array_equal(pictures[first - 1], pictures[-1]):
        first -= 1
    return float(np.linalg.norm((positions[-1] - positions[first]) / full_step)) / usual_steps
