# SPDX-License-Identifier: Apache-2.0
"""Each node by itself: what it refuses, what it says then, and that nothing it receives ends it."""

import array
import dataclasses
import threading
import time
from functools import partial

import cv2
import numpy as np
import pytest
import yaml

rclpy = pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

from bundles import tiny_bundle
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.exceptions import InvalidParameterValueException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter as RosParameter
from sensor_msgs.msg import CameraInfo, Image, JointState, Joy
from std_msgs.msg import Float32, String
from std_srvs.srv import SetBool, Trigger
from test_robot_file import ARM, ROBOT, SCENE
from trajectory_msgs.msg import JointTrajectory

import lewm_ros.node
from lewm_model.bundle.bundle import Calibration, load_bundle, save_description
from lewm_model.config import PlanConfig, resource
from lewm_model.monitoring.novelty import Novelty, remember
from lewm_model.monitoring.vigilance import Vigilance
from lewm_model.planning.motion import KnotLimits, Timeline, Trajectory
from lewm_model.robot.observation import Camera, to_model_image
from lewm_model.robot.rectify import Rectifier
from lewm_model.sim.arm import ArmSim
from lewm_ros import arm_node, camera_node
from lewm_ros.arm_parameters import SHIELD_FIELDS
from lewm_ros.camera_node import LATCHED, NEWEST_FRAME, CameraNode
from lewm_ros.goals import goal_identity
from lewm_ros.mailbox import Mailbox
from lewm_ros.messages import (
    camera_info_message,
    joint_state_message,
    latent_to_message,
    message_to_latent,
    message_to_rgb,
    rgb_to_message,
    trajectory_to_message,
)
from lewm_ros.node import Milliseconds, Worker
from lewm_ros.parameters import ParameterError, read
from lewm_ros.planner_node import PlannerNode
from lewm_ros.planner_parameters import PARAMETERS, PLAN_FIELDS
from lewm_ros.safety import Intervention, Reason, ShieldConfig, State
from lewm_ros.sim_node import SimNode

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
PICTURE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
LIMITS = {
    "limits.names": ["shoulder", "elbow"],
    "limits.lower": [-2.6, -2.2],
    "limits.upper": [2.6, 2.2],
    "limits.velocity": [1.5, 1.5],
    "limits.acceleration": [9.0, 9.0],
    "limits.jerk": [150.0, 150.0],
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


class Bench:
    """Nodes of this process and one to talk to them."""

    def __init__(self) -> None:
        rclpy.init()
        self.executor = SingleThreadedExecutor()
        self.nodes = []
        self.node = self.add(rclpy.create_node("bench"))

    def add(self, node, **parameters):
        self.nodes.append(node)
        self.executor.add_node(node)
        for name, value in parameters.items():
            self.set(node, name, value)
        return node

    @staticmethod
    def set(node, name, value):
        assert node.set_parameters([RosParameter(name, value=value)])[0].successful

    def spin_until(self, condition, timeout_s: float = 30.0) -> bool:
        end = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)
        return bool(condition())

    def close(self) -> None:
        for node in self.nodes:
            if hasattr(node, "deactivate"):
                node.deactivate()
                node.cleanup()
            node.destroy_node()
        self.executor.shutdown()
        rclpy.shutdown()


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.close()


def is_logged(bench, capfd, text):
    """Whether a node logs a text; its thread may do so only after the effect shows elsewhere."""
    said = []

    def heard():
        said.append(capfd.readouterr().err)
        return text in "".join(said)

    return bench.spin_until(heard)


def planner(bench, bundle, **changes):
    node = bench.add(PlannerNode(), model=str(bundle.folder))
    for name, value in {**LIMITS, **changes}.items():
        bench.set(node, name, value)
    return node


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [CameraNode, PlannerNode])
def test_a_missing_bundle_is_refused_and_the_node_can_be_configured_later(bench, bundle, capfd, make):
    node = bench.add(make(), model="/nowhere/bundle")
    for name, value in LIMITS.items() if make is PlannerNode else ():
        bench.set(node, name, value)
    assert node.trigger_configure() == FAILURE
    assert node.state_label == "unconfigured"
    assert "there is no model bundle at /nowhere/bundle" in capfd.readouterr().err
    bench.set(node, "model", str(bundle.folder))
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_cleanup() == SUCCESS


def test_a_bundle_that_was_changed_is_refused(bench, tmp_path, capfd):
    changed = tiny_bundle(tmp_path / "changed")
    with (changed.folder / "onnx" / "encoder.onnx").open("ab") as file:
        file.write(b"\0")
    assert bench.add(CameraNode(), model=str(changed.folder)).trigger_configure() == FAILURE
    assert "onnx/encoder.onnx does not match its SHA-256" in capfd.readouterr().err


def test_another_arm_than_the_bundle_s_is_refused(bench, bundle, capfd):
    node = planner(bench, bundle, **{"limits.names": ["base", "elbow"]})
    assert node.trigger_configure() == FAILURE
    error = capfd.readouterr().err
    assert "moves the joints shoulder, elbow" in error
    assert "limits.* describe base, elbow" in error


def test_actions_that_are_no_joint_velocities_are_refused(bench, tmp_path, capfd):
    bundle = tiny_bundle(tmp_path / "positions")
    recorded = dataclasses.replace(bundle.actions.groups[0], kind="recorded", unit="as recorded")
    actions = dataclasses.replace(bundle.actions, groups=(recorded,))
    save_description(dataclasses.replace(bundle, actions=actions))
    assert planner(bench, bundle).trigger_configure() == FAILURE
    assert "are 'recorded', not joint velocities" in capfd.readouterr().err


def test_missing_limits_are_refused_with_the_parameter_s_name(bench, bundle, capfd):
    node = bench.add(PlannerNode(), model=str(bundle.folder))
    assert node.trigger_configure() == FAILURE
    assert "no joint limits are given: set robot" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("limits.velocity", [1.5, float("nan")], "it must be finite"),
        ("limits.jerk", [150.0, -1.0], "it must be above 0"),
        ("limits.lower", [3.0, -2.6], "lower must be less"),
        ("limits.upper", [2.6], "has shape (1,)"),
        ("plan.elites", 1000, "PlanConfig.elites is 1000"),
        ("plan.sampler", "guess", "'cem', 'icem', 'mppi' or 'shooting'"),
        ("backend", "magic", "must be one of auto"),
        ("plan.horizon", 3, "is made for plans of 5 blocks; leave plan.horizon out"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_with_the_reason(bench, bundle, capfd, name, value, reason):
    node = planner(bench, bundle, **{name: value})
    assert node.trigger_configure() == FAILURE
    assert reason in capfd.readouterr().err
    assert node.state_label == "unconfigured"


def test_limits_that_are_not_given_come_from_the_urdf_and_none_may_be_wider(bench, bundle, capfd):
    urdf = str(resource("config", "arms", "tabletop.urdf"))
    node = bench.add(PlannerNode(), model=str(bundle.folder), urdf=urdf)
    for name in ("names", "acceleration", "jerk"):
        bench.set(node, f"limits.{name}", LIMITS[f"limits.{name}"])
    assert node.trigger_configure() == SUCCESS
    np.testing.assert_array_equal(node._limits.upper, [2.6, 2.2])
    assert node.trigger_cleanup() == SUCCESS
    bench.set(node, "limits.upper", [2.6, 3.0])
    assert node.trigger_configure() == FAILURE
    assert "a limit may only be narrower than the arm's own" in capfd.readouterr().err


def test_a_workspace_needs_a_urdf_and_keeps_the_links_inside(bench, bundle, capfd):
    box = {"workspace.lower": [-0.6, -0.6, 0.0], "workspace.upper": [0.4, 0.6, 1.0]}
    node = planner(bench, bundle, **box)
    assert node.trigger_configure() == FAILURE
    assert "need a urdf" in capfd.readouterr().err
    bench.set(node, "urdf", str(resource("config", "arms", "tabletop.urdf")))
    assert node.trigger_configure() == FAILURE
    assert "has no base link 'base_link'" in capfd.readouterr().err
    bench.set(node, "workspace.base", "base")
    bench.set(node, "workspace.tip", "end_effector")
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    feed(node, (0.0, 0.0))  # stretched out along x, beyond 0.4 m
    response = node._on_enable(SetBool.Request(data=True), SetBool.Response())
    assert not response.success
    assert "0.4" in response.message
    feed(node, (1.5, 0.0))
    assert node._on_enable(SetBool.Request(data=True), SetBool.Response()).success


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("deadman_buton:=5", "deadman_button"),
        ("Workspace.lower:=[0.0, 0.0, 0.0]", "workspace.lower"),
        ("shield.frame_timeout:=0.1", "shield.frame_timeout_s"),
        ("limits.deadman_button:=5", "deadman_button"),
        ("limits.workspace.lower:=[0.0, 0.0, 0.0]", "workspace.lower"),
    ],
)
def test_a_parameter_that_no_node_takes_is_refused_with_the_one_that_was_meant(bundle, capfd, given, meant):
    rclpy.init(args=["--ros-args", "-p", given, "-p", f"model:={bundle.folder}", "-p", "qos_overrides.x:=1"])
    try:
        node = PlannerNode()
        node.set_parameters([RosParameter(name, value=value) for name, value in LIMITS.items()])
        assert node.trigger_configure() == FAILURE
        error = capfd.readouterr().err
        assert f"knows no parameter '{given.partition(':')[0]}' (is it '{meant}'" in error
        assert "qos_overrides" not in error
        node.destroy_node()
    finally:
        rclpy.shutdown()


def test_a_quality_of_service_of_a_topic_that_the_node_does_not_have_is_refused_with_the_one_that_was_meant(
    bundle, capfd
):
    given = "qos_overrides./joint_state.subscription.reliability"
    rclpy.init(args=["--ros-args", "-p", f"{given}:=reliable", "-p", f"model:={bundle.folder}"])
    try:
        node = PlannerNode()
        node.set_parameters([RosParameter(name, value=value) for name, value in LIMITS.items()])
        assert node.trigger_configure() == SUCCESS, "it subscribes only when it is activated"
        assert node.trigger_activate() == FAILURE
        meant = "qos_overrides./joint_states.subscription.reliability"
        error = capfd.readouterr().err
        assert f"cannot activate: planner_node knows no parameter '{given}' (is it '{meant}'?)" in error
        assert node._worker is None, "what was started is ended"
        node.destroy_node()
        plain = rclpy.create_node("plain")
        with pytest.raises(ParameterError, match=f"plain knows no parameter '{given}'"):
            read(plain, ())
        plain.destroy_node()
    finally:
        rclpy.shutdown()


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("reliability:=relieable", "one of reliable, best_effort"),
        ("history:=system_default", "one of keep_last, keep_all"),
        ("depth:=ten", "a number of messages"),
        ("depth:=-1", "a number of messages"),
    ],
)
def test_a_quality_of_service_that_does_not_exist_is_refused_with_those_that_do(bundle, capfd, given, meant):
    name = "qos_overrides./joint_states.subscription." + given.partition(":")[0]
    rclpy.init(args=["--ros-args", "-p", f"qos_overrides./joint_states.subscription.{given}"])
    try:
        node = PlannerNode()
        assert node.trigger_configure() == FAILURE
        error = capfd.readouterr().err
        assert f"parameter '{name}' is" in error and f"it must be {meant}" in error and "this is a bug" not in error
        node.destroy_node()
    finally:
        rclpy.shutdown()


def test_a_parameter_that_would_change_nothing_now_is_refused_and_the_others_take_effect_at_once(bench, bundle):
    node = planner(bench, bundle)
    assert node.trigger_configure() == node.trigger_activate() == SUCCESS

    def set_to(name, value):
        return node.set_parameters([RosParameter(name, value=value)])[0]

    refused = set_to("limits.velocity", [0.1, 0.1])
    assert not refused.successful
    assert "would change nothing now: deactivate and clean up the node" in refused.reason
    assert list(node.get_parameter("limits.velocity").value) == LIMITS["limits.velocity"]
    assert not set_to("plan.deadline_s", -1.0).successful, "nor does a number out of its range pass"
    for name, value in (("plan.deadline_s", 0.05), ("shield.deadman_timeout_s", 0.2), ("speed_scale", 0.25)):
        assert set_to(name, value).successful
    assert bench.spin_until(lambda: node._planner.speed_scale == 0.25)
    assert node._planner.config.deadline_s == 0.05 and node._shield.config.deadman_timeout_s == 0.2
    assert set_to("deadman_button", 2).successful
    feed(node)
    assert node._on_enable(SetBool.Request(data=True), SetBool.Response()).success
    assert "the dead-man's button is not pressed" in node._shield.message
    node._on_joy(Joy(buttons=[0, 0, 1]))
    assert "dead-man" not in node._shield.message


def test_a_person_turns_the_speed_down_at_any_time_and_zero_holds(bench, bundle, capfd):
    node = planner(bench, bundle, **{"shield.tracking_tolerance_rad": 3.0})
    node.trigger_configure()
    node.trigger_activate()
    commands = listen_for_commands(bench)
    at = np.array([0.1, 0.2])
    slider = bench.node.create_publisher(Float32, "/planner_node/speed_scale", 1)
    assert bench.spin_until(slider.get_subscription_count)

    def moves_at_most(speed):
        """Whether the newest command keeps to a speed while the arm, which follows exactly, is on its way."""
        commands.clear()

        def moved():
            feed(node, position_now())
            return len({command.header.stamp.nanosec for command in commands}) > 6  # each one is sent several times

        node._on_goal(goal_latent(time.time_ns()))
        assert bench.spin_until(moved)
        newest = commands[-1].points
        return max(abs(v) for point in newest for v in point.velocities) <= speed

    def position_now():
        timeline = node._planner.timeline
        if timeline is not None:
            at[:] = timeline.sample(np.array([node.now_s()])).positions[0]
        return at

    def turn(value):
        slider.publish(Float32(data=value))
        assert bench.spin_until(lambda: node.get_parameter("speed_scale").value == pytest.approx(value))

    turn(0.1)
    feed(node)
    assert node._on_enable(SetBool.Request(data=True), SetBool.Response()).success
    assert moves_at_most(0.1 * 1.5 + 1e-6)
    before = node._planner
    node._on_stop(Trigger.Request(), Trigger.Response())
    assert bench.spin_until(lambda: not node._planner.active)
    node._on_reset(Trigger.Request(), Trigger.Response())
    assert bench.spin_until(lambda: node._planner is not before)
    assert node._planner.speed_scale == pytest.approx(0.1), "also after a reset"
    feed(node, at)
    assert node._on_enable(SetBool.Request(data=True), SetBool.Response()).success
    turn(0.0)
    assert bench.spin_until(lambda: feed(node, at) or node._shield.state is State.HOLDING)
    assert "speed_scale is 0" in node._shield.message
    assert is_logged(bench, capfd, "speed_scale is 0")
    turn(1.0)
    assert bench.spin_until(lambda: feed(node, at) or node._shield.state is State.ARMED)
    node._on_speed_scale(Float32(data=float("nan")))
    node._on_speed_scale(Float32(data=1.5))
    assert "must be between 0 and 1" in node._complaint
    assert node.get_parameter("speed_scale").value == 1.0


def test_a_goal_tolerance_takes_effect_at_once(bench, tmp_path):
    made = tiny_bundle(tmp_path / "calibrated")
    save_description(dataclasses.replace(made, calibration=Calibration(1.0, 2.0, (0.1,), (0.1,), 0.0, 500)))
    node = planner(bench, load_bundle(made.folder))
    node.trigger_configure()
    node.trigger_activate()
    bench.set(node, "goal_tolerance", 3.0)
    assert bench.spin_until(lambda: node._planner.runtime.bundle.calibration.reached == 3.0)
    assert node._planner.runtime.bundle.calibration.left == 6.0


def test_a_dry_run_plans_and_shows_holds_and_reports_and_sends_nothing(bench, bundle):
    node = planner(bench, bundle, dry_run=True)
    node.trigger_configure()
    node.trigger_activate()
    shown, said = [], []
    commands = listen_for_commands(bench)
    bench.node.create_subscription(JointTrajectory, "/planner_node/plan", shown.append, NEWEST_FRAME)
    bench.node.create_subscription(DiagnosticStatus, "/planner_node/status", said.append, LATCHED)
    node._on_goal(goal_latent(time.time_ns()))
    feed(node)
    assert node._on_enable(SetBool.Request(data=True), SetBool.Response()).success

    def status(text):
        return said and text in said[-1].message and any(pair.key == "distance" for pair in said[-1].values)

    assert bench.spin_until(lambda: feed(node) or (len(shown) > 2 and status("dry run: armed; planning")))
    bench.spin_until(lambda: False, 0.7)
    assert "dry run: holding" in node.diagnose()[1], "no frame comes"
    assert not commands


def test_arming_on_start_happens_once_and_not_again_after_a_deactivation(bench, bundle):
    node = planner(bench, bundle, enable_on_start=True)
    node.trigger_configure()
    node.trigger_activate()
    assert bench.spin_until(lambda: feed(node) or node._shield.state is not State.DISARMED)
    node.trigger_deactivate()
    node.trigger_activate()
    bench.spin_until(lambda: feed(node), 0.5)
    assert node._shield.state is State.DISARMED


def test_every_hold_and_stop_is_in_the_log_with_its_reason(bench, bundle, capfd):
    node = planner(bench, bundle)
    node.trigger_configure()
    node.trigger_activate()
    feed(node)
    assert node._on_enable(SetBool.Request(data=True), SetBool.Response()).success
    assert bench.spin_until(lambda: node._shown and node._shown[0] is State.HOLDING)
    assert is_logged(bench, capfd, "holding: no controller takes the commands")
    node._shield.stop("a test says so")
    assert bench.spin_until(lambda: node._shown[0] is State.STOPPED)
    assert is_logged(bench, capfd, "stopped: a test says so; reset to go on")


def test_a_node_whose_planning_does_not_end_stays_active_until_it_does(bench, bundle, capfd, monkeypatch):
    monkeypatch.setattr(lewm_ros.node, "STOP_S", 0.2)
    node = planner(bench, bundle)
    node.trigger_configure()
    node.trigger_activate()
    began, release = threading.Event(), threading.Event()
    node._planner.observe = lambda *_: (began.set(), release.wait(30.0))
    feed(node)
    thread = node._worker
    assert began.wait(10.0)
    assert node.trigger_deactivate() == FAILURE
    assert "the thread 'plan' has not ended within 0.2 s" in capfd.readouterr().err
    assert node.state_label == "active" and node._worker is thread
    assert "is being deactivated" in node._on_enable(SetBool.Request(data=True), SetBool.Response()).message
    release.set()
    assert thread.stop(10.0)
    assert node.trigger_deactivate() == SUCCESS


def test_diagnostics_go_on_and_say_so_when_simulated_time_stands_still(bench, bundle, monkeypatch):
    monkeypatch.setattr(lewm_ros.node, "STANDSTILL_S", 0.5)
    heard = []
    bench.node.create_subscription(DiagnosticArray, "/diagnostics", lambda m: heard.extend(m.status), 10)
    bench.add(CameraNode(), use_sim_time=True)
    assert bench.spin_until(lambda: any("time has stood still" in status.message for status in heard), 10.0)
    assert heard[-1].level == DiagnosticStatus.ERROR and heard[-1].hardware_id


def test_a_number_outside_its_range_never_becomes_a_parameter(bench):
    node = bench.add(PlannerNode())
    result = node.set_parameters([RosParameter("plan.deadline_s", value=-1.0)])[0]
    assert not result.successful
    with pytest.raises(InvalidParameterValueException):
        node.declare_parameter("again", 5.0, dataclasses.replace(_row("plan.deadline_s"), high=1.0).descriptor)


def _row(name):
    return next(row for row in PARAMETERS if row.name == name)


def test_a_broken_world_is_refused(bench, tmp_path, capfd):
    world = tmp_path / "broken.sdf"
    world.write_text("<sdf version='1.9'><world name='w'><joint/></world></sdf>")
    assert bench.add(SimNode(), world=str(world)).trigger_configure() == FAILURE
    assert "broken.sdf" in capfd.readouterr().err


def test_each_simulated_camera_has_its_calibration(bench, tmp_path):
    for name, text in (("arm.xml", ARM), ("mine.yaml", ROBOT)):
        (tmp_path / name).write_text(text)
    scene = yaml.safe_load(SCENE)
    scene["cameras"][1] |= {"fov_deg": 90.0, "height": 40, "width": 60}
    (tmp_path / "scene.yaml").write_text(yaml.safe_dump(scene))
    infos, pictures = {}, {}
    for name in ("camera", "wrist"):
        for kind, topic, found in ((CameraInfo, "camera_info", infos), (Image, "image_raw", pictures)):
            bench.node.create_subscription(kind, f"{name}/{topic}", partial(found.__setitem__, name), NEWEST_FRAME)
    node = bench.add(SimNode(), world=str(tmp_path / "scene.yaml"))
    assert node.trigger_configure() == SUCCESS and node.trigger_activate() == SUCCESS
    assert bench.spin_until(lambda: len(infos) == len(pictures) == 2)
    assert (infos["wrist"].height, infos["wrist"].width) == (40, 60)
    assert infos["wrist"].k[0] == pytest.approx(20.0), "half the height, seen under 45 degrees"
    for name, info in infos.items():
        assert info.header.frame_id == pictures[name].header.frame_id
        assert (info.height, info.width) == (pictures[name].height, pictures[name].width)


def test_the_simulated_controller_counts_where_its_command_jumps_and_no_smooth_motion(bench):
    node = bench.add(SimNode())
    commands = bench.node.create_publisher(JointTrajectory, "arm_controller/joint_trajectory", 1)
    assert node.trigger_configure() == SUCCESS and node.trigger_activate() == SUCCESS
    assert bench.spin_until(lambda: commands.get_subscription_count() == 1)
    arm = ArmSim(render=False)
    timeline = Timeline(0.0, arm.home, KnotLimits(arm.limits, 0.25))
    timeline.splice(0, np.tile(0.4 * arm.limits.velocity, (3, 1)))
    smooth = timeline.sample(np.arange(0.05, timeline.end_s + 0.05, 0.05))
    back = dataclasses.replace(smooth, positions=smooth.positions[-1] + smooth.positions[0] - smooth.positions)
    back = dataclasses.replace(back, velocities=-smooth.velocities)
    for number, (motion, late_s) in enumerate(((smooth, 0.0), (back, 0.4)), start=1):
        sent_ns = node.get_clock().now().nanoseconds - round(1e9 * late_s)
        commands.publish(trajectory_to_message(motion, arm.names, sent_ns - round(1e9 * motion.times_s[0])))
        assert bench.spin_until(lambda number=number: node.diagnose()[2]["trajectories_taken"] == str(number))
        ends_s = time.monotonic() + motion.times_s[-1] + 0.3
        bench.spin_until(lambda ends_s=ends_s: time.monotonic() > ends_s)
        assert (int(node.diagnose()[2]["jerk_violations"]) > 0) == (late_s > 0.0)


def test_a_command_that_arrives_while_the_simulator_is_held_up_takes_over_when_it_arrived(bench):
    node = bench.add(SimNode())
    commands = bench.node.create_publisher(JointTrajectory, "arm_controller/joint_trajectory", 1)
    assert node.trigger_configure() == SUCCESS and node.trigger_activate() == SUCCESS
    assert bench.spin_until(lambda: commands.get_subscription_count() == 1)
    step, held_up, go_on = node._sim.step, threading.Event(), threading.Event()

    def pausing(duration_s: float) -> None:
        if node.diagnose()[2]["trajectories_taken"] == "1" and not held_up.is_set():
            held_up.set()
            go_on.wait(30.0)
        step(duration_s)

    node._sim.step = pausing
    arm = ArmSim(render=False)
    timeline = Timeline(0.0, arm.home, KnotLimits(arm.limits, 0.25))
    timeline.splice(0, np.tile(0.4 * arm.limits.velocity, (6, 1)))
    times_s, sent_ns = np.arange(0.0, 2.6, 0.05), node.get_clock().now().nanoseconds
    commands.publish(trajectory_to_message(timeline.sample(times_s), arm.names, sent_ns))
    assert bench.spin_until(held_up.is_set)
    timeline.splice(2, np.zeros((1, len(arm.names))))  # brakes from 0.5 s on
    commands.publish(trajectory_to_message(timeline.sample(times_s), arm.names, sent_ns))
    time.sleep(0.7)  # with nobody who handles the message
    ends_s = time.monotonic() + 0.1
    bench.spin_until(lambda: time.monotonic() > ends_s)
    go_on.set()
    assert bench.spin_until(lambda: node.diagnose()[2]["trajectories_taken"] == "2")
    ends_s = time.monotonic() + 0.5
    bench.spin_until(lambda: time.monotonic() > ends_s)
    values = node.diagnose()[2]
    assert values["jerk_violations"] == "0" and float(values["largest_step_rad"]) < 0.001


def test_an_impossible_transition_is_answered_with_no_and_the_node_goes_on(bench, bundle):
    node = bench.add(CameraNode(), model=str(bundle.folder))
    client = bench.node.create_client(ChangeState, "/camera_node/change_state")
    assert bench.spin_until(client.service_is_ready)
    for number, success in (
        (Transition.TRANSITION_ACTIVATE, False),
        (99, False),
        (Transition.TRANSITION_CONFIGURE, True),
    ):
        future = client.call_async(ChangeState.Request(transition=Transition(id=number)))
        assert bench.spin_until(future.done)
        assert future.result().success is success
    assert node.state_label == "inactive"


def test_every_parameter_has_a_description_and_every_setting_a_parameter(bench):
    settings = {"plan": (PlanConfig, PLAN_FIELDS), "shield": (ShieldConfig, SHIELD_FIELDS)}
    for kind, described in settings.values():
        assert {field.name for field in dataclasses.fields(kind)} - {"horizon"} == set(described), "it is the bundle's"
    for make in (CameraNode, PlannerNode, SimNode):
        node = bench.add(make())
        own = [name for name in node.list_parameters([], 10).names if name != "use_sim_time"]
        for descriptor in node.describe_parameters([name for name in own if not name.startswith("qos")]):
            if descriptor.name != "start_type_description_service":
                assert len(descriptor.description) > 10, descriptor.name


# ---- camera node -----------------------------------------------------------------------------------------------------


def test_frames_and_goals_become_latents_with_their_stamps(bench, bundle):
    node = bench.add(CameraNode(), model=str(bundle.folder))
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    latents, goals = [], []
    bench.node.create_subscription(Image, "latent", latents.append, NEWEST_FRAME)
    bench.node.create_subscription(Image, "goal_latent", goals.append, LATCHED)
    camera = bench.node.create_publisher(Image, "camera/image_raw", NEWEST_FRAME)
    goal = bench.node.create_publisher(Image, "goal_image", LATCHED)
    assert bench.spin_until(lambda: camera.get_subscription_count() and goal.get_subscription_count())
    bench.spin_until(lambda: False, 0.3)
    stamp_ns = time.time_ns()
    camera.publish(rgb_to_message(PICTURE, stamp_ns, "optical"))
    goal.publish(rgb_to_message(PICTURE, stamp_ns + 1))
    assert bench.spin_until(lambda: latents and goals)
    assert (latents[0].header.stamp.nanosec, latents[0].header.frame_id) == (stamp_ns % 10**9, "optical")
    expected = node._runtime.encode(PICTURE)
    np.testing.assert_allclose(message_to_latent(latents[0], 8), expected, atol=1e-6)
    np.testing.assert_allclose(message_to_latent(goals[0], 8), expected, atol=1e-6)


def with_cameras(folder, *cameras):
    bundle = tiny_bundle(folder)
    return save_description(dataclasses.replace(bundle, cameras=cameras))


def test_a_camera_that_hangs_upside_down_is_cropped_as_in_its_recording(bench, tmp_path):
    bundle = with_cameras(tmp_path / "one", Camera("wrist", 64, 64, crop=(10, 20, 64, 64), rotation=180))
    node = bench.add(CameraNode(), model=str(bundle.folder))
    assert node.trigger_configure() == SUCCESS and node.trigger_activate() == SUCCESS
    latents = []
    bench.node.create_subscription(Image, "latent", latents.append, NEWEST_FRAME)
    assert bench.spin_until(node._latents.get_subscription_count)
    picture = np.random.default_rng(0).integers(0, 256, (100, 120, 3), np.uint8)
    node._on_image(rgb_to_message(picture[:50], 1))
    assert bench.spin_until(lambda: "is cropped to rows 10 to 74" in node.diagnose()[1])
    node._on_image(rgb_to_message(picture, 2))
    assert bench.spin_until(lambda: latents)
    expected = node._runtime.encode(np.ascontiguousarray(picture[::-1, ::-1][10:74, 20:84]))
    np.testing.assert_allclose(message_to_latent(latents[0], 8), expected, atol=1e-6)


def test_pictures_and_goals_wait_for_the_calibration_and_are_rectified_by_it(bench, tmp_path, capfd):
    bundle = with_cameras(tmp_path / "one", Camera("wrist", 64, 64, topic="wrist/image_raw", rectify=True))
    node = bench.add(CameraNode(), model=str(bundle.folder))
    assert node.trigger_configure() == SUCCESS and node.trigger_activate() == SUCCESS
    latents, goals = [], []
    bench.node.create_subscription(Image, "latent", latents.append, NEWEST_FRAME)
    bench.node.create_subscription(Image, "goal_latent", goals.append, LATCHED)
    infos = bench.node.create_publisher(CameraInfo, "wrist/camera_info", NEWEST_FRAME)
    assert bench.spin_until(lambda: node._latents.get_subscription_count() and infos.get_subscription_count())
    picture = np.random.default_rng(0).integers(0, 256, (100, 120, 3), np.uint8)
    node._on_image(rgb_to_message(picture, 1))
    node._on_goal(rgb_to_message(picture, 2))
    bench.spin_until(lambda: latents or goals, 0.5)
    assert not latents and not goals
    assert "no calibration has come on /wrist/camera_info" in node.diagnose()[1]
    assert "no calibration has come" in node._capture_goal()[1]

    info = camera_info_message(120, 100, 90.0, 0)
    info.k = [0.0] * 9
    infos.publish(info)
    assert is_logged(bench, capfd, "holds no calibration: calibrate the camera")
    info = camera_info_message(120, 100, 90.0, 0)
    info.d = [-0.3, 0.1, 0.0, 0.0, 0.0]
    infos.publish(info)
    assert bench.spin_until(lambda: latents and goals), "those that came before"
    rectified = to_model_image(Rectifier(info)(picture), 64)
    assert np.abs(rectified.astype(int) - to_model_image(picture, 64)).max() > 50
    for message in (latents[0], goals[0]):
        np.testing.assert_allclose(message_to_latent(message, 8), node._runtime.encode(rectified), atol=1e-6)
    node._on_image(rgb_to_message(picture[:50], 3))
    assert bench.spin_until(
        lambda: "the picture is 50 x 120 and its camera_info is for 100 x 120" in node.diagnose()[1]
    )


def test_what_is_captured_from_a_camera_of_the_model_s_size_is_turned_as_its_frames_are(bench, tmp_path):
    bundle = with_cameras(tmp_path / "one", Camera("wrist", 64, 64, rotation=180))
    node = bench.add(CameraNode(), model=str(bundle.folder))
    assert node.trigger_configure() == SUCCESS and node.trigger_activate() == SUCCESS
    goals = []
    bench.node.create_subscription(Image, "goal_latent", goals.append, LATCHED)
    node._on_image(rgb_to_message(PICTURE, 1))
    assert bench.spin_until(lambda: node._encoded)
    node._unsteady = None
    assert node._capture_goal()[0]
    assert bench.spin_until(lambda: goals)
    expected = node._runtime.encode(np.ascontiguousarray(PICTURE[::-1, ::-1]))
    np.testing.assert_allclose(message_to_latent(goals[0], 8), expected, atol=1e-6)


def test_pictures_of_several_cameras_that_were_taken_together_are_one_frame_and_one_goal(bench, tmp_path):
    cameras = Camera("front", 64, 40), Camera("wrist", 64, 24, topic="wrist/image_raw")
    bundle = with_cameras(tmp_path / "two", *cameras)
    node = bench.add(CameraNode(), model=str(bundle.folder))
    assert node.trigger_configure() == SUCCESS and node.trigger_activate() == SUCCESS
    assert "camera/image_raw and wrist/image_raw, of all of them within half a control step" in node.diagnose()[1]
    latents, goals = [], []
    bench.node.create_subscription(Image, "latent", latents.append, NEWEST_FRAME)
    bench.node.create_subscription(Image, "goal_latent", goals.append, LATCHED)
    front = bench.node.create_publisher(Image, "camera/image_raw", NEWEST_FRAME)
    wrist = bench.node.create_publisher(Image, "wrist/image_raw", NEWEST_FRAME)
    assert bench.spin_until(lambda: front.get_subscription_count() and wrist.get_subscription_count())
    bench.spin_until(lambda: False, 0.3)
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 256, (64, 40, 3), np.uint8), rng.integers(0, 256, (64, 24, 3), np.uint8)
    second = 10**9
    wrist.publish(rgb_to_message(left, second))  # its front picture is lost
    bench.spin_until(lambda: False, 0.2)
    front.publish(rgb_to_message(left, second + second // 20, "optical"))
    bench.spin_until(lambda: False, 0.2)
    assert not latents, "0.05 s apart"
    wrist.publish(rgb_to_message(right, second + second // 20 + second // 50))
    assert bench.spin_until(lambda: latents)
    assert (latents[0].header.stamp.nanosec, latents[0].header.frame_id) == (second // 20, "optical")
    expected = node._runtime.encode(np.concatenate([left, right], axis=1))
    np.testing.assert_allclose(message_to_latent(latents[0], 8), expected, atol=1e-6)
    node._unsteady = None
    assert node._capture_goal()[0]
    assert bench.spin_until(lambda: goals), "side by side, it is the model's picture already"
    np.testing.assert_allclose(message_to_latent(goals[0], 8), expected, atol=1e-6)
    node._on_goal(rgb_to_message(left, 5 * second))
    assert bench.spin_until(lambda: "it must show them side by side, 64 x 64 pixels" in node._goal_problem)


def test_what_is_new_in_a_frame_is_told_before_its_latent_and_forgotten_with_deactivation(bench, bundle):
    node = bench.add(CameraNode(), model=str(bundle.folder))
    node.trigger_configure()
    node._novelty = Novelty(remember(PICTURE[None]), 2.0)  # as with a calibrated bundle
    node.trigger_activate()
    told = []
    bench.node.create_subscription(Float32, "novelty", lambda message: told.append(message.data), NEWEST_FRAME)
    bench.node.create_subscription(Image, "latent", lambda message: told.append("latent"), NEWEST_FRAME)
    assert bench.spin_until(lambda: node._novelties.get_subscription_count() and node._latents.get_subscription_count())
    bench.spin_until(lambda: False, 0.3)
    other = PICTURE.copy()
    other[2:5, 2:5] = 255 - other[2:5, 2:5]
    for picture, seconds in ((PICTURE, 1), (other, 2), (other, 4), (PICTURE, 5)):
        before = len(told)
        node._on_image(rgb_to_message(picture, seconds * 10**9))
        assert bench.spin_until(lambda before=before: len(told) == before + 2)
    assert told[1::2] == ["latent"] * 4
    assert told[0] == told[4] == told[6] == 0.0
    assert told[2] > 1.0
    assert node.diagnose()[2]["novelty"] == "0"
    node.trigger_deactivate()
    node.trigger_activate()
    node._on_image(rgb_to_message(other, 6 * 10**9))
    assert bench.spin_until(lambda: len(told) == 10)
    assert told[8] == told[2]


def test_an_image_that_cannot_be_read_is_named_in_diagnostics_and_the_next_good_one_is_encoded(bench, bundle, capfd):
    node = bench.add(CameraNode(), model=str(bundle.folder))
    node.trigger_configure()
    node.trigger_activate()
    for bad in (
        Image(encoding="jpeg", width=4, height=4, step=12, data=array.array("B", bytes(48))),
        Image(encoding="rgb8", width=4, height=4, step=3, data=array.array("B", bytes(48))),
        Image(encoding="rgb8"),
    ):
        before = node._unreadable
        node._on_image(bad)
        assert bench.spin_until(lambda before=before: node._unreadable > before)
        level, message, _ = node.diagnose()
        assert level == DiagnosticStatus.ERROR
        assert "image" in message
    assert is_logged(bench, capfd, "'jpeg' cannot be read")
    node._on_image(rgb_to_message(PICTURE, time.time_ns()))
    assert bench.spin_until(lambda: node._encoded == 1)
    level, message, values = node.diagnose()
    assert (level, message) == (DiagnosticStatus.OK, "encoding")
    assert values["images_unreadable"] == "3"


def test_frames_that_come_faster_than_they_are_encoded_are_dropped_and_counted(bench, bundle):
    node = bench.add(CameraNode(), model=str(bundle.folder))
    node.trigger_configure()
    encode = node._runtime.encode
    stamps = []

    class Slow:
        backend = "slow"

        def encode(self, image):
            time.sleep(0.05)
            return encode(image)

    node._runtime = Slow()
    node.trigger_activate()
    publish = node._latents.publish
    node._latents.publish = lambda message: (stamps.append(message.header.stamp.sec), publish(message))
    for number in range(40):
        node._on_image(rgb_to_message(PICTURE, (number + 1) * 10**9))
        time.sleep(0.01)
    assert bench.spin_until(lambda: node._encoded + node._dropped == 40)
    assert 5 <= node._encoded <= 14
    assert stamps == sorted(stamps)
    assert stamps[-1] == 40, "the newest frame is never the one that is dropped"


def capture_at_once(monkeypatch, capture, frame):
    with monkeypatch.context() as patch:
        patch.setattr(camera_node, "STEADY_WAIT_S", 0.2)
        return capture(frame).message


def test_the_newest_frame_and_named_pictures_become_the_goal(bench, bundle, tmp_path, capfd, monkeypatch):
    cv2.imwrite(str(tmp_path / "tidy.png"), PICTURE[..., ::-1])
    node = bench.add(CameraNode(), model=str(bundle.folder), goal_folder=str(tmp_path))
    node.trigger_configure()
    goals, latents = [], []
    bench.node.create_subscription(Image, "goal_image", goals.append, LATCHED)
    bench.node.create_subscription(Image, "goal_latent", latents.append, LATCHED)

    captures = bench.node.create_client(Trigger, "/camera_node/capture_goal")
    assert bench.spin_until(captures.service_is_ready)

    def capture(picture=None):
        """The answer to a capture request, while frames of a picture keep coming."""
        answer = captures.call_async(Trigger.Request())

        def come():
            if picture is not None:
                node._on_image(rgb_to_message(picture, time.time_ns(), "optical"))
            return answer.done()

        assert bench.spin_until(come)
        return answer.result()

    assert "activate it first" in capture().message
    node.trigger_activate()
    assert "no frame has arrived" in capture().message
    frame = PICTURE[::-1].copy()
    assert "the camera has sent frames for less than" in capture_at_once(monkeypatch, capture, frame)
    answer = capture(frame)
    assert answer.success, answer.message
    assert bench.spin_until(lambda: goals and latents), "the goal and its latent"
    np.testing.assert_array_equal(message_to_rgb(goals[-1]), frame)
    np.testing.assert_allclose(message_to_latent(latents[-1], 8), node._runtime.encode(frame), atol=1e-6)
    kept = answer.message.rpartition(" ")[2]

    names = bench.node.create_publisher(String, "goal_name", 1)
    assert bench.spin_until(names.get_subscription_count)
    for name, picture in (("tidy", PICTURE), (kept, frame)):
        seen = len(latents)
        names.publish(String(data=name))
        assert bench.spin_until(lambda seen=seen: len(latents) > seen)
        np.testing.assert_array_equal(message_to_rgb(goals[-1]), picture)
    names.publish(String(data="../tidy"))
    assert bench.spin_until(lambda: "there is no goal" in node.diagnose()[1])
    assert f"there are {kept}, tidy" in node.diagnose()[1]
    assert is_logged(bench, capfd, "goal_name: there is no goal")

    node._last_received -= 60.0
    assert "the newest frame came 60" in capture().message


def test_a_goal_folder_that_is_not_there_is_refused(bench, bundle, capfd):
    assert bench.add(CameraNode(), model=str(bundle.folder), goal_folder="/nowhere").trigger_configure() == FAILURE
    assert "goal_folder /nowhere is no folder" in capfd.readouterr().err


def test_a_goal_picture_that_shows_nothing_is_refused_to_its_sender_and_the_goal_before_stays(bench, bundle, capfd):
    node = bench.add(CameraNode(), model=str(bundle.folder))
    node.trigger_configure()
    node.trigger_activate()
    latents, judged = [], []
    bench.node.create_subscription(Image, "goal_latent", latents.append, LATCHED)
    bench.node.create_subscription(DiagnosticStatus, "goal_status", judged.append, LATCHED)
    goals = bench.node.create_publisher(Image, "goal_image", LATCHED)

    def identity():
        return next(pair.value for pair in judged[-1].values if pair.key == "goal_identity")

    for number, picture in enumerate((PICTURE, np.zeros_like(PICTURE))):
        goals.publish(rgb_to_message(picture, number + 1))
        assert bench.spin_until(lambda number=number: len(judged) == number + 1)
    assert "the goal is refused: the picture is of one colour" in judged[-1].message
    assert judged[-1].level == DiagnosticStatus.ERROR and identity().startswith("2-")
    assert is_logged(bench, capfd, "the goal is refused")
    assert len(latents) == 1, "the black one has no latent"
    goals.publish(Image(encoding="jpeg"))
    assert bench.spin_until(lambda: len(judged) == 3)
    assert "'jpeg'" in judged[-1].message


# ---- planner node ----------------------------------------------------------------------------------------------------


def test_bad_latents_goals_and_joint_states_are_named_and_do_no_harm(bench, bundle, capfd):
    node = planner(bench, bundle)
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    node._on_latent(latent_to_message(np.zeros(5, np.float32), time.time_ns()))
    assert "the latent has 5 numbers and the model 8" in capfd.readouterr().err
    node._on_latent(latent_to_message(np.full(8, np.nan, np.float32), time.time_ns()))
    assert "NaN" in capfd.readouterr().err
    node._on_goal(Image())
    assert "goal: a latent is a one-row" in capfd.readouterr().err
    node._on_joint_state(JointState(name=["finger"], position=[0.0]))
    assert "no position for shoulder, elbow" in capfd.readouterr().err
    assert node.diagnose()[0] == DiagnosticStatus.WARN

    # None of that counts as fresh, so arming is still refused; good messages change that.
    response = node._on_enable(SetBool.Request(data=True), SetBool.Response())
    assert not response.success
    assert "no fresh camera frame" in response.message
    now = time.time_ns()
    node._on_latent(latent_to_message(np.zeros(8, np.float32), now))
    node._on_joint_state(joint_state_message(("elbow", "shoulder"), np.array([0.1, 0.2]), np.zeros(2), now))
    assert node._on_enable(SetBool.Request(data=True), SetBool.Response()).success


def test_a_model_whose_preflight_says_no_go_is_not_armed_unless_that_is_allowed(bench, tmp_path, capfd):
    bundle = tiny_bundle(tmp_path / "no-go")
    verdict = {"verdict": "NO-GO", "reason": "the latents have collapsed"}
    save_description(dataclasses.replace(bundle, evaluation={"preflight": verdict}))
    node = planner(bench, bundle, enable_on_start=True)
    assert node.trigger_configure() == SUCCESS
    assert "says NO-GO: the latents have collapsed" in capfd.readouterr().err
    assert node.trigger_activate() == SUCCESS
    feed(node)
    response = node._on_enable(SetBool.Request(data=True), SetBool.Response())
    assert not response.success and "NO-GO: the latents have collapsed" in response.message
    bench.spin_until(lambda: False, 0.3)
    assert node._shield.state is State.DISARMED, "nor on start"
    level, message, _ = node.diagnose()
    assert level == DiagnosticStatus.WARN and "the latents have collapsed" in message
    assert node.trigger_deactivate() == node.trigger_cleanup() == SUCCESS
    bench.set(node, "allow_no_go", True)
    assert node.trigger_configure() == node.trigger_activate() == SUCCESS
    feed(node)
    assert bench.spin_until(lambda: node._shield.state is not State.DISARMED)


def test_enabling_a_node_that_is_not_active_is_refused(bench, bundle):
    node = planner(bench, bundle)
    node.trigger_configure()
    response = node._on_enable(SetBool.Request(data=True), SetBool.Response())
    assert not response.success
    assert "activate it first" in response.message


def test_a_bug_while_planning_latches_the_stop_and_the_node_lives(bench, bundle, capfd):
    node = planner(bench, bundle)
    node.trigger_configure()
    node.trigger_activate()

    def broken(*_):
        raise RuntimeError("boom")

    node._planner.observe = broken
    node._on_latent(latent_to_message(np.zeros(8, np.float32), time.time_ns()))
    assert bench.spin_until(lambda: node.diagnose()[0] == DiagnosticStatus.ERROR)
    assert "planning failed" in node.diagnose()[1]
    assert is_logged(bench, capfd, "boom")
    assert node.trigger_deactivate() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    assert node.diagnose()[0] == DiagnosticStatus.OK


def feed(node, position=(0.1, 0.2)):
    """A frame and a joint state, now."""
    now = time.time_ns()
    node._on_latent(latent_to_message(np.zeros(8, np.float32), now))
    node._on_joint_state(joint_state_message(("shoulder", "elbow"), np.array(position), np.zeros(2), now))


def listen_for_commands(bench):
    """A controller that takes the commands; returns them."""
    heard = []
    bench.node.create_subscription(JointTrajectory, "arm_controller/joint_trajectory", heard.append, 10)
    return heard


def test_a_motion_begins_when_whoever_takes_the_commands_has_had_time_to_find_the_node(bench, bundle, monkeypatch):
    node = planner(bench, bundle, **{"shield.tracking_tolerance_rad": 3.0})
    node.trigger_configure()
    node.trigger_activate()
    node._on_goal(latent_to_message(np.ones(8, np.float32), time.time_ns()))
    monkeypatch.setattr(arm_node, "SETTLE_S", 1e6)
    commands = listen_for_commands(bench)

    def armed_or_moving(done):
        feed(node)
        node._on_enable(SetBool.Request(data=True), SetBool.Response())
        return done()

    assert bench.spin_until(lambda: armed_or_moving(lambda: node._shield.state is State.ARMED and node._listeners))
    assert not bench.spin_until(lambda: armed_or_moving(lambda: commands), 1.0)
    monkeypatch.setattr(arm_node, "SETTLE_S", 0.1)
    listen_for_commands(bench)  # a recorder, say
    assert bench.spin_until(lambda: armed_or_moving(lambda: commands))


def test_after_a_stop_that_the_shield_refuses_the_arm_is_imagined_to_go_on_with_what_it_was_sent(bench, bundle, capfd):
    node = planner(bench, bundle, **{"shield.tracking_tolerance_rad": 3.0})
    node.trigger_configure()
    node.trigger_activate()
    node._end(node._worker)  # this test is the planning thread
    feed(node)
    feed(node)
    node._shield.unheard(None)
    assert node._shield.arm() is None
    start = node._shield.restart()
    node._planner.start(start)
    now_s = node.now_s()
    times_s = now_s - 0.05 + 0.05 * np.arange(25)
    way = np.outer(np.clip(times_s - now_s, 0, 1) ** 2 * 0.02, np.ones(2))
    sent = Trajectory(times_s, start + way, np.gradient(way, 0.05, axis=0))
    node._shield._execution.add(sent, now_s)
    node._shield._refusal = lambda *_: Intervention(Reason.JUMP, "it would jump")
    node.bring_to_rest()
    assert "the shield held back a stop: it would jump" in capfd.readouterr().err
    assert node._planner.history.commanded._motions[-1][1] is sent


def test_a_cancelled_goal_is_forgotten_and_the_status_says_what_the_node_does(bench, bundle):
    node = planner(bench, bundle, **{"shield.tracking_tolerance_rad": 3.0})  # the arm of this test stays where it is
    node.trigger_configure()
    node.trigger_activate()
    said = []
    bench.node.create_subscription(DiagnosticStatus, "/planner_node/status", said.append, LATCHED)

    def hears(message, **values):
        def heard():
            feed(node)
            found = {pair.key: pair.value for pair in said[-1].values} if said else {}
            return said and message in said[-1].message and values.items() <= found.items()

        return bench.spin_until(heard)

    assert hears("disarmed", state="disarmed", goal="no")
    feed(node)
    answer = node._on_enable(SetBool.Request(data=True), SetBool.Response())
    assert answer.success
    assert "no controller takes the commands on /arm_controller/joint_trajectory" in answer.message
    assert hears("holding: no controller takes the commands on /arm_controller/joint_trajectory")
    listen_for_commands(bench)
    assert hears("armed; no goal yet")
    node._on_goal(latent_to_message(np.ones(8, np.float32), time.time_ns()))
    assert hears("", state="armed", goal="yes", reached="no")  # the message may be "moving" or that plans come late
    assert node._on_cancel(Trigger.Request(), Trigger.Response()).success
    assert hears("armed; no goal yet", goal="no")
    assert node._planner.goal is None


def show_goal_until_taken(bench, node, latent):
    """Delivers a goal's latent as topics do."""
    node._on_goal(latent)
    return bench.spin_until(lambda: node._planner.goal is not None, 1.0)


def goal_latent(stamp_ns, name="0123456789abcdef"):
    return latent_to_message(np.ones(8, np.float32), stamp_ns, name)


def test_a_goal_that_has_ended_is_not_taken_up_again_until_it_is_sent_anew(bench, bundle, capfd):
    node = planner(bench, bundle)
    node.trigger_configure()
    node.trigger_activate()
    first, anew = goal_latent(1), goal_latent(2)
    assert show_goal_until_taken(bench, node, first)
    node._on_cancel(Trigger.Request(), Trigger.Response())
    assert bench.spin_until(lambda: node._planner.goal is None)
    assert not show_goal_until_taken(bench, node, first), "the topic delivers it again: camera_node was started anew"
    assert is_logged(bench, capfd, "a goal that was cancelled before is not pursued again; send it anew")
    node.trigger_deactivate()
    node.trigger_activate()
    assert not show_goal_until_taken(bench, node, first), "nor after it was deactivated and activated"
    again = planner(bench, bundle)
    again.trigger_configure()
    again.trigger_activate()
    assert not show_goal_until_taken(bench, again, first), "nor by a planner that was started anew"
    assert show_goal_until_taken(bench, again, anew)
    assert not again._on_goal(anew) and again._goal is not None, "delivered again, it goes on"


def test_goals_of_an_earlier_run_of_a_simulation_are_forgotten_and_those_of_this_one_are_not(bench, bundle):
    node = planner(bench, bundle)
    node.trigger_configure()
    node.trigger_activate()
    before, after = (goal_identity(goal_latent(stamp_ns).header) for stamp_ns in (3, 9))
    for goal in (before, after):
        node._ended_goals.add(goal, "cancelled")
    node._on_latent(goal_latent(5))
    assert node._ended_goals.how(before) == node._ended_goals.how(after) == "cancelled", "clocks may differ"
    node.trigger_deactivate()
    node.set_parameters([RosParameter("use_sim_time", value=True)])
    node.trigger_activate()
    node._on_latent(goal_latent(5))
    assert node._ended_goals.how(before) == "cancelled" and node._ended_goals.how(after) is None


def test_a_goal_that_was_reached_or_replaced_is_not_taken_up_again(bench, bundle):
    node = planner(bench, bundle)
    node.trigger_configure()
    node.trigger_activate()
    replaced, reached = goal_latent(10), goal_latent(11)
    assert show_goal_until_taken(bench, node, replaced)
    assert show_goal_until_taken(bench, node, reached)
    node._on_goal(replaced)
    assert bench.spin_until(lambda: node._pursued == node._goal)
    assert node._goal.startswith("11-"), "two senders live, and both goals are delivered again"
    node._planner.reached = True
    assert bench.spin_until(lambda: node._ended_goals.how(node._goal) == "reached")
    node._on_goal(reached)
    assert node._planner.goal is not None, "it is held"
    node.trigger_deactivate()
    node.trigger_activate()
    assert not show_goal_until_taken(bench, node, reached)


def test_a_goal_cancelled_while_camera_and_planner_are_killed_and_come_back_stays_cancelled(bench, bundle):
    goals = bench.node.create_publisher(Image, "goal_image", LATCHED)  # its sender lives on

    def bring_up():
        camera = bench.add(CameraNode(), model=str(bundle.folder))
        node = planner(bench, bundle)
        for one in (camera, node):
            assert one.trigger_configure() == one.trigger_activate() == SUCCESS
        return camera, node

    def end(*nodes):
        for one in nodes:
            one.trigger_deactivate(), one.trigger_cleanup()
            bench.nodes.remove(one)
            bench.executor.remove_node(one)
            one.destroy_node()

    goals.publish(rgb_to_message(PICTURE, time.time_ns()))
    camera, node = bring_up()
    assert bench.spin_until(lambda: node._planner.goal is not None), "a goal from before the start is served"
    node._on_cancel(Trigger.Request(), Trigger.Response())
    end(camera, node)
    camera, node = bring_up()
    assert bench.spin_until(lambda: node._complaint), "the goal is delivered again"
    assert "cancelled" in node._complaint and node._planner.goal is None
    goals.publish(rgb_to_message(PICTURE, time.time_ns()))
    assert bench.spin_until(lambda: node._planner.goal is not None), "the same picture, sent anew"
    end(camera, node)
    camera, node = bring_up()
    assert bench.spin_until(lambda: node._planner.goal is not None), "a goal that nobody cancelled goes on"
    assert node._shield.state is State.DISARMED


def watchful_planner(bench, bundle, surprise):
    """A planner that watches for surprises, as with a calibrated bundle, and is enabled."""
    node = planner(bench, bundle, **{"shield.tracking_tolerance_rad": 3.0})
    node.trigger_configure()
    node.trigger_activate()
    listen_for_commands(bench)
    node._vigilance = Vigilance()
    node._planner.expectation.surprise = lambda: surprise
    feed(node)
    assert node._on_enable(SetBool.Request(data=True), SetBool.Response()).success
    return node


def test_who_disarms_and_enables_vouches_for_what_the_camera_sees_now(bench, bundle):
    node = watchful_planner(bench, bundle, surprise=9.0)
    node._on_goal(latent_to_message(np.ones(8, np.float32), time.time_ns()))  # so that it publishes previews

    def state_is(state):
        def said():
            feed(node)
            return node._shield.state is state

        return bench.spin_until(said)

    assert bench.spin_until(lambda: feed(node) or "surprise" in node.diagnose()[1]), node.diagnose()
    assert state_is(State.HOLDING)
    node._planner.expectation.surprise = lambda: None  # no surprise, as when every preview begins a new motion
    assert node._on_enable(SetBool.Request(data=False), SetBool.Response()).success
    assert state_is(State.DISARMED)
    assert bench.spin_until(lambda: feed(node) or node._vigilance.alarm is None)
    assert node._on_enable(SetBool.Request(data=True), SetBool.Response()).success
    assert state_is(State.ARMED)


def test_something_new_in_the_picture_holds_the_arm_for_as_long_as_it_is_new(bench, bundle, capfd):
    node = watchful_planner(bench, bundle, surprise=0.5)

    def state_is(state, novelty):
        def said():
            node._on_novelty(Float32(data=novelty))
            feed(node)
            return node._shield.state is state

        return bench.spin_until(said)

    assert state_is(State.ARMED, 1.9)
    assert state_is(State.HOLDING, 4.5)
    assert "4.5 times the calibrated limit" in node.diagnose()[1]
    assert node.diagnose()[2]["novelty"] == "4.5"
    assert state_is(State.ARMED, 0.0)
    node._on_novelty(Float32(data=float("nan")))
    assert "the novelty of a picture is nan" in capfd.readouterr().err
    assert node._on_enable(SetBool.Request(data=False), SetBool.Response()).success
    node._on_novelty(Float32(data=9.0))
    assert bench.spin_until(lambda: feed(node) or node._novelty == 0.0), "who disarms it vouches for what is seen"


def test_what_is_imagined_but_not_finite_moves_nothing_and_diagnostics_say_so(bench, bundle, capfd):
    node = planner(bench, bundle)
    node.trigger_configure()
    node.trigger_activate()
    sent = listen_for_commands(bench)
    rollout = node._runtime.rollout
    node._runtime.rollout = lambda *arguments: tuple(np.nan * values for values in rollout(*arguments))
    node._on_goal(latent_to_message(np.ones(8, np.float32), time.time_ns()))
    feed(node)
    assert node._on_enable(SetBool.Request(data=True), SetBool.Response()).success

    def said():
        feed(node)
        return "what the model imagines is not finite, and is not executed" in node.diagnose()[1]

    assert bench.spin_until(said)
    assert not sent and node._shield.state is State.ARMED
    assert capfd.readouterr().err.count("is not finite") == 1, "it is logged once while it stays the same"


def test_a_disarmed_planner_shows_what_it_would_do_and_commands_nothing(bench, bundle):
    node = planner(bench, bundle)
    node.trigger_configure()
    node.trigger_activate()
    shown, sent = [], []
    bench.node.create_subscription(JointTrajectory, "/planner_node/plan", shown.append, NEWEST_FRAME)
    bench.node.create_subscription(JointTrajectory, "arm_controller/joint_trajectory", sent.append, 10)
    node._on_goal(latent_to_message(np.ones(8, np.float32), time.time_ns()))

    def seen():
        feed(node)
        return len(shown) >= 3

    assert bench.spin_until(seen)
    np.testing.assert_allclose(shown[-1].points[0].positions, [0.1, 0.2], atol=1e-9)
    assert not sent
    assert not node._planner.active


def test_without_its_dead_man_button_the_arm_holds(bench, bundle):
    node = planner(bench, bundle, deadman_button=2)
    node.trigger_configure()
    node.trigger_activate()
    listen_for_commands(bench)
    joy = bench.node.create_publisher(Joy, "joy", 1)
    assert bench.spin_until(joy.get_subscription_count)
    pressed = [False]

    def said(text):
        def heard():
            feed(node)
            joy.publish(Joy(buttons=[0, 0, int(pressed[0])]))
            return text in node.diagnose()[1]

        return bench.spin_until(heard)

    feed(node)
    pressed[0] = True
    assert said("disarmed")
    assert node._on_enable(SetBool.Request(data=True), SetBool.Response()).success
    assert said("armed; no goal yet")
    pressed[0] = False
    assert said("holding")
    pressed[0] = True
    assert said("armed; no goal yet")
    node._on_joy(Joy(buttons=[1]))
    assert "joy has 1 buttons, deadman_button is 2" in node._complaint


def test_a_clock_that_goes_backwards_latches_the_stop(bench, bundle):
    node = planner(bench, bundle)
    node.trigger_configure()
    node.trigger_activate()
    node._on_latent(latent_to_message(np.zeros(8, np.float32), time.time_ns()))
    node._on_latent(latent_to_message(np.zeros(8, np.float32), time.time_ns() - 5 * 10**9))
    assert "clock" in node.diagnose()[1]


# ---- helpers of the nodes --------------------------------------------------------------------------------------------


def test_a_mailbox_keeps_the_newest_and_tells_what_it_dropped():
    mailbox = Mailbox()
    assert mailbox.take(0.0) == {}
    assert [mailbox.put("frame", number) for number in range(3)] == [False, True, True]
    assert mailbox.put("goal", "g") is False
    assert mailbox.take(0.0) == {"frame": [2], "goal": ["g"]}
    deep = Mailbox(depth=2)
    assert [deep.put("latent", number) for number in range(3)] == [False, False, True]
    assert deep.take(0.0) == {"latent": [1, 2]}


def test_a_mailbox_wakes_whoever_waits():
    mailbox = Mailbox()
    threading.Timer(0.1, mailbox.put, ("frame", 1)).start()
    begin = time.monotonic()
    assert mailbox.take(5.0) == {"frame": [1]}
    assert time.monotonic() - begin < 2.0


def test_a_worker_reports_its_failure_and_always_does_its_last_act():
    said = []
    worker = Worker("test", lambda: 1 / 0, failed=said.append, last=lambda: said.append("last"))
    assert worker.stop()
    assert "ZeroDivisionError" in said[0]
    assert said[1] == "last"


def test_percentiles_are_in_milliseconds():
    stage = Milliseconds()
    assert stage.percentiles("plan") == {}
    for number in range(101):
        stage.add(number / 1000)
    assert stage.percentiles("plan") == {"plan_ms_p50": "50.00", "plan_ms_p95": "95.00"}


def test_diagnostics_say_which_back_end_runs_why_no_other_and_how_far_a_build_is(bench, bundle, monkeypatch):
    import lewm_ros.node
    from lewm_model.runtime import load_runtime

    def building(bundle, backend, threads, samples, build_engines, progress):
        progress("building encoder", 0.4)
        runtime = load_runtime(bundle, "onnxruntime", threads)
        runtime.notes.append("tensorrt is not used: the engine misses the check of numerical equivalence")
        return runtime

    monkeypatch.setattr(lewm_ros.node, "load_runtime", building)
    heard = []
    bench.node.create_subscription(DiagnosticArray, "/diagnostics", lambda m: heard.extend(m.status), 10)
    node = bench.add(CameraNode(), model=str(bundle.folder))
    assert bench.spin_until(lambda: heard)
    assert node.trigger_configure() == SUCCESS
    assert bench.spin_until(lambda: any(status.message == "building encoder: 40%" for status in heard))

    def backend(status):
        return {value.key: value.value for value in status.values}

    assert bench.spin_until(lambda: "backend" in backend(heard[-1]))
    assert backend(heard[-1])["backend"] == "onnxruntime"
    assert "misses the check of numerical equivalence" in backend(heard[-1])["backend_notes"]


# ---- simulation ------------------------------------------------------------------------------------------------------


def test_a_simulation_that_is_behind_executes_no_command_before_it_was_sent(bench):
    node = bench.add(SimNode())
    node.trigger_configure()
    node.trigger_activate()
    commands = bench.node.create_publisher(JointTrajectory, "arm_controller/joint_trajectory", 1)
    assert bench.spin_until(lambda: commands.get_subscription_count() and node._started)
    sim, ahead_s, stalls = node._sim, [], [0.6]
    follow, render = sim.set_trajectory, sim.render

    def noted(times_s, positions, velocities, start_s, *more):
        ahead_s.append(start_s - sim.time_s)
        follow(times_s, positions, velocities, start_s, *more)

    def slow_render(camera):
        if stalls:
            time.sleep(stalls.pop())
        return render(camera)

    sim.set_trajectory, sim.render = noted, slow_render
    assert bench.spin_until(lambda: not stalls)
    bench.spin_until(lambda: False, 0.4)
    still = Trajectory(np.array([0.0, 0.1]), np.zeros((2, 2)), np.zeros((2, 2)))
    commands.publish(trajectory_to_message(still, sim.names, time.time_ns()))  # from now on, in the middle of the stall
    assert bench.spin_until(lambda: ahead_s)
    assert ahead_s[0] < 0.1, "it was executed before it was sent"
    assert node._lost_s == 0.0, "it was behind and caught up"
