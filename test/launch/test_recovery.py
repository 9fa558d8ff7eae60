# SPDX-License-Identifier: Apache-2.0
"""What `ros2 launch` does when a node dies, and with composed nodes, two arms and a dry run."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

WHY = "the launch system is not among ROS 2's wheels; a ROS 2 installation has it (apt: ros-$ROS_DISTRO-ros2launch)"
pytest.importorskip("launch_ros", reason=WHY)
if shutil.which("ros2") is None:
    pytest.skip("the ros2 command is not installed", allow_module_level=True)

import rclpy
from bundles import tiny_bundle
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory

from lewm_model.sim.arm import ArmSim
from lewm_ros.camera_node import LATCHED, NEWEST_FRAME
from lewm_ros.messages import nanoseconds, rgb_to_message

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
MODEL = LAUNCH.parent / "models" / "reach"
TIMEOUT_S = 90.0
REST_RAD_S = 0.01


class Launched:
    """`ros2 launch` as a process of its own, and what it printed."""

    def __init__(self, log: Path, file: str, *arguments: str) -> None:
        self._log = log
        command = ["ros2", "launch", str(LAUNCH / file), *arguments]
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def pids(self, name: str) -> list[int]:
        """Process ids of this executable, in the order of their start."""
        found = re.findall(rf"\[{name}-\d+\]: process started with pid \[(\d+)\]", self.said)
        return [int(pid) for pid in found]

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(60.0)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise


class Watcher:
    """What one arm's nodes publish, and how to talk to them. `namespace` has no slashes; empty: no namespace."""

    def __init__(self, executor: SingleThreadedExecutor, namespace: str = "") -> None:
        self._executor = executor
        self.node = rclpy.create_node("watcher", namespace=namespace)
        executor.add_node(self.node)
        self.latents, self.joint_states, self.trajectories, self.statuses = [], [], [], {}
        self.node.create_subscription(Image, "latent", self.latents.append, NEWEST_FRAME)
        self.node.create_subscription(JointState, "joint_states", self.joint_states.append, 10)
        self.node.create_subscription(JointTrajectory, "arm_controller/joint_trajectory", self.trajectories.append, 10)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)
        self._goals = self.node.create_publisher(Image, "goal_image", LATCHED)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.statuses[status.name] = status.message

    def says(self, name: str, text: str) -> bool:
        return text in self.statuses.get(name, "")

    def until(self, condition, what: str, launched: Launched | None = None, timeout_s: float = TIMEOUT_S) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            tail = launched.said[-3000:] if launched else ""
            assert time.monotonic() < end, f"waited {timeout_s} s for {what}; {self.statuses}\n{tail}"
            ended = launched is not None and launched.process.poll() is not None
            assert not ended or condition(), f"the launch ended before {what}:\n{tail}"
            self._executor.spin_once(timeout_sec=0.05)

    def wait(self, duration_s: float) -> None:
        end = time.monotonic() + duration_s
        self.until(lambda: time.monotonic() > end, "time to pass")

    def send_goal(self, *joint_positions: float) -> None:
        with ArmSim() as sim:
            sim.reset(joint_positions=list(joint_positions))
            self._goals.publish(rgb_to_message(sim.render(), time.time_ns()))

    def enable(self, launched: Launched) -> None:
        """Asks until it is allowed: right after the start frames may still be missing."""
        client = self.node.create_client(SetBool, "planner_node/enable")
        answers: list[SetBool.Response] = []

        def ask() -> None:
            if client.service_is_ready():
                future = client.call_async(SetBool.Request(data=True))
                future.add_done_callback(lambda done: answers.append(done.result()))

        timer = self.node.create_timer(0.5, ask)
        self.until(lambda: answers and answers[-1].success, "the planner to be armed", launched)
        self.node.destroy_timer(timer)

    def speed(self) -> float:
        return float(np.abs(self.joint_states[-1].velocity).max()) if self.joint_states else 0.0


@pytest.fixture
def executor():
    rclpy.init()
    executor = SingleThreadedExecutor()
    yield executor
    executor.shutdown()
    rclpy.shutdown()


@pytest.fixture
def start(tmp_path):
    """Starts `ros2 launch`, and ends it after the test."""
    running = []

    def launch(file: str, *arguments: str) -> Launched:
        running.append(Launched(tmp_path / f"launch{len(running)}.log", file, *arguments))
        return running[-1]

    yield launch
    for launched in running:
        launched.end()


@pytest.fixture
def tiny(tmp_path) -> str:
    return str(tiny_bundle(tmp_path / "tiny").folder)


def test_when_the_camera_node_is_killed_the_arm_rests_and_goes_on_when_it_is_back(start, executor):
    launched = start("plan.launch.py", f"model:={MODEL}")
    watcher = Watcher(executor)
    watcher.until(lambda: watcher.says("lifecycle_manager", "every node is active"), "the start", launched)
    watcher.send_goal(-1.0, 1.5)
    watcher.enable(launched)
    watcher.until(lambda: watcher.speed() > 0.3, "the arm to move", launched)
    (pid,) = launched.pids("camera_node")
    os.kill(pid, signal.SIGKILL)
    last_frame_ns = nanoseconds(watcher.latents[-1].header.stamp)
    watcher.joint_states.clear()
    watcher.wait(1.5)
    moving = [state for state in watcher.joint_states if np.abs(state.velocity).max() > REST_RAD_S]
    last_frame_ns = max(last_frame_ns, nanoseconds(watcher.latents[-1].header.stamp))
    rest_s = (nanoseconds(moving[-1].header.stamp) - last_frame_ns) / 1e9 if moving else 0.0
    print(f"at rest {rest_s:.2f} s after the stamp of the last frame")
    assert rest_s < 1.0
    assert watcher.speed() < REST_RAD_S

    # A goal at the other end of the range: the arm has to move, wherever it stopped.
    watcher.until(lambda: watcher.says("lifecycle_manager", "every node is active"), "the camera's return", launched)
    watcher.until(lambda: len(launched.pids("camera_node")) == 2, "the second process", launched)
    watcher.send_goal(1.0, -1.0)
    sent = len(watcher.trajectories)
    watcher.until(lambda: len(watcher.trajectories) > sent + 3, "the arm to go on by itself", launched)
    assert len(launched.pids("planner_node")) == len(launched.pids("sim_node")) == 1


def test_when_the_planner_is_killed_the_arm_rests_and_the_new_one_is_disarmed(start, executor):
    launched = start("plan.launch.py", f"model:={MODEL}")
    watcher = Watcher(executor)
    watcher.until(lambda: watcher.says("lifecycle_manager", "every node is active"), "the start", launched)
    watcher.send_goal(-1.0, 1.5)
    watcher.enable(launched)
    watcher.until(lambda: watcher.speed() > 0.3, "the arm to move", launched)
    (pid,) = launched.pids("planner_node")
    os.kill(pid, signal.SIGKILL)
    watcher.joint_states.clear()
    watcher.statuses.clear()
    watcher.wait(1.5)
    frame_ns = nanoseconds(watcher.trajectories[-1].header.stamp)  # stamp of the frame that the last plan was made from
    moving = [state for state in watcher.joint_states if np.abs(state.velocity).max() > REST_RAD_S]
    rest_s = (nanoseconds(moving[-1].header.stamp) - frame_ns) / 1e9 if moving else 0.0
    print(f"at rest {rest_s:.2f} s after the stamp of the last frame that was planned from")
    assert rest_s < 1.0
    assert watcher.speed() < REST_RAD_S

    watcher.until(lambda: watcher.says("planner_node", "disarmed"), "the new planner to be active", launched)
    sent = len(watcher.trajectories)
    watcher.wait(2.0)
    assert len(watcher.trajectories) == sent, "it is disarmed until somebody arms it"
    watcher.enable(launched)
    watcher.send_goal(1.0, -1.0)
    watcher.until(lambda: len(watcher.trajectories) > sent + 3, "the arm to go on", launched)


def test_a_dry_run_shows_plans_and_moves_nothing(start, executor):
    launched = start("plan.launch.py", f"model:={MODEL}", "dry_run:=true")
    watcher = Watcher(executor)
    plans = []
    watcher.node.create_subscription(JointTrajectory, "planner_node/plan", plans.append, NEWEST_FRAME)
    watcher.until(lambda: watcher.says("lifecycle_manager", "every node is active"), "the start", launched)
    watcher.until(lambda: watcher.joint_states and watcher.latents, "the arm", launched)
    before = np.array(watcher.joint_states[-1].position)
    watcher.send_goal(-1.0, 1.5)
    watcher.enable(launched)
    watcher.until(lambda: watcher.says("planner_node", "dry run: armed; planning"), "the planner's word", launched)
    plans.clear()
    watcher.until(lambda: len(plans) > 3, "plans", launched)
    assert not watcher.trajectories
    assert np.abs(np.array(watcher.joint_states[-1].position) - before).max() < 0.01


def test_without_respawn_the_end_of_one_node_ends_all(start, executor, tiny):
    launched = start("plan.launch.py", f"model:={tiny}", "respawn:=false")
    watcher = Watcher(executor)
    watcher.until(lambda: watcher.says("lifecycle_manager", "every node is active"), "the start", launched)
    os.kill(launched.pids("camera_node")[0], signal.SIGKILL)
    watcher.until(lambda: launched.process.poll() is not None, "the launch to end", launched)
    assert launched.process.returncode == 1
    assert "camera_node has ended; the others end with it" in launched.said


def test_a_node_that_dies_again_and_again_ends_the_launch(start, executor, tiny):
    launched = start("plan.launch.py", f"model:={tiny}")
    watcher = Watcher(executor)
    for deaths in range(3):
        watcher.until(lambda deaths=deaths: len(launched.pids("camera_node")) == deaths + 1, "its process", launched)
        os.kill(launched.pids("camera_node")[-1], signal.SIGKILL)
    watcher.until(lambda: launched.process.poll() is not None, "the launch to end", launched)
    assert launched.process.returncode == 1
    assert "camera_node has ended 3 times within 60 s" in launched.said


def test_with_autostart_off_nothing_is_configured(start, executor, tiny):
    launched = start("plan.launch.py", f"model:={tiny}", "autostart:=false")
    watcher = Watcher(executor)
    nodes = ("sim_node", "camera_node", "planner_node")
    watcher.until(lambda: all(watcher.says(node, "unconfigured") for node in nodes), "the nodes", launched)
    watcher.wait(2.0)
    assert {watcher.statuses[node] for node in nodes} == {"unconfigured"}
    assert "lifecycle_manager" not in watcher.statuses


def test_composed_is_two_nodes_in_one_process_that_is_restarted_as_one(start, executor):
    launched = start("plan.launch.py", f"model:={MODEL}", "composed:=true", "namespace:=cell")
    watcher = Watcher(executor, "cell")
    watcher.until(lambda: watcher.says("cell/lifecycle_manager", "every node is active"), "the start", launched)
    assert not launched.pids("camera_node") and not launched.pids("planner_node")
    assert len(launched.pids("composed")) == 1
    watcher.send_goal(-1.0, 1.5)
    watcher.enable(launched)
    watcher.until(lambda: len(watcher.trajectories) > 3, "the arm to move", launched)
    os.kill(launched.pids("composed")[0], signal.SIGKILL)
    watcher.statuses.clear()
    watcher.until(lambda: watcher.says("cell/planner_node", "disarmed"), "the new planner to be active", launched)
    seen = len(watcher.latents)
    watcher.until(lambda: len(watcher.latents) > seen, "latents of the new process", launched)


def test_two_arms_side_by_side_do_not_hear_each_other(start, executor, tiny):
    launched = start("two_arms.launch.py", f"left_model:={MODEL}", f"right_model:={tiny}")
    left, right = Watcher(executor, "left"), Watcher(executor, "right")
    for watcher, arm in ((left, "left"), (right, "right")):
        everyone = f"{arm}/lifecycle_manager"
        watcher.until(lambda w=watcher, e=everyone: w.says(e, "every node is active"), arm, launched)
        watcher.until(lambda w=watcher: w.latents, f"latents of the {arm} arm", launched)
    left.send_goal(-1.0, 1.5)
    left.enable(launched)
    left.until(lambda: len(left.trajectories) > 3, "the left arm to move", launched)
    left.wait(2.0)
    assert not right.trajectories
    assert right.speed() < REST_RAD_S
    assert left.latents[-1].width != right.latents[-1].width, "each has its own model"
    assert {name.partition("/")[0] for name in left.statuses} == {"left", "right"}, "/diagnostics has both"
    assert launched.end() == 0


def test_launch_arguments_reach_the_nodes(start, executor, tiny, tmp_path):
    folder = tmp_path / "goals"
    folder.mkdir()
    launched = start("plan.launch.py", f"model:={tiny}", "deadman_button:=5", f"goal_folder:={folder}")
    watcher = Watcher(executor)
    watcher.until(lambda: watcher.says("lifecycle_manager", "every node is active"), "the start", launched)
    assert parameter(watcher, "camera_node", "goal_folder").string_value == str(folder)
    assert parameter(watcher, "planner_node", "deadman_button").integer_value == 5


def parameter(watcher: Watcher, node: str, name: str):
    from rcl_interfaces.srv import GetParameters

    client = watcher.node.create_client(GetParameters, f"{node}/get_parameters")
    watcher.until(client.service_is_ready, "the parameters' service")
    future = client.call_async(GetParameters.Request(names=[name]))
    watcher.until(future.done, "the parameter")
    return future.result().values[0]


def test_a_dead_man_button_that_is_no_number_is_refused(start, tiny):
    launched = start("plan.launch.py", f"model:={tiny}", "deadman_button:=trigger")
    assert launched.process.wait(TIMEOUT_S) == 1
    assert "deadman_button is 'trigger'; it must be the number of a button" in launched.said
