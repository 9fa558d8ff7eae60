# SPDX-License-Identifier: Apache-2.0
"""Draws for people what the robot sees, its goal and its imagined future: `debug_image` and `plan_markers`.

    ros2 run lewm_ros viewer_node --ros-args -p model:=models/reach -p urdf:=config/arms/tabletop.urdf

It only subscribes, so it is a plain node, without a lifecycle, that may end at any time. It subscribes and draws only
while its own topics have subscribers, with a lower priority than the nodes that control the arm.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float32
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from lewm_model.bundle.bundle import MOST_BLOCKS, BundleError, load_bundle
from lewm_model.models.signature import measuring
from lewm_model.robot.chain import Chain, Workspace
from lewm_model.robot.observation import Camera, ObservationError
from lewm_model.runtime.decoder import load_decoder
from lewm_model.runtime.errors import RuntimeLoadError
from lewm_ros.arm_parameters import DOUBLES
from lewm_ros.camera_node import LATCHED, NEWEST_FRAME
from lewm_ros.debug_picture import HISTORY_S, PANE, Scene, draw
from lewm_ros.markers import plan_markers
from lewm_ros.messages import (
    MessageError,
    message_to_array,
    message_to_joint_positions,
    message_to_latent,
    message_to_rgb,
    message_to_trajectory,
    nanoseconds,
    rgb_to_message,
)
from lewm_ros.node import LOOK_S, NICENESS, STALE_S, compressed_topic, spin, start_ros, told_to_end
from lewm_ros.parameters import Parameter, ParameterError, declare, read
from lewm_ros.rectification import Rectification

MOST_ELITES = 50  # best candidates of a plan that are drawn; more lines could not be told apart
PARAMETERS = (
    Parameter("model", "models/reach", "Folder of the model bundle, the same as of camera_node and planner_node."),
    Parameter("planner", "planner_node", "Name of the planner whose plans are shown."),
    Parameter("compressed", False, "Take JPEG or PNG pictures, from each camera's topic with /compressed."),
    Parameter("rate", 10.0, "Greatest number of pictures and markers per second.", 0.1, 60.0),
    Parameter("threads", 1, "CPU threads that decode imagined pictures.", 1, 64),
    Parameter("urdf", "", "URDF file of the arm, without xacro; empty: no markers."),
    Parameter("workspace.lower", DOUBLES, "Least x, y, z of the planner's workspace, m, to be drawn.", needed=False),
    Parameter("workspace.upper", DOUBLES, "Greatest x, y, z of the planner's workspace, m.", needed=False),
    Parameter("workspace.base", "base_link", "Link of the URDF in whose frame the markers are."),
    Parameter("workspace.tip", "tool0", "Link of the URDF whose path is drawn: the end effector."),
)


class ViewerNode(Node):
    """See the module.

    :raises ParameterError, BundleError, RuntimeLoadError: a parameter, the bundle or its decoder cannot be used; the
        message says what to do.
    """

    def __init__(self) -> None:
        super().__init__("viewer_node")
        declare(self, PARAMETERS)
        values = read(self, PARAMETERS)
        bundle = load_bundle(values["model"])
        self._decoder = load_decoder(bundle, values["threads"])
        self._size, self._cameras = bundle.observation.size, bundle.observation.enlarged(PANE)
        self._latent_dim, self._names = bundle.model.latent_dim, bundle.actions.names
        self._block_s = bundle.actions.block_s
        self._unit = "steps" if measuring(bundle.heads) else "squared latent distance"
        self._values, self._period_s = values, 1.0 / values["rate"]
        self._chain, self._box = _arm(values, self._names)

        self._known: dict[str, tuple[float, Any]] = {}  # by input: steady s of arrival, newest message
        self._history: deque[tuple[float, float]] = deque(maxlen=1000)  # steady time, s, and distance to the goal
        self._drawn: tuple[Any, Any] = (None, None)  # message of imagined latents, and its pictures
        self._problems: dict[str, str] = {}  # current problem of each input
        self._inputs: list[Any] = []
        self._rectify: Rectification | None = None
        self._pictures = self.create_publisher(Image, "debug_image", qos_profile_sensor_data)
        self._markers = self.create_publisher(MarkerArray, "plan_markers", QoSProfile(depth=1))
        # Goals are latched: one may have been sent long before somebody looks.
        self._subscribe(Image, "goal_image", LATCHED)
        self._subscribe(Image, "goal_latent", LATCHED)
        self.create_timer(LOOK_S, self._look)
        self.create_timer(self._period_s, self._show)
        if self._decoder is None:
            self.get_logger().warning(f"{self._no_decoder}; everything else is shown")
        if self._chain is None:
            self.get_logger().info("no urdf is given: no markers")

    @property
    def _no_decoder(self) -> str:
        return "the bundle has no decoder to draw what is imagined: run `lewm decoder BUNDLE DATA`"

    # ---- inputs ------------------------------------------------------------------------------------------------------

    def _subscribe(self, kind: Any, topic: str, quality: Any, name: str = "") -> Any:
        name = name or topic.rpartition("/")[2]
        return self.create_subscription(kind, topic, lambda message: self._take(name, message), quality)

    def _take(self, name: str, message: Any) -> None:
        self._known[name] = (time.monotonic(), message)
        if name == "status":
            values = {pair.key: pair.value for pair in message.values}
            if "distance" in values:
                self._history.append((time.monotonic(), _number(values["distance"])))

    def _look(self) -> None:
        """Subscribes only while somebody watches: the planner publishes some topics only to subscribers."""
        watched = self._pictures.get_subscription_count() or self._markers.get_subscription_count()
        if watched and not self._inputs:
            planner, camera = self._values["planner"], CompressedImage if self._values["compressed"] else Image
            self._rectify = Rectification(self, self._cameras.cameras)
            self._inputs = [
                *(self._subscribe(camera, topic, NEWEST_FRAME, name) for name, topic in self._camera_topics().items()),
                self._subscribe(JointState, "joint_states", NEWEST_FRAME),
                self._subscribe(Float32, "surprise", NEWEST_FRAME),
                self._subscribe(Float32, "novelty", NEWEST_FRAME),
                self._subscribe(Image, f"{planner}/imagined", NEWEST_FRAME),
                self._subscribe(Image, f"{planner}/elites", NEWEST_FRAME),
                self._subscribe(Image, f"{planner}/costs", NEWEST_FRAME),
                self._subscribe(JointTrajectory, f"{planner}/plan", NEWEST_FRAME),
                self._subscribe(DiagnosticStatus, f"{planner}/status", LATCHED),
            ]
        elif not watched and self._inputs:
            for subscription in self._inputs:
                self.destroy_subscription(subscription)
            if self._rectify is not None:
                self._rectify.destroy()
            self._inputs = []
            self._known = {name: known for name, known in self._known.items() if name.startswith("goal_")}
            self._history.clear()

    def _camera_topics(self) -> dict[str, str]:
        """The topic that is subscribed to for each camera, by its topic in the bundle."""
        topics = [each.topic for each in self._cameras.cameras]
        return {topic: compressed_topic(self, topic) if self._values["compressed"] else topic for topic in topics}

    def _newest(self, name: str, newer_than_s: float = np.inf) -> Any:
        """The newest message of an input; None where none came in the last `newer_than_s` seconds."""
        came_s, message = self._known.get(name, (-np.inf, None))
        return message if time.monotonic() - came_s <= newer_than_s else None

    def _read(self, name: str, convert: Any, newer_than_s: float = np.inf) -> Any:
        """The newest message of an input, converted; None without one, or where it cannot be read, which is logged."""
        message = self._newest(name, newer_than_s)
        if message is None:
            return None
        try:
            converted = convert(message)
        except (MessageError, ObservationError) as error:
            if self._problems.get(name) != str(error):
                self.get_logger().error(f"{name}: {error}")
            self._problems[name] = str(error)
            return None
        self._problems.pop(name, None)
        return converted

    def _status(self) -> tuple[DiagnosticStatus | None, dict[str, str]]:
        """The newest status of the planner and its values; None and no values when the planner is gone."""
        status = self._newest("status") if self.count_publishers(f"{self._values['planner']}/status") else None
        return status, {} if status is None else {pair.key: pair.value for pair in status.values}

    # ---- outputs -----------------------------------------------------------------------------------------------------

    def _show(self) -> None:
        if not self._inputs:
            return
        frame = self._newest(self._cameras.cameras[0].topic)
        if self._pictures.get_subscription_count():
            header = frame.header if frame is not None else None
            stamp_ns = self.get_clock().now().nanoseconds if header is None else nanoseconds(header.stamp)
            picture = rgb_to_message(draw(self._scene()), stamp_ns, header.frame_id if header else "")
            self._pictures.publish(picture)
        if self._chain is not None and self._markers.get_subscription_count():
            self._markers.publish(self._marker_array(self._chain))

    def _scene(self) -> Scene:
        now_s = time.monotonic()
        status, said = self._status()
        wanted = said.get("goal") != "no"  # the latched picture stays when its goal is cancelled
        goal, caption = self._read("goal_image", self._goal) if wanted else None, "goal"
        if goal is None and wanted and self._decoder is not None:
            latent = self._read("goal_latent", lambda message: message_to_latent(message, self._latent_dim))
            if latent is not None:
                goal, caption = self._decoder.draw(latent[None])[0], "goal, drawn from its latent"
        costs = self._read("costs", message_to_array, STALE_S)
        surprise, novelty = self._newest("surprise", STALE_S), self._newest("novelty", STALE_S)
        latency = [
            f"{label} {_number(said[key]):.0f} ms"
            for label, key in (("plan", "plan_ms"), ("frame to command", "frame_to_command_ms_p50"))
            if key in said
        ]
        imagined = self._imagined()
        return Scene(
            camera=self._seen(),
            goal=goal,
            goal_caption=caption,
            imagined=imagined,
            missing=self._no_decoder if self._decoder is None else "nothing is imagined: there is no plan yet",
            block_s=self._block_s,
            costs=np.zeros(0) if costs is None else costs.reshape(-1),
            history=[(now_s - at_s, value) for at_s, value in self._history if now_s - at_s <= HISTORY_S],
            distance_unit=self._unit,
            surprise=None if surprise is None else float(surprise.data),
            novelty=None if novelty is None else float(novelty.data),
            state=said.get("state", "no planner"),
            message="no status has come from the planner" if status is None else status.message,
            latency="   ".join(latency),
        )

    def _seen(self) -> np.ndarray | None:
        """The newest picture of every camera, side by side as the model sees them; None where one is missing."""
        rectify = self._rectify
        if rectify is None or rectify.problem:
            return None
        pictures = []
        for i, camera in enumerate(self._cameras.cameras):

            def part(message: Image | CompressedImage, i: int = i, camera: Camera = camera) -> np.ndarray:
                return camera.picture(rectify(i, message_to_rgb(message)))

            pictures.append(self._read(camera.topic, part))
        found = [picture for picture in pictures if picture is not None]
        return np.concatenate(found, axis=1) if len(found) == len(pictures) else None

    def _goal(self, message: Image) -> np.ndarray | None:
        """A goal picture: the model's picture already, or one of its single camera; None until it can be rectified."""
        picture = message_to_rgb(message)
        if len(self._cameras.cameras) > 1 or picture.shape[:2] == self._size:
            return picture
        if self._rectify is None or self._rectify.problem:
            return None
        return self._cameras.picture([self._rectify(0, picture)])

    def _imagined(self) -> np.ndarray | None:
        """Pictures (blocks, S, S, 3) uint8 RGB of the imagined future, decoded once for each plan."""
        message = self._newest("imagined", STALE_S)
        if message is None or self._decoder is None:
            return None
        if self._drawn[0] is not message:
            size = self._latent_dim
            latents = self._read("imagined", lambda found: message_to_array(found, size, most_rows=MOST_BLOCKS)[..., 0])
            self._drawn = (message, None if latents is None else self._decoder.draw(latents))
        pictures: np.ndarray | None = self._drawn[1]
        return pictures

    def _marker_array(self, chain: Chain) -> MarkerArray:
        plan = self._read("plan", lambda message: message_to_trajectory(message, self._names).positions, STALE_S)
        elites = self._read("elites", lambda message: message_to_array(message, channels=len(self._names)), STALE_S)
        joints = self._read("joint_states", lambda message: message_to_joint_positions(message, self._names), STALE_S)
        _, said = self._status()
        newest = self._newest("plan", STALE_S) or self._newest("joint_states")
        stamp = self.get_clock().now().to_msg() if newest is None else newest.header.stamp
        frame, state = self._values["workspace.base"], said.get("state", "no planner")
        reached = said.get("reached") == "yes"
        best = None if elites is None else elites[:MOST_ELITES]
        return plan_markers(chain, frame, stamp, best, plan, joints, state, reached, self._box)


def _arm(values: Mapping[str, Any], names: Sequence[str]) -> tuple[Chain | None, tuple[np.ndarray, np.ndarray] | None]:
    """Kinematic chain and workspace box of the parameters, None for each that is not given.

    :raises ParameterError: they cannot be used.
    """
    if not values["urdf"]:
        return None, None
    try:
        chain = Chain.from_urdf(values["urdf"], values["workspace.base"], values["workspace.tip"], names)
        lower, upper = values["workspace.lower"], values["workspace.upper"]
        if not lower and not upper:
            return chain, None
        workspace = Workspace(chain, lower, upper)
        return chain, (workspace.lower, workspace.upper)
    except (ValueError, OSError) as error:
        raise ParameterError(f"{error}; change urdf and workspace.* of viewer_node") from error


def _number(text: str) -> float:
    """A number, NaN where the text is not one: a bad value must not prevent the picture."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the node until the process is told to end (SIGINT, SIGTERM)."""
    os.nice(NICENESS)
    start_ros(arguments)
    ended = told_to_end()
    try:
        node = ViewerNode()
    except (
        InvalidParameterValueException,
        InvalidParameterTypeException,
        ParameterError,
        BundleError,
        RuntimeLoadError,
    ) as error:
        rclpy.try_shutdown()
        sys.exit(f"viewer_node: {error}")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spin(executor, lambda: not ended.is_set(), node)
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
