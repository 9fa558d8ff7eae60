# SPDX-License-Identifier: Apache-2.0
"""Any light for a model that knows one: its encoder is distilled on pictures of the same moments in other looks.

A student encoder, which begins as the bundle's own, sees a frame in a random look and learns the latent that the
bundle's encoder, the teacher, gives for the frame as the scene has it. Predictor and heads stay as they are, since the
latents mean the same; so what took long to learn, such as a policy in several rounds of corrections, is kept. The
colours of a picture are scaled by the picture itself afterwards (`picture_norm: own`).
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from lewm_model.bundle.bundle import WEIGHTS, Bundle, BundleError, load_model, save_description, stored
from lewm_model.bundle.held_out import trained_on
from lewm_model.bundle.update import create
from lewm_model.config import TrainConfig
from lewm_model.data.clips import DataError, Episodes
from lewm_model.models.distributed import device_of
from lewm_model.models.lewm import LeWM
from lewm_model.training.augment import changed
from lewm_model.training.calibration import calibrate
from lewm_model.training.latents import encode_rows
from lewm_model.training.trainer import autocast, command_line, commit_of, learning_rate_factor


def distil(
    bundle: Bundle,
    plain: Episodes,
    varied: Episodes,
    usual: Episodes,
    out: Path,
    config: TrainConfig,
    teacher: Bundle | None = None,
) -> Bundle:
    """Writes the bundle with a distilled encoder, calibrated anew, to `out`, which may be its own folder.

    Its graphs are left out: :func:`lewm_model.runtime.export.export_onnx` makes them.

    :param plain: recording of the scene as it is, in which the bundle's encoder is right.
    :param varied: the same motion, frame by frame, in random looks (`lewm collect --vary` with the same seed).
    :param usual: recording of the scene as it is to calibrate with.
    :param config: its steps, batch (frames), learning rate, betas, weight decay, warm-up, clip norm, augmentation,
        precision (fp32 or bf16), seed, device and threads are used; `validation_fraction` of the episodes is held out
        and measured.
    :param teacher: the bundle that `bundle` was distilled from, to distil it for longer; None where it is its own.
    :raises DataError: the recordings do not fit the bundle, or each other.
    :raises BundleError: the teacher has other latents.
    """
    if plain.image_size != bundle.model.image_size or varied.image_size != plain.image_size:
        raise DataError(f"{varied.source}: its pictures are not of the size that the model takes; record them anew")
    if not np.array_equal(plain.actions, varied.actions, equal_nan=True):
        raise DataError(
            f"{varied.source} is not the motion of {plain.source} in other looks; record both with the same task, "
            "seed, episodes and steps, one of them with --vary"
        )
    if config.precision == "fp16":
        raise DataError("precision: fp16 is for `lewm train`; use bf16 or fp32 to distil")
    torch.set_num_threads(config.threads)
    commit = commit_of()  # now, since the checkout may change meanwhile
    training, held_out = plain.split(config.validation_fraction, config.seed)
    of = bundle if teacher is None else teacher
    if replace(of.model, picture_norm="own") != replace(bundle.model, picture_norm="own"):
        raise BundleError(f"{of.folder}: a model of another size; the teacher is what {bundle.folder} was made from")
    device, begun = device_of(config), load_model(bundle)
    known = encode_rows(load_model(of).to(device), plain, plain.rows(np.arange(len(plain.lengths))))
    student = LeWM(replace(bundle.model, picture_norm="own"))
    student.load_state_dict(begun.state_dict())
    _optimise(student.to(device), varied, plain.rows(training), known, config)
    errors = {
        "in_the_scene's_look": _error(student, plain, plain.rows(held_out), known),
        "in_random_looks": _error(student, varied, varied.rows(held_out), known),
    }
    distilled: dict[str, Any] = {
        "command": command_line(),
        "commit": commit,
        "config": asdict(config),
        "from": bundle.files,
    }
    if teacher is not None:
        distilled |= {"teacher": teacher.files, "before": bundle.training.get("distilled")}
    provenance = {**bundle.training, "distilled": distilled}
    for recording in (plain, varied):
        provenance = trained_on(provenance, recording, held_out)
    evaluation = {**bundle.evaluation, "distillation_error": errors}
    evaluation.pop("preflight", None)  # of another encoder

    def make(draft: Path) -> Bundle:
        for name, digest in bundle.files.items():
            if name.startswith("onnx/"):  # the other encoder's: until it is exported, the bundle has no graphs
                continue
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(stored(bundle.folder, name, digest), draft / name)
        save_file(student.cpu().state_dict(), draft / WEIGHTS)
        made = replace(bundle, folder=draft, model=student.config, training=provenance, evaluation=evaluation)
        return calibrate(save_description(replace(made, calibration=None)), usual)

    return create(out, make)


def _optimise(student: LeWM, varied: Episodes, rows: np.ndarray, known: Tensor, config: TrainConfig) -> None:
    """Trains encoder and projector to give the latents `known` (N, D) for the frames `rows` of a recording."""
    learning = [*student.encoder.parameters(), *student.projector.parameters()]
    optimiser = torch.optim.AdamW(
        learning, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )
    rng, device = np.random.default_rng(config.seed), student.image_mean.device
    student.train()
    progress = tqdm(range(config.steps), "distil", unit="step", mininterval=2, disable=not sys.stderr.isatty())
    for step in progress:
        torch.manual_seed(config.seed * 1_000_003 + step)
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(step, config)
        chosen = np.sort(rng.choice(rows, config.batch))
        pictures = changed(torch.from_numpy(np.asarray(varied.pixels[chosen])).to(device), config.augment)
        with autocast(config, device.type):
            latents = student.encode(pictures)
        loss = (latents.float() - known[chosen].to(device)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, config.clip_norm)
        optimiser.step()
        if step % 20 == 0:
            progress.set_postfix(error=f"{float(loss.detach()):.4f}")
    student.eval()


def _error(student: LeWM, data: Episodes, rows: np.ndarray, known: Tensor) -> float:
    """Mean squared error of the latents of these frames, in the unit of the latents."""
    return float((encode_rows(student, data, rows)[rows] - known[rows]).square().mean())
