# SPDX-License-Identifier: Apache-2.0
"""How goals end: the client and `reach_goal` report it, with an exit status, and cancel goals not reached in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

from bags import BagWriter
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from sensor_msgs.msg import JointState
from sim_recording import sim_recording
from std_srvs.srv import SetBool

from lewm_model.config import resource
from lewm_model.sim.arm import ArmSim
from lewm_ros.client import GoalClient, Outcome
from lewm_ros.goals import GoalError, read_goal
from lewm_ros.graph import Graph, set_environment

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def status(message="", level=DiagnosticStatus.OK, **values):
    pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
    return DiagnosticStatus(level=level, message=message, values=pairs)


@pytest.fixture
def client():
    with GoalClient() as client:
        yield client


def told(client, *heard):
    """The result at the goal's timeout, after the planner has published each of `heard`."""
    goal = client.send(PICTURE)
    client._on_judged(status(goal_identity=goal))
    for message, values in heard:
        client._on_status(status(message, **{"goal_identity": goal, "reached": "no", **values}))
    return client._result(True, 5.0)


def test_every_way_in_which_a_goal_ends_has_an_outcome_with_the_reason(client):
    assert "no status has come from the planner" in told(client).text
    moving = ("armed; moving", {"state": "armed", "distance": "3.5"})
    assert told(client, moving, ("armed", {"state": "armed", "reached": "yes"})).outcome is Outcome.REACHED
    late = told(client, moving)
    assert (late.outcome, late.distance) == (Outcome.TIMED_OUT, 3.5)
    held = told(client, moving, ("holding: no fresh camera frame", {"state": "holding"}))
    assert held.outcome is Outcome.HELD_BACK and "no fresh camera frame" in held.text
    assert told(client, ("disarmed", {"state": "disarmed"})).outcome is Outcome.HELD_BACK
    assert told(client, moving, ("armed", {"state": "armed", "goal_identity": ""})).outcome is Outcome.CANCELLED
    goal = client.send(PICTURE)
    client._on_status(status(state="armed", reached="yes", goal_identity="of another"))
    assert client._result(False, 5.0) is None, "not yet looked at"
    assert "is camera_node active" in client._result(True, 5.0).text
    client._on_judged(status("the goal is refused: black", DiagnosticStatus.ERROR, goal_identity=goal))
    assert client._result(False, 5.0).outcome is Outcome.REFUSED


def test_a_goal_is_read_from_a_time_of_a_recording(tmp_path):
    data = sim_recording(tmp_path / "arm.h5", episodes=2, steps=10)
    np.testing.assert_array_equal(read_goal(tmp_path / "arm.h5", 0.2, 1), data.pixels[data.offsets[1] + 4])
    with pytest.raises(GoalError, match="has 11 pictures"):
        read_goal(tmp_path / "arm.h5", 5.0)
    pictures = [np.full((4, 6, 3), shade, np.uint8) for shade in (10, 20, 30)]
    with BagWriter(tmp_path / "session.mcap") as bag:
        for number, picture in enumerate(pictures):
            bag.image(
                np.zeros_like(picture), 0.0, 99.5 + 0.5 * number, "/goal_image"
            )  # what was to be seen, not what was
            bag.image(picture, 0.5 * number, 100.0 + 0.5 * number)
    np.testing.assert_array_equal(read_goal(tmp_path / "session.mcap", 0.5), pictures[1])
    with pytest.raises(GoalError, match="has no picture 7 s after its first one"):
        read_goal(tmp_path / "session.mcap", 7.0)


def run(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "lewm_ros.reach_goal", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=dict(os.environ),
    )


def test_reach_goal_brings_the_arm_to_pictures_and_tells_of_those_that_are_none(tmp_path):
    set_environment()
    with ArmSim() as sim:
        for name, pose in (("near", [0.3, 0.2]), ("far", [-1.0, 1.2])):
            sim.reset(joint_positions=pose)
            cv2.imwrite(str(tmp_path / f"{name}.png"), cv2.cvtColor(sim.render(), cv2.COLOR_RGB2BGR))
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((48, 64, 3), np.uint8))
    model = {"model": str(resource("models", "reach"))}
    with Graph("test_client", tmp_path) as graph:
        graph.start("sim_node", {})
        for name in ("camera_node", "planner_node"):
            graph.start(name, model, base=resource("config", "plan.yaml"))
        graph.bring_up("sim_node", "camera_node", "planner_node")

        def ends(process):
            graph.spin_until(lambda: process.poll() is not None, 60.0, "reach_goal to end")
            return process.returncode, process.stdout.read()

        status, said = ends(run(tmp_path / "near.png", "--timeout", 3))
        assert status == 3 and said.endswith("near.png: held back: disarmed\n")

        def enabled():
            request = {"/planner_node/enable": SetBool.Request(data=True)}
            return graph.call(SetBool, request)["/planner_node/enable"].success

        graph.spin_until(enabled, 30.0, "the planner to be armed")
        status, said = ends(run(tmp_path / "near.png", tmp_path / "black.png", "--timeout", 20))
        assert status == 1, said
        assert "near.png: the goal is reached" in said and "black.png: the goal is refused" in said
        speeds = []
        graph.node.create_subscription(JointState, "joint_states", lambda m: speeds.append(max(m.velocity, key=abs)), 1)
        process = run(tmp_path / "far.png")
        graph.spin_until(lambda: speeds and abs(speeds[-1]) > 0.3, 20.0, "the arm to be on its way")
        process.send_signal(signal.SIGINT)
        status, said = ends(process)
        assert status == 130 and "cancelled" in said, said
        graph.spin_until(lambda: "the goal was cancelled" in graph.log("planner_node"), 5.0, "it to be cancelled")
