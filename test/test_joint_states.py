# SPDX-License-Identifier: Apache-2.0
"""Joint positions of one arm from what several nodes publish."""

from __future__ import annotations

import numpy as np
import pytest
from sensor_msgs.msg import JointState

from lewm_ros.joint_states import JointStates
from lewm_ros.messages import MessageError, joint_state_message

NAMES = ("shoulder", "elbow")
BOTH = ("/arm_driver", "/gripper_driver")


def heard(*publishers: str) -> JointStates:
    return JointStates(NAMES, lambda: publishers, np.full(2, 1.5), 0.05)


def message(stamp_s: float, **positions: float) -> JointState:
    values = np.array(list(positions.values()))
    return joint_state_message(list(positions), values, 0 * values, round(stamp_s * 1e9))


def test_a_gripper_that_publishes_beside_the_arm_is_no_joint_state_of_the_arm() -> None:
    states = heard(*BOTH)
    assert states.take(message(1.0, shoulder=0.1, elbow=0.2)) is not None
    assert states.take(message(1.01, finger=0.5)) is None
    stamp_ns, positions = states.take(message(1.02, elbow=0.21, shoulder=0.1)) or (0, None)
    assert stamp_ns == 1_020_000_000
    np.testing.assert_allclose(positions, [0.1, 0.21])


def test_joints_may_come_in_several_messages_and_are_as_old_as_the_oldest() -> None:
    states = heard(*BOTH)
    with pytest.raises(MessageError, match="no position for elbow"):
        states.take(message(1.0, shoulder=0.1))
    found = states.take(message(1.1, elbow=0.2))
    assert found is not None and found[0] == 1_000_000_000
    np.testing.assert_allclose(found[1], [0.1, 0.2])


def test_an_arm_that_nobody_publishes_is_told_with_what_there_is() -> None:
    with pytest.raises(MessageError, match="shoulder, elbow; it has finger"):
        heard(BOTH[1]).take(message(1.0, finger=0.5))


def test_two_that_publish_a_joint_and_disagree_are_named_and_not_believed() -> None:
    states = heard(*BOTH)
    assert states.take(message(1.0, shoulder=0.5, elbow=0.2)) is not None
    for stamp_s, shoulder in ((1.01, 0.0), (1.02, 0.5), (1.03, 0.0)):
        with pytest.raises(MessageError, match=r"'shoulder'.*/arm_driver, /gripper_driver"):
            states.take(message(stamp_s, shoulder=shoulder, elbow=0.2))


def test_an_arm_that_moves_fast_and_is_heard_of_seldom_is_no_dispute() -> None:
    states = heard(*BOTH)
    assert states.take(message(1.0, shoulder=0.0, elbow=0.2)) is not None
    assert states.take(message(1.2, shoulder=0.3, elbow=0.2)) is not None


def test_a_single_publisher_is_believed_whatever_it_says() -> None:
    states = heard(BOTH[0])
    assert states.take(message(1.0, shoulder=0.0, elbow=0.2)) is not None
    assert states.take(message(1.01, shoulder=2.0, elbow=0.2)) is not None, "the shield looks at that"
