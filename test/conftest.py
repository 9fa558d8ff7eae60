# SPDX-License-Identifier: Apache-2.0
"""Gives every test module a ROS domain of its own, so that neither other programs on the machine nor processes left
over from an earlier test can disturb it.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator
from functools import cache

import pytest

# Without byte code of the packages (`environment.py` makes none) each of the hundred processes that tests start would
# compile torch anew, for longer than most of them run. The first that imports a module writes it, as is Python's way.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """What a test computes is so small that two threads only wait for each other."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def one_registry() -> Iterator[None]:
    """The exporter lists its 500 translations anew for every graph, which takes as long as many a test's model."""
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("torch"):
            registry = importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
            patch.setattr(registry, "from_torchlib", staticmethod(cache(registry.from_torchlib)))
        yield


if importlib.util.find_spec("rclpy"):
    from lewm_ros.graph import free_shared_memory, reserve_domain

    _reserved = reserve_domain()  # for code that runs while modules are imported; held as long as the file is open

    @pytest.fixture(scope="module", autouse=True)
    def ros_domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        os.environ["ROS_HOME"] = str(tmp_path_factory.mktemp("ros_home"))  # logs, and which goals have ended
        with reserve_domain():
            yield
        free_shared_memory()
