# SPDX-License-Identifier: Apache-2.0
"""The simulated trajectory controller, case by case against ros2_control's joint_trajectory_controller (jazzy)."""

from __future__ import annotations

import numpy as np
import pytest

from lewm_model.sim.controller import ControllerConfig, TrajectoryController

HERE, ELSEWHERE = np.array([0.2, -0.1]), np.array([0.25, -0.1])
CYCLE_S = 0.01


def controller(**config: object) -> TrajectoryController:
    return TrajectoryController(HERE, ControllerConfig(**config))  # type: ignore[arg-type]


def run(followed: TrajectoryController, until_s: float, measured: np.ndarray = HERE) -> np.ndarray:
    """Updates up to a time; returns the positions that are desired then."""
    while followed._now_s < until_s - 1e-9:
        followed.advance(np.array([followed._now_s + CYCLE_S]), measured)
    return followed.desired[0]


def test_it_holds_where_it_was_switched_on() -> None:
    np.testing.assert_array_equal(run(controller(), 0.5, measured=ELSEWHERE), HERE)


def test_a_trajectory_replaces_the_old_one_whole_and_at_once() -> None:
    followed = controller()
    followed.take([1.0], [HERE + 1.0], None, None, 0.0, HERE)
    run(followed, 0.5)
    followed.take([1.0], [HERE], None, None, 0.5, HERE)
    assert run(followed, 1.0) == pytest.approx(HERE + 0.25)
    assert run(followed, 1.5) == pytest.approx(HERE)
    assert run(followed, 2.5) == pytest.approx(HERE), "nothing of the first is executed"


def test_a_later_first_point_is_approached_from_where_the_arm_was_told_to_be() -> None:
    followed = controller()
    followed.take([0.5], [HERE + 0.5], None, None, 0.0, ELSEWHERE)
    assert run(followed, 0.25) == pytest.approx(HERE + 0.25)
    assert followed.largest_step_rad == 0.0


def test_without_interpolate_from_desired_state_from_where_it_is_measured() -> None:
    followed = controller(interpolate_from_desired_state=False)
    followed.take([0.5], [ELSEWHERE], None, None, 0.0, ELSEWHERE)
    assert run(followed, 0.25) == pytest.approx(ELSEWHERE)
    assert followed.largest_step_rad == pytest.approx(0.05)


def test_a_first_point_in_the_past_is_not_led_to() -> None:
    followed = controller()
    run(followed, 1.0)
    followed.take([0.0, 4.0], [HERE, HERE + 4.0], None, None, 0.0, HERE)
    assert run(followed, 1.01) == pytest.approx(HERE + 1.01)
    assert followed.largest_step_rad == pytest.approx(1.0)


def test_what_has_ended_is_refused_and_the_old_goes_on() -> None:
    followed = controller()
    followed.take([3.0], [HERE + 3.0], None, None, 0.0, HERE)
    run(followed, 1.0)
    with pytest.raises(ValueError, match="ended"):
        followed.take([0.5], [HERE], None, None, 0.0, HERE)
    assert run(followed, 2.0) == pytest.approx(HERE + 2.0)


def test_a_last_point_that_moves_is_refused_unless_allowed() -> None:
    moving = ([1.0], [HERE + 1.0], [[0.5, 0.0]], None, 0.0, HERE)
    with pytest.raises(ValueError, match="at rest"):
        controller(allow_nonzero_velocity_at_trajectory_end=False).take(*moving)
    controller().take(*moving)


@pytest.mark.parametrize(
    ("velocities", "accelerations", "degree"),
    [(None, None, 1), ([[1.0], [-0.5]], None, 3), ([[1.0], [-0.5]], [[2.0], [-3.0]], 5)],
)
def test_what_the_points_have_decides_between_line_cubic_and_quintic(velocities, accelerations, degree) -> None:
    followed = TrajectoryController(np.zeros(1), ControllerConfig())
    followed.take([0.0, 0.8], [[0.0], [0.3]], velocities, accelerations, 0.0, np.zeros(1))
    times = np.linspace(0.01, 0.79, 79)
    found = followed.advance(times, np.zeros(1))[:, 0]
    conditions = [(0.0, 0, 0.0), (0.8, 0, 0.3)]
    for order, values in ((1, velocities), (2, accelerations)):
        if values is not None:
            conditions += [(0.0, order, values[0][0]), (0.8, order, values[1][0])]
    # The only polynomial of this degree with these values at its ends.
    rows = []
    for at, order, _ in conditions:
        rows.append([np.polyval(np.polyder(np.eye(degree + 1)[i], order), at) for i in range(degree + 1)])
    wanted = np.linalg.solve(rows, [value for *_, value in conditions])
    np.testing.assert_allclose(found, np.polyval(wanted, times), atol=1e-12)
    np.testing.assert_allclose(followed.desired[1][0], np.polyval(np.polyder(wanted), times[-1]), atol=1e-10)
    np.testing.assert_allclose(followed.desired[2][0], np.polyval(np.polyder(wanted, 2), times[-1]), atol=1e-9)


def test_after_cmd_timeout_it_holds_where_the_arm_is_measured() -> None:
    followed = controller(cmd_timeout=0.3)
    followed.take([0.1], [HERE], None, None, 0.0, HERE)
    np.testing.assert_array_equal(run(followed, 0.38, measured=ELSEWHERE), HERE)
    np.testing.assert_array_equal(run(followed, 0.45, measured=ELSEWHERE), ELSEWHERE)
    np.testing.assert_array_equal(run(followed, 2.0, measured=HERE), ELSEWHERE)


def test_an_arm_that_strays_on_its_way_is_held_where_it_is() -> None:
    followed = controller(trajectory_tolerance=0.1)
    followed.take([1.0], [HERE + 1.0], None, None, 0.0, HERE)
    assert run(followed, 0.5, measured=HERE) == pytest.approx(HERE)


def test_a_turned_down_slider_stretches_a_trajectory_and_makes_the_next_one_jump() -> None:
    followed = controller()
    followed.speed_scaling = 0.5
    line = ([0.0, 2.0], [HERE, HERE + 2.0], None, None, 0.0, HERE)
    followed.take(*line)
    assert run(followed, 1.0) == pytest.approx(HERE + 0.5)
    assert followed.largest_step_rad == 0.0
    followed.take(*line)
    assert followed.largest_step_rad == pytest.approx(0.5)
