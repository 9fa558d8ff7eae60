# SPDX-License-Identifier: Apache-2.0
"""The checkpoint of a training: a killed run that resumes from it ends as an undisturbed one does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lewm_model.data.errors import DataError
from lewm_model.models.distributed import rank, ranks
from lewm_model.models.lewm import LeWM


class Checkpoint:
    """The last finished checkpoint of a run: one file that is replaced atomically, so that a kill while it is written
    leaves the previous one.

    It holds weights, optimiser, loss scale and the number of steps done. The sampler and the random generators need no
    state of their own: everything random in a step follows from (seed, step). So nothing in it depends on the number of
    processes, and another number of them may resume.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        """
        :param identity: data and settings of the run, as JSON; a checkpoint with another one is not resumed from.
        """
        self.path = folder / "checkpoint.pt"
        self.identity = json.dumps(identity, sort_keys=True)

    def save(
        self, model: LeWM, optimiser: torch.optim.Optimizer, step: int, scaler: torch.amp.GradScaler | None = None
    ) -> None:
        """Replaces the checkpoint by the state after `step` steps.

        :raises OSError: it could not be written; the previous one is intact.
        """
        temporary = self.path.with_suffix(".part")
        state = {
            "identity": self.identity,
            "step": step,
            "model": model.state_dict(),
            "optimiser": optimiser.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
        }
        try:
            with temporary.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())  # a full disk may be reported only here
            os.replace(temporary, self.path)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            raise OSError(
                f"step {step} could not be saved to {self.path} ({error}); the checkpoint before it is intact. "
                "Free some space and run the same command again, it resumes"
            ) from error

    def load(self, model: LeWM, optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None = None) -> int:
        """Restores what `save` saved; returns the number of steps done, 0 when there is no checkpoint.

        Rank 0 reads the file and broadcasts it to the other ranks, whose machines may not have it.

        :raises DataError: the checkpoint is of other data or settings.
        """
        found: list[Any] = [self._read() if rank() == 0 else None]
        if ranks() > 1:
            dist.broadcast_object_list(found, 0)
        state = found[0]
        if state is None:
            return 0
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        if scaler and state.get("scaler"):
            scaler.load_state_dict(state["scaler"])
        return int(state["step"])

    def _read(self) -> dict[str, Any] | None:
        if not self.path.is_file():
            return None
        state = torch.load(self.path, "cpu", weights_only=True)
        if state["identity"] != self.identity:
            raise DataError(
                f"{self.path} belongs to a run with other data or settings; delete it to start anew, "
                "or choose another --run folder"
            )
        return state
