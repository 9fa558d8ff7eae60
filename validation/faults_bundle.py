# SPDX-License-Identifier: Apache-2.0
"""Kills every command that changes a bundle with SIGKILL: the bundle must load afterwards: `make faults-bundle`.

A small bundle is trained, calibrated, exported, given a decoder, other heads and a verdict, repeatedly, each time in a
process that is killed. Half of the kills come at a random moment of the command, the other half while it switches to
the new bundle, which takes milliseconds and is hardly ever hit by the first half. After each kill the bundle must load
with all that belongs to it: description, hashes, weights, heads, graphs, decoder.

    python -m validation.faults_bundle --runs 100 --seed 0
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "test"))

import torch  # noqa: E402
from tiny import dot_recording, tiny_model, tiny_train  # noqa: E402

from lewm_model.bundle.bundle import BundleError, load_bundle, load_heads, load_model  # noqa: E402
from lewm_model.data.clips import Episodes, load_episodes  # noqa: E402
from lewm_model.evaluation.figures import report_figures  # noqa: E402
from lewm_model.evaluation.preflight import GO, Preflight, save_preflight  # noqa: E402
from lewm_model.monitoring.novelty import load_novelty  # noqa: E402
from lewm_model.runtime import load_runtime  # noqa: E402
from lewm_model.runtime.decoder import load_decoder  # noqa: E402
from lewm_model.runtime.errors import RuntimeLoadError  # noqa: E402
from lewm_model.runtime.export import export_onnx, sample_frames  # noqa: E402
from lewm_model.training.calibration import calibrate  # noqa: E402
from lewm_model.training.decoder import add_decoder  # noqa: E402
from lewm_model.training.heads import add_heads  # noqa: E402
from lewm_model.training.trainer import train  # noqa: E402

FORK = multiprocessing.get_context("fork")  # starts a process at once, with everything imported
SWITCH_S = 0.02  # from the complete draft to a little after the switch


class Bench:
    """A bundle, and the commands that change it; `folder` holds everything."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.bundle = folder, folder / "bundle"
        self.config = tiny_train(steps=4, head_steps=3, policy_steps=3, threads=1, device="cpu")
        self.data: Episodes = load_episodes(dot_recording(folder / "dots.h5", episodes=30, steps=60))
        self.other: Episodes = load_episodes(dot_recording(folder / "other.h5", episodes=12, steps=60, seed=1))
        self.commands: dict[str, Callable[[], object]] = {
            "train": self._train,
            "calibrate": lambda: calibrate(load_bundle(self.bundle), self.other),
            "export": lambda: export_onnx(load_bundle(self.bundle), 2, sample_frames(self.data, tiny_model())),
            "decoder": lambda: add_decoder(load_bundle(self.bundle), self.data, steps=3),
            "heads": self._heads,
            "verdict": lambda: save_preflight(load_bundle(self.bundle), Preflight(GO, "", (), (), "nothing", "none")),
        }

    def _train(self) -> None:
        train(self.data, self.bundle, self.folder / "run", tiny_model(), self.config)

    def _heads(self) -> None:
        bundle = load_bundle(self.bundle)
        add_heads(bundle, load_model(bundle), self.data, self.data.split(0.5, 0)[0], self.config)

    def start(self, name: str) -> multiprocessing.process.BaseProcess:
        process = FORK.Process(target=self._run, args=(name,))
        process.start()
        return process

    def _run(self, name: str) -> None:
        sys.stdout = sys.stderr = (self.folder / "output").open("a", buffering=1)
        self.commands[name]()

    def finish(self, name: str) -> float:
        """Runs a command to its end; returns its duration, s."""
        began, process = time.monotonic(), self.start(name)
        process.join()
        if process.exitcode:
            raise RuntimeError(f"{name} failed:\n{(self.folder / 'output').read_text()[-2000:]}")
        return time.monotonic() - began

    def killed_after(self, name: str, after_s: float) -> bool:
        """Kills a command `after_s` after its start; returns whether that was before its end."""
        process = self.start(name)
        process.join(after_s)
        return _kill(process)

    def killed_in_switch(self, name: str, after_s: float) -> bool:
        """Kills a command `after_s` after its last draft was complete; returns whether that was before its end."""
        process = self.start(name)
        while process.is_alive() and not any(self.bundle.glob(".draft-*/bundle/model.json")):
            time.sleep(0.0002)
        time.sleep(after_s)
        return _kill(process)

    def problem(self) -> str:
        """Why the bundle does not load completely; "" where it does."""
        try:
            bundle = load_bundle(self.bundle)
            load_model(bundle)
            load_heads(bundle)
            load_novelty(bundle)
            if "onnx/encoder.onnx" in bundle.files:  # after a training there is at most the graph of a new decoder
                load_runtime(bundle, "onnxruntime")
            load_decoder(bundle)
        except (BundleError, RuntimeLoadError) as error:
            return str(error)
        return ""


def _kill(process: multiprocessing.process.BaseProcess) -> bool:
    alive = process.is_alive()
    if alive:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return alive


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "out/faults-bundle")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shutil.rmtree(arguments.out, ignore_errors=True)
    bench, rng = Bench(arguments.out / "bench"), random.Random(arguments.seed)
    durations_s = {name: bench.finish(name) for name in bench.commands}
    kills: Counter[str] = Counter()
    broken: Counter[str] = Counter()
    done = attempt = 0
    while done < arguments.runs and attempt < 5 * arguments.runs:
        name, attempt = rng.choice(list(bench.commands)), attempt + 1
        if attempt % 2:
            alive = bench.killed_after(name, rng.uniform(0.02, 1.0) * durations_s[name])
        else:
            alive = bench.killed_in_switch(name, rng.uniform(0.0, SWITCH_S))
        problem = bench.problem()
        if problem:
            print(f"killed in {name}: {problem}")
            broken[name] += 1
            shutil.rmtree(bench.bundle)
            for each in bench.commands:
                bench.finish(each)
        done += alive
        kills[name] += alive
    table = Table(title=f"{done} kills; seed {arguments.seed}")
    for heading in ("command", "takes, s", "killed", "loads afterwards"):
        table.add_column(heading)
    for name in bench.commands:
        table.add_row(name, f"{durations_s[name]:.2f}", str(kills[name]), str(kills[name] - broken[name]))
    command = f"make faults-bundle RUNS={arguments.runs} SEED={arguments.seed}"
    report_figures(arguments.out, table, {"faults_bundle.loads": (done - broken.total(), f"of {done}")}, command)
    if broken or done < arguments.runs:
        sys.exit(1)


if __name__ == "__main__":
    main()
