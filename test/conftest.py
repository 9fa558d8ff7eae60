# SPDX-License-Identifier: Apache-2.0
"""Gives every module of tests a ROS domain of its own: nothing on the machine talks into a test, and nothing that a
process left behind which an earlier test has killed.
"""

import importlib.util
import os
from collections.abc import Iterator

import pytest

if importlib.util.find_spec("rclpy"):
    from lewm_ros.graph import free_shared_memory, reserve_domain

    _reserved = reserve_domain()  # for what modules do while they are imported; as long as the file is open

    @pytest.fixture(scope="module", autouse=True)
    def ros_domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        os.environ["ROS_HOME"] = str(tmp_path_factory.mktemp("ros_home"))  # logs, and which goals have ended
        with reserve_domain():
            yield
        free_shared_memory()
