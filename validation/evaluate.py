# SPDX-License-Identifier: Apache-2.0
"""Evaluates the shipped model: `make eval`; writes out/eval/summary.json.

Measures success on held-out goals, probes, surprise, and whether the preflight judges good and bad bundles correctly.
Recordings and bundles that are made for it are kept in the folder and used again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lewm_model.bundle.bundle import Bundle, load_bundle
from lewm_model.config import resource
from lewm_model.data.clips import Episodes
from lewm_model.evaluation import probe, success, surprise
from lewm_model.evaluation.figures import Figures, write_figures
from lewm_model.evaluation.preflight import GO, preflight
from lewm_model.runtime import load_runtime
from lewm_model.tasks.registry import suite_named
from validation.spoilt_bundles import bundle, recording

FRESH_SEED = 1000  # of the recording that no model was trained on
FRESH_EPISODES = 200
EXAMINED_SEED, EXAMINED_EPISODES = 1001, 40  # of the recording for the preflight
SHIPPED = "models/reach"


@dataclass(frozen=True)
class Case:
    """A bundle with a camera, and a phrase of the expected reason for a NO-GO; "" expects GO, None either."""

    bundle: str
    phrase: str | None
    other_camera: bool = False


# The five that the preflight must judge correctly.
FIVE = (
    Case(SHIPPED, ""),
    Case("untrained", "not trained"),
    Case("collapsed", "collapsed"),
    Case("shuffled", "does not follow the actions"),
    Case("camera", "not those of the camera"),
)
# More of them: cameras exchanged, other seeds and lengths of training.
MORE = (
    Case("camera", "does not imagine well enough", other_camera=True),  # half-trained: it holds half of its goals
    Case(SHIPPED, "not those of the camera", other_camera=True),
    Case("short", "does not imagine well enough"),
    Case("longer", None),
    Case("untrained-seed1", "not trained"),
    Case("collapsed-seed1", "collapsed"),
    Case("shuffled-seed1", "does not follow the actions"),
)


def succeed(
    shipped: Bundle, data: Episodes, out: Path, episodes: int, seed: int, console: Console
) -> Iterator[Figures]:
    """Success in closed loop, with baselines, for each task."""
    for found in success.evaluate_reach(
        suite_named("reach"), load_runtime(shipped), data, out / "reach", episodes, seed
    ):
        figures: Figures = {}
        console.print(success.table(found))
        for pair in found.pairs:
            console.print(str(pair), highlight=False)
            figures[f"success_{found.kind}_{pair.first}_minus_{pair.second}"] = (pair.difference[0], "points")
        for each in found.results:
            figures[f"success_held_{found.kind}_{each.name}"] = (each.held.percent, "%")
            figures[f"success_hit_{found.kind}_{each.name}"] = (each.first_hit.percent, "%")
            figures[f"final_error_{found.kind}_{each.name}"] = (each.final_error_mm, "mm, median")
        yield figures


def know(shipped: Bundle, data: Episodes, out: Path, seed: int, console: Console) -> Figures:
    """Probes."""
    probes = probe.probe_bundle(shipped, data, seed)
    console.print(probe.table(probes))
    (out / "probe.json").write_text(json.dumps(probe.as_dict(shipped, data, probes), indent=1) + "\n")
    figures: Figures = {}
    for each in probes:
        figures[f"probe_r2_{each.target.replace(',', '').replace(' ', '_')}_{each.probe}"] = (each.r2, "R^2")
        if (each.target, each.probe) == ("end effector", "mlp"):
            figures["reach_probe_r2"] = (each.r2, "R^2, MLP probe of the end effector's position")
    return figures


def notice(shipped: Bundle, out: Path, episodes: int, seed: int, hours: float, console: Console) -> Figures:
    """Detection of disturbances, and false alarms in `hours` of simulated time in changing light."""
    scores = surprise.score_episodes(shipped, episodes, seed)
    found, quiet = surprise.judge(scores, shipped.actions.frameskip), surprise.false_alarms(scores)
    for table in surprise.tables(found, quiet):
        console.print(table)
    surprise.plot(out / "surprise.png", scores)
    described = surprise.as_dict(shipped, seed, found, quiet)
    (out / "surprise.json").write_text(json.dumps(described, indent=1) + "\n")
    figures: Figures = {}
    for each in found:
        name = each.kind.replace(",", "").replace(" ", "_").replace("-", "_")
        figures[f"surprise_auroc_{name}_{each.detector}"] = (each.auroc, "AUROC of single frames")
        if each.detector == "combined":
            if each.kind in surprise.GROUPS:
                what = "imagination and pixel novelty combined, arm and object"
                figures[f"surprise_auroc_{name}"] = (each.auroc, f"AUROC of single frames, {what}")
            figures[f"surprise_noticed_{name}"] = (each.noticed_percent, "% within 0.5 s")
            figures[f"surprise_delay_{name}"] = (each.delay_s, "s, median")
    # The same in changing light, and how often the arm is held there without a disturbance.
    swinging = surprise.score_episodes(shipped, max(2, episodes // 4), seed, changing_light=True)
    worst = {
        each.kind: each.auroc
        for each in surprise.judge(swinging, shipped.actions.frameskip)
        if each.detector == "combined" and each.kind in ("teleport", "occluded", "frozen, arm moves")
    }
    figures["surprise_auroc_in_changing_light"] = (min(worst.values()), f"AUROC, the least of {', '.join(worst)}")
    for kind, area in worst.items():
        name = kind.replace(",", "").replace(" ", "_")
        figures[f"surprise_auroc_in_changing_light_{name}"] = (area, "AUROC of single frames")
    alarms = surprise.false_alarms(surprise.watch(shipped, hours, seed, changing_light=True))[-1]
    low, high = alarms.holds_interval
    unit = f"false holds an hour in changing light, of {alarms.hours:.2g} h"
    figures["false_alarms_per_hour"] = (alarms.holds_per_hour, unit)
    figures["false_alarms_per_hour_low"], figures["false_alarms_per_hour_high"] = (low, unit), (high, unit)
    for alarms in quiet:
        figures[f"surprise_false_per_hour_{alarms.detector}"] = (alarms.frames_per_hour, "frames an hour")
        figures[f"surprise_false_holds_per_hour_{alarms.detector}"] = (alarms.holds_per_hour, "holds an hour")
    return figures


def examine(shipped: Bundle, out: Path, more: bool, console: Console) -> Figures:
    """The preflight of the five bundles and, with `more`, of further ones."""
    folder = out / "bundles"
    table = Table(title="preflights")
    for heading in ("bundle", "verdict", "reason", "missed", "right"):
        table.add_column(heading)
    right: dict[Case, bool] = {}
    preflights = []
    for case in (*FIVE, *(MORE if more else ())):
        runtime = (
            load_runtime(shipped) if case.bundle == SHIPPED else load_runtime(bundle(folder, case.bundle), "torch")
        )
        data = recording(folder, case.other_camera, EXAMINED_EPISODES, EXAMINED_SEED)
        found = preflight(runtime, data)
        if case.phrase is not None:
            right[case] = (
                found.verdict == GO if not case.phrase else found.verdict != GO and case.phrase in found.reason
            )
        missed = ", ".join(f"{check.name} {check.value:.2g}" for check in found.checks if not check.good)
        name = f"{case.bundle}, other camera" if case.other_camera else case.bundle
        table.add_row(name, found.verdict, found.reason, missed, {True: "yes", False: "NO", None: "-"}[right.get(case)])
        preflights.append({"bundle": name, **asdict(found)})
    console.print(table)
    (out / "preflight.json").write_text(json.dumps(preflights, indent=1) + "\n")
    figures: Figures = {"preflight_right": (sum(right[case] for case in FIVE), f"of {len(FIVE)}")}
    if more:
        others = [case for case in MORE if case in right]
        figures["preflight_right_others"] = (sum(right[case] for case in others), f"of {len(others)}")
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=200, help="of each kind of task and disturbance (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="of tasks, probes and disturbances (default 0)")
    parser.add_argument("--hours", type=float, default=2.0, help="watched for false alarms (default 2)")
    parser.add_argument("--out", type=Path, default=Path("out/eval"), help="folder for what it leaves")
    parser.add_argument(
        "--only", choices=("success", "probe", "surprise", "preflight"), action="append", help="parts; default is all"
    )
    parser.add_argument("--more", action="store_true", help="preflights of other seeds and lengths of training, too")
    options = parser.parse_args(arguments)
    if options.episodes < 2:
        parser.error("--episodes must be 2 or more")
    out, seed, console = options.out, options.seed, Console(width=None if sys.stdout.isatty() else 150)
    shipped = load_bundle(resource("models", "reach"))
    parts = options.only or ("success", "probe", "surprise", "preflight")
    command = f"make eval EPISODES={options.episodes} SEED={seed}"
    path = out / "summary.json"
    if not options.only:
        path.unlink(missing_ok=True)

    def write(figures: Figures) -> None:
        found = {f"eval.{name}": figure for name, figure in figures.items()}
        for row in write_figures(path, found, command, keep=True)["figures"]:
            if row["name"] in found:
                console.print(f"{row['name']} {row['value']} {row['unit']}", highlight=False)

    out.mkdir(parents=True, exist_ok=True)
    if "success" in parts or "probe" in parts:
        data = recording(out, other_camera=False, episodes=FRESH_EPISODES, seed=FRESH_SEED)
        if "success" in parts:
            for figures in succeed(shipped, data, out, options.episodes, seed, console):
                write(figures)
        if "probe" in parts:
            write(know(shipped, data, out, seed, console))
    if "surprise" in parts:
        write(notice(shipped, out, options.episodes, seed, options.hours, console))
    if "preflight" in parts:
        write(examine(shipped, out, options.more, console))


if __name__ == "__main__":
    main()
