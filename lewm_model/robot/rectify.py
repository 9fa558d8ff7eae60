# SPDX-License-Identifier: Apache-2.0
"""Rectification: a camera's picture as a lens without distortion would make it, the same for recordings and live."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from lewm_model.robot.encodings import MOST_PIXELS
from lewm_model.robot.observation import ObservationError

# sensor_msgs/distortion_models.hpp: by name, numbers of coefficients that OpenCV takes.
MODELS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}


class Rectifier:
    """Rectifies the pictures of one camera, as image_proc does, with the calibration of its camera_info.

    :param info: a sensor_msgs/CameraInfo message, or an object with its fields.
    :raises ObservationError: the camera is not calibrated, or with a distortion that is not in MODELS.
    """

    def __init__(self, info: Any) -> None:
        try:
            self._size = int(info.height), int(info.width)
            coefficients, model = np.array(info.d, float), str(info.distortion_model)
            camera, turn, projection = (np.array(numbers, float).reshape(3, -1) for numbers in (info.k, info.r, info.p))
        except (AttributeError, TypeError, ValueError) as error:
            raise ObservationError(f"this camera_info cannot be read: {error}") from error
        if len(coefficients) not in MODELS.get(model, ()):
            raise ObservationError(
                f"the camera_info has {len(coefficients)} coefficients of the distortion model {model!r}; pictures can "
                f"be rectified with {', '.join(f'{name}: {counts}' for name, counts in MODELS.items())}"
            )
        numbers = np.concatenate([coefficients, *(matrix.ravel() for matrix in (camera, turn, projection))])
        focal = camera[0, 0] * camera[1, 1] * projection[0, 0] * projection[1, 1]
        if not np.isfinite(numbers).all() or focal == 0.0 or not 0 < self._size[0] * self._size[1] <= MOST_PIXELS:
            raise ObservationError(
                "the camera_info holds no calibration: calibrate the camera, as with camera_calibration, and load the "
                "result into its driver"
            )
        make = cv2.fisheye.initUndistortRectifyMap if model == "equidistant" else cv2.initUndistortRectifyMap
        self._maps = make(camera, coefficients, turn, projection[:, :3], self._size[::-1], cv2.CV_16SC2)

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """The rectified picture, (H, W, 3) uint8 as `rgb`; black where the camera saw nothing.

        :raises ObservationError: the picture is not of the calibrated size.
        """
        if rgb.shape[:2] != self._size:
            raise ObservationError(
                f"the picture is {rgb.shape[0]} x {rgb.shape[1]} and its camera_info is for {self._size[0]} x "
                f"{self._size[1]}; calibrate the camera at the resolution that it is used with"
            )
        return cv2.remap(rgb, *self._maps, cv2.INTER_LINEAR)


def camera_info_topic(image_topic: str) -> str:
    """The topic of the calibration of a camera, which lies beside that of its pictures, as image_transport has it."""
    beside = image_topic.removesuffix("/compressed").rpartition("/")[0]
    return f"{beside}/camera_info" if beside else "camera_info"
