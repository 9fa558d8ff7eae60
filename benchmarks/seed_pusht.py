# SPDX-License-Identifier: Apache-2.0
"""Push-T of stable-worldmodel for `benchmarks.seed_tasks`, with a scripted policy, which no package has.

The script pushes the T by strokes: along a straight line, across one of its faces. It tries all strokes in a second
simulator and makes the one after which the T's corners are nearest to where they should be: one across the middle of a
face shifts it, one off it turns it as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from benchmarks import reference
from benchmarks.seed_environments import IMAGE_SIZE, circular, difference
from lewm_model.robot.observation import to_model_image
from lewm_model.sim.world import State

WINDOW = 512.0  # px, in which the reference counts; pictures are scaled from it
PUSHER_PX = 15.0  # its radius
REACHED_PX, REACHED_RAD = 20.0, np.pi / 9  # of both places together, and of the T's angle
SCALE_PX = 100.0  # an action of 1 asks the pusher to go that far, of which it gets about a quarter in a control step
# Corners of the T in its own frame, px, in order: the bar's, then round the stem.
OUTLINE = np.array([(-60, 0), (60, 0), (60, 30), (15, 30), (15, 120), (-15, 120), (-15, 30), (-60, 30)], float)
CENTRE = np.array([0.0, 45.0])  # of the circle about the T on which the pusher goes round it
ROUND_PX = 115.0  # radius of that circle
SPACING_PX, MARGIN_PX = 15.0, 8.0  # of strokes along a face, and the first one's from its end
STROKE, TRAVEL = 0.25, 0.8  # actions while it pushes and while it goes elsewhere
REACH_PX = 90.0  # longest way of a stroke after it passed the T's outline
NOISE = 0.1  # standard deviation of what is added to its actions in recordings
PLAY = 0.3  # probability that a stroke is drawn at random
WANDER = 0.15  # probability, before a stroke, that it goes somewhere else first
NEAR_PX = 6.0  # mean distance of the corners from the target's, at which a target counts as reached


@dataclass(frozen=True)
class Stroke:
    """In px of the window: begin at `start` (2,), go `length` along `direction` (2,)."""

    start: np.ndarray
    direction: np.ndarray
    length: float


def turned(points: np.ndarray, angle: float) -> np.ndarray:
    """Points (…, 2) turned by `angle` rad."""
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, s], [-s, c]])


def corners(pose: np.ndarray) -> np.ndarray:
    """(8, 2) px of the T at `pose` (3,): x and y in px, angle in rad."""
    return pose[:2] + turned(OUTLINE, pose[2])


def strokes(pose: np.ndarray) -> Iterator[Stroke]:
    """The longest strokes across each face of a T at `pose`, from the circle about it."""
    points, middle = corners(pose), pose[:2] + turned(CENTRE, pose[2])
    for a, b in zip(points, np.roll(points, -1, 0), strict=True):
        along = (b - a) / np.linalg.norm(b - a)
        inwards = np.array([-along[1], along[0]])
        for offset in np.arange(MARGIN_PX, np.linalg.norm(b - a) - MARGIN_PX + 1.0, SPACING_PX):
            at = a + offset * along
            # How far back along the stroke the circle is.
            way = at - middle
            back = way @ inwards + np.sqrt(max((way @ inwards) ** 2 - way @ way + ROUND_PX**2, 0.0))
            start = at - back * inwards
            if (start > PUSHER_PX).all() and (start < WINDOW - PUSHER_PX).all():
                yield Stroke(start, inwards, back + REACH_PX)


class PushT:
    """A disc pushes a T over the plane. State: the disc's x and y, the T's x and y, px of 512, its angle, rad, the
    disc's velocity, px/s. Reached: x and y of both within 20 px together, and the angle within 20 degrees.
    """

    action_names: tuple[str, ...] = ("x", "y")
    control_dt_s = 0.1
    quantities: ClassVar = {
        "pusher": lambda states: states[:, :2],
        "t": lambda states: states[:, 2:4],
        "t_angle": lambda states: circular(states[:, 4:5]),
    }
    subject = slice(2, 5)

    def __init__(self) -> None:
        reference.module("utils")
        environment = reference.module("envs.pusht.env").PushT
        self.env, self.imagined = environment(), environment()
        self.imagined.reset(seed=0)

    def begin(self, seed: int) -> None:
        self.env.reset(seed=seed)
        self.rng = np.random.default_rng((seed, 0))
        self.script = self._play(seed % 2 == 1)

    def act(self) -> np.ndarray:
        return np.clip(next(self.script) + NOISE * self.rng.standard_normal(2), -1.0, 1.0)

    def towards(self, goal: State) -> np.ndarray:
        return np.clip(next(self.script), -1.0, 1.0)

    def place(self, start: State, goal: State) -> None:
        resting = np.concatenate([start.joints[:5], [0.0, 0.0]])  # while it is placed, a moving disc goes a bit further
        self.env.reset(seed=0, options={"state": resting, "goal_state": goal.joints})
        self.env.agent.velocity = tuple(start.joints[5:])
        self.script = self._solve(goal.joints)

    def step(self, action: np.ndarray) -> bool:
        return bool(self.env.step(action)[2])

    def state(self) -> State:
        return State(self.env._get_obs())

    def error(self, state: State, goal: State) -> float:
        """px; an angle counts as many as make it as bad as a way."""
        way = float(np.linalg.norm((state.joints - goal.joints)[:4]))
        return max(way, REACHED_PX * abs(difference(state.joints[4], goal.joints[4])) / REACHED_RAD)

    def picture(self) -> np.ndarray:
        return to_model_image(self.env.render(), IMAGE_SIZE)

    def _play(self, at_random: bool) -> Iterator[np.ndarray]:
        """Actions (2,) without end: strokes to one target after another, or strokes `at_random`."""
        while True:
            target = np.append(self.rng.uniform(130.0, WINDOW - 130.0, 2), self.rng.uniform(-np.pi, np.pi))
            while self._misplaced(target) > NEAR_PX:
                if self.rng.random() < WANDER:
                    yield from self._go(self.rng.uniform(PUSHER_PX, WINDOW - PUSHER_PX, 2))
                if at_random or self.rng.random() < PLAY:
                    stroke = self._any_stroke()
                else:
                    stroke = self._best_stroke(target)
                if stroke is None:  # another target then, and from elsewhere: there may be none for any
                    yield from self._go(self.rng.uniform(PUSHER_PX, WINDOW - PUSHER_PX, 2))
                    break
                yield from self._push(stroke)
                if at_random and self.rng.random() < 0.2:
                    break

    def _solve(self, goal: np.ndarray) -> Iterator[np.ndarray]:
        """Actions (2,) without end: strokes that bring the T to a goal's state (7,), then the way to its pusher."""
        while self._misplaced(goal[2:5]) > NEAR_PX and (stroke := self._best_stroke(goal[2:5])) is not None:
            yield from self._push(stroke)
        yield from self._round(goal[:2])
        while True:
            yield self._to(goal[:2])

    @property
    def pose(self) -> np.ndarray:
        """(3,) of the T: px, px, rad."""
        return self.state().joints[2:5]

    def _misplaced(self, target: np.ndarray, pose: np.ndarray | None = None) -> float:
        """Mean distance, px, of the T's corners from where they should be, at `pose` or where it is now."""
        return float(np.linalg.norm(corners(self.pose if pose is None else pose) - corners(target), axis=1).mean())

    def _any_stroke(self) -> Stroke | None:
        found = list(strokes(self.pose))
        if not found:
            return None
        stroke = found[self.rng.integers(len(found))]
        return Stroke(stroke.start, stroke.direction, stroke.length - self.rng.uniform(0.0, REACH_PX))

    def _best_stroke(self, target: np.ndarray) -> Stroke | None:
        """The stroke, of all those and of all lengths, after which the T is nearest to `target` (3,)."""
        pose = self.pose
        best, least = None, self._misplaced(target) - 0.5
        for stroke in strokes(pose):
            self.imagined._set_state(np.concatenate([stroke.start, pose, [0.0, 0.0]]))
            while (gone := (self._pusher(self.imagined) - stroke.start) @ stroke.direction) < stroke.length:
                self.imagined.step(self._along(stroke, self._pusher(self.imagined)))
                now = self.imagined._get_obs()
                if (misplaced := self._misplaced(target, now[2:5])) < least:
                    gone = (now[:2] - stroke.start) @ stroke.direction
                    best, least = Stroke(stroke.start, stroke.direction, gone), misplaced
        return best

    @staticmethod
    def _pusher(env: Any) -> np.ndarray:
        return np.array(env.agent.position)

    def _along(self, stroke: Stroke, now: np.ndarray) -> np.ndarray:
        """The action (2,) that goes on along a stroke, and back to its line."""
        way = now - stroke.start
        beside = way - way @ stroke.direction * stroke.direction
        return STROKE * stroke.direction - beside / SCALE_PX

    def _push(self, stroke: Stroke) -> Iterator[np.ndarray]:
        """Goes round the T to where a stroke begins, makes it, and goes back a little."""
        yield from self._round(stroke.start)
        while (self._pusher(self.env) - stroke.start) @ stroke.direction < stroke.length - 4.0:
            yield self._along(stroke, self._pusher(self.env))
        yield from self._go(self._pusher(self.env) - 20.0 * stroke.direction)

    def _round(self, to: np.ndarray) -> Iterator[np.ndarray]:
        """Goes to `to` (2,) px on the circle about the T, along that circle."""
        middle = self.pose[:2] + turned(CENTRE, self.pose[2])
        for _ in range(40):
            now = self._pusher(self.env) - middle
            left = difference(np.arctan2(*(to - middle)[::-1]), np.arctan2(*now[::-1]))
            if abs(left) < 0.15:
                break
            if np.linalg.norm(now) < ROUND_PX - 10.0:  # out first
                aim = middle + now / max(np.linalg.norm(now), 1.0) * ROUND_PX
            else:
                aim = middle + turned(now / np.linalg.norm(now), np.sign(left) * min(abs(left), 0.6)) * ROUND_PX
            yield self._to(np.clip(aim, PUSHER_PX, WINDOW - PUSHER_PX))
        yield from self._go(to)

    def _go(self, to: np.ndarray) -> Iterator[np.ndarray]:
        for _ in range(40):
            if np.linalg.norm(to - self._pusher(self.env)) < 6.0:
                return
            yield self._to(to)

    def _to(self, to: np.ndarray) -> np.ndarray:
        way = (to - self._pusher(self.env)) / SCALE_PX
        return way * min(1.0, TRAVEL / max(float(np.linalg.norm(way)), 1e-9))
