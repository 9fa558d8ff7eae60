# SPDX-License-Identifier: Apache-2.0
"""A bundle for another scene, from some minutes recorded in it: `lewm adapt`.

The world model is fine-tuned with its own loss at a lower learning rate. Fine-tuned on the new scene alone it forgets
the old one, and the sooner the more the pictures differ; so a recording of the old scene, where there is one, is
replayed: as many of its frames are learned from as of the new scene. The heads are then trained anew on the latents of
both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from lewm_model.bundle.bundle import WEIGHTS, Bundle
from lewm_model.bundle.held_out import held_out_episodes, trained_on
from lewm_model.bundle.update import create
from lewm_model.config import TRAIN_SIZES, AdaptConfig, TrainConfig
from lewm_model.data.clips import Episodes
from lewm_model.runtime.export import export_onnx, sample_frames
from lewm_model.training.calibration import calibrate
from lewm_model.training.heads import train_heads, with_heads
from lewm_model.training.trainer import command_line, commit_of, fit, trained_with


def adapt(
    bundle: Bundle,
    data: Episodes,
    out: Path,
    run: Path,
    replay: Episodes | None = None,
    settings: AdaptConfig | None = None,
) -> Bundle:
    """Writes the bundle that fits the scene of `data` to `out`, and logs and checkpoints to `run`.

    :param data: recording of the new scene, with the robot, camera size and actions of the bundle.
    :param replay: recording of the old scene, for example the one that the bundle was trained on; None learns from the
        new scene only, and the old one may be forgotten.
    :param settings: by default AdaptConfig().
    :raises DataError: a recording does not fit the bundle, or is too short.
    """
    held_out_episodes(bundle, data)  # raises where the recording does not fit, before anything is trained
    config = _fine_tuning(bundle, AdaptConfig() if settings is None else settings)
    recordings = [data] if replay is None else [data, _some(replay, len(data.pixels))]
    mixed = _joined(recordings)
    fitted = fit(mixed, run, bundle.model, config, begin=bundle)
    heads, metrics = train_heads(fitted.model, mixed, fitted.training, fitted.spec, config)
    model = fitted.model.cpu()
    provenance = {
        **bundle.training,
        "adapted": {"command": command_line(), "commit": commit_of(), "config": asdict(config), "from": bundle.files},
    }
    first = 0
    for each in recordings:
        numbers = fitted.held_out - first
        own = numbers[(numbers >= 0) & (numbers < len(each.lengths))]
        provenance, first = trained_on(provenance, each, own), first + len(each.lengths)

    def weights(draft: Path) -> Bundle:
        save_file(model.state_dict(), draft / WEIGHTS)
        evaluation = {"validation": fitted.validation, "warnings": fitted.warnings}
        made = Bundle(draft, bundle.model, fitted.spec, (), provenance, evaluation)
        made = replace(made, cameras=bundle.cameras, horizon=bundle.horizon, task=bundle.task)
        return with_heads(made, heads, metrics)

    def make(draft: Path) -> Bundle:
        return export_onnx(calibrate(create(draft, weights), data), frames=sample_frames(data, bundle.model))

    return create(out, make)


def _fine_tuning(bundle: Bundle, settings: AdaptConfig) -> TrainConfig:
    """The settings that the bundle was trained with, changed as AdaptConfig says."""
    config = trained_with(bundle, {}, TRAIN_SIZES["small"])
    return replace(
        config,
        steps=settings.steps,
        learning_rate=settings.learning_rate_share * config.learning_rate,
        validation_fraction=settings.validation_fraction,
        warmup_fraction=settings.warmup_fraction,
        threads=TrainConfig.threads,  # of this machine, not of the one that the bundle was trained on
    )


def _some(data: Episodes, frames: int) -> Episodes:
    """The first episodes of a recording that together have at least `frames` frames."""
    return data.first(int(np.searchsorted(np.cumsum(data.lengths), frames)) + 1)


def _joined(recordings: Sequence[Episodes]) -> Episodes:
    """All episodes as one recording, in memory."""
    first = recordings[0]
    begins = np.cumsum([0, *(len(each.pixels) for each in recordings[:-1])])
    return replace(
        first,
        pixels=np.concatenate([each.pixels[np.arange(len(each.pixels))] for each in recordings]),
        actions=np.concatenate([each.actions for each in recordings]),
        proprio=None,
        stamps_s=None,
        offsets=np.concatenate([each.offsets + begin for each, begin in zip(recordings, begins, strict=True)]),
        lengths=np.concatenate([each.lengths for each in recordings]),
        sha256=hashlib.sha256("".join(each.sha256 for each in recordings).encode()).hexdigest(),
        path=" and ".join(each.path for each in recordings),
    )
