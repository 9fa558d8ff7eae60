"""What the demo leaves to look at: a film of some goals, a picture of it, one of every failure, and a summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from lewm_model.evaluation.statistics import Rate
from lewm_model.runtime.decoder import PictureDecoder
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.pinhole import Pinhole
from lewm_model.tasks.task import HELD_S, Outcome, Trial
from lewm_ros.commanded import GRID_S, Command, stitch

PANE = 576  # pixels, square: one picture of the film
BAR = 64  # pixels: the line of text above
LINE, STRIP = 44, 228  # pixels: the line of text above the imagined future, and a picture of it, square
COLOURS = {"planner": "#1b6ca8", "random": "#c98a1b", "hold": "#888888"}


@dataclass
class Episode:
    """What happened at one goal. Times are seconds since the first command of the goal."""

    trial: Trial
    number: int
    goal_picture: np.ndarray  # (H, W, 3) uint8 RGB
    times_s: np.ndarray = field(default_factory=lambda: np.zeros(0))
    errors_m: np.ndarray = field(default_factory=lambda: np.zeros(0))
    commands: list[Command] = field(default_factory=list)  # that arrived
    outcome: Outcome | None = None
    note: str = ""  # what went wrong outside of planning
    frames: list[tuple[float, np.ndarray]] = field(default_factory=list)  # (time, picture)
    plans: list[tuple[float, np.ndarray]] = field(default_factory=list)  # (time, joint path (T, A))
    imagined: list[tuple[float, np.ndarray]] = field(default_factory=list)  # (time, latents (H, D))

    @property
    def latencies_ms(self) -> np.ndarray:
        """From camera frame to command, of each command, ms."""
        return np.array([1e3 * (command.received_s - command.trajectory.times_s[0]) for command in self.commands])

    @property
    def name(self) -> str:
        """Of the task."""
        return self.trial.task.name


class Film:
    """Writes mp4: camera with the imagined path of the end effector on the left, goal on the right, and below what the
    model imagines that the camera will see, where the bundle has a decoder. One frame of it becomes a PNG beside it.
    """

    def __init__(
        self,
        path: Path,
        rate_hz: float,
        camera: Pinhole,
        sim: ArmSim,
        still: tuple[str, float],
        decoder: PictureDecoder | None = None,
        block_s: float = 0.25,
    ) -> None:
        """`still` is the task whose picture becomes the PNG, and the moment of it, s since the first command."""
        self.path, self.frames = path, 0
        self._still, self._camera, self._sim = still, camera, sim
        self._decoder, self._block_s = decoder, block_s
        self._still_taken = False
        fourcc = cv2.VideoWriter_fourcc(*"mp4v")  # type: ignore[attr-defined]
        height = BAR + PANE + (STRIP + LINE if decoder is not None else 0)
        self._writer = cv2.VideoWriter(str(path), fourcc, rate_hz, (2 * PANE, height))
        if not self._writer.isOpened():
            raise OSError(
                f"OpenCV cannot write the film {path}; its build lacks FFmpeg, install opencv-python-headless"
            )

    def __enter__(self) -> Film:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.release()

    def add(self, episode: Episode) -> None:
        """Appends the frames of one goal."""
        goal = cv2.resize(episode.goal_picture, (PANE, PANE), interpolation=cv2.INTER_NEAREST)
        _label(goal, "goal")
        for time_s, picture in episode.frames:
            camera = cv2.resize(picture, (PANE, PANE), interpolation=cv2.INTER_NEAREST)
            known = [path for at, path in episode.plans if at <= time_s]
            if known:
                self._draw_path(camera, known[-1])
            error = float(np.interp(time_s, episode.times_s, episode.errors_m))
            task = episode.trial.task
            good = error <= task.tolerance(self._sim)
            title = f"{task.name} goal {episode.number + 1}"
            text = f"{title}   {max(time_s, 0.0):4.1f} s   {task.subject} {1e3 * error:4.0f} mm from the goal"
            bar = np.full((BAR, 2 * PANE, 3), 255, np.uint8)
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
            frame = np.vstack([bar, np.hstack([camera, goal]), *self._strip(episode, time_s)])
            self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            self.frames += 1
            if not self._still_taken and episode.name == self._still[0] and time_s >= self._still[1]:
                still = cv2.resize(frame, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
                cv2.imwrite(str(self.path.with_suffix(".png")), cv2.cvtColor(still, cv2.COLOR_RGB2BGR))
                self._still_taken = True

    def _strip(self, episode: Episode, time_s: float) -> list[np.ndarray]:
        """The imagined future (LINE + STRIP, 2 * PANE, 3) of the newest plan; nothing without a decoder."""
        if self._decoder is None:
            return []
        strip = np.full((LINE + STRIP, 2 * PANE, 3), 255, np.uint8)
        _text(strip, "imagined: what the model expects to see", (14, LINE - 14), 0.7)
        known = [latents for at, latents in episode.imagined if at <= time_s]
        pictures = list(self._decoder.draw(known[-1]))[: 2 * PANE // STRIP] if known else []
        for i, picture in enumerate(pictures):
            side = STRIP - 4
            small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC)
            _text(small, f"+{(i + 1) * self._block_s:.2f} s", (10, side - 12), 0.6)
            left = round(i * (2 * PANE - side) / max(1, len(pictures) - 1))
            strip[LINE : LINE + side, left : left + side] = small
        return [strip]

    def _draw_path(self, picture: np.ndarray, joint_path: np.ndarray) -> None:
        tips = np.stack([self._sim.end_effector(joints) for joints in joint_path])
        scale = PANE / self._camera.width
        points = np.round(self._camera.project(tips) * scale).astype(np.int32)
        cv2.polylines(picture, [points.reshape(-1, 1, 2)], False, (20, 160, 60), 3, cv2.LINE_AA)
        end = (int(points[-1, 0]), int(points[-1, 1]))
        cv2.circle(picture, end, 6, (20, 160, 60), -1, cv2.LINE_AA)


def _label(picture: np.ndarray, text: str) -> None:
    _text(picture, text, (14, PANE - 14), 0.7)


def _text(picture: np.ndarray, text: str, at: tuple[int, int], size: float) -> None:
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, (40, 40, 40), 2, cv2.LINE_AA)


def save_failure(folder: Path, episode: Episode) -> Path:
    """A picture of a failed goal: the last camera frame beside the goal. Returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    last = episode.frames[-1][1] if episode.frames else np.zeros_like(episode.goal_picture)
    picture = np.hstack([last, episode.goal_picture])
    picture = cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
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
    """One picture: success beside the baselines, the error of every goal over time, and the latency.

    :param rates: share of held goals by (task, policy).
    :param tolerance_m: by task.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    kinds = list(dict.fromkeys(kind for kind, _ in rates))
    figure, axes = pyplot.subplots(1, 2 + len(kinds), figsize=(5 * (2 + len(kinds)), 4.2), layout="constrained")
    _bars(axes[0], kinds, rates)
    for axis, kind in zip(axes[1:], kinds, strict=False):
        for episode in episodes:
            if episode.name == kind and episode.outcome is not None:
                colour = COLOURS["planner"] if episode.outcome.held else "#c0392b"
                axis.semilogy(
                    episode.times_s, 1e3 * np.maximum(episode.errors_m, 1e-4), color=colour, lw=0.8, alpha=0.6
                )
        budget_s = next(episode.trial.budget_s for episode in episodes if episode.name == kind)
        axis.axhline(1e3 * tolerance_m[kind], color="k", lw=1, ls="--")
        axis.axvspan(budget_s - HELD_S, budget_s, color="k", alpha=0.08, lw=0)
        axis.set(title=f"{kind}: way to the goal (red: not held)", xlabel="s since the first command", ylabel="mm")
    if len(frame_to_command_ms):
        axes[-1].hist(frame_to_command_ms, bins=40, color=COLOURS["planner"])
    axes[-1].axvline(150, color="k", lw=1, ls="--")
    axes[-1].set(title="camera frame to command", xlabel="ms", ylabel="commands")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def save_velocities(path: Path, titles: Sequence[str], episodes: Sequence[Episode], names: Sequence[str]) -> None:
    """The commanded velocity of each joint over time, an episode below the other, of the same start and goal."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(episodes), 1, figsize=(10, 3 * len(episodes)), sharex=True, layout="constrained")
    for axis, title, episode in zip(axes, titles, episodes, strict=True):
        if episode.commands:
            times = np.arange(0.0, episode.trial.budget_s, GRID_S)
            _, velocities = stitch(episode.commands, times)
            for name, values in zip(names, velocities.T, strict=True):
                axis.plot(times, values, label=name, lw=1.2)
            for command in episode.commands:
                axis.axvline(command.received_s, color="k", lw=0.5, alpha=0.15)
        axis.set(title=title, ylabel="rad/s")
        axis.legend(frameon=False, loc="upper right")
    axes[-1].set_xlabel("s since the first command; a line where a command arrived")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _bars(axis: Any, kinds: Sequence[str], rates: dict[tuple[str, str], Rate]) -> None:
    for offset, (policy, colour) in enumerate(COLOURS.items()):
        for position, kind in enumerate(kinds):
            rate = rates[kind, policy]
            low, high = rate.interval
            axis.bar(
                position + 0.27 * (offset - 1),
                rate.percent,
                0.25,
                color=colour,
                label=policy if position == 0 else None,
                yerr=[[max(0.0, rate.percent - low)], [max(0.0, high - rate.percent)]],  # rounding
                capsize=3,
            )
    axis.set(title="goals held, with 95 % intervals", ylabel="%", ylim=(0, 105))
    axis.set_xticks(range(len(kinds)), kinds)
    axis.legend(frameon=False)
