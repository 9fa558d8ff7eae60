# SPDX-License-Identifier: Apache-2.0
"""Draws `debug_image`: camera, goal, imagined future, costs, surprise and state in one picture. No ROS.

+----------------------------------------------------------+
| STATE  why                                  plan, latency |
+---------------+---------------+--------------------------+
| camera        | goal          | cost of each iteration   |
|               |               | way to the goal          |
|               |               | surprise, novelty        |
+---------------+---------------+--------------------------+
| imagined: +0.25 s  +0.50 s  +0.75 s  ...                  |
+----------------------------------------------------------+
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from lewm_model.monitoring.vigilance import SURPRISING
from lewm_model.robot.observation import to_model_image

WIDTH, HEIGHT = 960, 592
MARGIN = 8  # pixels, as all sizes here
PANE = 300  # side of the camera's and of the goal's picture
HEADER = 44
STRIP_TOP = HEADER + MARGIN + PANE + 56
STRIP_SIDE = 180  # greatest side of an imagined picture
MOST_PICTURES = 10  # of the imagined future; of a longer one evenly spaced ones are shown
COLUMN = 2 * PANE + 3 * MARGIN  # left edge of the plots
HISTORY_S = 20.0  # of the distance to the goal
BAR_END = 2 * SURPRISING  # value of a full bar

Colour = tuple[int, int, int]  # RGB
INK, FAINT, PAPER, FRAME = (40, 40, 40), (130, 130, 130), (250, 250, 250), (205, 205, 205)
BLUE, GREEN, AMBER, RED = (27, 108, 168), (20, 140, 60), (201, 138, 27), (192, 57, 43)
STATES: dict[str, Colour] = {"armed": GREEN, "holding": AMBER, "stopped": RED, "disarmed": FAINT}


@dataclass(frozen=True)
class Scene:
    """What to draw. What is not known is None or empty, and is drawn as missing."""

    camera: np.ndarray | None = None  # (H, W, 3) uint8 RGB
    goal: np.ndarray | None = None
    goal_caption: str = "goal"
    imagined: np.ndarray | None = None  # (blocks, S, S, 3) uint8 RGB
    missing: str = "nothing is imagined: no plan yet"  # why `imagined` is None
    block_s: float = 0.25
    costs: np.ndarray = field(default_factory=lambda: np.zeros(0))  # (iterations,) of the best candidate of each
    history: Sequence[tuple[float, float]] = ()  # (age in s, distance to the goal) of the newest plans
    distance_unit: str = "steps"
    surprise: float | None = None  # in multiples of the usual value, as novelty
    novelty: float | None = None
    state: str = "unknown"  # of the shield
    message: str = ""
    latency: str = ""


def draw(scene: Scene) -> np.ndarray:
    """The picture, (HEIGHT, WIDTH, 3) uint8 RGB."""
    picture = np.full((HEIGHT, WIDTH, 3), PAPER, np.uint8)
    _header(picture, scene)
    top = HEADER + MARGIN
    for left, content, caption in (
        (MARGIN, scene.camera, "camera" if scene.camera is not None else "no picture of the camera"),
        (2 * MARGIN + PANE, scene.goal, scene.goal_caption if scene.goal is not None else "no goal yet"),
    ):
        _pane(picture, content, left, top, PANE)
        _text(picture, caption, (left, top + PANE + 18), INK)
    width = WIDTH - COLUMN - MARGIN
    _plot(
        picture,
        (COLUMN, top, width, 92),
        "cost of the best candidate, by iteration",
        np.arange(1, len(scene.costs) + 1),
        scene.costs,
        (1.0, float(max(2, len(scene.costs)))),
        BLUE,
    )
    ages, distances = np.array(scene.history, float).reshape(-1, 2).T
    _plot(
        picture,
        (COLUMN, top + 104, width, 92),
        f"way to the goal, {scene.distance_unit}, last {HISTORY_S:.0f} s",
        -ages,
        distances,
        (-HISTORY_S, 0.0),
        GREEN,
        from_zero=True,
    )
    for row, (name, value) in enumerate((("surprise", scene.surprise), ("novelty", scene.novelty))):
        _bar(picture, (COLUMN, top + 222 + 46 * row, width, 18), name, value)
    _strip(picture, scene)
    return picture


def _header(picture: np.ndarray, scene: Scene) -> None:
    colour = STATES.get(scene.state, FAINT)
    picture[:HEADER] = np.array(colour, float) * 0.15 + np.array(PAPER) * 0.85
    chip = 150
    cv2.rectangle(picture, (0, 0), (chip, HEADER - 1), colour, -1)
    _text(picture, scene.state.upper(), (14, 29), (255, 255, 255), 0.62, chip - 20)
    room = WIDTH - MARGIN - _text_width(scene.latency, 0.45) if scene.latency else WIDTH - MARGIN
    _text(picture, scene.latency, (room, 28), INK)
    _text(picture, scene.message, (chip + 14, 28), INK, 0.52, room - chip - 34)


def _pane(picture: np.ndarray, content: np.ndarray | None, left: int, top: int, side: int) -> None:
    """Draws a whole picture in a square frame, grey where the picture is missing or not square."""
    inside = picture[top : top + side, left : left + side]
    inside[:] = 225
    if content is not None:
        high, wide = (max(1, round(side * length / max(content.shape[:2]))) for length in content.shape[:2])
        up, across = (side - high) // 2, (side - wide) // 2
        inside[up : up + high, across : across + wide] = to_model_image(content, (high, wide))
    cv2.rectangle(picture, (left - 1, top - 1), (left + side, top + side), FRAME, 1)


def _strip(picture: np.ndarray, scene: Scene) -> None:
    """Draws the imagined future, a picture for each action block."""
    if scene.imagined is None or not len(scene.imagined):
        _text(picture, scene.missing, (MARGIN, STRIP_TOP - 8), FAINT, 0.45, WIDTH - 2 * MARGIN)
        for place in range(5):
            _pane(picture, None, MARGIN + place * (STRIP_SIDE + MARGIN), STRIP_TOP, STRIP_SIDE)
        return
    _text(picture, "imagined: where the plan leads, as the model sees it", (MARGIN, STRIP_TOP - 8), INK)
    count = min(len(scene.imagined), MOST_PICTURES)
    chosen = np.linspace(0, len(scene.imagined) - 1, count).round().astype(int)
    side = min(STRIP_SIDE, (WIDTH - MARGIN) // count - MARGIN)
    for place, block in enumerate(chosen):
        left = MARGIN + place * (side + MARGIN)
        _pane(picture, scene.imagined[block], left, STRIP_TOP, side)
        _text(picture, f"+{(block + 1) * scene.block_s:.2f} s", (left + 6, STRIP_TOP + side - 8), INK, 0.42, side - 8)


def _plot(
    picture: np.ndarray,
    box: tuple[int, int, int, int],
    title: str,
    x: np.ndarray,
    y: np.ndarray,
    span: tuple[float, float],
    colour: Colour,
    from_zero: bool = False,
) -> None:
    """Plots y over x in `span`, with least, newest and greatest value beside it; `box` is left, top, width, height."""
    left, top, width, height = box
    _text(picture, title, (left, top + 12), INK, 0.42, width)
    top, height, right = top + 20, height - 20, left + width - 56
    cv2.rectangle(picture, (left, top), (right, top + height), (255, 255, 255), -1)
    cv2.rectangle(picture, (left, top), (right, top + height), FRAME, 1)
    good = np.isfinite(x) & np.isfinite(y) & (x >= span[0]) & (x <= span[1])
    x, y = x[good], y[good]
    if not len(y):
        return
    low, high = (0.0 if from_zero else float(y.min())), float(y.max())
    scale = (high - low) or max(abs(high), 1.0)
    across = left + 4 + (x - span[0]) / (span[1] - span[0]) * (right - left - 8)
    down = top + height - 5 - (y - low) / scale * (height - 10)
    points = np.stack([across, down], 1).round().astype(np.int32)
    cv2.polylines(picture, [points.reshape(-1, 1, 2)], False, colour, 2, cv2.LINE_AA)
    cv2.circle(picture, (int(points[-1, 0]), int(points[-1, 1])), 4, colour, -1, cv2.LINE_AA)
    _text(picture, _short(high), (right + 6, top + 10), FAINT, 0.4, 52)
    if high > low:
        _text(picture, _short(low), (right + 6, top + height), FAINT, 0.4, 52)
    _text(picture, _short(float(y[-1])), (right + 6, top + height // 2 + 5), colour, 0.5, 52)


def _bar(picture: np.ndarray, box: tuple[int, int, int, int], name: str, value: float | None) -> None:
    """Draws a value in multiples of the usual one, with a mark where it counts as surprising; clipped to the box."""
    left, top, width, height = box
    known = value is not None and bool(np.isfinite(value))
    said = f"{value:.2f} x usual" if known else "not known"
    _text(picture, f"{name}: {said}", (left, top - 4), INK, 0.42, width)
    top += 4
    cv2.rectangle(picture, (left, top), (left + width, top + height), (255, 255, 255), -1)
    if value is not None and known:
        colour = RED if value > SURPRISING else AMBER if value > 1.0 else GREEN
        length = round(width * min(max(value, 0.0), BAR_END) / BAR_END)
        cv2.rectangle(picture, (left, top), (left + length, top + height), colour, -1)
    cv2.rectangle(picture, (left, top), (left + width, top + height), FRAME, 1)
    mark = left + round(width * SURPRISING / BAR_END)
    cv2.line(picture, (mark, top - 3), (mark, top + height + 3), INK, 2)


def _short(value: float) -> str:
    return f"{value:.3g}"


def _text_width(text: str, size: float) -> int:
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)[0][0])


def _text(
    picture: np.ndarray, text: str, at: tuple[int, int], colour: Colour, size: float = 0.45, room: int | None = None
) -> None:
    """Writes a line of ASCII text, which is all that OpenCV's fonts have, shortened to `room` pixels.

    :param at: left end of the base line.
    """
    text = text.encode("ascii", "replace").decode()
    if room is not None and _text_width(text, size) > room:
        while text and _text_width(text + "...", size) > room:
            text = text[:-1]
        text += "..."
    if text:
        cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)
