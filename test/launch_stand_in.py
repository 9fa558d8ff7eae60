# SPDX-License-Identifier: Apache-2.0
"""As much of ROS 2's launch system as this project's launch files use, to execute them where it is not installed.

The wheels of requirements-ros.txt do not include the launch system. `launched("plan.launch.py", sim="none")` executes a
launch file with arguments and returns the processes that `ros2 launch` would start, each with its whole command line;
nothing is started. It does so with the real launch system where that is installed, and with the classes below
otherwise. They follow the sources of launch 3.4 and launch_ros 0.26 (Jazzy): the order in which actions are visited,
scopes of arguments, and what a Node adds to a command line. `test_launch_files.py` compares the two wherever it can.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys
import tempfile
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lewm_model.config import resource

HAS_LAUNCH = importlib.util.find_spec("launch_ros") is not None  # "launch" is also a folder of this repository


@dataclass
class Process:
    """What would be started: the executable's package (empty: a program) and name, and the whole command line."""

    package: str
    executable: str
    command: list[str]
    respawn: bool
    action: Any
    context: Any

    def after(self, flag: str) -> list[str]:
        """The words that follow each `flag`."""
        return [word for before, word in zip(self.command, self.command[1:], strict=False) if before == flag]

    @property
    def remappings(self) -> dict[str, str]:
        """New names by the name in the node's code; also __node and __ns."""
        return dict(rule.split(":=", 1) for rule in self.after("-r"))

    def parameters(self, node: str = "") -> dict[str, Any]:
        """What the params files together set for a node, by its full name: its own section takes precedence over **."""
        space, node = self.remappings.get("__ns", "/"), node or self.remappings.get("__node", self.executable)
        given: dict[str, Any] = {}
        sections = [read_yaml(file) for file in self.after("--params-file")]
        for names in (("/**",), (f"/**/{node}",), (f"{space.rstrip('/')}/{node}", node)):
            for section in sections:
                for name in names:
                    given |= flat(section.get(name, {}).get("ros__parameters", {}))
        return given


class _Loader(yaml.SafeLoader):
    """Reads what launch_ros writes, where lists are Python tuples."""


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", lambda loader, node: loader.construct_sequence(node))


def read_yaml(file: str) -> dict[str, Any]:
    """A params file."""
    return yaml.load(Path(file).read_text(), _Loader) or {}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Parameter names with dots -> values."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def launched(name: str, stand_in: bool = not HAS_LAUNCH, **arguments: str) -> list[Process]:
    """The processes of `ros2 launch lewm_ros <name> argument:=value ...`, in their order.

    :raises RuntimeError: an argument is missing or not one of its choices, or the launch file refuses it.
    """
    environment = dict(os.environ)
    found: list[Process] = []
    try:
        with stand_ins() if stand_in else real(found):
            file = runpy.run_path(str(resource("launch", name)))
            context = sys.modules["launch"].LaunchContext()
            context.launch_configurations.update(arguments)
            _visit([file["generate_launch_description"]()], context, found)
    finally:
        os.environ.clear()
        os.environ.update(environment)
    return found


def _visit(entities: Iterable[Any], context: Any, found: list[Process]) -> None:
    """Executes entities and what they return, in depth, as launch does."""
    for entity in entities:
        result = entity.visit(context)
        if isinstance(entity, ExecuteProcess) and (not entity.condition or entity.condition.evaluate(context)):
            package, executable, command = entity.described(context)
            found.append(Process(package, executable, command, entity.respawn, entity, context))
        _visit(result or (), context, found)


@contextmanager
def real(found: list[Process]) -> Iterator[None]:
    """The installed launch system, whose processes are noted and not started."""
    import launch.actions
    import launch_ros.actions
    import launch_ros.substitutions

    def note(self: Any, context: Any) -> None:
        self.prepare(context)
        command = list(self.process_description.final_cmd)
        is_node = isinstance(self, launch_ros.actions.Node)
        package, executable = (self.node_package, self.node_executable) if is_node else ("", command[0])
        respawn = bool(self._ExecuteLocal__respawn)
        found.append(Process(package, executable, command, respawn, self, context))

    local, in_package = launch.actions.ExecuteLocal, launch_ros.substitutions.ExecutableInPackage
    execute, perform = local.execute, in_package.perform
    local.execute = note
    in_package.perform = lambda self, context: "".join(part.perform(context) for part in self.executable)
    try:
        yield
    finally:
        local.execute, in_package.perform = execute, perform


@contextmanager
def stand_ins() -> Iterator[None]:
    """Makes `import launch` and `import launch_ros` find the classes below."""
    exported = {
        "launch": (LaunchContext, LaunchDescription),
        "launch.action": (Action,),
        "launch.actions": (
            DeclareLaunchArgument,
            ExecuteProcess,
            GroupAction,
            IncludeLaunchDescription,
            OpaqueFunction,
            SetEnvironmentVariable,
            Shutdown,
        ),
        "launch.conditions": (IfCondition,),
        "launch.launch_description_sources": (PythonLaunchDescriptionSource,),
        "launch.substitutions": (EnvironmentVariable, LaunchConfiguration, PythonExpression),
        "launch_ros": (),
        "launch_ros.actions": (Node,),
    }
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] in ("launch", "launch_ros")}
    for name in before:
        del sys.modules[name]
    for name, classes in exported.items():
        module = types.ModuleType(name)
        for each in classes:
            setattr(module, each.__name__, each)
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in exported:
            del sys.modules[name]
        sys.modules.update(before)


# ---- substitutions ---------------------------------------------------------------------------------------------------


def text(value: Any, context: LaunchContext) -> str:
    """A text, a substitution or a list of them."""
    if isinstance(value, (str, Path)):
        return str(value)
    if isinstance(value, (list, tuple)):
        return "".join(text(part, context) for part in value)
    return str(value.perform(context))


@dataclass
class LaunchConfiguration:
    """The value of an argument."""

    name: str

    def perform(self, context: LaunchContext) -> str:
        return context.launch_configurations[self.name]


@dataclass
class EnvironmentVariable:
    name: str
    default_value: str

    def perform(self, context: LaunchContext) -> str:
        return os.environ.get(self.name, self.default_value)


@dataclass
class PythonExpression:
    expression: Any

    def perform(self, context: LaunchContext) -> str:
        return str(eval(text(self.expression, context), {}))


@dataclass
class IfCondition:
    predicate: Any

    def evaluate(self, context: LaunchContext) -> bool:
        return text(self.predicate, context).lower() in ("true", "1")


# ---- actions ---------------------------------------------------------------------------------------------------------


class LaunchContext:
    """Values of arguments, by name."""

    def __init__(self) -> None:
        self.launch_configurations: dict[str, str] = {}
        self.is_shutdown = False


class Action:
    """Something that is executed where its condition holds; it returns what is to be executed next."""

    def __init__(self, *, condition: IfCondition | None = None) -> None:
        self.condition = condition

    def visit(self, context: LaunchContext) -> Any:
        return self.execute(context) if self.condition is None or self.condition.evaluate(context) else None

    def execute(self, context: LaunchContext) -> Any:
        return None


class LaunchDescription:
    """Entities in their order."""

    def __init__(self, entities: Iterable[Any]) -> None:
        self.entities = list(entities)

    def visit(self, context: LaunchContext) -> Any:
        return self.entities


class DeclareLaunchArgument(Action):
    def __init__(
        self, name: str, *, default_value: Any = None, description: str = "", choices: Iterable[str] | None = None
    ) -> None:
        super().__init__()
        self.name, self.default_value, self.description = name, default_value, description
        self.choices = None if choices is None else list(choices)

    def execute(self, context: LaunchContext) -> None:
        if self.name not in context.launch_configurations:
            if self.default_value is None:
                raise RuntimeError(f'Required launch argument "{self.name}" was not provided.')
            context.launch_configurations[self.name] = text(self.default_value, context)
        value = context.launch_configurations[self.name]
        if self.choices is not None and value not in self.choices:
            raise RuntimeError(f'Argument "{self.name}" provided value "{value}" is not valid. {self.choices}')


class OpaqueFunction(Action):
    def __init__(self, *, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def execute(self, context: LaunchContext) -> Any:
        return self.function(context)


class Shutdown(Action):
    def __init__(self, *, reason: str) -> None:
        super().__init__()
        self.reason = reason


class SetEnvironmentVariable(Action):
    def __init__(self, name: str, value: Any) -> None:
        super().__init__()
        self.name, self.value = name, value

    def execute(self, context: LaunchContext) -> None:
        os.environ[self.name] = text(self.value, context)


class PythonLaunchDescriptionSource:
    def __init__(self, path: str) -> None:
        self.path = path


class IncludeLaunchDescription(Action):
    """Arguments that are given to it stay set for everything that comes later, as in launch."""

    def __init__(
        self,
        source: PythonLaunchDescriptionSource,
        *,
        launch_arguments: Iterable[tuple[str, Any]] = (),
        condition: IfCondition | None = None,
    ) -> None:
        super().__init__(condition=condition)
        self.source, self.launch_arguments = source, list(launch_arguments)

    def execute(self, context: LaunchContext) -> Any:
        description = runpy.run_path(self.source.path)["generate_launch_description"]()
        for name, value in self.launch_arguments:
            context.launch_configurations[name] = text(value, context)
        return [description]


class GroupAction(Action):
    """Arguments that are set inside have their former values again after the group."""

    def __init__(self, actions: Iterable[Action]) -> None:
        super().__init__()
        self.actions = list(actions)

    def execute(self, context: LaunchContext) -> Any:
        outside = dict(context.launch_configurations)

        def leave(context: LaunchContext) -> None:
            context.launch_configurations = outside

        return [*self.actions, OpaqueFunction(function=leave)]


class ExecuteProcess(Action):
    def __init__(self, *, cmd: Iterable[Any], respawn: bool = False, on_exit: Any = None, **of_the_end: Any) -> None:
        super().__init__()
        self.cmd, self.respawn, self.on_exit = list(cmd), respawn, on_exit
        assert of_the_end.keys() <= {"output", "respawn_delay", "sigterm_timeout"}

    def described(self, context: LaunchContext) -> tuple[str, str, list[str]]:
        """Package, executable and command line."""
        command = [text(word, context) for word in self.cmd]
        return "", command[0], command


class Node(ExecuteProcess):
    def __init__(
        self,
        *,
        package: str,
        executable: str,
        name: str | None = None,
        namespace: Any = None,
        parameters: Iterable[Any] = (),
        remappings: Iterable[tuple[Any, Any]] = (),
        arguments: Iterable[Any] = (),
        **of_the_end: Any,
    ) -> None:
        super().__init__(cmd=[executable, *arguments], **of_the_end)
        self.package, self.executable, self.name, self.namespace = package, executable, name, namespace
        self.parameters, self.remappings = list(parameters), list(remappings)

    def described(self, context: LaunchContext) -> tuple[str, str, list[str]]:
        _, _, command = super().described(context)
        command.append("--ros-args")
        if self.name is not None:
            command += ["-r", f"__node:={self.name}"]
        namespace = f"/{text(self.namespace or '', context).strip('/')}"
        if self.namespace is not None:
            command += ["-r", f"__ns:={namespace}"]
        node = "/**" if self.name is None else f"{namespace.rstrip('/')}/{self.name}"
        for given in self.parameters:
            file = self._params_file(node, given) if isinstance(given, dict) else text(given, context)
            if os.path.isfile(file):  # launch_ros warns, and goes on
                command += ["--params-file", file]
        for old, new in self.remappings:
            command += ["-r", f"{text(old, context)}:={text(new, context)}"]
        return self.package, self.executable, command

    def _params_file(self, node: str, values: Mapping[str, Any]) -> str:
        with tempfile.NamedTemporaryFile("w", prefix="launch_params_", delete=False) as file:
            yaml.safe_dump({node: {"ros__parameters": dict(values)}}, file)
        return file.name
