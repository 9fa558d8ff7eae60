# SPDX-License-Identifier: Apache-2.0
"""Recordings for tests, written without ROS: the message definitions are those of Jazzy, with the fields in use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from mcap.writer import CompressionType
from mcap_ros2.writer import Writer

_HEADER = """
================================================================================
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
"""
_POINT = """
================================================================================
MSG: trajectory_msgs/JointTrajectoryPoint
float64[] positions
float64[] velocities
float64[] accelerations
float64[] effort
builtin_interfaces/Duration time_from_start
"""
DEFINITIONS = {
    "sensor_msgs/msg/Image": """std_msgs/Header header
uint32 height
uint32 width
string encoding
uint8 is_bigendian
uint32 step
uint8[] data
"""
    + _HEADER,
    "sensor_msgs/msg/CompressedImage": "std_msgs/Header header\nstring format\nuint8[] data\n" + _HEADER,
    "sensor_msgs/msg/CameraInfo": """std_msgs/Header header
uint32 height
uint32 width
string distortion_model
float64[] d
float64[9] k
float64[9] r
float64[12] p
"""
    + _HEADER,
    "sensor_msgs/msg/JointState": """std_msgs/Header header
string[] name
float64[] position
float64[] velocity
float64[] effort
"""
    + _HEADER,
    "trajectory_msgs/msg/JointTrajectory": """std_msgs/Header header
string[] joint_names
JointTrajectoryPoint[] points
"""
    + _HEADER
    + _POINT,
    "control_msgs/msg/JointTrajectoryControllerState": """std_msgs/Header header
string[] joint_names
trajectory_msgs/JointTrajectoryPoint reference
trajectory_msgs/JointTrajectoryPoint feedback
float64 speed_scaling_factor
"""
    + _HEADER
    + _POINT,
    "std_msgs/msg/String": "string data\n",
}


def time(time_s: float) -> dict[str, int]:
    """A stamp or duration."""
    ns = round(time_s * 1e9)
    return {"sec": ns // 10**9, "nanosec": ns % 10**9}


class BagWriter:
    """Writes messages to an MCAP file; all times in seconds, `log_s` on the recorder's clock."""

    def __init__(self, path: Path, chunk_size: int = 64 * 1024, compression: CompressionType = CompressionType.ZSTD):
        self._stream = open(path, "wb")  # noqa: SIM115  closed in __exit__
        self._writer = Writer(self._stream, chunk_size, compression)
        self._schemas: dict[str, Any] = {}

    def write(self, topic: str, kind: str, message: Any, log_s: float) -> None:
        if kind not in self._schemas:
            self._schemas[kind] = self._writer.register_msgdef(kind, DEFINITIONS[kind])
        log_ns = round(log_s * 1e9)
        self._writer.write_message(topic, self._schemas[kind], message, log_ns, log_ns)

    def image(
        self, rgb: np.ndarray, stamp_s: float, log_s: float, topic: str = "/camera/image_raw", **fields: Any
    ) -> None:
        height, width = rgb.shape[:2]
        message = {"height": height, "width": width, "encoding": "rgb8", "is_bigendian": 0, "step": 3 * width}
        message |= {"data": rgb.tobytes(), "header": {"stamp": time(stamp_s), "frame_id": ""}, **fields}
        self.write(topic, "sensor_msgs/msg/Image", message, log_s)

    def compressed(self, rgb: np.ndarray, stamp_s: float, log_s: float, suffix: str = ".png") -> None:
        data = cv2.imencode(suffix, rgb[..., ::-1])[1].tobytes()
        message = {"header": {"stamp": time(stamp_s), "frame_id": ""}, "format": f"rgb8; {suffix[1:]}", "data": data}
        self.write("/camera/image_raw/compressed", "sensor_msgs/msg/CompressedImage", message, log_s)

    def calibration(self, fields: dict[str, Any], log_s: float, topic: str = "/camera/camera_info") -> None:
        message = {"header": {"stamp": time(log_s), "frame_id": ""}, **fields}
        self.write(topic, "sensor_msgs/msg/CameraInfo", message, log_s)

    def joints(
        self,
        names: Sequence[str],
        positions: Sequence[float],
        stamp_s: float,
        log_s: float,
        topic: str = "/joint_states",
    ) -> None:
        message = {"header": {"stamp": time(stamp_s), "frame_id": ""}, "name": list(names)}
        message |= {"position": [float(p) for p in positions], "velocity": [], "effort": []}
        self.write(topic, "sensor_msgs/msg/JointState", message, log_s)

    def command(
        self,
        names: Sequence[str],
        times_s: Sequence[float],
        positions: np.ndarray,
        velocities: np.ndarray | None,
        stamp_s: float | None,
        log_s: float,
        topic: str = "/arm_controller/joint_trajectory",
        accelerations: np.ndarray | None = None,
    ) -> None:
        points = [
            {
                "positions": [float(p) for p in positions[i]],
                "velocities": [] if velocities is None else [float(v) for v in velocities[i]],
                "accelerations": [] if accelerations is None else [float(a) for a in accelerations[i]],
                "effort": [],
                "time_from_start": time(times_s[i]),
            }
            for i in range(len(times_s))
        ]
        stamp = {"sec": 0, "nanosec": 0} if stamp_s is None else time(stamp_s)
        message = {"header": {"stamp": stamp, "frame_id": ""}, "joint_names": list(names), "points": points}
        self.write(topic, "trajectory_msgs/msg/JointTrajectory", message, log_s)

    def reference(
        self,
        names: Sequence[str],
        positions: Sequence[float],
        stamp_s: float,
        log_s: float,
        topic: str = "/arm_controller/controller_state",
    ) -> None:
        none = {"positions": [], "velocities": [], "accelerations": [], "effort": [], "time_from_start": time(0.0)}
        message = {"header": {"stamp": time(stamp_s), "frame_id": ""}, "joint_names": list(names)}
        message |= {"reference": {**none, "positions": [float(q) for q in positions]}, "feedback": none}
        message |= {"speed_scaling_factor": 1.0}
        self.write(topic, "control_msgs/msg/JointTrajectoryControllerState", message, log_s)

    def marker(self, text: str, log_s: float) -> None:
        self.write("/episode", "std_msgs/msg/String", {"data": text}, log_s)

    def kill(self) -> None:
        """Ends like a killed recorder: the messages of an unfinished chunk are lost, and the file is not closed."""
        self._stream.close()

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._stream.closed:
            self._writer.finish()
            self._stream.close()


def write_motion(
    bag: BagWriter,
    motion: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    frame_times_s: np.ndarray,
    picture: Callable[[int], np.ndarray],
    epoch_s: float = 1000.0,
    log_minus_stamp_s: float = 0.003,
    lag_s: float = 0.0,
    joint_dt_s: float = 0.01,
    names: Sequence[str] = ("shoulder", "elbow"),
    compressed: str = "",
    joints_topic: str = "",
    unit: float = 1.0,
    camera_ahead_s: float = 0.0,
) -> None:
    """A planner, an arm and a camera: messages in the order a recorder gets them.

    :param motion: commanded positions and velocities, both (N, A), at times (N,) s.
    :param frame_times_s: (F,) stamps of the frames; the commanded motion covers them.
    :param lag_s: how far the arm is behind its command.
    :param unit: the factor that positions are multiplied by on their topics.
    :param camera_ahead_s: how far the camera's clock is ahead of the arm's.
    """
    other = (joints_topic,) if joints_topic else ()
    begin, end = float(frame_times_s[0]), float(frame_times_s[-1])
    events: list[tuple[float, Callable[[float], None]]] = []
    for block in np.arange(begin - 0.3, end + 0.01, 0.25):
        # As planner_node sends them: 0.6 s of motion from the stamp of the frame, which lies 0.15 s back.
        times_s = np.arange(0.0, 0.601, 0.02)
        positions, velocities = motion(block + times_s)
        velocities[-1] = 0.0

        def command(log: float, p: np.ndarray = positions, v: np.ndarray = velocities, b: float = block) -> None:
            bag.command(names, np.arange(0.0, 0.601, 0.02), unit * p, unit * v, epoch_s + b, log)

        events.append((block + 0.15, command))
    for at in np.arange(begin - 0.2037, end + 0.1, joint_dt_s):
        measured = motion(np.array([at - lag_s]))[0][0]
        events.append((at, lambda log, q=unit * measured, s=at: bag.joints(names, q, epoch_s + s, log, *other)))
    for i, at in enumerate(frame_times_s):

        def send(log: float, i: int = i, at: float = float(at)) -> None:
            stamp_s = epoch_s + camera_ahead_s + at
            if compressed:
                bag.compressed(picture(i), stamp_s, log, compressed)
            else:
                bag.image(picture(i), stamp_s, log)

        events.append((float(at), send))
    for at, event in sorted(events, key=lambda event: event[0]):
        event(epoch_s + at + log_minus_stamp_s)
