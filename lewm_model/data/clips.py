# SPDX-License-Identifier: Apache-2.0
"""Recorded episodes, and the clips that training draws from them."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lewm_model.data.errors import DataError
from lewm_model.data.frames import MappedFrames, decoded_frames
from lewm_model.robot.actions import KINDS, UNKNOWN
from lewm_model.robot.observation import Camera, Observation

MOST = 1e9  # greatest magnitude of a number in a recording, so that sums and squares in float32 stay finite
POSES = 4000  # random clips among which those that begin at similar joint positions are searched
IN_MEMORY = 2**28  # bytes of frames, up to which they are read into memory; more stay in a file, see frames.py
HASHED = 2**30  # bytes of frames that are hashed; of a recording with more, rows spread evenly over it
_FILTERS = {32000: "lzf", 32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32015: "zstd", 32026: "blosc2"}


@dataclass(frozen=True)
class Episodes:
    """Frames and actions of E episodes, one after the other in N rows.

    pixels (N, H, W, 3) uint8 RGB; actions (N, A) float32, row i executes between frame i and frame i + 1 and is NaN in
    the last row of an episode; proprio (N, P) float32 or None, which no network sees;
    offsets and lengths (E,) int64. Frames of a large recording are a `MappedFrames`: pick rows with arrays of integers,
    and not all at once.
    """

    pixels: np.ndarray
    actions: np.ndarray
    proprio: np.ndarray | None
    offsets: np.ndarray
    lengths: np.ndarray
    control_dt_s: float  # time from row to row; 0.0: not recorded
    action_names: tuple[str, ...]
    action_kinds: tuple[str, ...]  # (A,) of `lewm_model.robot.actions.KINDS`
    sha256: str  # of everything that training reads (of at most HASHED bytes of frames); "": not read from a file
    path: str  # of the file, as the user gave it; of episodes without a file, a description
    actions_sha256: str = ""  # of actions and lengths; the same for recordings that differ in their pictures only
    recorded: dict[str, Any] = field(default_factory=dict)  # how it was made, as the recorder or converter wrote it
    stamps_s: np.ndarray | None = None  # (N,) float64: when each picture was taken, s; None: not recorded
    cameras: tuple[Camera, ...] = ()  # whose pictures are side by side in a frame; empty: not recorded
    action_units: tuple[str, ...] = ()  # (A,); by default those of the kinds

    def __post_init__(self) -> None:
        if not self.action_units:
            object.__setattr__(self, "action_units", tuple(KINDS[kind].unit for kind in self.action_kinds))

    @property
    def source(self) -> str:
        """The recording's name in messages: its path and the beginning of its hash."""
        return f"{self.path} ({self.sha256[:8]})" if self.sha256 else self.path

    @property
    def velocities(self) -> bool:
        """Whether the kind of every action is known, which is a velocity; otherwise some may be positions."""
        return UNKNOWN not in self.action_kinds

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of a picture, pixels."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[2])

    def split(self, validation_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the training and of the held-out EPISODES, ascending; at least one of each.

        :raises DataError: the recording has fewer than 2 episodes.
        """
        if len(self.lengths) < 2:
            raise DataError(f"{self.source} has {len(self.lengths)} episode; record at least 2, one is held out")
        order = np.random.default_rng((seed, 1)).permutation(len(self.lengths))
        held_out = max(1, round(validation_fraction * len(order)))
        return np.sort(order[held_out:]), np.sort(order[:held_out])

    def rows(self, episodes: np.ndarray) -> np.ndarray:
        """Row numbers of all frames of these episodes."""
        return np.concatenate([np.arange(self.offsets[e], self.offsets[e] + self.lengths[e]) for e in episodes])

    def first(self, count: int) -> Episodes:
        """The first `count` episodes, or all if there are fewer, in memory, without joint positions and stamps."""
        rows = int((self.offsets + self.lengths)[:count].max())
        return replace(
            self,
            pixels=self.pixels[np.arange(rows)],
            actions=self.actions[:rows],
            proprio=None,
            stamps_s=None,
            offsets=self.offsets[:count],
            lengths=self.lengths[:count],
        )

    def batches(self, rows: np.ndarray, size: int = 256) -> Iterator[np.ndarray]:
        """Frames (…, H, W, 3) of these rows (n,), `size` at a time, since all of them may not fit into memory."""
        return (self.pixels[rows[begin : begin + size]] for begin in range(0, len(rows), size))


def load_episodes(path: Path, control_dt_s: float | None = None) -> Episodes:
    """Reads a recording in the HDF5 layout of stable-worldmodel (`pixels`, `action`, `ep_len`, `ep_offset`).

    Joint positions are read from `proprio`, or from `state` when there is none. More than `IN_MEMORY` bytes of frames
    stay on disk: contiguous and uncompressed frames are mapped, others are decoded once into a cache file that all
    processes share.

    :param control_dt_s: time from row to row, s, of a file without it; the two must agree when the file has it.
    :raises DataError: the file is not such a recording, is empty, or holds numbers that are not finite.
    """
    if not path.is_file():
        raise DataError(
            f"{path} is a folder; `lewm convert {path} --out FILE.h5` reads recordings of ROS and of LeRobot"
            if path.is_dir()
            else f"there is no recording at {path}; make one with `lewm collect {path}`"
        )
    if find_spec("hdf5plugin"):
        import hdf5plugin  # noqa: F401  registers its filters
    try:
        with h5py.File(path) as file:
            arrays, attributes = _read(file, path)
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{path} does not fit into this machine's memory") from error
    except Exception as error:  # h5py raises OSError, RuntimeError, KeyError and more for a damaged file
        raise DataError(
            f"{path} cannot be read as HDF5 ({error}); if it was damaged or cut off, `lewm convert {path} --out FILE` "
            "keeps what can be read"
        ) from error
    pixels, actions, proprio, stamps_s, lengths, offsets = arrays
    ends = offsets + lengths
    if (lengths < 1).any() or offsets[0] < 0 or (offsets[1:] < ends[:-1]).any():
        raise DataError(f"{path}: the episodes of 'ep_offset' and 'ep_len' overlap or are empty; record it again")
    inner = np.ones(len(pixels), bool)
    inner[ends - 1] = False
    if not (np.abs(actions[inner]) <= MOST).all():
        row = int(np.flatnonzero(inner & ~(np.abs(actions) <= MOST).all(1))[0])
        raise DataError(f"{path}: the action in row {row} is not finite; only the last row of an episode may be NaN")
    if proprio is not None and not (np.abs(proprio) <= MOST).all():
        row = int(np.flatnonzero(~(np.abs(proprio.reshape(len(proprio), -1)) <= MOST).all(1))[0])
        raise DataError(
            f"{path}: the joint positions in row {row} are not finite; `lewm convert {path} --out FILE` leaves them out"
        )
    try:
        names = json.loads(attributes.get("action_names", "[]"))
        written_s = float(attributes.get("control_dt_s", 0.0))
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: the attributes action_names and control_dt_s cannot be read: {error}") from error
    if not 0.0 <= written_s <= MOST:
        raise DataError(f"{path}: control_dt_s is {written_s}; it is the time from row to row, above 0 s")
    if not isinstance(names, list) or (names and len(names) != actions.shape[1]):
        raise DataError(f"{path}: action_names is {names!r}; it must name the {actions.shape[1]} columns of 'action'")
    if control_dt_s is not None and not control_dt_s > 0.0:
        raise DataError(f"control_dt_s is {control_dt_s}; it is the time from row to row, above 0 s")
    if control_dt_s is not None and written_s and abs(control_dt_s - written_s) > 1e-6:
        raise DataError(f"{path} was recorded every {written_s} s, not every {control_dt_s} s; leave control_dt_s out")
    try:
        recorded = json.loads(attributes.get("recorded", "{}"))
    except (TypeError, ValueError, RecursionError):
        recorded = {}
    if not isinstance(recorded, dict) or not recorded:  # written by an earlier version, or by another program
        recorded = {"command": str(attributes["command"])} if "command" in attributes else {}
    control_dt_s = control_dt_s or written_s
    names = tuple(map(str, names)) or tuple(f"joint{i + 1}" for i in range(actions.shape[1]))
    kinds, units = kinds_and_units(attributes, actions.shape[1], path)
    executed = np.ascontiguousarray(actions[inner])
    digest = hashlib.sha256(json.dumps([pixels.shape, executed.shape, control_dt_s, names, kinds, units]).encode())
    for array in (executed, offsets, lengths, proprio):
        if array is not None:
            digest.update(array.tobytes())
    for frames in _hashed_frames(pixels):
        digest.update(frames.data)
    return Episodes(
        pixels=pixels,
        actions=actions,
        proprio=proprio,
        offsets=offsets,
        lengths=lengths,
        control_dt_s=control_dt_s,
        action_names=names,
        action_kinds=kinds,
        action_units=units,
        cameras=_cameras(attributes, pixels.shape[1:3], path),
        sha256=digest.hexdigest(),
        path=str(path),
        actions_sha256=hashlib.sha256(executed.tobytes() + lengths.tobytes()).hexdigest(),
        recorded=recorded,
        stamps_s=stamps_s,
    )


def _hashed_frames(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """The frames that are hashed, a few at a time: all, or rows spread evenly over the recording."""
    count, size = len(pixels), max(1, math.prod(pixels.shape[1:]))
    kept = min(count, max(1, HASHED // size))
    rows = np.arange(count) if kept == count else np.linspace(0, count - 1, kept).astype(int)
    at_once = max(1, 2**24 // size)  # frames in 16 MiB
    for begin in range(0, kept, at_once):
        yield np.ascontiguousarray(pixels[rows[begin : begin + at_once]])


def _cameras(attributes: dict[str, Any], size: tuple[int, ...], path: Path) -> tuple[Camera, ...]:
    if "cameras" not in attributes:
        return ()
    try:
        observation = Observation.from_list(json.loads(attributes["cameras"]))
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: the attribute cameras cannot be read: {error}") from error
    if observation.size != tuple(size):
        raise DataError(f"{path}: its cameras make a picture of {observation.size}, its pictures are {tuple(size)}")
    return observation.cameras


def kinds_and_units(attributes: dict[str, Any], columns: int, path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Kinds and units of the columns of `action`. The attribute action_kind is one kind for all columns or a JSON list
    of kinds; action_units is a JSON list or missing, and then the units are ().
    """

    def listed(name: str, text: str) -> tuple[str, ...]:
        try:
            values = json.loads(text) if text.startswith("[") else [text] * columns
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: the attribute {name} cannot be read: {error}") from error
        if len(values) != columns or not all(isinstance(value, str) for value in values):
            raise DataError(f"{path}: {name} is {text[:80]!r}; it needs one name for each of {columns} columns")
        return tuple(values)

    kinds = listed("action_kind", str(attributes.get("action_kind", "")) or UNKNOWN)
    for kind in kinds:
        if kind not in KINDS:
            raise DataError(f"{path}: action_kind is {kind[:80]!r}; known kinds are {', '.join(KINDS)}")
    if "action_units" in attributes:
        return kinds, listed("action_units", str(attributes["action_units"]))
    return kinds, ()


def _read(file: h5py.File, path: Path) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arrays (pixels, actions, proprio, stamps, lengths, offsets) up to the end of the last episode, where proprio
    and stamps are None when missing, and the attributes.
    """
    missing = [name for name in ("pixels", "action", "ep_len", "ep_offset") if name not in file]
    if missing:
        raise DataError(f"{path} lacks the data set {missing[0]!r}; it holds {', '.join(file) or 'nothing'}")
    ep_len, ep_offset, pixels, action = (file[name] for name in ("ep_len", "ep_offset", "pixels", "action"))
    for name, data in (("ep_len", ep_len), ("ep_offset", ep_offset)):
        if data.ndim != 1 or data.dtype.kind not in "iu" or data.shape != ep_len.shape:
            raise DataError(f"{path}: {name!r} is {data.shape} {data.dtype}; it must be (episodes,) integers")
        _check_size(data.size * 8, path)
    lengths, offsets = ep_len[:].astype(np.int64), ep_offset[:].astype(np.int64)
    if len(lengths) == 0:
        raise DataError(f"{path} holds no episode")
    if (np.abs(lengths) > MOST).any() or (np.abs(offsets) > MOST).any():
        raise DataError(f"{path}: 'ep_len' or 'ep_offset' holds a number beyond {MOST:.0e}; record it again")
    frames = int(offsets[-1] + lengths[-1])
    if frames < 1:
        raise DataError(f"{path}: 'ep_offset' and 'ep_len' end at row {frames}; record it again")
    for name, data in (("pixels", pixels), ("action", action)):
        if len(data) < frames:
            raise DataError(f"{path}: {name!r} has {len(data)} rows, its episodes need {frames}")
    if action.ndim != 2 or action.shape[1] == 0 or action.dtype.kind not in "fiu":
        raise DataError(f"{path}: 'action' is {action.shape} {action.dtype}; it must be (N, action_dim) numbers")
    _check_written(pixels, frames, path)
    proprio, stamps = file.get("proprio", file.get("state")), file.get("timestamp")
    if proprio is not None and len(proprio) < frames:
        raise DataError(f"{path}: {proprio.name[1:]!r} has {len(proprio)} rows, its episodes need {frames}")
    if stamps is not None and (stamps.ndim != 1 or stamps.dtype.kind != "f" or len(stamps) < frames):
        stamps = None  # another program's; they are optional, since only the data report reads them
    rest = [data for data in (action, proprio, stamps) if data is not None]
    _check_size(frames * sum(8 * math.prod(data.shape[1:]) for data in rest), path)
    for data in (pixels, *rest):
        _check_filters(data, path)
    shape, dtype = pixels.shape, pixels.dtype
    if dtype.kind == "f":
        bad = "NaN" if np.isnan(pixels[: min(frames, 1000)]).any() else "float"
        raise DataError(f"{path}: 'pixels' has {bad} values; frames must be uint8 RGB (N, H, W, 3)")
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or min(shape) < 1:
        raise DataError(f"{path}: 'pixels' is {shape} {dtype}; it must be (N, H, W, 3) uint8")
    measured = None if proprio is None else proprio[:frames].astype(np.float32)
    taken_s = None if stamps is None else stamps[:frames].astype(np.float64)
    actions = action[:frames].astype(np.float32)
    frames_rgb = _frames(path, pixels, frames, hashlib.sha256(actions.tobytes() + lengths.tobytes()))
    return (frames_rgb, actions, measured, taken_s, lengths, offsets), dict(file.attrs)


def _frames(path: Path, pixels: h5py.Dataset, count: int, digest: Any) -> np.ndarray:
    """The first `count` frames: in memory when they are few, else mapped, after decoding them if they are compressed.

    `digest` has been fed with the actions and lengths; with the frames' properties it becomes the name of the cache.
    """
    shape = (count, *pixels.shape[1:])
    if math.prod(shape) <= IN_MEMORY:
        _check_size(math.prod(shape), path)
        frames = np.empty(shape, np.uint8)
        pixels.read_direct(frames, np.s_[:count])
        return frames
    start = pixels.id.get_offset() if pixels.chunks is None and not pixels.external else None
    if start is not None:
        return MappedFrames(path, shape, start)
    # The cache file is named by the recording's content. Hashing all frames would take as long as decoding them, so a
    # sample of them and the file's size and modification time are hashed: an edited recording is decoded anew.
    there = path.stat()
    sample = [pixels[row].tobytes() for row in np.linspace(0, count - 1, 16, dtype=int)]
    digest.update(b"".join([repr((shape, there.st_size, there.st_mtime_ns)).encode(), *sample]))
    return decoded_frames(path, pixels, count, digest.hexdigest()[:32])


def _check_written(pixels: h5py.Dataset, count: int, path: Path) -> None:
    """Refuses frames that were never written, or are in files that are gone: HDF5 reads those as one colour."""
    lost = lost_sources(pixels, path)
    if lost:
        raise DataError(f"{path}: its frames are in {', '.join(lost)}, which is missing; put it where it was")
    if pixels.chunks is not None:
        needed = math.prod(-(-n // chunk) for n, chunk in zip((count, *pixels.shape[1:]), pixels.chunks, strict=True))
        if pixels.id.get_num_chunks() < needed:
            raise DataError(
                f"{path} claims {count * math.prod(pixels.shape[1:]) / 1e9:.3g} GB of frames, some of which were never "
                f"written; `lewm convert {path} --out FILE` keeps the others"
            )


def lost_sources(data: h5py.Dataset, path: Path) -> list[str]:
    """The files that hold the values of a virtual or external data set and are missing."""
    names = [one.file_name for one in data.virtual_sources()] if data.is_virtual else []
    names += [name for name, _, _ in data.external or ()]
    return sorted({name for name in names if name != "." and not (path.parent / name).is_file()})


def _check_filters(data: h5py.Dataset, path: Path) -> None:
    """Refuses a data set with a compression that this installation cannot decode."""
    settings = data.id.get_create_plist()
    for code in (settings.get_filter(i)[0] for i in range(settings.get_nfilters())):
        if not h5py.h5z.filter_avail(code):
            name = _FILTERS.get(code, "an unknown kind")
            raise DataError(
                f"{path}: {data.name[1:]!r} is compressed with {name} (HDF5 filter {code}), which needs a package: "
                "pip install hdf5plugin"
            )


def _check_size(needed: int, path: Path) -> None:
    """Refuses to read `needed` bytes into a smaller memory: a damaged or sparse file may claim any size."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise DataError(f"{path} needs {needed / 1e9:.3g} GB of memory, this machine has {there / 1e9:.3g} GB")


class ClipSampler:
    """Draws batches of clips: `clip_frames` frames, one action block apart, with the blocks between them.

    The batch of a step depends on (seed, step) alone, so a resumed run gets the batches of an undisturbed one.

    With `clips_per_pose` above 1 a batch consists of groups of that many clips which begin at similar joint positions:
    the nearest of POSES clips that are drawn without replacement. The arm looks the same in them, so they are told
    apart by everything else. A group has no clip twice, unless the recording has fewer clips than a group.

    With `clips_per_episode` above 1 the clips of a group are from one episode and spread over its length, so they are
    told apart by what moved in it.

    :raises DataError: no episode is long enough, or `clips_per_pose` is above 1 and no joint positions were recorded.
    """

    def __init__(
        self,
        data: Episodes,
        episodes: np.ndarray,
        clip_frames: int,
        frameskip: int,
        clips_per_pose: int,
        seed: int,
        clips_per_episode: int = 1,
    ) -> None:
        self.span = (clip_frames - 1) * frameskip  # low-level steps
        self.data, self.seed = data, seed
        self.clips_per_pose, self.clips_per_episode = clips_per_pose, clips_per_episode
        self.episodes = episodes[data.lengths[episodes] > self.span]
        if len(self.episodes) == 0:
            longest = int(data.lengths[episodes].max())
            raise DataError(
                f"no episode is long enough: a clip spans {self.span + 1} frames, the longest episode has {longest}; "
                "record longer episodes or lower clip_frames"
            )
        if clips_per_pose > 1 and data.proprio is None:
            raise DataError(
                f"{data.source} has no joint positions ('proprio') by which clips of alike poses are found; record "
                "them, or train with clips_per_pose 1"
            )
        self.starts = data.lengths[self.episodes] - self.span  # clips that an episode holds
        self.before = np.cumsum(self.starts)  # clips in the episodes up to and with each one
        self.probability = self.starts / self.starts.sum()  # every start equally likely
        self.frame_steps = np.arange(0, self.span + 1, frameskip)
        self.action_steps = np.arange(self.span).reshape(clip_frames - 1, frameskip)

    def batch(self, step: int, clips: int, rank: int = 0, ranks: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Frames (clips, clip_frames, H, W, 3) uint8, and action blocks (clips, clip_frames - 1, frameskip * A) in the
        units of the recording.

        With several ranks each one reads clips / ranks of them; together these are the batch that one rank would read.
        """
        rng = np.random.default_rng((self.seed, 2, step))
        starts = self._starts(rng, clips) if self.clips_per_pose == 1 else self._alike(rng, clips)
        starts = starts.reshape(ranks, -1)[rank]
        frames = self.data.pixels[starts[:, None] + self.frame_steps]
        actions = self.data.actions[starts[:, None, None] + self.action_steps]
        return frames, actions.reshape(len(starts), len(self.action_steps), -1)

    def _starts(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Rows (count,) where random clips begin, in groups of one episode each."""
        group = min(self.clips_per_episode, count)
        chosen = rng.choice(self.episodes, count // group, p=self.probability)
        there = self.data.lengths[chosen] - self.span
        if group == 1:
            return self.data.offsets[chosen] + rng.integers(0, there)
        parts = (np.arange(group) + rng.random((len(chosen), group))) / group  # a clip from each part of the episode
        return (self.data.offsets[chosen, None] + (parts * there[:, None]).astype(int)).reshape(-1)

    def _alike(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Rows (count,) where clips begin, in groups of similar joint positions."""
        assert self.data.proprio is not None
        group = min(self.clips_per_pose, count)
        there = int(self.before[-1])
        drawn = rng.choice(there, min(max(POSES, count), there), replace=False)
        episode = np.searchsorted(self.before, drawn, "right")
        pool = self.data.offsets[self.episodes[episode]] + drawn - (self.before[episode] - self.starts[episode])
        poses = self.data.proprio[pool]
        poses = poses / np.maximum(poses.std(0), 1e-6)
        first = np.arange(count // group) % len(pool)
        apart = np.square(poses[first, None] - poses).sum(-1)
        most = min(group, len(pool))
        alike = np.argpartition(apart, most - 1)[:, :most]
        return pool[alike[:, np.arange(group) % most]].reshape(-1)
