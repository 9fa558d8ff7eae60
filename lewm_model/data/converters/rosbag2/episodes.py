# SPDX-License-Identifier: Apache-2.0
"""Which frames of a recording become episodes, and with which positions: what is known before a picture is read.

Frames are taken every control step. Where a frame, a joint state or a command is missing, an episode ends and another
begins behind the gap: nothing is repeated or made up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lewm_model.data.converters.columns import HELD_RAD, Columns
from lewm_model.data.converters.conversion import LONGEST_EPISODE, Conversion, stretches
from lewm_model.data.converters.rosbag2.messages import LATEST_NS, NS_PER_S, Frame, State
from lewm_model.data.converters.rosbag2.positions import (
    between_clocks,
    commanded_positions,
    demanded_positions,
    enclosed,
    interpolated,
    joined_states,
    unwrapped,
)
from lewm_model.data.converters.rosbag2.streams import Moment, Section, Streams

ROUNDING_S = 1e-9  # a time that is off by exactly the limit is within it


@dataclass
class BagReport(Conversion):
    """What a conversion found, used and left out, and how far the times and the arm were off."""

    tolerance_s: float = 0.0  # with which frames and joint states were joined
    offset_s: float = 0.0  # greatest distance between a frame and its control step
    tracking_rad: float = 0.0  # greatest distance between measured and commanded position

    def finish(self) -> BagReport:
        """Adds these numbers to the notes."""
        self.notes += [
            f"frames were taken within {1e3 * self.tolerance_s:.1f} ms of a control step, positions from joint states "
            f"at most {2e3 * self.tolerance_s:.1f} ms apart",
            f"frames lie at most {1e3 * self.offset_s:.1f} ms beside the control steps",
            f"the arm was at most {self.tracking_rad:.3f} rad from where it was commanded",
        ]
        return self


@dataclass
class PlannedEpisode:
    """An episode of n frames before its pictures are read."""

    frames: list[tuple[int, ...]]  # (n,), for each frame the number of each camera's picture
    commanded: np.ndarray  # (n, A) rad
    proprio: np.ndarray  # (n, A) rad, measured
    name: str
    stamps_s: np.ndarray  # (n,), since the section's first frame


def plan_episodes(
    streams: Streams, columns: Columns, control_dt_s: float, tolerance_s: float, report: BagReport
) -> list[PlannedEpisode]:
    """The episodes of a recording.

    :param tolerance_s: greatest distance between a control step and its frame, and half of the greatest distance
        between the two joint states around a frame.
    """
    marked = _marked(streams.markers, report)
    held_rad = _held_rad(streams, len(columns.names))
    episodes: list[PlannedEpisode] = []
    for number, section in enumerate(streams.sections):
        report.frames_recorded += len(section.frames)
        frames, pictures = _joined_frames(section, tolerance_s, report)
        if not frames:
            continue
        joints = _increasing_states(joined_states(section.joints, 2.0 * tolerance_s + ROUNDING_S))
        if len(joints) < 2:
            report.gaps.append(f"{len(frames)} frames without joint states")
            continue
        section = section._replace(frames=frames, joints=joints, references=_increasing_states(section.references))
        known = _at_frames(section, columns, held_rad, tolerance_s, report)
        report.intervals_s += np.diff(known.times_s).tolist()
        moments = [(number, frame.log_ns) for frame in frames]
        for begin, end, name in marked:
            members = np.array([i for i, at in enumerate(moments) if begin <= at < end], int)
            for rows, steps in _usable_rows(members, known, control_dt_s, tolerance_s, report):
                beside_s = np.abs(known.times_s[rows] - steps)
                error = np.abs(known.commanded[rows] - known.measured[rows])
                report.offset_s = max(report.offset_s, float(beside_s.max()))
                report.tracking_rad = max(report.tracking_rad, float(error.max()))
                numbers = [pictures[row] for row in rows]
                times_s = known.times_s[rows]
                episodes.append(PlannedEpisode(numbers, known.commanded[rows], known.measured[rows], name, times_s))
    for held, at in zip(columns.held, held_rad, strict=True):
        report.note(f"{held} is held at {at:.3f} rad")
    return episodes


def _marked(markers: Sequence[tuple[Moment, str]], report: BagReport) -> list[tuple[Moment, Moment, str]]:
    """Begin, end and name of each part that the episode markers keep; without markers the whole recording."""
    first, last = (-1, 0), (LATEST_NS, 0)
    if not markers:
        return [(first, last, "")]
    parts: list[tuple[Moment, Moment, str]] = []
    running: tuple[Moment, str] | None = None
    for moment, text in markers:
        verb, _, name = text.strip().partition(" ")
        verb = verb.rstrip(":").lower()
        if verb not in ("start", "end", "discard"):
            report.problems.append(f"episode marker {text!r} is unknown; send start, end or discard")
            continue
        if running is not None and verb != "discard":
            parts.append((running[0], moment, running[1]))
        elif running is None and verb != "start":
            report.problems.append(f"episode marker {text!r} without a start before it")
        running = (moment, name.strip()) if verb == "start" else None
    if running is not None:
        parts.append((running[0], last, running[1]))
    return parts


def _held_rad(streams: Streams, actions: int) -> np.ndarray:
    """Where the joints behind the first `actions` stand most of the time, rad."""
    states = [state.positions[actions:] for section in streams.sections for state in section.joints]
    return np.nanmedian(states, axis=0) if states else np.empty(0)


# ---- frames ----------------------------------------------------------------------------------------------------------


def _joined_frames(
    section: Section, tolerance_s: float, report: BagReport
) -> tuple[list[Frame], list[tuple[int, ...]]]:
    """The first camera's frames that every camera has a picture of, and the numbers of these pictures."""
    frames = _increasing_frames(section.frames, report)
    partners = [_nearest(frames, _increasing_frames(other, report), tolerance_s) for other in section.others]
    whole = [all(numbers[i] >= 0 for numbers in partners) for i in range(len(frames))]
    if not all(whole):
        report.left_out["frames that not every camera has a picture of"] += whole.count(False)
    kept = [i for i in range(len(frames)) if whole[i]]
    return [frames[i] for i in kept], [(frames[i].number, *(numbers[i] for numbers in partners)) for i in kept]


def _increasing_frames(frames: Sequence[Frame], report: BagReport) -> list[Frame]:
    """Those that can be read and are newer than the ones before."""
    kept: list[Frame] = []
    for frame in frames:
        if frame.stamp_ns < 0:
            report.left_out["images that cannot be read"] += 1
        elif kept and frame.stamp_ns <= kept[-1].stamp_ns:
            report.left_out["images with the stamp of the one before, or an older one"] += 1
        else:
            kept.append(frame)
    return kept


def _nearest(frames: Sequence[Frame], others: Sequence[Frame], tolerance_s: float) -> list[int]:
    """The number of the other camera's picture that was taken nearest to each frame; -1 beyond the tolerance."""
    if not others or not frames:
        return [-1] * len(frames)
    stamps_ns = np.array([other.stamp_ns for other in others])
    found = []
    for frame in frames:
        right = int(np.searchsorted(stamps_ns, frame.stamp_ns))
        near = [j for j in (right - 1, right) if 0 <= j < len(others)]
        best = min(near, key=lambda j: abs(int(stamps_ns[j]) - frame.stamp_ns))
        good = abs(int(stamps_ns[best]) - frame.stamp_ns) <= tolerance_s * NS_PER_S
        found.append(others[best].number if good else -1)
    return found


# ---- positions at the frames -----------------------------------------------------------------------------------------


class _AtFrames(NamedTuple):
    """What is known at the stamps of a section's n frames."""

    times_s: np.ndarray  # (n,), since the first frame
    measured: np.ndarray  # (n, A) rad
    commanded: np.ndarray  # (n, A) rad
    enclosed: np.ndarray  # (n,) bool: between two joint states that are near enough
    told: np.ndarray  # (n,) bool: a command is known
    moved: np.ndarray  # (n,) bool: a joint that should be held is not where it is held


def _at_frames(
    section: Section, columns: Columns, held_rad: np.ndarray, tolerance_s: float, report: BagReport
) -> _AtFrames:
    frames, _, joints, commands, references = section
    actions = len(columns.names)
    epoch_ns, log_ns = frames[0].stamp_ns, joints[0].log_ns
    times_s = np.array([frame.stamp_ns - epoch_ns for frame in frames]) / NS_PER_S
    joints_s = np.array([state.stamp_ns - epoch_ns for state in joints]) / NS_PER_S
    received_s = between_clocks(
        np.array([command.log_ns - log_ns for command in commands]) / NS_PER_S,
        np.array([state.log_ns - log_ns for state in joints]) / NS_PER_S,
        joints_s,
    )
    recorded = np.array([state.positions for state in joints])
    recorded, commands, wrapped = unwrapped(recorded, joints_s, commands, received_s)
    for joint in wrapped:
        report.note(f"the numbers of {(columns.names + columns.held)[joint]} wrap at pi; its turns were counted")
    positions = interpolated(times_s, joints_s, recorded)
    measured, held = positions[:, :actions], positions[:, actions:]
    longest_s = 2.0 * tolerance_s + ROUNDING_S
    if len(references) > 1:
        turning = np.full_like(measured, np.nan)
        turns = [joint for joint in wrapped if joint < actions]
        turning[:, turns] = measured[:, turns]
        commanded = demanded_positions(times_s, references, epoch_ns, longest_s, turning)
    else:
        commanded = commanded_positions(
            times_s, commands, received_s, epoch_ns, joints_s, recorded[:, :actions], report.left_out
        )
    told = ~np.isnan(commanded).any(axis=1)
    moved = (np.abs(held - held_rad) > HELD_RAD).any(axis=1)
    if moved.any():
        report.left_out[f"frames in which {' or '.join(columns.held)} had moved"] += int(moved.sum())
    return _AtFrames(times_s, measured, commanded, enclosed(times_s, joints_s, longest_s), told, moved)


def _increasing_states(states: Sequence[State]) -> list[State]:
    """Those that are newer than the ones before."""
    kept: list[State] = []
    for state in states:
        if not kept or (state.stamp_ns > kept[-1].stamp_ns and state.log_ns >= kept[-1].log_ns):
            kept.append(state)
    return kept


# ---- control steps ---------------------------------------------------------------------------------------------------


def _usable_rows(
    members: np.ndarray, known: _AtFrames, control_dt_s: float, tolerance_s: float, report: BagReport
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows of frames (m,) one control step apart at which everything is known, with their control steps (m,) s.

    :param members: rows of the frames that are taken from.
    """
    found = []
    times_s = known.times_s[members]
    for run, missing_s, following in _grid_runs(times_s, control_dt_s, tolerance_s):
        rows = members[run]
        if following < len(members):
            report.gaps.append(
                f"no frame within {1e3 * tolerance_s:.0f} ms of {missing_s:.3f} s, "
                f"the next is at {times_s[following]:.3f} s"
            )
        unknown = rows[known.told[rows] & ~known.enclosed[rows]]
        if len(unknown):
            report.gaps.append(
                f"{len(unknown)} frames lie between joint states more than {2e3 * tolerance_s:.0f} ms apart, "
                f"the first at {known.times_s[unknown[0]]:.3f} s"
            )
        if not known.told[rows].all():
            report.left_out["frames without a known command"] += int((~known.told[rows]).sum())
        steps_s = known.times_s[rows[0]] + control_dt_s * np.arange(len(rows))
        for piece in stretches(known.told[rows] & known.enclosed[rows] & ~known.moved[rows], LONGEST_EPISODE):
            found.append((rows[piece], steps_s[piece]))
    return found


def _grid_runs(stamps_s: np.ndarray, control_dt_s: float, tolerance_s: float) -> list[tuple[list[int], float, int]]:
    """Runs of frames one control step apart; with each the grid time that has no frame, and where the next run begins.

    A run's grid starts at its first frame. The frame for a grid time is the nearest one within the tolerance, and
    every frame is used once.
    """
    at_s: list[float] = stamps_s.tolist()  # Python's own numbers: one by one they are faster than an array's
    runs = []
    start = 0
    while start < len(at_s):
        run = [start]
        while True:
            target = at_s[start] + len(run) * control_dt_s
            right = bisect_left(at_s, target)
            near = [j for j in (right - 1, right) if run[-1] < j < len(at_s)]
            best = min(near, key=lambda j: abs(at_s[j] - target), default=-1)
            if best < 0 or abs(at_s[best] - target) > tolerance_s + ROUNDING_S:
                break
            run.append(best)
        start = max(run[-1] + 1, bisect_left(at_s, target - tolerance_s))
        runs.append((run, target, start))
    return runs
