# SPDX-License-Identifier: Apache-2.0
"""`lewm data report`: properties of a recording, and flaws that would hurt a world model trained on it.

Pictures are compared in at most `EPISODES_LOOKED_AT` episodes, spread evenly and read one at a time.
"""

from __future__ import annotations

import hashlib
import itertools
import textwrap
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lewm_model.data.clips import Episodes
from lewm_model.data.converters.columns import MOST_SPEED
from lewm_model.data.converters.conversion import Conversion
from lewm_model.data.outputs import DRAWN_BY
from lewm_model.data.pairing import LAGS, pair

EPISODES_LOOKED_AT, FRAMES_LOOKED_AT = 200, 2000  # episodes at most, and frames of each at most
SMALL = 16  # pixels, square, to which pictures are shrunk before they are compared
WINDOW = 8  # consecutive actions that are not repeated by chance, so a repetition is a copy
QUERIES, OTHERS = 1500, 12_000  # random frames, and frames of other episodes that each is compared with
EDGE = 0.01  # share of an action's range that counts as its end
# Beyond these a finding becomes a warning. Jitter: of the frame period. Dropped, saturated, frozen, copied: shares.
MOST_JITTER, MOST_DROPPED, MOST_SATURATED, MOST_FROZEN, MOST_COPIED = 0.1, 0.01, 0.1, 0.02, 0.01
DARK = 24.0  # grey levels of 255; where nothing is brighter little is seen: what uses 12 of 16 bits ends at 16
LEAST_CHANGE = 0.5  # grey levels, root mean square, of the pictures after an action block
CELLS = 8  # of each joint's range, for the coverage
# Beyond these the verdict is NO-GO: frames of a usable episode, usable episodes, frames in them, shares of the frames.
CLIP, LEAST_EPISODES, LEAST_FRAMES = 16, 10, 500
HOPELESSLY_FROZEN, HOPELESSLY_DROPPED = 0.2, 0.2


@dataclass(frozen=True)
class Finding:
    """A line of the report."""

    what: str
    value: str
    warning: str = ""  # what is wrong and what to do; empty where nothing is


@dataclass
class DataReport:
    """The findings: lines for people, numbers by name, and the arrays that are drawn."""

    findings: list[Finding] = field(default_factory=list)
    numbers: dict[str, float | int | None] = field(default_factory=dict)
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(0))
    intervals_s: np.ndarray = field(default_factory=lambda: np.zeros(0))
    actions: np.ndarray = field(default_factory=lambda: np.zeros((0, 1)))
    action_names: tuple[str, ...] = ()
    correlations: np.ndarray = field(default_factory=lambda: np.zeros(0))  # (2 LAGS + 1,)
    identity: np.ndarray = field(default_factory=lambda: np.zeros(0))  # RMS change after 1, 2, … action blocks
    pictures: np.ndarray = field(default_factory=lambda: np.zeros((0, 1, 1, 3), np.uint8))
    no_go: list[str] = field(default_factory=list)  # why nobody should train on it

    @property
    def verdict(self) -> str:
        """One line: GO, or NO-GO with the reasons."""
        warnings = sum(bool(one.warning) for one in self.findings)
        return f"NO-GO: {'; '.join(self.no_go)}" if self.no_go else f"GO, with {warnings} things to look at"

    def add(self, what: str, value: str, warning: str = "") -> None:
        self.findings.append(Finding(what, value, warning))


def report_on(data: Episodes, frameskip: int = 5, conversion: Conversion | None = None) -> DataReport:
    """Measures a recording.

    :param frameskip: control steps in an action block of the model, for the identity baseline.
    :param conversion: the report of its conversion, if it had to be converted.
    """
    found = DataReport()
    chosen = np.unique(np.linspace(0, len(data.lengths) - 1, EPISODES_LOOKED_AT).round().astype(int))
    _lengths(data, found, len(chosen))
    _times(data, found, conversion)
    _actions(data, found)
    small, frozen, pairs = _look(data, chosen, frameskip, found)
    found.numbers["frozen_share"] = frozen
    if frozen > HOPELESSLY_FROZEN:
        found.no_go.append(f"{frozen:.0%} of the frames repeat the one before")
    found.add(
        "frozen frames",
        f"{frozen:.1%} repeat the one before while the arm is commanded",
        "the camera repeats pictures: look at its driver and rate, or at a lossy connection"
        if frozen > MOST_FROZEN
        else "",
    )
    _lag(data, found)
    _scene(data, chosen, small, found)
    _enough(data, found)
    _duplicates(data, chosen, small, pairs, found)
    _identity(found, frameskip)
    return found


def _lengths(data: Episodes, found: DataReport, looked_at: int) -> None:
    found.lengths, frames = data.lengths, int(data.lengths.sum())
    few = "at least 2 are needed, since one is held out, and dozens to train: record more, or cut them with markers"
    shown = "" if looked_at == len(data.lengths) else f"; {looked_at} of them were looked at"
    found.numbers |= {"episodes": len(data.lengths), "frames": frames}
    found.add("episodes", f"{len(data.lengths)}{shown}", few if len(data.lengths) < 10 else "")
    duration = f"{frames} frames of {data.image_size[0]} x {data.image_size[1]}"
    if data.control_dt_s > 0:
        found.numbers["duration_s"] = frames * data.control_dt_s
        duration = f"{frames * data.control_dt_s / 60:.1f} min, {duration}, an action every {data.control_dt_s:.4g} s"
    found.add(
        "duration",
        duration,
        "" if data.control_dt_s > 0 else "the file does not say how much time lies between rows: give --control-dt-s",
    )
    least, middle, most = np.quantile(data.lengths, [0, 0.5, 1]).astype(int)
    short = float((data.lengths < 16).mean())
    found.add(
        "length of an episode",
        f"{least} to {most} frames, median {middle}",
        f"{short:.0%} are shorter than a clip of 16 frames and never trained on" if short > 0.1 else "",
    )


def _times(data: Episodes, found: DataReport, conversion: Conversion | None) -> None:
    """Jitter and dropped frames, from the stamps of the original recording, or else from those in the file."""
    intervals = np.array(conversion.intervals_s if conversion else [])
    if not len(intervals) and data.stamps_s is not None:
        inner = np.ones(len(data.stamps_s), bool)
        inner[(data.offsets + data.lengths - 1)] = False
        intervals = np.diff(data.stamps_s, append=np.nan)[inner[: len(data.stamps_s)]]
        intervals = intervals[np.isfinite(intervals)]
    period = float(np.median(intervals)) if len(intervals) else 0.0
    if not period > 0.0:
        found.add("rate", f"not known: the recording has no stamps{' that differ' if len(intervals) else ''}")
        return
    whole = intervals[intervals < 1.5 * period]
    jitter = float(np.quantile(np.abs(whole - period), 0.95)) / period
    dropped = int(np.maximum(np.round(intervals / period) - 1, 0)[intervals < 10 * period].sum())
    pauses = int((intervals >= 10 * period).sum())
    share = dropped / (len(intervals) + dropped)
    found.intervals_s = intervals
    found.numbers |= {"rate_hz": 1 / period, "jitter": jitter, "dropped_frames": dropped}
    uneven = "frames come unevenly: stamp them when they are taken, not when they arrive, and fix the exposure time"
    found.add("rate", f"{1 / period:.2f} Hz, 95 % within {jitter:.1%}", uneven if jitter > MOST_JITTER else "")
    if share > HOPELESSLY_DROPPED:
        found.no_go.append(f"{share:.0%} of the frames are lost")
    lossy = "frames are lost: lower the camera's resolution or rate, use a cable, or record on the camera's computer"
    also = f", {pauses} pauses" if pauses else ""
    found.add("dropped frames", f"{dropped} ({share:.2%}){also}", lossy if share > MOST_DROPPED else "")
    if conversion:
        lost = conversion.frames_recorded - conversion.frames_used
        found.numbers["frames_left_out"] = lost
        found.add("frames left out", f"{lost} of {conversion.frames_recorded}, {len(conversion.gaps)} gaps")
        for problem in conversion.problems:
            found.add("problem", problem, "everything that could be read was kept")


def _actions(data: Episodes, found: DataReport) -> None:
    inner = np.ones(len(data.actions), bool)
    inner[data.offsets + data.lengths - 1] = False
    actions = data.actions[inner]
    found.actions = actions
    found.action_names = data.action_names
    still = float((np.abs(actions - np.median(actions, 0)) < EDGE * np.ptp(actions, 0).clip(1e-12)).all(1).mean())
    for name, values in zip(found.action_names, actions.T, strict=True):
        low, high = float(values.min()), float(values.max())
        span = high - low
        ends = (values - low <= EDGE * span) | (high - values <= EDGE * span)
        saturated = float(ends.mean()) if span > 0 else 1.0
        found.numbers |= {f"saturation_{name}": saturated, f"low_{name}": low, f"high_{name}": high}
        warning = ""
        if span <= 0:
            warning = "it never changes, so its effect cannot be learned: record motion of it, or leave it out"
            found.no_go.append(f"{name} never moves")
        elif saturated > MOST_SATURATED:
            warning = "it is often at an end of its range, so the model learns little of the rest; command less"
        if max(-low, high) > MOST_SPEED and data.velocities:
            found.no_go.append(
                f"{name} moves at {max(-low, high):.3g} rad/s, which no arm does: units, wraps or a reset"
            )
        text = f"{low:.3g} to {high:.3g}, std {values.std():.3g}, {saturated:.1%} at an end"
        found.add(f"action {name}", text, warning)
    found.numbers["rest_share"] = still
    found.add("rest", f"in {still:.0%} of the steps no action differs from its median")


def _look(
    data: Episodes, chosen: np.ndarray, frameskip: int, found: DataReport
) -> tuple[list[np.ndarray], float, float]:
    """Reads the frames; fills in `identity` and `pictures`.

    :return: small pictures (n, SMALL² · 3) of each chosen episode, the share of frozen frames, and the median change
        of a pixel from frame to frame, grey levels.
    """
    small: list[np.ndarray] = []
    squares: dict[int, list[float]] = defaultdict(list)
    frozen = moving = 0
    shown: list[np.ndarray] = []
    spread = np.nanstd(data.actions, axis=0).clip(1e-9)
    for episode in chosen:
        rows = data.offsets[episode] + np.arange(min(data.lengths[episode], FRAMES_LOOKED_AT))
        frames = data.pixels[rows]
        if len(shown) < 8:
            shown.append(frames[len(frames) // 2])
        change = np.array([float(cv2.norm(a, b, cv2.NORM_L1)) for a, b in itertools.pairwise(frames)])
        commanded = (np.abs(data.actions[rows[:-1]]) > 0.1 * spread).any(1)
        frozen += int(((change == 0) & commanded).sum())
        moving += int(commanded.sum())
        for blocks in range(1, 6):
            later, sooner = frames[blocks * frameskip :], frames[: -blocks * frameskip]
            if len(later):
                pick = slice(None, None, max(1, len(later) // 8))
                error = later[pick].astype(np.float32) - sooner[pick]
                squares[blocks].append(float(np.square(error).mean()))
        size = (SMALL, SMALL)
        small.append(np.stack([cv2.resize(f, size, interpolation=cv2.INTER_AREA).reshape(-1) for f in frames]))
    found.identity = np.sqrt([np.mean(squares[blocks]) for blocks in sorted(squares)])
    found.pictures = np.stack(shown)
    steps = np.concatenate([np.abs(np.diff(s.astype(np.float32), axis=0)).mean(1) for s in small])
    return small, frozen / max(1, moving), float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0


def _lag(data: Episodes, found: DataReport) -> None:
    """Whether actions, pictures and measured positions fit together, and with which lag."""
    pairing, dt = pair(data), data.control_dt_s
    found.correlations = pairing.correlations
    found.no_go += pairing.wrong
    found.numbers["lag_steps"] = pairing.lag_steps
    warning = "; ".join(pairing.wrong + pairing.doubts)
    if pairing.lag_steps is None:
        found.add("lag of the camera", "not known", warning or pairing.unjudged)
        return
    found.numbers |= {"lag_correlation": pairing.correlation, "alike_pictures_apart": pairing.apart}
    lag = pairing.lag_steps
    text = f"{lag:+.1f} steps" + (f" ({1e3 * lag * dt:+.0f} ms)" if dt > 0 else "")
    found.add("lag of the camera", f"{text}, correlation {pairing.correlation:.2f}", warning)


def _scene(data: Episodes, chosen: np.ndarray, small: list[np.ndarray], found: DataReport) -> None:
    """Changes of exposure and camera pose between episodes, and the share of the joint space that was visited."""
    brightness = np.array([some.mean() for some in small])
    drift = float(np.ptp(brightness))
    found.numbers["brightness_drift"] = drift
    uneven = "fix exposure and white balance, or record in the light in which the robot will work"
    found.add("exposure", f"the mean of an episode varies by {drift:.1f} grey levels", uneven if drift > 15 else "")
    found.numbers["brightest"] = level = float(max(some.max() for some in small))
    dark = "pictures are dark: open the exposure; a camera of 12 bits that sends 16 has to shift them up in its driver"
    found.add("brightest part", f"{level:.0f} of 255", dark if level < DARK else "")
    if len(small) >= 6:
        scenes = np.stack([np.median(some, axis=0) for some in small]) - brightness[:, None]
        steps = [
            float(np.sqrt(np.square(scenes[:k].mean(0) - scenes[k:].mean(0)).mean())) for k in range(2, len(scenes) - 1)
        ]
        within = float(np.median([np.sqrt(np.square(b - a).mean()) for a, b in itertools.pairwise(scenes)]))
        moved, at = max(steps), int(chosen[2 + int(np.argmax(steps))])
        bump = moved > 3.0 and moved > 2.0 * within
        found.numbers["scene_step"] = moved
        found.add(
            "place of the camera",
            f"the static part of the pictures changes by {moved:.1f} grey levels at most"
            + (f", before episode {at}" if bump else ""),
            "the camera or the scene was moved there: fix the camera, and record the episodes before it again"
            if bump
            else "",
        )
    if data.proprio is not None and data.proprio.shape[1] > 1:
        low, high = np.quantile(data.proprio, [0.01, 0.99], axis=0)
        cells = np.clip((data.proprio - low) / (high - low).clip(1e-9) * CELLS, 0, CELLS - 1).astype(int)
        pairs = itertools.combinations(range(data.proprio.shape[1]), 2)
        share = float(np.mean([len(np.unique(cells[:, list(two)], axis=0)) / CELLS**2 for two in pairs]))
        found.numbers["coverage"] = share
        thin = "few combinations of joint positions were visited, and no plan can go through others: vary the motion"
        text = f"{share:.0%} of the cells of two joints' ranges, {CELLS} by {CELLS}, were visited"
        found.add("coverage", text, thin if share < 0.3 else "")


def _enough(data: Episodes, found: DataReport) -> None:
    """Whether there are enough episodes to train with, and enough held-out frames to calibrate with."""
    clips = data.lengths[data.lengths >= CLIP]
    held_out = max(1, round(0.1 * len(data.lengths)))
    short = [
        (
            len(clips) < LEAST_EPISODES,
            f"{len(clips)} episodes of {CLIP} frames or more, at least {LEAST_EPISODES} are needed",
        ),
        (clips.sum() < LEAST_FRAMES, f"{int(clips.sum())} frames in them, at least {LEAST_FRAMES} are needed"),
    ]
    missing = [said for few, said in short if few]
    found.no_go += [f"too little to train with: {', '.join(missing)}"] if missing else []
    calibrated = held_out * float(np.median(data.lengths)) >= 100
    found.add(
        "enough",
        f"{len(clips)} episodes to train with; {held_out} of all episodes are held out to calibrate with",
        "; ".join(missing)
        or ("" if calibrated else "for a calibration there should be 100 frames held out: record more"),
    )


def _duplicates(data: Episodes, chosen: np.ndarray, small: list[np.ndarray], step: float, found: DataReport) -> None:
    """Frames that nearly repeat one of another episode, and episodes that repeat motion of others: both let training
    see what validation measures.
    """
    rng = np.random.default_rng(0)
    owner = np.concatenate([np.full(len(s), i) for i, s in enumerate(small)])
    pictures = np.concatenate(small)
    near = 0.0
    if len(small) > 1:
        queries = np.sort(rng.permutation(len(owner))[:QUERIES])
        others = np.sort(rng.permutation(len(owner))[:OTHERS])
        against = pictures[others].astype(np.float32)
        squares = np.square(against).sum(1)
        # Near means: at most half the change between consecutive frames, as a root mean square.
        limit = (0.5 * step) ** 2 * pictures.shape[1]
        for some in np.array_split(queries, max(1, len(queries) // 100)):
            asked = pictures[some].astype(np.float32)
            distances = squares - 2 * asked @ against.T + np.square(asked).sum(1)[:, None]
            distances[owner[some][:, None] == owner[others]] = np.inf
            near += float((distances.min(1) <= limit).sum())
        near /= len(queries)
    found.numbers["near_duplicate_share"] = near
    found.add("near-duplicate frames", f"{near:.1%} have a near twin in another episode")

    windows: dict[bytes, int] = {}
    copies: set[tuple[int, int]] = set()
    shared, total = 0, 0
    spread = np.nanstd(data.actions, axis=0).clip(1e-9)
    for i, (offset, length) in enumerate(zip(data.offsets, data.lengths, strict=True)):
        actions = np.round(data.actions[offset : offset + length - 1] / spread, 3).astype(np.float32) + 0.0
        for begin in range(len(actions) - WINDOW + 1):
            window = actions[begin : begin + WINDOW]
            if (np.ptp(window, axis=0) < 0.01).all():
                continue  # rest and constant speed are repeated without being copies
            total += 1
            key = hashlib.blake2b(window.tobytes(), digest_size=12).digest()
            first = windows.setdefault(key, i)
            if first != i:
                shared += 1
                copies.add((first, i))
    share = shared / max(1, total)
    example = f", such as {' and '.join(map(str, min(copies)))}" if copies else ""
    found.numbers |= {"copied_share": share, "copied_pairs": len(copies)}
    found.add(
        "copies between episodes",
        f"{share:.1%} of the motion, in {len(copies)} pairs of episodes{example}",
        "the same motion in two episodes lets training see what validation measures: remove the copies"
        if share > MOST_COPIED
        else "",
    )


def _identity(found: DataReport, frameskip: int) -> None:
    """How much pictures change within action blocks: the error of a prediction that nothing changes."""
    if not len(found.identity):
        found.add("identity baseline", "not known: every episode is shorter than an action block")
        return
    first = float(found.identity[0])
    found.numbers |= {f"identity_rms_{i + 1}": float(value) for i, value in enumerate(found.identity)}
    values = ", ".join(f"{value:.2f}" for value in found.identity)
    found.add(
        "identity baseline",
        f"pictures change by {values} grey levels (RMS) after 1 to {len(found.identity)} blocks of {frameskip}",
        "almost nothing moves in the picture, and a model that predicts no change is nearly right: bring the camera "
        "closer, crop, or raise frameskip"
        if first < LEAST_CHANGE
        else "",
    )


def draw(found: DataReport, path: Path, title: str) -> None:
    """Draws the report into a PNG file: pictures, lengths, intervals, actions, lag, identity baseline, warnings."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 9), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title + "\n" + "\n".join(textwrap.wrap(found.verdict, 130)[:3]))
    axes: Any = figure.subplot_mosaic(
        [["pictures"] * 3, ["lengths", "intervals", "actions"], ["lag", "identity", "verdicts"]],
        height_ratios=[1, 1.6, 1.6],
    )
    axes["pictures"].imshow(np.concatenate(list(found.pictures), axis=1))
    axes["pictures"].set_title("the middle of the first episodes")
    axes["lengths"].hist(found.lengths, bins=30)
    axes["lengths"].set(title="length of the episodes", xlabel="frames", ylabel="episodes")
    if len(found.intervals_s):
        most = np.quantile(found.intervals_s, 0.999)
        span = (0.9e3 * float(found.intervals_s.min()), 1.1e3 * float(most) + 1e-3)  # not empty if all are equal
        axes["intervals"].hist(1e3 * np.minimum(found.intervals_s, most), bins=50, range=span, log=True)
    axes["intervals"].set(title="time from frame to frame", xlabel="ms", ylabel="frames")
    for name, values in zip(found.action_names[:8], found.actions.T, strict=False):
        axes["actions"].hist(values, bins=60, histtype="step", label=name)
    axes["actions"].legend(fontsize="small")
    axes["actions"].set(title="actions", ylabel="steps")
    axes["lag"].plot(np.arange(-LAGS, LAGS + 1), found.correlations, "o-")
    axes["lag"].axvline(0, color="grey", lw=0.8)
    axes["lag"].set(title="change of the picture after an action", xlabel="steps later", ylabel="correlation")
    axes["identity"].plot(np.arange(1, len(found.identity) + 1), found.identity, "o-")
    axes["identity"].set(title="identity baseline", xlabel="action blocks", ylabel="grey levels, RMS", ylim=(0, None))
    warnings = [f"{one.what}: {one.warning}" for one in found.findings if one.warning] or ["nothing found wrong"]
    text = "\n".join("\n   ".join(textwrap.wrap(f"• {line}", 60)) for line in warnings[:8])
    axes["verdicts"].text(0, 1, text, va="top", fontsize="small", transform=axes["verdicts"].transAxes)
    for name in ("pictures", "verdicts"):
        axes[name].axis("off")
    figure.savefig(path, dpi=110, metadata={"Software": DRAWN_BY})
