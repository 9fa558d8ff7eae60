# SPDX-License-Identifier: Apache-2.0
"""Receding-horizon planning for one arm: latents in, committed motion out.

Time is divided into action blocks. While one block is executed, the next one is planned from the newest frame that
leaves enough time, for the hand-over at the block's end. The motion until the hand-over is committed, and rollouts
include it. Every trajectory ends in a smooth stop, so that an arm whose planner dies comes to rest by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lewm_model.config import MonitorConfig, PlanConfig
from lewm_model.models.signature import DISPLACEMENT, measuring
from lewm_model.planning.expectation import Expectation
from lewm_model.planning.history import History
from lewm_model.planning.motion import KnotLimits, Timeline, Trajectory, joint_ways
from lewm_model.planning.objectives import Imagined, objective_of
from lewm_model.planning.parameterisations import ActionParameterisation, TipKnots, VelocityKnots
from lewm_model.planning.proposals import Problem, Proposed, proposals_of
from lewm_model.planning.solvers import Solution, search, shoot
from lewm_model.robot.chain import Chain
from lewm_model.robot.limits import JointLimits
from lewm_model.robot.tip import TipMotion
from lewm_model.runtime import Runtime

START_SLACK_S = 0.01  # from arming to the first plan; without it the first hand-over would be a block later
JITTER_S = 0.005  # by which a frame that is waited for may come later than one period after the frame before it
SPARE_S = 0.02  # by which planning may begin too late, at most half of its time; the search is shorter then


@dataclass(frozen=True)
class Decision:
    """The outcome of one call of `Planner.plan`."""

    trajectory: Trajectory | None  # to send to the arm; None: the goal is reached, the plan is late, or see `reason`
    frame_s: float  # stamp of the frame that was planned from
    plan_s: float  # duration of planning, s
    iterations: int
    cost: float
    distance: float  # of the frame's latent to the goal: control steps by a head, else squared latent distance
    imagined: np.ndarray  # (H, D) latents that the plan is expected to lead to, one block apart
    joint_path: np.ndarray  # (H * frameskip + 1, A) rad, a control step apart, commanded from the frame's stamp on
    late: bool  # whether planning ended too late for the hand-over
    saturation: float  # share of the plan's joint velocities that are at their limit, 0 to 1
    elite_paths: np.ndarray  # (E, H * frameskip + 1, A) rad, as joint_path, of the best candidates, the best first
    costs: np.ndarray  # (iterations,) of the best candidate of each iteration
    reason: str | None = None  # why no plan could be made, as a message to users


class Planner:
    """Plans for one arm; used from one thread. All times are seconds on the clock of the frame stamps."""

    def __init__(
        self,
        runtime: Runtime,
        limits: JointLimits,
        config: PlanConfig,
        clock: Callable[[], float],
        seed: int = 0,
        monitor: MonitorConfig | None = None,
        chain: Chain | None = None,
    ) -> None:
        """
        :param clock: the present time, s, on the clock of the frame stamps.
        :param seed: of the random candidates.
        :param chain: the arm's kinematics, for a model whose actions are velocities of the tip.
        :raises ValueError: the arm's joints or limits, or the planning time, do not fit the model's actions.
        """
        self.runtime, self.config, self.clock = runtime, config, clock
        self.spec = runtime.bundle.actions
        if self.spec.drives_joints and limits.names != self.spec.names:
            raise ValueError(f"the arm's joints are {limits.names}, the model was trained on {self.spec.names}")
        if not self.spec.drives_joints and chain is None:
            raise ValueError("the model commands the tip; it needs a robot file with `kinematics`")
        self._tip = None if self.spec.drives_joints or chain is None else TipMotion(chain, self.spec, limits.names)
        self.block_s = self.spec.block_s
        self.needed_s = config.deadline_s + config.handover_margin_s  # from the start of planning to the hand-over
        self.delay_s = 0.0  # measured delay until commands are executed, on top of handover_margin_s; set from outside
        ahead_s = (config.horizon - 1) * self.block_s
        if self.needed_s + START_SLACK_S > ahead_s:
            raise ValueError(
                f"a plan of {config.horizon} blocks of {self.block_s:g} s that takes {self.needed_s:g} s (deadline_s "
                f"and handover_margin_s) looks less than a block beyond its hand-over; set horizon to "
                f"{int(np.ceil((self.needed_s + START_SLACK_S) / self.block_s)) + 1} or more, or a shorter deadline_s"
            )
        monitor = MonitorConfig() if monitor is None else monitor
        slowest, fastest = -limits.velocity, limits.velocity
        if self._tip is None:  # no faster than recorded, which the model has not learned
            slowest, fastest = (np.clip(each, slowest, fastest) for each in self.spec.within)
        self.knot_limits, self._slow_limits = (
            KnotLimits(limits, self.block_s, (share * slowest, share * fastest)) for share in (1.0, monitor.slow_speed)
        )
        heads = runtime.bundle.heads
        full_speed = self.knot_limits.velocity if self._tip is None else np.abs(self.spec.within).max(0)
        self.objective = objective_of(heads, config, full_speed)
        self.proposals = proposals_of(runtime.bundle, config)
        self._in_steps = measuring(heads) == DISPLACEMENT  # whether distances are in control steps
        self.history = History(runtime.bundle, joint_ways if self._tip is None else self._tip.displacements)
        self.expectation = Expectation(runtime, self.history, config.horizon, monitor)
        self.rng = np.random.default_rng(seed)
        self.goal: np.ndarray | None = None
        self.reached = False  # whether the arm rests at the goal; then nothing is planned until it has left
        self.slow = False  # whether to plan with MonitorConfig.slow_speed
        self.speed_scale = 1.0  # further share of the speed, (0, 1], which a user may change at any time
        self.timeline: Timeline | None = None
        self._planned = -1  # newest hand-over knot that was planned for
        self._observed_s = -np.inf  # when the newest frame was observed, s
        self._previous: tuple[int, np.ndarray] | None = None  # hand-over knot and candidate (K, C) of the plan before

    # ---- inputs ------------------------------------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether the arm is armed, so that plans are executed."""
        return self.timeline is not None

    def start(self, joint_positions: np.ndarray) -> None:
        """Arms: the commanded motion starts now, at rest at `joint_positions` (A,) rad."""
        now_s = self.clock()
        self.history.commanded.begin(now_s, self._lay_timeline(now_s, joint_positions))
        self.expectation.begin(now_s)

    def stop(self) -> Trajectory | None:
        """Disarms; returns the smooth stop to execute, or None when the arm was not armed.

        The stop is recorded in the history as commanded.
        """
        if self.timeline is None:
            return None
        now_s = self.clock()
        stop = self.timeline.stop(now_s, now_s + self.config.handover_margin_s + self.delay_s)
        self.history.commanded.begin(now_s, stop)
        self.timeline = None
        return stop

    def goes_on_with(self, motion: Trajectory) -> None:
        """Records in the history that the last stop was not sent, and that the arm continues with `motion`."""
        self.history.commanded.begin(self.clock(), motion)

    def preview(self, joint_positions: np.ndarray) -> Decision | None:
        """The first plan of an arm at rest at `joint_positions` (A,) rad, which stays disarmed."""
        self._lay_timeline(self.clock(), joint_positions)
        decision = self.plan()
        self.timeline, self.reached = None, False
        return decision

    def set_goal(self, latent: np.ndarray | None) -> None:
        """Sets the latent (D,) to reach; with None nothing is planned."""
        self.goal, self._previous, self.reached = latent, None, False

    def observe(self, stamp_s: float, latent: np.ndarray) -> None:
        """Adds the latent (D,) of a frame; ignored unless it is newer than all before."""
        if self.history.observe(stamp_s, latent):
            self._observed_s = self.clock()

    def measure(self, stamp_s: float, joint_positions: np.ndarray) -> None:
        """Adds measured joint positions (A,) rad; ignored unless they are newer than all before."""
        self.history.measure(stamp_s, joint_positions)

    # ---- the plan ----------------------------------------------------------------------------------------------------

    def plan(self) -> Decision | None:
        """Plans from the newest frame; None when there is no goal, or when a newer frame will come in time for
        planning. To be called at every frame, and about every JITTER_S between them, in case the next one is late.

        ::

            x <- latents up to the newest frame, committed motion until the hand-over
            propose candidates                       straight line, rest, previous plan; or rollouts of a policy
            imagine and score them                   and commit to the best if it costs about what it promises; else
            repeat until the deadline
                sample candidates                    around the mean, within the arm's limits
                imagine                              the model's rollout of each
                score                                by the objective
                keep the elites, refit the mean
            commit to the first block of the best, if it is in time and finite
        """
        begin = time.monotonic()
        problem = self._next_problem()
        if problem is None:
            return None
        motions, config = problem.motions, self.config
        if motions.handover_s - motions.frame_s > (config.horizon - 1) * self.block_s:
            age_s = self.clock() - motions.frame_s
            return self._nothing(problem, begin, f"the newest frame is {age_s:.2f} s old, too old to plan from")
        if self.reached and (rest := self._rest(problem, begin)) is not None:
            return rest

        def cost(candidates: np.ndarray) -> np.ndarray:
            return self.objective(problem.imagine(candidates))

        proposed = [propose(problem, self.rng) for propose in self.proposals]
        guesses = np.concatenate([each.candidates for each in proposed])
        if config.sampler == "shooting":
            factors = np.concatenate([each.factors for each in proposed])
            found = shoot(config, guesses, factors, motions.feasible, cost)
        else:
            width = self._width(problem, proposed[0])
            spent_s = time.monotonic() - begin
            left_s = min(config.deadline_s - spent_s, self._due_s(motions.handover_s) - self.clock())
            enough = self._enough(proposed[0])
            found = search(config, guesses, width, motions.feasible, cost, self.rng, left_s, enough=enough)
        return self._commit(problem, found, begin)

    def _next_problem(self) -> Problem | None:
        """The problem to plan now; None as of `plan`."""
        timeline, newest = self.timeline, self.history.newest
        if timeline is None or self.goal is None or newest is None:
            return None
        now_s, (frame_s, _) = self.clock(), newest
        needed_s = self.needed_s + self.delay_s
        knot = timeline.knot_at_or_after(now_s + needed_s - min(SPARE_S, self.config.deadline_s / 2))
        newer_s = self._next_frame_s(now_s)
        if knot <= self._planned or timeline.knot_time(knot) - newer_s > needed_s:
            return None
        if not self.config.while_moving and frame_s < timeline.end_s:
            return None
        self._planned = knot
        limits = (self._slow_limits if self.slow else self.knot_limits).scaled(self.speed_scale)
        rest_speed = self.config.resting * self.knot_limits.velocity
        unit = np.asarray(self.spec.std) if self._tip is None else np.ones(len(rest_speed))
        joints = VelocityKnots(self.spec, timeline, limits, frame_s, knot, self.config.horizon, rest_speed, unit)
        motions: ActionParameterisation = joints if self._tip is None else TipKnots(self.spec, joints, self._tip)
        previous = motions.still[:0]
        if self._previous is not None:
            before, candidate = self._previous
            previous = candidate[knot - before :]
        return Problem(self.runtime, *self.history.context(frame_s), self.goal, motions, previous)

    def _next_frame_s(self, now_s: float) -> float:
        """When the next frame can be planned from at the latest, as far as the camera's period tells, s."""
        period_s = self.history.frame_period_s
        expected_s = self._observed_s + period_s
        if now_s >= expected_s + period_s / 2:  # it was lost, or there are too few frames to know the period
            return now_s + max(period_s, START_SLACK_S)
        return max(expected_s, now_s) + JITTER_S

    def _due_s(self, handover_s: float) -> float:
        """When the plan for a hand-over has to be ready, s."""
        return handover_s - self.config.handover_margin_s - self.delay_s

    def _width(self, problem: Problem, proposed: Proposed) -> float:
        """Standard deviation of the first candidates, in recorded ones: less near the goal
        (`PlanConfig.least_width`).
        """
        if not self._in_steps:
            return self.config.initial_std
        told = problem.imagine(problem.motions.still[None]) if proposed.promised is None else proposed.promised
        left = float(told.distances[0, 0])
        farthest = self.config.horizon * self.spec.frameskip  # control steps within the horizon
        share = left / (self.config.full_width_from * farthest)
        return self.config.initial_std * float(np.clip(share, self.config.least_width, 1.0))

    def _enough(self, proposed: Proposed) -> float:
        """Cost of a plan that is good enough to end the search (`PlanConfig.tolerated`); -inf where nothing promises
        one.
        """
        promised, calibration, tolerated = proposed.promised, self.runtime.bundle.calibration, self.config.tolerated
        if promised is None or tolerated == 0.0:
            return -np.inf
        enough = (1.0 + tolerated) * float(self.objective(promised)[0])
        if calibration is not None:
            left = np.full_like(promised.distances, calibration.left)
            enough += float(self.objective(Imagined(np.zeros_like(promised.actions), left, promised.latents))[0])
        return enough

    def _commit(self, problem: Problem, found: Solution, begin: float) -> Decision:
        """Splices the best candidate into the commanded motion, if it is in time and finite."""
        motions, calibration = problem.motions, self.runtime.bundle.calibration
        imagined = problem.imagine(found.best[None])
        values = (found.cost, found.best, imagined.distances, imagined.latents)
        if not all(np.isfinite(value).all() for value in values):
            self._previous, self.reached = None, False
            reason = "what the model imagines is not finite, and is not executed; check the goal picture and the model"
            return self._nothing(problem, begin, reason, found.iterations)
        self._previous = (motions.knot, found.best)
        late = self.clock() > self._due_s(motions.handover_s)
        trajectory = None
        if not late:
            trajectory = motions.commit(found.best, 1 if self.config.while_moving else self.config.horizon)
        plan = self._decision(problem, found, imagined, begin, trajectory, late)
        near = calibration is not None and plan.distance <= calibration.reached
        self.reached = near and motions.rests(found.best)
        return plan

    def _rest(self, problem: Problem, begin: float) -> Decision | None:
        """A decision without trajectory while the arm is at its goal; None where it has left it."""
        still, calibration = problem.motions.still, self.runtime.bundle.calibration
        imagined = problem.imagine(still[None])
        if calibration is None or not imagined.distances[0, 0] <= calibration.left:
            return None
        nothing = Solution(still, 0.0, 0, still[None][:0], np.zeros(0))
        return self._decision(problem, nothing, imagined, begin, trajectory=None, late=False)

    def _decision(
        self,
        problem: Problem,
        found: Solution,
        imagined: Imagined,
        begin: float,
        trajectory: Trajectory | None,
        late: bool,
    ) -> Decision:
        motions = problem.motions
        return Decision(
            trajectory=trajectory,
            frame_s=motions.frame_s,
            plan_s=time.monotonic() - begin,
            iterations=found.iterations,
            cost=found.cost,
            distance=float(imagined.distances[0, 0]),
            imagined=imagined.latents[0],
            joint_path=motions.paths(found.best[None])[0],
            late=late,
            saturation=motions.saturation(found.best),
            elite_paths=motions.paths(found.elites),
            costs=found.costs,
        )

    def _nothing(self, problem: Problem, begin: float, reason: str, iterations: int = 0) -> Decision:
        """A decision without trajectory, for `reason`: the arm continues with the committed motion, which ends at
        rest.
        """
        motions = problem.motions
        times_s = motions.frame_s + self.spec.control_dt_s * np.arange(self.config.horizon * self.spec.frameskip + 1)
        path = motions.timeline.sample(times_s).positions
        return Decision(
            trajectory=None,
            frame_s=motions.frame_s,
            plan_s=time.monotonic() - begin,
            iterations=iterations,
            cost=float("nan"),
            distance=float("nan"),
            imagined=problem.context[:0],
            joint_path=path,
            late=False,
            saturation=0.0,
            elite_paths=path[None][:0],
            costs=np.zeros(0),
            reason=reason,
        )

    def _lay_timeline(self, now_s: float, joint_positions: np.ndarray) -> Timeline:
        """Starts a timeline whose knots give the first plan, made now, the earliest possible hand-over."""
        start_s = now_s + START_SLACK_S + self.needed_s - self.block_s
        self.timeline = Timeline(start_s, np.asarray(joint_positions, float), self.knot_limits)
        self._planned, self._previous, self.reached = -1, None, False
        return self.timeline
