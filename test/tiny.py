# SPDX-License-Identifier: Apache-2.0
"""A recording and a model so small that a test can train them: a bright dot that its actions move."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from lewm_model.bundle.bundle import Bundle
from lewm_model.config import MODEL_SIZES, TRAIN_SIZES, ModelConfig, TrainConfig, from_dict

TINY_MODEL = {
    "image_size": 32,
    "encoder_width": 32,
    "encoder_depth": 1,
    "encoder_heads": 2,
    "encoder_mlp": 32,
    "latent_dim": 8,
    "projector_width": 32,
    "predictor_width": 32,
    "predictor_depth": 1,
    "predictor_heads": 2,
    "predictor_head_dim": 16,
    "predictor_mlp": 32,
}
TINY_TRAIN = {
    "steps": 30,
    "batch": 32,
    "clip_frames": 2,
    "checkpoint_every": 5,
    "validate_every": 10,
    "head_steps": 5,
    "threads": 1,
}
NO_CHANGES = {"share": 0.0}  # of the pictures


def tiny_model(**changes: object) -> ModelConfig:
    return from_dict(ModelConfig, {**TINY_MODEL, **changes}, MODEL_SIZES["small"])


def tiny_train(**changes: object) -> TrainConfig:
    return from_dict(TrainConfig, {"augment": NO_CHANGES, **TINY_TRAIN, **changes}, TRAIN_SIZES["small"])


def dot_recording(path: Path, episodes: int = 12, steps: int = 40, size: int = 32, seed: int = 0) -> Path:
    """Writes an HDF5 recording in which two joint velocities move a dot over the picture."""
    rng = np.random.default_rng(seed)
    frames = episodes * (steps + 1)
    pixels = np.zeros((frames, size, size, 3), np.uint8)
    actions, proprio = np.full((frames, 2), np.nan, np.float32), np.zeros((frames, 2), np.float32)
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="xy"), -1)
    row = 0
    for _ in range(episodes):
        position, velocity = rng.uniform(-1, 1, 2), np.zeros(2)
        for step in range(steps + 1):
            centre = (position * 0.4 + 0.5) * (size - 1)
            light = np.exp(-((grid - centre) ** 2).sum(-1) / 8.0)
            pixels[row], proprio[row] = (255 * light)[..., None].astype(np.uint8), position
            if step < steps:
                velocity = np.clip(0.8 * velocity + rng.normal(size=2) * 0.7, -1.5, 1.5)
                following = np.clip(position + 0.05 * velocity, -1, 1)
                actions[row] = (following - position) / 0.05
                position = following
            row += 1
    with h5py.File(path, "w") as file:
        file["pixels"], file["action"], file["proprio"] = pixels, actions, proprio
        file["ep_len"] = np.full(episodes, steps + 1)
        file["ep_offset"] = np.arange(episodes) * (steps + 1)
        file.attrs.update(control_dt_s=0.05, action_names='["a", "b"]', action_kind="joint_velocity", command="test")
    return path


def tiny_bundle(folder: Path, model: ModelConfig | None = None, steps: int = 2, head_steps: int = 5) -> Bundle:
    """Trains for a moment and writes a bundle without graphs to `folder` / bundle."""
    from lewm_model.data.clips import load_episodes
    from lewm_model.training.trainer import train

    model = model or tiny_model()
    recording = dot_recording(folder / "dots.h5", size=model.image_height)
    config = tiny_train(steps=steps, head_steps=head_steps, clip_frames=model.history + 1)
    return train(load_episodes(recording), folder / "bundle", folder / "run", model, config)
