# SPDX-License-Identifier: Apache-2.0
"""`make train-push`: the push model from scratch, trained on recordings of a scripted policy that pushes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recipes.recipe import Recipe, run

RECIPE = Recipe(
    "train-push",
    suite="push",
    episodes=1600,
    steps=240,
    rounds=3,
    corrections=800,
    vary=False,
    model={"latent_dim": 32, "readout": "all", "picture_norm": "fixed"},
    train={
        "steps": 12000,
        "clips_per_pose": 4,  # with clips of random poses the latent encodes the arm alone and not the object
        "head_steps": 0,
        "policy_steps": 6000,
        "augment": {"share": 0.0},
    },
    # Any light is learned after the world model, by its encoder alone: batches of alike poses, which make the latent
    # hold the object, would be learned with random looks in several times as many steps. Policy and corrections follow
    # in random looks. No covering rectangles: they could be taken for the object.
    distilled=1600,
    distil={"steps": 16000, "batch": 256, "learning_rate": 1e-3, "augment": {"share": 0.75, "covered_share": 0.0}},
)


def main(
    seed: Annotated[int, typer.Option(help="of recording and training")] = 0,
    goals: Annotated[int, typer.Option(help="goals to evaluate the model on")] = 200,
    out: Annotated[Path, typer.Option(help="folder for recording, bundle and summary.json")] = Path("out/train-push"),
) -> None:
    """Record a scripted policy, train and export the push model from scratch, and evaluate it on the simulated arm."""
    run(RECIPE, out, seed, goals)


if __name__ == "__main__":
    typer.run(main)
