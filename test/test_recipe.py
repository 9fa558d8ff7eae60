# SPDX-License-Identifier: Apache-2.0
"""The steps of the recipes, each with a few episodes and optimiser steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lewm_model.data.clips import load_episodes
from lewm_model.runtime import load_runtime
from recipes.recipe import make
from recipes.train_push import RECIPE


def test_the_push_recipe_distils_its_encoder_and_corrects_its_policy_in_random_looks(tmp_path: Path) -> None:
    few = {"steps": 2, "policy_steps": 2, "batch": 8, "threads": 1}
    recipe = replace(
        RECIPE,
        episodes=4,
        steps=60,
        rounds=1,
        corrections=2,
        distilled=3,
        calibration_episodes=12,
        model={**RECIPE.model, "encoder_depth": 1, "predictor_depth": 1},  # graphs of which are written in less time
        train={**RECIPE.train, **few},
        distil={**RECIPE.distil, "steps": 2, "batch": 8, "threads": 1},
    )
    bundle = make(recipe, tmp_path, seed=3)
    assert bundle.model.picture_norm == "own" and bundle.calibration is not None and bundle.task == "push"
    assert load_runtime(bundle).bundle.heads == ("policy", "temporal_distance")
    looks = {name: load_episodes(tmp_path / name).recorded["looks"] for name in ("episodes.h5", "corrections1.h5")}
    assert looks == {"episodes.h5": "as the world has it", "corrections1.h5": "drawn for every frame"}
    learned_from = {Path(entry["path"]).name for entry in bundle.training["data"]}
    assert learned_from == {"episodes.h5", "varied.h5", "corrections1.h5"}
