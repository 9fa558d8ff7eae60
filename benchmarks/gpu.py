# SPDX-License-Identifier: Apache-2.0
"""Training steps and plans on a GPU, compared with the authors' code, and TensorRT engines: `make bench-gpu`.

    python -m benchmarks.gpu --parts train plan decision engines

`train`: a training step of the reference size, 128 clips of 4 frames, bf16, ours beside the reference's (see
benchmarks/training.py, which does the same on a CPU). `plan`: a plan of the paper's planner, 300 candidates x 30
iterations x 5 blocks, at the reference size: stable-worldmodel's CEMSolver on the GPU beside ours, whose rollout is
recorded as a CUDA graph, fed with the same noise. `decision`: from a picture to a motion with the robot's settings, in
PyTorch, for the shipped model and for the reference size. `engines`: TensorRT's engines of the shipped model, built,
checked for numerical equivalence, and timed. Actions that are compared are run in turn; times are medians of wall
clock.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import save_file

from benchmarks import reference
from benchmarks.measuring import ROUNDS, quietly, reference_size, show
from benchmarks.training import our_step, their_step
from lewm_model.bundle.bundle import WEIGHTS, Bundle, load_bundle
from lewm_model.bundle.update import create
from lewm_model.config import TRAIN_SIZES, ModelConfig, PlanConfig, TrainConfig, from_dict, resource
from lewm_model.evaluation.figures import Figures, write_figures
from lewm_model.evaluation.timing import bench
from lewm_model.models.graphs import RolloutGraph
from lewm_model.models.lewm import LeWM
from lewm_model.models.objective import final
from lewm_model.planning.solvers import ELITES, HORIZON, ITERATIONS, SAMPLES, reference_cem
from lewm_model.runtime import load_runtime
from lewm_model.runtime.equivalence import measure
from lewm_model.runtime.tensorrt.engines import Engines
from lewm_model.runtime.torch_backend import Computation

ROOT = Path(__file__).resolve().parent.parent
STEPS = 5  # training steps in a turn


def in_turns(actions: dict[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median wall-clock time of each action, s, until the GPU has finished; the first two rounds warm up."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + 2):
        for name, action in actions.items():
            torch.cuda.synchronize()
            begin = time.perf_counter()
            action()
            torch.cuda.synchronize()
            if number > 1:
                times[name].append(time.perf_counter() - begin)
    return {name: float(np.median(values)) for name, values in times.items()}


def train(_: Bundle) -> Figures:
    config = from_dict(TrainConfig, {}, TRAIN_SIZES["reference"])
    torch.set_float32_matmul_precision("high")  # on both sides
    steps = {"ours": our_step(ModelConfig(), config, "cuda"), "reference": their_step(ModelConfig(), config, "cuda")}

    def several(step: Callable[[], Any]) -> None:
        for _ in range(STEPS):
            step()

    times = in_turns({name: partial(several, step) for name, step in steps.items()})
    torch.set_float32_matmul_precision("highest")
    speed = {name: STEPS * config.batch / seconds for name, seconds in times.items()}
    show(
        f"training, reference size, {config.batch} clips x {config.clip_frames} frames, {config.precision}",
        ("", "samples/s", "ms a step"),
        [(name, value, 1e3 * config.batch / value) for name, value in speed.items()],
    )
    return {
        "train_ratio": (speed["ours"] / speed["reference"], "x"),
        "train_samples_s": (speed["ours"], "samples/s"),
        "train_reference_samples_s": (speed["reference"], "samples/s"),
    }


@torch.inference_mode()
def plan(_: Bundle) -> Figures:
    model = reference_size()
    theirs = reference.counterpart(model).cuda()
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    pixels = reference.pixels(model, images[None])
    model = model.cuda()
    rollout = Computation(RolloutGraph(model, None))

    def solve() -> np.ndarray:
        solver = reference.solver(theirs, 2, 5, HORIZON, SAMPLES, ELITES, ITERATIONS, seed=0, device="cuda")
        info = {"pixels": pixels[:, :1], "goal": pixels[:, 1:], "action": torch.zeros(1, 1, 10)}
        return quietly(lambda: solver.solve(info))["actions"][0].cpu().numpy()

    def ours() -> np.ndarray:
        now, goal = model.encode(torch.from_numpy(images).cuda()).cpu().numpy()
        generator = torch.Generator("cuda").manual_seed(0)

        def noise() -> np.ndarray:
            return torch.randn(SAMPLES, HORIZON, 10, generator=generator, device="cuda").cpu().numpy()

        return reference_cem(lambda candidates: final(rollout(now[None], candidates, goal)[0]), noise)

    difference = float(np.abs(solve() - ours()).max())
    times = in_turns({"reference": solve, "ours": ours})
    show(
        f"a plan at the reference size, {SAMPLES} candidates x {ITERATIONS} iterations x {HORIZON} blocks, fp32; "
        f"greatest difference of an action {difference:.2g}",
        ("", "ms"),
        [(name, 1e3 * seconds) for name, seconds in times.items()],
    )
    return {
        "plan_ratio": (times["reference"] / times["ours"], "x"),
        "plan_ms": (1e3 * times["ours"], "ms"),
        "plan_reference_ms": (1e3 * times["reference"], "ms"),
        "plan_action_max_abs": (difference, "standard deviations of the actions"),
    }


def decision(bundle: Bundle) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        bundles = {"small": bundle, "reference": _untrained(reference_size(), bundle, Path(folder))}
        found = {name: bench(load_runtime(one, "torch")) for name, one in bundles.items()}
    return _decisions(found, "decision")


def engines(bundle: Bundle) -> Figures:
    found, figures = {}, Figures()
    for precision in ("fp16", "fp32"):
        built = Engines(bundle)
        runtime = built.load(precision=precision, rebuild=True)
        equivalence = measure(runtime, built.golden)
        print(f"{precision} engines, {built.folder(precision).name}: {', '.join(runtime.notes)}; {equivalence}")
        figures |= {
            f"engine_{precision}_latent_cosine": (equivalence.latent_cosine, ""),
            f"engine_{precision}_shared_elites": (equivalence.shared_elites, "of 30"),
        }
        found[precision] = bench(runtime)
        runtime.close()
    return figures | _decisions(found, "engine")


def _decisions(found: dict[str, dict[str, Any]], prefix: str) -> Figures:
    kinds = ("encoder_ms", "rollout_ms", "plan_ms", "end_to_end_ms")
    settings = PlanConfig()
    show(
        f"{prefix}: {settings.samples} candidates x {settings.iterations} iterations, medians (95 %), ms",
        ("", *(kind.removesuffix("_ms") for kind in kinds), "iterations"),
        [
            (name, *(f"{one[kind]['p50']:.2f} ({one[kind]['p95']:.2f})" for kind in kinds), one["iterations_done"])
            for name, one in found.items()
        ],
    )
    return {f"{prefix}_{name}_{kind}": (one[kind]["p50"], "ms") for name, one in found.items() for kind in kinds}


def _untrained(model: LeWM, like: Bundle, folder: Path) -> Bundle:
    """Writes a bundle of this untrained model with the action spec of the bundle `like`."""

    def make(draft: Path) -> Bundle:
        save_file(model.state_dict(), draft / WEIGHTS)
        return Bundle(draft, model.config, like.actions)

    return create(folder, make)


PARTS: dict[str, Callable[[Bundle], Figures]] = {
    "train": train,
    "plan": plan,
    "decision": decision,
    "engines": engines,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=resource("models", "reach"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=ROOT / "out/bench-gpu")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("PyTorch sees no GPU here: install a torch wheel for your CUDA, or run `make bench` for the CPU")
    gpu, bundle = torch.cuda.get_device_name(), load_bundle(arguments.bundle)
    Console().print(f"{gpu}, torch {torch.__version__}, Python {platform.python_version()}")
    for name in arguments.parts:
        figures = {f"bench_gpu.{key}": found for key, found in PARTS[name](bundle).items()}
        path, command = arguments.out / "summary.json", f"make bench-gpu PARTS={name}"
        write_figures(path, figures, command, keep=True, gpu=gpu)


if __name__ == "__main__":
    main()
