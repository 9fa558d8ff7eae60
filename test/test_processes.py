# SPDX-License-Identifier: Apache-2.0
"""The three nodes as processes over real DDS, driven through their lifecycle: what `make demo` does, small."""

import fcntl
import os
import signal
import time
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from lewm_model.bundle.bundle import load_bundle
from lewm_model.config import resource
from lewm_model.planning.motion import Trajectory
from lewm_model.robot.limits import JointLimits
from lewm_model.sim.arm import ArmSim
from lewm_ros.camera_node import LATCHED, NEWEST_FRAME
from lewm_ros.graph import Graph, free_shared_memory, set_environment
from lewm_ros.messages import (
    joint_state_message,
    message_to_pose,
    message_to_rgb,
    message_to_trajectory,
    nanoseconds,
    pose_message,
    rgb_to_message,
)
from lewm_ros.safety import find_violation

NODES = ("sim_node", "camera_node", "planner_node")
JOINTS = ("shoulder", "elbow")


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(resource("models", "reach"))


@pytest.fixture(scope="module")
def limits() -> JointLimits:
    with ArmSim(render=False) as sim:
        return sim.limits


def limit_parameters(limits: JointLimits) -> dict:
    arrays = {name: getattr(limits, name).tolist() for name in ("lower", "upper", "velocity", "acceleration", "jerk")}
    return {"limits.names": list(limits.names), **{f"limits.{name}": values for name, values in arrays.items()}}


class Watcher:
    """Keeps what the nodes say."""

    def __init__(self, graph: Graph) -> None:
        self.images, self.infos, self.latents, self.goal_latents = [], [], [], []
        self.joint_states, self.trajectories, self.statuses = [], [], {}
        node = graph.node
        node.create_subscription(Image, "camera/image_raw", self.images.append, NEWEST_FRAME)
        node.create_subscription(CameraInfo, "camera/camera_info", self.infos.append, NEWEST_FRAME)
        node.create_subscription(Image, "latent", self.latents.append, NEWEST_FRAME)
        node.create_subscription(Image, "goal_latent", self.goal_latents.append, LATCHED)
        node.create_subscription(JointState, "joint_states", self.joint_states.append, 10)
        node.create_subscription(JointTrajectory, "arm_controller/joint_trajectory", self._on_trajectory, 10)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_trajectory(self, message: JointTrajectory) -> None:
        self.trajectories.append((time.time_ns(), message))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.statuses[status.name] = (status, {pair.key: pair.value for pair in status.values})

    def position(self) -> np.ndarray:
        return np.array(self.joint_states[-1].position)


@pytest.fixture
def graph(tmp_path):
    set_environment()
    with Graph("test_driver", tmp_path) as graph:
        yield graph


def start_all(graph: Graph, bundle, limits: JointLimits, **planner) -> Watcher:
    watcher = Watcher(graph)
    model = {"model": str(bundle.folder)}
    graph.start("sim_node", {})
    graph.start("camera_node", model)
    graph.start("planner_node", {**model, **limit_parameters(limits), **planner})
    graph.bring_up(*NODES)
    return watcher


def as_trajectory(message: JointTrajectory) -> Trajectory:
    points = message_to_trajectory(message, JOINTS)
    return Trajectory(points.times_s, points.positions, points.velocities)


def test_a_goal_picture_moves_the_arm_within_its_limits_and_only_once_enabled(graph, bundle, limits):
    watcher = start_all(graph, bundle, limits)
    graph.spin_until(lambda: watcher.latents and watcher.joint_states, 30, "latents and joint states")

    # A picture of another pose is the goal; the driver draws it, the nodes see nothing but the picture.
    with ArmSim() as sim:
        sim.reset(joint_positions=[1.0, -1.0])
        picture = sim.render()
    goals = graph.node.create_publisher(Image, "goal_image", LATCHED)
    stamp_ns = time.time_ns()
    goals.publish(rgb_to_message(picture, stamp_ns))
    graph.spin_until(lambda: watcher.goal_latents, 10, "the goal's latent")
    assert nanoseconds(watcher.goal_latents[-1].header.stamp) == stamp_ns
    assert watcher.goal_latents[-1].width == bundle.model.latent_dim

    # Disarmed: it has all it needs, and says nothing.
    graph.spin_for(1.0)
    assert not watcher.trajectories

    answer = graph.call(SetBool, {"/planner_node/enable": SetBool.Request(data=True)})["/planner_node/enable"]
    assert answer.success, answer.message
    graph.spin_until(lambda: len(watcher.trajectories) >= 6, 30, "trajectories")
    graph.spin_until(lambda: np.abs(watcher.position() - [1.0, -1.0]).max() < 0.1, 60, "the arm to reach the goal")

    for received_ns, message in watcher.trajectories:
        assert find_violation(as_trajectory(message), limits) is None
        age_s = (received_ns - nanoseconds(message.header.stamp)) / 1e9
        assert 0 < age_s < 1.0, "the header carries the stamp of the frame that was planned from"

    # Stop: at rest soon, nothing more is sent, and enabling is refused until a reset.
    stop = graph.call(Trigger, {"/planner_node/stop": Trigger.Request()})
    assert stop["/planner_node/stop"].success
    graph.spin_for(1.5)
    sent, rest = len(watcher.trajectories), watcher.position()
    graph.spin_for(1.0)
    assert len(watcher.trajectories) == sent
    assert np.abs(watcher.position() - rest).max() < 1e-3
    answer = graph.call(SetBool, {"/planner_node/enable": SetBool.Request(data=True)})["/planner_node/enable"]
    assert not answer.success
    assert "reset" in answer.message
    graph.call(Trigger, {"/planner_node/reset": Trigger.Request()})
    answer = graph.call(SetBool, {"/planner_node/enable": SetBool.Request(data=True)})["/planner_node/enable"]
    assert answer.success, answer.message
    graph.spin_until(lambda: len(watcher.trajectories) > sent, 10, "trajectories after the reset")

    # Deactivated: one smooth stop, then silence; and it comes back disarmed.
    assert graph.change_state("deactivate", "planner_node") == []
    graph.spin_for(0.2)
    sent = len(watcher.trajectories)
    graph.spin_for(1.0)
    assert len(watcher.trajectories) == sent
    assert np.abs(as_trajectory(watcher.trajectories[-1][1]).velocities[-1]).max() == 0
    assert graph.change_state("activate", "planner_node") == []
    graph.spin_for(1.0)
    assert len(watcher.trajectories) == sent

    # What each node reports about itself.
    for name in NODES:
        assert name in watcher.statuses
    _, camera = watcher.statuses["camera_node"]
    assert int(camera["frames_encoded"]) > 20
    assert int(camera["frames_encoded"]) + int(camera["frames_dropped"]) <= int(camera["frames_in"])
    assert float(camera["encode_ms_p95"]) > 0

    # The picture that came over ROS is the one that the simulator draws.
    frame = message_to_rgb(watcher.images[-1])
    info = watcher.infos[-1]
    assert frame.shape == (info.height, info.width, 3)
    assert frame.std() > 10


def test_the_simulated_arm_is_put_where_an_experiment_wants_it(graph):
    watcher = Watcher(graph)
    graph.start("sim_node", {"rate": 10.0})
    graph.bring_up("sim_node")
    graph.spin_until(lambda: watcher.images, 30, "a picture")
    setter = graph.node.create_publisher(JointState, "/sim_node/set_joint_state", 1)
    graph.spin_until(lambda: setter.get_subscription_count() == 1, 10, "the simulator to listen")
    wanted = np.array([0.7, -1.2])
    setter.publish(joint_state_message(JOINTS, wanted, np.zeros(2), 0))
    graph.spin_until(lambda: np.abs(watcher.position() - wanted).max() < 1e-3, 5, "the arm to be there")
    stamps = np.array([nanoseconds(message.header.stamp) for message in watcher.joint_states])
    assert (np.diff(stamps) > 0).all(), "stamps go on through the reset"

    poses = []
    graph.node.create_subscription(PoseStamped, "/sim_node/block/pose", poses.append, 10)
    putter = graph.node.create_publisher(PoseStamped, "/sim_node/block/set_pose", 1)
    graph.spin_until(lambda: poses and putter.get_subscription_count() == 1, 10, "the block's place")
    turned = np.array([0.2, -0.4, 0.025, np.cos(0.5), 0.0, 0.0, np.sin(0.5)])
    putter.publish(pose_message(turned, 0, "base_link"))  # another frame: refused
    putter.publish(pose_message(turned + [0, 0.1, 0, 0, 0, 0, 0], 0, "world"))
    graph.spin_until(lambda: abs(poses[-1].pose.position.y + 0.3) < 2e-3, 5, "the block to be there")
    np.testing.assert_allclose(message_to_pose(poses[-1], "world")[3:], turned[3:], atol=1e-2)
    assert np.abs(watcher.position() - wanted).max() < 1e-3, "the arm stays where it is"

    watcher.images.clear()
    graph.spin_for(3.0)
    stamps = np.array([nanoseconds(message.header.stamp) for message in watcher.images]) / 1e9
    assert len(stamps) >= 20
    assert np.median(np.diff(stamps)) == pytest.approx(0.1, abs=0.011)


def test_when_the_camera_dies_the_arm_holds_and_goes_on_when_it_is_back(graph, bundle, limits):
    watcher = start_all(graph, bundle, limits, enable_on_start=True)
    with ArmSim() as sim:
        sim.reset(joint_positions=[-1.0, 1.5])
        goals = graph.node.create_publisher(Image, "goal_image", LATCHED)
        goals.publish(rgb_to_message(sim.render(), time.time_ns()))
    graph.spin_until(lambda: len(watcher.trajectories) >= 4, 30, "trajectories")
    graph.process("camera_node").kill()
    graph.process("camera_node").wait()
    graph.forget("camera_node")
    graph.spin_until(lambda: "planner_node" in watcher.statuses, 30, "the planner's diagnostics")
    graph.spin_until(lambda: "holding" in watcher.statuses["planner_node"][0].message, 5, "the planner to hold")
    graph.spin_for(1.0)
    rest, sent = watcher.position(), len(watcher.trajectories)
    graph.spin_for(0.5)
    assert np.abs(watcher.position() - rest).max() < 1e-3
    assert len(watcher.trajectories) == sent
    assert "frame" in watcher.statuses["planner_node"][0].message

    graph.start("camera_node", {"model": str(bundle.folder)})
    graph.bring_up("camera_node")
    graph.spin_until(lambda: len(watcher.trajectories) > sent, 20, "trajectories after the camera is back")


def test_with_simulated_time_the_simulator_is_the_clock_and_the_loop_runs_on_it(graph, bundle, limits):
    watcher = Watcher(graph)
    shared = {"use_sim_time": True}
    model = {"model": str(bundle.folder), **shared}
    clocks = []
    graph.node.create_subscription(Clock, "/clock", lambda message: clocks.append(nanoseconds(message.clock)), 10)
    graph.start("sim_node", shared)
    graph.start("camera_node", model)
    graph.start("planner_node", {**model, **limit_parameters(limits), "enable_on_start": True})
    goals = graph.node.create_publisher(Image, "goal_image", LATCHED)
    with ArmSim() as sim:
        sim.reset(joint_positions=[1.0, 1.0])
        goals.publish(rgb_to_message(sim.render(), 0))
    graph.bring_up(*NODES)
    graph.spin_until(lambda: len(watcher.trajectories) >= 4, 30, "trajectories")
    assert clocks == sorted(clocks)
    for _, message in watcher.trajectories:
        assert 0 < nanoseconds(message.header.stamp) <= clocks[-1] < 600e9
        assert find_violation(as_trajectory(message), limits) is None


def test_a_params_file_may_override_the_quality_of_service_and_the_topics_are_named_as_image_transport_does(
    graph, bundle, limits
):
    def reliability(ends):
        return {end.node_name: end.qos_profile.reliability.name for end in ends}

    override = "qos_overrides.{}.{}.reliability".format
    camera = {"compressed": True, override("/color/image_raw/compressed", "subscription"): "reliable"}
    arm = {override("/joint_states", "subscription"): "reliable"}
    arm |= {override("/arm_controller/joint_trajectory", "publisher"): "best_effort"}
    model = {"model": str(bundle.folder)}
    graph.start("camera_node", {**model, **camera}, remappings={"camera/image_raw": "/color/image_raw"})
    graph.start("planner_node", {**model, **limit_parameters(limits), **arm})
    graph.bring_up("camera_node", "planner_node")
    node = graph.node
    seen = {
        "/color/image_raw/compressed": node.get_subscriptions_info_by_topic,
        "/joint_states": node.get_subscriptions_info_by_topic,
        "/arm_controller/joint_trajectory": node.get_publishers_info_by_topic,
    }
    graph.spin_until(lambda: all(ends(topic) for topic, ends in seen.items()), 10, "the topics")
    assert [reliability(ends(topic)) for topic, ends in seen.items()] == [
        {"camera_node": "RELIABLE"},
        {"planner_node": "RELIABLE"},
        {"planner_node": "BEST_EFFORT"},
    ]


def test_a_camera_node_that_waits_to_capture_a_goal_ends_when_it_is_told_to(graph, bundle):
    graph.start("camera_node", {"model": str(bundle.folder)})
    graph.bring_up("camera_node")
    pictures = graph.node.create_publisher(Image, "camera/image_raw", NEWEST_FRAME)
    picture = np.zeros((64, 64, 3), np.uint8)
    graph.spin_until(pictures.get_subscription_count, 10, "the node's subscription")
    client = graph.node.create_client(Trigger, "/camera_node/capture_goal")
    graph.spin_until(client.service_is_ready, 10, "its service")
    for _ in range(5):  # of which it cannot tell yet whether the exposure is steady
        pictures.publish(rgb_to_message(picture, time.time_ns()))
        graph.spin_for(0.05)
    answer = client.call_async(Trigger.Request())
    graph.spin_for(0.5)
    assert not answer.done()
    graph.process("camera_node").send_signal(signal.SIGINT)
    assert graph.process("camera_node").wait(5) == 0
    graph.forget("camera_node")


def test_the_simulator_describes_its_arm_and_its_pictures_lie_in_an_optical_frame(graph):
    told, pictures = [], []
    graph.node.create_subscription(String, "robot_description", told.append, LATCHED)
    graph.node.create_subscription(Image, "camera/image_raw", pictures.append, NEWEST_FRAME)
    graph.start("sim_node", {})
    graph.bring_up("sim_node")
    graph.spin_until(lambda: told and pictures, 15, "a description and a picture")
    joints = {joint.get("name") for joint in ElementTree.fromstring(told[0].data).iter("joint")}
    assert set(JOINTS) <= joints
    assert pictures[0].header.frame_id == "camera_link_optical"


def test_what_killed_nodes_left_in_shared_memory_is_removed_and_nothing_that_another_may_be_using(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("lewm_ros.graph.SHARED_MEMORY", tmp_path)
    monkeypatch.setenv("ROS_DOMAIN_ID", "3")
    ours, used, others = (f"fastrtps_port{port}" for port in (7400 + 3 * 250, 8399, 8400))
    dead, starting = "fastrtps_0123456789abcdef", "fastrtps_fedcba9876543210"
    for name, lock in ((ours, "el"), (used, "sl"), (others, "el"), (dead, "el"), (starting, "el")):
        (tmp_path / name).touch()
        (tmp_path / f"{name}_{lock}").touch()
        (tmp_path / f"sem.{name}_mutex").touch()
    (tmp_path / f"{used}_el").touch()  # as while another process looks whether it is in use
    os.utime(tmp_path / dead, (0, 0))
    with (tmp_path / f"{used}_sl").open() as user:
        fcntl.flock(user, fcntl.LOCK_SH)
        free_shared_memory()
    left = {path.name for path in tmp_path.iterdir()}
    assert not {name for name in left if ours in name or dead in name}
    for name, lock in ((used, "sl"), (others, "el"), (starting, "el")):
        assert {name, f"{name}_{lock}", f"sem.{name}_mutex"} <= left
