"""The whole loop on this machine: a simulated arm and camera, camera node and planner node as three processes over DDS.

    python -m lewm_ros.demo --goals 10 --seed 0

For each goal the arm is put at a start pose, the goal goes to `goal_image` as a picture and in no other form, the
planner is enabled, and the end effector is watched until the budget is over. The budget begins when the first command
of the goal arrives on the wire. A goal is held when the end effector stays within 2.5 % of the workspace diameter of
its goal position at every joint state of the last 0.5 s of the budget. The same starts and goals are then given to an
arm that holds still and to one that moves randomly, in the same simulator without ROS.

Leaves summary.json, summary.png, demo.mp4, failures/ and the nodes' logs in --out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lewm_model.bundle import BundleError, load_bundle
from lewm_model.resources import resource
from lewm_ros.graph import Graph, GraphError, reserve_domain, set_environment

FILMED = 4  # goals of each kind that the film shows
REST_S = 0.1  # that the arm stays where it was put before its start counts
KINDS = ("near", "anywhere")


def process_age_s() -> float:
    """How long ago this process was started, s."""
    with open("/proc/self/stat") as file:
        started_ticks = int(file.read().rpartition(")")[2].split()[19])
    with open("/proc/uptime") as file:
        uptime_s = float(file.read().split()[0])
    return uptime_s - started_ticks / os.sysconf("SC_CLK_TCK")


class Robot:
    """The demo's side of the topics: gives starts and goals, and remembers what the nodes say."""

    def __init__(self, graph: Graph, names: Sequence[str], settle_s: float) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from sensor_msgs.msg import Image, JointState
        from trajectory_msgs.msg import JointTrajectory

        from lewm_ros.camera_node import LATCHED, NEWEST_FRAME
        from lewm_ros.messages import joint_state_message, nanoseconds

        self.graph, self.names, self._settle_s = graph, names, settle_s
        self.commands: list[tuple[int, int, int]] = []  # ns: received, header's stamp, end of the motion
        self.joint_states: list[tuple[int, np.ndarray, np.ndarray]] = []  # stamp ns, rad, rad/s
        self.pictures: list[Any] = []  # image messages
        self.plans: list[tuple[int, Any]] = []  # received ns, message
        self.status: dict[str, dict[str, str]] = {}  # newest diagnostics of each node
        self.frames_encoded: list[tuple[float, int]] = []  # (steady s, count), from each diagnostics of the camera node
        self.resets = 0
        self._goal_ns = self.latent_ns = 0
        node = graph.node
        self._goals = node.create_publisher(Image, "goal_image", LATCHED)
        self._poses = node.create_publisher(JointState, "/sim_node/set_joint_state", 1)
        self._joint_state_message = joint_state_message

        def on_command(message: Any) -> None:
            stamp_ns = nanoseconds(message.header.stamp)
            end_ns = stamp_ns + nanoseconds(message.points[-1].time_from_start)
            self.commands.append((time.time_ns(), stamp_ns, end_ns))

        def on_joint_state(message: Any) -> None:
            order = [message.name.index(name) for name in names]
            self.joint_states.append(
                (
                    nanoseconds(message.header.stamp),
                    np.array(message.position)[order],
                    np.array(message.velocity)[order],
                )
            )

        def on_goal_latent(message: Any) -> None:
            self._goal_ns = nanoseconds(message.header.stamp)

        def on_latent(message: Any) -> None:
            self.latent_ns = nanoseconds(message.header.stamp)

        def on_diagnostics(message: Any) -> None:
            for status in message.status:
                values = {pair.key: pair.value for pair in status.values}
                self.status[status.name] = values
                if "frames_encoded" in values:
                    self.frames_encoded.append((time.monotonic(), int(values["frames_encoded"])))

        node.create_subscription(JointTrajectory, "arm_controller/joint_trajectory", on_command, 10)
        node.create_subscription(JointState, "joint_states", on_joint_state, 50)
        node.create_subscription(Image, "goal_latent", on_goal_latent, LATCHED)
        node.create_subscription(Image, "latent", on_latent, NEWEST_FRAME)
        node.create_subscription(Image, "camera/image_raw", self.pictures.append, NEWEST_FRAME)
        node.create_subscription(
            JointTrajectory,
            "/planner_node/plan",
            lambda message: self.plans.append((time.time_ns(), message)),
            NEWEST_FRAME,
        )
        node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 10)

    def enable(self, on: bool) -> str | None:
        """Arms or disarms the planner; returns why it refuses, or None."""
        from std_srvs.srv import SetBool

        answer = self.graph.call(SetBool, {"/planner_node/enable": SetBool.Request(data=on)})["/planner_node/enable"]
        return None if answer.success else str(answer.message)

    def place(self, joints: np.ndarray) -> None:
        """Disarms, lets the motion end, and puts the arm at rest at `joints` (A,) rad."""
        self.enable(False)
        self.graph.spin_for(REST_S)  # a last command may be on its way
        self.graph.spin_until(
            lambda: not self.commands or time.time_ns() > self.commands[-1][2], 10.0, "the motion to end"
        )
        self.joint_states.clear()
        message = self._joint_state_message(self.names, joints, np.zeros(len(joints)), time.time_ns())

        def there() -> bool:
            newest = self.joint_states[-1:]
            return any(np.abs(q - joints).max() < 1e-3 and np.abs(v).max() < 1e-2 for _, q, v in newest)

        self._poses.publish(message)
        self.graph.spin_until(there, 10.0, "the arm to be at its start")

    def show_goal(self, picture: np.ndarray) -> None:
        """Sends a goal picture (H, W, 3) and waits until it is a latent, and so are frames of the arm at rest."""
        from lewm_ros.messages import rgb_to_message

        stamp_ns = time.time_ns()
        self._goals.publish(rgb_to_message(picture, stamp_ns))
        fresh_ns = stamp_ns + round(1e9 * (REST_S + self._settle_s))
        self.graph.spin_until(lambda: self._goal_ns == stamp_ns, 10.0, "the goal's latent")
        self.graph.spin_until(lambda: self.latent_ns >= fresh_ns, 20.0, "latents of the arm at its start")

    def go(self) -> int:
        """Enables and waits for the first command; returns when it arrived, ns.

        :raises GraphError: the planner refuses, or says nothing.
        """
        from std_srvs.srv import Trigger

        before = len(self.commands)
        refusal = self.enable(True)
        if refusal is not None and "reset" in refusal:
            self.resets += 1
            self.graph.call(Trigger, {"/planner_node/reset": Trigger.Request()})
            refusal = self.enable(True)
        if refusal is not None:
            raise GraphError(f"the planner refuses to be enabled: {refusal}")
        self.graph.spin_until(lambda: len(self.commands) > before, 10.0, "the first command")
        return self.commands[before][0]


def run(goals: int, seed: int, rate_hz: float, model: Path, out: Path, command: str) -> dict[str, Any]:
    """Runs the demo and returns what summary.json holds.

    :param goals: goals of each kind.
    :raises GraphError: a node fails.
    :raises BundleError: the model cannot be loaded.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bundle = load_bundle(model)
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    reserved = reserve_domain()
    set_environment()
    with Graph("demo", out / "logs") as graph, reserved:
        # The nodes start first: they load while this process imports, draws tasks and makes its first picture.
        parameters = resource("config", "plan.yaml")
        graph.start("sim_node", {"rate": rate_hz}, parameters)
        graph.start("camera_node", {"model": str(model)}, parameters)
        graph.start("planner_node", {"model": str(model), "seed": seed}, parameters)
        from lewm_model.evaluate import tasks as t
        from lewm_model.sim.arm_sim import ArmSim
        from lewm_model.sim.pinhole import Pinhole
        from lewm_ros.demo_pictures import Film

        with ArmSim() as sim:
            robot = Robot(graph, sim.names, (bundle.model.history - 1) * bundle.actions.block_s)
            all_tasks = {kind: t.draw_tasks(kind, goals, seed, sim) for kind in KINDS}
            sim.render()
            graph.bring_up("sim_node", "camera_node", "planner_node")
            graph.spin_until(lambda: robot.joint_states and robot.latent_ns, 30.0, "joint states and latents")

            first_command_s = 0.0
            episodes = []
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            with (
                Film(out / "demo.mp4", rate_hz, Pinhole.of_world(), sim, t.tolerance_m(sim)) as film,
                Progress(*columns, console=console) as progress,
            ):
                bar = progress.add_task("goals", total=goals * len(KINDS))
                for task, number in ((task, i) for kind in KINDS for i, task in enumerate(all_tasks[kind])):
                    episode = _pursue(robot, sim, task, number)
                    if not first_command_s and robot.commands:
                        first_command_s = process_age_s() - (time.time_ns() - robot.commands[0][0]) / 1e9
                    if number < FILMED:
                        film.add(episode)
                    episodes.append(episode)
                    good = [e.outcome.held for e in episodes if e.outcome and e.task.kind == task.kind]
                    progress.update(bar, advance=1, description=f"{task.kind} {sum(good)}/{len(good)} held")
                    episode.frames, episode.plans = episode.frames[-1:], []
            robot.enable(False)
            graph.spin_for(1.2)  # the last diagnostics
            console.print("the same starts and goals without a planner ...", style="dim")
            outcomes = {(kind, "planner"): [e.outcome for e in episodes if e.task.kind == kind] for kind in KINDS}
            for kind in KINDS:
                for policy, reached in t.baselines(all_tasks[kind], sim, seed):
                    outcomes[kind, policy] = list(reached)
            tolerance_m, diameter_m = t.tolerance_m(sim), 2 * sim.reach_m
    return _report(
        console, robot, episodes, outcomes, first_command_s, tolerance_m, diameter_m, goals * len(KINDS), out, command
    )


def _pursue(robot: Robot, sim: Any, task: Any, number: int) -> Any:
    """One goal, from start pose to the end of its budget."""
    from lewm_model.evaluate.tasks import Outcome, score, tip_distance_m, tolerance_m
    from lewm_ros.demo_pictures import Episode
    from lewm_ros.messages import message_to_rgb, nanoseconds

    sim.reset(joint_positions=task.goal)
    picture = sim.render().copy()
    goal_m = sim.end_effector()
    episode = Episode(task, number, picture)
    robot.place(task.start)
    robot.show_goal(picture)
    robot.joint_states.clear()
    robot.pictures.clear()
    robot.plans.clear()
    lost = Outcome(False, False, tip_distance_m(sim, task.start, task.goal))
    try:
        begin_ns = robot.go()
    except GraphError as error:
        episode.outcome, episode.note = lost, str(error).splitlines()[0]
        return episode
    end_ns = begin_ns + round(1e9 * task.budget_s)
    robot.graph.spin_until(
        lambda: robot.joint_states and robot.joint_states[-1][0] >= end_ns, task.budget_s + 10.0, "the budget to pass"
    )
    episode.latencies_ms = np.array(
        [(received - stamp) / 1e6 for received, stamp, _ in robot.commands if begin_ns <= received <= end_ns]
    )
    episode.times_s = np.array([(stamp - begin_ns) / 1e9 for stamp, _, _ in robot.joint_states])
    episode.errors_m = np.array([np.linalg.norm(sim.end_effector(q) - goal_m) for _, q, _ in robot.joint_states])
    try:
        episode.outcome = score(episode.times_s, episode.errors_m, task.budget_s, tolerance_m(sim))
    except ValueError as error:
        episode.outcome, episode.note = lost, str(error)
    episode.frames = [
        ((nanoseconds(message.header.stamp) - begin_ns) / 1e9, message_to_rgb(message)) for message in robot.pictures
    ]
    episode.plans = [
        ((at - begin_ns) / 1e9, np.array([point.positions for point in message.points])) for at, message in robot.plans
    ]
    return episode


def _report(
    console: Any,
    robot: Robot,
    episodes: Sequence[Any],
    outcomes: Mapping[tuple[str, str], Sequence[Any]],
    first_command_s: float,
    tolerance_m: float,
    diameter_m: float,
    goals: int,
    out: Path,
    command: str,
) -> dict[str, Any]:
    """Prints the tables, writes summary.json and summary.png and the pictures of failures."""
    from rich.table import Table

    from lewm_model.evaluate import tasks as t
    from lewm_ros.demo_pictures import save_failure, save_summary

    rates = {key: t.held(found) for key, found in outcomes.items()}
    table = Table(title=f"{goals} goals, held within {1e3 * tolerance_m:.1f} mm (2.5 % of {diameter_m:.2f} m)")
    for heading in ("goals", "policy", "held (95 %)", "hit ever", "final error, p50 / p90"):
        table.add_column(heading, no_wrap=True)
    for (kind, policy), found in sorted(outcomes.items(), key=lambda item: KINDS.index(item[0][0])):
        p50, p90 = np.percentile([outcome.final_error_m for outcome in found], (50, 90))
        table.add_row(
            kind,
            policy,
            str(rates[kind, policy]),
            f"{t.first_hit(found).percent:.1f} %",
            f"{1e3 * p50:.0f} / {1e3 * p90:.0f} mm ({100 * p50 / diameter_m:.1f} %)",
        )
    console.print(table)

    latencies_ms = np.concatenate([episode.latencies_ms for episode in episodes])
    planner, camera = robot.status.get("planner_node", {}), robot.status.get("camera_node", {})
    stages = Table(title=f"{planner.get('plans', 0)} plans, {planner.get('plans_late', 0)} late")
    for heading in ("stage", "p50 ms", "p95 ms"):
        stages.add_column(heading)
    for label, values, name in (
        ("encode a frame", camera, "encode"),
        ("camera frame to latent", camera, "frame_to_latent"),
        ("plan", planner, "plan"),
        ("camera frame to command sent", planner, "frame_to_command"),
    ):
        stages.add_row(label, values.get(f"{name}_ms_p50", "-"), values.get(f"{name}_ms_p95", "-"))
    p50, p95 = np.percentile(latencies_ms, (50, 95)) if len(latencies_ms) else (np.nan, np.nan)
    stages.add_row("camera frame to command received", f"{p50:.2f}", f"{p95:.2f}")
    console.print(stages)

    (began, first), (ended, last) = robot.frames_encoded[0], robot.frames_encoded[-1]
    camera_rate_hz = (last - first) / (ended - began)
    interventions = sum(int(value) for key, value in planner.items() if key.startswith("interventions"))

    figures: list[dict[str, Any]] = []

    def figure(name: str, value: float, unit: str) -> None:
        figures.append({"name": f"demo.{name}", "value": round(float(value), 4), "unit": unit, "command": command})

    for suffix, kind in (("", "anywhere"), ("_near", "near")):
        low, high = rates[kind, "planner"].interval
        errors_m = np.array([outcome.final_error_m for outcome in outcomes[kind, "planner"]])
        figure(f"success_held{suffix}", rates[kind, "planner"].percent, "%")
        figure(f"success_held{suffix}_low", low, "%, 95 % Wilson interval")
        figure(f"success_held{suffix}_high", high, "%, 95 % Wilson interval")
        figure(f"success_held_random{suffix}", rates[kind, "random"].percent, "%")
        figure(f"success_held_hold{suffix}", rates[kind, "hold"].percent, "%")
        figure(f"success_first_hit{suffix}", t.first_hit(outcomes[kind, "planner"]).percent, "%")
        figure(f"final_error_mm_p50{suffix}", 1e3 * np.median(errors_m), "mm")
        figure(f"final_error_percent_p50{suffix}", 100 * np.median(errors_m) / diameter_m, "% of diameter")
        figure(f"goals{suffix}", len(errors_m), "goals")
    figure("frame_to_command_ms_p50", p50, "ms")
    figure("frame_to_command_ms_p95", p95, "ms")
    for name in ("encode", "plan"):
        values = camera if name == "encode" else planner
        for percentile in ("p50", "p95"):
            figure(f"{name}_ms_{percentile}", float(values.get(f"{name}_ms_{percentile}", "nan")), "ms")
    figure("first_command_s", first_command_s, "s")
    figure("camera_rate_hz", camera_rate_hz, "Hz")
    figure("dropped_frames", int(camera.get("frames_dropped", 0)), "frames")
    figure("plans", int(planner.get("plans", 0)), "plans")
    figure("plans_late", int(planner.get("plans_late", 0)), "plans")
    figure("shield_interventions", interventions, "interventions")
    figure("stop_resets", robot.resets, "resets")

    failures = []
    for episode in episodes:
        if not episode.outcome.held:
            failures.append(
                {
                    "kind": episode.task.kind,
                    "number": episode.number,
                    "start": episode.task.start.tolist(),
                    "goal": episode.task.goal.tolist(),
                    "final_error_m": episode.outcome.final_error_m,
                    "final_error_percent": 100 * episode.outcome.final_error_m / diameter_m,
                    "least_error_m": float(episode.errors_m.min()) if len(episode.errors_m) else None,
                    "first_hit": episode.outcome.first_hit,
                    "note": episode.note,
                    "picture": str(save_failure(out / "failures", episode).relative_to(out)),
                }
            )
    summary = {"figures": figures, "failures": failures}
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    save_summary(out / "summary.png", episodes, rates, latencies_ms, tolerance_m)
    console.print(
        f"first command {first_command_s:.1f} s after the start; camera {camera_rate_hz:.1f} Hz, "
        f"{camera.get('frames_dropped', '?')} frames dropped; {interventions} interventions of the shield"
    )
    console.print(f"{len(failures)} goals were not held; see {out}/summary.json, summary.png, demo.mp4 and failures/")
    return summary


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m lewm_ros.demo", description="Reach goal pictures with a simulated arm, over real ROS 2."
    )
    parser.add_argument("--goals", type=int, default=10, help="goals of each of the two kinds (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the goals and of the planner (default 0)")
    parser.add_argument("--rate", type=float, default=20.0, help="camera pictures per second (default 20)")
    parser.add_argument("--model", type=Path, help="model bundle (default: the shipped models/reach)")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for what it leaves")
    options = parser.parse_args(arguments)
    if options.goals < 1 or options.rate <= 0:
        parser.error("--goals must be 1 or more and --rate above 0")
    command = f"make demo GOALS={options.goals} SEED={options.seed} RATE={options.rate:g}"
    if options.model:
        command = f"python -m lewm_ros.demo --goals {options.goals} --seed {options.seed} --model {options.model}"
    try:
        model = options.model or resource("models", "reach")
        run(options.goals, options.seed, options.rate, model.resolve(), options.out, command)
    except (GraphError, BundleError, FileNotFoundError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
