# SPDX-License-Identifier: Apache-2.0
"""The joints that become columns of the action, the unit of their recorded positions, and whether it is plausible."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lewm_model.data.errors import DataError
from lewm_model.robot.limits import JointLimits

UNITS = {"rad": 1.0, "deg": math.pi / 180.0, "percent": 0.01}
HELD_RAD = 0.02  # a held joint that is farther from where it is held has moved
TURN = 2.0 * math.pi
MOST_SPEED = 20.0  # rad/s; no joint of an arm is faster: the quickest wrists of small industrial arms reach 18
MOST_TURNS = 2.0  # positions beyond so many turns, which the joint is not seen to turn through, are not radians
HURRIED = 6.0  # rad/s that no arm exceeds for more than a tenth of the time
# Of what a robot file allows: greatest plausible multiple of its speed, and share of its range beyond either end.
OVER_SPEED, OVER_RANGE = 1.5, 0.1
SINGLE = 0.02  # share of the steps up to which implausible ones count as single events, such as a reset


@dataclass(frozen=True)
class Columns:
    """The user's choice of a recording's joints; by default all of them, in rad."""

    names: tuple[str, ...] = ()  # columns of the action, in order; empty: all
    held: tuple[str, ...] = ()  # are not columns; frames in which they moved are left out
    grippers: tuple[str, ...] = ()  # columns that open and close a gripper
    units: str = ""  # of positions: one for all columns, or name=unit, separated by commas
    limits: JointLimits | None = None  # of the robot that was recorded, if its robot file was given

    def __post_init__(self) -> None:
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        both = sorted(set(self.names) & set(self.held)) or sorted(set(self.grippers) & set(self.held))
        if twice or both:
            raise DataError(
                f"the joints are {', '.join(self.names)}: {(twice or both)[0]} is there twice, or held, too"
            )
        if self.names and not set(self.grippers) <= set(self.names):
            raise DataError(f"--gripper {', '.join(self.grippers)} must be among --joints {', '.join(self.names)}")
        self.factors(())

    def factors(self, names: Sequence[str], usual: Mapping[str, float] | None = None) -> np.ndarray:
        """Factors (A,) by which the recorded positions of these columns are multiplied.

        :param usual: factors of columns without a given unit; 1 by default.
        :raises DataError: a unit or a column is unknown.
        """
        if not self.units and not usual:
            return np.ones(len(names))
        chosen: dict[str, float] = {}
        for part in filter(None, (part.strip() for part in self.units.split(","))):
            name, _, unit = part.rpartition("=")
            try:
                value = UNITS[unit] if unit in UNITS else float(unit)
                if not (math.isfinite(value) and value != 0.0):
                    raise ValueError
            except ValueError:
                raise DataError(
                    f"--units {part!r} is not understood; give {', '.join(UNITS)} or a number that positions are "
                    "multiplied with, for all columns, or as name=unit, with commas"
                ) from None
            chosen[name] = value
        unknown = sorted(set(chosen) - set(names) - set(self.held) - {""})
        if names and unknown:
            raise DataError(f"--units names {unknown[0]!r}; the columns are {', '.join(names)}")
        usual = usual or {}
        return np.array([chosen.get(name, chosen.get("", usual.get(name, 1.0))) for name in names])

    def kinds(self, names: Sequence[str], joints: str = "joint_velocity") -> str:
        """The kind of these columns: one for all, or a JSON list.

        :param joints: kind of the columns that are not grippers.
        :raises DataError: a gripper is not one of these columns.
        """
        missing = sorted(set(self.grippers) - set(names))
        if missing:
            raise DataError(f"--gripper names {missing[0]!r}; the columns are {', '.join(names)}")
        return (
            json.dumps(["gripper" if name in self.grippers else joints for name in names]) if self.grippers else joints
        )


def looks_wrong(
    name: str, positions: Sequence[np.ndarray], dt_s: float, allowed: tuple[float, float, float] | None = None
) -> str:
    """A message that says what the positions of a joint seem to be if they cannot be rad; "" if they can.

    :param name: of the joint.
    :param positions: contiguous pieces (n,) of its positions every `dt_s`, assumed to be rad.
    :param allowed: its least and greatest position, rad, and its speed, rad/s, if the robot is known.
    """
    if not sum(map(len, positions)):
        return ""
    every = np.concatenate(positions)
    steps = np.concatenate([np.diff(stretch) for stretch in positions])
    speeds = np.abs(steps) / dt_s
    fast = speeds > (MOST_SPEED if allowed is None else OVER_SPEED * allowed[2])
    low, high = float(every.min()), float(every.max())
    far = max(-low, high)
    said = f"{name} goes from {low:.4g} to {high:.4g} and at up to {speeds.max(initial=0.0):.4g} rad/s"
    jumps = np.abs(steps[fast])
    if len(jumps) and fast.mean() <= SINGLE and (np.abs(jumps - TURN) < 0.15 * TURN).mean() > 0.5:
        return f"{said}: its numbers wrap at pi ({len(jumps)} jumps of a turn)"
    standing = np.median(np.abs(every)) > MOST_TURNS * TURN and high - low < MOST_TURNS * TURN
    if far > MOST_TURNS * TURN and ((speeds > HURRIED).mean() > 0.1 or fast.any() or standing):
        if "grip" in name.lower() and low >= -1.0 and high <= 101.0:
            return f"{said}: that looks like a gripper in per cent"
        if 99.0 < far <= 100.5 and low >= -100.5:
            return f"{said}: that looks like LeRobot's range of -100 to 100"
        return f"{said}: that looks like degrees"
    if fast.any() and fast.mean() <= SINGLE:
        return f"{said}, {int(fast.sum())} times: that looks like a simulation that was reset, or lost messages"
    if fast.any():
        who = "no arm moves that fast" if allowed is None else f"the robot file allows {allowed[2]:.4g} rad/s"
        return f"{said}: {who}; its unit or its clock is wrong"
    if allowed is not None:
        room = OVER_RANGE * (allowed[1] - allowed[0])
        if ((every < allowed[0] - room) | (every > allowed[1] + room)).mean() > SINGLE:
            return f"{said}: the robot file allows {allowed[0]:.4g} to {allowed[1]:.4g}; its unit or its zero is wrong"
    return ""


def refuse_wrong(
    names: Sequence[str], positions: Sequence[np.ndarray], dt_s: float, source: str, limits: JointLimits | None = None
) -> None:
    """Checks that positions (n, A) of contiguous pieces of a recording can be those of an arm, in rad.

    :raises DataError: no arm, or not the one with these limits, can have moved so.
    """
    allowed = {}
    if limits is not None:
        rows = zip(limits.names, limits.lower, limits.upper, limits.velocity, strict=True)
        allowed = {name: (float(low), float(high), float(speed)) for name, low, high, speed in rows}
        if not set(names) & set(allowed):
            raise DataError(
                f"{source} has the joints {', '.join(names)}, the robot file {', '.join(allowed)}; give that of this "
                "robot"
            )
    wrong = [
        said
        for i, name in enumerate(names)
        if (said := looks_wrong(name, [p[:, i] for p in positions], dt_s, allowed.get(name)))
    ]
    highest = [
        max((np.abs(piece[:, i]).max(initial=0.0) for piece in positions), default=0.0) for i in range(len(names))
    ]
    far = [name for name, most in zip(names, highest, strict=True) if most > MOST_TURNS * TURN]
    if not wrong and limits is None and len(far) > 1 and 2 * len(far) >= len(names):  # a single one may turn endlessly
        wrong = [
            f"{', '.join(far)} go more than {MOST_TURNS:g} turns from zero: that looks like degrees of a slow arm (if "
            "they do turn so far, name the robot with --robot)"
        ]
    if wrong:
        raise DataError(
            f"{source}: " + "; ".join(wrong) + ". Say the unit with --units (for all, or name=unit), leave a joint out "
            "with --joints or --hold, or correct the recording; nothing was written"
        )
