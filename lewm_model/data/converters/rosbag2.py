"""rosbag2 recordings (MCAP or SQLite) to episodes, without ROS.

The stamp in an image's header is the clock of everything. Frames are taken every `control_dt_s`; what the arm measured
and what it was commanded is looked up at the stamps of those frames:

- measured: `JointState` messages, positions interpolated linearly between their stamps;
- commanded: `JointTrajectory` messages, interpolated as the trajectory controller does. A message is in force from the
  moment it was received until the next one; what the arm was told before the first one is unknown.

An action is the commanded motion between the stamps of two frames, divided by `control_dt_s`, so that actions times
`control_dt_s` add up to exactly what was commanded between the pictures. Where a frame or a joint state is missing
the episode ends and another begins behind the gap: nothing is repeated or made up.

`std_msgs/String` messages on the topic `episode` cut a recording into episodes: "start" (anything after it is a name),
"end", and "discard" for an episode that went wrong. Without any, the whole recording counts.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import struct
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from mcap.exceptions import EndOfFile, InvalidMagic
from mcap.records import Channel, Chunk, Message, Schema
from mcap.stream_reader import StreamReader, breakup_chunk
from mcap_ros2.decoder import DecoderFactory

from lewm_model.data.converters.conversion import LONGEST_EPISODE, Conversion, stretches
from lewm_model.data.episodes import EpisodeWriter
from lewm_model.data.errors import DataError
from lewm_model.robot.encodings import EncodingError, compressed_to_rgb, raw_to_rgb
from lewm_model.robot.pictures import to_model_image
from lewm_model.robot.trajectory import MOST, JointTrajectory

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
STATE, COMMAND, MARKER = "sensor_msgs/msg/JointState", "trajectory_msgs/msg/JointTrajectory", "std_msgs/msg/String"
LOST = "lost"  # in place of a message's type: messages were recorded here that cannot be read any more
CLOCK_RESET_S = 1.0  # image stamps that go back farther than this are a clock that was set back
FOREVER_NS = 2**62
MOST_JOINTS = 64
_NS = 1_000_000_000
_SQLITE_TOPICS = "SELECT id, name, type FROM topics"
_SQLITE_MESSAGES = "SELECT topic_id, timestamp, data FROM messages ORDER BY id"
_ROUNDING_S = 1e-9


class TopicMessage(NamedTuple):
    """One message of a recording: still serialised (CDR), with what is needed to read it."""

    topic: str
    type: str  # e.g. sensor_msgs/msg/Image
    log_ns: int  # when it was recorded
    data: bytes
    decode: Any  # bytes -> object with the message's fields; None where the schema is not .msg text


@dataclass(frozen=True)
class Topics:
    """Names of topics, as far as they are needed to tell them apart: `left/joint_states` finds `/left/joint_states`."""

    image: str = "camera/image_raw"  # or this name with /compressed behind it
    joint_states: str = "joint_states"
    command: str = "arm_controller/joint_trajectory"
    episode: str = "episode"


@dataclass
class BagReport(Conversion):
    """What a conversion found, used and left out, and how well the clocks and the arm did."""

    tolerance_s: float = 0.0  # that frames and joint states were joined with
    offset_s: float = 0.0  # worst distance between a frame and its time on the grid of control steps
    tracking_rad: float = 0.0  # farthest that the arm was from where it was commanded

    def finish(self) -> BagReport:
        """Puts that into words."""
        self.notes = [
            f"frames were taken within {1e3 * self.tolerance_s:.1f} ms of a control step, positions from joint states "
            f"at most {2e3 * self.tolerance_s:.1f} ms apart",
            f"frames lie at most {1e3 * self.offset_s:.1f} ms beside the control steps",
            f"the arm was at most {self.tracking_rad:.3f} rad from where it was commanded",
        ]
        return self


# ---- reading MCAP and SQLite -----------------------------------------------------------------------------------------


def bag_files(path: str | Path) -> list[Path]:
    """The MCAP or SQLite files of a recording, in order: a file, or the folder that `ros2 bag record` made.

    :raises DataError: there is none.
    """
    path = Path(path)
    if path.is_file() and path.suffix in (".mcap", ".db3"):
        return [path]
    if path.is_dir():
        there = [file for file in path.iterdir() if file.is_file()]
        files = [file for file in there if file.suffix == ".mcap"] or [f for f in there if f.suffix == ".db3"]
        if files:  # bag_2.mcap comes before bag_10.mcap
            return sorted(files, key=lambda file: [int(w) if w.isdigit() else w for w in re.split(r"(\d+)", file.name)])
        if any(file.suffix == ".zstd" for file in there):
            raise DataError(f"the files in {path} are compressed as a whole; unpack them first, with `unzstd`")
    if not path.exists():
        raise DataError(f"there is no recording at {path}")
    raise DataError(
        f"{path} is no recording; give an MCAP or SQLite (.db3) file, the folder of `ros2 bag record`, a LeRobot "
        "folder or an HDF5 file"
    )


def _sqlite_messages(file: Path, problems: list[str]) -> Iterator[TopicMessage]:
    """All messages of a recording of rosbag2's SQLite plugin, in the order they were recorded.

    These files hold no message definitions; those of Jazzy count, which agree with Humble's for what is read here. Of a
    damaged file what comes before the damage is read.

    :raises DataError: the file is no such recording.
    """
    import sqlite3

    try:
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise DataError(f"{file} is an SQLite recording, which needs a package: pip install rosbags") from error
    store = get_typestore(Stores.ROS2_JAZZY)
    count = 0
    with tempfile.TemporaryDirectory(prefix="lewm_bag_") as scratch:
        connections: list[sqlite3.Connection] = []
        try:
            for copy in _sqlite_copies(file, Path(scratch), problems):
                mode = "rw" if copy.is_relative_to(scratch) else "ro"
                connections.append(sqlite3.connect(f"file:{quote(str(copy))}?mode={mode}", uri=True))
            topics = {number: (str(name), str(kind)) for number, name, kind in connections[0].execute(_SQLITE_TOPICS)}
            for row, *others in zip(*(one.execute(_SQLITE_MESSAGES) for one in connections), strict=False):
                number, log_ns, data = row
                if any(other != row for other in others):
                    raise sqlite3.DatabaseError("the rest was cut off")
                topic, kind = topics.get(number, ("", ""))
                if isinstance(data, bytes) and isinstance(log_ns, int):
                    count += 1
                    yield TopicMessage(topic, kind, log_ns, data, partial(store.deserialize_cdr, typename=kind))
        except (sqlite3.Error, UnicodeDecodeError, OSError) as error:
            if count == 0:
                raise DataError(f"{file} is no SQLite recording, or its beginning is damaged: {error}") from error
            problems.append(f"{file} is damaged behind message {count} and not read from there on: {error}")
        finally:
            for connection in connections:
                connection.close()


def _sqlite_copies(file: Path, scratch: Path, problems: list[str]) -> list[Path]:
    """The file, or copies of it that SQLite opens.

    A file whose recorder was killed is mended by SQLite, with the journal beside it; it does that in a copy. A file
    that was cut off it refuses; two copies are made as long as it was, with other bytes in what is missing. A message
    that is the same in both is whole.
    """
    with open(file, "rb") as stream:
        head = stream.read(32)
    page = int.from_bytes(head[16:18], "big")
    there, needed = file.stat().st_size, (65536 if page == 1 else page) * int.from_bytes(head[28:32], "big")
    beside = [other for end in ("-journal", "-wal") if (other := file.with_name(file.name + end)).is_file()]
    cut = there < needed <= 2**44 and head.startswith(b"SQLite format 3")
    if not cut and not beside:
        return [file.resolve()]
    copies = []
    for name in ("zeros", "ones") if cut else ("whole",):
        (scratch / name).mkdir()
        for other in (file, *beside):
            shutil.copyfile(other, scratch / name / other.name)
        copies.append(scratch / name / file.name)
    if cut:
        problems.append(f"{file} was cut off: {there} of {needed} bytes are there")
        os.truncate(copies[0], needed)
        with open(copies[1], "ab") as stream:
            for begin in range(there, needed, 2**20):
                stream.write(b"\xff" * min(2**20, needed - begin))
    return copies


def read_messages(file: Path, problems: list[str] | None = None) -> Iterator[TopicMessage]:
    """All messages of an MCAP or SQLite file, in the order they lie there.

    An MCAP file that was cut off, because the recorder was killed, is read up to its last whole chunk; a damaged chunk
    is left out, with a message of type `LOST` in its place. Both are named in `problems`.

    :raises DataError: the file is neither.
    """
    problems = [] if problems is None else problems
    if file.suffix == ".db3":
        yield from _sqlite_messages(file, problems)
        return
    schemas: dict[int, Schema] = {}
    channels: dict[int, Channel] = {}
    decoders: dict[int, Any] = {}
    factory = DecoderFactory()
    count, last_ns = 0, 0

    def unpack(record: Any) -> Iterator[TopicMessage]:
        nonlocal count, last_ns
        if isinstance(record, Schema):
            schemas[record.id] = record
        elif isinstance(record, Channel):
            channels[record.id] = record
            schema = schemas.get(record.schema_id)
            decoders[record.id] = _decoder(factory, record, schema)
        elif isinstance(record, Message) and record.channel_id in channels:
            channel = channels[record.channel_id]
            schema = schemas.get(channel.schema_id)
            count += 1
            last_ns = record.log_time
            type_name = schema.name if schema else ""
            yield TopicMessage(channel.topic, type_name, record.log_time, record.data, decoders[record.channel_id])

    with open(file, "rb") as stream:
        # A record is read whole, so a damaged length must not ask for all memory.
        reader = StreamReader(stream, emit_chunks=True, record_size_limit=2**30)
        records = reader.records
        while True:
            try:
                record = next(records)
            except StopIteration:
                return
            except InvalidMagic as error:
                if count == 0 and stream.tell() <= 8:
                    raise DataError(f"{file} is no MCAP file: {error}") from error
                problems.append(f"{file} ends without the mark of a whole file; {count} messages were read")
                return
            except (EndOfFile, struct.error):
                if stream.seek(0, 2) < 8:
                    raise DataError(f"{file} is empty") from None
                problems.append(f"{file} was not closed, its recorder was killed; read up to the last whole chunk, "
                                f"{count} messages")  # fmt: skip
                return
            except Exception as error:  # what a damaged record makes of itself
                problems.append(f"{file} is damaged behind message {count} and not read from there on: {error}")
                return
            if not isinstance(record, Chunk):
                yield from unpack(record)
                continue
            try:
                inner = breakup_chunk(record, validate_crc=True)
            except Exception as error:  # decompressors raise what they like
                problems.append(f"{file}: a chunk behind message {count} is damaged and left out: {error}")
                yield TopicMessage("", LOST, last_ns, b"", None)
                continue
            for part in inner:
                yield from unpack(part)


def _decoder(factory: DecoderFactory, channel: Channel, schema: Schema | None) -> Any:
    try:
        return factory.decoder_for(channel.message_encoding, schema)
    except Exception:  # a schema that cannot be parsed; only matters if the topic is needed
        return None


def _stamp_ns(data: bytes) -> int:
    """The header's stamp of a serialised message whose first field is a std_msgs/Header, ns."""
    if len(data) < 12 or data[0] != 0 or data[1] not in (0, 1):
        raise ValueError("is not CDR")
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] else ">iI", data, 4)
    return int(seconds) * _NS + int(nanoseconds)


# ---- what a recording holds, except the pictures ---------------------------------------------------------------------


class _Command(NamedTuple):
    """A JointTrajectory message: stamp_ns 0 means "when it arrives", times_s (T,), positions (T, A), velocities.

    Without points: commands may have been lost here, so nobody knows what is in force.
    """

    log_ns: int
    stamp_ns: int
    times_s: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray | None


class _State(NamedTuple):
    """A JointState message: positions (A,) rad."""

    log_ns: int
    stamp_ns: int
    positions: np.ndarray


@dataclass
class _Streams:
    """Everything of a recording but the pictures themselves, in the order of recording."""

    frames: list[tuple[int, int]]  # log_ns, stamp_ns; -1 where it cannot be read
    joints: list[_State]
    commands: list[_Command]
    markers: list[tuple[int, str]]  # log_ns, text
    image_topic: str


def _messages(files: Sequence[Path], problems: list[str] | None = None) -> Iterator[TopicMessage]:
    """Of a recording in several files one that cannot be read at all is named, and the others are read."""
    for file in files:
        try:
            yield from read_messages(file, problems)
        except DataError as error:
            if len(files) == 1:
                raise
            if problems is not None:
                problems.append(f"left out: {error}")


def _matches(topic: str, wanted: str) -> bool:
    return f"/{topic.strip('/')}".endswith(f"/{wanted.strip('/')}")


def _only(found: Iterable[str], wanted: str, what: str, source: Path, others: Iterable[str]) -> str:
    """The one topic of a role, or an error that lists what there is of its type."""
    topics = sorted(found)
    if len(topics) == 1:
        return topics[0]
    if topics:
        raise DataError(f"{source} has {what} on {' and '.join(topics)}; say which to take")
    raise DataError(
        f"{source} has no {what} on a topic {wanted!r}; of their type it has {', '.join(sorted(others)) or 'none'}"
    )


def _first_joint_names(files: Sequence[Path], topics: Topics) -> tuple[str, ...]:
    """Joint names of the first command; empty when there is none."""
    for message in _messages(files):
        if message.type == COMMAND and _matches(message.topic, topics.command):
            found = getattr(_decode(message), "joint_names", None)
            if isinstance(found, list) and found and all(isinstance(name, str) for name in found):
                return tuple(found)
    return ()


def _decode(message: TopicMessage) -> Any:
    """The message's fields, or None where the bytes are not what the schema says."""
    try:
        return message.decode(message.data)
    except Exception:  # struct.error, UnicodeDecodeError, MemoryError, ... : the bytes decide
        return None


def _scan(source: Path, files: Sequence[Path], topics: Topics, names: tuple[str, ...], report: BagReport) -> _Streams:
    """Reads everything once; of the pictures only the stamps."""
    frames: dict[str, list[tuple[int, int]]] = defaultdict(list)
    joints: dict[str, list[_State]] = defaultdict(list)
    commands: dict[str, list[_Command]] = defaultdict(list)
    markers: dict[str, list[tuple[int, str]]] = defaultdict(list)
    seen: dict[str, set[str]] = defaultdict(set)
    lost: list[_Command] = []
    for message in _messages(files, report.problems):
        topic, kind, log_ns = message.topic, message.type, message.log_ns
        seen[kind].add(topic)
        if kind == LOST:
            lost.append(_Command(min(log_ns, FOREVER_NS), 0, np.empty(0), np.empty((0, len(names))), None))
        elif _is_image(message, topics):
            try:
                if not 0 <= log_ns < FOREVER_NS:
                    raise ValueError("no time of this age of the world")
                frames[topic].append((log_ns, _stamp_ns(message.data)))
            except ValueError:
                frames[topic].append((log_ns, -1))  # keeps the numbering
        elif kind == STATE and _matches(topic, topics.joint_states):
            joints[topic] += _read(message, _state, names, report.left_out)
        elif kind == COMMAND and _matches(topic, topics.command):
            commands[topic] += _read(message, _command, names, report.left_out)
        elif kind == MARKER and _matches(topic, topics.episode):
            markers[topic] += _read(
                message, lambda decoded, log_ns, _: (log_ns, str(decoded.data)), names, report.left_out
            )
    raw = [topic for topic in frames if topic in seen[IMAGE]]  # where both were recorded: raw pictures lost nothing
    image = _only(raw or frames, topics.image, "pictures", source, seen[IMAGE] | seen[COMPRESSED])
    state = _only(joints, topics.joint_states, "joint states", source, seen[STATE])
    command = _only(commands, topics.command, "commands", source, seen[COMMAND])
    marker = _only(markers, topics.episode, "episode markers", source, ()) if markers else ""
    told = sorted(commands[command] + lost, key=lambda one: one.log_ns)
    return _Streams(frames[image], joints[state], told, markers[marker], image)


def _is_image(message: TopicMessage, topics: Topics) -> bool:
    if message.type == COMPRESSED and _matches(message.topic, topics.image + "/compressed"):
        return True
    return message.type in (IMAGE, COMPRESSED) and _matches(message.topic, topics.image)


def _read(
    message: TopicMessage, convert: Callable[..., Any], names: tuple[str, ...], left_out: Counter[str]
) -> list[Any]:
    """What `convert(decoded, log_ns, names)` makes of a message: one value, or none and a reason."""
    decoded = _decode(message)
    try:
        if decoded is None or not 0 <= message.log_ns < FOREVER_NS:
            raise ValueError("cannot be read")
        try:
            return [convert(decoded, message.log_ns, names)]
        except (AttributeError, TypeError, OverflowError) as error:  # fields of other names or types
            raise ValueError("with another definition than ROS's") from error
    except ValueError as error:
        left_out[f"{message.type.rpartition('/')[2]} messages: {error}"] += 1
        return []


def _state(decoded: Any, log_ns: int, names: tuple[str, ...]) -> _State:
    columns = {name: i for i, name in enumerate(decoded.name)}
    if not set(names) <= set(columns) or len(decoded.position) != len(columns):
        raise ValueError("of other joints, or without positions")
    positions = np.array([decoded.position[columns[name]] for name in names])
    if not (np.abs(positions) <= MOST).all():
        raise ValueError("positions that are not finite")
    return _State(log_ns, decoded.header.stamp.sec * _NS + decoded.header.stamp.nanosec, positions)


def _command(decoded: Any, log_ns: int, names: tuple[str, ...]) -> _Command:
    if sorted(decoded.joint_names) != sorted(names) or not decoded.points:
        raise ValueError("for other joints, or without points: the controller refuses them")
    columns = [decoded.joint_names.index(name) for name in names]
    points = decoded.points
    if any(len(p.positions) != len(names) or len(p.velocities) not in (0, len(names)) for p in points):
        raise ValueError("with points of the wrong size: the controller refuses them")
    with_velocities = all(len(point.velocities) for point in points)
    return _Command(
        log_ns,
        decoded.header.stamp.sec * _NS + decoded.header.stamp.nanosec,
        np.array([p.time_from_start.sec + p.time_from_start.nanosec / _NS for p in points]),
        np.array([p.positions for p in points])[:, columns],
        np.array([p.velocities for p in points])[:, columns] if with_velocities else None,
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
        try:
            in_force = JointTrajectory(
                command.times_s,
                command.positions,
                command.velocities,
                start_s=(command.stamp_ns - epoch_ns) / _NS if command.stamp_ns else now,
                now_s=now,
                position_now=around[1],
                velocity_now=(around[2] - around[0]) / 0.04,
            )
        except ValueError:
            left_out["JointTrajectory messages: malformed, or ended in the past: the controller refuses them"] += 1
        end_s = received_s[i + 1] if i + 1 < len(commands) else np.inf
        inside = (times_s >= now) & (times_s < end_s)
        if in_force is not None and inside.any():
            positions[inside] = in_force.sample(times_s[inside])
    return positions


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
    """One episode before its pictures are read: numbers of its frames, actions (n - 1, A), positions (n, A), and the
    stamps of the frames (n,), s from the first frame on this clock."""

    frames: list[int]
    action: np.ndarray
    proprio: np.ndarray
    name: str
    stamps_s: np.ndarray


def _segments(markers: Sequence[tuple[int, str]], report: BagReport) -> list[tuple[int, int, str]]:
    """Stretches of log time (ns) that count, with a name for each."""
    if not markers:
        return [(-FOREVER_NS, FOREVER_NS, "")]
    segments: list[tuple[int, int, str]] = []
    running: tuple[int, str] | None = None
    for log_ns, text in markers:
        verb, _, name = text.strip().partition(" ")
        verb = verb.rstrip(":").lower()
        if verb not in ("start", "end", "discard"):
            report.problems.append(f"episode marker {text!r} is unknown; send start, end or discard")
            continue
        if running is not None and verb != "discard":
            segments.append((running[0], log_ns, running[1]))
        elif running is None and verb != "start":
            report.problems.append(f"episode marker {text!r} without a start before it")
        running = (log_ns, name.strip()) if verb == "start" else None
    if running is not None:
        segments.append((running[0], FOREVER_NS, running[1]))
    return segments


def _sections(frames: Sequence[tuple[int, int]], report: BagReport) -> list[list[int]]:
    """Numbers of the frames with increasing stamps, cut where the clock was set back."""
    sections: list[list[int]] = [[]]
    last: int | None = None
    for n, (_, stamp_ns) in enumerate(frames):
        if stamp_ns < 0:
            report.left_out["images that cannot be read"] += 1
            continue
        if last is not None and stamp_ns < last - CLOCK_RESET_S * _NS:
            report.gaps.append(f"the clock of the images went back by {(last - stamp_ns) / _NS:.2f} s")
            sections.append([])
        elif last is not None and stamp_ns <= last:
            report.left_out["images with the stamp of the one before, or an older one"] += 1
            continue
        sections[-1].append(n)
        last = stamp_ns
    return [section for section in sections if section]


def _plan_episodes(
    streams: _Streams, names: tuple[str, ...], control_dt_s: float, tolerance_s: float, report: BagReport
) -> list[_Plan]:
    """Which frames become episodes, with their actions and positions."""
    report.frames_recorded += len(streams.frames)
    segments = _segments(streams.markers, report)
    sections = _sections(streams.frames, report)
    begins = [streams.frames[section[0]][0] for section in sections]  # log times
    plans: list[_Plan] = []
    for i, section in enumerate(sections):
        begin = begins[i] if i > 0 else -FOREVER_NS
        end = begins[i + 1] if i + 1 < len(sections) else FOREVER_NS
        joints = _increasing([state for state in streams.joints if begin <= state.log_ns < end])
        if len(joints) < 2:
            report.gaps.append(f"{len(section)} frames without joint states")
            continue
        commands = [command for command in streams.commands if begin <= command.log_ns < end]
        epoch_ns, log_ns = streams.frames[section[0]][1], joints[0].log_ns
        times_s = np.array([streams.frames[n][1] - epoch_ns for n in section]) / _NS
        report.intervals_s += np.diff(times_s).tolist()
        joints_s = np.array([state.stamp_ns - epoch_ns for state in joints]) / _NS
        measured = np.array([state.positions for state in joints])
        received_s = _between_clocks(
            np.array([command.log_ns - log_ns for command in commands]) / _NS,
            np.array([state.log_ns - log_ns for state in joints]) / _NS,
            joints_s,
        )
        commanded = _command_positions(times_s, commands, received_s, epoch_ns, joints_s, measured, report.left_out)
        positions = _interpolate(times_s, joints_s, measured)
        before = np.searchsorted(joints_s, times_s, side="right") - 1
        between = (before >= 0) & (before < len(joints_s) - 1)
        interval_s = np.diff(joints_s)[np.clip(before, 0, len(joints_s) - 2)]
        told = ~np.isnan(commanded).any(axis=1)
        known = between & (interval_s <= 2.0 * tolerance_s + _ROUNDING_S)
        log = np.array([streams.frames[n][0] for n in section])
        for segment_begin, segment_end, name in segments:
            members = np.flatnonzero((segment_begin <= log) & (log < segment_end))
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
                for piece in stretches(told[rows] & known[rows], LONGEST_EPISODE):
                    kept = rows[piece]
                    beside_s = np.abs(times_s[kept] - (times_s[rows[0]] + control_dt_s * np.array(piece)))
                    report.offset_s = max(report.offset_s, float(beside_s.max()))
                    error = float(np.abs(commanded[kept] - positions[kept]).max())
                    report.tracking_rad = max(report.tracking_rad, error)
                    action = np.diff(commanded[kept], axis=0) / control_dt_s
                    numbers = [section[row] for row in kept]
                    plans.append(_Plan(numbers, action, positions[kept], name, times_s[kept]))
    return plans


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
    control_dt_s: float = 0.05,
    tolerance_s: float | None = None,
    image_size: int = 64,
    joint_names: Sequence[str] | None = None,
    topics: Topics | None = None,
) -> BagReport:
    """Writes the episodes of recordings to one HDF5 file that `lewm train` reads.

    :param paths: recordings, MCAP or SQLite files or folders of `ros2 bag record`.
    :param out: HDF5 file; appears when it is complete.
    :param control_dt_s: time of one action, s.
    :param tolerance_s: greatest distance between a grid time and its frame, and half of the greatest distance between
        the two joint states around a frame, s; None is half of `control_dt_s`.
    :param image_size: pixels, pictures are cropped to a square and scaled.
    :param joint_names: joints in the order of the action's columns; None takes those of the first command.
    :return: what was found, used and left out, for people.
    :raises DataError: a file is no recording, a topic is missing, or nothing is left.
    """
    topics = topics or Topics()
    tolerance = 0.5 * control_dt_s if tolerance_s is None else tolerance_s
    if not control_dt_s > 0.0 or not 0.0 < tolerance <= 0.5 * control_dt_s:
        raise DataError(
            f"control_dt_s is {control_dt_s} and tolerance_s {tolerance}; both must be above 0, and the second at most "
            "half of the first"
        )
    if not paths:
        raise DataError("no recording was given")
    sources = [(Path(path), bag_files(path)) for path in paths]
    names = tuple(joint_names or ())
    for _, files in sources:
        names = names or _first_joint_names(files, topics)
    if not names:
        raise DataError(
            f"{sources[0][0]} holds no command on a topic {topics.command!r}; name the topic, or the joints if another "
            "recording holds the commands"
        )
    if len(set(names)) != len(names) or len(names) > MOST_JOINTS or not all(map(str.isprintable, names)):
        raise DataError(f"the joints are {names[:8]!r}; give up to {MOST_JOINTS} names, each once")
    report = BagReport(tolerance_s=tolerance)
    command = ["lewm", "convert", *(str(path) for path in paths), "--out", str(out), "--joints", ",".join(names)]
    command += ["--control-dt-s", str(control_dt_s), "--tolerance-s", str(tolerance), "--image-size", str(image_size)]
    attributes: dict[str, str | int | float] = {"command": shlex.join(command), "tolerance_s": tolerance}
    writer = EpisodeWriter(out, image_size, names, control_dt_s, "joint_velocity", attributes)
    with writer:
        for source, files in sources:
            streams = _scan(source, files, topics, names, report)
            plans = _plan_episodes(streams, names, control_dt_s, tolerance, report)
            _write(writer, source, files, streams.image_topic, plans, image_size, report)
        if not report.episodes:
            raise DataError(f"no episode of 2 frames or more is left\n{report.finish()}")
    return report.finish()


def _write(
    writer: EpisodeWriter,
    source: Path,
    files: Sequence[Path],
    image_topic: str,
    plans: Sequence[_Plan],
    image_size: int,
    report: BagReport,
) -> None:
    """Reads the pictures that the plans need and writes each episode when it is whole."""
    places: dict[int, tuple[_Plan, int]] = {n: (plan, row) for plan in plans for row, n in enumerate(plan.frames)}
    pictures: dict[int, np.ndarray] = {}
    n = -1
    for message in _messages(files):
        if message.topic != image_topic:
            continue
        n += 1
        if n not in places:
            continue
        plan, row = places[n]
        try:
            pictures[row] = to_model_image(_picture(message), image_size)
        except EncodingError as error:
            report.left_out["images that cannot be read"] += 1
            if f"{source}: {error}" not in report.gaps:
                report.gaps.append(f"{source}: {error}")
        if n != plan.frames[-1]:
            continue
        for piece in stretches(np.array([row in pictures for row in range(len(plan.frames))]), LONGEST_EPISODE):
            begin, end = piece[0], piece[-1] + 1
            writer.append(
                np.stack([pictures[row] for row in piece]),
                plan.action[begin : end - 1].astype(np.float32),
                plan.proprio[begin:end].astype(np.float32),
                plan.stamps_s[begin:end],
            )
            report.frames_used += len(piece)
            title = f" {plan.name!r}" if plan.name else ""
            report.episodes.append(f"{source}{title}: {len(piece)} frames from {plan.stamps_s[begin]:.2f} s on")
        pictures = {}


def _picture(message: TopicMessage) -> np.ndarray:
    """(H, W, 3) uint8 RGB."""
    decoded = _decode(message)
    if decoded is None:
        raise EncodingError(f"a message on {message.topic} is not a {message.type}")
    try:
        if message.type == COMPRESSED:
            return compressed_to_rgb(decoded.data, decoded.format)
        return raw_to_rgb(
            decoded.encoding, decoded.width, decoded.height, decoded.step, bool(decoded.is_bigendian), decoded.data
        )
    except EncodingError:
        raise
    except (AttributeError, TypeError, ValueError) as error:  # fields of other names or types
        raise EncodingError(f"{message.topic} has another definition of {message.type} than ROS") from error
