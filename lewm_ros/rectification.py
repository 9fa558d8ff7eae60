# SPDX-License-Identifier: Apache-2.0
"""Rectifies the pictures of the cameras that ask for it, with the camera_info that their drivers publish."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

import numpy as np
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo

from lewm_model.robot.observation import Camera, ObservationError
from lewm_model.robot.rectify import Rectifier, camera_info_topic


class Rectification:
    """Subscribes to the calibration of each camera with `rectify`, and keeps the first one that can be used."""

    def __init__(self, node: Node, cameras: Sequence[Camera]) -> None:
        self._node = node
        self._rectifiers: list[Rectifier | None] = [None] * len(cameras)
        self._problems = {
            i: f"no calibration has come on {camera_info_topic(node.resolve_topic_name(camera.topic))}, by which the "
            f"pictures of camera {camera.name!r} are to be rectified"
            for i, camera in enumerate(cameras)
            if camera.rectify
        }
        self._complete = threading.Event()
        if not self._problems:
            self._complete.set()
        self._subscriptions = [
            node.create_subscription(
                CameraInfo,
                camera_info_topic(node.resolve_topic_name(cameras[i].topic)),
                partial(self._on_info, i),
                qos_profile_sensor_data,
            )
            for i in self._problems
        ]

    def _on_info(self, camera: int, info: CameraInfo) -> None:
        if camera not in self._problems:
            return
        try:
            self._rectifiers[camera] = Rectifier(info)
        except ObservationError as error:
            if str(error) != self._problems[camera]:
                self._node.get_logger().error(str(error))
            self._problems[camera] = str(error)
            return
        del self._problems[camera]
        if not self._problems:
            self._complete.set()

    @property
    def problem(self) -> str:
        """Why pictures cannot be rectified yet; empty once they can."""
        return "; ".join(self._problems.values())

    def wait(self, timeout_s: float) -> bool:
        """Waits until pictures can be rectified; returns whether they can."""
        return self._complete.wait(timeout_s)

    def __call__(self, camera: int, rgb: np.ndarray) -> np.ndarray:
        """A picture (H, W, 3) uint8 RGB of a camera, given by its number, rectified if its robot file asks for it.

        :raises ObservationError: it is not of the calibrated size.
        """
        rectify = self._rectifiers[camera]
        return rgb if rectify is None else rectify(rgb)

    def destroy(self) -> None:
        """Ends the subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
