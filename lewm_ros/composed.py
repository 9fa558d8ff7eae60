# SPDX-License-Identifier: Apache-2.0
"""camera_node and planner_node in one process: less memory and one CUDA context, but slower plans because of the GIL.

    ros2 launch lewm_ros plan.launch.py composed:=true

Both keep their names, their sections of the params file, their topics and their lifecycles. They share one thread for
callbacks: while one is configured the other handles no messages, and a crash of one ends both.
"""

from __future__ import annotations

from collections.abc import Sequence

from lewm_ros.camera_node import CameraNode
from lewm_ros.node import run
from lewm_ros.planner_node import PlannerNode


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs both nodes."""
    run(CameraNode, PlannerNode, arguments=arguments)


if __name__ == "__main__":
    main()
