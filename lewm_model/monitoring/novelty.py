# SPDX-License-Identifier: Apache-2.0
"""Novelty: colours where the recordings never had them, of objects that were moved, added or covered.

A world model's latent holds what helped to predict its recordings. An object that never moved in them may be missing in
it, and could be moved unnoticed. The set of colours that each pixel had in the recordings notices that.

A change of light is not novelty: colours are compared as in an even white light, estimated from the medians of the
picture's halves, which small objects do not change. So a lamp that is dimmed, warmer or to one side changes nothing.
Where a half is saturated and its light cannot be estimated, a colour is new only if it is also new under a brighter
estimate. Each pixel also has its neighbours' colours, so that a camera may be turned or shifted by a pixel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import cv2
import numpy as np
from safetensors.numpy import load_file, save_file

from lewm_model.bundle.bundle import SEEN, Bundle, BundleError
from lewm_model.config import MonitorConfig

# Stored colours and calibrated limits are in these units; a bundle has to be calibrated again after a change.
SHADES = 8  # of red, green and blue each, 32 grey levels wide
COLOURS = SHADES**3
WINDOW = 5  # pixels, side of the square in which new pixels are counted: objects are compact, noise is scattered
LEVEL = 200.0  # grey level, of 255, that the estimated light is scaled to
IN_ANY_LIGHT, AS_RECORDED = "seen_in_any_light", "seen"  # tensors in the file; older bundles have the second
WHITE, BRIGHTER = 250.0, 1.35  # grey level from which a median is saturated, and how much brighter it may really be
DARKEST = 8.0  # grey levels: darker light is not amplified further, since noise would be too
SAMPLED = 64  # rows and columns of a picture that its medians are computed from, for speed


def evened(picture: np.ndarray, white_is: float = 1.0) -> np.ndarray:
    """A picture (H, W, 3) uint8 as in an even white light: divided by a plane through the medians of its four halves.

    Saturated medians count as `white_is` times as bright.
    """
    step = max(1, len(picture) // SAMPLED)
    some = picture[::step, ::step]
    half = len(some) // 2
    halves = (some[:, :half], some[:, half:], some[:half], some[half:])
    medians = np.array([np.median(part.reshape(-1, 3), axis=0) for part in halves])
    left, right, top, bottom = np.where(medians >= WHITE, white_is * medians, medians)
    middle = (left + right + top + bottom) / 4
    across = np.linspace(-1.0, 1.0, len(picture), dtype=np.float32)[:, None]
    light = middle + ((right - left) * across)[None] + ((bottom - top) * across)[:, None]
    light = np.maximum(light, np.maximum(middle / 4, DARKEST))
    return np.minimum(picture * (LEVEL / light).astype(np.float32), 255).astype(np.uint8)


def _shades(picture: np.ndarray) -> np.ndarray:
    """Red, green and blue (H * W, 3), 0 to SHADES - 1, of a picture (H, W, 3) uint8."""
    return (picture.reshape(-1, 3) // (256 // SHADES)).astype(np.intp)


def _colours(shades: np.ndarray) -> np.ndarray:
    """Numbers (P,), 0 to COLOURS - 1, of shades (P, 3)."""
    return shades @ np.array([SHADES**2, SHADES, 1])


def remember(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """Which colours each pixel, or one beside it, had in one or more pictures (H, W, 3) uint8: (H * W, COLOURS) bool.

    Colours one shade apart are included.
    """
    pictures = iter(pictures)
    first = next(pictures)
    height, width = first.shape[:2]
    pixels, seen = np.arange(height * width), np.zeros((height * width, COLOURS), bool)
    for picture in itertools.chain([first], pictures):
        seen[pixels, _colours(_shades(evened(picture)))] = True
    around: np.ndarray = seen.reshape(height, width, COLOURS)
    for axis in (0, 1):
        rows = np.moveaxis(around, axis, 0)
        wider = rows.copy()
        wider[1:] |= rows[:-1]
        wider[:-1] |= rows[1:]
        around = np.moveaxis(wider, 0, axis)
    return _with_neighbours(around.reshape(seen.shape))


def _with_neighbours(seen: np.ndarray) -> np.ndarray:
    """The colours (P, COLOURS) bool and those whose red, green and blue differ from them by one shade at most."""
    near: np.ndarray = seen.reshape(-1, SHADES, SHADES, SHADES)
    for axis in (1, 2, 3):
        shades = np.moveaxis(near, axis, 0)
        wider = shades.copy()
        wider[1:] |= shades[:-1]
        wider[:-1] |= shades[1:]
        near = np.moveaxis(wider, 0, axis)
    return near.reshape(seen.shape)


def most_together(new: np.ndarray) -> float:
    """The greatest number of pixels set in `new` (H, W) bool within a window of WINDOW x WINDOW."""
    counts = cv2.boxFilter(
        new.astype(np.float32), -1, (WINDOW, WINDOW), normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    return float(counts.max())


class Novelty:
    """How much of a picture is new. A new colour that stays for a while becomes familiar. Used from one thread.

    :param seen: (H * W, COLOURS) bool, as from `remember`.
    :param usual: greatest number of new pixels in a window of a frame in which nothing is wrong.
    :param any_light: False: `seen` is of an older bundle and holds colours as the camera gave them; light then matters.
    :param familiar_s: seconds after which a new colour is familiar.
    """

    def __init__(
        self, seen: np.ndarray, usual: float, any_light: bool = True, familiar_s: float = MonitorConfig.familiar_s
    ) -> None:
        self._recorded, self._usual, self._familiar_s = seen, usual, familiar_s
        self._any_light = any_light
        self._pixels = np.arange(len(seen))
        self.forget()

    def forget(self) -> None:
        """Forgets colours that became familiar; those of the recordings stay."""
        self._seen = self._recorded.copy()
        self._shades = np.zeros((len(self._seen), 3), np.intp)
        # Stamp, s, since when each pixel has its new colour; inf: its colour is not new.
        self._since_s: np.ndarray = np.full(len(self._seen), np.inf)

    def new_pixels(self, picture: np.ndarray) -> np.ndarray:
        """Which pixels, (H, W) bool, of a picture (H, W, 3) uint8 have a new colour."""
        return self._look(picture)[0].reshape(picture.shape[:2])

    def _look(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which pixels (H * W,) are new, and the shades (H * W, 3) of all."""
        shades = _shades(evened(picture) if self._any_light else picture)
        new = ~self._seen[self._pixels, _colours(shades)]
        if self._any_light and new.any():
            brighter = _colours(_shades(evened(picture, BRIGHTER)))
            new &= ~self._seen[self._pixels, brighter]
        return new, shades

    def look(self, picture: np.ndarray, stamp_s: float) -> float:
        """Novelty of a frame's picture (H, W, 3) uint8: new pixels in the fullest window, in multiples of `usual`."""
        new, shades = self._look(picture)
        same = np.abs(shades - self._shades).max(1) <= 1
        since_s = np.where(same, np.minimum(self._since_s, stamp_s), stamp_s)
        stays = new & (stamp_s - since_s >= self._familiar_s)
        if stays.any():
            familiar = np.zeros((int(stays.sum()), COLOURS), bool)
            familiar[np.arange(len(familiar)), _colours(shades[stays])] = True
            self._seen[stays] |= _with_neighbours(familiar)
            new &= ~stays
        self._since_s, self._shades = np.where(new, since_s, np.inf), shades
        return most_together(new.reshape(picture.shape[:2])) / self._usual


def save_seen(bundle: Bundle, seen: np.ndarray) -> None:
    """Writes what `remember` made, (H * W, COLOURS) bool, into the folder of a draft (`lewm_model.bundle.update`)."""
    save_file({IN_ANY_LIGHT: np.packbits(seen, axis=1)}, bundle.folder / SEEN)


def load_novelty(bundle: Bundle, familiar_s: float = MonitorConfig.familiar_s) -> Novelty | None:
    """The novelty detector of a bundle; None where it is not calibrated.

    :param familiar_s: as of `Novelty`.
    :raises BundleError: the file is damaged or of another picture size.
    """
    if bundle.calibration is None or bundle.calibration.new_pixels is None:
        return None
    path, pixels = bundle.path(SEEN), math.prod(bundle.model.image_size)
    try:
        found = load_file(path)
        any_light = IN_ANY_LIGHT in found
        bits = found[IN_ANY_LIGHT if any_light else AS_RECORDED]
    except Exception as error:  # safetensors has errors of its own
        raise BundleError(f"{path} does not hold colours: {error!r}; run `lewm calibrate` again") from error
    if bits.dtype != np.uint8 or bits.shape != (pixels, COLOURS // 8):
        raise BundleError(
            f"{path} holds {bits.shape} {bits.dtype}, a bit for each colour of {pixels} pixels is expected; "
            "run `lewm calibrate` again"
        )
    return Novelty(np.unpackbits(bits, axis=1).astype(bool), bundle.calibration.new_pixels, any_light, familiar_s)
