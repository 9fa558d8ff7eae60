"""Recorded episodes in memory, and the clips that training draws from them."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

MOST = 1e9  # of a number in a recording; statistics of greater ones are not finite


class DataError(ValueError):
    """A recording that cannot be used; the message says what is wrong with it and what to do."""


@dataclass(frozen=True)
class Episodes:
    """Frames and actions of E episodes laid end to end (N rows).

    pixels (N, H, W, 3) uint8 RGB; actions (N, A) float32, row i executes between frame i and frame i + 1 and is NaN in
    the last row of an episode; proprio (N, P) float32 or None, never used to train the world model;
    offsets and lengths (E,) int64.
    """

    pixels: np.ndarray
    actions: np.ndarray
    proprio: np.ndarray | None
    offsets: np.ndarray
    lengths: np.ndarray
    control_dt_s: float
    action_names: tuple[str, ...]
    action_kind: str
    sha256: str  # of the actions and lengths: names the recording in a bundle's provenance
    source: str

    @property
    def image_size(self) -> int:
        return int(self.pixels.shape[1])

    def split(self, validation_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the training and of the held-out EPISODES; at least one of each."""
        if len(self.lengths) < 2:
            raise DataError(f"{self.source} has {len(self.lengths)} episode; record at least 2, one is held out")
        order = np.random.default_rng((seed, 1)).permutation(len(self.lengths))
        held_out = max(1, round(validation_fraction * len(order)))
        return np.sort(order[held_out:]), np.sort(order[:held_out])

    def rows(self, episodes: np.ndarray) -> np.ndarray:
        """Row numbers of all frames of these episodes."""
        return np.concatenate([np.arange(self.offsets[e], self.offsets[e] + self.lengths[e]) for e in episodes])


def load_episodes(path: Path) -> Episodes:
    """Reads a recording in the HDF5 layout of stable-worldmodel (`pixels`, `action`, `ep_len`, `ep_offset`).

    Raises DataError for a file that is not such a recording, is empty, or whose numbers are not finite.
    """
    if not path.is_file():
        raise DataError(f"there is no recording at {path}; make one with `lewm collect {path}`")
    try:
        with h5py.File(path) as file:
            arrays, attributes = _read(file, path)
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{path} does not fit into this machine's memory") from error
    except Exception as error:  # HDF5's faults come as OSError, RuntimeError, KeyError and more
        raise DataError(f"{path} cannot be read as HDF5 ({error}); record it again") from error
    pixels, actions, proprio, lengths, offsets = arrays
    ends = offsets + lengths
    if (lengths < 1).any() or offsets[0] < 0 or (offsets[1:] < ends[:-1]).any():
        raise DataError(f"{path}: the episodes of 'ep_offset' and 'ep_len' overlap or are empty; record it again")
    inner = np.ones(len(pixels), bool)
    inner[ends - 1] = False
    if not (np.abs(actions[inner]) <= MOST).all():
        row = int(np.flatnonzero(inner & ~(np.abs(actions) <= MOST).all(1))[0])
        raise DataError(f"{path}: the action in row {row} is not finite; only the last row of an episode may be NaN")
    try:
        names = json.loads(attributes.get("action_names", "[]"))
        control_dt_s = float(attributes.get("control_dt_s", 0.0))
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: the attributes action_names and control_dt_s cannot be read: {error}") from error
    if not isinstance(names, list) or (names and len(names) != actions.shape[1]):
        raise DataError(f"{path}: action_names is {names!r}; it must name the {actions.shape[1]} columns of 'action'")
    digest = hashlib.sha256(np.ascontiguousarray(actions[inner]).tobytes() + lengths.tobytes())
    return Episodes(
        pixels=pixels,
        actions=actions,
        proprio=proprio,
        offsets=offsets,
        lengths=lengths,
        control_dt_s=control_dt_s,
        action_names=tuple(map(str, names)),
        action_kind=str(attributes.get("action_kind", "")),
        sha256=digest.hexdigest(),
        source=str(attributes.get("command", path.name)),
    )


def _read(file: h5py.File, path: Path) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Pixels, actions, proprio or None, lengths and offsets up to the last episode's end, and the attributes."""
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
    shape, dtype = pixels.shape, pixels.dtype
    if action.ndim != 2 or action.shape[1] == 0 or action.dtype.kind not in "fiu":
        raise DataError(f"{path}: 'action' is {action.shape} {action.dtype}; it must be (N, action_dim)")
    proprio = file.get("proprio")
    row = math.prod(shape[1:]) * dtype.itemsize + sum(
        4 * math.prod(data.shape[1:]) for data in (action, proprio) if data is not None
    )
    _check_size(frames * row, path)
    if dtype.kind == "f":
        bad = "NaN" if np.isnan(pixels[:frames]).any() else "float"
        raise DataError(f"{path}: 'pixels' has {bad} values; frames must be uint8 RGB (N, H, W, 3)")
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2] or shape[1] < 1:
        raise DataError(f"{path}: 'pixels' is {shape} {dtype}; it must be (N, S, S, 3) uint8")
    frames_rgb = np.empty((frames, *shape[1:]), np.uint8)
    pixels.read_direct(frames_rgb, np.s_[:frames])
    measured = None if proprio is None else proprio[:frames].astype(np.float32)
    return (frames_rgb, action[:frames].astype(np.float32), measured, lengths, offsets), dict(file.attrs)


def _check_size(needed: int, path: Path) -> None:
    """Data sets may say that they are larger than their file: what was never written reads as zeros."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise DataError(f"{path} needs {needed / 1e9:.3g} GB of memory, this machine has {there / 1e9:.3g} GB")


class ClipSampler:
    """Draws batches of clips: `clip_frames` frames, one action block apart, with the blocks between them.

    The batch of a step depends on (seed, step) alone, so a resumed run sees what an undisturbed one would have seen.
    """

    def __init__(
        self, data: Episodes, episodes: np.ndarray, clip_frames: int, frameskip: int, clips_per_episode: int, seed: int
    ) -> None:
        self.span = (clip_frames - 1) * frameskip  # low-level steps
        self.data, self.seed, self.clips_per_episode = data, seed, clips_per_episode
        self.episodes = episodes[data.lengths[episodes] > self.span]
        if len(self.episodes) == 0:
            longest = int(data.lengths[episodes].max())
            raise DataError(
                f"no episode is long enough: a clip spans {self.span + 1} frames, the longest episode has {longest}; "
                "record longer episodes or lower clip_frames"
            )
        starts = data.lengths[self.episodes] - self.span
        self.probability = starts / starts.sum()  # every start equally likely
        self.frame_steps = np.arange(0, self.span + 1, frameskip)
        self.action_steps = np.arange(self.span).reshape(clip_frames - 1, frameskip)

    def batch(self, step: int, clips: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames (clips, clip_frames, S, S, 3) uint8 and raw action blocks (clips, clip_frames - 1, frameskip * A)."""
        rng = np.random.default_rng((self.seed, 2, step))
        per_episode = min(self.clips_per_episode, clips)
        chosen = rng.choice(self.episodes, clips // per_episode, p=self.probability).repeat(per_episode)
        starts = self.data.offsets[chosen] + rng.integers(0, self.data.lengths[chosen] - self.span)
        frames = self.data.pixels[starts[:, None] + self.frame_steps]
        actions = self.data.actions[starts[:, None, None] + self.action_steps]
        return frames, actions.reshape(clips, len(self.action_steps), -1)
