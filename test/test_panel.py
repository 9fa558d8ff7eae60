# SPDX-License-Identifier: Apache-2.0
"""The panel beside simulator, camera node and planner node: who may watch, command and stop, and what the page gets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

import aiohttp
from trajectory_msgs.msg import JointTrajectory

from lewm_model.config import load_yaml, resource
from lewm_model.robot.robot import load_robot
from lewm_ros.graph import Graph

TOKEN = "only-for-tests"
PLANNER = "/**/planner_node"  # its section in config/plan.yaml


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The nodes and a panel: its address, its folder of goals, and the commands that the arm gets."""
    folder = tmp_path_factory.mktemp("panel")
    model = str(resource("models", "reach"))
    (folder / "goals").mkdir()
    cv2.imwrite(str(folder / "goals" / "left.png"), np.full((64, 64, 3), 90, np.uint8))
    with Graph("panel_test", folder / "logs") as graph:
        parameters = resource("config", "plan.yaml")
        graph.start("sim_node", {"rate": 10.0}, parameters)
        graph.start("camera_node", {"model": model, "goal_folder": str(folder / "goals")}, parameters)
        graph.start("planner_node", {"model": model}, parameters)
        settings = {"model": model, "token": TOKEN, "port": 0, "goal_folder": str(folder / "goals")}
        graph.start("panel_node", {**settings, "deadman_button": 1})
        commands: list[tuple[float, Any]] = []
        graph.node.create_subscription(
            JointTrajectory,
            "arm_controller/joint_trajectory",
            lambda message: commands.append((time.monotonic(), message)),
            10,
        )
        graph.bring_up("sim_node", "camera_node", "planner_node")
        graph.spin_until(lambda: "the panel is at" in graph.log("panel_node"), 20.0, "the panel's address")
        address = graph.log("panel_node").split("the panel is at ")[1].split("#")[0]
        yield SimpleNamespace(graph=graph, address=address, goals=folder / "goals", commands=commands)


class Browser:
    """What a page does: it listens at the web socket, and posts commands."""

    def __init__(self, session: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse, name: str) -> None:
        self.session, self.socket, self.name = session, socket, name
        self.state: dict[str, Any] = {}
        self.pictures: dict[str, bytes] = {}

    async def post(self, command: str, token: str = TOKEN, **more: Any) -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {token}", "X-Panel": self.name, **more.pop("headers", {})}
        async with self.session.post(f"/api/{command}", headers=headers, **more) as answer:
            return answer.status, await answer.json()

    async def until(self, condition: Any, timeout_s: float = 15.0) -> dict[str, Any]:
        """Listens until the state fulfils a condition."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            message = await self.socket.receive(timeout=timeout_s)
            if message.type == aiohttp.WSMsgType.BINARY:
                self.pictures[chr(message.data[0])] = message.data[1:]
            else:
                self.state = json.loads(message.data)
                if condition(self.state):
                    return self.state
        raise AssertionError(f"it never came; the state is {self.state}")


@asynccontextmanager
async def browser(panel: SimpleNamespace) -> Any:
    async with aiohttp.ClientSession(panel.address) as session, session.ws_connect("/ws") as socket:
        hello = await socket.receive_json(timeout=10.0)
        yield Browser(session, socket, hello["you"])


def test_the_page_needs_nothing_from_elsewhere_and_shows_camera_state_and_nodes(panel: SimpleNamespace) -> None:
    async def scenario() -> None:
        async with browser(panel) as page:
            for name in ("", "panel.js", "panel.css"):
                async with page.session.get(f"/{name}") as answer:
                    assert answer.status == 200 and "default-src 'self'" in answer.headers["Content-Security-Policy"]
                    text = await answer.text()
                    assert "http://" not in text and "https://" not in text.replace('"https:"', "")
            async with page.session.get("/../panel_node.py") as answer:
                assert answer.status == 404
            nodes = {"planner_node", "camera_node", "sim_node"}
            state = await page.until(lambda s: s["state"] == "disarmed" and nodes <= set(s["nodes"]))
            assert state["commander"] is None and state["watching"] == 1
            await page.until(lambda s: "c" in page.pictures)
            camera = cv2.imdecode(np.frombuffer(page.pictures["c"], np.uint8), cv2.IMREAD_COLOR)
            assert camera.shape == (192, 192, 3)

    asyncio.run(scenario())


def test_without_token_or_from_another_page_nobody_commands_but_everybody_may_stop(panel: SimpleNamespace) -> None:
    async def scenario() -> None:
        async with browser(panel) as page:
            assert (await page.post("take", token="wrong"))[0] == 401
            assert (await page.post("arm", token=""))[0] == 401
            status, said = await page.post("take", headers={"Origin": "http://elsewhere.example"})
            assert status == 403 and "may not use this panel" in said["error"]
            assert (await page.post("take", headers={"Host": "elsewhere.example:80"}))[0] == 403
            assert (await page.post("arm"))[0] == 409  # the command was not taken
            async with page.session.post("/api/stop") as answer:
                assert answer.status == 200
            await page.until(lambda s: s["state"] == "stopped")
            assert (await page.post("take"))[0] == 200
            status, said = await page.post("arm")
            assert status == 409 and "reset" in said["error"]  # latched
            assert (await page.post("reset"))[0] == 200
            await page.until(lambda s: s["state"] == "disarmed")

    asyncio.run(scenario())


def test_one_browser_commands_and_a_lost_one_lets_go_of_command_and_button(panel: SimpleNamespace) -> None:
    async def scenario() -> None:
        async with browser(panel) as second:
            async with browser(panel) as first:
                assert (await first.post("take"))[0] == 200
                status, said = await second.post("take")
                assert status == 409 and "somebody else commands" in said["error"]
                await second.socket.send_str("held")  # of no effect: it does not command
                await first.socket.send_str("held")
                await first.until(lambda s: s["held"])
            await second.until(lambda s: s["commander"] is None and not s["held"])
            assert (await second.post("take"))[0] == 200
            assert (await second.post("give"))[0] == 200

    asyncio.run(scenario())


def test_goals_come_from_the_gallery_the_camera_and_uploads_and_the_future_is_shown(panel: SimpleNamespace) -> None:
    async def scenario() -> None:
        async with browser(panel) as page:
            await page.post("take")
            async with page.session.get("/api/goals") as answer:
                assert "left" in (await answer.json())["goals"]
            async with page.session.get("/api/goals/left.jpg") as answer:
                assert answer.content_type == "image/jpeg"
            assert (await page.post("goal", json={"name": "../../etc/passwd"}))[0] == 409
            assert (await page.post("upload", data=b"no picture"))[0] == 409
            assert (await page.post("goal", json={"name": "left"}))[0] == 200
            await page.until(lambda s: "g" in page.pictures)
            before = page.pictures["g"]
            picture = np.zeros((96, 96, 3), np.uint8)
            assert (await page.post("upload", data=cv2.imencode(".png", picture)[1].tobytes()))[0] == 200
            await page.until(lambda s: page.pictures["g"] != before)
            assert len(list(panel.goals.glob("captured-*.png"))) == 1
            assert (await page.post("capture"))[0] == 200
            await page.until(lambda s: {"i", "d"} <= set(page.pictures) and page.pictures["i"], 30.0)
            strip = cv2.imdecode(np.frombuffer(page.pictures["i"], np.uint8), cv2.IMREAD_COLOR)
            assert strip.shape[1] > 3 * strip.shape[0]  # what is imagined, one block beside the other

    asyncio.run(scenario())


def test_joints_deadline_cost_and_the_length_of_the_film_are_those_of_the_planner(panel: SimpleNamespace) -> None:
    async def scenario() -> None:
        async with browser(panel) as page:
            await page.post("take")
            await page.post("goal", json={"name": "left"})
            await page.post("dry_run", json={"on": True})
            assert (await page.post("arm"))[0] == 200
            known = ("position", "lower", "upper", "speed")
            state = await page.until(
                lambda s: (
                    s["deadline"]
                    and s["blocks"]
                    and s["cost"] is not None
                    and all(joint[key] is not None for joint in s["joints"] for key in known)
                ),
                30.0,
            )
            robot = load_robot("tabletop")
            assert [joint["name"] for joint in state["joints"]] == list(robot.names)
            assert [joint["upper"] for joint in state["joints"]] == list(robot.limits.upper)
            assert all(joint["lower"] <= joint["position"] <= joint["upper"] for joint in state["joints"])
            assert max(joint["speed"] for joint in state["joints"]) <= 1.001
            assert (
                state["deadline"]
                == 1e3 * load_yaml(resource("config", "plan.yaml"))[PLANNER]["ros__parameters"]["plan"]["deadline_s"]
            )
            await page.until(lambda s: page.pictures.get("i"))
            strip = cv2.imdecode(np.frombuffer(page.pictures["i"], np.uint8), cv2.IMREAD_COLOR)
            assert strip.shape[1] == state["blocks"] * strip.shape[0]  # the film cuts it into as many pictures
            await page.post("disarm")
            assert (await page.post("dry_run", json={"on": False}))[0] == 200

    asyncio.run(scenario())


def test_speed_hold_dry_run_and_cancel_reach_the_planner(panel: SimpleNamespace) -> None:
    async def scenario() -> None:
        async with browser(panel) as page:
            await page.post("take")
            assert (await page.post("speed", json={"share": 2}))[0] == 409
            assert (await page.post("speed", json={"share": 0.5}))[0] == 200
            await page.post("dry_run", json={"on": True})
            assert (await page.post("arm"))[0] == 200
            await page.until(lambda s: s["state"] == "armed" and s["speed"] == 0.5 and s["dry_run"])
            status, said = await page.post("dry_run", json={"on": False})
            assert status == 409 and "disarm it first" in said["error"]
            await page.post("hold")
            await page.until(lambda s: s["state"] == "holding" and s["speed"] == 0.0)
            await page.post("hold")
            await page.until(lambda s: s["state"] == "armed" and s["speed"] == 0.5)
            assert (await page.post("cancel"))[0] == 200
            assert (await page.post("disarm"))[0] == 200
            assert (await page.post("dry_run", json={"on": False}))[0] == 200
            state = await page.until(lambda s: s["state"] == "disarmed")
            assert any("disarm" in event["text"] for event in state["events"])

    asyncio.run(scenario())
