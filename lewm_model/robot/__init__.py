# SPDX-License-Identifier: Apache-2.0
"""What a robot is: its file, limits, kinematics, cameras."""
