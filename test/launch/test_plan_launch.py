# SPDX-License-Identifier: Apache-2.0
"""plan.launch.py on ROS 2's launch system: checks what the nodes publish and log, not only that they started."""

import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

WHY = "the launch system is not among ROS 2's wheels; a ROS 2 installation has it (apt: ros-$ROS_DISTRO-launch-pytest)"
launch_pytest = pytest.importorskip("launch_pytest", reason=WHY)
pytest.importorskip("launch_ros", reason=WHY)

import rclpy
from bundles import TINY, tiny_bundle
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_pytest.actions import ReadyToTest
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from lewm_model.robot.limits import JointLimits
from lewm_model.sim.arm import ArmSim
from lewm_ros.camera_node import LATCHED, NEWEST_FRAME
from lewm_ros.debug_picture import HEIGHT, WIDTH
from lewm_ros.messages import message_to_latent, rgb_to_message

LAUNCH_FILE = Path(__file__).resolve().parents[2] / "launch" / "plan.launch.py"
TIMEOUT_S = 60.0
exit_codes: dict[str, int] = {}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> str:
    return str(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny").folder)


@launch_pytest.fixture(scope="module")
def plan(bundle):
    included = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(LAUNCH_FILE)),
        launch_arguments={"model": bundle, "sim": "mujoco", "namespace": "cell", "viewer": "true"}.items(),
    )

    def ended(event, context):
        exit_codes[event.process_name.split("-")[0]] = event.returncode

    return LaunchDescription([RegisterEventHandler(OnProcessExit(on_exit=ended)), included, ReadyToTest()])


class Watcher:
    """A node that keeps what the launched nodes publish."""

    def __init__(self) -> None:
        self.node = rclpy.create_node("watcher", namespace="cell")
        self.images, self.latents, self.joint_states, self.trajectories = [], [], [], []
        self.debug_images, self.markers = [], []
        self.node.create_subscription(Image, "camera/image_raw", self.images.append, NEWEST_FRAME)
        self.node.create_subscription(Image, "latent", self.latents.append, NEWEST_FRAME)
        self.node.create_subscription(JointState, "joint_states", self.joint_states.append, 10)
        self.node.create_subscription(JointTrajectory, "arm_controller/joint_trajectory", self.trajectories.append, 10)

    def spin_until(self, condition, what: str, timeout_s: float = TIMEOUT_S) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"waited {timeout_s} s for {what}"
            rclpy.spin_once(self.node, timeout_sec=0.1)

    def spin_for(self, duration_s: float) -> None:
        end = time.monotonic() + duration_s
        self.spin_until(lambda: time.monotonic() >= end, "time to pass", 2 * duration_s + 1)

    def send_goal(self, picture: np.ndarray) -> None:
        self._goals = self.node.create_publisher(Image, "goal_image", LATCHED)
        self._goals.publish(rgb_to_message(picture, self.node.get_clock().now().nanoseconds))

    def enable(self) -> SetBool.Response:
        client = self.node.create_client(SetBool, "planner_node/enable")
        self.spin_until(client.service_is_ready, "the service planner_node/enable")
        future = client.call_async(SetBool.Request(data=True))
        self.spin_until(future.done, "an answer of planner_node/enable")
        return future.result()


@pytest.fixture(scope="module")
def watcher():
    rclpy.init()
    watcher = Watcher()
    yield watcher
    watcher.node.destroy_node()
    rclpy.shutdown()


@pytest.fixture(scope="module")
def goal_and_limits() -> tuple[np.ndarray, JointLimits]:
    with ArmSim() as sim:
        sim.reset(joint_positions=[0.9, -0.8])
        return sim.render(), sim.limits


@pytest.mark.launch(fixture=plan)
def test_every_frame_gives_a_latent_with_its_stamp(watcher):
    watcher.spin_until(lambda: len(watcher.latents) >= 10, "10 latents")
    for latent in watcher.latents:
        assert (latent.encoding, latent.height, latent.width) == ("32FC1", 1, TINY.latent_dim)
        assert np.isfinite(message_to_latent(latent, TINY.latent_dim)).all()

    def of_both() -> int:
        frames = {(image.header.stamp.sec, image.header.stamp.nanosec) for image in watcher.images}
        return len(frames & {(latent.header.stamp.sec, latent.header.stamp.nanosec) for latent in watcher.latents})

    watcher.spin_until(lambda: of_both() >= 8, "8 latents that carry the stamps of their frames")


@pytest.mark.launch(fixture=plan)
def test_a_goal_moves_nothing_before_the_planner_is_enabled_and_the_arm_afterwards(watcher, goal_and_limits):
    goal, limits = goal_and_limits
    watcher.spin_until(lambda: watcher.joint_states, "joint states")
    assert tuple(watcher.joint_states[-1].name) == limits.names

    watcher.send_goal(goal)
    watcher.spin_for(2.0)
    before = np.array(watcher.joint_states[-1].position)
    assert not watcher.trajectories, "a disarmed planner must not command"

    answer = watcher.enable()
    assert answer.success, answer.message
    watcher.spin_until(lambda: len(watcher.trajectories) >= 3, "3 trajectories")
    for trajectory in watcher.trajectories:
        assert tuple(trajectory.joint_names) == limits.names
        times = [point.time_from_start.sec + 1e-9 * point.time_from_start.nanosec for point in trajectory.points]
        positions = np.array([point.positions for point in trajectory.points])
        velocities = np.array([point.velocities for point in trajectory.points])
        assert len(times) >= 2 and (np.diff(times) > 0).all()
        assert (positions >= limits.lower).all() and (positions <= limits.upper).all()
        assert (np.abs(velocities) <= limits.velocity * (1 + 1e-6)).all()
        assert np.abs(velocities[-1]).max() < 1e-6, "what is sent must end at rest"
    watcher.spin_for(1.0)
    moved = np.abs(np.array(watcher.joint_states[-1].position) - before).max()
    assert moved > 0.01, f"the arm moved {moved} rad"


@pytest.mark.launch(fixture=plan)
def test_the_viewer_draws_what_the_nodes_say_and_where_the_arm_is(watcher):
    watcher.node.create_subscription(Image, "debug_image", watcher.debug_images.append, NEWEST_FRAME)
    watcher.node.create_subscription(MarkerArray, "plan_markers", watcher.markers.append, 1)

    def shown():
        known = {marker.ns for array in watcher.markers[-1:] for marker in array.markers}
        return watcher.debug_images and {"goal", "plan"} <= known

    watcher.spin_until(shown, "debug_image, and markers of the arm and its plan")
    picture = watcher.debug_images[-1]
    assert (picture.encoding, picture.width, picture.height) == ("rgb8", WIDTH, HEIGHT)
    assert {marker.header.frame_id for marker in watcher.markers[-1].markers} == {"base"}


@pytest.mark.launch(fixture=plan, shutdown=True)
def test_every_node_ends_in_order():
    nodes = ("sim_node", "camera_node", "planner_node", "viewer_node", "lifecycle_manager")
    assert exit_codes == dict.fromkeys(nodes, 0)


@pytest.mark.skipif(shutil.which("ros2") is None, reason="the ros2 command is not installed")
def test_a_model_that_cannot_be_loaded_ends_the_launch_and_says_why(tmp_path):
    command = ["ros2", "launch", str(LAUNCH_FILE), f"model:={tmp_path / 'nowhere'}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    said = result.stdout + result.stderr
    assert result.returncode == 1
    assert f"no model bundle at {tmp_path / 'nowhere'}" in said
    assert "could not be configured" in said
