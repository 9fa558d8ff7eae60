"""Node parameters from a table: one line each, with description and range, instead of one block of calls each."""

from __future__ import annotations

import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter


class ParameterError(ValueError):
    """A parameter that is missing or has a value that cannot be used; the message says what to set."""


@dataclass(frozen=True)
class Parameter:
    """One row of a node's table.

    :param default: the value when nobody gives one; a `rclpy.Parameter.Type` means that somebody must.
    :param low: least allowed number, and
    :param high: greatest; both or neither.
    :param choices: allowed texts.
    :param needed: whether somebody must give a value where `default` is a type; otherwise it is an empty array.
    """

    name: str
    default: Any
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    needed: bool = True

    @property
    def descriptor(self) -> ParameterDescriptor:
        """What `ros2 param describe` shows."""
        descriptor = ParameterDescriptor(description=self.description)
        if self.choices:
            descriptor.additional_constraints = f"one of {', '.join(self.choices)}"
        if self.low is not None and self.high is not None:
            if isinstance(self.default, int):
                descriptor.integer_range = [IntegerRange(from_value=int(self.low), to_value=int(self.high), step=1)]
            else:
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=float(self.low), to_value=float(self.high))
                ]
        return descriptor


def declare(node: Node, table: Sequence[Parameter]) -> None:
    """Declares every row. rclpy raises when a value that was given has the wrong type or lies outside the range."""
    for row in table:
        node.declare_parameter(row.name, row.default, row.descriptor)


def read(node: Node, table: Sequence[Parameter]) -> dict[str, Any]:
    """The values by name; arrays as tuples.

    :raises ParameterError: a value without a default was not given, or a text is not one of its choices.
    """
    values: dict[str, Any] = {}
    for row in table:
        parameter = node.get_parameter_or(row.name)
        value = parameter.value
        if parameter.type_ == RosParameter.Type.NOT_SET and not row.needed:
            value = ()  # an empty array has no type that rclpy could check
        elif parameter.type_ == RosParameter.Type.NOT_SET:
            raise ParameterError(f"parameter {row.name!r} is not set ({row.description}); give it in the params file")
        if row.choices and value not in row.choices:
            raise ParameterError(f"parameter {row.name!r} is {value!r}; it must be one of {', '.join(row.choices)}")
        values[row.name] = tuple(value) if isinstance(value, (list, array.array)) else value
    return values
