# SPDX-License-Identifier: Apache-2.0
"""The messages that a recording is converted from: which topics they are on, and what is taken from each."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lewm_model.data.converters.columns import Columns
from lewm_model.data.converters.rosbag2.files import CDR, TopicMessage
from lewm_model.robot.trajectory import MOST

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
STATE, COMMAND, MARKER = "sensor_msgs/msg/JointState", "trajectory_msgs/msg/JointTrajectory", "std_msgs/msg/String"
REFERENCE = "control_msgs/msg/JointTrajectoryControllerState"
OTHER_COMMANDS = {  # types that arms are also commanded with, and why they cannot be converted
    "std_msgs/msg/Float64MultiArray": "numbers without joint names and without times",
    "control_msgs/action/FollowJointTrajectory": "an action, whose goal is not in a recording",
    "geometry_msgs/msg/TwistStamped": "velocities of the tip, from which the arm's driver makes joint motion",
}
NS_PER_S = 1_000_000_000
LATEST_NS = 2**62  # in the year 2116; a later stamp is a damaged number


@dataclass(frozen=True)
class Topics:
    """Names of topics, or the last parts of them: `left/joint_states` also finds `/lab/left/joint_states`.

    Where several fit, the one with exactly this name is taken.
    """

    image: str = "camera/image_raw"  # or this name with /compressed behind it
    joint_states: str = "joint_states"
    command: str = "arm_controller/joint_trajectory"
    episode: str = "episode"

    @property
    def reference(self) -> str:
        """The state topic of the controller that takes the commands, which lies beside theirs."""
        beside = self.command.rpartition("/")[0]
        return f"{beside}/controller_state" if beside else "controller_state"


class Command(NamedTuple):
    """A JointTrajectory message: times_s (T,) from its start, positions (T, A) rad, velocities and accelerations.

    Without points it marks a moment at which commands may have been lost, so that the one in effect is unknown.
    """

    log_ns: int
    stamp_ns: int  # when the trajectory starts; 0: when the controller receives it
    times_s: np.ndarray
    positions: np.ndarray | None  # None: the velocities are integrated from where the arm is
    velocities: np.ndarray | None
    accelerations: np.ndarray | None = None


class State(NamedTuple):
    """A JointState message, positions (A + held,) rad, NaN of joints that come in other messages, or a controller's
    reference, positions (A,) rad.
    """

    log_ns: int
    stamp_ns: int
    positions: np.ndarray


class Frame(NamedTuple):
    """An image message, without its pixels."""

    number: int  # in the order of recording
    log_ns: int
    stamp_ns: int  # -1 where it cannot be read


# ---- which message is which ------------------------------------------------------------------------------------------


def matches(topic: str, wanted: str) -> bool:
    """Whether a topic is called `wanted`, or ends with it."""
    return f"/{topic.strip('/')}".endswith(f"/{wanted.strip('/')}")


def is_image(message: TopicMessage, wanted: str) -> bool:
    """Whether it is a picture of the camera with the topic `wanted`."""
    if message.type == COMPRESSED and matches(message.topic, f"{wanted}/compressed"):
        return True
    return message.type in (IMAGE, COMPRESSED) and matches(message.topic, wanted)


def is_reference(message: TopicMessage, topics: Topics) -> bool:
    """Whether it is the state of the controller that takes the commands; users may name its topic instead of theirs."""
    readable = message.type == REFERENCE and message.encoding == CDR and message.decode is not None
    return readable and (matches(message.topic, topics.reference) or matches(message.topic, topics.command))


def obstacle(message: TopicMessage, wanted: Sequence[str]) -> str | None:
    """Why a message cannot be used as one of the types `wanted`: "" where it can, None where it is something else."""
    short = [name.rpartition("/")[2] for name in wanted]
    name = message.type.replace("/", ".").rpartition(".")[2]
    if message.encoding != CDR:
        if name in short or any(name == f"{one}s" for one in short) or name.startswith(tuple(short)):
            made = {"ros1": "ROS 1, convert it with `rosbags-convert`"}
            return f"{message.type}, {made.get(message.encoding, f'{message.encoding} instead of ROS 2')}"
        return None
    if message.type in wanted:
        return "" if message.decode is not None else "without a message definition"
    if COMMAND in wanted and message.type in OTHER_COMMANDS:
        return f"{message.type}, {OTHER_COMMANDS[message.type]}"
    return None


# ---- what is taken from a message ------------------------------------------------------------------------------------


def decoded(message: TopicMessage) -> Any:
    """The message's fields, or None where the bytes are not what its definition says."""
    try:
        return message.decode(message.data)
    except Exception:  # which error it is depends on the bytes: struct.error, UnicodeDecodeError, MemoryError, ...
        return None


def read(message: TopicMessage, convert: Callable[..., Any], columns: Columns, left_out: Counter[str]) -> list[Any]:
    """[`convert(fields, log_ns, columns)`], or [] for a message that cannot be used, whose reason is counted.

    :param convert: `state`, `reference`, `command`, or alike; raises ValueError with a reason.
    """
    fields = decoded(message)
    try:
        if fields is None or not 0 <= message.log_ns < LATEST_NS:
            raise ValueError("cannot be read")
        try:
            return [convert(fields, message.log_ns, columns)]
        except (AttributeError, TypeError, OverflowError) as error:  # fields of other names or types
            raise ValueError("with another definition than ROS's") from error
    except ValueError as error:
        left_out[f"{message.type.rpartition('/')[2]} messages: {error}"] += 1
        return []


def header_stamp_ns(data: bytes) -> int:
    """The header's stamp of a serialised message whose first field is a std_msgs/Header, ns.

    :raises ValueError: the bytes are no CDR.
    """
    if len(data) < 12 or data[0] != 0 or data[1] not in (0, 1):
        raise ValueError("is not CDR")
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] else ">iI", data, 4)
    return int(seconds) * NS_PER_S + int(nanoseconds)


def state(fields: Any, log_ns: int, columns: Columns) -> State:
    """The state in a JointState message. Raises ValueError for one that cannot be used."""
    at = {name: i for i, name in enumerate(fields.name)}
    names = columns.names + columns.held
    if set(names).isdisjoint(at) or len(fields.position) != len(at):
        raise ValueError("of other joints, or without positions")
    positions = np.array([fields.position[at[name]] if name in at else 0.0 for name in names]) * columns.factors(names)
    found = _state(fields, log_ns, positions)
    found.positions[[name not in at for name in names]] = np.nan
    return found


def reference(fields: Any, log_ns: int, columns: Columns) -> State:
    """The reference in a JointTrajectoryControllerState message. Raises ValueError for one that cannot be used."""
    point = fields.reference if hasattr(fields, "reference") else fields.desired  # its name before ROS 2 Iron
    at = {name: i for i, name in enumerate(fields.joint_names)}
    if not set(columns.names) <= set(at) or len(point.positions) != len(at):
        raise ValueError("of other joints, or without a reference")
    positions = np.array([point.positions[at[name]] for name in columns.names]) * columns.factors(columns.names)
    return _state(fields, log_ns, positions)


def _state(fields: Any, log_ns: int, positions: np.ndarray) -> State:
    if not (np.abs(positions) <= MOST).all():
        raise ValueError("positions that are not finite")
    return State(log_ns, fields.header.stamp.sec * NS_PER_S + fields.header.stamp.nanosec, positions)


def command(fields: Any, log_ns: int, columns: Columns) -> Command:
    """The command in a JointTrajectory message. Raises ValueError for one that the controller refuses."""
    joints, points, names = fields.joint_names, fields.points, columns.names
    if not set(names) <= set(joints) or not points:
        raise ValueError("for other joints, or without points: the controller refuses them")
    at, factors = [joints.index(name) for name in names], columns.factors(names)
    sizes = [(len(p.positions), len(p.velocities)) for p in points]
    allowed = ((len(joints), 0), (len(joints), len(joints)), (0, len(joints)))
    if any(size not in allowed for size in sizes) or len({positions for positions, _ in sizes}) > 1:
        raise ValueError("with points of the wrong size: the controller refuses them")
    accelerated = all(size[1] and len(p.accelerations) == len(joints) for size, p in zip(sizes, points, strict=True))
    return Command(
        log_ns,
        fields.header.stamp.sec * NS_PER_S + fields.header.stamp.nanosec,
        np.array([p.time_from_start.sec + p.time_from_start.nanosec / NS_PER_S for p in points]),
        np.array([p.positions for p in points])[:, at] * factors if sizes[0][0] else None,
        np.array([p.velocities for p in points])[:, at] * factors if all(size[1] for size in sizes) else None,
        np.array([p.accelerations for p in points])[:, at] * factors if accelerated else None,
    )
