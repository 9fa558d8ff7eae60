# SPDX-License-Identifier: Apache-2.0
"""Proposals: candidates that a search starts from, before any is sampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lewm_model.bundle.bundle import Bundle
from lewm_model.config import PlanConfig
from lewm_model.models.signature import POLICY, PROPOSAL
from lewm_model.planning.objectives import Imagined
from lewm_model.planning.parameterisations import ActionParameterisation
from lewm_model.planning.solvers import coloured_noise
from lewm_model.runtime import Runtime

UNKNOWN_STEPS = 0.0  # steps_to_go for a policy when the time left is not prescribed (`models.heads.ClonedPolicy`)


@dataclass(frozen=True)
class Problem:
    """What one plan starts from, and the rollout of its candidates."""

    runtime: Runtime
    context: np.ndarray  # (h, D) latents up to the newest frame, a block apart
    past: np.ndarray  # (h - 1, E) z-scored blocks commanded between them
    goal: np.ndarray  # (D,) latent
    motions: ActionParameterisation
    previous: np.ndarray  # (K', C) the rest of the previous plan from the hand-over on; K' is 0 where there is none

    def imagine(self, candidates: np.ndarray) -> Imagined:
        """The model's rollouts of candidates (S, K, C)."""
        actions = self.motions.actions(candidates)
        blocks = self.runtime.bundle.actions.normalise(actions).reshape(len(actions), len(self.motions.still), -1)
        return Imagined(actions, *self.runtime.rollout(self.context, self.past, blocks, self.goal))


@dataclass(frozen=True)
class Proposed:
    """Candidates (N, K, C), the best guess first, and a factor (N,) on the cost of each, below 1 in its favour."""

    candidates: np.ndarray
    factors: np.ndarray
    # What the first candidate leads to if the arm moves exactly as commanded, computed without the model, so without
    # latents; None where that is not possible.
    promised: Imagined | None = None


Proposal = Callable[[Problem, np.random.Generator], Proposed]


def way_between(runtime: Runtime, latent: np.ndarray, other: np.ndarray, steps: float) -> np.ndarray:
    """How far an action of each column leads from latent (1, D) to another (D,), (C,) in the unit of the actions times
    s, by the displacement embedding.

    :param steps: control steps at full speed that no such way exceeds. The head proposes a velocity, clipped to full
        speed, to arrive after a number of steps; with so many it is not clipped, and velocity times time is the way.
    """
    spec = runtime.bundle.actions
    block = runtime.propose(latent, other, np.array([steps]))
    velocity = (block.reshape(spec.frameskip, -1) * np.asarray(spec.std) + np.asarray(spec.mean)).mean(0)
    return velocity * steps * spec.control_dt_s


def stand_still(problem: Problem, rng: np.random.Generator) -> Proposed:
    """Come to rest."""
    return Proposed(problem.motions.still[None], np.ones(1))


def go_on(problem: Problem, rng: np.random.Generator) -> Proposed:
    """The rest of the previous plan, then a stop: a warm start."""
    candidate = np.zeros_like(problem.motions.still)
    candidate[: len(problem.previous)] = problem.previous
    return Proposed(candidate[None], np.ones(1))


def go_straight(problem: Problem, rng: np.random.Generator) -> Proposed:
    """The straight line in joint space from the frame to the goal, by the displacement embedding."""
    spec = problem.runtime.bundle.actions
    longest = float(np.max(problem.motions.farthest / spec.full_step))
    way = way_between(problem.runtime, problem.context[-1:], problem.goal, longest)
    candidates = problem.motions.straight(way)[None]
    actions = problem.motions.actions(candidates)
    moved = np.cumsum(actions[0] * spec.control_dt_s, axis=0)[spec.frameskip - 1 :: spec.frameskip]  # (H, C)
    left = np.linalg.norm((way - np.vstack([np.zeros_like(way), moved])) / spec.full_step, axis=1)
    return Proposed(candidates, np.ones(1), Imagined(actions, left[None], problem.context[:0]))


@dataclass(frozen=True)
class FollowPolicy:
    """Rolls out a goal-conditioned policy with the world model, `samples` times in parallel.

    A policy is cloned from motions that reach a goal in different ways, whose mean may reach nothing. So the first
    candidate follows it exactly, the others with noise, and every other one asks it to arrive after a random time. The
    last candidate is the rest of the previous plan, unless that has come to rest; its cost is reduced, so that the arm
    does not switch between plans that are about as good. An arm that will be at the goal by resting rests, which a
    policy cloned from motions does not do by itself.
    """

    config: PlanConfig
    reached: float | None  # distance up to which a goal counts as reached; None for a bundle without calibration

    def __call__(self, problem: Problem, rng: np.random.Generator) -> Proposed:
        config, motions, spec = self.config, problem.motions, problem.runtime.bundle.actions
        still = motions.feasible(motions.still[None])
        if self.reached is not None and problem.imagine(still).distances[0, -1] <= self.reached:
            return Proposed(still, np.ones(1))
        count, (horizon, joints) = config.samples, motions.still.shape
        noise = config.policy_noise * coloured_noise(rng, (count, horizon, joints), config.noise_colour)
        noise[0] = 0.0
        hurry = rng.uniform(config.policy_least_steps, config.policy_most_steps, count)
        left = np.where(np.arange(count) % 2, hurry, np.inf)
        previous = problem.previous[:0] if motions.rests(problem.previous) or count == 1 else problem.previous
        contexts, past = np.repeat(problem.context[None], count, 0), np.repeat(problem.past[None], count, 0)
        candidates = np.zeros((count, horizon, joints))
        for k in range(horizon):
            steps = np.where(np.isinf(left), UNKNOWN_STEPS, np.maximum(left - spec.frameskip * k, 1.0))
            proposed = problem.runtime.propose(contexts[:, -1], problem.goal, steps)
            wanted = proposed.reshape(count, spec.frameskip, joints)[:, -1] + noise[:, k]
            actions = wanted * np.asarray(spec.std) + np.asarray(spec.mean)
            if len(previous):
                actions[-1] = previous[min(k, len(previous) - 1)] * np.asarray(spec.std)
            motions.extend(candidates, k, actions)
            within = slice(k * spec.frameskip, (k + 1) * spec.frameskip)
            block = spec.normalise(motions.actions(candidates)[:, within]).reshape(count, -1)
            latents = problem.runtime.step(contexts, past, block)
            contexts = np.concatenate([contexts[:, 1:], latents[:, None]], 1)
            past = np.concatenate([past, block[:, None]], 1)[:, 1:]
        factors = np.ones(count)
        if len(previous):
            factors[-1] = config.keep
        return Proposed(candidates, factors)


def proposals_of(bundle: Bundle, config: PlanConfig) -> tuple[Proposal, ...]:
    """The proposals for a bundle's heads, the best guess first."""
    if POLICY in bundle.heads:
        return (FollowPolicy(config, None if bundle.calibration is None else bundle.calibration.reached),)
    if PROPOSAL in bundle.heads:
        return go_straight, stand_still, go_on
    return go_on, stand_still
