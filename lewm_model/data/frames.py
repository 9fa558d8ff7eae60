# SPDX-License-Identifier: Apache-2.0
"""Frames in a file instead of in memory: mapped where they lie as they are, decoded once where they do not.

A page of a mapped file that was looked at counts as the process's memory (RSS) until the system takes it back, so a
few passes over a large recording would look like a leak. `MappedFrames` therefore reads the rows that training asks
for with `preadv`: the bytes go from the page cache, which all processes share, into the batch and nowhere else.
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

CACHE = "LEWM_CACHE"  # environment variable: folder of decoded frames
_BLOCK = 2**26  # bytes decoded at once


class MappedFrames(np.memmap):
    """Frames (N, H, W, 3) uint8 of a file, read-only.

    Rows that are picked with an array of integers, as in `frames[rows]`, are copied without mapping a page. Anything
    else is a view of the mapping, as of every `np.memmap`. Pickling keeps the place of the frames, not the frames.
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
        self._descriptor = None  # a view's rows are not the file's

    def __reduce__(self) -> Any:
        if self._descriptor is None:
            return np.asarray(self).__reduce__()
        return MappedFrames, self._place

    def __getitem__(self, key: Any) -> Any:
        picked = self._descriptor is not None and isinstance(key, np.ndarray) and key.dtype.kind in "iu"
        return self._read(key) if picked else super().__getitem__(key)

    def _read(self, rows: np.ndarray) -> np.ndarray:
        """Copies of rows (…), (…, H, W, 3); neighbours in the file are read in one go."""
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
                    raise DataError(f"{path} was cut off while it was read; start again when it is whole")
                into, at = into[count:], at + count
        return out.reshape(*rows.shape, *shape[1:])


def frames_folder(recording: Path) -> Path:
    """Where decoded frames are kept: $LEWM_CACHE, else beside the recording, else in the user's cache."""
    if os.environ.get(CACHE):
        return Path(os.environ[CACHE])
    if os.access(recording.parent, os.W_OK):
        return recording.parent / ".lewm_cache"
    return cache_folder("frames")


def decoded_frames(recording: Path, pixels: h5py.Dataset, count: int, key: str) -> MappedFrames:
    """The first `count` frames of an HDF5 data set, from a file of raw frames that is made where there is none.

    Of processes that ask at the same time one decodes and the others wait. The file appears when it is whole.

    :param key: names the content; the same recording finds its file again.
    :raises DataError: there is too little room, or the frames cannot be decoded.
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
                except Exception as error:  # of a damaged chunk HDF5 says what it likes
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
    """Held by one process at a time; ends with the process."""
    with open(path, "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
