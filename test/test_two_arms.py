# SPDX-License-Identifier: Apache-2.0
"""Two arms side by side, each with camera and nodes in a namespace of its own: they do not know of each other."""

import time
from dataclasses import dataclass, field

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

from sensor_msgs.msg import Image, JointState
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from lewm_model.config import resource
from lewm_model.sim.arm import ArmSim
from lewm_ros.camera_node import LATCHED
from lewm_ros.graph import Graph, set_environment
from lewm_ros.messages import rgb_to_message

NODES = ("sim_node", "camera_node", "planner_node")
RATE_HZ = 10.0  # of both cameras: six processes must keep up on two cores
SHARED = {"/diagnostics", "/parameter_events", "/rosout"}  # topics that ROS 2 has once


@dataclass
class Arm:
    """What one of the arms does, and how to talk to its nodes."""

    graph: Graph
    side: str
    positions: list[np.ndarray] = field(default_factory=list)
    commands: list[JointTrajectory] = field(default_factory=list)

    def __post_init__(self) -> None:
        node = self.graph.node
        self._goals = node.create_publisher(Image, f"/{self.side}/goal_image", LATCHED)
        node.create_subscription(
            JointState,
            f"/{self.side}/joint_states",
            lambda message: self.positions.append(np.array(message.position)),
            10,
        )
        node.create_subscription(
            JointTrajectory, f"/{self.side}/arm_controller/joint_trajectory", self.commands.append, 10
        )

    @property
    def nodes(self) -> list[str]:
        return [f"{self.side}/{name}" for name in NODES]

    def show(self, picture: np.ndarray) -> None:
        self._goals.publish(rgb_to_message(picture, time.time_ns()))

    def enable(self) -> None:
        def accepted() -> bool:
            answers = self.graph.call(SetBool, {f"/{self.side}/planner_node/enable": SetBool.Request(data=True)})
            return all(answer.success for answer in answers.values())

        self.graph.spin_until(accepted, 30, f"the {self.side} planner to be enabled")

    def stop(self) -> None:
        self.graph.call(Trigger, {f"/{self.side}/planner_node/stop": Trigger.Request()})

    def error(self, pose: np.ndarray) -> float:
        return float(np.abs(self.positions[-1] - pose).max())


def test_two_arms_in_two_namespaces_reach_a_goal_each_and_leave_each_other_alone(tmp_path):
    set_environment()
    poses = {"left": np.array([1.0, -1.0]), "right": np.array([-1.0, 1.2])}
    with ArmSim() as sim:
        pictures = {}
        for side, pose in poses.items():
            sim.reset(joint_positions=pose)
            pictures[side] = sim.render().copy()
    parameters, model = resource("config", "plan.yaml"), {"model": str(resource("models", "reach"))}
    with Graph("test_two_arms", tmp_path) as graph:
        left, right = Arm(graph, "left"), Arm(graph, "right")
        for arm in (left, right):
            graph.start(f"{arm.side}/sim_node", {"rate": RATE_HZ}, parameters)
            graph.start(f"{arm.side}/camera_node", model, parameters)
            graph.start(f"{arm.side}/planner_node", model, parameters)
        graph.bring_up(*left.nodes, *right.nodes)
        graph.spin_until(lambda: left.positions and right.positions, 30, "joint states of both arms")

        # Nothing of theirs is outside of their namespaces.
        topics = {name for name, _ in graph.node.get_topic_names_and_types()}
        assert {"/left/camera/image_raw", "/right/latent", "/right/arm_controller/joint_trajectory"} <= topics
        own = {name for name in topics if name.startswith(("/left/", "/right/"))}
        assert topics - own == SHARED
        nodes = {f"{space.rstrip('/')}/{name}" for name, space in graph.node.get_node_names_and_namespaces()}
        assert {f"/{side}/{name}" for side in poses for name in NODES} <= nodes

        # Each has a goal, one is enabled: it alone moves.
        left.show(pictures["left"])
        right.show(pictures["right"])
        start = right.positions[-1]
        left.enable()
        graph.spin_until(lambda: left.error(poses["left"]) < 0.1, 60, "the left arm to reach its goal")
        assert not right.commands
        assert right.error(start) < 1e-3

        # Both are: the other one goes to its own.
        right.enable()
        graph.spin_until(lambda: right.error(poses["right"]) < 0.1, 60, "the right arm to reach its goal")
        assert left.error(poses["left"]) < 0.1

        # A stop is one arm's: with new goals for both, the other one goes.
        left.stop()
        graph.spin_for(1.0)
        rest, sent = left.positions[-1], len(left.commands)
        left.show(pictures["right"])
        right.show(pictures["left"])
        graph.spin_until(lambda: right.error(poses["left"]) < 0.1, 60, "the right arm to reach the other goal")
        assert len(left.commands) == sent
        assert left.error(rest) < 1e-3
