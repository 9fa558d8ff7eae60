# SPDX-License-Identifier: Apache-2.0
"""Measures how long a stop from the panel takes and what watchers cost the planner, and takes screenshots of the page:
`make panel-check`, into out/panel.

    python -m validation.panel --stops 40

The arm is sent from goal to goal. At random moments STOP is sent as the page does, and the time is measured until the
command that brings the arm to rest arrives. Then the times of plans are compared with nobody and with ten watching, in
turns; the watchers run on the same machine and drop what they are sent. Screenshots are taken with Chromium where it is
installed (Debian's chromium and chromium-driver, and selenium): light and dark, wide and narrow, before and after a
stop by the space bar.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import aiohttp
import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from lewm_model.config import resource
from lewm_model.evaluation.figures import write_figures
from lewm_model.sim.arm import ArmSim
from lewm_ros.camera_node import LATCHED
from lewm_ros.graph import Graph, GraphError, reserve_domain, set_environment
from lewm_ros.messages import rgb_to_message

TOKEN = "validation"
WATCHERS, TURNS, TURN_S, GOAL_S = 10, 6, 10.0, 2.5  # turns with, and as many without watchers; from goal to goal
SIZES = {"wide": (1400, 1500), "narrow": (390, 1800)}


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


def pictures(address: str, out: Path) -> list[str]:
    """Takes screenshots while operating the page by keyboard; returns their names, [] without Chromium."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        return []
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    made = []

    def text(name: str) -> str:
        return driver.find_element(By.ID, name).text

    try:
        waiting = WebDriverWait(driver, 30)
        for theme in ("light", "dark"):
            feature = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
            for size, (width, height) in SIZES.items():
                driver.set_window_size(width, height)
                driver.get(f"{address}#token={TOKEN}")
                driver.refresh()
                waiting.until(lambda d: text("state").lower() not in ("", "not connected", "no planner"))
                waiting.until(lambda d: d.find_element(By.ID, "camera").get_attribute("src"))
                time.sleep(2.0)
                made.append(f"{theme}-{size}.png")
                driver.save_screenshot(str(out / made[-1]))
        driver.set_window_size(*SIZES["wide"])
        take = driver.find_element(By.ID, "take")
        take.send_keys(Keys.ENTER)  # by the keyboard alone
        waiting.until(lambda d: "you command" in text("who"))
        driver.find_element(By.CSS_SELECTOR, "[data-command=reset]").send_keys(Keys.ENTER)
        waiting.until(lambda d: text("state").lower() == "disarmed")
        driver.find_element(By.CSS_SELECTOR, "[data-command=arm]").send_keys(Keys.ENTER)
        waiting.until(lambda d: text("state").lower() in ("armed", "goal reached", "holding"))
        time.sleep(1.0)
        made.append("armed.png")
        driver.save_screenshot(str(out / made[-1]))
        driver.find_element(By.TAG_NAME, "body").send_keys(Keys.SPACE)
        waiting.until(lambda d: text("state").lower() == "stopped")
        made.append("stopped.png")
        driver.save_screenshot(str(out / made[-1]))
        errors = [line for line in driver.get_log("browser") if line["level"] == "SEVERE"]
        (out / "browser.json").write_text(json.dumps(errors, indent=1))
    finally:
        driver.quit()
    return made


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=40, help="number of stops (default 40)")
    parser.add_argument("--seed", type=int, default=0, help="seed of goals and moments (default 0)")
    parser.add_argument("--out", type=Path, default=Path("out/panel"), help="folder (default out/panel)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model, rng = str(resource("models", "reach")), random.Random(options.seed)
    goals = options.out / "goals"
    goals.mkdir(exist_ok=True)
    with ArmSim() as sim:
        shown = []
        for i in range(6):
            sim.reset(options.seed * 100 + i)
            shown.append(sim.render().copy())
            cv2.imwrite(str(goals / f"goal_{i}.png"), cv2.cvtColor(shown[-1], cv2.COLOR_RGB2BGR))
    set_environment()
    with reserve_domain(), Graph("panel_check", options.out / "logs") as graph:
        parameters = resource("config", "plan.yaml")
        graph.start("sim_node", {}, parameters)
        graph.start("camera_node", {"model": model}, parameters)
        graph.start("planner_node", {"model": model}, parameters)
        graph.start("panel_node", {"model": model, "token": TOKEN, "port": 0, "goal_folder": str(goals.resolve())})
        commands: list[tuple[float, Any]] = []
        graph.node.create_subscription(
            JointTrajectory,
            "arm_controller/joint_trajectory",
            lambda message: commands.append((time.monotonic(), message)),
            50,
        )
        sender = graph.node.create_publisher(type(rgb_to_message(shown[0], 0)), "goal_image", LATCHED)
        graph.bring_up("sim_node", "camera_node", "planner_node")
        graph.spin_until(lambda: "the panel is at" in graph.log("panel_node"), 30.0, "the panel's address")
        address = graph.log("panel_node").split("the panel is at ")[1].split("#")[0]
        turn = iter(range(10**9))

        def goal() -> None:
            sender.publish(rgb_to_message(shown[next(turn) % len(shown)], time.time_ns()))

        graph.spin_for(3.0)
        taken = [stop_once(graph, address, goal, commands, rng) for _ in range(options.stops)]
        alone, watched = plan_times(graph, address, goal)
        made = pictures(address, options.out)
    stops_ms = 1e3 * np.array([each for each in taken if np.isfinite(each)])
    p50, p95 = (float(np.percentile(stops_ms, p)) if len(stops_ms) else None for p in (50, 95))
    figures = {
        "panel.stop_ms_p50": (p50, "ms"),
        "panel.stop_ms_p95": (p95, "ms"),
        "panel.stops": (len(stops_ms), "stops of a moving arm"),
        "panel.plan_ms": (float(np.median(alone)), "ms"),
        "panel.plan_ms_watched": (float(np.median(watched)), "ms"),
        "panel.plan_slowdown_percent": (100 * float(np.median(watched) / np.median(alone) - 1), "%"),
        "panel.plans": (len(alone) + len(watched), "plans"),
        "panel.screenshots": (len(made), "pictures"),
    }
    write_figures(options.out / "summary.json", figures, f"make panel-check STOPS={options.stops} SEED={options.seed}")
    for name, (value, unit) in figures.items():
        print(f"{name}: {'-' if value is None else f'{value:.1f}'} {unit}")
    print(f"in {options.out}: {', '.join(made) or 'no screenshots: Chromium or selenium is not installed'}")


if __name__ == "__main__":
    main()
