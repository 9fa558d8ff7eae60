# SPDX-License-Identifier: Apache-2.0
"""Two-Room and Reacher of stable-worldmodel behind one interface, for `benchmarks.seed_tasks`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import ClassVar, Protocol

import numpy as np
import torch

from benchmarks import reference
from lewm_model.robot.observation import to_model_image
from lewm_model.sim.world import State

IMAGE_SIZE = 64  # pixels
# Of Reacher's scripted policy: the rate that it wants for each rad from its goal, at most that, and by how much full
# torque changes the rates of shoulder and wrist in a control step, rad/s. With more torque for a rate they swing.
APPROACH_HZ, FASTEST_RAD_S, GAINS_RAD_S = 8.0, 6.0, np.array([3.0, 9.0])
NOISE = 0.3  # standard deviation of what is added to the actions of the scripted policies in recordings
WRIST_RAD = 2.5  # greatest angle of the wrist that it goes to; it can turn by 2.79, the shoulder all the way round
REACHED_RAD = 0.05  # of both joints from the goal's, by the reference's criterion
STAY = 40  # control steps for which it has one goal: about half of them it rests there, which a policy has to learn


class Environment(Protocol):
    """A simulated world of the reference. It takes single actions (A,) in [-1, 1], not joint trajectories, so the nodes
    and the closed loop of `lewm eval` cannot drive it; `benchmarks.seed_tasks.attempt` does.

    The `joints` (S,) float64 of a state are all numbers that determine it.
    """

    action_names: tuple[str, ...]
    control_dt_s: float

    @property
    def quantities(self) -> Mapping[str, Callable[[np.ndarray], np.ndarray]]:
        """By name, what of states (N, S) can be read from pictures: (N, K). Angles are given by cosine and sine."""

    @property
    def subject(self) -> slice:
        """The numbers of a state that say where the task's subject is."""

    def begin(self, seed: int) -> None:
        """Begins an episode to be recorded, from a random state."""

    def act(self) -> np.ndarray:
        """The next action (A,) of the recording policy."""

    def place(self, start: State, goal: State) -> None:
        """Begins an attempt at a goal."""

    def step(self, action: np.ndarray) -> bool:
        """Executes a control step; returns whether the reference counts the goal as reached."""

    def state(self) -> State: ...

    def error(self, state: State, goal: State) -> float:
        """How far a state is from a goal's, in the task's unit, by the reference's criterion."""

    def towards(self, goal: State) -> np.ndarray:
        """The next action (A,) of the scripted policy, which knows the goal's state."""

    def picture(self) -> np.ndarray:
        """(64, 64, 3) uint8 RGB."""


def circular(angles: np.ndarray) -> np.ndarray:
    """Cosine and sine (N, 2 K) of angles (N, K) rad."""
    return np.concatenate([np.cos(angles), np.sin(angles)], 1)


def difference(a: float, b: float) -> float:
    """a - b, rad, the short way round."""
    return float((a - b + np.pi) % (2 * np.pi) - np.pi)


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
    """A dot moves through a door in a wall. State: its x and y, in pixels of 224. Reached: within 16 pixels."""

    action_names: tuple[str, ...] = ("x", "y")
    control_dt_s = 0.1
    quantities: ClassVar = {"dot": lambda states: states}
    subject = slice(0, 2)

    def __init__(self) -> None:
        # The module of the scripted policy's base class imports the whole package. The base class adds nothing that is
        # needed, so an empty one takes its place.
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
        self.policy = self.expert(action_noise=NOISE, seed=seed)
        self.policy.set_env(self.env)

    def act(self) -> np.ndarray:
        if self.random:
            return self.random()
        now, target = self.state().joints, self.env.target_position.numpy()
        if np.linalg.norm(now - target) < 16.0:  # reached: draw another target
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

    def error(self, state: State, goal: State) -> float:
        return float(np.linalg.norm(state.joints - goal.joints))

    def picture(self) -> np.ndarray:
        return to_model_image(self.env.render(), IMAGE_SIZE)


class Reacher:
    """An arm of two joints, moved by torques. State: angles, rad, and their velocities. Reached: both joints
    within REACHED_RAD.

    One frame does not show velocities, so the model sees two.
    """

    action_names: tuple[str, ...] = ("shoulder", "wrist")
    control_dt_s = 0.04
    quantities: ClassVar = {"joints": lambda states: circular(states[:, :2]), "rates": lambda states: states[:, 2:]}
    subject = slice(0, 2)

    def __init__(self) -> None:
        reference.module("utils")
        self.env = reference.module("envs.dmcontrol.reacher").ReacherDMControlWrapper(task="qpos_match", seed=0)
        self.env.reset(seed=0)  # compiles the model, which later resets keep
        self.physics, self.task = self.env.env.physics, self.env.env.task
        self.physics.model.vis.quality.shadowsize = 0  # on a CPU, shadows take two thirds of the rendering time
        self.env.action_repeat = 1  # `step` makes the two simulation steps itself, to check for success after each
        self.goal: np.ndarray = np.zeros(2)
        self.target, self.left = State(np.zeros(2)), 0  # of the scripted policy, and the steps that it has for it

    def begin(self, seed: int) -> None:
        self.env.reset(seed=seed)
        self.rng, self.left = np.random.default_rng((seed, 0)), 0
        self.random = HeldActions(2, seed) if seed % 2 else None

    def act(self) -> np.ndarray:
        if self.random:
            return self.random()
        angles = self.state().joints[:2]
        if self.left == 0:
            shoulder = angles[0] + self.rng.uniform(-np.pi, np.pi)
            self.target, self.left = State(np.array([shoulder, self.rng.uniform(-WRIST_RAD, WRIST_RAD)])), STAY
        self.left -= 1
        return np.clip(self.towards(self.target) + NOISE * self.rng.standard_normal(2), -1.0, 1.0)

    def towards(self, goal: State) -> np.ndarray:
        """At a rate in proportion to the way that is left."""
        angles, rates = np.split(self.state().joints, 2)
        wanted = np.clip(APPROACH_HZ * (goal.joints[:2] - angles), -FASTEST_RAD_S, FASTEST_RAD_S)
        return np.clip((wanted - rates) / GAINS_RAD_S, -1.0, 1.0)

    def place(self, start: State, goal: State) -> None:
        self.env.reset(seed=0, options={"state": start.joints})
        self.goal = goal.joints[:2]

    def step(self, action: np.ndarray) -> bool:
        reached = False
        for _ in range(2):
            self.env.step(action)
            # The goal is set only for this check: an environment that reaches its goal ends the episode, and whether it
            # is held needs the steps after that.
            self.task.target_qpos = self.goal
            reached |= self.task.get_termination(self.physics) is not None
            self.task.target_qpos = None
        return reached

    def state(self) -> State:
        return State(np.concatenate([self.physics.data.qpos, self.physics.data.qvel]))

    def error(self, state: State, goal: State) -> float:
        return float(np.abs(state.joints - goal.joints)[:2].max())

    def picture(self) -> np.ndarray:
        return np.ascontiguousarray(self.env.render(IMAGE_SIZE, IMAGE_SIZE))
