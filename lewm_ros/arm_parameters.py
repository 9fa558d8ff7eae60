# SPDX-License-Identifier: Apache-2.0
"""The parameters of nodes that command an arm: what its joints and links may do, who lets it move, how fast, and when
the shield intervenes."""

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
    "tracking_tolerance_rad": ("Measured minus commanded position that latches the stop, rad.", 0.001, 3.0),
    "start_tolerance_rad": ("Farthest that a motion from rest may start from the measured position, rad.", 0.001, 0.5),
    "jump_tolerance_rad": ("Farthest that a new trajectory may be from the old one, rad.", 1e-6, 0.1),
    "deadman_timeout_s": ("Seconds after which a dead-man button counts as released without a new message.", 0.05, 5.0),
    "jump_tolerance_rad_s": ("The same for velocities, rad/s.", 1e-6, 1.0),
}

# What a person may change while the arm is armed; it takes effect at once.
LIVE = {"plan.deadline_s", "shield.deadman_timeout_s"}


def rows(prefix: str, settings: Any, fields: Mapping[str, tuple[Any, ...]]) -> list[Parameter]:
    """A table row for each of these fields of a dataclass instance, which has the defaults."""
    return [
        Parameter(f"{prefix}.{name}", getattr(settings, name), description, low, high, live=f"{prefix}.{name}" in LIVE)
        for name, (description, low, high) in fields.items()
    ]


def below(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values below a prefix, without it."""
    return {name.removeprefix(prefix + "."): value for name, value in values.items() if name.startswith(prefix + ".")}


DOUBLES = RosParameter.Type.DOUBLE_ARRAY
ARM_PARAMETERS = (
    Parameter("enable_on_start", False, "Arm as soon as all that it needs arrives; leave it off on a real arm."),
    Parameter(
        "deadman_button", -1, "Button of `joy` to hold while the arm may move; -1 needs none.", -1, 63, live=True
    ),
    Parameter("speed_scale", 1.0, "Share of full speed; 0 holds. Also the topic ~/speed_scale.", 0.0, 1.0, live=True),
    Parameter(
        "robot", "", "Robot file (path, or name in config/robots): limits, links, self-collision. Then no limits.*."
    ),
    Parameter("urdf", "", "URDF file of the arm, expanded: limits that are not given here, the workspace's links."),
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
        "Effort of each joint, in the unit of joint_states, beyond which the stop latches; by default any may be.",
        needed=False,
    ),
    *rows("shield", ShieldConfig(), SHIELD_FIELDS),
)


@dataclasses.dataclass(frozen=True)
class ArmSettings:
    """What the parameters say, checked."""

    robot: Robot | None
    chain: Chain | None  # of the robot, where its file says where the links are
    limits: JointLimits
    efforts: np.ndarray | None  # (A,) in the unit of joint_states
    workspace: Workspace | None
    self_collision: SelfCollision | None
    shield: ShieldConfig


def arm_settings(values: Mapping[str, Any]) -> ArmSettings:
    """The settings that parameter values by name describe.

    :raises ParameterError: they cannot be used, or do not fit together, or not to the robot file or the URDF.
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
    """Effort limits (A,), or None where none are given; raises ValueError for numbers that cannot be limits."""
    if not given:
        return None
    efforts = np.array(given, float)
    if efforts.shape != (len(names),) or not (efforts > 0.0).all():
        raise ValueError(f"effort_limits is {list(given)}; write a number above 0 for each of {', '.join(names)}")
    return efforts


def _limits(values: Mapping[str, Any], robot: Robot | None) -> JointLimits:
    """What the joints may do, from the robot file or else from the parameters limits.*: one of them says it.

    :raises ValueError: both say it, or neither does, or the numbers cannot be used.
    """
    given = below("limits", values)
    if robot is None and not given["names"]:
        raise ValueError("nothing says what the arm's joints may do: give a robot (config/robots), or limits.*")
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
    """The box that the parameters workspace.* describe, for the robot file's links or else the URDF's; where they
    describe none, the robot file's.

    :raises ValueError: they do not fit together, or not to the URDF.
    """
    box = below("workspace", values)
    if not box["lower"] and not box["upper"]:
        return None if robot is None or chain is None else robot.box(chain)
    if robot is not None and chain is not None:
        return Workspace(chain, box["lower"], box["upper"], robot.radii(chain))
    if not values["urdf"]:
        raise ValueError("workspace.lower and workspace.upper need a urdf or a robot that says where the links are")
    chain = Chain.from_urdf(values["urdf"], box["base"], box["tip"], names)
    return Workspace(chain, box["lower"], box["upper"])
