# SPDX-License-Identifier: Apache-2.0
"""Charts drawn with OpenCV, which the demo needs anyway: lines, bars, histograms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

WIDTH, HEIGHT = 620, 460  # pixels of a chart
LEFT, RIGHT, TOP, BOTTOM = 84, 18, 44, 66  # pixels between the edge of the picture and the axes
INK, FAINT = (40, 40, 40), (225, 225, 225)
Colour = tuple[int, int, int]  # RGB


class Chart:
    """One pair of axes in a picture (HEIGHT, width, 3) uint8 RGB, `picture`.

    :param x, y: what the axes show, (least, most); y above 0 where `log`.
    :param ticks: labels below the x axis instead of numbers, (x, text).
    """

    def __init__(
        self,
        title: str,
        x_label: str,
        y_label: str,
        x: tuple[float, float],
        y: tuple[float, float],
        log: bool = False,
        width: int = WIDTH,
        ticks: Sequence[tuple[float, str]] | None = None,
    ) -> None:
        self.picture = np.full((HEIGHT, width, 3), 255, np.uint8)
        self._x, self._y, self._log, self._width = x, y, log, width
        for value in _powers(y) if log else _round_numbers(y):
            row = self._at(x[0], value)[1]
            cv2.line(self.picture, (LEFT, row), (width - RIGHT, row), FAINT, 1)
            self._text(_number(value), (LEFT - 8, row + 5), align=1.0)
        for value, text in ticks if ticks is not None else [(v, _number(v)) for v in _round_numbers(x)]:
            self._text(text, (self._at(value, y[0])[0], HEIGHT - BOTTOM + 22), align=0.5)
        cv2.rectangle(self.picture, (LEFT, TOP), (width - RIGHT, HEIGHT - BOTTOM), INK, 1)
        self._text(title, (width // 2, 28), 0.55, align=0.5)
        self._text(x_label, ((LEFT + width - RIGHT) // 2, HEIGHT - 16), align=0.5)
        turned = np.full((22, HEIGHT, 3), 255, np.uint8)
        _put(turned, y_label, (HEIGHT // 2, 16), 0.48, INK, 0.5)
        self.picture[:, 4:26] = cv2.rotate(turned, cv2.ROTATE_90_COUNTERCLOCKWISE)

    def line(self, xs: Sequence[float] | np.ndarray, ys: Sequence[float] | np.ndarray, colour: Colour) -> None:
        """Draws points joined by a line, clipped to the axes."""
        points = np.array([self._at(x, y) for x, y in zip(xs, ys, strict=True)], np.int32)
        if len(points):
            inside = self.picture[TOP : HEIGHT - BOTTOM, LEFT : self._width - RIGHT]
            cv2.polylines(inside, [(points - (LEFT, TOP)).reshape(-1, 1, 2)], False, colour, 1, cv2.LINE_AA)

    def dashes(self, x: float | None = None, y: float | None = None, colour: Colour = INK) -> None:
        """Draws a dashed line, vertical at x or horizontal at y."""
        ends = self._at(self._x[0] if x is None else x, self._y[0] if y is None else y)
        last = self._at(self._x[1] if x is None else x, self._y[1] if y is None else y)
        length = max(abs(last[0] - ends[0]), abs(last[1] - ends[1]))
        for begin in range(0, length, 12):
            a, b = (
                tuple(round(p + (q - p) * at / length) for p, q in zip(ends, last, strict=True))
                for at in (begin, min(length, begin + 7))
            )
            cv2.line(self.picture, a, b, colour, 1)

    def shade(self, x: tuple[float, float]) -> None:
        """Darkens the chart between two values of x."""
        (left, _), (right, _) = (self._at(value, self._y[0]) for value in x)
        part = self.picture[TOP : HEIGHT - BOTTOM, max(LEFT, left) : min(self._width - RIGHT, right)]
        part[:] = part // 10 * 9

    def bar(
        self, x: tuple[float, float], y: float, colour: Colour, interval: tuple[float, float] | None = None
    ) -> None:
        """Draws a bar from x[0] to x[1] of height y, with an error bar (low, high) if given."""
        cv2.rectangle(self.picture, self._at(x[0], self._y[0]), self._at(x[1], y), colour, -1)
        if interval is not None:
            middle = sum(x) / 2
            low, high = (self._at(middle, value) for value in interval)
            cv2.line(self.picture, low, high, INK, 1, cv2.LINE_AA)
            for column, row in (low, high):
                cv2.line(self.picture, (column - 4, row), (column + 4, row), INK, 1)

    def legend(self, entries: Sequence[tuple[str, Colour]]) -> None:
        """Draws the names of colours at the top right."""
        for i, (name, colour) in enumerate(entries):
            row = TOP + 20 + 20 * i
            cv2.line(self.picture, (self._width - 130, row - 5), (self._width - 112, row - 5), colour, 4)
            self._text(name, (self._width - 104, row))

    def _at(self, x: float, y: float) -> tuple[int, int]:
        scale: Callable[[float], float] = math.log10 if self._log else float
        low, high = scale(self._y[0]), scale(self._y[1])
        across = (x - self._x[0]) / (self._x[1] - self._x[0])
        up = (scale(max(y, self._y[0]) if self._log else y) - low) / (high - low)
        column = LEFT + across * (self._width - LEFT - RIGHT)
        row = HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)
        return round(float(np.clip(column, -1e4, 1e4))), round(float(np.clip(row, -1e4, 1e4)))

    def _text(self, text: str, at: tuple[int, int], size: float = 0.45, align: float = 0.0) -> None:
        _put(self.picture, text, at, size, INK, align)


def _put(picture: np.ndarray, text: str, at: tuple[int, int], size: float, colour: Colour, align: float) -> None:
    """Text whose baseline is at `at`; `align` is the share of its width that lies to the left of that."""
    width = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)[0][0]
    place = (round(at[0] - align * width), at[1])
    cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)


def _round_numbers(limits: tuple[float, float]) -> list[float]:
    """Some round numbers between the limits: multiples of 1, 2 or 5 times a power of ten."""
    span = limits[1] - limits[0]
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 6)
    return [step * i for i in range(math.ceil(limits[0] / step), math.floor(limits[1] / step + 1e-9) + 1)]


def _powers(limits: tuple[float, float]) -> list[float]:
    """The powers of ten between the limits."""
    low, high = (math.log10(limit) for limit in limits)
    return [10.0**power for power in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:g}" if abs(value) > 1e-12 else "0"
