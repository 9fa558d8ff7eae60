# SPDX-License-Identifier: Apache-2.0
"""A model of any arm that has a robot file and a scene, from nothing, on random motion. `make train-arm ROBOT=so101`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recipes.recipe import Recipe, run

# Poses of five joints are many: of 800 episodes a model knows its own four times as well as others.
EPISODES = 3200
# A Gaussian latent of few numbers is filled by products of what the first joints do, which move many pixels. With more
# the wrist, which moves few, comes in: 0.69 of its way is seen after 500 steps with 128, 0.44 after 4,000 with 32.
MODEL = {"latent_dim": 128, "readout": "all", "encoder_depth": 2}
TRAIN = {"steps": 10_000, "head_steps": 5000, "augment": {"share": 0.0}}


def main(
    robot: Annotated[str, typer.Option(help="its scene is ROBOT_TASK, or ROBOT, of config/scenes")] = "so101",
    task: Annotated[str, typer.Option(help="reach")] = "reach",
    seed: Annotated[int, typer.Option(help="of recording and training")] = 0,
    goals: Annotated[int, typer.Option(help="goals of each kind to try the model on")] = 100,
    threads: Annotated[int, typer.Option(help="CPU threads of the training")] = 2,
    out: Annotated[Path | None, typer.Option(help="default is out/train-arm/ROBOT-TASK")] = None,
) -> None:
    """Record, train and export the model of an arm from nothing, and try it on the simulated arm."""
    train = {**TRAIN, "threads": threads}
    recipe = Recipe("train-arm", f"{task}_{robot}", EPISODES, steps=100, vary=False, model=MODEL, train=train)
    run(recipe, out or Path("out", "train-arm", f"{robot}-{task}"), seed, goals)


if __name__ == "__main__":
    typer.run(main)
