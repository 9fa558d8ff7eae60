# SPDX-License-Identifier: Apache-2.0
"""LeWorldModel (arXiv 2603.19312) for robots: training, export, planning and simulation. Nothing here needs ROS."""

__version__ = "0.2.0"
