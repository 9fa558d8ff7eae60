# SPDX-License-Identifier: Apache-2.0
"""The recorded frame that is nearest to what is imagined: whether the model has seen anything like it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lewm_model.bundle.bundle import Bundle
from lewm_model.data.clips import load_episodes
from lewm_model.data.errors import DataError
from lewm_model.runtime import load_runtime

MOST_FRAMES = 600  # of a recording, evenly spread, that are looked at


@dataclass(frozen=True)
class Found:
    """A recorded frame, and how far it is from what was looked for."""

    picture: np.ndarray  # (H, W, 3) uint8 RGB
    episode: int
    at_s: float  # from the first frame of the episode
    distance: float  # in multiples of the usual one of a frame to the nearest of the others


class Nearest:
    """Looks among the frames of a recording. They are encoded in a thread, on the CPU, and known once that is done.

    :raises DataError: the recording cannot be read, has fewer than 2 frames, or pictures of another size.
    :raises RuntimeLoadError: ONNX Runtime cannot run the model here.
    """

    def __init__(self, bundle: Bundle, path: Path) -> None:
        data = load_episodes(path)
        if data.image_size != bundle.model.image_size:
            high, wide = data.image_size
            raise DataError(f"{data.source} has pictures of {high} x {wide} pixels, not the model's; convert it anew")
        rows = data.rows(np.arange(len(data.lengths)))
        if len(rows) < 2:
            raise DataError(f"{data.source} has a single frame; give a recording of the robot")
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, MOST_FRAMES).round().astype(int))]
        self._pictures = data.pixels[rows]
        self._episodes = np.searchsorted(data.offsets, rows, "right") - 1
        self._times_s = (rows - data.offsets[self._episodes]) * data.control_dt_s
        self._runtime = load_runtime(bundle, "onnxruntime")
        self._known: tuple[np.ndarray, float] | None = None  # latents (n, D), and their usual distance
        threading.Thread(target=self._encode, daemon=True).start()

    def _encode(self) -> None:
        latents = np.stack([self._runtime.encode(picture) for picture in self._pictures]).astype(float)
        apart = np.sqrt(np.maximum(0.0, _squared_distances(latents, latents)))
        np.fill_diagonal(apart, np.inf)
        self._known = latents, max(float(np.median(apart.min(1))), 1e-9)

    def find(self, latent: np.ndarray) -> Found | None:
        """The frame nearest to a latent (D,); None until the recording is known."""
        if self._known is None:
            return None
        latents, usual = self._known
        apart = _squared_distances(latent[None], latents)[0]
        i = int(apart.argmin())
        distance = float(np.sqrt(max(0.0, apart[i]))) / usual
        return Found(self._pictures[i], int(self._episodes[i]), float(self._times_s[i]), distance)


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Between latents (n, D) and (m, D): (n, m)."""
    found: np.ndarray = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2.0 * a @ b.T
    return found
