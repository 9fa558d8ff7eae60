# SPDX-License-Identifier: Apache-2.0
"""Parameters of planner_node: those of every node that commands an arm, of the search, and of the monitor."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lewm_model.bundle.bundle import MOST_BLOCKS, Bundle
from lewm_model.config import ConfigError, MonitorConfig, PlanConfig
from lewm_ros.arm_parameters import ARM_PARAMETERS, ArmSettings, arm_settings, below, rows
from lewm_ros.camera_node import MODEL_PARAMETERS
from lewm_ros.parameters import Parameter, ParameterError

# Descriptions and ranges of PlanConfig's and MonitorConfig's fields; the defaults are theirs. The horizon has a row of
# its own, since its default is the bundle's. camera_node has those of the monitor that are about pictures.
PLAN_FIELDS: dict[str, tuple[Any, ...]] = {
    "sampler": (
        "Search: icem (coloured noise, returns the best), cem or mppi (Gaussian, return a mean), shooting (no draws).",
        None,
        None,
    ),
    "samples": ("Candidates in an iteration; of a policy, how often it is followed.", 1, 100_000),
    "iterations": ("Iterations of the search.", 1, 1000),
    "elites": ("Best candidates that the next iteration is fitted to.", 1, 10_000),
    "tolerated": ("Share above the cost that a straight way promises with which the search ends; 0: never.", 0.0, 10.0),
    "initial_std": ("Spread of the first candidates, in standard deviations of the recorded actions.", 0.01, 10.0),
    "noise_colour": ("Of icem: 0 is white noise, more is smoother over the horizon.", 0.0, 10.0),
    "full_width_from": ("Share of the farthest way in a horizon from which the search has full width.", 0.001, 1.0),
    "least_width": ("Width of the search at the goal, as share of the full width.", 0.001, 1.0),
    "effort": ("Cost of a joint's control step at full speed, in control steps of distance.", 0.0, 10.0),
    "policy_noise": ("Noise added to a policy, in standard deviations of the recorded actions.", 0.0, 10.0),
    "policy_least_steps": ("Least remaining time given to a goal-conditioned policy, control steps.", 1.0, 10_000.0),
    "policy_most_steps": ("Greatest remaining time given to a goal-conditioned policy, control steps.", 1.0, 10_000.0),
    "keep": ("Of shooting: a plan replaces the one before if it costs less than this share of it.", 0.001, 1.0),
    "resting": ("Share of full speed up to which the arm counts as resting.", 0.001, 1.0),
    "handover_margin_s": ("Seconds between the end of a plan and its hand-over: publishing and transport.", 0.0, 1.0),
    "deadline_s": ("Seconds after which the best plan so far is taken.", 0.001, 10.0),
    "while_moving": ("Plan the next block while one is executed; otherwise stop the arm to plan.", None, None),
}
MONITOR_FIELDS: dict[str, tuple[Any, ...]] = {
    "surprising": ("Multiple of the usual surprise or novelty above which a frame is surprising.", 1.0, 1000.0),
    "hold_frames": ("Consecutive surprising frames that hold the arm; fewer slow it down.", 1, 100),
    "calm_s": ("Seconds without a surprising frame after which the arm goes on at full speed.", 0.0, 60.0),
    "slow_speed": ("Share of full speed that a plan may use until then.", 0.01, 1.0),
    "lively": ("Mean squared change of the latent over a block above which frames show a moving arm.", 0.0, 10.0),
    "agrees_steps": ("Greatest offset, control steps, of a joint in a picture from where it was measured.", 0.0, 100.0),
    "frozen_steps": ("Control steps that the arm may move while the picture stays the very same.", 0.001, 100.0),
}

PARAMETERS = (
    *MODEL_PARAMETERS,
    Parameter("seed", 0, "Of the random candidates.", 0, 2**31 - 1),
    Parameter("allow_no_go", False, "Allow arming although the model's preflight (`lewm doctor model`) says NO-GO."),
    Parameter("dry_run", False, "Plan, publish and report as usual, but send nothing to the arm.", live=True),
    Parameter(
        "goal_tolerance",
        1.0,
        "Multiple of the calibrated distance at which a goal counts as reached.",
        0.1,
        10.0,
        live=True,
    ),
    *ARM_PARAMETERS,
    Parameter(
        "plan.horizon", 0, "Action blocks that a plan looks ahead; 0: the bundle's.", 0, MOST_BLOCKS, needed=False
    ),
    *rows("plan", PlanConfig(), PLAN_FIELDS),
    *rows("monitor", MonitorConfig(), MONITOR_FIELDS),
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Checked settings of planner_node."""

    arm: ArmSettings
    plan: PlanConfig
    monitor: MonitorConfig


def settings(values: Mapping[str, Any], bundle: Bundle) -> Settings:
    """Checked settings from parameter values by name, to plan with this bundle.

    :raises ParameterError: values cannot be used, or contradict each other, the bundle, the robot file or the URDF.
    """
    arm = arm_settings(values)
    try:
        return Settings(
            arm,
            PlanConfig(**{**below("plan", values), "horizon": bundle.horizon_for(values["plan.horizon"])}),
            MonitorConfig(**below("monitor", values)),
        )
    except (ValueError, ConfigError) as error:
        raise ParameterError(f"{error}; change it in the params file") from error
