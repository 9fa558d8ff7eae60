# SPDX-License-Identifier: Apache-2.0
"""Measures how long a stop from the panel takes and what watchers cost the planner, and checks the page in a browser:
`make panel-check`, into out/panel.

    python -m validation.panel --stops 40
    python -m validation.panel --only page

The arm is sent from goal to goal. At random moments STOP is sent as the page does, and the time is measured until the
command that brings the arm to rest arrives. Then the times of plans are compared with nobody and with ten watching, in
turns; the watchers run on the same machine and drop what they are sent. `validation.panel_page` says what is checked of
the page, with Chromium where it is installed. It exits with 1 where the page has a fault.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter as RosParameter
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from lewm_model.config import resource
from lewm_model.evaluation.figures import write_figures
from lewm_model.sim.arm import ArmSim
from lewm_ros.camera_node import LATCHED
from lewm_ros.graph import Graph, GraphError, reserve_domain, set_environment
from lewm_ros.messages import rgb_to_message
from validation.panel_page import CHROMIUM, Folders, Page, check, check_deadman, opened, unoperated

TOKEN = "validation"
WATCHERS, TURNS, TURN_S, GOAL_S = 10, 6, 10.0, 2.5  # turns with, and as many without watchers; from goal to goal
DEADMAN_BUTTON = 4


def enable(graph: Graph) -> None:
    """Arms the planner, which may refuse for a while: frames may be late on a busy machine.

    :raises GraphError: it goes on to refuse.
    """
    service, said = "/planner_node/enable", ""
    for _ in range(100):
        answer = graph.call(SetBool, {service: SetBool.Request(data=True)})[service]
        if answer.success:
            return
        said = answer.message
        graph.spin_for(0.2)
    raise GraphError(f"the planner refuses to be enabled: {said}")


def stop_once(graph: Graph, address: str, goal: Any, commands: list[tuple[float, Any]], rng: random.Random) -> float:
    """Time from the request to the command that brings the arm to rest, s; NaN where the arm rested already."""
    graph.call(Trigger, {"/planner_node/reset": Trigger.Request()})
    goal()
    enable(graph)
    before = len(commands)
    graph.spin_until(lambda: len(commands) > before + 2, 20.0, "the arm to move")
    graph.spin_for(rng.uniform(0.1, 0.4))
    began: list[float] = []

    async def click() -> None:
        async with aiohttp.ClientSession(address) as session:
            async with session.get("/api/goals"):  # the page is connected already
                pass
            began.append(time.monotonic())
            async with session.post("/api/stop") as answer:
                assert answer.status == 200, await answer.text()

    async def both() -> None:
        clicked = asyncio.create_task(click())
        end = time.monotonic() + 1.5
        while time.monotonic() < end or not clicked.done():
            graph.node.executor.spin_once(timeout_sec=0)
            await asyncio.sleep(0.001)

    asyncio.run(both())
    last = commands[-1][1]
    first_arrival = next(at for at, message in commands if message.points == last.points)
    return first_arrival - began[0] if first_arrival > began[0] else float("nan")


def watch(address: str, done: threading.Event) -> None:
    """Watches as WATCHERS browsers do, until `done`."""

    async def one(session: aiohttp.ClientSession) -> None:
        async with session.ws_connect("/ws") as socket:
            async for _ in socket:
                if done.is_set():
                    break

    async def every() -> None:
        async with aiohttp.ClientSession(address) as session:
            await asyncio.gather(*(one(session) for _ in range(WATCHERS)))

    asyncio.run(every())


def plan_times(graph: Graph, address: str, goal: Any) -> tuple[list[float], list[float]]:
    """Times of plans of a moving arm, ms: with nobody watching, and with WATCHERS."""
    times: tuple[list[float], list[float]] = [], []
    watched = 0

    def told(status: DiagnosticStatus) -> None:
        said = {pair.key: pair.value for pair in status.values}
        if "plan_ms" in said and said["state"] == "armed" and said["reached"] == "no":
            times[watched].append(float(said["plan_ms"]))

    subscription = graph.node.create_subscription(DiagnosticStatus, "planner_node/status", told, LATCHED)
    graph.call(Trigger, {"/planner_node/reset": Trigger.Request()})
    for turn in range(2 * TURNS):
        goal()
        enable(graph)
        done, watched = threading.Event(), turn % 2
        browsers = threading.Thread(target=watch, args=(address, done))
        if watched:
            browsers.start()
        for _ in range(round(TURN_S / GOAL_S)):
            goal()
            graph.spin_for(GOAL_S)
        done.set()
        if watched:
            browsers.join()
    graph.node.destroy_subscription(subscription)
    return times


def start_panel(graph: Graph, parameters: dict[str, Any]) -> str:
    """Starts panel_node; returns the address of its page, without the token."""
    graph.start("panel_node", {"token": TOKEN, "port": 0, **parameters})
    graph.spin_until(lambda: "the panel is at" in graph.log("panel_node"), 60.0, "the panel's address")
    return graph.log("panel_node").split("the panel is at ")[1].split("#")[0]


def page_checked(graph: Graph, address: str, parameters: dict[str, Any], folders: Folders) -> Page | None:
    """Checks the page, then once more with a dead-man's button; None without Chromium."""
    with opened(folders.out) as page:
        if page is None:
            return None
        page.open(address, TOKEN)
        check(page, folders)
        page.driver.get("about:blank")  # a page whose panel is gone asks for it all the time
        panel = graph.process("panel_node")
        panel.send_signal(signal.SIGINT)
        panel.wait()
        graph.forget("panel_node")
        button = RosParameter("deadman_button", value=DEADMAN_BUTTON).to_parameter_msg()
        service = "/planner_node/set_parameters"
        answer = graph.call(SetParameters, {service: SetParameters.Request(parameters=[button])})[service]
        assert answer.results[0].successful, answer.results[0].reason
        page.open(start_panel(graph, {**parameters, "deadman_button": DEADMAN_BUTTON}), TOKEN)
        check_deadman(page)
        for fault in unoperated(page):
            page.fault(fault)
        return page


def measured(graph: Graph, address: str, goal: Any, stops: int, rng: random.Random) -> dict[str, tuple[Any, str]]:
    """Figures of stops and of watchers."""
    commands: list[tuple[float, Any]] = []
    graph.node.create_subscription(
        JointTrajectory,
        "arm_controller/joint_trajectory",
        lambda message: commands.append((time.monotonic(), message)),
        50,
    )
    graph.spin_for(3.0)
    taken = [stop_once(graph, address, goal, commands, rng) for _ in range(stops)]
    alone, watched = plan_times(graph, address, goal)
    stops_ms = 1e3 * np.array([each for each in taken if np.isfinite(each)])
    p50, p95 = (float(np.percentile(stops_ms, p)) if len(stops_ms) else None for p in (50, 95))
    return {
        "panel.stop_ms_p50": (p50, "ms"),
        "panel.stop_ms_p95": (p95, "ms"),
        "panel.stops": (len(stops_ms), "stops of a moving arm"),
        "panel.plan_ms": (float(np.median(alone)), "ms"),
        "panel.plan_ms_watched": (float(np.median(watched)), "ms"),
        "panel.plan_slowdown_percent": (100 * float(np.median(watched) / np.median(alone) - 1), "%"),
        "panel.plans": (len(alone) + len(watched), "plans"),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=40, help="number of stops (default 40)")
    parser.add_argument("--seed", type=int, default=0, help="seed of goals and moments (default 0)")
    parser.add_argument("--only", choices=["page"], help="page: without the stops and the watchers")
    parser.add_argument("--out", type=Path, default=Path("out/panel"), help="folder (default out/panel)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model = str(resource("models", "reach"))
    with ArmSim() as sim:
        shown = []
        for i in range(6):
            sim.reset(options.seed * 100 + i)
            shown.append(sim.render().copy())
    folders = Folders.make(options.out, shown)
    settings: dict[str, Any] = {"model": model, **folders.parameters()}
    figures: dict[str, tuple[Any, str]] = {}
    set_environment()
    with reserve_domain(), Graph("panel_check", options.out / "logs") as graph:
        parameters = resource("config", "plan.yaml")
        graph.start("sim_node", {}, parameters)
        graph.start("camera_node", {"model": model, "goal_folder": settings["goal_folder"]}, parameters)
        graph.start("planner_node", {"model": model}, parameters)
        sender = graph.node.create_publisher(type(rgb_to_message(shown[0], 0)), "goal_image", LATCHED)
        graph.bring_up("sim_node", "camera_node", "planner_node")
        address = start_panel(graph, settings)
        turn = iter(range(10**9))

        def goal() -> None:
            sender.publish(rgb_to_message(shown[next(turn) % len(shown)], time.time_ns()))

        if options.only != "page":
            figures |= measured(graph, address, goal, options.stops, random.Random(options.seed))
        page = page_checked(graph, address, settings, folders)
    if page is not None:
        figures |= {
            "panel.page_faults": (len(page.faults), "faults"),
            "panel.controls": (len(page.operated), "controls operated"),
            "panel.screenshots": (len(page.screenshots), "pictures"),
        }
    part = f"ONLY={options.only}" if options.only else f"STOPS={options.stops}"
    command = f"make panel-check {part} SEED={options.seed}"
    write_figures(options.out / "summary.json", figures, command, keep=options.only is not None)
    for name, (value, unit) in figures.items():
        print(f"{name}: {'-' if value is None else f'{value:.1f}'} {unit}")
    if page is None:
        print(f"the page was not checked: that needs {CHROMIUM}")
        sys.exit(options.only == "page")
    print(f"in {options.out}: {', '.join(page.screenshots)}")
    sys.exit(bool(page.faults))


if __name__ == "__main__":
    main()
