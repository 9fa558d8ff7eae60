# SPDX-License-Identifier: Apache-2.0
"""A loaded world, as the loaders of SDF worlds and scenes return it to the simulated arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import mujoco
import numpy as np

from lewm_model.robot.limits import JointLimits
from lewm_model.robot.observation import Camera as ModelCamera
from lewm_model.robot.observation import Observation
from lewm_model.robot.robot import Robot

END_EFFECTOR = "end_effector"  # name of the site at the arm's tip, behind the arm's prefix


@dataclass(frozen=True)
class Arm:
    """The joints that the trajectory controllers move, and their servos. Arrays are (A,) float64 in the joints' order.

    `held` are further joints, which their servos keep at a position, rad.
    """

    limits: JointLimits
    home: np.ndarray  # rad, positions at the start
    effort: np.ndarray  # N m
    position_gain: np.ndarray  # N m/rad
    velocity_gain: np.ndarray  # N m s/rad
    held: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Camera:
    """A camera of the world, by its name in the model."""

    name: str
    width: int  # pixels
    height: int  # pixels
    rate_hz: float
    topic: str = ""  # from the robot file; "" if that does not have the camera


def side_by_side(cameras: Sequence[Camera], height: int) -> Observation:
    """The observation of all cameras side by side, each with its own aspect ratio and `height` pixels high. Without a
    topic in the robot file the first gets camera/image_raw, and each other one a topic with its name.
    """
    first = cameras[0].name
    return Observation(
        tuple(
            ModelCamera(
                each.name,
                height,
                max(1, round(height * each.width / each.height)),
                each.topic or ("camera/image_raw" if each.name == first else f"{each.name}/image_raw"),
            )
            for each in cameras
        )
    )


@dataclass(frozen=True)
class State:
    """A world at rest: joint positions (A,) rad, and poses (7,) of objects by name, position x y z in m and quaternion
    w x y z. Objects that are not named are where the file has them.
    """

    joints: np.ndarray
    objects: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class World:
    """A loaded world. MuJoCo names are `model::link`, `model::joint`; each arm joint has an actuator of its name."""

    model: mujoco.MjModel
    arm_name: str
    arm: Arm
    cameras: tuple[Camera, ...]  # a model with one camera uses the first
    objects: Mapping[str, str]  # name of every freely moving object -> name of its body in the model
    robot: Robot | None = None  # the robot file of a scene; None for an SDF world
