# SPDX-License-Identifier: Apache-2.0
"""Gives every test module a ROS domain of its own, so that neither other programs on the machine nor processes left
over from an earlier test can disturb it.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """What a test computes is so small that two threads only wait for each other."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


if importlib.util.find_spec("rclpy"):
    from lewm_ros.graph import free_shared_memory, reserve_domain

    _reserved = reserve_domain()  # for code that runs while modules are imported; held as long as the file is open

    @pytest.fixture(scope="module", autouse=True)
    def ros_domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        os.environ["ROS_HOME"] = str(tmp_path_factory.mktemp("ros_home"))  # logs, and which goals have ended
        with reserve_domain():
            yield
        free_shared_memory()
