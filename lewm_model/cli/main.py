"""The command line: `lewm collect`, `lewm train`, `lewm export`, …; `lewm COMMAND --help` tells the options."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

app = typer.Typer(
    help="LeWorldModel for robot arms: record, train, export, check.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class _MachineFirst(typer.core.TyperGroup):
    """`lewm doctor` and `lewm doctor BUNDLE` check the machine; `lewm doctor model` is a command of its own."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["machine", *args]
        return super().parse_args(ctx, args)


doctor = typer.Typer(
    cls=_MachineFirst, help="Check that this machine, or a model, can move a robot; say what to do for each failure."
)
app.add_typer(doctor, name="doctor")
DECODER_STEPS = 2500
data_app = typer.Typer(help="Look at recordings.", no_args_is_help=True)
app.add_typer(data_app, name="data")
BundleArgument = Annotated[Path, typer.Argument(help="bundle folder, the one with model.json")]


@app.command()
def collect(
    out: Annotated[Path, typer.Argument(help="HDF5 file to write")],
    episodes: Annotated[int, typer.Option(help="episodes to record")] = 400,
    steps: Annotated[int, typer.Option(help="low-level actions in an episode, 20 in a second")] = 100,
    seed: int = 0,
    world: Annotated[Path | None, typer.Option(help="SDF file; default is worlds/tabletop.sdf")] = None,
    image_size: Annotated[int, typer.Option(help="pixels, square")] = 64,
    workers: Annotated[int, typer.Option(help="processes that simulate")] = 2,
    play: Annotated[bool, typer.Option("--play", help="play with the block instead of moving at random")] = False,
) -> None:
    """Record episodes of smooth random motion in the simulator, or of play with the block."""
    from lewm_model.sim.collect import collect as record

    out.parent.mkdir(parents=True, exist_ok=True)
    record(out, episodes, steps, seed, world, image_size, workers, play)


@app.command()
def record(
    out: Annotated[Path, typer.Argument(help="MCAP file to write")],
    image_topic: Annotated[str, typer.Option(help="the camera's Image topic")] = "camera/image_raw",
    command_topic: Annotated[
        str, typer.Option(help="the arm's JointTrajectory topic")
    ] = "arm_controller/joint_trajectory",
    namespace: Annotated[str, typer.Option(help="namespace of the arm's topics")] = "/",
    image_format: Annotated[str, typer.Option(help="jpeg or png, which loses nothing")] = "jpeg",
) -> None:
    """Record pictures, joint states and commands of a running arm, until Ctrl-C; needs ROS 2."""
    if find_spec("rclpy") is None:
        raise RuntimeError("recording needs ROS 2: source its setup.bash, or `make setup` in a checkout")
    remap = ["-r", f"camera/image_raw:={image_topic}", "-r", f"arm_controller/joint_trajectory:={command_topic}"]
    parameters = ["-p", f"out:={out}", "-p", f"image_format:={image_format}"]
    ros = ["--ros-args", "-r", f"__ns:=/{namespace.strip('/')}", *remap, *parameters]
    os.execv(sys.executable, [sys.executable, "-m", "lewm_ros.record", *ros])


@app.command()
def convert(
    recordings: Annotated[
        list[Path], typer.Argument(help="MCAP or SQLite recordings of ROS 2, or one LeRobot folder or HDF5 file")
    ],
    out: Annotated[Path, typer.Option(help="HDF5 file to write")],
    control_dt_s: Annotated[
        float | None, typer.Option(help="time of one action, s; default of ROS recordings is 0.05, others say it")
    ] = None,
    tolerance_s: Annotated[
        float | None, typer.Option(help="ROS: of stamps, s; default is half of --control-dt-s")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="pixels, square; default is 64, of HDF5 its own size")] = None,
    joints: Annotated[
        str, typer.Option(help="ROS: joints of the action, with commas; default: the first command's")
    ] = "",
    image_topic: Annotated[str, typer.Option(help="ROS: topic of the pictures")] = "camera/image_raw",
    joint_states_topic: Annotated[str, typer.Option(help="ROS: topic of the joint states")] = "joint_states",
    command_topic: Annotated[str, typer.Option(help="ROS: topic of the commands")] = "arm_controller/joint_trajectory",
    camera: Annotated[str, typer.Option(help="LeRobot: key of the camera, where there are several")] = "",
    action: Annotated[str, typer.Option(help="LeRobot: key of the action")] = "action",
    actions_are: Annotated[
        str, typer.Option(help="LeRobot: recorded (kept), or joint-positions-deg or -rad, which become velocities")
    ] = "recorded",
) -> None:
    """Turn recordings into episodes that `lewm train` reads; keep what can be read of a damaged one."""
    from lewm_model.data.converters.convert import convert as run
    from lewm_model.data.converters.rosbag2 import Topics

    names = [name.strip() for name in joints.split(",") if name.strip()]
    topics = Topics(image_topic, joint_states_topic, command_topic)
    typer.echo(run(recordings, out, control_dt_s, tolerance_s, image_size, names, topics, camera, action, actions_are))


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="recording, HDF5")],
    out: Annotated[Path, typer.Argument(help="bundle folder to write")],
    size: Annotated[str, typer.Option(help="small (two CPU cores) or reference (the paper's, one GPU)")] = "small",
    config: Annotated[Path | None, typer.Option(help="YAML with `model:` and `train:` values that differ")] = None,
    run: Annotated[
        Path | None, typer.Option(help="folder of logs and checkpoints; default is runs/<bundle name>")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="overrides the configuration's")] = None,
    decoder: Annotated[bool, typer.Option(help="train what draws imagined futures too: `lewm decoder`")] = False,
    control_dt_s: Annotated[float | None, typer.Option(help="time from row to row, s, of a file that lacks it")] = None,
) -> None:
    """Train a world model from a recording; run the same command again to resume after a kill."""
    from lewm_model.config import MODEL_SIZES, TRAIN_SIZES, ConfigError, ModelConfig, TrainConfig, from_dict, load_yaml
    from lewm_model.data.clips import DataError, load_episodes
    from lewm_model.models.distributed import joined, rank
    from lewm_model.runtime import RuntimeLoadError, load_runtime
    from lewm_model.runtime.decoder import add_decoder
    from lewm_model.runtime.export import export_onnx, sample_frames
    from lewm_model.training.calibration import calibrate as run_calibration
    from lewm_model.training.trainer import device_of, fit
    from lewm_model.training.trainer import train as run_training

    if size not in MODEL_SIZES:
        raise ConfigError(f"--size is {size!r}; it must be one of {', '.join(MODEL_SIZES)}")
    values: dict[str, Any] = load_yaml(config) if config else {}
    unknown = sorted(set(values) - {"model", "train"})
    if unknown:
        raise ConfigError(f"{config} has a section {unknown[0]!r}; it may have `model` and `train`")
    seeded = {} if seed is None else {"seed": seed}
    model_config = from_dict(ModelConfig, values.get("model", {}), MODEL_SIZES[size])
    train_config = from_dict(TrainConfig, {**values.get("train", {}), **seeded}, TRAIN_SIZES[size])
    episodes = load_episodes(data, control_dt_s)
    if not episodes.control_dt_s > 0.0:
        raise DataError(f"{data} does not say how much time lies between its rows; give it with --control-dt-s")
    run = run or Path("runs") / out.name
    with joined(device_of(train_config)):
        if rank() > 0:  # of torchrun's processes the first one writes
            fit(episodes, run, model_config, train_config)
            return
        bundle = run_training(episodes, out, run, model_config, train_config)
    try:
        bundle = run_calibration(bundle, episodes)
    except DataError as error:
        typer.echo(f"not calibrated, so no goal counts as reached and no frame as surprising: {error}")
    bundle = export_onnx(bundle, frames=sample_frames(episodes, model_config))
    if decoder:
        bundle = add_decoder(bundle, episodes, DECODER_STEPS)
    typer.echo(f"bundle written to {out}")
    try:
        for note in load_runtime(bundle, "tensorrt").notes:
            typer.echo(note)
    except RuntimeLoadError as error:
        typer.echo(f"no TensorRT engines for this machine: {error}")


@app.command()
def train_demo(
    seed: int = 0,
    goals: Annotated[int, typer.Option(help="goals of each kind to try the model on")] = 100,
    out: Annotated[Path, typer.Option(help="folder for recording, bundle and summary.json")] = Path("out/train-demo"),
) -> None:
    """Record, train and export the demo's model from nothing, and try it on the simulated arm."""
    from recipes.train_demo import train_demo as run

    run(out, seed, goals)


@app.command()
def calibrate(
    bundle: BundleArgument,
    data: Annotated[Path, typer.Argument(help="recording (HDF5); of the robot's own camera, where there is one")],
) -> None:
    """Measure anew when a goal counts as reached and a frame as surprising, on frames the model was not trained on."""
    from lewm_model.bundle.bundle import load_bundle
    from lewm_model.data.clips import load_episodes
    from lewm_model.monitoring.novelty import WINDOW
    from lewm_model.monitoring.vigilance import SURPRISING
    from lewm_model.training.calibration import calibrate as run

    found = run(load_bundle(bundle), load_episodes(data)).calibration
    assert found is not None and found.new_pixels is not None
    typer.echo(f"reached up to {found.reached:.3g}, left beyond {found.left:.3g}")
    typer.echo(f"{found.false_positive_rate:.2%} of {found.frames} frames are surprising")
    least = SURPRISING * found.new_pixels
    if least < WINDOW**2:
        typer.echo(f"a new thing is noticed from more than {least:.0f} of the model's pixels on, lying together")
    else:
        typer.echo("the pictures differ so much that nothing new is noticed in them; record more episodes")


@app.command()
def export(
    bundle: BundleArgument,
    data: Annotated[Path | None, typer.Option(help="recording to take new sample frames from")] = None,
) -> None:
    """Write the ONNX graphs of a bundle anew and check them against PyTorch."""
    from lewm_model.bundle.bundle import load_bundle
    from lewm_model.data.clips import load_episodes
    from lewm_model.runtime.export import export_onnx, sample_frames

    loaded = load_bundle(bundle)
    export_onnx(loaded, frames=sample_frames(load_episodes(data), loaded.model) if data else None)


@app.command()
def engine(
    bundle: BundleArgument,
    samples: Annotated[
        list[int] | None, typer.Option(help="candidates of a plan; again for more numbers. Default is the planner's")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp16, fp32, or auto: the first that passes the parity gate")] = "auto",
    rebuild: Annotated[bool, typer.Option("--rebuild", help="build although the engines fit")] = False,
) -> None:
    """Build the TensorRT engines of a bundle for this machine's GPU, and check that they compute what they should."""
    from rich.progress import Progress

    from lewm_model.bundle.bundle import load_bundle
    from lewm_model.config import PlanConfig
    from lewm_model.runtime.tensorrt.engines import Engines, read_manifest

    engines = Engines(load_bundle(bundle))
    with Progress() as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, share: float) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=1.0)
            bars.update(tasks[what], completed=share)

        runtime = engines.load(tuple(samples or (PlanConfig().samples,)), precision, rebuild=rebuild, progress=show)
    folder = engines.folder(runtime.precision)
    manifest = read_manifest(folder)
    for line in (*runtime.notes, f"{', '.join(manifest.plans)} in {folder}"):
        typer.echo(line)
    typer.echo("against the golden outputs: " + ", ".join(f"{k} {v:.6g}" for k, v in manifest.parity.items()))


@doctor.command("machine")
def doctor_machine(
    bundle: Annotated[Path, typer.Argument(help="bundle folder that is to run here")] = Path("models/reach"),
    image_topic: Annotated[str, typer.Option(help="the camera's topic")] = "camera/image_raw",
    joint_states_topic: Annotated[str, typer.Option(help="the arm's topic")] = "joint_states",
    topics: Annotated[bool, typer.Option(help="whether to listen to them")] = True,
) -> None:
    """Check that this machine can run a model on a robot; what `lewm doctor` does."""
    from lewm_model.evaluation.doctor import FAIL, examine

    listen = {"camera": image_topic, "joint states": joint_states_topic} if topics else {}
    findings = examine(bundle, listen)
    colours = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}
    for finding in findings:
        typer.echo(typer.style(f"{finding.state:5}", fg=colours[finding.state]) + f"{finding.check}: {finding.found}")
        if finding.advice:
            typer.echo(f"     -> {finding.advice}")
    failed = sum(finding.state == FAIL for finding in findings)
    if failed:
        raise RuntimeError(f"{failed} of {len(findings)} checks failed")


@doctor.command("model")
def doctor_model(
    bundle: BundleArgument,
    data: Annotated[
        Path | None, typer.Argument(help="recording (HDF5) of the camera it will see; default: recorded in simulation")
    ] = None,
    backend: Annotated[str, typer.Option(help="auto, tensorrt, onnxruntime or torch")] = "auto",
) -> None:
    """The preflight: can an arm be moved with this model? GO or NO-GO, with reasons, is written into the bundle."""
    from lewm_model.bundle.bundle import load_bundle
    from lewm_model.data.clips import load_episodes
    from lewm_model.evaluation.preflight import GO, preflight, save_preflight, simulated
    from lewm_model.runtime import load_runtime

    runtime = load_runtime(load_bundle(bundle), backend)
    found = preflight(runtime, simulated(runtime.bundle) if data is None else load_episodes(data))
    for check in found.checks:
        state = typer.style("ok   ", fg=typer.colors.GREEN) if check.good else typer.style("miss ", fg=typer.colors.RED)
        typer.echo(f"{state}{check.name}: {check.found}")
    ratios = ", ".join(f"{ratio:.3g}" for ratio in found.error_ratios)
    typer.echo(f"error of the imagination to that of assuming that nothing changes, 1, 2, ... blocks ahead: {ratios}")
    save_preflight(runtime.bundle, found)
    if found.verdict != GO:
        raise RuntimeError(f"{found.verdict}: {found.reason}")
    typer.echo(typer.style(found.verdict, fg=typer.colors.GREEN))


@app.command()
def bench(
    bundle: Annotated[Path, typer.Argument(help="bundle folder, the one with model.json")] = Path("models/reach"),
    backend: Annotated[str, typer.Option(help="auto, tensorrt, onnxruntime or torch")] = "auto",
    repeats: Annotated[int, typer.Option(help="runs that are timed")] = 100,
    threads: Annotated[int, typer.Option(help="CPU threads of the model")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="everything, for programs")] = False,
) -> None:
    """Time encoder, rollout, plan, and picture to plan on this machine."""
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


@app.command("eval")
def evaluate(
    bundle: BundleArgument,
    data: Annotated[Path, typer.Argument(help="recording (HDF5); episodes the model was trained on are left out")],
    task: Annotated[str, typer.Option(help="reach")] = "reach",
    episodes: Annotated[int, typer.Option(help="tasks of each kind, near and anywhere")] = 200,
    planner: Annotated[
        list[str] | None, typer.Option(help="icem, cem or proposal; again for more. Default is icem and proposal")
    ] = None,
    seed: int = 0,
    world: Annotated[Path | None, typer.Option(help="SDF file; default is worlds/tabletop.sdf")] = None,
    backend: Annotated[str, typer.Option(help="auto, tensorrt, onnxruntime or torch")] = "auto",
    out: Annotated[Path, typer.Option(help="folder for reach.json and pictures of failures")] = Path("out/lewm-eval"),
) -> None:
    """Count how often the simulated arm reaches goals from held-out episodes, beside what needs no model."""
    from rich.console import Console

    from lewm_model.bundle.bundle import load_bundle
    from lewm_model.data.clips import load_episodes
    from lewm_model.evaluation.success import evaluate_reach, table
    from lewm_model.runtime import load_runtime

    if task != "reach":
        raise ValueError(f"--task is {task!r}; it must be reach")
    runtime = load_runtime(load_bundle(bundle), backend)
    names = planner or ["icem", "proposal"]
    for each in evaluate_reach(runtime, load_episodes(data), out, episodes, seed, names, world):
        Console().print(table(each))
        for pair in each.pairs:
            typer.echo(str(pair))
    typer.echo(f"every task, and pictures of failures: {out}")


@app.command()
def probe(
    bundle: BundleArgument,
    data: Annotated[Path, typer.Argument(help="recording (HDF5); episodes the model was trained on are left out")],
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file to write")] = None,
) -> None:
    """Measure what the latents know: joint angles, end effector, velocities and the block's pose."""
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
    world: Annotated[Path | None, typer.Option(help="SDF file; default is worlds/tabletop.sdf")] = None,
    out: Annotated[Path, typer.Option(help="folder for surprise.json and surprise.png")] = Path("out/lewm-surprise"),
) -> None:
    """Measure what the model notices: colours, teleports, occlusion, a frozen camera; and how often for nothing."""
    import json

    from rich.console import Console

    from lewm_model.bundle.bundle import load_bundle
    from lewm_model.evaluation import surprise as s

    loaded = load_bundle(bundle)
    scores = s.score_episodes(loaded, episodes, seed, world)
    found, quiet = s.judge(scores, loaded.actions.frameskip), s.false_alarms(scores)
    for table in s.tables(found, quiet):
        Console().print(table)
    s.plot(out / "surprise.png", scores)
    (out / "surprise.json").write_text(json.dumps(s.as_dict(loaded, seed, found, quiet), indent=1) + "\n")


@app.command()
def decoder(
    bundle: BundleArgument,
    data: Annotated[Path, typer.Argument(help="recording (HDF5), best the one that the bundle was trained on")],
    steps: Annotated[int, typer.Option(help="optimiser steps")] = DECODER_STEPS,
    seed: int = 0,
) -> None:
    """Train what draws the futures that a bundle imagines, on its frozen latents; nothing else in it changes."""
    from lewm_model.bundle.bundle import load_bundle
    from lewm_model.data.clips import load_episodes
    from lewm_model.runtime.decoder import add_decoder

    found = add_decoder(load_bundle(bundle), load_episodes(data), steps, seed).evaluation["decoder"]
    typer.echo(
        f"{found['psnr_encoded_db']:.1f} dB on {found['frames']} held-out frames, "
        f"{found['share_of_mean_picture']:.1%} of the mean picture's squared error"
    )


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="folder with weights.pt and config.json, or a state dict (.pt)")],
    out: Annotated[Path, typer.Argument(help="bundle folder to write")],
    data: Annotated[
        Path | None, typer.Option(help="recording that it was trained on: action statistics, heads")
    ] = None,
    actions: Annotated[Path | None, typer.Option(help="JSON: `actions` as in a bundle's model.json")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML with `model:` sizes that the checkpoint lacks")] = None,
    control_dt_s: Annotated[float | None, typer.Option(help="time from row to row, s, of --data that lacks it")] = None,
) -> None:
    """Turn a checkpoint of the reference code (stable-worldmodel, le-wm) into a bundle."""
    import numpy as np

    from lewm_model.bundle.bundle import load_model
    from lewm_model.bundle.interchange import import_checkpoint, read_actions
    from lewm_model.config import TrainConfig, load_yaml
    from lewm_model.data.clips import DataError, load_episodes
    from lewm_model.runtime.export import export_onnx, sample_frames
    from lewm_model.training.calibration import calibrate as run_calibration
    from lewm_model.training.trainer import add_heads

    episodes = load_episodes(data, control_dt_s) if data else None
    spec = read_actions(actions) if actions else None
    bundle = import_checkpoint(source, out, spec, episodes, load_yaml(config).get("model", {}) if config else {})
    frames = None
    if episodes is None:
        typer.echo(
            "without --data it has no heads and no calibration: no goal counts as reached, no frame as surprising"
        )
    else:
        bundle = add_heads(bundle, load_model(bundle), episodes, np.arange(len(episodes.lengths)), TrainConfig())
        try:
            bundle = run_calibration(bundle, episodes)
        except DataError as error:
            typer.echo(f"not calibrated, so no goal counts as reached and no frame as surprising: {error}")
        frames = sample_frames(episodes, bundle.model)
    export_onnx(bundle, frames=frames)
    typer.echo(f"bundle written to {out}")


@app.command()
def bundle(
    bundle: BundleArgument,
    to_swm: Annotated[
        Path | None, typer.Option(help="folder to write the reference's weights.pt and config.json to")
    ] = None,
) -> None:
    """Check a bundle and say what it is; write it as a checkpoint of the reference code."""
    from lewm_model.bundle.bundle import load_bundle
    from lewm_model.bundle.interchange import export_checkpoint

    loaded = load_bundle(bundle)
    actions = ", ".join(loaded.actions.names)
    typer.echo(f"{bundle}: {len(loaded.files)} files match their hashes; {loaded.model}")
    typer.echo(f"actions {actions} every {loaded.actions.control_dt_s} s; heads {', '.join(loaded.heads) or 'none'}")
    if to_swm is not None:
        export_checkpoint(loaded, to_swm)
        typer.echo(f"checkpoint of the reference code written to {to_swm}")


@data_app.command("report")
def data_report(
    recording: Annotated[Path, typer.Argument(help="HDF5 file, recording of ROS 2, or LeRobot folder")],
    out: Annotated[Path | None, typer.Option(help="PNG to draw; default is beside the recording")] = None,
    frameskip: Annotated[int, typer.Option(help="control steps from frame to frame of the model")] = 5,
    control_dt_s: Annotated[float | None, typer.Option(help="time of an action, s, where it is not said")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="the numbers, for programs")] = False,
) -> None:
    """What a recording is like, and what in it will hurt a world model; with `lewm convert`'s defaults."""
    import json
    import tempfile

    from rich.console import Console
    from rich.table import Table

    from lewm_model.data.clips import DataError, load_episodes
    from lewm_model.data.converters.convert import HDF5, convert
    from lewm_model.data.report import draw, report_on

    conversion = None
    with tempfile.TemporaryDirectory(prefix="lewm_report_") as scratch:
        if recording.suffix in HDF5:
            episodes = load_episodes(recording, control_dt_s)
        else:
            try:
                conversion = convert([recording], Path(scratch) / "episodes.h5", control_dt_s)
            except DataError as error:
                advice = "Where that needs options, use `lewm convert` first, and report on the file that it writes"
                raise DataError(f"{error}. {advice}") from error
            episodes = load_episodes(Path(scratch) / "episodes.h5")
        found = report_on(episodes, frameskip, conversion)
    picture = out or Path(f"{recording}".rstrip("/") + ".report.png")
    draw(found, picture, str(recording))
    if as_json:
        typer.echo(json.dumps(found.numbers, indent=1))
        return
    table = Table(title=str(recording))
    for column in ("what", "found", "what to do"):
        table.add_column(column)
    for one in found.findings:
        table.add_row(one.what, one.value, one.warning, style="yellow" if one.warning else None)
    Console().print(table)
    typer.echo(f"drawn to {picture}")


@app.command()
def report(
    bundle: BundleArgument,
    run: Annotated[Path | None, typer.Option(help="folder of the training's logs, for its curves")] = None,
    evaluation: Annotated[Path | None, typer.Option("--eval", help="folder that an evaluation left")] = None,
    data: Annotated[Path | None, typer.Option(help="recording (HDF5), whose held-out episodes are drawn")] = None,
    out: Annotated[Path, typer.Option(help="folder for report.html and its pictures")] = Path("out/report"),
) -> None:
    """Put everything that is known of a bundle on one page: training, imagination, latents, evaluation, hashes."""
    from lewm_model.bundle.bundle import load_bundle
    from lewm_model.data.clips import load_episodes
    from lewm_model.evaluation.summary import write_report

    episodes = load_episodes(data) if data else None
    typer.echo(f"written to {write_report(load_bundle(bundle), out, run, evaluation, episodes)}")


@app.command()
def train_push(
    seed: int = 0,
    goals: Annotated[int, typer.Option(help="goals to try the model on")] = 200,
    out: Annotated[Path, typer.Option(help="folder for recording, bundle and summary.json")] = Path("out/train-push"),
) -> None:
    """Record play, train and export the push model from nothing, and try it on the simulated arm."""
    from recipes.train_push import train_push as run

    run(out, seed, goals)


@app.command()
def eval_push(
    bundle: Annotated[Path, typer.Argument(help="bundle folder of a push model")] = Path("models/push"),
    goals: Annotated[int, typer.Option(help="held-out goals")] = 200,
    seed: Annotated[int, typer.Option(help="of the goals")] = 1,
    out: Annotated[Path, typer.Option(help="folder for summary.json")] = Path("out/eval-push"),
) -> None:
    """Count how often a push model brings the block to where a goal picture shows it, beside baselines."""
    from lewm_model.tasks.push import eval_push as run

    run(bundle, goals, seed, out)


def main() -> None:
    """Entry point: what a user can mend is one line on stderr, not a traceback."""
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    try:
        app()
    except (ValueError, RuntimeError, OSError) as error:
        if os.environ.get("LEWM_TRACEBACK"):
            raise
        sys.exit(f"lewm: {error}")


if __name__ == "__main__":
    main()
