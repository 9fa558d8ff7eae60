"""Small untrained bundles for tests of everything around the model."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from lewm_model.bundle import WEIGHTS, ActionSpec, Bundle, save_description
from lewm_model.config import ModelConfig
from lewm_model.export import export_onnx
from lewm_model.model import LeWM

TINY = ModelConfig(
    history=1,
    image_size=64,
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


def tiny_bundle(folder: Path, names: tuple[str, ...] = ("shoulder", "elbow"), speed: float = 1.5) -> Bundle:
    """Writes a bundle with random weights and ONNX graphs; its plans are worthless and its motions as any other's."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = LeWM(TINY)
    with torch.no_grad():  # predictions that depend on the actions, which a fresh AdaLN-zero does not give
        for parameter in model.predictor.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    save_file(model.state_dict(), folder / WEIGHTS)
    count = len(names)
    actions = ActionSpec(
        names=names,
        kind="joint_velocity",
        unit="rad/s",
        control_dt_s=0.05,
        frameskip=TINY.frameskip,
        mean=(0.0,) * count,
        std=(0.6,) * count,
        low=(-speed,) * count,
        high=(speed,) * count,
    )
    return export_onnx(save_description(Bundle(folder, TINY, actions)))
