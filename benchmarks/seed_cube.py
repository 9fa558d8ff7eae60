# SPDX-License-Identifier: Apache-2.0
"""OGB-Cube, a cube to be grasped and moved, for `benchmarks.seed_tasks`.

The simulator is ogbench's CubeEnv, which stable-worldmodel's class of that name copies to vary colours and lights, as
LeWM's task does not. The script is our own. It knows no phases but what the state shows, so it can take over from
anyone at any time, and it keeps a cube that should be in the air, which the package's CubeMarkovOracle lets go.
"""

from __future__ import annotations

import atexit
import importlib
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import mujoco
import numpy as np

from benchmarks.seed_environments import IMAGE_SIZE, circular, difference
from lewm_model.robot.observation import to_model_image
from lewm_model.sim.meshes import reduce_meshes
from lewm_model.sim.world import State

DRAWN = 2 * IMAGE_SIZE  # pixels; scaling down smooths edges for less than multisampling, which takes 10 ms
FACES = 200  # of a mesh of 28 in the picture, where a link is a few pixels wide
SHADOWS = 256  # pixels of the map. Shadows fall straight down, so they tell how high hand and cube are
# What an action of 1 does in a control step: m of x, y and z, rad of the yaw. The package asks for twice as much.
STEP_M, STEP_RAD = 0.022, 0.067
TABLE_M = 0.02  # height of the middle of a cube that lies there
ABOVE_M = 0.09  # how far above the cube the open hand moves
CARRY_M = 0.08  # height at which the cube is moved elsewhere
ALIGNED_M, ALIGNED_RAD = 0.01, 0.15  # of the hand from the cube's middle and sides, to go down over it
GRIPPED, OPEN = 0.4, 0.15  # share by which the hand is closed: at the least with the cube in it, and at most when empty
REACHED_M = 0.04  # of the cube from the goal's, by the reference's criterion
PLACED_M = 0.015  # of the cube from where it should be, at which it is let go
NOISE = 0.3  # standard deviation of what is added to the script's actions in recordings
SLIP = 0.02  # probability, at each step of the script, that random actions disturb it
AIR = 0.25  # share of targets in the air
NEAR_M = 0.06  # standard deviation, in x and y, of where play puts the hand about the cube


class Cube:
    """An arm with a parallel gripper over a table with a cube. State: x, y and z of the cube's middle, m, then all
    joint positions and velocities, and the accelerations that the solver begins with. Reached: the cube within 4 cm.

    One frame shows no velocities, but the hand moves only as it is told, and the cube with it.
    """

    action_names: tuple[str, ...] = ("x", "y", "z", "yaw", "opening")
    control_dt_s = 0.05
    quantities: ClassVar = {"cube": lambda states: states[:, :3], "arm": lambda states: circular(states[:, 3:9])}
    subject = slice(17, 20)  # of the joint positions that an attempt starts from

    def __init__(self) -> None:
        package: Any = importlib.import_module("ogbench.manipspace.envs.cube_env")
        self.env = package.CubeEnv("single", ob_type="pixels", mode="data_collection", visualize_info=False)
        self.env.compute_observation = lambda: None  # it would draw a picture in each step
        self.env.reset(seed=0)
        self.model, self.data = self.env.model, self.env.data
        self.joint = self.data.joint("object_joint_0")
        self.scene = _scene(self.env.mjcf_model)
        self.shown = mujoco.MjData(self.scene)
        self.renderer = mujoco.Renderer(self.scene, DRAWN, DRAWN)
        atexit.register(self.renderer.close)  # before EGL itself ends, after which it could not be closed

    def begin(self, seed: int) -> None:
        self.env.reset(seed=seed)
        self.rng, self.play, self.left = np.random.default_rng((seed, 0)), bool(seed % 2), 0

    def act(self) -> np.ndarray:
        """The script, with noise and disturbances, takes the cube to random places; every second episode is play."""
        if self.left == 0:
            self._intend()
        self.left -= 1
        if self.intent == "random":
            return self.held
        if self.intent == "near":
            hand, yaw, _, _, _ = self._poses()
            action = _action(self.aim - hand, difference(self.turn, yaw), self.grip)
        else:
            action = self.towards(State(self.aim))
            if self.rng.random() < SLIP:
                self._disturb()
        return np.clip(action + NOISE * self.rng.standard_normal(5), -1.0, 1.0)

    def _intend(self) -> None:
        """Draws what is done next, and for how long."""
        rng, kind = self.rng, self.rng.random()
        if self.play and kind < 0.2:
            self._disturb()
        elif self.play and kind < 0.6:
            offset = np.append(NEAR_M * rng.standard_normal(2), rng.uniform(0.0, 0.08))
            self.intent, self.aim, self.turn = "near", self._cube() + offset, rng.uniform(-np.pi, np.pi)
            self.grip, self.left = rng.choice([-1.0, 1.0]), int(rng.integers(4, 13))
        else:
            height = rng.uniform(0.05, 0.2) if rng.random() < AIR else TABLE_M
            self.intent, self.aim = "script", np.append(rng.uniform((0.3, -0.3), (0.55, 0.3)), height)
            self.left = int(rng.integers(10, 30) if self.play else rng.integers(35, 50))

    def _disturb(self) -> None:
        self.intent, self.held, self.left = "random", self.rng.uniform(-1, 1, 5), int(self.rng.integers(2, 8))

    def place(self, start: State, goal: State) -> None:
        mujoco.mj_resetData(self.model, self.data)
        positions, velocities, accelerations = np.split(start.joints[3:], np.cumsum([self.model.nq, self.model.nv]))
        self.data.qpos, self.data.qvel, self.data.qacc_warmstart = positions, velocities, accelerations
        mujoco.mj_kinematics(self.model, self.data)
        self.data.mocap_pos[0] = goal.joints[:3]

    def step(self, action: np.ndarray) -> bool:
        info = self.env.step(action)[-1]
        # Where the hand is, which the next action starts from, is 2 ms old after a step: memory that no state holds.
        mujoco.mj_kinematics(self.model, self.data)
        return bool(info["success"])

    def state(self) -> State:
        data = self.data
        return State(np.concatenate([self.joint.qpos[:3], data.qpos, data.qvel, data.qacc_warmstart]))

    def error(self, state: State, goal: State) -> float:
        return float(np.linalg.norm(state.joints[:3] - goal.joints[:3]))

    def _cube(self) -> np.ndarray:
        return self.joint.qpos[:3].copy()

    def _poses(self) -> tuple[np.ndarray, float, float, np.ndarray, float]:
        """Of the hand: position (3,) m, yaw, rad, and the share by which it is closed; position and yaw of the cube."""
        now = self.env.compute_ob_info()
        hand, closed = now["proprio/effector_pos"], now["proprio/gripper_opening"][0]
        return hand, now["proprio/effector_yaw"][0], closed, self._cube(), now["privileged/block_0_yaw"][0]

    def towards(self, goal: State) -> np.ndarray:
        """Goes over the cube, grasps it, carries it, and lets it go where it should lie; in the air it keeps it."""
        hand, yaw, closed, cube, cube_yaw = self._poses()
        target, turn = goal.joints[:3], 0.0
        lies, way = target[2] < TABLE_M + 0.015, target - cube
        if lies and np.linalg.norm(way) < PLACED_M:
            risen = cube + [0.0, 0.0, ABOVE_M]
            return _action(risen - hand if closed < OPEN else np.zeros(3), turn, -1.0)
        if np.linalg.norm(hand - cube) < 0.025 and closed > GRIPPED:
            if (far := np.linalg.norm(way[:2])) > ALIGNED_M:
                # It may move sideways as far as it is off the table, and comes down as it arrives.
                way[2] = max(target[2], min(CARRY_M, TABLE_M + far)) - cube[2]
                way[:2] *= np.clip((cube[2] - TABLE_M) / 0.02, 0.1, 1.0)
            return _action(way, turn, 1.0)
        turn = difference(4 * cube_yaw, 4 * yaw) / 4  # a cube looks the same after a quarter of a turn
        beside = np.linalg.norm((hand - cube)[:2])
        # The hand comes down in a funnel: the more exactly it is over the cube, the lower.
        height = np.clip(3 * (beside - ALIGNED_M) + 0.15 * (abs(turn) - ALIGNED_RAD), 0.0, ABOVE_M)
        way = cube + [0.0, 0.0, height] - hand
        way[:2] *= np.clip(1.5 - way[2] / 0.02, 0.0, 1.0)
        grasps = np.linalg.norm(hand - cube) < 0.015 or (closed > OPEN and np.linalg.norm(hand - cube) < 0.02)
        return _action(way, turn, 1.0 if grasps else -1.0)

    def picture(self) -> np.ndarray:
        """By the package's camera `front_pixels`, the arm translucent and the target's mark hidden."""
        self.shown.qpos = self.data.qpos
        mujoco.mj_forward(self.scene, self.shown)
        self.renderer.update_scene(self.shown, "front_pixels")
        return to_model_image(self.renderer.render(), IMAGE_SIZE)


def _action(way: np.ndarray, turn: float, grip: float) -> np.ndarray:
    """The action (5,) that goes `way` (3,) m and turns by `turn` rad, as far as a control step can."""
    return np.clip(np.array([*(way / STEP_M), turn / STEP_RAD, grip]), -1.0, 1.0)


def _scene(description: Any) -> mujoco.MjModel:
    """The package's world with reduced meshes, which are only looked at: some of the gripper's also tell its weight."""
    export: Any = importlib.import_module("dm_control.mjcf").export_with_assets
    with tempfile.TemporaryDirectory() as folder:
        export(description, folder, "world.xml")
        spec = mujoco.MjSpec.from_file(f"{folder}/world.xml")
        reduce_meshes(spec, Path(folder), FACES)
        for mesh in spec.meshes:
            mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL  # reduced ones are not closed
        model = spec.compile()
    model.geom("target_object_0").rgba[3] = 0.0
    model.vis.quality.offsamples, model.vis.quality.shadowsize = 0, SHADOWS
    return model
