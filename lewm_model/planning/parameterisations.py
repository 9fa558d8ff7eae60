# SPDX-License-Identifier: Apache-2.0
"""The numbers that a search varies, and how they become actions to imagine and a motion to execute."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from lewm_model.planning.motion import KnotLimits, Timeline, Trajectory
from lewm_model.robot.actions import ActionSpec
from lewm_model.robot.tip import TipMotion

AT_LIMIT = 0.99  # share of the velocity limit from which a knot counts as at the limit, in `saturation`


class ActionParameterisation(Protocol):
    """Candidates (S, K, C) of one plan: a number for each of the C columns of an action in each of K parts, of about
    unit size, so that a search needs no scales. The arm has A joints.

    The actions of all candidates begin at the frame. Those between the frame and the hand-over are committed already
    and the same for all.
    """

    still: np.ndarray  # (K, C): the candidate that is at rest, or comes to rest as fast as the limits allow
    farthest: np.ndarray  # (C,) longest possible way of each column, rad for joints, m or rad for the tip
    timeline: Timeline  # the commanded motion, committed up to the hand-over
    knot: int  # number of the hand-over's knot
    handover_s: float  # its time, s
    frame_s: float  # stamp of the frame that is planned from, s

    def feasible(self, candidates: np.ndarray) -> np.ndarray:
        """The candidates, clipped so that they keep all limits."""

    def actions(self, candidates: np.ndarray) -> np.ndarray:
        """Low-level actions (S, H * frameskip, C) from the frame on, rad/s of joints, m/s or rad/s of the tip."""

    def paths(self, candidates: np.ndarray) -> np.ndarray:
        """Commanded positions (S, H * frameskip + 1, A) from the frame on, a control step apart, rad."""

    def straight(self, way: np.ndarray) -> np.ndarray:
        """The feasible candidate (K, C) that moves by `way` (C,) from the frame on, as fast as it may, and stops
        there.
        """

    def extend(self, candidates: np.ndarray, k: int, actions: np.ndarray) -> None:
        """Sets part k of the candidates to `actions` (S, C), as far as that is feasible after the parts before it."""

    def rests(self, candidate: np.ndarray) -> bool:
        """Whether the arm is at rest at the hand-over and stays so in the first part of a candidate (K, C); K may be
        0.
        """

    def commit(self, candidate: np.ndarray, parts: int) -> Trajectory:
        """Commits to the first `parts` of a candidate (K, C) and a stop; returns the motion from the frame on."""

    def saturation(self, candidate: np.ndarray) -> float:
        """Share, 0 to 1, of the joint velocities of a candidate (K, C) that are at their limit."""


class VelocityKnots:
    """Joint velocities at the ends of action blocks, in multiples of `unit`.

    Between them `lewm_model.planning.motion` blends, so that all limits hold there too.
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
        unit: np.ndarray,
    ) -> None:
        """
        :param timeline: the commanded motion, committed up to `knot`, the number of the hand-over's knot.
        :param frame_s: stamp of the frame that is planned from, s.
        :param horizon: action blocks, and knots.
        :param rest_speed: (A,) rad/s up to which a joint counts as resting.
        :param unit: (A,) rad/s, such as the standard deviation of the recorded actions.
        """
        self.timeline, self.limits, self.frame_s, self.knot = timeline, limits, frame_s, knot
        self.control_dt_s, self.block_s, self.unit = spec.control_dt_s, spec.block_s, unit
        self.rest_speed, self.farthest = rest_speed, limits.upper - limits.lower
        self.position, self.velocity = timeline.state(knot)  # (A,) at the hand-over
        self.still = np.zeros((horizon, len(unit)))
        self.handover_s = timeline.knot_time(knot)
        grid = frame_s + spec.control_dt_s * np.arange(horizon * spec.frameskip + 1)
        self.committed = timeline.sample(np.minimum(grid, self.handover_s)).positions  # (N, A) rad
        self.weights = path_weights(np.maximum(grid - self.handover_s, 0.0) / self.block_s, horizon, self.block_s)

    def feasible(self, candidates: np.ndarray) -> np.ndarray:
        return self.limits.project(self.position, self.velocity, candidates * self.unit) / self.unit

    def actions(self, candidates: np.ndarray) -> np.ndarray:
        return np.diff(self.paths(candidates), axis=1) / self.control_dt_s

    def paths(self, candidates: np.ndarray) -> np.ndarray:
        before = np.broadcast_to(self.velocity, (len(candidates), 1, len(self.velocity)))
        knots = np.concatenate([before, candidates * self.unit], 1)
        paths: np.ndarray = self.committed + np.einsum("nk,ska->sna", self.weights, knots)
        return paths

    def straight(self, way: np.ndarray) -> np.ndarray:
        velocity, knots = self.velocity, np.zeros_like(self.still)
        left, position = self.committed[0] + way - self.position, self.position
        for k in range(len(knots)):
            wanted = left / self.block_s - 0.5 * velocity  # with which a stop in the next block ends at the goal
            knots[k] = self.limits.project(position, velocity, wanted[None, None])[0, 0]
            step = 0.5 * self.block_s * (velocity + knots[k])
            position, left, velocity = position + step, left - step, knots[k]
        return knots / self.unit

    def extend(self, candidates: np.ndarray, k: int, actions: np.ndarray) -> None:
        knots = candidates[:, :k] * self.unit
        last = knots[:, -1] if k else np.broadcast_to(self.velocity, actions.shape)
        # A block's way is its length times the mean of the velocities at its two knots.
        position = self.position + self.block_s * (knots.sum(1) + 0.5 * (self.velocity - last))
        candidates[:, k] = self.limits.project(position, last, actions[:, None])[:, 0] / self.unit

    def rests(self, candidate: np.ndarray) -> bool:
        return bool((np.abs([self.velocity, *candidate[:1] * self.unit]) <= self.rest_speed).all())

    def commit(self, candidate: np.ndarray, parts: int) -> Trajectory:
        self.timeline.splice(self.knot, candidate[:parts] * self.unit)
        steps = int(np.ceil((self.timeline.end_s - self.frame_s) / self.control_dt_s)) + 1
        return self.timeline.sample(self.frame_s + self.control_dt_s * np.arange(max(steps, 1) + 1))

    def saturation(self, candidate: np.ndarray) -> float:
        return float((np.abs(candidate * self.unit) > AT_LIMIT * self.limits.velocity).mean())


class TipKnots:
    """Cartesian velocities of the tip, and a gripper's, at the ends of action blocks, in standard deviations of the
    recorded actions.

    Joint velocities follow from them by damped least squares, knot after knot. Where a joint would exceed its limits,
    all are slowed down together, so that the tip keeps its direction. The model imagines what the joints then do.
    """

    def __init__(self, spec: ActionSpec, joints: VelocityKnots, tip: TipMotion) -> None:
        """
        :param joints: the joints' part, with a unit of 1 rad/s.
        """
        self._spec, self._joints, self._tip, self._std = spec, joints, tip, np.asarray(spec.std)
        self.timeline, self.frame_s, self.knot = joints.timeline, joints.frame_s, joints.knot
        self.handover_s, self.farthest = joints.handover_s, tip.farthest
        self.still = np.zeros((len(joints.still), len(self._std)))

    def feasible(self, candidates: np.ndarray) -> np.ndarray:
        low, high = self._spec.within
        return np.clip(candidates, low / self._std, high / self._std)

    def actions(self, candidates: np.ndarray) -> np.ndarray:
        return self._tip.displacements(self.paths(candidates)) / self._spec.control_dt_s

    def paths(self, candidates: np.ndarray) -> np.ndarray:
        return self._joints.paths(self._knots(candidates))

    def straight(self, way: np.ndarray) -> np.ndarray:
        block_s, (low, high) = self._spec.block_s, self._spec.within
        position, joint_velocity = self._joints.position[None], self._joints.velocity[None]
        left = way - self._tip.displacements(np.stack([self._joints.committed[0], position[0]]))[0]
        velocity, knots = np.zeros_like(way), np.zeros_like(self.still)
        for k in range(len(knots)):
            knots[k] = np.clip(left / block_s - 0.5 * velocity, low, high)  # as in VelocityKnots
            before = position
            position, joint_velocity = self._next(position, joint_velocity, knots[k : k + 1])
            done = self._tip.displacements(np.concatenate([before, position]))[0]
            left, velocity = left - done, 2.0 * done / block_s - velocity
        return knots / self._std

    def extend(self, candidates: np.ndarray, k: int, actions: np.ndarray) -> None:
        candidates[:, k] = self.feasible(actions / self._std)

    def rests(self, candidate: np.ndarray) -> bool:
        return self._joints.rests(self._knots(candidate[None])[0])

    def commit(self, candidate: np.ndarray, parts: int) -> Trajectory:
        return self._joints.commit(self._knots(candidate[None])[0], parts)

    def saturation(self, candidate: np.ndarray) -> float:
        return self._joints.saturation(self._knots(candidate[None])[0])

    def _knots(self, candidates: np.ndarray) -> np.ndarray:
        """Joint velocities (S, K, A) rad/s at the knots."""
        position = np.repeat(self._joints.position[None], len(candidates), 0)
        velocity = np.repeat(self._joints.velocity[None], len(candidates), 0)
        knots = np.empty((*candidates.shape[:2], position.shape[1]))
        for k in range(candidates.shape[1]):
            position, velocity = self._next(position, velocity, candidates[:, k] * self._std)
            knots[:, k] = velocity
        return knots

    def _next(self, position: np.ndarray, velocity: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities (S, A) of the joints at the next knot, whose `actions` are (S, C)."""
        limits = self._joints.limits
        there = position + limits.block_s * velocity  # approximately at the next knot
        knot = limits.slowed(position, velocity, self._tip.joint_velocities(there, actions))
        return position + 0.5 * limits.block_s * (velocity + knot), knot


def path_weights(phase: np.ndarray, knots: int, block_s: float) -> np.ndarray:
    """Weights (N, knots + 1), s, that map knot velocities, beginning with the hand-over's, to the way after each of
    `phase` (N,) blocks.
    """
    u = np.clip(phase[:, None] - np.arange(knots), 0.0, 1.0)  # (N, knots): how much of each block has passed
    after = block_s * (u**3 - u**4 / 2)
    before = block_s * u - after
    weights = np.zeros((len(phase), knots + 1))
    weights[:, :-1] += before
    weights[:, 1:] += after
    return weights
