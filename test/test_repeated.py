# SPDX-License-Identifier: Apache-2.0
"""Joint states, commands and names that are read by the bytes they repeat are those that decoding gives."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rosbags.typesys import Stores, get_typestore

from lewm_model.data.converters.columns import Columns
from lewm_model.data.converters.rosbag2.files import TopicMessage
from lewm_model.data.converters.rosbag2.messages import COMMAND, STATE, State, command, read, state
from lewm_model.data.converters.rosbag2.repeated import CommandReader, NamesReader, StateReader

STORE = get_typestore(Stores.ROS2_JAZZY)
COLUMNS = Columns(names=("elbow", "shoulder"), held=("wrist",), units="elbow=deg,shoulder=2,wrist=rad")
JOINTS = [  # frame and names of the publishers of a recording
    ("base", ["shoulder", "elbow", "wrist"]),
    ("", ["wrist", "é", "elbow", "shoulder", "finger"]),
    ("base_", ["elbow", "shoulder"]),
    ("base_", ["shoulder", "elbow"]),
    ("", ["elbow"]),
    ("", ["wrist"]),
    ("base", ["elbow", "elbow"]),
    ("base", ["finger"]),
    ("", []),
]


class Decoder:
    """Decodes messages of a type, and counts them."""

    def __init__(self, kind: str) -> None:
        self._kind, self.count = kind, 0

    def __call__(self, data: bytes) -> Any:
        self.count += 1
        return STORE.deserialize_cdr(data, self._kind)


def header(frame: str, ns: int) -> Any:
    stamp = STORE.types["builtin_interfaces/msg/Time"](ns // 10**9, ns % 10**9)
    return STORE.types["std_msgs/msg/Header"](stamp, frame)


def joint_state(
    rng: np.random.Generator, frame: str, names: list[str], more: tuple[int, int] = (0, 0), big: bool = False
) -> bytes:
    """A JointState message with `more` velocities and efforts."""
    position, velocity, effort = (rng.normal(size=count) for count in (len(names), *more))
    message = STORE.types[STATE](header(frame, int(rng.integers(2**60))), names, position, velocity, effort)
    return bytes(STORE.serialize_cdr(message, STATE, little_endian=not big))


def spoilt(data: bytes, rng: np.random.Generator) -> bytes:
    """The message as it is, cut off, longer, with other bytes, or with numbers that are none."""
    kind, some = rng.integers(8), bytearray(data)
    if kind == 0:
        return data[: rng.integers(len(data))]
    if kind == 1:
        return data + bytes(int(rng.integers(1, 9)))
    if kind == 2:
        some[rng.integers(len(some))] = rng.integers(256)
    if kind == 3 and len(some) > 60:
        some[-8 * int(rng.integers(1, 4)) :][:8] = np.array([rng.choice([np.nan, np.inf, 1e30])]).tobytes()
    return bytes(some)


def equal(found: list[State], expected: list[State]) -> bool:
    return len(found) == len(expected) and all(
        (a.log_ns, a.stamp_ns) == (b.log_ns, b.stamp_ns) and np.array_equal(a.positions, b.positions, equal_nan=True)
        for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("columns", [COLUMNS, replace(COLUMNS, units=""), Columns(names=("shoulder",))])
def test_states_are_those_that_decoding_gives(columns: Columns) -> None:
    rng, decode = np.random.default_rng(0), Decoder(STATE)
    reader, found_out, expected_out, used = StateReader(columns), Counter[str](), Counter[str](), 0
    for i in range(3000):
        frame, names = JOINTS[rng.integers(len(JOINTS))]
        more = (len(names) * int(rng.integers(2)), len(names) * int(rng.integers(2)))
        data = spoilt(joint_state(rng, frame, names, more, big=rng.random() < 0.1), rng)
        message = TopicMessage(f"/{i % 2}", STATE, int(rng.choice([i, -1, 2**63])) if i % 9 == 0 else i, data, decode)
        found, expected = reader(message, found_out), read(message, state, columns, expected_out)
        assert equal(found, expected), (data, found, expected)
        used += len(found)
    assert found_out == expected_out
    assert used > 500 and len(found_out) >= 3


def test_what_a_publisher_repeats_is_decoded_once() -> None:
    rng, decode = np.random.default_rng(0), Decoder(STATE)
    reader, publishers = StateReader(COLUMNS), JOINTS[:6]
    for i in range(600):
        frame, names = publishers[i % len(publishers)]
        message = TopicMessage("/joint_states", STATE, i, joint_state(rng, frame, names, (len(names), 0)), decode)
        assert len(reader(message, Counter())) == 1
    assert decode.count <= 2 * len(publishers)


def test_another_definition_of_a_joint_state_is_decoded_each_time() -> None:
    class Fields:
        def __init__(self, data: bytes) -> None:
            decoded = STORE.deserialize_cdr(data, STATE)
            self.header, self.name, self.position = decoded.header, decoded.name, 3.0 * decoded.position

    rng, reader = np.random.default_rng(0), StateReader(COLUMNS)
    for i in range(10):
        message = TopicMessage("/joint_states", STATE, i, joint_state(rng, *JOINTS[0]), Fields)
        assert equal(reader(message, Counter()), read(message, state, COLUMNS, Counter()))


def trajectory(rng: np.random.Generator, frame: str, names: list[str], points: int, kinds: list[int]) -> bytes:
    """A JointTrajectory message; `kinds` says whether its points have positions, velocities, accelerations, effort."""
    duration, point = (
        STORE.types["builtin_interfaces/msg/Duration"],
        STORE.types["trajectory_msgs/msg/JointTrajectoryPoint"],
    )
    made = [
        point(*(rng.normal(size=len(names) * kind) for kind in kinds), duration(i, int(rng.integers(10**9))))
        for i in range(points)
    ]
    message = STORE.types[COMMAND](header(frame, int(rng.integers(2**60))), names, made)
    return bytes(STORE.serialize_cdr(message, COMMAND, little_endian=rng.random() < 0.9))


@pytest.mark.parametrize("columns", [COLUMNS, Columns(names=("shoulder",))])
def test_commands_are_those_that_decoding_gives(columns: Columns) -> None:
    rng, decode = np.random.default_rng(0), Decoder(COMMAND)
    reader, found_out, expected_out, used = CommandReader(columns), Counter[str](), Counter[str](), 0
    for i in range(3000):
        frame, names = JOINTS[rng.integers(len(JOINTS))]
        kinds = rng.integers(2, size=4).tolist() if i % 2 else [1, 1, 0, 0]
        data = spoilt(trajectory(rng, frame, names, int(rng.integers(4)), kinds), rng)
        message = TopicMessage("/commands", COMMAND, int(rng.choice([i, -1, 2**63])) if i % 9 == 0 else i, data, decode)
        found, expected = reader(message, found_out), read(message, command, columns, expected_out)
        assert len(found) == len(expected), data
        for one, other in zip(found, expected, strict=True):
            for a, b in zip(one, other, strict=True):
                assert (a is None) == (b is None) and (a is None or np.array_equal(a, b, equal_nan=True)), (
                    data,
                    one,
                    other,
                )
        used += len(found)
    assert found_out == expected_out
    assert used > 500 and len(found_out) >= 3


def test_what_a_planner_repeats_is_decoded_once() -> None:
    rng, decode = np.random.default_rng(0), Decoder(COMMAND)
    reader = CommandReader(Columns(names=("elbow", "shoulder")))
    for i in range(400):
        data = trajectory(rng, "", ["shoulder", "elbow"], 30, [1, 1, 0, 0])
        assert len(reader(TopicMessage("/commands", COMMAND, i, data, decode), Counter())) == 1
    assert decode.count <= 100  # those in the other byte order, and the first


def test_names_of_commands_are_those_that_decoding_gives() -> None:
    rng, decode, reader = np.random.default_rng(0), Decoder(COMMAND), NamesReader()
    for i in range(300):
        frame, names = JOINTS[i // 30 % len(JOINTS)]
        message = STORE.types[COMMAND](header(frame, i), names, [])
        data = bytes(STORE.serialize_cdr(message, COMMAND, little_endian=rng.random() < 0.9))
        assert reader(TopicMessage("/commands", COMMAND, i, data, decode)) == tuple(names)
    assert decode.count < 100
    assert reader(TopicMessage("/commands", COMMAND, 0, b"\0\1", decode)) == ()
