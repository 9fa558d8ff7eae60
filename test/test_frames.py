# SPDX-License-Identifier: Apache-2.0
"""Frames that stay on disk: the same numbers as in memory, shared, and no growing process."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
from tiny import dot_recording

import lewm_model.data.clips as clips
import lewm_model.data.frames as frames_module
from lewm_model.data.clips import ClipSampler, DataError, load_episodes
from lewm_model.data.frames import MappedFrames

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dot_recording(tmp_path_factory.mktemp("data") / "dots.h5")


def rewritten(source: Path, path: Path, **storage: object) -> Path:
    """The recording with its pixels stored in another way."""
    with h5py.File(source) as old, h5py.File(path, "w") as new:
        for name in old:
            new.create_dataset(name, data=old[name][:], **(storage if name == "pixels" else {}))
        new.attrs.update(old.attrs)
    return path


@pytest.mark.parametrize("storage", [{}, {"chunks": (1, 32, 32, 3)}, {"compression": "gzip"}, {"compression": "lzf"}])
def test_frames_on_disk_are_those_in_memory(tmp_path: Path, recording: Path, storage, monkeypatch) -> None:
    path = rewritten(recording, tmp_path / "a.h5", **storage)
    known = load_episodes(path)
    assert type(known.pixels) is np.ndarray
    monkeypatch.setattr(clips, "IN_MEMORY", 0)
    data = load_episodes(path)
    assert isinstance(data.pixels, np.memmap)
    assert (tmp_path / ".lewm_cache").exists() == bool(storage)  # raw data in the file is mapped in place
    assert data.sha256 == known.sha256
    np.testing.assert_array_equal(data.pixels, known.pixels)
    rows = np.array([[3, 9, 14], [5, 6, 7], [491, 0, 0]])
    np.testing.assert_array_equal(data.pixels[rows], known.pixels[rows])
    assert data.pixels[rows[:0]].shape == (0, 3, 32, 32, 3)
    for key in (7, slice(3, 9), np.s_[::50, 4]):
        np.testing.assert_array_equal(data.pixels[key], known.pixels[key])
    np.testing.assert_array_equal(data.pixels[40:][rows[0]], known.pixels[40:][rows[0]])  # a view has its own rows
    np.testing.assert_array_equal(
        np.concatenate(list(data.batches(np.arange(5, 400), 64))), known.pixels[5:400]
    )  # fmt: skip
    samplers = [ClipSampler(one, np.arange(10), 3, 5, 2, seed=4) for one in (data, known)]
    for ours, theirs in zip(samplers[0].batch(8, 16), samplers[1].batch(8, 16), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    content = pickle.dumps(data.pixels)
    assert len(content) < 1000
    np.testing.assert_array_equal(pickle.loads(content), known.pixels)
    with pytest.raises(IndexError):
        data.pixels[np.array([len(known.pixels)])]


def test_frames_are_decoded_once_however_many_ask(tmp_path: Path, recording: Path, monkeypatch) -> None:
    path = rewritten(recording, tmp_path / "a.h5", compression="gzip")
    monkeypatch.setattr(clips, "IN_MEMORY", 0)
    monkeypatch.setenv("LEWM_CACHE", str(tmp_path / "elsewhere"))
    decoded, original = [], frames_module._decode
    monkeypatch.setattr(frames_module, "_decode", lambda *all: (decoded.append(1), original(*all)))
    found: list[MappedFrames] = []
    threads = [threading.Thread(target=lambda: found.append(load_episodes(path).pixels)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and len(decoded) == 1
    assert len({frames.filename for frames in found}) == 1
    # Another recording of the same motion, or a change of this one, is not taken for it.
    with h5py.File(path, "a") as file:
        file["pixels"][0] = 7
    assert (load_episodes(path).pixels[np.array([0])] == 7).all() and len(decoded) == 2


def test_without_room_for_decoded_frames_it_is_said_before_any_is_written(tmp_path, recording, monkeypatch) -> None:
    path = rewritten(recording, tmp_path / "a.h5", compression="gzip")
    monkeypatch.setattr(clips, "IN_MEMORY", 0)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(frames_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"take 0.00151 GB decoded and .* has 1e-06 GB left; .*LEWM_CACHE"):
        load_episodes(path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.undo()
    monkeypatch.setattr(clips, "IN_MEMORY", 0)
    monkeypatch.setattr(frames_module.os, "fsync", full)
    with pytest.raises(DataError, match=r"No space left on device.*make room there"):
        load_episodes(path)
    assert not [file for file in (tmp_path / ".lewm_cache").iterdir() if file.suffix != ".lock"]


def test_a_file_that_is_cut_off_is_an_error_and_not_a_crash(tmp_path: Path, recording: Path, monkeypatch) -> None:
    path = rewritten(recording, tmp_path / "a.h5", chunks=(1, 32, 32, 3))
    monkeypatch.setattr(clips, "IN_MEMORY", 0)
    data = load_episodes(path)
    os.truncate(data.pixels.filename, 32 * 32 * 3 * 10)
    with pytest.raises(DataError, match="became shorter while it was read"):
        data.pixels[np.arange(8, 12)]
    np.testing.assert_array_equal(load_episodes(path).pixels[np.arange(400)].shape, (400, 32, 32, 3))  # made anew


def test_batches_of_a_data_set_larger_than_memory_do_not_grow_the_process(tmp_path: Path) -> None:
    """The short form of `make train-memory`: 1.2 GB read out of 40 GB."""
    code = (
        "import json, sys; sys.path.insert(0, '.')\n"
        "from pathlib import Path; import numpy as np\n"
        "from benchmarks.memory import memory_gb, sparse_recording\n"
        "from lewm_model.data.clips import ClipSampler, load_episodes\n"
        "data = load_episodes(sparse_recording(Path(sys.argv[1]), 40e9))\n"
        "sampler = ClipSampler(data, np.arange(len(data.lengths)), 4, 5, 1, 0)\n"
        "sampler.batch(0, 64)\n"
        "before = memory_gb()\n"
        "for step in range(32): sampler.batch(step, 64)\n"
        "print(json.dumps([data.pixels.nbytes, memory_gb()['VmRSS'] - before['VmRSS']]))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "sparse.h5")]
    size, grown_gb = json.loads(subprocess.run(command, check=True, capture_output=True, cwd=ROOT).stdout)
    assert size > 39e9
    assert grown_gb < 0.2
    assert (tmp_path / "sparse.h5").stat().st_blocks * 512 < 1e8
