# SPDX-License-Identifier: Apache-2.0
"""Converts checkpoints of the reference code (stable-worldmodel, le-wm) to bundles and back, without rounding.

A reference checkpoint is a folder with `weights.pt`, a state dict, and `config.json`, which names classes under Hydra's
`_target_`. It is read as data; classes that it names are never imported. Parameters differ in the encoder only: query,
key and value are one matrix here and three there, and names there are those of Hugging Face's ViTModel in version 4 of
transformers (those of version 5 are read as well).
"""

from __future__ import annotations

import json
import math
import pickle
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lewm_model.bundle.bundle import (
    WEIGHTS,
    Bundle,
    load_model,
    save_description,
    sha256,
)
from lewm_model.bundle.held_out import trained_on
from lewm_model.bundle.update import create
from lewm_model.config import ConfigError, ModelConfig, from_dict
from lewm_model.data.actions import action_spec
from lewm_model.data.clips import Episodes
from lewm_model.robot.actions import ActionError, ActionSpec

# Parameters of the encoder: name here, name in the reference. {} is the number of the block.
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
# Parts of a block in version 5 of transformers -> in version 4.
_VERSION_5 = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
# ViTs by the name in the reference's configurations: width, depth, heads.
_VITS = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}
_WRAPPERS = re.compile(r"(?<![^.])(?:module|_orig_mod)\.")  # prefixes by DistributedDataParallel and torch.compile
WEIGHTS_PT, CONFIG, ACTIONS = "weights.pt", "config.json", "actions.json"


class InterchangeError(ValueError):
    """A model without counterpart in the reference code, or a checkpoint that cannot be read; the message says why."""


def check_expressible(c: ModelConfig) -> None:
    """Raises InterchangeError where the reference code cannot build a network with this configuration."""
    for wrong, what in (
        (c.stem != "patch", f"the stem is {c.stem!r}; the reference's encoder has linear patches only (stem 'patch')"),
        (c.picture_norm != "fixed", "it scales colours by each picture itself; the reference by fixed numbers"),
        (c.readout != "cls", "its latent is read from all tokens; the reference's encoder has a CLS token"),
        (c.activation != "gelu", f"the activation is {c.activation!r}; the reference's predictor has GELU only"),
        (
            c.predictor_heads == 1 and c.predictor_head_dim == c.predictor_width,
            "the reference's attention has no output layer with one head as wide as the predictor",
        ),
    ):
        if wrong:
            raise InterchangeError(f"this model cannot be expressed in the reference code: {what}")


def _pairs(depth: int) -> list[tuple[str, str]]:
    """Prefixes (here, in the reference) of all parameters that differ in name only."""
    blocks = [(ours.format(i), theirs.format(i)) for i in range(depth) for ours, theirs in _BLOCK]
    return [(f"encoder.{ours}", f"encoder.{theirs}") for ours, theirs in (*_ENCODER, *blocks)]


def _kinds(name: str) -> tuple[str, ...]:
    return ("",) if name.endswith(("cls_token", "position")) else (".weight", ".bias")


def to_reference(state: Mapping[str, Tensor], c: ModelConfig) -> dict[str, Tensor]:
    """A state dict of LeWM -> one of the reference. Raises InterchangeError where the reference has no such model."""
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
    """A state dict of the reference -> one of LeWM. Raises InterchangeError for missing or unknown parameters."""
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


def import_checkpoint(
    source: Path,
    out: Path,
    actions: ActionSpec | None = None,
    data: Episodes | None = None,
    sizes: dict[str, Any] | None = None,
) -> Bundle:
    """Turns a checkpoint into a bundle without heads at `out`.

    :param source: a folder with `weights.pt` and `config.json`, or a state dict (.pt or .safetensors) with or without a
        `config.json` beside it.
    :param actions: description and normalisation of the actions, which a checkpoint does not contain. By default those
        of the whole recording `data`, as in the reference's training, or of an `actions.json` in the folder.
    :param sizes: values of ModelConfig that neither the tensors nor `config.json` tell.
    :raises InterchangeError: the checkpoint cannot be read, or something about the model is unknown.
    """
    weights = _weights_file(source)
    config = weights.parent / CONFIG
    state = read_state(weights)
    stated = _stated_sizes(_json(config)) if config.is_file() else {}
    seen, block = _seen_sizes(state)
    for name, value in stated.items():
        if name in seen and seen[name] != value:
            raise InterchangeError(
                f"{config} says that {name} is {value}, the tensors in {weights.name} say {seen[name]}; "
                "the two are not of one model"
            )
    known = {**_guessed_sizes(state), **seen, **stated, **(sizes or {})}
    for name in ("encoder_heads", "predictor_heads", "predictor_head_dim"):
        if name not in known:
            raise InterchangeError(
                f"the tensors do not tell {name}; put its {CONFIG} beside {weights.name}, or give it with --config"
            )
    if actions is None and data is not None:
        actions = action_spec(data, np.arange(len(data.lengths)), max(1, block // data.actions.shape[1]))
    actions = actions or _stated_actions(weights.parent / ACTIONS)
    numbers = actions.frameskip * len(actions.names)
    if block != numbers:
        raise InterchangeError(
            f"the model takes action blocks of {block} numbers, but {len(actions.names)} joints x frameskip "
            f"{actions.frameskip} are {numbers}; give the recording that it was trained on"
        )
    try:
        model = from_dict(ModelConfig, {**known, "action_dim": len(actions.names), "frameskip": actions.frameskip})
    except ConfigError as error:
        raise InterchangeError(f"{source} has sizes that no model can have: {error}") from error
    ours = from_reference(state, model)
    provenance = {
        "command": " ".join(["lewm", *sys.argv[1:]]),
        "imported": {"source": source.name, "sha256": sha256(weights)},
        "parameters": sum(value.numel() for name, value in ours.items() if "running_" not in name and value.ndim > 0),
    }
    if data is not None:
        provenance = trained_on(provenance, data, np.zeros(0, int))

    def make(draft: Path) -> Bundle:
        save_file({name: value.contiguous() for name, value in ours.items()}, draft / WEIGHTS)
        bundle = save_description(Bundle(draft, model, actions, (), provenance))
        load_model(bundle)  # so that weights that do not fit are refused before the bundle is created
        return bundle

    return create(out, make)


def export_checkpoint(bundle: Bundle, folder: Path) -> None:
    """Writes `weights.pt`, `config.json` and, for a later import, `actions.json`. Raises InterchangeError.

    Heads, calibration and graphs have no counterpart in the reference and are left out.
    """
    c = bundle.model
    state = to_reference(load_model(bundle).state_dict(), c)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / WEIGHTS_PT)
    (folder / CONFIG).write_text(json.dumps(hydra_config(c), indent=2) + "\n")
    (folder / ACTIONS).write_text(json.dumps(asdict(bundle.actions), indent=2) + "\n")


def hydra_config(c: ModelConfig) -> dict[str, Any]:
    """The `config.json` from which the reference code builds this model."""
    check_expressible(c)
    module = "stable_worldmodel.wm.lewm.module"
    norm = {"_target_": "torch.nn.BatchNorm1d", "_partial_": True}
    mlp = {"_target_": f"{module}.MLP", "output_dim": c.latent_dim, "hidden_dim": c.projector_width, "norm_fn": norm}
    vit = {"hidden_size": c.encoder_width, "num_hidden_layers": c.encoder_depth, "num_attention_heads": c.encoder_heads}
    if (c.encoder_width, c.encoder_depth, c.encoder_heads) == _VITS["tiny"] and c.encoder_mlp == 4 * c.encoder_width:
        vit = {}
    else:
        vit["intermediate_size"] = c.encoder_mlp
    return {
        "_target_": "stable_worldmodel.wm.lewm.LeWM",
        "encoder": {
            "_target_": "stable_pretraining.backbone.utils.vit_hf",
            "size": "tiny",
            "patch_size": c.patch_size,
            "image_size": c.image_height,
            "pretrained": False,
            "use_mask_token": False,
            **vit,
        },
        "predictor": {
            "_target_": f"{module}.Predictor",
            "num_frames": c.history,
            "input_dim": c.latent_dim,
            "hidden_dim": c.predictor_width,
            "output_dim": c.latent_dim,
            "depth": c.predictor_depth,
            "heads": c.predictor_heads,
            "mlp_dim": c.predictor_mlp,
            "dim_head": c.predictor_head_dim,
            "dropout": c.dropout,
            "emb_dropout": 0.0,
        },
        "action_encoder": {"_target_": f"{module}.Embedder", "input_dim": c.block_dim, "emb_dim": c.latent_dim},
        "projector": {**mlp, "input_dim": c.encoder_width},
        "pred_proj": {**mlp, "input_dim": c.latent_dim},
    }


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, under the names of the reference code. Nothing pickled is executed.

    Accepts Lightning's `state_dict` with the prefix `model.`, the prefixes of DistributedDataParallel (`module.`) and
    torch.compile (`_orig_mod.`), and the names of transformers 5. Raises InterchangeError.
    """
    try:
        data = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InterchangeError(
            f"{path} holds a pickled Python object, not only tensors. Loading it could run any code, so it is "
            "refused. Ask for the state dict, or write it where the object is trusted: "
            f"torch.save(model.state_dict(), '{WEIGHTS_PT}')"
        ) from error
    except Exception as error:  # torch and safetensors raise many kinds for damaged files
        raise InterchangeError(f"{path} cannot be read as a state dict ({error}); copy it again") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(data, dict) and isinstance(data.get(wrapper), dict):
            data = data[wrapper]
    tensors = isinstance(data, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in data.items())
    if not tensors or not data:
        raise InterchangeError(f"{path} does not hold a state dict, names with tensors; it cannot be imported")
    data = {_WRAPPERS.sub("", name): value for name, value in data.items()}
    if all(name.startswith(("model.", "sigreg.")) for name in data):  # of the training module that contains the model
        data = {name.removeprefix("model."): value for name, value in data.items() if name.startswith("model.")}
    state = {_version_4(name): value.float() if value.is_floating_point() else value for name, value in data.items()}
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise InterchangeError(
                f"{path}: {name} holds NaN or infinity; the training diverged, take an earlier checkpoint"
            )
    return state


def _version_4(name: str) -> str:
    found = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if found is None:
        return name
    number, part, kind = found.groups()
    return f"encoder.encoder.layer.{number}.{_VERSION_5.get(part, part)}.{kind}"


def _weights_file(source: Path) -> Path:
    if source.is_file():
        return source
    found = (
        sorted(path for path in source.glob("*") if path.suffix in (".pt", ".safetensors")) if source.is_dir() else []
    )
    if len(found) == 1:
        return found[0]
    if found:
        raise InterchangeError(f"{source} holds {', '.join(path.name for path in found)}; name the one to import")
    objects = sorted(source.glob("*.ckpt")) if source.is_dir() else []
    if objects:
        raise InterchangeError(
            f"{source} holds {objects[0].name} only, a pickled object, which is never loaded; ask for {WEIGHTS_PT}"
        )
    raise InterchangeError(f"there is no checkpoint at {source}: neither a file nor a folder with {WEIGHTS_PT}")


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InterchangeError(f"{path} is not readable JSON ({error}); copy it again") from error
    if not isinstance(data, dict):
        raise InterchangeError(f"{path} holds a {type(data).__name__}, not names with values; copy it again")
    return data


def _stated_actions(path: Path) -> ActionSpec:
    if not path.is_file():
        raise InterchangeError(
            "a checkpoint of the reference does not say what its actions are; give the recording that it was trained "
            f"on with --data, or an {ACTIONS} with names, control_dt_s, mean, std and range with --actions"
        )
    return read_actions(path)


def read_actions(path: Path) -> ActionSpec:
    """An ActionSpec from JSON with the fields of `actions` in a bundle's model.json. Raises InterchangeError."""
    try:
        return ActionSpec.from_dict(_json(path))
    except ActionError as error:
        raise InterchangeError(f"{path} does not describe actions: {error}") from error


def _stated_sizes(config: dict[str, Any]) -> dict[str, Any]:
    """Values of ModelConfig in a `config.json`. Raises InterchangeError for a network that is not a LeWM."""
    config = config.get("model", config) if "encoder" not in config else config

    def part(name: str, *classes: str) -> dict[str, Any]:
        values = config.get(name)
        if not isinstance(values, dict):
            raise InterchangeError(f"{CONFIG} has no part {name!r}; it is not the configuration of a LeWM")
        target = str(values.get("_target_", classes[0])).rsplit(".", 1)[-1]
        if target not in classes:
            raise InterchangeError(f"{CONFIG}: {name} is a {target}; only {' or '.join(classes)} can be imported")
        return values

    encoder = part("encoder", "vit_hf")
    predictor = part("predictor", "Predictor", "ARPredictor")
    part("action_encoder", "Embedder")
    for name in ("projector", "pred_proj"):
        norm = part(name, "MLP").get("norm_fn")
        if norm is not None and not str(norm.get("_target_") if isinstance(norm, dict) else norm).endswith(
            "BatchNorm1d"
        ):
            raise InterchangeError(f"{CONFIG}: {name} has the norm {norm}; only BatchNorm1d can be imported")
    if encoder.get("size", "tiny") not in _VITS:
        raise InterchangeError(f"{CONFIG}: the encoder's size is {encoder['size']!r}; known are {', '.join(_VITS)}")
    width, depth, heads = _VITS[encoder.get("size", "tiny")]
    wanted = {
        "encoder_width": encoder.get("hidden_size", width),
        "encoder_depth": encoder.get("num_hidden_layers", depth),
        "encoder_heads": encoder.get("num_attention_heads", heads),
        "patch_size": encoder.get("patch_size", 16),
        **dict.fromkeys(("image_height", "image_width"), encoder.get("image_size", 224)),
        "history": predictor.get("num_frames"),
        "predictor_depth": predictor.get("depth"),
        "predictor_heads": predictor.get("heads"),
        "predictor_head_dim": predictor.get("dim_head", 64),
        "dropout": predictor.get("dropout", 0.0),
    }
    if encoder.get("hidden_act", "gelu") != "gelu":
        raise InterchangeError(
            f"{CONFIG}: the encoder's activation is {encoder['hidden_act']!r}; only gelu can be imported"
        )
    return {name: value for name, value in wanted.items() if value is not None}


def _shape(state: Mapping[str, Tensor], name: str) -> torch.Size:
    if name not in state:
        raise InterchangeError(f"the checkpoint lacks {name!r}; it is not one of a LeWM")
    return state[name].shape


def _seen_sizes(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], int]:
    """Values of ModelConfig by the shapes of the tensors, and the size of an action block."""

    def count(prefix: str) -> int:
        return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})

    try:
        _, history, latent = _shape(state, "predictor.pos_embedding")
        width, _, patch, _ = _shape(state, "encoder.embeddings.patch_embeddings.projection.weight")
        tokens = _shape(state, "encoder.embeddings.position_embeddings")[1] - 1
        block = _shape(state, "action_encoder.patch_embed.weight")[1]
        seen = {
            "history": history,
            "latent_dim": latent,
            **dict.fromkeys(("image_height", "image_width"), math.isqrt(max(0, tokens)) * patch),
            "patch_size": patch,
            "encoder_width": width,
            "encoder_depth": count("encoder.encoder.layer."),
            "encoder_mlp": _shape(state, "encoder.encoder.layer.0.intermediate.dense.weight")[0],
            "projector_width": _shape(state, "projector.net.0.weight")[0],
            "predictor_width": _shape(state, "predictor.transformer.norm.weight")[0],
            "predictor_depth": count("predictor.transformer.layers."),
            "predictor_mlp": _shape(state, "predictor.transformer.layers.0.mlp.net.1.weight")[0],
        }
    except (ValueError, IndexError) as error:
        raise InterchangeError(f"the checkpoint's tensors do not have the shapes of a LeWM ({error})") from error
    return seen, block


def _guessed_sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Numbers of attention heads, which no shape tells, for 64 numbers per head as in all published configurations."""
    width = _shape(state, "encoder.embeddings.cls_token")[-1]
    rows = _shape(state, "predictor.transformer.layers.0.attn.to_qkv.weight")[0]
    guessed = {"encoder_heads": width // 64} if width % 64 == 0 else {}
    return guessed | ({"predictor_heads": rows // 192, "predictor_head_dim": 64} if rows % 192 == 0 else {})
