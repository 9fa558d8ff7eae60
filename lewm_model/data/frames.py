# SPDX-License-Identifier: Apache-2.0
"""Frames that stay in a file instead of memory: mapped if they are uncompressed, else decoded once into a cache file.

Each page of a mapped file that was read counts as the process's memory (RSS) until the system reclaims it, so a few
passes over a large recording would look like a leak. `MappedFrames` therefore reads the rows that training asks for
with `preadv`, which copies them from the page cache, shared by all processes, into the batch without mapping a page.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import math
import os
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
from tqdm import tqdm

from lewm_model.config import cache_folder
from lewm_model.data.errors import DataError

CACHE = "LEWM_CACHE"  # environment variable with the folder for decoded frames
_BLOCK = 2**26  # bytes decoded at once, about


class MappedFrames(np.memmap):
    """Frames (N, H, W, 3) uint8 of a file, read-only.

    Indexing with an array of integers, as in `frames[rows]`, copies the rows without mapping a page. Any other index
    gives a view of the mapping, as with every `np.memmap`. Pickling stores path and position of the frames, not the
    frames.
    """

    _descriptor: int | None
    _place: tuple[Path, tuple[int, ...], int]

    def __new__(cls, path: Path, shape: tuple[int, ...], start: int = 0) -> MappedFrames:
        """
        :param shape: (N, H, W, 3).
        :param start: byte where the first frame begins.
        :raises DataError: the file is shorter than that.
        """
        with open(path, "rb") as stream:
            there, needed = os.fstat(stream.fileno()).st_size, start + math.prod(shape)
            if there < needed:
                raise DataError(f"{path} has {there} bytes, its frames need {needed}: it was cut off")
            frames = cast("MappedFrames", super().__new__(cls, stream, np.uint8, "r", start, shape))
            frames._descriptor = os.dup(stream.fileno())
        frames._place = (path, shape, start)
        weakref.finalize(frames, os.close, frames._descriptor)
        return frames

    def __array_finalize__(self, parent: Any) -> None:
        super().__array_finalize__(parent)
        self._descriptor = None  # row numbers of a view are not those of the file, so a view does not read with preadv

    def __reduce__(self) -> Any:
        if self._descriptor is None:
            return np.asarray(self).__reduce__()
        return MappedFrames, self._place

    def __getitem__(self, key: Any) -> Any:
        picked = self._descriptor is not None and isinstance(key, np.ndarray) and key.dtype.kind in "iu"
        return self._read(key) if picked else super().__getitem__(key)

    def _read(self, rows: np.ndarray) -> np.ndarray:
        """Copies (…, H, W, 3) of rows (…); consecutive rows are read with one call."""
        assert self._descriptor is not None
        flat = rows.reshape(-1).astype(np.int64)
        if len(flat) == 0:
            return np.empty((*rows.shape, *self.shape[1:]), np.uint8)
        if flat.min() < 0 or flat.max() >= len(self):
            raise IndexError(f"rows {flat.min()} to {flat.max()} of {len(self)}")
        path, shape, start = self._place
        frame = math.prod(shape[1:])
        out = np.empty(len(flat) * frame, np.uint8)
        begins = [0, *(np.flatnonzero(np.diff(flat) != 1) + 1).tolist(), len(flat)]
        for begin, end in itertools.pairwise(begins):
            into, at = out[begin * frame : end * frame], start + int(flat[begin]) * frame
            while len(into):
                count = os.preadv(self._descriptor, [into.data], at)
                if count == 0:
                    raise DataError(f"{path} became shorter while it was read; start again when it is complete")
                into, at = into[count:], at + count
        return out.reshape(*rows.shape, *shape[1:])


def frames_folder(recording: Path) -> Path:
    """The folder for decoded frames: $LEWM_CACHE, or one beside the recording if writable, or in the user's cache."""
    if os.environ.get(CACHE):
        return Path(os.environ[CACHE])
    if os.access(recording.parent, os.W_OK):
        return recording.parent / ".lewm_cache"
    return cache_folder("frames")


def decoded_frames(recording: Path, pixels: h5py.Dataset, count: int, key: str) -> MappedFrames:
    """The first `count` frames of an HDF5 data set, from a cache file of raw frames, which is made if it is missing.

    When several processes ask at the same time, one decodes and the others wait. The file appears when it is complete.

    :param key: name of the cache file; the same recording must get the same one again.
    :raises DataError: the disk is too full, or the frames cannot be decoded.
    """
    folder = frames_folder(recording)
    file, shape = folder / f"{key}.frames", (count, *pixels.shape[1:])
    size = math.prod(shape)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / f"{key}.lock"):
            if not file.is_file() or file.stat().st_size != size:
                _decode(recording, pixels, shape, size, file)
    except DataError:
        raise
    except OSError as error:
        raise DataError(
            f"the frames of {recording} cannot be decoded into {folder} ({error}); make room there, or set {CACHE} to "
            "a folder on a larger disk"
        ) from error
    return MappedFrames(file, shape)


def _decode(recording: Path, pixels: h5py.Dataset, shape: tuple[int, ...], size: int, file: Path) -> None:
    free = shutil.disk_usage(file.parent).free
    if size > free:
        raise DataError(
            f"the frames of {recording} take {size / 1e9:.3g} GB decoded and {file.parent} has {free / 1e9:.3g} GB "
            f"left; make room there, or set {CACHE} to a folder on a larger disk"
        )
    part = file.with_suffix(".part")
    chunk = pixels.chunks[0] if pixels.chunks else 1
    rows = max(1, _BLOCK // max(1, size // shape[0]) // chunk) * chunk
    block = np.empty((min(rows, shape[0]), *shape[1:]), np.uint8)
    try:
        bar = tqdm(total=shape[0], desc=f"decoding {recording.name} once", unit="frame", disable=None, delay=2)
        with open(part, "wb") as out, bar:
            for begin in range(0, shape[0], rows):
                some = block[: min(rows, shape[0] - begin)]
                try:
                    pixels.read_direct(some, np.s_[begin : begin + len(some)])
                except Exception as error:  # for a damaged chunk h5py raises errors of many types
                    raise DataError(
                        f"{recording}: frames behind row {begin} cannot be read ({error}); `lewm convert {recording} "
                        "--out FILE` keeps those that can"
                    ) from error
                out.write(some.data)
                bar.update(len(some))
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """A lock that one process holds at a time; the system releases it when the process dies."""
    with open(path, "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
