# SPDX-License-Identifier: Apache-2.0
"""Stands between the simulated arm and the other nodes, and delays, damages or restamps their messages.

One process relays the pictures and one the arm's messages, as the drivers of a camera and an arm are two: what happens
to one delays nothing of the other, and nothing else that the validation does delays either. The parameter `fault` is a
JSON object with the name of a function below, a seed, a number and options, or empty to pass everything unchanged.
"""

from __future__ import annotations

import array
import contextlib
import heapq
import itertools
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from lewm_ros.camera_node import NEWEST_FRAME
from lewm_ros.messages import message_to_rgb, nanoseconds, time_message

CAMERA, ARM = "/camera", "/arm"  # namespaces of the two processes
# Remappings of sim_node behind them. Commands are relayed only for faults of commands: it is one hop more.
SENSORS = {"camera/image_raw": "sim/image_raw", "joint_states": "sim/joint_states"}
COMMANDS = {"arm_controller/joint_trajectory": "sim/joint_trajectory"}
THING_PIXELS = 8  # side of the new object in the camera's picture, as large as the one in the world


class Relay(Node):
    """Passes messages on, unchanged by default: in the namespace `camera` pictures from the simulation, in `arm` joint
    states from the simulation and commands to it.

    For a fault, `frames` and `joints` map each message to those that are passed on, and `command_delays_s` returns the
    delays, s, after which copies of a command are delivered.
    """

    def __init__(self) -> None:
        super().__init__("relay")
        self.pass_all()
        self.declare_parameter("fault", "")
        self.add_on_set_parameters_callback(self._on_fault)
        {CAMERA: self._relay_camera, ARM: self._relay_arm}[self.get_namespace()]()

    def _relay_camera(self) -> None:
        frames = self.create_publisher(Image, "/camera/image_raw", NEWEST_FRAME)

        def on_frame(message: Image) -> None:
            for passed in self.frames(message):
                frames.publish(passed)

        self.create_subscription(Image, "/sim/image_raw", on_frame, NEWEST_FRAME)

    def _relay_arm(self) -> None:
        joints = self.create_publisher(JointState, "/joint_states", 10)

        def on_joints(message: JointState) -> None:
            for passed in self.joints(message):
                joints.publish(passed)

        commands = self.create_publisher(JointTrajectory, "/sim/joint_trajectory", 10)
        under_way: list[tuple[float, int, JointTrajectory]] = []
        number = itertools.count()

        def on_command(message: JointTrajectory) -> None:
            for delay_s in self.command_delays_s():
                if delay_s == 0.0:
                    commands.publish(message)
                else:
                    heapq.heappush(under_way, (time.monotonic() + delay_s, next(number), message))

        def deliver() -> None:
            while under_way and under_way[0][0] <= time.monotonic():
                commands.publish(heapq.heappop(under_way)[2])

        self.create_timer(0.005, deliver)
        self.create_subscription(JointTrajectory, "/arm_controller/joint_trajectory", on_command, 10)
        self.create_subscription(JointState, "/sim/joint_states", on_joints, 10)

    def pass_all(self) -> None:
        """Passes every message on unchanged from now on."""
        self.frames: Callable[[Image], Sequence[Image]] = lambda message: [message]
        self.joints: Callable[[JointState], Sequence[JointState]] = lambda message: [message]
        self.command_delays_s: Callable[[], Sequence[float]] = lambda: [0.0]

    def _on_fault(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name == "fault":
                self.pass_all()
                if parameter.value:
                    given = json.loads(parameter.value)
                    rng = np.random.default_rng(given.pop("seed"))
                    FAULTS[given.pop("name")](self, rng, **given)
        return SetParametersResult(successful=True)


# ---- the faults ------------------------------------------------------------------------------------------------------


def camera_stop(relay: Relay, rng: np.random.Generator, number: int) -> None:
    relay.frames = lambda message: []


def camera_freeze(relay: Relay, rng: np.random.Generator, number: int) -> None:
    """The same picture again and again, with fresh stamps."""
    frozen: list[Image] = []

    def frames(message: Image) -> list[Image]:
        frozen.append(message)
        message.data = frozen[0].data
        return [message]

    relay.frames = frames


def camera_covered(relay: Relay, rng: np.random.Generator, number: int) -> None:
    """Black pictures: a hand before the lens, a lamp that went out."""

    def frames(message: Image) -> list[Image]:
        message.data = array.array("B", bytes(len(message.data)))
        return [message]

    relay.frames = frames


def thing_appears(relay: Relay, rng: np.random.Generator, number: int) -> None:
    """A new object, as large as the one in the world but of another colour, appears somewhere in the picture."""
    place = rng.random(2)

    def frames(message: Image) -> list[Image]:
        picture = message_to_rgb(message).copy()
        row, column = (place * (np.array(picture.shape[:2]) - THING_PIXELS)).astype(int)
        picture[row : row + THING_PIXELS, column : column + THING_PIXELS] = (200, 0, 200)
        message.data = array.array("B", picture.tobytes())
        return [message]

    relay.frames = frames


def frame_loss(relay: Relay, rng: np.random.Generator, number: int) -> None:
    """30 % of the frames are lost."""
    relay.frames = lambda message: [message] if rng.random() >= 0.3 else []


def frame_stalls(relay: Relay, rng: np.random.Generator, number: int) -> None:
    """Frames are held back for 500 ms and then delivered at once, repeatedly, 300 ms apart."""
    held: list[Image] = []
    first_ns: list[int] = []

    def frames(message: Image) -> list[Image]:
        stamp_ns = nanoseconds(message.header.stamp)
        first_ns.append(stamp_ns)
        held.append(message)
        if (stamp_ns - first_ns[0]) / 1e9 % 0.8 < 0.5:
            return []
        passed = list(held)
        held.clear()
        return passed

    relay.frames = frames


def image_corrupt(relay: Relay, rng: np.random.Generator, number: int) -> None:
    """A size that the data does not have; half of the data; a JPEG where pixels should be; no pixels at all."""

    def frames(message: Image) -> list[Image]:
        if number % 4 == 0:
            message.height *= 2
        elif number % 4 == 1:
            message.data = message.data[: len(message.data) // 2]
        elif number % 4 == 2:
            jpeg = cv2.imencode(".jpg", message_to_rgb(message))[1]
            message.data = array.array("B", jpeg.tobytes())
        else:
            message.width, message.height, message.step, message.data = 0, 0, 0, array.array("B")
        return [message]

    relay.frames = frames


def image_encoding(relay: Relay, rng: np.random.Generator, number: int) -> None:
    """An unknown encoding, or one that is not of a colour picture."""

    def frames(message: Image) -> list[Image]:
        message.encoding = ("32FC1", "jpeg", "")[number % 3]
        return [message]

    relay.frames = frames


def joints_stop(relay: Relay, rng: np.random.Generator, number: int) -> None:
    relay.joints = lambda message: []


def clock_jump(relay: Relay, rng: np.random.Generator, number: int) -> None:
    """The stamps of frames and joint states jump by 100 s, alternately forwards and backwards."""
    shift_ns = (100_000_000_000, -100_000_000_000)[number % 2]

    def shifted(message: Any) -> list[Any]:
        message.header.stamp = time_message(nanoseconds(message.header.stamp) + shift_ns)
        return [message]

    relay.frames = relay.joints = shifted


def commands_lost(relay: Relay, rng: np.random.Generator, number: int, share: float) -> None:
    """A share of the commands is lost."""
    relay.command_delays_s = lambda: [0.0] if rng.random() >= share else []


def commands_late(relay: Relay, rng: np.random.Generator, number: int) -> None:
    """Every command is delayed by 100 ms."""
    relay.command_delays_s = lambda: [0.1]


def commands_reordered(relay: Relay, rng: np.random.Generator, number: int) -> None:
    """Every command is delayed by up to 100 ms, so that they overtake each other."""
    relay.command_delays_s = lambda: [float(rng.uniform(0.0, 0.1))]


def clock_still(relay: Relay, rng: np.random.Generator, number: int) -> None:
    """The clock that frames and joint states are stamped with stands still."""
    first: dict[type, Any] = {}

    def still(message: Any) -> list[Any]:
        message.header.stamp = first.setdefault(type(message), message.header.stamp)
        return [message]

    relay.frames = relay.joints = still


FAULTS: dict[str, Callable[..., None]] = {
    change.__name__: change
    for change in (
        camera_stop,
        camera_freeze,
        camera_covered,
        thing_appears,
        frame_loss,
        frame_stalls,
        image_corrupt,
        image_encoding,
        joints_stop,
        clock_jump,
        commands_lost,
        commands_late,
        commands_reordered,
        clock_still,
    )
}


def main() -> None:
    """Runs the node."""
    rclpy.init()
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(Relay())


if __name__ == "__main__":
    main()
