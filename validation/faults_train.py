# SPDX-License-Identifier: Apache-2.0
"""Training that is killed, or whose disk is full, resumes with identical results: `make faults-train`.

A small run is trained undisturbed. It is then repeated, each time killed with SIGKILL at a random moment (in a step, in
the loading of a batch, in a validation or in the writing of a checkpoint) and resumed in another process to its end:
its weights must equal the undisturbed ones bit for bit. Last, the disk is full when a checkpoint is written (a limit on
the size of files): the checkpoint before must be unchanged, the message must say so, and the run must resume from it.

    python -m validation.faults_train --runs 20 --seed 0
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "test"))

import torch  # noqa: E402
from tiny import dot_recording, tiny_model, tiny_train  # noqa: E402

from lewm_model.data.clips import load_episodes  # noqa: E402
from lewm_model.evaluation.figures import Figures, report_figures  # noqa: E402
from lewm_model.training.trainer import train  # noqa: E402

FORK = multiprocessing.get_context("fork")  # starts a process at once, with everything imported
SETTINGS = {"steps": 120, "batch": 32, "clips_per_pose": 1, "checkpoint_every": 4, "validate_every": 30}


@dataclass(frozen=True)
class Run:
    """A recording, and folders for the bundle and for logs and checkpoints."""

    recording: Path
    folder: Path
    steps: int = SETTINGS["steps"]

    @property
    def checkpoint(self) -> Path:
        return self.folder / "run" / "checkpoint.pt"

    def weights(self) -> str:
        return digest(self.folder / "bundle" / "weights.safetensors")

    def start(self, file_size: int | None = None) -> multiprocessing.process.BaseProcess:
        process = FORK.Process(target=self._train, args=(file_size,))
        process.start()
        return process

    def _train(self, file_size: int | None) -> None:
        sys.stdout = sys.stderr = (self.folder / "output").open("a", buffering=1)
        config = tiny_train(**{**SETTINGS, "steps": self.steps}, head_steps=2, threads=1, device="cpu")
        data = load_episodes(self.recording)
        if file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
        try:
            train(data, self.folder / "bundle", self.folder / "run", tiny_model(), config)
        except OSError as error:
            sys.exit(f"lewm: {error}")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def undisturbed(folder: Path, steps: int = SETTINGS["steps"]) -> tuple[Run, float]:
    """Trains the run that the others are compared with; returns it and the time, s, until its last step."""
    folder.mkdir(parents=True)
    run = Run(dot_recording(folder / "dots.h5"), folder, steps)
    began = time.monotonic()
    process = run.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the undisturbed run failed:\n{(folder / 'output').read_text()[-2000:]}")
    return run, time.monotonic() - began


def killed(whole: Run, folder: Path, after_s: float) -> tuple[int, bool, bool]:
    """Kills a run `after_s` after its start and resumes it.

    Returns the step of the checkpoint that it resumed from (0: none yet), whether it was killed before its end, and
    whether it ended with the weights of `whole`.
    """
    folder.mkdir()
    run = Run(whole.recording, folder, whole.steps)
    process = run.start()
    process.join(after_s)
    alive = process.is_alive()
    if alive:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    step = torch.load(run.checkpoint, weights_only=True)["step"] if run.checkpoint.is_file() else 0
    resumed = run.start()
    resumed.join()
    return step, alive, resumed.exitcode == 0 and run.weights() == whole.weights()


def full_disk(whole: Run, folder: Path) -> dict[str, bool]:
    """Kills a run after its first checkpoint, resumes it where none can be written, then where it can."""
    folder.mkdir()
    run = Run(whole.recording, folder, whole.steps)
    process = run.start()
    while not run.checkpoint.is_file() and process.is_alive():
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    before = digest(run.checkpoint)
    full = run.start(file_size=run.checkpoint.stat().st_size // 2)
    full.join()
    said = (folder / "output").read_text().splitlines()[-1]
    found = {
        "stops": full.exitcode == 1,
        "says": "could not be saved" in said and "the checkpoint before it is intact" in said,
        "intact": digest(run.checkpoint) == before and not run.checkpoint.with_suffix(".part").exists(),
    }
    resumed = run.start()
    resumed.join()
    return {**found, "resumes": resumed.exitcode == 0 and run.weights() == whole.weights()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "out/faults-train")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shutil.rmtree(arguments.out, ignore_errors=True)
    whole, duration_s = undisturbed(arguments.out / "whole")
    rng = random.Random(arguments.seed)
    table = Table(title=f"{arguments.runs} runs of {whole.steps} steps, killed and resumed; seed {arguments.seed}")
    for heading in ("run", "killed after, s", "resumed from step", "weights of the undisturbed run"):
        table.add_column(heading)
    exact = done = attempt = 0
    while done < arguments.runs and attempt < 5 * arguments.runs:
        after_s, attempt = rng.uniform(0.05, 1.0) * duration_s, attempt + 1
        step, alive, same = killed(whole, arguments.out / f"run{attempt}", after_s)
        if not alive or step >= whole.steps:
            continue  # it was faster than the undisturbed one, and had ended already
        done, exact = done + 1, exact + same
        table.add_row(str(done), f"{after_s:.2f}", str(step), "yes" if same else "NO")
        shutil.rmtree(arguments.out / f"run{attempt}")
    disk = full_disk(whole, arguments.out / "full")
    table.add_row("full disk", "", "", ", ".join(f"{name}: {'yes' if value else 'NO'}" for name, value in disk.items()))
    command = f"make faults-train RUNS={arguments.runs} SEED={arguments.seed}"
    figures: Figures = {
        "faults_train.resumes_exact": (exact, f"of {done}"),
        "faults_train.full_disk_intact": (int(all(disk.values())), "of 1"),
    }
    report_figures(arguments.out, table, figures, command)
    if exact < done or done < arguments.runs or not all(disk.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
