# SPDX-License-Identifier: Apache-2.0
"""Speed of a training step, compared with the authors' own: `make bench-train`.

A step begins with a batch of uint8 clips in memory and ends with new weights. The reference's is that of its training
script: pictures to float, scaled by 1/255 and normalised with ImageNet's statistics, its LeWM and loss
(`benchmarks.reference.loss`), the backward pass, the gradients' norm clipped, AdamW. Ours is the trainer's:
normalisation inside, `Objective`, the same clipping and AdamW. Same clips, batch, precision, threads; rounds of both
are interleaved and the medians compared. The authors train with bf16 autocast, and so do both sides here where the
processor has instructions for it; lines that end in "fp32" are without it.

`small` has the sizes of `lewm train`'s default with what the reference has too, patches of 16 pixels and GELU, and the
reference's loss with its 1024 SIGReg directions: both compute the same. `small, 256 directions` is that with the number
of directions of our default. `small, as each has it` is our default itself, with convolutional stem, ReLU and 256
directions, beside the reference's step of the first line. `reference` is the paper's network with few clips in a batch,
so that it ends in minutes.

    python -m benchmarks.training --rounds 7
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from benchmarks import reference
from lewm_model.config import MODEL_SIZES, TRAIN_SIZES, ModelConfig, TrainConfig, from_dict
from lewm_model.evaluation.figures import Figures, report_figures
from lewm_model.models.lewm import IMAGE_MEAN, IMAGE_STD, LeWM
from lewm_model.training.trainer import Objective, autocast, optimiser_of

ROOT = Path(__file__).resolve().parent.parent
PATCHES: dict[str, Any] = {"stem": "patch", "patch_size": 16, "activation": "gelu", "picture_norm": "fixed"}


def clips(c: ModelConfig, config: TrainConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames (B, T, S, S, 3) uint8 and z-scored blocks (B, T - 1, E)."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (config.batch, config.clip_frames, *c.image_size, 3), np.uint8)
    blocks = rng.normal(size=(config.batch, config.clip_frames - 1, c.block_dim))
    return torch.from_numpy(frames), torch.from_numpy(blocks).float()


def has_bf16() -> bool:
    """Whether the processor has instructions for bf16."""
    flags = Path("/proc/cpuinfo").read_text().split()
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def our_step(c: ModelConfig, config: TrainConfig, device: str = "cpu") -> Callable[[], None]:
    torch.manual_seed(0)
    model = LeWM(c).to(device).train()
    objective, optimiser = Objective(model, config).to(device), optimiser_of(model, config)
    frames, blocks = (tensor.to(device) for tensor in clips(c, config))

    def step() -> None:
        with autocast(config, device):
            prediction, gaussian, _ = objective(frames, blocks)
        loss = prediction + config.sigreg_weight * gaussian
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimiser.step()

    return step


def their_step(c: ModelConfig, config: TrainConfig, device: str = "cpu") -> Callable[[], None]:
    torch.manual_seed(0)
    model = reference.network(c).to(device).train()
    regulariser = reference.sigreg(config.sigreg_projections).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    frames, blocks = (tensor.to(device) for tensor in clips(c, config))
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))

    def step() -> None:
        pixels = (frames.movedim(-1, -3).float() / 255 - mean) / std
        with autocast(config, device):
            loss = reference.loss(model, pixels, blocks, c.history, regulariser, config.sigreg_weight)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimiser.step()

    return step


def measure(ours: Callable[[], None], theirs: Callable[[], None], rounds: int, steps: int) -> tuple[float, float]:
    """Median time of a step of either, s; rounds of `steps` steps of both are interleaved."""
    times: dict[Callable[[], None], list[float]] = {ours: [], theirs: []}
    for step in times:
        step()  # the first step allocates
    for _ in range(rounds):
        for step, taken in times.items():
            began = time.perf_counter()
            for _ in range(steps):
                step()
            taken.append((time.perf_counter() - began) / steps)
    return statistics.median(times[ours]), statistics.median(times[theirs])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clips", type=int, default=2, help="in a batch of the reference size")
    parser.add_argument("--only", default="", help="one of the lines")
    parser.add_argument("--out", type=Path, default=ROOT / "out/bench-train")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    small = from_dict(ModelConfig, {}, MODEL_SIZES["small"])
    patches = from_dict(ModelConfig, PATCHES, MODEL_SIZES["small"])
    default = from_dict(TrainConfig, {}, TRAIN_SIZES["small"])
    full = replace(default, sigreg_projections=1024)
    few = from_dict(TrainConfig, {"batch": arguments.clips, "precision": "fp32"}, TRAIN_SIZES["reference"])
    sizes = {
        "small": ((patches, full), (patches, full), 3),
        "small, 256 directions": ((patches, default), (patches, default), 3),
        "small, as each has it": ((small, default), (patches, full), 3),
        "reference": ((ModelConfig(), few), (ModelConfig(), few), 1),
    }
    half = {
        name: ((ours, replace(own, precision="bf16")), (theirs, replace(other, precision="bf16")), steps)
        for name, ((ours, own), (theirs, other), steps) in sizes.items()
    }
    lines = {**half, **{f"{name}, fp32": line for name, line in sizes.items()}} if has_bf16() else sizes
    precision = "bf16 autocast" if has_bf16() else "fp32"
    table = Table(
        title=f"training steps, {precision}, {arguments.threads} thread(s), medians of {arguments.rounds} rounds"
    )
    for heading in ("size", "clips x frames", "ours, samples/s", "reference, samples/s", "ratio"):
        table.add_column(heading)
    figures: Figures = {}
    for name, (ours, theirs, steps) in lines.items():
        if arguments.only not in ("", name):
            continue
        own, other = measure(our_step(*ours), their_step(*theirs), arguments.rounds, steps)
        config = ours[1]
        key = f"bench_train.{name.replace(', ', '_').replace(' ', '_')}_ratio"
        size = f"{config.batch} x {config.clip_frames}"
        table.add_row(name, size, f"{config.batch / own:.2f}", f"{config.batch / other:.2f}", f"{other / own:.2f}")
        figures[key] = (other / own, "x")
    print("loading: make bench-data measures bench_train.loading_ratio")
    report_figures(arguments.out, table, figures, f"make bench-train ROUNDS={arguments.rounds}")


if __name__ == "__main__":
    main()
