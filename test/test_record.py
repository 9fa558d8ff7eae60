# SPDX-License-Identifier: Apache-2.0
"""The recorder as a process over real DDS: what it wrote converts to what happened, even when it was killed."""

from __future__ import annotations

import signal
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

from mcap.reader import make_reader
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from lewm_model.data.clips import load_episodes
from lewm_model.data.converters.rosbag2.convert import convert_bag
from lewm_model.data.converters.rosbag2.files import read_messages
from lewm_model.planning.motion import KnotLimits, Timeline
from lewm_model.robot.encodings import compressed_to_rgb
from lewm_model.robot.observation import to_model_image
from lewm_model.sim.arm import ArmSim
from lewm_ros.camera_node import LATCHED
from lewm_ros.graph import Graph, GraphError, set_environment
from lewm_ros.messages import (
    camera_info_message,
    joint_state_message,
    nanoseconds,
    rgb_to_message,
    trajectory_to_message,
)
from lewm_ros.record import message_definition

DT = 0.05
JOINTS = ("shoulder", "elbow")


@pytest.fixture
def graph(tmp_path):
    set_environment()
    with Graph("test_driver", tmp_path) as graph:
        yield graph


def wait_for_subscribers(graph: Graph, *publishers) -> None:
    graph.spin_until(lambda: all(p.get_subscription_count() for p in publishers), 20, "the recorder to subscribe")
    graph.spin_for(1.0)  # the subscriber has to discover the publisher, too, or best-effort messages are lost


def test_a_killed_recording_of_the_simulator_converts_to_what_the_arm_did(graph, tmp_path):
    """kill -9; actions and positions are compared with the commanded motion, pictures with ones drawn anew."""
    recording = tmp_path / "session.mcap"
    states: list[JointState] = []
    graph.node.create_subscription(JointState, "joint_states", states.append, 10)
    commands = graph.node.create_publisher(JointTrajectory, "arm_controller/joint_trajectory", QoSProfile(depth=1))
    markers = graph.node.create_publisher(String, "episode", 10)
    graph.start("sim_node", {})
    graph.start("record", {"out": str(recording), "image_format": "png"})
    graph.bring_up("sim_node")
    wait_for_subscribers(graph, commands, markers)
    graph.spin_until(lambda: states, 20, "joint states")

    with ArmSim(render=False) as sim:
        limits = KnotLimits(sim.limits, 0.25)
    start = np.array(states[-1].position)
    epoch_ns = nanoseconds(states[-1].header.stamp)
    timeline = Timeline(0.0, start, limits)
    rng = np.random.default_rng(0)
    knots = np.cumsum(rng.uniform(-0.4, 0.4, (16, 2)), axis=0)
    velocities, position, velocity = [], start, np.zeros(2)
    for wanted in knots:
        feasible = limits.project(position, velocity, wanted[None, None])[0, 0]
        position, velocity = position + 0.125 * (velocity + feasible), feasible
        velocities.append(feasible)
    timeline.splice(0, np.array(velocities))
    markers.publish(String(data="start: killed"))
    for block in range(14):
        # As planner_node does: from a moment that has passed to well beyond the next message.
        piece = timeline.sample(0.25 * block + np.arange(0.0, 0.8, 0.02))
        piece.velocities[-1] = 0.0  # otherwise a controller refuses it; that point is never reached
        commands.publish(trajectory_to_message(piece, JOINTS, epoch_ns))
        due_s = 0.25 * (block + 1) + 0.05
        graph.spin_until(
            lambda due_s=due_s: states and (nanoseconds(states[-1].header.stamp) - epoch_ns) / 1e9 >= due_s, 20, "time"
        )
    graph.process("record").send_signal(signal.SIGKILL)
    graph.process("record").wait()
    graph.forget("record")

    report = convert_bag([recording], tmp_path / "session.h5", control_dt_s=DT, image_size=64)
    data = load_episodes(tmp_path / "session.h5")
    assert report.problems == [
        f"{recording} was not closed, its recorder was killed; read up to the last whole chunk, "
        f"{len(list(read_messages(recording)))} messages"
    ]
    # 3.5 s were recorded and at most the last second is lost.
    assert 30 <= report.frames_used <= 71, str(report)
    assert data.action_names == JOINTS
    stamps_s = []  # of every picture in the file
    for message in read_messages(recording):
        if message.topic == "/camera/image_raw/compressed":
            stamp = message.decode(message.data).header.stamp
            stamps_s.append((stamp.sec * 10**9 + stamp.nanosec - epoch_ns) / 1e9)
    assert data.proprio is not None
    with ArmSim() as sim:
        for offset, length in zip(data.offsets, data.lengths, strict=True):
            rows = slice(offset, offset + length)
            proprio = data.proprio[rows]
            # Which stretch of the recording this is: the one whose actions fit.
            fits = []
            for first in range(len(stamps_s) - length + 1):
                q = timeline.sample(np.array(stamps_s[first : first + length])).positions
                fits.append(np.abs(np.diff(q, axis=0) / DT - data.actions[rows][:-1]).max())
            assert min(fits) < 0.02, f"actions differ from the commanded motion by {min(fits)} rad/s"
            times_s = np.array(stamps_s[int(np.argmin(fits)) :][:length])
            np.testing.assert_allclose(proprio, timeline.sample(times_s).positions, atol=0.02)
            for pixels, q in zip(data.pixels[rows][::9], proprio[::9], strict=True):
                sim.reset(joint_positions=q)
                drawn = to_model_image(sim.render(), 64).astype(int)
                assert np.abs(pixels.astype(int) - drawn).mean() < 1.0
    assert "killed" in report.episodes[0]


def test_every_topic_is_recorded_as_it_came_and_the_file_is_closed_in_order(graph, tmp_path):
    recording = tmp_path / "folder" / "session.mcap"
    images = graph.node.create_publisher(Image, "camera/image_raw", qos_profile_sensor_data)
    states = graph.node.create_publisher(JointState, "joint_states", qos_profile_sensor_data)
    goals = graph.node.create_publisher(Image, "goal_image", LATCHED)
    marks = graph.node.create_publisher(String, "episode", 10)
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    goals.publish(rgb_to_message(picture, 5, "before the recorder"))
    graph.start("record", {"out": str(recording), "image_format": "png"})
    wait_for_subscribers(graph, images, states, goals, marks)
    images.publish(rgb_to_message(picture, 123_000_000_456, "lens"))
    bad = rgb_to_message(picture, 124_000_000_000)
    bad.encoding = "32FC1"
    images.publish(bad)
    states.publish(joint_state_message(JOINTS, np.array([0.1, 0.2]), np.array([1.0, 2.0]), 7))
    marks.publish(String(data="start"))
    graph.spin_until(lambda: "picture not recorded: image encoding '32FC1'" in graph.log("record"), 10, "the refusal")
    graph.spin_for(0.5)
    graph.process("record").send_signal(signal.SIGINT)
    assert graph.process("record").wait(10) == 0
    graph.forget("record")

    problems: list[str] = []
    found = {message.topic: message for message in read_messages(recording, problems)}
    assert problems == []
    assert set(found) == {"/camera/image_raw/compressed", "/joint_states", "/goal_image", "/episode"}
    decoded = {topic: message.decode(message.data) for topic, message in found.items()}
    image = decoded["/camera/image_raw/compressed"]
    assert (image.header.stamp.sec, image.header.stamp.nanosec, image.header.frame_id) == (123, 456, "lens")
    assert image.format == "rgb8; png compressed bgr8"
    np.testing.assert_array_equal(compressed_to_rgb(image.data, image.format), picture)
    assert (decoded["/joint_states"].name, decoded["/joint_states"].position.tolist()) == (list(JOINTS), [0.1, 0.2])
    assert decoded["/goal_image"].data.tobytes() == picture.tobytes()
    assert decoded["/episode"].data == "start"
    assert all(abs(message.log_ns - time.time_ns()) < 60e9 for message in found.values())
    with open(recording, "rb") as stream:  # with an index, for players that seek
        summary = make_reader(stream).get_summary()
    assert summary is not None
    assert summary.statistics is not None
    assert summary.statistics.message_count == 4


def test_pictures_and_calibrations_of_every_camera_of_a_robot_are_stored_byte_for_byte(graph, tmp_path):
    recording = tmp_path / "session.mcap"
    topics = "camera/image_raw/compressed", "lens/image_raw/compressed"
    images = [graph.node.create_publisher(CompressedImage, topic, qos_profile_sensor_data) for topic in topics]
    beside = "camera/camera_info", "lens/camera_info"
    infos = [graph.node.create_publisher(CameraInfo, topic, qos_profile_sensor_data) for topic in beside]
    robot = tmp_path / "mine.yaml"
    robot.write_text(
        "joints: {one: {lower: -1, upper: 1, velocity: 1, acceleration: 1, jerk: 1}}\n"
        "cameras: {front: {height: 8, width: 8}, wrist: {height: 8, width: 8, topic: wrist/image_raw}}\n"
    )
    moved = {f"wrist/{name}": f"lens/{name}" for name in ("image_raw", "image_raw/compressed")}
    graph.start("record", {"out": str(recording), "input": "compressed", "robot": str(robot)}, remappings=moved)
    wait_for_subscribers(graph, *images, *infos)
    data = bytes(range(256)) * 3
    for publisher in images:
        publisher.publish(CompressedImage(format="jpeg", data=data))
    for focal_px, publisher in enumerate(infos, 1):
        publisher.publish(camera_info_message(8, 8, focal_px, 0))
    graph.spin_for(0.5)
    graph.process("record").send_signal(signal.SIGTERM)
    assert graph.process("record").wait(10) == 0
    graph.forget("record")
    found = {message.topic: message.decode(message.data) for message in read_messages(recording)}
    assert found.keys() == {f"/{topic}" for topic in (*topics, *beside)}
    assert all(found[f"/{topic}"].data.tobytes() == data for topic in topics)
    assert [found[f"/{topic}"].k[0] for topic in beside] == [1.0, 2.0]


def test_a_recorder_that_hears_no_commands_says_so_within_seconds_and_which_there_are(graph, tmp_path):
    elsewhere = graph.node.create_publisher(JointTrajectory, "scaled_controller/joint_trajectory", 1)
    assert elsewhere.topic_name == "/scaled_controller/joint_trajectory"
    pressed = graph.node.create_publisher(CompressedImage, "lens/image_raw/compressed", 1)
    graph.start("record", {"out": str(tmp_path / "session.mcap")})
    graph.spin_until(lambda: "no commands" in graph.log("record"), 15, "the warning")
    log = graph.log("record")
    started, warned = (
        float(next(line for line in log.splitlines() if text in line).split("[")[2].split("]")[0])
        for text in ("recording to", "no commands")
    )
    assert warned - started < 5.0
    assert "nobody publishes on /arm_controller/joint_trajectory" in log
    assert "there is /scaled_controller/joint_trajectory" in log
    assert f"CompressedImage comes on {pressed.topic_name}: -p input:=compressed records that" in log


def test_a_recording_is_never_overwritten(graph, tmp_path):
    recording = tmp_path / "session.mcap"
    recording.write_text("precious")
    graph.start("record", {"out": str(recording)})
    with pytest.raises(GraphError, match=r"record ended with 1(.|\n)*exists already; give another name"):
        graph.spin_until(lambda: False, 20, "its end")
    graph.forget("record")
    assert recording.read_text() == "precious"


def test_message_definitions_hold_every_message_they_use():
    text = message_definition("trajectory_msgs/JointTrajectory")
    inner = [line.removeprefix("MSG: ") for line in text.splitlines() if line.startswith("MSG: ")]
    assert sorted(inner) == [
        "builtin_interfaces/Duration",
        "builtin_interfaces/Time",
        "std_msgs/Header",
        "trajectory_msgs/JointTrajectoryPoint",
    ]
    assert text.startswith("#")
    assert "float64[] positions" in text
