"""Feasible joint motion: velocity knots on a grid of action blocks, blended so that every limit holds by construction.

Between the knots v_k and v_{k+1}, one block of `block_s` seconds apart, the velocity is v_k + (v_{k+1} - v_k) s(u) with
s(u) = 3 u^2 - 2 u^3 and u in [0, 1]. Acceleration is zero at the knots, at most 1.5 |dv| / block_s between them, and
jerk at most 6 |dv| / block_s^2. So a bound on the knots' differences is a bound on acceleration and jerk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lewm_model.limits import JointLimits

KEPT_BLOCKS = 64  # of the past, in a timeline
MAX_STOP_BLOCKS = 16  # an arm that needs more blocks than this to stop cannot be planned for


@dataclass(frozen=True)
class Trajectory:
    """Sampled joint motion: times_s (T,) on the frame stamps' clock, positions (T, A) rad, velocities (T, A) rad/s."""

    times_s: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray


class KnotLimits:
    """The arm's limits as limits on velocity knots. All arrays are (A,)."""

    def __init__(self, limits: JointLimits, block_s: float) -> None:
        self.block_s = block_s
        self.lower, self.upper = limits.lower, limits.upper
        self.velocity = limits.velocity
        self.difference = np.minimum(limits.acceleration * block_s / 1.5, limits.jerk * block_s**2 / 6)
        counts = np.ceil(self.velocity / self.difference)
        if counts.max() > MAX_STOP_BLOCKS:
            joint = limits.names[int(counts.argmax())]
            raise ValueError(
                f"joint {joint} cannot stop within {MAX_STOP_BLOCKS * block_s:.1f} s; lower its velocity limit"
            )
        # Way that is covered when the knot ahead is m differences fast and the arm then stops as fast as it may:
        # half a block up to the knot plus the stop. Piecewise linear in the speed, so the breakpoints describe it.
        m = np.arange(int(counts.max()) + 2)
        self._speeds = m[:, None] * self.difference  # (M, A)
        self._ways = block_s * self.difference * (m + m * (m - 1) / 2)[:, None]  # (M, A) rad

    def project(self, position: np.ndarray, velocity: np.ndarray, knots: np.ndarray) -> np.ndarray:
        """The nearest feasible knots, one after the other.

        From `position` and `velocity` (A,) at the hand-over, `knots` (S, K, A) rad/s are clipped so that velocity and
        difference limits hold and the arm can always stop before its position limits.
        """
        knots = knots.copy()
        q = np.broadcast_to(position, knots[:, 0].shape).copy()
        v = np.broadcast_to(velocity, q.shape)
        for k in range(knots.shape[1]):
            half = 0.5 * self.block_s * v
            above = self._fastest(self.upper - q - half)
            below = -self._fastest(q + half - self.lower)
            high = np.minimum(np.minimum(self.velocity, v + self.difference), above)
            low = np.maximum(np.maximum(-self.velocity, v - self.difference), below)
            # Braking comes first where a limit is already too near (an arm that was enabled at or beyond it).
            high = np.maximum(high, np.minimum(0.0, v + self.difference))
            low = np.minimum(low, np.maximum(0.0, v - self.difference))
            high = np.maximum(high, v - self.difference)
            low = np.minimum(low, v + self.difference)
            new = np.clip(knots[:, k], np.minimum(low, high), high)
            q += half + 0.5 * self.block_s * new
            knots[:, k] = v = new
        return knots

    def _fastest(self, room: np.ndarray) -> np.ndarray:
        """The largest speed of the next knot (S, A) from which the arm stops within `room` (S, A) rad."""
        room = np.maximum(room, 0.0)
        return np.stack(
            [np.interp(room[:, j], self._ways[:, j], self._speeds[:, j]) for j in range(room.shape[1])], axis=1
        )

    def stop_knots(self, velocity: np.ndarray) -> np.ndarray:
        """Knots (K, A) that bring `velocity` (A,) to rest as fast as the limits allow; K >= 1."""
        count = max(1, int(np.ceil(np.max(np.abs(velocity) / self.difference) - 1e-9)))
        steps = np.arange(1, count + 1)[:, None] * self.difference
        knots = np.sign(velocity) * np.maximum(np.abs(velocity) - steps, 0.0)
        knots[-1] = 0.0  # not almost
        return knots


def travelled(u: np.ndarray, before: np.ndarray, after: np.ndarray, block_s: float) -> np.ndarray:
    """Way (rad) from the knot `before` to the fraction `u` of the block whose end knot is `after`."""
    return block_s * (before * u + (after - before) * (u**3 - u**4 / 2))


class Timeline:
    """The commanded motion: where the arm was told to be, and is being told to be, at every time. It ends at rest.

    Knot k lies at start_s + k * block_s. What lies before a hand-over knot is committed and never changes; what lies
    more than KEPT_BLOCKS before it is forgotten.
    """

    def __init__(self, start_s: float, position: np.ndarray, limits: KnotLimits) -> None:
        self.start_s, self.limits, self.block_s = start_s, limits, limits.block_s
        self._first = 0  # number of the oldest knot that is kept
        self._positions = [np.asarray(position, float)]
        self._velocities = [np.zeros_like(self._positions[0])]

    @property
    def end_s(self) -> float:
        """Time of the last knot, from which on the arm stands still."""
        return self.knot_time(self._first + len(self._velocities) - 1)

    def knot_at_or_after(self, time_s: float) -> int:
        """Number of the first knot at or after `time_s`; may lie beyond the end."""
        return max(self._first, int(np.ceil((time_s - self.start_s) / self.block_s - 1e-6)))

    def knot_time(self, knot: int) -> float:
        """Time of a knot in seconds."""
        return self.start_s + knot * self.block_s

    def state(self, knot: int) -> tuple[np.ndarray, np.ndarray]:
        """Position and velocity (A,) at a kept knot; beyond the end the arm rests."""
        index = knot - self._first
        if index < len(self._positions):
            return self._positions[index], self._velocities[index]
        return self._positions[-1], np.zeros_like(self._positions[-1])

    def splice(self, knot: int, velocities: np.ndarray) -> None:
        """Replaces all that follows `knot` by knots with `velocities` (K, A) and a stop after them."""
        count = knot - self._first + 1
        while len(self._positions) < count:
            self._positions.append(self._positions[-1])
            self._velocities.append(np.zeros_like(self._positions[-1]))
        forgotten = max(0, count - KEPT_BLOCKS)
        self._positions = self._positions[forgotten:count]
        self._velocities = self._velocities[forgotten:count]
        self._first += forgotten
        last = velocities[-1] if len(velocities) else self._velocities[-1]
        for velocity in (*velocities, *self.limits.stop_knots(last)):
            self._positions.append(self._positions[-1] + 0.5 * self.block_s * (self._velocities[-1] + velocity))
            self._velocities.append(np.asarray(velocity, float))

    def sample(self, times_s: np.ndarray) -> Trajectory:
        """The motion at `times_s` (T,); at rest before the start and after the end."""
        # One more knot at the end lets the last block be one like the others.
        positions = np.stack([*self._positions, self._positions[-1]])
        velocities = np.stack([*self._velocities, np.zeros_like(self._velocities[-1])])
        phase = np.clip((times_s - self.start_s) / self.block_s - self._first, 0.0, len(positions) - 2)
        knot = phase.astype(int)
        u = (phase - knot)[:, None]
        before, after = velocities[knot], velocities[knot + 1]
        way = travelled(u, before, after, self.block_s)
        return Trajectory(times_s, positions[knot] + way, before + (after - before) * u * u * (3 - 2 * u))
