# SPDX-License-Identifier: Apache-2.0
"""`make train-demo`: the demo's model from scratch, trained on random motion to reach goal pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lewm_model.training.trainer import quickest_precision
from recipes.recipe import Recipe, run

# More steps than the size `small` has, since frames with random looks take longer to learn from.
RECIPE = Recipe("train-demo", suite="reach", episodes=400, steps=100, train={"steps": 7000})


def main(
    seed: Annotated[int, typer.Option(help="of recording and training")] = 0,
    goals: Annotated[int, typer.Option(help="goals of each kind to evaluate the model on")] = 100,
    threads: Annotated[int, typer.Option(help="CPU threads of the training; fewer on a shared machine")] = 2,
    out: Annotated[Path, typer.Option(help="folder for recording, bundle and summary.json")] = Path("out/train-demo"),
) -> None:
    """Record, train and export the demo's model from scratch, and evaluate it on the simulated arm."""
    train = {**RECIPE.train, "threads": threads, "precision": quickest_precision()}
    run(replace(RECIPE, train=train), out, seed, goals)


if __name__ == "__main__":
    typer.run(main)
