# SPDX-License-Identifier: Apache-2.0
"""Recordings of `ros2 bag record` (MCAP or SQLite) to episodes, without ROS: `convert.py` does it, and says how."""
