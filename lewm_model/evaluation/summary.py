# SPDX-License-Identifier: Apache-2.0
"""One page with everything that is known of a bundle: `lewm report BUNDLE`, optionally with --run, --eval and --data.

report.html embeds its pictures and loads nothing, so that it can be mailed and kept; the pictures are beside it as PNG
files too. For a part that is missing the page says which option adds it.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lewm_model.bundle.bundle import Bundle, Calibration
from lewm_model.bundle.held_out import held_out_episodes
from lewm_model.data.clips import DataError, Episodes
from lewm_model.models.signature import measuring
from lewm_model.monitoring.vigilance import SURPRISING
from lewm_model.runtime import Runtime, load_runtime
from lewm_model.runtime.decoder import load_decoder
from lewm_model.training.report import draw, plain_name, plain_value, read_metrics

BLUE, AMBER, GREEN, RED, GREY = "#1b6ca8", "#c98a1b", "#148c3c", "#c0392b", "#888888"
EPISODES = 3  # held-out episodes whose rollouts are drawn
FRAMES = 600  # held-out frames whose latents are drawn
MOST_PICTURES = 24  # of an evaluation's folder that are shown
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#282828;max-width:1040px;margin:2em auto;padding:0 1em}
h1{font-size:1.6em;margin-bottom:0}h2{font-size:1.15em;border-bottom:1px solid #ddd;margin-top:2em}
table{border-collapse:collapse;margin:.6em 0}td,th{padding:.15em 1em .15em 0;text-align:left;vertical-align:top}
th{color:#666;font-weight:600}tr{border-bottom:1px solid #eee}code{font-size:.85em;word-break:break-all}
img{max-width:100%;display:block;margin:.6em 0}.faint{color:#777}
.cards{display:flex;flex-wrap:wrap;gap:.6em;margin:1em 0}
.card{background:#f3f5f7;border-radius:6px;padding:.5em 1em}.card b{display:block;font-size:1.25em}
"""


def write_report(
    bundle: Bundle, out: Path, run: Path | None = None, evaluation: Path | None = None, data: Episodes | None = None
) -> Path:
    """Writes report.html and its pictures into the folder `out`; returns the page's path.

    :param run: folder of the training's logs.
    :param evaluation: folder that an evaluation left: figures in summary.json, and pictures.
    :param data: a recording, whose held-out episodes are rolled out and drawn.
    :raises DataError: the recording does not fit the model, or a folder has nothing to show.
    """
    out.mkdir(parents=True, exist_ok=True)
    parts = [_head(bundle)]
    parts.append(_section("Training", _training(bundle, run, out)))
    parts.append(_section("Heads", _heads(bundle)))
    parts.append(_section("Imagined and seen, on held-out episodes", _rollouts(bundle, data, out)))
    parts.append(_section("Latents", _latents(bundle, data, out)))
    parts.append(_section("Calibration", _calibration(bundle, out)))
    parts.append(_section("Evaluation", _evaluation(bundle, evaluation)))
    parts.append(_section("Actions", _actions(bundle)))
    parts.append(_section("Where it comes from", _table(_flat(bundle.training))))
    parts.append(_section("Files (SHA-256)", _table([(name, f"<code>{h}</code>") for name, h in bundle.files.items()])))
    title = html.escape(bundle.folder.resolve().name)
    page = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title><style>{STYLE}</style>"
    path = out / "report.html"
    path.write_text(page + "".join(parts) + "</html>\n")
    return path


# ---- parts -----------------------------------------------------------------------------------------------------------


def _head(bundle: Bundle) -> str:
    model, found = bundle.model, bundle.evaluation
    validation = found.get("validation", {})
    cards = [
        ("parameters", f"{bundle.training.get('parameters', 0):,}"),
        ("picture", f"{model.image_height} x {model.image_width}"),
        ("latent", f"{model.latent_dim} dimensions"),
        ("action block", f"{bundle.actions.block_s:.2f} s, {model.frameskip} steps"),
    ]
    if validation:
        cards.append(("prediction over identity error", f"{validation['prediction'] / validation['identity']:.1%}"))
        cards.append(("effective rank", f"{validation['effective_rank']:.1f} of {model.latent_dim}"))
    if "decoder" in found:
        cards.append(("decoder, held out", f"{found['decoder']['psnr_encoded_db']:.1f} dB"))
    boxes = "".join(f"<div class='card'>{html.escape(k)}<b>{html.escape(v)}</b></div>" for k, v in cards)
    return f"<h1>{html.escape(bundle.folder.resolve().name)}</h1><div class='cards'>{boxes}</div>"


def _training(bundle: Bundle, run: Path | None, out: Path) -> str:
    if run is None:
        return _missing("no training log was given: --run runs/NAME")
    lines = read_metrics(run)
    if not lines:
        raise DataError(f"{run} holds no training curves; give the folder that `lewm train --run` wrote to")
    draw(lines, bundle, out / "training.png")
    return _inline(out / "training.png")


def _heads(bundle: Bundle) -> str:
    """The metrics of each head's training."""
    measured = bundle.evaluation.get("heads", {})
    if not measured:
        return _missing("the bundle has no heads")
    return _table(_flat(measured))


def _rollouts(bundle: Bundle, data: Episodes | None, out: Path) -> str:
    if data is None:
        return _missing("no recording was given: --data RECORDING.h5")
    if data.image_size != bundle.model.image_size or data.actions.shape[1] != bundle.model.action_dim:
        raise DataError(f"{data.source}: its pictures or actions do not fit the bundle; give the robot's own recording")
    runtime, decoder = load_runtime(bundle), load_decoder(bundle)
    if decoder is None:
        return _missing(f"the bundle has no decoder to draw with: `lewm decoder {bundle.folder} RECORDING.h5`")
    horizon = _horizon(runtime)
    history, skip = bundle.model.history, bundle.model.frameskip
    needed = (history - 1 + horizon) * skip + 1
    episodes = [e for e in held_out_episodes(bundle, data) if data.lengths[e] > needed][:EPISODES]
    if not episodes:
        return _missing(f"no held-out episode is longer than {needed} steps, which {horizon} blocks need")
    rows = []
    for episode in episodes:
        first = int(data.offsets[episode]) + (int(data.lengths[episode]) - needed) // 2
        frames = data.pixels[first + skip * np.arange(history + horizon)]
        latents = np.stack([runtime.encode(frame) for frame in frames])
        actions = data.actions[first : first + (history - 1 + horizon) * skip]
        blocks = bundle.actions.normalise(actions).reshape(history - 1 + horizon, -1)
        _, imagined = runtime.rollout(
            latents[:history], blocks[: history - 1], blocks[None, history - 1 :], latents[-1]
        )
        seen = np.concatenate([latents[history - 1 : history], imagined[0]])
        rows.append(
            (f"episode {episode}", frames[history - 1 :], decoder.draw(latents[history - 1 :]), decoder.draw(seen))
        )
    pyplot = _pyplot()
    lines = [(name, picture) for name, *kinds in rows for name, picture in _named(name, kinds)]
    figure, axes = pyplot.subplots(
        len(lines), horizon + 1, figsize=(1.3 * (horizon + 1) + 0.4, 1.3 * len(lines)), layout="constrained"
    )
    for line, (name, pictures) in enumerate(lines):
        for column, picture in enumerate(pictures):
            axis = axes[line, column]
            axis.imshow(picture)
            axis.set(xticks=[], yticks=[])
            if line == 0:
                axis.set_title("now" if column == 0 else f"+{column * bundle.actions.block_s:.2f} s", fontsize=9)
        axes[line, 0].set_ylabel(name, fontsize=8)
    text = (
        "<p class='faint'>Seen: the camera's frame. Decoded: drawn from the latent of that frame; what is missing "
        "there is not in the latent, or the decoder does not draw it. Imagined: drawn from the model's rollout of the "
        "recorded actions, which starts at the first frame.</p>"
    )
    return text + _save(figure, out / "rollouts.png")


def _named(name: str, kinds: Sequence[np.ndarray]) -> list[tuple[str, np.ndarray]]:
    words = (f"{name}\nseen", "decoded", "imagined")
    return list(zip(words, kinds, strict=True))


def _horizon(runtime: Runtime) -> int:
    """Action blocks of a rollout: fixed for an exported graph, otherwise 5."""
    return int(getattr(runtime, "horizon", 5))


def _latents(bundle: Bundle, data: Episodes | None, out: Path) -> str:
    if data is None:
        return _missing("no recording was given: --data RECORDING.h5")
    rows = data.rows(held_out_episodes(bundle, data))
    rows = rows[np.linspace(0, len(rows) - 1, min(FRAMES, len(rows))).astype(int)]
    runtime = load_runtime(bundle)
    latents = np.stack([runtime.encode(frame) for frame in data.pixels[rows]])
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    axes[0].bar(np.arange(latents.shape[1]), latents.std(0), color=BLUE)
    axes[0].axhline(1.0, color=GREY, ls="--", lw=1)
    axes[0].set(title="standard deviation of each dimension", xlabel="dimension")
    grid = np.linspace(-4, 4, 200)
    axes[1].hist(latents.ravel(), bins=60, range=(-4, 4), density=True, color=BLUE, alpha=0.6)
    axes[1].plot(grid, np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi), color=AMBER, label="standard normal")
    axes[1].set(title="values of all dimensions")
    axes[1].legend(frameon=False)
    shown = axes[2].imshow(np.nan_to_num(np.corrcoef(latents.T)), vmin=-1, vmax=1, cmap="RdBu_r")
    axes[2].set(title="correlation between dimensions")
    figure.colorbar(shown, ax=axes[2])
    return f"<p class='faint'>{len(latents)} held-out frames.</p>" + _save(figure, out / "latents.png")


def _calibration(bundle: Bundle, out: Path) -> str:
    found = bundle.calibration
    if found is None:
        return _missing("the bundle is not calibrated: `lewm calibrate BUNDLE RECORDING.h5`")
    pyplot = _pyplot()
    figure, axis = pyplot.subplots(figsize=(6.5, 3.6), layout="constrained")
    changes, errors = np.array(found.changes), np.array(found.errors)
    axis.plot(changes, errors, color=BLUE, marker="o", label="greatest usual error")
    axis.plot(changes, SURPRISING * errors, color=RED, ls="--", label=f"surprising from here on ({SURPRISING:g} times)")
    axis.set(xlabel="mean squared change of the latent that was imagined", ylabel="mean squared error", ylim=(0, None))
    axis.legend(frameon=False)
    unit = "control steps" if measuring(bundle.heads) else "squared latent distance"
    return _table(
        [
            ("a goal counts as reached up to", f"{found.reached:.3g} {unit}"),
            ("and as left beyond", f"{found.left:.3g} {unit}"),
            ("surprising frames although nothing is wrong", _false_positives(found)),
            ("usual new pixels in a window", "not measured" if found.new_pixels is None else f"{found.new_pixels:g}"),
        ]
    ) + _save(figure, out / "calibration.png")


def _false_positives(found: Calibration) -> str:
    rate = f"{found.false_positive_rate:.2%} of {found.frames}"
    if found.false_positive_interval is None:
        return f"{rate}, on the frames that set the limits; `lewm calibrate` measures it on others"
    low, high = found.false_positive_interval
    return f"{rate} (95 %: {low:.2%} to {high:.2%})"


def _evaluation(bundle: Bundle, folder: Path | None) -> str:
    parts = ["<p class='faint'>In the bundle:</p>", _table(_flat(bundle.evaluation))]
    if folder is None:
        return "".join(parts) + _missing("no evaluation was given: --eval FOLDER")
    summaries = sorted(folder.rglob("summary.json"))
    pictures = sorted(folder.rglob("*.png"))
    if not summaries and not pictures:
        raise DataError(f"{folder} has no summary.json and no pictures; give the folder that an evaluation wrote")
    for path in summaries:
        parts += [f"<p class='faint'>{html.escape(str(path.relative_to(folder)))}:</p>", _figures(path)]
    for path in pictures[:MOST_PICTURES]:
        parts.append(f"<p class='faint'>{html.escape(str(path.relative_to(folder)))}</p>" + _inline(path))
    if len(pictures) > MOST_PICTURES:
        parts.append(f"<p class='faint'>and {len(pictures) - MOST_PICTURES} more in {html.escape(str(folder))}</p>")
    return "".join(parts)


def _figures(path: Path) -> str:
    """The figures of a summary.json as a table, without its other entries."""
    try:
        figures = json.loads(path.read_text())["figures"]
        rows = [(f["name"], f["value"], f.get("unit", ""), f.get("command", "")) for f in figures]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} holds no figures ({error!r}); run the evaluation again") from error
    head = "<tr><th>figure<th>value<th>unit<th>command</tr>"
    cells = [
        f"<tr><td>{html.escape(str(n))}<td>{html.escape(plain_value(v, 6))}<td>{html.escape(str(u))}"
        f"<td><code>{html.escape(str(c))}</code></tr>"
        for n, v, u, c in rows
    ]
    return f"<table>{head}{''.join(cells)}</table>"


def _actions(bundle: Bundle) -> str:
    spec = bundle.actions
    head = "<tr><th>column<th>kind<th>unit<th>mean<th>std<th>low<th>high</tr>"
    rows = [
        "<tr>" + "".join(f"<td>{html.escape(w)}" for w in words) + "".join(f"<td>{v:.3f}" for v in values) + "</tr>"
        for words, values in zip(
            zip(spec.names, spec.kinds, spec.units, strict=True),
            zip(spec.mean, spec.std, spec.low, spec.high, strict=True),
            strict=True,
        )
    ]
    return f"<table>{head}{''.join(rows)}</table>"


# ---- pieces of a page ------------------------------------------------------------------------------------------------


def _section(title: str, content: str) -> str:
    return f"<h2>{html.escape(title)}</h2>{content}"


def _missing(text: str) -> str:
    return f"<p class='faint'>{html.escape(text)}</p>"


def _table(rows: Sequence[tuple[str, str]]) -> str:
    """A table with a row for each name and value; values are HTML."""
    return "<table>" + "".join(f"<tr><th>{html.escape(name)}<td>{value}</tr>" for name, value in rows) + "</table>"


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as rows of a name in words and an escaped value."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        words = f"{prefix}{plain_name(name)}"
        if name == "judged":  # files and settings of a verdict, which only programs compare
            continue
        if isinstance(value, Mapping):
            rows += _flat(value, f"{words}, ")
        elif isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
            rows += _flat({str(number): each for number, each in enumerate(value, 1)}, f"{words} ")
        else:
            rows.append((words, html.escape(plain_value(value, 6))))
    return rows


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> str:
    """Saves a figure as PNG and returns it as HTML."""
    figure.savefig(path, dpi=110)
    _pyplot().close(figure)
    return _inline(path)


def _inline(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f"<img alt='{html.escape(path.stem)}' src='data:image/png;base64,{data}'>"
