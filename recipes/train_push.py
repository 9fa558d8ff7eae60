"""The push model from nothing: record play, train, export, then count how often the block comes to its goal with it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lewm_model.config import MODEL_SIZES, PLAY_PLAN, TRAIN_SIZES, ModelConfig, TrainConfig, from_dict
from lewm_model.data.clips import load_episodes
from lewm_model.evaluation.figures import write_figures
from lewm_model.evaluation.simulated import try_suite
from lewm_model.runtime import load_runtime
from lewm_model.runtime.export import export_onnx, sample_frames
from lewm_model.sim.collect import collect
from lewm_model.tasks.registry import SUITES
from lewm_model.training.calibration import calibrate
from lewm_model.training.heads import retrain_play_heads
from lewm_model.training.trainer import train

EPISODES, STEPS = 1600, 240
ROUNDS, MISTAKES = 3, 800  # of recording episodes that begin where the robot got to with the policy of the round before
TASK_SEED = 1  # the goals are the same for every training seed
MODEL: dict[str, Any] = {"latent_dim": 32, "readout": "all", "picture_norm": "fixed"}
# Clips of alike poses: with random ones the arm fills the latent, and the block is not in it at all.
TRAIN: dict[str, Any] = {"steps": 12000, "clips_per_pose": 4, "head_steps": 0, "policy_steps": 6000}
TRAIN["augment"] = {"share": 0.0}  # not tried yet: a rectangle that covers something may pass for the object


def train_push(out: Path, seed: int, goals: int) -> None:
    """Records, trains and exports into `out`/seed<N>, and evaluates it there."""
    began = time.monotonic()
    folder = out / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    recording = folder / "episodes.h5"
    if not recording.is_file():
        collect(recording, EPISODES, STEPS, seed, play=True)
    model = from_dict(ModelConfig, MODEL, MODEL_SIZES["small"])
    config = from_dict(TrainConfig, {"seed": seed, **TRAIN}, TRAIN_SIZES["small"])
    data = load_episodes(recording)
    bundle = train(data, folder / "bundle", folder / "run", model, config)
    play, frames = [data], sample_frames(data, model)
    for number in range(1, ROUNDS + 1):
        export_onnx(bundle, PLAY_PLAN.horizon, frames)  # on a CPU the robot plans twice as fast with it
        mistakes = folder / f"mistakes{number}.h5"
        if not mistakes.is_file():
            collect(mistakes, MISTAKES, STEPS, 1000 * number + seed, play=True, policy=bundle.folder)
        play.append(load_episodes(mistakes))
        bundle = retrain_play_heads(bundle, play, config)
    bundle = calibrate(bundle, data)
    bundle = export_onnx(bundle, PLAY_PLAN.horizon, frames)
    print(f"bundle in {folder / 'bundle'} after {(time.monotonic() - began) / 60:.1f} min")
    for tried in try_suite(SUITES["push"], load_runtime(bundle), goals, TASK_SEED):
        Console().print(tried.table)
        write_figures(folder / "summary.json", tried.figures, f"make train-push SEED={seed} GOALS={goals}")


def main(
    seed: Annotated[int, typer.Option(help="of recording and training")] = 0,
    goals: Annotated[int, typer.Option(help="goals to try the model on")] = 200,
    out: Annotated[Path, typer.Option(help="folder for recording, bundle and summary.json")] = Path("out/train-push"),
) -> None:
    """Record play, train and export the push model from nothing, and try it on the simulated arm."""
    train_push(out, seed, goals)


if __name__ == "__main__":
    typer.run(main)
