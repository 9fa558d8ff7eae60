# SPDX-License-Identifier: Apache-2.0
"""The scripted policy of the push task, which plays with the object: it wanders, goes behind the object, pushes it to
a random target and backs off.

The policy knows the position of the object; recorded are only pictures and actions. It has no goal picture and no
reward, and sometimes strays from its way.
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

TRIES = 1000  # draws of a target before one at any distance is taken
# Position of the tip along the line from object to target in which it pushes: behind the object, m.
BEHIND_M = (-0.13, -0.045)
LEAD_S = (1.0, 12.0)  # range of times for which a model's policy moves the arm before the scripted policy takes over
# Probability, in each action block while it goes or pushes, that it strays: recordings then show the way back.
STRAY = 0.08
WANDER, REACH = 0.12, 0.2  # probabilities that an episode begins with wandering, and that no push follows a rest


@dataclass(frozen=True)
class PushSetup:
    """Dimensions of arm, object and table for the scripted policy. For a planar arm whose base is the origin; places on
    the table are in polar coordinates about it, m and rad.
    """

    radii_m: tuple[float, float]  # of the object's centre, at the start and at a target, where the tip can go round it
    angles_rad: tuple[float, float]
    # The same out to the edge of what the tip reaches. Recordings show that too, since a model's policy, which pushes
    # less well, gets the object there and has to bring it back.
    edge_radii_m: tuple[float, float]
    edge_angles_rad: tuple[float, float]
    tip_radii_m: tuple[float, float]  # that the tip reaches, with a small margin
    middle_m: float  # between these, about
    tip_angles_rad: tuple[float, float]  # of poses to start from, and to go to between pushes
    contact_m: float  # from the tip's axis to the object's centre when the tip touches a face of the object
    round_m: float  # from the object's centre to the tip while that goes round it
    edge: float = 0.3  # probability that a place is near the edge
    push_m: tuple[float, float] = (0.08, 0.30)  # distance of a target from the object
    reach_speed: float = 0.40  # m/s of the tip
    push_speed: float = 0.16  # m/s of the tip
    # From the line through object and target to the tip: a push begins below the first, and ends above the second.
    beside_m: tuple[float, float] = (0.015, 0.032)
    near_m: float = 0.012  # from the target: the push is over

    def random_place(self, rng: np.random.Generator, edge: bool = False) -> np.ndarray:
        """A random position (2,) m for the object's centre, uniform over the area, or with `edge` sometimes beyond."""
        wide = edge and rng.random() < self.edge
        radii, angles = (self.edge_radii_m, self.edge_angles_rad) if wide else (self.radii_m, self.angles_rad)
        radius, angle = math.sqrt(rng.uniform(radii[0] ** 2, radii[1] ** 2)), rng.uniform(*angles)
        return radius * np.array([math.cos(angle), math.sin(angle)])


def place_object(sim: ArmSim, name: str, position: np.ndarray, yaw: float) -> None:
    """Puts the object at (2,) m, turned by `yaw` rad, at the height that it has now."""
    height_m = sim.object_pose(name)[2]
    sim.set_object_pose(name, [*position, height_m, math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)])


class ScriptedPush:
    """Chooses the next velocity knot from the positions of arm and object.

    :param what: the object's name.
    :param roam: False begins with a push, and pushes only to where goals are.
    """

    def __init__(self, sim: ArmSim, rng: np.random.Generator, what: str, setup: PushSetup, roam: bool = True) -> None:
        self.sim, self.rng, self.what, self.setup, self.roam = sim, rng, what, setup, roam
        self.block_s = BLOCK_STEPS * sim.control_dt_s
        self.limits = KnotLimits(sim.limits, self.block_s)
        self.upper_m, self.lower_m = sim.end_effector([0.0, 0.5 * math.pi])[:2]  # lengths of the two links
        self.stray: np.ndarray = np.zeros(2)
        self.stray_left = 0  # action blocks for which it still strays
        self.pushing = False
        self.turn = 0.0  # sign of the direction in which it goes round the object; 0 while it does not
        self.target: np.ndarray | None = None
        self.pose = np.zeros(2)
        self.wandering = np.zeros((0, 2))
        self.phase, self.left = "wander" if roam and rng.random() < WANDER else "push", 0

    def play(self, steps: int, look: Callable[[], None], until: Callable[[ScriptedPush], bool]) -> np.ndarray:
        """Plays from the present state of the simulation; as :func:`play`."""
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
        """Joint positions (2,) rad with the tip at (2,) m, or as near as it reaches; the elbow stays on its side."""
        radius = float(np.clip(np.hypot(*tip), *self.setup.tip_radii_m))
        a, b = self.upper_m, self.lower_m
        elbow = math.acos((radius**2 - a * a - b * b) / (2 * a * b))
        inner = math.atan2(b * math.sin(elbow), a + b * math.cos(elbow))
        return np.array([math.atan2(tip[1], tip[0]) - inner, elbow])

    def random_pose(self, place: np.ndarray) -> np.ndarray:
        """A pose (2,) rad whose tip is clear of the object."""
        while True:
            radius, angle = self.rng.uniform(*self.setup.tip_radii_m), self.rng.uniform(*self.setup.tip_angles_rad)
            tip = radius * np.array([math.cos(angle), math.sin(angle)])
            if np.linalg.norm(tip - place) > self.setup.round_m:
                return self.joints_for(tip)

    def random_target(self, place: np.ndarray, edge: bool = False) -> np.ndarray:
        """A random target (2,) m for the object at `place` (2,) m."""
        target, (nearest, farthest) = place, self.setup.push_m
        for _ in range(TRIES):  # an object may be too far from every target
            target = self.setup.random_place(self.rng, edge)
            if nearest < np.linalg.norm(target - place) < farthest:
                break
        return target

    def knot(self, position: np.ndarray, velocity: np.ndarray, place: np.ndarray) -> np.ndarray:
        """The velocity (2,) rad/s at the next knot, for the commanded state at this one and the object at (2,) m."""
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
            if np.linalg.norm(self.target - place) < self.setup.near_m:
                self.phase, self.left = "back", 3
            else:
                return self._towards(position, tip + self.block_s * self._push(tip, place, self.target))
        if self.phase == "back":
            self.left -= 1
            if self.left > 0:
                away = tip - place
                if np.linalg.norm(away) < self.setup.round_m:
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
        # phase "reach": to a pose, with the tip going round the object
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
        setup, way = self.setup, target - place
        u = way / np.linalg.norm(way)
        relative = tip - place
        along = float(relative @ u)
        across = relative - along * u
        beside = setup.beside_m[1] if self.pushing else setup.beside_m[0]
        self.pushing = bool(BEHIND_M[0] < along < BEHIND_M[1] and np.linalg.norm(across) < beside)
        if self.pushing:
            touching = along > -(setup.contact_m + 0.01)
            left = float(np.linalg.norm(way)) if touching else -along - setup.contact_m + 0.03
            return u * min(setup.push_speed, 0.03 + 1.5 * left) - 2.5 * across
        return self._go(tip, place - u * (setup.contact_m + 0.025), place)

    def _go(self, tip: np.ndarray, goal: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Velocity (2,) m/s of the tip that goes to `goal`, round the object if that is in the way.

        The way is planned in a plane of arc (at `middle_m` from the base) and radius, in which the ring that the tip
        reaches is a strip without a hole.
        """
        setup = self.setup
        tip_flat, goal_flat, place_flat = (self._flat(point) for point in (tip, goal, place))
        way = goal_flat - tip_flat
        length = float(np.linalg.norm(way)) + 1e-9
        along = float(np.clip((place_flat - tip_flat) @ way / length, 0.0, length))
        clear = np.linalg.norm(tip_flat + way / length * along - place_flat) > 0.8 * setup.round_m
        if clear or along in (0.0, length):
            self.turn = 0.0
            flat: np.ndarray = way / length * min(setup.reach_speed, 0.02 + 3.0 * length)
        else:
            here, there = (math.atan2(*(point - place_flat)[::-1]) for point in (tip_flat, goal_flat))
            if self.turn == 0.0:  # chosen once: the shorter way round that the tip reaches
                ways = {sign: (sign * (there - here)) % (2 * math.pi) for sign in (1.0, -1.0)}
                out = {sign: self._outside(place_flat, here, sign * angle) for sign, angle in ways.items()}
                self.turn = min(ways, key=lambda sign: ways[sign] + 20.0 * out[sign])
            radius = max(setup.round_m, 0.5 * (setup.round_m + float(np.linalg.norm(tip_flat - place_flat))))
            ahead = here + self.turn * 0.8
            round_it = np.array([math.cos(ahead), math.sin(ahead)])
            step: np.ndarray = place_flat + radius * round_it - tip_flat
            flat = step / (np.linalg.norm(step) + 1e-9) * setup.reach_speed
        outwards = tip / np.linalg.norm(tip)
        sideways = np.array([-outwards[1], outwards[0]])
        return flat[0] * np.linalg.norm(tip) / setup.middle_m * sideways + flat[1] * outwards

    def _flat(self, point: np.ndarray) -> np.ndarray:
        """(2,) m -> arc at `middle_m` and radius, (2,) m."""
        return np.array([self.setup.middle_m * math.atan2(point[1], point[0]), np.hypot(*point)])

    def _outside(self, place: np.ndarray, start: float, turn: float) -> float:
        """How far, m, the tip would leave its reach on an arc round the object, in the plane of `_flat`; the arc begins
        at the angle `start` and has the angle `turn`, rad.
        """
        nearest, farthest = self.setup.tip_radii_m
        radii = place[1] + self.setup.round_m * np.sin(start + turn * np.linspace(0.0, 1.0, 9))
        return float(np.maximum(radii - farthest, nearest - radii).clip(0.0).max())


def play(
    sim: ArmSim,
    rng: np.random.Generator,
    what: str,
    setup: PushSetup,
    steps: int,
    look: Callable[[], None] = lambda: None,
    roam: bool = True,
    until: Callable[[ScriptedPush], bool] = lambda policy: False,
    runtime: Runtime | None = None,
) -> np.ndarray:
    """Plays with the object `what` for `steps` control steps from a random start, or until `until` is true at a knot.

    :param look: called at the start and after every step.
    :param roam: as in :class:`ScriptedPush`.
    :param runtime: back end of a bundle with a policy, which first moves arm and object towards a goal picture without
        being recorded. The scripted policy continues from there to the same goal, so that the next training learns
        how to get out of the situations that this policy gets into.
    :return: actions (steps, A) rad/s, mean commanded velocities.
    """
    policy = ScriptedPush(sim, rng, what, setup, roam)
    place = setup.random_place(rng, roam)
    sim.reset(joint_positions=policy.random_pose(place))
    place_object(sim, what, place, rng.uniform(-math.pi, math.pi))
    if runtime is not None:
        _lead(sim, rng, policy, runtime)
    look()
    return policy.play(steps, look, until)


def _lead(sim: ArmSim, rng: np.random.Generator, policy: ScriptedPush, runtime: Runtime) -> None:
    """Lets the bundle's policy move arm and object towards a random goal picture for a random time, until the arm rests
    again; the target of the scripted policy becomes that goal.
    """
    before = sim.state()
    target = policy.target = policy.random_target(before.objects[policy.what][:2])
    sim.reset(joint_positions=policy.random_pose(target))
    place_object(sim, policy.what, target, rng.uniform(-math.pi, math.pi))
    goal = runtime.encode(sim.picture(runtime.bundle.observation))
    sim.put(before)
    seed, budget_s = int(rng.integers(2**32)), float(rng.uniform(*LEAD_S))
    drive(sim, runtime, POLICY_PLAN, seed, goal, lambda: 0.0, budget_s)
    sim.step(policy.limits.longest_stop_s)  # until the stop in which every commanded motion ends is over


@dataclass(frozen=True)
class Play:
    """Play as a :class:`lewm_model.sim.collect.Motion`, from which a model learns to push.

    :param what: the object's name.
    :param policy: bundle with a policy, which moves the arm first; see :func:`play`.
    """

    what: str
    setup: PushSetup
    policy: Path | None = None
    kind: str = "play"

    @property
    def arguments(self) -> tuple[str, ...]:
        return "--task", "push", *(() if self.policy is None else ("--policy", str(self.policy)))

    def __call__(
        self, sim: ArmSim, rng: np.random.Generator, steps: int, look: Callable[[], None] = lambda: None
    ) -> np.ndarray:
        runtime = None if self.policy is None else _loaded(self.policy)
        return play(sim, rng, self.what, self.setup, steps, look, runtime=runtime)


@cache
def _loaded(policy: Path) -> Runtime:
    """The bundle's back end, loaded once in each process that records."""
    return load_runtime(load_bundle(policy), build_engines=False)
