# SPDX-License-Identifier: Apache-2.0
"""Runs the whole loop as processes over DDS and observes it, for faults.py, soak.py and viewer.py.

`Rig` starts sim_node, camera_node and planner_node with the shipped model. Relays (relay.py) may stand between the
simulated arm and the other nodes, to delay, damage or restamp messages. `CommandedMotion` is the commanded
motion of the arm, composed of the received trajectories.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from lewm_model.config import resource
from lewm_model.planning.motion import Trajectory
from lewm_model.robot.limits import JointLimits
from lewm_model.sim.arm import ArmSim
from lewm_ros.camera_node import LATCHED, NEWEST_FRAME
from lewm_ros.graph import Graph, GraphError, reserve_domain, set_environment
from lewm_ros.messages import message_to_trajectory, rgb_to_message
from lewm_ros.safety import ShieldConfig, find_violation, state_at
from validation.relay import ARM, CAMERA, COMMANDS, SENSORS

NODES = ("sim_node", "camera_node", "planner_node")
PARAMETERS = resource("config", "plan.yaml")
MODEL = resource("models", "reach")

REST_RAD_S = 0.01  # a commanded motion slower than this is at rest
STEP_S = 0.005  # between the times at which a commanded motion is examined
FITS_S = 0.15  # delay up to which a command counts as late and not as a jump
KEPT_S = 20.0  # how long commands and reports are kept
# By how much measured positions and speeds may exceed the limits: the simulated servo overshoots.
OVER_RAD, OVER_SHARE = 0.02, 0.05
ALIKE_RAD, ALIKE_RAD_S = 1e-3, 0.03  # motions that differ by less count as equal: their cubic pieces have other grids
AT_GOAL_RAD = 0.1  # greatest distance of a joint from its goal


@dataclass(frozen=True)
class Command:
    """A trajectory message with its times of sending and receipt, s since the rig's epoch."""

    sent_s: float
    received_s: float
    trajectory: Trajectory


@dataclass(frozen=True)
class Report:
    """A status of a node, from /diagnostics or ~/status; times are s since the rig's epoch."""

    time_s: float
    node: str
    level: int  # 0 ok, 1 warning, 2 error
    message: str
    values: Mapping[str, str]


class CommandedMotion:
    """The commanded motion: each trajectory replaces the one before from the moment it is sent."""

    def __init__(self, limits: JointLimits) -> None:
        self.limits = limits
        self.commands: list[Command] = []
        self.late = 0  # commands that were sent after they had diverged from the one before

    def add(self, command: Command, measured: np.ndarray) -> str | None:
        """Adds a command; returns which limit it violates, by itself or in continuing the one before.

        A command that would have fitted up to FITS_S ago is late, since its sender had to wait for a processor; it is
        counted. One that does not fit then is a jump, unless it starts from rest at the measured position (A,) rad.
        """
        before = self.commands[-1].trajectory if self.commands else None
        self.commands = [old for old in self.commands if old.sent_s > command.sent_s - KEPT_S] + [command]
        violation = find_violation(command.trajectory, self.limits)
        if violation is not None:
            return f"{violation.reason.value}: {violation.text}"
        if before is None:
            return None
        times = command.sent_s - STEP_S * np.arange(round(FITS_S / STEP_S) + 1)
        (q0, v0), (q1, v1) = state_at(before, times), state_at(command.trajectory, times)
        dq, dv = np.abs(q1 - q0).max(1), np.abs(v1 - v0).max(1)
        allowed = ShieldConfig()
        fits = (dq <= allowed.start_tolerance_rad) & (dv <= allowed.jump_tolerance_rad_s)
        from_rest = (
            dv[0] <= allowed.jump_tolerance_rad_s and np.abs(q1[0] - measured).max() <= allowed.start_tolerance_rad
        )
        if not fits.any() and not from_rest:
            return f"jump: the commanded motion jumps by {dq[0]:.4f} rad and {dv[0]:.3f} rad/s"
        self.late += not (fits[0] or from_rest)
        return None

    def speeds(self, times_s: np.ndarray) -> np.ndarray:
        """Commanded speed (T,) of the fastest joint, rad/s."""
        speeds = np.zeros(len(times_s))
        executed = np.searchsorted([command.sent_s for command in self.commands], times_s, side="right") - 1
        for i in np.unique(executed[executed >= 0]):  # few of the kept ones: this is asked after every message
            here, motion = executed == i, self.commands[i].trajectory
            for velocity in motion.velocities.T:
                speed = np.abs(np.interp(times_s[here], motion.times_s, velocity, left=0.0, right=0.0))
                speeds[here] = np.maximum(speeds[here], speed)
        return speeds

    def rest_since(self, begin_s: float, end_s: float) -> float | None:
        """The earliest time from which the arm was commanded to rest until `end_s`; None when it was not."""
        times = np.arange(begin_s, end_s, STEP_S)
        moving = np.nonzero(self.speeds(times) > REST_RAD_S)[0]
        if len(times) == 0 or (len(moving) and moving[-1] == len(times) - 1):
            return None
        return float(times[moving[-1] + 1]) if len(moving) else begin_s


def parting_time_s(before: Trajectory, after: Trajectory, until_s: float) -> float:
    """When a trajectory diverges from the one it replaces, s; `until_s` when not before."""
    for time_s in np.arange(after.times_s[0], until_s, 2 * STEP_S):
        (q0, v0), (q1, v1) = state_at(before, time_s), state_at(after, time_s)
        if np.abs(q1 - q0).max() > ALIKE_RAD or np.abs(v1 - v0).max() > ALIKE_RAD_S:
            return float(time_s)
    return until_s


class Rig:
    """The three nodes, active and with messages flowing; sends goals and records everything that is published.

    :param poses: joint positions (N, A) rad, each rendered as a goal picture.
    :param sensors: whether a relay stands between the simulated sensors and the nodes.
    :param commands: whether one stands between the nodes and the simulated controller.
    :param planner: parameters of planner_node that override those of config/plan.yaml.
    :raises GraphError: a node fails.
    """

    def __init__(
        self,
        graph: Graph,
        poses: np.ndarray,
        seed: int,
        sensors: bool = False,
        commands: bool = False,
        planner: Mapping[str, Any] | None = None,
    ) -> None:
        self.graph, self.poses = graph, poses
        self.epoch_ns = time.time_ns()
        self.violations: list[str] = []
        self.reports: list[Report] = []
        remappings = {**(SENSORS if sensors else {}), **(COMMANDS if commands else {})}
        self._relays = [*([CAMERA] if sensors else []), *([ARM] if remappings else [])]
        for part in self._relays:
            graph.start(f"{part[1:]}/relay", {}, package="validation")
        graph.start("sim_node", {}, PARAMETERS, remappings)
        graph.start("camera_node", {"model": str(MODEL)}, PARAMETERS)
        self.planner_parameters = {"model": str(MODEL), "seed": seed, **(planner or {})}
        graph.start("planner_node", self.planner_parameters, PARAMETERS)

        with ArmSim() as sim:
            self.limits = sim.limits
            self._pictures = []
            for pose in poses:
                sim.reset(joint_positions=pose)
                self._pictures.append(sim.render().copy())
        self.motion = CommandedMotion(self.limits)
        self.positions = np.zeros(len(self.limits.names))  # measured, rad
        self.joints_seen = self.commands_seen = self.latent_size = 0
        self.on_command: Callable[[Command], None] = lambda command: None
        self.on_report: Callable[[Report], None] = lambda report: None
        self.goal = 0
        self.planner_state = ""  # newest state: "armed", "holding", ...
        self.time_lost_s = 0.0  # that the simulation has lost since it started
        self.largest_step_rad = 0.0  # greatest jump of the simulated controller's command since it started

        node = graph.node
        joint_topic = remappings.get("joint_states", "joint_states")
        self._goals = node.create_publisher(Image, "goal_image", LATCHED)
        node.create_subscription(JointState, joint_topic, self._on_joint_state, 50)
        node.create_subscription(JointTrajectory, "arm_controller/joint_trajectory", self._on_command, 20)
        node.create_subscription(Image, "latent", self._on_latent, NEWEST_FRAME)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 20)
        node.create_subscription(DiagnosticStatus, "/planner_node/status", self._on_status, LATCHED)
        graph.bring_up(*NODES)
        graph.spin_until(lambda: self.joints_seen and self.latent_size, 30.0, "joint states and latents")

    @property
    def now_s(self) -> float:
        """Now, s since the rig's epoch."""
        return (time.time_ns() - self.epoch_ns) / 1e9

    # ---- commands ----------------------------------------------------------------------------------------------------

    def show_goal(self, number: int) -> None:
        """Sends the picture of a pose as the goal."""
        self.goal = number
        self._goals.publish(rgb_to_message(self._pictures[number], time.time_ns()))

    def farthest_goal(self) -> int:
        """The pose that the arm is farthest from."""
        return int(np.abs(self.poses - self.positions).max(1).argmax())

    def distance_rad(self) -> float:
        """Greatest distance of a joint from the goal's pose, rad."""
        return float(np.abs(self.poses[self.goal] - self.positions).max())

    def speed(self) -> float:
        """Commanded now, rad/s."""
        return float(self.motion.speeds(np.array([self.now_s]))[0])

    def enable(self, on: bool = True) -> str | None:
        """Arms or disarms the planner; returns the reason of a refusal, else None."""
        answer = self._ask(SetBool, "/planner_node/enable", SetBool.Request(data=on))
        return None if answer.success else str(answer.message)

    def show_picture(self, rgb: np.ndarray) -> None:
        """Sends any picture (H, W, 3) uint8 as the goal."""
        self._goals.publish(rgb_to_message(rgb, time.time_ns()))

    def picture(self, number: int) -> np.ndarray:
        """Of a pose, (H, W, 3) uint8 RGB."""
        return self._pictures[number].copy()

    def come_to_rest(self) -> None:
        """Waits until the arm is commanded to be at rest.

        :raises GraphError: it still moves after 5 s.
        """
        self.graph.spin_until(lambda: self.speed() < REST_RAD_S, 5.0, "the arm to rest")
        self.graph.spin_for(0.3)

    def trigger(self, name: str) -> None:
        """Calls a service of the planner: "stop", "reset" or "cancel"."""
        self._ask(Trigger, f"/planner_node/{name}", Trigger.Request())

    def arm(self, timeout_s: float = 20.0) -> None:
        """Arms the planner as soon as it does not refuse.

        :raises GraphError: it still refuses after `timeout_s`.
        """
        end_s, refusal = self.now_s + timeout_s, self.enable()
        while refusal is not None:
            if self.now_s > end_s:
                raise GraphError(f"the planner refuses to be enabled: {refusal}")
            self.graph.spin_for(0.1)
            refusal = self.enable()

    def disturb(self, fault: str, seed: int, number: int, **options: float) -> None:
        """Lets the relays cause a fault of relay.py from now on.

        :param number: of the run, by which a fault may choose one of its forms.
        """
        self._relay(json.dumps({"name": fault, "seed": seed, "number": number, **options}))

    def pass_all(self) -> None:
        """Lets the relays pass every message unchanged from now on."""
        self._relay("")

    def _relay(self, fault: str) -> None:
        request = SetParameters.Request(parameters=[Parameter("fault", value=fault).to_parameter_msg()])
        requests = {f"{part}/relay/set_parameters": request for part in self._relays}
        for service, answer in self.graph.call(SetParameters, requests, again_s=0.5).items():
            (result,) = answer.results
            if not result.successful:
                raise GraphError(f"{service} refuses {fault}: {result.reason}")

    def _ask(self, kind: Any, service: str, request: Any) -> Any:
        return self.graph.call(kind, {service: request}, again_s=0.5)[service]

    # ---- observations ------------------------------------------------------------------------------------------------

    def _on_joint_state(self, message: JointState) -> None:
        limits = self.limits
        order = [message.name.index(name) for name in limits.names]
        self.positions = np.array(message.position)[order]
        velocities = np.array(message.velocity)[order]
        self.joints_seen += 1
        outside = np.maximum(limits.lower - self.positions, self.positions - limits.upper)
        if (outside > OVER_RAD).any():
            self.violations.append(f"measured: the arm is at {self.positions} rad")
        if (np.abs(velocities) > limits.velocity * (1 + OVER_SHARE)).any():
            self.violations.append(f"measured: the arm moves at {velocities} rad/s")

    def _on_latent(self, message: Image) -> None:
        self.latent_size = message.width

    def _on_command(self, message: JointTrajectory, info: Mapping[str, int]) -> None:
        received_s = self.now_s
        points = message_to_trajectory(message, self.limits.names)
        times_s = (points.stamp_ns - self.epoch_ns) / 1e9 + points.times_s
        velocities = points.velocities
        if velocities is None:
            self.violations.append("a command has no velocities")
            return
        sent_s = (info["source_timestamp"] - self.epoch_ns) / 1e9
        command = Command(sent_s, received_s, Trajectory(times_s, points.positions, velocities))
        self.commands_seen += 1
        if violation := self.motion.add(command, self.positions):
            self.violations.append(violation)
        self.on_command(command)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self._on_status(status)

    def _on_status(self, status: DiagnosticStatus) -> None:
        values = {pair.key: pair.value for pair in status.values}
        self.reports = [report for report in self.reports if report.time_s > self.now_s - KEPT_S]
        self.planner_state = values.get("state", self.planner_state)
        self.time_lost_s = float(values.get("time_lost_s", self.time_lost_s))
        self.largest_step_rad = float(values.get("largest_step_rad", self.largest_step_rad))
        self.reports.append(Report(self.now_s, status.name, status.level[0], status.message, values))
        self.on_report(self.reports[-1])


@contextmanager
def start_rig(name: str, logs: Path, poses: np.ndarray, seed: int, **how: Any) -> Iterator[Rig]:
    """A Rig in a ROS domain of its own; the logs of the nodes go to the folder `logs`.

    :param how: further parameters of the Rig.
    """
    reserved = reserve_domain()
    set_environment()
    with reserved, Graph(name, logs) as graph:
        yield Rig(graph, poses, seed, **how)
