"""Bundle -> ONNX graphs, checked against PyTorch before they are kept.

    onnx/encoder.onnx   image (1, S, S, 3) uint8 -> latent (1, D); normalisation is inside the graph
    onnx/rollout.onnx   context (h, D), candidates (samples, H, E), goal (D,) [, past_actions (h - 1, E)]
                        -> distances (samples, H + 1), latents (samples, H, D)
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from lewm_model.bundle import Bundle, load_heads, load_model, save_description
from lewm_model.config import PlanConfig
from lewm_model.graphs import EncoderGraph, RolloutGraph

OPSET = 18
TOLERANCE = 1e-4  # greatest difference between ONNX Runtime and PyTorch, in latent units and in control steps
ENCODER, ROLLOUT = "onnx/encoder.onnx", "onnx/rollout.onnx"


class ExportError(RuntimeError):
    """A graph that does not compute what the model computes."""


def example_inputs(bundle: Bundle, horizon: int, samples: int, seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    """Random inputs of each graph by name, with the shapes and types that the graphs have."""
    c, generator = bundle.model, torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    rollout = {
        "context": normal(c.history, c.latent_dim),
        "candidates": normal(samples, horizon, c.block_dim),
        "goal": normal(c.latent_dim),
    }
    if c.history > 1:
        rollout["past_actions"] = normal(c.history - 1, c.block_dim)
    image = torch.randint(0, 256, (1, c.image_size, c.image_size, 3), dtype=torch.uint8, generator=generator)
    return {ENCODER: {"image": image}, ROLLOUT: rollout}


def export_onnx(bundle: Bundle, horizon: int = PlanConfig().horizon) -> Bundle:
    """Writes both graphs into the bundle and returns it with their hashes. Raises ExportError when they do not agree.

    `horizon` is the number of action blocks that the rollout graph imagines.
    """
    model = load_model(bundle)
    heads = load_heads(bundle)
    graphs: dict[str, tuple[nn.Module, list[str]]] = {
        ENCODER: (EncoderGraph(model), ["latent"]),
        ROLLOUT: (RolloutGraph(model, heads.get("steps_to_go")), ["distances", "latents"]),
    }
    for name, inputs in example_inputs(bundle, horizon, samples=8).items():
        graph, outputs = graphs[name]
        path = bundle.folder / name
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".part")
        _export(graph.eval(), inputs, outputs, temporary)
        difference = _difference(graph, temporary, example_inputs(bundle, horizon, samples=64, seed=1)[name])
        if not difference <= TOLERANCE:
            temporary.unlink()
            raise ExportError(f"{name} differs from PyTorch by {difference:.2e}, allowed are {TOLERANCE}; it is not kept")
        os.replace(temporary, path)
    return save_description(bundle)


def _export(graph: nn.Module, inputs: dict[str, torch.Tensor], outputs: list[str], path: Path) -> None:
    shapes = {name: {0: torch.export.Dim("samples")} if name == "candidates" else None for name in inputs}
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # the exporter prints its progress
        program = torch.onnx.export(
            graph,
            kwargs=inputs,
            input_names=list(inputs),
            output_names=outputs,
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)
    onnx.checker.check_model(str(path), full_check=True)


def _difference(graph: nn.Module, path: Path, inputs: dict[str, torch.Tensor]) -> float:
    """Greatest absolute difference between PyTorch and ONNX Runtime over all outputs."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    with torch.inference_mode():
        expected = graph(**inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    return max(float(np.abs(a - b.numpy()).max()) for a, b in zip(found, expected, strict=True))
