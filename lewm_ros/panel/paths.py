# SPDX-License-Identifier: Apache-2.0
"""The planned paths of the end effector in the camera's picture, where the robot file says where the camera is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from lewm_model.robot.chain import Chain
from lewm_model.robot.observation import ObservationError
from lewm_model.robot.rectify import MODELS
from lewm_model.robot.robot import Robot
from lewm_ros.debug_picture import BLUE, GREEN
from lewm_ros.markers import tip_path
from lewm_ros.messages import message_to_array, message_to_trajectory

MOST_ELITES = 20  # best candidates that are drawn; more lines would hide the picture
NEAREST_M = 0.02  # in front of the camera; what is nearer, or behind it, is not drawn


@dataclass(frozen=True)
class Paths:
    """Draws paths of an arm into the picture of a camera at a known place."""

    chain: Chain
    joints: tuple[str, ...]  # of the chain
    rotation: np.ndarray  # (3, 3) from the arm's base to the camera's optical frame
    offset_m: np.ndarray  # (3,) of the base in that frame

    @classmethod
    def of(cls, robot: Robot, topic: str) -> Paths | None:
        """For the camera on `topic`; None where the robot file has no kinematics, or no place of it in the arm's base.

        :raises ConfigError, LimitsError: the robot file's kinematics cannot be used.
        """
        camera = next((each for each in robot.cameras if each.topic == topic and each.pose), None)
        if camera is None or robot.kinematics is None or camera.parent != robot.kinematics.base:
            return None
        position, angles = np.array(camera.pose[:3]), np.array(camera.pose[3:])
        roll, pitch, yaw = (cv2.Rodrigues(angle * axis)[0] for angle, axis in zip(angles, np.eye(3), strict=True))
        rotation = (yaw @ pitch @ roll).T
        return cls(robot.chain(), robot.arm, rotation, -rotation @ position)

    def pixels(self, path: np.ndarray, info: Any) -> np.ndarray:
        """Where the tip is in the camera's picture, (n, 2) x and y, on a path (N, A) rad of the chain's joints; points
        that the camera cannot see are left out.

        :param info: the camera's CameraInfo.
        :raises ObservationError: its distortion is not known.
        """
        coefficients = np.array(info.d, float)
        if info.distortion_model == "equidistant" or len(coefficients) not in MODELS.get(info.distortion_model, ()):
            raise ObservationError(f"paths are not drawn with the distortion model {info.distortion_model!r}")
        points = tip_path(self.chain, path) @ self.rotation.T + self.offset_m
        points = points[points[:, 2] > NEAREST_M]
        if not len(points):
            return np.zeros((0, 2))
        still = np.zeros(3)
        return cv2.projectPoints(points, still, still, np.array(info.k, float).reshape(3, 3), coefficients)[0][:, 0]

    def draw(self, picture: np.ndarray, info: Any, plan: Any, elites: Any) -> np.ndarray:
        """A copy of the camera's picture (H, W, 3) uint8 RGB: candidates thin and blue, the plan green with its end.

        :param plan: message of `~/plan`, or None.
        :param elites: message of `~/elites`, whose joints are the plan's, or None.
        :raises MessageError, ObservationError: a message cannot be used.
        """
        drawn = picture.copy()
        if plan is None or not set(self.joints) <= set(plan.joint_names):
            return drawn
        columns = [list(plan.joint_names).index(joint) for joint in self.joints]
        scale = np.array([picture.shape[1] / info.width, picture.shape[0] / info.height])
        thin = max(1, picture.shape[1] // 400)
        if elites is not None:
            for path in message_to_array(elites, channels=len(plan.joint_names))[:MOST_ELITES][::-1]:
                _line(drawn, self.pixels(path[:, columns], info) * scale, BLUE, thin)
        way = self.pixels(message_to_trajectory(plan, plan.joint_names).positions[:, columns], info) * scale
        _line(drawn, way, GREEN, 3 * thin)
        if len(way):
            cv2.circle(drawn, _rounded(way)[-1].tolist(), 5 * thin, GREEN, -1, cv2.LINE_AA)
        return drawn


def _rounded(points: np.ndarray) -> np.ndarray:
    """Points (n, 2) as whole pixels; far outside of a picture as far as OpenCV draws."""
    return np.clip(points, -10_000, 10_000).round().astype(np.int32)


def _line(picture: np.ndarray, points: np.ndarray, colour: Sequence[int], width: int) -> None:
    cv2.polylines(picture, [_rounded(points)[:, None]], False, colour, width, cv2.LINE_AA)
