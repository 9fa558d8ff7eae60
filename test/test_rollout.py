# SPDX-License-Identifier: Apache-2.0
"""The fast rollout imagines what the model's own rollout imagines."""

from __future__ import annotations

import pytest
import torch
from test_model import awake
from tiny import tiny_model

from lewm_model.models.lewm import LeWM
from lewm_model.models.rollout import FastRollout


def lived(model: LeWM) -> LeWM:
    """With norms and BatchNorm statistics that are not those of a fresh model, so that what is folded shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    return model


@pytest.mark.parametrize("width", [32, 8], ids=["projected", "as wide as the latents"])
@pytest.mark.parametrize(
    ("history", "frames", "horizon"), [(1, 1, 5), (2, 1, 4), (3, 1, 5), (3, 2, 5), (3, 3, 5), (3, 3, 1)]
)
def test_it_equals_the_rollout_of_the_model(width: int, history: int, frames: int, horizon: int) -> None:
    model = lived(awake(tiny_model(history=history, predictor_width=width, predictor_depth=2, predictor_heads=4)))
    context, past, candidates = torch.randn(frames, 8), torch.randn(frames - 1, 10), torch.randn(6, horizon, 10)
    wanted = model.rollout(context.expand(6, -1, -1), past.expand(6, -1, -1), candidates)
    fast = FastRollout(model)
    found = fast(context, past if frames > 1 else None, candidates)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    contexts, pasts = torch.randn(frames, 6, 8), torch.randn(frames - 1, 6, 10)  # each candidate has its own
    wanted = model.rollout(contexts.transpose(0, 1), pasts.transpose(0, 1), candidates)
    found = fast(contexts, pasts if frames > 1 else None, candidates)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_it_does_not_change_the_model() -> None:
    model = awake(tiny_model(history=3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    FastRollout(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
