# SPDX-License-Identifier: Apache-2.0
"""Checks the architecture of the code: `make house`. Each violation is printed with its file and line.

- Every folder of lewm_model has one subject, and imports only from folders before it in FOLDERS. There are no import
  cycles, whether imports are at the top of a file or within functions.
- lewm_model does not depend on ROS, nor on the packages built on it; the shield does not depend on ROS.
- General code names no particular robot, camera or task: no joint, no picture size, no object of a task. Such names are
  in config/, worlds/ and models/, in the task's own files, and in recipes/.

    python -m validation.house
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import yaml

from lewm_model.evaluation.figures import Figures, write_figures

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (
    "config", "robot", "models", "data", "bundle", "runtime", "monitoring", "planning", "training", "sim", "tasks",
    "evaluation", "cli",
)  # fmt: skip
BEYOND = {"lewm_ros", "recipes", "benchmarks", "validation", "test"}  # what lewm_model must not import
GENERAL = ("lewm_model", "lewm_ros", "launch")
PARTICULAR = ("lewm_model/tasks/push", "lewm_model/tasks/reach")  # files with these prefixes may name their task
PICTURE_SIZES = {64, 224}  # pixels, of the models in this project
OF_PICTURES = re.compile(r"image|picture|pixel|height|width|canvas", re.IGNORECASE)
OBJECT_NAMES = re.compile(
    r"block_pose|has_block|(set|put|place|move|moved|random|teleported)_blocks?\b|wooden|cube|BLOCK_(HEIGHT|RANGE|PIXEL)"
)
OBJECT_WORDS = re.compile(r"\b(wooden|cube)\b|^\w+ed block$|^block (position|angle|pose)$")


@dataclass(frozen=True)
class Break:
    """A line that violates a rule."""

    path: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


@dataclass(frozen=True)
class Source:
    """A Python file."""

    path: str  # from the root of the checkout
    tree: ast.Module

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def sources(root: Path, *folders: str) -> list[Source]:
    """The Python files of these folders."""
    found = (path for folder in folders for path in sorted((root / folder).rglob("*.py")))
    return [Source(path.relative_to(root).as_posix(), ast.parse(path.read_text())) for path in found]


def imports(source: Source, modules: set[str]) -> Iterator[tuple[int, str]]:
    """(line, module) of each import anywhere in the file; for our own packages the module that is really imported."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield node.lineno, whole if whole in modules else node.module


def rule_breaks_of_imports(code: list[Source]) -> Iterator[Break]:
    """Imports that violate the order of folders or import packages built on lewm_model, and modules outside folders."""
    modules = {source.module for source in code}
    for source in code:
        parts = source.module.split(".")
        if parts[0] == "lewm_model" and len(parts) == 2 and source.path.count("/") == 1 and parts[1] != "config":
            yield Break(source.path, 1, "a module outside any folder; only config.py may be one")
            continue
        mine = parts[1] if parts[0] == "lewm_model" and len(parts) > 1 else None
        if mine is not None and mine not in FOLDERS:
            yield Break(source.path, 1, f"the folder {mine} has no place in the order {' < '.join(FOLDERS)}")
            continue
        for line, name in imports(source, modules):
            top = name.split(".")[0]
            if parts[0] == "lewm_model" and top in BEYOND:
                yield Break(source.path, line, f"lewm_model imports {name}")
            if source.path.startswith("lewm_ros/safety") and top == "rclpy":
                yield Break(source.path, line, "the shield imports rclpy")
            if mine is not None and top == "lewm_model" and "." in name:
                other = name.split(".")[1]
                if other in FOLDERS and FOLDERS.index(other) > FOLDERS.index(mine):
                    yield Break(source.path, line, f"{mine} imports {name}, which comes after it in FOLDERS")


def circles(code: list[Source]) -> list[list[str]]:
    """Import cycles: groups of modules that import each other (Tarjan's strongly connected components)."""
    modules = {source.module for source in code}
    graph = {s.module: {name for _, name in imports(s, modules) if name in modules} - {s.module} for s in code}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(graph):
        if module not in index:
            visit(module)
    return found


def joint_names(root: Path) -> set[str]:
    """The joint names of every robot described in the checkout."""
    found = {
        joint.get("name", "")
        for path in (root / "worlds").glob("*.sdf")
        for joint in ElementTree.parse(path).iter("joint")
        if joint.get("type") != "fixed"
    }
    for path in (root / "config" / "robots").glob("*.yaml"):
        joints = (yaml.safe_load(path.read_text()) or {}).get("joints", ())
        found |= {joint["name"] if isinstance(joint, dict) else str(joint) for joint in joints}
    return found - {"", "gripper"}  # the name of a joint of some arm, but also a general word


def particular_names(code: list[Source], joints: set[str]) -> Iterator[Break]:
    """Lines of general code that name a joint, a picture size, or an object of a task."""
    for source in code:
        if source.path.startswith(PARTICULAR):
            continue
        texts = _documentation(source.tree)
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
                if node.value in joints:
                    yield Break(source.path, node.lineno, f"names the joint {node.value!r}")
                if OBJECT_WORDS.search(node.value):
                    yield Break(source.path, node.lineno, f"names the object of a task: {node.value!r}")
            for name in _names(node):
                if OBJECT_NAMES.search(name):
                    yield Break(source.path, getattr(node, "lineno", 1), f"names the object of a task: {name}")
            for name, value in _given(node):
                sizes = {each.value for each in ast.walk(value) if isinstance(each, ast.Constant)}
                of_cameras = source.path != "lewm_model/config.py"  # which defines the model sizes
                if of_cameras and OF_PICTURES.search(name) and {s for s in sizes if type(s) is int} & PICTURE_SIZES:
                    yield Break(source.path, value.lineno, f"{name} is the size of a particular picture")


def _documentation(tree: ast.Module) -> set[int]:
    """The nodes of docstrings and other stand-alone strings."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def _names(node: ast.AST) -> list[str]:
    """The identifiers that a node uses or defines."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.arg) or (isinstance(node, ast.keyword) and node.arg is not None):
        return [str(node.arg)]
    return []


def _given(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """The names that a node assigns to, with the value."""
    if isinstance(node, ast.keyword) and node.arg is not None:
        yield node.arg, node.value
    elif isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name):
        yield node.target.id, node.value
    elif isinstance(node, ast.Assign) and isinstance(node.value, (ast.Constant, ast.Tuple)):
        yield from ((target.id, node.value) for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.arguments):
        named = [*node.posonlyargs, *node.args]
        given = list(zip(named[len(named) - len(node.defaults) :], node.defaults, strict=True))
        given += [(name, value) for name, value in zip(node.kwonlyargs, node.kw_defaults, strict=True) if value]
        yield from ((name.arg, value) for name, value in given)


def examine(root: Path = ROOT) -> tuple[list[list[str]], list[Break]]:
    """The import cycles, and every line that violates another rule."""
    code = sources(root, "lewm_model", "lewm_ros")
    breaks = list(rule_breaks_of_imports(code))
    breaks += particular_names(sources(root, *GENERAL), joint_names(root))
    return circles(code), list(dict.fromkeys(sorted(breaks, key=str)))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/house"), help="folder for summary.json")
    arguments = parser.parse_args()
    found, breaks = examine()
    for group in found:
        print(f"import cycle: {', '.join(group)}")
    for each in breaks:
        print(each)
    figures: Figures = {"house.circles": (len(found), "circles"), "house.rule_breaks": (len(breaks), "lines")}
    write_figures(arguments.out / "summary.json", figures, "make house", circles=found, breaks=[str(b) for b in breaks])
    print(f"{len(found)} import cycles, {len(breaks)} lines that violate a rule")
    if found or breaks:
        sys.exit(1)


if __name__ == "__main__":
    main()
