"""What a search varies, and how it becomes actions to imagine and a motion to execute."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from lewm_model.bundle.bundle import ActionSpec
from lewm_model.planning.motion import KnotLimits, Timeline, Trajectory

AT_LIMIT = 0.99  # share of the velocity limit from which a knot counts as at it


class ActionParameterisation(Protocol):
    """Candidates (S, K, A) of one plan: plain numbers of about unit size, so that a search needs no other scale.

    The actions of all candidates begin at the frame; what lies between it and the hand-over is committed already and
    the same for all.
    """

    still: np.ndarray  # (K, A): the candidate that rests, or comes to rest as fast as it may

    def feasible(self, candidates: np.ndarray) -> np.ndarray:
        """The nearest candidates that keep all limits."""

    def actions(self, candidates: np.ndarray) -> np.ndarray:
        """Low-level actions (S, H * frameskip, A) from the frame on, rad/s."""

    def paths(self, candidates: np.ndarray) -> np.ndarray:
        """Commanded positions (S, H * frameskip + 1, A) from the frame on, a control step apart, rad."""

    def straight(self, way: np.ndarray) -> np.ndarray:
        """The feasible candidate (K, A) that is `way` (A,) rad from the frame on as soon as it may, and stops there."""

    def extend(self, candidates: np.ndarray, k: int, actions: np.ndarray) -> None:
        """Lets candidates do `actions` (S, A) rad/s in part k, as far as is feasible after the parts before it."""

    def rests(self, candidate: np.ndarray) -> bool:
        """Whether the arm rests at the hand-over and goes on to rest with a candidate (K, A), K may be 0."""

    def commit(self, candidate: np.ndarray, parts: int) -> Trajectory:
        """Commits to the first parts of a candidate (K, A), then to a stop; the motion from the frame on."""


class VelocityKnots:
    """Joint velocities at the ends of action blocks, in standard deviations of the recorded actions.

    `motion` blends them so that velocity, acceleration, jerk and position limits hold between them too.
    """

    def __init__(
        self,
        spec: ActionSpec,
        timeline: Timeline,
        limits: KnotLimits,
        frame_s: float,
        knot: int,
        horizon: int,
        rest_speed: np.ndarray,
    ) -> None:
        """
        :param timeline: what is commanded; committed up to `knot`, the number of the hand-over.
        :param frame_s: stamp of the frame that is planned from, s.
        :param horizon: action blocks, and knots.
        :param rest_speed: (A,) rad/s up to which a joint counts as resting.
        """
        self.timeline, self.limits, self.frame_s, self.knot = timeline, limits, frame_s, knot
        self.control_dt_s, self.block_s, self.std = spec.control_dt_s, spec.block_s, np.asarray(spec.std)
        self.rest_speed = rest_speed
        self.position, self.velocity = timeline.state(knot)  # (A,) at the hand-over
        self.still = np.zeros((horizon, len(self.std)))
        self.handover_s = timeline.knot_time(knot)
        grid = frame_s + spec.control_dt_s * np.arange(horizon * spec.frameskip + 1)
        self.committed = timeline.sample(np.minimum(grid, self.handover_s)).positions  # (N, A) rad
        self.weights = path_weights(np.maximum(grid - self.handover_s, 0.0) / self.block_s, horizon, self.block_s)

    def feasible(self, candidates: np.ndarray) -> np.ndarray:
        return self.limits.project(self.position, self.velocity, candidates * self.std) / self.std

    def actions(self, candidates: np.ndarray) -> np.ndarray:
        return np.diff(self.paths(candidates), axis=1) / self.control_dt_s

    def paths(self, candidates: np.ndarray) -> np.ndarray:
        before = np.broadcast_to(self.velocity, (len(candidates), 1, len(self.velocity)))
        knots = np.concatenate([before, candidates * self.std], 1)
        paths: np.ndarray = self.committed + np.einsum("nk,ska->sna", self.weights, knots)
        return paths

    def straight(self, way: np.ndarray) -> np.ndarray:
        velocity, knots = self.velocity, np.zeros_like(self.still)
        left, position = self.committed[0] + way - self.position, self.position
        for k in range(len(knots)):
            wanted = left / self.block_s - 0.5 * velocity  # from which a stop in one more block ends at the goal
            knots[k] = self.limits.project(position, velocity, wanted[None, None])[0, 0]
            step = 0.5 * self.block_s * (velocity + knots[k])
            position, left, velocity = position + step, left - step, knots[k]
        return knots / self.std

    def extend(self, candidates: np.ndarray, k: int, actions: np.ndarray) -> None:
        knots = candidates[:, :k] * self.std
        last = knots[:, -1] if k else np.broadcast_to(self.velocity, actions.shape)
        # Half of each block's way belongs to the knot at its begin, half to that at its end.
        position = self.position + self.block_s * (knots.sum(1) + 0.5 * (self.velocity - last))
        candidates[:, k] = self.limits.project(position, last, actions[:, None])[:, 0] / self.std

    def rests(self, candidate: np.ndarray) -> bool:
        return bool((np.abs([self.velocity, *candidate[:1] * self.std]) <= self.rest_speed).all())

    def commit(self, candidate: np.ndarray, parts: int) -> Trajectory:
        self.timeline.splice(self.knot, candidate[:parts] * self.std)
        steps = int(np.ceil((self.timeline.end_s - self.frame_s) / self.control_dt_s)) + 1
        return self.timeline.sample(self.frame_s + self.control_dt_s * np.arange(max(steps, 1) + 1))

    def saturation(self, candidate: np.ndarray) -> float:
        """Share of the velocities of a candidate (K, A) that are at their limit."""
        return float((np.abs(candidate * self.std) > AT_LIMIT * self.limits.velocity).mean())


def path_weights(phase: np.ndarray, knots: int, block_s: float) -> np.ndarray:
    """Weights (N, knots + 1) that turn knot velocities, the hand-over's first, into the way after `phase` blocks."""
    u = np.clip(phase[:, None] - np.arange(knots), 0.0, 1.0)  # (N, knots): how much of each block has passed
    after = block_s * (u**3 - u**4 / 2)
    before = block_s * u - after
    weights = np.zeros((len(phase), knots + 1))
    weights[:, :-1] += before
    weights[:, 1:] += after
    return weights
