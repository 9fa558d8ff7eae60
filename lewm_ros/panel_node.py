# SPDX-License-Identifier: Apache-2.0
"""The panel: one web page that shows what the robot sees, wants, imagines and doubts, and lets one person command it.

    ros2 run lewm_ros panel_node --ros-args -p model:=models/reach

It prints its address with a token. Commands need the token; watching needs only the address, and so does the stop
button. One browser commands at a time. When its connection is lost, another may take over, and its dead-man's button
counts as released. The panel runs in a process of its own, with a lower priority than the nodes that work.
docs/panel.md describes the page.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Sequence

import rclpy
from rclpy.executors import SingleThreadedExecutor

from lewm_model.bundle.bundle import BundleError
from lewm_model.data.errors import DataError
from lewm_model.runtime.errors import RuntimeLoadError
from lewm_ros.goals import GoalError
from lewm_ros.node import NICENESS, spin, start_ros
from lewm_ros.panel.ros import PanelNode
from lewm_ros.panel.server import Panel, serve
from lewm_ros.parameters import ParameterError


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the node until the process is told to end (SIGINT, SIGTERM)."""
    os.nice(NICENESS)
    start_ros(arguments)
    try:
        node = PanelNode()
    except (ParameterError, BundleError, RuntimeLoadError, GoalError, DataError) as error:
        rclpy.try_shutdown()
        sys.exit(f"panel_node: {error}")
    panel = Panel(node)
    executor, ended = SingleThreadedExecutor(), threading.Event()
    executor.add_node(node)
    thread = threading.Thread(target=spin, args=(executor, lambda: not ended.is_set(), node), daemon=True)
    thread.start()

    def ready(address: str) -> None:
        node.get_logger().info(f"the panel is at {address}#token={panel.token} (without the token it only shows)")

    async def until_told() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        await serve(panel, node.values["host"], node.values["port"], ready)

    try:
        asyncio.run(until_told())
    except (asyncio.CancelledError, KeyboardInterrupt):
        pass
    except OSError as error:
        node.get_logger().fatal(f"the panel cannot listen on {node.values['host']}:{node.values['port']}: {error}")
    finally:
        ended.set()
        thread.join(2.0)
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
