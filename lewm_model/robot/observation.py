# SPDX-License-Identifier: Apache-2.0
"""From camera pictures to the model's picture, in the same way at recording, training and run time.

A robot has one or several cameras. Each one's picture is cropped and scaled, and they are put side by side, so that the
model sees a single picture. A goal is a picture of the same cameras.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

MOST_PIXELS = 1 << 16  # of a side; more is a typing error


class ObservationError(ValueError):
    """Cameras that cannot be used, or a picture that is not theirs; the message says why and what to do."""


def to_model_image(rgb: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Crops the middle of an RGB picture (H, W, 3) uint8 to the aspect ratio of `size` and scales it to (height, width,
    3).

    Scaling down averages areas, so that motion of less than a pixel still changes the picture.

    :param size: (height, width) in pixels, or one number for a square.
    :raises ValueError: `rgb` is not such a picture.
    """
    _check(rgb)
    height, width = (size, size) if isinstance(size, int) else size
    there_high, there_wide = rgb.shape[:2]
    high = min(there_high, max(1, round(there_wide * height / width)))
    wide = min(there_wide, max(1, round(there_high * width / height)))
    top, left = (there_high - high) // 2, (there_wide - wide) // 2
    return _scaled(rgb[top : top + high, left : left + wide], height, width)


@dataclass(frozen=True)
class Camera:
    """One camera and its part of the model's picture.

    :raises ObservationError: a field cannot be used.
    """

    name: str
    height: int  # pixels, of its part of the model's picture
    width: int  # pixels, likewise
    topic: str = "camera/image_raw"  # relative to the robot's namespace
    frame: str = ""  # tf frame of its pictures, the optical frame
    parent: str = ""  # tf frame that `pose` is in, such as the arm's base
    pose: tuple[float, ...] = ()  # of `frame` in `parent`: x, y, z in m, roll, pitch, yaw in rad; empty: not given
    # Top, left, height and width in pixels of its own picture, after rotation; None: the middle, as large as possible.
    crop: tuple[int, int, int, int] | None = None
    rotation: int = 0  # degrees, 0 or 180; 180 for a camera that is mounted upside down
    rectify: bool = False  # before anything else, with the camera_info beside its topic (`Rectifier`)

    def __post_init__(self) -> None:
        for name in ("name", "topic", "frame", "parent"):
            value = getattr(self, name)
            needed = name in ("name", "topic") or bool(self.pose)
            if not isinstance(value, str) or not value.isprintable() or (needed and not value):
                raise ObservationError(f"a camera's {name} is {reprlib.repr(value)}; it must be a name")
        if self.pose and (len(self.pose) != 6 or not all(map(_is_finite, self.pose))):
            raise ObservationError(
                f"the pose of camera '{self.name}' is {reprlib.repr(self.pose)}; it must be x, y, z in m and roll, "
                "pitch, yaw in rad"
            )
        for name in ("height", "width"):
            if not _is_size(getattr(self, name)):
                raise ObservationError(
                    f"the {name} of camera '{self.name}' is {reprlib.repr(getattr(self, name))}; "
                    f"it must be 1 to {MOST_PIXELS} pixels"
                )
        if self.rotation not in (0, 180) or isinstance(self.rotation, bool):
            raise ObservationError(f"camera '{self.name}' has rotation {self.rotation!r}; it must be 0 or 180 degrees")
        if not isinstance(self.rectify, bool):
            raise ObservationError(f"camera '{self.name}' has rectify {self.rectify!r}; it must be true or false")
        if self.crop is not None:
            good = isinstance(self.crop, tuple) and len(self.crop) == 4
            good = good and all(value == 0 or _is_size(value) for value in self.crop) and 0 not in self.crop[2:]
            if not good:
                raise ObservationError(
                    f"the crop of camera '{self.name}' is {reprlib.repr(self.crop)}; it must be top, left, height and "
                    "width in pixels, or be left out"
                )

    def picture(self, rgb: np.ndarray) -> np.ndarray:
        """This camera's part (height, width, 3) uint8 of the model's picture, from its own picture (H, W, 3) uint8,
        rectified already where `rectify` asks for it; a simulator's always is.

        :raises ObservationError: the crop lies outside the picture.
        """
        _check(rgb)
        if self.rotation == 180:
            rgb = rgb[::-1, ::-1]
        if self.crop is None:
            return to_model_image(rgb, (self.height, self.width))
        top, left, high, wide = self.crop
        if top + high > rgb.shape[0] or left + wide > rgb.shape[1]:
            raise ObservationError(
                f"camera '{self.name}' is cropped to rows {top} to {top + high} and columns {left} to {left + wide}, "
                f"its picture has {rgb.shape[0]} x {rgb.shape[1]}; are camera and resolution those of the recording?"
            )
        return _scaled(rgb[top : top + high, left : left + wide], self.height, self.width)


@dataclass(frozen=True)
class Observation:
    """The cameras of a model, from left to right in its picture.

    :raises ObservationError: there is none, two have the same name, or their parts differ in height.
    """

    cameras: tuple[Camera, ...]

    def __post_init__(self) -> None:
        names = [camera.name for camera in self.cameras]
        if not names or len(set(names)) != len(names):
            raise ObservationError(f"the cameras are {names}; there must be one or more, each with a name of its own")
        heights = {camera.height for camera in self.cameras}
        if len(heights) > 1:
            raise ObservationError(
                f"the parts of cameras {', '.join(names)} are {sorted(heights)} pixels high; they lie side by side, so "
                "give all the same height"
            )

    @classmethod
    def of_one(cls, size: tuple[int, int]) -> Observation:
        """One camera without crop, for a model's picture of `size` (height, width) pixels."""
        return cls((Camera("camera", *size),))

    @classmethod
    def from_list(cls, cameras: Any) -> Observation:
        """From JSON or YAML data: a list of mappings with the fields of `Camera`.

        :raises ObservationError: it does not describe cameras.
        """
        try:
            fields: list[dict[str, Any]] = [
                {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()} for values in cameras
            ]
            return cls(tuple(Camera(**values) for values in fields))
        except (TypeError, AttributeError) as error:
            raise ObservationError(f"this does not describe cameras: {error}") from error

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the model's picture, pixels."""
        return self.cameras[0].height, sum(camera.width for camera in self.cameras)

    def enlarged(self, side: int) -> Observation:
        """For display: enlarged by the least whole factor that makes the picture at least `side` pixels wide and
        high.
        """
        times = -(-side // min(self.size))
        return Observation(
            tuple(replace(camera, height=times * camera.height, width=times * camera.width) for camera in self.cameras)
        )

    def picture(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """The model's picture (*size, 3) uint8 from one picture (H, W, 3) uint8 of each camera, in order.

        :raises ObservationError: a crop lies outside its picture.
        """
        parts = [camera.picture(rgb) for camera, rgb in zip(self.cameras, pictures, strict=True)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def goal(self, rgb: np.ndarray) -> np.ndarray:
        """The model's picture from a goal picture (H, W, 3) uint8: a picture of the single camera, or one of the
        model's size already, which is required with several cameras.

        :raises ObservationError: it is neither.
        """
        if rgb.shape[:2] == self.size:
            _check(rgb)
            return rgb
        if len(self.cameras) > 1:
            high, wide = self.size
            raise ObservationError(
                f"the goal picture is {rgb.shape[0]} x {rgb.shape[1]}; with cameras "
                f"{', '.join(camera.name for camera in self.cameras)} it must show them side by side, {high} x {wide} "
                "pixels, as capture_goal does"
            )
        return self.picture([rgb])


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_PIXELS


def _check(rgb: np.ndarray) -> None:
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise ValueError(f"a picture must be (H, W, 3) uint8 and not empty, this one is {rgb.shape} {rgb.dtype}")


def _scaled(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    if rgb.shape[:2] == (height, width):
        return rgb.copy()
    import cv2  # not at the top: building engines needs the classes above, and OpenCV may not be installed there

    smaller = rgb.shape[0] >= height and rgb.shape[1] >= width
    return cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
