# SPDX-License-Identifier: Apache-2.0
"""The decoder draws what the latents hold, is a part of the bundle that others do not notice, and says why it fails."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import dot_recording, tiny_bundle, tiny_model
from typer.testing import CliRunner

from lewm_model.bundle.bundle import Bundle, BundleError, load_bundle, save_description, sha256
from lewm_model.cli.main import app
from lewm_model.config import resource
from lewm_model.data.clips import DataError, load_episodes
from lewm_model.robot.observation import to_model_image
from lewm_model.runtime import decoder
from lewm_model.runtime.decoder import PictureDecoder, load_decoder
from lewm_model.runtime.errors import RuntimeLoadError
from lewm_model.runtime.export import ExportError
from lewm_model.runtime.onnx_backend import OnnxRuntime
from lewm_model.training import decoder as training
from lewm_model.training.decoder import add_decoder, train_decoder


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Bundle, dict[str, str]]:
    """A bundle with a decoder, hardly trained, and the hashes of its files before."""
    folder = tmp_path_factory.mktemp("decoder")
    bundle = tiny_bundle(folder)
    before = dict(bundle.files)
    return add_decoder(bundle, load_episodes(dot_recording(folder / "few.h5", episodes=3)), steps=3), before


@pytest.fixture
def copied(made, tmp_path) -> Bundle:
    return load_bundle(shutil.copytree(made[0].folder, tmp_path / "bundle"))


def test_it_adds_two_files_and_touches_no_other(made):
    bundle, before = made
    assert {name: bundle.files[name] for name in before} == before
    assert set(bundle.files) - set(before) == {"decoder.safetensors", "onnx/decoder.onnx"}
    assert load_bundle(bundle.folder).files == bundle.files
    assert all(sha256(bundle.folder / name) == digest for name, digest in bundle.files.items())
    assert bundle.heads == ("displacement", "proposal"), "what plans does not know of it"


def test_what_it_measures_is_told_beside_the_mean_picture_and_where_it_comes_from(made):
    found, provenance = made[0].evaluation["decoder"], made[0].training["decoder"]
    assert found["share_of_mean_picture"] == pytest.approx(found["mse_encoded"] / found["mse_mean_picture"])
    assert found["frames"] == 41, "one episode of three is held out"
    assert (provenance["steps"], provenance["data"]["held_out_episodes"]) == (3, 1)


def test_an_object_of_few_pixels_is_drawn_though_its_place_is_not_known_to_a_pixel(monkeypatch):
    config = tiny_model()
    rng = np.random.default_rng(0)
    latents = torch.from_numpy(rng.uniform(-1, 1, (400, config.latent_dim)).astype(np.float32))
    corners = (latents[:, :2].numpy() * 10 + 15 + rng.normal(0, 1.0, (400, 2))).round().astype(int)
    pixels = np.zeros((400, 32, 32, 3), np.uint8)
    for picture, (x, y) in zip(pixels, corners, strict=True):
        picture[y : y + 2, x : x + 2, 1] = 255
    peaks = []
    for weight in (training.OBJECTS, 0.0):
        monkeypatch.setattr(training, "OBJECTS", weight)
        network = train_decoder(config, latents[None], lambda some: pixels[some], steps=500, seed=0)
        with torch.inference_mode():
            peaks.append(float(network(latents)[..., 1].amax((1, 2)).median()))
    assert peaks[0] > 0.25 and peaks[0] > 3 * max(peaks[1], 0.0), peaks


def test_it_learns_to_draw_what_a_latent_says_about_where_a_dot_is():
    config = tiny_model()
    rng = np.random.default_rng(0)
    latents = torch.from_numpy(rng.uniform(-1, 1, (400, config.latent_dim)).astype(np.float32))
    grid = np.stack(np.meshgrid(np.arange(32), np.arange(32), indexing="xy"), -1)
    centres = (latents[:, :2].numpy() * 0.3 + 0.5) * 31
    light = np.exp(-((grid - centres[:, None, None]) ** 2).sum(-1) / 40.0)
    pixels = torch.from_numpy((255 * light)[..., None].repeat(3, -1).astype(np.uint8))
    network = train_decoder(config, latents[None, :360], lambda some: pixels[:360].numpy()[some], steps=150, seed=0)
    with torch.inference_mode():
        drawn = network(latents[360:])
    truth = pixels[360:].float() / 255
    assert float((drawn - truth).square().mean()) < 0.5 * float((truth - truth.mean(0)).square().mean())


def test_onnx_runtime_and_pytorch_draw_the_same(made, monkeypatch):
    bundle = made[0]
    latents = 10 * np.random.default_rng(0).standard_normal((7, bundle.model.latent_dim)).astype(np.float32)
    with_onnx = load_decoder(bundle).draw(latents)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with_torch = load_decoder(bundle).draw(latents)
    assert with_onnx.shape == (7, 32, 32, 3) and with_onnx.dtype == np.uint8
    assert np.abs(with_onnx.astype(int) - with_torch).max() <= 1
    assert np.ptp(with_onnx, axis=0).max() > 5, "other latents, other pictures"


def test_odd_latents_are_drawn_and_those_of_another_model_refused(made):
    draw = load_decoder(made[0]).draw
    dimensions = made[0].model.latent_dim
    odd = np.full((1, dimensions), np.nan, np.float32)
    assert (draw(odd) == draw(np.zeros((1, dimensions)))).all()
    assert draw(np.zeros((0, dimensions))).shape == (0, 32, 32, 3)
    with pytest.raises(ValueError, match=f"latents have shape .* {dimensions}"):
        draw(np.zeros((2, dimensions + 1)))


def test_a_bundle_without_one_has_none_and_one_that_is_broken_says_so(copied, monkeypatch):
    (copied.folder / decoder.DECODER).write_bytes(b"no tensors")
    broken = save_description(copied)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BundleError, match=r"decoder\.safetensors does not fit the bundle.*lewm decoder"):
        load_decoder(broken)
    monkeypatch.undo()
    (copied.folder / "onnx" / "decoder.onnx").write_bytes(b"no graph")
    with pytest.raises(RuntimeLoadError, match=r"decoder\.onnx.*lewm export"):
        load_decoder(save_description(broken))
    shutil.copy(resource("models", "reach", "onnx", "proposal.onnx"), copied.folder / "onnx" / "decoder.onnx")
    with pytest.raises(RuntimeLoadError, match=r"decoder\.onnx.*lewm export"):
        load_decoder(save_description(broken))
    shutil.copy(resource("models", "reach", "onnx", "decoder.onnx"), copied.folder / "onnx" / "decoder.onnx")
    with pytest.raises(RuntimeLoadError, match=r"decoder\.onnx.*lewm export"):
        load_decoder(save_description(broken))
    (copied.folder / decoder.DECODER).unlink()
    assert load_decoder(save_description(broken)) is None


def test_a_decoder_whose_graph_is_refused_leaves_the_bundle_as_it_was(copied, tmp_path, monkeypatch):
    def refuse(draft: Bundle, network: torch.nn.Module) -> None:
        raise ExportError("the graph does not draw what the network does")

    before = {path: path.read_bytes() for path in copied.folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(training, "export_decoder", refuse)
    data = load_episodes(dot_recording(tmp_path / "dots.h5", episodes=2))
    with pytest.raises(ExportError):
        add_decoder(copied, data, steps=1)
    assert {path: path.read_bytes() for path in copied.folder.rglob("*") if path.is_file()} == before
    assert load_decoder(load_bundle(copied.folder)) is not None


def test_a_recording_of_other_pictures_is_refused(made, tmp_path):
    other = load_episodes(dot_recording(tmp_path / "other.h5", episodes=2, size=48))
    with pytest.raises(DataError, match=r"pictures of 48 x 48 pixels .* 32 x 32 pixels"):
        add_decoder(made[0], other, steps=1)


def test_the_command_adds_one_to_a_bundle(made, copied, tmp_path):
    for name in ("decoder.safetensors", "onnx/decoder.onnx"):
        (copied.folder / name).unlink()
    save_description(copied)
    recording = dot_recording(tmp_path / "dots.h5", episodes=2)
    result = CliRunner().invoke(app, ["decoder", str(copied.folder), str(recording), "--steps", "2"])
    assert result.exit_code == 0, result.output
    assert "held-out frames" in result.output
    assert load_decoder(load_bundle(copied.folder)) is not None


def shipped() -> tuple[Bundle, PictureDecoder]:
    bundle = load_bundle(resource("models", "reach"))
    found = load_decoder(bundle)
    assert found is not None
    return bundle, found


def test_the_shipped_one_draws_poses_of_the_arm_that_it_never_saw_and_what_is_imagined():
    from lewm_model.sim.arm import ArmSim

    bundle, draws = shipped()
    runtime = OnnxRuntime(bundle)
    rng = np.random.default_rng(12345)
    with ArmSim() as sim:
        frames = []
        for pose in rng.uniform(sim.limits.lower, sim.limits.upper, (24, len(sim.names))):
            sim.reset(joint_positions=pose)
            frames.append(to_model_image(sim.render(), bundle.model.image_size))
    truth = np.stack(frames).astype(float)
    drawn = draws.draw(np.stack([runtime.encode(frame) for frame in frames])).astype(float)
    mean_picture = np.square(truth - truth.mean(0)).mean()
    assert np.square(truth - drawn).mean() < 0.3 * mean_picture
    recorded = bundle.evaluation["decoder"]
    assert recorded["share_of_mean_picture"] < 0.25
    assert recorded["mse_imagined"] < 0.5 * recorded["mse_mean_picture"]


def test_the_shipped_one_is_small_and_the_weights_beside_it_are_as_they_were():
    bundle, _ = shipped()
    assert sum((bundle.folder / name).stat().st_size for name in ("decoder.safetensors", "onnx/decoder.onnx")) < 2e6
    assert bundle.files["weights.safetensors"].startswith("f0809d568d42dc81")
    assert bundle.heads == ("displacement", "proposal")
    assert Path(bundle.folder / "model.json").stat().st_size < 20_000
