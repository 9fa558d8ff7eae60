# SPDX-License-Identifier: Apache-2.0
"""Joint trajectories between their points: the values ros2_control's joint_trajectory_controller would command."""

from __future__ import annotations

import numpy as np
import pytest

from lewm_model.robot.trajectory import JointTrajectory

HERE, REST = np.array([0.0, 1.0]), np.zeros(2)


def test_positions_alone_are_followed_in_straight_lines() -> None:
    trajectory = JointTrajectory([1.0, 3.0], [[1.0, 1.0], [2.0, -1.0]], None, 10.0, 10.0, HERE, REST)
    expected = [[0.0, 1.0], [0.5, 1.0], [1.0, 1.0], [1.5, 0.0], [2.0, -1.0]]
    np.testing.assert_allclose(trajectory.sample([10.0, 10.5, 11.0, 12.0, 13.0]), expected, atol=1e-15)


def test_velocities_make_it_cubic() -> None:
    # p(u) = h00 p0 + h10 m0 + h01 p1 + h11 m1 with m = velocity x duration; at u = 1/2: 1/2, 1/8, 1/2, -1/8.
    trajectory = JointTrajectory([0.0, 2.0], [[0.0], [1.0]], [[0.5], [-1.0]], 0.0, 0.0, np.zeros(1), np.zeros(1))
    np.testing.assert_allclose(trajectory.sample([1.0]), [[0.5 + 0.125 * 1.0 + 0.125 * 2.0]])
    # At u = 1/4: 27/32, 9/64, 5/32, -3/64.
    np.testing.assert_allclose(trajectory.sample([0.5]), [[9 / 64 * 1.0 + 5 / 32 * 1.0 + 3 / 64 * 2.0]])


def test_before_the_first_point_it_starts_from_the_state_at_receipt() -> None:
    # A cubic from (0, 0.4 rad/s) to (1, 0) in 1 s: 1/2 x 1 + 1/8 x 0.4 half way.
    trajectory = JointTrajectory([1.0], [[1.0]], [[0.0]], 5.0, 5.0, np.zeros(1), np.array([0.4]))
    np.testing.assert_allclose(trajectory.sample([5.0, 5.5]), [[0.0], [0.55]])


def test_a_start_in_the_future_is_approached_from_receipt_on() -> None:
    trajectory = JointTrajectory([0.0, 1.0], [[1.0], [1.0]], None, 7.0, 5.0, np.zeros(1), np.zeros(1))
    np.testing.assert_allclose(trajectory.sample([5.0, 6.0, 7.0, 8.0]), [[0.0], [0.5], [1.0], [1.0]])


def test_a_start_in_the_past_joins_the_trajectory_where_it_should_be_by_now() -> None:
    trajectory = JointTrajectory([0.0, 4.0], [[0.0], [4.0]], None, 0.0, 3.0, np.zeros(1), np.zeros(1))
    np.testing.assert_allclose(trajectory.sample([3.0, 3.5]), [[3.0], [3.5]])


def test_after_the_last_point_it_stays_there() -> None:
    trajectory = JointTrajectory([0.0, 1.0], [[0.0], [2.0]], [[0.0], [3.0]], 0.0, 0.0, np.zeros(1), np.zeros(1))
    np.testing.assert_array_equal(trajectory.sample([1.0, 1.5, 100.0]), [[2.0], [2.0], [2.0]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"times_s": []}, "one time per point"),
        ({"times_s": [0.0, 0.0]}, "increase"),
        ({"times_s": [-1.0, 1.0]}, "start at 0"),
        ({"times_s": [0.0, np.nan]}, "NaN"),
        ({"positions": [[0.0, 1.0]]}, "2 points of 2 joints"),
        ({"positions": [[0.0], [1.0]]}, "2 points of 2 joints"),
        ({"positions": [[0.0, 1.0], [np.inf, 1.0]]}, "infinity"),
        ({"velocities": [[0.0, 1.0]]}, "give the same"),
        ({"velocities": [[0.0, 1.0], [0.0, np.nan]]}, "NaN"),
        ({"start_s": np.nan}, "finite"),
        ({"start_s": 8.0}, "ended at 9"),
    ],
)
def test_a_bad_trajectory_is_refused_with_its_reason(changes: dict, message: str) -> None:
    good = {
        "times_s": [0.0, 1.0],
        "positions": [[0.0, 1.0], [1.0, 1.0]],
        "velocities": None,
        "start_s": 10.0,
        "now_s": 10.0,
        "position_now": HERE,
        "velocity_now": REST,
    }
    JointTrajectory(**good)
    with pytest.raises(ValueError, match=message):
        JointTrajectory(**{**good, **changes})
