# SPDX-License-Identifier: Apache-2.0
"""The paper's four tasks: their recordings, goals and attempts, for `benchmarks.seed_tasks`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.seed_cube import REACHED_M, Cube
from benchmarks.seed_environments import IMAGE_SIZE, REACHED_RAD, Environment, Reacher, TwoRoom
from benchmarks.seed_pusht import REACHED_PX, PushT
from lewm_model.data.clips import Episodes, load_episodes
from lewm_model.data.episodes import EpisodeWriter
from lewm_model.robot.actions import ActionSpec
from lewm_model.sim.world import State
from lewm_model.tasks.task import Outcome, Trial, trial_of

EPISODE_STEPS = 100  # control steps
GOAL_STEPS, BUDGET_STEPS, HELD_STEPS = 25, 50, 10  # control steps: start to goal, time budget, last ones for "held"


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
