# SPDX-License-Identifier: Apache-2.0
"""A gripper has a controller of its own: its part of a motion goes there, and what it holds may keep it from moving."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_robot_file import ARM, ROBOT, SCENE

from lewm_model.planning.motion import KnotLimits, Timeline, Trajectory
from lewm_model.robot.robot import load_robot
from lewm_model.sim.arm import ArmSim

pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

import rclpy
from trajectory_msgs.msg import JointTrajectory

from lewm_ros import command_topics
from lewm_ros.command_topics import CommandTopics, joined, part_of
from lewm_ros.messages import message_to_trajectory, trajectory_to_message
from lewm_ros.node import Refusal
from lewm_ros.safety import Reason, Shield, ShieldConfig, State

NAMES = ("pan", "lift", "bend", "finger")
FINGER = np.array([False, False, False, True])


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    for name, text in (("arm.xml", ARM), ("mine.yaml", ROBOT), ("scene.yaml", SCENE)):
        (tmp_path / name).write_text(text)
    return tmp_path / "scene.yaml"


def motion(robot, knots: np.ndarray, start_s: float, start: np.ndarray | None = None) -> Trajectory:
    limits = KnotLimits(robot.limits, 0.25)
    timeline = Timeline(start_s, robot.home if start is None else start, limits)
    timeline.splice(0, limits.project(robot.home, np.zeros(4), knots[None])[0])
    return timeline.sample(np.arange(start_s - 0.05, timeline.end_s + 0.1, 0.05))


def test_a_trajectory_is_divided_among_the_controllers_and_loses_nothing(scene: Path) -> None:
    robot = load_robot("mine.yaml", scene.parent)
    trajectory = motion(robot, np.full((3, 4), 0.5), 10.0)
    whole = trajectory_to_message(trajectory, NAMES, epoch_ns=0)
    parts = [part_of(whole, names) for names in (NAMES[:3], NAMES[3:])]
    assert joined(parts) == whole
    arm, finger = (message_to_trajectory(part, part.joint_names) for part in parts)
    assert arm.stamp_ns == finger.stamp_ns
    np.testing.assert_array_equal(np.hstack([arm.positions, finger.positions]), trajectory.positions)
    np.testing.assert_array_equal(np.hstack([arm.velocities, finger.velocities]), trajectory.velocities)
    np.testing.assert_array_equal(arm.times_s, finger.times_s)


# ---- the shield ------------------------------------------------------------------------------------------------------


def shield_of(robot, now: list[float]) -> Shield:
    shield = Shield(robot.limits, ShieldConfig(), lambda: now[0], lambda: now[0], grips=FINGER)
    shield.frame(now[0])
    for _ in range(2):
        shield.joints(robot.home, now[0])
    assert shield.arm() is None and shield.restart() is not None
    return shield


@pytest.mark.parametrize(("joint", "state"), [(3, State.ARMED), (2, State.STOPPED)])
def test_a_gripper_that_holds_something_does_not_stop_the_arm_and_a_joint_that_is_blocked_does(
    scene: Path, joint: int, state: State
) -> None:
    robot, now = load_robot("mine.yaml", scene.parent), [100.0]
    shield = shield_of(robot, now)
    wanted = np.zeros((4, 4))
    wanted[:, joint] = 1.0
    plan = motion(robot, wanted, now[0])
    assert shield.release(plan, now[0] - 0.05) is None
    while now[0] < plan.times_s[-1]:
        now[0] += 0.02
        shield.frame(now[0])
        measured = plan.sample(np.array([now[0]])).positions[0]
        measured[joint] = robot.home[joint]
        shield.joints(measured, now[0])
    assert shield.state is state
    if state is State.ARMED:  # and it goes on from where the gripper was told to be, or it would let go
        shield.joints(measured, now[0])
        np.testing.assert_allclose(shield.restart(), plan.positions[-1], atol=1e-9)


def test_the_shield_keeps_the_gripper_within_its_limits(scene: Path) -> None:
    robot, now = load_robot("mine.yaml", scene.parent), [100.0]
    shield = shield_of(robot, now)
    plan = motion(robot, np.zeros((2, 4)), now[0])
    beyond = plan.positions.copy()
    beyond[:, 3] += np.linspace(0.0, 1.0, len(beyond))
    refusal = shield.release(dataclasses.replace(plan, positions=beyond), now[0] - 0.05)
    assert refusal is not None and refusal.reason is Reason.POSITION and "'finger'" in refusal.text


# ---- the simulated controllers ---------------------------------------------------------------------------------------


def test_each_simulated_controller_follows_its_own_trajectory(scene: Path) -> None:
    with ArmSim(scene, render=False) as sim:
        assert [sim.names[part] for part in sim.parts] == [NAMES[:3], NAMES[3:]]
        sim.set_trajectory([1.0], [[0.5]], part=1)
        sim.set_trajectory([1.0], [[0.3, -0.4, 0.2]], part=0)
        sim.step(1.5)
        np.testing.assert_allclose(sim.joint_positions(), [0.3, -0.4, 0.2, 0.5], atol=0.01)


def test_the_simulated_robot_listens_on_the_topics_of_arm_and_gripper(scene: Path) -> None:
    from lewm_ros.sim_node import SimNode

    rclpy.init()
    node, sender = SimNode(), rclpy.create_node("sender")
    executor = rclpy.executors.SingleThreadedExecutor()
    for each in (node, sender):
        executor.add_node(each)
    try:
        assert node.set_parameters([rclpy.parameter.Parameter("world", value=str(scene))])[0].successful
        done = rclpy.lifecycle.TransitionCallbackReturn.SUCCESS
        assert node.trigger_configure() == done and node.trigger_activate() == done
        robot = load_robot("mine.yaml", scene.parent)
        topics = CommandTopics(sender, NAMES, robot.gripper)
        end = time.monotonic() + 10.0
        while topics.missing() is not None and time.monotonic() < end:
            executor.spin_once(0.05)
        assert topics.listeners == 2
        goal = robot.home + [0.2, 0.0, 0.0, 0.4]
        message = trajectory_to_message(
            Trajectory(np.array([0.0, 0.5]), np.stack([robot.home, goal]), np.zeros((2, 4))), NAMES, 0
        )
        message.header.stamp.sec = 0  # zero: the motion begins when the message arrives
        topics.send(message)
        while np.abs(node._sim.joint_positions() - goal).max() > 0.02 and time.monotonic() < end:
            executor.spin_once(0.05)
        np.testing.assert_allclose(node._sim.joint_positions(), goal, atol=0.02)
        assert node.diagnose()[2]["messages_refused"] == "0"
        topics.destroy()
    finally:
        node.deactivate()
        node.cleanup()
        executor.shutdown()
        node.destroy_node()
        sender.destroy_node()
        rclpy.shutdown()


# ---- GripperCommand --------------------------------------------------------------------------------------------------


def test_a_gripper_with_an_action_gets_where_it_should_end_and_once_only(scene: Path, monkeypatch) -> None:
    sent: list[tuple[float, float]] = []

    class Client:
        def __init__(self, node, kind, name: str) -> None:
            assert name == "hand/gripper_cmd"

        def server_is_ready(self) -> bool:
            return True

        def send_goal_async(self, goal) -> None:
            sent.append((goal.command.position, goal.command.max_effort))

    kind = SimpleNamespace(Goal=lambda: SimpleNamespace(command=SimpleNamespace(position=0.0, max_effort=0.0)))
    monkeypatch.setattr(command_topics, "GripperCommand", kind)
    monkeypatch.setattr(command_topics, "ActionClient", Client)
    robot = load_robot("mine.yaml", scene.parent)
    gripper = dataclasses.replace(robot.gripper, action="hand/gripper_cmd", max_effort=5.0)
    published: list[JointTrajectory] = []
    node = SimpleNamespace(
        create_publisher=lambda *_, **__: SimpleNamespace(publish=published.append, get_subscription_count=lambda: 1)
    )
    topics = CommandTopics(node, NAMES, gripper)
    opens, stays = np.zeros((2, 4)), np.zeros((2, 4))
    opens[:, 3] = 0.8
    first = motion(robot, opens, 10.0)
    topics.send(trajectory_to_message(first, NAMES, 0))
    topics.send(trajectory_to_message(motion(robot, stays, 10.5, first.positions[-1]), NAMES, 0))
    assert sent == [(pytest.approx(first.positions[-1, 3]), 5.0)]
    assert [list(message.joint_names) for message in published] == [list(NAMES[:3])] * 2
    assert topics.missing() is None


def test_a_gripper_with_an_action_is_refused_where_its_type_is_not_installed(scene: Path, monkeypatch) -> None:
    monkeypatch.setattr(command_topics, "GripperCommand", None)
    gripper = dataclasses.replace(load_robot("mine.yaml", scene.parent).gripper, action="hand/gripper_cmd")
    with pytest.raises(Refusal, match=r"hand/gripper_cmd.* control_msgs, which is not installed"):
        CommandTopics(SimpleNamespace(), NAMES, gripper)
