# SPDX-License-Identifier: Apache-2.0
"""Commands that measure a model, and check the machine that runs it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from lewm_model.cli.arguments import BundleArgument

if TYPE_CHECKING:
    from lewm_model.bundle.bundle import Bundle
    from lewm_model.config import PlanConfig


class _MachineFirst(typer.core.TyperGroup):
    """`lewm doctor` and `lewm doctor BUNDLE` check the machine; `lewm doctor model` is a command of its own."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["machine", *args]
        return super().parse_args(ctx, args)


app = typer.Typer()
doctor = typer.Typer(
    cls=_MachineFirst, help="Check that this machine, or a model, can move a robot; say what to do for each failure."
)
app.add_typer(doctor, name="doctor")


@app.command("eval")
def evaluate(
    bundle: BundleArgument,
    data: Annotated[
        Path | None,
        typer.Argument(help="recording (HDF5) to cut starts and goals from, without episodes of the training"),
    ] = None,
    task: Annotated[str, typer.Option(help="reach, push, or reach_SCENE; default is the bundle's")] = "",
    episodes: Annotated[int, typer.Option(help="starts and goals, of each kind of the task")] = 200,
    planner: Annotated[
        list[str] | None, typer.Option(help="icem, cem or proposal; again for more. Default is icem and proposal")
    ] = None,
    seed: Annotated[int, typer.Option(help="of starts and goals")] = 0,
    world: Annotated[Path | None, typer.Option(help="SDF or scene file; default is worlds/tabletop.sdf")] = None,
    backend: Annotated[str, typer.Option(help="auto, tensorrt, onnxruntime or torch")] = "auto",
    out: Annotated[Path, typer.Option(help="folder for figures and pictures of failures")] = Path("out/lewm-eval"),
) -> None:
    """Count how often a model brings the simulated arm or object to its goals, beside policies without a model.

    Starts and goals are drawn in simulation, or, in tasks to reach, cut from the held-out episodes of DATA.
    """
    from rich.console import Console

    from lewm_model.bundle.bundle import load_bundle
    from lewm_model.data.clips import load_episodes
    from lewm_model.evaluation.figures import write_figures
    from lewm_model.evaluation.simulated import try_suite
    from lewm_model.evaluation.success import evaluate_reach, table
    from lewm_model.runtime import load_runtime
    from lewm_model.tasks.registry import suite_named, suite_of

    loaded = load_bundle(bundle)
    suite = suite_named(task) if task else suite_of(loaded)
    loaded.must_be_for(suite.name)
    runtime = load_runtime(loaded, backend)
    if data is None:
        if planner is not None:
            raise ValueError("--planner compares planners on goals of a recording; give DATA as well")
        command = f"lewm eval {bundle} --task {suite.name} --episodes {episodes} --seed {seed}"
        for number, tried in enumerate(try_suite(suite, runtime, episodes, seed, world)):
            Console().print(tried.table)
            figures = {suite.figure_name(name): value for name, value in tried.figures.items()}
            write_figures(out / "summary.json", figures, command, keep=number > 0 or bool(suite.robot))
        return
    names = planner or ["icem", "proposal"]
    for each in evaluate_reach(suite, runtime, load_episodes(data), out, episodes, seed, names, world):
        Console().print(table(each))
        for pair in each.pairs:
            typer.echo(str(pair))
    typer.echo(f"every trial, and pictures of failures: {out}")


@app.command()
def robust(
    bundle: BundleArgument,
    goals: Annotated[int, typer.Option(help="in each row, divided among the bundle's tasks")] = 50,
    only: Annotated[
        list[str] | None,
        typer.Option(help="clean, light, colour, sensor, camera, scene, or a factor; repeat it for more"),
    ] = None,
    goal_changed: Annotated[bool, typer.Option(help="also count with the goal's picture under the same change")] = True,
    frames: Annotated[
        list[Path] | None,
        typer.Option(help="folder of another camera's pictures, with poses.csv; repeat it for more"),
    ] = None,
    seed: int = 0,
    world: Annotated[
        Path | None, typer.Option(help="SDF or scene file; default is the world of the bundle's task")
    ] = None,
    backend: Annotated[str, typer.Option(help="auto, tensorrt, onnxruntime or torch")] = "auto",
    decide: Annotated[
        int, typer.Option(help="goals of each group's worst row, which its figure is; 0: as many as the others have")
    ] = 0,
    jobs: Annotated[int, typer.Option(help="processes that try rows", min=1)] = 1,
    out: Annotated[Path, typer.Option(help="folder for summary.json and robust.png")] = Path("out/robust"),
) -> None:
    """Count how often goals are held when light, colours, sensor or camera differ from the training."""
    from rich.console import Console

    from lewm_model.bundle.bundle import load_bundle
    from lewm_model.evaluation.robustness import Label, Row, robustness, table, write
    from lewm_model.runtime import load_runtime
    from lewm_model.tasks.registry import suite_of

    runtime = load_runtime(load_bundle(bundle), backend)
    task = suite_of(runtime.bundle).name
    rows: dict[Label, Row] = {}
    said = ["--goals", str(goals), "--seed", str(seed), *(["--decide", str(decide)] if decide else [])]
    said += [word for name in only or () for word in ("--only", name)]
    said += [word for folder in frames or () for word in ("--frames", str(folder))]
    command = shlex.join(["lewm", "robust", str(bundle), *said, *([] if goal_changed else ["--no-goal-changed"])])
    for row in robustness(runtime, goals, seed, only or (), world, frames or (), goal_changed, decide, jobs):
        rows[row.change] = row
        write(list(rows.values()), out, command, task)  # after every row, so that an interrupted run leaves its results
        typer.echo(
            f"{row.change.factor} {row.change.severity}: {row.goal_clean}, goal changed {row.goal_changed or '-'}"
        )
    Console().print(table(list(rows.values())))
    typer.echo(f"summary.json and robust.png: {out}")


@app.command()
def probe(
    bundle: BundleArgument,
    data: Annotated[Path, typer.Argument(help="recording (HDF5); episodes the model was trained on are left out")],
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file to write")] = None,
) -> None:
    """Measure what the latents encode: joint angles and velocities, and in simulation tip, tool and objects."""
    import json

    from rich.console import Console

    from lewm_model.bundle.bundle import load_bundle
    from lewm_model.data.clips import load_episodes
    from lewm_model.evaluation.probe import as_dict, probe_bundle, table

    loaded, recording = load_bundle(bundle), load_episodes(data)
    found = probe_bundle(loaded, recording, seed)
    Console().print(table(found))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(as_dict(loaded, recording, found), indent=1) + "\n")


@app.command()
def surprise(
    bundle: BundleArgument,
    episodes: Annotated[int, typer.Option(help="episodes of each kind")] = 200,
    seed: int = 0,
    world: Annotated[Path | None, typer.Option(help="SDF or scene file; default is worlds/tabletop.sdf")] = None,
    changing_light: Annotated[bool, typer.Option("--changing-light", help="the light changes all the time")] = False,
    hours: Annotated[
        float, typer.Option(help="hours of undisturbed motion for the false alarms; 0 takes the undisturbed episodes")
    ] = 0.0,
    out: Annotated[Path, typer.Option(help="folder for surprise.json and surprise.png")] = Path("out/lewm-surprise"),
) -> None:
    """Measure how well changed colours, teleports, occlusion and a frozen camera are detected, and false alarms."""
    import json

    from rich.console import Console

    from lewm_model.bundle.bundle import load_bundle
    from lewm_model.evaluation import surprise as s

    loaded = load_bundle(bundle)
    scores = s.score_episodes(loaded, episodes, seed, world, changing_light)
    watched = s.watch(loaded, hours, seed, world, changing_light) if hours else scores
    found, quiet = s.judge(scores, loaded.actions.frameskip), s.false_alarms(watched)
    for table in s.tables(found, quiet):
        Console().print(table)
    s.plot(out / "surprise.png", scores)
    (out / "surprise.json").write_text(json.dumps(s.as_dict(loaded, seed, found, quiet), indent=1) + "\n")


@app.command()
def report(
    bundle: BundleArgument,
    run: Annotated[Path | None, typer.Option(help="folder of the training's logs; default is runs/NAME")] = None,
    evaluation: Annotated[Path | None, typer.Option("--eval", help="folder that an evaluation wrote")] = None,
    data: Annotated[Path | None, typer.Option(help="recording (HDF5) whose held-out episodes are drawn")] = None,
    out: Annotated[Path, typer.Option(help="folder for report.html and its pictures")] = Path("out/report"),
) -> None:
    """Write a page with everything that is known of a bundle: training, rollouts, latents, evaluation, hashes."""
    from lewm_model.bundle.bundle import load_bundle
    from lewm_model.data.clips import load_episodes
    from lewm_model.data.outputs import check_output
    from lewm_model.evaluation.summary import write_report

    usual = Path("runs") / bundle.resolve().name  # the default of `lewm train`
    run = run or (usual if usual.is_dir() else None)
    check_output(out, [path for path in (bundle, run, evaluation, data) if path], overwrite=True)
    episodes = load_episodes(data) if data else None
    typer.echo(f"written to {write_report(load_bundle(bundle), out, run, evaluation, episodes)}")


@app.command()
def bench(
    bundle: Annotated[Path, typer.Argument(help="bundle folder, the one with model.json")] = Path("models/reach"),
    backend: Annotated[str, typer.Option(help="auto, tensorrt, onnxruntime or torch")] = "auto",
    repeats: Annotated[int, typer.Option(help="runs that are timed")] = 100,
    threads: Annotated[int, typer.Option(help="CPU threads of the model")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as JSON, for programs")] = False,
) -> None:
    """Time encoder, rollout, plan, and the way from picture to plan on this machine."""
    import json

    from lewm_model.bundle.bundle import load_bundle
    from lewm_model.evaluation.timing import bench as run
    from lewm_model.runtime import load_runtime

    results = run(load_runtime(load_bundle(bundle), backend, threads), repeats=repeats)
    if as_json:
        typer.echo(json.dumps(results, indent=1))
        return
    machine = results["machine"]
    mode = f", power mode {machine['power_mode']}" if machine["power_mode"] else ""
    typer.echo(f"{machine['board']}{mode}: {results['backend']} {results['precision']}")
    for note in results["notes"]:
        typer.echo(note)
    for name in ("encoder", "rollout", "plan", "end_to_end"):
        times = results[f"{name}_ms"]
        typer.echo(f"{name:11}" + "  ".join(f"{key} {value:9.3f} ms" for key, value in times.items()))
    typer.echo(f"{results['iterations_done']:.1f} of {results['plan']['iterations']} iterations within the deadline")


@doctor.command("machine")
def doctor_machine(
    bundle: Annotated[Path, typer.Argument(help="bundle folder that is to run here")] = Path("models/reach"),
    image_topic: Annotated[
        list[str] | None, typer.Option(help="a camera's topic; repeat it for each. Default: the bundle's cameras")
    ] = None,
    joint_states_topic: Annotated[str, typer.Option(help="topic of the arm's joint states")] = "joint_states",
    topics: Annotated[bool, typer.Option(help="whether to listen to the topics")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as JSON, for programs")] = False,
) -> None:
    """Check that this machine can run a model on a robot; also what `lewm doctor` alone does."""
    import json
    from dataclasses import asdict

    from lewm_model.bundle.bundle import BundleError, load_bundle
    from lewm_model.evaluation.doctor import FAIL, JOINT_STATES, examine, topics_of

    listen: dict[str, str] = {}
    if topics:
        try:
            listen = topics_of(load_bundle(bundle))
        except BundleError:  # `examine` reports it
            listen = topics_of(None)
        if image_topic:
            listen = {f"camera {topic}" if len(image_topic) > 1 else "camera": topic for topic in image_topic}
        listen[JOINT_STATES] = joint_states_topic
    findings = examine(bundle, listen)
    colours = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    for finding in [] if as_json else findings:
        typer.echo(typer.style(f"{finding.state:5}", fg=colours[finding.state]) + f"{finding.check}: {finding.found}")
        if finding.advice:
            typer.echo(f"     -> {finding.advice}")
    failed = sum(finding.state == FAIL for finding in findings)
    if failed:
        raise RuntimeError(f"{failed} of {len(findings)} checks failed")


def _plan_in(params: Path, bundle: Bundle) -> PlanConfig:
    """The plan settings of planner_node in a ROS params file, with the node's defaults for others, and by default the
    horizon of the bundle.

    :raises ConfigError: the file is not readable, or has a setting that does not exist.
    :raises BundleError: its horizon is not the bundle's.
    """
    from lewm_model.config import PlanConfig, from_dict, load_yaml

    values: dict[str, Any] = {}
    for node, section in load_yaml(params).items():
        known = section.get("ros__parameters") if isinstance(section, dict) else None
        if isinstance(known, dict) and (node.endswith("planner_node") or node == "/**"):
            values |= known.get("plan") or {}
            values |= {name.removeprefix("plan."): v for name, v in known.items() if name.startswith("plan.")}
    return from_dict(PlanConfig, {**values, "horizon": bundle.horizon_for(values.get("horizon", 0))})


@doctor.command("model")
def doctor_model(
    bundle: BundleArgument,
    data: Annotated[
        Path | None, typer.Argument(help="recording (HDF5) of the robot's camera; default: one made in simulation")
    ] = None,
    backend: Annotated[str, typer.Option(help="auto, tensorrt, onnxruntime or torch")] = "auto",
    params: Annotated[
        Path | None, typer.Option(help="params file of the robot's planner_node; its plan.* settings are checked")
    ] = None,
) -> None:
    """The preflight: check that an arm can be moved with this model; writes GO or NO-GO into the bundle."""
    from lewm_model.bundle.bundle import load_bundle
    from lewm_model.bundle.verdict import GO
    from lewm_model.data.clips import load_episodes
    from lewm_model.evaluation.preflight import preflight, save_preflight, simulated
    from lewm_model.runtime import load_runtime

    loaded = load_bundle(bundle)
    plan = None if params is None else _plan_in(params, loaded)
    runtime = load_runtime(loaded, backend)
    found = preflight(runtime, simulated(runtime.bundle) if data is None else load_episodes(data), plan=plan)
    for check in found.checks:
        state = typer.style("ok   ", fg=typer.colors.GREEN) if check.good else typer.style("miss ", fg=typer.colors.RED)
        typer.echo(f"{state}{check.name}: {check.found}")
    ratios = ", ".join(f"{ratio:.3g}" for ratio in found.error_ratios)
    typer.echo(f"prediction error relative to assuming that nothing changes, 1, 2, ... blocks ahead: {ratios}")
    save_preflight(runtime.bundle, found)
    if found.verdict != GO:
        raise RuntimeError(f"{found.verdict}: {found.reason}")
    typer.echo(typer.style(found.verdict, fg=typer.colors.GREEN))
