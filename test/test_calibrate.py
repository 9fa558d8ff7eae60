# SPDX-License-Identifier: Apache-2.0
"""What counts as reached and as surprising is measured on episodes that the model was not trained on."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from tiny import dot_recording, tiny_bundle

from lewm_model.bundle.bundle import (
    SEEN,
    BundleError,
    Calibration,
    load_bundle,
    load_heads,
    load_model,
    save_description,
)
from lewm_model.data.clips import DataError, load_episodes
from lewm_model.models.graphs import RolloutGraph
from lewm_model.monitoring.novelty import area, load_novelty
from lewm_model.runtime.torch_backend import TorchRuntime
from lewm_model.training import calibration as c
from lewm_model.training.latents import encode_all


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("calibrate"), steps=20, head_steps=50)


def test_the_calibration_is_kept_in_the_bundle_and_comes_from_held_out_episodes(trained, monkeypatch):
    monkeypatch.setattr(c, "FEWEST_FRAMES", 30)
    monkeypatch.setattr(c, "SURPRISING", 0.5)
    data = load_episodes(trained.folder.parent / "dots.h5")
    calibrated = c.calibrate(load_bundle(trained.folder), data)
    found = calibrated.calibration
    assert load_bundle(trained.folder).calibration == found
    _, held_out = data.split(trained.training["config"]["validation_fraction"], trained.training["config"]["seed"])
    assert found.frames == sum(int(length) - trained.actions.frameskip for length in data.lengths[held_out])
    assert 0 < found.reached < found.left
    assert found.goal_pixels >= found.new_pixels >= c.FEWEST_NEW
    frames = encode_all(load_model(trained), data.pixels[data.rows(held_out)]).square().sum(-1)
    assert found.latent_squares == pytest.approx((float(frames.min()), float(frames.max())), rel=1e-4)
    novelty = load_novelty(load_bundle(trained.folder))
    training = data.rows(np.setdiff1d(np.arange(len(data.lengths)), held_out))
    assert not any(novelty.new_pixels(picture).any() for picture in data.pixels[training])
    areas = [area(novelty.uncommon_pixels(picture)) for picture in data.pixels]
    least = c.LEAST_AREA * data.pixels[0, ..., 0].size
    assert found.uncommon_pixels == (np.median(areas), max(least, max(areas) - np.median(areas)))

    # A recording that the model has never seen is used as a whole.
    other = load_episodes(dot_recording(trained.folder.parent / "other.h5", episodes=6, seed=9))
    found = c.calibrate(calibrated, other).calibration
    assert found.frames == int((other.lengths - trained.actions.frameskip).sum())
    model = load_model(trained)
    latents = encode_all(model, other.pixels)
    errors, changes = c.prediction_errors(model, other, np.arange(6), latents, trained.actions)
    owners = np.repeat(np.arange(6), other.lengths - trained.actions.frameskip)
    assert 0 < found.false_positive_rate == c.false_positives(errors, changes, owners) / found.frames < 1
    low, high = found.false_positive_interval
    assert 0 < low < found.false_positive_rate < high < 1
    assert (np.diff(found.errors) >= 0).all() and max(found.errors) == errors.max()


def test_ways_that_the_head_sees_are_compared_with_those_that_were_commanded(trained):
    data = load_episodes(trained.folder.parent / "dots.h5")
    latents, head = encode_all(load_model(trained), data.pixels), load_heads(trained)["displacement"]
    found = c.way_errors({"displacement": head}, data, np.arange(len(data.lengths)), latents, trained.actions)
    with torch.no_grad():
        seen = head.net(latents).numpy()
    off, block = [], trained.actions.frameskip
    for first, length in zip(data.offsets, data.lengths, strict=True):
        for begin in range(first, first + length):
            for end in range(begin + block, min(begin + 8 * block, first + length - 1) + 1, block):
                moved = data.actions[begin:end].sum(0) * trained.actions.control_dt_s / trained.actions.full_step
                off.append(np.abs(seen[end] - seen[begin] - moved))
    assert found == pytest.approx(np.quantile(off, c.USUAL_WAY, axis=0), rel=1e-3)
    assert c.way_errors({}, data, np.arange(len(data.lengths)), latents, trained.actions) is None


def test_false_positives_are_counted_on_frames_that_did_not_set_the_limits():
    """One episode of ten has errors ten times as great: by limits that it set itself, none of them is surprising."""
    rng = np.random.default_rng(0)
    errors, changes, owners = rng.uniform(0.5, 1.0, 1000), rng.uniform(0.0, 1.0, 1000), np.repeat(np.arange(10), 100)
    assert c.false_positives(errors, changes, owners) == 0
    errors[owners == 3] *= 10
    assert (errors <= np.interp(changes, *c._usual(errors, changes))).mean() > 0.99
    assert c.false_positives(errors, changes, owners) == 100
    assert c.false_positives(errors[:100], changes[:100], owners[:100]) == 0, "one episode is judged in parts"


def test_errors_and_distances_are_what_the_robot_will_measure(trained):
    data = load_episodes(trained.folder.parent / "dots.h5")
    model, heads, runtime = load_model(trained), load_heads(trained), TorchRuntime(trained)
    latents = encode_all(model, data.pixels)
    errors, changes = c.prediction_errors(model, data, np.array([2]), latents, trained.actions)
    first = int(data.offsets[2])
    for row in (0, 7, 30):
        actions = data.actions[first + row : first + row + trained.actions.frameskip]
        block = trained.actions.normalise(actions).reshape(1, 1, -1)
        candidates = np.concatenate([block, np.repeat(trained.actions.still[None, None], 4, 1)], 1)
        now, then = (latents[first + row + ahead].numpy() for ahead in (0, trained.actions.frameskip))
        distances, imagined = runtime.rollout(
            now[None], np.zeros((0, candidates.shape[2]), np.float32), candidates, then
        )
        assert errors[row] == pytest.approx(np.square(imagined[0, 0] - then).mean(), rel=1e-3)
        assert changes[row] == pytest.approx(np.square(imagined[0, 0] - now).mean(), rel=1e-3)
        graph = RolloutGraph(model, heads["displacement"])
        with torch.no_grad():
            distance = graph.distance(latents[first + row], latents[first + row + trained.actions.frameskip])
        assert float(distance) == pytest.approx(float(distances[0, 0]), rel=1e-4)


def test_too_little_data_and_another_robot_s_are_refused(trained):
    data = load_episodes(trained.folder.parent / "dots.h5")
    with pytest.raises(DataError, match=r"\d+ frames are too few to calibrate with"):
        c.calibrate(trained, data)
    with pytest.raises(DataError, match="actions left, right do not fit"):
        c.calibrate(trained, dataclasses.replace(data, action_names=("left", "right")))


@pytest.mark.parametrize(
    "change",
    [
        {"reached": -1.0},
        {"errors": [float("nan")]},
        {"errors": []},
        {"left": 0.1},
        {"reached": "near"},
        {"false_positive_interval": [0.1, 0.2]},
        {"false_positive_interval": [0.0]},
        {"uncommon_pixels": [-1.0, 5.0]},
        {"uncommon_pixels": [5.0, 0.0]},
        {"uncommon_pixels": [5.0]},
    ],
)
def test_a_calibration_that_cannot_be_is_refused(trained, tmp_path, change):
    import shutil

    folder = tmp_path / "bundle"
    shutil.copytree(trained.folder, folder)
    description = json.loads((folder / "model.json").read_text())
    good = dataclasses.asdict(Calibration(0.5, 1.0, (0.1,), (0.2,), 0.0, 5000))
    description["calibration"] = {**good, **change}
    (folder / "model.json").write_text(json.dumps(description))
    with pytest.raises(BundleError, match=r"calibration|not describe"):
        load_bundle(folder)
    description["calibration"] = {name: value for name, value in good.items() if name != "false_positive_interval"}
    (folder / "model.json").write_text(json.dumps(description))
    assert load_bundle(folder).calibration == Calibration(0.5, 1.0, (0.1,), (0.2,), 0.0, 5000)


def test_a_bundle_that_does_not_know_what_was_seen_or_only_thinks_so(trained, monkeypatch, tmp_path):
    monkeypatch.setattr(c, "FEWEST_FRAMES", 30)
    found = c.calibrate(load_bundle(trained.folder), load_episodes(trained.folder.parent / "dots.h5"))
    limits = dataclasses.replace(found.calibration, new_pixels=None)
    assert load_novelty(dataclasses.replace(found, calibration=limits)) is None
    assert load_novelty(dataclasses.replace(found, calibration=None)) is None
    whole = (found.folder / SEEN).read_bytes()
    try:
        (found.folder / SEEN).write_bytes(whole[:-5])
        with pytest.raises(BundleError, match=r"does not hold colours.*run `lewm calibrate` again"):
            load_novelty(save_description(found))
    finally:
        (found.folder / SEEN).write_bytes(whole)
    with pytest.raises(BundleError, match="a bit for each colour of 2048 pixels is expected"):
        load_novelty(dataclasses.replace(found, model=dataclasses.replace(found.model, image_height=64), cameras=()))
