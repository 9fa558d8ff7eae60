# SPDX-License-Identifier: Apache-2.0
"""What the camera showed, where the joints were measured, and what was commanded, up to now."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable

import numpy as np

from lewm_model.bundle.bundle import Bundle
from lewm_model.planning.motion import CommandedMotion, joint_ways

RATE_FRAMES = 9  # newest frames whose median distance in time is the camera's period
SAME_MOMENT = 0.25  # of a block: a frame that is farther from the moment that is asked for is another moment's


class History:
    """The past of one arm as a model needs it: latents one block apart, and the action blocks between them.

    Used from one thread. All times are seconds on the clock of the frame stamps.
    """

    def __init__(self, bundle: Bundle, ways: Callable[[np.ndarray], np.ndarray] = joint_ways) -> None:
        """
        :param ways: what the actions' columns move by on joint positions (…, T, A) rad, (…, T - 1, C).
        """
        self.spec, self.model, self.ways = bundle.actions, bundle.model, ways
        self.commanded = CommandedMotion()
        # What is kept, s: the context of a frame, and of one a block before; and no frame is planned from that is older
        # than a plan looks ahead.
        self._kept_s = (self.model.history + 1 + bundle.horizon) * self.spec.block_s
        self._frames: deque[tuple[float, np.ndarray]] = deque()  # stamp, latent (D,)
        self._measured: deque[tuple[float, np.ndarray]] = deque()  # stamp, (A,) rad

    def observe(self, stamp_s: float, latent: np.ndarray) -> None:
        """Takes the latent (D,) of a frame; frames that are not newer than the last one are dropped."""
        if not self._frames or stamp_s > self._frames[-1][0]:
            self._frames.append((stamp_s, latent))
            while len(self._frames) > RATE_FRAMES and self._frames[0][0] < stamp_s - self._kept_s:
                self._frames.popleft()

    def measure(self, stamp_s: float, joint_positions: np.ndarray) -> None:
        """Takes measured joint positions (A,) rad; those that are not newer than the last ones are dropped."""
        if not self._measured or stamp_s > self._measured[-1][0]:
            self._measured.append((stamp_s, np.asarray(joint_positions, float)))
            while self._measured[0][0] < stamp_s - self._kept_s:
                self._measured.popleft()

    @property
    def newest(self) -> tuple[float, np.ndarray] | None:
        """Stamp and latent (D,) of the newest frame."""
        return self._frames[-1] if self._frames else None

    @property
    def frame_period_s(self) -> float:
        """Median time between the newest frames; 0 while there are too few to know."""
        stamps = [stamp for stamp, _ in list(self._frames)[-RATE_FRAMES:]]
        return float(np.median(np.diff(stamps))) if len(stamps) > 2 else 0.0

    def frame_near(self, time_s: float) -> float | None:
        """Stamp of the frame at `time_s`, give or take; None where no frame is of that moment."""
        stamps = np.array([stamp for stamp, _ in self._frames])
        nearest = float(stamps[np.abs(stamps - time_s).argmin()])
        return nearest if abs(nearest - time_s) <= SAME_MOMENT * self.spec.block_s else None

    def since(self, time_s: float) -> list[tuple[float, np.ndarray]]:
        """Stamps and latents (D,) of the frames from `time_s` on."""
        return [frame for frame in self._frames if frame[0] >= time_s]

    def measured_at(self, time_s: float) -> np.ndarray | None:
        """Joint positions (A,) rad between those that were measured before and after; None where there are none."""
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

        Where no frame lies that far back, the oldest one stands in.
        """
        stamps = np.array([stamp for stamp, _ in self._frames])
        wanted = frame_s - self.spec.block_s * np.arange(self.model.history - 1, -1, -1)
        nearest = np.abs(stamps[:, None] - wanted).argmin(0)
        latents = np.stack([self._frames[i][1] for i in nearest])
        count = (self.model.history - 1) * self.spec.frameskip
        grid = frame_s - self.spec.control_dt_s * np.arange(count, -1, -1)
        return latents, self.blocks(grid).reshape(self.model.history - 1, self.model.block_dim)

    def blocks(self, grid_s: np.ndarray) -> np.ndarray:
        """Z-scored low-level actions (N - 1, A) that were commanded between the times (N,), each for a control step."""
        moved = self.commanded.displacements(grid_s, len(self.spec.names), self.ways)
        return self.spec.normalise(moved / self.spec.control_dt_s)
