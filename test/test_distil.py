# SPDX-License-Identifier: Apache-2.0
"""Distillation of an encoder: latents stay the same in other light, and nothing else of the model changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import dot_recording, tiny_model, tiny_train
from typer.testing import CliRunner

from lewm_model.bundle.bundle import BundleError, load_bundle, load_heads, load_model, save_description
from lewm_model.cli.main import app
from lewm_model.config import AugmentConfig, TrainConfig
from lewm_model.data.clips import DataError, Episodes, load_episodes
from lewm_model.training.distil import distil
from lewm_model.training.latents import encode_all
from lewm_model.training.trainer import train


def _lit(data: Episodes) -> Episodes:
    """The same motion, every frame in different light."""
    rng = np.random.default_rng(0)
    gains, offsets = (rng.uniform(*ends, (len(data.pixels), 1, 1, 3)) for ends in ((0.4, 0.7), (0.0, 70.0)))
    pixels = (np.asarray(data.pixels) * gains + offsets).astype(np.uint8)
    return replace(data, pixels=pixels, sha256="0" * 64, path="lit.h5")


def test_a_distilled_encoder_gives_in_other_light_what_the_bundle_knows_and_the_rest_stays(tmp_path: Path) -> None:
    data = load_episodes(dot_recording(tmp_path / "dots.h5"))
    varied = _lit(data)
    config = tiny_train(steps=40, threads=1)
    before = train(data, tmp_path / "bundle", tmp_path / "run", tiny_model(picture_norm="fixed"), config)
    (before.folder / "onnx").mkdir()
    (before.folder / "onnx/encoder.fp32.onnx").write_bytes(b"of this encoder")
    before = save_description(before)
    known, heads = load_model(before), load_heads(before)
    settings = TrainConfig(steps=120, batch=64, learning_rate=2e-3, threads=1, augment=AugmentConfig(share=0.5))
    usual = load_episodes(dot_recording(tmp_path / "usual.h5", episodes=30, seed=5))
    after = distil(before, data, varied, usual, tmp_path / "out", settings)
    student = load_model(after)
    assert (before.folder / "onnx").is_dir() and not (after.folder / "onnx").exists(), "no graphs of another encoder"
    assert load_bundle(after.folder).model.picture_norm == "own" and after.calibration is not None
    rows = np.arange(0, len(data.pixels), 3)
    wanted = encode_all(known, data.pixels[rows])

    def error(model: torch.nn.Module) -> float:
        return float((encode_all(model, varied.pixels[rows]) - wanted).square().mean())

    assert error(student) < 0.5 * error(known)
    assert after.evaluation["distillation_error"]["in_random_looks"] < 1.0
    for name, value in student.state_dict().items():
        same = torch.equal(value, known.state_dict()[name])
        assert same or name.startswith(("encoder.", "projector.")), f"{name} has changed"
    for name, head in load_heads(after).items():
        assert all(torch.equal(a, b) for a, b in zip(head.parameters(), heads[name].parameters(), strict=True))
    assert {entry["path"] for entry in after.training["data"]} == {data.path, "lit.h5"}
    longer = distil(after, data, varied, usual, tmp_path / "longer", replace(settings, seed=1), before)
    assert error(load_model(longer)) < error(student), "it learns the teacher's latents, not its own, and goes on"
    assert longer.training["distilled"]["teacher"] == before.files
    assert longer.training["distilled"]["before"]["from"] == before.files
    with pytest.raises(BundleError, match="a model of another size"):
        distil(after, data, varied, usual, tmp_path / "no", settings, replace(before, model=tiny_model(latent_dim=9)))


def test_recordings_of_different_motions_are_refused_and_the_bundle_stays(tmp_path: Path) -> None:
    data = load_episodes(dot_recording(tmp_path / "dots.h5"))
    other = load_episodes(dot_recording(tmp_path / "other.h5", seed=5))
    bundle = train(data, tmp_path / "bundle", tmp_path / "run", tiny_model(), tiny_train(steps=2, threads=1))
    with pytest.raises(DataError, match=r"not the motion of .* record both with the same task, seed"):
        distil(bundle, data, other, data, bundle.folder, TrainConfig(steps=1))
    assert load_bundle(bundle.folder).files == bundle.files


def test_the_command_exports_what_it_distilled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = []
    monkeypatch.setattr(
        "lewm_model.runtime.export.export_onnx", lambda bundle, frames: exported.append(len(frames)) or bundle
    )
    names = {name: dot_recording(tmp_path / f"{name}.h5") for name in ("plain", "varied")}
    config = tiny_train(steps=2, threads=1)
    before = train(load_episodes(names["plain"]), tmp_path / "bundle", tmp_path / "run", tiny_model(), config)
    (tmp_path / "distil.yaml").write_text("train: {steps: 2, batch: 8, threads: 1}")
    command = ["distil", before.folder, names["plain"], names["varied"], tmp_path / "out"]
    usual = dot_recording(tmp_path / "usual.h5", episodes=30, seed=5)
    command += ["--config", tmp_path / "distil.yaml", "--calibration", usual]
    said = CliRunner().invoke(app, [str(word) for word in command], catch_exceptions=False)
    assert said.exit_code == 0 and "of a latent's variance" in said.output, said.output
    assert exported and exported[0] > 0 and load_bundle(tmp_path / "out").calibration is not None
