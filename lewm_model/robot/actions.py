# SPDX-License-Identifier: Apache-2.0
"""The meaning of an action's numbers: groups of columns with kind, unit, normaliser, null action and range.

Every column that drives a joint is a velocity, so that all of them are planned, limited and integrated in the same way.
A gripper's is the velocity of its joint: with its null action, 0, the gripper stays as it is, open or closed. (The null
action of a commanded position would depend on where the gripper is.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST = 1e9  # magnitude of any number that describes actions: squares of such numbers are finite in float32
RARE = 1e-3  # share of the recorded actions at each end that the range leaves out, as they may be single wrong rows


class ActionError(ValueError):
    """Actions that cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Kind:
    """A kind of action columns."""

    means: str  # description for users
    unit: str  # default, where the recording states none
    drives_joints: bool  # whether a column is the velocity of the joint of its name


UNKNOWN = "recorded"
KINDS = {
    "joint_velocity": Kind("mean commanded velocity of a joint over a control step", "rad/s", True),
    "gripper": Kind("mean commanded velocity of the joint that opens and closes a gripper", "rad/s", True),
    "cartesian_velocity": Kind("mean commanded velocity of the tip in the base's frame", "m/s", False),
    UNKNOWN: Kind("numbers whose meaning the recording does not state", "as recorded", False),
}


@dataclass(frozen=True)
class ActionGroup:
    """Columns of one kind. All tuples have one entry per column, (n,); statistics are of the training recording.

    :raises ActionError: a field cannot be used.
    """

    kind: str  # one of KINDS
    names: tuple[str, ...]  # of the columns; names of joints where the kind drives joints
    unit: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]  # range in the recording, in `unit`; plans stay inside it
    high: tuple[float, ...]
    null: tuple[float, ...] = ()  # the action at which nothing moves; zeros by default

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ActionError(f"actions.kind is {self.kind!r}; known kinds are {', '.join(KINDS)}")
        printable = isinstance(self.names, tuple) and all(isinstance(n, str) and n.isprintable() for n in self.names)
        if not self.names or not printable:
            raise ActionError(f"actions.names is {self.names!r}; it needs the names of the columns")
        if self.null == ():
            object.__setattr__(self, "null", (0.0,) * len(self.names))
        for name in ("mean", "std", "low", "high", "null"):
            values = getattr(self, name)
            if not _are_numbers(values) or len(values) != len(self.names):
                raise ActionError(f"actions.{name} is {values!r}; it needs one finite number for each of {self.names}")
        if not all(low <= high for low, high in zip(self.low, self.high, strict=True)):
            raise ActionError(f"actions.low is {self.low} and actions.high {self.high}; low must not be above high")
        if min(self.std) <= 0:
            still = [name for name, std in zip(self.names, self.std, strict=True) if std <= 0]
            raise ActionError(
                f"{', '.join(still)} never moves in the recording, so no model can learn what it does (actions.std is "
                "0). Record it moving, or leave it out when you convert: `lewm convert --help`"
            )


@dataclass(frozen=True)
class ActionSpec:
    """Description of a low-level action: groups of columns, in order. Properties are over all A columns.

    :raises ActionError: a field cannot be used.
    """

    groups: tuple[ActionGroup, ...]
    control_dt_s: float  # duration of a low-level action, s
    frameskip: int  # low-level actions in an action block, which is one step of the model

    def __post_init__(self) -> None:
        if not self.groups:
            raise ActionError("actions has no group; an action needs one column or more")
        if len(set(self.names)) != len(self.names):
            raise ActionError(f"actions.names is {self.names!r}; it needs the names of the columns, each once")
        if not (_are_numbers((self.control_dt_s, self.frameskip)) and self.control_dt_s > 0 and self.frameskip >= 1):
            raise ActionError(
                f"actions.control_dt_s is {self.control_dt_s!r}, frameskip {self.frameskip!r}; both must be positive"
            )

    @classmethod
    def of_one_kind(
        cls,
        names: tuple[str, ...],
        kind: str,
        unit: str,
        control_dt_s: float,
        frameskip: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        low: tuple[float, ...],
        high: tuple[float, ...],
    ) -> ActionSpec:
        """One group; the fields are those of `actions` in a bundle of schema 1."""
        return cls((ActionGroup(kind, names, unit, mean, std, low, high),), control_dt_s, frameskip)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ActionSpec:
        """From JSON data, as of `dataclasses.asdict`, or of a bundle of schema 1, which has no groups.

        :raises ActionError: it does not describe actions.
        """
        try:
            if "groups" not in values:
                return cls.of_one_kind(**_with_tuples(values))
            groups = tuple(ActionGroup(**_with_tuples(group)) for group in values["groups"])
            return cls(**{**values, "groups": groups})
        except (TypeError, AttributeError) as error:
            raise ActionError(f"this does not describe actions: {error}") from error

    # ---- over all columns --------------------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        return self._columns(lambda group: group.names)

    @property
    def mean(self) -> tuple[float, ...]:
        return self._columns(lambda group: group.mean)

    @property
    def std(self) -> tuple[float, ...]:
        return self._columns(lambda group: group.std)

    @property
    def low(self) -> tuple[float, ...]:
        return self._columns(lambda group: group.low)

    @property
    def high(self) -> tuple[float, ...]:
        return self._columns(lambda group: group.high)

    @property
    def null(self) -> tuple[float, ...]:
        """The action (A,) at which nothing moves."""
        return self._columns(lambda group: group.null)

    @property
    def kinds(self) -> tuple[str, ...]:
        return self._columns(lambda group: (group.kind,) * len(group.names))

    @property
    def units(self) -> tuple[str, ...]:
        return self._columns(lambda group: (group.unit,) * len(group.names))

    @property
    def drives_joints(self) -> bool:
        """Whether every column is the velocity of a joint, so that a joint trajectory can execute the action."""
        return all(KINDS[group.kind].drives_joints for group in self.groups)

    def _columns(self, of: Callable[[ActionGroup], tuple[Any, ...]]) -> tuple[Any, ...]:
        return tuple(value for group in self.groups for value in of(group))

    # ---- derived -----------------------------------------------------------------------------------------------------

    @property
    def block_s(self) -> float:
        """Duration of one action block in seconds."""
        return self.control_dt_s * self.frameskip

    @property
    def within(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest action of a plan, each (A,) in `units`: the recording's range, and the null action."""
        return np.minimum(self.low, self.null), np.maximum(self.high, self.null)

    @property
    def full_step(self) -> np.ndarray:
        """Way of each column in a control step at its greatest recorded speed, (A,), rad for joints: unit of
        displacement.
        """
        return np.abs([self.low, self.high]).max(0) * self.control_dt_s

    @property
    def still(self) -> np.ndarray:
        """The z-scored action block (frameskip * A,) float32 of a robot that stands still."""
        return self.normalise(np.tile(self.null, (self.frameskip, 1))).reshape(-1)

    def normalise(self, actions: np.ndarray) -> np.ndarray:
        """Actions (…, A) in `units` -> z-scores, float32."""
        return ((actions - np.asarray(self.mean)) / np.asarray(self.std)).astype(np.float32)


def measure(
    names: Sequence[str], kinds: Sequence[str], units: Sequence[str], rows: np.ndarray, dt_s: float, frameskip: int
) -> ActionSpec:
    """The description of a recording's actions: names, kinds and units of A columns, and statistics of `rows` (N, A).

    Neighbouring columns of one kind and unit form a group. The range leaves out the RARE lowest and highest values, at
    least one row at each end: a single wrong row must not widen it beyond what the model has learned.

    :raises ActionError: a column never moves, or names or kinds cannot be used.
    """
    rows = np.asarray(rows, np.float64)
    low = np.quantile(rows, RARE, axis=0, method="higher")
    high = np.quantile(rows, 1 - RARE, axis=0, method="lower")
    mean = rows.mean(0)
    std = np.where(np.ptp(rows, axis=0) > 0, rows.std(0), 0.0)  # rounding makes it nonzero for equal numbers
    groups, begin = [], 0
    while begin < len(names):
        end = begin + 1
        while end < len(names) and (kinds[end], units[end]) == (kinds[begin], units[begin]):
            end += 1
        statistics = (tuple(values[begin:end].tolist()) for values in (mean, std, low, high))
        groups.append(ActionGroup(kinds[begin], tuple(names[begin:end]), units[begin], *statistics))
        begin = end
    return ActionSpec(tuple(groups), dt_s, frameskip)


def _are_numbers(values: Any) -> bool:
    """Whether `values` is a tuple of finite numbers up to MOST; a description that was read may hold anything."""
    return isinstance(values, tuple) and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= MOST for value in values
    )


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
