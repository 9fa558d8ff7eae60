# SPDX-License-Identifier: Apache-2.0
"""The authors' own code, for comparison: network, loss and planner of stable-worldmodel 0.1.1.

For tests and benchmarks only (requirements-reference.txt, which `make` installs). Importing the package as
a whole imports torchvision and its simulators, which network, loss and planner do not need. So empty stand-ins for its
packages are put into sys.modules, through which Python finds the modules on disk.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import importlib.machinery
import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from lewm_model.bundle.interchange import check_expressible, to_reference
from lewm_model.config import ModelConfig
from lewm_model.models.lewm import LeWM

PACKAGE, VERSION = "stable_worldmodel", "0.1.1"


class ReferenceMissing(RuntimeError):
    """The reference code is not installed."""


def module(name: str) -> ModuleType:
    """A module of the reference by its name within the package, such as "wm.loss". Raises ReferenceMissing."""
    spec = importlib.util.find_spec(PACKAGE) if PACKAGE not in sys.modules else sys.modules[PACKAGE].__spec__
    if spec is None or not spec.submodule_search_locations:
        raise ReferenceMissing(
            f"{PACKAGE} {VERSION} is not installed, with which ours is compared; run `make setup`, or "
            "`pip install --no-deps -r requirements-reference.txt`"
        )
    root = Path(next(iter(spec.submodule_search_locations)))
    folders = name.split(".")[:-1]
    for depth in range(len(folders) + 1):
        _stand_in(".".join((PACKAGE, *folders[:depth])), root.joinpath(*folders[:depth]))
    try:
        return importlib.import_module(f"{PACKAGE}.{name}")
    except ImportError as error:
        raise ReferenceMissing(
            f"{PACKAGE} {VERSION} cannot be imported ({error}); `pip install --no-deps -r requirements-reference.txt`"
        ) from error


def _stand_in(name: str, folder: Path) -> None:
    """An empty package `name`, whose modules are found in `folder`."""
    if name in sys.modules:
        return
    spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    sys.modules[name] = importlib.util.module_from_spec(spec)


def network(c: ModelConfig) -> Any:
    """The reference's LeWM of these sizes with random weights, on the CPU, in training mode.

    Its encoder is the ViT that the published configuration asks for: Hugging Face's ViTModel without pooler. Raises
    InterchangeError for a model that the reference does not have, ReferenceMissing where it is not installed.
    """
    check_expressible(c)
    parts, lewm = module("wm.lewm.module"), module("wm.lewm.lewm")
    try:
        vit = importlib.import_module("transformers.models.vit")
    except ImportError as error:
        raise ReferenceMissing(
            f"the reference's encoder needs transformers ({error}); run `make setup`, or "
            "`pip install --no-deps -r requirements-reference.txt`"
        ) from error
    logging.getLogger("transformers").setLevel(logging.ERROR)
    encoder = vit.ViTModel(
        vit.ViTConfig(
            hidden_size=c.encoder_width,
            num_hidden_layers=c.encoder_depth,
            num_attention_heads=c.encoder_heads,
            intermediate_size=c.encoder_mlp,
            image_size=c.image_height,
            patch_size=c.patch_size,
        ),
        add_pooling_layer=False,
        use_mask_token=False,
    )
    predictor = parts.Predictor(
        num_frames=c.history,
        input_dim=c.latent_dim,
        hidden_dim=c.predictor_width,
        output_dim=c.latent_dim,
        depth=c.predictor_depth,
        heads=c.predictor_heads,
        mlp_dim=c.predictor_mlp,
        dim_head=c.predictor_head_dim,
        dropout=c.dropout,
        emb_dropout=0.0,
    )
    projector, pred_proj = (
        parts.MLP(input_dim=width, output_dim=c.latent_dim, hidden_dim=c.projector_width, norm_fn=nn.BatchNorm1d)
        for width in (c.encoder_width, c.latent_dim)
    )
    actions = parts.Embedder(input_dim=c.block_dim, emb_dim=c.latent_dim)
    return lewm.LeWM(encoder, predictor, actions, projector, pred_proj)


def counterpart(model: LeWM) -> Any:
    """The reference's LeWM with the weights of `model`, in its mode (training or eval)."""
    theirs = network(model.config)
    theirs.load_state_dict(to_reference(model.state_dict(), model.config))
    return theirs.train(model.training)


class _OurEncoder(nn.Module):
    """An encoder of ours behind the interface of Hugging Face's ViTModel."""

    def __init__(self, model: LeWM) -> None:
        super().__init__()
        self.encoder = model.encoder

    def forward(self, images: torch.Tensor, interpolate_pos_encoding: bool) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.encoder(images)[:, None])


def planning_counterpart(model: LeWM) -> Any:
    """As `counterpart`, in eval mode, for a model that the reference lacks: our encoder, projector and activation are
    kept, and `pixels` scales colours as ours.

    The predictor, in which its planner spends its time, is the reference's own code.
    """
    theirs = network(
        dataclasses.replace(
            model.config,
            picture_norm="fixed",
            stem="patch",
            patch_size=16,
            activation="gelu",
            readout="cls",
            encoder_depth=1,
        )
    )
    theirs.encoder, theirs.projector = _OurEncoder(model), model.projector  # which may read all tokens
    for part in ("action_encoder", "predictor", "pred_proj"):
        getattr(theirs, part).load_state_dict(getattr(model, part).state_dict())
    for ours, other in zip(model.predictor.transformer.layers, theirs.predictor.transformer.layers, strict=True):
        other.mlp.net[2] = copy.deepcopy(ours.mlp.net[2])
    return theirs.eval()


def loss(
    model: Any, images: torch.Tensor, blocks: torch.Tensor, history: int, regulariser: nn.Module, weight: float
) -> torch.Tensor:
    """The reference's loss of clips, composed of its network and its SIGReg as in its training script.

    `images` (B, T, 3, S, S) as `pixels` makes them, `blocks` (B, T - 1, E) z-scored; `weight` is lambda.
    """
    output = model.encode({"pixels": images, "action": blocks})
    predicted = model.predict(output["emb"][:, :history], output["act_emb"][:, :history])
    return (predicted - output["emb"][:, 1:]).pow(2).mean() + weight * regulariser(output["emb"].transpose(0, 1))


def sigreg(projections: int) -> nn.Module:
    """The reference's SIGReg; it draws its directions with torch.randn (D, projections), as ours does."""
    return module("wm.loss").SIGReg(knots=17, num_proj=projections)


def solver(
    model: Any,
    action_dim: int,
    frameskip: int,
    horizon: int,
    samples: int,
    elites: int,
    iterations: int,
    seed: int,
    device: str = "cpu",
) -> Any:
    """The reference's CEMSolver on a reference network, for one environment, ready for `solve`.

    `solve({"pixels": (1, h, 3, S, S), "goal": (1, 1, 3, S, S), "action": ...})` takes normalised float pictures.
    `horizon` counts action blocks of `frameskip` x `action_dim` numbers. It prints how long each plan took.
    """
    spaces = importlib.import_module("gymnasium.spaces")
    made = module("solver.cem").CEMSolver(
        model=model, num_samples=samples, topk=elites, n_steps=iterations, batch_size=1, device=device, seed=seed
    )
    space = spaces.Box(-np.inf, np.inf, (1, action_dim), np.float32)
    made.configure(action_space=space, n_envs=1, config=SimpleNamespace(horizon=horizon, action_block=frameskip))
    return made


def pixels(model: LeWM, frames: np.ndarray) -> torch.Tensor:
    """uint8 RGB frames (…, S, S, 3) -> the reference encoder's input (…, 3, S, S) float32, by ImageNet's statistics, or
    as ours for a model that scales colours by each picture itself.
    """
    if model.config.picture_norm == "own":
        scaled = model.scaled(torch.from_numpy(frames.reshape(-1, *frames.shape[-3:])))
        return scaled.unflatten(0, frames.shape[:-3])
    images = torch.from_numpy(np.ascontiguousarray(frames)).movedim(-1, -3).float()
    return (images - model.image_mean) / model.image_std
