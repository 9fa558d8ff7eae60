"""The parameters of planner_node: the limits of the arm, how a plan is searched, what surprises, and when the shield
intervenes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rclpy.parameter import Parameter as RosParameter

from lewm_model.bundle.bundle import Bundle
from lewm_model.config import ConfigError, MonitorConfig, PlanConfig
from lewm_model.robot.chain import Chain, Workspace
from lewm_model.robot.collision import SelfCollision
from lewm_model.robot.limits import JointLimits, limits_from_parameters
from lewm_model.robot.robot import Robot, load_robot
from lewm_ros.camera_node import MODEL_PARAMETERS
from lewm_ros.parameters import Parameter, ParameterError
from lewm_ros.safety import ShieldConfig

# Descriptions and ranges of PlanConfig's and ShieldConfig's fields; the defaults are theirs. The horizon has a row of
# its own: it is the bundle's, where nobody states it.
PLAN_FIELDS: dict[str, tuple[Any, ...]] = {
    "sampler": (
        "Search: icem (coloured noise, returns the best), cem or mppi (Gaussian, return a mean), shooting (no draws).",
        None,
        None,
    ),
    "samples": ("Candidates in an iteration; of a policy, how often it is followed.", 1, 100_000),
    "iterations": ("Iterations of the search.", 1, 1000),
    "elites": ("Best candidates that the next iteration is fitted to.", 1, 10_000),
    "initial_std": ("Spread of the first candidates, in standard deviations of the recorded actions.", 0.01, 10.0),
    "noise_colour": ("Of icem: 0 is white noise, more is smoother over the horizon.", 0.0, 10.0),
    "full_width_from": ("Share of the farthest way in a horizon from which the search is at full width.", 0.001, 1.0),
    "least_width": ("Share of the full width that is left at the goal.", 0.001, 1.0),
    "effort": ("Cost of a joint's control step at full speed, in control steps of distance.", 0.0, 10.0),
    "policy_noise": ("By which a policy is strayed from, standard deviations of the recorded actions.", 0.0, 10.0),
    "policy_least_steps": ("Least time left that a policy is told, control steps.", 1.0, 10_000.0),
    "policy_most_steps": ("Greatest time left that a policy is told, control steps.", 1.0, 10_000.0),
    "keep": ("Of shooting: the plan before is dropped for one that costs less than this share of it.", 0.001, 1.0),
    "resting": ("Share of full speed up to which an arm rests.", 0.001, 1.0),
    "handover_margin_s": ("Seconds between the end of a plan and its hand-over: publishing and transport.", 0.0, 1.0),
    "deadline_s": ("Seconds after which the best plan so far is taken.", 0.001, 10.0),
    "while_moving": ("Plan the next block while one is executed; otherwise stop, look and plan.", None, None),
}
MONITOR_FIELDS: dict[str, tuple[Any, ...]] = {
    "surprising": ("Times the usual surprise or novelty from which a frame is surprising.", 1.0, 1000.0),
    "hold_frames": ("Surprising frames in a row that hold the arm.", 1, 100),
    "calm_s": ("Seconds without a surprising frame after which the arm goes on at full speed.", 0.0, 60.0),
    "slow_speed": ("Share of full speed that a plan may use until then.", 0.01, 1.0),
    "lively": ("Mean squared change of the latent over a block from which a frame shows the arm move.", 0.0, 10.0),
    "agrees_steps": ("Control steps that a picture may show the arm from where the joints are.", 0.0, 100.0),
}
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


def _rows(prefix: str, settings: Any, fields: Mapping[str, tuple[Any, ...]]) -> list[Parameter]:
    """A table row for each of these fields of a dataclass instance, which has the defaults."""
    return [
        Parameter(f"{prefix}.{name}", getattr(settings, name), description, low, high, live=f"{prefix}.{name}" in LIVE)
        for name, (description, low, high) in fields.items()
    ]


def _below(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values below a prefix, without it."""
    return {name.removeprefix(prefix + "."): value for name, value in values.items() if name.startswith(prefix + ".")}


DOUBLES = RosParameter.Type.DOUBLE_ARRAY
PARAMETERS = (
    *MODEL_PARAMETERS,
    Parameter("seed", 0, "Of the random candidates.", 0, 2**31 - 1),
    Parameter("enable_on_start", False, "Arm as soon as frames and joint states arrive; leave it off on a real arm."),
    Parameter("allow_no_go", False, "Arm although the model's preflight (`lewm doctor model`) says NO-GO."),
    Parameter(
        "deadman_button", -1, "Button of `joy` to hold while the arm may move; -1 needs none.", -1, 63, live=True
    ),
    Parameter("dry_run", False, "Plan and show, hold and report as ever, and send nothing to the arm."),
    Parameter("speed_scale", 1.0, "Share of full speed; 0 holds. Also the topic ~/speed_scale.", 0.0, 1.0, live=True),
    Parameter("goal_tolerance", 1.0, "Times the calibrated distance at which a goal is reached.", 0.1, 10.0, live=True),
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
        "plan.horizon", 0, "Action blocks that a plan looks ahead; 0: what the bundle is made for.", 0, 64, needed=False
    ),
    *_rows("plan", PlanConfig(), PLAN_FIELDS),
    *_rows("monitor", MonitorConfig(), MONITOR_FIELDS),
    *_rows("shield", ShieldConfig(), SHIELD_FIELDS),
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the parameters say, checked."""

    limits: JointLimits
    workspace: Workspace | None
    self_collision: SelfCollision | None
    plan: PlanConfig
    monitor: MonitorConfig
    shield: ShieldConfig


def settings(values: Mapping[str, Any], bundle: Bundle) -> Settings:
    """The settings that parameter values by name describe, to plan with this bundle.

    :raises ParameterError: they cannot be used, do not fit together, or not to the bundle, the robot file or the URDF.
    """
    try:
        robot = load_robot(values["robot"]) if values["robot"] else None
        limits = _limits(values, robot)
        chain = None if robot is None or robot.kinematics is None else robot.chain()
        return Settings(
            limits,
            _workspace(values, limits.names, robot, chain),
            None if robot is None or chain is None else robot.self_collision(chain),
            PlanConfig(**{**_below("plan", values), "horizon": bundle.horizon_for(values["plan.horizon"])}),
            MonitorConfig(**_below("monitor", values)),
            ShieldConfig(**_below("shield", values)),
        )
    except (ValueError, ConfigError) as error:
        raise ParameterError(f"{error}; change it in the params file") from error


def _limits(values: Mapping[str, Any], robot: Robot | None) -> JointLimits:
    """What the joints may do, from the robot file or else from the parameters limits.*: one of them says it.

    :raises ValueError: both say it, or neither does, or the numbers cannot be used.
    """
    given = _below("limits", values)
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
    box = _below("workspace", values)
    if not box["lower"] and not box["upper"]:
        return None if robot is None or chain is None else robot.box(chain)
    if robot is not None and chain is not None:
        return Workspace(chain, box["lower"], box["upper"], robot.radii(chain))
    if not values["urdf"]:
        raise ValueError("workspace.lower and workspace.upper need a urdf or a robot that says where the links are")
    chain = Chain.from_urdf(values["urdf"], box["base"], box["tip"], names)
    return Workspace(chain, box["lower"], box["upper"])
