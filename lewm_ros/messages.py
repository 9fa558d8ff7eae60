# SPDX-License-Identifier: Apache-2.0
"""ROS messages to numpy arrays and back, each checked before it is used.

Whatever arrives may be wrong: a message that cannot be read raises `MessageError` with the reason, and nothing else.
Stamps are integers in nanoseconds. Subtract an epoch before converting them to seconds, so that no precision is lost.
"""

from __future__ import annotations

import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cv_bridge.boost.cv_bridge_boost import cvtColor2
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion
from rclpy.duration import Duration
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from lewm_model.planning.motion import Trajectory
from lewm_model.robot.encodings import EncodingError, compressed_to_rgb, raw_to_rgb

NANOSECONDS = 1_000_000_000
LAST_STAMP_NS = 2**31 * NANOSECONDS - 1  # a stamp has its seconds as int32
LATENT_ENCODING = "32FC1"
PIXEL_BYTES = {  # bytes per pixel of the encodings that cv_bridge converts
    "rgb8": 3,
    "bgr8": 3,
    "rgba8": 4,
    "bgra8": 4,
    "mono8": 1,
    "bayer_rggb8": 1,
    "bayer_bggr8": 1,
    "bayer_gbrg8": 1,
}


class MessageError(ValueError):
    """A message that cannot be used; the text says why."""


class ImageError(MessageError):
    """An image message, also one that carries a latent, that cannot be read."""


# ---- time ------------------------------------------------------------------------------------------------------------


def nanoseconds(time: Any) -> int:
    """A message's stamp or duration as a whole number of nanoseconds."""
    return int(time.sec) * NANOSECONDS + int(time.nanosec)


def time_message(stamp_ns: int) -> Any:
    """A stamp of `stamp_ns` nanoseconds since the epoch of the clock, clipped to what a stamp can hold."""
    return Time(nanoseconds=min(max(0, stamp_ns), LAST_STAMP_NS)).to_msg()


# ---- pictures and latents --------------------------------------------------------------------------------------------


def rgb_to_message(rgb: np.ndarray, stamp_ns: int, frame_id: str = "") -> Image:
    """A picture (H, W, 3) uint8 RGB as an rgb8 image message."""
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"a picture must be (H, W, 3) uint8, this one is {rgb.shape} {rgb.dtype}")
    height, width = rgb.shape[:2]
    # An array, which rclpy takes as it is; bytes, as cv_bridge makes them, it would convert one by one.
    return Image(
        header=Header(stamp=time_message(stamp_ns), frame_id=frame_id),
        height=height,
        width=width,
        encoding="rgb8",
        step=3 * width,
        data=array.array("B", rgb.tobytes()),
    )


def message_to_rgb(message: Image | CompressedImage) -> np.ndarray:
    """The picture of an image message, (H, W, 3) uint8 RGB.

    :raises ImageError: an encoding that is not in `lewm_model.robot.encodings.ENCODINGS`, no pixels, a size that does
        not fit the data, or compressed data that cannot be decoded.
    """
    try:
        if isinstance(message, CompressedImage):
            return compressed_to_rgb(message.data, message.format)
        bytes_per_pixel = PIXEL_BYTES.get(message.encoding)
        if bytes_per_pixel is None:  # 16 bits, YUV: cv_bridge's Python does not read them, or not on every version
            big_endian = bool(message.is_bigendian)
            return raw_to_rgb(message.encoding, message.width, message.height, message.step, big_endian, message.data)
    except EncodingError as error:
        raise ImageError(str(error)) from error
    row = message.width * bytes_per_pixel
    _check_layout(message, row)
    # cv_bridge knows the colours; its reading of the bytes ignores padded rows and fails with OpenCV 5.
    rows = np.frombuffer(message.data, np.uint8, count=message.step * message.height)
    pixels = rows.reshape(message.height, message.step)[:, :row]
    if bytes_per_pixel > 1:
        pixels = pixels.reshape(message.height, message.width, bytes_per_pixel)
    try:
        return np.ascontiguousarray(cvtColor2(pixels, message.encoding, "rgb8"))
    except Exception as error:  # cv_bridge raises what OpenCV or its tables raise
        raise ImageError(
            f"a {message.width} x {message.height} {message.encoding} image cannot be converted: {error}"
        ) from error


def latent_to_message(latent: np.ndarray, stamp_ns: int, frame_id: str = "") -> Image:
    """A latent (D,) as a one-row float image with the stamp of the frame that it describes."""
    if latent.ndim != 1 or latent.size == 0:
        raise ValueError(f"a latent must be (D,), this one is {latent.shape}")
    return array_to_message(latent[None], stamp_ns, frame_id)


def message_to_latent(message: Image, size: int) -> np.ndarray:
    """The latent of a message, (size,) float32.

    :raises ImageError: not a latent, of another model's size, or not finite.
    """
    if message.encoding != LATENT_ENCODING or message.height != 1:
        raise ImageError(
            f"a latent is a one-row {LATENT_ENCODING} image, this one has {message.height} rows of "
            f"{message.encoding!r}; remap the topic to the latent that camera_node publishes"
        )
    if message.width != size:
        raise ImageError(
            f"the latent has {message.width} numbers and the model {size}; "
            "give camera_node and planner_node the same bundle"
        )
    _check_layout(message, 4 * size)
    order = ">f4" if message.is_bigendian else "<f4"
    latent = np.frombuffer(message.data, order, count=size).astype(np.float32)
    if not np.isfinite(latent).all():
        raise ImageError("the latent holds NaN or infinity; look at the image and at the bundle of camera_node")
    return latent


def array_to_message(values: np.ndarray, stamp_ns: int, frame_id: str = "") -> Image:
    """Numbers (H, W) or (H, W, C), no side of length 0, as a float image of C channels (32FC1, 32FC2, ...)."""
    floats = np.ascontiguousarray(values, "<f4")
    if floats.ndim not in (2, 3) or floats.size == 0:
        raise ValueError(f"numbers must be (H, W) or (H, W, C) and not empty, these are {floats.shape}")
    height, width = floats.shape[:2]
    channels = floats.shape[2] if floats.ndim == 3 else 1
    return Image(
        header=Header(stamp=time_message(stamp_ns), frame_id=frame_id),
        height=height,
        width=width,
        encoding=f"32FC{channels}",
        step=4 * channels * width,
        data=array.array("B", floats.tobytes()),
    )


def message_to_array(
    message: Image, width: int | None = None, channels: int = 1, most_rows: int | None = None
) -> np.ndarray:
    """The numbers of a float image, (H, W, C) float32.

    :param width: required width; None takes any.
    :param most_rows: greatest height; None takes any.
    :raises ImageError: another encoding, width or layout, or numbers that are not finite.
    """
    if message.encoding != f"32FC{channels}" or (width is not None and message.width != width):
        raise ImageError(
            f"{width or 'any number of'} columns of 32FC{channels} are expected, these are {message.width} of "
            f"{message.encoding!r}; give every node the same bundle"
        )
    if most_rows is not None and message.height > most_rows:
        raise ImageError(f"at most {most_rows} rows are expected, these are {message.height}")
    row = 4 * channels * message.width
    _check_layout(message, row)
    rows = np.frombuffer(message.data, np.uint8, count=message.step * message.height).reshape(message.height, -1)
    order = ">f4" if message.is_bigendian else "<f4"
    values = np.ascontiguousarray(rows[:, :row]).view(order).reshape(message.height, message.width, channels)
    if not np.isfinite(values).all():
        raise ImageError("the numbers hold NaN or infinity; look at the bundle of planner_node")
    return values.astype(np.float32)


def _check_layout(message: Image, row: int) -> None:
    """Raises ImageError unless the data holds `height` rows of at least `row` bytes."""
    size = f"{message.width} x {message.height} {message.encoding} image"
    if message.width == 0 or message.height == 0:
        raise ImageError(f"a {size} has no pixels; look at the camera driver")
    if message.step < row:
        raise ImageError(f"a {size} needs rows of {row} bytes, its step is {message.step}; look at the camera driver")
    needed = message.step * message.height
    if len(message.data) < needed:
        raise ImageError(f"a {size} with step {message.step} needs {needed} bytes, it has {len(message.data)}")


def camera_info_message(width: int, height: int, focal_px: float, stamp_ns: int, frame_id: str = "") -> CameraInfo:
    """Calibration of an ideal pinhole camera whose principal point is the middle of its picture."""
    f, cx, cy = float(focal_px), width / 2, height / 2
    return CameraInfo(
        header=Header(stamp=time_message(stamp_ns), frame_id=frame_id),
        height=height,
        width=width,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=[f, 0.0, cx, 0.0, f, cy, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[f, 0.0, cx, 0.0, 0.0, f, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
    )


# ---- joints ----------------------------------------------------------------------------------------------------------


def joint_state_message(
    names: Sequence[str],
    positions: np.ndarray,
    velocities: np.ndarray,
    stamp_ns: int,
    efforts: Sequence[float] | np.ndarray = (),
) -> JointState:
    """Positions (A,) rad, velocities (A,) rad/s and efforts (A,) N m, if any, of the named joints."""
    return JointState(
        header=Header(stamp=time_message(stamp_ns)),
        name=list(names),
        position=array.array("d", np.asarray(positions, float).tobytes()),
        velocity=array.array("d", np.asarray(velocities, float).tobytes()),
        effort=array.array("d", np.asarray(efforts, float).tobytes()),
    )


def message_to_joint_positions(message: JointState, names: Sequence[str]) -> np.ndarray:
    """Positions (A,) rad in the order of `names`; other joints are ignored.

    :raises MessageError: a joint is missing, has no position, or one that is not finite.
    """
    found = dict(zip(message.name, message.position, strict=False))
    missing = [name for name in names if name not in found]
    if missing:
        raise MessageError(
            f"joint_states has no position for {', '.join(missing)}; it has {', '.join(found) or 'none at all'}"
        )
    positions = np.array([found[name] for name in names])
    if not np.isfinite(positions).all():
        raise MessageError(f"joint_states holds positions {positions}, which are not finite")
    return positions


def message_to_joint_efforts(message: JointState, names: Sequence[str]) -> np.ndarray:
    """Efforts (A,) in the order of `names` and the unit of the publisher; NaN where the message has none."""
    found = dict(zip(message.name, message.effort, strict=False))
    return np.array([found.get(name, np.nan) for name in names])


# ---- poses -----------------------------------------------------------------------------------------------------------


def pose_message(pose: np.ndarray, stamp_ns: int, frame_id: str) -> PoseStamped:
    """A pose (7,) in the frame `frame_id`: x y z in m and quaternion w x y z."""
    x, y, z, qw, qx, qy, qz = (float(value) for value in pose)
    return PoseStamped(
        header=Header(stamp=time_message(stamp_ns), frame_id=frame_id),
        pose=Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(w=qw, x=qx, y=qy, z=qz)),
    )


def message_to_pose(message: PoseStamped, frame_id: str) -> np.ndarray:
    """The pose (7,) as `pose_message` takes it.

    :raises MessageError: it is in another frame, or not a finite position and a unit quaternion.
    """
    if message.header.frame_id != frame_id:
        raise MessageError(f"the pose is in the frame {message.header.frame_id!r}; give it in {frame_id!r}")
    place, turn = message.pose.position, message.pose.orientation
    pose = np.array([place.x, place.y, place.z, turn.w, turn.x, turn.y, turn.z])
    if not np.isfinite(pose).all() or abs(np.linalg.norm(pose[3:]) - 1.0) > 1e-3:
        raise MessageError(f"the pose {pose} is not x y z and a unit quaternion w x y z, all finite")
    return pose


# ---- trajectories ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrajectoryPoints:
    """A joint trajectory as received: times_s (T,) from `stamp_ns`, positions (T, A) rad, velocities (T, A) rad/s
    and accelerations (T, A) rad/s^2 or None.

    `stamp_ns` 0 means that it begins on arrival, as for ros2_control's joint_trajectory_controller.
    """

    stamp_ns: int
    times_s: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray | None
    accelerations: np.ndarray | None = None


def trajectory_to_message(trajectory: Trajectory, names: Sequence[str], epoch_ns: int) -> JointTrajectory:
    """A message of a trajectory whose `times_s` count from `epoch_ns`; its stamp is the first of them."""
    start_s = float(trajectory.times_s[0])
    points = [
        JointTrajectoryPoint(
            positions=array.array("d", position.tobytes()),
            velocities=array.array("d", velocity.tobytes()),
            time_from_start=Duration(nanoseconds=round((float(time) - start_s) * NANOSECONDS)).to_msg(),
        )
        for time, position, velocity in zip(
            trajectory.times_s,
            np.asarray(trajectory.positions, float),
            np.asarray(trajectory.velocities, float),
            strict=True,
        )
    ]
    stamp = time_message(epoch_ns + round(start_s * NANOSECONDS))
    return JointTrajectory(header=Header(stamp=stamp), joint_names=list(names), points=points)


def message_to_trajectory(message: JointTrajectory, names: Sequence[str]) -> TrajectoryPoints:
    """The points of a joint trajectory, columns in the order of `names`.

    :raises MessageError: other joints, no points, or points with the wrong number of values. The values themselves
        are not checked: the controller does that.
    """
    if sorted(message.joint_names) != sorted(names):
        raise MessageError(
            f"the trajectory is for the joints {', '.join(message.joint_names) or '(none)'}, "
            f"the arm has {', '.join(names)}"
        )
    if not message.points:
        raise MessageError("the trajectory has no points")
    column = [list(message.joint_names).index(name) for name in names]
    for i, point in enumerate(message.points):
        counts = len(point.velocities), len(point.accelerations)
        if len(point.positions) != len(names) or not set(counts) <= {0, len(names)}:
            raise MessageError(
                f"point {i} of the trajectory has {len(point.positions)} positions, {counts[0]} velocities and "
                f"{counts[1]} accelerations; {len(names)} joints need as many of each, or none but positions"
            )

    def column_of(field: str) -> np.ndarray | None:
        values = [getattr(point, field) for point in message.points]
        return np.array(values)[:, column] if all(len(value) for value in values) else None

    positions = column_of("positions")
    assert positions is not None
    return TrajectoryPoints(
        stamp_ns=nanoseconds(message.header.stamp),
        times_s=np.array([nanoseconds(point.time_from_start) / NANOSECONDS for point in message.points]),
        positions=positions,
        velocities=column_of("velocities"),
        accelerations=column_of("accelerations"),
    )
