# SPDX-License-Identifier: Apache-2.0
"""What `lewm doctor` asks of ROS: which topics carry messages, at what rate, and what is in them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

from sensor_msgs.msg import Image, JointState


def test_it_hears_a_camera_and_sees_that_nobody_publishes_joint_states() -> None:
    rclpy.init()
    node = rclpy.create_node("camera")
    publisher = node.create_publisher(Image, "some/camera", 5)
    command = [sys.executable, "-m", "lewm_ros.topic_check", "--seconds", "5", "some/camera", "joint_states"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as check:
        while check.poll() is None:
            publisher.publish(Image(width=4, height=2, encoding="rgb8"))
            rclpy.spin_once(node, timeout_sec=0.05)
        assert check.stdout is not None
        found = json.loads(check.stdout.read())
    node.destroy_node()
    rclpy.shutdown()
    assert found["some/camera"]["publishers"] == 1 and found["some/camera"]["rate_hz"] > 1
    assert found["some/camera"]["content"] == "4 x 2 rgb8"
    assert found["joint_states"] == {
        "name": "/joint_states",
        "types": [],
        "publishers": 0,
        "subscribers": 0,
        "rate_hz": 0.0,
        "content": "",
    }


def test_a_publisher_that_is_silent_is_told_from_none() -> None:
    rclpy.init()
    node = rclpy.create_node("arm")
    node.create_publisher(JointState, "joint_states", 5)
    command = [sys.executable, "-m", "lewm_ros.topic_check", "--seconds", "4", "joint_states"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["joint_states"]
    node.destroy_node()
    rclpy.shutdown()
    assert found["types"] == ["sensor_msgs/msg/JointState"] and found["publishers"] == 1 and found["rate_hz"] == 0
