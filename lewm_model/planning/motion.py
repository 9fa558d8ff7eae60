# SPDX-License-Identifier: Apache-2.0
"""Feasible joint motion: velocity knots on a grid of action blocks, blended so that every limit holds by construction.

Between the knots v_k and v_{k+1}, one block of `block_s` seconds apart, the velocity is v_k + (v_{k+1} - v_k) s(u) with
s(u) = 3 u^2 - 2 u^3 and u in [0, 1]. Acceleration is zero at the knots, at most 1.5 |dv| / block_s between them, and
jerk at most 6 |dv| / block_s^2. So a bound on the knots' differences is a bound on acceleration and jerk.

A stop does not wait for a knot: `stop_from` brakes every joint from anywhere as fast as acceleration and jerk allow.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lewm_model.robot.limits import JointLimits

KEPT_BLOCKS = 64  # past blocks of a timeline that are kept; a model's context, its history, reaches back far fewer
KEPT_MOTIONS = 4  # past motions that are kept: an arm is not armed and stopped more often within a context
MAX_STOP_S = 4.0  # longest stop from full speed; limits that make an arm need longer are taken for a typing error
STOP_STEP_S = 0.01  # between points of a stop: small, so that cubics between them follow its steps in jerk


@dataclass(frozen=True)
class Trajectory:
    """Sampled joint motion: times_s (T,) s on the clock of the frame stamps, positions (T, A) rad, velocities (T, A)
    rad/s.
    """

    times_s: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray

    def sample(self, times_s: np.ndarray) -> Trajectory:
        """The motion at `times_s` (T,), linear between its points; at rest before the first and after the last."""
        positions = np.stack([np.interp(times_s, self.times_s, column) for column in self.positions.T], 1)
        velocities = np.stack([np.interp(times_s, self.times_s, v, left=0.0, right=0.0) for v in self.velocities.T], 1)
        return Trajectory(times_s, positions, velocities)


class KnotLimits:
    """The joint limits of an arm as limits on velocity knots. All arrays are (A,).

    :param block_s: time between two knots, s.
    :param within: least and greatest velocity of a knot, each (A,) rad/s, in addition to the arm's velocity limits. 0
        must lie between them, so that the arm may always stop.
    :raises ValueError: `within` excludes 0, or a joint needs more than MAX_STOP_S to stop.
    """

    def __init__(
        self, limits: JointLimits, block_s: float, within: tuple[np.ndarray, np.ndarray] | None = None
    ) -> None:
        self.block_s = block_s
        self.lower, self.upper = limits.lower, limits.upper
        low, high = (-limits.velocity, limits.velocity) if within is None else within
        if (low > 0.0).any() or (high < 0.0).any():
            raise ValueError(f"the velocity of knots is limited to {low} to {high} rad/s; 0 must lie between them")
        self.slowest, self.fastest = np.maximum(low, -limits.velocity), np.minimum(high, limits.velocity)
        self.velocity = np.maximum(-self.slowest, self.fastest)  # the greatest speed to either side
        self.acceleration, self.jerk = limits.acceleration, limits.jerk
        self.difference = np.minimum(limits.acceleration * block_s / 1.5, limits.jerk * block_s**2 / 6)
        counts = np.ceil(self.velocity / self.difference)
        if counts.max() * block_s > MAX_STOP_S:
            joint = limits.names[int(counts.argmax())]
            raise ValueError(
                f"joint {joint} cannot stop within {MAX_STOP_S} s; lower its velocity limit, or raise those of "
                "acceleration and jerk"
            )
        # The way to rest when the next knot has m times the greatest difference as its speed and the arm then stops as
        # fast as it may: half a block up to the knot, plus the stop. It is piecewise linear in the speed, so these
        # breakpoints describe it exactly.
        m = np.arange(int(counts.max()) + 2)
        self._speeds = m[:, None] * self.difference  # (M, A)
        self._ways = block_s * self.difference * (m + m * (m - 1) / 2)[:, None]  # (M, A) rad

    def scaled(self, share: float) -> KnotLimits:
        """The same limits with a share (0, 1] of the velocity; an arm that is faster brakes down to it."""
        if share == 1.0:
            return self
        slower = copy.copy(self)
        slower.slowest, slower.fastest = share * self.slowest, share * self.fastest
        slower.velocity = share * self.velocity
        return slower

    def between(self, lower: np.ndarray, upper: np.ndarray) -> KnotLimits:
        """The same limits with other least and greatest positions, each (A,) rad."""
        narrower = copy.copy(self)
        narrower.lower, narrower.upper = lower, upper
        return narrower

    @property
    def longest_stop_s(self) -> float:
        """Upper bound of the duration of `stop_from`, s, from any state within these limits."""
        # At worst it first reduces the greatest acceleration to zero, and then stops from the greatest velocity.
        steepest = np.minimum(1.5 * self.difference / self.block_s, self.acceleration)
        return float((steepest / self.jerk + _stop(self.velocity, 0.0 * self.velocity, self)[0].sum(0)).max())

    def project(self, position: np.ndarray, velocity: np.ndarray, knots: np.ndarray) -> np.ndarray:
        """The knots (S, K, A) rad/s, clipped one after the other to what is feasible.

        From `position` (A,) rad and `velocity` (A,) rad/s at the hand-over on, velocity and difference limits hold and
        the arm can always stop before its position limits.
        """
        knots = knots.copy()
        q = np.broadcast_to(position, knots[:, 0].shape).copy()
        v = np.broadcast_to(velocity, q.shape)
        for k in range(knots.shape[1]):
            new = np.clip(knots[:, k], *self.bounds(q, v))
            q += 0.5 * self.block_s * v + 0.5 * self.block_s * new
            knots[:, k] = v = new
        return knots

    def bounds(self, position: np.ndarray, velocity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest feasible next knots, each (S, A) rad/s, at positions and velocities (S, A)."""
        half = 0.5 * self.block_s * velocity
        above, below = self._fastest(np.stack([self.upper - position - half, position + half - self.lower]))
        below = -below
        high = np.minimum(np.minimum(self.fastest, velocity + self.difference), above)
        low = np.maximum(np.maximum(self.slowest, velocity - self.difference), below)
        # Braking has priority where a limit is already too near, as for an arm that was armed at or beyond it.
        high = np.maximum(high, np.minimum(0.0, velocity + self.difference))
        low = np.minimum(low, np.maximum(0.0, velocity - self.difference))
        high = np.maximum(high, velocity - self.difference)
        low = np.minimum(low, velocity + self.difference)
        return np.minimum(low, high), high

    def slowed(self, position: np.ndarray, velocity: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """The next knots (S, A) rad/s: `wanted` (S, A), scaled down as a whole, which keeps its direction, until
        feasible at positions and velocities (S, A). Where no scale is feasible, each joint is clipped by itself.
        """
        low, high = self.bounds(position, velocity)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.sort([low / wanted, high / wanted], axis=0)  # the range of scales of each joint
        rests = wanted == 0.0
        least = np.where(rests, np.where((low <= 0.0) & (high >= 0.0), 0.0, np.inf), shares[0]).max(-1, initial=0.0)
        most = np.where(rests, 1.0, shares[1]).min(-1, initial=1.0)
        share = np.where(least <= most, most, np.clip(most, 0.0, 1.0))
        return np.clip(share[:, None] * wanted, low, high)

    def _fastest(self, room: np.ndarray) -> np.ndarray:
        """The largest speed of the next knot (…, A) from which the arm stops within `room` (…, A) rad."""
        room = np.maximum(room, 0.0)
        for j in range(room.shape[-1]):
            room[..., j] = np.interp(room[..., j], self._ways[:, j], self._speeds[:, j])
        return room

    def stop_knots(self, velocity: np.ndarray) -> np.ndarray:
        """Knots (K, A) that bring `velocity` (A,) to rest as fast as the limits allow; K >= 1."""
        count = max(1, int(np.ceil(np.max(np.abs(velocity) / self.difference) - 1e-9)))
        steps = np.arange(1, count + 1)[:, None] * self.difference
        knots = np.sign(velocity) * np.maximum(np.abs(velocity) - steps, 0.0)
        knots[-1] = 0.0  # exactly, without rounding errors
        return knots


def _stop(velocity: np.ndarray, acceleration: np.ndarray, limits: KnotLimits) -> tuple[np.ndarray, np.ndarray]:
    """Durations (3, A) s and jerks (3, A) rad/s^3 of the fastest way to rest from (A,) rad/s and (A,) rad/s^2.

    Three phases: increase the deceleration, hold it, reduce it; the second may take no time. With j the jerk limit, for
    a joint that would still move forwards once its acceleration is reduced to zero, it solves
    v + (a^2 - p^2) / 2j - p t - p^2 / 2j = 0 for the peak deceleration p with t = 0, and where p exceeds its limit, for
    the time t of the second phase with p at the limit.
    """
    after = velocity + acceleration * np.abs(acceleration) / (2 * limits.jerk)  # once a is 0
    forwards = np.where(after >= 0.0, 1.0, -1.0)
    v, a = forwards * velocity, forwards * acceleration
    peak = np.sqrt(np.maximum(limits.jerk * v + a * a / 2, 0.0))
    peak = np.minimum(np.maximum(peak, -a), np.maximum(limits.acceleration, -a))  # -a: the present deceleration
    even = np.maximum(v + a * a / (2 * limits.jerk) - peak * peak / limits.jerk, 0.0) / np.maximum(peak, 1e-12)
    durations = np.stack([(a + peak) / limits.jerk, even, peak / limits.jerk])
    return durations, forwards * limits.jerk * np.array([-1.0, 0.0, 1.0])[:, None]


def stop_from(
    position: np.ndarray,
    velocity: np.ndarray,
    acceleration: np.ndarray,
    limits: KnotLimits,
    step_s: float = STOP_STEP_S,
) -> Trajectory:
    """The fastest way to rest from a state (A,) rad, rad/s, rad/s^2, each joint by itself; sampled from 0 s on.

    By construction acceleration and jerk limits hold, the last point is at rest, and no motion within the same limits
    rests earlier. A joint stays within its velocity limit unless its present acceleration already takes it beyond.
    Position limits are not checked.
    """
    durations, jerks = _stop(velocity, acceleration, limits)
    ends = np.cumsum(durations, axis=0)
    times = step_s * np.arange(int(np.ceil(ends[-1].max() / step_s - 1e-9)) + 1)
    p, v, a = (np.broadcast_to(value, (len(times), len(position))) for value in (position, velocity, acceleration))
    for begin, duration, jerk in zip(ends - durations, durations, jerks, strict=True):
        t = np.clip(times[:, None] - begin, 0.0, duration)
        p, v, a = p + t * (v + t * (a / 2 + t * jerk / 6)), v + t * (a + t * jerk / 2), a + t * jerk
    v = np.where(times[:, None] >= ends[-1] - 1e-9, 0.0, v)  # exactly, without rounding errors
    return Trajectory(times, p, v)


def travelled(u: np.ndarray, before: np.ndarray, after: np.ndarray, block_s: float) -> np.ndarray:
    """Way, rad, within a block: from its first knot to the fraction `u` of it. `before` and `after` are the velocities
    of its first and last knot, rad/s. Broadcasts.
    """
    return block_s * (before * u + (after - before) * (u**3 - u**4 / 2))


class Timeline:
    """The commanded motion, past and future, as velocity knots; it ends at rest.

    Knot k is at start_s + k * block_s. The motion before a hand-over knot is committed and never changes; knots more
    than KEPT_BLOCKS before it are dropped.
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
        """Position (A,) rad and velocity (A,) rad/s at a knot that is kept; at rest beyond the end."""
        index = knot - self._first
        if index < len(self._positions):
            return self._positions[index], self._velocities[index]
        return self._positions[-1], np.zeros_like(self._positions[-1])

    def splice(self, knot: int, velocities: np.ndarray) -> None:
        """Replaces all knots after `knot` by ones with `velocities` (K, A) rad/s and a stop."""
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
        positions, before, after, u = self._at(times_s)
        way = travelled(u, before, after, self.block_s)
        return Trajectory(times_s, positions + way, before + (after - before) * u * u * (3 - 2 * u))

    def acceleration(self, time_s: float) -> np.ndarray:
        """Commanded acceleration (A,) rad/s^2 at a time."""
        _, before, after, u = self._at(np.array([time_s]))
        return ((after - before) * 6 * u * (1 - u) / self.block_s)[0]

    def stop(self, now_s: float, handover_s: float) -> Trajectory:
        """The motion from `now_s` on: as committed until `handover_s`, then the fastest stop.

        By construction it keeps the velocity, acceleration and jerk limits of the knots, is as smooth at the hand-over
        as elsewhere, and is at rest no later than a stop that begins at the next knot. The knots leave room for a stop
        before the position limits, and this stop is not known to need more. It is checked nevertheless: should it leave
        them, the stop from the next knot is returned, and the timeline ends with that.

        :param handover_s: later than `now_s`.
        """
        count = max(1, int(np.ceil((handover_s - now_s) / STOP_STEP_S - 1e-6)))
        committed = self.sample(np.linspace(now_s, handover_s, count + 1))
        position, velocity = committed.positions[-1], committed.velocities[-1]
        fastest = stop_from(position, velocity, self.acceleration(handover_s), self.limits)
        below, above = self.limits.lower - fastest.positions, fastest.positions - self.limits.upper
        if max(below.max(), above.max()) < 1e-9:
            return Trajectory(
                np.concatenate([committed.times_s, handover_s + fastest.times_s[1:]]),
                np.concatenate([committed.positions, fastest.positions[1:]]),
                np.concatenate([committed.velocities, fastest.velocities[1:]]),
            )
        self.splice(self.knot_at_or_after(handover_s), np.zeros((0, len(position))))
        steps = int(np.ceil((self.end_s - now_s) / STOP_STEP_S)) + 1
        return self.sample(now_s + STOP_STEP_S * np.arange(steps + 1))

    def _at(self, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Position at the knot before `times_s` (T,), velocities at the knots before and after, each (T, A), and the
        fraction (T, 1) of the block that has passed.
        """
        # An extra knot at rest, so that times after the end need no special case.
        positions = np.stack([*self._positions, self._positions[-1]])
        velocities = np.stack([*self._velocities, np.zeros_like(self._velocities[-1])])
        phase = np.clip((times_s - self.start_s) / self.block_s - self._first, 0.0, len(positions) - 2)
        knot = phase.astype(int)
        return positions[knot], velocities[knot], velocities[knot + 1], (phase - knot)[:, None]


def joint_ways(paths: np.ndarray) -> np.ndarray:
    """Joint positions (…, T, A) rad -> how far each moves from one to the next, (…, T - 1, A) rad."""
    return np.diff(paths, axis=-2)


class CommandedMotion:
    """The motions recently sent to the arm, each valid until the next begins; after the end of one the arm rests."""

    def __init__(self) -> None:
        self._motions: deque[tuple[float, Timeline | Trajectory]] = deque(maxlen=KEPT_MOTIONS)  # from when on, motion

    def begin(self, from_s: float, motion: Timeline | Trajectory) -> None:
        """From `from_s` on `motion` is what is commanded; a timeline may still be extended."""
        self._motions.append((from_s, motion))

    def displacements(self, grid_s: np.ndarray, columns: int, of: Callable[..., np.ndarray] = joint_ways) -> np.ndarray:
        """The commanded motion between the times (N,) s, as `of` maps joint positions (N, A) rad to (N - 1, columns):
        rad of each joint by default.
        """
        total: np.ndarray = np.zeros((len(grid_s) - 1, columns))
        begins = [from_s for from_s, _ in self._motions]
        for (from_s, motion), end_s in zip(self._motions, [*begins[1:], np.inf], strict=False):
            total += of(motion.sample(np.clip(grid_s, from_s, end_s)).positions)
        return total
