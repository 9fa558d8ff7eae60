# SPDX-License-Identifier: Apache-2.0
"""Does an arm hit itself? A capsule along each piece of its chain, and how near two of them come."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lewm_model.robot.chain import Chain

APART_M = 1e-3  # at rest: what is nearer touches there, give or take rounding
# Times its radius. A shorter piece of the chain has no capsule of its own: the round ends of its neighbours' cover it
# but for 2 % of the radius, 1 - sqrt(1 - (0.4 / 2)^2).
SHORTEST = 0.4


class NothingApart(ValueError):
    """No two links of an arm are apart in its rest pose."""


class SelfCollision:
    """Capsules of one radius along the links of an arm, from each link's origin to the next one's.

    Which pairs can never come apart is told by `rest`, a pose in which the arm touches nothing: neighbours, and what
    is as near as neighbours there, are not looked at.

    :param radius_m: (L,) of each link of the chain, the first between base and first link's origin; or one for all.
    :param rest: (A,) rad or m.
    :raises ValueError: a radius is not positive.
    :raises NothingApart: at rest no two links are apart.
    """

    def __init__(self, chain: Chain, radius_m: npt.ArrayLike, rest: npt.ArrayLike) -> None:
        self.chain = chain
        radii = np.broadcast_to(np.asarray(radius_m, float), (len(chain.links),))
        if not (np.isfinite(radii).all() and (radii > 0.0).all()):
            raise ValueError(f"collision radii are {radii} m; each must be above 0")
        origins = chain.positions(np.atleast_2d(rest))
        lengths = np.linalg.norm(np.diff(self._points(origins), axis=1), axis=-1)[0]
        self._pieces = np.flatnonzero(lengths >= SHORTEST * radii)
        first, second = np.triu_indices(len(self._pieces), k=2)
        self._radii = radii[self._pieces]
        self._pairs = first, second
        apart = self._gaps(origins)[0] > APART_M
        if not apart.any():  # of no pairs, none
            raise NothingApart("no two links of the arm are apart in its rest pose; give smaller radii or another pose")
        self._pairs = first[apart], second[apart]

    @classmethod
    def of(cls, chain: Chain, radius_m: npt.ArrayLike, rest: npt.ArrayLike) -> SelfCollision | None:
        """As the constructor; None for a chain that is too short for two of its links to come apart and meet."""
        try:
            return cls(chain, radius_m, rest)
        except NothingApart:
            return None

    def clearance(self, joint_positions: npt.ArrayLike) -> np.ndarray:
        """The least gap between two links, (N,) m, at joint positions (N, A) rad or m; negative where they overlap."""
        return self._gaps(self.chain.positions(joint_positions)).min(1)

    def find(self, joint_positions: npt.ArrayLike, least_m: float = 0.0) -> str | None:
        """Which two links come nearer than `least_m` in one of the poses (N, A), for people; None where none do.

        NaN counts as that.
        """
        return self._nearest(self._gaps(self.chain.positions(joint_positions)), least_m)

    def find_meeting(self, origins: np.ndarray) -> str | None:
        """As `find`, on a path of links (N, L, 3) m: what overlaps at its beginning may come apart."""
        gaps = self._gaps(origins)
        return self._nearest(gaps, min(float(gaps[0].min()), 0.0))

    def _nearest(self, gaps: np.ndarray, least_m: float) -> str | None:
        if (gaps >= least_m).all():
            return None
        if np.isnan(gaps).any():
            return "joint positions that are no numbers may be anywhere"
        pose, pair = np.unravel_index(int(gaps.argmin()), gaps.shape)
        names = [self.chain.links[self._pieces[side[pair]]] for side in self._pairs]
        return f"links '{names[0]}' and '{names[1]}' come within {gaps[pose, pair]:.3f} m of each other"

    def _points(self, origins: np.ndarray) -> np.ndarray:
        """(N, L + 1, 3) m: the base's origin and those of the links."""
        return np.concatenate([np.zeros_like(origins[:, :1]), origins], 1)

    def _gaps(self, origins: np.ndarray) -> np.ndarray:
        """(N, pairs) m between the surfaces of capsules, of links (N, L, 3) m."""
        points = self._points(origins)
        begins, ends = points[:, self._pieces], points[:, self._pieces + 1]
        first, second = self._pairs
        middle_lines = segment_distance(begins[:, first], ends[:, first], begins[:, second], ends[:, second])
        return middle_lines - self._radii[first] - self._radii[second]


def segment_distance(a0: np.ndarray, a1: np.ndarray, b0: np.ndarray, b1: np.ndarray) -> np.ndarray:
    """Least distance (…) between segments a0-a1 and b0-b1, all (…, 3); segments may be points.

    The nearest points of two lines, each clamped to its segment and the other one found again (C. Ericson, Real-Time
    Collision Detection, 5.1.9).
    """
    a, b, between = a1 - a0, b1 - b0, a0 - b0

    def dot(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.einsum("...i,...i->...", left, right)

    aa, bb, ab = dot(a, a), dot(b, b), dot(a, b)
    af, bf = dot(a, between), dot(b, between)
    tiny = 1e-12
    s = np.clip((ab * bf - af * bb) / np.maximum(aa * bb - ab * ab, tiny), 0.0, 1.0)
    t = np.clip((ab * s + bf) / np.maximum(bb, tiny), 0.0, 1.0)
    s = np.clip((ab * t - af) / np.maximum(aa, tiny), 0.0, 1.0)
    nearest = between + s[..., None] * a - t[..., None] * b
    return np.asarray(np.sqrt(dot(nearest, nearest)))
