# SPDX-License-Identifier: Apache-2.0
"""The robot file: one description of an arm for simulator, recorder, converter, planner, shield, preflight and launch.

It is a YAML file in `config/robots/`, or a user's own. Another robot needs another file and no code.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lewm_model.config import ConfigError, from_dict, load_yaml, resource
from lewm_model.robot.chain import Chain, Workspace
from lewm_model.robot.collision import SelfCollision
from lewm_model.robot.limits import JointLimits
from lewm_model.robot.observation import Camera, ObservationError

KINDS = ("revolute", "continuous", "prismatic")  # of joints, as in URDF
FIELDS = ("joints", "gripper", "kinematics", "workspace", "simulation", "cameras")  # of a robot file
PACKAGE_URL = "package://"


@dataclass(frozen=True)
class Joint:
    """One driven joint. A prismatic one has m instead of rad, and N instead of N m."""

    name: str
    lower: float  # rad; needed for a continuous joint too, relative to where it is switched on
    upper: float  # rad
    velocity: float  # rad/s
    acceleration: float  # rad/s^2
    jerk: float  # rad/s^3
    effort: float = 100.0  # greatest torque of its drive in simulation, N m
    home: float = 0.0  # position between episodes, rad
    kind: str = "revolute"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"joint {self.name!r} is {self.kind!r}; it must be one of {', '.join(KINDS)}")
        if not self.lower <= self.home <= self.upper:
            raise ConfigError(
                f"joint {self.name!r} has its home at {self.home}; it must lie within {self.lower} to {self.upper}"
            )


@dataclass(frozen=True)
class Gripper:
    """The joint that opens and closes a gripper; one of the robot's joints, and the last one.

    It has a controller of its own: a trajectory controller, or one that takes GripperCommand actions.
    """

    joint: str
    open: float  # rad or m
    closed: float  # rad or m
    topic: str = "gripper_controller/joint_trajectory"  # of its trajectory controller
    action: str = ""  # name of a GripperCommand action, which is then used instead of the topic
    max_effort: float = 0.0  # greatest effort of the action, N or N m; 0: the server's own

    def __post_init__(self) -> None:
        if not self.topic and not self.action:
            raise ConfigError("gripper has neither topic nor action; give the one that takes its commands")


@dataclass(frozen=True)
class Kinematics:
    """The kinematic chain: a URDF or MJCF with its first and last link."""

    file: str  # path, or package://PACKAGE/...; xacro files have to be expanded first
    base: str = "base_link"  # link, or body of an MJCF
    tip: str = "tool0"  # link, or site or body of an MJCF
    tool_m: tuple[float, ...] = ()  # end of a tool, x y z in the tip's frame, m; empty without a tool
    radius_m: float = 0.05  # of the capsules along the links, which must neither collide nor leave the workspace, m
    tip_radius_m: float = 0.0  # of the last capsule, m; 0: as the others


@dataclass(frozen=True)
class Box:
    """The box that the links with their thickness must stay in, such as the space above a table."""

    lower: tuple[float, ...]  # least x, y, z in the frame of the kinematics' base, m
    upper: tuple[float, ...]  # greatest x, y, z, m


@dataclass(frozen=True)
class Simulation:
    """What the simulator loads: an SDF world with the arm in it, or an MJCF or URDF that a scene places on its
    table.
    """

    file: str  # path, or package://PACKAGE/...
    tip: str = "end_effector"  # link or site whose position a task is about
    tool_axis: tuple[float, ...] = (0.0, 0.0, 1.0)  # direction of the tool, in the tip's frame
    attach: str = ""  # description of a gripper to mount on the arm; its names get the prefix gripper_
    attach_to: str = ""  # site of the arm where it is mounted


@dataclass(frozen=True)
class Robot:
    """One arm, with or without a gripper. Made with `load_robot`."""

    name: str
    joints: tuple[Joint, ...]  # in the order of the action's columns
    gripper: Gripper | None = None
    kinematics: Kinematics | None = None
    workspace: Box | None = None
    simulation: Simulation | None = None
    cameras: tuple[Camera, ...] = ()  # from left to right in the model's picture
    folder: Path = Path()  # of the robot file; relative paths start there

    def __post_init__(self) -> None:
        names = [joint.name for joint in self.joints]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"robot {self.name!r} has the joints {names}; it needs one or more, each once")
        if self.gripper is not None and self.gripper.joint != names[-1]:
            joint = self.gripper.joint
            raise ConfigError(f"robot {self.name!r} has the gripper joint {joint!r}; list it as the last joint")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all joints, the gripper's last."""
        return tuple(joint.name for joint in self.joints)

    @property
    def home(self) -> np.ndarray:
        """Home position of all joints (A,) rad."""
        return np.array([joint.home for joint in self.joints])

    @property
    def limits(self) -> JointLimits:
        """The limits of all joints; raises ValueError as `JointLimits`."""
        columns = ("lower", "upper", "velocity", "acceleration", "jerk")
        return JointLimits(self.names, *(np.array([getattr(j, column) for j in self.joints]) for column in columns))

    def path(self, file: str) -> Path:
        """The path of a file that the robot file names.

        :raises ConfigError: there is no such file, or no such package.
        """
        return find_file(file, self.folder)

    @property
    def arm(self) -> tuple[str, ...]:
        """Names of the joints that move the tip: all but the gripper's."""
        return self.names if self.gripper is None else self.names[:-1]

    def chain(self) -> Chain:
        """The arm's links and joints, without the gripper's.

        :raises ConfigError: the robot file has no `kinematics`, or names a file that is not there.
        :raises lewm_model.robot.limits.LimitsError: the URDF or MJCF does not fit.
        """
        if self.kinematics is None:
            raise ConfigError(f"robot {self.name!r} has no `kinematics`; add file, base and tip")
        path, ends = self.path(self.kinematics.file), (self.kinematics.base, self.kinematics.tip)
        read = Chain.from_urdf if path.suffix == ".urdf" else Chain.from_mjcf
        chain = read(path, *ends, self.arm)
        return chain.with_tool(np.array(self.kinematics.tool_m)) if self.kinematics.tool_m else chain

    def radii(self, chain: Chain) -> np.ndarray:
        """Radii (L,) m of the capsules along the links of `chain()`."""
        assert self.kinematics is not None
        radii = np.full(len(chain.links), self.kinematics.radius_m)
        radii[-1] = self.kinematics.tip_radius_m or self.kinematics.radius_m
        return radii

    def box(self, chain: Chain) -> Workspace | None:
        """The workspace of the links of `chain()`; None where the robot file has none."""
        if self.workspace is None:
            return None
        return Workspace(chain, self.workspace.lower, self.workspace.upper, self.radii(chain))

    def self_collision(self, chain: Chain) -> SelfCollision | None:
        """The self-collision check for `chain()`; None where no two of its links can collide."""
        return SelfCollision.of(chain, self.radii(chain), self.home[: len(self.arm)])


PARTS = {"gripper": Gripper, "kinematics": Kinematics, "workspace": Box, "simulation": Simulation}


def load_robot(name: str | Path, folder: Path | None = None) -> Robot:
    """Loads a robot by the name of its file in `config/robots`, or by the file's path (relative to `folder`, if given).

    :raises ConfigError: there is no such robot, or a field cannot be used; the message names field and file.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        try:
            path = resource("config", "robots", f"{name}.yaml")
        except FileNotFoundError as error:
            known = sorted(file.stem for file in resource("config", "robots").glob("*.yaml"))
            raise ConfigError(
                f"there is no robot {str(name)!r}; known are {', '.join(known)}, or give the path of your own file"
            ) from error
    elif folder is not None and not path.is_absolute():
        path = folder / path
    values = load_yaml(path)
    try:
        return _robot(path, values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _robot(path: Path, values: Mapping[str, Any]) -> Robot:
    unknown = sorted(set(values) - set(FIELDS))
    if unknown:
        raise ConfigError(f"a robot has no field {unknown[0]!r}; it has {', '.join(FIELDS)}")
    rows = values.get("joints")
    if not isinstance(rows, dict):
        raise ConfigError("`joints` must map the name of each joint to its limits")
    for name, row in rows.items():
        if not isinstance(row, dict | None):
            raise ConfigError(f"joints.{name} is {row!r}; it must map the names of its limits to numbers")
    try:
        joints = tuple(from_dict(Joint, {"name": str(name), **(row or {})}) for name, row in rows.items())
        parts: dict[str, Any] = {name: from_dict(kind, values[name]) for name, kind in PARTS.items() if name in values}
    except TypeError as error:  # a required field is missing
        raise ConfigError(str(error)) from error
    try:
        rows = values.get("cameras", {})
        cameras = tuple(from_dict(Camera, {"name": str(name), **row}) for name, row in rows.items())
    except (ObservationError, AttributeError, TypeError) as error:
        raise ConfigError(f"`cameras` must map each camera's name to its height, width, ...: {error}") from error
    return Robot(path.stem, joints, cameras=cameras, folder=path.parent, **parts)


def with_crop(text: str, camera: str, crop: tuple[int, int, int, int]) -> str:
    """The text of a robot file with another crop (top, left, height, width in pixels) of a camera; the rest stays as it
    is written, with its comments.

    :raises ConfigError: it has no such camera, or is written in a way that this cannot change.
    """
    cameras = _entry(yaml.compose(text, yaml.SafeLoader), "cameras")
    row = _entry(cameras, camera)
    if not isinstance(row, yaml.MappingNode) or not row.value:
        raise ConfigError(f"there is no camera {camera!r} to crop; add it to `cameras`, with height and width")
    there, written = _entry(row, "crop"), str(list(crop))
    if there is not None:
        begin = there.start_mark.index
        end = begin + len(text[begin : there.end_mark.index].rstrip())
    else:
        first = row.value[0][0].start_mark
        begin = end = first.index
        written = f"crop: {written}" + (", " if row.flow_style else "\n" + " " * first.column)
    changed = text[:begin] + written + text[end:]
    known = yaml.safe_load(text)
    row_then = {**known["cameras"][camera], "crop": list(crop)}
    wanted = {**known, "cameras": {**known["cameras"], camera: row_then}}
    if yaml.safe_load(changed) != wanted:  # aliases, for instance
        raise ConfigError(f"write the crop of camera {camera!r} by hand: crop: {list(crop)}")
    return changed


def _entry(node: yaml.Node | None, key: str) -> yaml.Node | None:
    """The value of a key of a mapping; None where it has none, or is no mapping."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next((value for name, value in pairs if name.value == key), None)


def find_file(file: str, folder: Path) -> Path:
    """The path of `file`: in an installed Python or ROS package for package://PACKAGE/..., else relative to `folder`.

    :raises ConfigError: there is no such file.
    """
    if not file.startswith(PACKAGE_URL):
        path = folder / file
        if not path.is_file():
            raise ConfigError(f"there is no file {path}")
        return path
    package, _, rest = file.removeprefix(PACKAGE_URL).partition("/")
    prefixes = filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))
    roots = [Path(prefix) / "share" / package for prefix in prefixes]
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        found = None
    if found is not None and found.submodule_search_locations:
        roots = [*map(Path, found.submodule_search_locations), *roots]
    for root in roots:
        path = (root / rest).resolve()
        if path.is_file() and path.is_relative_to(root.resolve()):
            return path
    raise ConfigError(
        f"{file} is not there: neither a Python nor a ROS package {package!r} with that file is installed; for the "
        "arms of config/robots run: pip install --no-deps -r requirements-arms.txt"
    )
