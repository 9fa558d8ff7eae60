# SPDX-License-Identifier: Apache-2.0
"""Commands that make and look at recordings."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from lewm_model.cli.arguments import OverwriteOption
from lewm_model.config import RECORDED_SIDE

app = typer.Typer()
data_app = typer.Typer(help="Look at recordings.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@app.command()
def collect(
    out: Annotated[Path, typer.Argument(help="HDF5 file to write")],
    episodes: Annotated[int, typer.Option(help="episodes to record")] = 400,
    steps: Annotated[
        int, typer.Option(help="control steps in an episode; each is the robot's control_dt_s long")
    ] = 100,
    seed: int = 0,
    world: Annotated[
        Path | None, typer.Option(help="SDF or scene file; default is the task's, or worlds/tabletop.sdf")
    ] = None,
    image_size: Annotated[
        int, typer.Option(help="height of a picture, pixels; one camera's picture is square")
    ] = RECORDED_SIDE,
    workers: Annotated[int, typer.Option(help="processes that simulate")] = 2,
    vary: Annotated[
        bool, typer.Option("--vary", help="every frame has its own light, colours and camera pose")
    ] = False,
    task: Annotated[
        str, typer.Option(help="the motion that its models learn from is recorded: random, or a scripted policy's")
    ] = "reach",
    policy: Annotated[
        Path | None, typer.Option(help="bundle whose policy moves the arm first; the task's scripted policy continues")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Record episodes in the simulator, of smooth random motion or of a task's scripted policy."""
    from lewm_model.data.outputs import check_output
    from lewm_model.sim.collect import collect as record
    from lewm_model.tasks.registry import suite_named

    suite = suite_named(task)
    motion = suite.motion
    if policy is not None:
        if suite.led is None:
            raise ValueError(f"the task {task} has no scripted policy that continues a model's motion; omit --policy")
        motion = suite.led(policy)
    check_output(out, [world] if world else [], overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    record(out, episodes, steps, seed, world or suite.world_file, image_size, workers, motion, vary)
    size_mb = out.stat().st_size / 1e6
    typer.echo(f"{episodes} episodes of {steps} actions are in {out} ({size_mb:.0f} MB); next: lewm data report {out}")


@app.command()
def record(
    out: Annotated[Path, typer.Argument(help="MCAP file to write")],
    image_topic: Annotated[str, typer.Option(help="the camera's Image topic")] = "camera/image_raw",
    command_topic: Annotated[
        str, typer.Option(help="the arm's JointTrajectory topic")
    ] = "arm_controller/joint_trajectory",
    namespace: Annotated[str, typer.Option(help="namespace of the arm's topics")] = "/",
    image_format: Annotated[str, typer.Option(help="jpeg, or png, which is lossless")] = "jpeg",
    compressed: Annotated[
        bool,
        typer.Option("--compressed", help="record the CompressedImage topic, <image topic>/compressed, unchanged"),
    ] = False,
    robot: Annotated[
        str, typer.Option(help="name or path of a robot file: the topics of all its cameras are recorded")
    ] = "",
) -> None:
    """Record pictures, joint states and commands of a running arm, until Ctrl-C; needs ROS 2."""
    from lewm_model.data.outputs import check_output

    check_output(out)
    if find_spec("rclpy") is None:
        raise RuntimeError("recording needs ROS 2: source its setup.bash, or `make setup` in a checkout")

    def beside(topic: str, name: str) -> str:
        return f"{topic.rpartition('/')[0]}/{name}" if "/" in topic else name

    renamed = {
        "__ns": f"/{namespace.strip('/')}",
        "camera/image_raw": image_topic,
        "camera/image_raw/compressed": f"{image_topic}/compressed",
        "camera/camera_info": beside(image_topic, "camera_info"),
        "arm_controller/joint_trajectory": command_topic,
        "arm_controller/controller_state": beside(command_topic, "controller_state"),
    }
    remap = [part for old, new in renamed.items() for part in ("-r", f"{old}:={new}")]
    parameters = ["-p", f"out:={out}", "-p", f"image_format:={image_format}"]
    parameters += ["-p", f"input:={'compressed' if compressed else 'raw'}"]
    parameters += ["-p", f"robot:={robot}"] if robot else []
    ros = ["--ros-args", *remap, *parameters]
    os.execv(sys.executable, [sys.executable, "-m", "lewm_ros.record", *ros])


@app.command()
def convert(
    recordings: Annotated[
        list[Path], typer.Argument(help="MCAP or SQLite recordings of ROS 2, or one LeRobot folder or HDF5 file")
    ],
    out: Annotated[Path, typer.Option(help="HDF5 file to write, or the folder with --to lerobot")],
    to: Annotated[
        str, typer.Option(help="hdf5; or lerobot, which turns one HDF5 recording into a data set 3.0")
    ] = "hdf5",
    control_dt_s: Annotated[
        float | None,
        typer.Option(help="time of one action, s; default: fits the camera's rate (ROS), as recorded (others)"),
    ] = None,
    tolerance_s: Annotated[
        float | None, typer.Option(help="ROS: tolerance of stamps, s; default is half of --control-dt-s")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="side of a square picture, pixels; default is 64, or as recorded (HDF5)")
    ] = None,
    joints: Annotated[
        str,
        typer.Option(help="joints of the action, separated by commas; default: all, or those of most commands (ROS)"),
    ] = "",
    hold: Annotated[
        str, typer.Option(help="joints that stand still and are not in the action; frames in which they moved are cut")
    ] = "",
    gripper: Annotated[str, typer.Option(help="joints of the action that open and close a gripper")] = "",
    units: Annotated[
        str, typer.Option(help="unit of positions: rad, deg, percent or a factor, for all or as name=unit,...")
    ] = "",
    robot: Annotated[
        str,
        typer.Option(help="path of a robot file, or name in config/robots; positions beyond its limits are refused"),
    ] = "",
    image_topic: Annotated[str | None, typer.Option(help="ROS: topic of the pictures")] = None,
    joint_states_topic: Annotated[str | None, typer.Option(help="ROS: topic of the joint states")] = None,
    command_topic: Annotated[str | None, typer.Option(help="ROS: topic of the commands")] = None,
    clock: Annotated[
        str | None, typer.Option(help="ROS: stamps of the message headers (header), or of their recording (recorder)")
    ] = None,
    camera: Annotated[
        str | None,
        typer.Option(
            help="LeRobot: key of the camera, if there are several; several, with commas, are put side by side"
        ),
    ] = None,
    action: Annotated[str | None, typer.Option(help="LeRobot: key of the action; default is action")] = None,
    actions_are: Annotated[
        str | None,
        typer.Option(help="LeRobot: joint-positions-deg or -rad become velocities; recorded keeps the numbers"),
    ] = None,
    cameras: Annotated[
        str,
        typer.Option(
            help="cameras of the robot file, separated by commas, or all: its topics, crops and sizes are used"
        ),
    ] = "",
    accept_doubts: Annotated[
        bool, typer.Option("--accept-doubts", help="write the result even if actions and pictures do not seem to fit")
    ] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Turn recordings into episodes that `lewm train` reads; everything readable of a damaged one is kept."""
    from lewm_model.data.clips import DataError, load_episodes
    from lewm_model.data.converters.columns import Columns
    from lewm_model.data.converters.convert import convert as run
    from lewm_model.data.converters.convert import refuse_options
    from lewm_model.data.converters.lerobot_write import write_lerobot
    from lewm_model.data.converters.rosbag2.messages import Topics
    from lewm_model.data.converters.view import view_of
    from lewm_model.data.outputs import check_output
    from lewm_model.robot.robot import load_robot

    def listed(text: str) -> tuple[str, ...]:
        return tuple(name.strip() for name in text.split(",") if name.strip())

    check_output(out, recordings, overwrite)
    if to not in ("hdf5", "lerobot") or (to == "lerobot" and len(recordings) != 1):
        raise DataError(f"--to is {to!r} of {len(recordings)} recordings; it is hdf5, or lerobot of one HDF5 recording")
    if to == "lerobot":
        others = {"--image-size": image_size, "--tolerance-s": tolerance_s, "--joints": joints, "--hold": hold}
        others |= {"--gripper": gripper, "--units": units, "--robot": robot, "--cameras": cameras, "--camera": camera}
        others |= {"--image-topic": image_topic, "--joint-states-topic": joint_states_topic, "--clock": clock}
        others |= {"--command-topic": command_topic, "--action": action, "--actions-are": actions_are}
        whole = "turned into a LeRobot data set as it is, after an earlier `lewm convert`"
        refuse_options(recordings[0], whole, {name: value or None for name, value in others.items()})
        frames = write_lerobot(load_episodes(recordings[0], control_dt_s), out)
        typer.echo(f"{frames} frames written to {out}, a LeRobot data set of version 3.0")
        return
    usual, given = Topics(), (image_topic, joint_states_topic, command_topic)
    topics = Topics(
        image_topic or usual.image, joint_states_topic or usual.joint_states, command_topic or usual.command
    )
    limits = load_robot(robot).limits if robot else None
    columns = Columns(listed(joints), listed(hold), listed(gripper), units, limits)
    chosen = topics if any(given) else None
    step, size = control_dt_s, image_size
    if cameras and not robot:
        raise DataError("--cameras names cameras of a robot file; give it with --robot, too")
    view = view_of(robot, listed(cameras)) if cameras else None
    said = (step, tolerance_s, size, columns, chosen, clock, camera, action, actions_are, accept_doubts, view)
    typer.echo(run(recordings, out, *said))
    typer.echo(f"written to {out}; next: lewm data report {out}")


@app.command("export-world")
def export_world(
    scene: Annotated[Path, typer.Argument(help="scene file, from config/scenes or your own")],
    out: Annotated[Path, typer.Argument(help="SDF file to write; meshes go into a folder beside it")],
    overwrite: OverwriteOption = False,
) -> None:
    """Write a scene with its robot as an SDF world for Gazebo, with the trajectory controllers' gains."""
    from lewm_model.data.outputs import check_output
    from lewm_model.sim.export_sdf import export_sdf

    check_output(out, [scene], overwrite)
    export_sdf(scene, out)
    typer.echo(f"{out} written; next: ros2 launch lewm_ros gazebo.launch.py world:={out.resolve()}")


@data_app.command("report")
def data_report(
    recording: Annotated[Path, typer.Argument(help="HDF5 file, recording of ROS 2, or LeRobot folder")],
    out: Annotated[Path | None, typer.Option(help="PNG to draw; default is beside the recording")] = None,
    frameskip: Annotated[int, typer.Option(help="control steps from frame to frame of the model")] = 5,
    control_dt_s: Annotated[
        float | None, typer.Option(help="time of an action, s, of a recording that does not have it")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the numbers as JSON, for programs")] = False,
) -> None:
    """Look for flaws of a recording that would hurt a world model; converted with the defaults of `lewm convert`."""
    import json
    import tempfile

    from rich.console import Console
    from rich.table import Table

    from lewm_model.data.clips import DataError, load_episodes
    from lewm_model.data.converters.convert import convert, is_hdf5
    from lewm_model.data.outputs import check_output
    from lewm_model.data.report import draw, report_on

    picture = out or Path(f"{recording}".rstrip("/") + ".report.png")
    check_output(picture, [recording], overwrite=True)  # an earlier drawing of this package is replaced

    conversion = None
    with tempfile.TemporaryDirectory(prefix="lewm_report_") as scratch:
        if is_hdf5(recording):
            episodes = load_episodes(recording, control_dt_s)
        else:
            try:
                scratch_file = Path(scratch) / "episodes.h5"
                conversion = convert([recording], scratch_file, control_dt_s, accept_doubts=True)  # the report has them
            except DataError as error:
                advice = "If it needs options, use `lewm convert` first, and report on the file that it writes"
                raise DataError(f"{error}. {advice}") from error
            episodes = load_episodes(Path(scratch) / "episodes.h5")
        found = report_on(episodes, frameskip, conversion)
    draw(found, picture, str(recording))
    if as_json:
        typer.echo(json.dumps({"verdict": found.verdict, "no_go": found.no_go, **found.numbers}, indent=1))
        return
    typer.echo(typer.style(found.verdict, fg=typer.colors.RED if found.no_go else typer.colors.GREEN))
    table = Table(title=str(recording))
    for column in ("what", "found", "what to do"):
        table.add_column(column)
    for one in found.findings:
        table.add_row(one.what, one.value, one.warning, style="yellow" if one.warning else None)
    Console().print(table)
    typer.echo(f"drawn to {picture}")
