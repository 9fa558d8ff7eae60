# SPDX-License-Identifier: Apache-2.0
"""Frames and actions of recordings through a model: latents, z-scored blocks, and what the model imagines.

A model computes on its own device; results for many frames are returned in the CPU's memory.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lewm_model.bundle.bundle import ActionSpec
from lewm_model.config import AugmentConfig
from lewm_model.data.clips import Episodes
from lewm_model.models.lewm import LeWM
from lewm_model.training.augment import changed


@torch.no_grad()
def encode_all(model: LeWM, pixels: np.ndarray, batch: int = 256, augment: AugmentConfig | None = None) -> Tensor:
    """Latents (N, D), on the CPU, of frames (N, S, S, 3) uint8 after augmentation; for a model in eval mode."""
    return torch.cat([encode(model, pixels[i : i + batch], augment).cpu() for i in range(0, len(pixels), batch)])


def encode_rows(model: LeWM, data: Episodes, rows: np.ndarray, augment: AugmentConfig | None = None) -> Tensor:
    """Latents (N, D) of these frames of a recording, zeros for its other frames; not all frames are in memory at once.

    Shows its progress on a terminal when it takes longer than 5 s.
    """
    latents = torch.zeros(len(data.pixels), model.config.latent_dim)
    found = []
    with tqdm(total=len(rows), desc="encoding", unit="frame", disable=None, delay=5) as bar:
        for frames in data.batches(rows):
            found.append(encode_all(model, frames, augment=augment))
            bar.update(len(frames))
    latents[rows] = torch.cat(found)
    return latents


def encode(model: LeWM, frames: np.ndarray, augment: AugmentConfig | None = None) -> Tensor:
    """Latents (…, D), on the model's device, of frames (…, S, S, 3) uint8 after augmentation."""
    pictures = torch.from_numpy(frames).to(model.image_mean.device)
    return model.encode(pictures if augment is None else changed(pictures, augment))


def z_scored(actions: np.ndarray, spec: ActionSpec, model: LeWM) -> Tensor:
    """Action blocks (B, T, frameskip * A) in the units of the recording -> z-scored, on the model's device."""
    steps = actions.reshape(*actions.shape[:2], spec.frameskip, -1)
    return torch.from_numpy(spec.normalise(steps).reshape(actions.shape)).to(model.image_mean.device)


@torch.no_grad()
def imagined_views(
    model: LeWM, data: Episodes, episodes: np.ndarray, latents: Tensor, spec: ActionSpec, horizon: int = 5
) -> Tensor:
    """(horizon + 1, N, D): the latents (N, D), and what the model imagined for each frame 1 .. horizon blocks ahead.

    The rollouts start at earlier frames of the episode and use its recorded actions; where an episode has no earlier
    frame, the encoded latent is taken instead.
    """
    views = latents.expand(horizon + 1, -1, -1).clone()
    history, frameskip = model.config.history, model.config.frameskip
    blocks = history - 1 + horizon
    for episode in episodes:
        offset, length = int(data.offsets[episode]), int(data.lengths[episode])
        starts = offset + np.arange(length - 1 - blocks * frameskip + 1)  # of the oldest frame of the context
        if len(starts) < 1:
            continue
        actions = data.actions[starts[:, None] + np.arange(blocks * frameskip)].reshape(len(starts), blocks, -1)
        blocks_z = z_scored(actions, spec, model)
        context = latents[starts[:, None] + frameskip * np.arange(history)].to(blocks_z.device)
        imagined = model.rollout(context, blocks_z[:, : history - 1], blocks_z[:, history - 1 :]).cpu()
        for ahead in range(1, horizon + 1):
            views[ahead, starts + (history - 1 + ahead) * frameskip] = imagined[:, ahead - 1]
    return views
