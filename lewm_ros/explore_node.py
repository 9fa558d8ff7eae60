# SPDX-License-Identifier: Apache-2.0
"""Moves an arm at random, to record training data: episodes that each begin at the home pose.

    ros2 launch lewm_ros explore.launch.py robot:=so101 minutes:=60 out:=recordings/session1.mcap

The node starts disarmed, and moves nothing until `~/enable` (or `enable_on_start`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

import numpy as np
from rclpy.qos import QoSProfile
from std_msgs.msg import String

from lewm_model.planning.motion import KnotLimits, Timeline
from lewm_model.planning.random_motion import RandomKnots
from lewm_model.robot.limits import JointLimits
from lewm_ros.arm_node import WATCH_S, ArmNode
from lewm_ros.arm_parameters import ARM_PARAMETERS, DOUBLES, ArmSettings, arm_settings
from lewm_ros.node import ERROR, OK, WARN, Refusal, Worker, run
from lewm_ros.parameters import Parameter, ParameterError
from lewm_ros.safety import Reason, State

# The next piece of motion is sent at most LEAD_S and at least MARGIN_S before its hand-over. Not earlier, since by then
# the controller must be seen to execute the piece before, which began a block ago; not later, since a command takes
# time to arrive and is repeated meanwhile.
LEAD_S, MARGIN_S = 0.12, 0.04
POINT_S = 0.05  # between the points of a trajectory
CLEAR_M = 0.01  # distance that links keep from the box and each other, beyond what the shield requires
AT_HOME_RAD, AT_REST_RAD_S = 1e-6, 1e-6  # of commanded motion, so only rounding has to be allowed for
LONGEST_WAY_HOME_S = 60.0  # then the next episode begins where the arm is
SLOW = 0.3  # default share of full speed
MARKS = QoSProfile(depth=50)

PARAMETERS = (
    *(replace(row, default=SLOW) if row.name == "speed_scale" else row for row in ARM_PARAMETERS),
    Parameter("minutes", 60.0, "Minutes of episodes, after which the arm goes home and the node ends.", 0.01, 10_000.0),
    Parameter("episode_s", 30.0, "Seconds in an episode.", 1.0, 3600.0),
    Parameter("pause_s", 1.0, "Seconds at rest before and after each episode.", 0.1, 60.0),
    Parameter("block_s", 0.25, "Seconds from one random speed to the next, as in the model's action blocks.", 0.1, 2.0),
    Parameter("home", DOUBLES, "Where episodes begin, rad; default: the robot file's home, else 0.", needed=False),
    Parameter("gripper", False, "Move the gripper of the robot file at random, too."),
    Parameter("seed", 0, "Seed of the motion; use another one for each session.", 0, 2**31 - 1),
)


class Stage(Enum):
    """What the arm is doing; the value is shown to people."""

    RESTING = "resting"
    HOMING = "going home"
    EXPLORING = "exploring"
    BRAKING = "coming to rest"


class ExploreNode(ArmNode):
    """`joint_states` -> `arm_controller/joint_trajectory`, and episode markers on `episode` for recorders.

    An episode: go home, rest, "start", random motion with pauses, rest, "end". Every piece of motion that is sent can
    end in a stop within the limits and the box, without self-collision.

    Releasing the dead-man's button brings the arm to rest and disarms the node. When the arm does not follow (it has
    touched something) or a joint exceeds `effort_limits`, the stop also latches and the episode is marked "discard".
    `~/enable` continues, after `~/reset` where the stop has latched. Any other hold ends the episode, and the next one
    begins by itself.
    """

    def __init__(self) -> None:
        super().__init__("explore_node", PARAMETERS)
        self._configured = False

    # ---- lifecycle ---------------------------------------------------------------------------------------------------

    def configure(self, values: Mapping[str, Any]) -> None:
        checked = arm_settings(values)
        limits = checked.limits
        if checked.robot is not None and not values["gripper"]:
            limits = limits.of(checked.robot.arm)
        try:
            self._knot_limits = KnotLimits(limits, values["block_s"])
        except ValueError as error:
            raise Refusal(str(error)) from error
        self._checked = checked
        self._home = self._home_of(values, checked, limits)
        if problem := self._too_near(self._home[None]):
            raise Refusal(f"the arm cannot begin at home: {problem}; give another home or a larger box")
        self._rng = np.random.default_rng(values["seed"])
        self._marks = self.create_publisher(String, "episode", MARKS)
        self.configure_arm(values, checked, limits)
        self._episodes, self._explored_s = 0, 0.0
        self._configured = True
        self.get_logger().info(f"{values['minutes']:g} minutes of random motion, from home on; disarmed until ~/enable")

    def activate(self) -> None:
        self.activate_arm(needs_frames=False)
        self._motion = RandomKnots(self._rng, len(self._home), lambda poses: self._too_near(poses) is None)
        self._timeline: Timeline | None = None
        self._planned = -1  # newest knot at which a piece of motion that was sent begins
        self._stage, self._stage_s, self._in_episode = Stage.RESTING, 0.0, False
        self._worker = Worker("explore", self._step, self._on_failure, last=self.bring_to_rest)

    def deactivate(self) -> None:
        self.deactivate_arm()

    def cleanup(self) -> None:
        if self._configured:
            self._configured = False
            self.cleanup_arm()
            self.destroy_publisher(self._marks)

    def change(self, values: Mapping[str, Any]) -> None:
        changed = {**self._values, **values}
        self._shield_config = arm_settings(changed).shield
        self._values = changed
        if self._worker is not None:
            self._adjust_shield()

    def _home_of(self, values: Mapping[str, Any], checked: ArmSettings, limits: JointLimits) -> np.ndarray:
        if not values["home"]:
            rest: np.ndarray = np.zeros(len(limits.names))
            if checked.robot is not None:
                rest = checked.robot.home[: len(limits.names)]  # a gripper is the last joint
            return np.clip(rest, limits.lower, limits.upper)
        home = np.array(values["home"], float)
        if home.shape != limits.lower.shape or not ((home >= limits.lower) & (home <= limits.upper)).all():
            raise ParameterError(
                f"parameter 'home' is {list(values['home'])}; write a position within its limits for each of "
                f"{', '.join(limits.names)}"
            )
        return home

    def _too_near(self, poses: np.ndarray) -> str | None:
        """A sentence if links come too near to the box or each other at positions (N, A) rad, else None."""
        box, itself = self._checked.workspace, self._checked.self_collision
        if box is not None and (outside := box.find_outside(poses[:, : box.chain.columns], -CLEAR_M)):
            return outside
        if itself is None:
            return None
        at_home = float(itself.clearance(self._home[None, : itself.chain.columns])[0])
        return itself.find(poses[:, : itself.chain.columns], min(CLEAR_M, 0.5 * at_home))

    # ---- the worker's thread -----------------------------------------------------------------------------------------

    def _step(self) -> None:
        self._mailbox.take(WATCH_S)
        self.watch()
        if self._timeline is not None and any(cause.reason is Reason.DEADMAN for cause in self._shield.holding):
            self._shield.disarm()
            self.get_logger().warning("the dead-man's button was released: disarmed; ~/enable goes on")
        if self._shield.state is not State.ARMED:
            self.bring_to_rest()
        elif self._timeline is None:
            self._begin()
        else:
            self._go_on(self._timeline)
        self.show_state(self._stage, self._episodes)

    def _begin(self) -> None:
        """Begins a motion from rest, towards home."""
        start = self.rest_position()
        if start is None:
            return
        if problem := self._too_near(start[None]):
            self._shield.disarm()
            self.complain(f"the arm is too near to what it must not touch: {problem}; move it by hand, then enable it")
            return
        now_s = self.now_s()
        self._timeline, self._planned = Timeline(now_s + MARGIN_S, start, self._knot_limits), -1
        self._enter(Stage.HOMING, now_s)

    def _go_on(self, timeline: Timeline) -> None:
        """Sends the next piece of motion when it is time: from a knot on, it replaces the stop that was to follow."""
        now_s, delay_s = self.now_s(), self._shield.delay_s
        knot = timeline.knot_at_or_after(now_s + MARGIN_S + delay_s)
        if knot <= self._planned or timeline.knot_time(knot) > now_s + LEAD_S + delay_s:
            return
        self._planned, at_s = knot, timeline.knot_time(knot)
        position, velocity = timeline.state(knot)
        self._advance(position, velocity, at_s, now_s)
        if self._stage is Stage.RESTING:
            return
        limits = self._knot_limits.scaled(self._values["speed_scale"] or SLOW)  # at 0 the shield holds the arm
        if self._stage is Stage.EXPLORING:
            following = self._motion.knot(position, velocity, limits)
        elif self._stage is Stage.HOMING:
            following = self._motion.knot_towards(self._home, position, velocity, limits)
        else:
            following = limits.stop_knots(velocity)[0]
        timeline.splice(knot, following[None])
        count = int(np.ceil((timeline.end_s - now_s) / POINT_S)) + 2
        trajectory = timeline.sample(now_s + POINT_S * np.arange(count))
        refusal = self._shield.release(trajectory, now_s)
        if refusal is None:
            self.send(trajectory)
        elif refusal.reason is Reason.TRACKING:
            self._shield.stop(refusal.text, Reason.TRACKING)
        else:
            self.get_logger().warning(f"the shield held back a motion: {refusal.text}")
            self.bring_to_rest()

    def _advance(self, position: np.ndarray, velocity: np.ndarray, at_s: float, now_s: float) -> None:
        """Enters the next stage where the current one is over.

        Stages change at knots, which lie ahead: `at_s`, with `position` and `velocity` (A,). Episode markers are
        published when the motion has reached them: at `now_s`.
        """
        since_s, rests = at_s - self._stage_s, bool((np.abs(velocity) < AT_REST_RAD_S).all())
        if self._stage is Stage.HOMING and rests:
            at_home = bool((np.abs(position - self._home) < AT_HOME_RAD).all())
            if at_home and self._explored_s >= 60.0 * self._values["minutes"]:
                self._finish()
            elif at_home or since_s > LONGEST_WAY_HOME_S:
                if not at_home:
                    self.get_logger().warning("no clear way home was found; the next episode begins where the arm is")
                self._enter(Stage.RESTING, at_s)
        elif self._stage is Stage.RESTING and now_s - self._stage_s >= self._values["pause_s"]:
            if self._in_episode:
                self._mark("end")
                self._enter(Stage.HOMING, at_s)
            else:
                self._episodes += 1
                self._mark(f"start: explore {self._episodes}")
                self._enter(Stage.EXPLORING, at_s)
        elif self._stage is Stage.EXPLORING:
            left_s = 60.0 * self._values["minutes"] - self._explored_s
            if since_s >= min(self._values["episode_s"], left_s):
                self._explored_s += since_s
                self._enter(Stage.BRAKING, at_s)
        elif self._stage is Stage.BRAKING and rests:
            self._enter(Stage.RESTING, at_s)

    def _enter(self, stage: Stage, at_s: float) -> None:
        self._stage, self._stage_s = stage, at_s

    def _mark(self, text: str) -> None:
        """Publishes an episode marker."""
        self._in_episode = text.startswith("start")
        self._marks.publish(String(data=text))

    def bring_to_rest(self) -> None:
        """Ends the motion with a smooth stop, and the episode."""
        if self._timeline is None:
            return
        now_s = self.now_s()
        self.send_stop(self._timeline.stop(now_s, now_s + MARGIN_S + self._shield.delay_s))
        self._timeline = None
        if self._in_episode:
            if self._shield.state is State.STOPPED:  # it did not follow its commands, or was stopped by a person
                self._mark("discard")
            else:
                self._explored_s += max(0.0, now_s - self._stage_s) if self._stage is Stage.EXPLORING else 0.0
                self._mark("end")
        self._enter(Stage.RESTING, now_s)

    def _finish(self) -> None:
        self._shield.disarm()
        self._stage, self.is_done = Stage.RESTING, True
        self.get_logger().info(f"done: {self._episodes} episodes, {self._explored_s / 60.0:.1f} minutes; at home")

    def _on_failure(self, trace: str) -> None:
        self._shield.stop("exploring failed; deactivate and activate the node to start it again")
        self.get_logger().fatal(f"exploring failed, this is a bug:\n{trace}")

    # ---- diagnostics -------------------------------------------------------------------------------------------------

    def diagnose(self) -> tuple[bytes, str, dict[str, str]]:
        state = self._shield.state
        values = {
            "state": state.value,
            "stage": self._stage.value,
            "episodes": str(self._episodes),
            "minutes": f"{self._explored_s / 60.0:.2f}",
            "minutes_wanted": f"{self._values['minutes']:g}",
            "speed_scale": f"{self._values['speed_scale']:g}",
        }
        values |= {f"interventions {reason.value}": str(n) for reason, n in self._shield.interventions.items()}
        if state is State.STOPPED:
            return ERROR, self._shield.message, values
        if state is State.HOLDING:
            return WARN, self._shield.message, values
        if self.complains:
            return WARN, self._complaint, values
        return OK, f"armed; {self._stage.value}" if state is State.ARMED else self._shield.message, values


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the node."""
    run(ExploreNode, arguments=arguments)


if __name__ == "__main__":
    main()
