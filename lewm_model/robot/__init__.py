# SPDX-License-Identifier: Apache-2.0
"""Description of a robot: robot file, limits, kinematics, collision, cameras, actions."""
