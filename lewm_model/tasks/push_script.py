# SPDX-License-Identifier: Apache-2.0
"""Play with the object, as a person who moves the arm by hand would: wander, go behind the object, push it, back off.

The scripted policy sees where the object is (a person does); what is recorded are pictures and actions alone. It knows
no goal picture and gets no reward: where it pushes to is drawn at random, and it strays from its way now and then.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from lewm_model.bundle.bundle import load_bundle
from lewm_model.config import POLICY_PLAN
from lewm_model.planning.motion import KnotLimits, Timeline
from lewm_model.planning.random_motion import BLOCK_STEPS, random_velocities
from lewm_model.runtime import Runtime, load_runtime
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.closed_loop import drive

# Where the object is put and pushed to, in polar coordinates about the arm's base, m and rad, where the tip gets round.
RADII, ANGLES = (0.32, 0.47), (-1.3, 1.3)
# Where recordings put and push it now and then as well: from most of it the policy brings it back, and who pushes less
# well than the policy gets it there.
EDGE_RADII, EDGE_ANGLES = (0.27, 0.51), (-1.55, 1.65)
EDGE = 0.3  # probability of that
PUSH_M = (0.08, 0.30)  # how far it is pushed
TRIES = 1000  # to draw such a target
OBJECT_HEIGHT_M = 0.025  # of its middle, on the table
CONTACT_M = 0.042 + 0.025  # from the tip's axis to the object's middle when they touch face on
ROUND_M = 0.115  # from the object's middle, where the tip goes round it
TIP_RADII = (0.262, 0.545)  # that the tip reaches, with a little to spare
TIP_ANGLES = (-1.65, 1.8)  # of poses that the arm starts from and goes to between pushes
MIDDLE_M = 0.4  # between them
REACH_SPEED, PUSH_SPEED = 0.40, 0.16  # m/s of the tip
BESIDE_M = (0.015, 0.032)  # beside the line through object and target: less begins a push, more ends it
NEAR_M = 0.012  # from the target: the push is over
LEAD_S = (1.0, 12.0)  # for which the robot moves the arm before play goes on from there
STRAY = 0.08  # probability, each action block, that it strays while it goes or pushes; it then shows the way back
WANDER, REACH = 0.12, 0.2  # probabilities that an episode begins with wandering, and that no push follows a rest


def random_place(rng: np.random.Generator, edge: bool = False) -> np.ndarray:
    """A position (2,) m for the object's middle, evenly over the part of the table that is played on; with its `edge`
    now and then.
    """
    wide = edge and rng.random() < EDGE
    radii, angles = (EDGE_RADII, EDGE_ANGLES) if wide else (RADII, ANGLES)
    radius, angle = math.sqrt(rng.uniform(radii[0] ** 2, radii[1] ** 2)), rng.uniform(*angles)
    return radius * np.array([math.cos(angle), math.sin(angle)])


def place_object(sim: ArmSim, name: str, position: np.ndarray, yaw: float) -> None:
    """Puts the object at (2,) m on the table, turned by `yaw` rad."""
    sim.set_object_pose(name, [*position, OBJECT_HEIGHT_M, math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)])


class ScriptedPush:
    """Chooses the next velocity knot from where arm and object are. For a planar arm whose shoulder is the origin.

    :param what: the object's name.
    """

    def __init__(self, sim: ArmSim, rng: np.random.Generator, what: str, roam: bool = True) -> None:
        self.sim, self.rng, self.what, self.roam = sim, rng, what, roam
        self.block_s = BLOCK_STEPS * sim.control_dt_s
        self.limits = KnotLimits(sim.limits, self.block_s)
        self.upper_m, self.lower_m = sim.end_effector([0.0, 0.5 * math.pi])[:2]  # the two links
        self.stray: np.ndarray = np.zeros(2)
        self.stray_left = 0
        self.pushing, self.turn = False, 0.0
        self.target: np.ndarray | None = None
        self.pose = np.zeros(2)
        self.wandering = np.zeros((0, 2))
        self.phase, self.left = "wander" if roam and rng.random() < WANDER else "push", 0

    def play(self, steps: int, look: Callable[[], None], until: Callable[[ScriptedPush], bool]) -> np.ndarray:
        """Plays from the simulation's state on; see `play`."""
        sim, dt = self.sim, self.sim.control_dt_s
        timeline = Timeline(0.0, sim.joint_positions().copy(), self.limits)
        commanded = [timeline.state(0)[0]]
        for step in range(steps):
            if step % BLOCK_STEPS == 0:
                if until(self):
                    break
                knot = step // BLOCK_STEPS
                timeline.splice(knot, self.knot(*timeline.state(knot), sim.object_pose(self.what)[:2])[None])
                motion = timeline.sample(dt * (step + np.arange(2 * BLOCK_STEPS + 1)))
                sim.set_trajectory(motion.times_s - motion.times_s[0], motion.positions, motion.velocities)
                commanded += list(motion.positions[1 : BLOCK_STEPS + 1])
            sim.step(dt)
            look()
        return np.diff(np.array(commanded)[: steps + 1], axis=0) / dt

    def joints_for(self, tip: np.ndarray) -> np.ndarray:
        """Joint positions (2,) rad with the tip at (2,) m or as near as it reaches, the elbow always on one side."""
        radius = float(np.clip(np.hypot(*tip), *TIP_RADII))
        a, b = self.upper_m, self.lower_m
        elbow = math.acos((radius**2 - a * a - b * b) / (2 * a * b))
        inner = math.atan2(b * math.sin(elbow), a + b * math.cos(elbow))
        return np.array([math.atan2(tip[1], tip[0]) - inner, elbow])

    def random_pose(self, place: np.ndarray) -> np.ndarray:
        """A pose (2,) rad whose tip is clear of the object."""
        while True:
            radius, angle = self.rng.uniform(*TIP_RADII), self.rng.uniform(*TIP_ANGLES)
            tip = radius * np.array([math.cos(angle), math.sin(angle)])
            if np.linalg.norm(tip - place) > ROUND_M:
                return self.joints_for(tip)

    def random_target(self, place: np.ndarray, edge: bool = False) -> np.ndarray:
        """Where to push the object next (2,) m."""
        target = place
        for _ in range(TRIES):  # an object may be too far from everywhere
            target = random_place(self.rng, edge)
            if PUSH_M[0] < np.linalg.norm(target - place) < PUSH_M[1]:
                break
        return target

    def knot(self, position: np.ndarray, velocity: np.ndarray, place: np.ndarray) -> np.ndarray:
        """The velocity (2,) rad/s at the next knot, from the commanded state at this one and the object (2,) m."""
        wanted = self._wanted(position, velocity, self.sim.end_effector(position)[:2], place)
        return self.limits.project(position, velocity, wanted[None, None])[0, 0]

    def _wanted(self, position: np.ndarray, velocity: np.ndarray, tip: np.ndarray, place: np.ndarray) -> np.ndarray:
        if self.phase == "wander":
            if self.left == 0 and len(self.wandering) == 0:
                self.left = int(self.rng.integers(3, 9))
                self.wandering = random_velocities(self.rng, position, self.left, self.limits)
            self.left -= 1
            if self.left == 0:
                self.phase = "push"
            return self.wandering[-1 - self.left]
        if self.phase == "push":
            if self.target is None:
                self.target = self.random_target(place, self.roam)
            if np.linalg.norm(self.target - place) < NEAR_M:
                self.phase, self.left = "back", 3
            else:
                return self._towards(position, tip + self.block_s * self._push(tip, place, self.target))
        if self.phase == "back":
            self.left -= 1
            if self.left > 0:
                away = tip - place
                if np.linalg.norm(away) < ROUND_M:
                    step = away / np.linalg.norm(away) * 0.05
                    return self._towards(position, tip + step)
            self.phase, self.left = "rest", int(self.rng.integers(2, 5))
        if self.phase == "rest":
            self.left -= 1
            if self.left > 0:
                return np.zeros(2)
            self.phase = "reach" if self.rng.random() < REACH else "push"
            self.target, self.pushing = None, False
            self.pose = self.random_pose(place)
            return np.zeros(2)
        # reach: to a pose, the tip round the object
        goal = self.sim.end_effector(self.pose)[:2]
        if np.linalg.norm(goal - tip) < 0.02:
            self.phase, self.left = "rest", int(self.rng.integers(2, 8))
            return np.zeros(2)
        return self._towards(position, tip + self.block_s * self._go(tip, goal, place))

    def _towards(self, position: np.ndarray, tip: np.ndarray) -> np.ndarray:
        return (self.joints_for(tip) - position) / self.block_s

    def _push(self, tip: np.ndarray, place: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Velocity (2,) m/s of the tip that pushes the object towards `target`, or goes behind it to do so."""
        if self.stray_left == 0 and self.rng.random() < STRAY:
            self.stray_left = int(self.rng.integers(1, 4))
            self.stray = self.rng.uniform(-0.2, 0.2, 2)
        if self.stray_left:
            self.stray_left -= 1
            return self.stray
        way = target - place
        u = way / np.linalg.norm(way)
        relative = tip - place
        along = float(relative @ u)
        across = relative - along * u
        beside = BESIDE_M[1] if self.pushing else BESIDE_M[0]
        self.pushing = bool(-0.13 < along < -0.045 and np.linalg.norm(across) < beside)
        if self.pushing:
            touching = along > -(CONTACT_M + 0.01)
            left = float(np.linalg.norm(way)) if touching else -along - CONTACT_M + 0.03
            return u * min(PUSH_SPEED, 0.03 + 1.5 * left) - 2.5 * across
        return self._go(tip, place - u * (CONTACT_M + 0.025), place)

    def _go(self, tip: np.ndarray, goal: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Velocity (2,) m/s of the tip that goes to `goal`, round the object where that is in the way.

        Ways are planned in a plane of arc (at MIDDLE_M from the base) and radius, where what the tip reaches is a strip
        without a hole.
        """
        tip_flat, goal_flat, place_flat = (_flat(point) for point in (tip, goal, place))
        way = goal_flat - tip_flat
        length = float(np.linalg.norm(way)) + 1e-9
        along = float(np.clip((place_flat - tip_flat) @ way / length, 0.0, length))
        clear = np.linalg.norm(tip_flat + way / length * along - place_flat) > 0.8 * ROUND_M
        if clear or along in (0.0, length):
            self.turn = 0.0
            flat: np.ndarray = way / length * min(REACH_SPEED, 0.02 + 3.0 * length)
        else:
            here, there = (math.atan2(*(point - place_flat)[::-1]) for point in (tip_flat, goal_flat))
            if self.turn == 0.0:  # choose the side once: the shorter one that the tip reaches
                ways = {sign: (sign * (there - here)) % (2 * math.pi) for sign in (1.0, -1.0)}
                out = {sign: _outside(place_flat, here, sign * angle) for sign, angle in ways.items()}
                self.turn = min(ways, key=lambda sign: ways[sign] + 20.0 * out[sign])
            radius = max(ROUND_M, 0.5 * (ROUND_M + float(np.linalg.norm(tip_flat - place_flat))))
            ahead = here + self.turn * 0.8
            round_it = np.array([math.cos(ahead), math.sin(ahead)])
            step: np.ndarray = place_flat + radius * round_it - tip_flat
            flat = step / (np.linalg.norm(step) + 1e-9) * REACH_SPEED
        outwards = tip / np.linalg.norm(tip)
        sideways = np.array([-outwards[1], outwards[0]])
        return flat[0] * np.linalg.norm(tip) / MIDDLE_M * sideways + flat[1] * outwards


def _flat(point: np.ndarray) -> np.ndarray:
    """(2,) m -> arc at MIDDLE_M and radius, (2,) m."""
    return np.array([MIDDLE_M * math.atan2(point[1], point[0]), np.hypot(*point)])


def _outside(place: np.ndarray, start: float, turn: float) -> float:
    """How far, m, the tip would have to leave its reach on an arc round the object, all in the plane of `_flat`."""
    radii = place[1] + ROUND_M * np.sin(start + turn * np.linspace(0.0, 1.0, 9))
    return float(np.maximum(radii - TIP_RADII[1], TIP_RADII[0] - radii).clip(0.0).max())


def play(
    sim: ArmSim,
    rng: np.random.Generator,
    what: str,
    steps: int,
    look: Callable[[], None] = lambda: None,
    roam: bool = True,
    until: Callable[[ScriptedPush], bool] = lambda policy: False,
    runtime: Runtime | None = None,
) -> np.ndarray:
    """Plays with the object `what` for `steps` control steps from a random start, or until `until` holds at a knot.

    `look` is called at the start and after every step. One that does not `roam` pushes at once, and only on the part of
    the table where goals lie. With a `runtime` whose bundle has a policy, the robot moves first, unseen, towards a goal
    picture; the scripted policy takes over where it got to and brings the object to that goal. So the next training has
    the ways out of what this one runs into.

    :return: actions (steps, A) rad/s, mean commanded velocities.
    """
    policy = ScriptedPush(sim, rng, what, roam)
    place = random_place(rng, roam)
    sim.reset(joint_positions=policy.random_pose(place))
    place_object(sim, what, place, rng.uniform(-math.pi, math.pi))
    if runtime is not None:
        _lead(sim, rng, policy, runtime)
    look()
    return policy.play(steps, look, until)


def _lead(sim: ArmSim, rng: np.random.Generator, policy: ScriptedPush, runtime: Runtime) -> None:
    """The robot moves arm and object towards a random goal picture for a random time, then the arm comes to rest.

    The scripted policy is left with that goal as its target.
    """
    before = sim.state()
    target = policy.target = policy.random_target(before.objects[policy.what][:2])
    sim.reset(joint_positions=policy.random_pose(target))
    place_object(sim, policy.what, target, rng.uniform(-math.pi, math.pi))
    goal = runtime.encode(sim.picture(runtime.bundle.observation))
    sim.put(before)
    seed, budget_s = int(rng.integers(2**32)), float(rng.uniform(*LEAD_S))
    drive(sim, runtime, POLICY_PLAN, seed, goal, lambda: 0.0, budget_s)
    sim.step(policy.limits.longest_stop_s)  # every motion that was sent ends in a stop


@dataclass(frozen=True)
class Play:
    """Play as a motion of :class:`lewm_model.sim.collect.Motion`: what a model learns to push from.

    :param what: the object's name.
    :param policy: bundle with a policy, which moves the arm first; play begins where it got to.
    """

    what: str
    policy: Path | None = None
    kind: str = "play"

    @property
    def arguments(self) -> tuple[str, ...]:
        return "--task", "push", *(() if self.policy is None else ("--policy", str(self.policy)))

    def __call__(
        self, sim: ArmSim, rng: np.random.Generator, steps: int, look: Callable[[], None] = lambda: None
    ) -> np.ndarray:
        return play(sim, rng, self.what, steps, look, runtime=None if self.policy is None else _loaded(self.policy))


@cache
def _loaded(policy: Path) -> Runtime:
    """Once for all episodes that a process records."""
    return load_runtime(load_bundle(policy), build_engines=False)
