# SPDX-License-Identifier: Apache-2.0
"""Encodes the newest camera frame and every goal picture into latents, with the model of a bundle."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.task import Future
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Float32, Header, String
from std_srvs.srv import Trigger

from lewm_model.bundle.bundle import load_bundle
from lewm_model.config import MonitorConfig
from lewm_model.monitoring.goal_check import Exposure, examine_goal
from lewm_model.monitoring.novelty import load_novelty
from lewm_model.robot.observation import ObservationError
from lewm_model.runtime import Runtime
from lewm_ros.goals import GoalError, GoalLibrary, goal_identity, picture_hash
from lewm_ros.mailbox import Mailbox
from lewm_ros.messages import NANOSECONDS, ImageError, latent_to_message, message_to_rgb, nanoseconds, rgb_to_message
from lewm_ros.node import (
    ERROR,
    OK,
    QOS_OVERRIDES,
    WARN,
    ManagedNode,
    Milliseconds,
    Refusal,
    Worker,
    compressed_topic,
    run,
    status_message,
)
from lewm_ros.parameters import Parameter
from lewm_ros.rectification import Rectification

NEWEST_FRAME = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
STEADY_WAIT_S = 5.0  # how long ~/capture_goal waits for the exposure to be steady
BACKENDS = ("auto", "tensorrt", "onnxruntime", "torch")

MODEL_PARAMETERS = (
    Parameter("model", "models/reach", "Folder of the model bundle."),
    Parameter("backend", "auto", "What runs the model; auto takes the first that works here.", choices=BACKENDS),
    Parameter("threads", 1, "CPU threads of the model.", 1, 64),
    Parameter("build_engines", True, "Build TensorRT engines that do not fit this machine, which takes minutes."),
)
PARAMETERS = (
    *MODEL_PARAMETERS,
    Parameter("compressed", False, "Take JPEG or PNG pictures, from each camera's topic with /compressed."),
    Parameter("frame_timeout", 1.0, "Seconds without a frame after which diagnostics warn.", 0.05, 60.0),
    Parameter("goal_folder", "", "Folder of goal pictures that goal_name chooses from; empty: none."),
    # The fields of MonitorConfig about pictures; planner_node has the others.
    Parameter(
        "monitor.familiar_s",
        MonitorConfig.familiar_s,
        "Seconds after which a new colour is familiar; longer than planner_node's monitor.hold_frames take to arrive.",
        0.1,
        3600.0,
    ),
    Parameter(
        "monitor.steady_levels",
        MonitorConfig.steady_levels,
        "Of 255, by which the mean of a colour may change within half a second for a goal to be captured.",
        0.1,
        255.0,
    ),
)


class CameraNode(ManagedNode):
    """Encodes camera pictures to `latent` and `goal_image` to `goal_latent`, each with the stamp of its picture.

    The topic of each camera is in the bundle, which has it from the robot file; the default is `camera/image_raw`. The
    newest pictures of several cameras form a frame when they were taken within half a control step of each other; it
    has the stamp of the first camera. A goal picture for several cameras shows them side by side. A camera with
    `rectify` in its robot file is rectified by its `camera_info`; pictures and goals wait until that has come.

    `novelty` is how much of a frame has colours that were never recorded at that place, or how large a part has colours
    that were rare there, in multiples of the usual (`Novelty`).

    `~/capture_goal` makes the newest frame the goal once the exposure is steady; `goal_name` chooses a picture of the
    folder goal_folder. Both publish it on `goal_image`, where recorders get it too. Every goal picture is examined
    (`lewm_model.monitoring.goal_check`), and `goal_status` reports whether it is accepted, or why not. A refused one
    gets no latent, and the previous goal stays. Encoding runs in a thread of its own on the newest frame: frames that
    arrive while it is busy are dropped and counted.
    """

    def __init__(self) -> None:
        super().__init__("camera_node", PARAMETERS)
        self._runtime: Runtime | None = None
        self._worker: Worker | None = None
        self._mailbox = Mailbox()
        self._entities: list[Any] = []
        self._rectify: Rectification | None = None

    # ---- lifecycle ---------------------------------------------------------------------------------------------------

    def configure(self, values: Mapping[str, Any]) -> None:
        bundle = load_bundle(values["model"])
        self._novelty = load_novelty(bundle, values["monitor.familiar_s"])
        self._calibration, self._steady_levels = bundle.calibration, values["monitor.steady_levels"]
        self._observation = bundle.observation
        self._topics = [camera.topic for camera in bundle.cameras]
        if len(set(self._topics)) < len(self._topics):
            raise Refusal(
                f"several cameras of the bundle {bundle.folder} have the same topic, {', '.join(self._topics)}; record "
                "anew with a topic for each"
            )
        if values["compressed"]:
            self._topics = [compressed_topic(self, topic) for topic in self._topics]
        self._apart_ns = 0.5 * bundle.actions.control_dt_s * NANOSECONDS
        self._frame_timeout_s = values["frame_timeout"]
        self._frame_type = CompressedImage if values["compressed"] else Image
        try:
            self._library = GoalLibrary(values["goal_folder"])
        except GoalError as error:
            raise Refusal(str(error)) from error
        self._runtime = self.load_runtime(bundle, values)
        try:  # shows now whether the model runs, and warms it up for the first frame
            self._runtime.encode(np.zeros((*bundle.model.image_size, 3), np.uint8))
        except Exception as error:
            self._runtime = None
            raise Refusal(f"the bundle {bundle.folder} cannot encode a picture: {error}; export it again") from error
        self._novelties = self.create_publisher(Float32, "novelty", qos_profile_sensor_data)
        self._latents = self.create_publisher(Image, "latent", qos_profile_sensor_data)
        self._goal_latents = self.create_publisher(Image, "goal_latent", LATCHED)
        self._goals = self.create_publisher(Image, "goal_image", LATCHED)
        self._goal_statuses = self.create_publisher(DiagnosticStatus, "goal_status", LATCHED)
        beside = ReentrantCallbackGroup()  # its callback waits, and the others must go on meanwhile
        self._capture = self.create_service(Trigger, "~/capture_goal", self._on_capture_goal, callback_group=beside)
        self.get_logger().info(f"loaded {bundle.folder} on {self._runtime.backend}")

    def activate(self) -> None:
        assert self._runtime is not None
        self._received = self._encoded = self._dropped = self._unreadable = 0
        self._encode_ms, self._frame_age_ms = Milliseconds(), Milliseconds()
        self._last_received: float | None = None
        self._waiting: list[Image | CompressedImage | None] = [None] * len(self._topics)  # newest of each camera
        self._newest: list[Image | CompressedImage] | None = None
        self._problem = self._goal_problem = ""
        self._newness = 0.0
        self._exposure = Exposure(self._steady_levels)
        self._unsteady: str | None = "no frame has been looked at yet"
        if self._novelty is not None:
            self._novelty.forget()
        self._rectify = Rectification(self, self._observation.cameras)
        self._worker = Worker("encode", self._encode_newest, self._on_failure)
        self._entities = [
            *(
                self.create_subscription(
                    self._frame_type,
                    topic,
                    partial(self._on_image, camera=i),
                    NEWEST_FRAME,
                    qos_overriding_options=QOS_OVERRIDES,
                )
                for i, topic in enumerate(self._topics)
            ),
            self.create_subscription(Image, "goal_image", self._on_goal, LATCHED),
            self.create_subscription(String, "goal_name", self._on_goal_name, 1),
        ]

    def deactivate(self) -> None:
        for subscription in self._entities:
            self.destroy_subscription(subscription)
        self._entities = []
        if self._worker is not None:
            self._end(self._worker)
            self._worker = None
        if self._rectify is not None:
            self._rectify.destroy()
            self._rectify = None
        self._mailbox.take(0.0)

    def cleanup(self) -> None:
        if self._runtime is not None:
            self._runtime = None
            self.destroy_publisher(self._novelties)
            self.destroy_publisher(self._latents)
            self.destroy_publisher(self._goal_latents)
            self.destroy_publisher(self._goals)
            self.destroy_publisher(self._goal_statuses)
            self.destroy_service(self._capture)

    # ---- the executor's thread ---------------------------------------------------------------------------------------

    def _on_image(self, message: Image | CompressedImage, camera: int = 0) -> None:
        self._waiting[camera] = message
        frame = [each for each in self._waiting if each is not None]
        stamps_ns = [nanoseconds(each.header.stamp) for each in frame]
        if len(frame) < len(self._topics) or max(stamps_ns) - min(stamps_ns) > self._apart_ns:
            return
        self._waiting = [None] * len(self._topics)
        self._received += 1
        self._last_received = time.monotonic()
        self._newest = frame
        self._dropped += self._mailbox.put("frame", frame)

    def _on_goal(self, message: Image) -> None:
        self._mailbox.put("goal", [message])

    def _on_goal_name(self, message: String) -> None:
        try:
            picture = self._library.picture(message.data)
        except GoalError as error:
            self.get_logger().error(f"goal_name: {error}")
            self._goal_problem = str(error)
            return
        self._goal_problem = ""
        self._goals.publish(rgb_to_message(picture, self.get_clock().now().nanoseconds))

    async def _on_capture_goal(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        end_s = time.monotonic() + STEADY_WAIT_S
        while self._worker is not None and self._newest is not None and self._unsteady and time.monotonic() < end_s:
            await self._pause()
        response.success, response.message = self._capture_goal()
        self.get_logger().info(f"capture_goal: {response.message}")
        return response

    async def _pause(self) -> None:
        """Waits 0.1 s while other callbacks run."""
        over: Future = Future()
        timer = self.create_timer(0.1, lambda: over.set_result(None), clock=Clock(clock_type=ClockType.STEADY_TIME))
        await over
        self.destroy_timer(timer)

    def _capture_goal(self) -> tuple[bool, str]:
        """Makes the newest frame the goal; returns whether it is, and a sentence for the user."""
        if self._worker is None or self._rectify is None:
            return False, "the node is not active; activate it first"
        if self._rectify.problem:
            return False, self._rectify.problem
        if self._newest is None or self._last_received is None:
            return False, self._nothing_yet
        age_s = time.monotonic() - self._last_received
        if age_s > self._frame_timeout_s:
            return False, f"the newest frame came {age_s:.1f} s ago; look at the camera"
        if self._unsteady:
            return False, f"{self._unsteady}; wait, or fix the camera's exposure, gain and white balance"
        try:
            pictures = [message_to_rgb(message) for message in self._newest]
            picture = pictures[0]
            # A camera picture of the model's size would later be taken for one that is already cropped and turned.
            if len(pictures) > 1 or picture.shape[:2] == self._observation.size:
                picture = self._model_picture(pictures)
            name = self._library.save(picture)
        except (ImageError, GoalError, ObservationError) as error:
            return False, str(error)
        header = self._newest[0].header
        self._goals.publish(rgb_to_message(picture, nanoseconds(header.stamp), header.frame_id))
        return True, f"the newest frame is the goal{f', kept as {name}' if name else ''}"

    # ---- the encoding thread -----------------------------------------------------------------------------------------

    def _encode_newest(self) -> None:
        assert self._runtime is not None and self._rectify is not None
        if not self._rectify.wait(0.1):
            return
        for slot, (messages,) in self._mailbox.take(timeout_s=0.1).items():
            message = messages[0]
            begin = time.monotonic()
            stamp_ns = nanoseconds(message.header.stamp)
            try:
                pictures = [message_to_rgb(each) for each in messages]
                picture = self._goal_picture(pictures[0]) if slot == "goal" else self._model_picture(pictures)
            except (ImageError, ObservationError) as error:
                self._unreadable += 1
                if slot == "goal":
                    self._judge(message, str(error), {})
                    continue
                if str(error) != self._problem:
                    self.get_logger().error(f"{slot}: {error}")
                self._problem = str(error)
                continue
            if slot == "goal":
                self._take_goal(message, picture)
                continue
            self._unsteady = self._exposure.see(picture, begin)
            if self._novelty is not None:
                self._newness = self._novelty.look(picture, stamp_ns / NANOSECONDS)
                self._novelties.publish(Float32(data=self._newness))
            latent = self._runtime.encode(picture)
            self._latents.publish(latent_to_message(latent, stamp_ns, message.header.frame_id))
            self._encoded += 1
            self._problem = ""
            self._encode_ms.add(time.monotonic() - begin)
            self._frame_age_ms.add((self.get_clock().now().nanoseconds - stamp_ns) / 1e9)

    def _model_picture(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """The model's picture from one of each camera, in order."""
        assert self._rectify is not None
        return self._observation.picture([self._rectify(i, rgb) for i, rgb in enumerate(pictures)])

    def _goal_picture(self, rgb: np.ndarray) -> np.ndarray:
        """The model's picture from a goal picture: the model's already, or one of the single camera as it comes."""
        if len(self._topics) > 1 or rgb.shape[:2] == self._observation.size:
            return self._observation.goal(rgb)
        return self._model_picture([rgb])

    def _take_goal(self, message: Image, picture: np.ndarray) -> None:
        """Examines a goal picture and publishes its latent if it is accepted.

        :param picture: as the model sees it, (S, S, 3) uint8 RGB for each camera, side by side.
        """
        assert self._runtime is not None
        latent = self._runtime.encode(picture)
        report = examine_goal(picture, latent, self._calibration, self._novelty)
        if report.problem is None:
            stamp_ns = nanoseconds(message.header.stamp)
            self._goal_latents.publish(latent_to_message(latent, stamp_ns, picture_hash(message)))
        self._judge(message, report.problem, {name: f"{value:.4g}" for name, value in report.values.items()})

    def _judge(self, message: Image, problem: str | None, values: dict[str, str]) -> None:
        """Reports whether a goal is accepted: on `goal_status`, in the log and in diagnostics."""
        header = Header(stamp=message.header.stamp, frame_id=picture_hash(message))
        values = {"goal_identity": goal_identity(header), **values}
        if problem is None:
            self._goal_problem = ""
            self._goal_statuses.publish(status_message(self, OK, "the goal is accepted", values))
            return
        self._goal_problem = f"the goal is refused: {problem}"
        self.get_logger().error(self._goal_problem)
        self._goal_statuses.publish(status_message(self, ERROR, self._goal_problem, values))

    def _on_failure(self, trace: str) -> None:
        self._problem = "encoding has ended; deactivate and activate the node to start it again"
        self.get_logger().fatal(f"{self._problem}:\n{trace}")

    # ---- diagnostics -------------------------------------------------------------------------------------------------

    @property
    def _nothing_yet(self) -> str:
        together = "" if len(self._topics) == 1 else ", of all of them within half a control step,"
        return f"no frame has arrived on {' and '.join(self._topics)}{together} yet"

    def diagnose(self) -> tuple[bytes, str, dict[str, str]]:
        values = {
            "frames_in": str(self._received),
            "frames_encoded": str(self._encoded),
            "frames_dropped": str(self._dropped),
            "images_unreadable": str(self._unreadable),
            **self._encode_ms.percentiles("encode"),
            **self._frame_age_ms.percentiles("frame_to_latent"),
        }
        if self._novelty is not None:
            values["novelty"] = f"{self._newness:.4g}"
        if self._rectify is not None and self._rectify.problem:
            return WARN, self._rectify.problem, values
        if self._last_received is None:
            return WARN, self._nothing_yet, values
        age_s = time.monotonic() - self._last_received
        values["last_frame_age_s"] = f"{age_s:.2f}"
        if self._problem:
            return ERROR, self._problem, values
        if age_s > self._frame_timeout_s:
            return WARN, f"no frame for {age_s:.1f} s", values
        if self._goal_problem:
            return WARN, self._goal_problem, values
        return OK, "encoding", values


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the node."""
    run(CameraNode, arguments=arguments)


if __name__ == "__main__":
    main()
