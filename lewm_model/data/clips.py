"""Recorded episodes in memory, and the clips that training draws from them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np


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
            missing = [name for name in ("pixels", "action", "ep_len", "ep_offset") if name not in file]
            if missing:
                raise DataError(f"{path} lacks the data set {missing[0]!r}; it holds {', '.join(file) or 'nothing'}")
            lengths, offsets = file["ep_len"][:].astype(np.int64), file["ep_offset"][:].astype(np.int64)
            if len(lengths) == 0:
                raise DataError(f"{path} holds no episode")
            frames = int(offsets[-1] + lengths[-1])
            for name in ("pixels", "action"):
                if len(file[name]) < frames:
                    raise DataError(f"{path}: {name!r} has {len(file[name])} rows, its episodes need {frames}")
            if file["pixels"].dtype.kind == "f":
                bad = "NaN" if np.isnan(file["pixels"][:]).any() else "float"
                raise DataError(f"{path}: 'pixels' has {bad} values; frames must be uint8 RGB (N, H, W, 3)")
            shape = file["pixels"].shape
            if file["pixels"].dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
                raise DataError(f"{path}: 'pixels' is {shape} {file['pixels'].dtype}; it must be (N, S, S, 3) uint8")
            pixels = np.empty((frames, *shape[1:]), np.uint8)
            file["pixels"].read_direct(pixels, np.s_[:frames])
            actions = file["action"][:frames].astype(np.float32)
            proprio = file["proprio"][:frames].astype(np.float32) if "proprio" in file else None
            attributes = dict(file.attrs)
    except OSError as error:
        raise DataError(f"{path} cannot be read as HDF5 ({error}); record it again") from error
    if actions.ndim != 2 or actions.shape[1] == 0:
        raise DataError(f"{path}: 'action' is {actions.shape}; it must be (N, action_dim)")
    last_rows = offsets + lengths - 1
    inner = np.ones(frames, bool)
    inner[last_rows] = False
    if not np.isfinite(actions[inner]).all():
        row = int(np.flatnonzero(inner & ~np.isfinite(actions).all(1))[0])
        raise DataError(f"{path}: the action in row {row} is not finite; only the last row of an episode may be NaN")
    digest = hashlib.sha256(np.ascontiguousarray(actions[inner]).tobytes() + lengths.tobytes())
    return Episodes(
        pixels=pixels,
        actions=actions,
        proprio=proprio,
        offsets=offsets,
        lengths=lengths,
        control_dt_s=float(attributes.get("control_dt_s", 0.0)),
        action_names=tuple(json.loads(attributes.get("action_names", "[]"))),
        action_kind=str(attributes.get("action_kind", "")),
        sha256=digest.hexdigest(),
        source=str(attributes.get("command", path.name)),
    )


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
