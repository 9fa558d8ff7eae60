# SPDX-License-Identifier: Apache-2.0
"""`make gazebo-demo` and its bridge, as far as they run without Gazebo: it is not part of the tests' machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

from builtin_interfaces.msg import Duration
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage
from trajectory_msgs.msg import JointTrajectoryPoint

from lewm_model.config import resource
from lewm_model.sim.arm import ArmSim
from lewm_model.tasks.registry import suite_named
from lewm_ros.graph import GraphError
from validation import gazebo


def test_without_gazebo_it_ends_with_a_sentence_that_says_what_is_missing() -> None:
    command = [sys.executable, "-m", "validation.gazebo", "--goals", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/nowhere"}, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("there is no `gz` on the PATH"), done.stderr
    assert "apt install" in done.stderr


def test_gazebo_without_any_bridge_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(GraphError, match="no bridge"):
        gazebo.check()


@pytest.mark.parametrize("name", gazebo.WORLDS)
def test_a_changed_world_is_the_same_arm_that_looks_otherwise(name: str, tmp_path: Path) -> None:
    file = gazebo.make_world(name, suite_named("reach"), tmp_path)
    text = file.read_text()
    assert (text.count("shadows>true<") == 2) is (name == "shadow")
    file.write_text(text.replace("shadows>true<", "shadows>false<"))  # which are not drawn here
    pose = np.array([0.4, -0.8])
    with ArmSim() as before, ArmSim(file) as after:
        assert after.limits == before.limits
        np.testing.assert_allclose(after.end_effector(pose), before.end_effector(pose))
        difference = np.abs(after.render().astype(float) - before.render()).mean()
        assert difference == 0 if name == "plain" else difference > 5


@pytest.mark.parametrize("way", [[2.0, -4.0], [0.01, 0.0], [0.0, 0.0]])
def test_the_arm_is_moved_to_its_start_within_its_limits_and_comes_to_rest_there(way: list[float]) -> None:
    with ArmSim(render=False) as sim:
        start = np.array([-1.0, 1.5])
        motion = gazebo.straight(start, start + way, 0.8, sim)
        times = np.arange(0.0, motion.at_s[-1], 0.001)
        positions, velocities, accelerations = motion.state(times)
        assert (np.abs(velocities) <= 0.81 * sim.limits.velocity).all()
        assert (np.abs(accelerations) <= 0.9 * sim.limits.acceleration).all()
        np.testing.assert_allclose(positions[0], start, atol=1e-6)
        np.testing.assert_allclose(motion.positions[-1], start + way)
        np.testing.assert_allclose(motion.state([motion.at_s[-1]])[1], 0.0, atol=1e-9)


# ---- the stand-in for ros_gz_bridge ----------------------------------------------------------------------------------


@pytest.fixture
def bridge(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, with nothing behind Gazebo's Python bindings: only its conversions are tried."""
    monkeypatch.setitem(sys.modules, "gz", ModuleType("gz"))
    monkeypatch.setitem(sys.modules, "gz.transport13", SimpleNamespace(Node=None, SubscribeOptions=None))
    monkeypatch.delitem(sys.modules, "validation.gazebo_bridge", raising=False)
    return import_module("validation.gazebo_bridge")


def header(frame: str = "") -> SimpleNamespace:
    entries = [SimpleNamespace(key="seq", value=["4"]), SimpleNamespace(key="frame_id", value=[frame])]
    return SimpleNamespace(stamp=SimpleNamespace(sec=12, nsec=340), data=entries)


def test_a_picture_keeps_its_stamp_frame_and_bytes(bridge: ModuleType) -> None:
    message = SimpleNamespace(header=header("lens"), width=2, height=1, step=6, data=b"abcdef", pixel_format_type=3)
    image = bridge.to_image(message)
    assert (image.header.stamp.sec, image.header.stamp.nanosec, image.header.frame_id) == (12, 340, "lens")
    assert (image.width, image.height, image.step, image.encoding, bytes(image.data)) == (2, 1, 6, "rgb8", b"abcdef")
    message.pixel_format_type = 1
    with pytest.raises(ValueError, match="pixel format 1"):
        bridge.to_image(message)


def test_joint_states_have_positions_speeds_and_efforts_by_name(bridge: ModuleType) -> None:
    joints = [
        SimpleNamespace(name=name, axis1=SimpleNamespace(position=0.1 * i, velocity=float(i), force=2.0 * i))
        for i, name in enumerate(("a", "b"))
    ]
    state = bridge.to_joint_state(SimpleNamespace(header=header(), joint=joints))
    assert state.name == ["a", "b"]
    assert list(state.position) == [0.0, 0.1]
    assert list(state.velocity) == [0.0, 1.0]
    assert list(state.effort) == [0.0, 2.0]


def test_a_trajectory_reaches_gazebo_with_all_its_points(bridge: ModuleType) -> None:
    class Repeated(list[Any]):
        """A repeated field of protobuf."""

        def __init__(self, kind: Callable[[], Any]) -> None:
            self.kind = kind

        def add(self) -> Any:
            self.append(self.kind())
            return self[-1]

    def point() -> SimpleNamespace:
        lists: dict[str, list[float]] = {key: [] for key in ("positions", "velocities", "accelerations", "effort")}
        return SimpleNamespace(**lists, time_from_start=SimpleNamespace(sec=0, nsec=0))

    own = SimpleNamespace(header=header(), joint_names=[], points=Repeated(point))
    message = JointTrajectoryMessage(joint_names=["a", "b"])
    message.header.stamp.sec = 7
    for k in range(3):
        place = JointTrajectoryPoint(positions=[0.1 * k, 0.2], velocities=[1.0, float(k)])
        place.time_from_start = Duration(sec=k, nanosec=5)
        message.points.append(place)
    bridge.to_gazebo_trajectory(message, own)
    assert (own.header.stamp.sec, own.joint_names) == (7, ["a", "b"])
    assert [list(each.positions) for each in own.points] == [[0.0, 0.2], [0.1, 0.2], [0.2, 0.2]]
    assert [list(each.velocities) for each in own.points] == [[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]
    assert [(each.time_from_start.sec, each.time_from_start.nsec) for each in own.points] == [(0, 5), (1, 5), (2, 5)]


def test_every_type_of_the_configuration_is_known_and_its_module_found_by_name(
    bridge: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = yaml.safe_load(resource("config", "gazebo_bridge.yaml").read_text())
    out = {entry["gz_type_name"] for entry in entries if entry["direction"] == "GZ_TO_ROS"}
    assert out == bridge.TO_ROS.keys()
    kind = type("JointTrajectory", (), {})
    monkeypatch.setitem(sys.modules, "gz.msgs10", ModuleType("gz.msgs10"))
    monkeypatch.setitem(sys.modules, "gz.msgs10.joint_trajectory_pb2", SimpleNamespace(JointTrajectory=kind))
    assert bridge.gazebo_type("gz.msgs.JointTrajectory") is kind
