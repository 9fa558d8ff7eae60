# SPDX-License-Identifier: Apache-2.0
"""What all converters share: the report of a conversion, and where recordings are cut into episodes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

LONGEST_EPISODE = 2000  # frames; longer pieces are cut, so that memory does not grow with the recording


@dataclass
class Conversion:
    """The report of a conversion: what was found, used and left out."""

    episodes: list[str] = field(default_factory=list)  # one line each
    frames_recorded: int = 0
    frames_used: int = 0
    gaps: list[str] = field(default_factory=list)  # where an episode was cut, and why
    left_out: Counter[str] = field(default_factory=Counter)  # reason -> frames or messages
    problems: list[str] = field(default_factory=list)  # damaged files and the like
    notes: list[str] = field(default_factory=list)  # what the user should know about the result
    intervals_s: list[float] = field(default_factory=list)  # between the recorded stamps of consecutive frames

    def note(self, text: str) -> None:
        """Adds a note unless it is there already."""
        if text not in self.notes:
            self.notes.append(text)

    def __str__(self) -> str:
        lines = [f"{len(self.episodes)} episodes, {self.frames_used} of {self.frames_recorded} recorded frames used"]
        lines += [f"  {episode}" for episode in self.episodes]
        lines += self.notes
        lines += [f"left out: {count} x {reason}" for reason, count in sorted(self.left_out.items())]
        lines += [f"gap: {gap}" for gap in self.gaps[:20]]
        if len(self.gaps) > 20:
            lines.append(f"... and {len(self.gaps) - 20} gaps more")
        lines += [f"problem: {problem}" for problem in self.problems]
        return "\n".join(lines)


def stretches(good: np.ndarray, longest: int = LONGEST_EPISODE) -> list[list[int]]:
    """The runs of True in (N,) bool as lists of indices, cut to at most `longest`, without those of length 1."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(int)))
    pieces = []
    for begin, end in edges.reshape(-1, 2):
        for first in range(begin, end, longest):
            piece = list(range(first, min(first + longest, end)))
            if len(piece) >= 2:
                pieces.append(piece)
    return pieces
