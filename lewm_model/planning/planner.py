"""Receding horizon for one arm: latents in, committed motion out.

Time is cut into action blocks. While one block executes, the next is planned from the newest frame that still leaves
time to plan, for the hand-over at the block's end; what lies before the hand-over is committed and is imagined as it
will be. Every trajectory ends in a smooth stop, so an arm whose planner dies comes to rest by itself.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lewm_model.config import PlanConfig
from lewm_model.models.signature import POLICY, STEPS_TO_GO, measuring
from lewm_model.monitoring.vigilance import SLOW
from lewm_model.planning.motion import KnotLimits, Timeline, Trajectory
from lewm_model.planning.solvers import Search, coloured_noise, search
from lewm_model.robot.limits import JointLimits
from lewm_model.runtime import Runtime

# The search is as wide as the way that is left: full width from this share of the farthest way in a horizon on.
WIDE_SEARCH = 0.4
NARROWEST = 0.03  # of the full width, at the goal
UNKNOWN_STEPS = 0.0  # left to the goal, for a policy
STRAYS = 0.3  # standard deviations of the recorded actions, by which imagined ways stray from what a policy proposes
HURRIES = (15.0, 200.0)  # control steps to go that a policy is told on every second of these ways, drawn evenly
KEPT = 0.9  # the plan before is dropped for a way that is faster than this share of it: in two minds, nothing is done
FAR_STEPS = 100.0  # a time to go so long that a proposal is not clipped, and says the whole way
EFFORT = (
    0.1  # cost of moving a joint for one control step at full speed; what is imagined to be better must be worth it
)
KNOWN_FRAMES = 6  # that showed a motion as imagined, to compare with after something did not
LIVELY = 0.03  # mean squared change of the latent over a block: such a frame is from a camera that sees the arm move
# Between where a picture shows the arm and where the joints are, control steps at full speed. Of 400 stops of the
# demo's arm none was farther off with the shipped model; a picture frozen when the stop began was off by 1.9 at least.
AGREES_STEPS = 1.5
RESTING = 0.02  # share of full speed: an arm that is slower, and told to stay so, rests
START_SLACK_S = 0.01  # between laying the grid and the first plan, on a clock that runs
HANDOVER_MARGIN_S = 0.03  # between the end of a plan and its hand-over: publishing and transport


@dataclass(frozen=True)
class Decision:
    """One plan. `trajectory` is None when nothing must be executed: the goal is reached, or the plan came too late."""

    trajectory: Trajectory | None
    frame_s: float  # stamp of the frame that was planned from
    plan_s: float  # how long planning took
    iterations: int
    cost: float
    distance: (
        float  # of the frame's latent to the goal: control steps where a head measures, else squared latent distance
    )
    imagined: np.ndarray  # (H, D) latents that the plan is expected to lead to, one block apart
    joint_path: np.ndarray  # (H * frameskip + 1, A) rad, commanded from the frame's stamp on
    late: bool  # for its hand-over
    saturation: float  # share of the plan's joint velocities that are at their limit
    elite_paths: np.ndarray  # (E, H * frameskip + 1, A) rad, as joint_path, of the best candidates; the best first
    costs: np.ndarray  # (iterations,) of the best candidate of each iteration


class Planner:
    """Plans for one arm; used from one thread. All times are seconds on the clock of the frame stamps."""

    def __init__(
        self, runtime: Runtime, limits: JointLimits, config: PlanConfig, clock: Callable[[], float], seed: int = 0
    ) -> None:
        self.runtime, self.config, self.clock = runtime, config, clock
        self.spec = runtime.bundle.actions
        if limits.names != self.spec.names:
            raise ValueError(f"the arm's joints are {limits.names}, the model was trained on {self.spec.names}")
        self.block_s = self.spec.block_s
        within_data = np.minimum(
            np.abs(self.spec.low), np.abs(self.spec.high)
        )  # plans stay where the model has seen data
        full_speed = np.minimum(limits.velocity, within_data)
        self.knot_limits, self._slow_limits = (
            KnotLimits(
                JointLimits(
                    limits.names, limits.lower, limits.upper, share * full_speed, limits.acceleration, limits.jerk
                ),
                self.block_s,
            )
            for share in (1.0, SLOW)
        )
        self.mean, self.std = np.asarray(self.spec.mean), np.asarray(self.spec.std)
        self.rng = np.random.default_rng(seed)
        self.goal: np.ndarray | None = None
        self.reached = False  # the goal: the arm rests there, and nothing is planned until it is left
        self.slow = False  # plan with a share of full speed
        self.timeline: Timeline | None = None
        self._since_s = -np.inf  # since when the arm's motion is known
        self._known: deque[tuple[float, np.ndarray, np.ndarray]] = deque(maxlen=KNOWN_FRAMES)  # stamp, latent, rad
        self._measured: deque[tuple[float, np.ndarray]] = deque(maxlen=256)  # stamp, (A,) rad
        self._planned = -1  # newest hand-over knot that was planned for
        self._warm: tuple[int, np.ndarray] | None = None  # (hand-over knot, knots (K, A) rad/s) of the plan before
        self._seen: deque[tuple[float, np.ndarray]] = deque(maxlen=256)

    @property
    def active(self) -> bool:
        """Whether the arm is armed: plans are executed."""
        return self.timeline is not None

    def start(self, joint_positions: np.ndarray) -> None:
        """Arms: from now on the commanded motion starts at rest at `joint_positions` (A,) rad."""
        # The grid is laid so that the first plan, made now, has its hand-over as early as it can.
        start_s = self.clock() + START_SLACK_S + self.config.deadline_s + HANDOVER_MARGIN_S - self.block_s
        self.timeline = Timeline(start_s, np.asarray(joint_positions, float), self.knot_limits)
        self._planned, self._warm, self.reached = -1, None, False
        self._since_s = self.clock()
        if not self._known and self._seen:
            frame_s, latent = self._seen[-1]
            position = self._measured_at(frame_s)
            if position is not None:
                self._known.append((frame_s, latent, position))

    def stop(self) -> Trajectory | None:
        """Disarms; returns the smooth stop to execute, or None when the arm was not armed."""
        if self.timeline is None:
            return None
        now, timeline = self.clock(), self.timeline
        self.timeline = None
        return timeline.stop(now, now + HANDOVER_MARGIN_S)

    def preview(self, joint_positions: np.ndarray) -> Decision | None:
        """The plan that an arm at rest at `joint_positions` (A,) rad would begin with. It stays disarmed."""
        self.start(joint_positions)
        decision = self.plan()
        self.timeline, self.reached = None, False
        return decision

    def set_goal(self, latent: np.ndarray | None) -> None:
        """The latent (D,) to reach; None holds position."""
        self.goal, self._warm, self.reached = latent, None, False

    def observe(self, stamp_s: float, latent: np.ndarray) -> None:
        """Takes the latent (D,) of a frame; frames that are not newer than the last one are dropped."""
        if not self._seen or stamp_s > self._seen[-1][0]:
            self._seen.append((stamp_s, latent))

    def measure(self, stamp_s: float, joint_positions: np.ndarray) -> None:
        """Takes measured joint positions (A,) rad; those that are not newer than the last ones are dropped."""
        if not self._measured or stamp_s > self._measured[-1][0]:
            self._measured.append((stamp_s, np.asarray(joint_positions, float)))

    def plan(self) -> Decision | None:
        """Plans from the newest frame; None when there is no goal, or when a newer frame will still be in time."""
        timeline, goal = self.timeline, self.goal
        if timeline is None or goal is None or not self._seen:
            return None
        begin = time.monotonic()
        now, frame_s = self.clock(), self._seen[-1][0]
        needed = self.config.deadline_s + HANDOVER_MARGIN_S
        knot = timeline.knot_at_or_after(now + needed)
        newer_s = now + max(self._frame_period(), START_SLACK_S)
        if knot <= self._planned or timeline.knot_time(knot) - newer_s > needed:
            return None
        if not self.config.while_moving and frame_s < timeline.end_s:
            return None
        handover_s = timeline.knot_time(knot)
        if handover_s - frame_s > (self.config.horizon - 1) * self.block_s:
            return None  # the frame is so old that nothing of the plan would be imagined
        self._planned = knot

        limits = self._slow_limits if self.slow else self.knot_limits
        grid = frame_s + self.spec.control_dt_s * np.arange(self.config.horizon * self.spec.frameskip + 1)
        committed = timeline.sample(np.minimum(grid, handover_s)).positions  # (N, A)
        weights = _path_weights(np.maximum(grid - handover_s, 0.0) / self.block_s, self.config.horizon, self.block_s)
        position, velocity = timeline.state(knot)
        context, past = self._context(frame_s, timeline)

        in_steps = measuring(self.runtime.bundle.heads) == STEPS_TO_GO  # else distances have no scale that is known

        def paths(knots: np.ndarray) -> np.ndarray:
            """Commanded positions (S, N, A) on the grid for knots (S, K, A) rad/s."""
            all_knots = np.concatenate([np.broadcast_to(velocity, (len(knots), 1, len(velocity))), knots], 1)
            return committed + np.einsum("nk,ska->sna", weights, all_knots)

        def actions(knots: np.ndarray) -> np.ndarray:
            """Low-level actions (S, N - 1, A) rad/s."""
            return np.diff(paths(knots), axis=1) / self.spec.control_dt_s

        def imagine(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """Distances (S, H + 1) and latents (S, H, D) that actions (S, N - 1, A) rad/s lead to."""
            blocks = self.spec.normalise(raw).reshape(len(raw), self.config.horizon, -1)
            return self.runtime.rollout(context, past, blocks, goal)

        def feasible(scores: np.ndarray) -> np.ndarray:
            return (limits.project(position, velocity, scores * self.std) / self.std).astype(np.float64)

        def cost(scores: np.ndarray) -> np.ndarray:
            raw = actions(scores * self.std)
            distances, _ = imagine(raw)
            costs = distances[:, 1:].mean(1) + distances[:, -1]
            if in_steps:
                costs = costs + EFFORT * (np.abs(raw) / self.knot_limits.velocity).sum((1, 2))
            return costs

        def decision(knots: np.ndarray, found: Search, late: bool, send: bool) -> Decision:
            """The plan with knots (K, A) rad/s."""
            distances, imagined = imagine(actions(knots[None]))
            return Decision(
                trajectory=self._sampled(timeline, frame_s) if send else None,
                frame_s=frame_s,
                plan_s=time.monotonic() - begin,
                iterations=found.iterations,
                cost=found.cost,
                distance=float(distances[0, 0]),
                imagined=imagined[0],
                joint_path=paths(knots[None])[0],
                late=late,
                saturation=float((np.abs(knots) > 0.99 * limits.velocity).mean()),
                elite_paths=paths(found.elites * self.std),
                costs=found.costs,
            )

        still = np.zeros((self.config.horizon, len(self.mean)))
        calibration = self.runtime.bundle.calibration
        if self.reached and calibration is not None:
            none = Search(still, 0.0, 0, elites=still[None][:0], costs=np.zeros(0))
            rest = decision(still, none, late=False, send=False)
            if rest.distance <= calibration.left:
                return rest
        if POLICY in self.runtime.bundle.heads:
            found = self._follow(
                context, past, goal, knot, position, velocity, limits, actions, lambda knots: imagine(actions(knots))
            )
        else:
            warm = self._warm_start(knot)
            way = self._proposal(context[-1], goal, committed[0], position, velocity, limits, otherwise=warm)
            width = self.config.initial_std
            if in_steps:
                whole_way = self.config.horizon * self.spec.frameskip * WIDE_SEARCH
                width *= float(np.clip(imagine(actions(still[None]))[0][0, 0] / whole_way, NARROWEST, 1.0))
            guesses = np.stack([still, warm / self.std])
            left_s = self.config.deadline_s - (time.monotonic() - begin)
            found = search(self.config, way / self.std, width, guesses, feasible, cost, self.rng, left_s)
        knots = found.knots * self.std
        self._warm = (knot, knots)
        late = self.clock() > handover_s - HANDOVER_MARGIN_S
        if not late:
            timeline.splice(knot, knots[:1] if self.config.while_moving else knots)
        plan = decision(knots, found, late, send=not late)
        near = calibration is not None and plan.distance <= calibration.reached
        self.reached = near and self._rests(velocity, knots)
        return plan

    def surprise(self) -> float | None:
        """How many times as unlike as usual the newest frame is to what was imagined for it one block before.

        None where the bundle is not calibrated, the arm was not commanded for a block, or no frame lies that far back.
        Frames that show a motion as imagined are remembered for `sees_the_arm`.
        """
        calibration = self.runtime.bundle.calibration
        if not self._seen or calibration is None:
            return None
        frame_s, latent = self._seen[-1]
        stamps = np.array([stamp for stamp, _ in self._seen])
        base_s = float(stamps[np.abs(stamps - (frame_s - self.block_s)).argmin()])
        if abs(frame_s - self.block_s - base_s) > 0.25 * self.block_s or base_s < self._since_s:
            return None
        # The way that was commanded from one frame to the other, spread over the steps of a block.
        grid = np.linspace(base_s, frame_s, self.spec.frameskip + 1)
        blocks = np.repeat(self.spec.still[None, None], self.config.horizon, axis=1)
        if self.timeline is not None:
            raw = np.diff(self.timeline.sample(grid).positions, axis=0) / self.spec.control_dt_s
            blocks[0, 0] = self.spec.normalise(raw).reshape(-1)
        context, past = self._context(base_s, self.timeline)
        _, imagined = self.runtime.rollout(context, past, blocks, latent)
        error, change = (float(np.square(imagined[0, 0] - other).mean()) for other in (latent, context[-1]))
        surprise = float(calibration.surprise(error, change))
        apart = not self._known or frame_s - self._known[-1][0] >= self.block_s
        position = self._measured_at(frame_s)
        if position is not None and surprise <= 1.0 and change > LIVELY and apart:
            self._known.append((frame_s, latent, position))
        return surprise

    def sees_the_arm(self) -> bool:
        """Whether the newest frame shows the arm where the joints are.

        A frozen or covered camera surprises nobody once the arm rests. But frames from before, that showed a motion as
        imagined, lie as many steps from this one as the joints have moved since: at least most of them, since the model
        errs now and then, and an arm at rest would be held by one error for ever. True where that cannot be told.
        """
        frame_s = self._seen[-1][0]
        position = self._measured_at(frame_s)
        if measuring(self.runtime.bundle.heads) != STEPS_TO_GO or position is None or not self._known:
            return True
        context, past = self._context(frame_s, None)
        still = np.repeat(self.spec.still[None, None], self.config.horizon, axis=1)
        off = []
        for _, known, then in self._known:
            distances, _ = self.runtime.rollout(context, past, still, known)
            way = np.linalg.norm((position - then) / self.spec.full_step)
            off.append(abs(float(distances[0, 0]) - way))
        return bool(np.median(off) <= AGREES_STEPS)

    def _measured_at(self, time_s: float) -> np.ndarray | None:
        """Joint positions (A,) rad between those that were measured before and after; None where there are none."""
        times = np.array([stamp for stamp, _ in self._measured])
        if not len(times) or not times[0] <= time_s <= times[-1] + self.spec.control_dt_s:
            return None
        positions = np.stack([position for _, position in self._measured])
        return np.array([np.interp(time_s, times, column) for column in positions.T])

    def trust(self) -> None:
        """A person vouches for what the camera sees from now on."""
        self._known.clear()

    def _proposal(
        self,
        latent: np.ndarray,
        goal: np.ndarray,
        now: np.ndarray,
        position: np.ndarray,
        velocity: np.ndarray,
        limits: KnotLimits,
        otherwise: np.ndarray,
    ) -> np.ndarray:
        """Knots (K, A) rad/s that go straight to the goal and stop there; `otherwise` where the bundle has no proposal.

        `now` (A,) is commanded at the frame, `position` and `velocity` (A,) at the hand-over.
        """
        if "proposal" not in self.runtime.bundle.heads:
            return otherwise
        block = self.runtime.propose(latent[None], goal, np.array([FAR_STEPS])).reshape(self.spec.frameskip, -1)
        way = (block * self.std + self.mean).mean(0) * FAR_STEPS * self.spec.control_dt_s  # rad, from the frame on
        left, knots = now + way - position, []
        for _ in range(self.config.horizon):
            # The speed from which a stop in one more block ends at the goal.
            wanted = left / self.block_s - 0.5 * velocity
            knot = limits.project(position, velocity, wanted[None, None])[0, 0]
            step = 0.5 * self.block_s * (velocity + knot)
            position, left, velocity = position + step, left - step, knot
            knots.append(knot)
        return np.stack(knots)

    def _follow(
        self,
        context: np.ndarray,
        past: np.ndarray,
        goal: np.ndarray,
        knot: int,
        position: np.ndarray,
        velocity: np.ndarray,
        limits: KnotLimits,
        actions: Callable[[np.ndarray], np.ndarray],
        imagine: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    ) -> Search:
        """Follows the policy of play in imagination, on `samples` ways at once; the best ends nearest to the goal.

        A policy is in two minds at times, and the mean of two ways is to stand still. The first way is what it
        proposes, the others stray from it, and the last is the rest of the plan before, which is kept in doubt unless
        it stands still. An arm that would be at the goal by standing still does so.
        `context` (h, D) and `past` (h - 1, E) are `_context`'s, `position` and `velocity` (A,) are commanded at the
        hand-over `knot`; `actions` takes knots (S, K, A) rad/s to low-level actions (S, K * frameskip, A) rad/s from
        the frame on, `imagine` to distances (S, K + 1) and latents (S, K, D). No deadline cuts it short: it takes as
        long for every picture.
        """
        ways, horizon = self.config.samples, self.config.horizon
        skip, joints = self.spec.frameskip, len(self.mean)
        calibration = self.runtime.bundle.calibration
        if calibration is not None:
            still = limits.project(position, velocity, np.zeros((1, horizon, joints)))
            near = float(imagine(still)[0][0, -1])
            if near <= calibration.reached:  # a policy of play does not rest by itself
                return Search(still[0] / self.std, near, 1, still / self.std, np.array([near]))
        noise = STRAYS * coloured_noise(self.rng, (ways, horizon, joints), self.config.noise_colour)
        noise[0] = 0.0
        left = np.where(np.arange(ways) % 2, self.rng.uniform(*HURRIES, ways), np.inf)
        before = self._warm[1][knot - self._warm[0] :] if self._warm is not None and ways > 1 else np.zeros((0, joints))
        if self._rests(velocity, before):
            before = before[:0]  # a plan that has come to nothing is dropped
        contexts, done = np.repeat(context[None], ways, 0), np.repeat(past[None], ways, 0)
        knots = np.zeros((ways, horizon, joints))
        for k in range(horizon):
            steps = np.where(np.isinf(left), UNKNOWN_STEPS, np.maximum(left - skip * k, 1.0))
            proposed = self.runtime.propose(contexts[:, -1], goal, steps)
            wanted = proposed.reshape(ways, skip, joints)[:, -1] + noise[:, k]
            knots[:, k:] = (wanted * self.std + self.mean)[:, None]
            if len(before):
                knots[-1] = np.pad(before, ((0, horizon - len(before)), (0, 0)), "edge")
            knots = limits.project(position, velocity, knots)
            block = self.spec.normalise(actions(knots)[:, k * skip : (k + 1) * skip]).reshape(ways, 1, -1)
            latents = self.runtime.step(contexts, done, block[:, 0])
            contexts = np.concatenate([contexts[:, 1:], latents[:, None]], 1)
            done = np.concatenate([done, block], 1)[:, 1:]
        costs = imagine(knots)[0][:, -1]
        if len(before):
            costs = costs * np.where(np.arange(ways) == ways - 1, KEPT, 1.0)
        order = np.argsort(costs)
        best = knots[order] / self.std
        return Search(best[0], float(costs[order[0]]), 1, best[: self.config.elites], costs[order[:1]])

    def _rests(self, velocity: np.ndarray, knots: np.ndarray) -> bool:
        """Whether an arm rests at `velocity` (A,) rad/s, and goes on to rest at the first of `knots` (K, A) rad/s."""
        return bool((np.abs([velocity, *knots[:1]]) <= RESTING * self.knot_limits.velocity).all())

    def _frame_period(self) -> float:
        """Median time between the newest frames; 0 while there are too few to know."""
        stamps = [stamp for stamp, _ in list(self._seen)[-9:]]
        return float(np.median(np.diff(stamps))) if len(stamps) > 2 else 0.0

    def _warm_start(self, knot: int) -> np.ndarray:
        """Mean of the first iteration (K, A) rad/s: the plan before, shifted to this hand-over, and rest after it."""
        mean = np.zeros((self.config.horizon, len(self.mean)))
        if self._warm is not None:
            shifted = self._warm[1][knot - self._warm[0] :]
            mean[: len(shifted)] = shifted
        return mean

    def _context(self, frame_s: float, timeline: Timeline | None) -> tuple[np.ndarray, np.ndarray]:
        """Latents (h, D) one block apart up to the frame, and the z-scored blocks (h - 1, E) commanded between them.

        Where no frame lies that far back, the oldest one stands in: the arm was at rest before it started. Without a
        timeline it rests.
        """
        history = self.runtime.bundle.model.history
        stamps = np.array([stamp for stamp, _ in self._seen])
        wanted = frame_s - self.block_s * np.arange(history - 1, -1, -1)
        nearest = np.abs(stamps[:, None] - wanted).argmin(0)
        context = np.stack([self._seen[i][1] for i in nearest])
        grid = frame_s - self.spec.control_dt_s * np.arange((history - 1) * self.spec.frameskip, -1, -1)
        actions: np.ndarray = np.zeros((len(grid) - 1, len(self.mean)))
        if timeline is not None:
            actions = np.diff(timeline.sample(grid).positions, axis=0) / self.spec.control_dt_s
        return context, self.spec.normalise(actions).reshape(history - 1, self.runtime.bundle.model.block_dim)

    def _sampled(self, timeline: Timeline, start_s: float) -> Trajectory:
        """The motion from `start_s` to its end at rest, one point a control step."""
        steps = int(np.ceil((timeline.end_s - start_s) / self.spec.control_dt_s)) + 1
        return timeline.sample(start_s + self.spec.control_dt_s * np.arange(max(steps, 1) + 1))


def _path_weights(phase: np.ndarray, knots: int, block_s: float) -> np.ndarray:
    """Weights (N, knots + 1) that turn knot velocities, the hand-over's first, into the way after `phase` blocks."""
    u = np.clip(phase[:, None] - np.arange(knots), 0.0, 1.0)  # (N, knots): how much of each block has passed
    after = block_s * (u**3 - u**4 / 2)
    before = block_s * u - after
    weights = np.zeros((len(phase), knots + 1))
    weights[:, :-1] += before
    weights[:, 1:] += after
    return weights
