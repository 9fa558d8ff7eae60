# SPDX-License-Identifier: Apache-2.0
"""Writes episodes to one HDF5 file, in stable-worldmodel's layout.

Rows of all episodes follow one another: `pixels` (N, H, W, 3) uint8 RGB, `action` (N, A) float32, `proprio` (N, A)
float32 and, where it is known, `timestamp` (N,) float64, s: when the picture was taken. Row i's action executes from
frame i to frame i + 1; the last row of an episode has no successor and holds NaN. `ep_offset` (E,) and `ep_len` (E,)
int64 are the first row and the number of rows of each episode.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from lewm_model.robot.observation import Camera

_ROOM = 2**25  # bytes for HDF5's own use, beside the frames
_KEEP_SIZE = 1  # of Linux's fallocate: the file gets room behind its end and does not become longer
_LIBRARY = ctypes.CDLL(None, use_errno=True)
_FRAMES_PER_CHUNK = 8  # few, since a clip reads few frames; but the index of one chunk per frame would be slow


class EpisodeWriter:
    """Appends whole episodes; the file appears under its name when it is complete.

    Until :meth:`close` (or the end of the ``with`` block) the data are in ``<path>.part`` beside it, so that a
    recording that is killed leaves an earlier file of that name intact. An exception in the block discards them.

    :param path: file to write; an existing one is replaced.
    :param image_size: height and width of a picture, pixels, or one number for both.
    :param action_names: one name for each column of `action`.
    :param control_dt_s: time from frame to frame, s.
    :param action_kind: kind of the columns, one of `lewm_model.robot.actions.KINDS` for all or one for each.
    :param action_units: the unit of each column; by default that of its kind.
    :param cameras: whose pictures are side by side in a frame, from left to right; empty when not known.
    :param attributes: further attributes of the file, e.g. seed, world and command.
    :param recorded: how the episodes were made, as plain data that a bundle trained on them keeps.
    :param measured: columns of `proprio`; None is as many as `action` has, 0 writes no `proprio`.
    :raises ValueError: the size, the names or the time cannot be used.
    """

    def __init__(
        self,
        path: str | Path,
        image_size: int | tuple[int, int],
        action_names: tuple[str, ...],
        control_dt_s: float,
        action_kind: str | Sequence[str] = "joint_velocity",
        attributes: dict[str, str | int | float] | None = None,
        measured: int | None = None,
        recorded: dict[str, Any] | None = None,
        action_units: Sequence[str] | None = None,
        cameras: Sequence[Camera] = (),
    ) -> None:
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        if min(size) < 1 or not action_names or not control_dt_s > 0.0:
            raise ValueError(
                f"image_size {image_size}, action_names {action_names}, control_dt_s {control_dt_s}: "
                "the size must be 1 or more, there must be a name, and the time must be above 0"
            )
        self._path = Path(path)
        self._part = self._path.with_name(self._path.name + ".part")
        self.image_size = size
        self._actions = len(action_names)
        self._measured = self._actions if measured is None else measured
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = h5py.File(self._part, "w")
        self._create("pixels", (*size, 3), "uint8", _FRAMES_PER_CHUNK)
        self._create("action", (self._actions,), "float32", 1024)
        if self._measured:
            self._create("proprio", (self._measured,), "float32", 1024)
        self._create("ep_len", (), "int64", 1024)
        self._create("ep_offset", (), "int64", 1024)
        self._file.attrs.update(
            {
                **(attributes or {}),
                "control_dt_s": float(control_dt_s),
                "action_names": json.dumps(list(action_names)),
                "action_kind": action_kind if isinstance(action_kind, str) else json.dumps(list(action_kind)),
                **({"cameras": json.dumps([asdict(camera) for camera in cameras])} if cameras else {}),
                **({} if action_units is None else {"action_units": json.dumps(list(action_units))}),
                "recorded": json.dumps(recorded or {}),
            }
        )

    def append(
        self, pixels: np.ndarray, action: np.ndarray, proprio: np.ndarray, stamps_s: np.ndarray | None = None
    ) -> None:
        """Adds one episode of n frames.

        :param pixels: (n, H, W, 3) uint8 RGB.
        :param action: (n - 1, A), the actions that were executed between the frames.
        :param proprio: (n, A), or (n, measured), measured joint positions, rad.
        :param stamps_s: (n,) when the pictures were taken, s; given for every episode or for none.
        :raises ValueError: a shape or dtype does not fit, or a number is not finite.
        :raises OSError: the disk is full.
        """
        self._make_room(pixels.nbytes + _ROOM)
        frames = len(pixels)
        expected = (frames, *self.image_size, 3)
        if frames < 2 or pixels.shape != expected or pixels.dtype != np.uint8:
            raise ValueError(f"pixels are {pixels.shape} {pixels.dtype}; {expected} uint8 of 2 or more frames expected")
        known = (("action", action, frames - 1, self._actions), ("proprio", proprio, frames, self._measured))
        for name, values, rows, columns in known:
            if values.shape != (rows, columns):
                raise ValueError(f"{name} is {values.shape}; {(rows, columns)} expected for {frames} frames")
            if not np.isfinite(values).all():
                raise ValueError(f"{name} holds NaN or infinity; every value must be finite")
        padded = np.vstack([action, np.full((1, self._actions), np.nan)])
        offset = len(self._file["pixels"])
        columns_of = {"pixels": pixels, "action": padded}
        if self._measured:
            columns_of["proprio"] = proprio
        if stamps_s is not None and offset == 0:
            self._create("timestamp", (), "float64", 1024)
        if (stamps_s is not None) != ("timestamp" in self._file) or (stamps_s is not None and len(stamps_s) != frames):
            raise ValueError(f"there must be {frames} stamps, in every episode or in none")
        if stamps_s is not None:
            columns_of["timestamp"] = stamps_s
        for name, rows_of in columns_of.items():
            dataset = self._file[name]
            dataset.resize(offset + frames, axis=0)
            dataset[offset:] = rows_of
        for name, value in (("ep_offset", offset), ("ep_len", frames)):
            dataset = self._file[name]
            dataset.resize(len(dataset) + 1, axis=0)
            dataset[-1] = value

    def close(self) -> None:
        """Completes the file and gives it its name."""
        if self._file:
            self._file.close()
            with open(self._part, "r+b") as written:
                written.truncate(os.fstat(written.fileno()).st_size)  # frees the room that was not used
                os.fsync(written.fileno())
            os.replace(self._part, self._path)

    def discard(self) -> None:
        """Deletes what was written."""
        if self._file:
            self._file.close()
            self._part.unlink()

    def _make_room(self, size: int) -> None:
        """Has the disk set aside `size` bytes behind what was written: HDF5 does not survive a write that fails.

        :raises OSError: the disk is full.
        """
        with open(self._part, "r+b") as file:
            end = os.fstat(file.fileno()).st_size
            if _LIBRARY.fallocate(file.fileno(), _KEEP_SIZE, ctypes.c_long(end), ctypes.c_long(size)) == 0:
                return
            full = ctypes.get_errno() in (errno.ENOSPC, errno.EDQUOT)
            file.truncate(end)  # frees what was set aside
        if full or shutil.disk_usage(self._path.parent).free < size:  # not every file system can set room aside
            raise OSError(errno.ENOSPC, "the disk is full; make room, or write to another one", str(self._path))

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def _create(self, name: str, shape: tuple[int, ...], dtype: str, rows: int) -> None:
        self._file.create_dataset(name, (0, *shape), dtype, maxshape=(None, *shape), chunks=(rows, *shape))
