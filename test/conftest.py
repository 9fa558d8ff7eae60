"""Gives every run of the suite a ROS domain of its own, so that nothing else on the machine talks into a test."""

import importlib.util

if importlib.util.find_spec("rclpy"):
    from lewm_ros.graph import reserve_domain

    _reserved = reserve_domain()  # for as long as this file is open
