# SPDX-License-Identifier: Apache-2.0
"""Plans from latents towards the goal picture, and commands the arm with joint trajectories through the shield.

The node starts disarmed: nothing moves until `~/enable` (or `enable_on_start`).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import Float32
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from lewm_model.bundle.bundle import Bundle, load_bundle
from lewm_model.bundle.verdict import verdict
from lewm_model.config import PlanConfig
from lewm_model.monitoring.vigilance import Vigilance
from lewm_model.planning.motion import Trajectory
from lewm_model.planning.planner import JITTER_S, Decision, Planner
from lewm_model.planning.proposals import proposals_of
from lewm_model.robot.actions import UNKNOWN
from lewm_model.runtime import Runtime
from lewm_ros.arm_node import WATCH_S, ArmNode
from lewm_ros.camera_node import LATCHED
from lewm_ros.goals import EndedGoals, ended_goals_file, goal_identity
from lewm_ros.messages import NANOSECONDS, MessageError, array_to_message, message_to_latent, nanoseconds
from lewm_ros.node import ERROR, OK, WARN, Milliseconds, Refusal, Worker, run
from lewm_ros.parameters import ParameterError
from lewm_ros.planner_parameters import PARAMETERS, settings
from lewm_ros.safety import Reason, State

LATELY, TOO_LATE = 8, 2  # diagnostics warn when 2 of the newest 8 plans were late
THOUGHTS = ("imagined", "elites", "costs")  # topics about the search for the newest plan


class PlanLog:
    """Counts and times of the planning thread, for diagnostics. Thread-safe."""

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
        """Notes a plan, and whether the goal is reached."""
        with self._lock:
            self._reached += reached and not self._goal_reached
            self._goal_reached = reached
            self._last = decision
            if decision.iterations:  # no iterations: the arm rests at its goal
                self._plans += 1
                self._late += decision.late
                self._lately.append(decision.late)
                self._plan_ms.add(decision.plan_s)

    def commanded(self, frame_to_command_s: float) -> None:
        """Notes the time from the stamp of a frame until its trajectory was sent, s."""
        with self._lock:
            self._sent += 1
            self._command_ms.add(frame_to_command_s)

    def surprised(self, score: float | None, novelty: float) -> None:
        """Notes surprise, where known, and novelty of the newest frame, in multiples of the usual values."""
        with self._lock:
            self._surprise, self._novelty = score, novelty

    def complaint(self) -> str | None:
        """A sentence when too many plans are late, else None."""
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


class PlannerNode(ArmNode):
    """`latent`, `goal_latent`, `joint_states` -> `arm_controller/joint_trajectory`.

    `~/cancel` drops the goal. A goal that was cancelled, reached or replaced is not pursued again when a latched topic
    delivers it once more, only when it is sent anew (`lewm_ros.goals`). Published besides:

    - `~/status`: also at each plan.
    - `surprise`: distance of each frame from its prediction, in multiples of the usual one. A surprise holds the arm,
      as does `novelty` of camera_node.
    - `~/plan`: the joint path of the newest plan, also while disarmed. For display only; controllers must not execute
      it.
    - While they have subscribers, float images with the stamp of the frame that was planned from: `~/imagined`
      (blocks, D), the predicted latents; `~/elites` (elites, steps, A), joint paths of the best candidates in rad, the
      best first; `~/costs` (1, iterations), the cost of the best candidate of each iteration.

    The planning thread owns the planner; callbacks pass data to it through the mailbox and the shield, which have
    locks.
    """

    def __init__(self) -> None:
        super().__init__("planner_node", PARAMETERS)
        self._ended_goals = EndedGoals(ended_goals_file(), self.get_logger().warning)
        self._goal: str | None = None  # identity of the newest goal; kept over a deactivation
        self._pursued: str | None = None  # identity of the goal of the planning thread
        self._runtime: Runtime | None = None
        self._subscriptions_made: list[Any] = []

    # ---- lifecycle ---------------------------------------------------------------------------------------------------

    def configure(self, values: Mapping[str, Any]) -> None:
        bundle = load_bundle(values["model"])
        checked = settings(values, bundle)
        self._plan_config, self._monitor = checked.plan, checked.monitor
        names, limits, robot = bundle.actions.names, checked.arm.limits, checked.arm.robot
        self._chain = checked.arm.chain
        if not bundle.actions.drives_joints and robot is not None and self._chain is not None:
            # The model commands tip velocities, which move all joints of the arm, and may name others: a gripper.
            names = tuple(name for name in limits.names if name in robot.arm or name in names)
        if values["robot"] and limits.names[: len(names)] == names:
            limits = limits.of(names)  # a model may leave the gripper of the robot file alone
        if limits.names != names:
            raise Refusal(
                f"the model in {bundle.folder} moves the joints {', '.join(names)}, the parameters limits.* describe "
                f"{', '.join(limits.names)}; use the arm's own bundle, or list its joints in the bundle's order"
            )
        if UNKNOWN in bundle.actions.kinds:
            raise Refusal(
                f"the actions of the model in {bundle.folder} are {UNKNOWN!r}, not joint velocities, and must not be "
                "executed as such; `lewm convert --actions-are` makes velocities of positions"
            )
        self._seed, self._dry_run = values["seed"], values["dry_run"]
        self._calibration = bundle.calibration  # as measured; goal_tolerance scales it
        judged = verdict(bundle, self._plan_config)
        self._no_go = None if values["allow_no_go"] else judged.no_go
        runtime = self.load_runtime(bundle, values, self._plan_config.samples)
        _rehearse(runtime, bundle, self._plan_config)
        try:
            Planner(runtime, limits, self._plan_config, self.now_s, self._seed, self._monitor, self._chain)
        except ValueError as error:
            raise Refusal(str(error)) from error
        self.configure_arm(values, checked.arm, limits)
        self._plans = self.create_publisher(JointTrajectory, "~/plan", qos_profile_sensor_data)
        self._thoughts = {name: self.create_publisher(Image, f"~/{name}", qos_profile_sensor_data) for name in THOUGHTS}
        self._surprises = self.create_publisher(Float32, "surprise", qos_profile_sensor_data)
        self._cancel = self.create_service(Trigger, "~/cancel", self._on_cancel)
        self._runtime = runtime
        if bundle.calibration is None:
            self.get_logger().warning(
                "the bundle is not calibrated: no goal will count as reached and no frame as surprising; "
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
        self.activate_arm(needs_frames=True)
        calibration = self._runtime.bundle.calibration
        self._vigilance = None if calibration is None else Vigilance(self._monitor)
        self._log = PlanLog()
        self._goal = self._pursued = None
        self._last_stamp_s = self._preview_s = -np.inf
        self._novelty = 0.0
        self._dry_reached = False
        self._tell_planner()
        self._worker = Worker("plan", self._step, self._on_failure, last=self.bring_to_rest)
        self._subscriptions_made = [
            self.create_subscription(Image, "latent", self._on_latent, qos_profile_sensor_data),
            self.create_subscription(Image, "goal_latent", self._on_goal, LATCHED),
            self.create_subscription(Float32, "novelty", self._on_novelty, qos_profile_sensor_data),
        ]

    def deactivate(self) -> None:
        self.deactivate_arm()
        for subscription in self._subscriptions_made:
            self.destroy_subscription(subscription)
        self._subscriptions_made = []

    def cleanup(self) -> None:
        if self._runtime is not None:
            self._runtime = None
            self.cleanup_arm()
            for publisher in (self._plans, *self._thoughts.values(), self._surprises):
                self.destroy_publisher(publisher)
            self.destroy_service(self._cancel)

    def _new_planner(self, runtime: Runtime) -> Planner:
        planner = Planner(runtime, self._limits, self._plan_config, self.now_s, self._seed, self._monitor, self._chain)
        planner.speed_scale = self._values["speed_scale"] or 1.0  # at 0 the shield holds the arm
        return planner

    def change(self, values: Mapping[str, Any]) -> None:
        """Applies new values of live parameters, also while the arm moves."""
        assert self._runtime is not None
        changed = {**self._values, **values}
        armed = self._worker is not None and self._shield.state is not State.DISARMED
        if armed and changed["dry_run"] != self._dry_run:
            raise ParameterError("dry_run changes what an armed planner does; disarm it first")
        checked = settings(changed, self._runtime.bundle)
        try:
            Planner(self._runtime, self._limits, checked.plan, self.now_s, self._seed, self._monitor, self._chain)
        except ValueError as error:
            raise ParameterError(str(error)) from error
        self._values, self._plan_config, self._shield_config = changed, checked.plan, checked.arm.shield
        self._dry_run = changed["dry_run"]
        if self._worker is not None:
            self._adjust_shield()
            self._tell_planner()

    def _tell_planner(self) -> None:
        """Hands the live parameters to the planning thread."""
        scale = self._values["speed_scale"]
        self._mailbox.put("live", (self._plan_config, scale, self._values["goal_tolerance"]))

    # ---- the executor's thread ---------------------------------------------------------------------------------------

    def _on_latent(self, message: Image) -> None:
        assert self._runtime is not None
        try:
            latent = message_to_latent(message, self._runtime.bundle.model.latent_dim)
        except MessageError as error:
            self.complain(str(error))
            return
        stamp_s = self.seconds(message.header.stamp)
        backwards = stamp_s < self._last_stamp_s - 1.0
        if backwards:
            self._shield.stop("the clock of the frames went backwards")
        if (backwards or np.isinf(self._last_stamp_s)) and self.get_parameter("use_sim_time").value:
            self._ended_goals.forget_after(nanoseconds(message.header.stamp))
        self._last_stamp_s = stamp_s
        self._shield.frame(stamp_s)
        self._mailbox.put("latent", (stamp_s, latent))

    def _on_novelty(self, message: Float32) -> None:
        if np.isfinite(message.data):
            self._mailbox.put("novelty", message.data)
        else:
            self.complain(f"the novelty of a picture is {message.data}; look at camera_node")

    def _on_goal(self, message: Image) -> None:
        assert self._runtime is not None
        try:
            latent = message_to_latent(message, self._runtime.bundle.model.latent_dim)
        except MessageError as error:
            self.complain(f"goal: {error}")
            return
        identity = goal_identity(message.header)
        if identity == self._goal:  # delivered again, by a restarted camera_node
            return
        if how := self._ended_goals.how(identity):
            self.complain(f"a goal that was {how} before is not pursued again; send it anew, with a new stamp")
            return
        if self._goal is not None:
            self._ended_goals.add(self._goal, "replaced")
        self._goal = identity
        self._mailbox.put("goal", (identity, latent))

    def _on_cancel(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._goal is not None:
            self._ended_goals.add(self._goal, "cancelled")
            self._goal = None
        if self._worker is not None:
            self._mailbox.put("goal", (None, None))
        response.success, response.message = True, "the goal is dropped; the arm comes to rest and stays armed"
        self.get_logger().info("the goal was cancelled")
        return response

    def arming_refusal(self) -> str | None:
        return self._no_go

    # ---- the planning thread -----------------------------------------------------------------------------------------

    def _step(self) -> None:
        items = self._mailbox.take(JITTER_S if self._planner.active else WATCH_S)
        self.watch()
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
        self._act()
        if self._planner.reached and self._pursued is not None:
            self._ended_goals.add(self._pursued, "reached")  # a restarted planner must not pursue it
        told = self._values["speed_scale"], self._dry_run  # also while disarmed: a page shows them, to be changed
        self.show_state(self._goal, self._planner.reached or self._dry_reached, *told)

    def _tolerate(self, tolerance: float) -> None:
        """Scales the calibrated distances at which a goal counts as reached and as left."""
        assert self._runtime is not None
        if self._calibration is not None:
            reached, left = tolerance * self._calibration.reached, tolerance * self._calibration.left
            calibration = replace(self._calibration, reached=reached, left=left)
            self._runtime.bundle = replace(self._runtime.bundle, calibration=calibration)
            self._planner.proposals = proposals_of(self._runtime.bundle, self._planner.config)

    def _act(self) -> None:
        """Plans and sends commands if the arm may move, else brings it to rest."""
        state = self._shield.state
        if state is not State.ARMED or self._dry_run:
            self.bring_to_rest()
            if state is State.DISARMED or state is State.ARMED:
                self._preview()
            return
        if not self._planner.active:
            start = self.rest_position()
            if start is None:
                return
            self._planner.start(start)
            if self._vigilance is not None:
                self._vigilance.forget()  # changes made before this motion are not surprising
                self._planner.slow = False
        self._planner.delay_s = self._shield.delay_s
        decision = self._planner.plan()
        if decision is not None:
            self._log.planned(decision, self._planner.reached)
            self._command(decision)
            self.publish_status()
            tell(self._thoughts, decision, self._epoch_ns + round(NANOSECONDS * decision.frame_s))

    def _preview(self) -> None:
        """Plans and publishes without moving, disarmed or in a dry run, once per action block."""
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
                self.publish_status()
            tell(self._thoughts, decision, self._epoch_ns + round(NANOSECONDS * decision.frame_s))

    def _look_for_surprise(self) -> None:
        """Slows or holds the arm when frames differ from their prediction or show something new.

        Disarming clears the alarm: a person has looked, and what is seen then is the new reference.
        """
        if self._vigilance is None:
            return
        now_s = time.monotonic()
        if self._shield.state in (State.DISARMED, State.STOPPED):
            self._vigilance.forget()
            self._planner.expectation.trust(self.now_s())
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
        """Publishes the joint path of a plan on `~/plan`."""
        control_dt_s = self._planner.spec.control_dt_s
        path = decision.joint_path
        times_s = decision.frame_s + control_dt_s * np.arange(len(path))
        velocities = np.gradient(path, control_dt_s, axis=0)
        self._plans.publish(self.trajectory_message(Trajectory(times_s, path, velocities)))

    def _command(self, decision: Decision) -> None:
        """Sends the trajectory of a plan that was in time and passes the shield."""
        self._show(decision)
        if decision.trajectory is None:
            if decision.reason is not None:
                self.complain(decision.reason)
            return
        if self._shield.state is not State.ARMED:  # disarmed while it was being planned
            self.bring_to_rest()
            return
        refusal = self._shield.release(decision.trajectory, decision.frame_s)
        if refusal is not None:
            self.get_logger().warning(f"the shield held back a plan: {refusal.text}")
            if refusal.reason is Reason.LOST:
                self.complain(refusal.text)
            self.bring_to_rest()  # the next plan would have continued this one, so it begins again from rest
            return
        self.send(decision.trajectory)
        self._log.commanded(self.now_s() - decision.frame_s)

    def bring_to_rest(self) -> None:
        """Ends the commanded motion with a smooth stop, if there is one."""
        stop = self._planner.stop()
        if stop is not None and not self.send_stop(stop) and (executed := self._shield.newest) is not None:
            self._planner.goes_on_with(executed)  # which ends at rest itself

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
        if state is State.HOLDING:
            text = self._shield.message
            return WARN, f"{text}; {self._complaint}" if self.complains else text, values
        if self.complains:
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


def tell(publishers: Mapping[str, Any], decision: Decision, stamp_ns: int) -> None:
    """Publishes the search for a plan on the topics of THOUGHTS that have subscribers: usually none has."""
    thoughts = (decision.imagined, decision.elite_paths, decision.costs[None])
    for name, values in zip(THOUGHTS, thoughts, strict=True):
        if values.size and publishers[name].get_subscription_count():
            publishers[name].publish(array_to_message(values, stamp_ns))


def _rehearse(runtime: Runtime, bundle: Bundle, config: PlanConfig) -> None:
    """Rolls out once with the sizes of a plan: shows whether the model can, and warms it up for the first plan.

    :raises Refusal: it cannot.
    """
    model = bundle.model
    context = np.zeros((model.history, model.latent_dim), np.float32)
    past = np.zeros((model.history - 1, model.block_dim), np.float32)
    candidates = np.zeros((config.samples, config.horizon, model.block_dim), np.float32)
    try:
        runtime.rollout(context, past, candidates, context[-1])
    except Exception as error:
        raise Refusal(
            f"the bundle {bundle.folder} cannot predict {config.horizon} blocks on {runtime.backend}: {error}; "
            "export it again"
        ) from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the node."""
    run(PlannerNode, arguments=arguments)


if __name__ == "__main__":
    main()
