# SPDX-License-Identifier: Apache-2.0
"""Every TensorRT name in the code exists in TensorRT 10.3 (JetPack 6), 10.13 (JetPack 7) and 11.4."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMES: dict[str, dict[str, list[str]]] = json.loads((Path(__file__).parent / "data/tensorrt_names.json").read_text())
FILES = tuple(f"lewm_model/runtime/tensorrt/{name}.py" for name in ("builder", "engines", "backend"))

# The types that methods return, and those of our functions' parameters.
GIVES = {
    ("Builder", "create_network"): "INetworkDefinition",
    ("Builder", "create_builder_config"): "IBuilderConfig",
    ("Builder", "create_optimization_profile"): "IOptimizationProfile",
    ("Builder", "build_serialized_network"): "IHostMemory",
    ("INetworkDefinition", "get_input"): "ITensor",
    ("INetworkDefinition", "get_output"): "ITensor",
    ("INetworkDefinition", "get_layer"): "ILayer",
    ("OnnxParser", "get_error"): "ParserError",
    ("IBuilderConfig", "create_timing_cache"): "ITimingCache",
    ("IBuilderConfig", "get_timing_cache"): "ITimingCache",
    ("Runtime", "deserialize_cuda_engine"): "ICudaEngine",
    ("ICudaEngine", "create_execution_context"): "IExecutionContext",
}
PARAMETERS = {
    ("_check_network", "network"): "INetworkDefinition",
    ("spec", "tensor"): "ITensor",
    ("_suspects", "network"): "INetworkDefinition",
    ("_parse_errors", "parser"): "OnnxParser",
    ("_check_tensors", "engine"): "ICudaEngine",
    ("__init__", "runtime"): "Runtime",
}
FIELDS = {"_engine": "ICudaEngine", "_context": "IExecutionContext"}  # of Engine
MODULE = ("trt", "self.trt")
OURS = {"reasons"}  # what our subclass of ILogger adds


class Uses:
    """The TensorRT classes and names that a piece of code uses, found by following the types of its expressions."""

    def __init__(self, source: str) -> None:
        self.used: set[tuple[str, str]] = set()  # (class, name); ("", name) for names of the module
        self._function(ast.parse(source), {})

    def _function(self, node: ast.AST, variables: dict[str, str]) -> None:
        """Looks at a function, or a module; the variables of the functions around it are visible in it."""
        variables = dict(variables)
        if isinstance(node, ast.FunctionDef):
            arguments = [argument.arg for argument in node.args.args]
            known = {name: PARAMETERS[node.name, name] for name in arguments if (node.name, name) in PARAMETERS}
            variables = {name: kind for name, kind in variables.items() if name not in arguments} | known
        inner: list[ast.FunctionDef] = []
        statements = list(self._inside(node, inner))
        for _ in range(3):  # repeated, so that types pass through chains of assignments
            for statement in statements:
                self._bind(statement, variables)
        for statement in statements:
            if isinstance(statement, ast.Attribute):
                self._attribute(statement, variables)
        for function in inner:
            self._function(function, variables)

    def _inside(self, node: ast.AST, inner: list[ast.FunctionDef]) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                inner.append(child)
            else:
                yield child
                yield from self._inside(child, inner)

    def _bind(self, node: ast.AST, variables: dict[str, str]) -> None:
        pairs: list[tuple[ast.expr, ast.expr]] = []
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs += zip(target.elts, node.value.elts, strict=True)
                else:
                    pairs.append((target, node.value))
        elif isinstance(node, ast.comprehension):
            pairs.append((node.target, node.iter))
        for target, value in pairs:
            kind = self._element(value, variables)
            if kind and isinstance(target, ast.Name):
                variables[target.id] = kind

    def _element(self, node: ast.expr, variables: dict[str, str]) -> str:
        """The class of an expression, or of the elements of a list of them."""
        if isinstance(node, ast.ListComp):
            local = dict(variables)
            for generator in node.generators:
                self._bind(generator, local)
            return self._kind(node.elt, local)
        return self._kind(node, variables)

    def _kind(self, node: ast.expr, variables: dict[str, str]) -> str:
        text = ast.unparse(node)
        if isinstance(node, ast.Name):
            return variables.get(node.id, "")
        if isinstance(node, ast.Attribute) and text.startswith("self."):
            return FIELDS.get(node.attr, "")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if ast.unparse(node.func.value) in MODULE:
                return node.func.attr
            return GIVES.get((self._kind(node.func.value, variables), node.func.attr), "")
        return ""

    def _attribute(self, node: ast.Attribute, variables: dict[str, str]) -> None:
        if node.attr.startswith("__") or node.attr in OURS:
            return
        owner = ast.unparse(node.value)
        if owner in MODULE:
            self.used.add(("", node.attr))
        elif isinstance(node.value, ast.Attribute) and ast.unparse(node.value.value) in MODULE:
            self.used.add((node.value.attr, node.attr))  # an enumeration's member
        elif kind := self._kind(node.value, variables):
            self.used.add((kind, node.attr))


def missing(source: str) -> list[str]:
    """Names in `source` that some release lacks."""
    found = []
    for release, classes in NAMES.items():
        for owner, name in sorted(Uses(source).used):
            if name not in (classes if not owner else classes.get(owner, [])):
                found.append(f"{release} has no {owner + '.' if owner else ''}{name}")
    return found


@pytest.mark.parametrize("file", FILES)
def test_every_tensorrt_name_exists_in_all_supported_releases(file: str) -> None:
    assert missing((ROOT / file).read_text()) == []


def test_the_check_follows_the_code_from_builder_to_execution() -> None:
    used = set().union(*(Uses((ROOT / file).read_text()).used for file in FILES))
    for expected in (
        ("", "Builder"),
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("INetworkDefinition", "get_input"),
        ("ITensor", "dtype"),
        ("ILayer", "type"),
        ("ParserError", "node_name"),
        ("IBuilderConfig", "progress_monitor"),
        ("IOptimizationProfile", "set_shape"),
        ("ITimingCache", "serialize"),
        ("Runtime", "deserialize_cuda_engine"),
        ("ICudaEngine", "device_memory_size_v2"),
        ("ICudaEngine", "get_tensor_dtype"),
        ("IExecutionContext", "execute_async_v3"),
    ):
        assert expected in used


@pytest.mark.parametrize(
    ("good", "planted", "complaint"),
    [
        ("builder.build_serialized_network(", "builder.build_engine(", "10.3.0 has no Builder.build_engine"),
        ("trt.BuilderFlag.TF32", "trt.BuilderFlag.FP16", "11.4.0.106 has no BuilderFlag.FP16"),
        ("config.set_memory_pool_limit(", "config.set_calibration_profile(", "11.4.0.106 has no IBuilderConfig.set_c"),
        ("tensor.shape)", "tensor.dimensions)", "10.13.3.9 has no ITensor.dimensions"),
        ("error.node_name()", "error.name_of_node()", "10.3.0 has no ParserError.name_of_node"),
        ("trt.OnnxParser(", "trt.UffParser(", "11.4.0.106 has no UffParser"),
    ],
)
def test_a_planted_wrong_name_is_found(good: str, planted: str, complaint: str) -> None:
    source = (ROOT / FILES[0]).read_text()
    assert good in source
    assert any(complaint in found for found in missing(source.replace(good, planted)))


def test_a_wrong_name_planted_in_the_back_end_is_found() -> None:
    source = (ROOT / FILES[2]).read_text()
    for good, planted, complaint in (
        ("device_memory_size_v2", "device_memory_size", "11.4.0.106 has no ICudaEngine.device_memory_size"),
        ("execute_async_v3(", "execute_async_v2(", "10.3.0 has no IExecutionContext.execute_async_v2"),
        ("engine.get_tensor_name(", "engine.get_binding_name(", "10.3.0 has no ICudaEngine.get_binding_name"),
    ):
        assert good in source
        assert complaint in missing(source.replace(good, planted))
