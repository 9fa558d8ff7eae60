# SPDX-License-Identifier: Apache-2.0
"""The steps of all recipes: record, train, calibrate, export, and evaluate the model in its tasks."""

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
from lewm_model.training.distil import distil
from lewm_model.training.heads import retrain_policy_heads
from lewm_model.training.trainer import model_config_for, train

CALIBRATION_SEED = 10**6  # added to the recipe's seed for the recording that is only calibrated with
TASK_SEED = 1  # of starts and goals, the same for every seed of the training


@dataclass(frozen=True)
class Recipe:
    """The settings with which a model is made."""

    name: str  # of the make target and, with _ for -, of the figures
    suite: str  # name of its tasks in lewm_model.tasks.registry
    episodes: int  # to train on
    steps: int  # control steps of an episode
    rounds: int = 0  # of corrections: recordings in which the scripted policy continues what the model's policy began
    corrections: int = 0  # episodes in such a round
    vary: bool = True  # whether every frame to train on has a random look (lewm_model.sim.looks)
    # Episodes, from the first on, that are recorded once more in random looks, to distil the encoder of a model that
    # was trained in the scene's own look (lewm_model.training.distil).
    distilled: int = 0
    calibration_episodes: int = 400  # with the scene's own look, to calibrate with; with 100 a rare pose looks new
    model: dict[str, Any] = field(default_factory=dict)  # values of ModelConfig that differ from the size `small`
    train: dict[str, Any] = field(default_factory=dict)  # values of TrainConfig that differ from the size `small`
    distil: dict[str, Any] = field(default_factory=dict)  # the same of the distillation


def make(recipe: Recipe, folder: Path, seed: int) -> Bundle:
    """Records, trains, calibrates and exports into `folder`; continues what an interrupted call left there."""
    folder.mkdir(parents=True, exist_ok=True)
    suite = suite_named(recipe.suite)
    world = suite.world_file
    recording = folder / "episodes.h5"
    if not recording.is_file():
        collect(recording, recipe.episodes, recipe.steps, seed, world, motion=suite.motion, vary=recipe.vary)
    calibration = folder / "calibration.h5"
    if not calibration.is_file():
        own_seed = CALIBRATION_SEED + seed
        collect(calibration, recipe.calibration_episodes, recipe.steps, own_seed, world, motion=suite.motion)
    data, horizon = load_episodes(recording), suite.plan.horizon
    model = model_config_for(data, "small", recipe.model)
    config = from_dict(TrainConfig, {"seed": seed, **recipe.train}, TRAIN_SIZES["small"])
    bundle = train(data, folder / "bundle", folder / "run", model, config, recipe.suite)
    recordings, frames, usual = [data], sample_frames(data, model), load_episodes(calibration)
    if recipe.distilled:
        varied = folder / "varied.h5"
        if not varied.is_file():
            collect(varied, recipe.distilled, recipe.steps, seed, world, motion=suite.motion, vary=True)
        recordings.append(load_episodes(varied))
        settings = from_dict(TrainConfig, {"seed": seed, **recipe.distil}, TRAIN_SIZES["small"])
        bundle = distil(bundle, data.first(recipe.distilled), recordings[1], usual, bundle.folder, settings)
        bundle = retrain_policy_heads(bundle, recordings, config)
    for number in range(1, recipe.rounds + 1):
        bundle = export_onnx(bundle, horizon, frames)  # with which a CPU plans twice as fast as with PyTorch
        corrections = folder / f"corrections{number}.h5"
        if not corrections.is_file():
            assert suite.led is not None, "rounds need a scripted policy that continues the motion of a model's policy"
            led, number_seed, vary = suite.led(bundle.folder), 1000 * number + seed, recipe.vary or recipe.distilled > 0
            collect(corrections, recipe.corrections, recipe.steps, number_seed, world, motion=led, vary=vary)
        recordings.append(load_episodes(corrections))
        bundle = retrain_policy_heads(bundle, recordings, config)
    return export_onnx(calibrate(bundle, usual), horizon, frames)


def run(recipe: Recipe, out: Path, seed: int, goals: int) -> None:
    """Makes the model in `out`/seed<N> and evaluates it on `goals` of each task, beside policies without a model.

    Writes `out`/summary.json: the figures of this seed, beside those of other seeds that are there.
    """
    began, folder = time.monotonic(), out / f"seed{seed}"
    fresh = not folder.exists()  # the time of a resumed run is not that of the whole recipe
    bundle = make(recipe, folder, seed)
    wall_s = time.monotonic() - began
    how = f"from scratch to a bundle in {wall_s / 60:.1f} min" if fresh else "resumed"
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
