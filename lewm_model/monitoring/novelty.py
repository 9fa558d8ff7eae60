# SPDX-License-Identifier: Apache-2.0
"""Novelty: colours where the recordings never had them, of objects that were moved, added or covered.

A world model's latent holds what helped to predict its recordings. An object that never moved in them may be missing in
it, and could be moved unnoticed. The set of colours that each pixel had in the recordings notices that.

What hides a part of the picture may have colours that the arm once brought to each of its pixels. But the arm never
fills all of that part at once. So the pixels are counted, too, whose colour was not there in half of the recordings.

A change of light is not novelty: colours are compared as in an even white light, estimated from the medians of the
picture's halves, which small objects do not change. So a lamp that is dimmed, warmer or to one side changes nothing.
Where a half is saturated and its light cannot be estimated, a colour is new only if it is also new under a brighter
estimate. A table of another colour is taken for a light of that colour, in which the arm would look repainted; so a
colour is new only if it is new in the light of the recordings, too, where that explains what is not table better. Noise
is not novelty either: in a noisy picture a colour is new only if the mean of it and its neighbours is. Each pixel also
has its neighbours' colours, so that a camera may be turned or shifted by a pixel.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

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
# Tensors in the file; older bundles lack the light, still older ones what is common, the oldest have AS_RECORDED alone.
IN_ANY_LIGHT, COMMON, LIGHT, AS_RECORDED = "seen_in_any_light", "common", "light", "seen"
WHITE, BRIGHTER = 250.0, 1.35  # grey level from which a median is saturated, and how much brighter it may really be
DARKEST = 8.0  # grey levels: darker light is not amplified further, since noise would be too
NOISY = 4.0  # grey levels of noise, the median difference of pixels from the mean around them, that hide small things
FLATTEST = 4.0  # `contrast` below which a picture, of a covered lens say, shows nothing
LEAST_SHOWN = 1 / 3  # share of the usual uncommon area that a picture has at least if it shows the arm
SAMPLED = 64  # rows and columns of a picture that its medians are computed from, for speed


def light_of(picture: np.ndarray) -> np.ndarray:
    """The light (4, 3) of a picture (H, W, 3) uint8: median red, green and blue, in grey levels, of its left, right,
    upper and lower half.
    """
    step = max(1, len(picture) // SAMPLED)
    some = picture[::step, ::step]
    half = len(some) // 2
    halves = (some[:, :half], some[:, half:], some[:half], some[half:])
    return np.array([np.median(part.reshape(-1, 3), axis=0) for part in halves])


def evened(picture: np.ndarray, light: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) uint8 as in an even white light: divided by a plane through the `light` (4, 3) of its
    halves.
    """
    left, right, top, bottom = light
    middle = (left + right + top + bottom) / 4
    across = np.linspace(-1.0, 1.0, len(picture), dtype=np.float32)[:, None]
    plane = middle + ((right - left) * across)[None] + ((bottom - top) * across)[:, None]
    plane = np.maximum(plane, np.maximum(middle / 4, DARKEST))
    return np.minimum(picture * (LEVEL / plane).astype(np.float32), 255).astype(np.uint8)


def contrast(picture: np.ndarray) -> float:
    """How much a picture (H, W, 3) uint8 shows: the standard deviation over its pixels of that of red, green and blue
    which varies most, grey levels of 255.
    """
    return float(picture.reshape(-1, 3).std(0).max())


def _shades(picture: np.ndarray) -> np.ndarray:
    """Red, green and blue (H * W, 3), 0 to SHADES - 1, of a picture (H, W, 3) uint8."""
    return (picture.reshape(-1, 3) // (256 // SHADES)).astype(np.intp)


def _colours(shades: np.ndarray) -> np.ndarray:
    """Numbers (P,), 0 to COLOURS - 1, of shades (P, 3)."""
    return shades @ np.array([SHADES**2, SHADES, 1])


class Remembered(NamedTuple):
    """Which colours each pixel, or one beside it, had in pictures, each (H * W, COLOURS) bool; the light."""

    seen: np.ndarray  # in one or more of them
    common: np.ndarray | None = None  # in at least half of them; None: an older bundle does not know
    light: np.ndarray | None = None  # (4, 3), the mean of `light_of` the pictures; None: an older bundle does not know


def remember(pictures: Iterable[np.ndarray]) -> Remembered:
    """The colours of one or more pictures (H, W, 3) uint8. Colours one shade apart are included."""
    pictures = iter(pictures)
    first = next(pictures)
    height, width = first.shape[:2]
    pixels, counts, total = np.arange(height * width), np.zeros((height * width, COLOURS), np.uint32), 0
    lights = np.zeros((4, 3))
    for picture in itertools.chain([first], pictures):
        light = light_of(picture)
        counts[pixels, _colours(_shades(evened(picture, light)))] += 1
        lights += light
        total += 1
    near = _spread(counts.reshape(height, width, SHADES, SHADES, SHADES), (2, 3, 4))
    seen, common = (_spread(had, (0, 1)).reshape(counts.shape) for had in (near > 0, 2 * near >= total))
    return Remembered(seen, common, lights / total)


def _spread(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Each value (…) with those beside it along the axes added; of bool: whether one of them is set."""
    for axis in axes:
        rows = np.moveaxis(values, axis, 0)
        sums = rows.copy()
        sums[1:] += rows[:-1]
        sums[:-1] += rows[1:]
        values = np.moveaxis(sums, 0, axis)
    return values


def _with_neighbours(seen: np.ndarray) -> np.ndarray:
    """The colours (P, COLOURS) bool and those whose red, green and blue differ from them by one shade at most."""
    return _spread(seen.reshape(-1, SHADES, SHADES, SHADES), (1, 2, 3)).reshape(seen.shape)


def most_together(new: np.ndarray) -> float:
    """The greatest number of pixels set in `new` (H, W) bool within a window of WINDOW x WINDOW."""
    counts = cv2.boxFilter(
        new.astype(np.float32), -1, (WINDOW, WINDOW), normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    return float(counts.max())


def area(pixels: np.ndarray) -> float:
    """How many of `pixels` (H, W) bool have most of their neighbours set: noise is scattered, and has no area."""
    return float(cv2.medianBlur(pixels.astype(np.uint8), 3).sum())


class Novelty:
    """How much of a picture is new. What stays for a while becomes familiar. Used from one thread.

    :param colours: as from `remember`.
    :param usual: greatest number of new pixels in a window of a frame in which nothing is wrong.
    :param usual_area: area of the uncommon pixels of a frame in which nothing is wrong, and the greatest excess over
      it; None: not measured, as in older bundles, and how much is uncommon then does not matter.
    :param any_light: False: the colours are of a still older bundle, as the camera gave them; light then matters.
    :param familiar_s: seconds after which a new colour, or an area, is familiar.
    """

    def __init__(
        self,
        colours: Remembered,
        usual: float,
        usual_area: tuple[float, float] | None = None,
        any_light: bool = True,
        familiar_s: float = MonitorConfig.familiar_s,
    ) -> None:
        self._recorded, self._usual, self._familiar_s = colours, usual, familiar_s
        self._usual_area = None if colours.common is None else usual_area
        self._any_light = any_light
        self._pixels = np.arange(len(colours.seen))
        self.forget()

    def forget(self) -> None:
        """Forgets what became familiar; the colours of the recordings stay."""
        self._seen = self._recorded.seen.copy()
        self._areas: deque[tuple[float, float]] = deque()  # since when, s, at least this area was uncommon; ascending
        self._shades = np.zeros((len(self._seen), 3), np.intp)
        # Stamp, s, since when each pixel has its new colour; inf: its colour is not new.
        self._since_s: np.ndarray = np.full(len(self._seen), np.inf)

    def new_pixels(self, picture: np.ndarray) -> np.ndarray:
        """Which pixels, (H, W) bool, of a picture (H, W, 3) uint8 have a new colour."""
        return self._lack(self._seen, self._estimates(picture)).reshape(picture.shape[:2])

    def uncommon_pixels(self, picture: np.ndarray) -> np.ndarray:
        """Which pixels, (H, W) bool, of a picture (H, W, 3) uint8 have a colour that is not common there."""
        assert self._recorded.common is not None, "of a bundle that knows which colours are common"
        return self._lack(self._recorded.common, self._estimates(picture)).reshape(picture.shape[:2])

    def shown(self, picture: np.ndarray) -> tuple[float, float] | None:
        """The area of what is uncommon in a picture (H, W, 3) uint8, of an arm say, and the least that a picture of it
        has; None where that was not measured.
        """
        if self._usual_area is None:
            return None
        return area(self.uncommon_pixels(picture)), LEAST_SHOWN * self._usual_area[0]

    def _estimates(self, picture: np.ndarray) -> list[np.ndarray]:
        """Shades (H * W, 3) of a picture (H, W, 3) uint8 for each estimate of its light, and without its noise."""
        smooth = cv2.blur(picture, (3, 3))
        noisy = float(np.median(cv2.absdiff(picture, smooth))) >= NOISY
        if not self._any_light:
            return [_shades(each) for each in ([picture, smooth] if noisy else [picture])]
        light = light_of(picture)
        lights = [light, np.where(light >= WHITE, BRIGHTER * light, light)]
        estimates = [evened(picture, each) for each in lights] + ([evened(smooth, light)] if noisy else [])
        found = [_shades(each) for each in estimates]
        if self._recorded.light is not None:
            as_recorded = _shades(evened(picture, self._recorded.light))
            if self._tells_more(as_recorded, found):
                found.append(as_recorded)
        return found

    def _tells_more(self, as_recorded: np.ndarray, found: list[np.ndarray]) -> bool:
        """Whether what is not table has fewer new colours in the light of the recordings than in the estimated one. It
        has where the table was painted, and not where the light changed: then a moved thing could look like a dark one.
        """
        if self._recorded.common is None:
            return True
        things = self._lack(self._recorded.common, found)
        fewer, more = (int(self._lack(self._seen, each)[things].sum()) for each in ([as_recorded], found))
        return fewer < more

    def _lack(self, known: np.ndarray, estimates: list[np.ndarray]) -> np.ndarray:
        """Which pixels (H * W,) have a colour that `known` (H * W, COLOURS) lacks, whatever the light is."""
        return ~np.any([known[self._pixels, _colours(shades)] for shades in estimates], axis=0)

    def look(self, picture: np.ndarray, stamp_s: float) -> float:
        """Novelty of a frame's picture (H, W, 3) uint8, in multiples of what is usual: the greater of the new pixels in
        the fullest window, and the excess of the uncommon ones' area. A picture that shows nothing is all new, and
        never becomes familiar.
        """
        if contrast(picture) < FLATTEST:
            self._since_s[:] = np.inf
            self._areas.clear()
            return len(self._pixels) / self._usual
        size, estimates = picture.shape[:2], self._estimates(picture)
        new = most_together(self._new(estimates, stamp_s).reshape(size)) / self._usual
        if self._usual_area is None or self._recorded.common is None:
            return new
        usual, most = self._usual_area
        uncommon = area(self._lack(self._recorded.common, estimates).reshape(size))
        return max(new, (uncommon - max(usual, self._familiar_area(uncommon, stamp_s))) / most)

    def _new(self, estimates: list[np.ndarray], stamp_s: float) -> np.ndarray:
        """Which pixels (H * W,) of a frame have a new colour; those that it stayed with for long become familiar."""
        new, shades = self._lack(self._seen, estimates), estimates[0]
        same = np.abs(shades - self._shades).max(1) <= 1
        since_s = np.where(same, np.minimum(self._since_s, stamp_s), stamp_s)
        stays = new & (stamp_s - since_s >= self._familiar_s)
        if stays.any():
            familiar = np.zeros((int(stays.sum()), COLOURS), bool)
            familiar[np.arange(len(familiar)), _colours(shades[stays])] = True
            self._seen[stays] |= _with_neighbours(familiar)
            new &= ~stays
        self._since_s, self._shades = np.where(new, since_s, np.inf), shades
        return new

    def _familiar_area(self, uncommon: float, stamp_s: float) -> float:
        """The area that was uncommon all through the last `familiar_s`; 0 while they have not passed."""
        since_s = stamp_s
        while self._areas and (self._areas[-1][1] >= uncommon or self._areas[-1][0] > stamp_s):
            since_s = min(since_s, self._areas.pop()[0])  # the clock may have jumped back
        self._areas.append((since_s, uncommon))
        begin_s = stamp_s - self._familiar_s
        while len(self._areas) > 1 and self._areas[1][0] <= begin_s:
            self._areas.popleft()
        since_s, familiar = self._areas[0]
        return familiar if since_s <= begin_s else 0.0


def save_seen(bundle: Bundle, colours: Remembered) -> None:
    """Writes what `remember` made into the folder of a draft (`lewm_model.bundle.update`)."""
    named = zip((IN_ANY_LIGHT, COMMON), (colours.seen, colours.common), strict=True)
    tensors = {name: np.packbits(had, axis=1) for name, had in named if had is not None}
    if colours.light is not None:
        tensors[LIGHT] = colours.light.astype(np.float32)
    save_file(tensors, bundle.folder / SEEN)


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
        packed = [found[IN_ANY_LIGHT if any_light else AS_RECORDED], *([found[COMMON]] if COMMON in found else [])]
    except Exception as error:  # safetensors has errors of its own
        raise BundleError(f"{path} does not hold colours: {error!r}; run `lewm calibrate` again") from error
    for bits in packed:
        if bits.dtype != np.uint8 or bits.shape != (pixels, COLOURS // 8):
            raise BundleError(
                f"{path} holds {bits.shape} {bits.dtype}, a bit for each colour of {pixels} pixels is expected; "
                "run `lewm calibrate` again"
            )
    light = found.get(LIGHT)
    if light is not None and not (light.shape == (4, 3) and light.dtype.kind == "f" and np.isfinite(light).all()):
        raise BundleError(f"{path} holds no light (4, 3), but {light}; run `lewm calibrate` again")
    seen, *common = (np.unpackbits(bits, axis=1).astype(bool) for bits in packed)
    colours = Remembered(seen, common[0] if common else None, light)
    return Novelty(colours, bundle.calibration.new_pixels, bundle.calibration.uncommon_pixels, any_light, familiar_s)
