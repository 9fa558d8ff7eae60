# SPDX-License-Identifier: Apache-2.0
"""Training: the regulariser prevents collapse, a killed run resumes exactly, bad data is refused."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import TINY_MODEL, TINY_TRAIN, dot_recording, tiny_bundle, tiny_model, tiny_train

from lewm_model.bundle.bundle import BundleError, load_bundle, load_heads, load_model
from lewm_model.bundle.held_out import held_out_episodes
from lewm_model.config import TRAIN_SIZES, ConfigError, TrainConfig, from_dict
from lewm_model.data.clips import ClipSampler, DataError, load_episodes
from lewm_model.training.heads import retrain_policy_heads
from lewm_model.training.latents import encode_all
from lewm_model.training.report import Log, read_metrics
from lewm_model.training.trainer import train


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dot_recording(tmp_path_factory.mktemp("data") / "dots.h5", episodes=40)


def trained(folder: Path, recording: Path, sigreg_weight: float) -> tuple[float, str]:
    """The latent's standard deviation after a training, and the warnings."""
    data = load_episodes(recording)
    config = tiny_train(steps=250, batch=64, clips_per_pose=1, sigreg_weight=sigreg_weight, head_steps=0)
    bundle = train(data, folder / "bundle", folder / "run", tiny_model(), config)
    std = float(encode_all(load_model(bundle), data.pixels[::7]).std(0).mean())
    return std, "; ".join(bundle.evaluation["warnings"])


def test_without_the_regulariser_the_latent_collapses_and_with_it_it_does_not(tmp_path: Path, recording: Path) -> None:
    std, warnings = trained(tmp_path / "without", recording, 0.0)
    assert std < 0.1 and "the latent collapses" in warnings
    std, warnings = trained(tmp_path / "with", recording, 0.1)
    assert std > 0.6 and "collapses" not in warnings and "no effect" not in warnings


def test_a_killed_run_that_is_resumed_ends_with_the_same_bits(tmp_path: Path, recording: Path) -> None:
    settings = {**TINY_TRAIN, "steps": 40, "clips_per_pose": 1, "head_steps": 0, "augment": {"share": 0.5}}
    config = from_dict(TrainConfig, settings, TRAIN_SIZES["small"])
    train(load_episodes(recording), tmp_path / "whole", tmp_path / "run_whole", tiny_model(), config)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": TINY_MODEL, "train": settings}))
    command = [sys.executable, "-m", "lewm_model.cli.main", "train", str(recording), str(tmp_path / "killed")]
    command += ["--config", str(tmp_path / "config.yaml"), "--run", str(tmp_path / "run_killed")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "run_killed" / "checkpoint.pt"
    while not checkpoint.is_file():
        assert process.poll() is None, "the run ended before its first checkpoint"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "model.json").exists(), "the run was not killed in time to show anything"
    resumed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    first, second = (tmp_path / name / "weights.safetensors" for name in ("whole", "killed"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_trains_and_resumes(tmp_path: Path, recording: Path, precision: str) -> None:
    data, config = load_episodes(recording), tiny_train(steps=12, batch=16, head_steps=0, precision=precision)
    for name in ("run", "run", "again"):  # the second call finds everything done
        bundle = train(data, tmp_path / name / "bundle", tmp_path / name, tiny_model(), config)
    assert all(value.dtype != torch.float16 for value in load_model(bundle).state_dict().values())
    files = [(tmp_path / name / "bundle" / "weights.safetensors").read_bytes() for name in ("run", "again")]
    assert files[0] == files[1]


def test_a_run_ends_with_a_page_that_needs_no_other_file(tmp_path: Path, recording: Path) -> None:
    data, config = load_episodes(recording), tiny_train(steps=40, head_steps=2)
    bundle = train(data, tmp_path / "bundle", tmp_path / "run", tiny_model(), config)
    measured = bundle.evaluation["validation"]
    assert all(measured[f"open_loop_{k}"] > 0 for k in range(1, 6)) and measured["identity_5"] > measured["identity_1"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "data:image/png;base64," in page and 'src="http' not in page and "effective rank" in page
    lines = read_metrics(tmp_path / "run")
    assert {line["step"] for line in lines if line["kind"] == "validation"} == {10, 20, 30, 40}
    assert {"prediction", "identity", "shuffled", "open_loop_5"} <= set(
        next(line for line in lines if line["kind"] == "validation")
    )


def test_a_resumed_run_logs_every_step_once(tmp_path: Path) -> None:
    for done, steps in ((0, (0, 20, 40)), (40, (40, 60))):
        log = Log(tmp_path, done)
        for step in steps:
            log.write("train", step, {"loss": 1.0})
            log.write("validation", step + 20, {"prediction": 1.0})
        log.close()
        time.sleep(1.0)  # TensorBoard reads files in the order of their names, which hold the time in whole seconds
    assert [line["step"] for line in read_metrics(tmp_path) if line["kind"] == "train"] == [0, 20, 40, 60]
    assert [line["step"] for line in read_metrics(tmp_path) if line["kind"] == "validation"] == [20, 40, 60, 80]
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    steps = {name: [point.step for point in board.Scalars(name)] for name in board.Tags()["scalars"]}
    assert sorted(set(steps["train/loss"])) == [0, 20, 40, 60]  # a resumed step is there twice, the same
    assert steps["validation/prediction"] == [20, 40, 60, 80]


def test_actions_without_effect_are_warned_of_in_the_bundle_and_on_the_page(tmp_path: Path, recording: Path) -> None:
    data, config = load_episodes(recording), tiny_train(steps=2, head_steps=0)  # AdaLN-zero: no effect yet
    bundle = train(data, tmp_path / "bundle", tmp_path / "run", tiny_model(), config)
    assert any("the actions have no effect" in warning for warning in bundle.evaluation["warnings"])
    assert "the actions have no effect" in (tmp_path / "run" / "report.html").read_text()


def test_a_checkpoint_of_other_settings_is_not_resumed(tmp_path: Path, recording: Path) -> None:
    data = load_episodes(recording)
    train(data, tmp_path / "bundle", tmp_path / "run", tiny_model(), tiny_train(steps=2, head_steps=0))
    with pytest.raises(DataError, match="other data or settings; delete it"):
        train(data, tmp_path / "bundle", tmp_path / "run", tiny_model(), tiny_train(steps=3, head_steps=0))


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lewm_model.models.lewm import LeWM
    from lewm_model.training.checkpoint import Checkpoint

    model = LeWM(tiny_model())
    optimiser = torch.optim.AdamW(model.parameters())
    checkpoint = Checkpoint(tmp_path, {"seed": 0})
    checkpoint.save(model, optimiser, 7)

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="the checkpoint before it is intact"):
        checkpoint.save(model, optimiser, 8)
    assert checkpoint.load(model, optimiser) == 7


def test_a_batch_depends_on_seed_and_step_alone(recording: Path) -> None:
    data = load_episodes(recording)
    first, second = (ClipSampler(data, np.arange(30), 2, 5, 4, seed=3) for _ in range(2))
    second.batch(0, 16)
    for a, b in zip(first.batch(9, 16), second.batch(9, 16), strict=True):
        np.testing.assert_array_equal(a, b)


def test_clips_hold_frames_one_block_apart_and_the_actions_between(recording: Path) -> None:
    data = load_episodes(recording)
    frames, actions = ClipSampler(data, np.arange(5), 3, 5, 1, seed=0).batch(0, 8)
    assert frames.shape == (8, 3, 32, 32, 3) and actions.shape == (8, 2, 10)
    starts = [int(np.flatnonzero((data.pixels == clip[0]).all((1, 2, 3)))[0]) for clip in frames]
    for start, clip, blocks in zip(starts, frames, actions, strict=True):
        np.testing.assert_array_equal(clip[2], data.pixels[start + 10])
        np.testing.assert_array_equal(blocks[1], data.actions[start + 5 : start + 10].reshape(-1))
    assert np.isfinite(actions).all()


def test_clips_of_one_group_begin_with_alike_joint_positions(recording: Path) -> None:
    data = load_episodes(recording)
    assert data.proprio is not None
    frames, actions = ClipSampler(data, np.arange(30), 2, 5, 4, seed=3).batch(0, 32)
    starts = [int(np.flatnonzero((data.pixels == clip[0]).all((1, 2, 3)))[0]) for clip in frames]
    poses = data.proprio[starts].reshape(8, 4, -1)
    within, between = poses.std(1).mean(), poses.mean(1).std()
    assert within < 0.3 * between, (within, between)
    for start, blocks in zip(starts, actions, strict=True):
        np.testing.assert_array_equal(blocks[0], data.actions[start : start + 5].reshape(-1))
    with pytest.raises(DataError, match="record them, or train with clips_per_pose 1"):
        ClipSampler(replace(data, proprio=None), np.arange(30), 2, 5, 4, seed=3)


def test_clips_of_one_group_may_be_of_one_episode_spread_over_its_length(recording: Path) -> None:
    data = load_episodes(recording)
    starts = ClipSampler(data, np.arange(40), 2, 5, 1, 3, clips_per_episode=4)._starts(np.random.default_rng(0), 128)
    groups = starts.reshape(32, 4)
    episodes = np.searchsorted(data.offsets, groups, "right") - 1
    assert (episodes == episodes[:, :1]).all() and len(np.unique(episodes)) > 8
    within = groups - data.offsets[episodes]
    assert (np.diff(within) > 0).all() and (within + 5 < data.lengths[episodes]).all()
    with pytest.raises(ConfigError, match="clips_per_episode"):
        tiny_train(clips_per_pose=4, clips_per_episode=4)


@pytest.mark.parametrize("episodes", [2, 10])
def test_no_clip_is_twice_in_a_group_however_small_the_recording_is(recording: Path, episodes: int) -> None:
    data = load_episodes(recording)
    sampler = ClipSampler(data, np.arange(episodes), 2, 5, 4, seed=3)
    groups = sampler._alike(np.random.default_rng(0), 128).reshape(32, 4)
    assert all(len(set(group)) == 4 for group in groups)
    np.testing.assert_array_equal(groups.reshape(-1), sampler._alike(np.random.default_rng(0), 128))
    inside = (groups[..., None] >= data.offsets[:episodes]) & (
        groups[..., None] + 5 < (data.offsets + data.lengths)[:episodes]
    )
    assert inside.any(-1).all(), "a clip lies within an episode"


def test_a_recording_with_fewer_clips_than_a_group_is_used_as_it_is(recording: Path) -> None:
    data = load_episodes(recording)
    starts = ClipSampler(data, np.arange(1), 9, 5, 4, seed=3)._alike(np.random.default_rng(0), 8)
    assert len(starts) == 8 and set(starts) == {0}, "41 frames hold one clip of 9"


def test_other_pictures_with_the_same_actions_are_another_recording(tmp_path: Path, recording: Path) -> None:
    with h5py.File(recording) as file:
        pixels, poses = file["pixels"][:].copy(), file["proprio"][:].copy()
    pixels[700, 3, 4, 0] ^= 1
    data = load_episodes(recording)
    other = load_episodes(with_facts(broken(tmp_path / "other.h5", recording, pixels=pixels), recording))
    assert other.sha256 != data.sha256 and other.actions_sha256 == data.actions_sha256
    moved = load_episodes(with_facts(broken(tmp_path / "moved.h5", recording, proprio=poses + 0.1), recording))
    assert moved.sha256 != data.sha256, "clips of alike poses are drawn by them"
    copy = load_episodes(with_facts(broken(tmp_path / "copy.h5", recording), recording))
    assert copy.sha256 == data.sha256 and copy.source == f"{tmp_path / 'copy.h5'} ({data.sha256[:8]})"
    config = tiny_train(steps=2, head_steps=0)
    train(data, tmp_path / "bundle", tmp_path / "run", tiny_model(), config)
    with pytest.raises(DataError, match="other data or settings; delete it"):
        train(other, tmp_path / "bundle", tmp_path / "run", tiny_model(), config)


def test_the_hash_does_not_depend_on_where_the_frames_are_kept(recording: Path, monkeypatch) -> None:
    found = load_episodes(recording).sha256
    monkeypatch.setattr("lewm_model.data.clips.IN_MEMORY", 10_000)
    assert load_episodes(recording).sha256 == found, "mapped"
    monkeypatch.setattr("lewm_model.data.clips.HASHED", 10_000)
    assert load_episodes(recording).sha256 != found, "a part of the frames"


def test_heads_that_are_retrained_leave_the_others_and_what_they_were_trained_on_is_never_held_out(
    tmp_path: Path,
) -> None:
    bundle = tiny_bundle(tmp_path)
    own = load_episodes(tmp_path / "dots.h5")
    more = load_episodes(dot_recording(tmp_path / "more.h5", episodes=5, seed=4))
    unseen = load_episodes(dot_recording(tmp_path / "unseen.h5", episodes=5, seed=5))
    assert len(held_out_episodes(bundle, more)) == 5
    kept, before = held_out_episodes(bundle, own), load_heads(bundle)
    bundle = retrain_policy_heads(bundle, [own, more], tiny_train(policy_steps=2))
    bundle = retrain_policy_heads(bundle, [own, more], tiny_train(policy_steps=2))  # the next round
    assert set(bundle.heads) == {"displacement", "proposal", "policy", "temporal_distance"}
    assert set(bundle.evaluation["heads"]) == {"displacement", "policy", "temporal_distance"}
    now = load_heads(load_bundle(bundle.folder))
    for name in before:
        for key, value in before[name].state_dict().items():
            assert torch.equal(now[name].state_dict()[key], value)
    assert held_out_episodes(bundle, own).tolist() == kept.tolist()
    with pytest.raises(DataError, match=r"more\.h5 \(.{8}\): the model was trained on all of its episodes"):
        held_out_episodes(bundle, more)
    assert len(held_out_episodes(bundle, unseen)) == 5
    assert [Path(entry["path"]).name for entry in bundle.training["data"]] == ["dots.h5", "more.h5"]


def test_a_bundle_of_an_earlier_version_still_knows_what_was_held_out(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    own = load_episodes(tmp_path / "dots.h5")
    data = {"source": "python -m lewm_model.collect x.h5 --seed 0", "sha256": own.actions_sha256, "episodes": 11}
    old = replace(bundle, training={**bundle.training, "data": {**data, "held_out_episodes": 1}})
    assert held_out_episodes(old, own).tolist() == held_out_episodes(bundle, own).tolist()


def test_a_run_of_no_steps_does_not_say_that_the_latent_is_healthy(tmp_path: Path, recording: Path) -> None:
    data = load_episodes(recording)
    bundle = train(data, tmp_path / "bundle", tmp_path / "run", tiny_model(), tiny_train(steps=0, policy_steps=2))
    page = (tmp_path / "run" / "report.html").read_text()
    assert "not collapsed" not in page and "no step was trained" in page and "the latent collapses" in page
    assert "displacement: rms encoded steps" in page and "policy: loss" in page and "temporal distance: loss" in page
    assert bundle.evaluation["warnings"]


def test_training_and_validation_share_no_episode(recording: Path) -> None:
    training, held_out = load_episodes(recording).split(0.2, 0)
    assert len(held_out) == 8 and not set(training) & set(held_out)


def broken(path: Path, source: Path, **changes: object) -> Path:
    with h5py.File(source) as old, h5py.File(path, "w") as new:
        for name in old:
            new[name] = changes.get(name, old[name][:])
    return path


def with_facts(path: Path, source: Path) -> Path:
    with h5py.File(source) as old, h5py.File(path, "a") as new:
        new.attrs.update(old.attrs)
    return path


def test_data_that_cannot_be_used_is_refused_with_a_sentence(tmp_path: Path, recording: Path) -> None:
    with h5py.File(recording) as file:
        pixels, actions = file["pixels"][:82], file["action"][:82]
    nan_images = pixels.astype(np.float32)
    nan_images[3] = np.nan
    nan_actions = actions.copy()
    nan_actions[5] = np.nan
    two = {"ep_len": np.array([41, 41]), "ep_offset": np.array([0, 41]), "pixels": pixels, "action": actions}
    cases: dict[str, dict[str, object]] = {
        "holds no episode": {"ep_len": np.zeros(0, int), "ep_offset": np.zeros(0, int)},
        "'pixels' has NaN values": {**two, "pixels": nan_images},
        r"must be \(N, H, W, 3\) uint8": {**two, "pixels": pixels[..., :2]},
        "the action in row 5 is not finite": {**two, "action": nan_actions},
        "'pixels' has 82 rows, its episodes need 1640": {"pixels": pixels},
    }
    for number, (message, changes) in enumerate(cases.items()):
        with pytest.raises(DataError, match=message):
            load_episodes(broken(tmp_path / f"{number}.h5", recording, **changes))
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(DataError, match="cannot be read as HDF5"):
        load_episodes(tmp_path / "text.h5")
    with pytest.raises(DataError, match="lewm collect"):
        load_episodes(tmp_path / "missing.h5")
    with pytest.raises(DataError, match="a clip spans 61 frames, the longest episode has 41"):
        ClipSampler(load_episodes(recording), np.arange(5), 13, 5, 1, seed=0)
    with pytest.raises(DataError, match="frames are 32 x 32 pixels, the model is set to 64 x 64"):
        train(load_episodes(recording), tmp_path / "b", tmp_path / "r", tiny_model(image_size=64), tiny_train())


def test_a_bundle_round_trips_and_a_changed_one_is_refused(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    again = load_bundle(bundle.folder)
    assert (again.model, again.actions, again.files) == (bundle.model, bundle.actions, bundle.files)
    assert again.actions.names == ("a", "b") and set(load_heads(again)) == {"displacement", "proposal"}
    assert sum(p.numel() for p in load_model(again).parameters()) == again.training["parameters"]
    with (bundle.folder / "weights.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(BundleError, match=r"weights.safetensors does not match its SHA-256"):
        load_bundle(bundle.folder)
    (bundle.folder / "weights.safetensors").unlink()
    with pytest.raises(BundleError, match=r"lacks weights.safetensors"):
        load_bundle(bundle.folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"schema": 2', '"schema": 99', "has schema 99, this version reads 1 and 2"),
        ('"weights.safetensors"', '"../weights.safetensors"', "lies outside the bundle"),
        ('"latent_dim": 8', '"latent_dim": -8', "latent_dim is -8"),
        ('"names": [', '"nomes": [', "does not describe a bundle"),
        ("{", "", "not readable JSON"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    description = tiny_bundle(tmp_path).folder / "model.json"
    text = description.read_text()
    assert old in text
    description.write_text(text.replace(old, new, 1))
    with pytest.raises(BundleError, match=message):
        load_bundle(description.parent)


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="train one with `lewm train`"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(("joints", "gripper"), [(3, False), (7, False), (5, True)])
def test_a_model_takes_its_numbers_and_pixels_from_the_recording(tmp_path: Path, joints: int, gripper: bool) -> None:
    from lewm_model.data.episodes import EpisodeWriter
    from lewm_model.training.trainer import model_config_for

    rng, columns = np.random.default_rng(0), joints + gripper
    kinds = ("joint_velocity",) * joints + ("gripper",) * gripper
    names = tuple(f"joint{i}" for i in range(columns))
    with EpisodeWriter(tmp_path / "arm.h5", (32, 48), names, 0.05, kinds) as writer:
        for _ in range(6):
            pictures = rng.integers(0, 256, (41, 32, 48, 3), np.uint8)
            writer.append(pictures, rng.normal(size=(40, columns)), rng.normal(size=(41, columns)))
    data = load_episodes(tmp_path / "arm.h5")
    small = {"encoder_width": 32, "encoder_depth": 1, "encoder_heads": 2, "latent_dim": 8, "predictor_depth": 1}
    model = model_config_for(data, "small", small)
    assert model.action_dim == columns and model.image_size == (32, 48)
    bundle = train(data, tmp_path / "b", tmp_path / "r", model, tiny_train(steps=1, head_steps=0), task="pick")
    again = load_bundle(tmp_path / "b")
    assert again.actions.kinds == kinds and again.task == "pick" and again.cameras == bundle.cameras
    assert again.observation.size == (32, 48)
    with pytest.raises(DataError, match=r"actions have .* numbers, the model is set to 2"):
        train(data, tmp_path / "c", tmp_path / "s", model_config_for(data, "small", {"action_dim": 2}), tiny_train())
