# SPDX-License-Identifier: Apache-2.0
"""Checks that NVIDIA's TensorRT-RTX parses and builds our graphs, on a CPU: `make engine-check`.

Exports the graphs of randomly initialised models, in fp32 and fp16, checks them with onnx.checker and ONNX Runtime, and
builds them as on a robot, with `lewm_model.runtime.tensorrt.builder.build_plan` and the real `tensorrt_rtx`, which has
a virtual environment of its own. Invalid graphs, as controls, must be refused with a message that names the node and
the reason. Nothing is executed on a GPU: a pass says that TensorRT-RTX's parser and builder accept the graphs, no more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lewm_model.config import MODEL_SIZES, POLICY_PLAN, ModelConfig, PlanConfig, from_dict
from lewm_model.evaluation.figures import Figures, write_figures
from lewm_model.models.heads import HEADS
from lewm_model.models.lewm import LeWM
from lewm_model.models.signature import PRECISIONS, signatures
from lewm_model.runtime.export import example_inputs, export_graph, graph_modules
from recipes.train_push import RECIPE

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = 64  # candidates of a rollout
# Built are the sizes of a model for reaching, and those of the push model, which has a goal-conditioned policy.
MODELS: dict[str, dict[str, Any]] = {**MODEL_SIZES, "push": {**MODEL_SIZES["small"], **RECIPE.model}}
CONTROL_MODEL = {**MODEL_SIZES["small"], "image_size": 64, "latent_dim": 32}  # that of the controls


def export(size: str, precision: str, folder: Path) -> list[dict[str, Any]]:
    """Writes the graphs of one of MODELS in one precision; one row each."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config, pushes = from_dict(ModelConfig, MODELS[size]), size == "push"
    horizon = (POLICY_PLAN if pushes else PlanConfig()).horizon
    model = LeWM(config).eval()
    names = ("policy", "temporal_distance") if pushes else ("displacement", "proposal")
    heads = {name: HEADS[name](config).eval() for name in names}
    rows = []
    for name, module in graph_modules(model, heads, precision, torch.zeros(model.config.block_dim)).items():
        path = folder / f"{size}-{name}-{precision}.onnx"
        signature = signatures(config, horizon, heads)[name]
        begin = time.monotonic()
        export_graph(module, signature, path)  # runs onnx.checker, full
        exported_s = time.monotonic() - begin
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        inputs = {name: value.numpy() for name, value in example_inputs(signature, 2).items()}
        assert all(np.isfinite(output).all() for output in session.run(None, inputs)), f"{path.name} is not finite"
        rows.append(
            {
                "file": path.name,
                "size": size,
                "model": MODELS[size],
                "heads": names,
                "graph": name,
                "precision": precision,
                "horizon": horizon,
                "samples": SAMPLES,
                "nodes": len(onnx.load(str(path)).graph.node),
                "export_s": round(exported_s, 1),
            }
        )
    return rows


def controls(folder: Path) -> list[dict[str, Any]]:
    """Writes graphs that must be refused as an encoder; `says` is what the message must contain."""

    def graph(file: str, nodes: list[onnx.NodeProto], size: int = 64, opset: int = 18, domain: str = "") -> None:
        weights = [
            helper.make_tensor("picture_shape", TensorProto.INT64, [2], [1, size * size * 3]),
            helper.make_tensor("weight", TensorProto.FLOAT, [7, 32], np.zeros(7 * 32, np.float32)),
            helper.make_tensor("fitting", TensorProto.FLOAT, [size * size * 3, 32], np.zeros(size**2 * 96, np.float32)),
        ]
        used = {name for node in nodes for name in node.input}
        body = helper.make_graph(
            nodes,
            file,
            [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, size, size, 3])],
            [helper.make_tensor_value_info("latent", TensorProto.FLOAT, [1, 32])],
            [weight for weight in weights if weight.name in used],
        )
        opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
        (folder / file).write_bytes(helper.make_model(body, opset_imports=opsets, ir_version=9).SerializeToString())

    cast = helper.make_node("Cast", ["image"], ["pixels"], "cast", to=TensorProto.FLOAT)
    flat = helper.make_node("Reshape", ["pixels", "picture_shape"], ["flat"], "flat")
    (folder / "garbage.onnx").write_bytes(np.random.default_rng(0).bytes(4096))
    (folder / "empty.onnx").write_bytes(b"")
    graph(
        "unsupported-operator.onnx",
        [cast, helper.make_node("Telepathy", ["pixels"], ["latent"], "read_mind", domain="com.example")],
        domain="com.example",
    )
    graph("wrong-shape.onnx", [cast, flat, helper.make_node("MatMul", ["flat", "weight"], ["latent"], "misfit")])
    graph("other-size.onnx", [cast, flat, helper.make_node("MatMul", ["flat", "fitting"], ["latent"], "product")], 96)
    early = helper.make_node("Reshape", ["image", "picture_shape"], ["bytes"], "reshape_of_bytes")
    late = helper.make_node("Cast", ["bytes"], ["flat"], "late_cast", to=TensorProto.FLOAT)
    product = helper.make_node("MatMul", ["flat", "fitting"], ["latent"], "product")
    graph("uint8-not-cast-first.onnx", [early, late, product])

    def constant(name: str, **value: Any) -> onnx.NodeProto:
        return helper.make_node("Constant", [], [name], f"make_{name}", **value)

    attention = [cast, constant("tokens_shape", value_ints=[1, 4, 96, 32]), constant("axes", value_ints=[1, 2])]
    attention.append(helper.make_node("Reshape", ["pixels", "tokens_shape"], ["tokens"], "tokens"))
    for name, scale in (("query", 0.1), ("key", 0.2), ("value", 0.3)):
        attention += [constant(f"{name}_scale", value_float=scale)]
        attention += [helper.make_node("Mul", ["tokens", f"{name}_scale"], [name], f"scale_{name}")]
    attention.append(helper.make_node("Attention", ["query", "key", "value"], ["attended"], "attend"))
    attention.append(helper.make_node("ReduceMean", ["attended", "axes"], ["latent"], "mean", keepdims=0))
    graph("attention-opset-23.onnx", attention, opset=23)
    says = {
        "garbage.onnx": ["Failed to parse the ONNX model"],
        "empty.onnx": ["inputs none"],
        "unsupported-operator.onnx": ["read_mind", "Telepathy"],
        "wrong-shape.onnx": ["misfit", "MatMul"],
        "other-size.onnx": ["image (1, 96, 96, 3) uint8", "needs image (1, 64, 64, 3) uint8"],
        "uint8-not-cast-first.onnx": ["reshape_of_bytes", "UInt8"],
        "attention-opset-23.onnx": ["Attention operation was not supported", "attend_AttentionInput"],
    }
    return [{"file": file, "says": texts} for file, texts in says.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", type=Path, default=ROOT / ".venv-rtx/bin/python", help="has tensorrt_rtx")
    parser.add_argument("--size", choices=list(MODELS), action="append", help="default: all")
    parser.add_argument("--out", type=Path, default=ROOT / "out/engine-check")
    arguments = parser.parse_args()
    sizes = arguments.size or list(MODELS)
    arguments.out.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    kinds = [(size, precision) for size in sizes for precision in PRECISIONS]
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        rows = pool.map(export, *zip(*kinds, strict=True), [arguments.out] * len(kinds))
        graphs = [row for part in rows for row in part]
    jobs = arguments.out / "jobs.json"
    jobs.write_text(json.dumps({"graphs": graphs, "controls": controls(arguments.out), "control_model": CONTROL_MODEL}))
    found = arguments.out / "found.json"
    found.unlink(missing_ok=True)
    # Without the library path and bootstrap guard of the ROS wheels, which are for another environment, and without a
    # GPU.
    hidden = ("LD_LIBRARY_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    child = [str(arguments.python), "-W", "ignore", str(ROOT / "validation/engine_check_rtx.py"), str(jobs), str(found)]
    subprocess.run(child, env=environment, check=True)
    results = json.loads(found.read_text())
    _report(results, time.monotonic() - begin)

    built = sum(not row["problem"] for row in results["graphs"])
    refused = sum(not row["problem"] for row in results["controls"])
    command = "make engine-check" + "".join(f" SIZE={size}" for size in arguments.size or [])
    figures: Figures = {
        "engine_check.graphs_built": (built, "graphs"),
        "engine_check.controls_refused": (refused, "controls"),
    }
    others = {"tensorrt_rtx": results["version"], **results}
    write_figures(arguments.out / "summary.json", figures, command, **others)
    if built < len(results["graphs"]) or refused < len(results["controls"]):
        sys.exit("engine-check: see the lines above without ok")


def _report(results: dict[str, Any], seconds: float) -> None:
    console = Console(width=150 if not sys.stdout.isatty() else None)
    table = Table(title=f"TensorRT-RTX {results['version']} on a CPU: parse and build")
    for column in ("graph", "nodes", "export s", "build s", "engine MB", "result"):
        table.add_column(column, justify="left" if column in ("graph", "result") else "right")
    for row in results["graphs"]:
        cells = (row["nodes"], row["export_s"], row.get("build_s", "-"), row.get("engine_mb", "-"))
        table.add_row(row["file"], *map(str, cells), escape(row["problem"]) or "ok")
    console.print(table)
    table = Table(title="Controls that must be refused")
    for column in ("control", "result", "message"):
        table.add_column(column)
    for row in results["controls"]:
        table.add_row(row["control"], row["problem"] or "ok", escape(row["message"][:400]))
    console.print(table)
    console.print(f"{seconds:.0f} s in all")


if __name__ == "__main__":
    main()
