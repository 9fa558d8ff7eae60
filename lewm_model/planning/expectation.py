# SPDX-License-Identifier: Apache-2.0
"""Whether the camera shows what was imagined for this moment, and whether it shows the arm where it is."""

from __future__ import annotations

from collections import deque

import numpy as np

from lewm_model.config import MonitorConfig
from lewm_model.models.signature import DISPLACEMENT, measuring
from lewm_model.monitoring.frozen import frozen
from lewm_model.planning.history import History
from lewm_model.runtime import Runtime

KNOWN_FRAMES = 6  # that showed a motion as imagined, to compare with after something did not


class Expectation:
    """Compares the newest frame with what the model imagined for it one block before. Used from one thread."""

    def __init__(self, runtime: Runtime, history: History, horizon: int, monitor: MonitorConfig) -> None:
        """
        :param horizon: action blocks that the runtime imagines at once.
        """
        self.runtime, self.history, self.monitor = runtime, history, monitor
        self.spec, self.calibration = runtime.bundle.actions, runtime.bundle.calibration
        self._still = np.repeat(self.spec.still[None, None], horizon, axis=1)  # (1, H, E)
        self._since_s = -np.inf  # since when the arm's motion is known
        self._known: deque[tuple[float, np.ndarray, np.ndarray]] = deque(maxlen=KNOWN_FRAMES)  # stamp, latent, rad

    def begin(self, now_s: float) -> None:
        """From now on the arm's motion is known; the newest frame shows it where it begins."""
        self._since_s = now_s
        if not self._known and self.history.newest is not None:
            frame_s, latent = self.history.newest
            position = self.history.measured_at(frame_s)
            if position is not None:
                self._known.append((frame_s, latent, position))

    def trust(self, now_s: float) -> None:
        """A person vouches for what the camera sees, and may have moved the arm until now."""
        self._since_s = now_s
        self._known.clear()

    def surprise(self) -> float | None:
        """How many times as unlike as usual the newest frame is to what was imagined for it one block before.

        None where the bundle is not calibrated, the arm's motion was not known for a block, or no frame lies that far
        back; infinite where what is imagined is not finite. A frame that is the very same as before although the arm
        was measured to move is as surprising as the way is long (`lewm_model.monitoring.frozen`). Frames that show a
        motion as imagined are remembered for `sees_the_arm`.
        """
        if self.history.newest is None or self.calibration is None:
            return None
        frame_s, latent = self.history.newest
        base_s = self.history.frame_near(frame_s - self.spec.block_s)
        if base_s is None or base_s < self._since_s:
            return None
        # What was commanded from one frame to the other, spread over the steps of a block.
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
        """`frozen` of the frames since then where the joints were measured."""
        frames = [(latent, self.history.measured_at(stamp_s)) for stamp_s, latent in self.history.since(since_s)]
        known = [(latent, position) for latent, position in frames if position is not None]
        if not known or frames[-1][1] is None:
            return 0.0
        latents, positions = zip(*known, strict=True)
        return frozen(latents, positions, self.spec.full_step, self.monitor.frozen_steps)

    def sees_the_arm(self) -> bool:
        """Whether the newest frame shows the arm where the joints are.

        A frozen or covered camera surprises nobody once the arm rests. But frames from before, that showed a motion as
        imagined, lie as many steps from this one as the joints have moved since: at least most of them, since the model
        errs now and then, and an arm at rest would be held by one error for ever. True where that cannot be told.
        """
        if self.history.newest is None:
            return True
        frame_s, _ = self.history.newest
        position = self.history.measured_at(frame_s)
        if measuring(self.runtime.bundle.heads) != DISPLACEMENT or position is None or not self._known:
            return True
        context, past = self.history.context(frame_s)
        off = []
        for _, known, then in self._known:
            distances, _ = self.runtime.rollout(context, past, self._still, known)
            moved = np.linalg.norm(self.history.ways(np.stack([then, position])) / self.spec.full_step)
            off.append(abs(float(distances[0, 0]) - moved))
        return bool(np.median(off) <= self.monitor.agrees_steps)
