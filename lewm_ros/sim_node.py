# SPDX-License-Identifier: Apache-2.0
"""Simulates arm and cameras behind the topics of a real arm."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from lewm_model.robot.rectify import camera_info_topic
from lewm_model.robot.robot import Robot, load_robot
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.controller import ControllerConfig
from lewm_model.sim.looks import SwingingLooks, wear
from lewm_model.sim.pinhole import Pinhole
from lewm_model.sim.sdf_element import SdfError
from lewm_model.sim.world import side_by_side
from lewm_ros.camera_node import LATCHED, NEWEST_FRAME
from lewm_ros.command_topics import ARM
from lewm_ros.commanded import JERK_STEP_S, count_jerks
from lewm_ros.controller_state import ControllerState, controller_state_topic, reference_message
from lewm_ros.mailbox import Mailbox
from lewm_ros.messages import (
    NANOSECONDS,
    MessageError,
    camera_info_message,
    joint_state_message,
    message_to_joint_positions,
    message_to_pose,
    message_to_trajectory,
    pose_message,
    rgb_to_message,
    time_message,
)
from lewm_ros.node import OK, QOS_OVERRIDES, WARN, ManagedNode, Milliseconds, Refusal, Worker, run
from lewm_ros.parameters import Parameter

TICK_S = 0.01  # simulation time between two updates of physics and commands
JOINT_STATE_S = 0.02  # between two joint states
# The QoS of ros2_control's controller: a command may be lost, and only the newest one waits for the next update.
COMMAND = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
# A simulation that lags behind real time by less runs faster to catch up, so that the arm does not jump along its
# trajectory; one that lags by more gives up the lost time.
MOST_LAG_S = 1.0
JERK_TICKS = round(JERK_STEP_S / TICK_S)
BEYOND_RAD = 0.01  # beyond a joint limit before it counts as violated: servos overshoot by less
FRAME_ID = "camera_link_optical"  # optical frame of REP 103: x right, y down, z forward
WORLD = "world"  # the root frame of the SDF file, in which poses are published
DEFAULT_WORLD = "tabletop"  # the packaged world; its arm's robot file has the same name

PARAMETERS = (
    Parameter("world", "", "SDF or scene file; empty is the packaged worlds/tabletop.sdf."),
    Parameter("rate", 20.0, "Pictures per second.", 0.1, 100.0),
    Parameter(
        "interpolate_from_desired_state",
        True,
        "Approach a trajectory that begins later from the commanded position, not the measured one.",
    ),
    Parameter(
        "light",
        "constant",
        "constant, or changing: light, table colour and camera pose vary all the time.",
        choices=("constant", "changing"),
    ),
    Parameter(
        "cmd_timeout", 0.0, "Seconds from a trajectory's end until the measured position is held; 0: never.", 0.0
    ),
    Parameter("speed_scaling", 1.0, "Speed at which trajectories are executed, as by a speed slider.", 0.0, 1.0),
)


def urdf_of(robot: Robot | None, world: str | None) -> Path | None:
    """The URDF of the robot file that a scene names, or that has the name of the world; None if there is none."""
    if robot is None:
        try:
            robot = load_robot(Path(world).stem if world else DEFAULT_WORLD)
        except (FileNotFoundError, ValueError):
            return None
    file = None if robot.kinematics is None else robot.path(robot.kinematics.file)
    return file if file is not None and file.suffix == ".urdf" else None


@dataclass(frozen=True)
class _Camera:
    """A camera of the world, and where its pictures go."""

    name: str
    pinhole: Pinhole
    frame_id: str
    pictures: Any  # publishers
    infos: Any


class SimNode(ManagedNode):
    """Runs the simulation in real time.

    Publishes `camera/image_raw` of the first camera of the world, of each other one what the robot file says or
    `NAME/image_raw`, the `camera_info` beside each, `joint_states`, and `robot_description` if the arm has a URDF.

    Executes `arm_controller/joint_trajectory` as ros2_control's joint_trajectory_controller does, and publishes
    `arm_controller/controller_state` if control_msgs is installed. A gripper of the robot file has a controller of its
    own, with the topic in that file.

    For experiments it publishes the pose of each object of the world (`~/NAME/pose`), and puts arm and objects at rest
    where `~/set_joint_state` and `~/NAME/set_pose` say. With `use_sim_time` it publishes /clock.

    One thread owns simulation and renderer; another one publishes the pictures, which may take 0.3 s while another node
    starts.
    """

    def __init__(self) -> None:
        super().__init__("sim_node", PARAMETERS)
        self._sim: ArmSim | None = None
        self._workers: list[Worker] = []
        self._subscriptions_made: list[Any] = []
        self._publishers_made: list[Any] = []

    # ---- lifecycle ---------------------------------------------------------------------------------------------------

    def configure(self, values: Mapping[str, Any]) -> None:
        world = values["world"] or None
        try:
            config = ControllerConfig(
                values["interpolate_from_desired_state"],
                values["cmd_timeout"],
                allow_nonzero_velocity_at_trajectory_end=False,
            )
            sim = ArmSim(world, controller=config)
            sim.step(TICK_S)
            if values["light"] == "changing":
                looks = SwingingLooks(sim)
                wear(sim, lambda: looks.at(self._ticks * TICK_S))
            cameras = [Pinhole.of_world(world, number) for number in range(len(sim.cameras))]
        except (SdfError, OSError, ValueError) as error:
            raise Refusal(f"cannot simulate {world or 'the packaged world'}: {error}") from error
        self._frame_s, self._speed_scaling = 1.0 / values["rate"], values["speed_scaling"]
        self._is_clock = self.get_parameter("use_sim_time").value
        offered = {"qos_overriding_options": QOS_OVERRIDES}
        names = [camera.name for camera in sim.cameras]
        topics = ["camera/image_raw", *(each.topic for each in side_by_side(sim.cameras, 1).cameras[1:])]
        frame_ids = [FRAME_ID, *(f"{name}_optical" for name in names[1:])]
        self._cameras = [
            _Camera(
                name,
                pinhole,
                frame_id,
                self.create_publisher(Image, topic, NEWEST_FRAME, **offered),
                self.create_publisher(CameraInfo, camera_info_topic(topic), NEWEST_FRAME, **offered),
            )
            for name, pinhole, frame_id, topic in zip(names, cameras, frame_ids, topics, strict=True)
        ]
        self._joint_states = self.create_publisher(JointState, "joint_states", 10, **offered)
        self._descriptions = self.create_publisher(String, "robot_description", LATCHED)
        if (urdf := urdf_of(sim.robot, world)) is not None:
            self._descriptions.publish(String(data=urdf.read_text()))
        self._object_poses = {
            name: self.create_publisher(PoseStamped, f"~/{topic_name(name)}/pose", 10) for name in sim.objects
        }
        self._publishers_made = [
            *(publisher for camera in self._cameras for publisher in (camera.pictures, camera.infos)),
            self._joint_states,
            self._descriptions,
            *self._object_poses.values(),
        ]
        gripper = None if sim.robot is None else sim.robot.gripper
        self._command_topics = [ARM]  # of each controller of the simulator
        if gripper is not None and len(sim.parts) > 1:
            self._command_topics.append(gripper.topic)
        self._controller_states = []
        if ControllerState is not None:
            states = [controller_state_topic(topic) for topic in self._command_topics]
            self._controller_states = [self.create_publisher(ControllerState, topic, 10) for topic in states]
            self._publishers_made += self._controller_states
        if self._is_clock:
            self._clocks = self.create_publisher(Clock, "/clock", 10)
            self._publishers_made.append(self._clocks)
        self._ticks = 0
        self._sim = sim

    def activate(self) -> None:
        self._mailbox = Mailbox(depth=8)
        # Messages for each controller that are not executed yet, with their steady time of arrival, s.
        self._arrived: list[deque[tuple[float, JointTrajectory]]] = [deque() for _ in self._command_topics]
        self._frames, self._skipped, self._taken, self._refused, self._lost_s = 0, 0, 0, 0, 0.0
        self._collisions, self._beyond, self._hurt = 0, 0, (False, False)
        self._velocities: deque[np.ndarray] = deque(maxlen=3)  # commanded, rad/s, the last ones JERK_TICKS apart
        self._jerks = 0
        self._render_ms = Milliseconds()
        self._problem = ""
        self._started = False
        self._outbox = Mailbox(depth=1)
        self._workers = [
            Worker("simulate", self._step, self._on_failure, last=self._free_renderer),
            Worker("send", self._send, self._on_failure),
        ]
        self._subscriptions_made = [
            *(
                self.create_subscription(JointTrajectory, topic, partial(self._on_trajectory, part), COMMAND)
                for part, topic in enumerate(self._command_topics)
            ),
            self.create_subscription(
                JointState, "~/set_joint_state", lambda message: self._mailbox.put("set", message), 1
            ),
            *(
                self.create_subscription(
                    PoseStamped,
                    f"~/{topic_name(name)}/set_pose",
                    lambda message, name=name: self._mailbox.put("set object", (name, message)),
                    1,
                )
                for name in self._object_poses
            ),
        ]

    def deactivate(self) -> None:
        for worker in self._workers:
            worker.stop()
        self._workers = []
        for subscription in self._subscriptions_made:
            self.destroy_subscription(subscription)
        self._subscriptions_made = []

    def cleanup(self) -> None:
        self._sim = None
        for publisher in self._publishers_made:
            self.destroy_publisher(publisher)
        self._publishers_made = []

    def _on_trajectory(self, part: int, message: JointTrajectory, info: Mapping[str, int]) -> None:
        """A command counts from when DDS received it, as for a controller that is not written in Python: publishing a
        picture can hold up all threads of this process for 0.3 s while another node starts.
        """
        age_s = (time.time_ns() - info["received_timestamp"]) / NANOSECONDS
        self._mailbox.put("trajectory", (part, time.monotonic() - min(max(age_s, 0.0), MOST_LAG_S), message))

    # ---- the simulation's thread -------------------------------------------------------------------------------------

    def _step(self) -> None:
        sim = self._sim
        assert sim is not None
        if not self._started:
            sim.render()  # the first rendering of a process takes seconds
            self._start_ns = 0 if self._is_clock else self.get_clock().now().nanoseconds - self._elapsed_ns
            self._tick_time = time.monotonic()
            self._next_frame_s = self._next_joints_s = self._ticks * TICK_S
            self._started = True
        self._wait_for_tick()
        items = self._mailbox.take(timeout_s=0.0)
        for message in items.get("set", ()):
            self._attempt_input(lambda message=message: self._put_arm(sim, message))
        for name, message in items.get("set object", ()):
            self._attempt_input(
                lambda name=name, message=message: sim.set_object_pose(name, message_to_pose(message, WORLD))
            )
        for part, at_s, message in items.get("trajectory", ()):
            self._arrived[part].append((at_s, message))
        for part, arrived in enumerate(self._arrived):
            due = None  # a simulation that lags must not execute commands earlier than they were sent
            while arrived and arrived[0][0] <= self._tick_time + TICK_S:
                due = arrived.popleft()[1]
            if due is not None:
                self._attempt_input(lambda part=part, due=due: self._follow(sim, part, due))
            sim.controllers[part].speed_scaling = self._speed_scaling
        sim.step(TICK_S)
        self._count_violations(sim)
        self._ticks += 1
        stamp_ns, elapsed_s = self._start_ns + self._elapsed_ns, self._ticks * TICK_S + 1e-9
        if self._is_clock:
            self._clocks.publish(Clock(clock=time_message(stamp_ns)))
        if elapsed_s >= self._next_joints_s:
            self._next_joints_s += JOINT_STATE_S
            self._joint_states.publish(
                joint_state_message(
                    sim.names, sim.joint_positions(), sim.joint_velocities(), stamp_ns, sim.joint_efforts()
                )
            )
            measured = sim.joint_positions()
            for part, publisher in enumerate(self._controller_states):
                joints, desired = sim.parts[part], sim.controllers[part].desired
                publisher.publish(
                    reference_message(sim.names[joints], desired, measured[joints], self._speed_scaling, stamp_ns)
                )
            for name, publisher in self._object_poses.items():
                publisher.publish(pose_message(sim.object_pose(name), stamp_ns, WORLD))
        if elapsed_s >= self._next_frame_s:
            self._next_frame_s += self._frame_s
            if time.monotonic() - self._tick_time < self._frame_s:
                self._render(sim, stamp_ns)
            else:  # lagging: a picture is skipped, so that the arm does not wait
                self._skipped += 1

    def _count_violations(self, sim: ArmSim) -> None:
        """Counts how often a collision of the arm with itself or the table, or a violation of joint limits, begins, and
        the moments at which the commanded motion exceeds the jerk limit, as where a late command takes over.
        """
        joints = sim.joint_positions()
        beyond = np.maximum(sim.limits.lower - joints, joints - sim.limits.upper).max() > BEYOND_RAD
        hurt = sim.collides(), bool(beyond)
        self._collisions += hurt[0] and not self._hurt[0]
        self._beyond += hurt[1] and not self._hurt[1]
        self._hurt = hurt
        if self._ticks % JERK_TICKS == 0:
            commanded = np.zeros(len(sim.names))
            for part, controller in zip(sim.parts, sim.controllers, strict=True):
                commanded[part] = controller.desired[1]
            self._velocities.append(commanded)
            self._jerks += count_jerks(np.array(self._velocities), sim.limits)

    @property
    def _elapsed_ns(self) -> int:
        return self._ticks * round(TICK_S * NANOSECONDS)

    def _wait_for_tick(self) -> None:
        self._tick_time += TICK_S
        wait_s = self._tick_time - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)
        elif wait_s < -MOST_LAG_S:
            self._lost_s -= wait_s
            self._tick_time -= wait_s
            if not self._is_clock:
                self._start_ns += round(-wait_s * NANOSECONDS)

    def _attempt_input(self, action: Any) -> None:
        try:
            action()
        except (MessageError, ValueError) as error:
            self._refused += 1
            if str(error) != self._problem:
                self.get_logger().error(f"refused: {error}")
            self._problem = str(error)

    def _put_arm(self, sim: ArmSim, message: JointState) -> None:
        sim.reset(joint_positions=message_to_joint_positions(message, sim.names))
        self._velocities.clear()

    def _follow(self, sim: ArmSim, part: int, message: JointTrajectory) -> None:
        points = message_to_trajectory(message, sim.names[sim.parts[part]])
        age_s = (self._start_ns + self._elapsed_ns - points.stamp_ns) / NANOSECONDS if points.stamp_ns else 0.0
        start_s = sim.time_s - age_s
        sim.set_trajectory(points.times_s, points.positions, points.velocities, start_s, points.accelerations, part)
        self._taken += 1
        self._problem = ""

    def _render(self, sim: ArmSim, stamp_ns: int) -> None:
        begin = time.monotonic()
        frame = [
            (
                rgb_to_message(sim.render(camera.name), stamp_ns, camera.frame_id),
                camera_info_message(
                    camera.pinhole.width, camera.pinhole.height, camera.pinhole.focal_px, stamp_ns, camera.frame_id
                ),
            )
            for camera in self._cameras
        ]
        self._render_ms.add(time.monotonic() - begin)
        self._skipped += self._outbox.put("frame", frame)

    def _send(self) -> None:
        """Publishes the pictures of a frame; a step of the other thread."""
        for frame in self._outbox.take(timeout_s=0.1).get("frame", ()):
            for camera, (picture, camera_info) in zip(self._cameras, frame, strict=True):
                camera.pictures.publish(picture)
                camera.infos.publish(camera_info)
            self._frames += 1

    def _free_renderer(self) -> None:
        assert self._sim is not None
        self._sim.close()

    def _on_failure(self, trace: str) -> None:
        self._problem = "the simulation has ended; deactivate and activate the node to start it again"
        self.get_logger().fatal(f"{self._problem}:\n{trace}")

    # ---- diagnostics -------------------------------------------------------------------------------------------------

    def diagnose(self) -> tuple[bytes, str, dict[str, str]]:
        assert self._sim is not None
        values = {
            "frames_published": str(self._frames),
            "frames_skipped": str(self._skipped),
            "trajectories_taken": str(self._taken),
            "messages_refused": str(self._refused),
            "collisions": str(self._collisions),
            "beyond_limits": str(self._beyond),
            "jerk_violations": str(self._jerks),
            "time_lost_s": f"{self._lost_s:.2f}",
            "largest_step_rad": f"{max(each.largest_step_rad for each in self._sim.controllers):.6f}",
            **self._render_ms.percentiles("render"),
        }
        return (WARN, self._problem, values) if self._problem else (OK, "simulating", values)


def topic_name(name: str) -> str:
    """The name of an object with the characters that ROS allows in a topic."""
    allowed = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name)
    return allowed if not allowed[:1].isdigit() else f"_{allowed}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the node."""
    run(SimNode, arguments=arguments)


if __name__ == "__main__":
    main()
