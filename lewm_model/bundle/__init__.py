# SPDX-License-Identifier: Apache-2.0
"""The folder that the trainer writes and the robot loads."""
