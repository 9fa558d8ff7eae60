"""The command line: `lewm collect`, `lewm train`, `lewm export`, …; `lewm COMMAND --help` tells the options."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="LeWorldModel for robot arms: record, train, export, check.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
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
) -> None:
    """Record episodes of smooth random motion in the simulator."""
    from lewm_model.collect import collect as record

    out.parent.mkdir(parents=True, exist_ok=True)
    record(out, episodes, steps, seed, world, image_size, workers)


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
    recordings: Annotated[list[Path], typer.Argument(help="MCAP files, or folders of `ros2 bag record`")],
    out: Annotated[Path, typer.Option(help="HDF5 file to write")],
    control_dt_s: Annotated[float, typer.Option(help="time of one action, s")] = 0.05,
    tolerance_s: Annotated[float | None, typer.Option(help="of stamps, s; default is half of --control-dt-s")] = None,
    image_size: Annotated[int, typer.Option(help="pixels, square")] = 64,
    joints: Annotated[str, typer.Option(help="joints of the action, with commas; default: the first command's")] = "",
    image_topic: Annotated[str, typer.Option(help="topic of the pictures")] = "camera/image_raw",
    joint_states_topic: Annotated[str, typer.Option(help="topic of the joint states")] = "joint_states",
    command_topic: Annotated[str, typer.Option(help="topic of the commands")] = "arm_controller/joint_trajectory",
) -> None:
    """Turn recordings of a real arm (MCAP) into episodes that `lewm train` reads."""
    from lewm_model.data.bag import Topics, convert_bag

    names = [name.strip() for name in joints.split(",") if name.strip()]
    topics = Topics(image_topic, joint_states_topic, command_topic)
    typer.echo(convert_bag(recordings, out, control_dt_s, tolerance_s, image_size, names, topics))


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
) -> None:
    """Train a world model from a recording; run the same command again to resume after a kill."""
    from lewm_model.config import MODEL_SIZES, TRAIN_SIZES, ConfigError, ModelConfig, TrainConfig, from_dict, load_yaml
    from lewm_model.data.clips import load_episodes
    from lewm_model.export import export_onnx
    from lewm_model.train import train as run_training

    if size not in MODEL_SIZES:
        raise ConfigError(f"--size is {size!r}; it must be one of {', '.join(MODEL_SIZES)}")
    values: dict[str, Any] = load_yaml(config) if config else {}
    unknown = sorted(set(values) - {"model", "train"})
    if unknown:
        raise ConfigError(f"{config} has a section {unknown[0]!r}; it may have `model` and `train`")
    seeded = {} if seed is None else {"seed": seed}
    model_config = from_dict(ModelConfig, values.get("model", {}), MODEL_SIZES[size])
    train_config = from_dict(TrainConfig, {**values.get("train", {}), **seeded}, TRAIN_SIZES[size])
    bundle = run_training(load_episodes(data), out, run or Path("runs") / out.name, model_config, train_config)
    export_onnx(bundle)
    typer.echo(f"bundle written to {out}")


@app.command()
def train_demo(
    seed: int = 0,
    goals: Annotated[int, typer.Option(help="goals of each kind to try the model on")] = 100,
    out: Annotated[Path, typer.Option(help="folder for recording, bundle and summary.json")] = Path("out/train-demo"),
) -> None:
    """Record, train and export the demo's model from nothing, and try it on the simulated arm."""
    from lewm_model.train_demo import train_demo as run

    run(out, seed, goals)


@app.command()
def export(bundle: BundleArgument) -> None:
    """Write the ONNX graphs of a bundle anew and check them against PyTorch."""
    from lewm_model.bundle import load_bundle
    from lewm_model.export import export_onnx

    export_onnx(load_bundle(bundle))


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
