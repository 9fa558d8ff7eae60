# SPDX-License-Identifier: Apache-2.0
"""The ROS side of the panel: what the nodes publish, kept for the web server, and what it sends to them."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import Log
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState, Joy
from std_msgs.msg import Float32, String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from lewm_model.bundle.bundle import Bundle, load_bundle
from lewm_model.config import ConfigError
from lewm_model.robot.limits import JointLimits, limits_from_parameters
from lewm_model.robot.rectify import camera_info_topic
from lewm_model.robot.robot import load_robot
from lewm_model.runtime.decoder import load_decoder
from lewm_ros.arm_parameters import below
from lewm_ros.camera_node import LATCHED, NEWEST_FRAME
from lewm_ros.goals import GoalLibrary
from lewm_ros.messages import rgb_to_message
from lewm_ros.node import LOOK_S, compressed_topic
from lewm_ros.panel.paths import Paths
from lewm_ros.panel.recordings import Recordings
from lewm_ros.parameters import Parameter, declare, read

if TYPE_CHECKING:
    from lewm_ros.panel.nearest import Nearest

MOST_EVENTS = 500  # lines of the log that are kept, the newest
ASK_S = 5.0  # between two looks at the planner's parameters, which may change while it runs
ARRIVE_S = 2.0  # how long a mark may take to a recorder
LIMITS = tuple(f"limits.{name}" for name in ("names", "lower", "upper", "velocity", "acceleration", "jerk"))
LOG_WARN, LOG_ERROR = 30, 40  # levels of rcl_interfaces/Log; rclpy has them as bytes on some releases, as int on others
PARAMETERS = (
    Parameter("model", "models/reach", "Folder of the model bundle, the same as of camera_node and planner_node."),
    Parameter("planner", "planner_node", "Name of the planner node that is shown and commanded."),
    Parameter("camera", "camera_node", "Name of the camera node that captures goals."),
    Parameter("compressed", False, "Take JPEG or PNG pictures, from each camera's topic with /compressed."),
    Parameter("goal_folder", "", "Folder of the gallery of goal pictures; uploads go there. Empty: none."),
    Parameter("recordings", "", "Folder of recordings: goals may be taken from them, new ones go there. Empty: none."),
    Parameter("seen", "", "Recording (HDF5) of which the frame nearest to the imagined end is shown; empty: none."),
    Parameter("robot_file", "", "Robot file that a region drawn on the page is written to; empty: it is only shown."),
    Parameter("host", "127.0.0.1", "Address to listen on; any but this machine's own lets the network watch."),
    Parameter("port", 8765, "Port to listen on; 0 takes a free one.", 0, 65535),
    Parameter("token", "", "Secret that commands need; empty makes a new one at each start and prints it."),
    Parameter("rate", 8.0, "Greatest number of camera pictures per second that a page gets.", 0.5, 30.0),
    Parameter("deadman_button", -1, "As the planner's; the page has the button then. -1: none.", -1, 63),
)


@dataclass
class Known:
    """What the nodes have published, shared by the ROS thread and the thread of the web server."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    said: dict[str, tuple[float, Any]] = field(
        default_factory=dict
    )  # newest message of each topic, and its steady time of arrival, s
    nodes: dict[str, dict[str, str]] = field(default_factory=dict)  # newest diagnostics of each node
    events: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MOST_EVENTS))
    happened: int = 0  # number of events so far, also of those that are no longer kept

    def take(self, name: str, message: Any) -> None:
        with self.lock:
            self.said[name] = (time.monotonic(), message)

    def newest(self, name: str, newer_than_s: float = math.inf) -> Any:
        """The newest message of a topic; None where none came, or none in the last `newer_than_s` seconds."""
        with self.lock:
            came_s, message = self.said.get(name, (-math.inf, None))
        return message if time.monotonic() - came_s <= newer_than_s else None

    def note(self, who: str, level: str, text: str) -> None:
        """Adds a line to the log, unless it repeats the last one."""
        with self.lock:
            last = self.events[-1] if self.events else None
            if last is None or (last["who"], last["text"]) != (who, text):
                self.happened += 1
                event = {"number": self.happened, "at": time.time(), "who": who, "level": level, "text": text}
                self.events.append(event)


class PanelNode(Node):
    """Keeps the newest messages in `known`, and publishes and calls what the page commands.

    :raises ParameterError, BundleError, RuntimeLoadError, GoalError, DataError: a parameter, the bundle, its decoder, a
        folder or the recording cannot be used; the message says what to do.
    """

    def __init__(self) -> None:
        super().__init__("panel_node")
        declare(self, PARAMETERS)
        self.values = values = read(self, PARAMETERS)
        self.bundle = load_bundle(values["model"])
        self.decoder = load_decoder(self.bundle)
        self.nearest = _nearest(self.bundle, values["seen"])
        self.library = GoalLibrary(values["goal_folder"])
        self.recordings = Recordings(values["recordings"])
        self.known = Known()
        planner = values["planner"]
        self._goals = self.create_publisher(Image, "goal_image", LATCHED)
        self._speed = self.create_publisher(Float32, f"{planner}/speed_scale", 1)
        self._joy = self.create_publisher(Joy, "joy", QoSProfile(depth=1))
        self.marks = self.create_publisher(String, "episode", QoSProfile(depth=10))
        self.triggers = {name: self.create_client(Trigger, f"{planner}/{name}") for name in ("stop", "reset", "cancel")}
        self.triggers["capture"] = self.create_client(Trigger, f"{values['camera']}/capture_goal")
        self.enabling = self.create_client(SetBool, f"{planner}/enable")
        self.setting = self.create_client(SetParameters, f"{planner}/set_parameters")
        self._asking = self.create_client(GetParameters, f"{planner}/get_parameters")
        self.deadline_s: float | None = None  # of a plan; None until the planner has told
        self.limits: JointLimits | None = None  # of the planner; None where it has not told, or has them from a URDF
        self.robot: str | None = None  # the planner's robot file
        self.watched = False  # whether a page is open; only then are pictures subscribed to
        self.paths: Paths | None = None  # draws into the camera's picture, where the robot file says where that is
        self._inputs: dict[str, Any] = {}  # subscriptions while somebody watches, by topic
        self.create_timer(LOOK_S, self._look)
        self.create_timer(ASK_S, self._ask)
        self._subscribe(Image, "goal_image", LATCHED)  # latched: it may have been sent long ago
        self._subscribe(DiagnosticStatus, "goal_status", LATCHED)
        self.create_subscription(DiagnosticStatus, f"{planner}/status", self._on_status, LATCHED)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.create_subscription(Log, "/rosout", self._on_log, 50)

    def _subscribe(self, kind: Any, topic: str, quality: Any, name: str = "") -> Any:
        name = name or topic.rpartition("/")[2]
        return self.create_subscription(kind, topic, lambda message: self.known.take(name, message), quality)

    @property
    def camera_topics(self) -> dict[str, str]:
        """The topic that is subscribed to for each camera, by its topic in the bundle."""
        topics = [camera.topic for camera in self.bundle.cameras]
        return {topic: compressed_topic(self, topic) if self.values["compressed"] else topic for topic in topics}

    def _wanted(self) -> dict[str, tuple[Any, str]]:
        """What is subscribed to while somebody watches: message type and name in `known`, by topic."""
        planner, camera = self.values["planner"], CompressedImage if self.values["compressed"] else Image
        wanted: dict[str, tuple[Any, str]] = {topic: (camera, name) for name, topic in self.camera_topics.items()}
        wanted |= {name: (Float32, name) for name in ("surprise", "novelty")}
        wanted["joint_states"] = (JointState, "joint_states")
        wanted |= {f"{planner}/imagined": (Image, "imagined"), f"{planner}/plan": (JointTrajectory, "plan")}
        if self.paths is not None:
            topic = camera_info_topic(self.resolve_topic_name(self.bundle.cameras[0].topic))
            wanted |= {topic: (CameraInfo, "camera_info"), f"{planner}/elites": (Image, "elites")}
        return wanted

    def _look(self) -> None:
        """Subscribes while a page is open; the planner publishes `imagined` and `elites` only to subscribers."""
        wanted = self._wanted() if self.watched else {}
        if wanted and not self._inputs:
            self._ask()
        for topic in self._inputs.keys() - wanted.keys():
            self.destroy_subscription(self._inputs.pop(topic))
        for topic, (kind, name) in wanted.items():
            if topic not in self._inputs:
                self._inputs[topic] = self._subscribe(kind, topic, NEWEST_FRAME, name)

    def _ask(self) -> None:
        """Asks the planner for its deadline and robot file, while somebody watches."""
        if self.watched and self._asking.service_is_ready():
            self._get(("plan.deadline_s", "robot"), self._on_settings)

    def _get(self, names: tuple[str, ...], then: Callable[[dict[str, Any]], None]) -> None:
        """Hands parameters of the planner by name to `then`; none where one of them has no value."""

        def answered(future: Any) -> None:
            if (answer := future.result()) is not None:
                then(dict(zip(names, map(parameter_value_to_python, answer.values), strict=False)))

        self._asking.call_async(GetParameters.Request(names=names)).add_done_callback(answered)

    def _on_settings(self, values: dict[str, Any]) -> None:
        self.deadline_s, robot = values.get("plan.deadline_s"), values.get("robot")
        if robot is None or robot == self.robot:
            return
        self.robot, self.paths = robot, None
        if not robot:
            self._get(LIMITS, self._on_limits)
            return
        try:
            loaded = load_robot(robot)
            self.limits = loaded.limits
            self.paths = Paths.of(loaded, self.bundle.cameras[0].topic) if len(self.bundle.cameras) == 1 else None
        except (ConfigError, ValueError) as error:
            self.known.note("panel_node", "warn", f"limits or paths of the arm are not shown: {error}")

    def _on_limits(self, values: dict[str, Any]) -> None:
        try:
            self.limits = limits_from_parameters(**below("limits", values)) if values else None
        except ValueError as error:
            self.limits = None
            self.known.note("panel_node", "warn", f"the joints' limits are not shown: {error}")

    def _on_status(self, message: DiagnosticStatus) -> None:
        self.known.take("status", message)
        self.known.note(message.name, _level(message.level), message.message)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        with self.known.lock:
            for status in message.status:
                said = {pair.key: pair.value for pair in status.values}
                self.known.nodes[status.name] = {**said, "message": status.message, "level": _level(status.level)}

    def _on_log(self, message: Log) -> None:
        if message.level >= LOG_WARN and message.name != self.get_name():
            level = "error" if message.level >= LOG_ERROR else "warn"
            self.known.note(message.name, level, message.msg)

    # ---- commands; any thread may call them --------------------------------------------------------------------------

    def show_goal(self, picture: np.ndarray) -> None:
        """Sends a goal picture (H, W, 3) uint8 RGB."""
        self._goals.publish(rgb_to_message(picture, time.time_ns()))

    def speed(self, share: float) -> None:
        """Sets the share of full speed, 0 to 1; 0 holds the arm."""
        self._speed.publish(Float32(data=share))

    def mark(self, text: str) -> None:
        """Sends an episode mark, as `lewm_ros.record` describes them."""
        self.marks.publish(String(data=text))

    def marks_arrived(self) -> bool:
        """Waits until every recorder has got the marks; returns whether they have."""
        return bool(self.marks.wait_for_all_acked(Duration(seconds=ARRIVE_S)))

    def press(self, pressed: bool) -> None:
        """Publishes whether the dead-man's button is pressed, where the planner needs one."""
        button = self.values["deadman_button"]
        if button >= 0:
            self._joy.publish(Joy(buttons=[0] * button + [int(pressed)]))


def _nearest(bundle: Bundle, recording: str) -> Nearest | None:
    if not recording:
        return None
    from lewm_ros.panel.nearest import Nearest  # needs h5py, which a robot may lack

    return Nearest(bundle, Path(recording))


def _level(level: bytes) -> str:
    return ("ok", "warn", "error", "error")[min(3, int.from_bytes(level, "little"))]
