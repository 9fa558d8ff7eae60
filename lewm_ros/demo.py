# SPDX-License-Identifier: Apache-2.0
"""The whole loop on this machine: a simulated arm and camera, camera node and planner node as three processes over DDS.

    python -m lewm_ros.demo --task reach --goals 10 --seed 0

For each goal the world is put at its start, a picture of the goal is published on `goal_image`, the planner is armed,
and the error is measured until the goal's time budget is over: the distance of the end effector, from the joint states,
or of the object, from the pose that the simulator publishes. The planner knows the goal from the picture alone. The
budget begins when the first command arrives over DDS. A goal is held when the error stays within the task's tolerance
for the last 0.5 s of the budget. The same starts and goals are then given to an arm that holds still and to one that
moves at random, in the same simulator without ROS; for reaching, some also to a planner that stops the arm to plan.

Writes summary.json, summary.png, velocity.png, demo.mp4, demo.png, failures/ and the nodes' logs to --out, or to a new
folder out/demo-DATE-TIME. The link out/demo is set to it once the run is complete, so that runs at the same time do not
mix and one that is interrupted leaves the older results in place.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lewm_model.bundle.bundle import Bundle, BundleError, load_bundle
from lewm_model.bundle.verdict import verdict
from lewm_model.config import resource
from lewm_model.tasks.registry import Suite, reach_in, suite_named
from lewm_ros.graph import Graph, GraphError, reserve_domain, set_environment

LEAVES = ("summary.json", "summary.png", "velocity.png", "demo.mp4", "demo.png", "failures", "logs")
FILMED = 4  # goals of each task that the film shows
STOPPING = 5  # every fifth goal is also tried with a planner that stops the arm to plan


def process_age_s() -> float:
    """Seconds since this process was started, its imports included."""
    with open("/proc/self/stat") as file:
        started_ticks = int(file.read().rpartition(")")[2].split()[19])
    with open("/proc/uptime") as file:
        uptime_s = float(file.read().split()[0])
    return uptime_s - started_ticks / os.sysconf("SC_CLK_TCK")


def run(
    suite: Suite, goals: int, seed: int, rate_hz: float, model: Path, out: Path, command: str, light: str = "constant"
) -> dict[str, Any]:
    """Runs the demo and returns what summary.json holds.

    :param goals: number of goals of each task of the suite.
    :param rate_hz: camera pictures per second.
    :param command: recorded in summary.json as the command that repeats the run.
    :param light: "constant", or "changing": light, table colour and camera pose vary all the time in the simulator,
        but not in the goal pictures.
    :raises GraphError: a node fails.
    :raises BundleError: the model cannot be loaded, was trained for another task, or is a NO-GO.
    """
    from rich.console import Console

    bundle = load_bundle(model)
    bundle.must_be_for(suite.name)
    judged = verdict(bundle, suite.plan)
    if judged.no_go is not None:
        raise BundleError(f"{judged.no_go}. Train it on, or try another one")
    console = Console()
    reserved = reserve_domain()
    set_environment()
    with Graph(suite.demo, out / "logs") as graph, reserved:
        # The nodes are started first: they load while this process imports, draws trials and renders a first picture.
        nodes_started_s = process_age_s()
        parameters = resource("config", suite.parameters)
        graph.start("sim_node", {"rate": rate_hz, "light": light, "world": str(suite.world_file)}, parameters)
        graph.start("camera_node", {"model": str(model)}, parameters)
        robot_file = {"robot": suite.robot} if suite.robot else {}
        graph.start("planner_node", {"model": str(model), "seed": seed, **robot_file}, parameters)
        from lewm_model.runtime.decoder import load_decoder
        from lewm_model.sim.arm import ArmSim
        from lewm_model.sim.pinhole import Pinhole
        from lewm_model.tasks.task import baselines, draw_trials
        from lewm_ros.demo_pictures import Film
        from lewm_ros.demo_report import Results, report
        from lewm_ros.demo_robot import Robot

        with ArmSim(suite.world_file) as sim:
            robot = Robot(graph, sim, (bundle.model.history - 1) * bundle.actions.block_s)
            trials = {task.name: draw_trials(task, goals, seed, sim) for task in suite.tasks}
            sim.render()
            graph.bring_up("sim_node", "camera_node", "planner_node")
            graph.spin_until(lambda: robot.joint_states and robot.latent_ns, 30.0, "joint states and latents")
            graph.start("panel_node", {"model": str(model), "port": 0})  # last: it would delay them
            still = (suite.tasks[-1].name, suite.picture_s)
            seen = (bundle.observation, load_decoder(bundle), bundle.actions.block_s)
            film_of = (Pinhole.of_world(suite.world_file), sim, still, *seen)
            with Film(out / "demo.mp4", rate_hz, *film_of) as film:
                tried = _pursue_all(robot, sim, bundle, suite, trials, film, console)
            console.print("the same starts and goals without a planner ...", style="dim")
            outcomes: dict[tuple[str, str], list[Any]] = {
                (name, "planner"): [e.outcome for e in tried.episodes if e.name == name] for name in trials
            }
            for name, some in trials.items():
                for policy, reached in baselines(some, sim, seed):
                    outcomes[name, policy] = list(reached)
            results = Results(
                suite=suite,
                light=light,
                episodes=tried.episodes,
                stopped=tried.stopped,
                outcomes=outcomes,
                limits=sim.limits,
                tolerance_m={task.name: task.tolerance(sim) for task in suite.tasks},
                diameter_m=2 * sim.reach_m,
                planner=tried.status.get("planner_node", {}),
                camera=tried.status.get("camera_node", {}),
                simulator=tried.status.get("sim_node", {}),
                camera_rate_hz=tried.camera_rate_hz,
                first_command_s=tried.first_command_s,
                nodes_started_s=nodes_started_s,
                resets=robot.resets,
            )
    summary = report(results, console, out, command)
    if not any(episode.commands for episode in tried.episodes):
        raise GraphError(f"the arm was never commanded: {tried.episodes[0].note}")
    return summary


@dataclass(frozen=True)
class _Tried:
    """The outcomes of the goals, and the diagnostics of the nodes."""

    episodes: list[Any]
    stopped: list[Any]  # the same for some goals, with a planner that stops the arm to plan
    status: dict[str, dict[str, str]]  # newest diagnostics of each node, before the goals of `stopped`
    camera_rate_hz: float
    first_command_s: float  # after the start of this process; 0 if there was none


def _pursue_all(
    robot: Any, sim: Any, bundle: Bundle, suite: Suite, trials: dict[str, Any], film: Any, console: Any
) -> _Tried:
    """Pursues the goals of `trials` (task name -> trials), one after the other, and adds the first ones to `film`."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from lewm_ros.demo_robot import pursue

    main = trials[suite.tasks[-1].name]
    stopping = main[: max(1, len(main) // STOPPING)] if suite.stopping else []
    panel, first_command_s = panel_addresses(robot.graph), 0.0
    episodes, stopped = [], []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("goals", total=sum(map(len, trials.values())) + len(stopping))
        for name, number, trial in ((name, i, trial) for name, some in trials.items() for i, trial in enumerate(some)):
            episode = pursue(robot, bundle.observation, trial, number)
            if address := next(panel, None):
                progress.console.print(f"watch it in a browser while it runs: {address}", soft_wrap=True)
            if not first_command_s and robot.commands:
                first_command_s = process_age_s() - (time.time_ns() - robot.commands[0][0]) / 1e9
            if number < FILMED:
                film.add(episode)
            episodes.append(episode)
            good = [e.outcome.held for e in episodes if e.outcome and e.name == name]
            progress.update(bar, advance=1, description=f"{name} {sum(good)}/{len(good)} held")
            episode.frames, episode.plans, episode.imagined = episode.frames[-1:], [], []
            episode.others = {}
        robot.enable(False)
        robot.graph.spin_for(1.2)  # diagnostics come once a second: until the last ones are here
        status = {name: dict(values) for name, values in robot.status.items()}
        camera_rate_hz = robot.camera_rate_hz()
        if stopping:
            robot.stop_and_plan()
        for number, trial in enumerate(stopping):
            stopped.append(pursue(robot, bundle.observation, trial, number))
            progress.update(bar, advance=1, description="stopping to plan")
    robot.enable(False)
    return _Tried(episodes, stopped, status, camera_rate_hz, first_command_s)


def panel_addresses(graph: Graph) -> Iterator[str | None]:
    """Yields None until the panel has logged its address, then the address, once."""
    told = "the panel is at "
    while told not in (said := graph.log("panel_node")):
        yield None
    yield said.split(told)[1].split()[0]


def new_folder(shared: Path) -> Path:
    """Makes a folder for the results of one run: beside `shared`, with date and time added to its name."""
    stamped = f"{shared.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for name in (stamped, *(f"{stamped}-{i}" for i in range(2, 100))):
        with suppress(FileExistsError):
            (shared.parent / name).mkdir(parents=True)
            return shared.parent / name
    raise FileExistsError(f"{shared.parent} has 99 runs of this second already; start again")


def emptied(out: Path) -> Path:
    """Removes the results of an earlier run from a folder, and nothing else; makes it where it is missing."""
    for name in LEAVES:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    return out


def lead_to(shared: Path, folder: Path) -> None:
    """Makes `shared` a link to the folder of a complete run, in one step: it is never missing or half done."""
    if shared.is_dir() and not shared.is_symlink():  # older versions wrote into it
        shared.rename(new_folder(shared))
    link = folder.with_name(f"{folder.name}.link")
    link.symlink_to(folder.name)
    link.replace(shared)


@contextmanager
def ending_in_a_sentence() -> Iterator[None]:
    """Ends the program with one sentence, not a traceback, where a node fails or the model cannot be loaded."""
    try:
        yield
    except (GraphError, BundleError, FileNotFoundError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m lewm_ros.demo", description="A simulated arm does what goal pictures show, over real ROS 2."
    )
    parser.add_argument("--task", default="reach", help="reach, push or reach_SCENE (default reach)")
    parser.add_argument("--scene", type=Path, help="your own scene file, for a model of that --task (needs --model)")
    parser.add_argument("--goals", type=int, default=10, help="goals of each of its tasks (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the goals and of the planner (default 0)")
    parser.add_argument("--rate", type=float, default=20.0, help="camera pictures per second (default 20)")
    parser.add_argument(
        "--light",
        choices=("constant", "changing"),
        default="constant",
        help="changing: light, table, camera",
    )
    parser.add_argument("--model", type=Path, help="model bundle (default: the shipped one of the task)")
    parser.add_argument("--out", type=Path, help="folder for the results (default: a new one)")
    options = parser.parse_args(arguments)
    if options.goals < 1 or options.rate <= 0:
        parser.error("--goals must be 1 or more and --rate above 0")
    try:
        suite = (
            suite_named(options.task) if options.scene is None else reach_in(options.task, str(options.scene.resolve()))
        )
    except ValueError as error:
        parser.error(str(error))
    if not suite.model and options.model is None:
        parser.error(f"no model is shipped for {suite.name}; give one with --model (of make: MODEL)")
    name = suite.demo.replace("_", "-")
    command = f"make {name} GOALS={options.goals} SEED={options.seed} RATE={options.rate:g}"
    if suite.robot:
        task, _, robot = suite.name.partition("_")
        command += f" ROBOT={robot} TASK={task}"
        name = f"{name}-{robot}-{task}"
    if options.light != "constant":
        command += f" LIGHT={options.light}"
        name += f"-{options.light}-light"
    if options.model:
        command = (
            f"python -m lewm_ros.demo --task {suite.name} --goals {options.goals} --seed {options.seed} "
            f"--light {options.light} --model {options.model}{f' --scene {options.scene}' if options.scene else ''}"
        )
    with ending_in_a_sentence():
        model = options.model or resource("models", suite.model)
        shared = Path("out") / name
        folder = emptied(options.out) if options.out else new_folder(shared)
        run(suite, options.goals, options.seed, options.rate, model.resolve(), folder, command, options.light)
        if not options.out:
            lead_to(shared, folder)


if __name__ == "__main__":
    main()
