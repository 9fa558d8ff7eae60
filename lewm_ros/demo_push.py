"""The push task through the nodes: pictures show where the block should lie, and the arm pushes it there.

    python -m lewm_ros.demo_push --goals 10 --seed 0

As `lewm_ros.demo`, with the tasks of `lewm_model.tasks.push`: the simulator is told where arm and block begin, and
tells where the block lies, for the score; the nodes get pictures and joint states. Leaves summary.json, demo.mp4,
demo.png, failures/ and the nodes' logs in --out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lewm_model.bundle.bundle import load_bundle
from lewm_model.config import resource
from lewm_ros.demo import FILMED, Robot, ending_in_a_sentence, pursue
from lewm_ros.graph import Graph, reserve_domain, set_environment

STILL_S = 4.0  # after the first command: the moment that becomes a picture
PUT_M = 0.002  # from where it was put, the block has come to rest there


class PushRobot(Robot):
    """As the robot of the demo; the block is put somewhere too, and watched."""

    def __init__(self, graph: Graph, names: Sequence[str], settle_s: float) -> None:
        from geometry_msgs.msg import PoseStamped

        from lewm_ros.messages import message_to_pose, nanoseconds
        from lewm_ros.sim_node import WORLD

        super().__init__(graph, names, settle_s)
        self.blocks: list[tuple[int, np.ndarray]] = []  # stamp ns, pose (7,)
        self._puts = graph.node.create_publisher(PoseStamped, "/sim_node/set_block_pose", 1)
        graph.node.create_subscription(
            PoseStamped,
            "/sim_node/block_pose",
            lambda message: self.blocks.append((nanoseconds(message.header.stamp), message_to_pose(message, WORLD))),
            50,
        )

    def forget(self) -> None:
        super().forget()
        self.blocks.clear()

    def put_block(self, pose: np.ndarray) -> None:
        """Puts the block at a pose (7,); the arm's place comes first, since it puts the world back."""
        from lewm_ros.messages import pose_message
        from lewm_ros.sim_node import WORLD

        self.blocks.clear()
        self._puts.publish(pose_message(pose, time.time_ns(), WORLD))
        self.graph.spin_until(
            lambda: self.blocks and np.linalg.norm(self.blocks[-1][1][:2] - pose[:2]) < PUT_M, 10.0, "the block's place"
        )


def run(goals: int, seed: int, model: Path, out: Path, command: str) -> dict[str, Any]:
    """Runs the demo and returns what summary.json holds.

    :raises GraphError: a node fails.
    :raises BundleError: the model cannot be loaded.
    """
    from rich.console import Console
    from tqdm import tqdm

    bundle = load_bundle(model)
    out.mkdir(parents=True, exist_ok=True)
    reserved = reserve_domain()
    set_environment()
    with Graph("demo_push", out / "logs") as graph, reserved:
        parameters = resource("config", "push.yaml")
        graph.start("sim_node", {}, parameters)
        graph.start("camera_node", {"model": str(model)}, parameters)
        graph.start("planner_node", {"model": str(model), "seed": seed}, parameters)
        from lewm_model.runtime.decoder import load_decoder
        from lewm_model.sim.arm import ArmSim
        from lewm_model.sim.pinhole import Pinhole
        from lewm_model.tasks import push as p
        from lewm_ros.demo_pictures import Film

        with ArmSim() as sim:
            robot = PushRobot(graph, sim.names, (bundle.model.history - 1) * bundle.actions.block_s)
            tasks = p.draw_tasks(goals, seed, sim)
            sim.render()
            graph.bring_up("sim_node", "camera_node", "planner_node")
            graph.spin_until(lambda: robot.joint_states and robot.latent_ns, 30.0, "joint states and latents")
            episodes = []
            with Film(
                out / "demo.mp4",
                1.0 / sim.control_dt_s,
                Pinhole.of_world(),
                sim,
                p.tolerance_m(sim),
                "block",
                ("push", STILL_S),
                load_decoder(bundle),
                bundle.actions.block_s,
            ) as film:
                for number, task in enumerate(tqdm(tasks, "goals", unit="goal", disable=not sys.stderr.isatty())):
                    episode = _push(robot, sim, task, number)
                    if number < FILMED:
                        film.add(episode)
                    episodes.append(episode)
                    episode.frames, episode.plans, episode.imagined = episode.frames[-1:], [], []
            robot.enable(False)
            graph.spin_for(1.2)  # the last diagnostics
            planner = dict(robot.status.get("planner_node", {}))
            baselines = {
                "random": [p.move_randomly(task, sim, seed, number) for number, task in enumerate(tasks)],
                "hold": [p.hold_still(task, sim) for task in tasks],
            }
            return _report(episodes, baselines, sim, planner, robot.resets, Console(), out, command)


def _push(robot: PushRobot, sim: Any, task: Any, number: int) -> Any:
    """One goal, from the start to the end of its budget."""
    from lewm_model.tasks.push import tolerance_m
    from lewm_ros.demo_pictures import Episode

    sim.reset(joint_positions=task.goal)
    sim.set_block_pose(task.goal_block)
    episode = Episode(task, number, sim.render().copy())
    robot.place(task.start)
    robot.put_block(task.block)

    def errors_m() -> list[tuple[int, float]]:
        return [(stamp, float(np.linalg.norm((pose - task.goal_block)[:2]))) for stamp, pose in robot.blocks]

    pursue(robot, episode, errors_m, tolerance_m(sim), task.way_m)
    return episode


def _report(
    episodes: Sequence[Any],
    baselines: dict[str, Any],
    sim: Any,
    planner: dict[str, str],
    resets: int,
    console: Any,
    out: Path,
    command: str,
) -> dict[str, Any]:
    """Prints the table, writes summary.json and a picture of each failure; returns what summary.json holds."""
    from lewm_model.evaluation.figures import write_figures
    from lewm_model.evaluation.statistics import first_hit, held
    from lewm_model.tasks.push import outcome_table, tolerance_m
    from lewm_ros.commanded import count_violations
    from lewm_ros.demo_pictures import save_failure

    outcomes = {"nodes": [episode.outcome for episode in episodes], **baselines}
    console.print(outcome_table(f"push over ROS: block within {100 * tolerance_m(sim):.1f} cm", outcomes))
    rate = held(outcomes["nodes"])
    latencies_ms = np.concatenate([episode.latencies_ms for episode in episodes])
    p50, p95 = np.percentile(latencies_ms, (50, 95)) if len(latencies_ms) else (np.nan, np.nan)
    found = [
        ("goals", len(episodes), "goals"),
        ("success_held", rate.percent, "%"),
        ("success_held_low", round(rate.interval[0], 1), "%, 95 % Wilson interval"),
        ("success_held_high", round(rate.interval[1], 1), "%, 95 % Wilson interval"),
        ("success_held_random", held(outcomes["random"]).percent, "%"),
        ("success_held_hold", held(outcomes["hold"]).percent, "%"),
        ("first_hit", first_hit(outcomes["nodes"]).percent, "%"),
        ("frame_to_command_ms_p50", round(float(p50), 2), "ms"),
        ("frame_to_command_ms_p95", round(float(p95), 2), "ms"),
        ("plan_ms_p50", float(planner.get("plan_ms_p50", "nan")), "ms"),
        ("plans", int(planner.get("plans", 0)), "plans"),
        ("plans_late", int(planner.get("plans_late", 0)), "plans"),
        ("violations", sum(count_violations(e.commands, sim.limits) for e in episodes if e.commands), "commands"),
        ("stop_resets", resets, "resets"),
    ]
    for name, value, unit in found[7:]:
        console.print(f"{name} {value} {unit}", style="dim")
    failures = [
        {
            "number": episode.number,
            "final_error_m": episode.outcome.final_error_m,
            "first_hit": episode.outcome.first_hit,
            "note": episode.note,
            "picture": str(save_failure(out / "failures", episode).relative_to(out)),
        }
        for episode in episodes
        if not episode.outcome.held
    ]
    figures = {f"demo_push.{name}": (value, unit) for name, value, unit in found}
    summary = write_figures(out / "summary.json", figures, command, failures=failures)
    console.print(f"see {out}/summary.json, demo.mp4, demo.png, failures/")
    return summary


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m lewm_ros.demo_push", description="Push a block to where pictures show it, over real ROS 2."
    )
    parser.add_argument("--goals", type=int, default=10, help="how many (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the goals and of the planner (default 0)")
    parser.add_argument("--model", type=Path, help="model bundle (default: the shipped models/push)")
    parser.add_argument("--out", type=Path, default=Path("out/demo-push"), help="folder for what it leaves")
    options = parser.parse_args(arguments)
    if options.goals < 1:
        parser.error("--goals must be 1 or more")
    command = f"make demo-push GOALS={options.goals} SEED={options.seed}"
    if options.model:
        command += f" MODEL={options.model}"
    with ending_in_a_sentence():
        model = options.model or resource("models", "push")
        run(options.goals, options.seed, model.resolve(), options.out, command)


if __name__ == "__main__":
    main()
