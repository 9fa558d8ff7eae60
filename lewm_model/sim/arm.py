# SPDX-License-Identifier: Apache-2.0
"""An arm on a table, simulated: takes joint trajectories like a trajectory controller and gives camera pictures."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import mujoco
import numpy as np
import numpy.typing as npt

from lewm_model.config import resource
from lewm_model.robot.observation import Observation
from lewm_model.sim import scene, sdf
from lewm_model.sim.controller import ControllerConfig, TrajectoryController
from lewm_model.sim.world import END_EFFECTOR, State, World

DRIVE_RESERVE = 1.2  # acceleration of which a drive is capable, as a multiple of the joint's limit
# The servo overshoots when the speed changes quickly. So a joint that is farther than FAR_RAD from where it should be
# moves at CATCH_UP of its speed limit at most, and exceeds that speed only with EASE of its acceleration.
FAR_RAD, CATCH_UP, EASE = 0.02, 0.93, 0.1
MOST_HITS = 8  # surfaces on a line of sight to the tip, after which the tip counts as hidden
_START_INSET = 0.05  # share of each joint's range that random starts leave free at either end


def load_world(path: str | Path) -> World:
    """Loads an SDF world, or a scene file (`.yaml`), which names a robot file.

    :raises lewm_model.sim.sdf_element.SdfError: the SDF file cannot be loaded.
    :raises lewm_model.config.ConfigError: the scene cannot be loaded.
    """
    return scene.load_scene(path) if Path(path).suffix == ".yaml" else sdf.load_world(path)


class ArmSim:
    """The arm, the objects and the cameras of a world in MuJoCo. Deterministic: same calls, same bits.

    A stiff position servo with velocity feed-forward follows the trajectory. Its commands never leave the joints'
    position and velocity limits, nor the acceleration that the drives are capable of, whatever the trajectory says and
    however late it comes, as with the joint limiter of ros2_control.

    Rendering belongs to the thread that first calls :meth:`render`.

    :param world: SDF or scene file.
    :param render: False builds no renderer; :meth:`render` then raises.
    :param controller: parameters of the trajectory controller; None are its defaults.
    :raises lewm_model.sim.sdf_element.SdfError: the world cannot be loaded; names file and line.
    :raises lewm_model.config.ConfigError: the scene cannot be loaded.
    """

    def __init__(
        self, world: str | Path | None = None, render: bool = True, controller: ControllerConfig | None = None
    ) -> None:
        loaded = load_world(resource("worlds", "tabletop.sdf") if world is None else world)
        self._model = loaded.model
        self._data = mujoco.MjData(self._model)
        self._scratch = mujoco.MjData(self._model)  # forward kinematics without touching the state
        self.cameras = loaded.cameras
        self.robot = loaded.robot  # None for an SDF world
        self._arm = loaded.arm
        self.limits = loaded.arm.limits
        self.names = self.limits.names
        self.parts = self._parts()
        joints = [self._model.joint(f"{loaded.arm_name}::{name}") for name in self.names]
        self._held: list[
            tuple[int, int, float]
        ] = []  # of joints that stay: address of the position, servo, position in rad
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._qvel = np.array([joint.dofadr[0] for joint in joints])
        self._drives = np.array([self._model.actuator(f"{loaded.arm_name}::{name}").id for name in self.names])
        for name, position in loaded.arm.held.items():
            address = self._model.joint(f"{loaded.arm_name}::{name}").qposadr[0]
            self._held.append((address, self._model.actuator(f"{loaded.arm_name}::{name}").id, position))
            self._scratch.qpos[address] = position
        self._of_robot = self._model.body_rootid == self._model.body_rootid[joints[0].bodyid[0]]
        self._of_hand = self._hand(loaded.arm_name)
        self._tip = self._model.site(f"{loaded.arm_name}::{END_EFFECTOR}").id
        self._objects = {name: self._model.body(body) for name, body in loaded.objects.items()}
        self.objects = tuple(self._objects)
        self.control_dt_s = 1.0 / loaded.cameras[0].rate_hz
        self.reach_m = self._reach([joint.id for joint in joints])
        self._colours = self._model.mat_rgba[:, :3].copy()
        self.stage: Callable[[mujoco.MjvScene], None] | None = None  # edits MuJoCo's scene before each picture is drawn
        self.lens: Callable[[np.ndarray], np.ndarray] | None = None  # edits each picture (H, W, 3) after it is drawn
        self._draws = render
        self._renderers: dict[str, mujoco.Renderer] = {}
        self._render_thread = 0
        self._controller_config = ControllerConfig() if controller is None else controller
        self.home = np.clip(loaded.arm.home, self.limits.lower, self.limits.upper)
        self.reset(joint_positions=self.home)

    @property
    def model(self) -> mujoco.MjModel:
        """MuJoCo's model, whose colours, lamps and camera may be changed; the next picture shows it."""
        return self._model

    @property
    def geoms_of_robot(self) -> np.ndarray:
        """Which of the model's geoms belong to the robot, (ngeom,) bool."""
        return self._of_robot[self._model.geom_bodyid]

    @property
    def time_s(self) -> float:
        """Simulation time since the last reset, s."""
        return float(self._data.time)

    def reset(self, seed: int | None = None, joint_positions: npt.ArrayLike | None = None) -> None:
        """Puts the arm at rest, the objects where the file has them, and time to 0.

        :param seed: of the random joint positions, uniform within the limits inset by 5 %, with the arm touching
            nothing; None draws other ones each time.
        :param joint_positions: (A,) rad, instead of random ones.
        :raises ValueError: `joint_positions` has the wrong shape or lies outside the limits.
        """
        lower, upper = self.limits.lower, self.limits.upper
        if joint_positions is None:
            inset = _START_INSET * (upper - lower)
            rng = np.random.default_rng(seed)
            position = rng.uniform(lower + inset, upper - inset)
            while self.touches(position[None]):
                position = rng.uniform(lower + inset, upper - inset)
        else:
            position = np.array(joint_positions, dtype=np.float64)
            self._check_joints(position)
            if (position < lower).any() or (position > upper).any():
                raise ValueError(f"joint positions {position} lie outside the limits {lower} to {upper} rad")
        mujoco.mj_resetData(self._model, self._data)
        self._data.qpos[self._qpos] = position
        self._data.ctrl[self._drives] = position
        for address, drive, held in self._held:
            self._data.qpos[address] = self._data.ctrl[drive] = held
        self._left_over_s = 0.0
        self.controllers = tuple(TrajectoryController(position[part], self._controller_config) for part in self.parts)
        self._command = self._wanted = position.copy()
        self._command_velocity = np.zeros_like(position)
        mujoco.mj_forward(self._model, self._data)

    def set_trajectory(
        self,
        times_s: npt.ArrayLike,
        positions: npt.ArrayLike,
        velocities: npt.ArrayLike | None = None,
        start_s: float | None = None,
        accelerations: npt.ArrayLike | None = None,
        part: int | None = None,
    ) -> None:
        """Follows a new trajectory from now on, in place of the old one, as :class:`TrajectoryController` does.

        :param times_s: (T,) s from `start_s`, strictly increasing.
        :param positions: (T, A) rad.
        :param velocities: (T, A) rad/s; None interpolates linearly.
        :param start_s: simulation time that `times_s` counts from; None is now.
        :param accelerations: (T, A) rad/s^2 or None; only with velocities.
        :param part: number of the controller in `parts` that it is for, whose joints the columns then are; None is all.
        :raises ValueError: wrong shape, not finite, times not increasing, not at rest at the end, or all in the past.
        """
        start = self.time_s if start_s is None else float(start_s)
        measured, rows = self.joint_positions(), (positions, velocities, accelerations)
        for number, (joints, controller) in enumerate(zip(self.parts, self.controllers, strict=True)):
            if part in (None, number):
                everything = len(self.parts) == 1 or part is not None
                own = [
                    row if everything or row is None else np.asarray(row, dtype=np.float64)[..., joints] for row in rows
                ]
                assert own[0] is not None
                controller.take(times_s, own[0], own[1], own[2], start, measured[joints])

    def step(self, duration_s: float) -> None:
        """Runs the physics for `duration_s`; a remainder of less than a physics step is carried over to the next call.

        :raises ValueError: the duration is negative or not finite.
        """
        if not (np.isfinite(duration_s) and duration_s >= 0.0):
            raise ValueError(f"cannot step by {duration_s} s; the duration must be finite and 0 or more")
        dt = float(self._model.opt.timestep)
        count = round((self._left_over_s + duration_s) / dt)
        self._left_over_s += duration_s - count * dt
        if count == 0:
            return
        times = self._data.time + dt * np.arange(1, count + 1)
        measured = self.joint_positions()
        pairs = zip(self.parts, self.controllers, strict=True)
        wanted = np.concatenate([each.advance(times, measured[joints]) for joints, each in pairs], axis=1)
        commands = self._limited(wanted, dt)
        self._wanted = np.clip(wanted[-1], self.limits.lower, self.limits.upper)
        velocities = np.diff(commands, axis=0, prepend=self._command[None]) / dt
        controls = commands + self._arm.velocity_gain / self._arm.position_gain * velocities
        model, data, ctrl = self._model, self._data, self._data.ctrl
        for control in controls:
            ctrl[self._drives] = control
            mujoco.mj_step(model, data)
        self._command = commands[-1].copy()
        self._command_velocity = velocities[-1].copy()
        mujoco.mj_kinematics(model, data)  # poses at the new state; mj_step leaves those of its start
        mujoco.mj_camlight(model, data)

    def _limited(self, wanted: np.ndarray, dt: float) -> np.ndarray:
        """Commands (N, A) within position, velocity and acceleration limits, as near to `wanted` (N, A) as they can be.

        Positions that keep the limits pass unchanged. Others, such as those of a late trajectory, which begins where
        the arm is not, are caught up with: each joint moves towards its wanted position, and brakes in time.
        """
        limits = self.limits
        wanted = np.clip(wanted, limits.lower, limits.upper)
        most, change = limits.velocity * dt, DRIVE_RESERVE * limits.acceleration * dt**2  # rad a step
        moves = np.diff(wanted, axis=0, prepend=self._command[None])
        changes = np.diff(moves, axis=0, prepend=self._command_velocity[None] * dt)
        if (np.abs(moves) <= most * (1.0 + 1e-9)).all() and (np.abs(changes) <= change).all():
            return wanted
        limited = np.empty_like(wanted)
        command, move = self._command, self._command_velocity * dt
        moves[0] = wanted[0] - self._wanted
        for i in range(len(wanted)):
            gap = wanted[i] - moves[i] - command  # of the step before
            closing = np.sign(gap) * np.minimum(np.sqrt(change * np.abs(gap)), np.abs(gap))
            fastest = np.where(np.abs(gap) > FAR_RAD, CATCH_UP * most, most)
            step = np.clip(np.clip(moves[i] + closing, -fastest, fastest) - move, -change, change)
            gains = np.abs(move + step) > np.maximum(CATCH_UP * most, np.abs(move))
            move = move + np.where(gains, EASE * step, step)
            room = np.stack([command - limits.lower, limits.upper - command])
            room = np.minimum(np.sqrt(2.0 * change * room), room)  # fastest move that can still brake before the limit
            move = np.clip(move, -room[0], room[1])
            command = command + move
            limited[i] = command
        return limited

    def render(self, camera: str | None = None) -> np.ndarray:
        """The picture of a camera now: (H, W, 3) uint8 RGB.

        :param camera: name; None is the world's first.
        :raises RuntimeError: made with ``render=False``, or another thread rendered first.
        :raises KeyError: there is no such camera.
        """
        if not self._draws:
            raise RuntimeError("this ArmSim was made with render=False; make one with render=True to get pictures")
        named = {each.name: each for each in self.cameras}
        chosen = self.cameras[0] if camera is None else named[camera]
        if not self._renderers:
            self._render_thread = threading.get_ident()
        if self._render_thread != threading.get_ident():
            raise RuntimeError("another thread rendered this ArmSim first; render from that thread only")
        if chosen.name not in self._renderers:
            renderer = mujoco.Renderer(self._model, chosen.height, chosen.width)
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                renderer.scene.flags[flag] = False
            self._renderers[chosen.name] = renderer
        renderer = self._renderers[chosen.name]
        renderer.update_scene(self._data, camera=chosen.name)
        if self.stage is not None:
            self.stage(renderer.scene)
        picture = renderer.render()
        return picture if self.lens is None else self.lens(picture)

    def joint_positions(self) -> np.ndarray:
        """Measured joint positions, (A,) float64 rad."""
        return self._data.qpos[self._qpos]

    def joint_velocities(self) -> np.ndarray:
        """Measured joint velocities, (A,) float64 rad/s."""
        return self._data.qvel[self._qvel]

    def joint_efforts(self) -> np.ndarray:
        """Efforts of the drives, (A,) float64 N m, or N of a prismatic joint."""
        return self._data.qfrc_actuator[self._qvel]

    def commanded_positions(self) -> np.ndarray:
        """The servos' commands now, (A,) float64 rad."""
        return self._command.copy()

    def end_effector(self, joint_positions: npt.ArrayLike | None = None) -> np.ndarray:
        """Position of the tip in the world, (3,) float64 m, now or at `joint_positions` (A,) rad."""
        data = self._data
        if joint_positions is not None:
            position = np.asarray(joint_positions, dtype=np.float64)
            self._check_joints(position)
            data = self._scratch
            data.qpos[self._qpos] = position
            mujoco.mj_kinematics(self._model, data)
        return data.site_xpos[self._tip].copy()

    def tool_direction(self, joint_positions: npt.ArrayLike) -> np.ndarray:
        """The z axis of the tip in the world, (3,) float64 of length 1, at `joint_positions` (A,) rad."""
        self.end_effector(joint_positions)
        return self._scratch.site_xmat[self._tip].reshape(3, 3)[:, 2].copy()

    def visible_tip(self, joint_positions: npt.ArrayLike, towards: np.ndarray) -> np.ndarray:
        """The point of the arm's surface, (3,) m, that a camera in the direction `towards` (3,) sees at the tip.

        The tip itself may be hidden, for example as the lower end of a rod seen from above.
        """
        tip, data = self.end_effector(joint_positions), self._scratch
        eye, hit = tip + self.reach_m * towards, np.zeros(1, np.int32)
        for _ in range(MOST_HITS):
            far_m = mujoco.mj_ray(self._model, data, eye, -towards, None, 1, -1, hit)
            if far_m < 0 or far_m > np.linalg.norm(eye - tip):
                break
            eye = eye - far_m * towards
            if self._of_robot[self._model.geom_bodyid[hit[0]]]:
                return eye
            eye = eye - 1e-4 * towards  # something else is over the arm: continue behind its surface
        return tip

    def touches(self, joint_positions: npt.ArrayLike) -> bool:
        """Whether the arm touches itself or something static in any of the poses (N, A) rad. Objects do not count, nor
        do the parts of a gripper that touch each other.
        """
        for position in np.asarray(joint_positions, dtype=np.float64):
            self._scratch.qpos[self._qpos] = position
            mujoco.mj_kinematics(self._model, self._scratch)
            mujoco.mj_collision(self._model, self._scratch)
            if self._hits(self._scratch, np.inf):
                return True
        return False

    def collides(self) -> bool:
        """Whether the arm presses against itself or something static now; as :meth:`touches`, but without the clearance
        from the table.
        """
        return self._hits(self._data, 0.0)

    def _parts(self) -> tuple[slice, ...]:
        """The joints of each trajectory controller: the arm's, and the gripper's if the last joint is a gripper's."""
        gripper = None if self.robot is None else self.robot.gripper
        last = len(self.names) - 1
        if gripper is None or last == 0 or self.names[last] != gripper.joint:
            return (slice(None),)
        return slice(0, last), slice(last, last + 1)

    def _hits(self, data: mujoco.MjData, within_m: float) -> bool:
        model, static = self._model, self._model.body_weldid == 0
        first, second = model.geom_bodyid[data.contact.geom].reshape(-1, 2).T
        robot = self._of_robot[first].astype(int) + self._of_robot[second]
        counts = (robot == 2) & ~(self._of_hand[first] & self._of_hand[second])
        counts |= (robot == 1) & (static[first] | static[second])
        return bool((counts & (data.contact.dist < within_m)).any())

    def _hand(self, prefix: str) -> np.ndarray:
        """Which bodies are the gripper's, (N,) bool: the one that carries its joint, and all that this carries."""
        model = self._model
        hand = np.zeros(model.nbody, bool)
        if self.robot is not None and self.robot.gripper is not None:
            finger = model.jnt_bodyid[model.joint(f"{prefix}::{self.robot.gripper.joint}").id]
            hand[model.body_parentid[finger]] = True
            for body in range(model.nbody):  # parents come before their children
                hand[body] |= hand[model.body_parentid[body]]
        return hand

    def state(self) -> State:
        """Positions of joints and objects now, without their velocities."""
        return State(self.joint_positions().copy(), {name: self.object_pose(name) for name in self.objects})

    def put(self, state: State) -> None:
        """Puts joints and objects there, at rest, at time 0."""
        self.reset(joint_positions=state.joints)
        for name, pose in state.objects.items():
            self.set_object_pose(name, pose)

    def picture(self, observation: Observation) -> np.ndarray:
        """The picture for a model now, (*observation.size, 3) uint8: of the cameras of these names, side by side.

        A single camera whose name the world does not have stands for the world's first.

        :raises KeyError: the world does not have one of several cameras.
        """
        names = [camera.name for camera in observation.cameras]
        if len(names) == 1 and names[0] not in [camera.name for camera in self.cameras]:
            names = [self.cameras[0].name]
        return observation.picture([self.render(name) for name in names])

    def object_pose(self, name: str) -> np.ndarray:
        """Pose of an object: (7,) float64, position x y z in m and quaternion w x y z.

        :raises ValueError: there is no such object; names those that there are.
        """
        start = self._object_address(name)
        return self._data.qpos[start : start + 7].copy()

    def set_object_pose(self, name: str, pose: npt.ArrayLike) -> None:
        """Puts an object at a pose, (7,) as in :meth:`object_pose`, at rest."""
        values = np.asarray(pose, dtype=np.float64)
        if values.shape != (7,) or not np.isfinite(values).all() or abs(np.linalg.norm(values[3:]) - 1.0) > 1e-3:
            raise ValueError(f"{values} is not a pose; give x y z and a unit quaternion w x y z")
        start = self._object_address(name)
        self._data.qpos[start : start + 7] = values
        velocity = self._objects[name].dofadr[0]
        self._data.qvel[velocity : velocity + 6] = 0.0
        mujoco.mj_forward(self._model, self._data)

    def recolour(self, what: str, channels: tuple[int, int, int] = (0, 1, 2)) -> None:
        """Permutes the colour channels of the moving parts of the arm, or of an object, until the next call.

        :param what: "arm", or the name of an object.
        :param channels: which of its original red, green and blue becomes red, green and blue; (0, 1, 2) restores them.
        """
        if what == "arm":
            free = {int(body.id) for body in self._objects.values()}
            bodies = [body for body in self._model.jnt_bodyid.tolist() if body not in free]
        else:
            self._object_address(what)  # raises if there is no such object
            bodies = [int(self._objects[what].id)]
        materials = np.unique(self._model.geom_matid[np.isin(self._model.geom_bodyid, bodies)])
        materials = materials[materials >= 0]
        self._model.mat_rgba[materials, :3] = self._colours[materials][:, list(channels)]

    def close(self) -> None:
        """Frees the renderers; call it from the thread that rendered."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()

    def __enter__(self) -> ArmSim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _object_address(self, name: str) -> int:
        if name not in self._objects:
            raise ValueError(f"the world has no object {name!r}; it has {', '.join(self.objects) or 'none'}")
        return int(self._model.jnt_qposadr[self._objects[name].jntadr[0]])

    def _check_joints(self, position: np.ndarray) -> None:
        if position.shape != (len(self.names),) or not np.isfinite(position).all():
            raise ValueError(f"joint positions are {position}; one finite number for each of {self.names} expected")

    def _reach(self, joints: list[int]) -> float:
        """Sum of the distances from joint axis to joint axis to tip, m, measured across the axes if all are parallel.

        A joint that does not move the tip, such as a gripper's, does not count.
        """
        model, data = self._model, self._scratch
        mujoco.mj_kinematics(model, data)
        body, carrying = int(model.site_bodyid[self._tip]), set[int]()
        while body:  # 0 is the world
            carrying.add(body)
            body = int(model.body_parentid[body])
        joints = [joint for joint in joints if int(model.jnt_bodyid[joint]) in carrying]
        points = np.vstack([data.xanchor[joints], data.site_xpos[self._tip]])
        axes = data.xaxis[joints]
        segments = np.diff(points, axis=0)
        if np.allclose(np.abs(axes @ axes[0]), 1.0):
            segments -= np.outer(segments @ axes[0], axes[0])
        return float(np.linalg.norm(segments, axis=1).sum())
