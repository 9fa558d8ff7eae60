# SPDX-License-Identifier: Apache-2.0
"""A camera that gives the very same picture again although the arm moves.

What is imagined for the next moment differs little from what was seen before where the arm is slow, so a frozen
picture surprises late. But no camera gives the same picture twice of an arm that moves: even a simulated one, without
any noise.
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
    """How many times as far as usual the arm has moved while the newest picture stayed the very same.

    :param pictures: the newest last, or their latents: what is compared is whether all numbers are equal.
    :param positions: (A,) rad, where the arm was at each of them.
    :param full_step: (A,) rad that a joint moves in a control step at full speed.
    :param usual_steps: such control steps that an arm may move without another picture.
    """
    first = len(pictures) - 1
    while first > 0 and np.array_equal(pictures[first - 1], pictures[-1]):
        first -= 1
    return float(np.linalg.norm((positions[-1] - positions[first]) / full_step)) / usual_steps
