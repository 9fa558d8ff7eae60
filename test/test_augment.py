# SPDX-License-Identifier: Apache-2.0
"""Augmentation: each frame is changed by itself, the same seed gives the same pictures, and heads learn from them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import dot_recording, tiny_model, tiny_train

from lewm_model.config import AugmentConfig, ConfigError, TrainConfig, from_dict
from lewm_model.data.clips import load_episodes
from lewm_model.training import augment
from lewm_model.training.augment import changed
from lewm_model.training.trainer import train

CHANGES = ("moved", "recoloured", "covered", "lit", "blurred", "compressed", "noisy")


def clips(count: int = 20, side: int = 48) -> torch.Tensor:
    """Clips of two equal frames each, (count, 2, side, side, 3): a bar of random colours on a table."""
    torch.manual_seed(1)
    frames = torch.full((count, 1, side, side, 3), 200, dtype=torch.uint8)
    frames[:, :, 10:40, 20:28] = torch.randint(0, 100, (count, 1, 1, 1, 3), dtype=torch.uint8)
    return frames.repeat(1, 2, 1, 1, 1)


def test_the_frames_of_a_clip_are_changed_each_by_itself_and_a_share_stays_as_it_is() -> None:
    frames = clips()
    found = changed(frames, AugmentConfig(share=0.75))
    assert found.shape == frames.shape and found.dtype == torch.uint8
    same = (found == frames).flatten(2).all(2)  # (clips, 2)
    assert int(same.sum()) == 10  # a quarter of 40
    both = ~same.any(1)
    assert (found[both, 0] != found[both, 1]).flatten(1).any(1).all()
    means = found.float().mean((2, 3))
    assert float((means[:, 0] - means[:, 1]).abs().mean()) > 10, "both frames of a clip have the same light"


def test_a_share_of_zero_gives_back_the_very_frames() -> None:
    frames = clips(2)
    assert changed(frames, AugmentConfig(share=0.0)) is frames


def test_the_same_seed_gives_the_same_pictures() -> None:
    config, found = AugmentConfig(share=1.0), []
    frames = clips()
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        found.append(changed(frames, config))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_alone_changes_pictures_but_not_beyond_recognition(change: str) -> None:
    x = clips(16)[:, 0].permute(0, 3, 1, 2).float() / 255
    found = getattr(augment, change)(x.clone(), AugmentConfig())
    assert found.shape == x.shape and bool(torch.isfinite(found).all())
    difference = (found.clamp(0, 1) - x).abs().mean((1, 2, 3))
    assert float(difference.max()) > 0.003
    assert float(difference.mean()) < 0.35


@pytest.mark.parametrize("change", CHANGES)
def test_a_range_of_zero_leaves_the_pictures_alone(change: str) -> None:
    nothing = {name: 0.0 for name in AugmentConfig.__dataclass_fields__ if name != "region"}
    x = clips(8)[:, 0].permute(0, 3, 1, 2).float() / 255
    found = getattr(augment, change)(x.clone(), AugmentConfig(**nothing))
    assert float((found.clamp(0, 1) - x).abs().max()) < 0.02


def test_the_quality_of_the_compressed_pictures_is_that_of_jpeg() -> None:
    """Quantisation as JPEG's at quality 20 loses about as much as JPEG at quality 20."""
    cv2 = pytest.importorskip("cv2")
    frames = clips(8, 64)[:, 0]
    torch.manual_seed(0)
    ours = augment.compressed(frames.permute(0, 3, 1, 2).float() / 255, AugmentConfig(jpeg=5.0))  # 2.5 on average
    mine = (ours.permute(0, 2, 3, 1) * 255 - frames.float()).square().mean().sqrt()
    theirs = []
    for frame in frames.numpy():
        coded = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 20])[1]
        theirs.append(np.square(cv2.imdecode(coded, cv2.IMREAD_COLOR).astype(float) - frame).mean())
    assert 0.4 < float(mine) / np.sqrt(np.mean(theirs)) < 2.5


def test_training_with_changed_pictures_is_set_by_one_value_and_its_heads_see_each_frame_changed(
    tmp_path: Path,
) -> None:
    data = load_episodes(dot_recording(tmp_path / "dots.h5"))
    config = tiny_train(augment={"share": 0.9}, views=2)
    assert config.augment.share == 0.9 and config.augment.gain == AugmentConfig().gain
    bundle = train(data, tmp_path / "bundle", tmp_path / "run", tiny_model(), config)
    assert bundle.training["config"]["augment"]["share"] == 0.9
    assert bundle.evaluation["heads"]["displacement"]["rms_encoded_steps"] > 0


@pytest.mark.parametrize(
    ("values", "field"), [({"share": 1.5}, "share"), ({"gain": -1.0}, "gain"), ({"glow": 1}, "glow")]
)
def test_a_range_that_makes_no_sense_is_refused_by_name(values: dict[str, float], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        from_dict(TrainConfig, {"augment": values})
