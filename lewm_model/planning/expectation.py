# SPDX-License-Identifier: Apache-2.0
"""Whether a frame shows what was imagined for its time, and whether it shows the arm where the joints are."""

from __future__ import annotations

from collections import deque

import numpy as np

from lewm_model.config import MonitorConfig
from lewm_model.models.signature import PROPOSAL
from lewm_model.monitoring.frozen import frozen
from lewm_model.planning.history import History
from lewm_model.planning.proposals import way_between
from lewm_model.runtime import Runtime

KNOWN_FRAMES = 6  # newest frames that showed a motion as imagined, a block apart: their median tolerates outliers
LONGEST_STEPS = 1000.0  # control steps at full speed, further than an arm moves between two of its poses


class Expectation:
    """Compares the newest frame with what the model imagined for it one block before. Used from one thread."""

    def __init__(self, runtime: Runtime, history: History, horizon: int, monitor: MonitorConfig) -> None:
        """
        :param horizon: action blocks of the runtime's rollout.
        """
        self.runtime, self.history, self.monitor = runtime, history, monitor
        self.spec, self.calibration = runtime.bundle.actions, runtime.bundle.calibration
        self._still = np.repeat(self.spec.still[None, None], horizon, axis=1)  # (1, H, E)
        self._since_s = -np.inf  # since when the commanded motion is known
        self._known: deque[tuple[float, np.ndarray, np.ndarray]] = deque(maxlen=KNOWN_FRAMES)  # stamp, latent, rad

    def begin(self, now_s: float) -> None:
        """The arm is armed: from now on its motion is known, and the newest frame shows where it begins."""
        self._since_s = now_s
        if not self._known and self.history.newest is not None:
            frame_s, latent = self.history.newest
            position = self.history.measured_at(frame_s)
            if position is not None:
                self._known.append((frame_s, latent, position))

    def trust(self, now_s: float) -> None:
        """A person confirms that the picture is right, and may have moved the arm by hand until now."""
        self._since_s = now_s
        self._known.clear()

    def surprise(self) -> float | None:
        """The newest frame's difference from what was imagined for it one block before, in multiples of the calibrated
        limit.

        None where the bundle is not calibrated, the arm's motion was not known for a block, or no frame was taken a
        block before; infinite where the imagined latent is not finite. A frame that is identical to the one before
        although the joints moved is as surprising as that way is long (`lewm_model.monitoring.frozen`). Frames that
        show a motion as imagined are kept for `sees_the_arm`.
        """
        if self.history.newest is None or self.calibration is None:
            return None
        frame_s, latent = self.history.newest
        base_s = self.history.frame_near(frame_s - self.spec.block_s)
        if base_s is None or base_s < self._since_s:
            return None
        # What was commanded between the two frames, which may be a little more or less than a block, as one block.
        blocks = self._still.copy()
        blocks[0, 0] = self.history.blocks(np.linspace(base_s, frame_s, self.spec.frameskip + 1)).reshape(-1)
        context, past = self.history.context(base_s)
        _, imagined = self.runtime.rollout(context, past, blocks, latent)
        error, change = (float(np.square(imagined[0, 0] - other).mean()) for other in (latent, context[-1]))
        surprise = max(float(self.calibration.surprise(error, change)), self._frozen(base_s))
        if not np.isfinite(surprise):
            return float("inf")
        apart = not self._known or frame_s - self._known[-1][0] >= self.spec.block_s
        position = self.history.measured_at(frame_s)
        if position is not None and surprise <= 1.0 and change > self.monitor.lively and apart:
            self._known.append((frame_s, latent, position))
        return surprise

    def _frozen(self, since_s: float) -> float:
        """`frozen` of the frames since `since_s` that have measured joint positions; 0 where that cannot be told."""
        frames = [(latent, self.history.measured_at(stamp_s)) for stamp_s, latent in self.history.since(since_s)]
        known = [(latent, position) for latent, position in frames if position is not None]
        if not known or frames[-1][1] is None:
            return 0.0
        latents, positions = zip(*known, strict=True)
        return frozen(latents, positions, self.spec.full_step, self.monitor.frozen_steps)

    def sees_the_arm(self) -> bool:
        """Whether the newest frame shows the arm where the joints are; True where that cannot be told.

        Once the arm rests, a frozen or covered camera no longer surprises. But the way from each kept frame, which
        showed a motion as imagined, to the newest one must be that of the joints since. The median of the differences
        counts: with a single frame one error of the model would hold an arm at rest for ever. A difference that is
        usual in recordings agrees, too: a wrist whose turns a latent hardly holds says nothing.
        """
        if self.history.newest is None:
            return True
        frame_s, latent = self.history.newest
        position = self.history.measured_at(frame_s)
        if PROPOSAL not in self.runtime.bundle.heads or position is None or not self._known:
            return True
        off = []
        for _, known, then in self._known:
            seen = way_between(self.runtime, known[None], latent, LONGEST_STEPS)
            moved = self.history.ways(np.stack([then, position]))[0]
            off.append(np.abs(seen - moved) / self.spec.full_step)
        usual = 0.0 if self.calibration is None else np.array(self.calibration.way_errors or 0.0)
        return bool((np.median(off, axis=0) <= np.maximum(usual, self.monitor.agrees_steps)).all())
