# SPDX-License-Identifier: Apache-2.0
"""Figures: what was measured, each with its unit and the command that measures it again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

Figures = dict[str, tuple[float | None, str]]  # name -> value and unit; None where there is nothing to measure
DIGITS = 5  # significant, of what is no whole number


def write_figures(
    path: Path, figures: Mapping[str, tuple[float | None, str]], command: str, keep: bool = False, **others: Any
) -> dict[str, Any]:
    """Writes a file of figures, ``{"figures": [{"name", "value", "unit", "command"}, ...], ...others}``.

    :param path: JSON file; its folder is made.
    :param figures: name -> (value, unit). NaN and infinity, which JSON does not know, become null.
    :param command: what a user types to get the figures again.
    :param keep: whether what the file holds already stays, but for figures and others of the same names.
    :param others: what else the file holds beside the figures.
    :return: what the file holds now.
    """
    summary = json.loads(path.read_text()) if keep and path.is_file() else {"figures": []}
    rows = [
        {"name": name, "value": _number(value), "unit": unit, "command": command}
        for name, (value, unit) in figures.items()
    ]
    kept = [row for row in summary["figures"] if row["name"] not in figures]
    summary = {**summary, "figures": kept + rows, **others}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def report_figures(out: Path, table: Table, figures: Figures, command: str, **others: Any) -> None:
    """How every measuring program ends: shows a table and leaves `out`/summary.json."""
    from rich.console import Console

    Console().print(table)
    write_figures(out / "summary.json", figures, command, **others)


def _number(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return int(value) if value == int(value) and abs(value) < 1e15 else float(f"{value:.{DIGITS}g}")
