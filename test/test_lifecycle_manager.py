# SPDX-License-Identifier: Apache-2.0
"""The lifecycle manager: brings nodes up in order, brings one that died up again, and undoes nothing a person did."""

import itertools
import os
import signal
import subprocess
import sys
import time

import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

from bundles import tiny_bundle
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter as RosParameter
from rclpy.task import Future

import lewm_ros.lifecycle_manager
from lewm_ros.graph import Graph, set_environment
from lewm_ros.lifecycle_manager import LOST_ANSWERS, LifecycleManager
from lewm_ros.node import ManagedNode, Refusal
from lewm_ros.parameters import Parameter

TIMEOUT_S = 30.0


class Stub(ManagedNode):
    """A node that notes its transitions in `events`, and refuses or fails where it is told to."""

    def __init__(self, name, events, refuses="", breaks=""):
        super().__init__(name, ())
        self._events, self._refuses, self._breaks = events, refuses, breaks

    def _note(self, what):
        self._events.append(f"{what} {self.get_name()}")
        if what == self._refuses:
            raise Refusal("it does not want to")
        if what == self._breaks:
            raise ValueError("boom")

    def configure(self, values):
        self._note("configure")

    def activate(self):
        self._note("activate")

    def deactivate(self):
        if self.state_label in ("active", "deactivating"):
            self._note("deactivate")

    def cleanup(self):
        pass

    def diagnose(self):
        return DiagnosticStatus.OK, "working", {}


class Bench:
    """Stubs, and perhaps the manager, in this process.

    Each has a namespace of its own, because rclpy keeps the endpoints of a lifecycle node's state machine until the
    process ends: to other nodes such a node seems to hang.
    """

    count = itertools.count()

    def __init__(self):
        self.namespace = f"/test{next(self.count)}"
        rclpy.init(args=["--ros-args", "-r", f"__ns:={self.namespace}"])
        self.executor = SingleThreadedExecutor()
        self.events, self.nodes, self.statuses = [], [], {}
        listener = rclpy.create_node("listener")
        listener.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)
        self._add(listener)

    def _add(self, node):
        self.nodes.append(node)
        self.executor.add_node(node)
        return node

    def _on_diagnostics(self, message):
        for status in message.status:
            self.statuses[status.name.rpartition("/")[2]] = status

    def stub(self, name, **how):
        return self._add(Stub(name, self.events, **how))

    def manager(self, monkeypatch, *names, **parameters):
        given = {"nodes": list(names), "watch_period": 0.1, **parameters}
        make = lewm_ros.lifecycle_manager.Node.__init__

        def with_parameters(node, name):
            overrides = [RosParameter(key, value=value) for key, value in given.items()]
            make(node, name, parameter_overrides=overrides)

        with monkeypatch.context() as patch:
            patch.setattr(lewm_ros.lifecycle_manager.Node, "__init__", with_parameters)
            manager = LifecycleManager()
        return self._add(manager)

    def end(self, node):
        """The node is gone, as far as others can see."""
        self.nodes.remove(node)
        self.executor.remove_node(node)
        node.destroy_node()

    @property
    def said(self):
        """The manager's newest diagnostic message."""
        return self.statuses["lifecycle_manager"].message if "lifecycle_manager" in self.statuses else ""

    def until(self, condition, what):
        end = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < end, f"waited {TIMEOUT_S} s for {what}; {self.events}"
            self.executor.spin_once(timeout_sec=0.05)

    def wait(self, duration_s):
        end = time.monotonic() + duration_s
        self.until(lambda: time.monotonic() >= end, "time to pass")

    def close(self):
        for node in self.nodes:
            node.destroy_node()
        self.executor.shutdown()
        rclpy.shutdown()


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.close()


def active(*nodes):
    return all(node.state_label == "active" for node in nodes)


# ---- bringing up -----------------------------------------------------------------------------------------------------


def test_nodes_are_configured_as_they_come_and_once_all_are_activated_in_order(bench, monkeypatch):
    bench.manager(monkeypatch, "one", "two", "three")
    three, two = bench.stub("three"), bench.stub("two")
    bench.until(lambda: set(bench.events) == {"configure two", "configure three"}, "those that are there")
    bench.wait(1.0)
    assert len(bench.events) == 2, "the first node is not there yet"
    one = bench.stub("one")
    bench.until(lambda: active(one, two, three), "all to be active")
    assert bench.events[2:] == ["configure one", "activate one", "activate two", "activate three"]
    bench.until(lambda: bench.said == "every node is active", "OK")
    status = bench.statuses["lifecycle_manager"]
    assert status.level == DiagnosticStatus.OK
    assert {"one": "active", "two": "active", "three": "active"}.items() <= values(status).items()


def values(status):
    return {value.key: value.value for value in status.values}


@pytest.mark.parametrize("how", ["refuses", "breaks"])
@pytest.mark.parametrize(("step", "done"), [("configure", "configured"), ("activate", "activated")])
def test_a_node_that_refuses_or_breaks_in_a_step_is_the_end_and_named(bench, monkeypatch, capfd, how, step, done):
    manager = bench.manager(monkeypatch, "one", "two")
    bench.stub("one")
    bench.stub("two", **{how: step})
    bench.until(lambda: manager.failure, "the manager to give up")
    assert manager.failure == f"two could not be {done}; its message above says what to do"
    said = capfd.readouterr().err
    assert said.index("it does not want to" if how == "refuses" else "boom") < said.index(manager.failure)
    before = list(bench.events)
    bench.wait(1.0)
    assert bench.events == before, "it does not try again"


def test_a_transition_is_asked_for_once(bench, monkeypatch, capfd):
    bench.manager(monkeypatch, "one", "two", watch_period=0.05)
    for name in ("one", "two"):
        bench.stub(name)
    bench.until(lambda: bench.said == "every node is active", "both to be active")
    bench.wait(0.5)
    assert sorted(bench.events) == ["activate one", "activate two", "configure one", "configure two"]
    said = capfd.readouterr().err
    assert "refused a lifecycle transition" not in said and "No transition matching" not in said


def test_a_node_is_armed_on_its_first_start_and_not_when_it_is_started_again(bench, monkeypatch):
    bench.manager(monkeypatch, "one", enable="one", dead_after=1.0)
    armed = []

    class Arms(Stub):
        def __init__(self, name, events):
            ManagedNode.__init__(self, name, (Parameter("enable_on_start", False, "Arm."),))
            self._events, self._refuses, self._breaks = events, "", ""

        def configure(self, values):
            armed.append(values["enable_on_start"])
            self._note("configure")

    one = bench._add(Arms("one", bench.events))
    bench.until(lambda: bench.said == "every node is active", "it to be active")
    bench.end(one)
    one = bench._add(Arms("one", bench.events))
    bench.until(lambda: active(one), "the new one to be active")
    assert armed == [True, False]


def test_nodes_that_are_active_already_are_left_as_they_are(bench, monkeypatch):
    one = bench.stub("one")
    one.trigger_configure()
    one.trigger_activate()
    two = bench.stub("two")
    two.trigger_configure()
    before = list(bench.events)
    bench.manager(monkeypatch, "one", "two")
    bench.until(lambda: active(two), "the second to be active")
    assert bench.events == [*before, "activate two"]


def test_a_transition_that_got_lost_is_asked_for_again(bench, monkeypatch):
    manager = bench.manager(monkeypatch, "one")
    (managed,) = manager._nodes
    ask = managed.change_state.call_async
    lost = []

    def lose_the_first(request):
        if lost:
            return ask(request)
        lost.append(Future())
        return lost[0]

    managed.change_state.call_async = lose_the_first
    one = bench.stub("one")
    bench.until(lambda: active(one), "the node to be active after all")
    assert bench.events == ["configure one", "activate one"]
    assert lost and managed.answers < LOST_ANSWERS


# ---- watching --------------------------------------------------------------------------------------------------------


def test_what_a_person_does_with_a_node_stays_done(bench, monkeypatch):
    bench.manager(monkeypatch, "one", "two")
    one, two = bench.stub("one"), bench.stub("two")
    bench.until(lambda: active(one, two), "both to be active")
    bench.until(lambda: bench.said == "every node is active", "it to be seen")
    one.trigger_deactivate()
    bench.until(lambda: "one is inactive" in bench.said, "it to be seen")
    assert bench.statuses["lifecycle_manager"].level == DiagnosticStatus.WARN
    bench.wait(1.0)
    assert one.state_label == "inactive"
    one.trigger_cleanup()
    bench.until(lambda: "one is unconfigured" in bench.said, "it to be seen")
    bench.wait(1.0)
    assert one.state_label == "unconfigured"
    assert active(two)


def test_a_node_that_died_is_named_and_brought_up_when_it_is_back_and_the_others_are_not_touched(bench, monkeypatch):
    manager = bench.manager(monkeypatch, "one", "two", dead_after=1.0)
    one, two = bench.stub("one"), bench.stub("two")
    bench.until(lambda: active(one, two), "both to be active")
    bench.until(lambda: bench.said == "every node is active", "it to be seen")
    bench.end(one)
    bench.until(lambda: "one is dead since" in bench.said, "the death to be seen")
    status = bench.statuses["lifecycle_manager"]
    assert status.level == DiagnosticStatus.ERROR
    assert values(status)["one"] == "dead"
    assert values(status)["one dead since"] in status.message
    bench.events.clear()
    one = bench.stub("one")
    bench.until(lambda: active(one), "the new one to be active")
    assert bench.events == ["configure one", "activate one"]
    bench.until(lambda: values(bench.statuses["lifecycle_manager"])["one"] == "active", "it to be seen")
    assert values(bench.statuses["lifecycle_manager"])["one restarts"] == "1"
    assert not manager.failure


def test_a_node_that_comes_back_before_it_was_missed_is_brought_up_too(bench, monkeypatch):
    bench.manager(monkeypatch, "one", dead_after=600.0)
    one = bench.stub("one")
    bench.until(lambda: active(one), "it to be active")
    bench.until(lambda: bench.said == "every node is active", "it to be seen")
    bench.end(one)
    one = bench.stub("one")
    bench.until(lambda: active(one), "the new one to be active")


# ---- as a process ----------------------------------------------------------------------------------------------------


def start_manager(namespace, *arguments):
    set_environment()
    given = [word for argument in arguments for word in ("-p", argument)] + ["-r", f"__ns:={namespace}"]
    command = [sys.executable, "-m", "lewm_ros.lifecycle_manager", "--ros-args", *given]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ))


def test_at_its_end_it_deactivates_the_last_node_first(bench):
    """With simulated time, too, which stands still here."""
    one, two = bench.stub("one"), bench.stub("two")
    manager = start_manager(bench.namespace, "nodes:=[one, two]", "use_sim_time:=true")
    try:
        bench.until(lambda: active(one, two), "both to be active")
        bench.until(lambda: bench.said == "every node is active", "it to be seen")
        bench.events.clear()
        manager.send_signal(signal.SIGINT)
        bench.until(lambda: manager.poll() is not None, "the manager to end")
        assert manager.returncode == 0
        assert bench.events == ["deactivate two", "deactivate one"]
        assert (one.state_label, two.state_label) == ("inactive", "inactive")
    finally:
        manager.kill()
        manager.communicate()


def test_after_a_refusal_it_ends_with_status_1_and_takes_down_the_others(bench):
    one = bench.stub("one")
    bench.stub("two", refuses="activate")
    manager = start_manager(bench.namespace, "nodes:=[one, two]")
    try:
        bench.until(lambda: manager.poll() is not None, "the manager to end")
        assert manager.returncode == 1
        assert "two could not be activated" in manager.communicate()[0]
        assert one.state_label == "inactive"
    finally:
        manager.kill()


def test_without_nodes_it_says_what_to_give():
    manager = start_manager("/")
    said, _ = manager.communicate(timeout=TIMEOUT_S)
    assert manager.returncode == 1
    assert "parameter 'nodes' is not set" in said


def test_a_killed_camera_node_is_brought_up_again_when_it_is_restarted(tmp_path):
    bundle = tiny_bundle(tmp_path / "tiny")
    set_environment()
    statuses = {}

    def on_diagnostics(message):
        for status in message.status:
            statuses[status.name] = status

    def says(name, text):
        return name in statuses and text in statuses[name].message

    with Graph("test_manager", tmp_path) as graph:
        graph.node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 50)
        graph.node.create_client(ChangeState, "camera_node/change_state")
        graph.start("lifecycle_manager", {"nodes": ["camera_node"], "dead_after": 2.0})
        for _ in range(2):
            graph.start("camera_node", {"model": str(bundle.folder)})
            graph.spin_until(lambda: says("camera_node", "no frame has arrived"), 60, "camera_node to be active")
            graph.spin_until(lambda: says("lifecycle_manager", "every node is active"), 60, "the manager to see it")
            graph.process("camera_node").kill()
            graph.process("camera_node").wait()
            graph.forget("camera_node")
            graph.spin_until(lambda: says("lifecycle_manager", "camera_node is dead since"), 60, "the death to be seen")
            statuses.clear()
