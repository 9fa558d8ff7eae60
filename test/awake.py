# SPDX-License-Identifier: Apache-2.0
"""Bundles with random weights, also in the modulations that start from zero: candidates then differ in cost."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from lewm_model.bundle.bundle import HEADS, WEIGHTS, Bundle, save_description
from lewm_model.config import ModelConfig
from lewm_model.models import heads
from lewm_model.models.lewm import LeWM
from lewm_model.robot.actions import ActionSpec

HEAD_NAMES = ("displacement", "proposal")


def awake_bundle(folder: Path, config: ModelConfig, names: tuple[str, ...] = HEAD_NAMES) -> Bundle:
    """Writes a bundle without graphs to `folder`."""
    torch.manual_seed(0)
    model = LeWM(config).eval()
    with torch.no_grad():
        for layer in model.predictor.transformer.layers:
            layer.adaLN_modulation[1].weight.normal_(std=0.1)
            layer.adaLN_modulation[1].bias.normal_(std=0.1)
        for projector in (model.projector, model.pred_proj):  # BatchNorm statistics as after training, not 0 and 1
            projector.net[1].running_mean.normal_()
            projector.net[1].running_var.uniform_(0.5, 2.0)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / WEIGHTS)
    tensors = {}
    for name in names:
        head = heads.HEADS[name](config)
        if name in HEAD_NAMES:
            with torch.no_grad():  # far enough apart that a goal asks for motion
                head.net[-1].weight.normal_(std=100.0)  # type: ignore[union-attr, index]
        tensors |= {f"{name}.{key}": value for key, value in head.state_dict().items()}
    if tensors:
        save_file(tensors, folder / HEADS)
    joints = tuple("abcdefgh"[: config.action_dim])
    mean, std, low, high = ((value,) * len(joints) for value in (0.0, 1.0, -2.0, 2.0))
    spec = ActionSpec.of_one_kind(joints, "joint_velocity", "rad/s", 0.05, config.frameskip, mean, std, low, high)
    return save_description(Bundle(folder, config, spec, names))


def pictures(config: ModelConfig, count: int = 8) -> np.ndarray:
    """Pictures (count, S, S, 3) uint8 with a bright spot that moves."""
    size = config.image_height
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1)
    centres = size * (0.5 + 0.3 * np.stack([np.cos(np.arange(count)), np.sin(np.arange(count))], -1))
    light = np.exp(-((grid[None] - centres[:, None, None]) ** 2).sum(-1) / (0.02 * size**2))
    return (light[..., None] * [255, 200, 90]).astype(np.uint8)


def exported_folder(config: ModelConfig, names: tuple[str, ...] = HEAD_NAMES) -> Path:
    """An exported bundle, made once in a test run; copy it before changing anything in it."""
    return _exported(config, names)  # the same whether `names` was given or not, which a cache tells apart


@functools.cache
def _exported(config: ModelConfig, names: tuple[str, ...]) -> Path:
    from lewm_model.runtime.export import export_onnx

    folder = Path(tempfile.mkdtemp(prefix="lewm_bundle_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    export_onnx(awake_bundle(folder, config, names), horizon=2, frames=pictures(config))
    return folder
