# SPDX-License-Identifier: Apache-2.0
"""An SDF world as a MuJoCo model.

Anything that this loader does not support is an error that names file and line, so that MuJoCo and Gazebo never run
different worlds from one file. It supports the part of SDF 1.9 that rigid arms need: models of links, fixed and
revolute joints in a tree, frames and `relative_to`, boxes, cylinders, capsules, spheres and mesh files, directional
lights and cameras. Gazebo's own system plugins are accepted by name; that of the joint trajectory controller also tells
which model is the arm, which joints it moves, and the gains of the servos. A frame named `end_effector` in that model
is its tip.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import mujoco
import numpy as np

from lewm_model.robot.limits import JointLimits
from lewm_model.sim.sdf_element import Element, SdfError, read_xml
from lewm_model.sim.sdf_frames import Frames, pose_matrix, pose_of, relative_to
from lewm_model.sim.world import END_EFFECTOR, Arm, Camera, World

_JTC = "gz::sim::systems::JointTrajectoryController"
# Gazebo system plugin -> (library, tags it may hold).
_PLUGINS = {
    "gz::sim::systems::Physics": ("gz-sim-physics-system", ""),
    "gz::sim::systems::UserCommands": ("gz-sim-user-commands-system", ""),
    "gz::sim::systems::SceneBroadcaster": ("gz-sim-scene-broadcaster-system", ""),
    "gz::sim::systems::Sensors": ("gz-sim-sensors-system", "render_engine"),
    _JTC: (
        "gz-sim-joint-trajectory-controller-system",
        "topic joint_name initial_position position_p_gain velocity_p_gain",
    ),
    "gz::sim::systems::JointStatePublisher": ("gz-sim-joint-state-publisher-system", "topic joint_name update_rate"),
}
_VISUAL_GROUP, _COLLISION_GROUP = 0, 3  # MuJoCo draws groups 0 to 2
# Linear light that Ogre 2 draws on white: of a scene's <ambient>, and of a lamp's <diffuse> times <intensity> where the
# surface faces the lamp. Fitted to its pictures of six lights, by gz-sim 8.
AMBIENT_GAIN, LAMP_GAIN = 0.315, 0.807
# SDF has no limits of acceleration and jerk. These are those of config/robots/tabletop.yaml, the shipped world's arm.
ACCELERATION_RAD_S2, JERK_RAD_S3 = 9.0, 150.0
SHORTEST_STEP_S, LONGEST_STEP_S = 1e-5, 0.05  # of the physics: shorter ones take too long, longer ones are unstable
SLOWEST_HZ, FASTEST_HZ = 0.01, 1000.0  # of the camera
MOST_PIXELS = 8192  # of a picture's side


def _quaternion(pose: np.ndarray) -> np.ndarray:
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(pose[:3, :3]).ravel())
    return quaternion


# ---- one link ----------------------------------------------------------------------------------------------------


def _geometry(spec: mujoco.MjSpec, element: Element) -> dict[str, object]:
    geometry = element.need("geometry")
    geometry.allow("box cylinder capsule sphere mesh")
    if len(geometry.children) != 1:
        raise geometry.error("<geometry> needs exactly one shape")
    shape = geometry.children[0]
    if shape.tag == "box":
        shape.allow("size")
        size = shape.need("size").floats(3) / 2.0
        if (size <= 0.0).any():
            raise shape.need("size").error("the three sizes of a <box> must be above 0")
        kind = mujoco.mjtGeom.mjGEOM_BOX
    elif shape.tag in ("cylinder", "capsule"):
        shape.allow("radius length")
        size = np.array([shape.number("radius", positive=True), shape.number("length", positive=True) / 2.0, 0.0])
        kind = mujoco.mjtGeom.mjGEOM_CYLINDER if shape.tag == "cylinder" else mujoco.mjtGeom.mjGEOM_CAPSULE
    elif shape.tag == "mesh":
        return {"type": mujoco.mjtGeom.mjGEOM_MESH, "meshname": _mesh(spec, shape)}
    else:
        shape.allow("radius")
        size = np.array([shape.number("radius", positive=True), 0.0, 0.0])
        kind = mujoco.mjtGeom.mjGEOM_SPHERE
    return {"type": kind, "size": size}


def _mesh(spec: mujoco.MjSpec, shape: Element) -> str:
    """The name of a mesh in `spec`, which is added when it is first used."""
    shape.allow("uri")
    uri = shape.need("uri")
    path = (Path(shape.file).parent / uri.string()).resolve()
    if not path.is_file():
        raise uri.error(f"there is no mesh file {path}; paths are relative to the SDF file")
    if spec.mesh(str(path)) is None:
        spec.add_mesh(name=str(path), file=str(path))
    return str(path)


def _friction(collision: Element) -> list[float]:
    surface = collision.get("surface")
    mu = 1.0  # SDF's default
    if surface is not None:
        surface.allow("friction")
        friction = surface.need("friction")
        friction.allow("ode")
        ode = friction.need("ode")
        ode.allow("mu mu2")
        mu = ode.number("mu")
        if ode.number("mu2", mu) != mu:
            raise ode.error("<mu2> differs from <mu>; MuJoCo's friction has no direction, use one number")
    return [mu, 0.005, 0.0001]  # sliding; torsional and rolling friction are MuJoCo's defaults


def _colour(visual: Element) -> np.ndarray:
    material = visual.need("material")
    material.allow("ambient diffuse")
    diffuse = material.need("diffuse").floats(4)
    ambient = material.need("ambient")  # SDF's default is black
    if not np.array_equal(ambient.floats(4), diffuse):
        raise ambient.error("<ambient> differs from <diffuse>; MuJoCo has one colour for both, use the same")
    return diffuse


def _srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light encoded as sRGB, in [0, 1] (IEC 61966-2-1)."""
    linear = np.clip(linear, 0.0, 1.0)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _add_shapes(spec: mujoco.MjSpec, body: mujoco.MjsBody, link: Element, frames: Frames, exposure: np.ndarray) -> None:
    """Adds visuals and collisions of a link. `exposure` (3,) is the linear light that a horizontal white surface
    reflects.
    """
    link_name = link.attribute("name")
    for element in link.children:
        if element.tag not in ("collision", "visual"):
            continue
        geom = body.add_geom(name=f"{body.name}::{element.attribute('name')}", **_geometry(spec, element))
        pose = frames.within(link_name, element)
        geom.pos, geom.quat = pose[:3, 3], _quaternion(pose)
        if element.tag == "collision":
            element.allow("pose geometry surface", "name")
            geom.friction = _friction(element)
            geom.group = _COLLISION_GROUP
        else:
            element.allow("pose geometry material", "name")
            # SDF's materials are matt by default, MuJoCo's geoms are shiny.
            colour = _colour(element)
            shown = [*_srgb(exposure * colour[:3]), colour[3]]
            spec.add_material(name=geom.name, rgba=shown, specular=0.0, shininess=0.0)
            geom.material = geom.name
            geom.group = _VISUAL_GROUP
            geom.contype = geom.conaffinity = 0
        geom.mass = 0.0  # the mass is that of the link's <inertial>


def _add_inertial(body: mujoco.MjsBody, link: Element, frames: Frames) -> None:
    inertial = link.need("inertial")
    inertial.allow("pose mass inertia")
    pose = frames.within(link.attribute("name"), inertial)
    inertia = inertial.need("inertia")
    inertia.allow("ixx iyy izz ixy ixz iyz")
    ixx, iyy, izz = (inertia.number(tag, positive=True) for tag in ("ixx", "iyy", "izz"))
    ixy, ixz, iyz = (inertia.number(tag, 0.0) for tag in ("ixy", "ixz", "iyz"))
    rotation = pose[:3, :3]
    full = rotation @ np.array([[ixx, ixy, ixz], [ixy, iyy, iyz], [ixz, iyz, izz]]) @ rotation.T
    moments = np.linalg.eigvalsh(full)
    if moments[0] <= 0.0 or moments[2] > moments[0] + moments[1] + 1e-12:
        raise inertia.error(f"no body has the principal moments of inertia {moments}; check <inertia>")
    body.mass = inertial.number("mass", positive=True)
    body.ipos = pose[:3, 3]
    body.fullinertia = [full[0, 0], full[1, 1], full[2, 2], full[0, 1], full[0, 2], full[1, 2]]
    body.explicitinertial = True


def _add_camera(
    body: mujoco.MjsBody, link: Element, frames: Frames
) -> list[tuple[Element, Camera, tuple[float, float]]]:
    """Adds the link's cameras; each with its element and clip planes, m."""
    cameras = []
    for sensor in link.all("sensor"):
        sensor.allow("pose always_on update_rate topic camera", "name type")
        if sensor.attribute("type") != "camera":
            raise sensor.error(f"sensor type '{sensor.attribute('type')}' is not supported; only 'camera' is")
        for tag in ("topic", "always_on"):
            if sensor.get(tag) is not None:
                sensor.need(tag).string()
        camera = sensor.need("camera")
        camera.allow("horizontal_fov image clip camera_info_topic", "name")
        image = camera.need("image")
        image.allow("width height format")
        if image.get("format") is not None and image.need("format").string() not in ("R8G8B8", "RGB_INT8"):
            raise image.error("the image format must be R8G8B8")
        width, height = image.number("width", positive=True), image.number("height", positive=True)
        if width != int(width) or height != int(height) or max(width, height) > MOST_PIXELS:
            raise image.error(f"a picture cannot have {width} x {height} pixels; use whole numbers up to {MOST_PIXELS}")
        clip = camera.need("clip")
        clip.allow("near far")
        near, far = clip.number("near", positive=True), clip.number("far", positive=True)
        if near >= far:
            raise clip.error(f"<near> {near} must be less than <far> {far}")
        fov = camera.number("horizontal_fov", positive=True)
        if fov >= math.pi:
            raise camera.error(f"<horizontal_fov> is {fov}; it must be below pi")
        # SDF's camera looks along +x with +z up, MuJoCo's along -z with +y up.
        pose = frames.within(link.attribute("name"), sensor) @ pose_matrix(0, 0, 0, math.pi / 2, 0, -math.pi / 2)
        vertical = 2.0 * math.atan(math.tan(fov / 2.0) * height / width)
        body.add_camera(name="camera", pos=pose[:3, 3], quat=_quaternion(pose), fovy=math.degrees(vertical))
        rate = sensor.number("update_rate", positive=True)
        if not SLOWEST_HZ <= rate <= FASTEST_HZ:
            raise sensor.need("update_rate").error(f"<update_rate> is {rate}; write {SLOWEST_HZ} to {FASTEST_HZ} Hz")
        cameras.append((sensor, Camera("camera", int(width), int(height), rate), (near, far)))
    return cameras


# ---- joints and models -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Joint:
    element: Element
    name: str
    kind: str
    parent: str
    child: str


def _read_joint(element: Element) -> _Joint:
    element.allow("pose parent child axis", "name type")
    kind = element.attribute("type")
    if kind not in ("fixed", "revolute"):
        raise element.error(f"joint type '{kind}' is not supported; only 'fixed' and 'revolute' are")
    if kind == "fixed" and element.get("axis") is not None:
        raise element.need("axis").error("a fixed joint has no <axis>")
    parent, child = element.need("parent").string(), element.need("child").string()
    return _Joint(element, element.attribute("name"), kind, parent, child)


def _add_revolute(body: mujoco.MjsBody, joint: _Joint, name: str, frames: Frames) -> dict[str, float]:
    axis = joint.element.need("axis")
    axis.allow("xyz limit dynamics")
    direction = axis.need("xyz").floats(3) if axis.get("xyz") is not None else np.array([0.0, 0.0, 1.0])
    if np.linalg.norm(direction) < 1e-9:
        raise axis.need("xyz").error("the axis of a joint cannot be 0 0 0")
    limit = axis.need("limit")
    limit.allow("lower upper effort velocity")
    lower, upper = limit.number("lower"), limit.number("upper")
    if lower >= upper:
        raise limit.error(f"<lower> {lower} must be less than <upper> {upper}")
    pose = np.linalg.inv(frames.pose(joint.child, joint.element)) @ frames.pose(joint.name, joint.element)
    mj_joint = body.add_joint(
        name=name,
        type=mujoco.mjtJoint.mjJNT_HINGE,
        pos=pose[:3, 3],
        axis=pose[:3, :3] @ direction,
        range=[lower, upper],
        limited=mujoco.mjtLimited.mjLIMITED_TRUE,
    )
    dynamics = axis.get("dynamics")
    if dynamics is not None:
        dynamics.allow("damping friction")
        mj_joint.damping = [dynamics.number("damping", 0.0), 0.0, 0.0]
        mj_joint.frictionloss = dynamics.number("friction", 0.0)
    return {
        "lower": lower,
        "upper": upper,
        "effort": limit.number("effort", positive=True),
        "velocity": limit.number("velocity", positive=True),
    }


def _check_plugin(plugin: Element) -> None:
    name = plugin.attribute("name")
    if name not in _PLUGINS:
        raise plugin.error(f"plugin '{name}' is not supported; known are {', '.join(_PLUGINS)}")
    library, tags = _PLUGINS[name]
    plugin.allow(tags, "filename name")
    if plugin.attribute("filename") != library:
        raise plugin.error(f"plugin '{name}' comes from '{library}', not from '{plugin.attribute('filename')}'")


class _Loader:
    def __init__(self) -> None:
        self.spec = mujoco.MjSpec()
        self.spec.compiler.degree = False
        self.arm: tuple[str, Arm] | None = None
        self.cameras: list[tuple[Element, Camera, tuple[float, float]]] = []
        self.objects: dict[str, str] = {}
        self.exposure: np.ndarray = np.zeros(3)  # linear light, red, green and blue, that horizontal white reflects

    def model(self, model: Element) -> None:
        model.allow("static self_collide pose link joint frame plugin", "name")
        name = model.attribute("name")
        if model.flag("self_collide", False):
            raise model.need("self_collide").error("collisions within a model are not supported; use false")
        if relative_to(model) not in (None, "world"):
            raise model.need("pose").error("a model's pose is relative to the world; frames of the world are not known")
        static = model.flag("static", False)
        frames = Frames(model)
        world_pose = pose_of(model)
        links = {link.attribute("name"): link for link in model.all("link")}
        if not links:
            raise model.error(f"model '{name}' has no <link>")
        joints = [_read_joint(element) for element in model.all("joint")]
        if static and joints:
            raise joints[0].element.error("a static model has no joints; remove <static> or the joint")
        to_link: dict[str, _Joint] = {}
        for joint in joints:
            if joint.child not in links:
                raise joint.element.error(f"joint '{joint.name}' has child '{joint.child}', no link of the model")
            if joint.parent != "world" and joint.parent not in links:
                raise joint.element.error(f"joint '{joint.name}' has parent '{joint.parent}', no link of the model")
            if joint.child in to_link:
                raise joint.element.error(f"link '{joint.child}' has two parents; closed chains are not supported")
            to_link[joint.child] = joint

        bodies: dict[str, mujoco.MjsBody] = {}
        limits: dict[str, dict[str, float]] = {}

        def add(link_name: str, open_links: tuple[str, ...]) -> mujoco.MjsBody:
            """Adds the link's body, after its parent's."""
            if link_name in bodies:
                return bodies[link_name]
            link = links[link_name]
            if link_name in open_links:
                raise link.error(f"link '{link_name}' hangs from itself: {' -> '.join([*open_links, link_name])}")
            link.allow("pose gravity inertial collision visual sensor", "name")
            joint = to_link.get(link_name)
            pose = frames.pose(link_name, link)
            if joint is None or joint.parent == "world":
                parent, pose = self.spec.worldbody, world_pose @ pose
            else:
                parent = add(joint.parent, (*open_links, link_name))
                pose = np.linalg.inv(frames.pose(joint.parent, link)) @ pose
            body = parent.add_body(name=f"{name}::{link_name}", pos=pose[:3, 3], quat=_quaternion(pose))
            bodies[link_name] = body
            body.gravcomp = 0.0 if link.flag("gravity", True) else 1.0
            if joint is not None and joint.kind == "revolute":
                limits[joint.name] = _add_revolute(body, joint, f"{name}::{joint.name}", frames)
            elif joint is None and not static:
                body.add_freejoint()
                self.objects[name if name not in self.objects else body.name] = body.name
            if link.get("inertial") is not None:
                _add_inertial(body, link, frames)
            elif not static:
                raise link.error(f"link '{link_name}' moves and needs an <inertial>")
            _add_shapes(self.spec, body, link, frames, self.exposure)
            if len(self.cameras) + len(link.all("sensor")) > 1:
                raise link.all("sensor")[-1].error("the world has more than one camera; exactly one is supported")
            self.cameras += _add_camera(body, link, frames)
            return body

        for link_name in links:
            add(link_name, ())
        for frame in model.all("frame"):
            frame.allow("pose", "name attached_to")
            frame_name = frame.attribute("name")
            link_name = frames.link_of(frame_name, frame)
            pose = np.linalg.inv(frames.pose(link_name, frame)) @ frames.pose(frame_name, frame)
            bodies[link_name].add_site(name=f"{name}::{frame_name}", pos=pose[:3, 3], quat=_quaternion(pose), group=4)
        # Links of a model do not collide with each other, since <self_collide> is false.
        names = list(bodies)
        for i, first in enumerate(names):
            for second in names[i + 1 :]:
                self.spec.add_exclude(bodyname1=bodies[first].name, bodyname2=bodies[second].name)
        for plugin in model.all("plugin"):
            _check_plugin(plugin)
        controllers = [plugin for plugin in model.all("plugin") if plugin.attribute("name") == _JTC]
        if controllers:
            self._controller(model, controllers, limits)

    def _controller(self, model: Element, plugins: list[Element], limits: dict[str, dict[str, float]]) -> None:
        """Adds actuators for the joint trajectory controllers, the arm's and a gripper's, with Gazebo's control law:
        torque = kp (q* - q) + kv (v* - v).
        """
        name = model.attribute("name")
        # The controllers of arm and gripper become one list of joints.
        plugin = replace(plugins[0], children=[child for each in plugins for child in each.children])
        if self.arm is not None:
            raise plugin.error(f"model '{self.arm[0]}' has a joint trajectory controller already; one arm per world")
        joints = tuple(element.string() for element in plugin.all("joint_name"))
        if not joints or len(set(joints)) != len(joints):
            raise plugin.error("the joint trajectory controller needs <joint_name> for each joint, each once")
        for element in plugin.all("joint_name"):
            if element.string() not in limits:
                known = ", ".join(limits) or "no revolute joint"
                raise element.error(f"'{element.string()}' is no revolute joint of '{name}'; it has {known}")
        gains: dict[str, np.ndarray] = {}
        for tag in ("position_p_gain", "velocity_p_gain"):
            elements = plugin.all(tag)
            if len(elements) != len(joints):
                raise plugin.error(f"{len(joints)} joints need {len(joints)} <{tag}>, there are {len(elements)}")
            for element in elements:
                if element.floats(1)[0] <= 0.0:
                    raise element.error(f"<{tag}> must be above 0, or the joint is not driven")
            gains[tag] = np.array([element.floats(1)[0] for element in elements])
        home = np.array([element.floats(1)[0] for element in plugin.all("initial_position")] or np.zeros(len(joints)))
        if len(home) != len(joints):
            raise plugin.error(f"{len(joints)} joints need {len(joints)} <initial_position>, or none")
        if END_EFFECTOR not in [frame.attribute("name") for frame in model.all("frame")]:
            raise model.error(f'arm \'{name}\' needs <frame name="{END_EFFECTOR}" attached_to="..."> at its tip')
        columns = {
            key: np.array([limits[joint][key] for joint in joints]) for key in ("lower", "upper", "velocity", "effort")
        }
        count = np.ones(len(joints))
        arm = Arm(
            JointLimits(
                joints,
                lower=columns["lower"],
                upper=columns["upper"],
                velocity=columns["velocity"],
                acceleration=ACCELERATION_RAD_S2 * count,
                jerk=JERK_RAD_S3 * count,
            ),
            home,
            columns["effort"],
            gains["position_p_gain"],
            gains["velocity_p_gain"],
        )
        for i, joint in enumerate(joints):
            kp, kv, effort = arm.position_gain[i], arm.velocity_gain[i], arm.effort[i]
            # ctrl is the torque's set-point part over kp: q* + kv/kp v*.
            self.spec.add_actuator(
                name=f"{name}::{joint}",
                target=f"{name}::{joint}",
                trntype=mujoco.mjtTrn.mjTRN_JOINT,
                gaintype=mujoco.mjtGain.mjGAIN_FIXED,
                biastype=mujoco.mjtBias.mjBIAS_AFFINE,
                gainprm=[kp] + [0.0] * 9,
                biasprm=[0.0, -kp, -kv] + [0.0] * 7,
                forcelimited=mujoco.mjtLimited.mjLIMITED_TRUE,
                forcerange=[-effort, effort],
            )
        self.arm = (name, arm)

    def world(self, world: Element) -> None:
        world.allow("physics gravity plugin scene light model", "name")
        names = [model.attribute("name") for model in world.all("model")]
        for model, name in zip(world.all("model"), names, strict=True):
            if names.count(name) > 1:
                raise model.error(f"there is more than one model '{name}'; names in a world are unique")
        option = self.spec.option
        physics = world.need("physics")
        physics.allow("max_step_size real_time_factor", "name type default")
        physics.number("real_time_factor", 1.0, positive=True)
        step_s = physics.number("max_step_size", positive=True)
        if not SHORTEST_STEP_S <= step_s <= LONGEST_STEP_S:
            raise physics.need("max_step_size").error(
                f"<max_step_size> is {step_s}; write {SHORTEST_STEP_S} to {LONGEST_STEP_S} s"
            )
        option.timestep = step_s
        # Integrates the servos' damping implicitly, so that stiff gains are stable at this time step.
        option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        gravity = world.get("gravity")
        option.gravity = [0.0, 0.0, -9.8] if gravity is None else gravity.floats(3)
        for plugin in world.all("plugin"):
            _check_plugin(plugin)
        self._light(world)
        for model in world.all("model"):
            self.model(model)

    def _light(self, world: Element) -> None:
        """Adds lamps so that pictures have the colours of Gazebo's renderer.

        Ogre 2 lights linear colours and encodes the result as sRGB; MuJoCo multiplies light and colour as they are. So
        materials get the encoded colour of a horizontal surface (`_add_shapes`), and MuJoCo's lamps are scaled so that
        a horizontal surface shows it. Other surfaces get their share of the light from the file's ambient and diffuse.
        """
        visual = self.spec.visual
        visual.quality.shadowsize = 0
        visual.quality.offsamples = 0
        visual.headlight.active = 1  # MuJoCo's headlight holds the ambient light of the scene
        visual.headlight.diffuse = visual.headlight.specular = [0.0, 0.0, 0.0]
        visual.headlight.ambient = [0.0, 0.0, 0.0]
        ambient: np.ndarray = np.zeros(3)
        scene = world.get("scene")
        if scene is not None:
            scene.allow("ambient background shadows")
            if scene.get("background") is not None:
                sky = self.spec.add_texture(
                    name="background", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, width=8, height=8
                )
                sky.builtin = mujoco.mjtBuiltin.mjBUILTIN_FLAT
                sky.rgb1 = sky.rgb2 = _srgb(scene.need("background").floats(4)[:3])
            if scene.flag("shadows", True):
                raise scene.error("shadows are not rendered; set <shadows>false</shadows>")
            ambient = scene.need("ambient").floats(4)[:3]
        self.exposure = AMBIENT_GAIN * ambient
        flat: np.ndarray = ambient.copy()
        lamps = []
        for light in world.all("light"):
            light.allow("pose cast_shadows diffuse intensity direction", "name type")
            if light.attribute("type") != "directional":
                raise light.error(f"light type '{light.attribute('type')}' is not supported; only 'directional' is")
            if light.flag("cast_shadows", False):
                raise light.need("cast_shadows").error("shadows are not rendered; set it to false")
            if relative_to(light) not in (None, "world"):
                raise light.need("pose").error("a light's pose is relative to the world; frames of it are not known")
            pose = pose_of(light)
            direction = pose[:3, :3] @ light.need("direction").floats(3)
            length = float(np.linalg.norm(direction))
            if length < 1e-9:
                raise light.need("direction").error("the direction of a light cannot be 0 0 0")
            diffuse = light.need("diffuse").floats(4)[:3]
            intensity = light.number("intensity", 1.0)
            if intensity < 0.0:
                raise light.need("intensity").error(f"<intensity> is {intensity}; it must be 0 or more")
            downwards = max(0.0, -direction[2] / length)
            self.exposure += LAMP_GAIN * intensity * downwards * diffuse
            flat += downwards * diffuse
            lamps.append(
                self.spec.worldbody.add_light(
                    name=light.attribute("name"),
                    type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
                    pos=pose[:3, 3],
                    dir=direction,
                    castshadow=False,
                    diffuse=diffuse,
                    specular=[0.0, 0.0, 0.0],
                )
            )
        scale = 1.0 / np.where(flat > 0.0, flat, 1.0)
        visual.headlight.ambient = ambient * scale
        for lamp in lamps:
            lamp.diffuse = np.array(lamp.diffuse) * scale


def load_world(path: str | Path) -> World:
    """Loads an SDF file with one world, one arm and one camera into MuJoCo.

    :raises SdfError: the file is broken, lacks something or holds something unsupported; names file and line.
    """
    root = read_xml(Path(path))
    if root.tag != "sdf":
        raise root.error(f"the root element is <{root.tag}>; an SDF file starts with <sdf>")
    root.allow("world", "version")
    if root.attribute("version") != "1.9":
        raise root.error(f"SDF version {root.attribute('version')} is not supported; write version 1.9")
    loader = _Loader()
    world = root.need("world")
    try:
        loader.world(world)
    except SdfError:
        raise
    except RecursionError as error:
        raise world.error("frames, or links, hang from one another in a chain that is too long") from error
    except ValueError as error:  # MuJoCo's own, or numpy's for a matrix without an inverse
        raise world.error(f"MuJoCo does not accept the world: {error}") from error
    if loader.arm is None:
        raise world.error(f"no model has the plugin {_JTC}; it marks the arm")
    if len(loader.cameras) != 1:
        where = loader.cameras[1][0] if loader.cameras else world
        raise where.error(f"the world has {len(loader.cameras)} cameras; exactly one is supported")
    _, camera, clip = loader.cameras[0]
    # MuJoCo's clip planes are multiples of the scene's extent.
    loader.spec.stat.extent = 1.0
    loader.spec.visual.map.znear, loader.spec.visual.map.zfar = clip
    loader.spec.visual.global_.offwidth, loader.spec.visual.global_.offheight = camera.width, camera.height
    try:
        model = loader.spec.compile()
    except ValueError as error:
        raise world.error(f"MuJoCo does not accept the world: {error}") from error
    return World(model, *loader.arm, (camera,), loader.objects)
