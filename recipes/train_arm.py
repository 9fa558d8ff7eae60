# SPDX-License-Identifier: Apache-2.0
"""`make train-arm ROBOT=so101`: a model from scratch, on random motion, for any arm with a robot file and a scene."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recipes.recipe import Recipe, run

# Five joints have many poses: a model of 800 episodes predicts these four times as well as held-out ones.
EPISODES = 3200
# A small latent, which SIGReg makes Gaussian, is used up by nonlinear functions of the first joints, which move many
# pixels. A larger one also encodes the wrist, which moves few: the displacement embedding captures a share of 0.69 of
# its motion after 500 steps with 128 numbers, and 0.44 after 4,000 steps with 32.
MODEL = {"latent_dim": 128, "readout": "all", "encoder_depth": 2}
TRAIN = {"steps": 10_000, "head_steps": 5000, "augment": {"share": 0.0}}


def main(
    robot: Annotated[str, typer.Option(help="its scene is ROBOT_TASK, or else ROBOT, in config/scenes")] = "so101",
    task: Annotated[str, typer.Option(help="reach")] = "reach",
    seed: Annotated[int, typer.Option(help="of recording and training")] = 0,
    goals: Annotated[int, typer.Option(help="goals of each kind to evaluate the model on")] = 100,
    threads: Annotated[int, typer.Option(help="CPU threads of the training")] = 2,
    out: Annotated[Path | None, typer.Option(help="default is out/train-arm/ROBOT-TASK")] = None,
) -> None:
    """Record, train and export the model of an arm from scratch, and evaluate it on the simulated arm."""
    train = {**TRAIN, "threads": threads}
    recipe = Recipe("train-arm", f"{task}_{robot}", EPISODES, steps=100, vary=False, model=MODEL, train=train)
    run(recipe, out or Path("out", "train-arm", f"{robot}-{task}"), seed, goals)


if __name__ == "__main__":
    typer.run(main)
