# SPDX-License-Identifier: Apache-2.0
"""viewer_node as an executable, and a goal that is sent while only a viewer listens."""

import signal
import subprocess
import sys

import cv2
import pytest

pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

from sensor_msgs.msg import Image

from lewm_model.config import resource
from lewm_model.sim.arm import ArmSim
from lewm_ros.camera_node import LATCHED
from lewm_ros.graph import Graph, set_environment

MODEL = str(resource("models", "reach"))


@pytest.fixture
def graph(tmp_path):
    set_environment()
    with Graph("test_viewer_process", tmp_path) as graph:
        yield graph


def test_it_comes_up_with_the_lowest_priority_and_ends_when_it_is_told_to(graph):
    graph.start("viewer_node", {"model": MODEL})
    graph.spin_until(lambda: graph.node.count_publishers("debug_image"), 60.0, "viewer_node to come up")
    process = graph.process("viewer_node")
    with open(f"/proc/{process.pid}/stat") as file:
        assert int(file.read().rpartition(")")[2].split()[16]) > 0  # its niceness
    process.send_signal(signal.SIGINT)
    graph.forget("viewer_node")
    assert process.wait(30.0) == 0


def test_a_model_that_is_not_there_ends_it_with_one_line(graph):
    graph.start("viewer_node", {"model": "/nowhere"})
    process = graph.process("viewer_node")
    graph.forget("viewer_node")
    assert process.wait(60.0) == 1
    assert "viewer_node: there is no model bundle at /nowhere" in graph.log("viewer_node")
    assert "Traceback" not in graph.log("viewer_node")


def test_a_goal_is_not_lost_to_a_viewer_that_listened_before_the_camera_node(graph, tmp_path):
    with ArmSim() as sim:
        cv2.imwrite(str(tmp_path / "goal.png"), cv2.cvtColor(sim.render(), cv2.COLOR_RGB2BGR))
    graph.start("viewer_node", {"model": MODEL})
    graph.start("camera_node", {"model": MODEL})  # not active yet: it does not listen
    graph.spin_until(lambda: graph.node.count_publishers("debug_image"), 60.0, "viewer_node to come up")
    goals: list[Image] = []
    graph.node.create_subscription(Image, "goal_latent", goals.append, LATCHED)
    sending = subprocess.Popen([sys.executable, "-m", "lewm_ros.send_goal", str(tmp_path / "goal.png")])
    graph.spin_for(3.0)
    assert sending.poll() is None, "it waits for the camera node"
    graph.bring_up("camera_node")
    graph.spin_until(lambda: goals, 30.0, "the goal to arrive")
    assert sending.wait(30.0) == 0
