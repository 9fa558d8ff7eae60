# SPDX-License-Identifier: Apache-2.0
"""Random motion for recordings, over real topics against the simulated arm: what it does, and what ends it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter as RosParameter
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from lewm_model.config import resource
from lewm_model.planning.motion import Trajectory
from lewm_model.robot.chain import Workspace
from lewm_model.robot.robot import load_robot
from lewm_ros.commanded import Command, count_violations
from lewm_ros.explore_node import ExploreNode
from lewm_ros.messages import joint_state_message, message_to_trajectory
from lewm_ros.safety import Reason, State
from lewm_ros.sim_node import SimNode

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
WALL = """
    <model name="wall">
      <static>true</static>
      <pose>0.3 0.12 0.1 0 0 0</pose>
      <link name="link">
        <collision name="collision"><geometry><box><size>0.6 0.02 0.3</size></box></geometry></collision>
        <visual name="visual">
          <geometry><box><size>0.6 0.02 0.3</size></box></geometry>
          <material><ambient>0.5 0.5 0.5 1</ambient><diffuse>0.5 0.5 0.5 1</diffuse></material>
        </visual>
      </link>
    </model>
"""


class Rig:
    """A simulated arm, the node that explores with it, and what comes out of it."""

    def __init__(self, world: Path | None = None, **parameters: object) -> None:
        rclpy.init()
        self.executor = SingleThreadedExecutor()
        self.sim, self.explorer, self.node = SimNode(), ExploreNode(), rclpy.create_node("bench")
        self.set(self.sim, rate=1.0, world="" if world is None else str(world))
        # One thread handles all callbacks here, on a machine that may be busy: nothing late must count as stale.
        self.set(self.explorer, robot="tabletop", shield__joint_timeout_s=1.0, **parameters)
        for node in (self.sim, self.explorer, self.node):
            self.executor.add_node(node)
        self.marks: list[str] = []
        self.states: list[JointState] = []
        self.commands: list[tuple[float, JointTrajectory]] = []
        self.node.create_subscription(String, "episode", lambda message: self.marks.append(message.data), 10)
        self.node.create_subscription(JointState, "joint_states", self.states.append, 1)
        self.node.create_subscription(
            JointTrajectory,
            "arm_controller/joint_trajectory",
            lambda message: self.commands.append((time.time(), message)),
            50,
        )
        self.joy = self.node.create_publisher(Joy, "joy", 10)

    @staticmethod
    def set(node, **parameters: object) -> None:
        for name, value in parameters.items():
            assert node.set_parameters([RosParameter(name.replace("__", "."), value=value)])[0].successful

    def start(self) -> None:
        assert self.sim.trigger_configure() == self.sim.trigger_activate() == SUCCESS
        assert self.explorer.trigger_configure() == self.explorer.trigger_activate() == SUCCESS
        self.until(lambda: self.states and self.explorer._listeners >= 2)
        self.until(lambda: self.enable().success)

    def enable(self) -> SetBool.Response:
        return self.explorer._on_enable(SetBool.Request(data=True), SetBool.Response())

    @property
    def shield(self):
        return self.explorer._shield

    @property
    def moves(self) -> bool:
        return bool(self.states) and bool(np.abs(self.states[-1].velocity).max() > 0.05)

    def until(self, condition, timeout_s: float = 60.0) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"{self.shield.message}; {self.explorer._stage}; {self.marks}"
            self.executor.spin_once(timeout_sec=0.02)

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > end)

    def close(self) -> None:
        for node in (self.explorer, self.sim):
            node.deactivate()
            node.cleanup()
        for node in (self.explorer, self.sim, self.node):
            node.destroy_node()
        self.executor.shutdown()
        rclpy.shutdown()


@pytest.fixture
def rig(request):
    made: list[Rig] = []

    def make(world: Path | None = None, **parameters: object) -> Rig:
        made.append(Rig(world, **parameters))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def walled(tmp_path: Path) -> Path:
    """The world with a wall that the arm knows nothing of, across the way of its first joint."""
    text = resource("worlds", "tabletop.sdf").read_text()
    path = tmp_path / "walled.sdf"
    path.write_text(text.replace('    <model name="arm">', f'{WALL}    <model name="arm">', 1))
    return path


def commanded(rig: Rig) -> list[Command]:
    names, epoch_ns = rig.explorer._limits.names, rig.explorer._epoch_ns
    found = []
    for arrived_s, message in rig.commands:
        points = message_to_trajectory(message, names)
        times_s = points.times_s + (points.stamp_ns - epoch_ns) / 1e9
        found.append(Command(arrived_s - epoch_ns / 1e9, Trajectory(times_s, points.positions, points.velocities)))
    return found


def test_episodes_begin_at_home_are_marked_keep_every_limit_and_end_by_themselves(rig):
    """Slowed down as asked, within the box, and at home when it is done."""
    lower, upper = [-0.7, -0.7, -0.2], [0.7, 0.4, 1.0]
    box = {"workspace__lower": lower, "workspace__upper": upper}
    r = rig(minutes=0.1, episode_s=3.0, pause_s=0.2, speed_scale=0.5, seed=3, **box)
    r.start()
    homes: list[np.ndarray] = []
    r.node.create_subscription(String, "episode", lambda m: homes.append(np.array(r.states[-1].position)), 10)
    r.until(lambda: r.explorer.is_done)
    r.spin(0.3)
    starts, ends = r.marks[::2], r.marks[1::2]
    assert starts == [f"start: explore {i + 1}" for i in range(len(starts))] and len(starts) >= 2
    assert set(ends) == {"end"} and len(ends) == len(starts)
    np.testing.assert_allclose(homes[::2], np.zeros((len(starts), 2)), atol=0.02)
    np.testing.assert_allclose(r.states[-1].position, [0.0, 0.0], atol=0.02)
    sent, robot = commanded(r), load_robot("tabletop")
    assert count_violations(sent, robot.limits) == 0
    assert max(np.abs(each.trajectory.velocities).max() for each in sent) <= 0.5 * 1.5 * (1 + 1e-6)
    positions = np.array([state.position for state in r.states])
    assert np.ptp(positions, axis=0).min() > 0.1, "it went somewhere"
    chain = robot.chain()
    assert Workspace(chain, lower, upper, robot.radii(chain)).find_outside(positions, room=0.005) is None
    assert set(r.shield.interventions) <= {Reason.LOST, Reason.STALE_JOINTS}, "which a busy machine may delay"


def test_letting_go_of_the_dead_mans_button_ends_it_until_somebody_enables_it_again(rig):
    r = rig(deadman_button=0, episode_s=60.0, pause_s=0.1, speed_scale=1.0)
    pressed = [1]
    r.node.create_timer(0.05, lambda: r.joy.publish(Joy(buttons=pressed)))
    r.start()
    r.until(lambda: r.marks and r.moves)
    pressed[0] = 0
    r.until(lambda: r.shield.state is State.DISARMED)
    r.until(lambda: not r.moves, 5.0)
    assert r.marks[-1] == "end"
    pressed[0] = 1
    r.spin(0.5)
    assert r.shield.state is State.DISARMED and not r.moves, "pressing it again moves nothing"
    assert r.enable().success
    r.until(lambda: r.moves)


@pytest.mark.parametrize(
    ("parameters", "reason", "said"),
    [
        ({"shield__tracking_tolerance_rad": 0.1}, Reason.TRACKING, "from where it was commanded"),
        ({"effort_limits": [6.0, 4.0]}, Reason.EFFORT, "needs an effort of"),
    ],
)
def test_an_arm_that_runs_into_something_stops_until_it_is_reset_and_the_episode_is_discarded(
    rig, walled, parameters, reason, said
):
    r = rig(walled, episode_s=60.0, pause_s=0.1, speed_scale=1.0, seed=1, **parameters)
    r.start()
    r.until(lambda: r.shield.state is State.STOPPED)
    assert said in r.shield.message and r.shield.interventions[reason] >= 1  # a plan may have been held back before
    r.until(lambda: not r.moves, 5.0)
    r.until(lambda: r.marks[-1] == "discard" or r.shield.interventions[Reason.LOST], 5.0)  # lost: the episode was over
    assert "reset first" in r.enable().message
    r.spin(0.5)
    where = np.array(r.states[-1].position)
    r.spin(0.5)
    np.testing.assert_allclose(r.states[-1].position, where, atol=0.01)
    free = r.node.create_publisher(JointState, "sim_node/set_joint_state", 1)
    r.until(lambda: free.get_subscription_count())
    free.publish(joint_state_message(r.explorer._limits.names, np.zeros(2), np.zeros(2), 0))  # somebody moves it away
    r.until(lambda: np.abs(r.states[-1].position).max() < 0.01 and np.abs(r.states[-1].effort).max() < 1.0)
    r.explorer._on_reset(Trigger.Request(), Trigger.Response())
    r.spin(0.3)
    assert r.enable().success
    r.until(lambda: r.moves)


@pytest.mark.parametrize(("gripper", "moved"), [(False, ("a", "b")), (True, ("a", "b", "jaw"))])
def test_a_gripper_is_left_alone_unless_it_is_asked_for(rig, tmp_path, gripper, moved):
    row = "{lower: -1.0, upper: 1.0, velocity: 1.0, acceleration: 9.0, jerk: 150.0, home: 0.2}"
    file = tmp_path / "gripping.yaml"
    joints = "".join(f"  {name}: {row}\n" for name in ("a", "b", "jaw"))
    file.write_text(f"joints:\n{joints}gripper: {{joint: jaw, open: 1.0, closed: -1.0}}\n")
    r = rig(gripper=gripper)
    r.set(r.explorer, robot=str(file))
    assert r.explorer.trigger_configure() == SUCCESS
    assert r.explorer._limits.names == moved
    np.testing.assert_array_equal(r.explorer._home, [0.2] * len(moved))


def test_a_home_that_is_outside_the_box_is_refused_before_anything_moves(rig, capfd):
    r = rig(workspace__lower=[-0.6, -0.6, -0.2], workspace__upper=[0.3, 0.6, 1.0])
    assert r.explorer.trigger_configure() == FAILURE
    assert "the arm cannot begin at home: link" in capfd.readouterr().err
