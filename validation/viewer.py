# SPDX-License-Identifier: Apache-2.0
"""Measures how much the viewer slows the planner down, and saves its pictures: `make viewer`, over real DDS.

    python -m validation.viewer --pairs 6 --seed 0

Simulated arm, camera node, planner node and viewer node run as four processes with the shipped model; the goal picture
changes every 3 s. For alternate periods of 6 s, `debug_image` and `plan_markers` have a subscriber or none. Compared
are the medians of the planning time, which the planner's status has, and of the time from a frame to its command.

Writes summary.json, pictures from the middle of each motion as debug_image_<n>.png, and the logs of the nodes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from rclpy.qos import qos_profile_sensor_data
from rich.table import Table
from sensor_msgs.msg import Image
from visualization_msgs.msg import MarkerArray

from lewm_model.bundle.bundle import load_bundle
from lewm_model.config import PlanConfig, resource
from lewm_model.evaluation.figures import Figures, report_figures
from lewm_model.planning.planner import Planner
from lewm_model.runtime import load_runtime
from lewm_model.sim.arm import ArmSim
from lewm_ros.graph import GraphError, reserve_domain
from lewm_ros.messages import message_to_rgb
from lewm_ros.planner_node import THOUGHTS, tell
from validation.rig import MODEL, PARAMETERS, Command, Report, Rig, start_rig

GOALS = 8
GOAL_S, TURN_S = 3.0, 6.0
SETTLE_S = 1.5  # at the beginning of a period, which is not counted: until the nodes have noticed the change
MOMENT_S = 0.6  # after a goal was sent: the middle of the motion
TOLD = 40  # plans of which the publishing is timed
EARLY_S = 0.005  # a command that arrives sooner after its stamp is a stop, not planned from a frame
VIEWER = {
    "model": str(MODEL),
    "urdf": str(resource("config", "arms", "tabletop.urdf")),
    "workspace.base": "base",
    "workspace.tip": "end_effector",
}


class Eyes:
    """Subscribes to the viewer's topics or not, and keeps the times of plans and commands for either case."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.looking, self.since_s = rig, False, 0.0
        self.plan_ms: dict[bool, list[float]] = {True: [], False: []}  # with and without a subscriber
        self.command_ms: dict[bool, list[float]] = {True: [], False: []}
        self.pictures: list[Image] = []
        self.markers: list[MarkerArray] = []
        self._subscriptions: list[Any] = []
        self._plans = ""
        rig.on_report, rig.on_command = self._on_report, self._on_command

    def look(self, on: bool) -> None:
        """Subscribes or unsubscribes."""
        node = self.rig.graph.node
        for subscription in self._subscriptions:
            node.destroy_subscription(subscription)
        self._subscriptions = []
        if on:
            self._subscriptions = [
                node.create_subscription(Image, "debug_image", self.pictures.append, qos_profile_sensor_data),
                node.create_subscription(MarkerArray, "plan_markers", self.markers.append, 1),
            ]
        self.looking, self.since_s = on, self.rig.now_s

    @property
    def settled(self) -> bool:
        """Whether SETTLE_S has passed since the last change."""
        return self.rig.now_s - self.since_s > SETTLE_S

    def _on_report(self, report: Report) -> None:
        plans = report.values.get("plans", self._plans)
        if plans != self._plans and "plan_ms" in report.values and self.settled:
            self.plan_ms[self.looking].append(float(report.values["plan_ms"]))
        self._plans = plans

    def _on_command(self, command: Command) -> None:
        age_s = command.received_s - float(command.trajectory.times_s[0])
        if self.settled and age_s > EARLY_S:
            self.command_ms[self.looking].append(1e3 * age_s)


def measure(pairs: int, seed: int, out: Path) -> Eyes:
    """Runs the loop with and without a subscriber in turn, and saves pictures.

    :raises GraphError: a node fails.
    """
    rng = np.random.default_rng(seed)
    with ArmSim(render=False) as sim:
        inset = 0.1 * (sim.limits.upper - sim.limits.lower)
        poses = rng.uniform(sim.limits.lower + inset, sim.limits.upper - inset, (GOALS, len(sim.names)))
    with start_rig("viewer", out / "logs", poses, seed) as rig:
        rig.graph.start("viewer_node", VIEWER, PARAMETERS)
        rig.graph.spin_until(lambda: rig.graph.node.count_publishers("debug_image"), 60.0, "viewer_node to come up")
        rig.show_goal(0)
        rig.arm()
        eyes = Eyes(rig)
        number = 0
        for turn in range(2 * pairs):
            eyes.look(turn % 2 == 0)
            for _ in range(round(TURN_S / GOAL_S)):
                rig.show_goal(rig.farthest_goal())
                rig.graph.spin_for(MOMENT_S)
                if eyes.looking and eyes.settled and eyes.pictures:
                    picture = cv2.cvtColor(message_to_rgb(eyes.pictures[-1]), cv2.COLOR_RGB2BGR)
                    cv2.imwrite(str(out / f"debug_image_{number}.png"), picture)
                    number += 1
                    eyes.pictures.clear()
                rig.graph.spin_for(GOAL_S - MOMENT_S)
    return eyes


def tell_share() -> float:
    """Processor time of publishing a plan to subscribers, over that of making it; medians, independent of load."""
    bundle = load_bundle(MODEL)
    with ArmSim(render=False) as sim:
        limits = sim.limits
    epoch_s = time.monotonic()
    config = PlanConfig(deadline_s=0.6)  # cuts no search short, also on a busy machine
    controller = Planner(load_runtime(bundle, "onnxruntime"), limits, config, lambda: time.monotonic() - epoch_s)
    rng = np.random.default_rng(0)
    plan_s, tell_s = [], []
    rclpy.init()  # in the domain that the caller reserved
    node, other = rclpy.create_node("planner_node"), rclpy.create_node("viewer_node")
    publishers = {name: node.create_publisher(Image, name, qos_profile_sensor_data) for name in THOUGHTS}
    for name in THOUGHTS:
        other.create_subscription(Image, name, lambda message: None, qos_profile_sensor_data)
    time.sleep(SETTLE_S)
    controller.set_goal(rng.standard_normal(bundle.model.latent_dim).astype(np.float32))
    for _ in range(TOLD):
        controller.observe(controller.clock(), rng.standard_normal(bundle.model.latent_dim).astype(np.float32))
        begin_s = time.thread_time()
        decision = controller.preview(np.zeros(len(limits.names)))
        planned_s = time.thread_time()
        assert decision is not None
        tell(publishers, decision, stamp_ns=0)
        plan_s.append(planned_s - begin_s)
        tell_s.append(time.thread_time() - planned_s)
    for each in (node, other):
        each.destroy_node()
    rclpy.shutdown()
    return float(np.median(tell_s) / np.median(plan_s))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=6, help="periods with and without a subscriber (default 6)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the goals and of the planner (default 0)")
    parser.add_argument("--out", type=Path, default=Path("out/viewer"), help="folder for the results")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    command = f"make viewer PAIRS={options.pairs} SEED={options.seed}"
    try:
        with reserve_domain():
            share = tell_share()
        eyes = measure(options.pairs, options.seed, options.out)
    except GraphError as error:
        sys.exit(str(error))
    table = Table(title="what looking costs")
    for heading in ("", "nobody looks", "somebody looks", "ratio"):
        table.add_column(heading)
    figures: Figures = {
        "viewer.tell_share": (share, "processor time of publishing a plan for a viewer, over that of making it")
    }
    table.add_row("publishing a plan, of making it", "0", f"{share:.3f}", "")
    for name, times in (("plan_ms", eyes.plan_ms), ("frame_to_command_ms", eyes.command_ms)):
        without, with_eyes = (float(np.median(times[looking])) for looking in (False, True))
        counts = f"{len(times[False])} and {len(times[True])}"
        table.add_row(name, f"{without:.1f}", f"{with_eyes:.1f}", f"{with_eyes / without:.3f}")
        figures |= {
            f"viewer.{name}_ratio": (with_eyes / without, f"median with a viewer over without one, of {counts}"),
            f"viewer.{name}_unwatched": (without, "ms, median"),
            f"viewer.{name}_watched": (with_eyes, "ms, median"),
        }
    report_figures(options.out, table, figures, command)


if __name__ == "__main__":
    main()
