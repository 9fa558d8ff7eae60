# SPDX-License-Identifier: Apache-2.0
"""Messages to arrays and back: what is read is read right, and the rest is refused with a reason."""

import array
import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from lewm_model.planning.motion import Trajectory
from lewm_ros.messages import (
    PIXEL_BYTES,
    ImageError,
    MessageError,
    joint_state_message,
    latent_to_message,
    message_to_joint_positions,
    message_to_latent,
    message_to_pose,
    message_to_rgb,
    message_to_trajectory,
    nanoseconds,
    pose_message,
    rgb_to_message,
    time_message,
    trajectory_to_message,
)

JOINTS = ("shoulder", "elbow")
PICTURE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)


def image(encoding: str, pixels: np.ndarray, padding: int = 0, **changes) -> Image:
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    padded = np.hstack([rows, np.full((height, padding), 77, np.uint8)])
    fields = {
        "height": height,
        "width": width,
        "encoding": encoding,
        "step": padded.shape[1],
        "data": array.array("B", padded.tobytes()),
    }
    return Image(**{**fields, **changes})


def over_the_wire(message):
    return deserialize_message(serialize_message(message), type(message))


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", PICTURE),
        ("bgr8", PICTURE[..., ::-1]),
        ("rgba8", np.dstack([PICTURE, np.full((6, 8), 9, np.uint8)])),
        ("bgra8", np.dstack([PICTURE[..., ::-1], np.full((6, 8), 9, np.uint8)])),
    ],
)
def test_colour_encodings_give_the_same_picture_with_and_without_padded_rows(encoding, pixels, padding):
    np.testing.assert_array_equal(message_to_rgb(over_the_wire(image(encoding, pixels, padding))), PICTURE)


def test_grey_pictures_become_rgb_with_three_equal_channels():
    grey = PICTURE[..., 0]
    np.testing.assert_array_equal(message_to_rgb(image("mono8", grey, padding=3)), np.repeat(grey[..., None], 3, 2))


@pytest.mark.parametrize(
    ("encoding", "rows"),
    [("bayer_rggb8", ("rg", "gb")), ("bayer_bggr8", ("bg", "gr")), ("bayer_gbrg8", ("gb", "rg"))],
)
def test_bayer_pictures_of_one_colour_show_that_colour(encoding, rows):
    colour = {"r": 200, "g": 120, "b": 40}
    tile = np.array([[colour[c] for c in row] for row in rows], np.uint8)
    rgb = message_to_rgb(image(encoding, np.tile(tile, (8, 8))))
    np.testing.assert_array_equal(rgb[4:-4, 4:-4], np.broadcast_to([200, 120, 40], (8, 8, 3)))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (image("jpeg", PICTURE), "'jpeg' cannot be read; send one of rgb8"),
        (image("", PICTURE), "'' cannot be read"),
        (image("32FC1", PICTURE), "'32FC1' cannot be read"),
        (image("rgb8", PICTURE, width=0), "has no pixels"),
        (image("rgb8", PICTURE, height=0), "has no pixels"),
        (image("rgb8", PICTURE, step=23), "needs rows of 24 bytes, its step is 23"),
        (image("rgb8", PICTURE, data=array.array("B", bytes(24 * 6 - 1))), "needs 144 bytes, it has 143"),
        (image("rgb8", PICTURE, height=2**31), "bytes, it has 144"),
    ],
)
def test_an_image_that_cannot_be_read_is_refused_with_the_reason(message, reason):
    with pytest.raises(ImageError) as refusal:
        message_to_rgb(message)
    assert reason in str(refusal.value)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([*PIXEL_BYTES, "mono16", "yuv422", "32FC1", "", "x"]),
    *(st.integers(0, 40) for _ in range(3)),
    st.booleans(),
    st.binary(max_size=600),
)
def test_whatever_an_image_says_it_is_read_or_refused(encoding, width, height, step, big_endian, data):
    message = Image(
        encoding=encoding,
        width=width,
        height=height,
        step=step,
        is_bigendian=big_endian,
        data=array.array("B", data),
    )
    try:
        rgb = message_to_rgb(message)
    except ImageError:
        return
    assert rgb.shape == (height, width, 3)
    assert rgb.dtype == np.uint8


def test_a_picture_and_its_stamp_survive_the_wire():
    stamp_ns = 1_700_000_000_123_456_789
    message = over_the_wire(rgb_to_message(PICTURE, stamp_ns, "camera_link"))
    assert nanoseconds(message.header.stamp) == stamp_ns
    assert message.header.frame_id == "camera_link"
    np.testing.assert_array_equal(message_to_rgb(message), PICTURE)


def test_filling_an_image_message_takes_less_than_a_frame_period():
    picture = np.zeros((480, 640, 3), np.uint8)
    begin = time.perf_counter()
    for _ in range(10):
        rgb_to_message(picture, 0)
    assert (time.perf_counter() - begin) / 10 < 0.02


def test_stamps_keep_every_nanosecond_and_never_go_below_zero():
    assert nanoseconds(time_message(1_999_999_999)) == 1_999_999_999
    assert nanoseconds(time_message(-5)) == 0


# ---- latents ---------------------------------------------------------------------------------------------------------


def test_a_latent_survives_the_wire_bit_for_bit():
    latent = np.random.default_rng(1).normal(size=32).astype(np.float32)
    message = over_the_wire(latent_to_message(latent, 42))
    assert (message.height, message.width, message.encoding, message.step) == (1, 32, "32FC1", 128)
    np.testing.assert_array_equal(message_to_latent(message, 32), latent)


def test_a_big_endian_latent_is_read_right():
    latent = np.array([1.5, -2.0], np.float32)
    message = latent_to_message(latent, 0)
    message.is_bigendian, message.data = 1, array.array("B", latent.astype(">f4").tobytes())
    np.testing.assert_array_equal(message_to_latent(message, 2), latent)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"encoding": "rgb8"}, "remap the topic"),
        ({"height": 2}, "remap the topic"),
        ({"width": 3}, "same bundle"),
        ({"step": 4}, "needs rows of 8 bytes"),
        ({"data": array.array("B", bytes(4))}, "it has 4"),
        ({"data": array.array("B", np.array([0.0, np.nan], "<f4").tobytes())}, "NaN or infinity"),
        ({"data": array.array("B", np.array([np.inf, 0.0], "<f4").tobytes())}, "NaN or infinity"),
    ],
)
def test_a_latent_that_cannot_be_used_is_refused_with_the_reason(change, reason):
    message = latent_to_message(np.zeros(2, np.float32), 0)
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(ImageError) as refusal:
        message_to_latent(message, 2)
    assert reason in str(refusal.value)


# ---- joints ----------------------------------------------------------------------------------------------------------


def test_joint_positions_are_taken_by_name_whatever_the_order():
    message = joint_state_message(("gripper", "elbow", "shoulder"), np.array([9.0, 2.0, 1.0]), np.zeros(3), 5)
    np.testing.assert_array_equal(message_to_joint_positions(over_the_wire(message), JOINTS), [1.0, 2.0])


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (JointState(name=["shoulder"], position=[1.0]), "no position for elbow"),
        (JointState(name=["shoulder", "elbow"], position=[1.0]), "no position for elbow"),
        (JointState(), "none at all"),
        (JointState(name=["shoulder", "elbow"], position=[1.0, float("nan")]), "not finite"),
    ],
)
def test_a_joint_state_that_lacks_something_is_refused_with_the_reason(message, reason):
    with pytest.raises(MessageError) as refusal:
        message_to_joint_positions(message, JOINTS)
    assert reason in str(refusal.value)


def test_a_pose_survives_the_wire_and_what_is_none_is_refused():
    pose = np.array([0.1, -0.2, 0.3, 0.5, -0.5, 0.5, -0.5])
    message = over_the_wire(pose_message(pose, 7, "world"))
    np.testing.assert_array_equal(message_to_pose(message, "world"), pose)
    assert nanoseconds(message.header.stamp) == 7
    with pytest.raises(MessageError, match="in the frame 'world'; give it in 'base_link'"):
        message_to_pose(message, "base_link")
    for wrong in (0.0 * pose, np.append(np.nan, pose[1:]), 2.0 * pose):
        with pytest.raises(MessageError, match="unit quaternion"):
            message_to_pose(pose_message(wrong, 7, "world"), "world")


def test_a_trajectory_survives_the_wire_to_the_nanosecond():
    times = 12.345678 + 0.05 * np.arange(7)
    rng = np.random.default_rng(2)
    sent = Trajectory(times, rng.normal(size=(7, 2)), rng.normal(size=(7, 2)))
    epoch_ns = 1_700_000_000_000_000_001
    points = message_to_trajectory(over_the_wire(trajectory_to_message(sent, JOINTS, epoch_ns)), JOINTS)
    assert abs(points.stamp_ns - (epoch_ns + 12_345_678_000)) <= 1
    np.testing.assert_allclose(points.times_s, times - times[0], atol=1e-9)
    np.testing.assert_array_equal(points.positions, sent.positions)
    np.testing.assert_array_equal(points.velocities, sent.velocities)


def test_trajectory_columns_follow_the_joint_names():
    point = JointTrajectoryPoint(positions=[2.0, 1.0])
    points = message_to_trajectory(JointTrajectory(joint_names=["elbow", "shoulder"], points=[point]), JOINTS)
    np.testing.assert_array_equal(points.positions, [[1.0, 2.0]])
    assert points.velocities is None


@pytest.mark.parametrize(
    ("names", "points", "reason"),
    [
        (["shoulder"], [JointTrajectoryPoint(positions=[0.0])], "the arm has shoulder, elbow"),
        (["shoulder", "wrist"], [], "shoulder, wrist"),
        (list(JOINTS), [], "no points"),
        (list(JOINTS), [JointTrajectoryPoint(positions=[0.0])], "1 positions"),
        (list(JOINTS), [JointTrajectoryPoint(positions=[0.0, 0.0], velocities=[0.0])], "1 velocities"),
    ],
)
def test_a_trajectory_for_another_arm_or_with_holes_is_refused(names, points, reason):
    with pytest.raises(MessageError) as refusal:
        message_to_trajectory(JointTrajectory(joint_names=names, points=points), JOINTS)
    assert reason in str(refusal.value)


def test_bayer_conversion_is_opencv_s():
    mosaic = np.random.default_rng(3).integers(0, 256, (16, 16), np.uint8)
    expected = cv2.cvtColor(mosaic, cv2.COLOR_BayerBG2RGB)
    np.testing.assert_array_equal(message_to_rgb(image("bayer_rggb8", mosaic)), expected)
