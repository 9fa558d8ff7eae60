# SPDX-License-Identifier: Apache-2.0
"""Records training data for a world model to one MCAP file, without rosbag2.

    ros2 run lewm_ros record --ros-args -p out:=session.mcap

Pictures are stored as JPEG or PNG; joint states, commands, goal pictures, camera calibration and episode markers
unchanged. Topic names are relative: start the recorder in a namespace, or remap them. In a terminal, typing start, end
or discard and Enter marks episodes; so does a `std_msgs/String` on the topic `episode`.

The file can be read at any time, and whatever ends the recorder costs the last second at most. `ros2 bag record` with
launch/record.launch.py records the same topics.
"""

from __future__ import annotations

import array
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import rclpy
from ament_index_python.packages import get_package_share_directory
from mcap.writer import Writer
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from lewm_model.config import ConfigError
from lewm_model.robot.encodings import EncodingError, raw_to_rgb
from lewm_model.robot.rectify import camera_info_topic
from lewm_model.robot.robot import load_robot
from lewm_ros.controller_state import ControllerState
from lewm_ros.node import told_to_end
from lewm_ros.parameters import Parameter, ParameterError, declare, read

FLUSH_S = 1.0  # between writes to the disk: as much is lost when the recorder is killed
REPORT_S = 10.0  # between log lines with the counts
LAST_S = 0.3  # before the end: what has arrived is still written, such as a mark that was sent just before
MISSING_S = 4.0  # after the start: when topics without any message are reported, with possible remappings
SILENCE_S = 2.0  # without pictures or joint states before a warning: a recording with such a gap cannot be used

# A best-effort subscription is compatible with every publisher; commands and goals are rare and must not be lost.
STREAM = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
EVENTS = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)

PARAMETERS = (
    Parameter("out", "", "MCAP file to write; empty is recordings/<date>-<time>.mcap."),
    Parameter(
        "input",
        "raw",
        "Whether the camera's topic has Image or CompressedImage messages.",
        choices=("raw", "compressed"),
    ),
    Parameter("robot", "", "Robot file, path or name, whose cameras are recorded; empty: camera/image_raw."),
    Parameter("image_format", "jpeg", "How raw pictures are stored; png is lossless.", choices=("jpeg", "png")),
    Parameter("jpeg_quality", 95, "JPEG quality, 1 to 100.", 1, 100),
)


class RecordError(RuntimeError):
    """The recording cannot be made; the message says what to change."""


class McapFile:
    """An MCAP file of serialised ROS 2 messages, in rosbag2's layout."""

    def __init__(self, path: Path) -> None:
        """
        :raises RecordError: the file exists already, or cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = open(path, "xb")  # noqa: SIM115  closed in close()
        except FileExistsError:
            raise RecordError(f"{path} exists already; give another name, recordings are not overwritten") from None
        except OSError as error:
            raise RecordError(f"{path} cannot be written: {error}") from error
        self._writer = Writer(self._stream)
        self._writer.start(profile="ros2")
        self._channels: dict[str, int] = {}

    def write(self, topic: str, message_type: type[Any], data: bytes, log_ns: int) -> None:
        """Adds a serialised message."""
        if topic not in self._channels:
            package, name = message_type.__module__.partition(".")[0], message_type.__name__
            text = message_definition(f"{package}/{name}")
            schema = self._writer.register_schema(f"{package}/msg/{name}", "ros2msg", text.encode())
            self._channels[topic] = self._writer.register_channel(topic, "cdr", schema)
        self._writer.add_message(self._channels[topic], log_ns, data, log_ns)

    def flush(self) -> None:
        """Ends the chunk, so that everything written so far can be read."""
        self._writer.flush()

    def close(self) -> None:
        """Writes the index and closes the file."""
        self._writer.finish()
        self._stream.close()

    @property
    def size(self) -> int:
        """Bytes written."""
        return self._stream.tell()


def message_definition(name: str) -> str:
    """The definition of a message type and of all types in it, as MCAP's ros2msg encoding requires.

    :param name: e.g. `sensor_msgs/JointState`.
    """
    texts: dict[str, str] = {}
    waiting = [name]
    while waiting:
        package, _, message = waiting.pop(0).partition("/")
        if f"{package}/{message}" in texts:
            continue
        file = Path(get_package_share_directory(package)) / "msg" / f"{message}.msg"
        text = texts[f"{package}/{message}"] = file.read_text(encoding="utf-8")
        for field in re.findall(r"^\s*([A-Za-z][\w/]*)(?:\[[^]]*\])?\s+\w+", text, re.MULTILINE):
            if "/" in field:
                waiting.append(field)
            elif field[0].isupper():
                waiting.append(f"{package}/{field}")
    rest = "".join(f"{'=' * 80}\nMSG: {inner}\n{text}\n" for inner, text in list(texts.items())[1:])
    return f"{texts[name]}\n{rest}"


class Recorder(Node):
    """Writes every message that arrives, with its time of arrival on the system clock."""

    def __init__(self) -> None:
        super().__init__("recorder")
        declare(self, PARAMETERS)
        values = read(self, PARAMETERS)
        self.path = Path(values["out"] or time.strftime("recordings/%Y%m%d-%H%M%S.mcap"))
        self._file: McapFile | None = McapFile(self.path)
        self.counts: Counter[str] = Counter()
        self.failure = ""
        self._problem = ""
        self._complain_once = self.create_timer(MISSING_S, self._tell_missing)
        self._suffix, self._settings = ".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]
        if values["image_format"] == "jpeg":
            self._suffix, self._settings = ".jpg", [cv2.IMWRITE_JPEG_QUALITY, values["jpeg_quality"]]
        try:
            topics = [camera.topic for camera in load_robot(values["robot"]).cameras] if values["robot"] else []
        except ConfigError as error:
            raise RecordError(f"robot {values['robot']!r} cannot be used: {error}") from error
        topics = topics or ["camera/image_raw"]
        # Every camera is needed: a recording without one of them cannot be used.
        roles = ["pictures"] if len(topics) == 1 else [f"pictures on {topic}" for topic in topics]
        self._last = dict.fromkeys((*roles, "joint states"), time.monotonic())
        for what, topic in zip(roles, topics, strict=True):
            if values["input"] == "raw":
                self._compress(what, topic)
            else:
                self._keep(what, CompressedImage, f"{topic}/compressed", STREAM)
        for topic in {camera_info_topic(self.resolve_topic_name(topic)) for topic in topics}:
            self._keep("calibrations", CameraInfo, topic, STREAM)
        self._keep("joint states", JointState, "joint_states", STREAM)
        self._keep("commands", JointTrajectory, "arm_controller/joint_trajectory", EVENTS)
        if ControllerState is not None:  # shows all commanded motion, whoever sent it
            self._keep("references", ControllerState, "arm_controller/controller_state", STREAM)
        self._keep("goals", Image, "goal_image", LATCHED)
        self._keep("markers", String, "episode", EVENTS)
        kind = "Image" if values["input"] == "raw" else "CompressedImage"
        suffix = "" if values["input"] == "raw" else "/compressed"
        self._wanted = {
            **{what: (topic + suffix, f"sensor_msgs/msg/{kind}") for what, topic in zip(roles, topics, strict=True)},
            "joint states": ("joint_states", "sensor_msgs/msg/JointState"),
            "commands": ("arm_controller/joint_trajectory", "trajectory_msgs/msg/JointTrajectory"),
        }
        self._marks = self.create_publisher(String, "episode", EVENTS)
        self.create_timer(FLUSH_S, self._flush)
        self.create_timer(REPORT_S, self._report)
        self.get_logger().info(f"recording to {self.path}")

    def mark(self, text: str) -> None:
        """Publishes an episode marker, which this node then records as it does others'."""
        self._marks.publish(String(data=text))

    def close(self) -> None:
        """Ends the recording."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()
            self._report()

    def _keep(self, what: str, message_type: type[Any], topic: str, qos: QoSProfile) -> None:
        """Records a topic unchanged, without deserialising its messages."""
        name = ""

        def store(data: bytes) -> None:
            self._write(what, name, message_type, data)

        name = self.create_subscription(message_type, topic, store, qos, raw=True).topic_name

    def _compress(self, what: str, topic: str) -> None:
        """Records a topic of pictures, compressed."""
        name = ""

        def store(message: Image) -> None:
            self._on_image(what, f"{name}/compressed", message)

        name = self.create_subscription(Image, topic, store, STREAM).topic_name

    def _on_image(self, what: str, topic: str, message: Image) -> None:
        try:
            rgb = raw_to_rgb(
                message.encoding, message.width, message.height, message.step, bool(message.is_bigendian), message.data
            )
            data = cv2.imencode(self._suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), self._settings)[1]
        except (EncodingError, cv2.error) as error:
            self.counts["unreadable pictures"] += 1
            if str(error) != self._problem:
                self.get_logger().error(f"picture not recorded: {error}")
            self._problem = str(error)
            return
        picture = CompressedImage(header=message.header, data=array.array("B", data.tobytes()))
        picture.format = f"rgb8; {'png' if self._suffix == '.png' else 'jpeg'} compressed bgr8"
        self._write(what, topic, CompressedImage, serialize_message(picture))

    def _write(self, what: str, topic: str, message_type: type[Any], data: bytes) -> None:
        self._attempt(lambda file: file.write(topic, message_type, data, time.time_ns()))
        self.counts[what] += 1
        if what in self._last:
            self._last[what] = time.monotonic()

    def _flush(self) -> None:
        self._attempt(McapFile.flush)
        now = time.monotonic()
        silent = [f"{what} for {now - last:.0f} s" for what, last in self._last.items() if now - last > SILENCE_S]
        if silent:
            self.get_logger().warning(f"no {', no '.join(silent)}", throttle_duration_sec=SILENCE_S)

    def _tell_missing(self) -> None:
        """Warns, once, about needed topics without a message, and names topics of that type which have one."""
        self.destroy_timer(self._complain_once)
        for what, (topic, kind) in self._wanted.items():
            if self.counts[what] or (what == "commands" and self.counts["references"]):
                continue
            name = self.resolve_topic_name(topic)
            others = [
                other
                for other, kinds in self.get_topic_names_and_types()
                if kind in kinds and other != name and self.count_publishers(other)
            ]
            there = f"there is {', '.join(others)}" if others else "nobody publishes that type"
            if what == "pictures" and not others and (instead := self._pictures_of_the_other_kind(kind)):
                there += f"; {instead}"
            sent = "nothing comes" if self.count_publishers(name) else "nobody publishes"
            self.get_logger().warning(
                f"no {what}: {sent} on {name}; of the type {kind} {there}. Remap it: --ros-args -r {topic}:=..."
            )

    def _pictures_of_the_other_kind(self, kind: str) -> str:
        """Advice where pictures are published raw instead of compressed, or the other way round; else empty."""
        other, value = ("CompressedImage", "compressed") if kind.endswith("/Image") else ("Image", "raw")
        wanted = f"sensor_msgs/msg/{other}"
        topics = [topic for topic, kinds in self.get_topic_names_and_types() if wanted in kinds]
        there = [topic for topic in topics if self.count_publishers(topic)]
        return f"{other} comes on {', '.join(there)}: -p input:={value} records that" if there else ""

    def _attempt(self, act: Callable[[McapFile], None]) -> None:
        """Writes to the file. A full disk ends the recording; what was written stays readable."""
        if self._file is None or self.failure:
            return
        try:
            act(self._file)
        except OSError as error:
            self.failure = f"{self.path} cannot be written any more: {error}"

    def _report(self) -> None:
        counts = ", ".join(f"{count} {what}" for what, count in self.counts.items()) or "nothing yet"
        size = self._file.size if self._file is not None else self.path.stat().st_size
        self.get_logger().info(f"{counts}, {size / 1e6:.1f} MB")


def _read_marks(recorder: Recorder) -> None:
    """Publishes each typed line as an episode marker; runs in a thread."""
    for line in sys.stdin:
        if line.strip():
            recorder.mark(line.strip())


def main(arguments: Sequence[str] | None = None) -> None:
    """Records until SIGINT or SIGTERM."""
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    ended = told_to_end()
    try:
        recorder = Recorder()
    except (RecordError, ParameterError, InvalidParameterTypeException, InvalidParameterValueException) as error:
        rclpy.shutdown()
        sys.exit(f"record: {error}")
    if sys.stdin is not None and sys.stdin.isatty():
        recorder.get_logger().info("type start, end or discard, then Enter, to mark episodes")
        threading.Thread(target=_read_marks, args=(recorder,), daemon=True).start()
    executor = SingleThreadedExecutor()
    executor.add_node(recorder)
    while not ended.is_set() and not recorder.failure:
        try:
            executor.spin_once(timeout_sec=0.2)
        except (KeyboardInterrupt, ExternalShutdownException):
            break
    end_s = time.monotonic() + LAST_S
    while time.monotonic() < end_s and not recorder.failure and rclpy.ok():
        executor.spin_once(timeout_sec=0.05)
    failure = recorder.failure
    try:
        recorder.close()
    except OSError as error:
        failure = failure or f"{recorder.path} cannot be closed: {error}"
    executor.shutdown()
    recorder.destroy_node()
    rclpy.try_shutdown()
    if failure:
        sys.exit(f"record: {failure}; everything up to the last whole chunk can be converted")


if __name__ == "__main__":
    main()
