"""The parameters of LeWM under the names of the reference code (stable-worldmodel), and back: nothing is rounded.

Ours differ in the encoder alone: query, key and value are one matrix here and three there, and its parts are called as
in Hugging Face's ViTModel there. Everything else has the same name.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lewm_model.config import ModelConfig

# Of the encoder: our name, theirs. {} is the number of the block.
_ENCODER = (
    ("cls_token", "embeddings.cls_token"),
    ("position", "embeddings.position_embeddings"),
    ("stem", "embeddings.patch_embeddings.projection"),
    ("norm", "layernorm"),
)
_BLOCK = (
    ("blocks.{}.norm1", "encoder.layer.{}.layernorm_before"),
    ("blocks.{}.out", "encoder.layer.{}.attention.output.dense"),
    ("blocks.{}.norm2", "encoder.layer.{}.layernorm_after"),
    ("blocks.{}.mlp.0", "encoder.layer.{}.intermediate.dense"),
    ("blocks.{}.mlp.2", "encoder.layer.{}.output.dense"),
)
_QKV = ("blocks.{}.qkv", tuple(f"encoder.layer.{{}}.attention.attention.{part}" for part in ("query", "key", "value")))


class InterchangeError(ValueError):
    """A model that has no counterpart in the reference code, or a checkpoint that cannot be read; says why."""


def check_expressible(c: ModelConfig) -> None:
    """Raises InterchangeError where the reference code has no network of this kind."""
    for wrong, what in (
        (c.stem != "patch", f"the stem is {c.stem!r}; the reference's encoder has linear patches only (stem 'patch')"),
        (c.activation != "gelu", f"the activation is {c.activation!r}; the reference's predictor has GELU only"),
        (
            c.predictor_heads == 1 and c.predictor_head_dim == c.predictor_width,
            "the reference's attention has no output layer with one head as wide as the predictor",
        ),
    ):
        if wrong:
            raise InterchangeError(f"this model cannot be expressed in the reference code: {what}")


def _pairs(depth: int) -> list[tuple[str, str]]:
    """(our prefix, their prefix) of everything that only has another name."""
    blocks = [(ours.format(i), theirs.format(i)) for i in range(depth) for ours, theirs in _BLOCK]
    return [(f"encoder.{ours}", f"encoder.{theirs}") for ours, theirs in (*_ENCODER, *blocks)]


def _kinds(name: str) -> tuple[str, ...]:
    return ("",) if name.endswith(("cls_token", "position")) else (".weight", ".bias")


def to_reference(state: Mapping[str, Tensor], c: ModelConfig) -> dict[str, Tensor]:
    """Our state dict -> the reference's. Raises InterchangeError for a model that it cannot express."""
    check_expressible(c)
    out = {name: value for name, value in state.items() if not name.startswith("encoder.")}
    for ours, theirs in _pairs(c.encoder_depth):
        for kind in _kinds(ours):
            out[theirs + kind] = state[ours + kind]
    ours, parts = _QKV
    for block in range(c.encoder_depth):
        for kind in (".weight", ".bias"):
            for part, value in zip(parts, state[f"encoder.{ours.format(block)}{kind}"].chunk(3), strict=True):
                out[f"encoder.{part.format(block)}{kind}"] = value.clone()
    return out


def from_reference(state: Mapping[str, Tensor], c: ModelConfig) -> dict[str, Tensor]:
    """The reference's state dict -> ours. Raises InterchangeError, naming them, for parameters missing or left over."""
    rest = dict(state)

    def take(name: str) -> Tensor:
        if name not in rest:
            raise InterchangeError(f"the checkpoint lacks {name!r}; it is not one of a LeWM with these sizes")
        return rest.pop(name)

    out = {}
    for ours, theirs in _pairs(c.encoder_depth):
        for kind in _kinds(ours):
            out[ours + kind] = take(theirs + kind)
    ours, parts = _QKV
    for block in range(c.encoder_depth):
        for kind in (".weight", ".bias"):
            out[f"encoder.{ours.format(block)}{kind}"] = torch.cat(
                [take(f"encoder.{part.format(block)}{kind}") for part in parts]
            )
    left = [name for name in rest if name.startswith("encoder.")]
    if left:
        raise InterchangeError(f"the checkpoint has {left[0]!r}, which an encoder with these sizes does not have")
    return out | rest
