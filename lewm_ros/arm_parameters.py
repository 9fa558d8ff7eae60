# SPDX-License-Identifier: Apache-2.0
"""Parameters of the nodes that command an arm: limits, workspace, arming, speed, and settings of the shield."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rclpy.parameter import Parameter as RosParameter

from lewm_model.config import ConfigError
from lewm_model.robot.chain import Chain, Workspace
from lewm_model.robot.collision import SelfCollision
from lewm_model.robot.limits import JointLimits, limits_from_parameters
from lewm_model.robot.robot import Robot, load_robot
from lewm_ros.parameters import Parameter, ParameterError
from lewm_ros.safety import ShieldConfig

# Descriptions and ranges of ShieldConfig's fields; the defaults are its own.
SHIELD_FIELDS: dict[str, tuple[Any, ...]] = {
    "frame_timeout_s": ("Seconds without a fresh frame after which the arm holds.", 0.05, 10.0),
    "joint_timeout_s": ("Seconds without a joint state after which the arm holds.", 0.02, 10.0),
    "tracking_tolerance_rad": ("Measured minus commanded position beyond which the stop latches, rad.", 0.001, 3.0),
    "start_tolerance_rad": ("Greatest distance of the start of a motion from the measured position, rad.", 0.001, 0.5),
    "jump_tolerance_rad": ("Greatest distance of a new trajectory from the one it replaces, rad.", 1e-6, 0.1),
    "deadman_timeout_s": ("Seconds without a message after which the dead-man's button counts as released.", 0.05, 5.0),
    "jump_tolerance_rad_s": ("The same for velocities, rad/s.", 1e-6, 1.0),
}

# May be changed while the arm is armed, with effect at once.
LIVE = {"plan.deadline_s", "shield.deadman_timeout_s"}


def rows(prefix: str, settings: Any, fields: Mapping[str, tuple[Any, ...]]) -> list[Parameter]:
    """A table row for each of `fields` of the dataclass instance `settings`, whose values are the defaults."""
    return [
        Parameter(f"{prefix}.{name}", getattr(settings, name), description, low, high, live=f"{prefix}.{name}" in LIVE)
        for name, (description, low, high) in fields.items()
    ]


def below(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values whose names begin with `prefix`, by the rest of the name."""
    return {name.removeprefix(prefix + "."): value for name, value in values.items() if name.startswith(prefix + ".")}


DOUBLES = RosParameter.Type.DOUBLE_ARRAY
ARM_PARAMETERS = (
    Parameter("enable_on_start", False, "Arm as soon as all inputs arrive; leave it off on a real arm."),
    Parameter(
        "deadman_button", -1, "Button of `joy` to hold while the arm may move; -1 needs none.", -1, 63, live=True
    ),
    Parameter("speed_scale", 1.0, "Share of full speed; 0 holds. Also the topic ~/speed_scale.", 0.0, 1.0, live=True),
    Parameter(
        "robot", "", "Robot file (path, or name in config/robots): limits, links, self-collision. Excludes limits.*."
    ),
    Parameter("urdf", "", "URDF file of the arm, without xacro: limits not given here, links for the workspace."),
    Parameter(
        "limits.names",
        RosParameter.Type.STRING_ARRAY,
        "Joints of the arm, in the order of the other limits; needed where there is no robot file.",
        needed=False,
    ),
    Parameter("limits.lower", DOUBLES, "Least position of each joint, rad; by default the URDF's.", needed=False),
    Parameter("limits.upper", DOUBLES, "Greatest position of each joint, rad; by default the URDF's.", needed=False),
    Parameter("limits.velocity", DOUBLES, "Greatest speed of each joint, rad/s; by default the URDF's.", needed=False),
    Parameter("limits.acceleration", DOUBLES, "Greatest acceleration of each joint, rad/s^2.", needed=False),
    Parameter("limits.jerk", DOUBLES, "Greatest jerk of each joint, rad/s^3.", needed=False),
    Parameter("workspace.lower", DOUBLES, "Least x, y, z that links may reach, m in the base's frame.", needed=False),
    Parameter("workspace.upper", DOUBLES, "Greatest x, y, z that links may reach, m.", needed=False),
    Parameter("workspace.base", "base_link", "Link of the URDF in whose frame the workspace is given."),
    Parameter("workspace.tip", "tool0", "Last link of the URDF that must stay in the workspace."),
    Parameter(
        "effort_limits",
        DOUBLES,
        "Greatest effort of each joint, in the unit of joint_states; beyond it the stop latches. By default none.",
        needed=False,
    ),
    *rows("shield", ShieldConfig(), SHIELD_FIELDS),
)


@dataclasses.dataclass(frozen=True)
class ArmSettings:
    """Checked settings of an arm."""

    robot: Robot | None
    chain: Chain | None  # of the robot file, where it has kinematics
    limits: JointLimits
    efforts: np.ndarray | None  # (A,) in the unit of joint_states
    workspace: Workspace | None
    self_collision: SelfCollision | None
    shield: ShieldConfig


def arm_settings(values: Mapping[str, Any]) -> ArmSettings:
    """Checked settings from parameter values by name.

    :raises ParameterError: values cannot be used, or contradict each other, the robot file or the URDF.
    """
    try:
        robot = load_robot(values["robot"]) if values["robot"] else None
        limits = _limits(values, robot)
        chain = None if robot is None or robot.kinematics is None else robot.chain()
        return ArmSettings(
            robot,
            chain,
            limits,
            _efforts(values["effort_limits"], limits.names),
            _workspace(values, limits.names, robot, chain),
            None if robot is None or chain is None else robot.self_collision(chain),
            ShieldConfig(**below("shield", values)),
        )
    except (ValueError, ConfigError) as error:
        raise ParameterError(f"{error}; change it in the params file") from error


def _efforts(given: Sequence[float], names: Sequence[str]) -> np.ndarray | None:
    """Effort limits (A,), None where none are given; ValueError for a wrong count or numbers not above 0."""
    if not given:
        return None
    efforts = np.array(given, float)
    if efforts.shape != (len(names),) or not (efforts > 0.0).all():
        raise ValueError(f"effort_limits is {list(given)}; write a number above 0 for each of {', '.join(names)}")
    return efforts


def _limits(values: Mapping[str, Any], robot: Robot | None) -> JointLimits:
    """Joint limits, from either the robot file or the parameters limits.*.

    :raises ValueError: both are given, or neither is, or the numbers cannot be used.
    """
    given = below("limits", values)
    if robot is None and not given["names"]:
        raise ValueError("no joint limits are given: set robot (a file of config/robots, or yours), or limits.*")
    if robot is None:
        return limits_from_parameters(**given, urdf=values["urdf"])
    named = [name for name, row in given.items() if row]
    if named or values["urdf"]:
        also = f"limits.{named[0]}" if named else "urdf"
        raise ValueError(f"robot is {values['robot']!r} and {also} is given as well; keep one of them")
    return robot.limits


def _workspace(
    values: Mapping[str, Any], names: Sequence[str], robot: Robot | None, chain: Chain | None
) -> Workspace | None:
    """The workspace box of the parameters workspace.*, or else of the robot file, for the links of robot file or URDF.

    :raises ValueError: the values contradict each other, or the URDF.
    """
    box = below("workspace", values)
    if not box["lower"] and not box["upper"]:
        return None if robot is None or chain is None else robot.box(chain)
    if robot is not None and chain is not None:
        return Workspace(chain, box["lower"], box["upper"], robot.radii(chain))
    if not values["urdf"]:
        raise ValueError("workspace.lower and workspace.upper need a urdf, or a robot file with kinematics")
    chain = Chain.from_urdf(values["urdf"], box["base"], box["tip"], names)
    return Workspace(chain, box["lower"], box["upper"])
