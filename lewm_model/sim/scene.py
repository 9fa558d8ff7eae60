# SPDX-License-Identifier: Apache-2.0
"""A scene file as a MuJoCo model: robot, table, objects, lamps and cameras, for arms whose meshes come from packages.

A scene is a YAML file, as in `config/scenes/`. It names a robot file, whose description (MJCF or URDF, with meshes) is
put on a table. The actuators of the description are replaced by position servos with velocity feed-forward, as in SDF
worlds, so that one simulated controller works for every arm. Meshes are reduced once, when they are first loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from lewm_model.config import ConfigError, from_dict, load_yaml
from lewm_model.robot.robot import Robot, load_robot
from lewm_model.sim import meshes
from lewm_model.sim.world import END_EFFECTOR, Arm, Camera, World

ATTACHED = "gripper_"  # prefix of the names in a description that is mounted on the arm
ROBOT = "robot"  # prefix of the names in the robot's description, so that objects may have the same names
TABLE = "table"  # name of the table
CLEARANCE_M = 0.01  # least distance from the table in random motion and scripted policies
SERVO_HZ = 6.0  # bandwidth of the servos: well above the motion's, well below the physics' rate
_VISUAL_GROUP, _COLLISION_GROUP = 0, 3  # MuJoCo draws groups 0 to 2


@dataclass(frozen=True)
class Table:
    """The table that the robot stands on; its top is z = 0."""

    size_m: tuple[float, ...] = (1.2, 1.2)  # along x and y, its middle below the robot's base
    rgb: tuple[float, ...] = (0.55, 0.5, 0.45)
    friction: float = 1.0


@dataclass(frozen=True)
class Lamp:
    """A directional lamp."""

    direction: tuple[float, ...] = (0.3, 0.2, -1.0)  # in which its light goes
    strength: float = 0.6  # of each colour, 0 to 1


@dataclass(frozen=True)
class SceneObject:
    """A box, cylinder or sphere that can be moved."""

    name: str = ""
    shape: str = "box"
    size_m: tuple[float, ...] = (0.035, 0.035, 0.035)  # box: edges; cylinder: diameter, height; sphere: diameter
    mass_kg: float = 0.05
    rgb: tuple[float, ...] = (0.8, 0.1, 0.1)
    friction: float = 1.0
    position_m: tuple[float, ...] = (0.0, 0.0, 0.0)  # of its centre, until a task puts it elsewhere


@dataclass(frozen=True)
class SceneCamera:
    """A camera that stands on the table or is carried by a link of the robot."""

    name: str = "camera"
    link: str = ""  # link of the robot's description that carries it; "" is the world
    position_m: tuple[float, ...] = (0.0, 0.0, 1.0)  # in the frame of the link
    look_at_m: tuple[float, ...] = (0.0, 0.0, 0.0)  # in the same frame
    up: tuple[float, ...] = (0.0, 0.0, 1.0)  # direction that points up in the picture, in the same frame
    fov_deg: float = 45.0  # vertical
    height: int = 96  # pixels
    width: int = 96


@dataclass(frozen=True)
class Scene:
    """The fields of a scene file."""

    robot: str  # name of a file in config/robots, or a path
    held: tuple[str, ...] = ()  # joints that stay at home, in tasks that do not use them, such as a gripper's
    rate_hz: float = 20.0  # of the cameras, and so of the control steps
    timestep_s: float = 0.002  # of the physics
    ambient: float = 0.4  # ambient light, 0 to 1
    background: tuple[float, ...] = (0.7, 0.75, 0.8)  # colour around the table
    table: Table = field(default_factory=Table)
    lamps: tuple[Lamp, ...] = (Lamp(),)
    objects: tuple[SceneObject, ...] = ()
    cameras: tuple[SceneCamera, ...] = (SceneCamera(),)


def read_scene(path: Path) -> Scene:
    """Reads a scene file.

    :raises ConfigError: a field cannot be used; the message names it and what is allowed.
    """
    values = load_yaml(path)
    parts: dict[str, Any] = {}
    if "table" in values:
        parts["table"] = from_dict(Table, values["table"])
    for name, kind in (("lamps", Lamp), ("objects", SceneObject), ("cameras", SceneCamera)):
        if name in values:
            if not isinstance(values[name], list):
                raise ConfigError(f"{path}: {name} must be a list, each entry with the fields of {kind.__name__}")
            parts[name] = tuple(from_dict(kind, entry) for entry in values[name])
    scene = from_dict(Scene, {**values, **parts})
    named = [*(each.name for each in scene.objects), *(each.name for each in scene.cameras)]
    if not scene.cameras or "" in named or len(set(named)) != len(named):
        raise ConfigError(f"{path}: every object and camera needs a name of its own, and there must be a camera")
    return scene


def load_scene(path: str | Path) -> World:
    """Builds the world of a scene file.

    :raises ConfigError: a field, the robot file or its description cannot be used.
    :raises lewm_model.sim.meshes.MeshError: a mesh cannot be read.
    """
    path = Path(path)
    scene = read_scene(path)
    robot = load_robot(scene.robot, path.parent)
    spec = _empty(scene)
    _add_robot(spec, robot)
    for each in scene.objects:
        _add_object(spec, each)
    for camera in scene.cameras:
        _add_camera(spec, camera)
    model = spec.compile()
    unknown = sorted(set(scene.held) - set(robot.names))
    if unknown:
        raise ConfigError(f"{path}: held is {unknown}; the joints of robot {robot.name!r} are {', '.join(robot.names)}")
    arm = _add_drives(spec, model, robot, scene.held)
    model = spec.compile()
    topics = {each.name: each.topic for each in robot.cameras}
    cameras = tuple(
        Camera(each.name, each.width, each.height, scene.rate_hz, topics.get(each.name, "")) for each in scene.cameras
    )
    return World(model, ROBOT, arm, cameras, {each.name: each.name for each in scene.objects}, robot)


def _empty(scene: Scene) -> mujoco.MjSpec:
    """The scene without robot, objects and cameras."""
    spec = mujoco.MjSpec()
    spec.option.timestep = scene.timestep_s
    # Integrates the servos' damping implicitly, so that stiff gains are stable at this time step.
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10.0  # so that a grasped object does not slip out of the fingers
    spec.visual.quality.shadowsize = spec.visual.quality.offsamples = (
        0  # they take nine tenths of a small picture's time
    )
    spec.visual.headlight.active = 1
    spec.visual.headlight.ambient = [scene.ambient] * 3
    spec.visual.headlight.diffuse = spec.visual.headlight.specular = [0.0] * 3
    spec.visual.map.znear = 0.01
    sky = spec.add_texture(name="background", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, width=8, height=8)
    sky.builtin = mujoco.mjtBuiltin.mjBUILTIN_FLAT
    sky.rgb1 = sky.rgb2 = list(scene.background)
    length, width = scene.table.size_m
    thick = 0.02
    spec.worldbody.add_geom(
        name=TABLE,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[length / 2, width / 2, thick / 2],
        pos=[0.0, 0.0, -thick / 2],
        rgba=[*scene.table.rgb, 1.0],
        friction=[scene.table.friction, 0.005, 0.0001],
        margin=CLEARANCE_M,  # from this distance on it counts as touched in random motion and baselines, ...
        gap=CLEARANCE_M,  # ... without a contact force
        group=_VISUAL_GROUP,
    )
    for lamp in scene.lamps:
        direction = np.array(lamp.direction) / np.linalg.norm(lamp.direction)
        spec.worldbody.add_light(
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
            dir=direction,
            pos=-2.0 * direction,
            diffuse=[lamp.strength] * 3,
            ambient=[0.0] * 3,
            specular=[0.0] * 3,
            castshadow=False,
        )
    return spec


def _add_robot(spec: mujoco.MjSpec, robot: Robot) -> None:
    """Adds the robot's description, with its base at the world's origin and without its own actuators."""
    if robot.simulation is None:
        raise ConfigError(f"robot {robot.name!r} cannot be simulated; add `simulation` with a file to its robot file")
    child = _description(robot.path(robot.simulation.file))
    if robot.simulation.attach:
        mount = child.site(robot.simulation.attach_to)
        if mount is None:
            raise ConfigError(f"the description of robot {robot.name!r} has no site {robot.simulation.attach_to!r}")
        child.attach(_description(robot.path(robot.simulation.attach)), prefix=ATTACHED, site=mount)
    for part in (*child.actuators, *child.sensors, *child.keys, *child.lights, *child.cameras):
        child.delete(part)
    tip = robot.simulation.tip
    carrier = child.site(tip) or child.body(tip)
    if carrier is None:
        raise ConfigError(f"the description of robot {robot.name!r} has no link or site {tip!r}, its tip")
    axis = np.array(robot.simulation.tool_axis, float)
    if axis.shape != (3,) or not np.linalg.norm(axis) > 0.0:
        raise ConfigError(f"robot {robot.name!r} has the tool_axis {axis.tolist()}; it needs x, y and z of a direction")
    # The frame of the tip is rotated so that its z axis is the tool's axis.
    turn, frame = np.empty(4), np.empty(4)
    mujoco.mju_quatZ2Vec(turn, axis / np.linalg.norm(axis))
    if isinstance(carrier, mujoco.MjsSite):
        mujoco.mju_mulQuat(frame, carrier.quat, turn)
        carrier.parent.add_site(name=END_EFFECTOR, pos=carrier.pos, quat=frame)
    else:
        carrier.add_site(name=END_EFFECTOR, quat=turn)
    spec.attach(child, prefix=f"{ROBOT}::", frame=spec.worldbody.add_frame())


def _description(path: Path) -> mujoco.MjSpec:
    """An MJCF or URDF file with its meshes reduced."""
    if path.suffix not in (".xml", ".mjcf", ".urdf"):
        raise ConfigError(f"{path} is not MJCF or URDF, which a scene needs; give an SDF world itself as --world")
    try:
        spec = mujoco.MjSpec.from_file(str(path))
    except ValueError as error:
        raise ConfigError(f"MuJoCo cannot read {path}: {error}") from error
    meshes.reduce_meshes(spec, path.parent / spec.compiler.meshdir)
    return spec


def _add_object(spec: mujoco.MjSpec, each: SceneObject) -> None:
    shapes = {
        "box": (mujoco.mjtGeom.mjGEOM_BOX, 3, lambda size: [edge / 2 for edge in size]),
        "cylinder": (mujoco.mjtGeom.mjGEOM_CYLINDER, 2, lambda size: [size[0] / 2, size[1] / 2, 0.0]),
        "sphere": (mujoco.mjtGeom.mjGEOM_SPHERE, 1, lambda size: [size[0] / 2, 0.0, 0.0]),
    }
    if each.shape not in shapes or len(each.size_m) != shapes[each.shape][1]:
        numbers = ", ".join(f"{name} {count}" for name, (_, count, _) in shapes.items())
        raise ConfigError(f"object {each.name!r} is {each.shape!r} with {len(each.size_m)} sizes; known are {numbers}")
    kind, _, half = shapes[each.shape]
    body = spec.worldbody.add_body(name=each.name, pos=list(each.position_m))
    body.add_freejoint(name=each.name)
    body.add_geom(
        name=each.name,
        type=kind,
        size=half(each.size_m),
        mass=each.mass_kg,
        rgba=[*each.rgb, 1.0],
        friction=[each.friction, 0.005, 0.0001],
        condim=4,  # with torsional friction, so that an object does not rotate between two fingers
        group=_VISUAL_GROUP,
    )


def _add_camera(spec: mujoco.MjSpec, each: SceneCamera) -> None:
    carrier = spec.worldbody if not each.link else spec.body(f"{ROBOT}::{each.link}")
    if carrier is None:
        raise ConfigError(f"camera {each.name!r} is carried by link {each.link!r}, which the robot does not have")
    backwards = np.array(each.position_m, float) - np.array(each.look_at_m, float)
    right = np.cross(np.array(each.up, float), backwards)
    if np.linalg.norm(backwards) < 1e-6 or np.linalg.norm(right) < 1e-6:
        raise ConfigError(f"camera {each.name!r} looks at its own position, or along `up`; change look_at_m or up")
    right /= np.linalg.norm(right)
    backwards /= np.linalg.norm(backwards)
    rotation = np.stack([right, np.cross(backwards, right), backwards], 1)
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, rotation.reshape(-1))
    carrier.add_camera(name=each.name, pos=list(each.position_m), quat=quaternion, fovy=each.fov_deg)


def _add_drives(spec: mujoco.MjSpec, model: mujoco.MjModel, robot: Robot, held: Sequence[str]) -> Arm:
    """Adds position servos with velocity feed-forward, whose stiffness gives SERVO_HZ with the arm's inertia at home.

    Gravity is compensated, as in most controllers of arms, so that an arm at rest is where it is commanded.
    """
    data = mujoco.MjData(model)
    names = [f"{ROBOT}::{name}" for name in robot.names]
    for name, value in zip(names, robot.home, strict=True):
        data.qpos[model.joint(name).qposadr[0]] = value
    mujoco.mj_forward(model, data)
    # Neighbouring links overlap, by design and because convex hulls stand for them, and so do the first link and the
    # table; pairs that touch at home never count as touching.
    first_link = model.jnt_bodyid[model.joint(names[0]).id]
    for pair in {tuple(sorted(pair)) for pair in model.geom_bodyid[data.contact.geom].reshape(-1, 2).tolist()}:
        bodies = [model.body(body).name for body in pair]
        of_robot = [name.startswith(f"{ROBOT}::") for name in bodies]
        if all(of_robot) or (any(of_robot) and first_link in pair and 0 in pair):
            spec.add_exclude(bodyname1=bodies[0], bodyname2=bodies[1])
        elif any(of_robot):
            raise ConfigError(f"robot {robot.name!r} touches something at home ({' and '.join(bodies)}); move `home`")
    inertia = np.zeros((model.nv, model.nv))
    mujoco.mj_fullM(model, data, inertia)
    for body in spec.bodies:
        if body.name.startswith(f"{ROBOT}::"):
            body.gravcomp = 1.0
    rate = 2.0 * math.pi * SERVO_HZ
    position_gain, velocity_gain, effort = (np.zeros(len(names)) for _ in range(3))
    for i, name in enumerate(names):
        joint = model.joint(name)
        own = inertia[joint.dofadr[0], joint.dofadr[0]]
        effort[i] = robot.joints[i].effort
        if robot.gripper is not None and robot.names[i] == robot.gripper.joint:
            # Soft: it reaches its greatest effort only if a held object keeps it from closing its whole range.
            position_gain[i] = effort[i] / (robot.joints[i].upper - robot.joints[i].lower)
        else:
            position_gain[i] = own * rate**2
        velocity_gain[i] = 2.0 * position_gain[i] / rate
        kp, kv = position_gain[i], velocity_gain[i]
        own_joint = spec.joint(name)
        own_joint.damping = np.zeros_like(own_joint.damping)  # the servo's damping replaces it
        own_joint.frictionloss = 0.0
        spec.add_actuator(
            name=name,
            target=name,
            trntype=mujoco.mjtTrn.mjTRN_JOINT,
            gaintype=mujoco.mjtGain.mjGAIN_FIXED,
            biastype=mujoco.mjtBias.mjBIAS_AFFINE,
            gainprm=[kp] + [0.0] * 9,
            biasprm=[0.0, -kp, -kv] + [0.0] * 7,
            forcelimited=mujoco.mjtLimited.mjLIMITED_TRUE,
            forcerange=[-effort[i], effort[i]],
        )
    moved = [i for i, name in enumerate(robot.names) if name not in held]
    at_home = dict(zip(robot.names, robot.home, strict=True))
    return Arm(
        robot.limits.of([robot.names[i] for i in moved]),
        robot.home[moved],
        effort[moved],
        position_gain[moved],
        velocity_gain[moved],
        {name: float(at_home[name]) for name in held},
    )
