"""What the joints of an arm may do. The simulator, the planner and the safety shield share these numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

# Descriptions of robots (SDF, URDF) state no acceleration and no jerk; these fit a small table-top arm.
ACCELERATION_RAD_S2 = 9.0
JERK_RAD_S3 = 150.0


@dataclass(frozen=True, eq=False)
class JointLimits:
    """Limits of A joints, in the order of the action's columns. Each array is (A,) float64.

    :param names: joint names.
    :param lower: least position, rad.
    :param upper: greatest position, rad.
    :param velocity: greatest speed, rad/s.
    :param acceleration: greatest acceleration, rad/s^2.
    :param jerk: greatest jerk, rad/s^3.
    :raises ValueError: a limit is not finite, not positive, not ordered or not of size A; a NaN limit would
        switch a clamp off and a negative one would turn it round.
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
