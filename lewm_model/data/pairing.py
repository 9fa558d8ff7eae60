# SPDX-License-Identifier: Apache-2.0
"""Whether the actions of a recording belong to its pictures, judged from the recording alone.

Three conditions are checked. Pictures change while the arm is commanded to move, always with the same lag. Similar
pictures of two episodes show the arm in similar poses, and no episode has to be mirrored or turned for its pictures to
resemble those of others. Measured joint motion follows the commanded one, column by column.

Mistakes that are the same in pictures, measured positions and actions of every episode cannot be found, such as a
camera that is always mirrored, or two joint names that are always exchanged.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import h5py
import numpy as np

from lewm_model.data.clips import Episodes

SMALL = 16  # pixels, square, to which pictures are shrunk before they are compared
LAGS = 10  # control steps, greatest lag of either sign that is tried
LOOKED_AT, FRAMES = 200, 6000  # episodes that are compared at most, and frames of all of them together
STEADY = 0.05  # least standard deviation of a commanded motion, in multiples of its mean, that can be correlated
SPAN = 3  # control steps over which measured and commanded motion are compared
ENOUGH = 150  # frames in motion; with fewer nothing is judged
LEAST, CLEAR = 0.2, 0.4  # correlations below which two signals count as unrelated, and above which as related
LEAD, LATE = -0.75, 0.75  # control steps of lag of the pictures behind the actions that are normal
MOST_LATE_S = 0.4  # more than any arm lags behind its command, so that a greater lag is an error of the stamps
TWINS = 0.15  # share of the frames, the nearest to one of another episode, that count as similar to it
COMPONENTS = 24  # principal components in which the similarity of pictures is measured
# Poses of similar pictures that differ by more, in standard deviations of the recorded poses, contradict each other.
APART = 0.8
MOST_APART, MOST_APART_HERE = 0.04, 0.6  # greatest normal share of contradictions, in all frames and in an episode
# Least number of pairs of episodes that contradict each other: the frames in which two episodes pass through one view,
# which shows a joint badly, are one observation.
PAIRS_APART = 3
VARIED = 0.3  # least standard deviation of the commanded speed, in multiples of its mean, that can be correlated
# The camera sees a joint whose positions differ by less, in the median of similar pictures, in standard deviations.
SEEN = 0.15
SAME_POSE = 0.3  # standard deviations of the recorded poses, up to which two poses count as the same
# Share of similar pictures, after turning, that must show the same pose; in a symmetric scene they show mirrored poses.
AGREE = 0.5
MOST_TURNED = 0.015  # greatest normal share of frames that show, after turning, another episode's picture and pose
# How a camera may have been turned between episodes, as an index into pictures (n, H, W, 3).
TURNED = {
    "mirrored": np.s_[:, :, ::-1],
    "upside down": np.s_[:, ::-1],
    "turned by 180 degrees": np.s_[:, ::-1, ::-1],
}


@dataclass
class Pairing:
    """How well actions and pictures fit, and what does not."""

    correlations: np.ndarray = field(default_factory=lambda: np.full(2 * LAGS + 1, np.nan))  # at lags of -LAGS to LAGS
    lag_steps: float | None = None  # None: not known
    correlation: float = 0.0  # of change in the picture with commanded speed, at that lag
    apart: float = 0.0  # share of similar pictures that show different poses
    pairs_apart: int = 0  # pairs of episodes with such pictures
    turned: float = 0.0  # share of pictures that show, after turning, what another episode shows at the same pose
    agree: float = 0.0  # share of pictures similar after turning that show the same pose
    frames: int = 0  # in motion, that were compared
    wrong: list[str] = field(default_factory=list)  # certain mistakes of the recording, as messages
    doubts: list[str] = field(default_factory=list)  # possible mistakes, as messages

    @property
    def unjudged(self) -> str:
        """Why nothing was compared; empty where something was."""
        few = f"the arm moves in {self.frames} frames, and {ENOUGH} are needed"
        return "" if self.frames >= ENOUGH else f"whether actions fit the pictures was not judged: {few}"


def pair(data: Episodes) -> Pairing:
    """Compares actions, pictures and, where they were recorded, measured positions."""
    few = np.unique(np.linspace(0, len(data.lengths) - 1, LOOKED_AT).round().astype(int))
    most = max(120, FRAMES // len(few))  # frames of an episode
    numbers = [int(e) for e in few if data.lengths[e] > SPAN + 2]
    parts = [slice(int(data.offsets[e]), int(data.offsets[e]) + min(int(data.lengths[e]), most)) for e in numbers]
    found = Pairing()
    if not parts:
        return found
    actions = [data.actions[part.start : part.stop - 1].astype(np.float64) for part in parts]
    dt = data.control_dt_s or 1.0
    spread = _spread(actions)
    found.frames = int(sum((np.abs(action) > 0.1 * spread).any(1).sum() for action in actions))
    if found.unjudged:
        return found
    pictures = [_small(data.pixels[part]) for part in parts]
    _compare_change(actions, pictures, dt, data.velocities, found)
    if data.proprio is not None:
        measured = [data.proprio[part].astype(np.float64) for part in parts]
        if data.proprio.shape[1] == data.actions.shape[1] and data.control_dt_s and data.velocities:
            _compare_measured(data.action_names, numbers, actions, measured, dt, found)
        _compare_alike(numbers, pictures, measured, found)
    return found


def _small(frames: np.ndarray) -> np.ndarray:
    """Frames (n, H, W, 3) uint8 shrunk to SMALL x SMALL pixels, (n, 3 * SMALL²) float32."""

    def shrink(some: np.ndarray) -> list[np.ndarray]:
        return [cv2.resize(frame, (SMALL, SMALL), interpolation=cv2.INTER_AREA).reshape(-1) for frame in some]

    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        shrunk = [one for some in pool.map(shrink, np.array_split(frames, threads)) for one in some]
    return np.stack(shrunk).astype(np.float32)


def _spread(values: Sequence[np.ndarray]) -> np.ndarray:
    """Root mean square of each column; infinite for a column that never moves."""
    rms = np.sqrt(np.mean(np.square(np.concatenate(list(values))), axis=0))
    return np.where(rms > 1e-9, rms, np.inf)


def _overlap(told: np.ndarray, seen: np.ndarray, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `told` and `seen` that belong together when what is seen lags so many steps."""
    return (told[: len(told) - lag], seen[lag:]) if lag >= 0 else (told[-lag:], seen[:lag])


def _top(values: np.ndarray) -> float:
    """Where a curve over the lags is greatest, to a fraction of a step: the top of a parabola."""
    best = int(np.nanargmax(values))
    if not 0 < best < 2 * LAGS:
        return float(best - LAGS)
    left, top, right = values[best - 1 : best + 2].tolist()
    return best - LAGS + float(np.clip(0.5 * (left - right) / min(left - 2 * top + right, -1e-9), -0.5, 0.5))


def _compare_change(
    actions: list[np.ndarray], pictures: list[np.ndarray], dt: float, velocities: bool, found: Pairing
) -> None:
    """Whether pictures change when motion is commanded, and how long afterwards."""
    changes = [np.sqrt(np.abs(np.diff(small, axis=0)).mean(1)) for small in pictures]
    spread = _spread(actions)
    tried = []
    for positions in (False,) if velocities else (False, True):  # actions of unknown kind are tried as both
        sums = np.zeros((2 * LAGS + 1, 3))
        for action, seen in zip(actions, changes, strict=True):
            velocity = np.diff(action, axis=0, prepend=action[:1]) if positions else action
            told = np.linalg.norm(velocity / spread, axis=1)
            for k, lag in enumerate(range(-LAGS, LAGS + 1)):
                a, b = _overlap(told, seen, lag)
                if len(a) >= 2 * LAGS:
                    a, b = a - a.mean(), b - b.mean()
                    sums[k] += (a @ b, a @ a, b @ b)
        tried.append(sums[:, 0] / np.sqrt((sums[:, 1] * sums[:, 2]).clip(1e-12)))
    if not any(one.any() for one in tried):
        return  # every episode is too short
    found.correlations = max(tried, key=lambda one: float(one.max()))
    found.correlation = float(found.correlations.max())
    speeds = [np.linalg.norm(action / spread, axis=1) for action in actions]
    varied = float(np.mean([speed.std() for speed in speeds]) / max(1e-9, np.mean([speed.mean() for speed in speeds])))
    if found.correlation < LEAST and varied < VARIED:
        return  # a steady motion changes pictures steadily, so that the lag cannot be told
    if found.correlation < LEAST:
        found.wrong.append(
            f"the pictures do not show the commanded motion (correlation {found.correlation:.2f} at most): they belong "
            "to other actions, or the camera does not see the arm"
        )
        return
    found.lag_steps = _top(found.correlations)
    lag_s = found.lag_steps * dt
    said = f"{abs(1e3 * lag_s):.0f} ms ({abs(found.lag_steps):.1f} steps)"
    if found.lag_steps < LEAD:
        found.wrong.append(f"pictures show a motion {said} before its action: the clocks differ, or rows are shifted")
    elif lag_s > MOST_LATE_S:
        found.wrong.append(f"pictures show a motion {said} after its action: no arm is so slow, the clocks differ")
    elif found.lag_steps > LATE:
        found.doubts.append(
            f"pictures show a motion {said} later than its action: a slow arm, or stamps from when pictures arrive; "
            "correct the stamps, or let frameskip times the step be longer than this"
        )


def _compare_measured(
    names: Sequence[str],
    numbers: list[int],
    actions: list[np.ndarray],
    measured: list[np.ndarray],
    dt: float,
    found: Pairing,
) -> None:
    """Whether each column of the action moves the joint of that column, and as far as commanded."""

    def spans(steps: np.ndarray) -> np.ndarray:
        total = np.cumsum(np.vstack([np.zeros((1, steps.shape[1])), steps]), axis=0)
        return np.asarray(total[SPAN:] - total[:-SPAN])

    told = [spans(action) for action in actions]
    felt = [spans(np.diff(positions, axis=0) / dt) for positions in measured]
    told_mean, felt_mean = np.concatenate(told).mean(0), np.concatenate(felt).mean(0)
    told, felt = [some - told_mean for some in told], [some - felt_mean for some in felt]
    told_rms, felt_rms = _spread(told), _spread(felt)
    # Joints that move steadily cannot be told apart by correlation.
    moving = np.isfinite(told_rms) & np.isfinite(felt_rms) & (told_rms > STEADY * np.abs(told_mean))
    if not moving.any():
        return
    curves = []  # at each lag, correlations (A, A) of action columns with joints
    for lag in range(-LAGS, LAGS + 1):
        both = [_overlap(a / told_rms, b / felt_rms, lag) for a, b in zip(told, felt, strict=True) if len(a) > abs(lag)]
        none = [np.zeros((0, len(told_rms)))]  # every episode may be shorter than the lag
        a, b = (np.concatenate(none + [one[i] for one in both]) for i in (0, 1))
        curves.append(a.T @ b / np.sqrt(np.outer(np.square(a).sum(0), np.square(b).sum(0)).clip(1e-12)))
    table = np.array(curves)
    strength = np.abs(table[:, moving]).max(2).mean(1)
    best = int(strength.argmax())
    if strength[best] < CLEAR:
        found.wrong.append(
            f"joints do not move as commanded (correlation {strength[best]:.2f} at most): the measured positions "
            "belong to other actions"
        )
        return
    lag, correlations = best - LAGS, table[best]
    for i in np.flatnonzero(moving & (np.abs(correlations).max(1) > CLEAR)):
        j, own = int(np.abs(correlations[i]).argmax()), float(correlations[i, i])
        ratio = float(felt_rms[i] / told_rms[i])
        if j != i and abs(correlations[i, j]) > abs(own) + 0.3:
            found.wrong.append(f"the action {names[i]} moves the joint measured as {names[j]}: columns are exchanged")
        elif own < -CLEAR:
            found.wrong.append(f"the action {names[i]} moves its joint the other way: the sign is wrong")
        elif own > CLEAR and not 0.4 < ratio < 2.5:
            found.wrong.append(
                f"the joint {names[i]} moves {ratio:.3g} times as far as its action says: the unit or the step is wrong"
            )
    if lag < -1:
        found.wrong.append(f"joints move {-lag} steps ({-1e3 * lag * dt:.0f} ms) before their action: rows are shifted")
    elif lag * dt > MOST_LATE_S:
        found.wrong.append(f"joints move {lag} steps ({1e3 * lag * dt:.0f} ms) after their action: rows are shifted")


def _compare_alike(numbers: list[int], pictures: list[np.ndarray], measured: list[np.ndarray], found: Pairing) -> None:
    """Whether similar pictures of two episodes show the arm in similar poses."""
    if len(pictures) < 2:
        return
    every, poses = np.concatenate(pictures), np.concatenate(measured)
    owner = np.repeat(np.arange(len(pictures)), [len(some) for some in pictures])
    deviation = poses.std(0)
    poses = (poses / np.where(deviation > 1e-6, deviation, np.inf))[:, deviation > 1e-6]
    if not poses.shape[1]:
        return
    mean = every.mean(0)
    every = every - mean
    values, vectors = np.linalg.eigh(every.T @ every / len(every))
    axes = vectors[:, np.argsort(values)[::-1][:COMPONENTS]]
    points = (every @ axes).astype(np.float32)
    nearest, distance = _nearest(points, points, owner)
    near = float(np.quantile(distance, TWINS))
    alike = distance <= near
    apart = np.abs(poses - poses[nearest])
    # A camera may not see every joint. Of the joints that it sees the one that fits worst is judged; if it seems to see
    # none, the one that fits best.
    shares, seen = (apart[alike] > APART).mean(0), np.median(apart[alike], axis=0) < SEEN
    far = apart[:, int(np.where(seen, shares, -1.0).argmax() if seen.any() else shares.argmin())] > APART
    found.apart = float(far[alike].mean())
    shares = np.array(
        [far[alike & (owner == e)].mean() if (alike & (owner == e)).sum() >= 5 else 0.0 for e in range(len(numbers))]
    )
    odd = [numbers[e] for e in np.flatnonzero(shares > MOST_APART_HERE)]
    met = np.sort(np.stack([owner, owner[nearest]]), axis=0)[:, far & alike]
    found.pairs_apart = np.unique(met, axis=1).shape[1]
    if found.apart > MOST_APART and found.pairs_apart >= PAIRS_APART:
        listed = ", ".join(map(str, odd[:10])) + (", ..." if len(odd) > 10 else "")
        found.wrong.append(
            f"{found.apart:.0%} of similar pictures show the arm in different poses"
            + (f", most in the episodes {listed}" if odd else "")
            + ": pictures of other episodes, a mirrored camera, or joints with another sign or order"
        )
    for how, way in TURNED.items():
        # The turned pictures along the axes: the pictures along the turned axes, which are fewer.
        turned_axes = axes.T.reshape(-1, SMALL, SMALL, 3)[way].reshape(axes.shape[1], -1).T
        turned = (every @ turned_axes + mean @ (turned_axes - axes)).astype(np.float32)
        telling = (
            np.square(turned - points).sum(1) > 4.0 * near
        )  # symmetric pictures do not tell whether they are turned
        match, distance = _nearest(turned, points, owner)
        same = np.abs(poses - poses[match]).max(1) < SAME_POSE
        twins = telling & (distance <= near)
        share, agree = float((twins & same).mean()), float(same[twins].mean()) if twins.any() else 0.0
        if share > found.turned:
            found.turned, found.agree = share, agree
        if share > MOST_TURNED and agree > AGREE:
            found.wrong.append(
                f"some episodes are {how}, compared with the others: {share:.0%} of the pictures show, after turning, "
                "what others show at the same pose"
            )


def _nearest(asked: np.ndarray, points: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of `asked` (N, C) the number of the nearest of `points` (N, C) of another episode, (N,), and its squared
    distance, (N,); `owner` (N,) is the episode of each, in increasing order.
    """
    # The squared distance but for the square of what is asked, as one product: it takes most of the time.
    left = np.hstack([-2.0 * asked, np.ones_like(asked[:, :1])])
    right = np.hstack([points, np.square(points).sum(1, keepdims=True)]).T
    nearest, distance = np.zeros(len(points), int), np.zeros(len(points))

    def compare(rows: np.ndarray) -> None:
        apart = left[rows] @ right
        for own in np.unique(owner[rows]):
            apart[owner[rows] == own, slice(*np.searchsorted(owner, [own, own + 1]))] = np.inf
        nearest[rows] = apart.argmin(1)
        distance[rows] = apart[np.arange(len(rows)), nearest[rows]] + np.square(asked[rows]).sum(1)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compare, np.array_split(np.arange(len(points)), max(1, len(points) // 256))))
    return nearest, distance


def kinds_of(text: str, columns: int) -> tuple[str, ...]:
    """The kind of each column, from an attribute that holds one kind for all columns or a JSON list."""
    return tuple(json.loads(text)) if text.startswith("[") else (text,) * columns


def pair_file(path: Path) -> Pairing:
    """Compares actions and pictures of an HDF5 recording of this package; reads only the frames that are compared."""
    with h5py.File(path) as file:
        attributes = dict(file.attrs)
        return pair(
            Episodes(
                pixels=file["pixels"],  # a data set of h5py, which is sliced like an array
                actions=file["action"][:],
                proprio=file["proprio"][:] if "proprio" in file else None,
                offsets=file["ep_offset"][:],
                lengths=file["ep_len"][:],
                control_dt_s=float(attributes["control_dt_s"]),
                action_names=tuple(json.loads(attributes["action_names"])),
                action_kinds=kinds_of(str(attributes["action_kind"]), file["action"].shape[1]),
                sha256="",
                path=str(path),
            )
        )
