# SPDX-License-Identifier: Apache-2.0
"""A lost, late or reordered command never becomes a jump: shield and simulated controller, with a link between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from lewm_model.planning.motion import KnotLimits, Timeline, Trajectory
from lewm_model.robot.limits import JointLimits
from lewm_model.sim.controller import ControllerConfig, TrajectoryController
from lewm_ros.safety import Reason, Shield, ShieldConfig, State
from lewm_ros.safety.execution import Execution, Lag

LIMITS = JointLimits(
    ("shoulder", "elbow"), np.full(2, -2.6), np.full(2, 2.6), np.full(2, 1.5), np.full(2, 9.0), np.full(2, 150.0)
)
KNOTS = KnotLimits(LIMITS, 0.25)
TICK_S = 0.01
Link = Callable[[Trajectory, float], list[float]]  # when copies of a command that is sent arrive


class Loop:
    """A planner without a camera: the arm goes to and fro, one block at a time, while commands go over a link.

    :param reference: whether the controller publishes its reference; otherwise only joint states are seen.
    """

    def __init__(self, seed: int, link: Link, reference: bool = True) -> None:
        self.rng, self.link, self.reference = np.random.default_rng(seed), link, reference
        self.now, self.controller = 0.0, TrajectoryController(np.zeros(2), ControllerConfig())
        self.shield = Shield(LIMITS, ShieldConfig(), clock=lambda: self.now, steady=lambda: self.now)
        self.timeline: Timeline | None = None
        self.planned, self.plan_at_s = -1, np.inf
        self.under_way: list[tuple[float, Trajectory]] = []
        self.way_rad = 0.0
        self.tell()
        self.tell()
        assert self.shield.arm() is None

    def tell(self) -> None:
        """Passes on what camera, joints and controller publish, 50 times a second."""
        self.shield.frame(self.now)
        self.shield.joints(self.controller.desired[0] + 2e-4 * self.rng.normal(size=2), self.now)
        if self.reference:
            self.shield.refer(self.controller.desired[0], self.now, self.controller.speed_scaling)

    def send(self, motion: Trajectory) -> None:
        self.under_way += [(arrival_s, motion) for arrival_s in self.link(motion, self.now)]

    def run(self, until_s: float) -> None:
        while self.now < until_s:
            for arrival_s, motion in sorted(self.under_way, key=lambda item: item[0]):
                if arrival_s <= self.now and motion.times_s[-1] > self.now:
                    self.controller.take(
                        motion.times_s - motion.times_s[0],
                        motion.positions,
                        motion.velocities,
                        None,
                        float(motion.times_s[0]),
                        self.controller.desired[0],
                    )
            self.under_way = [item for item in self.under_way if item[0] > self.now]
            before = self.controller.desired[0]
            self.controller.advance(np.array([self.now + TICK_S]), before)
            self.way_rad += float(np.abs(self.controller.desired[0] - before).max())
            self.now += TICK_S
            if round(self.now / TICK_S) % 2 == 0:
                self.tell()
            self.plan()

    def plan(self) -> None:
        if self.timeline is None:
            start = self.shield.restart()
            if start is None:
                return
            self.timeline, self.planned = Timeline(self.now, start, KNOTS), 0
        margin_s = 0.03 + self.shield.delay_s
        knot = self.timeline.knot_at_or_after(self.now + margin_s)
        if knot <= self.planned or self.timeline.knot_time(knot) - self.now > margin_s + 0.04:
            return
        self.planned = knot
        wanted = np.sign(self.rng.normal(size=(1, 1, 2))) * LIMITS.velocity
        self.timeline.splice(knot, KNOTS.project(*self.timeline.state(knot), wanted)[0])
        begin_s = self.now - 0.06
        count = int(np.ceil((self.timeline.end_s - begin_s) / 0.05)) + 1
        motion = self.timeline.sample(begin_s + 0.05 * np.arange(count + 1))
        if self.shield.release(motion, begin_s) is None:
            self.send(motion)
            return
        stop = self.timeline.stop(self.now, self.now + margin_s)
        self.timeline = None
        if self.shield.release(stop) is None:
            self.send(stop)


def link(seed: int, lost: float = 0.0, late_s: float = 0.0, reordered_s: float = 0.0) -> Link:
    rng = np.random.default_rng(seed)

    def copies(motion: Trajectory, now_s: float) -> list[float]:
        # Sent twice, as planner_node does.
        arrivals = [now_s + i * 0.02 + late_s + rng.uniform(0.0, reordered_s) for i in range(2)]
        return [arrival for arrival in arrivals if rng.random() >= lost]

    return copies


@pytest.mark.parametrize("lost", [0.0, 0.01, 0.05, 0.3])
@pytest.mark.parametrize("seed", range(2))
def test_lost_commands_make_the_arm_pause_and_never_jump(lost, seed):
    loop = Loop(seed, link(seed, lost))
    loop.run(20.0)
    assert loop.controller.largest_step_rad <= 0.005
    assert loop.way_rad > (10.0 if lost < 0.3 else 2.0), "the arm goes on"
    assert loop.shield.state is State.ARMED, loop.shield.message
    if lost == 0.0:
        assert not loop.shield.interventions


def test_without_the_look_at_what_is_executed_it_would_jump(monkeypatch):
    monkeypatch.setattr(Execution, "doubt", lambda *_: None)
    loop = Loop(0, link(0, lost=0.3))
    loop.run(20.0)
    assert loop.controller.largest_step_rad > 0.02


@pytest.mark.parametrize(("late_s", "reordered_s"), [(0.1, 0.0), (0.0, 0.1)])
@pytest.mark.parametrize("seed", range(2))
def test_late_and_reordered_commands_make_no_jump(seed, late_s, reordered_s):
    loop = Loop(seed, link(seed, late_s=late_s, reordered_s=reordered_s))
    loop.run(20.0)
    assert loop.controller.largest_step_rad <= 0.005
    assert loop.way_rad > 5.0, "the arm goes on"


def test_a_stop_waits_for_commands_that_are_late_again_and_again_and_not_for_a_single_one():
    def pausing(motion: Trajectory, now_s: float) -> list[float]:
        return [max(now_s, 10.3) if 10.0 < now_s < 10.3 else now_s]

    loop = Loop(3, pausing)
    loop.run(12.0)
    assert loop.shield.delay_s == 0.0
    loop = Loop(3, link(3, late_s=0.1))
    delays_s = []
    for until_s in np.arange(4.0, 12.0, 0.25):
        loop.run(until_s)
        delays_s.append(loop.shield.delay_s)
    assert np.mean(np.array(delays_s) >= 0.09) > 0.7


def test_where_only_the_joints_are_seen_nothing_lost_is_taken_for_lost():
    loop = Loop(0, link(0), reference=False)
    loop.run(20.0)
    assert loop.way_rad > 10.0 and not loop.shield.interventions


class Restarting(Loop):
    """A controller that publishes no reference and executes each command with a lag of its own, as one does that begins
    a trajectory when it arrives.
    """

    def send(self, motion: Trajectory) -> None:
        lag_s = self.rng.uniform(0.0, 0.03)
        super().send(replace(motion, times_s=motion.times_s + lag_s))


@pytest.mark.parametrize("seed", range(4))
def test_a_command_that_is_executed_somewhat_later_than_others_is_not_taken_for_lost(seed):
    loop = Restarting(seed, link(seed), reference=False)
    loop.run(30.0)
    assert loop.way_rad > 10.0
    assert loop.shield.interventions[Reason.LOST] <= 1, "the first few commands tell how much lags differ"


def test_a_lost_command_is_noticed_though_lags_differ():
    loop = Restarting(0, link(0, lost=0.5), reference=False)
    loop.run(30.0)
    assert loop.shield.interventions[Reason.LOST] >= 1


def test_what_the_controller_executes_without_being_told_is_named():
    loop = Loop(1, link(1))
    loop.run(1.0)
    assert loop.shield.reference is not None
    elsewhere = loop.shield.reference + 0.01
    loop.shield.refer(elsewhere, loop.now, 1.0)
    assert loop.timeline is not None
    refusal = loop.shield.release(loop.timeline.stop(loop.now, loop.now + 0.03))
    assert refusal is not None and refusal.reason is Reason.LOST and "0.0100 rad from every" in refusal.text


def test_a_robot_whose_slider_is_turned_down_holds_until_it_is_up_again():
    loop = Loop(2, link(2))
    loop.run(2.0)
    loop.controller.speed_scaling = 0.5
    loop.run(2.1)
    assert loop.shield.state is State.HOLDING and "slider" in loop.shield.message
    loop.run(6.0)
    way_rad = loop.way_rad
    loop.run(7.0)
    assert loop.way_rad == way_rad, "it has come to rest"
    loop.controller.speed_scaling = 1.0
    loop.run(10.0)
    assert loop.shield.state is State.ARMED and loop.way_rad > way_rad + 1.0
    assert loop.controller.largest_step_rad <= 0.005


class BlockedLoop(Loop):
    """A loop whose arm an obstacle holds from a time on, at the position that it has then."""

    def __init__(self, seed: int, blocked_from_s: float) -> None:
        self.blocked_from_s = blocked_from_s
        self.held: np.ndarray | None = None
        super().__init__(seed, link(seed), reference=False)

    def tell(self) -> None:
        if self.held is None and self.now >= self.blocked_from_s:
            self.held = self.controller.desired[0]
        self.shield.frame(self.now)
        position = self.controller.desired[0] if self.held is None else self.held
        self.shield.joints(position + 2e-4 * self.rng.normal(size=2), self.now)


def test_an_obstacle_is_not_taken_for_a_lost_command_so_the_arm_is_stopped_there():
    """The arm stays behind and so comes nearer to older commands; refused, the stop would come at the command's end.

    A few obstacles hold it just where an older command ends, which nobody can tell from a lost one.
    """
    refused = []
    for seed in range(30):
        loop = BlockedLoop(seed, blocked_from_s=2.0 + 0.17 * seed)
        loop.run(loop.blocked_from_s + 1.0)
        assert loop.shield.state is State.STOPPED and "blocks the arm" in loop.shield.message
        refused.append(loop.shield.interventions[Reason.LOST] > 0)
    assert np.mean(refused) < 0.2


@pytest.mark.parametrize(("beside_rad", "told"), [(0.0, True), (0.1, False)])
def test_only_an_arm_on_an_older_command_is_seen_to_execute_it(beside_rad, told):
    execution = Execution(None, 0.01)
    times = np.linspace(0.0, 2.0, 41)
    slow, fast = (Trajectory(times, speed * times[:, None], np.full((41, 1), speed)) for speed in (0.5, 0.55))
    execution.add(slow, 0.0)
    for stamp_s in np.arange(0.1, 0.5, 0.02):
        execution.measure(stamp_s, np.array([0.5 * stamp_s]))
    execution.add(fast, 0.5)
    execution.measure(1.0, np.array([0.5 - beside_rad]))
    assert (execution.doubt(1.0, 0.02) is not None) == told


def test_an_arm_that_was_held_up_once_does_not_make_the_shield_blind_to_lost_commands():
    execution = Execution(None, 0.01)
    times = np.linspace(0.0, 5.0, 101)
    old, new = (Trajectory(times, v * times[:, None], np.full((101, 1), v)) for v in (0.5, 0.7))
    execution.add(old, 0.0)
    for stamp_s in np.arange(0.1, 1.0, 0.02):
        execution.measure(stamp_s, np.array([0.5 * stamp_s]))
    for lag_s in (0.0, 0.0, 0.4, 0.0):  # of commands in between, in one of which something held the arm up
        execution._lags.append(Lag(execution._sent[-1], 20, lag_s))
    execution.add(new, 1.0)
    execution.measure(1.4, np.array([0.7]))
    assert execution.doubt(1.4, 0.02) is not None, "the arm is where the old one has it, 0.28 rad from the new one"
