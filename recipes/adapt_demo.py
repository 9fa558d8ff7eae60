# SPDX-License-Identifier: Apache-2.0
"""`make adapt-demo`: the shipped model, models adapted to another scene with five minutes of it, and one trained on
these alone, each evaluated in the old scene and in the new one.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from lewm_model.bundle.bundle import Bundle, load_bundle
from lewm_model.config import RECORDED_SIDE, TRAIN_SIZES, PlanConfig, TrainConfig, from_dict, resource
from lewm_model.data.clips import load_episodes
from lewm_model.data.episodes import EpisodeWriter
from lewm_model.evaluation.figures import Figures, write_figures
from lewm_model.evaluation.statistics import Rate, held
from lewm_model.robot.observation import Observation
from lewm_model.runtime import load_runtime
from lewm_model.runtime.export import export_onnx, sample_frames
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.collect import collect, record_episode
from lewm_model.sim.looks import Look, Texture, table_of, wear
from lewm_model.sim.random_motion import RandomMotion
from lewm_model.tasks.reach import ANYWHERE, NEAR
from lewm_model.tasks.task import attempt, draw_trials
from lewm_model.training.adapt import adapt
from lewm_model.training.calibration import calibrate
from lewm_model.training.trainer import model_config_for, train

EPISODES, STEPS = 60, 100  # five minutes at 20 Hz
SEED, TASK_SEED = 2_000_000, 1
SIGHT = Observation.of_one((RECORDED_SIDE, RECORDED_SIDE))


def new_scene(sim: ArmSim) -> Look:
    """A wooden table in the light of one lamp, and a slightly moved camera."""
    return Look(
        ambient=np.array([0.35, 0.33, 0.30]),
        lamps=((np.array([0.6, 0.3, -0.74]), np.array([0.7, 0.65, 0.55])),),
        colours=dict.fromkeys(table_of(sim), np.array([0.72, 0.53, 0.34])),
        shift=(0.08, -0.06),
        turn_rad=math.radians(8.0),
        zoom=0.08,
        texture=Texture(0.15, (8.0, 60.0), (3.0, 5.0), squares=False),
    )


def record(path: Path) -> None:
    """Records random motion in the new scene."""
    with ArmSim() as sim, EpisodeWriter(path, SIGHT.size, sim.names, sim.control_dt_s, "joint_velocity", {}) as writer:
        look = new_scene(sim)
        wear(sim, lambda: look)
        for episode in range(EPISODES):
            writer.append(*record_episode(sim, RandomMotion(), SEED, episode, STEPS, SIGHT))


def tried(bundle: Bundle, new: bool, goals: int) -> Rate:
    """Goals that a bundle holds in the new or the old scene; half of them near, half anywhere."""
    runtime, config = load_runtime(bundle), PlanConfig()
    with ArmSim() as sim:
        look = new_scene(sim) if new else Look()
        wear(sim, lambda: look)
        near = goals // 2
        trials = draw_trials(NEAR, near, TASK_SEED, sim) + draw_trials(ANYWHERE, goals - near, TASK_SEED, sim)
        return held([attempt(t, sim, runtime, config, number).outcome for number, t in enumerate(trials)])


def main(
    goals: Annotated[int, typer.Option(help="in each scene, half of them near, half anywhere")] = 50,
    threads: Annotated[int, typer.Option(help="CPU threads of the training")] = 2,
    out: Annotated[Path, typer.Option(help="folder for recordings, bundles and summary.json")] = Path("out/adapt-demo"),
) -> None:
    """Record another scene, adapt the shipped model to it with and without replay, and train one from nothing."""
    out.mkdir(parents=True, exist_ok=True)
    shipped, console = load_bundle(resource("models", "reach")), Console()
    old_path, new_path = out / "old.h5", out / "new.h5"
    if not old_path.is_file():
        collect(old_path, EPISODES, STEPS, SEED + 1, vary=True)
    if not new_path.is_file():
        record(new_path)
    old, new = load_episodes(old_path), load_episodes(new_path)

    def from_nothing() -> Bundle:
        config = from_dict(TrainConfig, {"threads": threads}, TRAIN_SIZES["small"])
        bundle = train(new, out / "scratch", out / "run-scratch", model_config_for(new, "small", {}), config, "reach")
        return export_onnx(calibrate(bundle, new), frames=sample_frames(new, bundle.model))

    ways = {
        "shipped": lambda: shipped,
        "adapted": lambda: adapt(shipped, new, out / "adapted", out / "run-adapted", old),
        "adapted_without_replay": lambda: adapt(shipped, new, out / "careless", out / "run-careless"),
        "from_nothing": from_nothing,
    }
    figures: Figures = {}
    for name, make in ways.items():
        began = time.monotonic()
        bundle = make()
        figures[f"adapt.{name}_wall_s"] = (time.monotonic() - began, "s")
        for scene in ("old", "new"):
            rate = tried(bundle, scene == "new", goals)
            low, high = rate.interval
            values = {"": rate.percent, "_low": low, "_high": high}
            figures |= {f"adapt.{name}_{scene}{end}": (value, f"% of {goals} held") for end, value in values.items()}
            console.print(f"{name.replace('_', ' ')}, {scene} scene: {rate} held", highlight=False)
        write_figures(out / "summary.json", figures, f"make adapt-demo GOALS={goals}")


if __name__ == "__main__":
    typer.run(main)
