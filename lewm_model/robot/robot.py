# SPDX-License-Identifier: Apache-2.0
"""The robot file: one description of an arm for simulator, recorder, converter, planner, shield, preflight and launch.

A robot is a YAML file in `config/robots/`, or one of yours. What another robot needs is another file, no code.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lewm_model.config import ConfigError, from_dict, load_yaml, resource
from lewm_model.robot.chain import Chain, Workspace
from lewm_model.robot.collision import SelfCollision
from lewm_model.robot.limits import JointLimits
from lewm_model.robot.observation import Camera, ObservationError

KINDS = ("revolute", "continuous", "prismatic")
FIELDS = ("joints", "gripper", "kinematics", "workspace", "simulation", "cameras")  # of a robot file
PACKAGE_URL = "package://"


@dataclass(frozen=True)
class Joint:
    """One driven joint. A prismatic one has m in the place of rad, and N in that of N m."""

    name: str
    lower: float  # rad; of a continuous joint too: how far it may turn from where it is switched on
    upper: float  # rad
    velocity: float  # rad/s
    acceleration: float  # rad/s^2
    jerk: float  # rad/s^3
    effort: float = 100.0  # N m that its drive can do, in simulation
    home: float = 0.0  # rad, where the arm rests between episodes
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
    action: str = ""  # of a GripperCommand server, which then takes the place of the topic
    max_effort: float = 0.0  # N or N m that the action allows; 0 is what the server has

    def __post_init__(self) -> None:
        if not self.topic and not self.action:
            raise ConfigError("gripper has neither topic nor action; one of them takes its commands")


@dataclass(frozen=True)
class Kinematics:
    """Where the links are: a URDF or MJCF with its first and last link."""

    file: str  # path, or package://PACKAGE/...; xacro files have to be expanded first
    base: str = "base_link"
    tip: str = "tool0"  # link; of an MJCF, site or body
    tool_m: tuple[float, ...] = ()  # x y z in the tip's frame of the end of what it carries, where there is something
    radius_m: float = 0.05  # of the capsules along the links, which must neither meet nor leave the workspace
    tip_radius_m: float = 0.0  # of the last one, where it is thinner than the others


@dataclass(frozen=True)
class Box:
    """What the links with their thickness must stay in, where the arm is mounted: above a table, for one."""

    lower: tuple[float, ...]  # m, x y z in the frame of the kinematics' base
    upper: tuple[float, ...]


@dataclass(frozen=True)
class Simulation:
    """What the simulator loads: an SDF world with the arm in it, or an MJCF or URDF that a scene puts on its table."""

    file: str  # path, or package://PACKAGE/...
    tip: str = "end_effector"  # link or site whose place counts
    tool_axis: tuple[float, ...] = (0.0, 0.0, 1.0)  # that the tool points along, in the tip's frame
    attach: str = ""  # another description that is mounted on the arm, a gripper; its names begin with gripper_
    attach_to: str = ""  # ... at this site


@dataclass(frozen=True)
class Robot:
    """One arm, with or without a gripper; see the fields' classes. Made with `load_robot`."""

    name: str
    joints: tuple[Joint, ...]  # in the order of the action's columns
    gripper: Gripper | None = None
    kinematics: Kinematics | None = None
    workspace: Box | None = None
    simulation: Simulation | None = None
    cameras: tuple[Camera, ...] = ()  # from left to right in the model's picture
    folder: Path = Path()  # that relative paths start from: the robot file's

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
        """(A,) rad."""
        return np.array([joint.home for joint in self.joints])

    @property
    def limits(self) -> JointLimits:
        """What the joints may do; raises ValueError for numbers that cannot be limits."""
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
            raise ConfigError(f"robot {self.name!r} says nothing of its links; add `kinematics`: file, base and tip")
        path, ends = self.path(self.kinematics.file), (self.kinematics.base, self.kinematics.tip)
        read = Chain.from_urdf if path.suffix == ".urdf" else Chain.from_mjcf
        chain = read(path, *ends, self.arm)
        return chain.with_tool(np.array(self.kinematics.tool_m)) if self.kinematics.tool_m else chain

    def radii(self, chain: Chain) -> np.ndarray:
        """Of the capsules along the links of `chain()`, (L,) m."""
        assert self.kinematics is not None
        radii = np.full(len(chain.links), self.kinematics.radius_m)
        radii[-1] = self.kinematics.tip_radius_m or self.kinematics.radius_m
        return radii

    def box(self, chain: Chain) -> Workspace | None:
        """What the links of `chain()` must stay in; None where the robot file says nothing of it."""
        if self.workspace is None:
            return None
        return Workspace(chain, self.workspace.lower, self.workspace.upper, self.radii(chain))

    def self_collision(self, chain: Chain) -> SelfCollision | None:
        """What tells whether the arm hits itself, of `chain()`; None where no two of its links can."""
        return SelfCollision.of(chain, self.radii(chain), self.home[: len(self.arm)])


PARTS = {"gripper": Gripper, "kinematics": Kinematics, "workspace": Box, "simulation": Simulation}


def load_robot(name: str | Path, folder: Path | None = None) -> Robot:
    """A robot by the name of its file in `config/robots`, or by the file's path (relative to `folder`, if given).

    :raises ConfigError: there is none, or a field cannot be used; names field and file.
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
    joints = tuple(from_dict(Joint, {"name": str(name), **(row or {})}) for name, row in rows.items())
    try:
        parts: dict[str, Any] = {name: from_dict(kind, values[name]) for name, kind in PARTS.items() if name in values}
    except TypeError as error:  # a field that has to be given is not
        raise ConfigError(str(error)) from error
    try:
        rows = values.get("cameras", {})
        cameras = tuple(from_dict(Camera, {"name": str(name), **row}) for name, row in rows.items())
    except (ObservationError, AttributeError, TypeError) as error:
        raise ConfigError(f"`cameras` must map each camera's name to its height, width, ...: {error}") from error
    return Robot(path.stem, joints, cameras=cameras, folder=path.parent, **parts)


def find_file(file: str, folder: Path) -> Path:
    """The path of `file`: of an installed Python or ROS package for package://PACKAGE/..., else below `folder`, or the
    absolute path that it is.

    :raises ConfigError: it is not there.
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
        "arms of config/robots: pip install --no-deps -r requirements-arms.txt"
    )
