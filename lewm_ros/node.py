# SPDX-License-Identifier: Apache-2.0
"""Base of the lifecycle nodes: transitions that log why they are refused, parameters, diagnostics at 1 Hz, shutdown."""

from __future__ import annotations

import itertools
import platform
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter
from rclpy.qos import QoSCompatibility, qos_check_compatible
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions

from lewm_model.bundle.bundle import Bundle, BundleError
from lewm_model.config import PlanConfig
from lewm_model.runtime import Runtime, load_runtime
from lewm_model.runtime.errors import RuntimeLoadError
from lewm_ros.parameters import Parameter, ParameterError, check_choice, declare, read, refuse_unknown

HARDWARE_ID = platform.node()  # in diagnostics: the computer that the node runs on
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR

# For topics shared with drivers and controllers: a params file may set history, depth and reliability of each, as in
# qos_overrides./joint_states.subscription.reliability. rclpy reads it once, when the topic is first made.
QOS_OVERRIDES = QoSOverridingOptions.with_default_policies()
STOP_S = 5.0  # how long a worker thread may take to end
STANDSTILL_S = 2.0  # without a change of simulated time before diagnostics report it
# Of the nodes that only show what others do, viewer_node and panel_node.
NICENESS = 10  # added to the process's nice value, so that the planner comes first
LOOK_S = 0.25  # between two checks whether anybody watches
STALE_S = 1.5  # age after which a plan, a surprise or a camera picture is no longer shown


class Refusal(RuntimeError):
    """Raised by a transition that cannot be made; the message tells the user what to change."""


class Milliseconds:
    """The newest 10,000 durations of a processing stage, for percentiles. Thread-safe."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=10_000)
        self._lock = threading.Lock()

    def add(self, seconds: float) -> None:
        with self._lock:
            self._values.append(1e3 * seconds)

    def percentiles(self, name: str) -> dict[str, str]:
        """Diagnostic values `<name>_ms_p50` and `<name>_ms_p95`; empty before the first duration."""
        with self._lock:
            values = list(self._values)
        if not values:
            return {}
        p50, p95 = np.percentile(values, (50, 95))
        return {f"{name}_ms_p50": f"{p50:.2f}", f"{name}_ms_p95": f"{p95:.2f}"}


class ManagedNode(LifecycleNode):
    """A lifecycle node with parameters, diagnostics, and errors that users can act on.

    A subclass implements `configure` and its inverse `cleanup`, `activate` and its inverse `deactivate`, and
    `diagnose`. An expected error in a transition is logged as one sentence and the node keeps its state; an unexpected
    one is logged with its traceback, and the node frees everything and becomes unconfigured.
    """

    def __init__(self, name: str, parameters: Sequence[Parameter]) -> None:
        super().__init__(name)
        self._table = parameters
        declare(self, parameters)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # diagnostics must go on where simulated time stands still
        self._diagnostics_timer = self.create_timer(1.0, self.publish_diagnostics, clock=steady)
        self._clock_seen = (-1, time.monotonic())  # newest time of the ROS clock, ns, and when it changed, steady s
        self.is_done = False  # set by a node that has finished its task; ends the process
        self._backend: dict[str, str] = {}  # for diagnostics: which back end runs the model, and why
        self._unconnected: list[str] = []  # newest result of `find_unconnected`
        self._built_s = 0.0  # when the progress of building engines was last published, steady s
        self._refuse_impossible_transitions()

    # What a node implements.

    def configure(self, values: Mapping[str, Any]) -> None:
        """Loads and checks everything, from the parameters' values by name."""
        raise NotImplementedError

    def activate(self) -> None:
        """Starts the work."""
        raise NotImplementedError

    def deactivate(self) -> None:
        """Ends the work; does nothing when nothing runs.

        :raises Refusal: it cannot be ended now.
        """
        raise NotImplementedError

    def cleanup(self) -> None:
        """Frees what `configure` made; does nothing when there is nothing."""
        raise NotImplementedError

    def diagnose(self) -> tuple[bytes, str, dict[str, str]]:
        """Level, message and values for the diagnostics of an active node."""
        raise NotImplementedError

    def change(self, values: Mapping[str, Any]) -> None:
        """Applies new values of live parameters, by name, while the node is configured.

        :raises ParameterError: they cannot be used; the old ones stay.
        """
        raise NotImplementedError

    # ---- parameters --------------------------------------------------------------------------------------------------

    def _on_set_parameters(self, parameters: Sequence[RosParameter]) -> SetParametersResult:
        """Refuses values that would have no effect in this state, and says what to do instead."""
        rows = {row.name: row for row in self._table}
        if self.state_label == "unconfigured":
            return SetParametersResult(successful=True)  # they are read at the next configure
        live = {}
        try:
            for parameter in parameters:
                row = rows.get(parameter.name)
                if row is None:
                    continue
                check_choice(row, parameter.value)
                if not row.live:
                    raise ParameterError(
                        f"{row.name} is read when {self.get_name()} is configured, and would change nothing now: "
                        "deactivate and clean up the node, set it, configure and activate it"
                    )
                live[row.name] = parameter.value
            if live:
                self.change(live)
        except ParameterError as error:
            self.get_logger().error(f"a parameter was not set: {error}")
            return SetParametersResult(successful=False, reason=str(error))
        for name, value in live.items():
            self.get_logger().info(f"{name} is set to {value}")
        return SetParametersResult(successful=True)

    # ---- the model ---------------------------------------------------------------------------------------------------

    def load_runtime(self, bundle: Bundle, values: Mapping[str, Any], samples: int = PlanConfig().samples) -> Runtime:
        """Loads the model on the back end that the parameters backend, threads and build_engines select.

        Progress of building engines, the back end and why earlier candidates were skipped go to the log and
        diagnostics.
        """
        runtime = load_runtime(
            bundle, values["backend"], values["threads"], samples, values["build_engines"], self._tell_progress
        )
        for note in runtime.notes:
            self.get_logger().info(note)
        self._backend = {"backend": runtime.backend, "backend_notes": " | ".join(runtime.notes)}
        return runtime

    def _tell_progress(self, what: str, share: float) -> None:
        """Publishes the progress of building engines, once a second: it takes minutes in which no timer runs."""
        if time.monotonic() - self._built_s >= 1.0:
            self._built_s = time.monotonic()
            self._send_diagnostics(WARN, f"{what}: {share:.0%}", {})

    # ---- lifecycle ---------------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        def step() -> None:
            self.cleanup()
            self.configure(read(self, self._table, topics_follow=True))

        return self._attempt("configure", step, undo=self.cleanup)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        def step() -> None:
            self.activate()
            refuse_unknown(self)  # all topics exist now, so a qos_overrides of another one is misspelt

        return self._attempt("activate", step, undo=self.deactivate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt("deactivate", self.deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt("clean up", self.cleanup)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt("shut down", self._free)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees everything, so that the node can be configured again."""
        return self._attempt("recover from an error", self._free)

    def _free(self) -> None:
        self.deactivate()
        self.cleanup()

    def _end(self, worker: Worker) -> None:
        """Ends a worker thread.

        :raises Refusal: it does not end in time. The node then stays active: no second worker may be started beside it.
        """
        if not worker.stop():
            raise Refusal(
                f"the thread {worker.name!r} has not ended within {STOP_S:g} s: what it computes takes longer; "
                "deactivate again, or end the process"
            )

    def _attempt(
        self, what: str, step: Callable[[], None], undo: Callable[[], None] | None = None
    ) -> TransitionCallbackReturn:
        try:
            step()
            return TransitionCallbackReturn.SUCCESS
        except (Refusal, ParameterError, BundleError, RuntimeLoadError) as error:
            self.get_logger().error(f"cannot {what}: {error}")
            if undo:
                undo()
            return TransitionCallbackReturn.FAILURE
        except Exception:  # rclpy would not log it
            self.get_logger().error(f"cannot {what}, this is a bug:\n{traceback.format_exc()}")
            return TransitionCallbackReturn.ERROR

    def _refuse_impossible_transitions(self) -> None:
        """Makes the service answer transitions that the state does not allow with success = false.

        rclpy would raise an exception out of the executor instead, and end the process.
        """
        service = getattr(self, "_service_change_state", None)
        if service is None:
            return
        change_state = service.callback

        def guarded(request: Any, response: Any) -> Any:
            try:
                return change_state(request, response)
            except Exception as error:
                self.get_logger().error(f"refused a lifecycle transition: {error}")
                response.success = False
                return response

        service.callback = guarded

    @property
    def state_label(self) -> str:
        """unconfigured, inactive, active, ..."""
        return str(self._state_machine.current_state[1])

    # ---- diagnostics -------------------------------------------------------------------------------------------------

    def publish_diagnostics(self) -> None:
        """Publishes the status on /diagnostics; called by a timer every second."""
        level, message = OK, self.state_label
        values: dict[str, str] = {}
        if self.state_label == "active":
            level, message, values = self.diagnose()
        unconnected = find_unconnected(self)
        for text in unconnected:
            level = max(level, WARN)
            message = f"{message}; {text}"
            if text not in self._unconnected:
                self.get_logger().warning(text)
        self._unconnected = unconnected
        if still := self._standstill():
            level, message = max(level, ERROR), f"{message}; {still}"
        self._send_diagnostics(level, message, values | self._backend)

    def _standstill(self) -> str | None:
        """A sentence when the ROS clock has not changed for STANDSTILL_S; None while it runs."""
        now_ns, now_s = self.get_clock().now().nanoseconds, time.monotonic()
        if now_ns != self._clock_seen[0]:
            self._clock_seen = (now_ns, now_s)
        still_s = now_s - self._clock_seen[1]
        if still_s < STANDSTILL_S:
            return None
        return (
            f"time has stood still for {still_s:.0f} s at {now_ns / 1e9:g} s: use_sim_time is true and nothing comes "
            "on /clock; start what publishes it, or set use_sim_time to false"
        )

    def _send_diagnostics(self, level: bytes, message: str, values: Mapping[str, str]) -> None:
        self._diagnostics.publish(diagnostics_message(self, level, message, values))


def compressed_topic(node: Node, topic: str) -> str:
    """The topic of the compressed pictures, as image_transport names it: below what `topic` is remapped to."""
    return f"{node.resolve_topic_name(topic).removesuffix('/compressed')}/compressed"


def status_message(node: Node, level: bytes, message: str, values: Mapping[str, str]) -> DiagnosticStatus:
    """A diagnostic status under the full name of the node."""
    return DiagnosticStatus(
        level=level,
        name=node.get_fully_qualified_name().lstrip("/"),
        hardware_id=HARDWARE_ID,
        message=message,
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )


def diagnostics_message(node: Node, level: bytes, message: str, values: Mapping[str, str]) -> DiagnosticArray:
    """The same as a message for /diagnostics, stamped now."""
    array = DiagnosticArray(status=[status_message(node, level, message, values)])
    array.header.stamp = node.get_clock().now().to_msg()
    return array


def find_unconnected(node: Node) -> list[str]:
    """A sentence for each publisher or subscription of another node that cannot be connected with one of this node.

    In ROS 2 nothing arrives where the message types differ or the qualities of service are incompatible.
    """

    def is_own(end: Any) -> bool:
        return (end.node_name, end.node_namespace) == (node.get_name(), node.get_namespace())

    found = set()
    for topic in {end.topic_name for end in (*node.publishers, *node.subscriptions)}:
        publishers, subscriptions = (
            node.get_publishers_info_by_topic(topic),
            node.get_subscriptions_info_by_topic(topic),
        )
        for publisher, subscription in itertools.product(publishers, subscriptions):
            why = _mismatch(publisher, subscription)
            if why and is_own(subscription):
                found.add(f"nothing arrives on {topic} from {publisher.node_name}: {why}")
            elif why and is_own(publisher):
                found.add(f"{subscription.node_name} gets nothing on {topic}: {why}")
    return sorted(found)


def _mismatch(publisher: Any, subscription: Any) -> str:
    """Why a publisher and a subscription of a topic cannot be connected; empty when they can."""
    if publisher.topic_type != subscription.topic_type:
        return f"{publisher.topic_type} is sent, {subscription.topic_type} is expected"
    compatibility, reason = qos_check_compatible(publisher.qos_profile, subscription.qos_profile)
    return reason.removeprefix("ERROR: ").rstrip(";") if compatibility == QoSCompatibility.ERROR else ""


class Worker:
    """A thread that calls `step` in a loop until it is stopped.

    :param failed: called with the traceback of an exception in `step`, which ends the loop.
    :param last: called at the end of the thread, however it ends.
    """

    def __init__(
        self, name: str, step: Callable[[], None], failed: Callable[[str], None], last: Callable[[], None] | None = None
    ) -> None:
        self._step, self._failed, self._last = step, failed, last
        self._running = True
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while self._running:
                self._step()
        except Exception:
            self._failed(traceback.format_exc())
        finally:
            if self._last:
                self._last()

    @property
    def name(self) -> str:
        """Name of the thread: what it does."""
        return self._thread.name

    @property
    def goes_on(self) -> bool:
        """Whether it runs and was not told to stop."""
        return self._running and self._thread.is_alive()

    def stop(self, timeout_s: float | None = None) -> bool:
        """Waits for the current step to end; False when it does not within `timeout_s`, STOP_S by default."""
        self._running = False
        self._thread.join(STOP_S if timeout_s is None else timeout_s)
        return not self._thread.is_alive()


class Told:
    """Whether the process was told to end. Without a lock: a signal handler may be interrupted by another signal."""

    def __init__(self) -> None:
        self._told = False

    def tell(self, *_: Any) -> None:
        """The signal handler."""
        self._told = True

    def is_set(self) -> bool:
        """Whether the process was told to end."""
        return self._told


def told_to_end() -> Told:
    """Replaces the handlers of SIGINT and SIGTERM by ones that set the returned flag."""
    told = Told()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, told.tell)
    return told


def spin(executor: SingleThreadedExecutor, goes_on: Callable[[], bool], node: Node) -> None:
    """Runs callbacks while `goes_on` says so. An exception in a callback is logged by `node`; the loop goes on."""
    while rclpy.ok() and goes_on():
        try:
            executor.spin_once(timeout_sec=0.2)
        except (KeyboardInterrupt, ExternalShutdownException):
            break
        except Exception:
            node.get_logger().error(f"a callback failed, this is a bug:\n{traceback.format_exc()}")


def start_ros(arguments: Sequence[str] | None) -> None:
    """Starts rclpy without its signal handlers, which would end it before the nodes; exits on wrong arguments."""
    try:
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:
        sys.exit(f"the ROS arguments or the params file cannot be used: {error}")


def run(*makers: Callable[[], ManagedNode], arguments: Sequence[str] | None = None) -> None:
    """Runs nodes in one process and one thread until one is done or shut down, or SIGINT or SIGTERM arrives.

    Then the nodes are shut down, the last one first. An exception in a callback is logged and ends nothing.
    """
    start_ros(arguments)
    ended = told_to_end()
    try:
        nodes = [make() for make in makers]
    except (InvalidParameterValueException, InvalidParameterTypeException) as error:
        rclpy.shutdown()
        sys.exit(f"a parameter cannot be used: {error}")
    executor = SingleThreadedExecutor()
    for node in nodes:
        executor.add_node(node)

    def goes_on() -> bool:
        return not (ended.is_set() or any(node.is_done or node.state_label == "finalized" for node in nodes))

    spin(executor, goes_on, nodes[0])
    for node in reversed(nodes):
        if rclpy.ok() and node.state_label in ("unconfigured", "inactive", "active"):
            node.trigger_shutdown()
    executor.shutdown()
    for node in nodes:
        node.destroy_node()
    rclpy.try_shutdown()
