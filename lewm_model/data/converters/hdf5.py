# SPDX-License-Identifier: Apache-2.0
"""HDF5 recordings to HDF5 recordings: keeps everything that can be read of a damaged or truncated one, and can change
the picture size and choose columns.

HDF5 refuses a truncated file. Through a stream that continues it with zeros the library finds its structure again, and
the position of each chunk of rows tells whether it was lost. Rows whose chunk fails its decompressor or checksum are
lost as well. Lost rows cut the episode that they belong to.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lewm_model.data.clips import kinds_and_units, lost_sources
from lewm_model.data.converters.columns import Columns
from lewm_model.data.converters.conversion import Conversion, stretches
from lewm_model.data.episodes import EpisodeWriter
from lewm_model.data.errors import DataError
from lewm_model.robot.observation import Camera, Observation, to_model_image

MOST = 1e9  # greatest magnitude of a number that is kept (lewm_model.data.clips.MOST)
STILL = 1e-3  # rad/s, greatest action of a held joint that does not move
ATTRIBUTES_S = 60.0  # time after which reading the attributes is given up
SIGNATURE = b"\x89HDF\r\n\x1a\n"
_END_AT = {0: 40, 1: 44, 2: 28, 3: 28}  # version of the superblock -> byte where it has the length of the file


class _Continued(io.RawIOBase):
    """A file with the length that its superblock says, zeros where it was truncated."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  closed in close()
        self.there = os.fstat(self._file.fileno()).st_size
        start = self._file.read(64)
        if not start.startswith(SIGNATURE):
            raise DataError(f"{path} is not an HDF5 file, or its beginning is damaged: nothing can be read of it")
        end_at = _END_AT.get(start[8], 40)
        said = int.from_bytes(start[end_at : end_at + 8], "little")
        self.size = max(self.there, said if said < 2**50 else 0)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self.size - self._at))
        self._file.seek(self._at)
        found = self._file.readinto(view[:count]) or 0
        view[found:count] = bytes(count - found)
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def salvage_hdf5(
    path: Path,
    out: str | Path,
    image_size: int | None = None,
    control_dt_s: float | None = None,
    columns: Columns | None = None,
) -> Conversion:
    """Writes everything that can be read of a recording in stable-worldmodel's layout to another file.

    :param image_size: pixels; frames are cropped to a square and scaled. None keeps the size when the recording names
        its cameras, and otherwise crops frames to a square.
    :param control_dt_s: time from row to row, s, of a recording that does not have it.
    :param columns: which columns of the action are kept; rows in which a held joint moves are left out.
    :raises DataError: nothing can be read, or the file is not such a recording.
    """
    if Path(out).resolve() == path.resolve():
        raise DataError(f"{path} cannot be written over itself; give another --out")
    if find_spec("hdf5plugin"):
        import hdf5plugin  # noqa: F401  registers its filters
    report = Conversion()
    with _Continued(path) as stream:
        if stream.size > stream.there:
            report.problems.append(f"{path} was cut off: {stream.there} of {stream.size} bytes are there")
        try:
            # A whole one is opened by its path, so that it finds the files that it refers to.
            cut = stream.size > stream.there
            with h5py.File(stream if cut else path, "r") as file:
                there = stream.there if cut else sys.maxsize
                _convert(file, path, out, there, image_size, control_dt_s, columns or Columns(), report)
        except DataError:
            raise
        except Exception as error:  # h5py raises OSError, RuntimeError, KeyError and more for a damaged file
            raise DataError(f"nothing can be read of {path}: {error}") from error
    return report


def _convert(
    file: h5py.File,
    path: Path,
    out: str | Path,
    there: int,
    image_size: int | None,
    control_dt_s: float | None,
    columns: Columns,
    report: Conversion,
) -> None:
    missing = [name for name in ("pixels", "action", "ep_len", "ep_offset") if name not in file]
    if missing:
        raise DataError(f"{path} lacks the data set {missing[0]!r}; it holds {', '.join(file) or 'nothing'}")
    lost = lost_sources(file["pixels"], path)
    if lost:
        raise DataError(f"{path}: its frames are in {', '.join(lost)}, which is missing; put it where it was")
    lengths, offsets = (_whole(file[name], there, path) for name in ("ep_len", "ep_offset"))
    pixels, action, measured = file["pixels"], file["action"], file.get("proprio", file.get("state"))
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise DataError(f"{path}: 'pixels' is {pixels.shape} {pixels.dtype}; it must be (N, H, W, 3) uint8")
    if action.ndim != 2 or action.dtype.kind not in "fiu":
        raise DataError(f"{path}: 'action' is {action.shape} {action.dtype}; it must be (N, action_dim) numbers")
    order = np.argsort(offsets, kind="stable")
    if (offsets[order][1:] < (offsets + lengths)[order][:-1]).any():
        raise DataError(
            f"{path}: its episodes overlap, so 'ep_offset' or 'ep_len' is wrong; 'ep_offset' is the first row of each"
        )
    width = 0 if measured is None else int(np.prod(measured.shape[1:]))
    names, dt, kind, original, units, cameras = _facts(path, action.shape[1], report)
    if control_dt_s is not None and dt and abs(control_dt_s - dt) > 1e-6:
        raise DataError(f"{path} was recorded every {dt} s, not every {control_dt_s} s; leave --control-dt-s out")
    kept, held = _places(
        columns.names or [name for name in names if name not in columns.held], columns.held, names, path
    )
    alike = width == action.shape[1]
    if columns.names or columns.held:
        width = len(kept) if alike else width
    chosen = tuple(names[at] for at in kept)
    kinds, _ = kinds_and_units({"action_kind": kind}, len(names), path)
    kind = kinds[0] if len(set(kinds)) == 1 else json.dumps([kinds[at] for at in kept])
    if columns.grippers:
        kind = columns.kinds(chosen, kinds[kept[0]])
    dt = control_dt_s or dt
    if not dt > 0.0:
        raise DataError(f"{path} does not say how much time lies between its rows; give it with --control-dt-s")
    size, cameras = _size(path, pixels.shape[1:3], image_size, cameras)
    options = ["--image-size", str(image_size)] if image_size else []
    command = shlex.join(["lewm", "convert", str(path), "--out", str(out), *options])
    recorded = {
        "recorder": "lewm convert",
        "kind": "HDF5",
        "sources": [str(path)],
        "original": original,
        "command": command,
    }
    for name in chosen if (columns.names or columns.held) else ():
        report.note(f"column {name} is kept")
    if "timestamp" in file:
        report.notes.append("the stamps of the pictures are not copied; use `lewm data report` on the original")
    facts: dict[str, Any] = {"action_units": [units[at] for at in kept] if units else None, "cameras": cameras}
    with EpisodeWriter(out, size, chosen, dt, kind, {"command": command}, width, recorded, **facts) as writer:
        for number, (offset, length) in enumerate(zip(offsets.tolist(), lengths.tolist(), strict=True)):
            rows = min(length, *(len(data) - offset for data in (pixels, action)))
            report.frames_recorded += max(0, length)
            if not 2 <= rows <= MOST or offset < 0:
                report.problems.append(f"episode {number}: its {length} rows from {offset} on are missing")
                continue
            part = slice(offset, offset + rows)
            _convert_episode(writer, number, part, length, pixels, action, measured, there, report, kept, held, alike)
        if not report.episodes:
            raise DataError(f"no episode of 2 frames or more is left\n{report}")


def _places(kept: Sequence[str], held: Sequence[str], names: Sequence[str], path: Path) -> tuple[list[int], list[int]]:
    """The numbers of kept and held columns.

    :raises DataError: a column is unknown, or none is kept.
    """
    unknown = sorted({*kept, *held} - set(names))
    if unknown or not kept:
        raise DataError(f"{path} has no column {unknown[0] if unknown else ''!r}; it has {', '.join(names)}")
    return [names.index(name) for name in kept], [names.index(name) for name in held]


def _size(
    path: Path, there: tuple[int, ...], image_size: int | None, cameras: tuple[Camera, ...]
) -> tuple[tuple[int, int], tuple[Camera, ...]]:
    """Height and width of the pictures to write, and their cameras, if the recording names them.

    :raises DataError: a square is asked for, but frames show several cameras side by side, or one that is not square.
    """
    if not cameras or Observation(cameras).size != there:
        size = image_size or min(there)
        return (size, size), ()
    if image_size is None:
        return (int(there[0]), int(there[1])), cameras
    if len(cameras) > 1 or cameras[0].height != cameras[0].width:
        raise DataError(
            f"the pictures of {path} are {there[0]} x {there[1]}, of {', '.join(camera.name for camera in cameras)}; "
            "they cannot be made a square, so leave --image-size out"
        )
    return (image_size, image_size), (replace(cameras[0], height=image_size, width=image_size),)


def _facts(
    path: Path, columns: int, report: Conversion
) -> tuple[tuple[str, ...], float, str, dict[str, Any], tuple[str, ...], tuple[Camera, ...]]:
    """Names of the actions, time from row to row, s (0.0: unknown), kind, how it was recorded, units and cameras
    (empty: unknown), as far as the attributes can be read.

    A separate process reads them, because HDF5 2.0.0 never returns from some damage of the heap that holds texts.
    """
    command = [sys.executable, "-m", "lewm_model.data.converters.hdf5", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ATTRIBUTES_S, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        found = {}
        report.problems.append(
            f"the attributes of {path} cannot be read: names, kinds and units of the actions are not known"
        )
    try:
        names = [str(name) for name in json.loads(found.get("action_names") or "[]")]
    except (TypeError, ValueError, RecursionError):
        names = []
    if len(names) != columns or len(set(names)) != columns:
        names = [f"joint{i + 1}" for i in range(columns)]
    try:
        dt = float(found.get("control_dt_s") or 0.0)
    except (TypeError, ValueError):
        dt = 0.0
    try:
        recorded = json.loads(found.get("recorded") or "{}")
    except (TypeError, ValueError, RecursionError):
        recorded = {}
    if not isinstance(recorded, dict) or not recorded:
        recorded = {"command": str(found["command"])} if found.get("command") else {}
    try:
        units = tuple(str(unit) for unit in json.loads(found.get("action_units") or "[]"))
    except (TypeError, ValueError, RecursionError):
        units = ()
    try:
        cameras = Observation.from_list(json.loads(found.get("cameras") or "[]")).cameras
    except (TypeError, ValueError, RecursionError):
        cameras = ()
    dt, kind = dt if 0.0 < dt < MOST else 0.0, str(found.get("action_kind") or "recorded")
    return tuple(names), dt, kind, recorded, units if len(units) == columns else (), cameras


def _print_attributes(path: Path) -> None:
    """Prints the attributes as JSON, null for those that cannot be read; run in a process of its own by `_facts`."""
    found: dict[str, Any] = {}
    with _Continued(path) as stream, h5py.File(stream, "r") as file:
        for name in ("control_dt_s", "action_names", "action_kind", "action_units", "cameras", "command", "recorded"):
            try:
                value = file.attrs.get(name)
                value = value.decode() if isinstance(value, bytes) else value
                if isinstance(value, np.ndarray) and value.ndim:  # of texts, instead of a JSON list
                    value = json.dumps([one.decode() if isinstance(one, bytes) else str(one) for one in value])
                found[name] = value if value is None or isinstance(value, str) else float(value)
            except Exception:  # for a damaged attribute h5py raises errors of many types
                found[name] = None
    print(json.dumps(found))


def _convert_episode(
    writer: EpisodeWriter,
    number: int,
    rows: slice,
    length: int,
    pixels: h5py.Dataset,
    action: h5py.Dataset,
    measured: h5py.Dataset | None,
    there: int,
    report: Conversion,
    kept_columns: list[int],
    held_columns: list[int],
    alike: bool,
) -> None:
    actions, told = _read(action, rows, there)
    moved = (np.abs(actions[:, held_columns]) > STILL).any(1)
    actions = actions[:, kept_columns]
    frames, good = _read(pixels, rows, there)
    state: np.ndarray = np.zeros((len(frames), 0))
    if measured is not None:
        state, known = _read(measured, rows, there)
        state = state.reshape(len(frames), -1)
        good &= known & (np.abs(state) <= MOST).all(1)
        state = state[:, kept_columns] if alike else state
    if moved[:-1].any():
        report.left_out["steps in which a held joint moved"] += int(moved[:-1].sum())
    told &= (np.abs(actions) <= MOST).all(1)
    untold = np.flatnonzero(~told[:-1] | moved[:-1])  # frames whose action to the next one is lost or left out
    lost = {"frames": length - int(good.sum()), "actions": int((~told[:-1]).sum())}
    if any(lost.values()):
        report.gaps.append(
            f"episode {number}: " + " and ".join(f"{n} {what}" for what, n in lost.items() if n) + " lost"
        )
    for part in np.split(np.arange(len(frames)), untold + 1):
        for piece in stretches(good[part]):
            kept = part[piece]
            writer.append(
                np.stack([to_model_image(frame, writer.image_size) for frame in frames[kept]]),
                actions[kept[:-1]].astype(np.float32),
                state[kept].astype(np.float32),
            )
            report.frames_used += len(kept)
            report.episodes.append(f"episode {number}: {len(kept)} frames from row {rows.start + int(kept[0])} on")


def _whole(data: h5py.Dataset, there: int, path: Path) -> np.ndarray:
    values, good = _read(data, slice(0, len(data)), there)
    if not good.all() or values.ndim != 1 or values.dtype.kind not in "iu":
        raise DataError(f"{path}: {data.name[1:]!r} is lost, and with it where episodes begin; record it again")
    return values.astype(np.int64)


def _read(data: h5py.Dataset, rows: slice, there: int) -> tuple[np.ndarray, np.ndarray]:
    """These rows (n, …), and whether each could be read, (n,) bool; `there` is where the file ends, bytes."""
    values = np.zeros((rows.stop - rows.start, *data.shape[1:]), data.dtype)
    good = np.ones(len(values), bool)
    step = data.chunks[0] if data.chunks else 64
    for begin in range(rows.start - rows.start % step, rows.stop, step):
        first, last = max(begin, rows.start), min(begin + step, rows.stop)
        part = slice(first - rows.start, last - rows.start)
        try:
            if not _is_there(data, begin, last, there):
                raise OSError("behind the end of the file")
            values[part] = data[first:last]
        except Exception:  # for a damaged chunk or index h5py raises errors of many types
            good[part] = False
    return values, good


def _is_there(data: h5py.Dataset, begin: int, end: int, there: int) -> bool:
    """Whether the chunk that begins at row `begin`, or in a contiguous data set the rows up to `end`, is in the part of
    the file that exists, `there` bytes.
    """
    if data.is_virtual or data.external:  # its values are in other files, of which none is missing
        return True
    if data.chunks is None:
        start = data.id.get_offset()
        if start is None:  # a compact data set is in its header; others were never written
            return bool(data.id.get_create_plist().get_layout() == h5py.h5d.COMPACT)
        return start + end * int(np.prod(data.shape[1:])) * data.dtype.itemsize <= there
    for corner in np.ndindex(*(-(-n // chunk) for n, chunk in zip(data.shape[1:], data.chunks[1:], strict=True))):
        at = (begin, *(i * chunk for i, chunk in zip(corner, data.chunks[1:], strict=True)))
        chunk = data.id.get_chunk_info_by_coord(at)
        if chunk.byte_offset is None or chunk.byte_offset + chunk.size > there:
            return False
    return True


if __name__ == "__main__":
    _print_attributes(Path(sys.argv[1]))
