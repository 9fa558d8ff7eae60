# SPDX-License-Identifier: Apache-2.0
"""Quality of service over real DDS: what does not fit is logged and shown in diagnostics, with who and why."""

import time

import numpy as np
import pytest
import yaml

rclpy = pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

from bundles import tiny_bundle
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter as RosParameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState

from lewm_model.config import resource
from lewm_ros.camera_node import CameraNode
from lewm_ros.messages import joint_state_message, rgb_to_message
from lewm_ros.planner_node import PlannerNode

TIMEOUT_S = 20.0
RELIABLE = QoSProfile(depth=5)
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
PLANNER = yaml.safe_load(resource("config", "plan.yaml").read_text())["/**/planner_node"]["ros__parameters"]
LIMITS = {"robot": PLANNER["robot"]}
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Peers:
    """A node of ours and another one, each a DDS participant of its own. `heard` is the newest of /diagnostics."""

    def __init__(self):
        rclpy.init()
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.other = rclpy.create_node("other", context=self.context)
        self.executors = [SingleThreadedExecutor(), SingleThreadedExecutor(context=self.context)]
        self.executors[1].add_node(self.other)
        self.heard = None
        self.other.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.own = None

    def _on_diagnostics(self, message):
        self.heard = message.status[0]

    def activate(self, node, **parameters):
        self.own = node
        self.executors[0].add_node(node)
        results = node.set_parameters([RosParameter(name, value=value) for name, value in parameters.items()])
        assert all(result.successful for result in results)
        node.trigger_configure()
        node.trigger_activate()
        assert node.state_label == "active"
        return node

    def until(self, condition, what):
        end = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < end, f"waited {TIMEOUT_S} s for {what}; {self.heard}"
            for executor in self.executors:
                executor.spin_once(timeout_sec=0.02)

    def says(self, *texts):
        return self.heard is not None and all(text in self.heard.message for text in texts)

    def close(self):
        if self.own is not None:
            self.own.deactivate()
            self.own.cleanup()
            self.own.destroy_node()
        self.other.destroy_node()
        for executor in self.executors:
            executor.shutdown()
        rclpy.shutdown(context=self.context)
        rclpy.shutdown()


@pytest.fixture
def peers():
    peers = Peers()
    yield peers
    peers.close()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return str(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny").folder)


def test_a_goal_picture_that_is_not_latched_is_named_until_its_publisher_goes(peers, bundle, capfd):
    peers.activate(CameraNode(), model=bundle)
    peers.until(lambda: peers.says("no frame has arrived"), "the first diagnostics")
    assert not peers.says("goal_image")
    volatile = peers.other.create_publisher(Image, "goal_image", RELIABLE)
    peers.until(lambda: peers.says("nothing arrives on /goal_image from other", "Volatile publisher"), "the warning")
    assert peers.heard.level == DiagnosticStatus.WARN
    log = [line for line in capfd.readouterr().err.splitlines() if "from other" in line]
    peers.heard = None
    peers.until(lambda: peers.heard, "diagnostics again")
    assert len(log) == 1 and "[WARN]" in log[0]
    assert "from other" not in capfd.readouterr().err, "it is logged once"
    peers.other.destroy_publisher(volatile)
    peers.until(lambda: not peers.says("goal_image"), "the warning to go")


def test_a_subscriber_who_asks_for_more_than_is_offered_is_named(peers, bundle):
    peers.activate(CameraNode(), model=bundle)
    peers.other.create_subscription(Image, "latent", print, RELIABLE)
    peers.until(lambda: peers.says("other gets nothing on /latent", "Best effort publisher"), "the warning")


def test_compressed_pictures_where_raw_ones_are_expected_are_named(peers, bundle):
    peers.activate(CameraNode(), model=bundle)
    peers.other.create_publisher(CompressedImage, "camera/image_raw", BEST_EFFORT)
    peers.until(lambda: peers.says("CompressedImage is sent, sensor_msgs/msg/Image is expected"), "a warning")


def test_what_fits_is_not_a_warning(peers, bundle):
    node = peers.activate(CameraNode(), model=bundle)
    for profile in (RELIABLE, BEST_EFFORT):
        peers.other.create_publisher(Image, "camera/image_raw", profile)
    peers.other.create_subscription(Image, "latent", print, BEST_EFFORT)
    peers.other.create_subscription(Image, "goal_latent", print, LATCHED)
    peers.other.create_subscription(Image, "goal_latent", print, RELIABLE)
    goals = peers.other.create_publisher(Image, "goal_image", LATCHED)
    peers.until(lambda: goals.get_subscription_count() and node.count_publishers("camera/image_raw") == 2, "discovery")
    peers.heard = None
    peers.until(lambda: peers.heard, "diagnostics")
    assert peers.heard.message == "no frame has arrived on camera/image_raw yet"


@pytest.mark.parametrize("profile", [RELIABLE, BEST_EFFORT], ids=["reliable", "best effort"])
def test_pictures_arrive_from_every_publisher(peers, bundle, profile):
    node = peers.activate(CameraNode(), model=bundle)
    camera = peers.other.create_publisher(Image, "camera/image_raw", profile)
    peers.until(camera.get_subscription_count, "the node to listen")
    picture = rgb_to_message(np.zeros((64, 64, 3), np.uint8), time.time_ns())

    def arrived():
        camera.publish(picture)
        return int(node.diagnose()[2]["frames_in"]) > 0

    peers.until(arrived, "a picture")


@pytest.mark.parametrize("profile", [RELIABLE, BEST_EFFORT], ids=["reliable", "best effort"])
def test_joint_states_arrive_from_every_publisher(peers, bundle, profile):
    node, arrived = PlannerNode(), []
    node._on_joint_state = arrived.append
    peers.activate(node, model=bundle, **LIMITS)
    arm = peers.other.create_publisher(JointState, "joint_states", profile)
    peers.until(arm.get_subscription_count, "the node to listen")
    state = joint_state_message(("shoulder", "elbow"), np.zeros(2), np.zeros(2), time.time_ns())
    peers.until(lambda: (arm.publish(state), arrived)[1], "a joint state")
