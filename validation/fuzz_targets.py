# SPDX-License-Identifier: Apache-2.0
"""The targets of `make fuzz`: every topic of every node, and every file that the package reads; see fuzz.py.

A target makes its inputs from a seeded `random.Random`. Structures (messages, parameters) are drawn by hypothesis,
which reads its choices from bytes of that generator; bytes and texts of files are mutated by the functions below.
"""

from __future__ import annotations

import array
import contextlib
import copy
import gc
import importlib
import json
import math
import operator
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lewm_model.config import resource

JOINTS = ("shoulder", "elbow")
LATENT = 8  # dimension of the latents of the small bundles that inputs are made from
HANDLED_S = 30.0  # in which a good input must be handled; long, since the machine may be busy


class NotHandled(AssertionError):
    """A good input after bad ones was not handled."""


class Target:
    """One thing to fuzz. A worker process makes it, gives it inputs, checks it with a good input after every batch, and
    closes it.
    """

    batch = 50

    def feed(self, random: Random) -> None:
        """Draws one input and gives it to the target. Documented refusals are caught; any other exception is a bug."""
        raise NotImplementedError

    def good(self) -> None:
        """Gives the target a good input; raises unless it is handled."""
        raise NotImplementedError

    def close(self) -> None:
        """Stops nodes and processes of the target."""


@dataclass
class Reader(Target):
    """A function without state that reads an input, and accepts it or refuses it with one of `refusals`."""

    make: Callable[[Random], Any]
    use: Callable[[Any], Any]
    refusals: tuple[type[Exception], ...]
    example: Any

    def feed(self, random: Random) -> None:
        value = self.make(random)
        try:
            self.use(value)
        except Exception as error:
            if type(error) not in self.refusals:
                raise

    def good(self) -> None:
        self.use(self.example)


# ---- drawing and mutating --------------------------------------------------------------------------------------------


def drawer(strategy: st.SearchStrategy[Any]) -> Callable[[Random], Any]:
    """A function that draws from a strategy with the choices of a seeded generator."""
    drawn: list[Any] = []

    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def take(value: Any) -> None:
        drawn.append(value)

    def draw(random: Random) -> Any:
        drawn.clear()
        while not drawn:
            take.hypothesis.fuzz_one_input(random.randbytes(4000))  # type: ignore[attr-defined]
        return drawn[0]

    return draw


EDGE_BYTES = [b"\0", b"\xff", b"\x7f", b"\x80", b"\xff" * 4, b"\xff" * 8, b"\0" * 8, b"\xff\xff\xff\x7f", b"\0\0\0\x80"]


def mutate_bytes(random: Random, data: bytes, most: int = 6) -> bytes:
    """The bytes after a few flips, overwritten, cut, repeated or moved parts."""
    content = bytearray(data)
    for _ in range(random.randint(1, most)):
        at = random.randrange(len(content) + 1)
        length = min(random.choice((1, 2, 4, 8, 64, 1024)), len(content))
        kind = random.randrange(8)
        if kind <= 2 and at < len(content):
            content[at] ^= 1 << random.randrange(8)
        elif kind == 3:
            edge = random.choice(EDGE_BYTES)
            content[at : at + len(edge)] = edge
        elif kind == 4:
            del content[at : at + length]
        elif kind == 5:
            content[at:at] = random.randbytes(length)
        elif kind == 6:
            source = random.randrange(len(content) + 1)
            content[at : at + length] = content[source : source + length]
        elif kind == 7 and random.random() < 0.3:
            del content[at:]
    return bytes(content)


NUMBERS = """
0 -0 -1 1 2 0.5 1e308 -1e308 1e-308 1e400 1e30 1e10 nan inf -inf .nan .inf 2147483647 2147483648 -2147483649
4294967295 4294967296 9223372036854775808 1000000 100000000 0x10 0o8 1_000 1,5 1e 1:99 + ١ true null ~
""".split()  # noqa: SIM905  a list of these is unreadable
NUMBERS += ["", " ", "9" * 5000, "0x" + "f" * 5000]
YAML_BITS = [
    "!!int x", '!!int ""', "!!float x",
    "!!timestamp 2020-99-99", "2020-99-99", "!!timestamp x", "!!bool x", "!!binary x",
    "!!python/object/apply:os.system [ls]", "&a [*a]", "*nowhere", "<<: [1]", "? [a]: b",
    "[" * 400, "{" * 3000, "- - -",
    "!!set {a}", "!!omap [a]", "|", ">", "---", "...", "%YAML 9.9", "\t", "\x07", "'", '"', ": :", "@", "`", "=",
    "&b [x, x, x, x, x, x, x, x, x]", "[*b, *b, *b, *b, *b, *b, *b, *b]",
    "!!null x", "!x y", "{1: 2, a: 3}", "[1.0, a]",
]  # fmt: skip


def mutate_text(random: Random, text: str, bits: Sequence[str] = ()) -> bytes:
    """The text with unusual numbers and words, with lines removed, repeated or swapped, or with mutated bytes."""
    lines = text.splitlines(keepends=True)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(lines)) if lines else 0
        kind = random.randrange(6)
        if not lines:
            break
        if kind <= 2:
            words = lines[at].replace("<", " <").replace(">", "> ").split(" ")
            chosen = random.randrange(len(words))
            words[chosen] = random.choice([*NUMBERS, *bits, *words])
            lines[at] = " ".join(words)
        elif kind == 3:
            del lines[at]
        elif kind == 4:
            lines[at:at] = [lines[at]] * random.choice((1, 1, 3))
        else:
            other = random.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
    content = "".join(lines).encode()
    return mutate_bytes(random, content, 3) if random.random() < 0.25 else content


JSON_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 1.5, 1e308, math.nan, math.inf, -math.inf, 2**31, 2**63, 10**30, 65536,
    10**9, "", "x",
    "\0", "a\0b", "\ud800", "../../etc/passwd", "/dev/zero", "/dev/null", ".", "..", "a" * 300,
    "a" * 5000, [], [[]], {},
    [1.0], [1.0, 2.0], [math.nan, 1.0], ["a", "b"], {"a": 1}, [[1.0], 2.0], [None, None], [True, False],
]  # fmt: skip


def _places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every (container, key) below a JSON value."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        found.append((value, key))
        _places(value[key], found)
    return found


def mutate_json(random: Random, value: Any) -> Any:
    """A copy of plain data in which a few values are changed, missing, or moved."""
    value = copy.deepcopy(value)
    for _ in range(random.randint(1, 3)):
        places = _places(value, [])
        if not places:
            return random.choice(JSON_VALUES)
        parent, key = random.choice(places)
        kind = random.randrange(6)
        if kind == 0:
            del parent[key]
        elif kind == 1:
            other, name = random.choice(places)
            parent[key] = copy.deepcopy(other[name]) if name in other or isinstance(other, list) else None
        elif kind == 2 and isinstance(parent, dict):
            parent[str(random.choice(JSON_VALUES))] = parent.pop(key)
        elif kind == 3 and isinstance(parent[key], (int, float)):
            parent[key] = parent[key] * random.choice((-1, 0, 2, 0.5, 1000))
        else:
            parent[key] = copy.deepcopy(random.choice(JSON_VALUES))
    return value


def mutate_json_bytes(random: Random, value: Any) -> bytes:
    if random.random() < 0.1:
        return mutate_bytes(random, json.dumps(value).encode())
    if random.random() < 0.02:
        return b"[" * 100_000 if random.random() < 0.5 else b'{"a":' * 5000
    return json.dumps(mutate_json(random, value)).encode()


def mutate_xml(random: Random, text: str) -> bytes:
    """XML with elements removed, repeated, moved or renamed, texts and attributes replaced, or the text mutated."""
    if random.random() < 0.2:
        return mutate_text(random, text)
    root = ElementTree.fromstring(text)
    for _ in range(random.randint(1, 4)):
        parents = [element for element in root.iter() if len(element)]
        if not parents:
            break
        parent = random.choice(parents)
        child = parent[random.randrange(len(parent))]
        leaf = random.choice([element for element in root.iter() if not len(element)])
        kind = random.randrange(9)
        if kind == 0:
            parent.remove(child)
        elif kind == 1:
            parent.append(copy.deepcopy(child))
        elif kind == 2:
            random.choice(parents).append(copy.deepcopy(child))
        elif kind == 3:
            child.tag = random.choice([element.tag for element in root.iter()])
        elif kind == 4 and child.attrib:
            name = random.choice(list(child.attrib))
            values = [value for element in root.iter() for value in element.attrib.values()]
            child.set(name, random.choice([*values, *NUMBERS, "world", "__model__"]))
            if random.random() < 0.2:
                del child.attrib[name]
        elif leaf.text and leaf.text.split():
            words = leaf.text.split()
            words[random.randrange(len(words))] = random.choice(NUMBERS)
            leaf.text = " ".join(words)
    content = ElementTree.tostring(root)
    if random.random() < 0.05:
        name = random.choice(
            ("utf-7", "utf-16", "rot13", "idna", "nowhere", "punycode", "shift_jis", "base64", "cp037")
        )
        content = f'<?xml version="1.0" encoding="{name}"?>'.encode() + content
    if random.random() < 0.03:
        levels = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(8))
        content = f'<!DOCTYPE x [<!ENTITY e0 "1">{levels}]>'.encode() + content.replace(b"0.", b"&e8;", 1)
    return content


# ---- messages --------------------------------------------------------------------------------------------------------

ENCODINGS = (
    "rgb8 bgr8 rgba8 bgra8 mono8 mono16 rgb16 bgr16 rgba16 bgra16 bayer_rggb8 bayer_bggr8 bayer_gbrg8 bayer_grbg8 "
)
ENCODINGS += "bayer_rggb16 yuv422 yuv422_yuy2 uyvy yuyv 32FC1 8UC1 nv12"
WORDS = [
    *ENCODINGS.split(),
    *JOINTS,
    "",
    "start a",
    "end",
    "discard",
    "good",
    "broken",
    "../good",
    "jpeg",
    "png",
    "x" * 300,
]
WORDS += ["rgb8; compressedDepth png", "rgb8; jpeg compressed bgr8", "\N{SNOWMAN}", "{0} %s %n \x1b[0m", "\n"]
EDGE_FLOATS = [0.0, -0.0, 1.0, -1.0, 0.3, 3.0, 1e-300, 1e9, 1e30, 1e39, 1e308, -1e308, math.nan, math.inf, -math.inf]
INTEGERS = {
    f"{sign}int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if not sign else (0, 2**bits - 1)
    for bits in (8, 16, 32, 64)
    for sign in ("", "u")
} | {"octet": (0, 255), "char": (0, 255)}


def _class_of(kind: str) -> Any:
    package, _, name = kind.partition("/")
    return getattr(importlib.import_module(f"{package}.msg"), name.rpartition("/")[2])


def anything(kind: str) -> st.SearchStrategy[Any]:
    """Values of a ROS field type, e.g. `uint32`, `sequence<double>`, `geometry_msgs/Point`."""
    if kind.startswith("sequence<"):
        inner = kind[9:-1].partition(",")[0]
        if inner in ("uint8", "octet"):
            return st.one_of(st.binary(max_size=60), st.integers(0, 5000).map(bytes)).map(lambda b: array.array("B", b))
        values = st.lists(anything(inner), max_size=5)
        return values.map(lambda v: array.array("d", v)) if inner == "double" else values
    if kind.endswith("]"):
        inner, _, count = kind[:-1].partition("[")
        return st.lists(anything(inner), min_size=int(count), max_size=int(count))
    if kind in INTEGERS:
        low, high = INTEGERS[kind]
        edges = [v for v in (low, high, 0, 1, 2, 3, 63, 64, 65, 255, 999_999_999, 10**9, 2**31) if low <= v <= high]
        return st.one_of(st.sampled_from(edges), st.integers(max(low, -100), min(high, 100)), st.integers(low, high))
    if kind in ("double", "float", "float64", "float32"):
        at_edges = st.sampled_from(EDGE_FLOATS)
        if kind in ("float", "float32"):
            at_edges = at_edges.map(lambda v: v if not abs(v) > 3e38 or math.isinf(v) else 3e38)
            return st.one_of(at_edges, st.floats(width=32))
        return st.one_of(at_edges, st.floats(-3.0, 3.0), st.floats())
    if kind.startswith(("string", "wstring")):
        letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")  # DDS can send neither
        return st.one_of(st.sampled_from(WORDS), st.text(letters, max_size=6))
    if kind == "boolean":
        return st.booleans()
    cls = _class_of(kind)
    return st.builds(cls, **{name: anything(inner) for name, inner in cls.get_fields_and_field_types().items()})


@st.composite
def near(draw: st.DrawFn, good: Any) -> Any:
    """The message with some fields changed; lists of messages have members changed, repeated or missing."""
    fields = {}
    for name, kind in good.get_fields_and_field_types().items():
        value, choice = getattr(good, name), draw(st.integers(0, 9))
        if hasattr(value, "get_fields_and_field_types"):
            fields[name] = draw(near(value)) if choice < 7 else value
        elif isinstance(value, list) and value and hasattr(value[0], "get_fields_and_field_types"):
            kept = [draw(near(one)) if draw(st.integers(0, 2)) == 0 else one for one in value]
            fields[name] = kept if choice < 8 else kept[: choice - 8] * draw(st.sampled_from([0, 1, 50]))
        elif kind == "sequence<double>" and len(value) and choice < 4:  # keeps its length
            fields[name] = copy.copy(value)
            for _ in range(choice):
                fields[name][draw(st.integers(0, len(value) - 1))] = draw(anything("double"))
        else:
            fields[name] = draw(anything(kind)) if choice < 2 else value
    return type(good)(**fields)


def messages_near(*goods: Any) -> Callable[[Random], Any]:
    """Draws messages of one type: a good one with changes, or a random one. Every second has the present stamp."""
    cls = type(goods[0])
    kind = f"{cls.__module__.partition('.')[0]}/{cls.__name__}"
    draw = [drawer(near(good)) for good in goods] * 2 + [drawer(anything(kind))]

    def make(random: Random) -> Any:
        message = random.choice(draw)(random)
        if hasattr(message, "header") and random.random() < 0.5:
            stamp(message, random.choice((0, 0, 0, -2, 1, 5)) * 10**9)
            if random.random() < 0.1:  # at the end of the range of stamps
                ends = ((2**31 - 1, 2**32 - 1), (2**31 - 1, 0), (-(2**31), 0), (0, 0))
                message.header.stamp.sec, message.header.stamp.nanosec = random.choice(ends)
        return message

    return make


def stamp(message: Any, offset_ns: int = 0) -> Any:
    from lewm_ros.messages import time_message

    if hasattr(message, "header"):
        message.header.stamp = time_message(time.time_ns() + offset_ns)
    return message


def picture(size: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)


def encoded(suffix: str, size: int = 24) -> bytes:
    return cv2.imencode(suffix, picture(size))[1].tobytes()


def image_message(encoding: str, channels: int, size: int = 8) -> Any:
    from sensor_msgs.msg import Image

    data = array.array("B", picture(64).tobytes()[: size * size * channels])
    return Image(encoding=encoding, height=size, width=size, step=size * channels, data=data)


OBJECT_POSE = np.array([0.3, 0.3, 0.025, 1.0, 0.0, 0.0, 0.0])  # m, quaternion; away from a stretched-out arm


def good_messages() -> dict[Any, list[Any]]:
    """Good examples of every type of message that a node subscribes to."""
    from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
    from geometry_msgs.msg import PoseStamped
    from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState, Joy
    from std_msgs.msg import Float32, String
    from trajectory_msgs.msg import JointTrajectory

    from lewm_model.planning.motion import Trajectory
    from lewm_ros.controller_state import ControllerState, reference_message
    from lewm_ros.messages import (
        camera_info_message,
        joint_state_message,
        latent_to_message,
        pose_message,
        trajectory_to_message,
    )

    times_s = 0.05 * np.arange(1, 9)
    rise = 0.5 * (1 - np.cos(np.pi * np.arange(8) / 7))[:, None] * np.array([[0.2, -0.2]])
    speeds = np.gradient(rise, 0.05, axis=0)
    speeds[-1] = 0.0  # since a controller refuses a trajectory that does not end at rest
    motion = Trajectory(times_s, rise, speeds)
    channels = {"rgb8": 3, "mono8": 1, "bgra8": 4, "bayer_rggb8": 1, "mono16": 2, "rgb16": 6, "yuv422": 2}
    at_rest = (np.array([0.1, 0.2]), np.zeros(2), np.zeros(2))
    return {
        Image: [
            *(image_message(name, count) for name, count in channels.items()),
            *[latent_to_message(np.linspace(-1, 1, LATENT), 0)] * 3,
        ],
        CompressedImage: [
            CompressedImage(format="rgb8; jpeg compressed bgr8", data=array.array("B", encoded(suffix)))
            for suffix in (".jpg", ".png")
        ],
        JointState: [joint_state_message(JOINTS, np.array([0.1, 0.2]), np.zeros(2), 0)],
        JointTrajectory: [trajectory_to_message(motion, JOINTS, 0)],
        PoseStamped: [pose_message(OBJECT_POSE, 0, "world")],
        Joy: [Joy(axes=array.array("f", [0.0] * 4), buttons=array.array("i", [1] + [0] * 7))],
        String: [String(data="good")],
        Float32: [Float32(data=0.5)],
        CameraInfo: [camera_info_message(64, 64, 60.0, 0)],
        **({ControllerState: [reference_message(JOINTS, at_rest, at_rest[0], 1.0, 0)]} if ControllerState else {}),
        DiagnosticStatus: [
            DiagnosticStatus(
                name="planner_node", message="armed; moving", values=[KeyValue(key="state", value="armed")]
            )
        ],
    }


def make_image(seeds: Path, scratch: Path) -> Target:
    from lewm_model.robot.observation import to_model_image
    from lewm_ros.messages import ImageError, message_to_rgb

    channels = {"rgb8": 3, "mono8": 1, "bgra8": 4, "bayer_rggb8": 1, "bayer_grbg16": 2, "rgb16": 6, "yuyv": 2}
    goods = [image_message(name, count) for name, count in channels.items()]

    def use(message: Any) -> None:
        rgb = message_to_rgb(message)
        assert rgb.dtype == np.uint8 and rgb.shape == (message.height, message.width, 3)
        assert to_model_image(rgb, 64).shape == (64, 64, 3)

    return Reader(messages_near(*goods), use, (ImageError,), goods[0])


def make_compressed(seeds: Path, scratch: Path) -> Target:
    from sensor_msgs.msg import CompressedImage

    from lewm_model.robot.observation import to_model_image
    from lewm_ros.messages import ImageError, message_to_rgb

    samples = picture_files()

    def make(random: Random) -> Any:
        content = mutate_picture(random, random.choice(samples))
        return CompressedImage(format=random.choice(WORDS), data=array.array("B", content))

    good = CompressedImage(format="jpeg", data=array.array("B", encoded(".jpg")))
    return Reader(make, lambda m: to_model_image(message_to_rgb(m), 64), (ImageError,), good)


def picture_files() -> list[bytes]:
    return [encoded(".png"), encoded(".jpg")] * 4 + [encoded(suffix) for suffix in (".bmp", ".webp", ".tiff", ".ppm")]


def mutate_picture(random: Random, content: bytes) -> bytes:
    """Mutated pictures, and pictures whose header, with the right checksum, claims an enormous size."""
    import zlib

    if content[:4] == b"\x89PNG" and random.random() < 0.3:
        width, height = (random.choice((0, 1, 24, 65535, 1 << 20, 2**31 - 1, 2**32 - 1)) for _ in range(2))
        depth, colour = random.choice((1, 2, 4, 8, 16, 32)), random.choice((0, 2, 3, 4, 6, 7))
        header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, colour, 0, 0, 0])
        return content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]
    if content[:2] == b"\xff\xd8" and random.random() < 0.3:
        at = content.find(b"\xff\xc0")
        size = b"".join(random.choice((1, 24, 32767, 65535)).to_bytes(2, "big") for _ in range(2))
        return content[: at + 5] + size + content[at + 9 :]
    return mutate_bytes(random, content)


def make_latent(seeds: Path, scratch: Path) -> Target:
    from lewm_ros.messages import ImageError, latent_to_message, message_to_latent

    good = latent_to_message(np.linspace(-1, 1, LATENT), 0)

    def use(message: Any) -> None:
        assert np.isfinite(message_to_latent(message, LATENT)).all()

    return Reader(messages_near(good), use, (ImageError,), good)


def make_floats(seeds: Path, scratch: Path) -> Target:
    """The planner's message about its plan, which the viewer reads."""
    from lewm_ros.messages import ImageError, array_to_message, message_to_array

    goods = [array_to_message(np.linspace(-1, 1, 8 * 26 * 2).reshape(8, 26, 2), 0)]
    goods.append(array_to_message(np.linspace(-1, 1, 2 * 6).reshape(1, 6, 2), 0))

    def use(message: Any) -> None:
        values = message_to_array(message, channels=2)
        assert np.isfinite(values).all() and values.shape == (message.height, message.width, 2)

    return Reader(messages_near(*goods), use, (ImageError,), goods[0])


def make_joint_positions(seeds: Path, scratch: Path) -> Target:
    from sensor_msgs.msg import JointState

    from lewm_ros.messages import MessageError, message_to_joint_positions

    good = good_messages()[JointState][0]

    def use(message: Any) -> None:
        assert np.isfinite(message_to_joint_positions(message, JOINTS)).all()

    return Reader(messages_near(good), use, (MessageError,), good)


def make_wire(seeds: Path, scratch: Path) -> Target:
    """Serialised messages with wrong bytes, as from a broken or hostile publisher."""
    from rclpy.serialization import deserialize_message, serialize_message

    from lewm_ros.messages import MessageError, message_to_joint_positions, message_to_rgb, message_to_trajectory

    goods = [(type(good), serialize_message(good)) for examples in good_messages().values() for good in examples]

    def make(random: Random) -> Any:
        cls, data = random.choice(goods)
        return cls, mutate_bytes(random, data, 3)

    def use(value: Any) -> None:
        cls, data = value
        try:
            message = deserialize_message(data, cls)
        except Exception as error:
            if type(error).__name__ not in ("RMWError", "RCLError"):
                raise
            return
        name = cls.__name__
        if name in ("Image", "CompressedImage"):
            message_to_rgb(message)
        elif name == "JointState":
            message_to_joint_positions(message, JOINTS)
        elif name == "JointTrajectory":
            message_to_trajectory(message, JOINTS)

    from lewm_ros.messages import ImageError

    return Reader(make, use, (MessageError, ImageError), goods[0])


class Arm(Target):
    """Trajectories for the simulated arm, which must stay within its limits whatever they are."""

    def __init__(self) -> None:
        from sensor_msgs.msg import JointState
        from trajectory_msgs.msg import JointTrajectory

        from lewm_model.sim.arm import ArmSim

        self._sim = ArmSim(render=False)
        goods = good_messages()
        self._draw = {kind: messages_near(*goods[kind]) for kind in (JointState, JointTrajectory)}
        self._kinds = (JointTrajectory, JointTrajectory, JointTrajectory, JointState)

    def feed(self, random: Random) -> None:
        from lewm_ros.messages import MessageError, message_to_joint_positions, message_to_trajectory

        kind = random.choice(self._kinds)
        message = self._draw[kind](random)
        sim = self._sim
        try:
            if kind is self._kinds[0]:
                points = message_to_trajectory(message, JOINTS)
                age_s = random.choice((0.0, 0.1, (time.time_ns() - points.stamp_ns) / 1e9))
                sim.set_trajectory(points.times_s, points.positions, points.velocities, start_s=sim.time_s - age_s)
            else:
                sim.reset(joint_positions=message_to_joint_positions(message, JOINTS))
        except (MessageError, ValueError) as error:
            if type(error) not in (MessageError, ValueError):
                raise
        sim.step(0.02)
        command = sim.commanded_positions()
        assert (command >= sim.limits.lower).all() and (command <= sim.limits.upper).all(), f"commanded {command}"
        assert np.isfinite(sim.joint_positions()).all(), f"measured {sim.joint_positions()}"

    def good(self) -> None:
        sim = self._sim
        sim.set_trajectory([0.0, 4.0], np.stack([sim.commanded_positions(), [0.3, -0.3]]))
        sim.step(5.0)
        if not np.allclose(sim.joint_positions(), [0.3, -0.3], atol=0.02):
            raise NotHandled(f"the arm is at {sim.joint_positions()}")


# ---- nodes -----------------------------------------------------------------------------------------------------------

LIMITS = {
    "limits.names": list(JOINTS),
    "limits.lower": [-2.6, -2.2],
    "limits.upper": [2.6, 2.2],
    "limits.velocity": [1.5, 1.5],
    "limits.acceleration": [9.0, 9.0],
    "limits.jerk": [150.0, 150.0],
}
_domain: Any = None


def reserve() -> None:
    """A ROS domain for this process, once."""
    global _domain
    from lewm_ros.graph import reserve_domain, set_environment

    set_environment()
    _domain = _domain or reserve_domain()


def send_damaged(publisher: Any, random: Random, data: bytes) -> None:
    """Publishes a damaged message, cut to the size of its type, since DDS refuses to send more."""
    from rclpy._rclpy_pybind11 import RCLError

    damaged = mutate_bytes(random, data, 2)
    try:
        publisher.publish(damaged)
    except RCLError:
        publisher.publish(damaged[: len(data)])


class NodeTarget(Target):
    """A node in this process. The node itself tells its subscriptions, so no topic is left out.

    Most messages go straight into the callbacks, in the thread that is also the node's executor; one in fifty, and all
    good ones, come over DDS.
    """

    over_dds = 0.02

    def __init__(self, make: Callable[[], Any], parameters: dict[str, Any], arguments: Sequence[str] = ()) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.lifecycle import TransitionCallbackReturn
        from rclpy.parameter import Parameter
        from rclpy.serialization import serialize_message

        reserve()
        self._serialize = serialize_message
        rclpy.init(args=["--ros-args", "--disable-rosout-logs", "--disable-external-lib-logs", *arguments])
        self.executor = SingleThreadedExecutor()
        self.probe = rclpy.create_node("fuzz")
        self.node = make()
        for node in (self.probe, self.node):
            self.executor.add_node(node)
        for name, value in parameters.items():
            if self.node.has_parameter(name):
                result = self.node.set_parameters([Parameter(name, value=value)])[0]
                assert result.successful, f"{name}: {result.reason}"
        self.managed = hasattr(self.node, "trigger_configure")
        if self.managed:
            assert self.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
            assert self.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        own = [s for s in self.node.subscriptions if not s.topic_name.startswith(("/parameter_events", "/clock"))]
        self.subscriptions = {subscription.topic_name: subscription for subscription in own}
        assert self.subscriptions
        self.services = {service.srv_name.rpartition("/")[2]: service for service in self.node.services}
        goods = good_messages()
        kinds = {subscription.msg_type for subscription in self.subscriptions.values()}
        missing = [kind.__name__ for kind in kinds if kind not in goods]
        assert not missing, f"good_messages has no example of {missing}"
        self.draw = {kind: messages_near(*goods[kind]) for kind in kinds}
        self.publishers = {
            topic: self.probe.create_publisher(subscription.msg_type, topic, self._profile())
            for topic, subscription in self.subscriptions.items()
        }

    @staticmethod
    def _profile() -> Any:
        from lewm_ros.camera_node import LATCHED

        return LATCHED  # reliable and latched: fits every subscription

    def feed(self, random: Random) -> None:
        topic = random.choice(sorted(self.subscriptions))
        message = self.draw[self.subscriptions[topic].msg_type](random)
        if random.random() < self.over_dds:
            data = self._serialize(message)
            if random.random() < 0.5:
                send_damaged(self.publishers[topic], random, data)
            else:
                self.publishers[topic].publish(message)
            self.spin(0.01)
        else:
            self.give(topic, message)
        self.after(topic)

    def give(self, topic: str, message: Any) -> None:
        subscription = self.subscriptions[topic]
        given = [self._serialize(message) if subscription.raw else message]
        if subscription._callback_type is subscription.CallbackType.WithMessageInfo:
            given.append({"source_timestamp": time.time_ns(), "received_timestamp": time.time_ns()})
        subscription.callback(*given)

    def after(self, topic: str) -> None:
        """Waits until the node has handled a message, if that takes time."""

    def spin(self, duration_s: float) -> None:
        end = time.monotonic() + duration_s
        while time.monotonic() < end:
            self.spin_once(0.002)

    def spin_once(self, timeout_s: float) -> None:
        try:
            self.executor.spin_once(timeout_sec=timeout_s)
        except Exception as error:  # nodes drop what cannot be deserialised and continue: see lewm_ros.node.run
            if type(error).__name__ not in ("RMWError", "RCLError"):
                raise

    def until(self, condition: Callable[[], Any], again: Callable[[], None], what: str, every_s: float = 0.1) -> None:
        """Calls `again` periodically and handles callbacks, until the condition holds."""
        end, next_s = time.monotonic() + HANDLED_S, 0.0
        while not condition():
            now = time.monotonic()
            if now > end:
                detail = self.node.diagnose()[1] if self.managed else ""
                raise NotHandled(f"{what} {detail}")
            if now >= next_s:
                next_s = now + every_s
                again()
            self.spin_once(0.005)

    def close(self) -> None:
        import rclpy

        if self.managed:
            self.node.deactivate()
            self.node.cleanup()
        elif hasattr(self.node, "close"):
            self.node.close()
        self.executor.shutdown()
        self.node.destroy_node()
        self.probe.destroy_node()
        rclpy.shutdown()


class Camera(NodeTarget):
    def __init__(self, seeds: Path, scratch: Path, compressed: bool) -> None:
        from rclpy.qos import qos_profile_sensor_data
        from sensor_msgs.msg import Image

        from lewm_ros.camera_node import CameraNode

        self._compressed = compressed
        parameters = {"model": str(seeds / "bundle"), "backend": "onnxruntime", "compressed": compressed}
        super().__init__(CameraNode, parameters | {"goal_folder": str(seeds / "goals")})
        self._latents: list[int] = []
        self._goals: list[int] = []
        for topic, found in (("latent", self._latents), ("goal_latent", self._goals)):
            self.probe.create_subscription(
                Image, topic, lambda m, found=found: found.append(m.header.stamp.sec), qos_profile_sensor_data
            )

    def after(self, topic: str) -> None:
        end = time.monotonic() + HANDLED_S
        while True:  # frames that come faster than they are encoded would be dropped unread
            values = self.node.diagnose()[2]
            done = sum(int(values[name]) for name in ("frames_encoded", "frames_dropped", "images_unreadable"))
            if done >= int(values["frames_in"]):
                return
            if time.monotonic() > end:
                raise NotHandled(f"a frame is not encoded: {self.node.diagnose()[1]}")
            time.sleep(2e-4)

    def good(self) -> None:
        from sensor_msgs.msg import CompressedImage

        from lewm_ros.messages import nanoseconds, rgb_to_message

        camera = "/camera/image_raw/compressed" if self._compressed else "/camera/image_raw"
        for topic, found in ((camera, self._latents), ("/goal_image", self._goals)):
            found.clear()
            good = rgb_to_message(picture(), time.time_ns())
            if self._compressed and topic == camera:
                data = array.array("B", encoded(".png", 64))
                good = CompressedImage(header=good.header, format="png", data=data)
            wanted = nanoseconds(good.header.stamp) // 10**9
            publish = partial(self.publishers[topic].publish, good)
            self.until(partial(operator.contains, found, wanted), publish, f"a good picture on {topic}", 0.5)


class Planner(NodeTarget):
    def __init__(self, seeds: Path, scratch: Path) -> None:
        from trajectory_msgs.msg import JointTrajectory

        from lewm_ros.command_topics import COMMAND
        from lewm_ros.planner_node import PlannerNode

        parameters = {"model": str(seeds / "bundle"), "backend": "onnxruntime", "plan.samples": 16, "plan.elites": 4}
        super().__init__(PlannerNode, {**parameters, **LIMITS, "plan.iterations": 2, "deadman_button": 0})
        self._commands: list[Any] = []
        self.probe.create_subscription(
            JointTrajectory, "arm_controller/joint_trajectory", self._commands.append, COMMAND
        )

    def call(self, name: str, request: Any) -> Any:
        service = self.services[name]
        return service.callback(request, service.srv_type.Response())

    def good(self) -> None:
        from std_srvs.srv import SetBool, Trigger

        goods = {kind: examples[-1] for kind, examples in good_messages().items()}
        self._commands.clear()
        count = 0

        def send() -> None:
            nonlocal count
            if count % 60 == 0:  # as a person would who finds the arm stopped
                self.call("reset", Trigger.Request())
            count += 1
            for topic, subscription in self.subscriptions.items():
                if topic != "/goal_latent" or count % 30 == 2:
                    message = copy.deepcopy(goods[subscription.msg_type])
                    self.give(topic, stamp(message))
            self.call("enable", SetBool.Request(data=True))

        self.until(lambda: self._commands, send, "good frames, joint states and goals", 0.05)


class Sim(NodeTarget):
    def __init__(self, seeds: Path, scratch: Path) -> None:
        from geometry_msgs.msg import PoseStamped
        from sensor_msgs.msg import JointState

        from lewm_ros.sim_node import SimNode

        super().__init__(SimNode, {"rate": 0.5})
        self._positions: list[Any] = []
        self._blocks: list[Any] = []
        self.probe.create_subscription(JointState, "joint_states", self._positions.append, 10)
        self.probe.create_subscription(PoseStamped, "sim_node/block/pose", self._blocks.append, 10)

    def after(self, topic: str) -> None:
        time.sleep(0.003)  # since the node takes messages every 10 ms

    def good(self) -> None:
        from geometry_msgs.msg import PoseStamped
        from sensor_msgs.msg import JointState
        from trajectory_msgs.msg import JointTrajectory

        from lewm_ros.messages import message_to_pose

        def put() -> bool:
            found, self._blocks[:] = self._blocks[:], []
            return any(np.allclose(message_to_pose(one, "world"), OBJECT_POSE, atol=0.003) for one in found)

        block = copy.deepcopy(good_messages()[PoseStamped][0])
        self.until(put, lambda: self.publishers["/sim_node/block/set_pose"].publish(block), "a block's good pose", 2.0)
        for kind, wanted in ((JointState, [0.1, 0.2]), (JointTrajectory, [0.2, -0.2])):
            topic = next(name for name, one in self.subscriptions.items() if one.msg_type is kind)
            good = copy.deepcopy(good_messages()[kind][0])
            if kind is JointTrajectory:  # from now on
                good.header.stamp.sec = good.header.stamp.nanosec = 0

            def there(wanted: Any = wanted) -> bool:
                found, self._positions[:] = self._positions[:], []
                return any(np.allclose(one.position, wanted, atol=0.03) for one in found if len(one.position) == 2)

            publish = lambda topic=topic, good=good: self.publishers[topic].publish(good)  # noqa: E731
            self.until(there, publish, f"a good message on {topic}", 2.0)


class RecorderTarget(NodeTarget):
    def __init__(self, seeds: Path, scratch: Path) -> None:
        from lewm_ros.record import Recorder

        self._path = scratch / "recording.mcap"
        self._path.unlink(missing_ok=True)
        super().__init__(Recorder, {}, ["-p", f"out:={self._path}", "-p", "image_format:=png"])

    def good(self) -> None:
        from sensor_msgs.msg import Image

        before = self.node.counts["pictures"]
        publish = lambda: self.publishers["/camera/image_raw"].publish(good_messages()[Image][0])  # noqa: E731
        self.until(lambda: self.node.counts["pictures"] > before and not self.node.failure, publish, "a picture", 0.5)

    def close(self) -> None:
        from lewm_model.data.converters.rosbag2.files import read_messages

        pictures = self.node.counts["pictures"]
        super().close()
        problems: list[str] = []
        found = sum(message.topic == "/camera/image_raw/compressed" for message in read_messages(self._path, problems))
        if problems or found != pictures:
            raise NotHandled(f"{pictures} pictures were recorded, {found} are there; {problems}")


class Viewer(NodeTarget):
    """The viewer while a subscriber watches all the time, so that every message is drawn."""

    def __init__(self, seeds: Path, scratch: Path) -> None:
        from rclpy.qos import qos_profile_sensor_data
        from sensor_msgs.msg import Image
        from visualization_msgs.msg import MarkerArray

        from lewm_model.config import resource
        from lewm_ros.viewer_node import ViewerNode

        self._pictures: list[Any] = []

        def watched() -> Any:
            node = ViewerNode()
            self.probe.create_subscription(Image, "debug_image", self._pictures.append, qos_profile_sensor_data)
            self.probe.create_subscription(MarkerArray, "plan_markers", lambda message: None, 1)
            end = time.monotonic() + HANDLED_S
            while not {"/camera/image_raw", "/planner_node/imagined"} <= {s.topic_name for s in node.subscriptions}:
                if time.monotonic() > end:
                    raise NotHandled("the viewer does not listen although its picture has a subscriber")
                node._look()
                time.sleep(0.02)
            return node

        urdf = resource("config", "arms", "tabletop.urdf")
        arm = {"urdf": str(urdf), "workspace.base": "base", "workspace.tip": "end_effector"}
        parameters = {"model": str(seeds / "bundle"), "rate": 0.1, **arm}
        super().__init__(watched, {}, [word for k, v in parameters.items() for word in ("-p", f"{k}:={v}")])

    def after(self, topic: str) -> None:
        self.node._show()

    def good(self) -> None:
        from lewm_ros.messages import nanoseconds, rgb_to_message

        good = rgb_to_message(picture(), time.time_ns())
        stamps = lambda: [nanoseconds(found.header.stamp) for found in self._pictures]  # noqa: E731

        def again() -> None:
            self.publishers["/camera/image_raw"].publish(good)
            self.spin(0.1)
            self.node._show()

        self._pictures.clear()
        self.until(lambda: nanoseconds(good.header.stamp) in stamps(), again, "a picture of a good one", 0.3)


class Gazebo(NodeTarget):
    def __init__(self, seeds: Path, scratch: Path) -> None:
        from trajectory_msgs.msg import JointTrajectory

        from lewm_ros.gazebo_commands import TOPICS, GazeboCommands

        super().__init__(GazeboCommands, {})
        self._sent: list[Any] = []
        for onward in TOPICS.values():
            self.probe.create_subscription(JointTrajectory, onward, self._check, 10)

    def _check(self, message: Any) -> None:
        for point in message.points:
            assert np.isfinite(point.positions).all() and np.isfinite(point.velocities).all(), "sent on a NaN"
        self._sent.append(message)

    def after(self, topic: str) -> None:
        self.spin_once(0.0)

    def good(self) -> None:
        from trajectory_msgs.msg import JointTrajectory

        self.spin(0.05)
        good = copy.deepcopy(good_messages()[JointTrajectory][0])
        for topic in self.subscriptions:
            self._sent.clear()
            publish = lambda topic=topic: self.publishers[topic].publish(stamp(good))  # noqa: E731
            self.until(lambda: self._sent, publish, f"a good trajectory on {topic}", 0.5)


class Processes(Target):
    """The nodes as processes with a simulated arm; messages to their topics have wrong bytes too."""

    batch = 100

    def __init__(self, seeds: Path, scratch: Path) -> None:
        from rclpy.serialization import serialize_message
        from sensor_msgs.msg import Image, JointState
        from std_msgs.msg import String
        from trajectory_msgs.msg import JointTrajectory

        from lewm_ros.camera_node import LATCHED
        from lewm_ros.graph import Graph

        reserve()
        self._serialize = serialize_message
        logs = scratch / "processes"
        shutil.rmtree(logs, ignore_errors=True)
        self._graph = Graph("fuzz", logs)
        model = {"model": str(seeds / "bundle"), "backend": "onnxruntime"}
        self._graph.start("sim_node", {"rate": 5.0})
        self._graph.start("camera_node", {**model, "goal_folder": str(seeds / "goals")})
        self._graph.start("planner_node", {**model, **LIMITS})
        self._graph.start("record", {"out": str(logs / "recording.mcap")})
        self._graph.start("gazebo_commands", {})
        node = self._graph.node
        self._recording = logs / "recording.mcap"
        goods = good_messages()
        kinds = {
            "camera/image_raw": Image,
            "goal_image": Image,
            "goal_name": String,
            "latent": Image,
            "goal_latent": Image,
            "joint_states": JointState,
            "arm_controller/joint_trajectory": JointTrajectory,
            "sim_node/set_joint_state": JointState,
            "episode": String,
        }
        self._draw = {topic: messages_near(*goods[kind]) for topic, kind in kinds.items()}
        self._publishers = {topic: node.create_publisher(kind, topic, LATCHED) for topic, kind in kinds.items()}
        self._goods = goods
        self._commands: list[Any] = []
        self._held: list[Any] = []
        node.create_subscription(JointTrajectory, "arm_controller/joint_trajectory", self._commands.append, 10)
        node.create_subscription(JointTrajectory, "gazebo/joint_trajectory", self._held.append, 10)
        try:
            self._graph.bring_up("sim_node", "camera_node", "planner_node")
            self.good()
        except BaseException:
            self.close()
            raise

    def feed(self, random: Random) -> None:
        topic = random.choice(sorted(self._draw))
        message = self._draw[topic](random)
        data = self._serialize(message)
        if random.random() < 0.5:
            send_damaged(self._publishers[topic], random, data)
        else:
            self._publishers[topic].publish(message)
        self._spin(0.002)

    def _spin(self, duration_s: float) -> None:
        try:
            self._graph.spin_for(duration_s)
        except Exception as error:  # this process also receives the damaged messages that it sent
            if type(error).__name__ not in ("RMWError", "RCLError"):
                raise

    def good(self) -> None:
        """After a reset the planner plans towards a good goal, and its commands arrive."""
        from sensor_msgs.msg import JointState
        from std_srvs.srv import SetBool, Trigger

        from lewm_ros.messages import rgb_to_message

        self._spin(0.3)
        self._held.clear()
        end = time.monotonic() + 2 * HANDLED_S
        ours = len(self._commands)
        while len(self._commands) <= ours or not self._held:
            if time.monotonic() > end:
                logs = "\n".join(self._graph.log(name)[-500:] for name in ("sim_node", "camera_node", "planner_node"))
                raise NotHandled(f"no plan after a reset, or no command; the nodes logged\n{logs}")
            self._graph.call(Trigger, {"/planner_node/reset": Trigger.Request()})
            self._publishers["sim_node/set_joint_state"].publish(self._goods[JointState][0])
            self._publishers["goal_image"].publish(rgb_to_message(picture(), time.time_ns()))
            self._spin(0.7)
            self._graph.call(SetBool, {"/planner_node/enable": SetBool.Request(data=True)})
            self._spin(0.7)

    def close(self) -> None:
        self._graph.__exit__(None, None, None)
        from lewm_model.data.converters.rosbag2.files import read_messages

        problems: list[str] = []
        for _ in read_messages(self._recording, problems):
            pass
        if problems:
            raise NotHandled(f"the recording is damaged: {problems}")


# ---- parameters ------------------------------------------------------------------------------------------------------


class Parameters(Target):
    """Values of any type for every parameter; a transition may refuse them, but must not raise."""

    def __init__(self, seeds: Path, scratch: Path) -> None:
        import rclpy

        from lewm_ros.camera_node import CameraNode
        from lewm_ros.planner_node import PlannerNode
        from lewm_ros.sim_node import SimNode

        reserve()
        rclpy.init(args=["--ros-args", "--disable-rosout-logs", "--disable-external-lib-logs"])
        self._good = {"model": str(seeds / "bundle"), "backend": "onnxruntime", **LIMITS, "world": ""}
        self._nodes = [PlannerNode(), PlannerNode(), CameraNode(), SimNode()]
        number = anything("double")
        self._draw = drawer(
            st.one_of(
                st.booleans(),
                anything("int64"),
                number,
                anything("string"),
                st.lists(number, max_size=3),
                st.lists(st.floats(-3, 3), min_size=2, max_size=2),
                st.lists(anything("string"), max_size=3),
                st.just(str(seeds)),
                st.sampled_from(["onnxruntime", "torch", "tensorrt", "auto", "cem", "icem", "mppi", "/dev/zero", "/"]),
            )
        )
        self._defaults: dict[int, dict[str, Any]] = {}

    def _attempt(self, node: Any, changes: dict[str, Any]) -> bool:
        """Sets the good values and then the changes; returns whether the node could be configured."""
        from rclpy.lifecycle import TransitionCallbackReturn
        from rclpy.parameter import Parameter

        for name, value in {**self._good, **changes}.items():
            if node.has_parameter(name):
                try:
                    parameter = Parameter(name, value=value)
                except (ValueError, TypeError):  # the value has no ROS type, for example an empty list
                    continue
                node.set_parameters([parameter])
        result = node.trigger_configure()
        if result == TransitionCallbackReturn.ERROR:
            raise AssertionError(f"a bug while configuring with {changes}")
        if result == TransitionCallbackReturn.SUCCESS:
            assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
        return result == TransitionCallbackReturn.SUCCESS

    def feed(self, random: Random) -> None:
        node = random.choice(self._nodes)
        names = [name for name in node.list_parameters([], 10).names if not name.startswith(("qos", "start_type"))]
        names = [name for name in names if name not in ("use_sim_time", "plan.samples")]
        before = [node.get_parameter_or(name) for name in names]
        chosen = random.sample(names, min(len(names), random.choice((1, 1, 1, 2, 4))))
        try:
            self._attempt(node, {name: self._draw(random) for name in chosen})
        finally:
            node.set_parameters([one for one in before if one.name in chosen and one.value is not None])
            if any(one.value is None for one in before if one.name in chosen):  # a parameter cannot be unset
                self._nodes[self._nodes.index(node)] = type(node)()  # type: ignore[call-arg]  # each has its own name
                node.destroy_node()

    def good(self) -> None:
        for node in self._nodes:
            if not self._attempt(node, {}):
                raise NotHandled(f"{node.get_name()} cannot be configured any more")

    def close(self) -> None:
        import rclpy

        for node in self._nodes:
            node.cleanup()
            node.destroy_node()
        rclpy.shutdown()


def make_params_file(seeds: Path, scratch: Path) -> Target:
    """Params files, read by the node's own `run` until a transition has ended."""
    from rclpy.lifecycle import TransitionCallbackReturn

    from lewm_ros.camera_node import CameraNode
    from lewm_ros.node import run
    from lewm_ros.planner_node import PlannerNode

    reserve()
    text = resource("config", "plan.yaml").read_text()
    path = scratch / "params.yaml"

    def use(value: tuple[bytes, Any]) -> None:
        content, kind = value
        path.write_bytes(content)
        outcomes = []

        def make() -> Any:
            node = kind()
            outcomes.append(node.trigger_configure())
            node.trigger_shutdown()
            return node

        arguments = ["--ros-args", "--disable-rosout-logs", "--params-file", str(path)]
        run(make, arguments=[*arguments, "-p", f"model:={seeds / 'bundle'}", "-p", "backend:=onnxruntime"])
        assert TransitionCallbackReturn.ERROR not in outcomes, "a bug while configuring"
        if content == text.encode():
            assert outcomes == [TransitionCallbackReturn.SUCCESS]

    def exits(value: Any) -> None:
        try:
            use(value)
        except SystemExit as end:
            if not isinstance(end.code, str):
                raise AssertionError(f"ended with {end.code!r} and without a message") from end
        finally:
            # rclpy destroys a DDS participant, with its threads and sockets, when its context is freed. Nodes are
            # cycles, so until then tens of participants would gather, each of which every new one has to discover.
            gc.collect()

    def make_input(random: Random) -> Any:
        return mutate_text(random, text, YAML_BITS), random.choice((PlannerNode, PlannerNode, CameraNode))

    return Reader(make_input, exits, (), (text.encode(), PlannerNode))


# ---- configuration files ---------------------------------------------------------------------------------------------


def make_robot_file(seeds: Path, scratch: Path) -> Target:
    from lewm_model.config import ConfigError
    from lewm_model.robot.robot import load_robot

    texts = [resource("config", "robots", f"{name}.yaml").read_text() for name in ("tabletop", "ur5e")]
    texts = ["".join(line for line in text.splitlines(True) if not line.strip().startswith("#")) for text in texts]
    path = scratch / "robot.yaml"

    def use(content: bytes) -> None:
        path.write_bytes(content)
        robot = load_robot(path)
        assert robot.limits.names == robot.names

    refusals = (ConfigError, ValueError)
    return Reader(lambda r: mutate_text(r, r.choice(texts), YAML_BITS), use, refusals, texts[0].encode())


URDF = """<robot name="arm">
  <link name="base"/><link name="upper"/><link name="lower"/><link name="tip"/>
  <joint name="shoulder" type="revolute"><parent link="base"/><child link="upper"/><origin xyz="0 0 0.1" rpy="0 0 0"/>
    <axis xyz="0 0 1"/><limit lower="-2.6" upper="2.6" velocity="1.5" effort="8"/></joint>
  <joint name="elbow" type="revolute"><parent link="upper"/><child link="lower"/><origin xyz="0.3 0 0" rpy="0 0 0"/>
    <axis xyz="0 0 1"/><limit lower="-2.2" upper="2.2" velocity="1.5" effort="8"/></joint>
  <joint name="hand" type="fixed"><parent link="lower"/><child link="tip"/><origin xyz="0.25 0 0" rpy="0 0 0"/></joint>
</robot>
"""


def make_urdf(seeds: Path, scratch: Path) -> Target:
    from lewm_model.robot.chain import Chain, Workspace
    from lewm_model.robot.limits import LimitsError, limits_from_parameters, limits_from_urdf

    path = scratch / "arm.urdf"
    poses = np.random.default_rng(0).uniform(-1, 1, (4, 2))

    def use(content: bytes) -> None:
        path.write_bytes(content)
        limits_from_urdf(path, JOINTS, 9.0, 150.0)
        limits_from_parameters(JOINTS, (), (), (), (9.0, 9.0), (150.0, 150.0), path)
        workspace = Workspace(Chain.from_urdf(path, "base", "tip", JOINTS), (-1, -1, -1), (1, 1, 1))
        found = workspace.chain.positions(poses)
        if not (np.abs(found) <= 1.0).all() and workspace.find_outside(poses) is None:
            raise AssertionError(f"links at {found} count as inside")

    return Reader(lambda r: mutate_xml(r, URDF), use, (LimitsError, ValueError), URDF.encode())


CONFIG = """model:
  action_dim: 2
  image_size: 64
  stem: conv
  activation: relu
  encoder_width: 128
  encoder_heads: 4
  latent_dim: 12
  dropout: 0.0
train:
  seed: 0
  steps: 2200
  batch: 128
  learning_rate: 0.002
  betas: [0.9, 0.99]
  sigreg_weight: 0.2
  clips_per_pose: 1
"""


def make_train_config(seeds: Path, scratch: Path) -> Target:
    """`lewm train --config`: the sections as `lewm_model.cli.training` reads them."""
    from lewm_model.config import (
        MODEL_SIZES,
        TRAIN_SIZES,
        CalibrationConfig,
        ConfigError,
        ModelConfig,
        TrainConfig,
        from_dict,
        load_yaml,
    )

    path = scratch / "train.yaml"

    def use(content: bytes) -> None:
        path.write_bytes(content)
        values = load_yaml(path)
        from_dict(ModelConfig, values.get("model", {}), MODEL_SIZES["small"])
        from_dict(TrainConfig, values.get("train", {}), TRAIN_SIZES["small"])
        from_dict(CalibrationConfig, values.get("calibration", {}))

    return Reader(lambda r: mutate_text(r, CONFIG, YAML_BITS), use, (ConfigError,), CONFIG.encode())


def make_config(seeds: Path, scratch: Path) -> Target:
    """Plain data for each of the configurations; an accepted one must be accepted again after a round trip."""
    from dataclasses import asdict

    from lewm_model.config import (
        AdaptConfig,
        CalibrationConfig,
        ConfigError,
        ModelConfig,
        PlanConfig,
        TrainConfig,
        from_dict,
    )

    kinds = [ModelConfig, TrainConfig, PlanConfig, CalibrationConfig, AdaptConfig]

    def use(value: tuple[Any, Any]) -> None:
        kind, values = value
        config = from_dict(kind, values)
        assert from_dict(kind, asdict(config)) == config

    def make(random: Random) -> Any:
        kind = random.choice(kinds)
        return kind, mutate_json(random, json.loads(json.dumps(asdict(kind()))))

    return Reader(make, use, (ConfigError,), (PlanConfig, {}))


def make_sdf(seeds: Path, scratch: Path) -> Target:
    from lewm_model.sim.arm import ArmSim
    from lewm_model.sim.pinhole import Pinhole
    from lewm_model.sim.sdf_element import SdfError

    text = resource("worlds", "tabletop.sdf").read_text()
    path = scratch / "world.sdf"
    count = 0

    def use(content: bytes) -> None:
        nonlocal count
        path.write_bytes(content)
        with ArmSim(path) as sim:
            sim.step(0.01)
            assert np.isfinite(sim.joint_positions()).all()
            assert 1e-4 < sim.control_dt_s < 1e4
            count += 1
            if count % 50 == 0:
                assert sim.render().dtype == np.uint8
        Pinhole.of_world(path)

    return Reader(lambda r: mutate_xml(r, text), use, (SdfError,), text.encode())


def make_goal_picture(seeds: Path, scratch: Path) -> Target:
    from lewm_model.robot.observation import to_model_image
    from lewm_ros.goals import GoalError, read_picture

    samples = picture_files()

    def use(value: tuple[str, bytes]) -> None:
        path = scratch / f"goal{value[0]}"
        path.write_bytes(value[1])
        to_model_image(read_picture(path), 64)

    def make(random: Random) -> Any:
        return random.choice((".png", ".jpg", ".exr", "")), mutate_picture(random, random.choice(samples))

    return Reader(make, use, (GoalError,), (".png", samples[0]))


# ---- bundles ---------------------------------------------------------------------------------------------------------


def load_and_use(folder: Path, torch_too: bool) -> None:
    """Uses a bundle as nodes do: loads it, encodes a picture, imagines, asks for a proposal."""
    from lewm_model.bundle.bundle import load_bundle
    from lewm_model.config import PlanConfig
    from lewm_model.monitoring.novelty import load_novelty
    from lewm_model.planning.planner import Planner
    from lewm_model.robot.limits import JointLimits
    from lewm_model.runtime import equivalence, load_runtime
    from lewm_model.runtime.decoder import load_decoder

    bundle = load_bundle(folder)
    drawing = load_decoder(bundle)
    if drawing is not None:
        drawing.draw(np.zeros((2, bundle.model.latent_dim), np.float32))
    novelty = load_novelty(bundle)
    if novelty is not None:
        novelty.look(np.zeros((*bundle.model.image_size, 3), np.uint8), 0.0)
    model, names = bundle.model, bundle.actions.names
    backends = ("onnxruntime", "torch") if torch_too else ("onnxruntime",)
    for runtime in (load_runtime(bundle, backend) for backend in backends):
        assert max(model.latent_dim, model.history, model.block_dim) < 1000, "the graphs cannot be of that model"
        size = model.image_size
        latent = runtime.encode(np.zeros((*size, 3), np.uint8))
        assert latent.shape == (model.latent_dim,)
        context = np.zeros((model.history, model.latent_dim), np.float32)
        past = np.zeros((model.history - 1, model.block_dim), np.float32)
        candidates = np.zeros((4, 2, model.block_dim), np.float32)
        distances, latents = runtime.rollout(context, past, candidates, context[-1])
        assert distances.shape == (4, 3) and latents.shape == (4, 2, model.latent_dim)
        if "proposal" in bundle.heads:
            assert runtime.propose(context[-1:], context[-1], np.full(1, 100.0)).shape == (1, model.block_dim)
    equivalence.load_golden(bundle)
    ones = np.ones(len(names))
    try:
        Planner(runtime, JointLimits(names, -ones, ones, ones, ones, ones), PlanConfig(horizon=2), time.monotonic)
    except ValueError as error:  # planner_node refuses the bundle with this text
        if type(error) is not ValueError:
            raise


def bundle_refusals() -> tuple[type[Exception], ...]:
    from lewm_model.bundle.bundle import BundleError
    from lewm_model.runtime import InferenceError, RuntimeLoadError

    return BundleError, RuntimeLoadError, InferenceError


def make_bundle_json(seeds: Path, scratch: Path) -> Target:
    folder = scratch / "described"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(seeds / "bundle", folder)
    good = json.loads((folder / "model.json").read_text())

    def use(content: bytes) -> None:
        (folder / "model.json").write_bytes(content)
        load_and_use(folder, torch_too=sum(content[-1:]) % 2 == 0)

    return Reader(lambda r: mutate_json_bytes(r, good), use, bundle_refusals(), json.dumps(good).encode())


def make_bundle_files(seeds: Path, scratch: Path) -> Target:
    """Bundles with changed files and fitting hashes."""
    import onnx

    from lewm_model.bundle.bundle import sha256

    whole, folder = seeds / "bundle", scratch / "changed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    description = json.loads((whole / "model.json").read_text())
    names = [name for name in description["files"] if "fp16" not in name]

    def onnx_changed(random: Random, content: bytes) -> bytes:
        """A changed graph that is still valid ONNX: other sizes, operators, inputs, values."""
        model = onnx.load_from_string(content)
        for _ in range(random.randint(1, 3)):
            kind = random.randrange(6)
            node = random.choice(model.graph.node)
            if kind == 0:
                value = random.choice([*model.graph.input, *model.graph.output])
                dimensions = value.type.tensor_type.shape.dim
                if dimensions:
                    random.choice(dimensions).dim_value = random.choice((0, -1, 1, 7, 2**31, 2**40))
            elif kind == 1:
                node.op_type = random.choice([one.op_type for one in model.graph.node] + ["Nothing", "Loop", ""])
            elif kind == 2 and node.input:
                node.input[random.randrange(len(node.input))] = random.choice(random.choice(model.graph.node).output)
            elif kind == 3:
                model.graph.node.remove(node)
            elif kind == 4 and model.graph.initializer:
                tensor = random.choice(model.graph.initializer)
                if tensor.raw_data:
                    tensor.raw_data = mutate_bytes(random, tensor.raw_data, 2)
                if tensor.dims and random.random() < 0.3:
                    tensor.dims[0] = random.choice((0, -1, 3, 2**40))
            elif kind == 5 and node.attribute:
                attribute = random.choice(node.attribute)
                attribute.i = random.choice((0, -1, 2, 99, 2**31, 2**40))
        return model.SerializeToString()

    def tensors_changed(random: Random, content: bytes) -> bytes:
        """A safetensors file with a changed header."""
        size = int.from_bytes(content[:8], "little")
        header = json.dumps(mutate_json(random, json.loads(content[8 : 8 + size]))).encode()
        return len(header).to_bytes(8, "little") + header + content[8 + size :]

    def make(random: Random) -> tuple[str, bytes, bool]:
        name = random.choice(names)
        content = (whole / name).read_bytes()
        structured = onnx_changed if name.endswith(".onnx") else tensors_changed
        changed = structured(random, content) if random.random() < 0.6 else mutate_bytes(random, content)
        return name, changed, random.random() < 0.3

    def use(value: tuple[str, bytes, bool]) -> None:
        name, content, torch_too = value
        (folder / name).write_bytes(content)
        changed = {**description, "files": {**description["files"], name: sha256(folder / name)}}
        (folder / "model.json").write_text(json.dumps(changed))
        try:
            load_and_use(folder, torch_too or name.endswith(".safetensors"))
        finally:
            shutil.copyfile(whole / name, folder / name)

    good = (names[0], (whole / names[0]).read_bytes(), True)
    return Reader(make, use, bundle_refusals(), good)


class EngineFiles(Target):
    """Changed manifests, plans and timing caches beside a good bundle; unfitting ones are built anew or refused."""

    def __init__(self, seeds: Path, scratch: Path) -> None:
        from fake_gpu import FakeCuda, FakeTensorRT

        from lewm_model.bundle.bundle import load_bundle
        from lewm_model.runtime.tensorrt.engines import Engines

        folder = scratch / "engined"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(seeds / "bundle", folder)
        bundle = load_bundle(folder)

        def engines() -> Any:
            cuda = FakeCuda()
            return Engines(bundle, FakeTensorRT(cuda), cuda)

        self._engines = engines
        engines().load((16,), "fp32")
        self._folder = engines().folder("fp32")
        self._files = {path: path.read_bytes() for path in engines().root.rglob("*") if path.is_file()}
        self._manifest = self._folder / "manifest.json"
        self._description = json.loads(self._manifest.read_text())

    def feed(self, random: Random) -> None:
        from lewm_model.runtime import RuntimeLoadError
        from lewm_model.runtime.tensorrt.backend import EngineError
        from lewm_model.runtime.tensorrt.engines import read_manifest

        if random.random() < 0.7:
            path, content = self._manifest, mutate_json_bytes(random, self._description)
        else:
            path = random.choice(sorted(self._files))
            content = mutate_bytes(random, self._files[path])
        path.write_bytes(content)
        with contextlib.suppress(EngineError):
            read_manifest(self._folder)
        try:
            if random.random() < 0.1:
                self._engines().load((16,), "fp32", build=random.random() < 0.2)
        except RuntimeLoadError:
            pass
        finally:
            for file, good in self._files.items():
                if file == path or not file.is_file():
                    file.write_bytes(good)

    def good(self) -> None:
        for file, good in self._files.items():
            file.write_bytes(good)
        if not self._engines().load((16,), "fp32", build=False).notes == []:
            raise NotHandled("good engines are not used")


# ---- recordings ------------------------------------------------------------------------------------------------------


def make_hdf5(seeds: Path, scratch: Path) -> Target:
    """Recordings as `lewm train` reads them, up to the first batch and the statistics of the actions."""
    import h5py

    from lewm_model.bundle.bundle import BundleError
    from lewm_model.data.actions import action_spec
    from lewm_model.data.clips import ClipSampler, DataError, load_episodes

    path = scratch / "episodes.h5"
    whole = (seeds / "dots.h5").read_bytes()
    with h5py.File(seeds / "dots.h5") as file:
        arrays, attributes = {name: file[name][:] for name in file}, dict(file.attrs)
    edges = [0, -1, 1, 2, 7, 2**31, 2**40, 2**62, -(2**62)]

    def rebuilt(random: Random) -> None:
        data: dict[str, Any] = {name: values.copy() for name, values in arrays.items()}
        facts = dict(attributes)
        sparse: dict[str, tuple[int, ...]] = {}
        for _ in range(random.randint(1, 3)):
            name = random.choice(sorted(data)) if data else "pixels"
            kind = random.randrange(9)
            if kind == 0:
                data.pop(name, None)
            elif kind <= 2 and "ep_len" in data:
                which = data.get(random.choice(("ep_len", "ep_offset")))
                if which is not None and which.ndim == 1 and which.dtype == np.int64 and len(which):
                    which[random.randrange(len(which))] = random.choice(edges)
            elif kind == 3:
                dtype = random.choice(("float32", "int8", "uint16", "S3", "complex64", "bool", "float64"))
                data[name] = np.zeros(random.choice(((), (0,), (3,), (3, 2), (3, 4, 4, 3))), dtype)
            elif kind == 4 and data.get(name) is not None and data[name].ndim:
                data[name] = data[name][: random.randrange(len(data[name]) + 1)]
            elif kind == 5 and data.get("action") is not None and data["action"].size:
                flat = data["action"].reshape(-1)
                if flat.dtype.kind == "f":
                    flat[random.randrange(len(flat))] = np.float32(min(random.choice(EDGE_FLOATS), 3e38))
            elif kind == 6:
                sparse[name] = (random.choice((2**31, 2**40)), *arrays[name].shape[1:]) if name in arrays else (2**40,)
            elif kind == 7:
                known = ["control_dt_s", "action_names", "action_kind", "action_units", "cameras", "recorded"]
                facts[random.choice([*known, "command"])] = random.choice(
                    [
                        0.0,
                        -1.0,
                        math.nan,
                        math.inf,
                        "",
                        "x",
                        "[1, 2]",
                        '{"a": 1}',
                        "[[]]",
                        "[{}]",
                        "null",
                        "[" * 5000,
                        '["a"]',
                        np.zeros(3),
                        b"\xff",
                        7,
                    ]
                )
            else:
                data[name] = None
        with h5py.File(path, "w") as file:
            for name, values in data.items():
                if name in sparse:
                    shape = sparse[name]
                    kind = arrays[name].dtype
                    file.create_dataset(name, shape, kind, chunks=tuple(min(8, n) or 1 for n in shape))
                elif values is None:
                    file.create_group(name)
                else:
                    file[name] = values
            file.attrs.update(facts)

    heap_at = whole.index(b"GCOL")
    heap = whole[heap_at : heap_at + int.from_bytes(whole[heap_at + 8 : heap_at + 16], "little")]

    def damaged(random: Random) -> bytes:
        """HDF5 2.0.0 never returns from some damage of the heap that holds texts of variable length. Most of that
        damage is left out here; the rest shows as a hang.
        """
        while True:
            content = mutate_bytes(random, whole)
            found = content[heap_at : heap_at + len(heap)]
            if found == heap or found[:4] != b"GCOL":
                return content

    def make(random: Random) -> Random:
        if random.random() < 0.5:
            path.write_bytes(damaged(random))
        else:
            rebuilt(random)
        return random

    def use(value: Any) -> None:
        if isinstance(value, bytes):
            path.write_bytes(value)
        data = load_episodes(path)
        training, _ = data.split(0.2, 0)
        spec = action_spec(data, training, 5)
        frames, blocks = ClipSampler(data, training, 2, 5, 1, 0).batch(0, 4)
        assert frames.dtype == np.uint8 and np.isfinite(blocks).all()
        spec.normalise(np.zeros((3, len(spec.names))))

    return Reader(make, use, (DataError, BundleError), whole)


def make_bag(seeds: Path, scratch: Path) -> Target:
    """`lewm convert`: damaged files, and intact ones that hold wrong messages."""
    from mcap.writer import Writer

    from lewm_model.data.clips import DataError, load_episodes
    from lewm_model.data.converters.rosbag2.convert import convert_bag
    from lewm_model.data.converters.rosbag2.files import read_messages

    path, out = scratch / "recording.mcap", scratch / "converted.h5"
    whole = (seeds / "motion.mcap").read_bytes()
    from bags import DEFINITIONS

    recorded = [(m.topic, m.type, m.log_ns, m.data) for m in read_messages(seeds / "motion.mcap")]

    def rebuilt(random: Random) -> bytes:
        """A file with changed, lost or repeated messages, other times, topics, types or definitions."""
        messages: list[list[Any]] = [list(message) for message in recorded]
        definitions = dict(DEFINITIONS)
        for _ in range(random.choice((1, 1, 2, 5, 20))):
            if not messages:
                break
            at = random.randrange(len(messages))
            message, kind = messages[at], random.randrange(8)
            if kind <= 2:
                message[3] = mutate_bytes(random, message[3], 2)
            elif kind == 3:
                message[2] = random.choice((0, 1, 2**62, 2**63, 2**64 - 1, 10**12, recorded[0][2] - 10**9, 10**18))
            elif kind == 4:
                message[random.randrange(2)] = random.choice(recorded)[random.randrange(2)]
            elif kind == 5:
                del messages[at : at + random.choice((1, 5, 100))]
            elif kind == 6:
                messages.insert(random.randrange(len(messages)), message)
            else:
                name = random.choice(sorted(definitions))
                bits = ["float64[4294967295]", "string", "uint8[]"]
                definitions[name] = mutate_text(random, definitions[name], bits).decode(errors="replace")
        with path.open("wb") as stream:
            writer = Writer(stream)
            writer.start("ros2")
            channels: dict[tuple[str, str], int] = {}
            for topic, name, log_ns, data in messages:
                if (topic, name) not in channels:
                    schema = writer.register_schema(name, "ros2msg", definitions.get(name, "").encode())
                    channels[topic, name] = writer.register_channel(topic, "cdr", schema)
                writer.add_message(channels[topic, name], log_ns, data, log_ns)
            writer.finish()
        return b""

    def make(random: Random) -> bytes:
        return mutate_bytes(random, whole) if random.random() < 0.3 else rebuilt(random)

    def use(content: bytes) -> None:
        if content:
            path.write_bytes(content)
        report = convert_bag([path], out, image_size=16)
        assert str(report)
        data = load_episodes(out)
        assert len(data.lengths) == len(report.episodes)
        assert data.proprio is not None and np.isfinite(data.proprio).all()

    return Reader(make, use, (DataError,), whole)


def make_lerobot(seeds: Path, scratch: Path) -> Target:
    """`lewm convert` of a LeRobot folder in which one file is damaged: description, tables, videos, pictures."""
    import av

    from lewm_model.data.clips import DataError, load_episodes
    from lewm_model.data.converters.lerobot import convert_lerobot

    av.logging.set_level(av.logging.PANIC)
    out = scratch / "converted_lerobot.h5"
    shutil.copytree(seeds / "lerobot", scratch / "lerobot", dirs_exist_ok=True)
    sets = sorted((scratch / "lerobot").iterdir())
    files = {file: file.read_bytes() for file in sorted((scratch / "lerobot").rglob("*")) if file.is_file()}

    def make(random: Random) -> tuple[Path, bytes]:
        file = random.choice(list(files))
        return file, mutate_bytes(random, files[file])

    def use(value: tuple[Path, bytes]) -> None:
        file, content = value
        file.write_bytes(content)
        try:
            report = convert_lerobot(next(one for one in sets if file.is_relative_to(one)), out, image_size=16)
        finally:
            file.write_bytes(files[file])
        assert str(report)
        assert len(load_episodes(out).lengths) == len(report.episodes)

    return Reader(make, use, (DataError,), next(iter(files.items())))


def make_shield(seeds: Path, scratch: Path) -> Target:
    """Whole episodes of correct and hostile inputs to the shield; see shield_driver.py."""
    from validation.shield_driver import drive

    return Reader(lambda random: random.getrandbits(31), lambda seed: drive(1, seed), (), 0)


# ---- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A target: how it is made from the seeds and a scratch folder, and its share of the inputs."""

    share: int
    make: Callable[[Path, Path], Target]


# The slow ones come first, so that the workers end at about the same time.
TARGETS: dict[str, Row] = {
    "processes": Row(10, Processes),
    "bundle_files": Row(10, make_bundle_files),
    "bag": Row(18, make_bag),
    "lerobot": Row(6, make_lerobot),
    "parameters": Row(12, Parameters),
    "params_file": Row(6, make_params_file),
    "planner_node": Row(60, Planner),
    "camera_node": Row(40, lambda seeds, scratch: Camera(seeds, scratch, False)),
    "camera_node_compressed": Row(30, lambda seeds, scratch: Camera(seeds, scratch, True)),
    "sim_node": Row(20, Sim),
    "sdf": Row(30, make_sdf),
    "bundle_json": Row(50, make_bundle_json),
    "hdf5": Row(30, make_hdf5),
    "engine": Row(40, EngineFiles),
    "recorder": Row(40, RecorderTarget),
    "gazebo_commands": Row(40, Gazebo),
    "viewer_node": Row(20, Viewer),
    "shield": Row(4, make_shield),
    "arm": Row(35, lambda seeds, scratch: Arm()),
    "image": Row(160, make_image),
    "compressed": Row(140, make_compressed),
    "latent": Row(110, make_latent),
    "floats": Row(90, make_floats),
    "joint_positions": Row(90, make_joint_positions),
    "wire": Row(130, make_wire),
    "goal_picture": Row(100, make_goal_picture),
    "robot_file": Row(25, make_robot_file),
    "urdf": Row(40, make_urdf),
    "train_config": Row(50, make_train_config),
    "config": Row(60, make_config),
}


def make_seeds(folder: Path) -> None:
    """Makes the small bundles and recordings that inputs are made from."""
    from awake import exported_folder
    from bags import BagWriter, write_motion
    from bundles import TINY
    from lerobots import folder as lerobot_folder
    from safetensors.torch import save_file
    from tiny import dot_recording

    from lewm_model.bundle.bundle import DECODER, Calibration, load_bundle, save_description
    from lewm_model.models.heads import Decoder
    from lewm_model.monitoring.novelty import remember, save_seen
    from lewm_model.robot.observation import to_model_image
    from lewm_model.runtime.export import export_decoder

    shutil.copytree(exported_folder(TINY), folder / "bundle")
    bundle = load_bundle(folder / "bundle")
    size = bundle.model.image_size
    network = Decoder(bundle.model).eval()
    save_file(network.state_dict(), folder / "bundle" / DECODER)
    export_decoder(bundle, network)
    # The good goal must be familiar, or camera_node refuses it.
    save_seen(bundle, remember([np.zeros((*size, 3), np.uint8), to_model_image(picture(), size)]))
    # Since the model is untrained, its errors must never count as surprising; novelty may.
    calibration = Calibration(1e-3, 2e-3, (0.0,), (1e6,), 0.0, 1000, new_pixels=2.0)
    group = replace(bundle.actions.groups[0], names=JOINTS)
    save_description(replace(bundle, actions=replace(bundle.actions, groups=(group,)), calibration=calibration))
    dot_recording(folder / "dots.h5", episodes=3, steps=12, size=16)
    (folder / "goals").mkdir()
    (folder / "goals" / "good.png").write_bytes(encoded(".png", 64))
    (folder / "goals" / "broken.png").write_bytes(encoded(".png", 64)[:100])

    for version, image in (("v2.1", False), ("v3.0", True)):
        lerobot_folder(folder / "lerobot" / version, version, image)

    def motion(times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        positions = np.stack([0.5 * np.sin(times_s), 0.3 * np.cos(times_s)], 1)
        return positions, np.stack([0.5 * np.cos(times_s), -0.3 * np.sin(times_s)], 1)

    with BagWriter(folder / "motion.mcap") as bag:
        bag.marker("start one", 1000.0)
        write_motion(
            bag, motion, 0.05 * np.arange(24), lambda i: np.full((16, 16, 3), 5 * i, np.uint8), joint_dt_s=0.02
        )
