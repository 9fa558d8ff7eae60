# SPDX-License-Identifier: Apache-2.0
"""camera_node and planner_node in one process: two nodes, with their own names, parameters and lifecycles."""

import signal
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

from bundles import tiny_bundle
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import GetParameters
from sensor_msgs.msg import Image

from lewm_model.config import resource
from lewm_ros.camera_node import LATCHED, NEWEST_FRAME
from lewm_ros.graph import Graph, set_environment
from lewm_ros.messages import nanoseconds, rgb_to_message

NODES = ("camera_node", "planner_node")
PICTURE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


@pytest.fixture
def graph(tmp_path):
    set_environment()
    with Graph("test_composed", tmp_path) as graph:
        model = {"model": str(tiny_bundle(tmp_path / "tiny").folder)}
        graph.start("composed", model, base=resource("config", "plan.yaml"))
        graph.bring_up(*NODES)
        yield graph


def wait_for_the_end(graph):
    end = time.monotonic() + 30.0
    while graph.process("composed").poll() is None:
        assert time.monotonic() < end, graph.log("composed")
        time.sleep(0.05)
    code = graph.process("composed").returncode
    graph.forget("composed")
    return code


def test_both_nodes_work_in_one_process_with_their_own_names_and_sections(graph):
    names = ["robot", "plan.horizon"]
    requests = {f"/{node}/get_parameters": GetParameters.Request(names=names) for node in NODES}
    answers = graph.call(GetParameters, requests)
    assert not answers["/camera_node/get_parameters"].values, "it has no such parameters"
    robot, horizon = answers["/planner_node/get_parameters"].values
    assert robot.string_value == "tabletop", "of config/plan.yaml"
    assert horizon.integer_value == 0, "the bundle's"

    latents, goals, heard = [], [], set()
    graph.node.create_subscription(Image, "latent", latents.append, NEWEST_FRAME)
    graph.node.create_subscription(Image, "goal_latent", goals.append, LATCHED)
    graph.node.create_subscription(DiagnosticArray, "/diagnostics", lambda m: heard.add(m.status[0].name), 10)
    pictures = graph.node.create_publisher(Image, "camera/image_raw", NEWEST_FRAME)
    goal = graph.node.create_publisher(Image, "goal_image", LATCHED)
    goal.publish(rgb_to_message(PICTURE, 1))
    stamps = []

    def send():
        stamps.append(time.time_ns())
        pictures.publish(rgb_to_message(PICTURE, stamps[-1]))

    graph.node.create_timer(0.05, send)
    graph.spin_until(lambda: len(latents) >= 5 and goals, 30, "latents of pictures and goal")
    assert nanoseconds(latents[-1].header.stamp) in stamps
    graph.spin_until(lambda: heard == set(NODES), 30, "diagnostics of both nodes")


def test_each_node_has_a_lifecycle_of_its_own(graph):
    assert graph.change_state("deactivate", "camera_node") == []
    assert graph.change_state("deactivate", "planner_node") == [], "it was still active"
    assert graph.change_state("activate", "camera_node") == []
    assert graph.change_state("activate", "planner_node") == []


def test_the_process_ends_in_order_when_it_is_told_to(graph):
    graph.process("composed").send_signal(signal.SIGINT)
    assert wait_for_the_end(graph) == 0
    assert "bug" not in graph.log("composed")


def test_when_one_node_is_shut_down_the_other_ends_with_it(graph):
    assert graph.change_state("active_shutdown", "camera_node") == []
    assert wait_for_the_end(graph) == 0
    assert "bug" not in graph.log("composed")
