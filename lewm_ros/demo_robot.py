# SPDX-License-Identifier: Apache-2.0
"""The demo's side of the topics: puts arm and objects at their start, sends the goal, and records what follows.

`lewm_ros.demo` imports this after it has started the nodes, so that both load at the same time.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from lewm_model.planning.motion import Trajectory
from lewm_model.robot.observation import Observation
from lewm_model.sim.world import State, side_by_side
from lewm_model.tasks.task import Outcome, Trial, score
from lewm_ros.camera_node import LATCHED, NEWEST_FRAME
from lewm_ros.command_topics import ARM, joined
from lewm_ros.commanded import Command
from lewm_ros.demo_pictures import Episode
from lewm_ros.graph import Graph, GraphError
from lewm_ros.messages import (
    joint_state_message,
    message_to_array,
    message_to_pose,
    message_to_rgb,
    message_to_trajectory,
    nanoseconds,
    pose_message,
    rgb_to_message,
)
from lewm_ros.sim_node import WORLD, topic_name

REST_S = 0.1  # for a command that is on its way to arrive, and for the arm to rest where it was put
PLACED_M = 0.002  # horizontal distance within which an object counts as lying where it was put


class Robot:
    """Publishes starts and goals, calls the planner's services, and keeps the messages of the nodes.

    :param sim: a simulator of the same world (`lewm_model.sim.arm.ArmSim`), for names and goal pictures; it is not
        stepped.
    :param settle_s: s that the arm rests at the start, so that the planner's whole context shows it at rest.
    """

    def __init__(self, graph: Graph, sim: Any, settle_s: float) -> None:
        names, objects = sim.names, sim.objects
        self.graph, self.sim, self.names, self._settle_s = graph, sim, names, settle_s
        self.commands: list[tuple[int, Any]] = []  # received ns, message
        self.joint_states: list[tuple[int, np.ndarray, np.ndarray]] = []  # stamp ns, rad, rad/s
        self.object_poses: dict[str, list[tuple[int, np.ndarray]]] = {name: [] for name in objects}  # stamp ns, (7,)
        cameras = side_by_side(sim.cameras, 1).cameras
        self.pictures: dict[str, list[Any]] = {camera.name: [] for camera in cameras}  # image messages
        self.plans: list[tuple[int, Any]] = []  # received ns, message
        self.imagined: list[tuple[int, Any]] = []  # received ns, message
        self.status: dict[str, dict[str, str]] = {}  # newest diagnostics of each node
        self.frames_encoded: list[tuple[float, int]] = []  # (steady s, count), from each diagnostics of the camera node
        self.state = ""  # of the planner's shield
        self.resets = 0
        self._goal_ns = self.latent_ns = 0
        node = graph.node
        self._goals = node.create_publisher(Image, "goal_image", LATCHED)
        self._poses = node.create_publisher(JointState, "/sim_node/set_joint_state", 1)
        self._object_poses = {
            name: node.create_publisher(PoseStamped, f"/sim_node/{topic_name(name)}/set_pose", 1) for name in objects
        }

        def on_joint_state(message: Any) -> None:
            order = [message.name.index(name) for name in names]
            self.joint_states.append(
                (
                    nanoseconds(message.header.stamp),
                    np.array(message.position)[order],
                    np.array(message.velocity)[order],
                )
            )

        halves: dict[int, dict[str, Any]] = {}  # stamp -> topic -> message: commands of which a part is missing

        def on_command(topic: str, message: Any) -> None:
            stamp_ns = nanoseconds(message.header.stamp)
            parts = halves.setdefault(stamp_ns, {})
            parts[topic] = message
            if len(parts) == len(topics):
                self.commands.append((self.now_ns(), joined([parts[each] for each in topics])))
                del halves[stamp_ns]

        def on_object_pose(name: str, message: Any) -> None:
            self.object_poses[name].append((nanoseconds(message.header.stamp), message_to_pose(message, WORLD)))

        def on_goal_latent(message: Any) -> None:
            self._goal_ns = nanoseconds(message.header.stamp)

        def on_latent(message: Any) -> None:
            self.latent_ns = nanoseconds(message.header.stamp)

        def on_status(message: Any) -> None:
            self.state = {pair.key: pair.value for pair in message.values}["state"]

        def on_diagnostics(message: Any) -> None:
            for status in message.status:
                values = {pair.key: pair.value for pair in status.values}
                self.status[status.name] = values
                if "frames_encoded" in values:
                    self.frames_encoded.append((time.monotonic(), int(values["frames_encoded"])))

        topics = [ARM] if len(sim.parts) == 1 else [ARM, sim.robot.gripper.topic]
        for topic in topics:
            node.create_subscription(JointTrajectory, topic, partial(on_command, topic), 10)
        node.create_subscription(JointState, "joint_states", on_joint_state, 50)
        for name in objects:
            topic = f"/sim_node/{topic_name(name)}/pose"
            node.create_subscription(PoseStamped, topic, partial(on_object_pose, name), 50)
        node.create_subscription(Image, "goal_latent", on_goal_latent, LATCHED)
        node.create_subscription(Image, "latent", on_latent, NEWEST_FRAME)
        for camera in cameras:
            node.create_subscription(Image, camera.topic, self.pictures[camera.name].append, NEWEST_FRAME)
        node.create_subscription(
            JointTrajectory,
            "/planner_node/plan",
            lambda message: self.plans.append((self.now_ns(), message)),
            NEWEST_FRAME,
        )
        node.create_subscription(
            Image,
            "/planner_node/imagined",
            lambda message: self.imagined.append((self.now_ns(), message)),
            NEWEST_FRAME,
        )
        node.create_subscription(DiagnosticStatus, "/planner_node/status", on_status, LATCHED)
        node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 10)

    def camera_rate_hz(self) -> float:
        """Mean rate at which the camera node encoded frames over the whole run, Hz."""
        (began, first), (ended, last) = self.frames_encoded[0], self.frames_encoded[-1]
        return (last - first) / (ended - began)

    def enable(self, on: bool) -> str | None:
        """Arms or disarms the planner; returns the reason of a refusal, None when it is done."""
        answer = self.graph.call(SetBool, {"/planner_node/enable": SetBool.Request(data=on)})["/planner_node/enable"]
        return None if answer.success else str(answer.message)

    def now_ns(self) -> int:
        """The time of the stamps, ns: of this machine, or simulated."""
        return int(self.graph.node.get_clock().now().nanoseconds)

    def goal_picture(self, goal: State, observation: Observation) -> np.ndarray:
        """A picture (H, W, 3) uint8 RGB of the world as it shall be."""
        self.sim.put(goal)
        # With one camera the goal is its whole picture; with several it is the model's view of them, side by side.
        return self.sim.picture(observation) if len(observation.cameras) > 1 else self.sim.render().copy()

    def place(self, joints: np.ndarray) -> None:
        """Disarms the planner, waits for the motion to end, and puts the arm at rest at `joints` (A,) rad."""
        self.rest()
        message = joint_state_message(self.names, joints, np.zeros(len(joints)), self.now_ns())
        self._poses.publish(message)
        self.graph.spin_until(lambda: self.at_rest(joints, 1e-3), 10.0, "the arm to be at its start")

    def at_rest(self, joints: np.ndarray, within_rad: float) -> bool:
        """Whether the arm was last measured at rest at `joints` (A,) rad."""
        newest = self.joint_states[-1:]
        return any(np.abs(q - joints).max() < within_rad and np.abs(v).max() < 1e-2 for _, q, v in newest)

    def rest(self) -> None:
        """Disarms the planner and waits for the motion to end."""
        self.enable(False)
        # Its status says "disarmed" only after its last command, which may have to wait for the plan being made.
        self.graph.spin_until(lambda: self.state in ("disarmed", "stopped"), 10.0, "the planner to be disarmed")
        self.graph.spin_for(REST_S)  # until that command has arrived here
        self.graph.spin_until(lambda: self.now_ns() > self._motion_end_ns(), 10.0, "the motion to end")
        self.commands.clear()
        self.joint_states.clear()

    def place_object(self, name: str, pose: np.ndarray) -> None:
        """Puts an object at rest at a pose (7,): x y z in m, quaternion w x y z, in the world's frame.

        Call it after `place`, which puts every object back where the world file has it.
        """
        seen = self.object_poses[name]
        seen.clear()
        self._object_poses[name].publish(pose_message(pose, self.now_ns(), WORLD))
        self.graph.spin_until(
            lambda: seen and np.linalg.norm(seen[-1][1][:2] - pose[:2]) < PLACED_M,
            10.0,
            f"{name} to be at its start",
        )

    def _motion_end_ns(self) -> int:
        """When the arm rests, whichever command it executes, ns: a stop ends earlier than the plan that it replaces."""
        return max(
            (
                nanoseconds(message.header.stamp) + nanoseconds(message.points[-1].time_from_start)
                for _, message in self.commands
            ),
            default=0,
        )

    def forget(self) -> None:
        """Drops the messages kept until now, except the commands."""
        said: list[list[Any]] = [self.joint_states, self.plans, self.imagined]
        for kept in (*said, *self.object_poses.values(), *self.pictures.values()):
            kept.clear()

    def show_goal(self, picture: np.ndarray) -> None:
        """Sends a goal picture (H, W, 3) uint8 RGB; waits until it and newer frames of the resting arm are encoded."""
        stamp_ns = self.now_ns()
        self._goals.publish(rgb_to_message(picture, stamp_ns))
        fresh_ns = stamp_ns + round(1e9 * (REST_S + self._settle_s))
        self.graph.spin_until(lambda: self._goal_ns == stamp_ns, 10.0, "the goal's latent")
        self.graph.spin_until(lambda: self.latent_ns >= fresh_ns, 20.0, "latents of the arm at its start")

    def stop_and_plan(self) -> None:
        """Configures the planner anew with plan.while_moving false: it then plans only while the arm rests."""
        self.enable(False)
        for transition in ("deactivate", "cleanup"):
            self.graph.change_state(transition, "planner_node")
        values = [Parameter("plan.while_moving", value=False).to_parameter_msg()]
        self.graph.call(SetParameters, {"/planner_node/set_parameters": SetParameters.Request(parameters=values)})
        self.graph.bring_up("planner_node")

    def go(self) -> int:
        """Arms the planner and waits for the first command; returns when that arrived, ns.

        :raises GraphError: the planner keeps refusing, or sends no command.
        """
        before, end_s = len(self.commands), time.monotonic() + 10.0
        refusal = self.enable(True)
        while refusal is not None:
            if time.monotonic() > end_s:
                raise GraphError(f"the planner refuses to be enabled: {refusal}")
            if "reset" in refusal:
                self.resets += 1
                self.graph.call(Trigger, {"/planner_node/reset": Trigger.Request()})
            else:
                self.graph.spin_for(0.1)  # discovery takes a moment after a start
            refusal = self.enable(True)
        self.graph.spin_until(lambda: len(self.commands) > before, 10.0, "the first command")
        return self.commands[before][0]


def pursue(robot: Robot, observation: Observation, trial: Trial, number: int) -> Episode:
    """Runs a trial: puts the world at its start, sends its goal, arms the planner, waits until the budget is over.

    :param observation: cameras and picture size of the model.
    :param number: of the goal within its task.
    """
    episode = Episode(trial, number, robot.goal_picture(trial.goal, observation))
    robot.place(trial.start.joints)
    for name, pose in trial.start.objects.items():
        robot.place_object(name, pose)
    lost = Outcome(False, False, trial.before)  # for an arm that is never commanded, as for a goal that is refused
    try:
        robot.show_goal(episode.goal_picture)
        robot.forget()
        begin_ns = robot.go()
    except GraphError as error:
        episode.outcome, episode.note = lost, str(error).splitlines()[0]
        return episode
    end_ns = begin_ns + round(1e9 * trial.budget_s)
    robot.graph.spin_until(
        lambda: robot.joint_states and robot.joint_states[-1][0] >= end_ns, trial.budget_s + 10.0, "the budget to pass"
    )
    for received_ns, message in robot.commands:
        if begin_ns <= received_ns <= end_ns:
            stamp_s = (nanoseconds(message.header.stamp) - begin_ns) / 1e9
            points = message_to_trajectory(message, robot.names)
            assert points.velocities is not None, "the planner sends velocities"
            trajectory = Trajectory(stamp_s + points.times_s, points.positions, points.velocities)
            episode.commands.append(Command((received_ns - begin_ns) / 1e9, trajectory))
    poses = {name: dict(robot.object_poses[name]) for name in trial.task.objects}  # by the common stamp
    seen = [
        (stamp, State(joints, {name: known[stamp] for name, known in poses.items()}))
        for stamp, joints, _ in robot.joint_states
        if all(stamp in known for known in poses.values())
    ]
    episode.times_s = np.array([(stamp - begin_ns) / 1e9 for stamp, _ in seen])
    episode.errors_m = np.array([trial.task.error(state, trial.goal, robot.sim) for _, state in seen])
    try:
        episode.outcome = score(episode.times_s, episode.errors_m, trial.budget_s, trial.task.tolerance(robot.sim))
    except ValueError as error:
        episode.outcome, episode.note = lost, str(error)
    seen_by = {
        name: [((nanoseconds(message.header.stamp) - begin_ns) / 1e9, message_to_rgb(message)) for message in messages]
        for name, messages in robot.pictures.items()
    }
    episode.frames, episode.others = seen_by.pop(robot.sim.cameras[0].name), seen_by
    episode.imagined = [((at - begin_ns) / 1e9, message_to_array(message)[..., 0]) for at, message in robot.imagined]
    episode.plans = [
        ((at - begin_ns) / 1e9, np.array([point.positions for point in message.points])) for at, message in robot.plans
    ]
    return episode
