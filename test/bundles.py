# SPDX-License-Identifier: Apache-2.0
"""Small untrained bundles for tests of everything around the model."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from lewm_model.bundle.bundle import WEIGHTS, Bundle, load_bundle, save_description
from lewm_model.config import ModelConfig
from lewm_model.models.lewm import LeWM
from lewm_model.robot.actions import ActionSpec
from lewm_model.runtime.export import export_onnx

TINY = ModelConfig(
    history=1,
    image_height=64,
    image_width=64,
    stem="conv",
    activation="relu",
    encoder_width=32,
    encoder_depth=1,
    encoder_heads=2,
    encoder_mlp=32,
    latent_dim=8,
    projector_width=32,
    predictor_width=32,
    predictor_depth=1,
    predictor_heads=2,
    predictor_head_dim=16,
    predictor_mlp=32,
    dropout=0.0,
)


def tiny_bundle(folder: Path) -> Bundle:
    """Writes a bundle with random weights and ONNX graphs; its plans are useless, but its motions keep the limits."""
    shutil.copytree(_made_once(), folder)
    return load_bundle(folder)


@functools.cache
def _made_once() -> Path:
    """Exporting takes seconds, so a run of the suite does it once."""
    folder = Path(tempfile.mkdtemp(prefix="lewm_tiny_bundle_"))
    atexit.register(shutil.rmtree, folder)
    torch.manual_seed(0)
    model = LeWM(TINY)
    with torch.no_grad():  # predictions that depend on the actions, which a fresh AdaLN-zero does not give
        for parameter in model.predictor.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    save_file(model.state_dict(), folder / WEIGHTS)
    actions = ActionSpec.of_one_kind(
        names=("shoulder", "elbow"),
        kind="joint_velocity",
        unit="rad/s",
        control_dt_s=0.05,
        frameskip=TINY.frameskip,
        mean=(0.0, 0.0),
        std=(0.6, 0.6),
        low=(-1.5, -1.5),
        high=(1.5, 1.5),
    )
    export_onnx(save_description(Bundle(folder, TINY, actions)))
    return folder
