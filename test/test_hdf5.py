# SPDX-License-Identifier: Apache-2.0
"""HDF5 both ways with the reference, compressed, without attributes, damaged and cut off."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from tiny import dot_recording, tiny_model, tiny_train
from typer.testing import CliRunner

import lewm_model.data.clips as clips
from benchmarks.reference import module
from lewm_model.bundle.bundle import load_bundle
from lewm_model.bundle.held_out import held_out_episodes
from lewm_model.cli.main import app
from lewm_model.data.clips import ClipSampler, DataError, Episodes, load_episodes
from lewm_model.data.converters.columns import Columns
from lewm_model.data.converters.convert import convert
from lewm_model.data.converters.hdf5 import SIGNATURE, salvage_hdf5
from lewm_model.data.episodes import EpisodeWriter
from lewm_model.training.trainer import train

EPISODES, STEPS = 12, 40


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Episodes:
    return load_episodes(dot_recording(tmp_path_factory.mktemp("data") / "dots.h5", EPISODES, STEPS))


def theirs(path: Path, known: Episodes) -> Path:
    """The same episodes from the reference's own writer: no attributes, a state, an action in the last row."""
    with module("data.formats.hdf5").HDF5Writer(path) as writer:
        for offset, length in zip(known.offsets, known.lengths, strict=True):
            rows = slice(offset, offset + length)
            columns = {"pixels": known.pixels[rows], "action": np.nan_to_num(known.actions[rows])}
            writer.write_episode({**columns, "state": np.full((length, 2), 3.0), "step_idx": np.arange(length)})
    return path


def ours(path: Path, known: Episodes, compressed: dict[str, object] | None = None) -> Path:
    with EpisodeWriter(path, 32, ("a", "b"), 0.05) as writer:
        for offset, length in zip(known.offsets, known.lengths, strict=True):
            rows = slice(offset, offset + length)
            proprio = np.full((length, 2), offset, np.float32)
            writer.append(known.pixels[rows], known.actions[rows][:-1], proprio, 0.05 * np.arange(length))
    if compressed is not None:
        with h5py.File(path, "a") as file:
            pixels = file["pixels"][:]
            del file["pixels"]
            file.create_dataset("pixels", data=pixels, chunks=(8, 32, 32, 3), **compressed)
    return path


def test_a_recording_of_the_reference_trains_here(
    tmp_path: Path, known: Episodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = theirs(tmp_path / "theirs.h5", known)
    data = load_episodes(path)
    assert data.control_dt_s == 0.0 and data.action_names == ("joint1", "joint2")
    np.testing.assert_array_equal(data.pixels, known.pixels)
    np.testing.assert_array_equal(data.offsets, known.offsets)
    assert data.actions_sha256 == known.actions_sha256  # the last action of an episode leads nowhere and does not count
    assert data.proprio is not None and (data.proprio == 3.0).all()
    arguments = ["train", str(path), str(tmp_path / "bundle"), "--run", str(tmp_path / "run")]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, DataError) and "give it with --control-dt-s" in str(result.exception)
    sizes = {"model": asdict(tiny_model()), "train": {**asdict(tiny_train(steps=2)), "betas": [0.9, 0.99]}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(sizes))
    times: list[Any] = []
    monkeypatch.setattr("lewm_model.training.trainer.train", lambda *given: times.append(given) or train(*given))
    result = CliRunner().invoke(app, [*arguments, "--config", str(tmp_path / "tiny.yaml"), "--control-dt-s", "0.1"])
    assert result.exception is None, result.output
    assert len(times) == 1
    bundle = load_bundle(tmp_path / "bundle")
    assert len(held_out_episodes(bundle, load_episodes(path, 0.1))), "it can be evaluated, too"
    assert bundle.actions.control_dt_s == 0.1 and bundle.actions.names == ("joint1", "joint2")
    assert bundle.actions.kinds == ("recorded", "recorded")  # of unknown kind, so that no arm is commanded with them
    with pytest.raises(DataError, match=r"was recorded every 0.05 s, not every 0.1 s"):
        load_episodes(ours(tmp_path / "ours.h5", known), control_dt_s=0.1)


def test_the_reference_reads_our_recordings_and_draws_our_clips(tmp_path: Path, known: Episodes) -> None:
    path = ours(tmp_path / "ours.h5", known)
    data = module("data.formats.hdf5").HDF5Dataset(
        path=path, frameskip=5, num_steps=4, keys_to_load=["pixels", "action", "proprio"]
    )
    mine = load_episodes(path)
    sampler = ClipSampler(mine, np.arange(EPISODES), 4, 5, 1, seed=0)
    frames, blocks = sampler.batch(0, 8)
    found = 0
    for index in range(len(data)):
        clip = data[index]
        pixels = clip["pixels"].permute(0, 2, 3, 1).numpy()
        for ours_frames, ours_blocks in zip(frames, blocks, strict=True):
            if np.array_equal(pixels, ours_frames):
                np.testing.assert_array_equal(clip["action"][:3].numpy(), ours_blocks)
                found += 1
    assert found >= 6  # its clips end 20 rows behind their start, ours 16: the last four starts are ours alone
    assert set(module("data.formats.hdf5").HDF5Dataset(path=path).column_names) == {
        "pixels", "action", "proprio", "timestamp"
    }  # fmt: skip


def test_compressed_recordings_are_read(tmp_path: Path, known: Episodes, monkeypatch: pytest.MonkeyPatch) -> None:
    hdf5plugin = pytest.importorskip("hdf5plugin")
    kinds = {"gzip": {"compression": "gzip", "shuffle": True, "fletcher32": True}, "lzf": {"compression": "lzf"}}
    kinds |= {"blosc": dict(hdf5plugin.Blosc()), "zstd": dict(hdf5plugin.Zstd())}
    for in_memory in (2**28, 0):
        monkeypatch.setattr(clips, "IN_MEMORY", in_memory)
        for name, compressed in kinds.items():
            data = load_episodes(ours(tmp_path / f"{name}.h5", known, compressed))
            np.testing.assert_array_equal(data.pixels, known.pixels)
    monkeypatch.setattr(clips.h5py.h5z, "filter_avail", lambda code: code != 32001)
    with pytest.raises(DataError, match=r"'pixels' is compressed with blosc \(HDF5 filter 32001\).*install hdf5plugin"):
        load_episodes(tmp_path / "blosc.h5")


def test_a_recording_converts_to_another_size_and_gets_what_it_lacks(tmp_path: Path, known: Episodes) -> None:
    path = theirs(tmp_path / "theirs.h5", known)
    with pytest.raises(DataError, match="give it with --control-dt-s"):
        convert([path], tmp_path / "a.h5")
    arguments = ["convert", str(path), "--out", str(tmp_path / "a.h5"), "--control-dt-s", "0.1", "--image-size", "16"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "12 episodes, 492 of 492 recorded frames used" in result.output
    data = load_episodes(tmp_path / "a.h5")
    assert data.control_dt_s == 0.1 and data.image_size == (16, 16) and set(data.action_kinds) == {"recorded"}
    np.testing.assert_array_equal(data.lengths, known.lengths)
    inner = np.isfinite(known.actions).all(1)
    np.testing.assert_array_equal(data.actions[inner], known.actions[inner])
    with pytest.raises(DataError, match="cannot be written over itself"):
        convert([path], path, control_dt_s=0.1)


def check_kept(path: Path, known: Episodes) -> np.ndarray:
    """Everything that was kept is right; returns the rows of the recording that were."""
    data = load_episodes(path)
    rows = []
    for offset, length in zip(data.offsets, data.lengths, strict=True):
        kept = data.pixels[offset : offset + length]
        first = int(np.flatnonzero((known.pixels == kept[0]).all((1, 2, 3)))[0])
        np.testing.assert_array_equal(kept, known.pixels[first : first + length])
        np.testing.assert_array_equal(
            data.actions[offset : offset + length - 1], known.actions[first : first + length - 1]
        )
        rows += range(first, first + length)
    return np.array(rows)


def test_of_a_recording_that_was_cut_off_what_is_left_is_kept(tmp_path: Path, known: Episodes) -> None:
    path = ours(tmp_path / "whole.h5", known)
    content = path.read_bytes()
    kept = []
    for share in (0.98, 0.7, 0.4):
        cut = tmp_path / "cut.h5"
        cut.write_bytes(content[: int(share * len(content))])
        with pytest.raises(DataError, match="keeps what can be read"):
            load_episodes(cut)
        report = salvage_hdf5(cut, tmp_path / "out.h5")
        assert "cut.h5 was cut off" in report.problems[0]
        kept.append(len(check_kept(tmp_path / "out.h5", known)))
        assert kept[-1] == report.frames_used < 492 and "frames lost" in str(report)
    assert kept == sorted(kept, reverse=True) and kept[0] > 400 and kept[-1] > 100


def test_a_damaged_chunk_costs_its_own_frames_only(tmp_path: Path, known: Episodes) -> None:
    path = ours(tmp_path / "whole.h5", known, {"compression": "gzip", "fletcher32": True})
    with h5py.File(path) as file:
        chunk = file["pixels"].id.get_chunk_info(3)  # rows 24 to 31 of the first episode
    with path.open("r+b") as stream:
        stream.seek(chunk.byte_offset + chunk.size // 2)
        stream.write(bytes(20))
    with pytest.raises(DataError, match="keeps what can be read"):
        load_episodes(path)
    report = salvage_hdf5(path, tmp_path / "out.h5")
    assert report.gaps == ["episode 0: 8 frames lost"]
    assert set(range(492)) - set(check_kept(tmp_path / "out.h5", known)) == set(range(24, 32))
    assert list(load_episodes(tmp_path / "out.h5").lengths[:3]) == [24, 9, 41]


def test_what_cannot_be_salvaged_is_an_error(tmp_path: Path, known: Episodes) -> None:
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(DataError, match="is not an HDF5 file"):
        convert([tmp_path / "text.h5"], tmp_path / "out.h5")
    (tmp_path / "start.h5").write_bytes(SIGNATURE + bytes(100))
    with pytest.raises(DataError, match="nothing can be read"):
        convert([tmp_path / "start.h5"], tmp_path / "out.h5")
    with pytest.raises(DataError, match="there is no recording"):
        convert([tmp_path / "nowhere.h5"], tmp_path / "out.h5")
    path = ours(tmp_path / "a.h5", known)
    with pytest.raises(DataError, match="of which one at a time is converted"):
        convert([path, path], tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists() and not list(tmp_path.glob("*.part"))


def test_episodes_that_overlap_and_arrays_of_another_shape_are_refused_by_name(tmp_path: Path, known: Episodes) -> None:
    def changed(**arrays: Any) -> Path:
        path = ours(tmp_path / "a.h5", known)
        with h5py.File(path, "r+") as file:
            for name, values in arrays.items():
                del file[name]
                file[name] = values
        return path

    assert known.proprio is not None
    flat, short = known.actions[:, 0], known.proprio[:-1]
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"ep_offset": np.zeros_like(known.offsets)}, "its episodes overlap"),
        ({"action": flat}, r"'action' is \(\d+,\) float32; it must be \(N, action_dim\) numbers"),
        ({"action": known.actions > 0}, r"'action' is .* bool; it must be \(N, action_dim\) numbers"),
    )
    for arrays, said in wrong:
        with pytest.raises(DataError, match=said):
            convert([changed(**arrays)], tmp_path / "b.h5")
    with pytest.raises(DataError, match=r"'proprio' has .* rows, its episodes need"):
        load_episodes(changed(proprio=short))
    lost = known.proprio.copy()
    lost[5] = np.nan
    with pytest.raises(DataError, match=r"the joint positions in row 5 are not finite; `lewm convert"):
        load_episodes(changed(proprio=lost))
    assert salvage_hdf5(tmp_path / "a.h5", tmp_path / "b.h5").frames_used == len(lost) - 1


def test_attributes_that_cannot_be_read_are_told(
    tmp_path: Path, known: Episodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ours(tmp_path / "a.h5", known)
    monkeypatch.setattr("lewm_model.data.converters.hdf5.ATTRIBUTES_S", 1e-3)  # as on a machine that is too busy
    report = salvage_hdf5(path, tmp_path / "b.h5", control_dt_s=0.05)
    assert "the attributes of" in report.problems[0]
    assert set(load_episodes(tmp_path / "b.h5").action_kinds) == {"recorded"}


@pytest.mark.parametrize("kind", ["virtual", "external", "link"])
def test_frames_in_another_file_are_read_and_their_loss_is_told(
    tmp_path: Path, known: Episodes, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # HDF5 looks for external storage there
    path, (count, *shape) = ours(tmp_path / "a.h5", known), known.pixels.shape
    source = tmp_path / ("frames.raw" if kind == "external" else "frames.h5")
    with h5py.File(path, "r+") as file:
        del file["pixels"]
        if kind == "external":
            source.write_bytes(known.pixels.tobytes())
            file.create_dataset("pixels", known.pixels.shape, "u1", external=[(source.name, 0, known.pixels.nbytes)])
        else:
            with h5py.File(source, "w") as other:
                other["frames"] = known.pixels
        if kind == "link":
            file["pixels"] = h5py.ExternalLink(source.name, "/frames")
        if kind == "virtual":
            layout = h5py.VirtualLayout(known.pixels.shape, "u1")
            layout[:] = h5py.VirtualSource(source.name, "frames", (count, *shape))
            file.create_virtual_dataset("pixels", layout)
    assert salvage_hdf5(path, tmp_path / "b.h5").frames_used == count
    np.testing.assert_array_equal(load_episodes(tmp_path / "b.h5").pixels, known.pixels)
    source.unlink()
    for read in (lambda: salvage_hdf5(path, tmp_path / "c.h5"), lambda: load_episodes(path)):
        with pytest.raises(
            DataError, match=r"frames\.(raw|h5), which is missing|lacks the data set|cannot be read|nothing"
        ):
            read()


def test_frames_that_were_never_written_are_not_trained_on(tmp_path: Path, known: Episodes) -> None:
    path = ours(tmp_path / "a.h5", known)
    with h5py.File(path, "r+") as file:
        del file["pixels"]
        pixels = file.create_dataset("pixels", known.pixels.shape, "u1", chunks=(8, *known.pixels.shape[1:]))
        pixels[:40] = known.pixels[:40]
    with pytest.raises(DataError, match=r"some of which were never written; `lewm convert"):
        load_episodes(path)
    assert salvage_hdf5(path, tmp_path / "b.h5").frames_used == 40
    np.testing.assert_array_equal(load_episodes(tmp_path / "b.h5").pixels, known.pixels[:40])


def test_attributes_as_other_programs_write_them_are_read_or_refused_by_name(tmp_path: Path, known: Episodes) -> None:
    def changed(**attributes: object) -> Path:
        path = ours(tmp_path / "a.h5", known)
        with h5py.File(path, "r+") as file:
            file.attrs.update(attributes)
        return path

    salvage_hdf5(changed(action_names=["left", "right"]), tmp_path / "b.h5")
    assert load_episodes(tmp_path / "b.h5").action_names == ("left", "right")
    for kind, said in (("delta", "action_kind is 'delta'; known kinds"), ('["joint', "attribute action_kind")):
        with pytest.raises(DataError, match=said):
            salvage_hdf5(changed(action_kind=kind), tmp_path / "c.h5")
    with pytest.raises(DataError, match="attribute action_kind cannot be read"):
        load_episodes(changed(action_kind=np.array([1, 2])))
    for step_s in (float("nan"), -0.05):
        with pytest.raises(DataError, match=r"control_dt_s is (nan|-0.05); it is the time"):
            load_episodes(changed(control_dt_s=step_s))


def test_a_recording_is_known_by_its_content_whatever_it_is_called(tmp_path: Path, known: Episodes) -> None:
    path = ours(tmp_path / "a.h5", known).rename(tmp_path / "recording")
    assert convert([path], tmp_path / "b.h5", accept_doubts=True).frames_used == len(known.pixels)


def test_columns_of_a_recording_are_chosen_held_or_refused(tmp_path: Path, known: Episodes) -> None:
    path = ours(tmp_path / "a.h5", known)
    salvage_hdf5(path, tmp_path / "b.h5", columns=Columns(names=("b",)))
    data = load_episodes(tmp_path / "b.h5")
    assert data.action_names == ("b",) and data.proprio is not None and data.proprio.shape[1] == 1
    inner = np.isfinite(known.actions).all(1)
    np.testing.assert_array_equal(data.actions[inner, 0], known.actions[inner, 1])
    with h5py.File(path, "r+") as file:
        file["action"][:, 0] = 0.0
        file["action"][100:110, 0] = 0.5
    report = salvage_hdf5(path, tmp_path / "c.h5", columns=Columns(held=("a",)))
    data = load_episodes(tmp_path / "c.h5")
    assert data.action_names == ("b",) and report.left_out["steps in which a held joint moved"] == 10
    assert len(data.pixels) == len(known.pixels) - 9  # what lies between two such steps is no episode
    with pytest.raises(DataError, match="has no column 'wrist'; it has a, b"):
        salvage_hdf5(path, tmp_path / "d.h5", columns=Columns(names=("wrist",)))
    for option in ({"clock": "recorder"}, {"camera": "front"}, {"columns": Columns(units="deg")}):
        with pytest.raises(DataError, match="do not apply"):
            convert([path], tmp_path / "d.h5", **option)  # type: ignore[arg-type]
