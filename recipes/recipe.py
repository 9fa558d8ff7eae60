# SPDX-License-Identifier: Apache-2.0
"""What all recipes do: record, train, calibrate, export, and try the model in the tasks that it is made for."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from lewm_model.bundle.bundle import Bundle
from lewm_model.config import TRAIN_SIZES, TrainConfig, from_dict
from lewm_model.data.clips import load_episodes
from lewm_model.evaluation.figures import Figures, write_figures
from lewm_model.evaluation.simulated import try_suite
from lewm_model.runtime import load_runtime
from lewm_model.runtime.export import export_onnx, sample_frames
from lewm_model.sim.collect import collect
from lewm_model.tasks.registry import suite_named
from lewm_model.training.calibration import calibrate
from lewm_model.training.heads import retrain_policy_heads
from lewm_model.training.trainer import model_config_for, train

USUAL_SEED = 10**6  # of the first recording that is not trained on
TASK_SEED = 1  # starts and goals are the same for every training seed


@dataclass(frozen=True)
class Recipe:
    """How a model is made from nothing."""

    name: str  # of the make target and of the figures, with _ for -
    suite: str  # of tasks, in lewm_model.tasks.registry
    episodes: int
    steps: int  # control steps of an episode
    rounds: int = 0  # of recording what the scripted policy does where the model's own policy got to
    corrections: int = 0  # episodes in such a round
    vary: bool = True  # whether every recorded frame has a look of its own (lewm_model.sim.looks)
    usual_episodes: int = 400  # of the scene as it is, to know what is usual in it; with 100 a rare pose looks new
    model: dict[str, Any] = field(default_factory=dict)  # what differs from the size `small`
    train: dict[str, Any] = field(default_factory=dict)


def make(recipe: Recipe, folder: Path, seed: int) -> Bundle:
    """Records, trains, calibrates and exports into `folder`; goes on where an earlier call was killed."""
    folder.mkdir(parents=True, exist_ok=True)
    suite = suite_named(recipe.suite)
    world = suite.world_file
    recording = folder / "episodes.h5"
    if not recording.is_file():
        collect(recording, recipe.episodes, recipe.steps, seed, world, motion=suite.motion, vary=recipe.vary)
    as_it_is = folder / "usual.h5"
    if not as_it_is.is_file():
        collect(as_it_is, recipe.usual_episodes, recipe.steps, USUAL_SEED + seed, world, motion=suite.motion)
    data, horizon = load_episodes(recording), suite.plan.horizon
    model = model_config_for(data, "small", recipe.model)
    config = from_dict(TrainConfig, {"seed": seed, **recipe.train}, TRAIN_SIZES["small"])
    bundle = train(data, folder / "bundle", folder / "run", model, config, recipe.suite)
    recordings, frames = [data], sample_frames(data, model)
    for number in range(1, recipe.rounds + 1):
        export_onnx(bundle, horizon, frames)  # on a CPU the policy plans twice as fast with it
        mistakes = folder / f"mistakes{number}.h5"
        if not mistakes.is_file():
            assert suite.led is not None, "rounds are of suites whose scripted policy takes over from a model's own"
            led, number_seed = suite.led(bundle.folder), 1000 * number + seed
            collect(mistakes, recipe.corrections, recipe.steps, number_seed, world, motion=led, vary=recipe.vary)
        recordings.append(load_episodes(mistakes))
        bundle = retrain_policy_heads(bundle, recordings, config)
    return export_onnx(calibrate(bundle, load_episodes(as_it_is)), horizon, frames)


def run(recipe: Recipe, out: Path, seed: int, goals: int) -> None:
    """Makes the model in `out`/seed<N> and tries it on `goals` of each kind of its tasks, beside what needs no model.

    Writes `out`/summary.json: figures of this seed beside those that other seeds left there.
    """
    began, folder = time.monotonic(), out / f"seed{seed}"
    fresh = not folder.exists()  # only a run from nothing may say how long that takes
    bundle = make(recipe, folder, seed)
    wall_s = time.monotonic() - began
    how = f"from nothing to a bundle in {wall_s / 60:.1f} min" if fresh else "resumed"
    console, name = Console(), recipe.name.replace("-", "_")
    console.print(f"seed {seed}: {how}, {folder / 'bundle'}")
    figures: Figures = {f"{name}.wall_s": (wall_s, "s")} if fresh else {}
    suite, runtime = suite_named(recipe.suite), load_runtime(bundle)
    for tried in try_suite(suite, runtime, goals, TASK_SEED):
        console.print(tried.table)
        kind = "" if tried.task is suite.tasks[-1] else f"_{tried.task.name}"
        for who, rate in tried.held.items():
            ending = kind + ("" if who == "model" else f"_{who}")
            figures[f"{name}.success_held{ending}_seed{seed}"] = (rate.percent, "%")
    write_figures(out / "summary.json", figures, f"make {recipe.name} SEED={seed} GOALS={goals}", keep=True)
