# SPDX-License-Identifier: Apache-2.0
"""What can be known about Gazebo without running it: topics, types, kinematics, and how its controller holds points.

The tests run without Gazebo; `make gazebo-demo` runs it. The model of its controller below is written from gz-sim 8's
source.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from lewm_model.config import resource
from lewm_model.robot.robot import Gripper
from lewm_model.robot.trajectory import JointTrajectory
from lewm_model.sim.arm import ArmSim

WORLD = resource("worlds", "tabletop.sdf")
BRIDGE = yaml.safe_load(resource("config", "gazebo_bridge.yaml").read_text())
SYSTEMS = "gz::sim::systems::"


def gazebo_topics() -> dict[str, tuple[str, str]]:
    """Topics that Gazebo has with the world, and with an exported one that has a gripper (test_export_sdf.py): name ->
    type, and which way they go, seen from Gazebo.
    """
    root = ElementTree.parse(WORLD).getroot()

    def text(element: ElementTree.Element | None) -> str:
        assert element is not None
        assert element.text
        return "/" + element.text.strip().lstrip("/")

    def plugin(name: str) -> ElementTree.Element:
        found = [element for element in root.iter("plugin") if element.get("name") == SYSTEMS + name]
        assert len(found) == 1
        return found[0]

    camera = next(sensor for sensor in root.iter("sensor") if sensor.get("type") == "camera")
    return {
        "/clock": ("gz.msgs.Clock", "out"),  # every world has it
        text(camera.find("topic")): ("gz.msgs.Image", "out"),
        text(camera.find("camera/camera_info_topic")): ("gz.msgs.CameraInfo", "out"),
        text(plugin("JointStatePublisher").find("topic")): ("gz.msgs.Model", "out"),
        text(plugin("JointTrajectoryController").find("topic")): ("gz.msgs.JointTrajectory", "in"),
        f"/{Gripper.topic}": ("gz.msgs.JointTrajectory", "in"),
    }


def test_every_bridged_topic_exists_in_the_world_with_its_type_and_direction() -> None:
    topics = gazebo_topics()
    assert len(topics) == 6
    assert {entry["gz_topic_name"] for entry in BRIDGE} == set(topics)
    for entry in BRIDGE:
        gz_type, way = topics[entry["gz_topic_name"]]
        assert entry["gz_type_name"] == gz_type
        assert entry["direction"] == {"out": "GZ_TO_ROS", "in": "ROS_TO_GZ"}[way]


def test_the_bridge_can_convert_every_pair_of_types() -> None:
    pairs = yaml.safe_load((Path(__file__).parent / "data" / "ros_gz_pairs.yaml").read_text())
    for entry in BRIDGE:
        assert pairs[entry["ros_type_name"]] == entry["gz_type_name"]
    keys = {"ros_topic_name", "gz_topic_name", "ros_type_name", "gz_type_name", "direction"}
    assert all(keys <= set(entry) <= keys | {"publisher_queue", "subscriber_queue"} for entry in BRIDGE)


def test_the_bridge_serves_the_topics_of_the_nodes_in_any_namespace() -> None:
    names = {entry["ros_topic_name"] for entry in BRIDGE}
    assert names == {
        "/gazebo/clock",
        "camera/image_raw",
        "camera/camera_info",
        "joint_states",
        "gazebo/joint_trajectory",
        "gazebo/gripper_trajectory",
    }


def test_the_worlds_systems_are_those_that_the_topics_need() -> None:
    plugins = {element.get("name") for element in ElementTree.parse(WORLD).getroot().iter("plugin")}
    needed = {"Physics", "Sensors", "SceneBroadcaster", "UserCommands", "JointTrajectoryController"}
    assert {SYSTEMS + name for name in needed | {"JointStatePublisher"}} == plugins


# ---- commands --------------------------------------------------------------------------------------------------------


class GazeboController:
    """gz-sim 8's JointTrajectoryController: starts on receipt, and holds point k until its time is over."""

    def __init__(self) -> None:
        self.target = np.zeros(2)

    def receive(self, times_s: np.ndarray, positions: np.ndarray, now_s: float) -> None:
        self.times_s, self.positions, self.start_s, self.index = times_s, positions, now_s, 0

    def step(self, now_s: float) -> np.ndarray:
        while self.index + 1 < len(self.times_s) and self.times_s[self.index] < now_s - self.start_s:
            self.index += 1
        return self.positions[self.index]


def wave(times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    t = np.asarray(times_s)[:, None]
    return 0.7 * np.sin(2.0 * t + [[0.0, 1.0]]), 1.4 * np.cos(2.0 * t + [[0.0, 1.0]])


@pytest.mark.parametrize("adapted", [True, False])
def test_gazebos_controller_follows_the_plan_because_of_the_adapter(adapted: bool) -> None:
    """A message each 0.25 s, stamped 0.2 s before it arrives, as planner_node sends them."""
    pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")
    from lewm_ros.gazebo_commands import held_points

    controller = GazeboController()
    errors = []
    for now in np.arange(1.0, 4.0, 0.002):
        k = round((now - 1.0) / 0.25)
        if abs(now - 1.0 - 0.25 * k) < 1e-9:
            start = now - 0.2
            times = np.arange(0, 1.001, 0.02)
            positions, velocities = wave(start + times)
            motion = JointTrajectory(times, positions, velocities, start, now, positions[0], velocities[0])
            if adapted:
                held = held_points(motion, now)
                controller.receive(held.times_s, held.positions, now)
            else:
                controller.receive(times, positions, now)
        errors.append(np.abs(controller.step(now) - wave(np.array([now]))[0][0]).max())
    if adapted:
        assert max(errors) < 1.4 * 0.005 + 1e-3  # half a step at the greatest speed
    else:
        assert max(errors) > 0.2  # the reason for the adapter: without it, the motion since the stamp is played again


def test_held_points_end_at_rest_where_the_trajectory_ends() -> None:
    pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")
    from lewm_ros.gazebo_commands import held_points

    at_rest = np.zeros((3, 2))
    positions = np.array([[0.0, 0.0], [0.1, -0.1], [0.3, -0.2]])
    motion = JointTrajectory([0.0, 0.1, 0.2], positions, at_rest, 5.0, 5.0, positions[0], at_rest[0])
    for now in (5.0, 5.0999, 5.1, 5.1957, 5.2, 9.0):
        held = held_points(motion, now)
        assert held.times_s[0] == 0.0
        assert (np.diff(held.times_s) > 0).all()
        assert np.diff(held.times_s).max() < 0.0101
        assert now + held.times_s[-1] >= 5.2 - 1e-9
        np.testing.assert_allclose(held.positions[0], motion.sample([now])[0])
        np.testing.assert_array_equal(held.positions[-1], positions[-1])
        np.testing.assert_array_equal(held.velocities[-1], [0.0, 0.0])


@pytest.mark.parametrize(
    ("topic", "onward"),
    [("arm_controller/joint_trajectory", "gazebo/joint_trajectory"), (Gripper.topic, "gazebo/gripper_trajectory")],
)
def test_the_adapter_sends_on_what_is_left_of_a_trajectory(tmp_path: Path, topic: str, onward: str) -> None:
    pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")
    from rclpy.qos import QoSProfile
    from trajectory_msgs.msg import JointTrajectory as Message

    from lewm_model.planning.motion import Trajectory
    from lewm_ros.graph import Graph, set_environment
    from lewm_ros.messages import message_to_trajectory, trajectory_to_message

    names = ("shoulder", "elbow")
    times = np.arange(0, 1.001, 0.02)
    positions, velocities = wave(times)
    velocities[-1] = 0.0
    set_environment()
    with Graph("test_driver", tmp_path) as graph:
        received: list[tuple[int, Message]] = []
        clock = graph.node.get_clock()
        graph.node.create_subscription(Message, onward, lambda m: received.append((clock.now().nanoseconds, m)), 10)
        publisher = graph.node.create_publisher(Message, topic, QoSProfile(depth=1))
        graph.start("gazebo_commands", {})
        graph.spin_until(publisher.get_subscription_count, 20, "the adapter")
        graph.spin_for(0.5)
        publisher.publish(trajectory_to_message(Trajectory(times, positions, velocities), names[::-1], 1))  # long over
        refusal = "trajectory not forwarded: the trajectory ended"
        graph.spin_until(
            lambda: refusal in graph.log("gazebo_commands"), 20, "the refusal of a trajectory that is over"
        )
        start_ns = clock.now().nanoseconds - 300_000_000
        publisher.publish(trajectory_to_message(Trajectory(times, positions, velocities), names, start_ns))
        graph.spin_until(lambda: received, 10, "a trajectory for Gazebo")
        graph.spin_for(1.0)  # until it is over
        publisher.publish(trajectory_to_message(Trajectory(times, positions, velocities), names, start_ns))
        graph.spin_for(0.3)
        assert graph.log("gazebo_commands").count("not forwarded") == 1, "a repeated command that is over is no error"
    ((at_ns, message),) = received
    held = message_to_trajectory(message, names)
    age_s = (at_ns - start_ns) / 1e9
    where = np.abs(wave(times)[0] - held.positions[0]).sum(1).argmin() * 0.02  # the time, in the wave, of its start
    assert age_s - 0.3 <= where <= age_s + 0.02
    assert where >= 0.28
    np.testing.assert_allclose(held.positions[-1], positions[-1])


# ---- kinematics ------------------------------------------------------------------------------------------------------


def test_drakes_parser_reads_the_same_kinematics() -> None:
    """A second, stricter reader of SDF (`pip install drake`) has to find the tip in the same place."""
    parsing = pytest.importorskip("pydrake.multibody.parsing", reason="drake is not installed (pip install drake)")
    from pydrake.multibody.plant import MultibodyPlant

    plant = MultibodyPlant(0.0)
    parsing.Parser(plant).AddModels(str(WORLD))
    plant.Finalize()
    context = plant.CreateDefaultContext()
    rng = np.random.default_rng(0)
    with ArmSim(render=False) as sim:
        joints = [plant.GetJointByName(name) for name in sim.names]
        np.testing.assert_allclose([j.position_lower_limit() for j in joints], sim.limits.lower)
        np.testing.assert_allclose([j.position_upper_limit() for j in joints], sim.limits.upper)
        np.testing.assert_allclose([j.velocity_upper_limit() for j in joints], sim.limits.velocity)
        for _ in range(50):
            q = rng.uniform(sim.limits.lower, sim.limits.upper)
            for joint, angle in zip(joints, q, strict=True):
                joint.set_angle(context, angle)
            tip = plant.GetFrameByName("end_effector").CalcPoseInWorld(context).translation()
            np.testing.assert_allclose(sim.end_effector(q), tip, atol=1e-12)
