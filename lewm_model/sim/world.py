"""What every loader of worlds and scenes gives to the simulated arm."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from lewm_model.robot.limits import JointLimits

END_EFFECTOR = "end_effector"  # name of the site at the arm's tip, behind the arm's prefix


@dataclass(frozen=True)
class Arm:
    """The joints that the trajectory controller moves, and its servos. Arrays are (A,) float64 in its order."""

    limits: JointLimits
    home: np.ndarray  # rad, where it begins
    effort: np.ndarray  # N m
    position_gain: np.ndarray  # N m/rad
    velocity_gain: np.ndarray  # N m s/rad


@dataclass(frozen=True)
class Camera:
    """A camera of the world, by its name in the model."""

    name: str
    width: int  # pixels
    height: int  # pixels
    rate_hz: float


@dataclass(frozen=True)
class World:
    """A loaded world. MuJoCo names are `model::link`, `model::joint`; each arm joint has an actuator of its name."""

    model: mujoco.MjModel
    arm_name: str
    arm: Arm
    cameras: tuple[Camera, ...]  # the first is the one that a goal is shown with
    free_bodies: tuple[str, ...]  # every body that moves freely
