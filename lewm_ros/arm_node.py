# SPDX-License-Identifier: Apache-2.0
"""Base of the nodes that command an arm: arming, dead-man's button, speed scale, joint states, sending commands."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.parameter import Parameter as RosParameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Float32
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from lewm_model.planning.motion import Trajectory
from lewm_model.robot.limits import JointLimits
from lewm_ros.arm_parameters import ArmSettings
from lewm_ros.camera_node import LATCHED
from lewm_ros.command_topics import ARM, CommandTopics
from lewm_ros.controller_state import ControllerState, controller_state_topic, message_to_reference
from lewm_ros.joint_states import JointStates
from lewm_ros.mailbox import Mailbox
from lewm_ros.messages import (
    NANOSECONDS,
    MessageError,
    message_to_joint_efforts,
    nanoseconds,
    trajectory_to_message,
)
from lewm_ros.node import QOS_OVERRIDES, ManagedNode, Worker, status_message
from lewm_ros.safety import Shield, State

WATCH_S = 0.02  # greatest time between two checks of the watchdog
COMPLAINT_S = 2.0  # how long diagnostics show an input that could not be used
# Before the first motion, and after a new subscriber of the commands appears, for DDS discovery to be complete: a
# controller that misses the first command would jump into the second, and joint states show that too late. Not needed
# where the controller publishes its reference.
SETTLE_S = 2.0


class ArmNode(ManagedNode):
    """`joint_states`, `joy`, `arm_controller/controller_state` -> shield -> `arm_controller/joint_trajectory`.

    Services: `~/enable` arms and disarms, `~/stop` brings the arm to rest and latches, `~/reset` releases the latch.
    `~/speed_scale` (0 to 1) is a share of full speed that a person can turn down at any time. `~/status` is
    published at every change: the state and its reason.

    Only the worker thread of a node sends commands; callbacks pass data to it through the mailbox and the shield, which
    have locks. Each of its steps begins with `watch`.
    """

    _worker: Worker | None = None
    _arm_subscriptions: tuple[Any, ...] = ()
    _values: dict[str, Any]
    _limits: JointLimits
    _mailbox: Mailbox
    _start_is_over = False  # enable_on_start has armed the arm, or a person has disarmed or stopped it before

    # What a node implements.

    def bring_to_rest(self) -> None:
        """Ends the commanded motion with a smooth stop, if there is one; called by the worker."""
        raise NotImplementedError

    def arming_refusal(self) -> str | None:
        """A reason of the node's own, besides the shield's, why the arm must not be armed; None without one."""
        return None

    # ---- lifecycle: called by the transitions of the node ------------------------------------------------------------

    def configure_arm(self, values: Mapping[str, Any], checked: ArmSettings, limits: JointLimits) -> None:
        """Makes publishers and services.

        :param limits: of the commanded joints, which are the first ones of `checked.limits`.
        """
        self._values, self._limits = dict(values), limits
        self._workspace, self._self_collision = checked.workspace, checked.self_collision
        self._efforts = None if checked.efforts is None else checked.efforts[: len(limits.names)]
        self._shield_config = checked.shield
        self._epoch_ns = self.get_clock().now().nanoseconds
        gripper = None if checked.robot is None else checked.robot.gripper
        self._commands = CommandTopics(self, limits.names, gripper)
        self._status = self.create_publisher(DiagnosticStatus, "~/status", LATCHED)
        self._arm_services = [
            self.create_service(SetBool, "~/enable", self._on_enable),
            self.create_service(Trigger, "~/stop", self._on_stop),
            self.create_service(Trigger, "~/reset", self._on_reset),
        ]

    def cleanup_arm(self) -> None:
        """Frees what `configure_arm` made."""
        self._commands.destroy()
        self.destroy_publisher(self._status)
        for service in self._arm_services:
            self.destroy_service(service)

    def activate_arm(self, needs_frames: bool) -> None:
        """Makes the shield, the mailbox and the subscriptions. The node starts the worker itself."""
        self._shield = Shield(
            self._limits,
            self._shield_config,
            self.now_s,
            time.monotonic,
            self._workspace,
            self._values["deadman_button"] >= 0,
            self._self_collision,
            needs_frames=needs_frames,
            efforts=self._efforts,
            grips=~np.isin(self._limits.names, self._commands.arm),
        )
        self._mailbox = Mailbox(depth=64)
        self._joint_states = JointStates(
            self._limits.names,
            lambda: self._publishers_of("joint_states"),
            self._limits.velocity,
            self._shield_config.start_tolerance_rad,
        )
        self._arm_when_ready = self._values["enable_on_start"] and not self._start_is_over
        self._complaint, self._complained_s = "", -np.inf
        self._shown: tuple[Any, ...] = ()
        self._listeners, self._settled_s = 0, time.monotonic() + SETTLE_S
        self._repeated: tuple[JointTrajectory, float] | None = None  # newest command, and until when it is repeated, s
        self._adjust_shield()
        heard = [
            (JointState, "joint_states", self._on_joint_state, qos_profile_sensor_data),
            (Joy, "joy", self._on_joy, qos_profile_sensor_data),
            (Float32, "~/speed_scale", self._on_speed_scale, 1),
        ]
        self._gripper_reference: tuple[float, float] | None = None  # steady s of arrival, and position
        if ControllerState is not None:
            topic = controller_state_topic(ARM)
            heard.append((ControllerState, topic, self._on_controller_state, qos_profile_sensor_data))
            if (gripper := self._commands.gripper) is not None and not gripper.action:
                topic = controller_state_topic(gripper.topic)
                heard.append((ControllerState, topic, self._on_gripper_state, qos_profile_sensor_data))
        self._arm_subscriptions = tuple(
            self.create_subscription(*each, qos_overriding_options=QOS_OVERRIDES) for each in heard
        )

    def deactivate_arm(self) -> None:
        """Disarms the arm and ends the worker, which sends a smooth stop last; does nothing when nothing runs."""
        if self._worker is not None:
            self._shield.disarm()
            self._end(self._worker)
            self._worker = None
        for subscription in self._arm_subscriptions:
            self.destroy_subscription(subscription)
        self._arm_subscriptions = ()

    def _adjust_shield(self) -> None:
        """Hands the live parameters to the shield."""
        scale, needs_deadman = self._values["speed_scale"], self._values["deadman_button"] >= 0
        self._shield.config = self._shield_config
        if needs_deadman and not self._shield.needs_deadman:
            self._shield.deadman(False)  # released until a message says otherwise
        self._shield.needs_deadman = needs_deadman
        self._shield.pause("speed_scale is 0; set it above 0 to go on" if scale == 0 else None)

    def now_s(self) -> float:
        """Now on the ROS clock, s since the node was configured: small numbers keep floats precise."""
        return (self.get_clock().now().nanoseconds - self._epoch_ns) / NANOSECONDS

    def seconds(self, stamp: Any) -> float:
        """A stamp as s on the same clock."""
        return (nanoseconds(stamp) - self._epoch_ns) / NANOSECONDS

    # ---- the executor's thread ---------------------------------------------------------------------------------------

    def _on_joint_state(self, message: JointState) -> None:
        try:
            found = self._joint_states.take(message)
        except MessageError as error:
            self.complain(str(error))
            return
        if found is None:
            return
        if self._efforts is not None:
            self._shield.effort(message_to_joint_efforts(message, self._limits.names))
        stamp_s, positions = (found[0] - self._epoch_ns) / NANOSECONDS, found[1]
        if self._shield.joints(positions, stamp_s):
            self._mailbox.put("joints", (stamp_s, positions))

    def _publishers_of(self, topic: str) -> list[str]:
        """Full names of the nodes that publish on a topic."""
        ends = self.get_publishers_info_by_topic(self.resolve_topic_name(topic))
        return [f"{end.node_namespace.rstrip('/')}/{end.node_name}" for end in ends]

    def _on_controller_state(self, message: Any) -> None:
        try:
            reference = message_to_reference(message, self._commands.arm)
        except MessageError as error:
            self.complain(str(error))
            return
        positions = reference.positions
        if self._commands.gripper is not None:
            known = self._gripper_reference
            fresh = known is not None and time.monotonic() - known[0] <= self._shield_config.joint_timeout_s
            positions = np.append(positions, known[1] if known is not None and fresh else np.nan)
        self._shield.refer(positions, (reference.stamp_ns - self._epoch_ns) / NANOSECONDS, reference.speed_scaling)

    def _on_gripper_state(self, message: Any) -> None:
        assert self._commands.gripper is not None
        try:
            reference = message_to_reference(message, (self._commands.gripper.joint,))
        except MessageError as error:
            self.complain(str(error))
            return
        self._gripper_reference = time.monotonic(), float(reference.positions[0])

    def _on_joy(self, message: Joy) -> None:
        button = self._values["deadman_button"]
        if button < 0:
            return
        if button >= len(message.buttons):
            self.complain(
                f"joy has {len(message.buttons)} buttons, deadman_button is {button}; set it to an existing button"
            )
        self._shield.deadman(button < len(message.buttons) and message.buttons[button] != 0)

    def _on_speed_scale(self, message: Float32) -> None:
        if not 0.0 <= message.data <= 1.0:
            self.complain(f"~/speed_scale says {message.data}; it must be between 0 and 1")
        elif (scale := round(message.data, 4)) != self._values["speed_scale"]:
            self.set_parameters([RosParameter("speed_scale", value=scale)])

    def complain(self, text: str) -> None:
        """Logs a problem with an input, once as long as it stays the same; diagnostics show it for COMPLAINT_S."""
        if text != self._complaint:
            self.get_logger().error(text)
        self._complaint, self._complained_s = text, time.monotonic()

    @property
    def complains(self) -> bool:
        """Whether `complain` was called in the last COMPLAINT_S."""
        return time.monotonic() - self._complained_s < COMPLAINT_S

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if self._worker is None:
            response.success, response.message = False, "the node is not active; activate it first"
        elif request.data and not self._worker.goes_on:
            response.success, response.message = False, "the node is being deactivated, or its work has failed"
        elif not request.data:
            self._arm_when_ready, self._start_is_over = False, True
            self._shield.disarm()
            response.success, response.message = True, "disarmed"
        else:
            refusal = self.arming_refusal() or self._shield.arm()
            response.success, response.message = refusal is None, refusal or self._shield.message
        self.get_logger().info(f"enable({request.data}): {response.message}")
        return response

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._worker is not None:
            self._arm_when_ready, self._start_is_over = False, True
            self._shield.stop("~/stop was called")
        response.success, response.message = True, "stopped" if self._worker else "not active, nothing moves"
        self.get_logger().warning(f"stop: {response.message}")
        return response

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._worker is not None:
            self._shield.reset()
            self._mailbox.put("reset", True)
        response.success, response.message = True, "disarmed; enable to go on"
        return response

    # ---- the worker's thread -----------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Runs the watchdog, arms on start, checks that commands have a subscriber, and repeats the newest command."""
        self._repeat()
        self._count_listeners()
        if self._arm_when_ready and self.arming_refusal() is None and self._shield.arm() is None:
            self._arm_when_ready, self._start_is_over = False, True
            self.get_logger().info("armed, as enable_on_start asks")
        self._shield.watch()

    def _count_listeners(self) -> None:
        """Holds the arm while a controller is missing."""
        count = self._commands.listeners
        if count > self._listeners:
            self._settled_s = time.monotonic() + SETTLE_S
        self._listeners = count
        self._shield.unheard(None if self._values.get("dry_run", False) else self._commands.missing())

    def rest_position(self) -> np.ndarray | None:
        """Where a motion may start from rest now, (A,) rad; None while it may not start."""
        # Where the controller publishes its reference, a lost command is noticed.
        settled = self._shield.reference is not None or time.monotonic() >= self._settled_s
        return self._shield.restart() if settled else None

    def send(self, trajectory: Trajectory) -> None:
        """Sends a trajectory that the shield let through.

        Since commands can be lost, it is repeated until it differs from the one that it replaces.
        """
        message = self.trajectory_message(trajectory)
        self._commands.send(message)
        self._repeated = message, self._shield.parting_s

    def _repeat(self) -> None:
        if self._repeated is not None:
            message, until_s = self._repeated
            if self.now_s() < until_s:
                self._commands.send(message)
            else:
                self._repeated = None

    def send_stop(self, stop: Trajectory) -> bool:
        """Sends the smooth stop that ends a commanded motion; returns whether it was sent.

        It is not sent where the arm rests already or the shield refuses it. The arm then executes the trajectory that
        it has to its end, which is a stop too.
        """
        if self._shield.at_rest():  # a stop would arrive after its own end
            return False
        refusal = self._shield.release(stop)
        if refusal is None:
            self.send(stop)
        else:
            self.get_logger().warning(f"the shield held back a stop: {refusal.text}")
        return refusal is None

    def trajectory_message(self, trajectory: Trajectory) -> JointTrajectory:
        return trajectory_to_message(trajectory, self._limits.names, self._epoch_ns)

    def show_state(self, *more: Any) -> None:
        """Publishes the status where it or `more` has changed since the last call, and logs changes of the state."""
        shown = (self._shield.state, *more)
        if shown != self._shown:
            self.publish_status()
            if not self._shown or shown[0] is not self._shown[0]:
                self._log_state(shown[0])
        self._shown = shown

    def _log_state(self, state: State) -> None:
        """Logs holds, stops and their ends with the reason: ~/status is usually not recorded."""
        text = self._shield.message
        if state is State.STOPPED:
            self.get_logger().error(text)
        elif state is State.HOLDING:
            self.get_logger().warning(text)
        else:
            self.get_logger().info(
                f"{text}{'; dry run: nothing is sent' if self._values.get('dry_run', False) else ''}"
            )

    def publish_status(self) -> None:
        """Publishes the result of `diagnose` on `~/status`."""
        self._status.publish(status_message(self, *self.diagnose()))
