# SPDX-License-Identifier: Apache-2.0
"""Raw camera pictures over DDS: what one process publishes, camera_node in another one receives."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

from bundles import tiny_bundle
from diagnostic_msgs.msg import DiagnosticArray

from lewm_ros.graph import Graph, set_environment

FRAMES, RATE_HZ = 300, 30.0
CAMERA = f"""
import time
import numpy as np
import rclpy
from sensor_msgs.msg import Image
from lewm_ros.camera_node import NEWEST_FRAME
from lewm_ros.messages import rgb_to_message, time_message

rclpy.init()
node = rclpy.create_node("camera")
publisher = node.create_publisher(Image, "camera/image_raw", NEWEST_FRAME)
while not publisher.get_subscription_count():
    time.sleep(0.1)
time.sleep(1.0)  # for the other side to have found this one, too
message = rgb_to_message(np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8), 0)
begin = time.monotonic()
for number in range({FRAMES}):
    time.sleep(max(begin + number / {RATE_HZ} - time.monotonic(), 0.0))
    message.header.stamp = time_message(time.time_ns())
    publisher.publish(message)
print(({FRAMES} - 1) / (time.monotonic() - begin), flush=True)
time.sleep(600.0)  # what has been sent stays there to be fetched
"""


def test_raw_pictures_of_640_x_480_arrive_at_30_hz(tmp_path):
    set_environment()
    bundle = tiny_bundle(tmp_path / "tiny")
    counts = {}

    def on_diagnostics(message):
        for status in message.status:
            if status.name == "camera_node":
                counts.update({value.key: value.value for value in status.values})

    with Graph("test_frames", tmp_path) as graph:
        graph.node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 10)
        graph.start("camera_node", {"model": str(bundle.folder)})
        graph.bring_up("camera_node")
        camera = subprocess.Popen([sys.executable, "-c", CAMERA], stdout=subprocess.PIPE, text=True, env=os.environ)
        try:
            rate_hz = float(camera.stdout.readline())  # the rate reached: below 30 Hz where the machine is too slow
            counts.clear()
            graph.spin_for(1.5)
            graph.spin_until(lambda: "frames_in" in counts, 30, "diagnostics after the last frame")
        finally:
            camera.kill()
            camera.communicate()
    received = int(counts["frames_in"])
    print(f"{received} of {FRAMES} frames arrived at {rate_hz:.1f} Hz, {counts['frames_encoded']} were encoded")
    assert received >= 0.95 * FRAMES
    assert int(counts["frames_encoded"]) + int(counts["frames_dropped"]) == received
