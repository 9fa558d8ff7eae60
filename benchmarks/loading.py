# SPDX-License-Identifier: Apache-2.0
"""How fast clips are loaded from a recording, compared with the reference's HDF5 reader: `make bench-data`.

There is a file of each picture size, written by the reference's own writer. The reference draws its batches as its
trainer does, with a shuffling DataLoader over its HDF5Dataset (actions cached), without and with worker processes, and
the faster of the two is compared; ours is `ClipSampler.batch` in one process, one thread. Both deliver 128 clips of 4
frames at frameskip 5 with their actions, as uint8 and float32 tensors; neither does anything to the pixels. Rounds of
all are interleaved, and the medians of their rates are compared. The file is in the page cache for both. Ours copies
the frames out of the HDF5 file once, before the first batch, which is timed separately.

    python -m benchmarks.loading --rounds 5
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch.utils.data import DataLoader

from benchmarks.reference import module
from lewm_model.data.clips import ClipSampler, load_episodes
from lewm_model.evaluation.figures import Figures, report_figures

ROOT = Path(__file__).resolve().parent.parent
FRAMES, FRAMESKIP, CLIPS = 4, 5, 128
EPISODE = 100  # frames
BATCHES = 8  # timed in a round
WORKERS = (0, 2)  # processes of the reference's DataLoader


def write(path: Path, size: int, size_bytes: float) -> None:
    """Writes episodes of noise, about `size_bytes` of frames (size, size, 3), in the reference's layout."""
    rng = np.random.default_rng(0)
    with module("data.formats.hdf5").HDF5Writer(path, mode="overwrite") as writer:
        for _ in range(round(size_bytes / (EPISODE * size * size * 3))):
            pixels = rng.integers(0, 256, (EPISODE, size, size, 3), np.uint8)
            writer.write_episode({"pixels": pixels, "action": rng.normal(size=(EPISODE, 2)).astype(np.float32)})


def theirs(path: Path, workers: int, seed: int) -> Iterator[Any]:
    """Endless batches of the reference's loader."""
    data = module("data.formats.hdf5").HDF5Dataset(
        path=path, frameskip=FRAMESKIP, num_steps=FRAMES, keys_to_load=["pixels", "action"], keys_to_cache=["action"]
    )
    generator = torch.Generator().manual_seed(seed)
    return iter(DataLoader(data, CLIPS, shuffle=True, drop_last=True, num_workers=workers, generator=generator))


def ours(path: Path, seed: int) -> Iterator[Any]:
    data = load_episodes(path, control_dt_s=0.05)
    sampler = ClipSampler(data, np.arange(len(data.lengths)), FRAMES, FRAMESKIP, 1, seed)
    return (tuple(map(torch.from_numpy, sampler.batch(step, CLIPS))) for step in itertools.count())


def rate(batches: Iterator[Any], warm_up: int) -> float:
    """Clips per second after `warm_up` batches: workers have prepared the first ones before the clock starts."""
    for _ in range(warm_up):
        next(batches)
    begin = time.perf_counter()
    for _ in range(BATCHES):
        next(batches)
    return BATCHES * CLIPS / (time.perf_counter() - begin)


def measure(path: Path, rounds: int) -> dict[str, list[float]]:
    """Rates of every loader in every round, clips per second."""
    rates: dict[str, list[float]] = {}
    for number in range(rounds):
        for workers in WORKERS:
            name = f"reference, {workers or 'no'} workers"
            rates.setdefault(name, []).append(rate(theirs(path, workers, number), 1 + 2 * workers))
        rates.setdefault("lewm_ros", []).append(rate(ours(path, number), 1))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="of each loader (default 5)")
    parser.add_argument("--gb", type=float, default=0.6, help="size of each file (default 0.6)")
    parser.add_argument("--out", type=Path, default=ROOT / "out/bench-data")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out: Path = arguments.out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    table = Table(title=f"Loading: {CLIPS} clips of {FRAMES} frames at frameskip {FRAMESKIP}, clips/s")
    for column in ("pixels", "loader", "median", "least", "most", "ratio"):
        table.add_column(column, justify="left" if column == "loader" else "right")
    results, ratios = {}, {}
    for size in (64, 224):
        path = out / f"{size}.h5"
        write(path, size, arguments.gb * 1e9)
        begin = time.perf_counter()
        next(ours(path, 0))
        once_s = time.perf_counter() - begin
        rates = measure(path, arguments.rounds)
        path.unlink()
        shutil.rmtree(out / ".lewm_cache", ignore_errors=True)
        best = max(median(values) for name, values in rates.items() if name != "lewm_ros")
        ratios[size] = median(rates["lewm_ros"]) / best
        results[size] = {"rates": rates, "ratio": ratios[size], "decoded_once_s": once_s}
        for name, values in rates.items():
            ratio = f"{ratios[size]:.2f}" if name == "lewm_ros" else ""
            numbers = (f"{value:,.0f}" for value in (median(values), min(values), max(values)))
            table.add_row(str(size), name, *numbers, ratio)
        table.add_section()
    names = {"": min(ratios.values()), "_64": ratios[64], "_224": ratios[224]}
    figures: Figures = {f"bench_train.loading_ratio{name}": (value, "x") for name, value in names.items()}
    others = {"rounds": arguments.rounds, "gb": arguments.gb, "results": results}
    report_figures(out, table, figures, "make bench-data", **others)


if __name__ == "__main__":
    main()
