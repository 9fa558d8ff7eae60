"""Latents in, joint trajectories out: plans towards the goal picture and commands the arm, through the shield.

The node starts disarmed: it listens, and moves nothing until `~/enable` (or `enable_on_start`).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.parameter import Parameter as RosParameter
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState, Joy
from std_msgs.msg import Float32
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from lewm_model.bundle.bundle import Bundle, load_bundle
from lewm_model.bundle.verdict import verdict
from lewm_model.config import PlanConfig
from lewm_model.monitoring.vigilance import Vigilance
from lewm_model.planning.motion import Trajectory
from lewm_model.planning.planner import Decision, Planner
from lewm_model.planning.proposals import proposals_of
from lewm_model.runtime import Runtime
from lewm_ros.camera_node import LATCHED
from lewm_ros.controller_state import TOPIC as CONTROLLER_STATE
from lewm_ros.controller_state import ControllerState, message_to_reference
from lewm_ros.goals import EndedGoals, ended_goals_file, goal_identity
from lewm_ros.joint_states import JointStates
from lewm_ros.mailbox import Mailbox
from lewm_ros.messages import (
    NANOSECONDS,
    MessageError,
    array_to_message,
    message_to_latent,
    nanoseconds,
    trajectory_to_message,
)
from lewm_ros.node import ERROR, OK, WARN, ManagedNode, Milliseconds, Refusal, Worker, run, status_message
from lewm_ros.parameters import ParameterError
from lewm_ros.planner_parameters import PARAMETERS, settings
from lewm_ros.safety import Reason, Shield, State

WATCH_S = 0.02  # the watchdog looks at least this often, unless a plan is being made
LATELY, TOO_LATE = 8, 2  # of so many newest plans, so many that are late are worth a warning
COMPLAINT_S = 2.0  # that diagnostics show an input that could not be used
COMMAND = QoSProfile(depth=1)
THOUGHTS = ("imagined", "elites", "costs")  # topics that tell how a plan was found
# From when this node came up, or somebody new listens to the commands, until a motion may begin: until all who listen
# have found this node. A controller that misses the first command would jump into the second.
SETTLE_S = 2.0


class PlanLog:
    """What the planning thread did, for diagnostics. Safe to use from two threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._plans = self._late = self._sent = self._reached = 0
        self._lately: deque[bool] = deque(maxlen=LATELY)  # which of the newest plans were late
        self._last: Decision | None = None
        self._goal_reached = False
        self._surprise: float | None = None
        self._novelty = 0.0
        self._plan_ms, self._command_ms = Milliseconds(), Milliseconds()

    def planned(self, decision: Decision, reached: bool) -> None:
        """Counts a plan, and a goal that it finds reached."""
        with self._lock:
            self._reached += reached and not self._goal_reached
            self._goal_reached = reached
            self._last = decision
            if decision.iterations:  # else the arm rests at its goal and there is nothing to plan
                self._plans += 1
                self._late += decision.late
                self._lately.append(decision.late)
                self._plan_ms.add(decision.plan_s)

    def commanded(self, frame_to_command_s: float) -> None:
        """Counts a trajectory that was sent, so long after its frame's stamp."""
        with self._lock:
            self._sent += 1
            self._command_ms.add(frame_to_command_s)

    def surprised(self, score: float | None, novelty: float) -> None:
        """Notes how unlike the newest frame is to what was imagined, where that is known, and how much in it is new."""
        with self._lock:
            self._surprise, self._novelty = score, novelty

    def complaint(self) -> str | None:
        """That too many plans come late; None when they do not."""
        with self._lock:
            late = sum(self._lately)
        if late < TOO_LATE:
            return None
        return f"{late} of the last {LATELY} plans came too late: the machine is busy, or plan.deadline_s is too short"

    def values(self) -> dict[str, str]:
        """As diagnostic values."""
        with self._lock:
            values = {
                "plans": str(self._plans),
                "plans_late": str(self._late),
                "trajectories_sent": str(self._sent),
                "goals_reached": str(self._reached),
            }
            if self._last is not None:
                values["cost"] = f"{self._last.cost:.4g}"
                values["distance"] = f"{self._last.distance:.4g}"
                values["iterations"] = str(self._last.iterations)
                values["plan_ms"] = f"{1e3 * self._last.plan_s:.2f}"
                values["saturation"] = f"{self._last.saturation:.2f}"
            if self._surprise is not None:
                values["surprise"] = f"{self._surprise:.4g}"
            values["novelty"] = f"{self._novelty:.4g}"
            values |= self._plan_ms.percentiles("plan")
            values |= self._command_ms.percentiles("frame_to_command")
            return values


class PlannerNode(ManagedNode):
    """`latent`, `goal_latent`, `joint_states` -> `arm_controller/joint_trajectory`.

    Services: `~/enable` arms and disarms, `~/stop` brings the arm to rest and latches, `~/reset` releases the latch,
    `~/cancel` forgets the goal. A goal that was cancelled, reached or replaced is not taken up again, however often a
    topic delivers it, until somebody sends it anew (`lewm_ros.goals`). `~/status` says at every plan and every change
    what the node does and why not more, `surprise` how unlike each frame is to what was imagined for it (`novelty` of
    the camera node, how much in it is new, holds the arm in the same way), `~/plan` where the newest plan would move
    the joints, also of a disarmed arm, for people and pictures: nobody must execute it. How it was found is told to who
    subscribes, as float images with the stamp of the plan's frame: `~/imagined` (blocks, D) the latents that it leads
    to, `~/elites` (elites, steps, A) the joint paths of the best candidates in rad, the best first, and `~/costs`
    (1, iterations) of the best candidate of each iteration.
    The planning thread owns the planner; callbacks reach it through the mailbox and the shield, which have locks.
    """

    def __init__(self) -> None:
        super().__init__("planner_node", PARAMETERS)
        self._ended_goals = EndedGoals(ended_goals_file(), self.get_logger().warning)
        self._goal: str | None = None  # identity of the goal that came last, also of one from before a deactivation
        self._pursued: str | None = None  # of the one that the planning thread has
        self._runtime: Runtime | None = None
        self._worker: Worker | None = None
        self._start_is_over = False  # it was armed on start, or a person did not want that
        self._subscriptions_made: list[Any] = []
        self._services_made: list[Any] = []

    # ---- lifecycle ---------------------------------------------------------------------------------------------------

    def configure(self, values: Mapping[str, Any]) -> None:
        bundle = load_bundle(values["model"])
        checked = settings(values, bundle)
        self._values = dict(values)
        self._limits, self._workspace, self._self_collision = checked.limits, checked.workspace, checked.self_collision
        self._plan_config, self._shield_config = checked.plan, checked.shield
        self._monitor = checked.monitor
        names = bundle.actions.names
        if values["robot"] and self._limits.names[: len(names)] == names:
            self._limits = self._limits.of(names)  # a model need not move the gripper of the robot file
        if self._limits.names != names:
            raise Refusal(
                f"the model in {bundle.folder} moves the joints {', '.join(names)}, the parameters limits.* describe "
                f"{', '.join(self._limits.names)}; use the arm's own bundle, or list its joints in the bundle's order"
            )
        if not bundle.actions.drives_joints:
            kinds = ", ".join(dict.fromkeys(bundle.actions.kinds))
            raise Refusal(
                f"the actions of the model in {bundle.folder} are {kinds!r}, not joint velocities, and must not be "
                "executed as such; `lewm convert --actions-are` makes velocities of positions"
            )
        self._seed, self._dry_run = values["seed"], values["dry_run"]
        self._calibration = bundle.calibration  # as it was measured; goal_tolerance changes it
        judged = verdict(bundle, self._plan_config)
        self._no_go = None if values["allow_no_go"] else judged.no_go
        runtime = self.load_runtime(bundle, values, self._plan_config.samples)
        _rehearse(runtime, bundle, self._plan_config)
        self._epoch_ns = self.get_clock().now().nanoseconds
        try:
            self._new_planner(runtime)
        except ValueError as error:
            raise Refusal(str(error)) from error
        self._commands = self.create_publisher(JointTrajectory, "arm_controller/joint_trajectory", COMMAND)
        self._plans = self.create_publisher(JointTrajectory, "~/plan", qos_profile_sensor_data)
        self._thoughts = {name: self.create_publisher(Image, f"~/{name}", qos_profile_sensor_data) for name in THOUGHTS}
        self._surprises = self.create_publisher(Float32, "surprise", qos_profile_sensor_data)
        self._status = self.create_publisher(DiagnosticStatus, "~/status", LATCHED)
        self._services_made = [
            self.create_service(SetBool, "~/enable", self._on_enable),
            self.create_service(Trigger, "~/stop", self._on_stop),
            self.create_service(Trigger, "~/reset", self._on_reset),
            self.create_service(Trigger, "~/cancel", self._on_cancel),
        ]
        self._runtime = runtime
        if bundle.calibration is None:
            self.get_logger().warning(
                "the bundle is not calibrated: no goal counts as reached and no frame as surprising; "
                "run `lewm calibrate` with a recording"
            )
        if self._no_go is not None:
            self.get_logger().error(f"{self._no_go}. It will not be armed")
        elif judged.doubt is not None:
            self.get_logger().warning(judged.doubt)
        self.get_logger().info(f"loaded {bundle.folder} on {runtime.backend}; disarmed until ~/enable")

    def activate(self) -> None:
        assert self._runtime is not None
        self._planner = self._new_planner(self._runtime)
        needs_deadman = self._values["deadman_button"] >= 0
        self._shield = Shield(
            self._limits,
            self._shield_config,
            self._now_s,
            time.monotonic,
            self._workspace,
            needs_deadman,
            self._self_collision,
        )
        calibration = self._runtime.bundle.calibration
        self._vigilance = None if calibration is None else Vigilance(self._monitor)
        self._mailbox = Mailbox(depth=64)
        self._joint_states = JointStates(
            self._limits.names,
            lambda: self._publishers_of("joint_states"),
            self._limits.velocity,
            self._shield_config.start_tolerance_rad,
        )
        self._log = PlanLog()
        self._arm_when_ready = self._values["enable_on_start"] and not self._start_is_over  # once only
        self._goal = self._pursued = None
        self._complaint, self._complained_s = "", -np.inf
        self._shown: tuple[Any, ...] = ()
        self._last_stamp_s = self._preview_s = -np.inf
        self._novelty = 0.0
        self._listeners, self._settled_s = 0, time.monotonic() + SETTLE_S
        self._dry_reached = False
        self._adjust()
        self._repeated: tuple[JointTrajectory, float] | None = None  # what was sent last, until when it may be again
        self._worker = Worker("plan", self._step, self._on_failure, last=self._bring_to_rest)
        self._subscriptions_made = [
            self.create_subscription(Image, "latent", self._on_latent, qos_profile_sensor_data),
            self.create_subscription(Image, "goal_latent", self._on_goal, LATCHED),
            self.create_subscription(Float32, "novelty", self._on_novelty, qos_profile_sensor_data),
            self.create_subscription(JointState, "joint_states", self._on_joint_state, qos_profile_sensor_data),
            self.create_subscription(Joy, "joy", self._on_joy, qos_profile_sensor_data),
            self.create_subscription(Float32, "~/speed_scale", self._on_speed_scale, 1),
        ]
        if ControllerState is not None:
            self._subscriptions_made.append(
                self.create_subscription(
                    ControllerState, CONTROLLER_STATE, self._on_controller_state, qos_profile_sensor_data
                )
            )

    def deactivate(self) -> None:
        if self._worker is not None:
            self._shield.disarm()
            self._end(self._worker)  # its last act is a smooth stop
            self._worker = None
        for subscription in self._subscriptions_made:
            self.destroy_subscription(subscription)
        self._subscriptions_made = []

    def cleanup(self) -> None:
        if self._runtime is not None:
            self._runtime = None
            for publisher in (self._commands, self._plans, *self._thoughts.values(), self._surprises, self._status):
                self.destroy_publisher(publisher)
            for service in self._services_made:
                self.destroy_service(service)

    def _new_planner(self, runtime: Runtime) -> Planner:
        planner = Planner(runtime, self._limits, self._plan_config, self._now_s, self._seed, self._monitor)
        planner.speed_scale = self._values["speed_scale"] or 1.0  # at 0 the shield holds
        return planner

    def change(self, values: Mapping[str, Any]) -> None:
        """Takes new values of live parameters, also while the arm moves."""
        assert self._runtime is not None
        changed = {**self._values, **values}
        checked = settings(changed, self._runtime.bundle)
        try:
            Planner(self._runtime, self._limits, checked.plan, self._now_s, self._seed, self._monitor)
        except ValueError as error:
            raise ParameterError(str(error)) from error
        self._values, self._plan_config, self._shield_config = changed, checked.plan, checked.shield
        if self._worker is not None:
            self._adjust()

    def _adjust(self) -> None:
        """Hands the live parameters to the shield and to the planning thread."""
        scale, needs_deadman = self._values["speed_scale"], self._values["deadman_button"] >= 0
        self._shield.config = self._shield_config
        if needs_deadman and not self._shield.needs_deadman:
            self._shield.deadman(False)  # until it is heard of
        self._shield.needs_deadman = needs_deadman
        self._shield.pause("speed_scale is 0; set it above 0 to go on" if scale == 0 else None)
        self._mailbox.put("live", (self._plan_config, scale, self._values["goal_tolerance"]))

    def _now_s(self) -> float:
        """Now on the clock of the stamps, s since the node was configured: small, so that floats are precise."""
        return (self.get_clock().now().nanoseconds - self._epoch_ns) / NANOSECONDS

    def _seconds(self, stamp: Any) -> float:
        return (nanoseconds(stamp) - self._epoch_ns) / NANOSECONDS

    # ---- the executor's thread ---------------------------------------------------------------------------------------

    def _on_latent(self, message: Image) -> None:
        assert self._runtime is not None
        try:
            latent = message_to_latent(message, self._runtime.bundle.model.latent_dim)
        except MessageError as error:
            self._complain(str(error))
            return
        stamp_s = self._seconds(message.header.stamp)
        if stamp_s < self._last_stamp_s - 1.0:
            self._shield.stop("the clock of the frames went backwards")
        self._last_stamp_s = stamp_s
        self._shield.frame(stamp_s)
        self._mailbox.put("latent", (stamp_s, latent))

    def _on_novelty(self, message: Float32) -> None:
        if np.isfinite(message.data):
            self._mailbox.put("novelty", message.data)
        else:
            self._complain(f"the novelty of a picture is {message.data}; look at camera_node")

    def _on_goal(self, message: Image) -> None:
        assert self._runtime is not None
        try:
            latent = message_to_latent(message, self._runtime.bundle.model.latent_dim)
        except MessageError as error:
            self._complain(f"goal: {error}")
            return
        identity = goal_identity(message.header)
        if identity == self._goal:  # delivered again, by a camera_node that was started anew
            return
        if how := self._ended_goals.how(identity):
            self._complain(f"a goal that was {how} before is not taken up again; send it anew, with a new stamp")
            return
        if self._goal is not None:
            self._ended_goals.add(self._goal, "replaced")
        self._goal = identity
        self._mailbox.put("goal", (identity, latent))

    def _on_joint_state(self, message: JointState) -> None:
        try:
            found = self._joint_states.take(message)
        except MessageError as error:
            self._complain(str(error))
            return
        if found is None:
            return
        stamp_s, positions = (found[0] - self._epoch_ns) / NANOSECONDS, found[1]
        if self._shield.joints(positions, stamp_s):
            self._mailbox.put("joints", (stamp_s, positions))

    def _publishers_of(self, topic: str) -> list[str]:
        """Full names of the nodes that publish on it."""
        ends = self.get_publishers_info_by_topic(self.resolve_topic_name(topic))
        return [f"{end.node_namespace.rstrip('/')}/{end.node_name}" for end in ends]

    def _on_controller_state(self, message: Any) -> None:
        try:
            reference = message_to_reference(message, self._limits.names)
        except MessageError as error:
            self._complain(str(error))
            return
        self._shield.refer(
            reference.positions, (reference.stamp_ns - self._epoch_ns) / NANOSECONDS, reference.speed_scaling
        )

    def _on_joy(self, message: Joy) -> None:
        button = self._values["deadman_button"]
        if button < 0:
            return
        if button >= len(message.buttons):
            self._complain(
                f"joy has {len(message.buttons)} buttons, deadman_button is {button}; set it to a button that there is"
            )
        self._shield.deadman(button < len(message.buttons) and message.buttons[button] != 0)

    def _on_speed_scale(self, message: Float32) -> None:
        if not 0.0 <= message.data <= 1.0:
            self._complain(f"~/speed_scale says {message.data}; it must be between 0 and 1")
        elif (scale := round(message.data, 4)) != self._values["speed_scale"]:
            self.set_parameters([RosParameter("speed_scale", value=scale)])

    def _complain(self, text: str) -> None:
        """Logs a problem with the input, once while it stays the same; diagnostics show it for a while."""
        if text != self._complaint:
            self.get_logger().error(text)
        self._complaint, self._complained_s = text, time.monotonic()

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if self._worker is None:
            response.success, response.message = False, "the node is not active; activate it first"
        elif request.data and not self._worker.goes_on:
            response.success, response.message = False, "the node is being deactivated, or its planning has failed"
        elif not request.data:
            self._arm_when_ready, self._start_is_over = False, True
            self._shield.disarm()
            response.success, response.message = True, "disarmed"
        else:
            refusal = self._no_go or self._shield.arm()
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

    def _on_cancel(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._goal is not None:
            self._ended_goals.add(self._goal, "cancelled")
            self._goal = None
        if self._worker is not None:
            self._mailbox.put("goal", (None, None))
        response.success, response.message = True, "the goal is forgotten; the arm comes to rest, and stays armed"
        self.get_logger().info("the goal was cancelled")
        return response

    # ---- the planning thread -----------------------------------------------------------------------------------------

    def _step(self) -> None:
        items = self._mailbox.take(WATCH_S)
        self._repeat()
        if "reset" in items and not self._planner.active:
            goal = self._planner.goal
            assert self._runtime is not None
            self._planner = self._new_planner(self._runtime)
            self._planner.set_goal(goal)
        for stamp_s, positions in items.get("joints", ()):
            self._planner.measure(stamp_s, positions)
        for stamp_s, latent in items.get("latent", ()):
            self._planner.observe(stamp_s, latent)
        for self._planner.config, scale, tolerance in items.get("live", ())[-1:]:
            self._planner.speed_scale = scale or 1.0
            self._tolerate(tolerance)
        for identity, goal in items.get("goal", ())[-1:]:
            self._pursued, self._dry_reached = identity, False
            self._planner.set_goal(goal)
        for novelty in items.get("novelty", ())[-1:]:
            self._novelty = novelty
        if "latent" in items:
            self._look_for_surprise()

        self._count_listeners()
        if self._arm_when_ready and self._no_go is None and self._shield.arm() is None:
            self._arm_when_ready, self._start_is_over = False, True
            self.get_logger().info("armed, as enable_on_start asks")
        self._shield.watch()
        self._act()
        if self._planner.reached and self._pursued is not None:
            self._ended_goals.add(self._pursued, "reached")  # this planner holds it; one that comes later does not
        shown = (self._shield.state, self._goal, self._planner.reached or self._dry_reached)
        if shown != self._shown:
            self._publish_status()
            if not self._shown or shown[0] is not self._shown[0]:
                self._log_state(shown[0])
        self._shown = shown

    def _log_state(self, state: State) -> None:
        """Holds, stops and what ends them are in the log, with the reason; not only in ~/status, which nobody keeps."""
        text = self._shield.message
        if state is State.STOPPED:
            self.get_logger().error(text)
        elif state is State.HOLDING:
            self.get_logger().warning(text)
        else:
            self.get_logger().info(f"{text}{'; dry run: nothing is sent' if self._dry_run else ''}")

    def _tolerate(self, tolerance: float) -> None:
        """A goal counts as reached, and as left, at so many times the distances that were measured."""
        assert self._runtime is not None
        if self._calibration is not None:
            reached, left = tolerance * self._calibration.reached, tolerance * self._calibration.left
            calibration = replace(self._calibration, reached=reached, left=left)
            self._runtime.bundle = replace(self._runtime.bundle, calibration=calibration)
            self._planner.proposals = proposals_of(self._runtime.bundle, self._planner.config)

    def _count_listeners(self) -> None:
        """The arm holds while nobody takes its commands."""
        count = self._commands.get_subscription_count()
        if count > self._listeners:
            self._settled_s = time.monotonic() + SETTLE_S
        self._listeners = count
        self._shield.unheard(
            None if count or self._dry_run else f"nobody takes the commands on {self._commands.topic_name}"
        )

    def _act(self) -> None:
        """Plans and commands where the arm may move, else brings it to rest."""
        state = self._shield.state
        if state is not State.ARMED or self._dry_run:
            self._bring_to_rest()
            if state is State.DISARMED or state is State.ARMED:
                self._preview()
            return
        if not self._planner.active:
            # A controller that says what it executes cannot miss a command unnoticed.
            settled = self._shield.reference is not None or time.monotonic() >= self._settled_s
            start = self._shield.restart() if settled else None
            if start is None:
                return
            self._planner.start(start)
            if self._vigilance is not None:
                self._vigilance.forget()  # what was moved before is no surprise to this motion
                self._planner.slow = False
        self._planner.delay_s = self._shield.delay_s
        decision = self._planner.plan()
        if decision is not None:
            self._log.planned(decision, self._planner.reached)
            self._command(decision)
            self._publish_status()
            tell(self._thoughts, decision, self._epoch_ns + round(NANOSECONDS * decision.frame_s))

    def _preview(self) -> None:
        """Shows what a disarmed arm would do, or one in a dry run, once a block."""
        measured, now_s = self._shield.measured, time.monotonic()
        if measured is None or now_s < self._preview_s:
            return
        decision = self._planner.preview(measured)
        if decision is not None:
            self._preview_s = now_s + self._planner.block_s
            self._show(decision)
            if self._dry_run:
                calibration = self._planner.runtime.bundle.calibration
                self._dry_reached = calibration is not None and decision.distance <= calibration.reached
                self._log.planned(decision, self._dry_reached)
                self._publish_status()
            tell(self._thoughts, decision, self._epoch_ns + round(NANOSECONDS * decision.frame_s))

    def _look_for_surprise(self) -> None:
        """Slows or holds the arm when frames do not show what was imagined, or something new.

        Who disarms it vouches for what is seen.
        """
        if self._vigilance is None:
            return
        now_s = time.monotonic()
        if self._shield.state in (State.DISARMED, State.STOPPED):
            self._vigilance.forget()
            self._planner.expectation.trust(self._now_s())
            self._novelty = 0.0
        else:
            surprise = self._planner.expectation.surprise()
            self._log.surprised(surprise, self._novelty)
            if surprise is not None:
                self._surprises.publish(Float32(data=surprise))
            elif self._novelty <= self._monitor.surprising:
                return
            self._vigilance.see(max(surprise or 0.0, self._novelty), now_s, self._planner.expectation.sees_the_arm)
        self._planner.slow = self._vigilance.slow(now_s)
        self._shield.surprise(self._vigilance.alarm)

    def _show(self, decision: Decision) -> None:
        """Publishes where a plan would move the joints."""
        control_dt_s = self._planner.spec.control_dt_s
        path = decision.joint_path
        times_s = decision.frame_s + control_dt_s * np.arange(len(path))
        velocities = np.gradient(path, control_dt_s, axis=0)
        self._plans.publish(self._message(Trajectory(times_s, path, velocities)))

    def _command(self, decision: Decision) -> None:
        """Sends a plan that came in time and passes the shield."""
        self._show(decision)
        if decision.trajectory is None:
            if decision.reason is not None:
                self._complain(decision.reason)
            return
        if self._shield.state is not State.ARMED:  # disarmed while it was being planned
            self._bring_to_rest()
            return
        refusal = self._shield.release(decision.trajectory, decision.frame_s)
        if refusal is not None:
            self.get_logger().warning(f"the shield held back a plan: {refusal.text}")
            if refusal.reason is Reason.LOST:
                self._complain(refusal.text)
            self._bring_to_rest()  # the planner counted on that plan; it starts again from rest
            return
        self._send(decision.trajectory)
        self._log.commanded(self._now_s() - decision.frame_s)

    def _bring_to_rest(self) -> None:
        """Ends the commanded motion with a smooth stop, if there is one."""
        stop = self._planner.stop()
        if stop is None or self._shield.at_rest():  # a stop of an arm that rests would arrive when it has ended
            return
        refusal = self._shield.release(stop)
        if refusal is None:
            self._send(stop)
        else:  # what the arm executes ends in a stop of its own
            self.get_logger().warning(f"the shield held back a stop: {refusal.text}")

    def _send(self, trajectory: Trajectory) -> None:
        """Sends what the shield let through, and repeats it while that makes no difference: commands get lost."""
        message = self._message(trajectory)
        self._commands.publish(message)
        self._repeated = message, self._shield.parting_s

    def _repeat(self) -> None:
        if self._repeated is not None:
            message, until_s = self._repeated
            if self._now_s() < until_s:
                self._commands.publish(message)
            else:
                self._repeated = None

    def _message(self, trajectory: Trajectory) -> JointTrajectory:
        return trajectory_to_message(trajectory, self._limits.names, self._epoch_ns)

    def _on_failure(self, trace: str) -> None:
        self._shield.stop("planning failed; deactivate and activate the node to start it again")
        self.get_logger().fatal(f"planning failed, this is a bug:\n{trace}")

    # ---- diagnostics -------------------------------------------------------------------------------------------------

    def diagnose(self) -> tuple[bytes, str, dict[str, str]]:
        level, message, values = self._diagnose()
        return level, f"dry run: {message}" if self._dry_run else message, values

    def _diagnose(self) -> tuple[bytes, str, dict[str, str]]:
        state = self._shield.state
        values = {
            "state": state.value,
            "goal": "no" if self._goal is None else "yes",
            "goal_identity": self._goal or "",
            "reached": "yes" if self._planner.reached or self._dry_reached else "no",
            "speed_scale": f"{self._values['speed_scale']:g}",
            **self._log.values(),
        }
        values |= {f"interventions {reason.value}": str(n) for reason, n in self._shield.interventions.items()}
        if state is State.STOPPED:
            return ERROR, self._shield.message, values
        complains = time.monotonic() - self._complained_s < COMPLAINT_S
        if state is State.HOLDING:
            return WARN, f"{self._shield.message}; {self._complaint}" if complains else self._shield.message, values
        if complains:
            return WARN, self._complaint, values
        if state is not State.ARMED:
            return (OK, self._shield.message, values) if self._no_go is None else (WARN, self._no_go, values)
        if self._goal is None:
            return OK, "armed; no goal yet", values
        if self._planner.reached or self._dry_reached:
            return OK, "armed; goal reached", values
        if late := self._log.complaint():
            return WARN, late, values
        return OK, "armed; planning" if self._dry_run else "armed; moving", values

    def _publish_status(self) -> None:
        self._status.publish(status_message(self, *self.diagnose()))


def tell(publishers: Mapping[str, Any], decision: Decision, stamp_ns: int) -> None:
    """Publishes how a plan was found on the topics of THOUGHTS, to who asks: most of the time nobody looks."""
    thoughts = (decision.imagined, decision.elite_paths, decision.costs[None])
    for name, values in zip(THOUGHTS, thoughts, strict=True):
        if values.size and publishers[name].get_subscription_count():
            publishers[name].publish(array_to_message(values, stamp_ns))


def _rehearse(runtime: Runtime, bundle: Bundle, config: PlanConfig) -> None:
    """Rolls out once with the sizes of a plan, so that what does not fit shows now, and the first plan is not slow."""
    model = bundle.model
    context = np.zeros((model.history, model.latent_dim), np.float32)
    past = np.zeros((model.history - 1, model.block_dim), np.float32)
    candidates = np.zeros((config.samples, config.horizon, model.block_dim), np.float32)
    try:
        runtime.rollout(context, past, candidates, context[-1])
    except Exception as error:
        raise Refusal(
            f"the bundle {bundle.folder} cannot imagine {config.horizon} blocks on {runtime.backend}: {error}; "
            "export it again"
        ) from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the node."""
    run(PlannerNode, arguments=arguments)


if __name__ == "__main__":
    main()
