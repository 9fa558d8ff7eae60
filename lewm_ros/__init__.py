# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 side: thin nodes that turn messages into calls of lewm_model and back."""
