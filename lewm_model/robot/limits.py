# SPDX-License-Identifier: Apache-2.0
"""Joint limits of an arm, shared by simulator, planner and safety shield."""

from __future__ import annotations

import xml.parsers.expat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np


@dataclass(frozen=True, eq=False)
class JointLimits:
    """Limits of A joints, in the order of the action's columns. Each array is (A,) float64.

    :param names: joint names.
    :param lower: least position, rad.
    :param upper: greatest position, rad.
    :param velocity: greatest speed, rad/s.
    :param acceleration: greatest acceleration, rad/s^2.
    :param jerk: greatest jerk, rad/s^3.
    :raises ValueError: a limit is not finite, not positive, not ordered or not of size A. A NaN would disable a clamp,
        and a negative limit would invert it.
    """

    names: tuple[str, ...]
    lower: np.ndarray
    upper: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    jerk: np.ndarray

    def __post_init__(self) -> None:
        names = tuple(self.names)
        if not names or len(set(names)) != len(names):
            raise ValueError(f"joint limits need one or more joint names, each once, not {names}")
        object.__setattr__(self, "names", names)
        for field in ("lower", "upper", "velocity", "acceleration", "jerk"):
            values = np.array(getattr(self, field), dtype=np.float64)
            if values.shape != (len(names),):
                raise ValueError(f"limit '{field}' has shape {values.shape}; joints {names} need ({len(names)},)")
            for name, value in zip(names, values, strict=True):
                if not np.isfinite(value):
                    raise ValueError(f"limit '{field}' of joint '{name}' is {value}; it must be finite")
                if field in ("velocity", "acceleration", "jerk") and value <= 0.0:
                    raise ValueError(f"limit '{field}' of joint '{name}' is {value}; it must be above 0")
            values.setflags(write=False)
            object.__setattr__(self, field, values)
        for name, lower, upper in zip(names, self.lower, self.upper, strict=True):
            if lower >= upper:
                raise ValueError(f"joint '{name}' has lower limit {lower} and upper limit {upper}; lower must be less")

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, JointLimits):
            return NotImplemented
        return self.names == other.names and all(
            np.array_equal(getattr(self, field), getattr(other, field))
            for field in ("lower", "upper", "velocity", "acceleration", "jerk")
        )

    __hash__ = None  # type: ignore[assignment]

    def of(self, names: Sequence[str]) -> JointLimits:
        """The limits of some of the joints, in the order of `names`.

        :raises KeyError: a joint is not among them.
        """
        columns = [dict(zip(self.names, range(len(self.names)), strict=True))[name] for name in names]
        rows = (self.lower, self.upper, self.velocity, self.acceleration, self.jerk)
        return JointLimits(tuple(names), *(row[columns] for row in rows))


class LimitsError(ValueError):
    """A file or parameters that do not give an arm's limits or kinematics; the message says what is missing and
    where.
    """


def limits_from_urdf(
    path: str | Path,
    names: Sequence[str],
    acceleration: float | Sequence[float],
    jerk: float | Sequence[float],
) -> JointLimits:
    """Reads position and velocity limits of revolute joints from a URDF; xacro files have to be expanded first.

    :param names: joints, in the order of the action's columns.
    :param acceleration: rad/s^2, one number for all joints or one for each; a URDF does not state it.
    :param jerk: rad/s^3, likewise.
    :raises LimitsError: the file is no URDF, a joint is missing or is not revolute, or has no limit.
    :raises ValueError: a limit cannot be used; see `JointLimits`.
    """
    lower, upper, velocity = _read_urdf(Path(path), names)
    for name, low in zip(names, lower, strict=True):
        if np.isneginf(low):
            raise LimitsError(
                f"joint '{name}' in {path} is continuous, only revolute joints can be planned for; give it position "
                "limits and make it revolute"
            )
    count = len(lower)
    every = [np.full(count, values) if np.ndim(values) == 0 else np.asarray(values) for values in (acceleration, jerk)]
    return JointLimits(tuple(names), lower, upper, velocity, *every)


def limits_from_parameters(
    names: Sequence[str],
    lower: Sequence[float],
    upper: Sequence[float],
    velocity: Sequence[float],
    acceleration: Sequence[float],
    jerk: Sequence[float],
    urdf: str | Path = "",
) -> JointLimits:
    """Limits from planner_node's parameters `limits.*` and, where these are empty, from a URDF.

    Limits that are given may only be narrower than the URDF's. For a continuous joint, position limits must be given.

    :param names: joints, in the order of the action's columns. The limits are in this order, each (A,) or empty.
    :param lower: rad.
    :param upper: rad.
    :param velocity: rad/s.
    :param acceleration: rad/s^2; must be given, as a URDF does not state it.
    :param jerk: rad/s^3; likewise.
    :param urdf: file; "" for none.
    :raises LimitsError: a limit is neither given nor in the URDF, or wider than the URDF's, or the URDF is unusable.
    :raises ValueError: a limit cannot be used; see `JointLimits`.
    """
    rows = {"lower": lower, "upper": upper, "velocity": velocity, "acceleration": acceleration, "jerk": jerk}
    known = dict(zip(rows, _read_urdf(Path(urdf), names), strict=False)) if urdf else {}
    filled = {}
    for field, given in rows.items():
        if len(given):
            filled[field] = np.asarray(given, float)
        elif field not in known:
            hint = " or give a urdf" if field in ("lower", "upper", "velocity") else "; a URDF does not state it"
            raise LimitsError(f"limits.{field} is empty: write one number for each of {', '.join(names)}{hint}")
        elif np.isinf(known[field]).any():
            name = names[int(np.isinf(known[field]).argmax())]
            raise LimitsError(f"joint '{name}' in {urdf} is continuous: write limits.lower and limits.upper")
        else:
            filled[field] = known[field]
    limits = JointLimits(tuple(names), **filled)
    for field, most in known.items():
        room = filled[field] - most if field == "lower" else most - filled[field]
        wider = ~(room >= -1e-9)  # true for NaN, so that a NaN in the URDF is refused
        if wider.any():
            j, unit = int(wider.argmax()), "rad/s" if field == "velocity" else "rad"
            raise LimitsError(
                f"limits.{field} of joint '{names[j]}' is {filled[field][j]:g} {unit}, {urdf} allows {most[j]:g}; "
                "a limit may only be narrower than the arm's own"
            )
    return limits


def _read_urdf(path: Path, names: Sequence[str]) -> np.ndarray:
    """Lower, upper and velocity limits (3, A) of revolute and continuous joints, rad and rad/s; positions of continuous
    joints are infinite.
    """
    joints = {joint.get("name"): joint for joint in parse_xml(path, "robot").findall("joint")}
    rows = []
    for name in names:
        joint = joints.get(name)
        if joint is None:
            raise LimitsError(f"{path} has no joint '{name}'; its joints are {', '.join(map(str, joints)) or 'none'}")
        kind = joint.get("type")
        if kind not in ("revolute", "continuous"):
            raise LimitsError(f"joint '{name}' in {path} is {kind}, only revolute joints can be planned for")
        limit = joint.find("limit")
        if limit is None:
            raise LimitsError(f"joint '{name}' in {path} has no <limit lower upper velocity>")
        row = [-np.inf, np.inf, np.nan]
        for i, attribute in enumerate(("lower", "upper", "velocity")):
            if kind == "continuous" and attribute != "velocity":
                continue
            text = limit.get(attribute)
            try:
                row[i] = float(text or "")
            except ValueError:
                problem = "is missing" if text is None else f"is {text!r}, which is not a number"
                raise LimitsError(f"limit '{attribute}' of joint '{name}' in {path} {problem}") from None
        rows.append(row)
    return np.array(rows, dtype=np.float64).reshape(-1, 3).T


def parse_xml(path: Path, root: str) -> ElementTree.Element:
    """The root element of an XML file, of type `root`. Refuses entity declarations, as a few can expand to gigabytes.

    :raises LimitsError: the file cannot be read, or is something else.
    """
    builder = ElementTree.TreeBuilder()
    parser = xml.parsers.expat.ParserCreate()

    def refuse(name: str, *_: Any) -> None:
        raise LimitsError(f"{path} declares the XML entity '{name}'; expand it (xacro does) and remove the declaration")

    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    try:
        parser.Parse(path.read_bytes(), True)
    except LimitsError:
        raise
    except (OSError, xml.parsers.expat.ExpatError, LookupError, ValueError) as error:  # LookupError: unknown encoding
        raise LimitsError(f"{path} cannot be read as XML: {error}") from error
    element = builder.close()
    if element.tag != root:
        raise LimitsError(f"{path} is a <{element.tag}>, a <{root}> is expected")
    return element
