# SPDX-License-Identifier: Apache-2.0
"""The log of a training, for TensorBoard and as JSON lines, and the report, one HTML page that shows it."""

from __future__ import annotations

import base64
import html
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lewm_model.bundle.bundle import Bundle

METRICS, PICTURE, PAGE = "metrics.jsonl", "report.png", "report.html"


class Log:
    """Writes numbers to TensorBoard's files and to metrics.jsonl."""

    def __init__(self, run: Path, step: int) -> None:
        """
        :param run: folder of the files.
        :param step: at which the training resumes; what an earlier process logged beyond it is removed.
        """
        from torch.utils.tensorboard import SummaryWriter

        path = run / METRICS
        kept = [
            line
            for line in read_metrics(run)
            if line["step"] < step or (line["step"] == step and line["kind"] != "train")
        ]
        temporary = path.with_suffix(".part")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(temporary, path)
        self._file = path.open("a")
        self._board = SummaryWriter(run, purge_step=step + 1 if step else 0)  # a validation after `step` steps stays

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Logs `values` of a `kind`, "train" or "validation".

        :raises OSError: the disk is full.
        """
        try:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)
            self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            raise OSError(
                f"step {step} could not be logged to {self._file.name} ({error}); the last checkpoint is intact. "
                "Free some space and run the same command again, it resumes"
            ) from error

    def warn(self, step: int, text: str) -> None:
        self._board.add_text("warning", text, step)
        self._file.write(json.dumps({"kind": "warning", "step": step, "text": text}) + "\n")

    def close(self) -> None:
        self._file.close()
        self._board.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The complete lines of metrics.jsonl; a kill may have cut the last one."""
    path, lines = run / METRICS, []
    for text in path.read_text().splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def write_report(run: Path, bundle: Bundle) -> Path:
    """Writes report.png, and report.html with the picture embedded, into the folder `run`; returns the page's path."""
    lines = read_metrics(run)
    draw(lines, bundle, run / PICTURE)
    picture = base64.b64encode((run / PICTURE).read_bytes()).decode()
    training, evaluation = bundle.training, bundle.evaluation
    warnings, heads = evaluation.get("warnings", []), evaluation.get("heads", {})
    earlier = [f"step {line['step']}: {line['text']}" for line in lines if line["kind"] == "warning"]
    page = [
        "<!doctype html><meta charset=utf-8><title>LeWM training</title>",
        "<style>body{font:15px sans-serif;max-width:1100px;margin:2em auto}td{padding:.1em 1em .1em 0}"
        "img{width:100%}.warning{color:#b00}</style>",
        f"<h1>{html.escape(run.name)}</h1><p><code>{html.escape(str(training.get('command')))}</code></p>",
        *(f"<p class=warning>{html.escape(warning)}</p>" for warning in warnings),
        f"<p>{_healthy(evaluation)}</p>" if not warnings else "",
        *(f"<p>{html.escape(warning)}</p>" for warning in earlier),
        f'<img alt="losses, latent, open-loop error" src="data:image/png;base64,{picture}">',
        "<h2>Held-out episodes</h2>",
        _table(evaluation.get("validation", {})),
        "<h2>Heads</h2>",
        _table({f"{head}: {name}": value for head, found in heads.items() for name, value in found.items()}),
        "<h2>Data</h2>",
        *(_table(recording) for recording in training.get("data", [])),
        "<h2>Settings</h2>",
        _table(training.get("config", {})),
        _table({"parameters": training.get("parameters"), "commit": training.get("commit"), **vars(bundle.model)}),
    ]
    (run / PAGE).write_text("\n".join(page))
    return run / PAGE


def _healthy(evaluation: dict[str, Any]) -> str:
    """The sentence for a training without warnings, which means nothing where nothing was measured."""
    if not evaluation.get("validation"):
        return "Nothing was measured on held-out episodes."
    return "At the end the latent is not collapsed, and the actions have an effect."


def plain_name(key: str) -> str:
    """A key of model.json as words."""
    return key.replace("_", " ").strip()


def plain_value(value: Any, digits: int = 4) -> str:
    """A value of model.json for people: floats with `digits` digits, lists with commas."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(plain_value(each, digits) for each in value) or "none"
    return "none" if value is None or value == "" else str(value)


def _table(values: dict[str, Any]) -> str:
    rows = (f"<tr><td>{html.escape(plain_name(k))}<td>{html.escape(plain_value(v))}" for k, v in values.items())
    return f"<table>{''.join(rows)}</table>"


def draw(lines: Sequence[dict[str, Any]], bundle: Bundle, path: Path) -> None:
    """Draws the curves of a run, from the lines of metrics.jsonl, into the PNG file `path`."""
    from matplotlib.figure import Figure  # without pyplot, which keeps global state and may look for a display

    figure = Figure(figsize=(13, 7.5), layout="constrained")
    axes = figure.subplots(2, 3).flat

    def curves(title: str, kind: str, names: dict[str, str], log: bool = False) -> None:
        axis = next(axes)
        for name, label in names.items():
            points = [(line["step"], line[name]) for line in lines if line["kind"] == kind and name in line]
            if points:
                axis.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 30 else None)
        axis.set(title=title, xlabel="step", yscale="log" if log else "linear")
        if axis.lines:
            axis.legend()

    curves("training loss", "train", {"prediction": "prediction", "sigreg": "SIGReg"}, log=True)
    held_out = {
        "prediction": "prediction",
        "identity": "nothing changes",
        "shuffled": "with the actions of other clips",
    }
    curves("held-out error, one block ahead", "validation", held_out, log=True)
    curves("standard deviation of the latent (1 is healthy)", "train", {"latent_std": "training batch"})
    curves(f"effective rank of the latent (of {bundle.model.latent_dim})", "validation", {"effective_rank": "held out"})
    curves("gradient norm before clipping", "train", {"gradient_norm": "norm"}, log=True)
    axis, final = next(axes), bundle.evaluation.get("validation", {})
    for name, label in (("open_loop", "imagined"), ("identity", "nothing changes")):
        ahead = [k for k in range(1, 100) if math.isfinite(final.get(f"{name}_{k}", math.nan))]
        axis.plot(ahead, [final[f"{name}_{k}"] for k in ahead], marker="o", label=label)
    axis.set(title="held-out error of open-loop rollouts", xlabel="action blocks ahead", ylim=(0, None))
    axis.legend()
    figure.savefig(path, dpi=90)
