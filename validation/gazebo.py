# SPDX-License-Identifier: Apache-2.0
"""`make gazebo-demo`: the demo's goals in a real Gazebo, headless, through the nodes.

    python -m validation.gazebo --goals 20 --seed 0

Starts Gazebo with a world, the bridge, gazebo_commands, camera node and planner node, all in simulated time. For each
goal the arm is moved to it by its controller, Gazebo's own camera takes the goal picture, the arm is moved to the
start, and the planner is armed. The goal counts as held as in the demo, by the joint states that Gazebo publishes.
Random motion and an arm that holds still have the same starts and goals in the embedded simulator.

Needs `gz` on the PATH, and ros_gz_bridge with topic_tools or else Gazebo's Python bindings (gazebo_bridge.py).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from rich.console import Console
from rich.progress import track
from rich.table import Table
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from lewm_model.bundle.bundle import Bundle, load_bundle
from lewm_model.config import resource
from lewm_model.evaluation.figures import Figures, report_figures
from lewm_model.evaluation.statistics import first_hit, held
from lewm_model.planning.motion import Trajectory
from lewm_model.robot.observation import Observation
from lewm_model.robot.trajectory import JointTrajectory
from lewm_model.runtime.decoder import load_decoder
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.export_sdf import export_sdf
from lewm_model.sim.pinhole import Pinhole
from lewm_model.sim.world import State
from lewm_model.tasks.registry import Suite, suite_named
from lewm_model.tasks.task import Outcome, baselines, draw_trials
from lewm_ros.command_topics import ARM
from lewm_ros.demo_pictures import Film, save_failure
from lewm_ros.demo_robot import Robot, pursue
from lewm_ros.gazebo_commands import TOPICS, held_points
from lewm_ros.graph import Graph, GraphError, reserve_domain, set_environment
from lewm_ros.messages import message_to_rgb, nanoseconds, trajectory_to_message

CLOCK_HZ = "100"  # of /clock, as in launch/gazebo.launch.py
FILMED = 3  # goals of each row that the film shows
DRIVE = 0.8  # share of the joints' speed limits with which the arm is moved to starts and goals
REST_RAD = 0.02  # from where the controller was to bring the arm: it has no integral term
SEEN_S = 0.2  # from when the arm rests to the picture of the goal: one that was drawn before is older
EMBEDDED_SHARE = 0.2  # of the goals, which the embedded simulator's demo has for comparison

Change = Callable[[ElementTree.Element], None]


def plain(world: ElementTree.Element) -> None:
    """The world as it ships."""


def shadow(world: ElementTree.Element) -> None:
    """Shadows, of a lamp that stands low, in bluish ambient light."""
    _set(world, "scene/shadows", "true")
    _set(world, "scene/ambient", "0.25 0.27 0.3 1")
    _set(world, "light/cast_shadows", "true")
    _set(world, "light/direction", "0.8 -0.6 -1")


def table(world: ElementTree.Element) -> None:
    """A brown table, and a warm lamp from the other side."""
    for part in ("ambient", "diffuse"):
        _set(world, f"model[@name='table']//material/{part}", "0.36 0.19 0.08 1")
    _set(world, "light/diffuse", "0.6 0.54 0.42 1")
    _set(world, "light/direction", "-0.4 0.3 -1")


def _set(world: ElementTree.Element, path: str, text: str) -> None:
    found = world.find(path)
    assert found is not None, path
    found.text = text


WORLDS: dict[str, Change] = {"plain": plain, "shadow": shadow, "table": table}


class GazeboRobot(Robot):
    """The demo's robot where nothing can be put somewhere: the arm is moved, and Gazebo's camera takes the pictures."""

    def __init__(self, graph: Graph, sim: Any, settle_s: float) -> None:
        super().__init__(graph, sim, settle_s)
        # Past gazebo_commands and the topics of the planner, which may not share them.
        topics = [TOPICS[topic] for topic in ([ARM] if len(sim.parts) == 1 else [ARM, sim.robot.gripper.topic])]
        self._drivers = [graph.node.create_publisher(JointTrajectoryMessage, topic, 1) for topic in topics]

    def goal_picture(self, goal: State, observation: Observation) -> np.ndarray:
        self.place(goal.joints)
        self.forget()
        due_ns, pictures = self.now_ns() + round(1e9 * SEEN_S), self.pictures[self.sim.cameras[0].name]
        self.graph.spin_until(
            lambda: pictures and nanoseconds(pictures[-1].header.stamp) > due_ns, 10.0, "a picture of the goal"
        )
        return message_to_rgb(pictures[-1])

    def place(self, joints: np.ndarray) -> None:
        """Disarms the planner, waits for the motion to end, and moves the arm to `joints` (A,) rad."""
        self.rest()
        self.graph.spin_until(lambda: self.joint_states, 10.0, "joint states")
        motion = straight(self.joint_states[-1][1], joints, DRIVE, self.sim)
        now_ns, points = self.now_ns(), held_points(motion, 0.0)
        for driver, part in zip(self._drivers, self.sim.parts, strict=True):
            own = Trajectory(points.times_s, points.positions[:, part], points.velocities[:, part])
            driver.publish(trajectory_to_message(own, self.names[part], now_ns))
        end_ns = now_ns + round(1e9 * motion.at_s[-1])
        self.graph.spin_until(
            lambda: self.now_ns() > end_ns and self.at_rest(joints, REST_RAD), 30.0, "the arm to be where it was moved"
        )


def straight(start: np.ndarray, end: np.ndarray, share: float, sim: ArmSim) -> JointTrajectory:
    """A straight line in the joint space from rest at `start` (A,) to rest at `end` (A,) rad, from time 0 on.

    :param share: of the limits of speed and acceleration that it reaches.
    """
    way, limits = np.abs(end - start), sim.limits
    # The fifth-order polynomial's greatest speed is 1.875 of its mean, its greatest acceleration 5.77 way / time^2.
    by_speed, by_acceleration = 1.875 * way / (share * limits.velocity), 5.77 * way / (share * limits.acceleration)
    lasts_s = max(0.1, float(by_speed.max()), float(np.sqrt(by_acceleration).max()))
    times = np.linspace(0.0, 1.0, 101)[:, None]
    shape, slope = times**3 * (10 - 15 * times + 6 * times**2), 30 * times**2 * (1 - times) ** 2 / lasts_s
    positions, velocities = start + shape * (end - start), slope * (end - start)
    return JointTrajectory(lasts_s * times[:, 0], positions, velocities, 0.0, 0.0, start, np.zeros_like(start))


# ---- Gazebo ----------------------------------------------------------------------------------------------------------


def check() -> list[list[str]]:
    """The command lines of the bridge, and of the throttle of /clock where the bridge is ros_gz's.

    :raises GraphError: Gazebo or every bridge is missing.
    """
    if shutil.which("gz") is None:
        raise GraphError(
            "there is no `gz` on the PATH: Gazebo Harmonic is not installed. apt install ros-$ROS_DISTRO-ros-gz "
            "ros-$ROS_DISTRO-topic-tools, and source ROS 2; or `make demo`: the same world in the embedded simulator"
        )
    file = f"config_file:={resource('config', 'gazebo_bridge.yaml')}"
    try:
        bridge = Path(get_package_prefix("ros_gz_bridge")) / "lib" / "ros_gz_bridge" / "parameter_bridge"
        throttle = Path(get_package_prefix("topic_tools")) / "lib" / "topic_tools" / "throttle"
        return [
            [str(bridge), "--ros-args", "-p", file],
            [str(throttle), "messages", "/gazebo/clock", CLOCK_HZ, "/clock"],
        ]
    except PackageNotFoundError as error:
        if importlib.util.find_spec("gz") is None or importlib.util.find_spec("gz.transport13") is None:
            raise GraphError(
                f"Gazebo is there, but no bridge to it: {error}, and neither are Gazebo's Python bindings "
                "(gz.transport13) on the PYTHONPATH. apt install ros-$ROS_DISTRO-ros-gz ros-$ROS_DISTRO-topic-tools"
            ) from error
        return [[sys.executable, "-m", "validation.gazebo_bridge", "--ros-args", "-p", file]]


@contextmanager
def running(suite: Suite, world: Path, bundle: Bundle, seed: int, sim: ArmSim, logs: Path) -> Iterator[GazeboRobot]:
    """Gazebo with a world, the bridge and the nodes."""
    bridges, robot_file = check(), {"robot": suite.robot} if suite.robot else {}
    os.environ["GZ_PARTITION"] = f"lewm_ros_{os.getpid()}"
    parameters = resource("config", "plan.yaml")
    with Graph("gazebo_demo", logs, simulated_time=True) as graph:
        graph.run("gazebo", ["gz", "sim", "-r", "-s", "--headless-rendering", str(world)])
        for number, command in enumerate(bridges):
            graph.run(f"bridge{number}", command)
        graph.start("gazebo_commands", {})
        graph.start("camera_node", {"model": str(bundle.folder)}, parameters)
        graph.start("planner_node", {"model": str(bundle.folder), "seed": seed, **robot_file}, parameters)
        robot = GazeboRobot(graph, sim, (bundle.model.history - 1) * bundle.actions.block_s)
        graph.spin_until(lambda: robot.now_ns() and robot.joint_states, 120.0, "Gazebo's clock and joint states")
        graph.bring_up("camera_node", "planner_node")
        graph.spin_until(lambda: robot.latent_ns, 60.0, "latents of Gazebo's pictures")
        yield robot


# ---- the run ---------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """What was tried in one world with one task."""

    world: str
    task: str
    outcomes: dict[str, list[Outcome]]  # by policy
    latencies_ms: list[float] = field(default_factory=list)  # of simulated time, from camera frame to command
    planner: dict[str, str] = field(default_factory=dict)  # diagnostics
    real_time_factor: float = 0.0

    @property
    def name(self) -> str:
        """In the names of the figures."""
        return self.task if self.world == "plain" else self.world


def make_world(name: str, suite: Suite, folder: Path) -> Path:
    """Writes one of WORLDS for Gazebo: the suite's SDF file, or what its scene is exported as, changed."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{suite.name}_{name}.sdf"
    if suite.world_file.suffix == ".yaml":
        export_sdf(suite.world_file, file)
    tree = ElementTree.parse(file if file.is_file() else suite.world_file)
    world = tree.getroot().find("world")
    assert world is not None
    WORLDS[name](world)
    tree.write(file)
    return file


def try_world(name: str, suite: Suite, bundle: Bundle, goals: int, seed: int, out: Path, console: Console) -> list[Row]:
    """Pursues goals of every task in the world as it ships, and those of the main task in a changed one; the same
    without a planner in the embedded simulator.
    """
    file = make_world(name, suite, out / "worlds")
    tasks = suite.tasks if name == "plain" else suite.tasks[-1:]
    rows = []
    with ArmSim(suite.world_file) as sim, running(suite, file, bundle, seed, sim, out / "logs" / name) as robot:
        seen = (bundle.observation, load_decoder(bundle), bundle.actions.block_s)
        still = (tasks[-1].name, suite.picture_s)
        pinhole = Pinhole.of_world(suite.world_file)
        with Film(out / f"{name}.mp4", 20.0, pinhole, sim, still, *seen) as film:
            for task in tasks:
                trials = draw_trials(task, goals, seed, sim)
                row = Row(name, task.name, {"planner": []})
                began_s, began_ns = time.monotonic(), robot.now_ns()
                about = f"{name} {task.name}"
                for number, trial in enumerate(track(trials, about, console=console, transient=True)):
                    episode = pursue(robot, bundle.observation, trial, number)
                    assert episode.outcome is not None
                    row.outcomes["planner"].append(episode.outcome)
                    row.latencies_ms += episode.latencies_ms.tolist()
                    if number < FILMED:
                        film.add(episode)
                    if not episode.outcome.held:
                        picture = save_failure(out / "failures" / name, episode)
                        why = f" ({episode.note})" if episode.note else ""
                        console.print(f"  goal {number + 1} of {about} was not held{why}: {picture}", soft_wrap=True)
                row.real_time_factor = (robot.now_ns() - began_ns) / 1e9 / (time.monotonic() - began_s)
                robot.rest()
                robot.graph.spin_for(1.2)  # diagnostics come once a second
                row.planner = dict(robot.status["planner_node"])
                row.outcomes |= {policy: list(reached) for policy, reached in baselines(trials, sim, seed)}
                rows.append(row)
    return rows


def embedded_plan_ms(suite: Suite, goals: int, seed: int, out: Path) -> float:
    """Median planning time of the demo with the embedded simulator, ms."""
    command = [sys.executable, "-m", "lewm_ros.demo", "--task", suite.name, "--goals", str(goals)]
    command += ["--seed", str(seed), "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    figures = {row["name"]: row["value"] for row in json.loads((out / "summary.json").read_text())["figures"]}
    return float(figures[suite.figure_name(f"{suite.demo}.plan_ms_p50")])


def report(suite: Suite, rows: list[Row], embedded_ms: float | None, command: str, out: Path) -> None:
    """Prints the table of one world and writes its figures into summary.json, beside those of the others.

    :param embedded_ms: of a plan with the embedded simulator, in the world as it ships.
    """
    table = Table(title="goals in Gazebo, pictures by its own camera; random motion and hold in the embedded simulator")
    for heading in ("world", "goals", "held (95 %)", "hit ever", "random", "hold", "plan p50/p95", "frame to command"):
        table.add_column(heading)
    figures: Figures = {}
    for row in rows:
        own = row.outcomes["planner"]
        rates = {policy: held(found) for policy, found in row.outcomes.items()}
        p50, p95 = np.percentile(row.latencies_ms, (50, 95)) if row.latencies_ms else (np.nan, np.nan)
        plan = [float(row.planner.get(f"plan_ms_p{percent}", "nan")) for percent in (50, 95)]
        table.add_row(
            row.world,
            row.task,
            str(rates["planner"]),
            f"{first_hit(own).percent:.0f} %",
            *(f"{rates[policy].percent:.0f} %" for policy in ("random", "hold")),
            f"{plan[0]:.0f} / {plan[1]:.0f} ms",
            f"{p50:.0f} / {p95:.0f} ms",
        )
        low, high = rates["planner"].interval
        figures[f"gazebo.success_held_{row.name}"] = (rates["planner"].percent, f"% of {len(own)} goals")
        figures[f"gazebo.success_held_{row.name}_low"] = (low, "%, 95 % Wilson interval")
        figures[f"gazebo.success_held_{row.name}_high"] = (high, "%, 95 % Wilson interval")
        for policy in ("random", "hold"):
            figures[f"gazebo.success_held_{policy}_{row.name}"] = (rates[policy].percent, "%, embedded simulator")
        figures[f"gazebo.plan_ms_p50_{row.name}"] = (plan[0], "ms")
        figures[f"gazebo.frame_to_command_ms_p50_{row.name}"] = (float(p50), "ms of simulated time")
        figures[f"gazebo.frame_to_command_ms_p95_{row.name}"] = (float(p95), "ms of simulated time")
        figures[f"gazebo.real_time_factor_{row.name}"] = (row.real_time_factor, "simulated s per s")
        figures[f"gazebo.plans_late_{row.name}"] = (float(row.planner.get("plans_late", "nan")), "plans")
    if embedded_ms is not None:
        slowest = max(float(row.planner.get("plan_ms_p50", "nan")) for row in rows)
        figures["gazebo.plan_ms_p50_embedded"] = (embedded_ms, "ms, embedded simulator on the same machine")
        figures["gazebo.plan_ratio"] = (slowest / embedded_ms, "plan p50 in Gazebo over that of the embedded simulator")
        print(f"plans take {slowest / embedded_ms:.2f} times as long as with the embedded simulator")
    ending = f"_{suite.robot}" if suite.robot else ""
    report_figures(out, table, {f"{name}{ending}": value for name, value in figures.items()}, command, keep=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m validation.gazebo", description="The demo's goals in Gazebo.")
    parser.add_argument("--goals", type=int, default=20, help="goals of each kind (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the goals and of the planner (default 0)")
    parser.add_argument("--task", default="reach", help="reach or reach_SCENE (default reach)")
    parser.add_argument("--only", choices=WORLDS, help="one world (default: all; of a scene, the world as it is)")
    parser.add_argument("--out", type=Path, default=Path("out/gazebo"), help="folder for the results")
    options = parser.parse_args(arguments)
    if options.goals < 1:
        parser.error("--goals must be 1 or more")
    suite, console = suite_named(options.task), Console()
    worlds = [options.only] if options.only else ["plain"] if suite.robot else list(WORLDS)
    bundle = load_bundle(resource("models", suite.model))
    reserved = reserve_domain()
    set_environment()
    options.out.mkdir(parents=True, exist_ok=True)
    command = f"make gazebo-demo GOALS={options.goals} SEED={options.seed}"
    command += f" TASK={options.task}" if suite.robot else ""
    try:
        check()
        with reserved:
            for name in worlds:
                compared, embedded_ms = max(2, round(EMBEDDED_SHARE * options.goals)), None
                if name == "plain":
                    embedded_ms = embedded_plan_ms(suite, compared, options.seed, options.out / "embedded")
                rows = try_world(name, suite, bundle, options.goals, options.seed, options.out, console)
                report(suite, rows, embedded_ms, f"{command} ONLY={name}", options.out)
    except GraphError as error:
        sys.exit(str(error))
    console.print(f"films, and a picture of every failure, are in {options.out}")


if __name__ == "__main__":
    main()
