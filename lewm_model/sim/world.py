# SPDX-License-Identifier: Apache-2.0
"""What every loader of worlds and scenes gives to the simulated arm."""

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
    """The joints that the trajectory controller moves, and its servos. Arrays are (A,) float64 in its order.

    `held` are joints with a servo that keeps them where they are, and what that is, rad.
    """

    limits: JointLimits
    home: np.ndarray  # rad, where it begins
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
    topic: str = ""  # of the robot file; "" where that does not know the camera


def side_by_side(cameras: Sequence[Camera], height: int) -> Observation:
    """The pictures of all cameras, each with its own proportions and so many pixels high. Where no robot file says
    their topics, the first has that of any robot's camera, the others one with their names.
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
    """The world at rest: joint positions (A,) rad, and by name the poses (7,) of objects, position x y z in m and
    quaternion w x y z. Objects that are not named lie where the world has them.
    """

    joints: np.ndarray
    objects: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class World:
    """A loaded world. MuJoCo names are `model::link`, `model::joint`; each arm joint has an actuator of its name."""

    model: mujoco.MjModel
    arm_name: str
    arm: Arm
    cameras: tuple[Camera, ...]  # the first is the one that a goal is shown with
    objects: Mapping[str, str]  # name of everything that moves freely, and of its body
    robot: Robot | None = None  # of a scene
