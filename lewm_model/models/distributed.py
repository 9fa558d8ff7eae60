# SPDX-License-Identifier: Apache-2.0
"""Distributed training: what has to be computed over the whole batch, of which every rank holds a part.

LeWM's loss is not a mean over clips: SIGReg and the projectors' BatchNorms look at the whole batch. Both go through
`mean_over_ranks`, so that value and gradient are those of one process that holds the whole batch, on NCCL and on gloo
(torch's own SyncBatchNorm refuses CPUs). In a single process all of it has no effect.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lewm_model.config import TrainConfig


def ranks() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process among them; rank 0 writes the files."""
    return dist.get_rank() if ranks() > 1 else 0


def device_of(config: TrainConfig) -> str:
    """The torch device of this process; with several processes on a machine, each has a GPU of its own."""
    if config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of `x` over all ranks; differentiable, and its gradient is summed over the losses of all ranks."""
    if ranks() == 1:
        return x
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(x) / ranks()


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Joins the processes that torchrun started, by the environment variables that it sets; no effect in a single one.

    Uses NCCL where the model is on GPUs, one for each process of a machine, else gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    if torch.device(device).type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl")
    else:
        dist.init_process_group("gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm over the batch of all ranks. (N, C) -> (N, C); ranks hold equally many rows."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or ranks() == 1:
            return super().forward(x)
        rows = x.float()
        mean = mean_over_ranks(rows.mean(0))
        variance = mean_over_ranks((rows - mean).square().mean(0))
        count = len(rows) * ranks()
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
            assert self.num_batches_tracked is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked.add_(1)
        return ((rows - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias).to(x.dtype)
