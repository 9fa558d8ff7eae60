# SPDX-License-Identifier: Apache-2.0
"""A scene written as an SDF world for Gazebo: robot, table, objects, lamps, cameras, and trajectory controllers.

The world is that of the MuJoCo simulation: links with the same inertia and meshes, controllers with the gains of the
servos, and links without gravity, since the simulated drives compensate it. Joints without a drive, which are those of
a gripper's linkage, become fixed at their home position, since SDF models have no closed chains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import mujoco
import numpy as np

from lewm_model.sim.scene import ROBOT, TABLE, Scene, load_scene, read_scene
from lewm_model.sim.sdf import AMBIENT_GAIN, LAMP_GAIN
from lewm_model.sim.sdf_frames import pose_matrix
from lewm_model.sim.world import END_EFFECTOR, World, side_by_side

ARM_TOPIC = "arm_controller/joint_trajectory"
INTENSITY = 2.0  # of lamps, with which a horizontal white surface is about white in Gazebo's picture
LIGHTEST_KG, LEAST_INERTIA = 1e-3, 1e-6  # kg and kg m^2 of a link without mass, which Gazebo does not accept
STATE_HZ = 50  # rate of the joint states
INERTIA = {"ixx": (0, 0), "iyy": (1, 1), "izz": (2, 2), "ixy": (0, 1), "ixz": (0, 2), "iyz": (1, 2)}  # tags and places
PLUGINS = ("Physics", "UserCommands", "SceneBroadcaster")  # of the world, beside that of the sensors


def export_sdf(scene_file: Path, out: Path) -> None:
    """Writes `out` (.sdf), and its meshes into a folder beside it.

    :raises ConfigError: the scene cannot be loaded.
    """
    scene, world = read_scene(scene_file), load_scene(scene_file)
    _Writer(scene, world, out).write()


class _Writer:
    def __init__(self, scene: Scene, world: World, out: Path) -> None:
        self.scene, self.world, self.model, self.out = scene, world, world.model, out
        self.meshes = out.with_name(f"{out.stem}_meshes")
        self._written: set[int] = set()  # numbers of the meshes of which files are there
        self.data = mujoco.MjData(self.model)
        self.driven = {self.model.joint(f"{ROBOT}::{name}").id: i for i, name in enumerate(world.arm.limits.names)}
        for name, position in world.arm.held.items():
            self.data.qpos[self.model.joint(f"{ROBOT}::{name}").qposadr[0]] = position
        mujoco.mj_kinematics(self.model, self.data)
        down = [max(0.0, -lamp.direction[2] / math.dist(lamp.direction, (0, 0, 0))) for lamp in scene.lamps]
        lit = [share * lamp.strength for share, lamp in zip(down, scene.lamps, strict=True)]
        self.flat = scene.ambient + sum(lit)  # brightness of a horizontal white surface in MuJoCo, ...
        self.exposure = AMBIENT_GAIN * scene.ambient + LAMP_GAIN * INTENSITY * sum(lit)  # ... and in Gazebo, linear

    def write(self) -> None:
        root = Element("sdf", version="1.9")
        world = SubElement(root, "world", name=f"{self.out.stem}_world")
        physics = SubElement(world, "physics", name="default", type="ignored")
        _text(physics, "max_step_size", self.scene.timestep_s)
        _text(physics, "real_time_factor", 1.0)
        _text(world, "gravity", "0 0 -9.81")
        for name in PLUGINS:
            library = "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name)
            SubElement(world, "plugin", filename=f"gz-sim{library}-system", name=f"gz::sim::systems::{name}")
        sensors = SubElement(world, "plugin", filename="gz-sim-sensors-system", name="gz::sim::systems::Sensors")
        _text(sensors, "render_engine", "ogre2")
        self._lights(world)
        bodies = range(1, self.model.nbody)
        self._table(world)
        self._robot(world, [body for body in bodies if self._name(body).startswith(f"{ROBOT}::")])
        for body in bodies:
            if self.model.body(body).name in self.world.objects.values():
                model = SubElement(world, "model", name=self._name(body))
                _pose(model, _matrix(self.data.xpos[body], self.data.xquat[body]))
                self._link(SubElement(model, "link", name=self._name(body)), body)
        self._cameras(world, 0)
        ElementTree.indent(root)
        self.out.write_bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")

    # ---- parts of the world ------------------------------------------------------------------------------------------

    def _lights(self, world: Element) -> None:
        scene = SubElement(world, "scene")
        _text(scene, "ambient", [self.scene.ambient] * 3, 1)
        _text(scene, "background", _linear(np.array(self.scene.background)), 1)
        _text(scene, "shadows", "false")
        for number, lamp in enumerate(self.scene.lamps):
            light = SubElement(world, "light", name=f"lamp_{number}", type="directional")
            _text(light, "pose", "0 0 3 0 0 0")
            _text(light, "cast_shadows", "false")
            _text(light, "diffuse", [lamp.strength] * 3, 1)
            _text(light, "intensity", INTENSITY)
            _text(light, "direction", lamp.direction)

    def _table(self, world: Element) -> None:
        model = SubElement(world, "model", name=TABLE)
        _text(model, "static", "true")
        self._shapes(SubElement(model, "link", name=TABLE), 0)

    def _robot(self, world: Element, bodies: Sequence[int]) -> None:
        model = SubElement(world, "model", name=ROBOT)
        for body in bodies:
            link = SubElement(model, "link", name=self._short(body))
            parent = int(self.model.body_parentid[body])
            place = np.linalg.inv(self._place(parent)) @ self._place(body)
            _pose(link, place, self._short(parent) if parent else "")
            self._link(link, body)
            self._cameras(link, body)
            self._joint(model, body)
        site = self.model.site(f"{ROBOT}::{END_EFFECTOR}")
        tip = SubElement(model, "frame", name=END_EFFECTOR, attached_to=self._short(int(site.bodyid[0])))
        _pose(tip, _matrix(site.pos, site.quat))
        self._plugins(model)

    def _joint(self, model: Element, body: int) -> None:
        parent = int(self.model.body_parentid[body])
        number = next((j for j in self.driven if self.model.jnt_bodyid[j] == body), None)
        name = f"{self._short(body)}_fixed" if number is None else self._bare(self.model.joint(number).name)
        slides = number is not None and self.model.jnt_type[number] == mujoco.mjtJoint.mjJNT_SLIDE
        kind = "fixed" if number is None else "prismatic" if slides else "revolute"
        joint = SubElement(model, "joint", name=name, type=kind)
        if number is not None and self.model.jnt_pos[number].any():
            _pose(joint, _matrix(self.model.jnt_pos[number], (1.0, 0.0, 0.0, 0.0)))
        _text(joint, "parent", self._short(parent) if parent else "world")
        _text(joint, "child", self._short(body))
        if number is None:
            return
        column, arm = self.driven[number], self.world.arm
        axis = SubElement(joint, "axis")
        _text(axis, "xyz", self.model.jnt_axis[number])
        limit = SubElement(axis, "limit")
        limits = (arm.limits.lower, arm.limits.upper, arm.effort, arm.limits.velocity)
        for tag, values in zip(("lower", "upper", "effort", "velocity"), limits, strict=True):
            _text(limit, tag, values[column])

    def _plugins(self, model: Element) -> None:
        """Adds a trajectory controller for the arm, one for a gripper with its own topic, and the joint states."""
        arm, robot = self.world.arm, self.world.robot
        names = list(arm.limits.names)
        gripper = None if robot is None or robot.gripper is None or robot.gripper.joint not in names else robot.gripper
        parts = {ARM_TOPIC: [name for name in names if gripper is None or name != gripper.joint]}
        if gripper is not None:
            parts[gripper.topic] = [gripper.joint]
        for topic, joints in parts.items():
            plugin = SubElement(
                model,
                "plugin",
                filename="gz-sim-joint-trajectory-controller-system",
                name="gz::sim::systems::JointTrajectoryController",
            )
            _text(plugin, "topic", topic)
            for name in joints:
                i = names.index(name)
                _text(plugin, "joint_name", name)
                _text(plugin, "initial_position", arm.home[i])
                _text(plugin, "position_p_gain", arm.position_gain[i])
                _text(plugin, "velocity_p_gain", arm.velocity_gain[i])
        states = SubElement(
            model,
            "plugin",
            filename="gz-sim-joint-state-publisher-system",
            name="gz::sim::systems::JointStatePublisher",
        )
        _text(states, "topic", "joint_states")
        _text(states, "update_rate", STATE_HZ)
        for name in names:
            _text(states, "joint_name", name)

    def _cameras(self, parent: Element, body: int) -> None:
        """Adds the cameras that a body carries; those of the world (body 0) become models of their own."""
        topics = {camera.name: camera.topic for camera in side_by_side(self.world.cameras, 1).cameras}
        for camera in self.world.cameras:
            number = self.model.camera(camera.name).id
            if self.model.cam_bodyid[number] != body:
                continue
            link = parent
            if body == 0:
                model = SubElement(parent, "model", name=f"{camera.name}_camera")
                _text(model, "static", "true")
                link = SubElement(model, "link", name="camera_link")
            sensor = SubElement(link, "sensor", name=camera.name, type="camera")
            # SDF's camera looks along +x with +z up, MuJoCo's along -z with +y up.
            looks = np.linalg.inv(pose_matrix(0, 0, 0, math.pi / 2, 0, -math.pi / 2))
            _pose(sensor, _matrix(self.model.cam_pos[number], self.model.cam_quat[number]) @ looks)
            _text(sensor, "always_on", "true")
            _text(sensor, "update_rate", camera.rate_hz)
            _text(sensor, "topic", topics[camera.name])
            inner = SubElement(sensor, "camera", name=camera.name)
            _text(inner, "camera_info_topic", f"{topics[camera.name].rpartition('/')[0]}/camera_info")
            vertical = math.radians(self.model.cam_fovy[number])
            _text(inner, "horizontal_fov", 2 * math.atan(math.tan(vertical / 2) * camera.width / camera.height))
            image = SubElement(inner, "image")
            _text(image, "width", camera.width)
            _text(image, "height", camera.height)
            _text(image, "format", "R8G8B8")
            clip, extent = SubElement(inner, "clip"), self.model.stat.extent
            _text(clip, "near", self.model.vis.map.znear * extent)
            _text(clip, "far", self.model.vis.map.zfar * extent)

    # ---- one link ----------------------------------------------------------------------------------------------------

    def _link(self, link: Element, body: int) -> None:
        """Adds inertia and shapes of a link."""
        if self.model.body_gravcomp[body] == 1.0:
            _text(link, "gravity", "false")
        inertial = SubElement(link, "inertial")
        _pose(inertial, _matrix(self.model.body_ipos[body], self.model.body_iquat[body]))
        _text(inertial, "mass", max(self.model.body_mass[body], LIGHTEST_KG))
        inertia, tensor = SubElement(inertial, "inertia"), self._inertia(body)
        for tag, (row, column) in INERTIA.items():
            if row == column or tensor[row, column]:
                _text(inertia, tag, tensor[row, column])
        self._shapes(link, body)

    def _inertia(self, body: int) -> np.ndarray:
        """The inertia (3, 3) kg m^2 of a link in its inertial frame, with that of the rotor that drives it.

        MuJoCo has the inertia of a rotor, times the square of the gear ratio, apart (`armature`); SDF does not, and
        without it Gazebo's controllers, which are as stiff as the drives, make light links tremble. Here the rotor is a
        flat disc at the link, which resists a turn about other axes, too, by half as much: no body resists less.
        """
        light = self.model.body_mass[body] < LIGHTEST_KG
        least = LEAST_INERTIA if light else 0.0
        tensor = np.diag(np.maximum(self.model.body_inertia[body], least))
        joint = next((j for j in self.driven if self.model.jnt_bodyid[j] == body), None)
        if joint is None or self.model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_SLIDE:
            return tensor
        turn = _matrix(np.zeros(3), self.model.body_iquat[body])[:3, :3]
        axis = turn.T @ self.model.jnt_axis[joint]
        rotor = self.model.dof_armature[self.model.jnt_dofadr[joint]]
        return tensor + 0.5 * rotor * (np.eye(3) + np.outer(axis, axis))

    def _shapes(self, link: Element, body: int) -> None:
        model, first = self.model, int(self.model.body_geomadr[body])
        for geom in range(first, first + int(model.body_geomnum[body])):
            pose = _matrix(model.geom_pos[geom], model.geom_quat[geom])
            if model.geom_contype[geom] or model.geom_conaffinity[geom]:
                collision = SubElement(link, "collision", name=f"collision_{geom}")
                _pose(collision, pose)
                self._geometry(collision, geom)
                ode = SubElement(SubElement(SubElement(collision, "surface"), "friction"), "ode")
                for tag in ("mu", "mu2"):
                    _text(ode, tag, model.geom_friction[geom, 0])
            if model.geom_group[geom] <= 2:  # the groups that MuJoCo draws
                visual = SubElement(link, "visual", name=f"visual_{geom}")
                _pose(visual, pose)
                self._geometry(visual, geom)
                material = SubElement(visual, "material")
                own = model.geom_matid[geom]
                colour = model.geom_rgba[geom] if own < 0 else model.mat_rgba[own]
                linear = np.clip(_linear(self.flat * colour[:3]) / self.exposure, 0.0, 1.0)
                for tag in ("ambient", "diffuse"):
                    _text(material, tag, linear, float(colour[3]))

    def _geometry(self, shape: Element, geom: int) -> None:
        kinds, size = mujoco.mjtGeom, self.model.geom_size[geom]
        geometry, kind = SubElement(shape, "geometry"), kinds(int(self.model.geom_type[geom]))
        if kind == kinds.mjGEOM_BOX:
            _text(SubElement(geometry, "box"), "size", 2 * size)
        elif kind == kinds.mjGEOM_SPHERE:
            _text(SubElement(geometry, "sphere"), "radius", size[0])
        elif kind in (kinds.mjGEOM_CYLINDER, kinds.mjGEOM_CAPSULE):
            round_one = SubElement(geometry, "cylinder" if kind == kinds.mjGEOM_CYLINDER else "capsule")
            _text(round_one, "radius", size[0])
            _text(round_one, "length", 2 * size[1])
        elif kind == kinds.mjGEOM_MESH:
            _text(SubElement(geometry, "mesh"), "uri", self._mesh(int(self.model.geom_dataid[geom])))
        else:
            raise ValueError(f"a geom of type {kind.name} cannot be written as SDF; use primitive shapes or meshes")

    def _mesh(self, number: int) -> str:
        """Writes a mesh of MuJoCo's model unless this world has it already; returns its path relative to the SDF file.

        With normals: Gazebo ends with a segmentation fault at a mesh that collides and has none.
        """
        path = self.meshes / f"{self._bare(self.model.mesh(number).name)}.obj"
        if number not in self._written:
            self._written.add(number)
            self.meshes.mkdir(parents=True, exist_ok=True)
            model = self.model
            begin, count = model.mesh_vertadr[number], model.mesh_vertnum[number]
            from_normal, normals = model.mesh_normaladr[number], model.mesh_normalnum[number]
            first, faces = model.mesh_faceadr[number], model.mesh_facenum[number]
            corners, ways = (
                each[first : first + faces] + 1 for each in (model.mesh_face, model.mesh_facenormal)
            )  # OBJ counts from 1
            lines = [f"v {x:.6g} {y:.6g} {z:.6g}" for x, y, z in model.mesh_vert[begin : begin + count]]
            lines += [
                f"vn {x:.4f} {y:.4f} {z:.4f}" for x, y, z in model.mesh_normal[from_normal : from_normal + normals]
            ]
            lines += [
                "f " + " ".join(f"{corner}//{way}" for corner, way in zip(*face, strict=True))
                for face in zip(corners, ways, strict=True)
            ]
            path.write_text("\n".join(lines) + "\n")
        return f"{self.meshes.name}/{path.name}"

    # ---- names and places --------------------------------------------------------------------------------------------

    def _name(self, body: int) -> str:
        return str(self.model.body(body).name)

    def _short(self, body: int) -> str:
        """The name of a link in the SDF file, where links, joints and frames of a model must have different names."""
        name = self._bare(self._name(body)) or f"link_{body}"
        return f"{name}_link" if name in (*self.world.arm.limits.names, END_EFFECTOR) else name

    @staticmethod
    def _bare(name: str) -> str:
        return name.removeprefix(f"{ROBOT}::").replace("::", "_")

    def _place(self, body: int) -> np.ndarray:
        return _matrix(self.data.xpos[body], self.data.xquat[body])


def _matrix(position: np.ndarray | Sequence[float], quaternion: np.ndarray | Sequence[float]) -> np.ndarray:
    """A pose (4, 4) from metres and a quaternion w x y z."""
    turn = np.empty(9)
    mujoco.mju_quat2Mat(turn, np.asarray(quaternion, float))
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn.reshape(3, 3), position
    return pose


def _pose(parent: Element, pose: np.ndarray, relative_to: str = "") -> None:
    """Adds a pose, x y z roll pitch yaw; none if all are 0 and it is relative to the parent."""
    r = pose[:3, :3]
    pitch = math.atan2(-r[2, 0], math.hypot(r[0, 0], r[1, 0]))
    if math.cos(pitch) > 1e-6:
        roll, yaw = math.atan2(r[2, 1], r[2, 2]), math.atan2(r[1, 0], r[0, 0])
    else:  # roll and yaw turn about one axis
        roll, yaw = math.atan2(-r[1, 2], r[1, 1]) * 1.0, 0.0
    values = np.array([*pose[:3, 3], roll, pitch, yaw])
    if not relative_to and not np.abs(values).max() > 0.0:
        return
    element = SubElement(parent, "pose", {"relative_to": relative_to} if relative_to else {})
    element.text = _numbers(values)


def _linear(srgb: np.ndarray) -> np.ndarray:
    """Linear light of a colour that is encoded as sRGB, in [0, 1] (IEC 61966-2-1)."""
    srgb = np.clip(srgb, 0.0, 1.0)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _text(parent: Element, tag: str, value: object, *more: float) -> None:
    element = SubElement(parent, tag)
    element.text = value if isinstance(value, str) else _numbers([*np.atleast_1d(np.asarray(value, float)), *more])


def _numbers(values: Sequence[float] | np.ndarray) -> str:
    return " ".join(f"{float(value):.9g}" for value in values)
