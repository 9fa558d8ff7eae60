# SPDX-License-Identifier: Apache-2.0
"""Who plans for the paper's four tasks, for `benchmarks.seed_tasks`: our ways, the authors', and baselines."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch

from benchmarks import reference
from benchmarks.seed_attempts import BUDGET_STEPS, Goal, Past, Planner
from lewm_model.bundle.bundle import Bundle, load_heads, load_model
from lewm_model.config import POLICY_PLAN, PlanConfig
from lewm_model.models.lewm import LeWM
from lewm_model.models.objective import final, squared_latent_distance
from lewm_model.models.rollout import FastRollout
from lewm_model.models.signature import TEMPORAL_DISTANCE as TIME
from lewm_model.planning.parameterisations import ActionParameterisation
from lewm_model.planning.proposals import FollowPolicy, Problem
from lewm_model.planning.solvers import ELITES, HORIZON, SAMPLES, reference_cem, search, shoot
from lewm_model.robot.actions import ActionSpec
from lewm_model.runtime import load_runtime

HASTE = 0.7  # play strays from its way, so a policy that takes as long as play did arrives late
# A goal lies GOAL_STEPS ahead, and policy and temporal distance learn farther ones, which a detour leads past.
FOLLOW = replace(POLICY_PLAN, horizon=HORIZON, policy_least_steps=5.0, policy_most_steps=float(BUDGET_STEPS))
ITERATIONS = 10  # of the reference's search; its default of 30 would take three times as long
ROWS = ("displacement", "latent", "policy", "follow")  # ways to plan with our model, methods of Ours


class FreeActions:
    """Candidates (S, K, C) of one action for each block, in standard deviations, for a world without an arm: what of
    `ActionParameterisation` a policy is followed with. Nothing is committed, and nothing but the range is a limit.
    """

    def __init__(self, spec: ActionSpec, horizon: int) -> None:
        self.std, self.frameskip = np.asarray(spec.std), spec.frameskip
        self.low, self.high = np.asarray(spec.low), np.asarray(spec.high)
        self.still = np.zeros((horizon, len(self.std)))

    def feasible(self, candidates: np.ndarray) -> np.ndarray:
        return np.clip(candidates * self.std, self.low, self.high) / self.std

    def actions(self, candidates: np.ndarray) -> np.ndarray:
        return np.repeat(candidates * self.std, self.frameskip, 1)

    def extend(self, candidates: np.ndarray, k: int, actions: np.ndarray) -> None:
        candidates[:, k] = np.clip(actions, self.low, self.high) / self.std

    def rests(self, candidate: np.ndarray) -> bool:
        return len(candidate) == 0


class Ours:
    """A bundle's model with our rollout, planned for by the reference's search or by ours."""

    def __init__(self, bundle: Bundle, seed: int) -> None:
        self.model, self.spec, self.seed = load_model(bundle), bundle.actions, seed
        self.runtime = load_runtime(bundle, "torch")
        heads = load_heads(bundle)
        self.rollout, self.embedding, self.time = FastRollout(self.model).eval(), heads["displacement"], heads.get(TIME)
        self.noise = torch.Generator().manual_seed(seed)

    @torch.inference_mode()
    def encode(self, frames: list[np.ndarray]) -> torch.Tensor:
        """(n, D)"""
        return self.model.encode(torch.from_numpy(np.stack(frames)))

    @torch.inference_mode()
    def imagine(self, context: torch.Tensor, past: np.ndarray, candidates: np.ndarray) -> torch.Tensor:
        """Predicted latents (S, H, D) of candidates (S, H, E) after blocks (n - 1, E) between a context's frames."""
        before = torch.from_numpy(past) if len(past) else None
        return self.rollout(context, before, torch.from_numpy(candidates.astype(np.float32)))

    def context(self, past: Past) -> tuple[torch.Tensor, np.ndarray]:
        """Latents (n, D) of the frames that the predictor sees, and the blocks (n - 1, E) between them."""
        frames, blocks = past.context(self.model.config.history, self.spec.frameskip, self.model.config.block_dim)
        return self.encode(frames), blocks

    def now(self, past: Past) -> torch.Tensor:
        """(1, D) of the newest frame."""
        return self.encode([past.frames[len(past.actions)]])

    def their_planner(self, goal: Goal) -> Planner:
        """The reference's search from one frame; its plans are executed to their end."""
        wanted = self.encode([goal.picture])[0].numpy()

        def draw() -> np.ndarray:
            return torch.randn(SAMPLES, HORIZON, self.model.config.block_dim, generator=self.noise).numpy()

        def plan(past: Past) -> np.ndarray:
            now = self.now(past)

            def cost(candidates: np.ndarray) -> np.ndarray:
                return final(squared_latent_distance(self.imagine(now, past_of_one, candidates).numpy(), wanted))

            return reference_cem(cost, draw, ELITES, ITERATIONS).reshape(-1, len(self.spec.names))

        past_of_one = np.zeros((0, self.model.config.block_dim), np.float32)
        return plan

    def displacement(self, goal: Goal) -> Planner:
        """Our search over the mean distance of the displacement embedding, as the planner node does: block by block."""
        return self._search(
            goal, lambda imagined, wanted: self.embedding(imagined, wanted).mean(-1), self.spec.frameskip
        )

    def latent(self, goal: Goal) -> Planner:
        """Our search over the least distance of latents: an arm that swings can only pass a goal."""
        return self._search(goal, lambda imagined, wanted: (imagined - wanted).square().sum(-1).amin(-1), 1)

    def _search(
        self, goal: Goal, objective: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], steps: int
    ) -> Planner:
        """The planner node's search, one action a block, in the recorded range; it plans anew after `steps` and begins
        with what is left of the last plan.
        """
        wanted, config, spec = self.encode([goal.picture])[0], PlanConfig(), self.spec
        low, high, rest = (spec.normalise(np.array(a)) for a in (spec.low, spec.high, np.zeros(len(spec.low))))
        still = np.tile(rest, (config.horizon, 1))
        rng = np.random.default_rng((self.seed, 6))
        kept = still

        def plan(past: Past) -> np.ndarray:
            nonlocal kept
            context, blocks = self.context(past)

            def cost(knots: np.ndarray) -> np.ndarray:
                imagined = self.imagine(context, blocks, np.tile(knots, (1, 1, spec.frameskip)))
                with torch.inference_mode():
                    return objective(imagined, wanted).numpy()

            guesses = np.stack([kept, still])
            found = search(
                config, guesses, config.initial_std, lambda k: np.clip(k, low, high), cost, rng, deadline_s=np.inf
            )
            share = steps / spec.frameskip
            kept = (1.0 - share) * found.best + share * np.concatenate([found.best[1:], rest[None]])
            return np.tile(found.best[0], (steps, 1)).astype(np.float32)

        return plan

    def policy(self, goal: Goal) -> Planner:
        """The policy alone, at a pace by the temporal distance."""
        wanted, time_to_go = self.encode([goal.picture]), self.time
        assert time_to_go is not None

        def plan(past: Past) -> np.ndarray:
            now = self.now(past)
            with torch.inference_mode():
                left = HASTE * time_to_go(now, wanted).numpy()
            proposed = self.runtime.propose(now.numpy(), wanted[0].numpy(), np.maximum(left, self.spec.frameskip))
            return proposed.reshape(self.spec.frameskip, -1)

        return plan

    def follow(self, goal: Goal) -> Planner:
        """The policy followed in imagination; the first block of what ends nearest in time is executed."""
        wanted, spec = self.runtime.encode(goal.picture), self.spec
        motions = FreeActions(spec, FOLLOW.horizon)
        follow, rng = FollowPolicy(FOLLOW, reached=None), np.random.default_rng((self.seed, 8))
        kept = motions.still[:0]

        def plan(past: Past) -> np.ndarray:
            nonlocal kept
            context, blocks = self.context(past)
            problem = Problem(
                self.runtime, context.numpy(), blocks, wanted, cast(ActionParameterisation, motions), kept
            )
            proposed = follow(problem, rng)
            found = shoot(
                FOLLOW,
                proposed.candidates,
                proposed.factors,
                motions.feasible,
                lambda candidates: final(problem.imagine(candidates).distances),
            )
            kept = found.best[1:]
            return spec.normalise(motions.actions(found.best[None, :1])[0]).astype(np.float32)

        return plan


def reference_planner(network: Any, imported: LeWM, spec: ActionSpec, seed: int) -> Callable[[Goal], Planner]:
    """The authors' model and solver. The same model, imported, lends its pixel statistics."""
    c = imported.config
    solver = reference.solver(network, c.action_dim, c.frameskip, HORIZON, SAMPLES, ELITES, ITERATIONS, seed)

    def planner(goal: Goal) -> Planner:
        wanted = reference.pixels(imported, goal.picture[None, None])

        def plan(past: Past) -> np.ndarray:
            now = reference.pixels(imported, past.frames[len(past.actions)][None, None])
            info = {"pixels": now, "goal": wanted, "action": torch.zeros(1, 1, c.block_dim)}
            with contextlib.redirect_stdout(io.StringIO()):  # it prints how long it took
                return solver.solve(info)["actions"][0].numpy().reshape(-1, c.action_dim)

        return plan

    return planner


def baselines(spec: ActionSpec, seed: int) -> dict[str, Callable[[Goal], Planner]]:
    """Policies that look at no picture: random, hold, replay."""
    rng = np.random.default_rng((seed, 7))
    still = spec.normalise(np.zeros((spec.frameskip, len(spec.names))))

    def replay(goal: Goal) -> Planner:
        return lambda past: still if past.actions else spec.normalise(goal.actions)

    return {
        "random": lambda goal: lambda past: spec.normalise(rng.uniform(-1, 1, still.shape)),
        "hold": lambda goal: lambda past: still,
        "replay": replay,
    }
