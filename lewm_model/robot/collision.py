# SPDX-License-Identifier: Apache-2.0
"""Self-collision of an arm: capsules along the links of its chain, and the distance between them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lewm_model.robot.chain import Chain

APART_M = 1e-3  # gap at rest from which a pair of links counts as apart; below it they touch, within rounding
# Length, in radii, below which a piece of the chain has no capsule of its own: the round ends of its neighbours' then
# cover it except for 2 % of the radius, 1 - sqrt(1 - (0.4 / 2)^2).
SHORTEST = 0.4


class NothingApart(ValueError):
    """No two links of an arm are apart in its rest pose."""


class SelfCollision:
    """Capsules along the links of an arm, from each link's origin to the next one's.

    Neighbouring links are not checked against each other, nor pairs that touch at `rest`: they always do.

    :param radius_m: (L,) of each link of the chain, the first between base and first link's origin; or one for all.
    :param rest: joint positions (A,) rad or m at which the arm does not touch itself.
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
        if not apart.any():  # also where there are no pairs
            raise NothingApart("no two links of the arm are apart in its rest pose; give smaller radii or another pose")
        self._pairs = first[apart], second[apart]

    @classmethod
    def of(cls, chain: Chain, radius_m: npt.ArrayLike, rest: npt.ArrayLike) -> SelfCollision | None:
        """As the constructor; None for a chain that is too short to collide with itself."""
        try:
            return cls(chain, radius_m, rest)
        except NothingApart:
            return None

    def clearance(self, joint_positions: npt.ArrayLike) -> np.ndarray:
        """The least gap between two links, (N,) m, at joint positions (N, A) rad or m; negative where they overlap."""
        return self._gaps(self.chain.positions(joint_positions)).min(1)

    def find(self, joint_positions: npt.ArrayLike, least_m: float = 0.0) -> str | None:
        """Which two links come nearer than `least_m` at one of the joint positions (N, A), as a message to users; None
        where none do. NaN counts as too near.
        """
        return self._nearest(self._gaps(self.chain.positions(joint_positions)), least_m)

    def find_meeting(self, origins: np.ndarray) -> str | None:
        """As `find`, for a path of link origins (N, L, 3) m; links that overlap at the start may do so as much as
        there, so that they can come apart.
        """
        gaps = self._gaps(origins)
        return self._nearest(gaps, min(float(gaps[0].min()), 0.0))

    def _nearest(self, gaps: np.ndarray, least_m: float) -> str | None:
        if (gaps >= least_m).all():
            return None
        if np.isnan(gaps).any():
            return "joint positions are NaN, so links could be anywhere"
        pose, pair = np.unravel_index(int(gaps.argmin()), gaps.shape)
        names = [self.chain.links[self._pieces[side[pair]]] for side in self._pairs]
        return f"links '{names[0]}' and '{names[1]}' come within {gaps[pose, pair]:.3f} m of each other"

    def _points(self, origins: np.ndarray) -> np.ndarray:
        """The origins of the base and of the links, (N, L + 1, 3) m."""
        return np.concatenate([np.zeros_like(origins[:, :1]), origins], 1)

    def _gaps(self, origins: np.ndarray) -> np.ndarray:
        """Gaps (N, pairs) m between the surfaces of capsules, for link origins (N, L, 3) m."""
        points = self._points(origins)
        begins, ends = points[:, self._pieces], points[:, self._pieces + 1]
        first, second = self._pairs
        middle_lines = segment_distance(begins[:, first], ends[:, first], begins[:, second], ends[:, second])
        return middle_lines - self._radii[first] - self._radii[second]


def segment_distance(a0: np.ndarray, a1: np.ndarray, b0: np.ndarray, b1: np.ndarray) -> np.ndarray:
    """Least distance (…) between segments a0-a1 and b0-b1, all (…, 3); segments may be points.

    The nearest points of the two lines, clamped to the segments in turn (C. Ericson, Real-Time Collision Detection,
    5.1.9).
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
