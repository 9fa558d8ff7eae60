# SPDX-License-Identifier: Apache-2.0
"""Markers lie where forward kinematics says, in the frame of the arm's base, and their colours say how it stands."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

from builtin_interfaces.msg import Time
from visualization_msgs.msg import Marker

from lewm_model.config import resource
from lewm_model.robot.chain import Chain
from lewm_model.sim.arm import ArmSim
from lewm_ros.markers import plan_markers

NAMES = ("shoulder", "elbow")
RNG = np.random.default_rng(0)
ELITES, PLAN, JOINTS = RNG.uniform(-1.5, 1.5, (4, 6, 2)), RNG.uniform(-1.5, 1.5, (6, 2)), np.array([0.3, -0.7])
BOX = (np.array([-0.5, -0.6, 0.0]), np.array([0.7, 0.6, 1.0]))


@pytest.fixture(scope="module")
def chain():
    return Chain.from_urdf(resource("config", "arms", "tabletop.urdf"), "base", "end_effector", NAMES)


def markers(chain, **changes):
    given = {
        "elites": ELITES,
        "plan": PLAN,
        "joints": JOINTS,
        "state": "armed",
        "reached": False,
        "box": BOX,
        **changes,
    }
    array = plan_markers(chain, "base", Time(sec=5, nanosec=7), **given)
    return {(marker.ns, marker.id): marker for marker in array.markers}


def points(marker):
    return np.array([[point.x, point.y, point.z] for point in marker.points])


def position(marker):
    where = marker.pose.position
    return np.array([where.x, where.y, where.z])


def test_paths_are_those_of_the_end_effector_of_the_simulated_arm(chain):
    found = markers(chain)
    with ArmSim(render=False) as sim:
        for rank, path in enumerate(ELITES):
            expected = np.stack([sim.end_effector(joints) for joints in path])
            np.testing.assert_allclose(points(found["elites", rank]), expected, atol=1e-6)
        np.testing.assert_allclose(points(found["plan", 0])[-1], sim.end_effector(PLAN[-1]), atol=1e-6)
        np.testing.assert_allclose(points(found["plan", 1])[0], sim.end_effector(PLAN[-1]), atol=1e-6)
        np.testing.assert_allclose(position(found["goal", 0]), sim.end_effector(JOINTS), atol=1e-6)
    assert found["elites", 0].color.a > found["elites", 3].color.a, "the best one stands out"


def test_every_marker_is_in_the_base_s_frame_at_the_frame_s_time_and_vanishes_by_itself(chain):
    found = markers(chain).values()
    assert len(found) == 4 + 2 + 2 + 2
    for marker in found:
        assert (marker.header.frame_id, marker.header.stamp) == ("base", Time(sec=5, nanosec=7))
        assert marker.action == Marker.ADD and marker.pose.orientation.w == 1.0
        assert 0 < marker.lifetime.sec < 5
        assert 0 < marker.color.a <= 1 and marker.scale.x > 0


def test_the_workspace_is_the_box(chain):
    found = markers(chain)
    edges = points(found["workspace", 0]).reshape(12, 2, 3)
    np.testing.assert_allclose(edges.min((0, 1)), BOX[0])
    np.testing.assert_allclose(edges.max((0, 1)), BOX[1])
    assert (((edges[:, 1] - edges[:, 0]) != 0).sum(1) == 1).all(), "each edge goes along one axis"
    assert len(np.unique(edges.reshape(12, 6), axis=0)) == 12
    cube = found["workspace", 1]
    np.testing.assert_allclose(position(cube), (BOX[0] + BOX[1]) / 2)
    np.testing.assert_allclose([cube.scale.x, cube.scale.y, cube.scale.z], BOX[1] - BOX[0])


def test_a_goal_that_is_reached_is_green_and_said(chain):
    moving, reached, holding = (
        markers(chain, state=state, reached=is_reached)["goal", 1]
        for state, is_reached in (("armed", False), ("armed", True), ("holding", False))
    )
    assert (moving.text, reached.text, holding.text) == ("armed", "goal reached", "holding")
    assert reached.color.g > reached.color.r and holding.color.r > holding.color.g


def test_what_is_not_known_is_not_drawn(chain):
    assert markers(chain, elites=None, plan=None, joints=None, box=None) == {}
    assert set(markers(chain, plan=None, joints=None, box=None)) == {("elites", rank) for rank in range(4)}
