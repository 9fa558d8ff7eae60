# SPDX-License-Identifier: Apache-2.0
"""Figures: measured values, each with its unit and the command that measures it again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

Figures = dict[str, tuple[float | None, str]]  # name -> value and unit; the value is None if it cannot be measured
DIGITS = 5  # significant digits of values that are not whole numbers


def write_figures(
    path: Path, figures: Mapping[str, tuple[float | None, str]], command: str, keep: bool = False, **others: Any
) -> dict[str, Any]:
    """Writes a file of figures, ``{"figures": [{"name", "value", "unit", "command"}, ...], ...others}``.

    :param path: JSON file; its folder is made.
    :param figures: name -> (value, unit). NaN and infinity, which JSON does not have, become null.
    :param command: command line that measures the figures again.
    :param keep: whether other figures that the file has already stay in it.
    :param others: further entries of the file.
    :return: the content of the file.
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
    """Prints a table and writes `out`/summary.json, as every measuring program does at its end."""
    from rich.console import Console

    Console().print(table)
    write_figures(out / "summary.json", figures, command, **others)


def _number(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return int(value) if value == int(value) and abs(value) < 1e15 else float(f"{value:.{DIGITS}g}")
