# SPDX-License-Identifier: Apache-2.0
"""Every lifecycle transition of every node, exactly: what each undoes, and what an exception in one leads to."""

import time

import numpy as np
import pytest
import yaml

rclpy = pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

from bundles import tiny_bundle
from lifecycle_msgs.msg import Transition, TransitionEvent
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter as RosParameter
from trajectory_msgs.msg import JointTrajectory

from lewm_model.config import resource
from lewm_ros.camera_node import CameraNode
from lewm_ros.messages import joint_state_message, latent_to_message, message_to_trajectory
from lewm_ros.planner_node import PlannerNode
from lewm_ros.sim_node import SimNode

TIMEOUT_S = 30.0
JOINTS = ("shoulder", "elbow")
PLANNER = yaml.safe_load(resource("config", "plan.yaml").read_text())["/**/planner_node"]["ros__parameters"]
PARAMETERS = {
    CameraNode: {},
    PlannerNode: {"robot": PLANNER["robot"]},
    SimNode: {},
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return str(tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny").folder)


class Bench:
    """A node, and one that asks it for transitions over its service."""

    def __init__(self):
        rclpy.init()
        self.executor = SingleThreadedExecutor()
        self.person = rclpy.create_node("person")
        self.executor.add_node(self.person)
        self.node = None
        self.passed = []  # states that the node went through, as it published them

    def add(self, make, bundle):
        self.node = make()
        self.executor.add_node(self.node)
        given = {**PARAMETERS[make], **({} if make is SimNode else {"model": bundle})}
        results = self.node.set_parameters([RosParameter(name, value=value) for name, value in given.items()])
        assert all(result.successful for result in results)
        name = self.node.get_name()
        self.person.create_subscription(
            TransitionEvent, f"{name}/transition_event", lambda event: self.passed.append(event.goal_state.label), 50
        )
        self.client = self.person.create_client(ChangeState, f"{name}/change_state")
        self.until(self.client.service_is_ready, "the service")
        return self.node

    def until(self, condition, what):
        end = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < end, f"waited {TIMEOUT_S} s for {what}"
            self.executor.spin_once(timeout_sec=0.02)

    def ask(self, transition):
        """Asks for a transition; returns whether it succeeded, and the state afterwards."""
        number = getattr(Transition, f"TRANSITION_{transition.upper()}")
        future = self.client.call_async(ChangeState.Request(transition=Transition(id=number)))
        self.until(future.done, f"an answer to {transition}")
        return future.result().success, self.node.state_label

    def entities(self):
        """The node's publishers, subscriptions and services, and how many timers it has."""
        node = self.node
        return (
            sorted(publisher.topic_name for publisher in node.publishers),
            sorted(subscription.topic_name for subscription in node.subscriptions),
            sorted(service.srv_name for service in node.services),
            len(list(node.timers)),
        )

    def close(self):
        if self.node is not None:
            self.node.deactivate()
            self.node.cleanup()
            self.node.destroy_node()
        self.person.destroy_node()
        self.executor.shutdown()
        rclpy.shutdown()


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.close()


@pytest.mark.parametrize("make", PARAMETERS)
def test_each_transition_undoes_what_its_opposite_did_twice_in_a_row(bench, bundle, make):
    bench.add(make, bundle)
    unconfigured = bench.entities()
    inactive, active = set(), set()
    for _ in range(2):
        assert bench.ask("configure") == (True, "inactive")
        inactive.add(str(bench.entities()))
        for _ in range(2):
            assert bench.ask("activate") == (True, "active")
            active.add(str(bench.entities()))
            assert bench.ask("deactivate") == (True, "inactive")
            inactive.add(str(bench.entities()))
        assert bench.ask("cleanup") == (True, "unconfigured")
        assert bench.entities() == unconfigured
    assert len(inactive) == len(active) == 1
    assert len({str(unconfigured), *inactive, *active}) == 3


@pytest.mark.parametrize("make", PARAMETERS)
@pytest.mark.parametrize("state", ["unconfigured", "inactive", "active"])
def test_a_node_can_be_shut_down_from_every_state_and_is_finalized_then(bench, bundle, make, state):
    bench.add(make, bundle)
    unconfigured = bench.entities()
    if state != "unconfigured":
        bench.ask("configure")
    if state == "active":
        bench.ask("activate")
    assert bench.ask(f"{state}_shutdown") == (True, "finalized")
    assert bench.entities() == unconfigured, "nothing is left"


@pytest.mark.parametrize("make", PARAMETERS)
@pytest.mark.parametrize(
    ("before", "transition"),
    [
        ([], "configure"),
        (["configure"], "activate"),
        (["configure", "activate"], "deactivate"),
        (["configure"], "cleanup"),
    ],
)
def test_an_exception_in_a_transition_leads_through_error_processing_to_a_clean_start(
    bench, bundle, make, before, transition, monkeypatch, capfd
):
    node = bench.add(make, bundle)
    unconfigured = bench.entities()
    for step in before:
        assert bench.ask(step)[0]
    method = getattr(node, transition)
    broken = iter([True])

    def breaks_once(*arguments):
        method(*arguments)
        if next(broken, False):
            raise KeyError("boom")

    monkeypatch.setattr(node, transition, breaks_once)
    assert bench.ask(transition) == (False, "unconfigured")
    bench.until(lambda: bench.passed[-1:] == ["unconfigured"], "the node's own word for it")
    assert bench.passed[-2:] == ["errorprocessing", "unconfigured"]
    assert "KeyError: 'boom'" in capfd.readouterr().err, "the traceback is in the log"
    assert bench.entities() == unconfigured, "nothing is left of what had been made"
    assert bench.ask("configure") == (True, "inactive")
    assert bench.ask("activate") == (True, "active")


def test_a_node_that_fails_again_while_it_recovers_is_finalized(bench, bundle, monkeypatch):
    node = bench.add(CameraNode, bundle)
    bench.ask("configure")
    bench.ask("activate")

    def breaks():
        raise KeyError("boom")

    with monkeypatch.context() as patch:
        patch.setattr(node, "deactivate", breaks)
        assert bench.ask("deactivate") == (False, "finalized")


def test_deactivating_a_moving_planner_sends_one_smooth_stop_and_then_nothing(bench, bundle):
    node = bench.add(PlannerNode, bundle)
    bench.ask("configure")
    sent = []
    send = node._commands.send
    node._commands.send = lambda message: (sent.append(message_to_trajectory(message, JOINTS)), send(message))
    bench.person.create_subscription(JointTrajectory, "arm_controller/joint_trajectory", lambda message: None, 10)
    bench.ask("activate")
    rng = np.random.default_rng(0)
    node._on_goal(latent_to_message(rng.normal(size=8).astype(np.float32), time.time_ns()))
    fed_s = 0.0

    def motion():
        """Position (2,) rad and speed rad/s of an arm that follows what was sent."""
        if not sent:
            return np.zeros(2), 0.0
        now_s = (time.time_ns() - sent[-1].stamp_ns) / 1e9
        positions = [np.interp(now_s, sent[-1].times_s, sent[-1].positions[:, joint]) for joint in range(2)]
        speeds = [np.interp(now_s, sent[-1].times_s, sent[-1].velocities[:, joint], right=0.0) for joint in range(2)]
        return np.array(positions), float(np.abs(speeds).max())

    def feed():
        nonlocal fed_s
        if time.monotonic() - fed_s > 0.04:
            fed_s = time.monotonic()
            now_ns = time.time_ns()
            node._on_joint_state(joint_state_message(JOINTS, motion()[0], np.zeros(2), now_ns))
            node._on_latent(latent_to_message(rng.normal(size=8).astype(np.float32), now_ns))

    def moves_fast_and_has_just_sent():
        before = len(sent)
        feed()
        node._shield.arm()
        bench.executor.spin_once(timeout_sec=0.01)
        return len(sent) > before and motion()[1] > 0.2

    bench.until(moves_fast_and_has_just_sent, "a fast motion")
    before, last = len(sent), sent[-1]
    assert bench.ask("deactivate") == (True, "inactive")
    new = [points for points in sent[before:] if points.stamp_ns != last.stamp_ns]  # the last one may be repeated
    assert len(new) == 1
    stop = sent[-1]
    speeds = np.abs(stop.velocities).max(1)
    assert speeds[0] > 0.05
    assert speeds[-1] == 0.0
    assert len(stop.times_s) > 3 and (np.diff(speeds[-3:]) <= 0).all(), "it is gradual"
    end = time.monotonic() + 1.0
    count = len(sent)
    bench.until(lambda: (feed(), time.monotonic() > end)[1], "a second to pass")
    assert len(sent) == count
