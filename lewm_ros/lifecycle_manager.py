# SPDX-License-Identifier: Apache-2.0
"""Brings lifecycle nodes up in order, watches them, and brings a node up again after its process was restarted.

    ros2 run lewm_ros lifecycle_manager --ros-args -p "nodes:=[camera_node, planner_node]"

Nodes are configured as soon as they appear, all at the same time, since that loads models; once all are configured,
they are activated in order. The manager starts no process: launch (respawn) or systemd does. It changes no node whose
process keeps running, so what a person does with `ros2 lifecycle set` stays. When a node refuses a transition, the
manager ends with exit status 1. On SIGINT and SIGTERM it first deactivates the nodes, the last one first.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter
from rclpy.signals import SignalHandlerOptions

from lewm_ros.node import ERROR, OK, WARN, diagnostics_message, told_to_end
from lewm_ros.parameters import Parameter, ParameterError, declare, read

PARAMETERS = (
    Parameter("nodes", RosParameter.Type.STRING_ARRAY, "Lifecycle nodes, in the order in which they are brought up."),
    Parameter("watch_period", 0.5, "Seconds between two requests for the state of a node.", 0.05, 10.0),
    Parameter("enable", "", "Node whose enable_on_start is set at its first start, not after a restart."),
    Parameter("dead_after", 5.0, "Seconds without an answer after which a node counts as dead.", 0.5, 600.0),
)
# Steps of bringing up: state before -> transition, its past participle for messages, state after.
STEPS = {
    "unconfigured": (Transition.TRANSITION_CONFIGURE, "configured", "inactive"),
    "inactive": (Transition.TRANSITION_ACTIVATE, "activated", "active"),
}
BRING_UP_PERIOD_S = 0.1  # between two requests for the state of a node that is being brought up
FRESH_S = 1.0  # age up to which an answer is taken for the current state
LOST_S = 2.0  # after which a state request without an answer is repeated: its process may have ended
LOST_ANSWERS = 4  # after so many state answers, a pending transition was lost: nodes handle one request at a time
DEACTIVATE_S = 2.0  # timeout for each node at the end: longer than any needs, in sum less than launch waits


@dataclass
class Managed:
    """State of one managed node."""

    name: str
    get_state: Any  # service clients
    change_state: Any
    state: str = "not started"  # newest answer
    answered_s: float | None = None  # steady time of that answer
    question: Any = None  # future of a pending state request
    asked_s: float = 0.0  # steady time of the newest state request
    transition: Any = None  # future of a pending transition
    answers: int = 0  # state answers since that was requested
    refused: str = ""  # state in which it refused a step
    owed: bool = True  # whether the manager still has to activate it; False once active, until its process is restarted
    processes: set[bytes] = field(default_factory=set)  # endpoint identities of the processes that were active
    dead: bool = False
    restarts: int = 0

    @property
    def silent_s(self) -> float:
        """Seconds since its last answer; 0 before the first."""
        return 0.0 if self.answered_s is None else time.monotonic() - self.answered_s


class LifecycleManager(Node):
    """See the module. `failure` is the reason why a node could not be brought up, empty while there is none."""

    def __init__(self) -> None:
        """
        :raises ParameterError: a parameter cannot be used, or `nodes` is empty.
        """
        super().__init__("lifecycle_manager")
        declare(self, PARAMETERS)
        values = read(self, PARAMETERS)
        if not values["nodes"]:
            raise ParameterError("parameter 'nodes' is empty; name the lifecycle nodes to bring up")
        self.failure = ""
        self._ending = False
        self._dead_after_s = values["dead_after"]
        self._to_enable = values["enable"]
        self._settings: Any = None
        if self._to_enable:
            self._settings = self.create_client(SetParameters, f"{self._to_enable}/set_parameters")
        self._nodes = [
            Managed(
                name,
                self.create_client(GetState, f"{name}/get_state"),
                self.create_client(ChangeState, f"{name}/change_state"),
            )
            for name in values["nodes"]
        ]
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time stands still until a simulator is active
        self._watch_period_s = values["watch_period"]
        self.create_timer(min(BRING_UP_PERIOD_S, self._watch_period_s), self._watch, clock=steady)
        self.create_timer(1.0, self._publish_diagnostics, clock=steady)

    # ---- watching ----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        # During a transition, which takes minutes where engines are built, no node of that process answers. Whether it
        # lives is then known from its service.
        busy = any(node.transition is not None for node in self._nodes)
        for node in self._nodes:
            dead = node.silent_s > self._dead_after_s and not (busy and node.get_state.service_is_ready())
            if dead and not node.dead:
                self.get_logger().error(f"{node.name} has not answered for {node.silent_s:.0f} s")
                node.transition = None
            node.dead = dead
            if node.owed or time.monotonic() - node.asked_s >= self._watch_period_s:
                self._ask(node)
        self._advance()

    def _ask(self, node: Managed) -> None:
        if node.question is not None:
            if time.monotonic() - node.asked_s < LOST_S:
                return
            node.get_state.remove_pending_request(node.question)
            node.question = None
        if node.get_state.service_is_ready():
            node.question, node.asked_s = node.get_state.call_async(GetState.Request()), time.monotonic()
            node.question.add_done_callback(partial(self._on_state, node, self._processes(node)))

    def _processes(self, node: Managed) -> set[bytes]:
        """Identities of the processes that have a node of this name; a restarted process has a new one.

        That of a killed process stays until the middleware notices.
        """
        publishers = self.get_publishers_info_by_topic(f"{node.name}/transition_event")
        return {bytes(publisher.endpoint_gid) for publisher in publishers}

    def _on_state(self, node: Managed, processes: set[bytes], question: Any) -> None:
        if question is not node.question:
            return
        node.question = None
        state = node.state = question.result().current_state.label
        node.answered_s = time.monotonic()
        if node.dead:
            self.get_logger().info(f"{node.name} answers again: {state}")
            node.dead = False

        if node.transition is not None and (state in STEPS or state == "active"):
            node.answers += 1
            if node.answers >= LOST_ANSWERS:
                node.change_state.remove_pending_request(node.transition)
                node.transition = None
        if node.refused:
            start, node.refused = node.refused, ""
            if state in (start, "unconfigured"):
                self._fail(f"{node.name} could not be {STEPS[start][1]}; its message above says what to do")
        if state == "finalized":
            self._fail(f"{node.name} is finalized; only a new process of it can be brought up")
        elif state == "active":
            node.processes |= processes
            if node.owed:
                node.owed = False
                self.get_logger().info(f"{node.name} is active")
        elif state == "unconfigured" and not node.owed and processes - node.processes:
            node.owed = True
            node.restarts += 1
            self.get_logger().warning(f"{node.name} was restarted and is brought up again")
        self._advance()

    def _fail(self, text: str) -> None:
        if not self.failure:
            self.get_logger().error(text)
        self.failure = self.failure or text

    # ---- bringing up -------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Requests the next transitions: configures every node, then activates them in order.

        A dead node does not hold up the others; at the start, one that has not appeared yet does.
        """
        owed = [node for node in self._nodes if node.owed and not node.dead]
        if self.failure or self._ending:
            return
        for node in owed:
            if node.state == "unconfigured":
                self._step(node)
        if all(node.state in ("inactive", "active") for node in owed):
            for node in owed:
                if node.state == "inactive":
                    self._step(node)
                    return

    def _step(self, node: Managed) -> None:
        """Requests the next transition of a node, if none is pending and its state is known."""
        if node.transition is not None or node.silent_s > FRESH_S or not node.change_state.service_is_ready():
            return
        if node.name == self._to_enable and node.state == "unconfigured":
            if not self._settings.service_is_ready():
                return
            self._to_enable = ""  # once only: a restarted node is not armed by itself
            value = ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=True)
            request = SetParameters.Request(parameters=[ParameterMessage(name="enable_on_start", value=value)])
            node.transition, node.answers = self._settings.call_async(request), 0
            node.transition.add_done_callback(partial(self._on_set, node))
            return
        request = ChangeState.Request(transition=Transition(id=STEPS[node.state][0]))
        node.transition, node.answers = node.change_state.call_async(request), 0
        node.transition.add_done_callback(partial(self._on_changed, node, node.state))

    def _on_set(self, node: Managed, answer: Any) -> None:
        if answer is not node.transition:
            return
        node.transition = None
        result = answer.result().results[0]
        if not result.successful:
            self._fail(f"{node.name} cannot be armed on start: {result.reason}")
        self._advance()

    def _on_changed(self, node: Managed, start: str, transition: Any) -> None:
        if transition is not node.transition:
            return
        node.transition = None
        if transition.result().success:
            node.state, node.refused, node.answered_s = STEPS[start][2], "", time.monotonic()
        else:
            node.state, node.refused = "unknown", start  # until its next answer
        if node.question is not None:  # its answer may be older than the transition
            node.get_state.remove_pending_request(node.question)
            node.question = None
        self._ask(node)
        self._advance()

    def take_down(self, executor: SingleThreadedExecutor) -> None:
        """Deactivates the active nodes, the last one first."""
        self._ending = True
        for node in reversed(self._nodes):
            if node.state != "active" or node.dead or not node.change_state.service_is_ready():
                continue
            request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_DEACTIVATE))
            future, end = node.change_state.call_async(request), time.monotonic() + DEACTIVATE_S
            while not future.done() and node.change_state.service_is_ready() and time.monotonic() < end:
                executor.spin_once(timeout_sec=0.05)

    # ---- diagnostics -------------------------------------------------------------------------------------------------

    def _publish_diagnostics(self) -> None:
        level, said, values = OK, [], {}
        for node in self._nodes:
            values[node.name] = "dead" if node.dead else node.state
            values[f"{node.name} restarts"] = str(node.restarts)
            if node.dead:
                level = ERROR
                since = time.strftime("%H:%M:%S", time.localtime(time.time() - node.silent_s))
                values[f"{node.name} dead since"] = since
                said.append(f"{node.name} is dead since {since}; it is brought up once it is restarted")
            elif node.state != "active":
                level = max(level, WARN)
                said.append(f"{node.name} is {node.state}")
        self._diagnostics.publish(diagnostics_message(self, level, "; ".join(said) or "every node is active", values))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the manager."""
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    ended = told_to_end()
    try:
        manager = LifecycleManager()
    except (ParameterError, InvalidParameterTypeException, InvalidParameterValueException) as error:
        rclpy.shutdown()
        sys.exit(f"the nodes cannot be managed: {error}")
    executor = SingleThreadedExecutor()
    executor.add_node(manager)
    while not ended.is_set() and not manager.failure:
        executor.spin_once(timeout_sec=0.2)
    manager.take_down(executor)
    executor.shutdown()
    manager.destroy_node()
    rclpy.shutdown()
    sys.exit(1 if manager.failure else 0)


if __name__ == "__main__":
    main()
