# SPDX-License-Identifier: Apache-2.0
"""A camera's calibration undoes the distortion of its lens, in a recording as in the nodes, or is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from bags import BagWriter, write_motion

from lewm_model.data.clips import load_episodes
from lewm_model.data.converters.rosbag2.convert import convert_bag
from lewm_model.data.converters.view import View
from lewm_model.data.errors import DataError
from lewm_model.robot.observation import Camera, ObservationError
from lewm_model.robot.rectify import Rectifier, camera_info_topic

HIGH, WIDE = 96, 128
K = [100.0, 0.0, 64.0, 0.0, 100.0, 48.0, 0.0, 0.0, 1.0]
BARREL = [-0.25, 0.06, 0.001, -0.001, 0.0]


def calibration(model: str = "plumb_bob", d: list[float] | None = None, **fields: Any) -> dict[str, Any]:
    """The fields of a CameraInfo message."""
    given = {"height": HIGH, "width": WIDE, "distortion_model": model, "d": BARREL if d is None else d, "k": K}
    given |= {"r": np.eye(3).ravel().tolist(), "p": [*K[:3], 0.0, *K[3:6], 0.0, *K[6:], 0.0]}
    return {**given, **fields}


def rectifier(**fields: Any) -> Rectifier:
    return Rectifier(SimpleNamespace(**calibration(**fields)))


def seen_through(undistort: Any, d: list[float]) -> np.ndarray:
    """What a distorting lens makes of a scene that grows brighter to the right in red, and downwards in green."""
    pixels = np.stack(np.meshgrid(np.arange(WIDE), np.arange(HIGH)), -1).reshape(-1, 1, 2).astype(float)
    matrix = np.array(K).reshape(3, 3)
    ideal = undistort(pixels, matrix, np.array(d), P=matrix).reshape(HIGH, WIDE, 2)
    return scene(ideal)


def scene(points: np.ndarray) -> np.ndarray:
    """Its colours (H, W, 3) at points (H, W, 2), pixels of a lens without distortion."""
    red, green = 64.0 + points[..., 0], 64.0 + points[..., 1]
    return np.clip(np.stack([red, green, np.full_like(red, 9.0)], -1), 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize(
    ("model", "d", "undistort"),
    [
        ("plumb_bob", BARREL, cv2.undistortPoints),
        ("rational_polynomial", [-0.2, 0.05, 0.0, 0.0, 0.0, 0.05, 0.01, 0.0], cv2.undistortPoints),
        ("equidistant", [0.05, -0.01, 0.0, 0.0], cv2.fisheye.undistortPoints),
    ],
)
def test_a_rectified_picture_shows_what_a_lens_without_distortion_shows(
    model: str, d: list[float], undistort: Any
) -> None:
    distorted = seen_through(undistort, d)
    straight = scene(np.stack(np.meshgrid(np.arange(WIDE), np.arange(HIGH)), -1).astype(float))
    inner = np.s_[16:-16, 16:-16]
    assert np.abs(distorted[inner].astype(int) - straight[inner]).max() >= 3, "there is something to undo"
    rectified = rectifier(model=model, d=d)(distorted)
    assert rectified.dtype == np.uint8
    assert np.abs(rectified[inner].astype(int) - straight[inner]).max() <= 1


def test_a_lens_that_does_not_distort_changes_nothing() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (HIGH, WIDE, 3), np.uint8)
    np.testing.assert_array_equal(rectifier(d=[0.0] * 5)(picture), picture)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"k": [0.0] * 9}, "holds no calibration: calibrate the camera"),
        ({"p": [float("nan")] * 12}, "holds no calibration"),
        ({"width": 2**31, "height": 2**31}, "holds no calibration"),
        ({"model": "fov"}, "5 coefficients of the distortion model 'fov'; pictures can be rectified with plumb_bob"),
        ({"d": []}, "0 coefficients of the distortion model 'plumb_bob'"),
        ({"k": [1.0]}, "cannot be read"),
    ],
)
def test_a_calibration_that_cannot_be_used_is_refused_with_the_reason(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ObservationError, match=said):
        rectifier(**fields)


def test_a_picture_of_another_size_than_the_calibration_is_refused() -> None:
    with pytest.raises(ObservationError, match="the picture is 48 x 64 and its camera_info is for 96 x 128"):
        rectifier()(np.zeros((48, 64, 3), np.uint8))


def test_a_calibration_lies_beside_its_pictures() -> None:
    assert camera_info_topic("/camera/color/image_raw") == "/camera/color/camera_info"
    assert camera_info_topic("/camera/image_raw/compressed") == "/camera/camera_info"
    assert camera_info_topic("image") == "camera_info"


def test_whether_to_rectify_is_yes_or_no() -> None:
    with pytest.raises(ObservationError, match="rectify 'yes'; it must be true or false"):
        Camera("front", 32, 32, rectify="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pose": (0.0,) * 5}, "it must be x, y, z in m and roll, pitch, yaw in rad"),
        ({"pose": (0.0, 0.0, 0.0, 0.0, 0.0, float("nan"))}, "it must be x, y, z in m"),
        ({"pose": (0.0,) * 6, "parent": ""}, "a camera's parent is ''; it must be a name"),
        ({"pose": (0.0,) * 6, "frame": ""}, "a camera's frame is ''; it must be a name"),
    ],
)
def test_a_pose_has_six_numbers_and_two_frames(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ObservationError, match=said):
        Camera(**{"name": "front", "height": 8, "width": 8, "frame": "lens", "parent": "base", **fields})


# ---- a recording -----------------------------------------------------------------------------------------------------


def motion(times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    t = np.asarray(times_s)[:, None] + np.array([[0.0, 0.7]])
    return 0.5 * np.sin(t), 0.5 * np.cos(t)


def convert(path: Path, camera: Camera) -> np.ndarray:
    out = path.with_suffix(f".{camera.rectify}.h5")
    convert_bag([path], out, control_dt_s=0.05, view=View((camera,)))
    return np.asarray(load_episodes(out).pixels[:])


@pytest.mark.parametrize("suffix", ["", ".png"])
def test_a_recording_is_rectified_where_the_robot_file_asks_for_it(tmp_path: Path, suffix: str) -> None:
    picture = seen_through(cv2.undistortPoints, BARREL)
    camera = Camera("front", 12, 16, rectify=True)
    with BagWriter(tmp_path / "a.mcap") as bag:
        bag.calibration(calibration(), 999.0)
        write_motion(bag, motion, 0.05 * np.arange(10), lambda i: picture, compressed=suffix)
    np.testing.assert_array_equal(convert(tmp_path / "a.mcap", camera)[0], camera.picture(rectifier()(picture)))
    plain = dataclasses.replace(camera, rectify=False)
    np.testing.assert_array_equal(convert(tmp_path / "a.mcap", plain)[0], plain.picture(picture))


def test_a_large_jpeg_is_decoded_whole_to_be_rectified(tmp_path: Path) -> None:
    picture = seen_through(cv2.undistortPoints, BARREL)
    with BagWriter(tmp_path / "a.mcap") as bag:
        bag.calibration(calibration(), 999.0)
        write_motion(bag, motion, 0.05 * np.arange(10), lambda i: picture, compressed=".jpg")
    camera = Camera("front", 6, 8, rectify=True)  # so small that JPEGs are usually decoded at 1/8
    pixels = convert(tmp_path / "a.mcap", camera)[0].astype(int)
    assert np.abs(pixels - camera.picture(rectifier()(picture))).max() < 8


def test_a_recording_without_a_calibration_cannot_be_rectified_and_says_so(tmp_path: Path) -> None:
    picture = np.zeros((HIGH, WIDE, 3), np.uint8)
    with BagWriter(tmp_path / "a.mcap") as bag:
        write_motion(bag, motion, 0.05 * np.arange(10), lambda i: picture)
    with pytest.raises(DataError, match="has no calibration on /camera/camera_info, by which the robot file"):
        convert(tmp_path / "a.mcap", Camera("front", 12, 16, rectify=True))
    with BagWriter(tmp_path / "b.mcap") as bag:
        bag.calibration(calibration(k=[0.0] * 9), 999.0)
        write_motion(bag, motion, 0.05 * np.arange(10), lambda i: picture)
    with pytest.raises(DataError, match=r"b\.mcap, /camera/camera_info: the camera_info holds no calibration"):
        convert(tmp_path / "b.mcap", Camera("front", 12, 16, rectify=True))
