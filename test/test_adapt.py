# SPDX-License-Identifier: Apache-2.0
"""`lewm adapt`: a bundle for another scene, fine-tuned from the first one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import dot_recording, tiny_model, tiny_train
from typer.testing import CliRunner

from lewm_model.bundle.bundle import load_bundle, load_model
from lewm_model.bundle.held_out import not_trained_on
from lewm_model.cli.main import app
from lewm_model.config import TrainConfig
from lewm_model.data.clips import DataError, load_episodes
from lewm_model.training.trainer import train


def test_a_bundle_goes_on_learning_in_a_new_scene_and_keeps_what_its_actions_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The graphs take seconds, and have tests of their own.
    monkeypatch.setattr("lewm_model.training.adapt.export_onnx", lambda bundle, **_: bundle)
    monkeypatch.setattr(TrainConfig, "threads", 1)  # two wait for each other
    old, new = dot_recording(tmp_path / "old.h5"), dot_recording(tmp_path / "new.h5", episodes=110, seed=5)
    before = train(load_episodes(old), tmp_path / "old", tmp_path / "run", tiny_model(), tiny_train(steps=4, threads=1))
    arguments = ["adapt", str(before.folder), str(new), str(tmp_path / "out"), "--replay", str(old), "--steps", "2"]
    said = CliRunner().invoke(app, [*arguments, "--run", str(tmp_path / "adapting")], catch_exceptions=False)
    assert said.exit_code == 0, said.output
    after = load_bundle(tmp_path / "out")
    assert after.actions == before.actions and after.heads == before.heads and after.calibration is not None
    first, second = (dict(load_model(each).named_parameters()) for each in (before, after))
    moved = [float((first[name] - second[name]).detach().abs().max()) for name in first]
    assert 0 < max(moved) < 0.05, "it begins with the weights that there were"
    assert {Path(entry["path"]).name for entry in after.training["data"]} == {"old.h5", "new.h5"}
    assert 0 < len(not_trained_on(after, load_episodes(new))) < len(load_episodes(new).lengths)


def test_a_recording_of_another_robot_is_refused(tmp_path: Path) -> None:
    from lewm_model.config import resource
    from lewm_model.training.adapt import adapt

    other = load_episodes(dot_recording(tmp_path / "dots.h5"))
    with pytest.raises(DataError, match="do not fit the bundle"):
        adapt(load_bundle(resource("models", "reach")), other, tmp_path / "out", tmp_path / "run")
    assert not np.any([path.name == "model.json" for path in tmp_path.rglob("*")])
