# SPDX-License-Identifier: Apache-2.0
"""Names, shapes and types of each graph's inputs and outputs: the contract of export, engines and back ends."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from lewm_model.config import ModelConfig

ENCODER, ROLLOUT, PROPOSAL = "encoder", "rollout", "proposal"
POLICY = "policy"  # a head that computes PROPOSAL in the place of the head of that name, for many latents at once
STEP = "step"  # a rollout of one block, each candidate from a context of its own: to roll out a policy
# Heads that measure the distance to a goal: of the arm's own motion, or in the time that play took to it.
DISPLACEMENT, TEMPORAL_DISTANCE = "displacement", "temporal_distance"
PRECISIONS = ("fp16", "fp32")  # of the arithmetic inside a graph; inputs and outputs have the same types in both
SAMPLES = -1  # stands for the number of candidates in a shape


@dataclass(frozen=True)
class TensorSpec:
    """One input or output. `shape` may hold SAMPLES; `dtype` is numpy's name, "float32" or "uint8"."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    def __str__(self) -> str:
        dimensions = ", ".join("samples" if size == SAMPLES else str(size) for size in self.shape)
        return f"{self.name} ({dimensions}) {self.dtype}"


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of one graph, in the order of the ONNX file."""

    graph: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def dynamic(self) -> bool:
        """Whether a dimension is the number of candidates."""
        return any(SAMPLES in tensor.shape for tensor in self.inputs)

    def at(self, samples: int) -> Signature:
        """The same graph for a fixed number of candidates."""

        def fixed(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
            return tuple(replace(t, shape=tuple(samples if n == SAMPLES else n for n in t.shape)) for t in tensors)

        return replace(self, inputs=fixed(self.inputs), outputs=fixed(self.outputs))


def proposing(heads: Collection[str]) -> str | None:
    """The head that computes the graph `proposal`; None where no head does."""
    return next((name for name in (POLICY, PROPOSAL) if name in heads), None)


def measuring(heads: Collection[str]) -> str | None:
    """The head that computes the distances of the graph `rollout`; None for the paper's squared latent distance."""
    return next((name for name in (TEMPORAL_DISTANCE, DISPLACEMENT) if name in heads), None)


def signatures(model: ModelConfig, horizon: int, heads: Collection[str] = ()) -> dict[str, Signature]:
    """The graphs of a model by name: encoder, rollout over `horizon` blocks, proposal where a head proposes, and step
    where that is a policy.
    """
    latent, block, history = model.latent_dim, model.block_dim, model.history
    rollout = [
        TensorSpec("context", (history, latent)),
        TensorSpec("candidates", (SAMPLES, horizon, block)),
        TensorSpec("goal", (latent,)),
    ]
    if history > 1:
        rollout.append(TensorSpec("past_actions", (history - 1, block)))
    found = {
        ENCODER: Signature(
            ENCODER, (TensorSpec("image", (1, *model.image_size, 3), "uint8"),), (TensorSpec("latent", (1, latent)),)
        ),
        ROLLOUT: Signature(
            ROLLOUT,
            tuple(rollout),
            (TensorSpec("distances", (SAMPLES, horizon + 1)), TensorSpec("latents", (SAMPLES, horizon, latent))),
        ),
    }
    head = proposing(heads)
    if head:
        rows = SAMPLES if head == POLICY else 1
        inputs = (
            TensorSpec("latent", (rows, latent)),
            TensorSpec("goal", (1, latent)),
            TensorSpec("steps_to_go", (rows,)),
        )
        found[PROPOSAL] = Signature(PROPOSAL, inputs, (TensorSpec("block", (rows, block)),))
    if head == POLICY:
        step = [TensorSpec("contexts", (SAMPLES, history, latent)), TensorSpec("blocks", (SAMPLES, block))]
        if history > 1:
            step.append(TensorSpec("past_actions", (SAMPLES, history - 1, block)))
        found[STEP] = Signature(STEP, tuple(step), (TensorSpec("latents", (SAMPLES, latent)),))
    return found


def onnx_file(graph: str, precision: str = "fp32") -> str:
    """The path of a graph's file in a bundle's folder."""
    return f"onnx/{graph}.onnx" if precision == "fp32" else f"onnx/{graph}.{precision}.onnx"
