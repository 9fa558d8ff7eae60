# SPDX-License-Identifier: Apache-2.0
"""The network is LeWM: its size, its causality, its rollout, its regulariser."""

import math

import numpy as np
import pytest
import torch
from tiny import tiny_model

from lewm_model.config import ConfigError, ModelConfig, from_dict
from lewm_model.models.lewm import LeWM, prediction_loss
from lewm_model.models.sigreg import SIGReg


def test_the_reference_size_has_the_parameters_of_the_paper() -> None:
    model = LeWM(ModelConfig())
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert counts == {
        "encoder": 5_501_376,
        "projector": 792_768,
        "action_encoder": 156_206,
        "predictor": 10_791_360,
        "pred_proj": 792_768,
    }
    assert sum(p.numel() for p in model.parameters()) == 18_034_478


def awake(config: ModelConfig) -> LeWM:
    """A model in eval mode, with random weights also in the modulations that start from zero."""
    torch.manual_seed(0)
    model = LeWM(config).eval()
    with torch.no_grad():
        for layer in model.predictor.transformer.layers:
            layer.adaLN_modulation[1].weight.normal_(std=0.1)
            layer.adaLN_modulation[1].bias.normal_(std=0.1)
    return model


def test_a_prediction_sees_no_later_frame_or_action() -> None:
    model = awake(tiny_model(history=3))
    latents, actions = torch.randn(2, 3, 8), torch.randn(2, 3, 10)
    before = model.predict(latents, actions)
    latents[:, 2] += 1
    actions[:, 2] -= 1
    after = model.predict(latents, actions)
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert (before[:, 2] - after[:, 2]).abs().max() > 1e-3


@pytest.mark.parametrize("history", [1, 3])
def test_a_rollout_is_repeated_prediction_with_a_sliding_window(history: int) -> None:
    model = awake(tiny_model(history=history))
    context, past, candidates = torch.randn(4, history, 8), torch.randn(4, history - 1, 10), torch.randn(4, 5, 10)
    found = model.rollout(context, past, candidates)
    latents, actions = [*context.unbind(1)], torch.cat([past, candidates], 1)
    for step in range(5):
        end = history + step
        window = torch.stack(latents[end - history : end], 1)
        latents.append(model.predict(window, actions[:, end - history : end])[:, -1])
    torch.testing.assert_close(found, torch.stack(latents[history:], 1))


def test_a_rollout_may_start_with_fewer_frames_than_the_history() -> None:
    model = awake(tiny_model(history=3))
    found = model.rollout(torch.randn(2, 1, 8), torch.randn(2, 0, 10), torch.randn(2, 4, 10))
    assert found.shape == (2, 4, 8) and torch.isfinite(found).all()


def test_the_target_of_the_prediction_keeps_its_gradient() -> None:
    model = awake(tiny_model())
    latents = torch.randn(3, 2, 8, requires_grad=True)
    prediction_loss(model, latents, torch.randn(3, 1, 10)).backward()
    assert latents.grad is not None and (latents.grad[:, 1].abs() > 0).all()


def test_read_from_all_tokens_a_latent_has_no_cls_token_and_sees_every_patch() -> None:
    model = LeWM(tiny_model(readout="all")).eval()
    assert "encoder.cls_token" not in model.state_dict()
    frames = torch.zeros(5, 32, 32, 3, dtype=torch.uint8)
    for i, (row, column) in enumerate(((0, 0), (0, 16), (16, 0), (16, 16))):
        frames[i, row : row + 16, column : column + 16] = 255
    features = model.describe(frames)
    assert features.shape == (5, 4 * 32)
    assert torch.pdist(model.encode(frames)).min() > 1e-4


def test_a_clip_that_does_not_fit_the_history_is_refused() -> None:
    with pytest.raises(ValueError, match="not a multiple of history"):
        prediction_loss(awake(tiny_model(history=3)), torch.randn(1, 3, 8), torch.randn(1, 2, 10))


def test_sigreg_is_the_weighted_distance_of_characteristic_functions() -> None:
    rng = np.random.default_rng(0)
    latents, directions = rng.normal(size=(2, 50, 3)), rng.normal(size=(3, 7))
    unit = directions / np.linalg.norm(directions, axis=0)
    t = np.linspace(0, 3, 17)
    expected = []
    for step in latents:
        for direction in unit.T:
            empirical = np.exp(1j * np.outer(step @ direction, t)).mean(0)
            integrand = np.abs(empirical - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2)
            expected.append(50 * 2 * np.trapezoid(integrand, t))  # even in t: twice the half line
    found = SIGReg(7)(torch.tensor(latents, dtype=torch.float32), torch.tensor(directions, dtype=torch.float32))
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-4)


def test_sigreg_prefers_a_gaussian_to_a_collapsed_or_a_shifted_latent() -> None:
    torch.manual_seed(0)
    regulariser, gaussian = SIGReg(64), torch.randn(1, 256, 16)
    chance = math.sqrt(2 * math.pi) * (1 - 1 / math.sqrt(3))  # its expectation for N(0, I), integrated over all t
    assert float(regulariser(gaussian)) == pytest.approx(chance, rel=0.1)
    for worse in (gaussian * 0.1, gaussian + 1, gaussian.sign(), gaussian[..., :1].expand(-1, -1, 16)):
        assert float(regulariser(worse)) > 1.5 * chance


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": 65}, "image_height is 65; it must be a multiple of 14"),
        ({"history": 0}, "history is 0; it must be 1 or more"),
        ({"stem": "wavelet"}, "stem is 'wavelet'"),
        ({"readout": "mean"}, "readout is 'mean'; it must be 'cls' or 'all'"),
        ({"dropout": 1.5}, "dropout is 1.5"),
        ({"latent_dim": "many"}, "latent_dim is 'many'; it must be of type int"),
        ({"latent_dims": 3}, "no field 'latent_dims'"),
    ],
)
def test_a_wrong_size_is_refused_with_field_value_and_range(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(ModelConfig, values)
