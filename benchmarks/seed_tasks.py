# SPDX-License-Identifier: Apache-2.0
"""The tasks that LeWM was published with, at a size that a CPU trains: `make eval-seed-tasks`.

Two-Room and Reacher are the environments of stable-worldmodel 0.1.1, their pictures 64 pixels wide. For each:

- Episodes are recorded here. Two-Room: their scripted policy with noise in one half, random actions in the other.
  Reacher: random torques (their policy is a network that the package does not hold).
- One network that both have (the sizes of `small`, with patches and GELU) is trained by this trainer and by the
  authors' code, on the same batches, for the same steps.
- Goals are cut from episodes that nobody was trained on: a frame, and the picture 25 control steps later. A start
  that already counts as success is drawn again. The budget is 50 steps.

"success" is their criterion, "reached" after any step of the budget. "held" is strict: after each of the last 10. The
tasks are tasks of `lewm_model.tasks`, whose trials can be drawn without a recording as well.
The rows differ by who trained the model and who plans; for 25 steps the reference's search tries 3000 candidates,
ours at most 1920:

- ours: this trainer's model and the planner node's search (iCEM, `PlanConfig`'s defaults): one action for each block
  of 5 steps, inside the recorded range, judged by the mean of the steps-to-go head over the horizon; a new plan after
  each block, from up to `history` frames.
- ours_their_planner: the same model with the reference's search, whose plans of 25 steps are executed to their end.
- reference: the authors' model with their CEMSolver.
- reference_our_planner: the authors' model, imported, with our planner.
- random: uniform actions. hold: zero actions. replay: the recorded actions, then zero ones; it is told what the
  others are not, and shows what the budget allows.

Push-T and OGB-Cube are not run: config/tasks has their settings for one GPU. What a task gave stays in the folder, and
in the summary, when other tasks are run.

    python -m benchmarks.seed_tasks --tasks two_room reacher --goals 100 --steps 2000 --seed 0
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks import reference
from benchmarks.comparison import PATCHES, reference_bundle
from lewm_model.bundle.bundle import Bundle, load_heads, load_model
from lewm_model.config import MODEL_SIZES, TRAIN_SIZES, ModelConfig, PlanConfig, TrainConfig, from_dict
from lewm_model.data.clips import Episodes, load_episodes
from lewm_model.data.episodes import EpisodeWriter
from lewm_model.evaluation.figures import Figures, write_figures
from lewm_model.evaluation.statistics import first_hit, held
from lewm_model.models.lewm import LeWM
from lewm_model.models.objective import final, squared_latent_distance
from lewm_model.models.rollout import FastRollout
from lewm_model.planning.solvers import ELITES, HORIZON, SAMPLES, reference_cem, search
from lewm_model.robot.actions import ActionSpec
from lewm_model.robot.observation import to_model_image
from lewm_model.sim.world import State
from lewm_model.tasks.task import Outcome, Trial, trial_of
from lewm_model.training.trainer import train

ROOT = Path(__file__).resolve().parent.parent
IMAGE_SIZE = 64  # pixels
EPISODE_STEPS = 100  # control steps
GOAL_STEPS, BUDGET_STEPS, HELD_STEPS = 25, 50, 10  # control steps: to the goal, to reach it in, and to stay there
HEAD_STEPS = 2000  # of the steps-to-go head, on frozen latents
ITERATIONS = 10  # of the reference's search, whose default of 30 takes three times as long
GOAL_SEED = 1000  # of the recording that goals are cut from
SPRING, DAMPER = 4.0, 1.0  # of the arm whose policy is told the goal, per rad and per rad/s
NOT_RUN = {"push_t": "config/tasks/pusht.yaml", "ogb_cube": "config/tasks/ogb_cube.yaml"}


class Environment(Protocol):
    """A simulated world of the reference. It takes actions (A,) in [-1, 1] one by one, and no trajectories of joint
    positions: so the nodes, and the closed loop of `lewm eval`, cannot drive it, and `attempt` below does.

    A state's `joints` (S,) float64 are all numbers that it starts from.
    """

    action_names: tuple[str, ...]
    control_dt_s: float

    def begin(self, seed: int) -> None:
        """A new episode of the recording, from a random state."""

    def act(self) -> np.ndarray:
        """What the policy that records does now."""

    def place(self, start: State, goal: State) -> None:
        """A new attempt at a goal."""

    def step(self, action: np.ndarray) -> bool:
        """One control step; whether the reference counts the goal as reached."""

    def state(self) -> State: ...

    def towards(self, goal: State) -> np.ndarray:
        """What somebody does now who is told the goal and needs no picture of it."""

    def picture(self) -> np.ndarray:
        """(64, 64, 3) uint8 RGB."""


class HeldActions:
    """Uniform random actions (A,) in [-1, 1], each held for 1 to 10 control steps."""

    def __init__(self, size: int, seed: int) -> None:
        self.rng, self.size, self.left = np.random.default_rng((seed, 1)), size, 0

    def __call__(self) -> np.ndarray:
        if self.left == 0:
            self.left, self.action = int(self.rng.integers(1, 11)), self.rng.uniform(-1, 1, self.size)
        self.left -= 1
        return self.action


class TwoRoom:
    """A dot goes through the door in a wall. State: its position, pixels of 224. Reached: within 16 pixels."""

    action_names: tuple[str, ...] = ("x", "y")
    control_dt_s = 0.1

    def __init__(self) -> None:
        # What the scripted policy derives from imports all of the package; it needs no more than a name to derive from.
        policy = ModuleType(f"{reference.PACKAGE}.policy")
        policy.BasePolicy = object  # type: ignore[attr-defined]
        reference.module("utils")
        sys.modules.setdefault(policy.__name__, policy)
        self.env = reference.module("envs.two_room.env").TwoRoomEnv()
        self.expert = reference.module("envs.two_room.expert_policy").ExpertPolicy

    def begin(self, seed: int) -> None:
        self.env.reset(seed=seed)
        self.rng = np.random.default_rng((seed, 0))
        self.random = HeldActions(2, seed) if seed % 2 else None
        self.policy = self.expert(action_noise=0.3, seed=seed)
        self.policy.set_env(self.env)

    def act(self) -> np.ndarray:
        if self.random:
            return self.random()
        now, target = self.state().joints, self.env.target_position.numpy()
        if np.linalg.norm(now - target) < 16.0:  # there: somewhere else
            self.env.target_position = torch.from_numpy(self.rng.uniform(21.0, 203.0, 2).astype(np.float32))
        return self.towards(State(self.env.target_position.numpy()))

    def towards(self, goal: State) -> np.ndarray:
        info = {"state": self.state().joints, "goal_state": goal.joints.astype(np.float32)}
        return self.policy.get_action(info).astype(np.float64)

    def place(self, start: State, goal: State) -> None:
        self.env.reset(seed=0, options={"state": start.joints, "target_state": goal.joints})

    def step(self, action: np.ndarray) -> bool:
        return bool(self.env.step(action)[2])

    def state(self) -> State:
        return State(self.env.agent_position.numpy().astype(np.float64))

    def picture(self) -> np.ndarray:
        return to_model_image(self.env.render(), IMAGE_SIZE)


class Reacher:
    """An arm of two joints, moved by torques. State: angles, rad, and their velocities. Reached: 0.05 rad, both joints.

    One frame holds no velocity, so its model sees two.
    """

    action_names: tuple[str, ...] = ("shoulder", "wrist")
    control_dt_s = 0.04

    def __init__(self) -> None:
        reference.module("utils")
        self.env = reference.module("envs.dmcontrol.reacher").ReacherDMControlWrapper(task="qpos_match", seed=0)
        self.env.reset(seed=0)  # compiles the arm as it will stay
        self.physics, self.task = self.env.env.physics, self.env.env.task
        self.physics.model.vis.quality.shadowsize = 0  # drawn on a CPU, shadows take two thirds of a picture's time
        self.env.action_repeat = 1  # the criterion is asked between the two simulation steps of a control step, too
        self.goal: np.ndarray = np.zeros(2)

    def begin(self, seed: int) -> None:
        self.env.reset(seed=seed)
        self.random = HeldActions(2, seed)

    def act(self) -> np.ndarray:
        return self.random()

    def towards(self, goal: State) -> np.ndarray:
        """A spring with a damper."""
        angles, rates = np.split(self.state().joints, 2)
        return np.clip(SPRING * (goal.joints[:2] - angles) - DAMPER * rates, -1.0, 1.0)

    def place(self, start: State, goal: State) -> None:
        self.env.reset(seed=0, options={"state": start.joints})
        self.goal = goal.joints[:2]

    def step(self, action: np.ndarray) -> bool:
        reached = False
        for _ in range(2):
            self.env.step(action)
            # Only asked, never told: an environment that sees its goal reached ends the episode, and "held" goes on.
            self.task.target_qpos = self.goal
            reached |= self.task.get_termination(self.physics) is not None
            self.task.target_qpos = None
        return reached

    def state(self) -> State:
        return State(np.concatenate([self.physics.data.qpos, self.physics.data.qvel]))

    def picture(self) -> np.ndarray:
        return self.env.render(IMAGE_SIZE, IMAGE_SIZE)


@dataclass(frozen=True)
class SeedTask:
    """A task of :class:`lewm_model.tasks.task.Task` in an environment of the reference.

    :param compared: how many numbers of a state count.
    :param within: the greatest error, in `unit`, of the norm of the difference.
    :param model, train: values in which the configurations differ from `small`.
    """

    name: str
    subject: str
    unit: str
    environment: Callable[[], Environment]
    compared: int
    norm: float
    within: float
    model: dict[str, Any]
    train: dict[str, Any]
    objects: tuple[str, ...] = ()
    budget_steps: int = BUDGET_STEPS
    seed: int = 0x53454544

    def tolerance(self, sim: Environment) -> float:
        return self.within

    def error(self, state: State, goal: State, sim: Environment) -> float:
        return float(np.linalg.norm((state.joints - goal.joints)[: self.compared], self.norm))

    def draw(self, rng: np.random.Generator, sim: Environment) -> tuple[State, State] | None:
        """Two states GOAL_STEPS apart of an episode that nobody recorded."""
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
        SeedTask("two_room", "dot", "px", TwoRoom, 2, 2, 16.0, {}, {"batch": 64}),
        SeedTask("reacher", "arm", "rad", Reacher, 2, np.inf, 0.05, {"history": 2}, {"batch": 64, "clip_frames": 3}),
    )
}


def _is_solved(env: Environment, start: State, goal: State) -> bool:
    env.place(start, goal)
    return env.step(np.zeros(len(env.action_names)))


def _outcome(trial: Trial, env: Environment, reached: Sequence[bool]) -> Outcome:
    """Judged by the reference's criterion after each control step, which it asks in between, too; held is HELD_STEPS
    of them, whatever they last.
    """
    held, error = all(reached[-HELD_STEPS:]), trial.task.error(env.state(), trial.goal, env)
    return Outcome(held, any(reached), error)


def record(env: Environment, path: Path, episodes: int, seed: int) -> Episodes:
    """Episodes of EPISODE_STEPS + 1 frames; `proprio` holds the states, which no network sees."""
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
    """A trial cut from a recording: `picture` (64, 64, 3) uint8 shows its goal, and `actions` (25, A) led there."""

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


# Frames so far, one block apart, the z-scored blocks (E,) between them -> the next blocks (n, E) to execute.
Planner = Callable[[list[np.ndarray], list[np.ndarray]], np.ndarray]


def attempt(env: Environment, goal: Goal, plan: Planner, spec: ActionSpec) -> Outcome:
    """What a planner reaches of a goal."""
    budget = goal.trial.task.budget_steps
    env.place(goal.trial.start, goal.trial.goal)
    frames, blocks, reached = [env.picture()], list[np.ndarray](), list[bool]()
    while len(reached) < budget:
        for block in plan(frames, blocks):
            actions = block.reshape(spec.frameskip, -1) * np.asarray(spec.std) + np.asarray(spec.mean)
            actions = np.clip(actions, -1.0, 1.0)[: budget - len(reached)]
            reached += [env.step(action) for action in actions]
            frames.append(env.picture())
            blocks.append(block)
    return _outcome(goal.trial, env, reached)


class Ours:
    """A bundle's model with our rollout, and two ways to plan with it."""

    def __init__(self, bundle: Bundle, seed: int) -> None:
        self.model, self.spec, self.seed = load_model(bundle), bundle.actions, seed
        self.rollout, self.steps_to_go = FastRollout(self.model).eval(), load_heads(bundle)["displacement"]
        self.noise = torch.Generator().manual_seed(seed)

    @torch.inference_mode()
    def encode(self, frames: list[np.ndarray]) -> torch.Tensor:
        """(n, D)"""
        return self.model.encode(torch.from_numpy(np.stack(frames)))

    @torch.inference_mode()
    def imagine(self, context: torch.Tensor, past: list[np.ndarray], candidates: np.ndarray) -> torch.Tensor:
        """Latents (S, H, D) that candidates (S, H, E) lead to."""
        before = torch.from_numpy(np.stack(past)) if past else None
        return self.rollout(context, before, torch.from_numpy(candidates.astype(np.float32)))

    def their_planner(self, goal: Goal) -> Planner:
        """The reference's search, executed to its end; it knows one frame."""
        wanted = self.encode([goal.picture])[0].numpy()

        def draw() -> np.ndarray:
            return torch.randn(SAMPLES, HORIZON, self.model.config.block_dim, generator=self.noise).numpy()

        def plan(frames: list[np.ndarray], blocks: list[np.ndarray]) -> np.ndarray:
            now = self.encode(frames[-1:])

            def cost(candidates: np.ndarray) -> np.ndarray:
                return final(squared_latent_distance(self.imagine(now, [], candidates).numpy(), wanted))

            return reference_cem(cost, draw, ELITES, ITERATIONS)

        return plan

    def planner(self, goal: Goal) -> Planner:
        """The search of the planner node: one action a block, inside the recorded range, from the plan before."""
        wanted, config, spec = self.encode([goal.picture])[0], PlanConfig(), self.spec
        low, high, rest = (spec.normalise(np.array(a)) for a in (spec.low, spec.high, np.zeros(len(spec.low))))
        still = np.tile(rest, (config.horizon, 1))
        rng = np.random.default_rng((self.seed, 6))
        kept = still

        def plan(frames: list[np.ndarray], blocks: list[np.ndarray]) -> np.ndarray:
            nonlocal kept
            history = min(len(frames), self.model.config.history)
            context, past = self.encode(frames[-history:]), blocks[len(blocks) - history + 1 :]

            def cost(knots: np.ndarray) -> np.ndarray:
                imagined = self.imagine(context, past, np.tile(knots, (1, 1, spec.frameskip)))
                with torch.inference_mode():
                    return self.steps_to_go(imagined, wanted).mean(-1).numpy()

            guesses = np.stack([kept, still])
            found = search(
                config, guesses, config.initial_std, lambda k: np.clip(k, low, high), cost, rng, deadline_s=np.inf
            )
            kept = np.concatenate([found.best[1:], rest[None]])
            return np.tile(found.best[:1], (1, spec.frameskip)).astype(np.float32)

        return plan


def reference_planner(network: Any, ours: LeWM, spec: ActionSpec, seed: int) -> Callable[[Goal], Planner]:
    """The authors' model and solver. `ours` lends its pixel statistics."""
    c = ours.config
    solver = reference.solver(network, c.action_dim, c.frameskip, HORIZON, SAMPLES, ELITES, ITERATIONS, seed)

    def planner(goal: Goal) -> Planner:
        wanted = reference.pixels(ours, goal.picture[None, None])

        def plan(frames: list[np.ndarray], blocks: list[np.ndarray]) -> np.ndarray:
            now = reference.pixels(ours, frames[-1][None, None])
            info = {"pixels": now, "goal": wanted, "action": torch.zeros(1, 1, c.block_dim)}
            with contextlib.redirect_stdout(io.StringIO()):  # it prints how long it took
                return solver.solve(info)["actions"][0].numpy()

        return plan

    return planner


def baselines(spec: ActionSpec, seed: int) -> dict[str, Callable[[Goal], Planner]]:
    """Planners that look at nothing."""
    rng = np.random.default_rng((seed, 7))

    def replay(goal: Goal) -> Planner:
        recorded = spec.normalise(goal.actions).reshape(HORIZON, -1)
        return lambda frames, blocks: spec.still[None] if blocks else recorded

    def uniform(frames: list[np.ndarray], blocks: list[np.ndarray]) -> np.ndarray:
        return spec.normalise(rng.uniform(-1, 1, (spec.frameskip, len(spec.names)))).reshape(1, -1)

    return {
        "random": lambda goal: uniform,
        "hold": lambda goal: lambda frames, blocks: spec.still[None],
        "replay": replay,
    }


def run(name: str, folder: Path, arguments: argparse.Namespace) -> Figures:
    """Records, trains and evaluates a task; its figures."""
    task = TASKS[name]
    env = task.environment()
    data = record(env, folder / "episodes.h5", arguments.episodes, arguments.seed)
    goals = cut_goals(task, env, record(env, folder / "unseen.h5", arguments.goals, GOAL_SEED), arguments.seed)
    c = from_dict(ModelConfig, {**PATCHES, **task.model}, MODEL_SIZES["small"])
    values = {"steps": arguments.steps, "seed": arguments.seed, "head_steps": HEAD_STEPS, "threads": 1, **task.train}
    values["augment"] = {"share": 0.0}  # the authors' code changes no pictures
    config = from_dict(TrainConfig, values, TRAIN_SIZES["small"])
    began = time.monotonic()
    mine = train(data, folder / "ours/bundle", folder / "ours/run", c, config)
    trained = time.monotonic()
    imported = reference_bundle(data, folder / "reference", c, config)
    seconds = {"ours": trained - began, "reference": time.monotonic() - trained}
    network = reference.network(c)
    network.load_state_dict(torch.load(folder / "reference/checkpoint/weights.pt", weights_only=True))
    ours, theirs, spec = Ours(mine, arguments.seed), Ours(imported, arguments.seed), mine.actions
    planners: dict[str, Callable[[Goal], Planner]] = {
        "ours": ours.planner,
        "ours_their_planner": ours.their_planner,
        "reference": reference_planner(network.eval(), ours.model, spec, arguments.seed),
        "reference_our_planner": theirs.planner,
        **baselines(spec, arguments.seed),
    }
    figures: Figures = {}

    def add(key: str, value: float, unit: str) -> None:
        figures[f"eval_seed.{name}_{key}"] = (round(value, 1), unit)

    for key, taken in seconds.items():
        add(f"training_{key}", taken, "s, heads included, one thread")
    for key, planner in planners.items():
        bar = tqdm(goals, desc=f"{name} {key}", mininterval=5)
        outcomes = [attempt(env, goal, planner(goal), spec) for goal in bar]
        for what, rate in (("success", first_hit(outcomes)), ("success_held", held(outcomes))):
            low, high = rate.interval
            for end, value in (("", rate.percent), ("_low", low), ("_high", high)):
                add(what + ("" if key == "ours" else f"_{key}") + end, value, "%")
    return figures


def show(figures: list[dict[str, Any]]) -> None:
    """The four tasks as a table."""
    values = {figure["name"]: figure["value"] for figure in figures}

    def rate(name: str) -> str:
        return f"{values[name]} % ({values[name + '_low']:.0f} to {values[name + '_high']:.0f})"

    table = Table("task", "model and planner", "success", "held", title="their criterion, and the strict one")
    for task in TASKS:
        start = f"eval_seed.{task}_success_held"
        rows = [name[len(start) :] for name in values if name.startswith(start) and name + "_low" in values]
        for row in rows:
            success, held = (rate(f"eval_seed.{task}_{what}{row}") for what in ("success", "success_held"))
            table.add_row(task, row[1:] or "ours", success, held)
        if not rows:
            table.add_row(task, "", "not run", "not run")
    for task, settings in NOT_RUN.items():
        table.add_row(task, settings, "not run", "not run")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--goals", type=int, default=100)
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "out/eval-seed-tasks")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.tasks:
        folder = arguments.out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        options = "".join(f" --{key} {getattr(arguments, key)}" for key in ("goals", "episodes", "steps", "seed"))
        command = f"python -m benchmarks.seed_tasks --tasks {name}{options}"
        summary = write_figures(arguments.out / "summary.json", run(name, folder, arguments), command, keep=True)
        show(summary["figures"])


if __name__ == "__main__":
    main()
