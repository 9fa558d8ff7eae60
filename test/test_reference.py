# SPDX-License-Identifier: Apache-2.0
"""Ours beside the authors' code with the same weights: the same numbers, and every name has its counterpart."""

import sys

import numpy as np
import pytest
import torch
from tiny import tiny_model

from benchmarks import reference
from lewm_model.bundle.interchange import InterchangeError, from_reference, to_reference
from lewm_model.config import ModelConfig
from lewm_model.models.lewm import LeWM

PATCHES = {
    "picture_norm": "fixed",
    "stem": "patch",
    "patch_size": 8,
    "activation": "gelu",
    "history": 3,
    "encoder_depth": 2,
}


def patches(**changes: object) -> ModelConfig:
    return tiny_model(**{**PATCHES, **changes})


def test_the_reference_code_loads_without_torchvision_and_is_left_as_it_is() -> None:
    assert reference.module("wm.lewm.lewm").LeWM.__module__ == "stable_worldmodel.wm.lewm.lewm"
    assert "torchvision" not in sys.modules


def test_every_parameter_of_the_reference_has_its_place_here_and_goes_back_unchanged() -> None:
    config = patches()
    theirs = {name: torch.randn(value.shape) for name, value in reference.network(config).state_dict().items()}
    ours = from_reference(theirs, config)
    LeWM(config).load_state_dict(ours)
    again = to_reference(ours, config)
    assert again.keys() == theirs.keys()
    assert all(torch.equal(again[name], value) for name, value in theirs.items())


def test_a_model_that_the_reference_does_not_have_is_refused_with_the_reason() -> None:
    for changes, message in (({"stem": "conv"}, "the stem is 'conv'"), ({"activation": "relu"}, "is 'relu'")):
        config = patches(**changes)
        with pytest.raises(InterchangeError, match=message):
            reference.network(config)


def test_the_reference_plans_with_our_weights() -> None:
    torch.manual_seed(0)
    model = LeWM(patches()).eval()
    theirs = reference.counterpart(model)
    images = reference.pixels(model, np.random.default_rng(0).integers(0, 256, (1, 2, 32, 32, 3), np.uint8))
    solver = reference.solver(theirs, 2, 5, horizon=4, samples=16, elites=4, iterations=2, seed=0)
    plan = solver.solve({"pixels": images[:, :1], "goal": images[:, 1:], "action": torch.zeros(1, 1, 10)})
    assert plan["actions"].shape == (1, 4, 10) and torch.isfinite(plan["actions"]).all()


def test_where_it_is_missing_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "PACKAGE", "stable_worldmodel_that_nobody_installed")
    with pytest.raises(reference.ReferenceMissing, match="make setup"):
        reference.module("wm.loss")
