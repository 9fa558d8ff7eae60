# SPDX-License-Identifier: Apache-2.0
"""Declares and reads node parameters from a table with a row for each: name, default, description, range."""

from __future__ import annotations

import array
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

QOS_OVERRIDES = "qos_overrides."  # how the names of the parameters begin that rclpy declares for a topic
QOS_VALUES = {"history": ("keep_last", "keep_all"), "reliability": ("reliable", "best_effort"), "depth": range(2**31)}


class ParameterError(ValueError):
    """A parameter that is missing, unknown, or has a value that cannot be used; the message says what to set."""


@dataclass(frozen=True)
class Parameter:
    """One row of a node's table.

    :param default: its value, or, for a parameter without one, its `rclpy.Parameter.Type`.
    :param low, high: least and greatest allowed number; both or neither.
    :param choices: allowed texts.
    :param needed: False for a parameter that may be left out of a params file; without a default it is then empty.
    :param live: whether it may be set while the node is configured; it then takes effect at once.
    """

    name: str
    default: Any
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    needed: bool = True
    live: bool = False

    @property
    def descriptor(self) -> ParameterDescriptor:
        """What `ros2 param describe` shows."""
        when = "" if self.live else " Read when the node is configured."
        descriptor = ParameterDescriptor(description=self.description + when)
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
    """Declares every row. rclpy raises an exception for a given value of the wrong type or outside the range."""
    for row in table:
        node.declare_parameter(row.name, row.default, row.descriptor)


def read(node: Node, table: Sequence[Parameter], topics_follow: bool = False) -> dict[str, Any]:
    """The values by name; arrays as tuples.

    :param topics_follow: see `refuse_unknown`.
    :raises ParameterError: a value without a default was not given, a text is not one of its choices, or something was
        given that the node does not know.
    """
    refuse_unknown(node, topics_follow)
    values: dict[str, Any] = {}
    for row in table:
        parameter = node.get_parameter_or(row.name)
        value = parameter.value
        if parameter.type_ == RosParameter.Type.NOT_SET and not row.needed:
            value = ()  # an empty array has no type that rclpy could check
        elif parameter.type_ == RosParameter.Type.NOT_SET:
            raise ParameterError(f"parameter {row.name!r} is not set ({row.description}); give it in the params file")
        check_choice(row, value)
        values[row.name] = tuple(value) if isinstance(value, (list, array.array)) else value
    return values


def check_choice(row: Parameter, value: Any) -> None:
    """Raises ParameterError where the value is not one of the row's choices."""
    if row.choices and value not in row.choices:
        raise ParameterError(f"parameter {row.name!r} is {value!r}; it must be one of {', '.join(row.choices)}")


def refuse_unknown(node: Node, topics_follow: bool = False) -> None:
    """Raises ParameterError for parameters that a params file or command line gives and the node does not declare.

    ROS would ignore them: with a misspelt `deadman_button` the arm would need no button. Also refuses invalid values
    of a topic's quality of service, which rclpy finds only when the topic is made.

    :param topics_follow: the node is yet to make its topics. rclpy declares `qos_overrides.*` of a topic with the
        topic, so these are let through; call this again without it once the topics are made.
    """
    given, known = node._parameter_overrides, node._parameters
    unknown = [name for name in given if name not in known and not (topics_follow and name.startswith(QOS_OVERRIDES))]
    if unknown:
        raise ParameterError(
            f"{node.get_name()} knows no parameter {'; nor '.join(_described(name, known) for name in unknown)}; "
            "change it in the params file"
        )
    for name, parameter in given.items():
        policy, value = name.rpartition(".")[2], parameter.value
        if name.startswith(QOS_OVERRIDES) and policy in QOS_VALUES and value not in QOS_VALUES[policy]:
            values = QOS_VALUES[policy]
            meant = f"one of {', '.join(values)}" if isinstance(values, tuple) else "a number of messages"
            raise ParameterError(f"parameter {name!r} is {value!r}; it must be {meant}")


def _described(name: str, known: Iterable[str]) -> str:
    """An unknown name, with the known one that may have been meant."""
    for start in range(1, name.count(".") + 1):  # indented too far in the params file
        inner = ".".join(name.split(".")[start:])
        if inner in known:
            return f"{name!r} (is it {inner!r}, {start} level too deep?)"
    lower = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), lower, n=1)
    return f"{name!r} (is it {lower[near[0]]!r}?)" if near else repr(name)
