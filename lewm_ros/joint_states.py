# SPDX-License-Identifier: Apache-2.0
"""Collects joint positions from `joint_states`, which arm driver, gripper driver and others may publish in parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from sensor_msgs.msg import JointState

from lewm_ros.messages import NANOSECONDS, MessageError, message_to_joint_positions, nanoseconds

DISPUTED_S = 1.0  # how long positions are refused after two publishers have contradicted each other


class JointStates:
    """Combines the positions of the joints `names` from the messages of one publisher or several.

    :param publishers: returns the names of the nodes that publish on the topic.
    :param fastest: (A,) rad/s, greatest speed of each joint, and
    :param far_rad: tolerance: positions in two messages that differ by more than speed times time plus this contradict
        each other.
    """

    def __init__(
        self, names: Sequence[str], publishers: Callable[[], Sequence[str]], fastest: np.ndarray, far_rad: float
    ) -> None:
        self.names, self._publishers, self._far_rad = tuple(names), publishers, far_rad
        self._fastest = dict(zip(names, fastest, strict=True))
        self._known: dict[str, tuple[int, float]] = {}  # joint -> stamp (ns) and position (rad)
        self._dispute, self._disputed_s = "", -np.inf

    def take(self, message: JointState) -> tuple[int, np.ndarray] | None:
        """Takes a message; returns positions (A,) rad and the oldest of their stamps (ns), None for foreign joints.

        :raises MessageError: a position is missing or not finite, or two publishers contradict each other.
        """
        stamp_ns = nanoseconds(message.header.stamp)
        ours = [name for name in message.name[: len(message.position)] if name in self.names]
        if not ours and self._known:
            return None  # of a gripper, for instance
        if not ours:
            message_to_joint_positions(message, self.names)  # raises the error that names the missing joints
        found = dict(zip(ours, message_to_joint_positions(message, ours), strict=True))
        now_s = time.monotonic()
        far = [name for name in ours if self._is_far(name, stamp_ns, found[name])]
        if far and len(self._publishers()) > 1:
            self._dispute = (
                f"joint '{far[0]}' is published by more than one node, and they disagree: "
                f"{', '.join(sorted(self._publishers()))}; let one of them publish it"
            )
            self._disputed_s = now_s
        if now_s - self._disputed_s < DISPUTED_S:
            self._known.clear()
            self._known.update({name: (stamp_ns, position) for name, position in found.items()})
            raise MessageError(self._dispute)
        self._known.update({name: (stamp_ns, position) for name, position in found.items()})
        missing = [name for name in self.names if name not in self._known]
        if missing:
            raise MessageError(
                f"joint_states has no position for {', '.join(missing)}; it has {', '.join(self._known)} so far"
            )
        stamps, positions = zip(*(self._known[name] for name in self.names), strict=True)
        return min(stamps), np.array(positions)

    def _is_far(self, name: str, stamp_ns: int, position: float) -> bool:
        """Whether a joint cannot have moved to this position since its last message."""
        if name not in self._known:
            return False
        then_ns, before = self._known[name]
        way = self._fastest[name] * abs(stamp_ns - then_ns) / NANOSECONDS
        return bool(abs(position - before) > self._far_rad + way)
