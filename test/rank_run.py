# SPDX-License-Identifier: Apache-2.0
"""Trains one run, by itself or as one of several processes, and keeps every checkpoint: python rank_run.py DATA RUN."""

import shutil
import sys
from pathlib import Path

import torch
from tiny import tiny_model, tiny_train

from lewm_model.data.clips import load_episodes
from lewm_model.models.distributed import joined
from lewm_model.training.checkpoint import Checkpoint
from lewm_model.training.trainer import fit

CONFIG = {"steps": 9, "batch": 16, "checkpoint_every": 3, "validate_every": 5, "head_steps": 0, "device": "cpu"}


class KeepingAll(Checkpoint):
    """Leaves a copy of each checkpoint, step<N>.pt."""

    def save(self, model, optimiser, step, scaler=None) -> None:
        super().save(model, optimiser, step, scaler)
        shutil.copy(self.path, self.path.with_name(f"step{step}.pt"))


def run(recording: Path, folder: Path) -> None:
    import lewm_model.training.trainer

    lewm_model.training.trainer.Checkpoint = KeepingAll
    try:
        with joined("cpu"):
            fit(load_episodes(recording), folder, tiny_model(), tiny_train(**CONFIG, threads=1))
    finally:
        lewm_model.training.trainer.Checkpoint = Checkpoint


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), Path(sys.argv[2]))
