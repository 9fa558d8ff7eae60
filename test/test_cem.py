# SPDX-License-Identifier: Apache-2.0
"""The exact planner takes the same elites to the same mean as the authors' own, fed with the same noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_model import awake
from test_reference import patches
from test_rollout import lived
from tiny import tiny_model

from benchmarks import reference
from lewm_model.models.lewm import LeWM
from lewm_model.models.objective import final, squared_latent_distance
from lewm_model.models.rollout import FastRollout
from lewm_model.planning.solvers import reference_cem


@pytest.mark.parametrize("network", ["the paper's", "convolutions and ReLU", "colours scaled by each picture"])
@torch.inference_mode()
def test_the_same_noise_gives_the_plan_of_the_reference(network: str) -> None:
    torch.manual_seed(0)
    expressible, norm = network == "the paper's", "own" if "colours" in network else "fixed"
    model: LeWM = lived(awake(patches() if expressible else tiny_model(history=3, picture_norm=norm)))
    theirs = reference.counterpart(model) if expressible else reference.planning_counterpart(model)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    solver = reference.solver(theirs, 2, 5, horizon=5, samples=40, elites=6, iterations=8, seed=3)
    pixels = reference.pixels(model, images[None])
    wanted = solver.solve({"pixels": pixels[:, :1], "goal": pixels[:, 1:], "action": torch.zeros(1, 1, 10)})["actions"]
    latents = model.encode(torch.from_numpy(images))
    rollout, generator = FastRollout(model), torch.Generator().manual_seed(3)
    found = reference_cem(
        lambda candidates: final(
            squared_latent_distance(
                rollout(latents[:1], None, torch.from_numpy(candidates)).numpy(), latents[1].numpy()
            )
        ),
        lambda: torch.randn(40, 5, 10, generator=generator).numpy(),
        elites=6,
        iterations=8,
    )
    np.testing.assert_allclose(found, wanted[0].numpy(), atol=1e-4)
    assert np.abs(found).max() > 0.1
