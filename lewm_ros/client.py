# SPDX-License-Identifier: Apache-2.0
"""Sends goals and waits for their outcome, as an action client would.

    with GoalClient() as client:
        result = client.reach(picture, timeout_s=20.0)     # (H, W, 3) uint8 RGB
        print(result.outcome, result.text)

It needs no action server and no message package: camera_node says on `goal_status` whether a goal is accepted,
planner_node on its `~/status` how it progresses and ends, and `~/cancel` ends it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from types import TracebackType

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from lewm_ros.camera_node import LATCHED
from lewm_ros.goals import goal_identity, picture_hash
from lewm_ros.messages import rgb_to_message

CANCEL_S = 2.0  # how long to wait for the answer to a cancellation


class Outcome(Enum):
    """How a goal ended; the value is the exit status of `reach_goal`."""

    REACHED = 0
    REFUSED = 1  # camera_node does not accept the picture
    HELD_BACK = 3  # the planner is stopped, or is disarmed or holding when the time is over
    TIMED_OUT = 4
    CANCELLED = 5  # somebody else cancelled or replaced it


@dataclass(frozen=True)
class Progress:
    """State of a goal. `distance` is that to its latent in the planner's cost; None before the first plan."""

    accepted: bool
    state: str  # of the planner: disarmed, armed, holding or stopped; empty before its first status
    message: str  # of the planner, for people
    distance: float | None


@dataclass(frozen=True)
class Station:
    """One goal of a sequence."""

    name: str  # for people
    picture: np.ndarray  # (H, W, 3) uint8 RGB
    dwell_s: float  # how long to stay there before the next one


@dataclass(frozen=True)
class Result:
    """Outcome of a goal, with a sentence for people."""

    outcome: Outcome
    text: str
    distance: float | None = None


class GoalClient:
    """See the module. Not for use in a callback: its methods block and spin the node meanwhile.

    :param planner: name of the planner node.
    :param node: a node that has the wanted remappings and namespace; None makes one, and starts rclpy if needed.
    """

    def __init__(self, planner: str = "planner_node", node: Node | None = None) -> None:
        self._own = node is None and not rclpy.ok()
        if self._own:
            rclpy.init()
        self.node = node or rclpy.create_node("goal_client")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._goals = self.node.create_publisher(Image, "goal_image", LATCHED)
        self._judged: dict[str, DiagnosticStatus] = {}
        self._status = DiagnosticStatus()
        self._values: dict[str, str] = {}
        self._pursued = False
        self._goal = ""
        self.node.create_subscription(DiagnosticStatus, "goal_status", self._on_judged, LATCHED)
        self.node.create_subscription(DiagnosticStatus, f"{planner}/status", self._on_status, LATCHED)
        self._cancels = self.node.create_client(Trigger, f"{planner}/cancel")

    def __enter__(self) -> GoalClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Destroys the node. The planner goes on with a goal that was sent."""
        self._executor.shutdown()
        self.node.destroy_node()
        if self._own:
            rclpy.try_shutdown()

    def _on_judged(self, status: DiagnosticStatus) -> None:
        values = {pair.key: pair.value for pair in status.values}
        self._judged = {values.get("goal_identity", ""): status}

    def _on_status(self, status: DiagnosticStatus) -> None:
        self._status, self._values = status, {pair.key: pair.value for pair in status.values}
        self._pursued |= self._values.get("goal_identity") == self._goal

    # ---- commands ----------------------------------------------------------------------------------------------------

    def send(self, picture: np.ndarray) -> str:
        """Sends a picture (H, W, 3) uint8 RGB as the goal; returns its identity."""
        stamp_ns = self.node.get_clock().now().nanoseconds or time.time_ns()  # simulated time begins at 0
        message = rgb_to_message(picture, stamp_ns)
        self._goal = goal_identity(Header(stamp=message.header.stamp, frame_id=picture_hash(message)))
        self._pursued = False
        self._goals.publish(message)
        return self._goal

    def judgement(self, timeout_s: float, remind: Callable[[], None] = lambda: None) -> Result | None:
        """Waits until camera_node has examined the goal that was sent; None when it accepts it, else the result.

        camera_node need not be active yet: the latched topic keeps the goal for it.

        :param remind: called every 10 s of waiting.
        """
        end_s, remind_s = time.monotonic() + timeout_s, time.monotonic() + 10.0
        while self._goal not in self._judged:
            self._executor.spin_once(timeout_sec=0.1)
            if time.monotonic() > end_s:
                return Result(
                    Outcome.TIMED_OUT, f"the goal was not examined within {timeout_s:g} s; is camera_node active?"
                )
            if time.monotonic() > remind_s:
                remind()
                remind_s += 10.0
        status = self._judged[self._goal]
        return Result(Outcome.REFUSED, status.message) if status.level != DiagnosticStatus.OK else None

    def reach(
        self, picture: np.ndarray, timeout_s: float, show: Callable[[Progress], None] = lambda progress: None
    ) -> Result:
        """Sends a goal picture (H, W, 3) uint8 RGB and waits for the outcome. A goal that is given up is cancelled.

        :param show: called with the progress ten times a second.
        """
        end_s = time.monotonic() + timeout_s
        self.send(picture)
        try:
            result = None
            while result is None:
                self._executor.spin_once(timeout_sec=0.1)
                show(self.progress)
                result = self._result(time.monotonic() > end_s, timeout_s)
        except BaseException:  # also KeyboardInterrupt
            self.cancel()
            raise
        if result.outcome in (Outcome.HELD_BACK, Outcome.TIMED_OUT):
            self.cancel()
        return result

    def follow(
        self,
        stations: Iterable[Station],
        timeout_s: float,
        show: Callable[[Progress], None] = lambda progress: None,
        tell: Callable[[Station, Result], None] = lambda station, result: None,
    ) -> Result:
        """Reaches goals one after the other, up to the first that is not reached; returns the result of the last one.

        :param timeout_s: for each goal.
        :param show: called with the progress ten times a second, also while dwelling. What it raises ends the sequence,
            and cancels a goal that is not reached yet.
        :param tell: called with each goal and its result, before its dwell time.
        """
        result = Result(Outcome.REACHED, "there was no goal")
        for station in stations:
            result = self.reach(station.picture, timeout_s, show)
            tell(station, result)
            if result.outcome is not Outcome.REACHED:
                break
            self.wait(station.dwell_s, show)
        return result

    @property
    def progress(self) -> Progress:
        """State of the goal that was sent last."""
        distance = self._values.get("distance") if self._pursued else None
        return Progress(
            self._goal in self._judged,
            self._values.get("state", ""),
            self._status.message,
            None if distance is None else float(distance),
        )

    def _result(self, over: bool, timeout_s: float) -> Result | None:
        """The outcome of the goal, None while it is open. `over` says that the time is over."""
        if self._goal not in self._judged:
            return self.judgement(0.0) if over else None
        if refused := self.judgement(0.0):
            return refused
        state, distance, ours = self.progress.state, self.progress.distance, self._values.get("goal_identity")
        if ours == self._goal and self._values.get("reached") == "yes":
            return Result(Outcome.REACHED, "the goal is reached", distance)
        if self._pursued and ours != self._goal:
            return Result(Outcome.CANCELLED, "somebody cancelled the goal or sent another one", distance)
        if state == "stopped" or (over and state and state != "armed"):
            return Result(Outcome.HELD_BACK, f"held back: {self._status.message}", distance)
        if not over:
            return None
        text = f"not reached within {timeout_s:g} s"
        return Result(Outcome.TIMED_OUT, text if state else f"{text}: no status has come from the planner", distance)

    def wait(self, duration_s: float, show: Callable[[Progress], None] = lambda progress: None) -> None:
        """Handles callbacks for a while, for instance at a goal; `show` as for `reach`."""
        end_s = time.monotonic() + duration_s
        while time.monotonic() < end_s:
            self._executor.spin_once(timeout_sec=0.1)
            show(self.progress)

    def cancel(self) -> bool:
        """Cancels the goal; returns whether the planner has answered."""
        end_s = time.monotonic() + CANCEL_S
        while not self._cancels.service_is_ready() and time.monotonic() < end_s:
            self._executor.spin_once(timeout_sec=0.05)
        if not self._cancels.service_is_ready():
            return False
        answer = self._cancels.call_async(Trigger.Request())
        self._executor.spin_until_future_complete(answer, max(0.1, end_s - time.monotonic()))
        return bool(answer.done())
