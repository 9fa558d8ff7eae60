# SPDX-License-Identifier: Apache-2.0
"""viewer_node over real DDS: it draws what the planner publishes, only while watched, and bad input does no harm."""

import dataclasses
import json
import shutil
import time

import numpy as np
import pytest
import yaml

rclpy = pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

import torch
from bundles import TINY, tiny_bundle
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from safetensors.torch import save_file
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Float32
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from lewm_model.bundle.bundle import BundleError, load_bundle, save_description
from lewm_model.config import resource
from lewm_model.models.heads import Decoder
from lewm_model.planning.motion import Trajectory
from lewm_model.robot.observation import Camera
from lewm_model.runtime import decoder
from lewm_model.runtime.export import export_decoder
from lewm_ros import viewer_node
from lewm_ros.camera_node import LATCHED, NEWEST_FRAME, CameraNode
from lewm_ros.debug_picture import HEADER, HEIGHT, MARGIN, PANE, STATES, STRIP_SIDE, STRIP_TOP, WIDTH
from lewm_ros.messages import (
    array_to_message,
    camera_info_message,
    joint_state_message,
    latent_to_message,
    message_to_array,
    message_to_rgb,
    nanoseconds,
    rgb_to_message,
    trajectory_to_message,
)
from lewm_ros.parameters import ParameterError
from lewm_ros.planner_node import PlannerNode
from lewm_ros.sim_node import SimNode
from lewm_ros.viewer_node import ViewerNode

URDF = str(resource("config", "arms", "tabletop.urdf"))
ARM = {"urdf": URDF, "workspace.base": "base", "workspace.tip": "end_effector"}
PICTURE = np.full((64, 64, 3), (200, 0, 0), np.uint8)
NAMES = ("shoulder", "elbow")
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """With a decoder that was never trained: different latents still give different pictures."""
    made = tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
    torch.manual_seed(0)
    network = Decoder(TINY).eval()
    for layer in network.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            torch.nn.init.kaiming_normal_(layer.weight)
    network.background.fill_(0.5)
    save_file(network.state_dict(), made.folder / decoder.DECODER)
    export_decoder(made, network)
    return save_description(made)


class Bench:
    """Nodes of this process and one to talk to them, which stands for camera, arm and planner."""

    def __init__(self, **parameters):
        words = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
        rclpy.init(args=["--ros-args", *words])
        self.executor = SingleThreadedExecutor()
        self.nodes = []
        self.node = self.add(rclpy.create_node("planner_node"))
        make = self.node.create_publisher
        self.camera = make(Image, "camera/image_raw", NEWEST_FRAME)
        self.goal = make(Image, "goal_image", LATCHED)
        self.goal_latent = make(Image, "goal_latent", LATCHED)
        self.joints = make(JointState, "joint_states", 10)
        self.surprise = make(Float32, "surprise", qos_profile_sensor_data)
        self.thoughts = {
            name: make(Image, f"~/{name}", qos_profile_sensor_data) for name in ("imagined", "elites", "costs")
        }
        self.plan = make(JointTrajectory, "~/plan", qos_profile_sensor_data)
        self.status = make(DiagnosticStatus, "~/status", LATCHED)
        self.pictures, self.markers = [], []

    def add(self, node):
        self.nodes.append(node)
        self.executor.add_node(node)
        return node

    def look(self):
        """Subscribes to what the viewer draws; the subscription to pictures is returned."""
        self.node.create_subscription(MarkerArray, "plan_markers", self.markers.append, 1)
        return self.node.create_subscription(Image, "debug_image", self.pictures.append, qos_profile_sensor_data)

    def spin_until(self, condition, timeout_s=30.0):
        end = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)
        return bool(condition())

    def shows(self, wanted, say=lambda: None):
        """Whether a picture that is `wanted` comes, while `say` is called again and again."""

        def found():
            say()
            return any(wanted(message_to_rgb(message)) for message in self.pictures[-2:])

        return self.spin_until(found)

    def close(self):
        for node in self.nodes:
            if hasattr(node, "deactivate"):
                node.deactivate()
                node.cleanup()
            node.destroy_node()
        self.executor.shutdown()
        rclpy.shutdown()


@pytest.fixture
def bench(bundle):
    bench = Bench(model=bundle.folder, rate=30.0, **ARM)
    yield bench
    bench.close()


def middle(picture, left, top, side):
    return picture[top + side // 2, left + side // 2]


def strip(picture):
    return picture[STRIP_TOP + 4 : STRIP_TOP + STRIP_SIDE - 24, MARGIN : MARGIN + STRIP_SIDE].astype(int)


def test_a_picture_has_the_frame_s_stamp_and_shows_camera_goal_state_and_the_newest_plan(bench):
    bench.add(ViewerNode())
    bench.look()
    stamp_ns = time.time_ns()

    def say(latents=None, state="armed"):
        bench.camera.publish(rgb_to_message(PICTURE, stamp_ns, "camera_link"))
        bench.status.publish(DiagnosticStatus(message="moving", values=[KeyValue(key="state", value=state)]))
        if latents is not None:
            bench.thoughts["imagined"].publish(array_to_message(latents, stamp_ns))

    bench.goal.publish(rgb_to_message(PICTURE[..., ::-1].copy(), stamp_ns))
    top = HEADER + MARGIN
    assert bench.shows(
        lambda picture: (
            middle(picture, MARGIN, top, PANE).tolist() == [200, 0, 0]
            and middle(picture, 2 * MARGIN + PANE, top, PANE).tolist() == [0, 0, 200]
            and tuple(picture[2, 2].tolist()) == STATES["armed"]
        ),
        say,
    )
    newest = bench.pictures[-1]
    assert (newest.encoding, newest.height, newest.width, newest.step) == ("rgb8", HEIGHT, WIDTH, 3 * WIDTH)
    assert (nanoseconds(newest.header.stamp), newest.header.frame_id) == (stamp_ns, "camera_link")

    first, second = RNG.standard_normal((2, 5, TINY.latent_dim)).astype(np.float32)
    nothing = strip(message_to_rgb(newest))
    assert bench.shows(lambda picture: np.abs(strip(picture) - nothing).mean() > 5, lambda: say(first))
    before = strip(message_to_rgb(bench.pictures[-1]))
    assert bench.shows(lambda picture: np.abs(strip(picture) - before).mean() > 5, lambda: say(second)), "another plan"
    assert bench.shows(lambda picture: tuple(picture[2, 2].tolist()) == STATES["holding"], lambda: say(state="holding"))


@pytest.fixture
def rectifying(bundle, tmp_path):
    """As `bench`, with a bundle whose camera is to be rectified."""
    folder = shutil.copytree(bundle.folder, tmp_path / "rectifying")
    save_description(dataclasses.replace(load_bundle(folder), cameras=(Camera("camera", 64, 64, rectify=True),)))
    bench = Bench(model=folder, rate=30.0, **ARM)
    yield bench
    bench.close()


def test_pictures_of_a_lens_that_distorts_are_shown_as_the_model_sees_them(rectifying):
    bench = rectifying
    bench.add(ViewerNode())
    infos = bench.node.create_publisher(CameraInfo, "camera/camera_info", NEWEST_FRAME)
    info = camera_info_message(80, 80, 40.0, 0)
    info.k[2] += 30.0  # its middle lies 30 pixels to the right; in the rectified picture it does not
    picture = np.full((80, 80, 3), (0, 90, 0), np.uint8)
    picture[:, 60:] = 200, 0, 0
    bench.look()

    def say():
        bench.camera.publish(rgb_to_message(picture, time.time_ns()))
        bench.goal.publish(rgb_to_message(picture, time.time_ns()))

    def middles(shown):
        return [middle(shown, left, HEADER + MARGIN, PANE).tolist() for left in (MARGIN, 2 * MARGIN + PANE)]

    assert bench.shows(lambda shown: True, say)
    assert middles(message_to_rgb(bench.pictures[-1])) != [[200, 0, 0]] * 2, "nothing is known of the lens yet"
    assert bench.shows(lambda shown: middles(shown) == [[200, 0, 0]] * 2, lambda: (infos.publish(info), say()))


def test_nothing_is_drawn_or_listened_to_before_somebody_looks_and_after(bench, monkeypatch):
    drawn = []
    draw = viewer_node.draw
    monkeypatch.setattr(viewer_node, "draw", lambda scene: drawn.append(scene) or draw(scene))
    node = bench.add(ViewerNode())
    bench.spin_until(lambda: False, 0.7)
    assert not drawn
    assert not bench.thoughts["imagined"].get_subscription_count() and not bench.camera.get_subscription_count()
    pictures = bench.look()
    assert bench.spin_until(lambda: drawn and bench.thoughts["imagined"].get_subscription_count())
    bench.node.destroy_subscription(pictures)
    for subscription in list(bench.node.subscriptions):
        if subscription.topic_name == "/plan_markers":
            bench.node.destroy_subscription(subscription)
    assert bench.spin_until(lambda: not node._inputs and not bench.thoughts["imagined"].get_subscription_count())
    count = len(drawn)
    bench.spin_until(lambda: False, 0.5)
    assert len(drawn) == count


def test_markers_are_those_of_the_planner_s_elites(bench):
    bench.add(ViewerNode())
    bench.look()
    elites, path = RNG.uniform(-1, 1, (3, 4, 2)).astype(np.float32), RNG.uniform(-1, 1, (4, 2))
    stamp_ns = time.time_ns()

    def found():
        bench.thoughts["elites"].publish(array_to_message(elites, stamp_ns))
        bench.joints.publish(joint_state_message(NAMES, np.zeros(2), np.zeros(2), stamp_ns))
        plan = Trajectory(0.05 * np.arange(4), path, np.zeros((4, 2)))
        bench.plan.publish(trajectory_to_message(plan, NAMES, stamp_ns))
        kinds = {marker.ns for array in bench.markers[-1:] for marker in array.markers}
        return kinds >= {"elites", "plan", "goal"}

    assert bench.spin_until(found)
    by_name = {(marker.ns, marker.id): marker for marker in bench.markers[-1].markers}
    assert {number for name, number in by_name if name == "elites"} == {0, 1, 2}
    assert all(marker.header.frame_id == "base" for marker in by_name.values())
    tip = by_name["goal", 0].pose.position
    np.testing.assert_allclose([tip.x, tip.y], [0.55, 0.0], atol=1e-6)


def test_a_goal_picture_that_nobody_kept_is_drawn_from_its_latent(bench):
    latent = RNG.standard_normal(TINY.latent_dim).astype(np.float32)
    bench.goal_latent.publish(latent_to_message(latent, time.time_ns()))
    node = bench.add(ViewerNode())
    bench.look()
    assert bench.spin_until(lambda: node._newest("goal_latent") and bench.pictures)
    scene = node._scene()
    assert scene.goal_caption == "goal, drawn from its latent"
    np.testing.assert_array_equal(scene.goal, node._decoder.draw(latent[None])[0])


def test_bad_input_is_named_and_left_out_of_the_picture(bench, capfd):
    bench.add(ViewerNode())
    bench.look()

    def say():
        bench.camera.publish(Image(encoding="jpeg", width=4, height=4, step=12))
        bench.thoughts["imagined"].publish(array_to_message(np.zeros((5, 3)), 1))
        bench.thoughts["costs"].publish(array_to_message(np.full((1, 2), np.nan), 1))
        bench.surprise.publish(Float32(data=float("nan")))

    said = []

    def complained():
        say()
        said.append(capfd.readouterr().err)
        return all(reason in "".join(said) for reason in ("image_raw: ", "imagined: ", "costs: "))

    assert bench.spin_until(complained)
    bench.pictures.clear()
    assert bench.shows(lambda picture: True, say), "it goes on"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "/nowhere"}, "there is no model bundle at /nowhere"),
        ({"workspace.base": "floor"}, "has no base link 'floor'"),
        ({"workspace.lower": [0.0, 0.0, 0.0], "workspace.upper": [0.0, 1.0, 1.0]}, "not less than workspace.upper"),
        ({"urdf": "/nowhere.urdf"}, "/nowhere.urdf"),
    ],
)
def test_what_it_cannot_work_with_is_refused_with_the_reason(bundle, changes, reason):
    bench = Bench(**{"model": bundle.folder, **ARM, **changes})
    try:
        with pytest.raises((ParameterError, BundleError), match=reason):
            ViewerNode()
    finally:
        bench.close()


def test_a_bundle_without_a_decoder_is_shown_without_the_future(tmp_path):
    plain = tiny_bundle(tmp_path / "plain")
    bench = Bench(model=plain.folder)
    try:
        node = bench.add(ViewerNode())
        bench.look()
        assert bench.spin_until(lambda: bench.pictures)
        assert "lewm decoder" in node._scene().missing
        assert not bench.markers, "without a urdf there are none"
    finally:
        bench.close()


def test_floats_keep_their_shape_on_the_wire():
    for shape in ((1, 6), (8, 26, 2), (5, 12)):
        values = RNG.standard_normal(shape).astype(np.float32)
        message = array_to_message(values, 7)
        found = message_to_array(message, shape[1], shape[2] if len(shape) == 3 else 1)
        np.testing.assert_array_equal(found.reshape(shape), values)
    with pytest.raises(ValueError, match="not empty"):
        array_to_message(np.zeros((0, 3)), 0)


def test_the_planner_tells_how_it_plans_to_who_asks_and_to_nobody_else(bundle):
    bench = Bench()
    try:
        node = bench.add(PlannerNode())
        values = {"model": str(bundle.folder), "robot": "tabletop"}
        node.set_parameters([rclpy.parameter.Parameter(name, value=value) for name, value in values.items()])
        node.trigger_configure()
        node.trigger_activate()
        sent = {name: [] for name in node._thoughts}
        for name, publisher in node._thoughts.items():
            publish = publisher.publish
            publisher.publish = lambda message, name=name, publish=publish: (
                sent[name].append(message),
                publish(message),
            )
        plans = []
        bench.node.create_subscription(JointTrajectory, "/planner_node/plan", plans.append, qos_profile_sensor_data)
        node._on_goal(latent_to_message(np.ones(8, np.float32), time.time_ns()))

        def planned(count):
            now = time.time_ns()
            node._on_latent(latent_to_message(np.zeros(8, np.float32), now))
            node._on_joint_state(joint_state_message(NAMES, np.array([0.1, 0.2]), np.zeros(2), now))
            return len(plans) >= count

        assert bench.spin_until(lambda: planned(2))
        assert not any(sent.values()), "a disarmed planner shows its plan, and how it came to it to nobody"
        heard = {name: [] for name in sent}
        for name, messages in heard.items():
            bench.node.create_subscription(Image, f"/planner_node/{name}", messages.append, qos_profile_sensor_data)
        assert bench.spin_until(lambda: planned(0) and all(heard.values()))
        blocks, steps = 5, 5 * TINY.frameskip + 1
        assert message_to_array(heard["imagined"][-1], TINY.latent_dim).shape == (blocks, TINY.latent_dim, 1)
        elites = message_to_array(heard["elites"][-1], steps, 2)
        assert elites.shape == (8, steps, 2)
        np.testing.assert_allclose(elites[:, 0], np.broadcast_to([0.1, 0.2], (8, 2)), atol=1e-3)
        costs = message_to_array(heard["costs"][-1])
        assert costs.shape[0] == 1 and 1 <= costs.shape[1] <= 6
        newest = {nanoseconds(messages[-1].header.stamp) for messages in heard.values()}
        assert newest & {nanoseconds(plan.header.stamp) for plan in plans}, "they have the stamp of the plan's frame"
    finally:
        bench.close()


# ---- the files for RViz and Foxglove ---------------------------------------------------------------------------------


def strings(value):
    """Every text in nested lists and mappings."""
    if isinstance(value, dict):
        return [text for key, child in value.items() for text in [key, *strings(child)]]
    if isinstance(value, list):
        return [text for child in value for text in strings(child)]
    return [value] if isinstance(value, str) else []


@pytest.fixture(scope="module")
def names(bundle):
    """Topics and services of the four nodes."""
    bench = Bench(model=bundle.folder)
    try:
        planner, camera, sim = PlannerNode(), CameraNode(), SimNode()
        planner.set_parameters([rclpy.parameter.Parameter("robot", value="tabletop")])
        for node in (planner, camera, sim, ViewerNode()):
            bench.add(node)
            if hasattr(node, "trigger_configure"):
                node.trigger_configure()
        topics = {
            topic for node in bench.nodes[1:] for topic in (publisher.topic_name for publisher in node.publishers)
        }
        return topics, {service.service_name for node in bench.nodes[1:] for service in node.services}
    finally:
        bench.close()


def test_the_foxglove_layout_names_topics_and_services_that_exist(names):
    topics, services = names
    layout = json.loads(resource("config", "foxglove_layout.json").read_text())
    named = {text.split(".")[0] for text in strings(layout["configById"]) if text.startswith("/")}
    assert {"/debug_image", "/plan_markers", "/surprise", "/planner_node/status", "/diagnostics"} <= named
    assert named <= topics | services, named - topics - services
    placed = {text for text in strings(layout["layout"]) if "!" in text}
    assert placed == set(layout["configById"]), "every panel has a place"


def test_the_rviz_file_names_topics_that_exist_and_the_markers_frame(names):
    topics, _ = names
    displays = yaml.safe_load(resource("config", "lewm.rviz").read_text())["Visualization Manager"]
    named = {f"/{display['Topic']['Value']}" for display in displays["Displays"] if "Topic" in display}
    assert {"/debug_image", "/plan_markers"} <= named <= topics
    assert displays["Global Options"]["Fixed Frame"] == ARM["workspace.base"]
    reliability = {
        display["Topic"]["Value"]: display["Topic"]["Reliability Policy"]
        for display in displays["Displays"]
        if "Topic" in display
    }
    assert reliability["debug_image"] == "Best Effort"
