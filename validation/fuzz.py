# SPDX-License-Identifier: Apache-2.0
"""Fuzzes every topic and every file that the package reads: `make fuzz`.

The targets of fuzz_targets.py run in worker processes, so that a crash of a C library ends a worker and not the run.
Failures are: an exception other than the documented refusal, a process or thread that ends, an input that takes longer
than HANG_S, and a good input that is not handled after bad ones. An input depends on (seed, target, number) alone; this
repeats one, with its traceback:

    python -m validation.fuzz --target bag --number 4711 --seed 0
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import json
import mmap
import os
import queue
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console
from rich.table import Table

from lewm_model.evaluation.figures import write_figures

ROOT = Path(__file__).resolve().parent.parent
INPUTS = 100_000
HANG_S = 60.0  # an input that takes longer, without the time that it waits for a processor, counts as hanging
START_S = 180.0  # the same for making a target, which may bring up processes
MEMORY_BYTES = 12 << 30  # limit of a worker's address space; an input that needs more is a failure
MOST_SAVED = 20  # failures of a target that are written to files
MOST_DEATHS = 20  # deaths of workers after which a target is skipped
BUSY, IDLE = 1, 0


def counts(inputs: int, names: list[str] | None = None) -> dict[str, int]:
    """Number of inputs of each target: its share, and one batch at least."""
    from validation.fuzz_targets import TARGETS

    chosen = {name: TARGETS[name] for name in names or TARGETS}
    whole = sum(target.share for target in chosen.values())
    return {name: max(4, -(-inputs * target.share // whole)) for name, target in chosen.items()}


# ---- the worker ------------------------------------------------------------------------------------------------------


def work(seeds: Path, scratch: Path, seed: int) -> None:
    """Does jobs that arrive as lines of JSON on stdin; writes results to the original stdout."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: workers end with a killed run
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # output of libraries goes to the log
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with (scratch / "progress").open("r+b") as file:
        progress = mmap.mmap(file.fileno(), 24)
    os.environ["ROS_LOG_DIR"] = str(scratch)
    os.chdir(scratch)  # MuJoCo leaves a log where it runs

    from validation.fuzz_targets import TARGETS

    def now(number: int, state: int) -> None:
        progress[:] = struct.pack("<qqd", number, state, time.monotonic())

    def tell(**event: Any) -> None:
        answers.write(json.dumps(event) + "\n")

    for line in sys.stdin:
        job = json.loads(line)
        name, first, end = job["target"], job["first"], job["first"] + job["count"]
        now(first, BUSY)
        target = None
        batch_begin = first
        try:
            for number in range(first, end):
                if target is None:
                    target = TARGETS[name].make(seeds, scratch)
                now(number, BUSY)
                try:
                    target.feed(Random(f"{seed}/{name}/{number}"))
                except Exception as error:
                    tell(crash=name, number=number, **describe(error))
                if number + 1 < end and (number + 1) % target.batch:
                    continue
                try:
                    target.good()
                except Exception as error:
                    tell(crash=name, number=number, since=batch_begin, **describe(error))
                    abandoned, target = target, None  # the next job must not be affected by it
                    abandoned.close()
                batch_begin = number + 1
            if target is not None:
                target.close()
        except Exception as error:  # a target that cannot be made, or that cannot end
            tell(crash=name, number=batch_begin, since=first, lost=max(0, end - batch_begin), **describe(error))
        now(end, IDLE)
        tell(done=name)


def describe(error: Exception) -> dict[str, str]:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "validation/fuzz" not in f.filename]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "fuzz"
    text = "".join(traceback.format_exception(error))
    return {"error": f"{type(error).__name__}: {error}"[:500], "where": where, "trace": text[-6000:]}


# ---- the run ---------------------------------------------------------------------------------------------------------


class Run:
    """Hands jobs to workers and watches them."""

    def __init__(self, seed: int, out: Path, seeds: Path, jobs: dict[str, int]) -> None:
        self.seed, self.out, self.seeds = seed, out, seeds
        self.rows = {name: {"inputs": 0, "crashes": 0, "hangs": 0, "seconds": 0.0} for name in jobs}
        self.findings: list[dict[str, Any]] = []
        self._jobs: queue.Queue[tuple[str, int, int]] = queue.Queue()
        for name, count in jobs.items():
            self._jobs.put((name, 0, count))
        self._lock = threading.Lock()
        self._deaths = dict.fromkeys(jobs, 0)

    def go(self, workers: int, scratch: Path) -> None:
        threads = [threading.Thread(target=self._serve, args=(scratch / str(i),)) for i in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _serve(self, scratch: Path) -> None:
        """Runs one worker after the other until no job is left."""
        scratch.mkdir()
        worker: Worker | None = None
        while True:
            try:
                name, first, count = self._jobs.get_nowait()
            except queue.Empty:
                break
            if worker is None:
                worker = Worker(self.seeds, scratch, self.seed)
            begin = time.monotonic()
            ended, number = worker.do(name, first, count, lambda event: self._found(event))
            with self._lock:
                row = self.rows[name]
                row["seconds"] += time.monotonic() - begin
                row["inputs"] += min(number + 1, first + count) - first if ended else count
            if not ended:
                continue
            self._found({"crash": name, "number": number, "trace": worker.tail(), **ended}, scratch)
            worker = None
            left = first + count - (number + 1)
            self._deaths[name] += 1
            if left > 0 and self._deaths[name] < MOST_DEATHS:
                self._jobs.put((name, number + 1, left))
        if worker is not None:
            worker.close()

    def _found(self, event: dict[str, Any], scratch: Path | None = None) -> None:
        with self._lock:
            row = self.rows[event["crash"]]
            row["hangs" if event.get("hang") else "crashes"] += 1
            row["inputs"] -= event.get("lost", 0)
            self.findings.append({key: value for key, value in event.items() if key != "trace"})
            if row["hangs"] + row["crashes"] > MOST_SAVED:
                return
        name, number = event["crash"], event["number"]
        folder = self.out / "crashes"
        folder.mkdir(parents=True, exist_ok=True)
        again = f"python -m validation.fuzz --target {name} --number {number} --seed {self.seed}"
        if "since" in event:
            again += f" --since {event['since']}"
        text = json.dumps({"target": name, "seed": self.seed, **event, "again": again}, indent=1)
        (folder / f"{name}-{self.seed}-{number}.json").write_text(text + "\n")


class Worker:
    """A worker process with a timeout."""

    def __init__(self, seeds: Path, scratch: Path, seed: int) -> None:
        self.scratch = scratch
        (scratch / "progress").write_bytes(struct.pack("<qqd", 0, IDLE, time.monotonic()))
        with (scratch / "progress").open("r+b") as file:
            self._progress = mmap.mmap(file.fileno(), 24)
        command = [sys.executable, "-m", "validation.fuzz", "--worker", str(seeds), str(scratch), "--seed", str(seed)]
        with (scratch / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        self._lines: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def do(self, name: str, first: int, count: int, found: Any) -> tuple[dict[str, Any] | None, int]:
        """Does a job; returns None, or why the process ended and the number of the input at which it did."""
        assert self._process.stdin is not None
        self._progress[:] = struct.pack("<qqd", first, BUSY, time.monotonic())
        self._process.stdin.write(json.dumps({"target": name, "first": first, "count": count}).encode() + b"\n")
        self._process.stdin.flush()
        watched, waited_s = None, 0.0  # the input that is being done, and what the worker had waited when it began
        while True:
            try:
                line = self._lines.get(timeout=0.5)
            except queue.Empty:
                number, state, since = struct.unpack("<qqd", self._progress[:])
                if watched != (number, since):
                    watched, waited_s = (number, since), self._waited_s()
                limit = START_S if number == first else HANG_S
                took_s = time.monotonic() - since - (self._waited_s() - waited_s)
                if state == BUSY and took_s > limit:
                    self._process.send_signal(signal.SIGABRT)  # makes faulthandler write where it hangs
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self._process.wait(10)
                    self._process.kill()
                    self._process.wait()
                    return {"hang": True, "error": f"no end within {limit:.0f} s"}, number
                continue
            if not line:
                status = self._process.wait()
                number = struct.unpack("<qqd", self._progress[:])[0]
                death = signal.Signals(-status).name if status < 0 else f"exit status {status}"
                return {"error": f"the process ended: {death}"}, number
            event = json.loads(line)
            if "done" in event:
                return None, first + count
            found(event)

    def _waited_s(self) -> float:
        """Seconds that the worker's main thread was ready to run and had no processor: a busy machine is no hang. A
        thread that sleeps, or waits for a lock, is not ready. 0 where the kernel does not count it.
        """
        try:
            return 1e-9 * int(Path(f"/proc/{self._process.pid}/schedstat").read_text().split()[1])
        except (OSError, IndexError):
            return 0.0

    def tail(self) -> str:
        """The last lines of the worker's output."""
        with (self.scratch / "log").open("rb") as log:
            log.seek(max(0, log.seek(0, 2) - 6000))
            return log.read().decode(errors="replace")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        self._process.kill()
        self._process.wait()


def environment() -> None:
    """The environment variables of the workers."""
    os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ.setdefault("LP_NUM_THREADS", "0")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["PYTHONUNBUFFERED"] = "1"
    paths = [str(ROOT / "test"), str(ROOT)]  # the tests have the small bundles and recordings that inputs are made from
    os.environ["PYTHONPATH"] = os.pathsep.join(paths + os.environ.get("PYTHONPATH", "").split(os.pathsep)).strip(":")
    sys.path[:0] = paths


def repeat(seeds: Path, scratch: Path, name: str, seed: int, since: int, number: int) -> None:
    """Feeds a target the inputs `since` to `number` in this process, then a good one."""
    from validation.fuzz_targets import TARGETS

    os.chdir(scratch)
    target = TARGETS[name].make(seeds, scratch)
    for n in range(since, number + 1):
        target.feed(Random(f"{seed}/{name}/{n}"))
    target.good()
    target.close()
    print("handled")


def report(run: Run, seconds: float, inputs: int, out: Path) -> bool:
    """Prints the table and writes summary.json; returns whether no input failed."""
    console = Console(width=150 if not sys.stdout.isatty() else None)
    table = Table(title=f"Hostile inputs, seed {run.seed}")
    for column in ("target", "inputs", "crashes", "hangs", "seconds"):
        table.add_column(column, justify="left" if column == "target" else "right")
    for name, row in run.rows.items():
        table.add_row(name, f"{row['inputs']:,}", str(row["crashes"]), str(row["hangs"]), f"{row['seconds']:.1f}")
    total = {key: sum(row[key] for row in run.rows.values()) for key in ("inputs", "crashes", "hangs")}
    table.add_section()
    table.add_row("all", f"{total['inputs']:,}", str(total["crashes"]), str(total["hangs"]), f"{seconds:.1f} wall")
    console.print(table)
    kinds: dict[tuple[str, str, str], list[int]] = {}
    for finding in run.findings:
        error = finding["error"].partition(":")[0] if "where" in finding else finding["error"]
        kinds.setdefault((finding["crash"], error, finding.get("where", "")), []).append(finding["number"])
    for (name, error, where), numbers in kinds.items():
        console.print(f"{name}: {error} {where}, {len(numbers)} times, e.g. number {numbers[0]}", markup=False)
    command = (
        "make fuzz" + (f" INPUTS={inputs}" if inputs != INPUTS else "") + (f" SEED={run.seed}" if run.seed else "")
    )
    units = {"inputs": "inputs", "crashes": "crashes", "hangs": "hangs"}
    others: dict[str, Any] = {"seed": run.seed, "seconds": round(seconds, 1), "targets": run.rows}
    others["findings"] = run.findings[:200]
    figures = {f"fuzz.{name}": (total[name], unit) for name, unit in units.items()}
    write_figures(out / "summary.json", figures, command, **others)
    return total["crashes"] == total["hangs"] == 0 and total["inputs"] >= inputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=INPUTS, help=f"in all (default {INPUTS})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "out/fuzz")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--target", action="append", help="default: every target")
    parser.add_argument("--number", type=int, help="repeat this input of --target in this process")
    parser.add_argument("--since", type=int, help="with --number: begin with this input")
    parser.add_argument("--worker", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    environment()
    if arguments.worker:
        work(arguments.worker[0], arguments.worker[1], arguments.seed)
        return
    out: Path = arguments.out.resolve()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lewm_fuzz_") as temporary:
        scratch, seeds = Path(temporary), Path(temporary) / "seeds"
        seeds.mkdir()
        make = "import sys, pathlib, validation.fuzz_targets as t; t.make_seeds(pathlib.Path(sys.argv[1]))"
        subprocess.run([sys.executable, "-W", "ignore", "-c", make, str(seeds)], check=True, stdout=subprocess.DEVNULL)
        if arguments.number is not None:
            since = arguments.number if arguments.since is None else arguments.since
            repeat(seeds, scratch, arguments.target[0], arguments.seed, since, arguments.number)
            return
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        run = Run(arguments.seed, out, seeds, counts(arguments.inputs, arguments.target))
        run.go(arguments.workers, scratch)
    if not report(run, time.monotonic() - begin, arguments.inputs, out):
        sys.exit(f"fuzz: see the lines above and {out / 'crashes'}")


if __name__ == "__main__":
    main()
