# SPDX-License-Identifier: Apache-2.0
"""rosbag2 recordings (MCAP or SQLite) to episodes, without ROS.

The stamp in an image's header is the clock of everything, as far as it agrees with the arm's, judged by when both were
recorded. Where a clock steps back, in the order of recording, an episode ends and nothing of it reaches the next one.
Of several cameras the pictures that were taken nearest to one of the first are one frame with it, side by side. Frames
are taken every `control_dt_s`; what the arm measured and what it was commanded is looked up at the stamps of
those frames:

- measured: `JointState` messages, positions interpolated linearly between their stamps;
- commanded: what the trajectory controller says that it demands of the arm, whoever tells it to (its reference in
  `controller_state`), interpolated linearly. Where that was not recorded, `JointTrajectory` messages, interpolated as
  the controller does: a message is in force from the moment it was received until the next one; what the arm was told
  before the first one is unknown.

An action is the commanded motion between the stamps of two frames, divided by `control_dt_s`, so that actions times
`control_dt_s` add up to exactly what was commanded between the pictures. Where a frame or a joint state is missing
the episode ends and another begins behind the gap: nothing is repeated or made up.

`std_msgs/String` messages on the topic `episode` cut a recording into episodes: "start" (anything after it is a name),
"end", and "discard" for an episode that went wrong. Without any, the whole recording counts.
"""

from __future__ import annotations

import os
import shlex
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from lewm_model.config import RECORDED_SIDE
from lewm_model.data.converters.columns import HELD_RAD, Columns, refuse_wrong
from lewm_model.data.converters.conversion import LONGEST_EPISODE, Conversion, stretches
from lewm_model.data.converters.rosbag2_files import CDR, LOST, TopicMessage, bag_files, messages
from lewm_model.data.converters.view import View
from lewm_model.data.episodes import EpisodeWriter
from lewm_model.data.errors import DataError
from lewm_model.robot.encodings import EncodingError, compressed_to_rgb, raw_to_rgb
from lewm_model.robot.observation import Camera, Observation, ObservationError
from lewm_model.robot.trajectory import MOST, JointTrajectory

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
STATE, COMMAND, MARKER = "sensor_msgs/msg/JointState", "trajectory_msgs/msg/JointTrajectory", "std_msgs/msg/String"
REFERENCE = "control_msgs/msg/JointTrajectoryControllerState"
OTHER_COMMANDS = {  # what is said of commands of other types
    "std_msgs/msg/Float64MultiArray": "numbers without joint names and without times",
    "control_msgs/action/FollowJointTrajectory": "an action, whose goal is not in a recording",
    "geometry_msgs/msg/TwistStamped": "velocities of the tip, from which the arm's driver makes joint motion",
}
FOREVER_NS = 2**62
MOST_JOINTS = 64
STEP_BACK_S = 0.1  # recorders write messages in another order by less
PAUSE_S = 2.0  # without any message: the recorder paused, and what was commanded meanwhile is not known
AHEAD_S, BEHIND_S = 0.1, 0.5  # of a camera's stamps against the arm's: pictures are on their way for longer
USUAL_STEP_S = 0.05  # the step is the multiple of the camera's period next to it
READ_AHEAD = 64  # pictures that wait to be decoded
CLOCKS = ("header", "recorder")
ONE = View()
_NS = 1_000_000_000
_ROUNDING_S = 1e-9


@dataclass(frozen=True)
class Topics:
    """Names of topics, as far as they are needed to tell them apart: `left/joint_states` finds `/left/joint_states`.

    Where several fit, the one that is called exactly so is taken.
    """

    image: str = "camera/image_raw"  # or this name with /compressed behind it
    joint_states: str = "joint_states"
    command: str = "arm_controller/joint_trajectory"
    episode: str = "episode"

    @property
    def reference(self) -> str:
        """The state of the controller that takes the commands, which publishes beside them."""
        beside = self.command.rpartition("/")[0]
        return f"{beside}/controller_state" if beside else "controller_state"


@dataclass
class BagReport(Conversion):
    """What a conversion found, used and left out, and how well the clocks and the arm did."""

    tolerance_s: float = 0.0  # that frames and joint states were joined with
    offset_s: float = 0.0  # worst distance between a frame and its time on the grid of control steps
    tracking_rad: float = 0.0  # farthest that the arm was from where it was commanded

    def finish(self) -> BagReport:
        """Puts that into words."""
        self.notes += [
            f"frames were taken within {1e3 * self.tolerance_s:.1f} ms of a control step, positions from joint states "
            f"at most {2e3 * self.tolerance_s:.1f} ms apart",
            f"frames lie at most {1e3 * self.offset_s:.1f} ms beside the control steps",
            f"the arm was at most {self.tracking_rad:.3f} rad from where it was commanded",
        ]
        return self


# ---- what a recording holds, except the pictures ---------------------------------------------------------------------


def _stamp_ns(data: bytes) -> int:
    """The header's stamp of a serialised message whose first field is a std_msgs/Header, ns."""
    if len(data) < 12 or data[0] != 0 or data[1] not in (0, 1):
        raise ValueError("is not CDR")
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] else ">iI", data, 4)
    return int(seconds) * _NS + int(nanoseconds)


class _Command(NamedTuple):
    """A JointTrajectory message: stamp_ns 0 means "when it arrives", times_s (T,), positions (T, A) and velocities.

    Without points: commands may have been lost here, so nobody knows what is in force.
    """

    log_ns: int
    stamp_ns: int
    times_s: np.ndarray
    positions: np.ndarray | None  # None: the velocities count, from where the arm is
    velocities: np.ndarray | None
    accelerations: np.ndarray | None = None


class _State(NamedTuple):
    """A JointState message: positions (A + held,) rad."""

    log_ns: int
    stamp_ns: int
    positions: np.ndarray


class _Frame(NamedTuple):
    """A picture, but for the picture itself."""

    number: int  # in the order of recording
    log_ns: int
    stamp_ns: int  # -1 where it cannot be read


@dataclass
class _Era:
    """What was recorded, in order, while no clock stepped back."""

    frames: dict[str, list[_Frame]] = field(default_factory=lambda: defaultdict(list))  # by topic, as all of these
    joints: dict[str, list[_State]] = field(default_factory=lambda: defaultdict(list))
    commands: dict[str, list[_Command]] = field(default_factory=lambda: defaultdict(list))
    references: dict[str, list[_State]] = field(default_factory=lambda: defaultdict(list))
    lost: list[_Command] = field(default_factory=list)


class _Stretch(NamedTuple):
    """What was recorded of one camera and one arm while no clock stepped back."""

    frames: list[_Frame]
    joints: list[_State]
    commands: list[_Command]
    references: list[_State]  # positions (A,) that the controller demanded


@dataclass
class _Streams:
    """Everything of a recording but the pictures themselves; a moment in it is (era, log_ns)."""

    eras: list[_Stretch]  # frames of the first camera
    others: list[list[list[_Frame]]]  # of each era those of each other camera
    markers: list[tuple[tuple[int, int], str]]
    image_topics: list[str]  # of each camera

    @property
    def period_s(self) -> float:
        """From picture to picture; 0.0 of fewer than two."""
        stamps = [np.array([frame.stamp_ns for frame in era.frames if frame.stamp_ns >= 0]) for era in self.eras]
        intervals = np.concatenate([np.diff(some) for some in stamps]) / _NS
        return float(np.median(intervals[intervals > 0])) if (intervals > 0).any() else 0.0


def _matches(topic: str, wanted: str) -> bool:
    return f"/{topic.strip('/')}".endswith(f"/{wanted.strip('/')}")


def _only(found: Iterable[str], wanted: str, what: str, source: Path, others: dict[str, str]) -> str:
    """The one topic of a role, or an error that lists what there is instead; `others` says what that is."""
    topics = sorted(found)
    exact = [topic for topic in topics if topic.strip("/") == wanted.strip("/")]
    if len(topics) == 1 or exact:
        return (exact or topics)[0]
    if topics:
        raise DataError(f"{source} has {what} on {' and '.join(topics)}; say which to take, with its whole name")
    listed = ", ".join(f"{topic} ({said})" if said else topic for topic, said in sorted(others.items()))
    raise DataError(f"{source} has no {what} on a topic {wanted!r}; of their type it has {listed or 'none'}")


def _what(message: TopicMessage, wanted: Sequence[str]) -> str | None:
    """What a message is, if it is almost what is wanted: empty where it is that, None where it is something else."""
    short = [name.rpartition("/")[2] for name in wanted]
    name = message.type.replace("/", ".").rpartition(".")[2]
    if message.encoding != CDR:
        if name in short or any(name == f"{one}s" for one in short) or name.startswith(tuple(short)):
            made = {"ros1": "ROS 1, convert it with `rosbags-convert`"}
            return f"{message.type}, {made.get(message.encoding, f'{message.encoding} instead of ROS 2')}"
        return None
    if message.type in wanted:
        return "" if message.decode is not None else "without a message definition"
    return (
        f"{message.type}, {OTHER_COMMANDS[message.type]}"
        if COMMAND in wanted and message.type in OTHER_COMMANDS
        else None
    )


def _joint_names(files: Sequence[Path], topics: Topics) -> tuple[tuple[str, ...], dict[str, str]]:
    """The joints that most commands are for, else the controller's, and what else on the recording's topics could be
    commands."""
    counts: Counter[tuple[str, ...]] = Counter()
    controlled: tuple[str, ...] = ()
    orders: dict[tuple[str, ...], tuple[str, ...]] = {}
    others: dict[str, str] = {}
    for message in messages(files):
        said = _what(message, [COMMAND])
        if said is not None:
            others[message.topic] = said
        if message.type == COMMAND and message.encoding == CDR and _matches(message.topic, topics.command):
            found = getattr(_decode(message), "joint_names", None)
            if isinstance(found, list) and found and all(isinstance(name, str) for name in found):
                key = tuple(sorted(found))
                counts[key] += 1
                orders.setdefault(key, tuple(found))
        elif _is_reference(message, topics) and not controlled:
            found = getattr(_decode(message), "joint_names", None)
            if isinstance(found, list) and all(isinstance(name, str) for name in found):
                controlled = tuple(found)
    return (orders[counts.most_common(1)[0][0]] if counts else controlled), others


def _decode(message: TopicMessage) -> Any:
    """The message's fields, or None where the bytes are not what the schema says."""
    try:
        return message.decode(message.data)
    except Exception:  # struct.error, UnicodeDecodeError, MemoryError, ... : the bytes decide
        return None


def _scan(
    source: Path,
    files: Sequence[Path],
    topics: Topics,
    images: Sequence[str],
    columns: Columns,
    clock: str,
    report: BagReport,
) -> _Streams:
    """Reads everything once; of the pictures only the stamps.

    :param images: topic of each camera.

    :raises DataError: a topic is missing or ambiguous, or clocks do not agree.
    """
    eras, era = [_Era()], 0
    markers: dict[str, list[tuple[tuple[int, int], str]]] = defaultdict(list)
    seen: dict[str, dict[str, str]] = {"pictures": {}, "joint states": {}, "commands": {}}
    numbers: Counter[str] = Counter()
    latest: dict[str, int] = {}
    stepped: list[str] = []
    lost = _Command(0, 0, np.empty(0), np.empty((0, len(columns.names))), None)

    def follow(what: str, now_ns: int, slack_s: float) -> None:
        """Begins another era where a clock steps back."""
        nonlocal era
        back_s = (latest.get(what, now_ns) - now_ns) / _NS
        if back_s > slack_s:
            stepped.append(f"the clock of the {what} went back by {back_s:.2f} s")
            eras.append(_Era())
            era += 1
            latest.clear()
        latest[what] = max(now_ns, latest.get(what, now_ns))

    for message in messages(files, report.problems):
        topic, kind, log_ns = message.topic, message.type, message.log_ns
        for role, wanted in (("pictures", (IMAGE, COMPRESSED)), ("joint states", (STATE,)), ("commands", (COMMAND,))):
            said = None if kind == LOST or topic in seen[role] else _what(message, wanted)
            if said is not None:
                seen[role][topic] = said
        there = 0 <= log_ns < FOREVER_NS
        if there and kind != LOST:
            if (log_ns - latest.get("recorder", log_ns)) / _NS > PAUSE_S:
                eras[era].lost.append(lost._replace(log_ns=latest["recorder"]))
            follow("recorder", log_ns, STEP_BACK_S)
        if kind == LOST:
            eras[era].lost.append(lost._replace(log_ns=min(log_ns, FOREVER_NS)))
        elif message.encoding != CDR:
            continue
        elif any(_is_image(message, image) for image in images):
            try:
                if not there:
                    raise ValueError("no time of this age of the world")
                stamp_ns = _stamp_ns(message.data)
                follow(f"pictures on {topic}", stamp_ns, 0.0)
            except ValueError:
                stamp_ns = -1  # keeps the numbering
            eras[era].frames[topic].append(_Frame(numbers[topic], log_ns, stamp_ns))
            numbers[topic] += 1
        elif kind == STATE and _matches(topic, topics.joint_states):
            for state in _read(message, _state, columns, report.left_out):
                follow(f"joint states on {topic}", state.stamp_ns, STEP_BACK_S / 10)
                eras[era].joints[topic].append(state)
        elif kind == COMMAND and _matches(topic, topics.command):
            eras[era].commands[topic] += _read(message, _command, columns, report.left_out)
        elif _is_reference(message, topics):
            eras[era].references[topic] += _read(message, _reference, columns, report.left_out)
        elif kind == MARKER and _matches(topic, topics.episode):
            markers[topic] += [
                ((era, log_ns), text)
                for text in _read(message, lambda decoded, log_ns, _: str(decoded.data), columns, report.left_out)
            ]
    roles = ("frames", "joints", "commands", "references")
    names = {role: {topic for one in eras for topic in getattr(one, role)} for role in roles}
    image_topics = [_image_topic(names["frames"], wanted, source, seen["pictures"], report) for wanted in images]
    image, *other_images = image_topics
    named = (topics.joint_states, topics.command, topics.reference)
    for kind, name in zip(roles[1:], named, strict=True):
        if len(names[kind]) > 1:
            report.note(f"{name}: of {', '.join(sorted(names[kind]))} the one that is called so was taken")
    state = _only(names["joints"], topics.joint_states, "joint states", source, seen["joint states"])
    command = reference = ""
    if names["references"]:
        reference = _only(names["references"], topics.reference, "controller states", source, {})
        report.note(f"actions are of what the controller demanded of the arm, on {reference}")
    if names["commands"] or not reference:
        command = _only(names["commands"], topics.command, "commands", source, seen["commands"])
    marker = _only(markers, topics.episode, "episode markers", source, {}) if markers else ""
    # One topic may have been written after the other.
    if not any(all(one.frames[topic] for topic in image_topics) and one.joints[state] for one in eras):
        merged = _Era()
        for one in eras:
            for topic in image_topics:
                merged.frames[topic] += one.frames[topic]
            merged.joints[state] += one.joints[state]
            merged.commands[command] += one.commands[command]
            merged.references[reference] += one.references[reference]
        eras, stepped = [merged], []
        markers[marker] = [((0, log_ns), text) for (_, log_ns), text in markers[marker]]
    report.gaps += stepped
    found, others = [], []
    for one in eras:
        commands = sorted(one.commands[command] + one.lost, key=lambda told: told.log_ns)
        stretch = _Stretch(one.frames[image], one.joints[state], commands, one.references[reference])
        found.append(_on_one_clock(stretch, clock, source))
        others.append(
            [_on_one_clock(stretch._replace(frames=one.frames[topic]), clock, source).frames for topic in other_images]
        )
    return _Streams(found, others, markers[marker], image_topics)


def _image_topic(found: set[str], wanted: str, source: Path, others: dict[str, str], report: BagReport) -> str:
    """The topic that a camera's pictures are on."""
    fitting = [topic for topic in found if _matches(topic, wanted) or _matches(topic, f"{wanted}/compressed")]
    raw = [topic for topic in fitting if not topic.endswith("/compressed")]  # raw pictures lost nothing
    if len(fitting) > 1:
        report.note(f"{wanted}: of {', '.join(sorted(fitting))} the one that is called so was taken")
    exact = [topic for topic in fitting if topic.strip("/") == wanted.strip("/")]
    return _only(exact or raw or fitting, wanted, "pictures", source, others)


def _on_one_clock(stretch: _Stretch, clock: str, source: Path) -> _Stretch:
    """The same with stamps of one clock: those of the headers where they agree, or the recorder's.

    :raises DataError: the headers' do not agree.
    """
    frames, joints, commands, references = stretch
    readable = [frame for frame in frames if frame.stamp_ns >= 0]
    if len(readable) < 2 or len(joints) < 2:
        return stretch
    advice = "or convert with --clock recorder, which goes by the time of arrival"
    seen, felt = (np.array([(one.log_ns, one.log_ns - one.stamp_ns) for one in some]) for some in (readable, joints))
    without = [
        what
        for what, some in (("pictures", readable), ("joint states", joints))
        if some[0].stamp_ns == some[-1].stamp_ns
    ]
    if clock == "recorder":
        late_ns = 0 if "joint states" in without else int(np.median(felt[:, 1]))
        return _Stretch(
            [frame._replace(stamp_ns=frame.log_ns) if frame.stamp_ns >= 0 else frame for frame in frames],
            [state._replace(stamp_ns=state.log_ns) for state in joints],
            [told._replace(stamp_ns=told.stamp_ns + late_ns if told.stamp_ns and late_ns else 0) for told in commands],
            [state._replace(stamp_ns=state.log_ns) for state in references],
        )
    if without:
        raise DataError(
            f"{source}: the {' and the '.join(without)} have no stamps; let their driver write them, {advice}"
        )
    begin = seen[0, 0]
    apart_s = (seen[:, 1] - np.interp(seen[:, 0] - begin, felt[:, 0] - begin, felt[:, 1])) / _NS
    windows = [float(np.median(some)) for some in np.array_split(apart_s, max(1, len(apart_s) // 20))]
    worst = min(windows) if min(windows) < -AHEAD_S else max(windows)
    if not -AHEAD_S <= worst <= BEHIND_S:
        raise DataError(
            f"{source}: the camera's stamps lie {abs(worst):.2f} s {'ahead of' if worst < 0 else 'behind'} the arm's, "
            f"judged by when both were recorded; set both machines by one clock (chrony, PTP), {advice}"
        )
    return stretch


def _is_reference(message: TopicMessage, topics: Topics) -> bool:
    there = message.type == REFERENCE and message.encoding == CDR and message.decode is not None
    return there and (_matches(message.topic, topics.reference) or _matches(message.topic, topics.command))


def _is_image(message: TopicMessage, wanted: str) -> bool:
    if message.type == COMPRESSED and _matches(message.topic, f"{wanted}/compressed"):
        return True
    return message.type in (IMAGE, COMPRESSED) and _matches(message.topic, wanted)


def _read(message: TopicMessage, convert: Callable[..., Any], columns: Columns, left_out: Counter[str]) -> list[Any]:
    """What `convert(decoded, log_ns, columns)` makes of a message: one value, or none and a reason."""
    decoded = _decode(message)
    try:
        if decoded is None or not 0 <= message.log_ns < FOREVER_NS:
            raise ValueError("cannot be read")
        try:
            return [convert(decoded, message.log_ns, columns)]
        except (AttributeError, TypeError, OverflowError) as error:  # fields of other names or types
            raise ValueError("with another definition than ROS's") from error
    except ValueError as error:
        left_out[f"{message.type.rpartition('/')[2]} messages: {error}"] += 1
        return []


def _state(decoded: Any, log_ns: int, columns: Columns) -> _State:
    at = {name: i for i, name in enumerate(decoded.name)}
    names = columns.names + columns.held
    if not set(names) <= set(at) or len(decoded.position) != len(at):
        raise ValueError("of other joints, or without positions")
    positions = np.array([decoded.position[at[name]] for name in names]) * columns.factors(names)
    if not (np.abs(positions) <= MOST).all():
        raise ValueError("positions that are not finite")
    return _State(log_ns, decoded.header.stamp.sec * _NS + decoded.header.stamp.nanosec, positions)


def _reference(decoded: Any, log_ns: int, columns: Columns) -> _State:
    point = decoded.reference if hasattr(decoded, "reference") else decoded.desired  # before Iron
    at = {name: i for i, name in enumerate(decoded.joint_names)}
    if not set(columns.names) <= set(at) or len(point.positions) != len(at):
        raise ValueError("of other joints, or without a reference")
    positions = np.array([point.positions[at[name]] for name in columns.names]) * columns.factors(columns.names)
    if not (np.abs(positions) <= MOST).all():
        raise ValueError("positions that are not finite")
    return _State(log_ns, decoded.header.stamp.sec * _NS + decoded.header.stamp.nanosec, positions)


def _command(decoded: Any, log_ns: int, columns: Columns) -> _Command:
    joints, points, names = decoded.joint_names, decoded.points, columns.names
    if not set(names) <= set(joints) or not points:
        raise ValueError("for other joints, or without points: the controller refuses them")
    at, factors = [joints.index(name) for name in names], columns.factors(names)
    sizes = [(len(p.positions), len(p.velocities)) for p in points]
    allowed = ((len(joints), 0), (len(joints), len(joints)), (0, len(joints)))
    if any(size not in allowed for size in sizes) or len({positions for positions, _ in sizes}) > 1:
        raise ValueError("with points of the wrong size: the controller refuses them")
    accelerated = all(size[1] and len(p.accelerations) == len(joints) for size, p in zip(sizes, points, strict=True))
    return _Command(
        log_ns,
        decoded.header.stamp.sec * _NS + decoded.header.stamp.nanosec,
        np.array([p.time_from_start.sec + p.time_from_start.nanosec / _NS for p in points]),
        np.array([p.positions for p in points])[:, at] * factors if sizes[0][0] else None,
        np.array([p.velocities for p in points])[:, at] * factors if all(size[1] for size in sizes) else None,
        np.array([p.accelerations for p in points])[:, at] * factors if accelerated else None,
    )


# ---- one stretch of a recording on one clock -------------------------------------------------------------------------


def _command_positions(
    times_s: np.ndarray,
    commands: Sequence[_Command],
    received_s: np.ndarray,
    epoch_ns: int,
    measured_s: np.ndarray,
    measured: np.ndarray,
    left_out: Counter[str],
) -> np.ndarray:
    """Commanded position at `times_s` (N,), (N, A) rad; NaN while that is unknown.

    :param received_s: (C,) when each command came into force, if the controller took it.
    :param measured_s: (M,) and
    :param measured: (M, A) rad, what the controller starts from where a command begins in the future.
    """
    positions = np.full((len(times_s), measured.shape[1]), np.nan)
    in_force: JointTrajectory | None = None
    for i, command in enumerate(commands):
        if len(command.times_s) == 0:
            in_force = None
            continue
        now = received_s[i]
        around = _interpolate(now + np.array([-0.02, 0.0, 0.02]), measured_s, measured)
        points = command.positions
        if points is None:  # velocities alone are integrated, from where the arm was commanded to be
            assert command.velocities is not None
            begin = around[1] if in_force is None else in_force.sample(np.array([now]))[0]
            late = (now - (command.stamp_ns - epoch_ns) / _NS) if command.stamp_ns else 0.0
            points = _integrated(command.times_s, command.velocities)
            points = (
                begin
                + points
                - _interpolate(
                    np.array([max(0.0, late)]), np.append(0.0, command.times_s), np.vstack([0.0 * begin, points])
                )
            )
        try:
            in_force = JointTrajectory(
                command.times_s,
                points,
                command.velocities,
                start_s=(command.stamp_ns - epoch_ns) / _NS if command.stamp_ns else now,
                now_s=now,
                position_now=around[1],
                velocity_now=(around[2] - around[0]) / 0.04,
                accelerations=command.accelerations,
            )
        except ValueError:
            left_out["JointTrajectory messages: malformed, or ended in the past: the controller refuses them"] += 1
        end_s = received_s[i + 1] if i + 1 < len(commands) else np.inf
        inside = (times_s >= now) & (times_s < end_s)
        if in_force is not None and inside.any():
            positions[inside] = in_force.sample(times_s[inside])
    return positions


def _demanded(
    times_s: np.ndarray, references: Sequence[_State], epoch_ns: int, longest_s: float, turning: np.ndarray
) -> np.ndarray:
    """Positions that the controller demanded at `times_s` (N,), (N, A) rad; NaN where it did not say so within
    `longest_s` seconds around.

    :param turning: (N, A) rad where the joints whose numbers wrap at pi were measured, NaN for others.
    """
    at_s = np.array([state.stamp_ns - epoch_ns for state in references]) / _NS
    demanded = np.array([state.positions for state in references])
    wraps = ~np.isnan(turning).all(0)
    demanded[:, wraps] = np.unwrap(demanded[:, wraps], axis=0)
    positions = _interpolate(times_s, at_s, demanded)
    turn = 2.0 * np.pi
    positions[:, wraps] += turn * np.round((turning - positions)[:, wraps] / turn)
    before = np.searchsorted(at_s, times_s, side="right") - 1
    apart_s = np.diff(at_s)[np.clip(before, 0, len(at_s) - 2)]
    positions[(before < 0) | (before >= len(at_s) - 1) | (apart_s > longest_s)] = np.nan
    return positions


def _integrated(times_s: np.ndarray, velocities: np.ndarray) -> np.ndarray:
    """How far points (T, A) that have velocities only lead; the first velocity counts from the beginning on."""
    before = np.vstack([velocities[:1], velocities[:-1]])
    return np.cumsum(0.5 * (before + velocities) * np.diff(times_s, prepend=0.0)[:, None], axis=0)


def _unwrapped(
    measured: np.ndarray, measured_s: np.ndarray, commands: list[_Command], received_s: np.ndarray
) -> tuple[np.ndarray, list[_Command], list[int]]:
    """Positions (M, A) and commands without the jumps of joints whose numbers wrap at pi, and which those are."""
    turn, near = 2.0 * np.pi, 0.9 * 2.0 * np.pi
    wraps = (np.abs(np.diff(measured, axis=0)) > near).any(0)
    for told in commands:
        if told.positions is not None and len(told.positions) > 1:
            short = np.diff(told.times_s)[:, None] < 0.1
            jumps = ((np.abs(np.diff(told.positions, axis=0)) > near) & short).any(0)
            wraps[: len(jumps)] |= jumps
    if not wraps.any():
        return measured, commands, []
    measured = np.where(wraps, np.unwrap(measured, axis=0), measured)
    mended = []
    for told, now_s in zip(commands, received_s, strict=True):
        if told.positions is not None and len(told.positions):
            width = told.positions.shape[1]
            there = _interpolate(np.array([now_s]), measured_s, measured)[0, :width]
            points = np.unwrap(told.positions, axis=0)
            at = int(np.clip(np.searchsorted(told.times_s, 0.0), 0, len(points) - 1))
            points += turn * np.round((there - points[at]) / turn)
            told = told._replace(positions=np.where(wraps[:width], points, told.positions))
        mended.append(told)
    return measured, mended, np.flatnonzero(wraps).tolist()


def _interpolate(times_s: np.ndarray, known_s: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Each column of `known` (M, A) at `times_s` (N,), (N, A)."""
    return np.stack([np.interp(times_s, known_s, column) for column in known.T], axis=1)


def _grid_runs(stamps_s: np.ndarray, control_dt_s: float, tolerance_s: float) -> list[tuple[list[int], float, int]]:
    """Runs of frames one control step apart; with each the grid time that has no frame, and where the next run begins.

    A run's grid starts at its first frame. The frame for a grid time is the nearest one within the tolerance, and
    every frame is used once.
    """
    runs = []
    start = 0
    while start < len(stamps_s):
        run = [start]
        while True:
            target = float(stamps_s[start] + len(run) * control_dt_s)
            right = int(np.searchsorted(stamps_s, target))
            near = [j for j in (right - 1, right) if run[-1] < j < len(stamps_s)]
            best = min(near, key=lambda j: abs(stamps_s[j] - target), default=-1)
            if best < 0 or abs(stamps_s[best] - target) > tolerance_s + _ROUNDING_S:
                break
            run.append(best)
        start = max(run[-1] + 1, int(np.searchsorted(stamps_s, target - tolerance_s)))
        runs.append((run, target, start))
    return runs


@dataclass
class _Plan:
    """One episode before its pictures are read: for each frame the number of each camera's picture, commanded and
    measured positions (n, A) rad, and the stamps of the frames (n,), s from the first frame on this clock."""

    frames: list[tuple[int, ...]]
    commanded: np.ndarray
    proprio: np.ndarray
    name: str
    stamps_s: np.ndarray


def _segments(
    markers: Sequence[tuple[tuple[int, int], str]], report: BagReport
) -> list[tuple[tuple[int, int], tuple[int, int], str]]:
    """Stretches of the recording, moments (era, log_ns), that count, with a name for each."""
    first, last = (-1, 0), (FOREVER_NS, 0)
    if not markers:
        return [(first, last, "")]
    segments: list[tuple[tuple[int, int], tuple[int, int], str]] = []
    running: tuple[tuple[int, int], str] | None = None
    for moment, text in markers:
        verb, _, name = text.strip().partition(" ")
        verb = verb.rstrip(":").lower()
        if verb not in ("start", "end", "discard"):
            report.problems.append(f"episode marker {text!r} is unknown; send start, end or discard")
            continue
        if running is not None and verb != "discard":
            segments.append((running[0], moment, running[1]))
        elif running is None and verb != "start":
            report.problems.append(f"episode marker {text!r} without a start before it")
        running = (moment, name.strip()) if verb == "start" else None
    if running is not None:
        segments.append((running[0], last, running[1]))
    return segments


def _increasing_frames(frames: Sequence[_Frame], report: BagReport) -> list[_Frame]:
    """Those that can be read and are newer than the ones before."""
    kept: list[_Frame] = []
    for frame in frames:
        if frame.stamp_ns < 0:
            report.left_out["images that cannot be read"] += 1
        elif kept and frame.stamp_ns <= kept[-1].stamp_ns:
            report.left_out["images with the stamp of the one before, or an older one"] += 1
        else:
            kept.append(frame)
    return kept


def _plan_episodes(
    streams: _Streams, columns: Columns, control_dt_s: float, tolerance_s: float, report: BagReport
) -> list[_Plan]:
    """Which frames become episodes, with their actions and positions."""
    segments = _segments(streams.markers, report)
    plans: list[_Plan] = []
    actions = len(columns.names)
    held_at = _held_at(streams, actions)
    for number, (frames, joints, commands, references) in enumerate(streams.eras):
        report.frames_recorded += len(frames)
        frames, joints, references = _increasing_frames(frames, report), _increasing(joints), _increasing(references)
        beside = [_nearest(frames, _increasing_frames(other, report), tolerance_s) for other in streams.others[number]]
        whole = [all(partners[i] >= 0 for partners in beside) for i in range(len(frames))]
        if not all(whole):
            report.left_out["frames that not every camera has a picture of"] += whole.count(False)
        pictures = [(frame.number, *(partners[i] for partners in beside)) for i, frame in enumerate(frames) if whole[i]]
        frames = [frame for frame, good in zip(frames, whole, strict=True) if good]
        if not frames:
            continue
        if len(joints) < 2:
            report.gaps.append(f"{len(frames)} frames without joint states")
            continue
        epoch_ns, log_ns = frames[0].stamp_ns, joints[0].log_ns
        times_s = np.array([frame.stamp_ns - epoch_ns for frame in frames]) / _NS
        report.intervals_s += np.diff(times_s).tolist()
        joints_s = np.array([state.stamp_ns - epoch_ns for state in joints]) / _NS
        measured = np.array([state.positions for state in joints])
        received_s = _between_clocks(
            np.array([command.log_ns - log_ns for command in commands]) / _NS,
            np.array([state.log_ns - log_ns for state in joints]) / _NS,
            joints_s,
        )
        measured, commands, wrapped = _unwrapped(measured, joints_s, commands, received_s)
        for joint in wrapped:
            report.note(f"the numbers of {(columns.names + columns.held)[joint]} wrap at pi; its turns were counted")
        all_positions = _interpolate(times_s, joints_s, measured)
        positions, measured = all_positions[:, :actions], measured[:, :actions]
        if len(references) > 1:
            turning = np.full_like(positions, np.nan)
            turns = [joint for joint in wrapped if joint < actions]
            turning[:, turns] = positions[:, turns]
            longest_s = 2.0 * tolerance_s + _ROUNDING_S
            commanded = _demanded(times_s, references, epoch_ns, longest_s, turning)
        else:
            commanded = _command_positions(times_s, commands, received_s, epoch_ns, joints_s, measured, report.left_out)
        before = np.searchsorted(joints_s, times_s, side="right") - 1
        between = (before >= 0) & (before < len(joints_s) - 1)
        interval_s = np.diff(joints_s)[np.clip(before, 0, len(joints_s) - 2)]
        told = ~np.isnan(commanded).any(axis=1)
        moved = (np.abs(all_positions[:, actions:] - held_at) > HELD_RAD).any(axis=1)
        if moved.any():
            report.left_out[f"frames in which {' or '.join(columns.held)} had moved"] += int(moved.sum())
        known = between & (interval_s <= 2.0 * tolerance_s + _ROUNDING_S)
        moments = [(number, frame.log_ns) for frame in frames]
        for segment_begin, segment_end, name in segments:
            members = np.array([i for i, at in enumerate(moments) if segment_begin <= at < segment_end], int)
            for run, target_s, following in _grid_runs(times_s[members], control_dt_s, tolerance_s):
                rows = members[run]
                if following < len(members):
                    report.gaps.append(
                        f"no frame within {1e3 * tolerance_s:.0f} ms of {target_s:.3f} s, "
                        f"the next is at {times_s[members[following]]:.3f} s"
                    )
                unknown = rows[told[rows] & ~known[rows]]
                if len(unknown):
                    report.gaps.append(
                        f"{len(unknown)} frames lie between joint states more than {2e3 * tolerance_s:.0f} ms apart, "
                        f"the first at {times_s[unknown[0]]:.3f} s"
                    )
                if not told[rows].all():
                    report.left_out["frames without a known command"] += int((~told[rows]).sum())
                for piece in stretches(told[rows] & known[rows] & ~moved[rows], LONGEST_EPISODE):
                    kept = rows[piece]
                    beside_s = np.abs(times_s[kept] - (times_s[rows[0]] + control_dt_s * np.array(piece)))
                    report.offset_s = max(report.offset_s, float(beside_s.max()))
                    error = float(np.abs(commanded[kept] - positions[kept]).max())
                    report.tracking_rad = max(report.tracking_rad, error)
                    numbers = [pictures[row] for row in kept]
                    plans.append(_Plan(numbers, commanded[kept], positions[kept], name, times_s[kept]))
    for held, at in zip(columns.held, held_at, strict=True):
        report.note(f"{held} is held at {at:.3f} rad")
    return plans


def _nearest(frames: Sequence[_Frame], others: Sequence[_Frame], tolerance_s: float) -> list[int]:
    """The number of the other camera's picture that was taken nearest to each frame; -1 beyond the tolerance."""
    if not others or not frames:
        return [-1] * len(frames)
    stamps_ns = np.array([other.stamp_ns for other in others])
    found = []
    for frame in frames:
        right = int(np.searchsorted(stamps_ns, frame.stamp_ns))
        near = [j for j in (right - 1, right) if 0 <= j < len(others)]
        best = min(near, key=lambda j: abs(int(stamps_ns[j]) - frame.stamp_ns))
        good = abs(int(stamps_ns[best]) - frame.stamp_ns) <= tolerance_s * _NS
        found.append(others[best].number if good else -1)
    return found


def _held_at(streams: _Streams, actions: int) -> np.ndarray:
    """Where the joints behind the first `actions` stand most of the time, rad."""
    states = [state.positions[actions:] for era in streams.eras for state in era.joints]
    return np.median(states, axis=0) if states else np.empty(0)


def _between_clocks(at_s: np.ndarray, from_s: np.ndarray, to_s: np.ndarray) -> np.ndarray:
    """Times on one clock as times on another, from pairs of the same moments; at the same pace outside them."""
    outside = np.minimum(at_s - from_s[0], 0.0) + np.maximum(at_s - from_s[-1], 0.0)
    return np.interp(at_s, from_s, to_s) + outside


def _increasing(joints: Sequence[_State]) -> list[_State]:
    """Without joint states that are not newer than the one before."""
    kept: list[_State] = []
    for state in joints:
        if not kept or (state.stamp_ns > kept[-1].stamp_ns and state.log_ns >= kept[-1].log_ns):
            kept.append(state)
    return kept


# ---- pictures and the file -------------------------------------------------------------------------------------------


def convert_bag(
    paths: Sequence[str | Path],
    out: str | Path,
    control_dt_s: float | None = None,
    tolerance_s: float | None = None,
    image_size: int = RECORDED_SIDE,
    columns: Columns | None = None,
    topics: Topics | None = None,
    clock: str = "header",
    view: View = ONE,
) -> BagReport:
    """Writes the episodes of recordings to one HDF5 file that `lewm train` reads.

    :param paths: recordings, MCAP or SQLite files or folders of `ros2 bag record`.
    :param out: HDF5 file; appears when it is complete.
    :param control_dt_s: time of one action, s; None is what fits the camera's rate and is about `USUAL_STEP_S`.
    :param tolerance_s: greatest distance between a grid time and its frame, and half of the greatest distance between
        the two joint states around a frame, s; None is half of `control_dt_s`.
    :param image_size: pixels, pictures are cropped to a square and scaled.
    :param columns: joints in the order of the action's columns; by default those that most commands are for.
    :param clock: "header", or "recorder" where the headers' stamps are of several clocks, or of none.
    :param view: the cameras whose pictures lie side by side in the model's; without any there is one, with the topic
        of `topics` and `image_size`.
    :return: what was found, used and left out, for people.
    :raises DataError: a file is no recording, a topic is missing, clocks or numbers cannot be right, or nothing is
        left.
    """
    topics, columns = topics or Topics(), columns or Columns()
    if control_dt_s is not None:
        _check_times(control_dt_s, tolerance_s)
    if not paths:
        raise DataError("no recording was given")
    if clock not in CLOCKS:
        raise DataError(f"--clock is {clock!r}; it is one of {', '.join(CLOCKS)}")
    report = BagReport()
    sources = [(Path(path), bag_files(path, report.problems)) for path in paths]
    names, others = columns.names, dict[str, str]()
    for _, files in sources:
        if not names:
            names, more = _joint_names(files, topics)
            others |= more
    names = tuple(name for name in names if name not in columns.held)
    if not names:
        listed = ", ".join(f"{topic} ({said})" if said else topic for topic, said in sorted(others.items()))
        raise DataError(
            f"{sources[0][0]} holds no command on a topic {topics.command!r}; name the topic, or the joints if another "
            f"recording holds the commands. Commands that it could be: {listed or 'none'}"
        )
    if len(set(names)) != len(names) or len(names) > MOST_JOINTS or not all(map(str.isprintable, names)):
        raise DataError(f"the joints are {names[:8]!r}; give up to {MOST_JOINTS} names, each once")
    columns = replace(columns, names=names)
    columns.factors(names)
    kinds = columns.kinds(names)
    observation = Observation(view.cameras or (Camera("camera", image_size, image_size, topics.image),))
    images = [camera.topic for camera in observation.cameras]
    writer: EpisodeWriter | None = None
    try:
        for source, files in sources:
            streams = _scan(source, files, topics, images, columns, clock, report)
            control_dt_s = _fitting_step_s(source, streams.period_s, control_dt_s, report)
            tolerance = 0.5 * control_dt_s if tolerance_s is None else tolerance_s
            _check_times(control_dt_s, tolerance)
            report.tolerance_s = tolerance
            plans = _plan_episodes(streams, columns, control_dt_s, tolerance, report)
            refuse_wrong(names, [plan.proprio for plan in plans], control_dt_s, str(source), columns.limits)
            refuse_wrong(names, [plan.commanded for plan in plans], control_dt_s, str(source), columns.limits)
            if writer is None:
                command = ["lewm", "convert", *(str(path) for path in paths), "--out", str(out)]
                command += _said(columns, topics, clock) + ["--control-dt-s", str(control_dt_s)]
                command += ["--tolerance-s", str(tolerance), *(view.options or ("--image-size", str(image_size)))]
                attributes: dict[str, str | int | float] = {"command": shlex.join(command), "tolerance_s": tolerance}
                recorded = {
                    "recorder": "lewm convert",
                    "kind": "ROS 2",
                    "sources": [str(path) for path in paths],
                    "topics": asdict(topics),
                    "tolerance_s": tolerance,
                    "command": shlex.join(command),
                }
                writer = EpisodeWriter(
                    out,
                    observation.size,
                    names,
                    control_dt_s,
                    kinds,
                    attributes,
                    recorded=recorded,
                    cameras=view.cameras,
                )
            _write(writer, source, files, streams.image_topics, plans, observation, control_dt_s, report)
        if writer is None or not report.episodes:
            raise DataError(f"no episode of 2 frames or more is left\n{report.finish()}")
    except BaseException:
        if writer is not None:
            writer.discard()
        raise
    writer.close()
    return report.finish()


def _check_times(control_dt_s: float, tolerance_s: float | None) -> None:
    if not control_dt_s > 0.0 or (tolerance_s is not None and not 0.0 < tolerance_s <= 0.5 * control_dt_s):
        raise DataError(
            f"control_dt_s is {control_dt_s} and tolerance_s {tolerance_s}; both must be above 0, and the second at "
            "most half of the first"
        )


def _fitting_step_s(source: Path, period_s: float, wanted_s: float | None, report: BagReport) -> float:
    """The control step, s: what was asked for, or what fits the camera's period.

    :raises DataError: frames come more slowly than was asked for.
    """
    if not period_s > 0.0:
        return wanted_s or USUAL_STEP_S
    rate = 1.0 / period_s
    if abs(rate - round(rate)) < 0.01 * rate and round(rate) > 0:
        period_s = 1.0 / round(rate)  # what the camera is set to; stamps jitter
    fitting = period_s * max(1, round(USUAL_STEP_S / period_s))
    if wanted_s is None:
        report.note(f"an action every {fitting:.4g} s: the camera has {1 / period_s:.4g} Hz")
        return fitting
    if wanted_s < 0.9 * period_s:
        raise DataError(
            f"{source}: the camera has {1 / period_s:.4g} Hz, so there is no frame every {wanted_s:.4g} s; give "
            f"--control-dt-s {period_s:.4g} or a multiple of it"
        )
    return wanted_s


def _said(columns: Columns, topics: Topics, clock: str) -> list[str]:
    """The options of `lewm convert` that differ from their defaults."""
    usual = Topics()
    options = {
        "--joints": ",".join(columns.names),
        "--hold": ",".join(columns.held),
        "--gripper": ",".join(columns.grippers),
        "--units": columns.units,
        "--image-topic": topics.image if topics.image != usual.image else "",
        "--joint-states-topic": topics.joint_states if topics.joint_states != usual.joint_states else "",
        "--command-topic": topics.command if topics.command != usual.command else "",
        "--clock": clock if clock != CLOCKS[0] else "",
    }
    return [part for option, value in options.items() if value for part in (option, value)]


def _write(
    writer: EpisodeWriter,
    source: Path,
    files: Sequence[Path],
    image_topics: Sequence[str],
    plans: Sequence[_Plan],
    observation: Observation,
    control_dt_s: float,
    report: BagReport,
) -> None:
    """Reads the pictures that the plans need and writes each episode when it is whole; they are decoded in threads."""
    # By camera and number: where a picture belongs, its plan and row. One of a slow camera may belong to two frames.
    places: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for i, plan in enumerate(plans):
        for row, numbers in enumerate(plan.frames):
            for camera, n in enumerate(numbers):
                places[camera, n].append((i, row))
    left = [len(observation.cameras) * len(plan.frames) for plan in plans]
    waiting: dict[tuple[int, int, int], Future[np.ndarray]] = {}  # by plan, row and camera
    parts: dict[tuple[int, int, int], np.ndarray] = {}

    def finish(place: tuple[int, int, int]) -> None:
        try:
            parts[place] = waiting.pop(place).result()
        except EncodingError as error:
            report.left_out["images that cannot be read"] += 1
            if f"{source}: {error}" not in report.gaps:
                report.gaps.append(f"{source}: {error}")

    seen = Counter[int]()
    bar = tqdm(total=len(places), desc=f"converting {source.name}", unit="frame", disable=None, delay=2)
    with bar, ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for message in messages(files):
            if message.topic not in image_topics or message.type not in (IMAGE, COMPRESSED):
                continue
            camera = image_topics.index(message.topic)
            belongs = places.get((camera, seen[camera]), [])
            seen[camera] += 1
            if not belongs:
                continue
            part = pool.submit(_part, message, observation.cameras[camera])
            bar.update()
            for i, row in belongs:
                waiting[i, row, camera] = part
                left[i] -= 1
            while len(waiting) > READ_AHEAD:
                finish(next(iter(waiting)))
            for i in [i for i, _ in belongs if not left[i]]:
                plan = plans[i]
                for place in [place for place in waiting if place[0] == i]:
                    finish(place)
                count = len(observation.cameras)
                rows = [[parts.pop((i, row, k), None) for k in range(count)] for row in range(len(plan.frames))]
                whole = np.array([all(part is not None for part in row) for row in rows])
                _append(writer, source, plan, rows, whole, control_dt_s, report)


def _append(
    writer: EpisodeWriter,
    source: Path,
    plan: _Plan,
    rows: Sequence[Sequence[np.ndarray | None]],
    whole: np.ndarray,
    control_dt_s: float,
    report: BagReport,
) -> None:
    """Writes the stretches of a plan whose pictures, of each row the parts of all cameras, could be read."""
    for piece in stretches(whole, LONGEST_EPISODE):
        begin, end = piece[0], piece[-1] + 1
        writer.append(
            np.stack([np.concatenate([p for p in rows[row] if p is not None], axis=1) for row in piece]),
            (np.diff(plan.commanded[begin:end], axis=0) / control_dt_s).astype(np.float32),
            plan.proprio[begin:end].astype(np.float32),
            plan.stamps_s[begin:end],
        )
        report.frames_used += len(piece)
        title = f" {plan.name!r}" if plan.name else ""
        report.episodes.append(f"{source}{title}: {len(piece)} frames from {plan.stamps_s[begin]:.2f} s on")


def _part(message: TopicMessage, camera: Camera) -> np.ndarray:
    """The camera's part of the model's picture."""
    try:
        return camera.picture(_picture(message, camera))
    except ObservationError as error:
        raise DataError(str(error)) from error


def _picture(message: TopicMessage, camera: Camera) -> np.ndarray:
    """(H, W, 3) uint8 RGB; one much larger than the camera's part may come reduced, unless it is cropped."""
    decoded = _decode(message)
    if decoded is None:
        raise EncodingError(f"a message on {message.topic} is not a {message.type}")
    try:
        if message.type == COMPRESSED:
            enough = None if camera.crop else (camera.height, camera.width)
            return compressed_to_rgb(decoded.data, decoded.format, enough=enough)
        return raw_to_rgb(
            decoded.encoding, decoded.width, decoded.height, decoded.step, bool(decoded.is_bigendian), decoded.data
        )
    except EncodingError:
        raise
    except (AttributeError, TypeError, ValueError) as error:  # fields of other names or types
        raise EncodingError(f"{message.topic} has another definition of {message.type} than ROS") from error
