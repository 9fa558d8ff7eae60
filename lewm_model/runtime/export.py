# SPDX-License-Identifier: Apache-2.0
"""Exports a bundle's ONNX graphs in fp32 and fp16, checks them, and writes the golden outputs that engines must match.

    onnx/encoder.onnx   image (1, H, W, 3) uint8 -> latent (1, D); normalisation is inside the graph
    onnx/rollout.onnx   context (h, D), candidates (samples, H, E), goal (D,) [, past_actions (h - 1, E)]
                        -> distances (samples, H + 1), latents (samples, H, D)
    onnx/proposal.onnx  latent (1, D), goal (1, D), steps_to_go (1,) -> block (1, E); only with a head for it,
                        and with a policy (samples, …) except for the goal
    onnx/step.onnx      contexts (samples, h, D), blocks (samples, E) [, past_actions (samples, h - 1, E)]
                        -> latents (samples, D); only with a policy
    onnx/decoder.onnx   latents (N, D) -> pictures (N, H, W, 3); only with a decoder, see `lewm_model.runtime.decoder`
    onnx/*.fp16.onnx    the same graphs with fp16 arithmetic and the same inputs and outputs
    onnx/golden.safetensors  sample frames, candidates, and their outputs in ONNX Runtime in fp32

The fp32 graphs are compared with PyTorch, the fp16 graphs with the golden outputs.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxscript import opset18
from torch import nn

from lewm_model.bundle.bundle import Bundle, BundleError, load_heads, load_model, save_description
from lewm_model.bundle.update import update
from lewm_model.config import ModelConfig
from lewm_model.data.clips import Episodes
from lewm_model.models.graphs import (
    EncoderGraph,
    ProposalGraph,
    RolloutGraph,
    StepGraph,
    for_inference,
    half_encoder,
    in_half,
)
from lewm_model.models.lewm import LeWM
from lewm_model.models.signature import (
    ENCODER,
    POLICY,
    PROPOSAL,
    ROLLOUT,
    SAMPLES,
    STEP,
    Signature,
    measuring,
    onnx_file,
    proposing,
    signatures,
)
from lewm_model.runtime import decoder, equivalence
from lewm_model.runtime.onnx_backend import OnnxRuntime

OPSET = 18  # of ONNX; the one that PyTorch's exporter writes without conversion, and TensorRT 10.3 reads
# Greatest difference between ONNX Runtime and PyTorch in fp32, relative to the greatest output. It is a few times the
# difference between fp32 and fp64, which is largest with `readout` "all".
TOLERANCE = 5e-5
log = logging.getLogger(__name__)


class ExportError(RuntimeError):
    """A graph whose outputs differ from the PyTorch model's."""


def export_onnx(bundle: Bundle, horizon: int | None = None, frames: np.ndarray | None = None) -> Bundle:
    """Writes the graphs and golden outputs into the bundle and returns it with their hashes.

    fp16 graphs that fail the check of numerical equivalence are left out with a warning.

    :param horizon: action blocks of the rollout graph, which becomes the bundle's horizon; by default that stays.
    :param frames: sample frames (N, H, W, 3) uint8, one action block apart, N at least the model's history + 1. By
        default those of the last export, or random pictures for a bundle without any.
    :raises ExportError: a graph's outputs differ from PyTorch's; the bundle then stays as it was.
    """
    wanted = replace(bundle, horizon=bundle.horizon if horizon is None else horizon)
    return update(wanted, lambda draft: _exported(draft, frames))


def _exported(bundle: Bundle, frames: np.ndarray | None) -> Bundle:
    frames = _known_frames(bundle) if frames is None else frames
    wanted = signatures(bundle.model, bundle.horizon, bundle.heads)
    (bundle.folder / "onnx").mkdir(exist_ok=True)
    for old in (bundle.folder / "onnx").glob("*.onnx"):
        old.unlink()
    model, heads = load_model(bundle), load_heads(bundle)
    still = torch.from_numpy(bundle.actions.still)
    for name, module in graph_modules(model, heads, "fp32", still).items():
        path = bundle.folder / onnx_file(name)
        export_graph(module, wanted[name], path)
        for inputs in (example_inputs(wanted[name], 64, seed=1), _with_frame(wanted[name], frames)):
            _check_against_torch(module, path, inputs)
    if decoder.DECODER in bundle.files:
        export_decoder(bundle, decoder.load_network(bundle))
    bundle = save_description(bundle)
    golden = equivalence.golden_inputs(bundle, bundle.horizon, frames)
    answers = equivalence.answer(OnnxRuntime(bundle), golden, PROPOSAL in wanted, STEP in wanted)
    golden = replace(golden, answers=answers)
    equivalence.save_golden(bundle, golden)

    for name, module in graph_modules(model, heads, "fp16", still).items():
        export_graph(module, wanted[name], bundle.folder / onnx_file(name, "fp16"))
    bundle = save_description(bundle)
    found = equivalence.measure(OnnxRuntime(bundle, precision="fp16"), golden)
    if found.problem:
        log.warning("the fp16 graphs are left out, engines will be fp32: %s", found.problem)
        for name in wanted:
            (bundle.folder / onnx_file(name, "fp16")).unlink()
    evaluation = {**bundle.evaluation, "fp16": {**found.as_dict(), "problem": found.problem}}
    return replace(bundle, evaluation=evaluation)


def export_decoder(bundle: Bundle, network: nn.Module) -> None:
    """Writes the decoder's graph into the folder of a draft (`lewm_model.bundle.update`) and checks it."""
    path, wanted = bundle.folder / onnx_file(decoder.GRAPH), decoder.signature(bundle)
    path.parent.mkdir(exist_ok=True)
    export_graph(network, wanted, path)
    _check_against_torch(network, path, example_inputs(wanted, 5, seed=1))


def graph_modules(
    model: LeWM, heads: Mapping[str, nn.Module], precision: str, still: torch.Tensor
) -> dict[str, nn.Module]:
    """The graphs as PyTorch modules; `still` (E,) is the z-scored block of an arm at rest.

    The head that measures distances stays in fp32: it is small, and small differences of costs matter.
    """
    half = precision == "fp16"
    rollout = RolloutGraph(model, heads.get(measuring(heads) or ""), still)
    if half:
        rollout.rollout.blocks.half()
    encoder = EncoderGraph(half_encoder(model) if half else for_inference(model))
    modules: dict[str, nn.Module] = {ENCODER: encoder, ROLLOUT: rollout}
    name = proposing(heads)
    if name:
        modules[PROPOSAL] = ProposalGraph(in_half(copy.deepcopy(heads[name])) if half else heads[name])
    if name == POLICY:
        modules[STEP] = StepGraph(model)
        if half:
            modules[STEP].rollout.blocks.half()
    return modules


def sample_frames(data: Episodes, model: ModelConfig) -> np.ndarray:
    """Frames (N, H, W, 3) for `export_onnx`, one action block apart, from the longest recorded episode."""
    episode = int(data.lengths.argmax())
    steps = model.frameskip * np.arange(_frame_count(model))
    return data.pixels[data.offsets[episode] + np.minimum(steps, data.lengths[episode] - 1)]


def _frame_count(model: ModelConfig) -> int:
    return max(equivalence.FRAMES, model.history + 1)


def _known_frames(bundle: Bundle) -> np.ndarray:
    try:
        return equivalence.load_golden(bundle).frames
    except (BundleError, OSError):
        shape = (_frame_count(bundle.model), *bundle.model.image_size, 3)
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def example_inputs(signature: Signature, samples: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random inputs of a graph, by name, for `samples` candidates."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {}
    for tensor in signature.at(samples).inputs:
        if tensor.dtype == "uint8":
            inputs[tensor.name] = torch.randint(0, 256, tensor.shape, dtype=torch.uint8, generator=generator)
        else:
            inputs[tensor.name] = torch.randn(*tensor.shape, generator=generator)
    return inputs


def _with_frame(signature: Signature, frames: np.ndarray) -> dict[str, torch.Tensor]:
    """As `example_inputs`, with a sample frame as the picture."""
    inputs = example_inputs(signature, 64, seed=2)
    if signature.graph == ENCODER:
        inputs["image"] = torch.from_numpy(frames[:1].copy())
    return inputs


def export_graph(module: nn.Module, signature: Signature, path: Path) -> None:
    """Writes `module` as an ONNX graph with the names of `signature`, and checks it with ONNX's own checker."""
    inputs = example_inputs(signature, 8)
    shapes = {t.name: {0: torch.export.Dim("samples")} if t.shape[0] == SAMPLES else None for t in signature.inputs}
    for noisy in ("onnxscript", "torch.onnx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():  # the exporter prints its progress
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=[tensor.name for tensor in signature.outputs],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
            custom_translation_table={torch.ops.aten.gelu.default: _gelu},
        )
    assert program is not None
    temporary = path.with_suffix(".part")
    graph = program.model_proto
    _forget_sources(graph)
    onnx.save(graph, str(temporary))
    onnx.checker.check_model(str(temporary), full_check=True)
    os.replace(temporary, path)


def _gelu(x: Any, approximate: str = "none") -> Any:
    """GELU in the order of operations that ONNX Runtime fuses, together with the bias before it."""
    root, one, half = (opset18.CastLike(opset18.Constant(value_float=v), x) for v in (math.sqrt(2.0), 1.0, 0.5))
    return opset18.Mul(opset18.Mul(x, opset18.Add(opset18.Erf(opset18.Div(x, root)), one)), half)


def _forget_sources(model: onnx.ModelProto) -> None:
    """Removes references to the exporter's Python source: half of the file, with paths of the exporting machine."""
    parts: list[Any] = [model, model.graph, *model.functions]
    for graph in (model.graph, *model.functions):
        parts += [*graph.node, *graph.value_info]
    for part in (*parts, *model.graph.initializer, *model.graph.input, *model.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _check_against_torch(module: nn.Module, path: Path, inputs: dict[str, torch.Tensor]) -> None:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    with torch.inference_mode():
        expected = module(**inputs)
    for a, b in zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True):
        difference = float(np.abs(a - b.numpy()).max()) / max(1.0, float(b.abs().max()))
        if not difference <= TOLERANCE:
            path.unlink()
            raise ExportError(
                f"{path.name} differs from PyTorch by {difference:.2e} of its greatest output, {TOLERANCE} is allowed; "
                "it is not kept. Train again, or report this with the versions of torch and onnxruntime"
            )
