# SPDX-License-Identifier: Apache-2.0
"""Numerical equivalence of our network, loss and gradients with the authors' code: `make equivalence`.

Both have the same random weights, also where LeWM starts from zero (the modulations), and BatchNorms with random
running statistics. Rollouts are longer than the context of three frames, so that it slides. Both sides get the same
pictures, actions and SIGReg directions, in fp32; the loss is `benchmarks.reference.loss`, as in the reference's
training script. The last lines of the table compare two processes with one on the same batch, which the reference does
not support.

    python -m benchmarks.equivalence --size reference
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn

from benchmarks import reference
from lewm_model.bundle.interchange import from_reference
from lewm_model.config import ModelConfig, TrainConfig, from_dict
from lewm_model.evaluation.figures import Figures, report_figures
from lewm_model.models.distributed import joined, rank, ranks
from lewm_model.models.lewm import LeWM, prediction_loss
from lewm_model.models.sigreg import SIGReg
from lewm_model.training.trainer import Objective

ROOT = Path(__file__).resolve().parent.parent
LIMIT, RANKS_LIMIT = 1e-5, 1e-6
WEIGHT = 0.09  # of SIGReg in the loss
SMALL = {"image_size": 56, "encoder_depth": 3, "predictor_depth": 3, "projector_width": 256, "predictor_mlp": 256}


def random_model(c: ModelConfig, seed: int = 0) -> LeWM:
    """A model in eval mode with random values in every parameter and running statistic."""
    torch.manual_seed(seed)
    model = LeWM(c).eval()
    with torch.no_grad():
        for name, part in model.named_modules():
            if isinstance(part, nn.BatchNorm1d):
                part.running_mean.normal_(std=0.3)
                part.running_var.uniform_(0.5, 2.0)
                part.weight.uniform_(0.5, 1.5)
                part.bias.normal_(std=0.2)
            elif name.endswith("adaLN_modulation.1"):
                part.weight.normal_(std=0.02)
                part.bias.normal_(std=0.1)
    return model


def batch(c: ModelConfig, clips: int, frames: int, seed: int) -> tuple[Tensor, Tensor]:
    """Frames (clips, frames, S, S, 3) uint8 and z-scored blocks (clips, frames - 1, E)."""
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 256, (clips, frames, *c.image_size, 3), np.uint8)
    return torch.from_numpy(pictures), torch.from_numpy(rng.normal(size=(clips, frames - 1, c.block_dim))).float()


def encode_and_rollout(c: ModelConfig) -> dict[str, float]:
    """Greatest differences of latents, and of latents predicted 8 blocks ahead from contexts of 1 to 3 frames."""
    model = random_model(c)
    theirs = reference.counterpart(model)
    frames, _ = batch(c, 2, c.history, seed=1)
    images = reference.pixels(model, frames.numpy())
    found = {"encode": 0.0, "rollout": 0.0}
    with torch.no_grad():
        ours = model.encode(frames)
        found["encode"] = difference(ours, theirs.encode({"pixels": images})["emb"])
        generator = torch.Generator().manual_seed(2)
        for context in range(1, c.history + 1):
            blocks = torch.randn(2, 4, context - 1 + 8, c.block_dim, generator=generator)  # (B, S, T, E)
            info = {"pixels": images[:, :context].unsqueeze(1).expand(-1, 4, *[-1] * 4)}
            expected = theirs.rollout(info, blocks)["predicted_emb"][:, :, context:]
            start = ours[:, None, :context].expand(-1, 4, -1, -1).flatten(0, 1)
            past, candidates = blocks.flatten(0, 1).split([context - 1, 8], 1)
            imagined = model.rollout(start, past, candidates).unflatten(0, (2, 4))
            found["rollout"] = max(found["rollout"], difference(imagined, expected))
    return found


def loss_and_gradients(c: ModelConfig, clips: int, training: bool) -> dict[str, float]:
    """Difference of the loss, greatest difference of any gradient, and the greatest gradient itself."""
    model = random_model(c).train(training)
    theirs = reference.counterpart(model)
    frames, blocks = batch(c, clips, c.history + 1, seed=3)
    torch.manual_seed(4)  # of the SIGReg directions
    latents = model.encode(frames)
    loss = prediction_loss(model, latents, blocks) + WEIGHT * SIGReg()(latents.transpose(0, 1))
    loss.backward()
    torch.manual_seed(4)
    images = reference.pixels(model, frames.numpy())
    expected = reference.loss(theirs, images, blocks, c.history, reference.sigreg(1024), WEIGHT)
    expected.backward()
    gradients = from_reference({name: p.grad for name, p in theirs.named_parameters()}, c)
    found = {name: difference(p.grad, gradients[name]) for name, p in model.named_parameters()}
    greatest = max(float(gradient.abs().max()) for gradient in gradients.values())
    return {
        "loss": abs(float(loss.detach()) - float(expected.detach())),
        "grad": max(found.values()),
        "greatest": greatest,
    }


def objective_gradients(c: ModelConfig, clips: int) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of this rank's part of a batch as the trainer computes them, averaged over the ranks."""
    model = random_model(c).train()
    config = from_dict(TrainConfig, {"batch": clips, "sigreg_weight": WEIGHT})
    objective: nn.Module = Objective(model, config)
    if ranks() > 1:
        objective = nn.parallel.DistributedDataParallel(objective, broadcast_buffers=False)
    frames, blocks = (part.chunk(ranks())[rank()] for part in batch(c, clips, c.history + 1, seed=5))
    torch.manual_seed(6 + rank())  # directions that were drawn on each rank instead of shared would differ
    prediction, gaussian, _ = objective(frames, blocks)
    loss = prediction + WEIGHT * gaussian
    loss.backward()
    if ranks() > 1:
        torch.distributed.all_reduce(loss.detach())
    buffers = {name: value for name, value in model.named_buffers() if "running" in name}
    return float(loss.detach()) / ranks(), {n: p.grad for n, p in model.named_parameters()} | buffers


def two_ranks(c: ModelConfig, clips: int) -> dict[str, float]:
    """Greatest differences of loss and gradients, on two gloo processes and on one, at the same batch."""
    loss, gradients = objective_gradients(c, clips)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gradients.pt"
        command = [sys.executable, "-m", "benchmarks.equivalence", "--rank-of", json.dumps(vars(c))]
        spawn_ranks([*command, "--clips", str(clips), "--out", path])
        parallel = torch.load(path, weights_only=True)
    found = {name: difference(value, parallel["gradients"][name]) for name, value in gradients.items()}
    return {"ddp_loss": abs(loss - parallel["loss"]), "ddp_grad": max(found.values())}


def spawn_ranks(command: list[Any], count: int = 2) -> None:
    """Runs a command as `count` distributed processes, as torchrun does; RuntimeError where one of them fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [str(word) for word in command],
            env={**os.environ, **shared, "RANK": str(number), "LOCAL_RANK": str(number)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    errors = [process.communicate()[1] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError("a rank failed: " + "\n".join(errors))


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="reference", choices=("reference", "short"))
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--out", type=Path, default=ROOT / "out/equivalence")
    parser.add_argument("--rank-of", help=argparse.SUPPRESS)  # for the processes of `two_ranks`: the model's size
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.rank_of:
        with joined("cpu"):
            loss, gradients = objective_gradients(ModelConfig(**json.loads(arguments.rank_of)), arguments.clips)
            if rank() == 0:
                torch.save({"loss": loss, "gradients": gradients}, arguments.out)
        return
    sizes: dict[str, Any] = {} if arguments.size == "reference" else SMALL
    c = from_dict(ModelConfig, {**sizes, "dropout": 0.0})
    values = encode_and_rollout(c)
    evaluating, training = (loss_and_gradients(c, arguments.clips, mode) for mode in (False, True))
    values |= {name: max(evaluating[name], training[name]) for name in evaluating} | two_ranks(c, arguments.clips)
    rows = {
        "encode": ("encode_max_abs", "latents of random pictures", LIMIT),
        "rollout": ("rollout_max_abs", "8 blocks predicted from 1 to 3 frames of context", LIMIT),
        "loss": ("loss_abs", "prediction + 0.09 SIGReg, BatchNorm in eval and in training mode", LIMIT),
        "grad": ("grad_max_abs", "every gradient of that loss", LIMIT),
        "ddp_loss": ("ddp_loss_abs", "the loss on 2 gloo ranks and on one, same batch", RANKS_LIMIT),
        "ddp_grad": ("ddp_grad_max_abs", "every gradient and running statistic of it", RANKS_LIMIT),
    }
    parameters = sum(p.numel() for p in LeWM(c).parameters())
    table = Table(title=f"beside {reference.PACKAGE} {reference.VERSION}, {parameters:,} parameters, fp32")
    for heading in ("figure", "what", "greatest difference", "limit"):
        table.add_column(heading)
    for key, (name, what, limit) in rows.items():
        table.add_row(name, what, f"{values[key]:.2e}", f"{limit:.0e}")
    print(f"the greatest gradient is {values['greatest']:.2f}")
    figures: Figures = {f"equivalence.{name}": (values[key], "") for key, (name, _, _) in rows.items()}
    report_figures(arguments.out, table, figures, f"make equivalence SIZE={arguments.size}")
    beyond = [name for key, (name, _, limit) in rows.items() if not values[key] <= limit]
    if beyond:
        sys.exit(f"beyond the limit of numerical equivalence: {', '.join(beyond)}")


if __name__ == "__main__":
    main()
