# SPDX-License-Identifier: Apache-2.0
"""Reads messages that repeat others but for their stamps and numbers, as a publisher's joint states and a planner's
commands do, by their bytes.

Decoding such a message takes several times as long as reading its numbers, and joint states are most of the messages of
a recording. Where everything lies is learned from a message that was decoded; one that has anything else in these
places is decoded itself.
"""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lewm_model.data.converters.columns import Columns
from lewm_model.data.converters.rosbag2.files import TopicMessage
from lewm_model.data.converters.rosbag2.messages import (
    LATEST_NS,
    NS_PER_S,
    Command,
    State,
    command,
    decoded,
    header_stamp_ns,
    read,
    state,
)
from lewm_model.robot.trajectory import MOST

MOST_LAYOUTS = 16  # of messages of one size on one topic, such as of joints that each come in messages of their own
_LITTLE_ENDIAN = b"\0\1"  # begins CDR
_STAMPED = 12  # bytes up to the end of the header's stamp
_COUNT = struct.Struct("<I")


class _Reader:
    """Reads messages with the same result as `read(message, convert, columns, left_out)`.

    :param learn: from a decoded message and the columns to what lies where in such messages.
    """

    def __init__(
        self,
        columns: Columns,
        convert: Callable[[Any, int, Columns], Any],
        learn: Callable[[Any, Columns], _Layout | _Points | None],
    ) -> None:
        self._columns, self._convert, self._learn = columns, convert, learn
        self._layouts: dict[tuple[str, int], list[_Layout | _Points]] = defaultdict(list)  # by topic and size

    def __call__(self, message: TopicMessage, left_out: Counter[str]) -> list[Any]:
        """[what is in it], or [] for a message that cannot be used, whose reason is counted."""
        layouts = self._layouts[message.topic, len(message.data)]
        for layout in layouts:
            if (found := layout.read(message)) is not None:
                return [found]
        converted = read(message, self._convert, self._columns, left_out)
        if converted and len(layouts) < MOST_LAYOUTS:
            learned = self._learn(decoded(message), self._columns)
            found = None if learned is None else learned.read(message)
            if learned is not None and found is not None and _same(found, converted[0]):
                layouts.append(learned)
        return converted


class StateReader(_Reader):
    """Reads JointState messages: [a State], or []."""

    def __init__(self, columns: Columns) -> None:
        super().__init__(columns, state, _layout)


class CommandReader(_Reader):
    """Reads JointTrajectory messages: [a Command], or []."""

    def __init__(self, columns: Columns) -> None:
        super().__init__(columns, command, _points)


class _Layout(NamedTuple):
    """What lies where in serialised JointState messages that differ in stamp and numbers only."""

    size: int  # bytes
    repeated: tuple[tuple[int, bytes], ...]  # where they begin, and the bytes that such a message has there
    positions: struct.Struct
    begin: int  # of the positions
    columns: tuple[tuple[int, float], ...]  # of each wanted joint the number of its position, and its factor
    missing: tuple[int, ...]  # wanted joints, by number, that the message does not have

    def read(self, message: TopicMessage) -> State | None:
        """The state in a message; None for one that has another layout, or numbers that need a closer look."""
        data = message.data
        if not self.size <= len(data) < self.size + 4 or not 0 <= message.log_ns < LATEST_NS:
            return None
        for at, part in self.repeated:
            if not data.startswith(part, at):
                return None
        numbers = self.positions.unpack_from(data, self.begin)
        positions = [factor * numbers[i] for i, factor in self.columns]
        for position in positions:
            if not -MOST <= position <= MOST:
                return None
        for joint in self.missing:
            positions[joint] = np.nan
        return State(message.log_ns, header_stamp_ns(data), np.array(positions))


def _layout(fields: Any, columns: Columns) -> _Layout | None:
    """The layout of a decoded JointState message; None where its definition is not ROS's."""
    wanted = columns.names + columns.held
    try:
        names, sizes = list(fields.name), [len(fields.position), len(fields.velocity), len(fields.effort)]
        head = _frame_and_names(fields.header.frame_id, names)
    except (AttributeError, TypeError):
        return None
    repeated, end, begins = [(0, _LITTLE_ENDIAN), (_STAMPED, head)], _STAMPED + len(head), []
    for size in sizes:
        at, part = repeated[-1]
        if at + len(part) == end:  # one comparison is faster than two
            repeated[-1] = at, part + _COUNT.pack(size)
        else:
            repeated.append((end, _COUNT.pack(size)))
        begins.append(_aligned(end + _COUNT.size))
        end = begins[-1] + 8 * size if size else end + _COUNT.size
    places = [names.index(name) if name in names else 0 for name in wanted]
    missing = tuple(i for i, name in enumerate(wanted) if name not in names)
    numbers, factors = struct.Struct(f"<{sizes[0]}d"), columns.factors(wanted).tolist()
    return _Layout(end, tuple(repeated), numbers, begins[0], tuple(zip(places, factors, strict=True)), missing)


class _Points(NamedTuple):
    """What lies where in serialised JointTrajectory messages that differ in stamps and numbers only."""

    size: int  # bytes
    repeated: np.ndarray  # (R,) places of the bytes that such a message has in common with others
    content: np.ndarray  # (R,) uint8, these bytes
    times: np.ndarray  # (T, 8) places of the bytes of each point's time
    numbers: tuple[np.ndarray | None, ...]  # of positions, velocities, accelerations: (T, A, 8); None: not in all
    factors: np.ndarray  # (A,) of the columns

    def read(self, message: TopicMessage) -> Command | None:
        """The command in a message; None for one that has another layout."""
        if not self.size <= len(message.data) < self.size + 4 or not 0 <= message.log_ns < LATEST_NS:
            return None
        data = np.frombuffer(message.data, np.uint8, self.size)
        if not np.array_equal(data[self.repeated], self.content):
            return None
        times = data[self.times].view([("sec", "<i4"), ("nanosec", "<u4")])[:, 0]
        values = [None if at is None else data[at].view("<f8")[..., 0] * self.factors for at in self.numbers]
        times_s = times["sec"] + times["nanosec"] / NS_PER_S
        return Command(message.log_ns, header_stamp_ns(message.data), times_s, *values)


def _points(fields: Any, columns: Columns) -> _Points | None:
    """The layout of a decoded JointTrajectory message; None where its definition is not ROS's."""
    try:
        names, points = list(fields.joint_names), fields.points
        head = _frame_and_names(fields.header.frame_id, names) + _COUNT.pack(len(points))
        sizes = [[len(p.positions), len(p.velocities), len(p.accelerations), len(p.effort)] for p in points]
        wanted = [names.index(name) for name in columns.names]
    except (AttributeError, TypeError, ValueError):
        return None
    parts, end = [(0, _LITTLE_ENDIAN), (_STAMPED, head)], _STAMPED + len(head)
    begins: list[list[int]] = [[], [], []]
    times = []
    for counts in sizes:
        for number, count in enumerate(counts):
            parts.append((end, _COUNT.pack(count)))
            begin = _aligned(end + _COUNT.size) if count else end + _COUNT.size
            end = begin + 8 * count
            if number < len(begins) and count == len(names):
                begins[number].append(begin)
        times.append(end)
        end += 8
    joints = 8 * np.array(wanted)[:, None] + np.arange(8)  # (A, 8) bytes behind where a point's numbers begin
    numbers = [np.array(at)[:, None, None] + joints if len(at) == len(sizes) else None for at in begins]
    if numbers[1] is None:
        numbers[2] = None  # accelerations count only beside velocities
    places = np.concatenate([at + np.arange(len(part)) for at, part in parts])
    content = np.frombuffer(b"".join(part for _, part in parts), np.uint8)
    factors = columns.factors(columns.names)
    return _Points(end, places, content, np.array(times)[:, None] + np.arange(8), tuple(numbers), factors)


def _same(one: State | Command, other: State | Command) -> bool:
    """Whether two states, or two commands, are equal to the bit."""
    pairs: Iterator[tuple[Any, Any]] = zip(one, other, strict=True)
    return all(a is b if a is None or b is None else np.array_equal(a, b, equal_nan=True) for a, b in pairs)


class NamesReader:
    """Reads the `joint_names` of messages in which they follow the header."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[bytes, tuple[str, ...]]] = {}  # by type: of the last one, its bytes and names

    def __call__(self, message: TopicMessage) -> tuple[str, ...]:
        """The names; () where they cannot be read."""
        head, names = self._known.get(message.type, (b"", ()))
        if head and _begins(message.data, head):
            return names
        fields = decoded(message)
        found = getattr(fields, "joint_names", None)
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            return ()
        head = _frame_and_names(getattr(getattr(fields, "header", None), "frame_id", ""), found)
        if _begins(message.data, head):
            self._known[message.type] = head, tuple(found)
        return tuple(found)


def _begins(data: bytes, head: bytes) -> bool:
    """Whether it is CDR that has these bytes behind the header's stamp."""
    return data.startswith(_LITTLE_ENDIAN) and data.startswith(head, _STAMPED)


def _frame_and_names(frame: str, names: Sequence[str]) -> bytes:
    """CDR of a header's frame and of the names behind it, up to where the next field begins."""
    found = _text(frame) + _COUNT.pack(len(names))
    return found + b"".join(map(_text, names))


def _text(text: str) -> bytes:
    """CDR of a string, with what aligns a 4-byte number behind it."""
    content = text.encode() + b"\0"
    return _COUNT.pack(len(content)) + content + bytes(-len(content) % 4)


def _aligned(at: int) -> int:
    """Where a number of 8 bytes begins that comes next: CDR aligns from the fourth byte on."""
    return at + (4 - at) % 8
