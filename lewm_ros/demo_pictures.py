# SPDX-License-Identifier: Apache-2.0
"""The pictures of the demo: a film of some goals, a still of it, a picture of every failure, and a summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import cv2
import numpy as np

from lewm_model.evaluation.statistics import Rate
from lewm_model.robot.observation import Observation
from lewm_model.runtime.decoder import PictureDecoder
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.pinhole import Pinhole
from lewm_model.tasks.task import HELD_S, Outcome, Trial
from lewm_ros.charts import FAINT, Chart, Colour
from lewm_ros.commanded import GRID_S, Command, stitch

PANE = 576  # pixels, side of each square picture in the film
INSET = 3  # the goal in the corner of a pane has a third of its side
BAR = 64  # pixels, height of the line of text at the top
WORDS = {"near": "short way"}  # title of a task in the film; "near goal" could be read as a state of the arm
LINE, STRIP = 44, 228  # pixels: height of the text above the imagined future, side of its pictures
COLOURS: dict[str, Colour] = {"planner": (27, 108, 168), "random": (201, 138, 27), "hold": (136, 136, 136)}
LOST: Colour = (192, 57, 43)  # of a goal that was not held
LINES: tuple[Colour, ...] = ((27, 108, 168), (214, 96, 20), (40, 140, 60), (130, 80, 170), (120, 90, 60))  # of joints


@dataclass
class Episode:
    """The record of one goal. Times are seconds since the first command of the goal."""

    trial: Trial
    number: int
    goal_picture: np.ndarray  # (H, W, 3) uint8 RGB
    times_s: np.ndarray = field(default_factory=lambda: np.zeros(0))
    errors_m: np.ndarray = field(default_factory=lambda: np.zeros(0))
    commands: list[Command] = field(default_factory=list)  # that arrived
    outcome: Outcome | None = None
    note: str = ""  # what went wrong besides planning
    frames: list[tuple[float, np.ndarray]] = field(default_factory=list)  # (time, picture) of the first camera
    others: dict[str, list[tuple[float, np.ndarray]]] = field(default_factory=dict)  # of each of the other cameras
    plans: list[tuple[float, np.ndarray]] = field(default_factory=list)  # (time, joint path (T, A))
    imagined: list[tuple[float, np.ndarray]] = field(default_factory=list)  # (time, latents (H, D))

    @property
    def latencies_ms(self) -> np.ndarray:
        """From camera frame to command, ms, for the first arrival of each command: commands are repeated."""
        first: dict[float, float] = {}  # by the stamp of the frame, s
        for command in self.commands:
            first.setdefault(float(command.trajectory.times_s[0]), command.received_s)
        return np.array([1e3 * (received_s - stamp_s) for stamp_s, received_s in first.items()])

    @property
    def name(self) -> str:
        """Of the task."""
        return self.trial.task.name


class Film:
    """Writes an mp4: the camera with the planned path of the end effector, the goal, other cameras, and below them the
    imagined future where the bundle has a decoder. One frame is also written as PNG.
    """

    def __init__(
        self,
        path: Path,
        rate_hz: float,
        camera: Pinhole,
        sim: ArmSim,
        still: tuple[str, float],
        observation: Observation,
        decoder: PictureDecoder | None = None,
        block_s: float = 0.25,
    ) -> None:
        """
        :param still: task and time, s since the first command, of the frame for the PNG.
        :param block_s: length of an action block.
        """
        self.path, self.frames = path, 0
        self._parts, self._width = observation, (1 + len(sim.cameras)) * PANE
        self._still, self._camera, self._sim = still, camera, sim
        self._decoder, self._block_s = decoder, block_s
        self._still_taken = False
        self._file = av.open(str(path), "w", options={"movflags": "faststart"})  # plays while it loads
        self._stream: Any = self._file.add_stream("libx264", Fraction(rate_hz).limit_denominator(1000))
        self._stream.width = self._width
        self._stream.height = BAR + PANE + (STRIP + LINE if decoder is not None else 0)
        self._stream.pix_fmt = "yuv420p"  # the pixel format that every browser plays
        self._stream.options = {"crf": "20", "preset": "veryfast"}

    def __enter__(self) -> Film:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.mux(self._stream.encode(None))
        self._file.close()

    def add(self, episode: Episode) -> None:
        """Appends the frames of one goal."""
        goals = self._goals(episode.goal_picture)
        goal = _enlarged(goals[0])
        _label(goal, "goal")
        for time_s, picture in episode.frames:
            camera = _enlarged(picture)
            known = [path for at, path in episode.plans if at <= time_s]
            if known:
                self._draw_path(camera, known[-1])
            error = float(np.interp(time_s, episode.times_s, episode.errors_m))
            task = episode.trial.task
            good = error <= task.tolerance(self._sim)
            title = f"{WORDS.get(task.name, task.name)}, goal {episode.number + 1}"
            text = f"{title}   {max(time_s, 0.0):4.1f} s   {task.subject} {1e3 * error:4.0f} mm from the goal"
            bar = np.full((BAR, self._width, 3), 255, np.uint8)
            cv2.putText(
                bar,
                text,
                (14, 42),
                cv2.FONT_HERSHEY_SIMPLEX,
                0.85,
                (0, 130, 40) if good else (40, 40, 40),
                2,
                cv2.LINE_AA,
            )
            _label(camera, "camera, imagined path")
            camera[:, -3:] = goal[:, :3] = 255
            others = [
                _pane_of(name, frames, time_s, goals[1 + i : 2 + i])
                for i, (name, frames) in enumerate(episode.others.items())
            ]
            frame = np.vstack([bar, np.hstack([camera, goal, *others]), *self._strip(episode, time_s)])
            self._file.mux(self._stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            self.frames += 1
            if not self._still_taken and episode.name == self._still[0] and time_s >= self._still[1]:
                still = cv2.resize(frame, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
                cv2.imwrite(str(self.path.with_suffix(".png")), cv2.cvtColor(still, cv2.COLOR_RGB2BGR))
                self._still_taken = True

    def _goals(self, picture: np.ndarray) -> list[np.ndarray]:
        """The parts of a goal picture, by camera: it shows the cameras side by side."""
        widths = [camera.width for camera in self._parts.cameras]
        return [picture] if len(widths) == 1 else np.split(picture, np.cumsum(widths)[:-1], axis=1)

    def _strip(self, episode: Episode, time_s: float) -> list[np.ndarray]:
        """The imagined future (LINE + STRIP, width, 3) of the newest plan; nothing without a decoder."""
        if self._decoder is None:
            return []
        strip = np.full((LINE + STRIP, self._width, 3), 255, np.uint8)
        _text(strip, "imagined: what the model expects to see", (14, LINE - 14), 0.7)
        known = [latents for at, latents in episode.imagined if at <= time_s]
        height, (high, wide) = STRIP - 4, self._parts.size
        width = round(height * wide / high)
        pictures = list(self._decoder.draw(known[-1]))[: self._width // width] if known else []
        for i, picture in enumerate(pictures):
            small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)
            _text(small, f"+{(i + 1) * self._block_s:.2f} s", (10, height - 12), 0.6)
            left = round(i * (self._width - width) / max(1, len(pictures) - 1))
            strip[LINE : LINE + height, left : left + width] = small
        return [strip]

    def _draw_path(self, picture: np.ndarray, joint_path: np.ndarray) -> None:
        towards = self._camera.rotation[:, 2]  # from the picture's plane to the camera
        tips = np.stack([self._sim.visible_tip(joints, towards) for joints in joint_path])
        scale = PANE / self._camera.width
        points = np.round(self._camera.project(tips) * scale).astype(np.int32)
        cv2.polylines(picture, [points.reshape(-1, 1, 2)], False, (20, 160, 60), 3, cv2.LINE_AA)
        end = (int(points[-1, 0]), int(points[-1, 1]))
        cv2.circle(picture, end, 6, (20, 160, 60), -1, cv2.LINE_AA)


def _enlarged(picture: np.ndarray) -> np.ndarray:
    """A square camera picture at the size of a pane, smoothed, so that it suggests no more detail than there is."""
    return cv2.resize(picture, (PANE, PANE), interpolation=cv2.INTER_CUBIC)


def _pane_of(
    name: str, frames: Sequence[tuple[float, np.ndarray]], time_s: float, goal: Sequence[np.ndarray]
) -> np.ndarray:
    """The newest picture of another camera, with its goal in a corner where the model uses that camera."""
    known = [picture for at, picture in frames if at <= time_s]
    pane = _enlarged(known[-1]) if known else np.full((PANE, PANE, 3), 255, np.uint8)
    for picture in goal:
        side = PANE // INSET
        pane[:side, -side:] = cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC)
        cv2.rectangle(pane, (PANE - side, 0), (PANE - 1, side), (255, 255, 255), 2)
        _text(pane, "goal", (PANE - side + 8, side - 10), 0.6)
    _label(pane, f"{name} camera")
    pane[:, :3] = 255
    return pane


def _label(picture: np.ndarray, text: str) -> None:
    _text(picture, text, (14, PANE - 14), 0.7)


def _text(picture: np.ndarray, text: str, at: tuple[int, int], size: float) -> None:
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, (40, 40, 40), 2, cv2.LINE_AA)


def save_failure(folder: Path, episode: Episode) -> Path:
    """A picture of a failed goal: the last camera frame beside the goal. Returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    goal = episode.goal_picture
    last = episode.frames[-1][1] if episode.frames else np.zeros_like(goal)
    last = cv2.resize(last, (round(goal.shape[0] * last.shape[1] / last.shape[0]), goal.shape[0]))
    picture = cv2.resize(np.hstack([last, goal]), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    path = folder / f"{episode.name}_{episode.number:03d}.png"
    cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return path


def save_summary(
    path: Path,
    episodes: Sequence[Episode],
    rates: dict[tuple[str, str], Rate],
    frame_to_command_ms: np.ndarray,
    tolerance_m: Mapping[str, float],
) -> None:
    """One picture: success and that of the baselines, the error of every goal over time, and the latency.

    :param rates: share of held goals by (task, policy).
    :param tolerance_m: by task.
    """
    kinds = list(dict.fromkeys(kind for kind, _ in rates))
    charts = [_rates(kinds, rates)]
    for kind in kinds:
        own = [episode for episode in episodes if episode.name == kind]
        budget_s = own[0].trial.budget_s
        title = f"{kind}: way to the goal (red: not held)"
        chart = Chart(title, "s since the first command", "mm", (0.0, budget_s), (0.1, 1000.0), log=True)
        chart.shade((budget_s - HELD_S, budget_s))
        for episode in own:
            colour = COLOURS["planner"] if episode.outcome is not None and episode.outcome.held else LOST
            chart.line(episode.times_s, 1e3 * episode.errors_m, colour)
        chart.dashes(y=1e3 * tolerance_m[kind])
        charts.append(chart)
    charts.append(_latencies(frame_to_command_ms))
    _save(path, np.hstack([chart.picture for chart in charts]))


def save_velocities(path: Path, titles: Sequence[str], episodes: Sequence[Episode], names: Sequence[str]) -> None:
    """Plots the commanded joint velocities of episodes with the same start and goal over time, one below the other."""
    pictures = []
    for title, episode in zip(titles, episodes, strict=True):
        times = np.arange(0.0, episode.trial.budget_s, GRID_S)
        none = np.zeros((len(times), len(names)))
        velocities = stitch(episode.commands, times)[1] if episode.commands else none
        most = 1.1 * max(0.1, float(np.abs(velocities).max()))
        label = "s since the first command; a line where a command arrived"
        chart = Chart(title, label, "rad/s", (0.0, episode.trial.budget_s), (-most, most), width=1000)
        for command in episode.commands:
            chart.line([command.received_s] * 2, [-most, most], FAINT)
        colours = [LINES[i % len(LINES)] for i in range(len(names))]
        for values, colour in zip(velocities.T, colours, strict=True):
            chart.line(times, values, colour)
        chart.legend(list(zip(names, colours, strict=True)))
        pictures.append(chart.picture)
    _save(path, np.vstack(pictures))


def _rates(kinds: Sequence[str], rates: dict[tuple[str, str], Rate]) -> Chart:
    ticks = [(float(i), kind) for i, kind in enumerate(kinds)]
    # The x axis leaves room for the legend.
    chart = Chart("goals held, with 95 % intervals", "", "%", (-0.6, len(kinds) + 0.1), (0.0, 105.0), ticks=ticks)
    for offset, (policy, colour) in enumerate(COLOURS.items()):
        for position, kind in enumerate(kinds):
            left = position + 0.27 * (offset - 1) - 0.125
            rate = rates[kind, policy]
            chart.bar((left, left + 0.25), rate.percent, colour, rate.interval)
    chart.legend(list(COLOURS.items()))
    return chart


def _latencies(frame_to_command_ms: np.ndarray) -> Chart:
    most = max(200.0, 1.05 * float(frame_to_command_ms.max())) if len(frame_to_command_ms) else 200.0
    counts, edges = np.histogram(frame_to_command_ms, 40, (0.0, most))
    chart = Chart("camera frame to command", "ms", "commands", (0.0, most), (0.0, 1.1 * max(1, int(counts.max()))))
    for count, left, right in zip(counts, edges, edges[1:], strict=False):
        if count:
            chart.bar((float(left), float(right)), float(count), COLOURS["planner"])
    chart.dashes(x=150.0)
    return chart


def _save(path: Path, picture: np.ndarray) -> None:
    cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
