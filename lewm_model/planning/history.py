# SPDX-License-Identifier: Apache-2.0
"""Recent frames, measured joint positions and commanded motion of one arm."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable

import numpy as np

from lewm_model.bundle.bundle import Bundle
from lewm_model.planning.motion import CommandedMotion, joint_ways

RATE_FRAMES = 9  # newest frames that the camera's period is the median of: 8 intervals tolerate lost frames
SAME_MOMENT = 0.25  # of a block: a frame whose stamp differs by more from the wanted time does not stand for it


class History:
    """The past of one arm in the form that a model takes: latents one block apart, and the action blocks between them.

    Used from one thread. All times are seconds on the clock of the frame stamps.
    """

    def __init__(self, bundle: Bundle, ways: Callable[[np.ndarray], np.ndarray] = joint_ways) -> None:
        """
        :param ways: from joint positions (…, T, A) rad to what each column of the actions moves by between them,
            (…, T - 1, C): rad of joints by default, m and rad of the tip for Cartesian actions.
        """
        self.spec, self.model, self.ways = bundle.actions, bundle.model, ways
        self.commanded = CommandedMotion()
        # For how long data is kept, s: for the context of a frame and of one a block before. And a frame may be as old
        # as the horizon is long; older ones are not planned from.
        self._kept_s = (self.model.history + 1 + bundle.horizon) * self.spec.block_s
        self._frames: deque[tuple[float, np.ndarray]] = deque()  # stamp, latent (D,)
        self._measured: deque[tuple[float, np.ndarray]] = deque()  # stamp, (A,) rad

    def observe(self, stamp_s: float, latent: np.ndarray) -> bool:
        """Adds the latent (D,) of a frame if it is newer than all before; returns whether it is."""
        if self._frames and stamp_s <= self._frames[-1][0]:
            return False
        self._frames.append((stamp_s, latent))
        while len(self._frames) > RATE_FRAMES and self._frames[0][0] < stamp_s - self._kept_s:
            self._frames.popleft()
        return True

    def measure(self, stamp_s: float, joint_positions: np.ndarray) -> None:
        """Adds measured joint positions (A,) rad; ignored unless they are newer than all before."""
        if not self._measured or stamp_s > self._measured[-1][0]:
            self._measured.append((stamp_s, np.asarray(joint_positions, float)))
            while self._measured[0][0] < stamp_s - self._kept_s:
                self._measured.popleft()

    @property
    def newest(self) -> tuple[float, np.ndarray] | None:
        """Stamp and latent (D,) of the newest frame; None before the first."""
        return self._frames[-1] if self._frames else None

    @property
    def frame_period_s(self) -> float:
        """Median time between the newest frames, s; 0 with fewer than three frames."""
        stamps = [stamp for stamp, _ in list(self._frames)[-RATE_FRAMES:]]
        return float(np.median(np.diff(stamps))) if len(stamps) > 2 else 0.0

    def frame_near(self, time_s: float) -> float | None:
        """Stamp of the frame nearest to `time_s`; None where it differs by more than SAME_MOMENT."""
        stamps = np.array([stamp for stamp, _ in self._frames])
        nearest = float(stamps[np.abs(stamps - time_s).argmin()])
        return nearest if abs(nearest - time_s) <= SAME_MOMENT * self.spec.block_s else None

    def since(self, time_s: float) -> list[tuple[float, np.ndarray]]:
        """Stamps and latents (D,) of the frames from `time_s` on."""
        return [frame for frame in self._frames if frame[0] >= time_s]

    def measured_at(self, time_s: float) -> np.ndarray | None:
        """Joint positions (A,) rad, interpolated linearly between measurements; None where none were taken around then.

        Up to a control step after the newest measurement, that one counts.
        """
        known = self._measured
        if not known or not known[0][0] <= time_s <= known[-1][0] + self.spec.control_dt_s:
            return None
        after = bisect_right(known, time_s, key=lambda measured: measured[0])
        before_s, position = known[after - 1]
        if after == len(known):
            return position
        after_s, next_position = known[after]
        return position + (next_position - position) / (after_s - before_s) * (time_s - before_s)

    def context(self, frame_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Latents (h, D) one block apart up to a frame, and the z-scored blocks (h - 1, E) commanded between them.

        Where no frame was taken that early, the oldest one is used.
        """
        stamps = np.array([stamp for stamp, _ in self._frames])
        wanted = frame_s - self.spec.block_s * np.arange(self.model.history - 1, -1, -1)
        nearest = np.abs(stamps[:, None] - wanted).argmin(0)
        latents = np.stack([self._frames[i][1] for i in nearest])
        count = (self.model.history - 1) * self.spec.frameskip
        grid = frame_s - self.spec.control_dt_s * np.arange(count, -1, -1)
        return latents, self.blocks(grid).reshape(self.model.history - 1, self.model.block_dim)

    def blocks(self, grid_s: np.ndarray) -> np.ndarray:
        """Z-scored low-level actions (N - 1, C) commanded between the times (N,) s, which are a control step apart."""
        moved = self.commanded.displacements(grid_s, len(self.spec.names), self.ways)
        return self.spec.normalise(moved / self.spec.control_dt_s)
