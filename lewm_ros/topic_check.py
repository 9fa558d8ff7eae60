# SPDX-License-Identifier: Apache-2.0
"""Checks whether the topics that the planner needs carry messages: listens for a while and prints the result as JSON.

`lewm doctor` runs it as a separate program, since lewm_model does not depend on ROS.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image, JointState

TYPES = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}
TYPES["sensor_msgs/msg/JointState"] = JointState


def listen(topics: list[str], seconds: float) -> dict[str, Any]:
    """By topic: published types, number of publishers and subscribers, messages per second, and a summary of one."""
    rclpy.init()
    node = Node("lewm_doctor")
    counts = dict.fromkeys(topics, 0)
    contents: dict[str, str] = {}
    known: dict[str, list[str]] = {}

    def subscribe(topic: str) -> None:
        def take(message: Any) -> None:
            counts[topic] += 1
            contents[topic] = _content(message)

        for kind in known.get(topic, []):
            if kind in TYPES:
                node.create_subscription(TYPES[kind], topic, take, qos_profile_sensor_data)

    try:
        full = {topic: node.resolve_topic_name(topic) for topic in topics}
        waiting = set(topics)
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            for name, kinds in node.get_topic_names_and_types():
                for topic in [t for t in waiting if full[t] == name and node.count_publishers(name)]:
                    known[topic] = list(kinds)
                    subscribe(topic)
                    waiting.remove(topic)
            rclpy.spin_once(node, timeout_sec=0.1)
        return {
            topic: {
                "name": full[topic],
                "types": known.get(topic, []),
                "publishers": node.count_publishers(full[topic]),
                "subscribers": node.count_subscribers(full[topic]) - (topic in known),
                "rate_hz": round(counts[topic] / seconds, 1),
                "content": contents.get(topic, ""),
            }
            for topic in topics
        }
    finally:
        node.destroy_node()
        rclpy.shutdown()


def _content(message: Any) -> str:
    if isinstance(message, Image):
        return f"{message.width} x {message.height} {message.encoding}"
    if isinstance(message, CompressedImage):
        return message.format
    return ", ".join(message.name)


def main() -> None:
    """Runs the check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("topics", nargs="+")
    arguments = parser.parse_args()
    print(json.dumps(listen(arguments.topics, arguments.seconds)))


if __name__ == "__main__":
    main()
