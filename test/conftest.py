"""Gives every run of the suite a ROS domain of its own, so that nothing else on the machine talks into a test."""

import fcntl
import os
import random
import tempfile
from pathlib import Path

import pytest


def _reserve_ros_domain() -> int:
    """A ROS domain that no other test run of this machine uses, reserved until this process ends.

    Domains above 101 collide with the ephemeral ports of Linux, 0 is everyone's default.
    """
    for domain in random.sample(range(1, 102), k=101):
        lock = (Path(tempfile.gettempdir()) / f"lewm_ros_domain_{domain}.lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        _reserved.append(lock)
        return domain
    raise pytest.UsageError("test runs on this machine hold every ROS domain from 1 to 101; wait for one to end")


_reserved: list = []  # open lock files; closing one gives its domain back

os.environ["ROS_DOMAIN_ID"] = str(_reserve_ros_domain())
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
