# SPDX-License-Identifier: Apache-2.0
"""Kinds, units and statistics of the actions of a recording."""

from __future__ import annotations

import numpy as np

from lewm_model.data.clips import Episodes
from lewm_model.data.errors import DataError
from lewm_model.robot.actions import ActionError, ActionSpec, measure


def action_spec(data: Episodes, episodes: np.ndarray, frameskip: int) -> ActionSpec:
    """Kinds, units and statistics of the actions of `episodes`, without the last row of each, which has no action.

    :raises DataError: a column never changes, or the kinds and units of the recording cannot be used.
    """
    rows = data.actions[data.rows(episodes)]
    rows = rows[np.isfinite(rows).all(1)]
    try:
        return measure(data.action_names, data.action_kinds, data.action_units, rows, data.control_dt_s, frameskip)
    except ActionError as error:
        raise DataError(f"{data.source}: {error}") from error
