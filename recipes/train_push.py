# SPDX-License-Identifier: Apache-2.0
"""The push model from nothing: a scripted policy that pushes is recorded, and the model learns to. `make train-push`"""

from __future__ import annotations

from dataclasses import replace
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
        "clips_per_pose": 4,  # clips of alike poses: with random ones the arm fills the latent, without the object
        "head_steps": 0,
        "policy_steps": 6000,
        "augment": {"share": 0.0},
    },
)
# In any light; nobody has trained it yet. A rectangle that covers something may pass for the object, so none does.
VARIED = replace(
    RECIPE,
    vary=True,
    model={**RECIPE.model, "picture_norm": "own"},
    train={**RECIPE.train, "augment": {"share": 0.75, "covered_share": 0.0}},
)


def main(
    seed: Annotated[int, typer.Option(help="of recording and training")] = 0,
    goals: Annotated[int, typer.Option(help="goals to try the model on")] = 200,
    vary: Annotated[bool, typer.Option("--vary", help="scenes vary, and pictures are changed; not tried yet")] = False,
    out: Annotated[Path, typer.Option(help="folder for recording, bundle and summary.json")] = Path("out/train-push"),
) -> None:
    """Record a scripted policy, train and export the push model from nothing, and try it on the simulated arm."""
    run(VARIED if vary else RECIPE, out, seed, goals)


if __name__ == "__main__":
    typer.run(main)
