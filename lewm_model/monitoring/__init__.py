# SPDX-License-Identifier: Apache-2.0
"""What the robot notices: surprise, novelty, vigilance."""
