# SPDX-License-Identifier: Apache-2.0
"""Several processes train one model: a run may go on with another number of them, and one of them writes."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rank_run
import torch
import yaml
from tiny import TINY_MODEL, dot_recording, tiny_model, tiny_train

from benchmarks.equivalence import spawn_ranks
from lewm_model.bundle.bundle import load_bundle
from lewm_model.data.clips import ClipSampler, DataError, load_episodes
from lewm_model.training.trainer import fit


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["model"]


def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    recording = dot_recording(tmp_path / "dots.h5")
    one, two, back = (tmp_path / name for name in ("one", "two", "back"))
    for folder in (two, back):
        folder.mkdir()
    rank_run.run(recording, one)
    shutil.copy(one / "step3.pt", two / "checkpoint.pt")
    spawn_ranks([sys.executable, rank_run.__file__, recording, two])  # on two processes from step 3 on
    shutil.copy(two / "step6.pt", back / "checkpoint.pt")
    rank_run.run(recording, back)  # and on one again from step 6 on
    assert not (two / "step3.pt").exists(), "the two processes started anew"
    wanted = weights(one / "step9.pt")
    moved = max(
        float((wanted[n] - v).abs().max()) for n, v in weights(one / "step3.pt").items() if v.is_floating_point()
    )
    assert moved > 1e-3
    for folder in (two, back):
        for name, value in weights(folder / "step9.pt").items():
            torch.testing.assert_close(
                value, wanted[name], rtol=1e-3, atol=0.02 * moved, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_torchrun_trains_with_the_command_of_the_docs(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs/training.md").read_text()
    assert "-m -- lewm_model.cli.main train /data/train.h5 /models/mine --size reference --run /runs/mine" in page
    recording, settings = dot_recording(tmp_path / "dots.h5"), tmp_path / "settings.yaml"
    train = {"steps": 2, "batch": 8, "head_steps": 0, "threads": 1}
    settings.write_text(yaml.safe_dump({"model": TINY_MODEL, "train": train}))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "--", "lewm_model.cli.main", "train", str(recording), str(tmp_path / "bundle"), "--size", "small"]
    command += ["--config", str(settings), "--run", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert load_bundle(tmp_path / "bundle").training["config"]["steps"] == 2
    assert weights(tmp_path / "run/checkpoint.pt")


def test_the_parts_of_a_batch_that_processes_read_are_the_batch(tmp_path: Path) -> None:
    data = load_episodes(dot_recording(tmp_path / "dots.h5"))
    sampler = ClipSampler(data, np.arange(12), 2, 5, 4, seed=3)
    whole = sampler.batch(7, 16)
    parts = [sampler.batch(7, 16, rank, 4) for rank in range(4)]
    for number in range(2):
        np.testing.assert_array_equal(np.concatenate([part[number] for part in parts]), whole[number])


def test_a_batch_that_cannot_be_shared_equally_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lewm_model.training.trainer.ranks", lambda: 3)
    data = load_episodes(dot_recording(tmp_path / "dots.h5", episodes=2))
    with pytest.raises(DataError, match="a batch of 16 clips cannot be shared by 3 processes"):
        fit(data, tmp_path / "run", tiny_model(), tiny_train(batch=16))
