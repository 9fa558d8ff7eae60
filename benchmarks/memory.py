# SPDX-License-Identifier: Apache-2.0
"""How much memory training takes with a data set that is larger than the memory: `make train-memory`.

Trains the same small model at 224 x 224 pixels three times for the same number of steps, each in a process of its own:
on a few frames that fit into memory, on a sparse HDF5 file of many gigabytes, and on that file through a plain memory
map. The sparse file takes no room on the disk; its frames read as zeros, which makes no difference to memory. A thread
reads VmRSS, RssAnon and RssFile every 10 ms. The figure is the greatest VmRSS, anonymous and mapped pages together,
less that of the first run. Heads are not trained.

    python -m benchmarks.memory --gb 50 --steps 60
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import h5py
import numpy as np
from rich.table import Table

from lewm_model.evaluation.figures import Figures, report_figures

ROOT = Path(__file__).resolve().parent.parent
SIZE, EPISODE = 224, 500  # pixels, frames
FIELDS = ("VmRSS", "RssAnon", "RssFile")
# The 512 frames of a step are 77 MB; the network is small, so that frames take most of the memory.
MODEL = {"image_size": SIZE, "patch_size": 56, "encoder_width": 32, "encoder_depth": 1, "encoder_heads": 2}
MODEL |= {"encoder_mlp": 32, "latent_dim": 8, "projector_width": 32, "predictor_width": 32, "predictor_depth": 1}
MODEL |= {"predictor_heads": 2, "predictor_head_dim": 16, "predictor_mlp": 32}
TRAIN = {"batch": 128, "clip_frames": 4, "head_steps": 0, "threads": 1, "validate_every": 50, "checkpoint_every": 50}


def sparse_recording(path: Path, size_bytes: float, frame: int = SIZE) -> Path:
    """An HDF5 recording with about `size_bytes` of frames, none of which is written to the disk."""
    episodes = max(2, round(size_bytes / (EPISODE * frame * frame * 3)))
    rows = episodes * EPISODE
    with h5py.File(path, "w") as file:
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_layout(h5py.h5d.CONTIGUOUS)
        settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((rows, frame, frame, 3))
        h5py.h5d.create(file.id, b"pixels", h5py.h5t.NATIVE_UINT8, space, settings)
        file["action"] = np.random.default_rng(0).normal(size=(rows, 2)).astype(np.float32)
        file["ep_len"] = np.full(episodes, EPISODE)
        file["ep_offset"] = np.arange(episodes) * EPISODE
        file.attrs.update(control_dt_s=0.05, action_names='["a", "b"]')
    return path


def memory_gb() -> dict[str, float]:
    """This process's memory, GB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return {field: int(found[field].split()[0]) * 1024 / 1e9 for field in FIELDS}


def measure(recording: Path, steps: int, plain: bool) -> None:
    """Trains in this process; prints the greatest of each kind of memory, and what was read, as JSON."""
    from lewm_model.config import ModelConfig, TrainConfig, from_dict
    from lewm_model.data.clips import load_episodes
    from lewm_model.data.frames import MappedFrames
    from lewm_model.training.trainer import train

    if plain:
        MappedFrames._read = lambda frames, rows: np.memmap.__getitem__(frames, rows)  # type: ignore[method-assign,assignment]
    data = load_episodes(recording)
    most, stop = memory_gb(), threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            for field, value in memory_gb().items():
                most[field] = max(most[field], value)

    watcher = threading.Thread(target=watch)
    watcher.start()
    config = from_dict(TrainConfig, {**TRAIN, "steps": steps})
    with tempfile.TemporaryDirectory() as folder:
        train(data, Path(folder) / "bundle", Path(folder) / "run", from_dict(ModelConfig, MODEL), config)
    stop.set()
    watcher.join()
    read_gb = steps * config.batch * config.clip_frames * SIZE**2 * 3 / 1e9
    print(json.dumps({**most, "frames": len(data.pixels), "gb": data.pixels.nbytes / 1e9, "read_gb": read_gb}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=50, help="size of the sparse file (default 50)")
    parser.add_argument("--steps", type=int, default=60, help="training steps of each run (default 60)")
    parser.add_argument("--out", type=Path, default=ROOT / "out/train-memory")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.steps, arguments.plain)
        return
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    small = sparse_recording(out / "small.h5", 0.2e9)
    large = sparse_recording(out / "large.h5", arguments.gb * 1e9)
    on_disk = large.stat().st_blocks * 512 / 1e9
    runs = {"in memory": [str(small)], "mapped": [str(large)], "plain memory map": [str(large), "--plain"]}
    found, begin = {}, time.monotonic()
    for name, command in runs.items():
        line = [sys.executable, "-m", "benchmarks.memory", "--steps", str(arguments.steps)]
        line += ["--measure", *command]
        done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        found[name] = json.loads(done.stdout.splitlines()[-1])
    small.unlink()
    large.unlink()

    # The small data set is itself in memory in its run; what remains is the model's own.
    own = found["in memory"]["VmRSS"] - found["in memory"]["gb"]
    table = Table(title=f"Memory of training for {arguments.steps} steps, GB")
    for column in ("run", "data set", "read", *FIELDS, "over the model's own"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for name, row in found.items():
        numbers = [row["gb"], row["read_gb"], *(row[field] for field in FIELDS), row["VmRSS"] - own]
        table.add_row(name, *(f"{number:.2f}" for number in numbers))
    print(f"the file of {found['mapped']['gb']:.1f} GB takes {on_disk:.3f} GB of the disk")
    figures: Figures = {
        "data.rss_over_model_gb": (found["mapped"]["VmRSS"] - own, "GB"),
        "data.rss_over_model_plain_gb": (found["plain memory map"]["VmRSS"] - own, "GB"),
        "data.data_set_gb": (found["mapped"]["gb"], "GB"),
    }
    seconds = round(time.monotonic() - begin, 1)
    others = {"steps": arguments.steps, "seconds": seconds, "runs": found}
    report_figures(out, table, figures, "make train-memory", **others)


if __name__ == "__main__":
    main()
