# SPDX-License-Identifier: Apache-2.0
"""The tasks that LeWM was published with, at a size that can be trained on a CPU: `make seed-task TASK=reacher`.

The environments are those of stable-worldmodel 0.1.1, their pictures 64 pixels wide. For each:

- Episodes are recorded here: the play of a scripted policy with noise in one half, random motion in the other.
- The network of `small`, its latent read from all tokens, is trained by this trainer, and one of the same sizes that
  both implement (with patches, GELU and the CLS token) by the authors' code, on the same batches, for the same steps.
- Goals are taken from episodes outside the training data: start at a frame, goal is the picture 25 control steps later.
  A start that already counts as success is drawn again. The budget is 50 steps.

"success" is their criterion, "reached" after any step of the budget. "held" is strict: after each of the last 10. The
tasks are tasks of `lewm_model.tasks`, whose trials can be drawn without a recording as well. The rows differ by who
trained the model and who plans; for 25 steps the reference's search tries 3000 candidates, ours at most 1920:

- displacement: this trainer's model and the planner node's search (iCEM, `PlanConfig`'s defaults): one action for each
  block of 5 steps, inside the recorded range, judged by the mean distance of the displacement embedding over the
  horizon; a new plan after each block, from up to `history` frames.
- latent: the same search over the squared distance of latents, where it is least within the horizon; a new plan after
  each step.
- policy: the model's goal-conditioned policy alone, asked before each block to arrive within HASTE of the time that the
  temporal distance gives.
- follow: that policy followed in imagination 32 times, the best of which by the temporal distance is executed, as
  `models/push` is planned with.
- ours: the one of these four that the task is planned with, chosen on other goals than those of the table.
- their_planner: the same model with the reference's search, whose plans of 25 steps are executed to their end.
- reference: the authors' model with their CEMSolver. reference_our_planner: the same, imported, planned for as ours.
- random: uniform actions. hold: zero actions. replay: the recorded actions, then zero ones: an upper bound that knows
  the solution.

Results of a task stay in the folder and in the summary when other tasks are run later.

    python -m benchmarks.seed_tasks --tasks two_room reacher --goals 200 --steps 2000 --seed 0
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks import reference
from benchmarks.comparison import PATCHES, reference_bundle
from benchmarks.seed_cube import REACHED_M, Cube
from benchmarks.seed_environments import IMAGE_SIZE, REACHED_RAD, Environment, Reacher, TwoRoom
from benchmarks.seed_latents import physics, surprise
from benchmarks.seed_pusht import REACHED_PX, PushT
from lewm_model.bundle.bundle import Bundle, load_heads, load_model
from lewm_model.config import (
    MODEL_SIZES,
    POLICY_PLAN,
    TRAIN_SIZES,
    ModelConfig,
    PlanConfig,
    TrainConfig,
    from_dict,
)
from lewm_model.data.clips import Episodes, load_episodes
from lewm_model.data.episodes import EpisodeWriter
from lewm_model.evaluation.figures import Figures, write_figures
from lewm_model.evaluation.statistics import first_hit, held
from lewm_model.models.lewm import LeWM
from lewm_model.models.objective import final, squared_latent_distance
from lewm_model.models.rollout import FastRollout
from lewm_model.models.signature import TEMPORAL_DISTANCE as TIME
from lewm_model.planning.parameterisations import ActionParameterisation
from lewm_model.planning.proposals import FollowPolicy, Problem
from lewm_model.planning.solvers import ELITES, HORIZON, SAMPLES, reference_cem, search, shoot
from lewm_model.robot.actions import ActionSpec
from lewm_model.runtime import load_runtime
from lewm_model.sim.world import State
from lewm_model.tasks.task import Outcome, Trial, trial_of
from lewm_model.training.trainer import train

ROOT = Path(__file__).resolve().parent.parent
EPISODE_STEPS = 100  # control steps
GOAL_STEPS, BUDGET_STEPS, HELD_STEPS = 25, 50, 10  # control steps: start to goal, time budget, last ones for "held"
STEPS, BATCH = 2000, 64  # of the world model
HEAD_STEPS = 2000  # training steps of the displacement embedding, on frozen latents
POLICY_STEPS = 4000  # the same of policy and temporal distance
# Where dot and links are is a matter of a few pixels, which the CLS token tells less exactly (docs/seed-tasks.md).
TOKENS = {"readout": "all", "latent_dim": 32}
HASTE = 0.7  # play strays from its way, so a policy that takes as long as play did arrives late
# A goal lies GOAL_STEPS ahead, and policy and temporal distance learn farther ones, which a detour leads past.
FOLLOW = replace(POLICY_PLAN, horizon=HORIZON, policy_least_steps=5.0, policy_most_steps=float(BUDGET_STEPS))
ITERATIONS = 10  # of the reference's search; its default of 30 would take three times as long
GOAL_SEED = 1000  # of the recording that goals are taken from
ROWS = ("displacement", "latent", "policy", "follow")  # ways to plan with our model, methods of Ours


@dataclass(frozen=True)
class SeedTask:
    """A task of :class:`lewm_model.tasks.task.Task` in an environment of the reference.

    :param within: greatest error of a success, in `unit`.
    :param planned: the row of the table that is `ours`.
    :param model, train: values in which the configurations differ from those of `small`.
    :param episodes: of EPISODE_STEPS, to be recorded.
    """

    name: str
    subject: str
    unit: str
    environment: Callable[[], Environment]
    within: float
    planned: str
    model: dict[str, Any]
    train: dict[str, Any]
    episodes: int = 300
    objects: tuple[str, ...] = ()
    budget_steps: int = BUDGET_STEPS
    seed: int = 0x53454544

    def tolerance(self, sim: Environment) -> float:
        return self.within

    def error(self, state: State, goal: State, sim: Environment) -> float:
        return sim.error(state, goal)

    def draw(self, rng: np.random.Generator, sim: Environment) -> tuple[State, State] | None:
        """Two states GOAL_STEPS apart in a fresh episode; None where the start already counts as success."""
        sim.begin(int(rng.integers(2**31)))
        states = [sim.state()]
        for _ in range(int(rng.integers(EPISODE_STEPS - GOAL_STEPS)) + GOAL_STEPS):
            sim.step(sim.act())
            states.append(sim.state())
        start, goal = states[-1 - GOAL_STEPS], states[-1]
        return None if _is_solved(sim, start, goal) else (start, goal)

    def scripted(self, trial: Trial, sim: Environment, rng: np.random.Generator) -> Outcome:
        sim.begin(0)
        sim.place(trial.start, trial.goal)
        return _outcome(trial, sim, [sim.step(sim.towards(trial.goal)) for _ in range(self.budget_steps)])


TASKS = {
    task.name: task
    for task in (
        SeedTask("two_room", "dot", "px", TwoRoom, 16.0, "policy", {}, {"steps": 3000}, episodes=600),
        SeedTask("reacher", "arm", "rad", Reacher, REACHED_RAD, "latent", {"history": 2}, {"clip_frames": 3}),
        # With clips of random episodes the latent holds where the T is, and hardly the pusher, which is small.
        SeedTask(
            "pusht",
            "T",
            "px",
            PushT,
            REACHED_PX,
            "policy",
            {},
            {"steps": 5000, "clips_per_episode": 8, "precision": "bf16"},
            episodes=600,
        ),
        SeedTask("cube", "cube", "m", Cube, REACHED_M, "policy", {"action_dim": 5}, {}),
    )
}


def _is_solved(env: Environment, start: State, goal: State) -> bool:
    env.place(start, goal)
    return env.step(np.zeros(len(env.action_names)))


def _outcome(trial: Trial, env: Environment, reached: Sequence[bool]) -> Outcome:
    """The outcome by the reference's criterion, `reached` after each control step; held means after each of the last
    HELD_STEPS.
    """
    held, error = all(reached[-HELD_STEPS:]), trial.task.error(env.state(), trial.goal, env)
    return Outcome(held, any(reached), error)


def record(env: Environment, path: Path, episodes: int, seed: int) -> Episodes:
    """Records episodes of EPISODE_STEPS + 1 frames; `proprio` holds the states, which no network is given."""
    env.begin(seed)
    attributes: dict[str, str | int | float] = {"seed": seed}
    with EpisodeWriter(
        path, IMAGE_SIZE, env.action_names, env.control_dt_s, "recorded", attributes, len(env.state().joints)
    ) as writer:
        for episode in tqdm(range(episodes), desc=path.stem, mininterval=5):
            env.begin(seed + episode)
            frames, actions, states = [env.picture()], [], [env.state().joints]
            for _ in range(EPISODE_STEPS):
                actions.append(env.act())
                env.step(actions[-1])
                frames.append(env.picture())
                states.append(env.state().joints)
            writer.append(np.stack(frames), np.stack(actions), np.stack(states))
    return load_episodes(path)


@dataclass(frozen=True)
class Goal:
    """A trial from a recording: `picture` (64, 64, 3) uint8 shows its goal, `actions` (25, A) were recorded there."""

    trial: Trial
    picture: np.ndarray
    actions: np.ndarray


def cut_goals(task: SeedTask, env: Environment, data: Episodes, seed: int) -> list[Goal]:
    """One goal from each episode of `data`."""
    assert data.proprio is not None
    goals = []
    for episode in range(len(data.lengths)):
        rng = np.random.default_rng((seed, 5, episode))
        for _ in range(1000):
            first = int(data.offsets[episode] + rng.integers(data.lengths[episode] - GOAL_STEPS))
            last = first + GOAL_STEPS
            start, end = (State(data.proprio[row].astype(np.float64)) for row in (first, last))
            if not _is_solved(env, start, end):
                trial = trial_of(task, start, end, env)
                goals.append(Goal(trial, data.pixels[last], data.actions[first:last]))
                break
    return goals


@dataclass
class Past:
    """What happened in an attempt: `frames` by the control step before which they were taken, one at the beginning and
    one for each plan, and all z-scored `actions` (A,).
    """

    frames: dict[int, np.ndarray]
    actions: list[np.ndarray]

    def context(self, history: int, frameskip: int, block_dim: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Up to `history` frames, a block apart, the last of them the newest, and the blocks (n - 1, E) between."""
        now = len(self.actions)
        steps = [now - k * frameskip for k in range(history)]
        known = list(takewhile(self.frames.__contains__, steps))[::-1]
        blocks = np.array(self.actions[known[0] :], np.float32).reshape(-1, block_dim)
        return [self.frames[step] for step in known], blocks


Planner = Callable[[Past], np.ndarray]  # returns the z-scored actions (n, A) to execute before it is asked again


def attempt(env: Environment, goal: Goal, plan: Planner, spec: ActionSpec) -> Outcome:
    """Executes a planner's actions until the budget is over; returns the outcome."""
    budget = goal.trial.task.budget_steps
    env.place(goal.trial.start, goal.trial.goal)
    past, reached = Past({0: env.picture()}, []), list[bool]()
    while len(reached) < budget:
        for action in plan(past)[: budget - len(reached)]:
            reached.append(env.step(np.clip(action * np.asarray(spec.std) + np.asarray(spec.mean), -1.0, 1.0)))
            past.actions.append(action)
        past.frames[len(past.actions)] = env.picture()
    return _outcome(goal.trial, env, reached)


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


def decision_s(env: Environment, goals: Sequence[Goal], planner: Callable[[Goal], Planner], spec: ActionSpec) -> float:
    """Mean CPU time of a decision in attempts at `goals`, pictures encoded."""
    times: list[float] = []

    def timed(plan: Planner, past: Past) -> np.ndarray:
        began = time.thread_time()
        actions = plan(past)
        times.append(time.thread_time() - began)
        return actions

    for goal in goals:
        attempt(env, goal, partial(timed, planner(goal)), spec)
    return float(np.mean(times))


def run(name: str, folder: Path, arguments: argparse.Namespace) -> Figures:
    """Records, trains and evaluates a task; returns its figures."""
    task = TASKS[name]
    env = task.environment()
    data = record(env, folder / "episodes.h5", arguments.episodes or task.episodes, arguments.seed)
    unseen = record(env, folder / "unseen.h5", arguments.goals, GOAL_SEED)
    goals = cut_goals(task, env, unseen, arguments.seed)
    c = from_dict(ModelConfig, {**TOKENS, **task.model}, MODEL_SIZES["small"])
    theirs = from_dict(ModelConfig, {**PATCHES, **task.model}, MODEL_SIZES["small"])
    values = {"steps": STEPS, "batch": BATCH, "seed": arguments.seed, "head_steps": HEAD_STEPS, "threads": 1}
    values |= {"augment": {"share": 0.0}, **task.train}  # the authors' code does not augment
    if arguments.steps:
        values["steps"] = arguments.steps
    config = from_dict(TrainConfig, values, TRAIN_SIZES["small"])
    with_policy = replace(config, policy_steps=POLICY_STEPS, policy_delay_s=0.0, goal_horizon=BUDGET_STEPS)
    figures: Figures = {}

    def add(key: str, value: float, unit: str) -> None:
        figures[f"seed.{name}_{key}"] = (round(value, 1), unit)

    began = time.monotonic()
    mine = train(data, folder / "ours/bundle", folder / "ours/run", c, with_policy)
    add("training_ours", time.monotonic() - began, "s, heads included, one thread")
    ours, spec = Ours(mine, arguments.seed), mine.actions
    planners: dict[str, Callable[[Goal], Planner]] = {row: getattr(ours, row) for row in ROWS}
    if not arguments.ours:
        planners["their_planner"] = ours.their_planner
        began = time.monotonic()
        imported = reference_bundle(data, folder / "reference", theirs, config)
        add("training_reference", time.monotonic() - began, "s, heads included, one thread")
        network = reference.network(theirs)
        network.load_state_dict(torch.load(folder / "reference/checkpoint/weights.pt", weights_only=True))
        mixed = Ours(imported, arguments.seed)
        planners["reference"] = reference_planner(network.eval(), mixed.model, spec, arguments.seed)
        planners["reference_our_planner"] = mixed.displacement
    planners |= baselines(spec, arguments.seed)
    for row, planner in planners.items():
        bar = tqdm(goals, desc=f"{name} {row}", mininterval=5)
        outcomes = [attempt(env, goal, planner(goal), spec) for goal in bar]
        for what, rate in (("success", first_hit(outcomes)), ("success_held", held(outcomes))):
            low, high = rate.interval
            for end, value in (("", rate.percent), ("_low", low), ("_high", high)):
                add(f"{what}_{row}{end}", value, "%")
                if row == task.planned:
                    add(what + end, value, "%")
    theirs_planner = reference_planner(reference.planning_counterpart(ours.model), ours.model, spec, arguments.seed)
    slow, quick = (decision_s(env, goals[:3], each, spec) for each in (theirs_planner, planners[task.planned]))
    add("decision_ratio", slow / quick, "times as fast as the authors' planner with the same weights")
    add("decision_ms", 1e3 * quick, "ms of CPU time, one thread")
    for measure in (physics, surprise):
        found = measure(mine, env, unseen, arguments.seed)
        figures |= {f"seed.{name}_{measure.__name__}_{key}": value for key, value in found.items()}
    return figures


def of_all(figures: list[dict[str, Any]]) -> Figures:
    """The mean of the held goals of all tasks, and the least decision ratio, once all were run."""
    values = {figure["name"]: figure["value"] for figure in figures}
    if not all(f"seed.{task}_decision_ratio" in values for task in TASKS):
        return {}
    shares, ratios = ([values[f"seed.{task}_{key}"] for task in TASKS] for key in ("success_held", "decision_ratio"))
    return {
        "seed.strict_mean": (float(np.mean(shares)), "%, mean of the tasks' held goals"),
        "seed.decision_ratio": (min(ratios), "times, the least of the tasks"),
    }


def show(figures: list[dict[str, Any]]) -> None:
    """Prints the figures of the tasks, a table row for each planner."""
    values = {figure["name"]: figure["value"] for figure in figures}

    def rate(name: str) -> str:
        return f"{values[name]} % ({values[name + '_low']:.0f} to {values[name + '_high']:.0f})"

    table = Table("task", "model and planner", "success", "held", title="their criterion, and the strict one")
    for task in TASKS:
        start = f"seed.{task}_success_held"
        rows = [name[len(start) :] for name in values if name.startswith(start) and name + "_low" in values]
        for row in rows:
            success, held = (rate(f"seed.{task}_{what}{row}") for what in ("success", "success_held"))
            table.add_row(task, row[1:] or "ours", success, held)
        if not rows:
            table.add_row(task, "", "not run", "not run")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--goals", type=int, default=200)
    parser.add_argument("--episodes", type=int, help="to record, instead of the task's number")
    parser.add_argument("--steps", type=int, help="of training the world model, instead of the task's number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--ours", action="store_true", help="leave out their code and planner, which take most of the time"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "out/seed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.tasks:
        folder = arguments.out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        given = ((key, getattr(arguments, key)) for key in ("goals", "episodes", "steps", "seed"))
        options = "".join(f" --{key} {value}" for key, value in given if value is not None)
        command = f"python -m benchmarks.seed_tasks --tasks {name}{options}" + (" --ours" if arguments.ours else "")
        path = arguments.out / "summary.json"
        found = write_figures(path, run(name, folder, arguments), command, keep=True)["figures"]
        show(found)
        write_figures(path, of_all(found), f'make seed-task TASK="{" ".join(TASKS)}"', keep=True)


if __name__ == "__main__":
    main()
