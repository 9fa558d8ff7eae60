# SPDX-License-Identifier: Apache-2.0
"""The example arms: limits within what the manufacturers publish, and controllers that command the same joints.

None of this was run on an arm. What can be wrong in the files themselves is checked here.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from lewm_model.config import resource
from lewm_model.planning.motion import KnotLimits
from lewm_model.robot.limits import JointLimits
from lewm_model.robot.robot import load_robot

DEGREE = math.pi / 180
# Published numbers, sources in the files: lower and upper rad, velocity rad/s, acceleration rad/s^2, jerk rad/s^3.
PUBLISHED: dict[str, tuple[list[float], list[float], list[float], float, float]] = {
    "ur5e": (
        [-2 * math.pi, -2 * math.pi, -math.pi, -2 * math.pi, -2 * math.pi, -2 * math.pi],
        [2 * math.pi, 2 * math.pi, math.pi, 2 * math.pi, 2 * math.pi, 2 * math.pi],
        [180 * DEGREE] * 6,
        180 * DEGREE,
        math.inf,
    ),
    "fr3": (
        [-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159],
        [2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159],
        [2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26],
        10.0,
        5000.0,
    ),
    "so101": (
        [-1.91986, -1.74533, -1.69, -1.65806, -2.79253],
        [1.91986, 1.74533, 1.69, 1.65806, 2.79253],
        [60 * DEGREE / 0.222] * 5,
        math.inf,
        math.inf,
    ),
}
# libfranka's rate_limiting.h: the speed allowed towards a joint's end is -a + sqrt(k * distance to b).
FR3_UPPER = [(0.30, 12.0, 2.75010), (0.20, 5.17, 1.79180), (0.20, 7.00, 2.90650), (0.30, 8.00, -0.1458)] + [
    (0.35, 34.0, 2.81010), (0.35, 11.0, 4.52050), (0.35, 34.0, 3.01960)]  # fmt: skip
FR3_LOWER = [(0.30, 12.0, -2.75010), (0.20, 5.17, -1.79180), (0.20, 7.00, -2.90650), (0.30, 8.00, -3.04810)] + [
    (0.35, 34.0, -2.81010), (0.35, 11.0, 0.54092), (0.35, 34.0, -3.01960)]  # fmt: skip


def arm_limits(arm: str) -> JointLimits:
    """Limits of the joints that the arm's controller moves, without a gripper, which has a controller of its own."""
    robot = load_robot(arm)
    return robot.limits.of([name for name in robot.names if robot.gripper is None or name != robot.gripper.joint])


@pytest.mark.parametrize("arm", PUBLISHED)
def test_limits_are_within_the_published_ones_and_can_be_planned_with(arm: str) -> None:
    limits = arm_limits(arm)
    lower, upper, velocity, acceleration, jerk = PUBLISHED[arm]
    assert (limits.lower >= lower).all()
    assert (limits.upper <= upper).all()
    assert (limits.velocity <= velocity).all()
    assert (limits.acceleration <= acceleration).all()
    assert (limits.jerk <= jerk).all()
    knots = KnotLimits(limits, 0.25)
    fastest = knots.project(0.5 * (limits.lower + limits.upper), np.zeros(len(lower)), np.full((1, 1, len(lower)), 9.0))
    assert (fastest > 0.2).all(), "a block of 0.25 s could hardly move the arm"


def test_the_speed_of_the_fr3_is_allowed_everywhere_between_its_position_limits() -> None:
    limits = arm_limits("fr3")
    for j, ((a, k, b), (c, m, d)) in enumerate(zip(FR3_UPPER, FR3_LOWER, strict=True)):
        assert -a + math.sqrt(k * (b - limits.upper[j])) > limits.velocity[j]
        assert -c + math.sqrt(m * (limits.lower[j] - d)) > limits.velocity[j]


@pytest.mark.parametrize("arm", PUBLISHED)
def test_the_controller_takes_what_the_planner_sends(arm: str) -> None:
    limits = arm_limits(arm)
    content = yaml.safe_load(resource("config", "arms", f"{arm}_controllers.yaml").read_text())
    manager = content["/**/controller_manager"]["ros__parameters"]
    controller = content["/**/arm_controller"]["ros__parameters"]
    kind = "joint_trajectory_controller/JointTrajectoryController"
    assert manager["arm_controller"]["type"] == controller["type"] == kind
    assert tuple(controller["joints"]) == limits.names
    assert controller["command_interfaces"] in (["position"], ["effort"])
    assert controller["state_interfaces"] == ["position", "velocity"]
    # A trajectory continues from the desired state of the one before. At rest that state is held, not the measured one.
    assert controller["interpolate_from_desired_state"] is True
    assert controller["cmd_timeout"] == 0.0
    assert controller["allow_nonzero_velocity_at_trajectory_end"] is False
    assert all(0 < controller["constraints"][joint]["trajectory"] <= 0.2 for joint in limits.names)
    if controller["command_interfaces"] == ["effort"]:
        assert all(controller["gains"][joint]["p"] > 0 for joint in limits.names)


@pytest.mark.parametrize("arm", PUBLISHED)
@pytest.mark.parametrize("namespace", ["/", "/left"])
def test_planner_node_reads_the_limits_in_any_namespace(arm: str, namespace: str, tmp_path: Path) -> None:
    rclpy = pytest.importorskip("rclpy")
    path = resource("config", "arms", f"{arm}.yaml")
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        node = rclpy.create_node(
            "planner_node",
            namespace=namespace,
            context=context,
            cli_args=["--ros-args", "--params-file", str(path)],
            automatically_declare_parameters_from_overrides=True,
        )
        robot = node.get_parameter("robot").value
        node.destroy_node()
    finally:
        rclpy.shutdown(context=context)
    assert load_robot(robot).limits == load_robot(arm).limits
