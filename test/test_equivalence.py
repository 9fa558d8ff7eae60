# SPDX-License-Identifier: Apache-2.0
"""`make equivalence`, short: our network beside the authors' with the same weights, and two processes beside one."""

import pytest
import torch

from benchmarks import equivalence
from lewm_model.config import ModelConfig, from_dict

SIZES = {**equivalence.SMALL, "image_size": 28, "encoder_depth": 2, "predictor_depth": 2, "dropout": 0.0}
CONFIG = from_dict(ModelConfig, SIZES)


def test_latents_and_rollouts_beyond_the_window_are_the_references() -> None:
    found = equivalence.encode_and_rollout(CONFIG)
    assert found["encode"] <= 1e-5 and found["rollout"] <= 1e-5


@pytest.mark.parametrize("training", [False, True])
def test_loss_and_every_gradient_are_the_references(training: bool) -> None:
    found = equivalence.loss_and_gradients(CONFIG, clips=6, training=training)
    assert found["loss"] <= 1e-5 and found["grad"] <= 1e-5
    assert found["greatest"] > 1e-3, "the gradients vanish, so that nothing is compared"


def test_two_processes_have_the_loss_and_gradients_of_one_with_the_whole_batch() -> None:
    found = equivalence.two_ranks(CONFIG, clips=6)
    assert found["ddp_loss"] <= 1e-6 and found["ddp_grad"] <= 1e-6


def test_an_encoder_that_sees_a_batch_in_parts_gives_the_same_gradients() -> None:
    model = equivalence.random_model(CONFIG).train()
    frames, _ = equivalence.batch(CONFIG, 6, 4, seed=0)
    gradients = []
    for parts in (1, 3):
        model.zero_grad()
        latents = model.encode(frames, parts)
        (latents * torch.linspace(-1, 1, latents.numel()).view_as(latents)).mean().backward()
        gradients.append([p.grad.clone() for p in model.encoder.parameters()])
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-6)
