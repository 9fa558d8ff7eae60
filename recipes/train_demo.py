"""The demo's model from nothing: record, train, export, then count how often the arm reaches goals with it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from lewm_model.config import MODEL_SIZES, TRAIN_SIZES, ModelConfig, PlanConfig, TrainConfig, from_dict
from lewm_model.data.clips import load_episodes
from lewm_model.evaluation.figures import Figures, write_figures
from lewm_model.evaluation.statistics import first_hit, held
from lewm_model.runtime import load_runtime
from lewm_model.runtime.export import export_onnx, sample_frames
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.collect import collect
from lewm_model.tasks.reach import ANYWHERE, NEAR
from lewm_model.tasks.task import attempt_all, draw_trials
from lewm_model.training.calibration import calibrate
from lewm_model.training.trainer import train

EPISODES, STEPS = 400, 100
TASK_SEED = 1  # the tasks are the same for every training seed


def train_demo(out: Path, seed: int, goals: int) -> None:
    """Records, trains and exports into `out`/seed<N>, timed; then reaches `goals` near and as many goals anywhere.

    Writes `out`/summary.json: figures of this seed beside those that other seeds left there.
    """
    began = time.monotonic()
    folder = out / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    recording = folder / "episodes.h5"
    fresh = not recording.is_file()  # only a run from nothing may say how long that takes
    if fresh:
        collect(recording, EPISODES, STEPS, seed)
    model = from_dict(ModelConfig, {}, MODEL_SIZES["small"])
    config = from_dict(TrainConfig, {"seed": seed}, TRAIN_SIZES["small"])
    data = load_episodes(recording)
    bundle = calibrate(train(data, folder / "bundle", folder / "run", model, config), data)
    bundle = export_onnx(bundle, frames=sample_frames(data, model))
    wall_s = time.monotonic() - began

    command = f"make train-demo SEED={seed} GOALS={goals}"
    figures: Figures = {"train_demo.wall_s": (wall_s, "s")} if fresh else {}
    how = f"from nothing to a bundle in {wall_s / 60:.1f} min" if fresh else "resumed"
    table = Table(title=f"seed {seed}: {how}; closed loop without ROS")
    for heading in ("task", "goals", "held at the end (95 %)", "first hit"):
        table.add_column(heading)
    with ArmSim() as sim:
        runtime = load_runtime(bundle)
        for task, name in ((NEAR, "success_held_near"), (ANYWHERE, "success_held")):
            trials = draw_trials(task, goals, TASK_SEED, sim)
            outcomes = [result.outcome for result in attempt_all(trials, sim, runtime, PlanConfig(), seed)]
            figures[f"train_demo.{name}_seed{seed}"] = (held(outcomes).percent, "%")
            table.add_row(task.name, str(goals), str(held(outcomes)), str(first_hit(outcomes)))
    Console().print(table)
    write_figures(out / "summary.json", figures, command, keep=True)


def main(
    seed: Annotated[int, typer.Option(help="of recording and training")] = 0,
    goals: Annotated[int, typer.Option(help="goals of each kind to try the model on")] = 100,
    out: Annotated[Path, typer.Option(help="folder for recording, bundle and summary.json")] = Path("out/train-demo"),
) -> None:
    """Record, train and export the demo's model from nothing, and try it on the simulated arm."""
    train_demo(out, seed, goals)


if __name__ == "__main__":
    typer.run(main)
