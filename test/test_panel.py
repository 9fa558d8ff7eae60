# SPDX-License-Identifier: Apache-2.0
"""The panel beside simulator, camera node and planner node: who may watch, command and stop, and what the page gets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

import aiohttp
from bags import BagWriter
from sim_recording import sim_recording
from trajectory_msgs.msg import JointTrajectory

from lewm_model.bundle.bundle import load_bundle
from lewm_model.config import load_yaml, resource
from lewm_model.data.converters.rosbag2.files import read_messages
from lewm_model.planning.motion import Trajectory
from lewm_model.robot.robot import load_robot
from lewm_model.runtime import load_runtime
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.pinhole import Pinhole
from lewm_ros.debug_picture import BLUE, GREEN
from lewm_ros.graph import Graph
from lewm_ros.markers import tip_path
from lewm_ros.messages import array_to_message, camera_info_message, rgb_to_message, trajectory_to_message
from lewm_ros.panel.commands import Commands, Refused
from lewm_ros.panel.nearest import Nearest
from lewm_ros.panel.paths import Paths
from lewm_ros.panel.pictures import SIDE, Pictures, camera_at, size_side_by_side
from lewm_ros.panel.ros import Known

TOKEN = "only-for-tests"
RECORDING = "before.mcap"
COMMANDS = ("arm", "disarm", "hold", "speed", "reset", "cancel", "capture", "goal", "upload", "recorded", "sequence")
COMMANDS += ("dry_run", "record", "mark", "doctor", "region")
PICTURE = np.full((64, 64, 3), 90, np.uint8)
POSES = {"near": [0.3, 0.2], "right": [-0.4, 0.5]}  # of goals in the gallery, rad
ROBOT_FILE = """# An arm of ours.
joints:
  shoulder: {lower: -2.6, upper: 2.6, velocity: 1.5, acceleration: 9.0, jerk: 150.0}
cameras:
  above: {height: 64, width: 64}  # over the table
"""
PLANNER = "/**/planner_node"  # its section in config/plan.yaml


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The nodes and a panel: its address, its folder of goals, and the commands that the arm gets."""
    folder = tmp_path_factory.mktemp("panel")
    model = str(resource("models", "reach"))
    (folder / "goals").mkdir()
    cv2.imwrite(str(folder / "goals" / "left.png"), PICTURE)
    with ArmSim() as sim:
        for name, pose in POSES.items():
            sim.reset(joint_positions=pose)
            cv2.imwrite(str(folder / "goals" / f"{name}.png"), cv2.cvtColor(sim.render(), cv2.COLOR_RGB2BGR))
    (folder / "recordings").mkdir()
    with BagWriter(folder / "recordings" / RECORDING) as bag:
        for shade in (10, 200):
            bag.image(np.full((48, 64, 3), shade, np.uint8), shade / 100, 100.0 + shade / 100)
    with Graph("panel_test", folder / "logs") as graph:
        parameters = resource("config", "plan.yaml")
        graph.start("sim_node", {"rate": 10.0}, parameters)
        graph.start("camera_node", {"model": model, "goal_folder": str(folder / "goals")}, parameters)
        graph.start("planner_node", {"model": model}, parameters)
        settings = {"model": model, "token": TOKEN, "port": 0, "goal_folder": str(folder / "goals")}
        (folder / "robot.yaml").write_text(ROBOT_FILE)
        settings |= {
            "robot_file": str(folder / "robot.yaml"),
            "recordings": str(folder / "recordings"),
            "deadman_button": 1,
        }
        graph.start("panel_node", settings)
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
        folders = {"robot_file": folder / "robot.yaml", "goals": folder / "goals", "recordings": folder / "recordings"}
        yield SimpleNamespace(graph=graph, address=address, commands=commands, **folders)


class Browser:
    """What a page does: it listens at the web socket, and posts commands."""

    def __init__(self, session: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse, name: str) -> None:
        self.session, self.socket, self.name = session, socket, name
        self.state: dict[str, Any] = {}
        self.pictures: dict[str, bytes] = {}
        self._told = asyncio.Event()

    async def post(self, command: str, token: str = TOKEN, **more: Any) -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {token}", "X-Panel": self.name, **more.pop("headers", {})}
        async with self.session.post(f"/api/{command}", headers=headers, **more) as answer:
            return answer.status, await answer.json()

    async def arm(self) -> None:
        """Arms the planner, which refuses while frames or joint states are late: on a busy machine they may be."""
        end = time.monotonic() + 30.0
        while (answer := await self.post("arm"))[0] != 200:
            assert time.monotonic() < end, answer
            await asyncio.sleep(0.1)

    async def listen(self) -> None:
        """All the time, as a browser does: one that does not answer is disconnected."""
        async for message in self.socket:
            if message.type == aiohttp.WSMsgType.BINARY:
                self.pictures[chr(message.data[0])] = message.data[1:]
            else:
                self.state = json.loads(message.data)
                self._told.set()

    async def until(self, condition: Any, timeout_s: float = 15.0) -> dict[str, Any]:
        """Waits until a new state fulfils a condition."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            self._told.clear()
            await asyncio.wait_for(self._told.wait(), timeout_s)
            if condition(self.state):
                return self.state
        raise AssertionError(f"it never came; the state is {self.state}")


@asynccontextmanager
async def browser(panel: SimpleNamespace) -> Any:
    async with aiohttp.ClientSession(panel.address) as session, session.ws_connect("/ws") as socket:
        hello = await socket.receive_json(timeout=10.0)
        page = Browser(session, socket, hello["you"])
        listening = asyncio.create_task(page.listen())
        try:
            yield page
        finally:
            listening.cancel()


def test_goals_of_another_shape_than_the_models_picture_are_compared_and_cameras_stand_side_by_side() -> None:
    bundle = load_bundle(resource("models", "reach"))
    high, wide = bundle.observation.size
    decoder = SimpleNamespace(draw=lambda latents: np.full((len(latents), high, wide, 3), 128, np.uint8))
    node: Any = SimpleNamespace(
        known=Known(), bundle=bundle, decoder=decoder, camera_topics={"left": "", "right": ""}, paths=None
    )
    node.known.take("imagined", array_to_message(np.zeros((3, bundle.model.latent_dim)), 0))
    node.known.take("goal_image", rgb_to_message(np.full((48, 64, 3), 128, np.uint8), 0))
    pictures = Pictures(node)
    found = cv2.imdecode(np.frombuffer(pictures.newest("difference") or b"", np.uint8), cv2.IMREAD_COLOR)
    assert found.shape[:2] == (SIDE, SIDE * wide // high) and abs(int(found.mean()) - 128) < 3
    node.known.take("left", rgb_to_message(np.zeros((48, 64, 3), np.uint8), 0))
    assert pictures.newest("camera") is None  # until every camera has one
    node.known.take("right", rgb_to_message(np.full((96, 64, 3), 255, np.uint8), 0))
    found = cv2.imdecode(np.frombuffer(pictures.newest("camera") or b"", np.uint8), cv2.IMREAD_COLOR)
    assert found.shape[:2] == (96, 128 + 64) and found[50, 30].max() < 9 and found[50, 150].min() > 246
    assert size_side_by_side([(48, 64), (96, 64)]) == (96, 192)
    assert camera_at([(48, 64), (96, 64)], 10, 20, 60, 100) == (0, (5, 10, 30, 50)), "it is shown twice as large"
    assert camera_at([(48, 64), (96, 64)], 10, 130, 60, 62) == (1, (10, 2, 60, 62))
    with pytest.raises(ValueError, match="pictures of two cameras; draw it within one"):
        camera_at([(48, 64), (96, 64)], 10, 100, 60, 60)


def test_the_recorded_frame_nearest_to_a_latent_is_found_with_its_place(tmp_path: Path) -> None:
    bundle = load_bundle(resource("models", "reach"))
    data = sim_recording(tmp_path / "seen.h5", episodes=2, steps=10)
    nearest = Nearest(bundle, tmp_path / "seen.h5")
    frame = data.pixels[data.offsets[1] + 4]
    latent = load_runtime(bundle, "onnxruntime").encode(frame)
    end = time.monotonic() + 120.0
    while (found := nearest.find(latent)) is None and time.monotonic() < end:
        time.sleep(0.1)
    assert found is not None
    np.testing.assert_array_equal(found.picture, frame)
    assert (found.episode, round(found.at_s, 6)) == (1, round(4 * data.control_dt_s, 6)) and found.distance < 0.1
    far = nearest.find(latent + 10.0)
    assert far is not None and far.distance > 10.0


def test_planned_paths_are_drawn_where_the_camera_of_the_robot_file_sees_them() -> None:
    pinhole = Pinhole.of_world()
    robot = load_robot("tabletop")
    camera = robot.cameras[0]
    assert Paths.of(replace(robot, cameras=(replace(camera, pose=()),)), camera.topic) is None
    paths = Paths.of(robot, camera.topic)
    assert paths is not None
    info = camera_info_message(pinhole.width, pinhole.height, pinhole.focal_px, 0)
    plan, other = np.linspace([0.2, 0.1], [0.9, 0.8], 12), np.linspace([0.2, 0.1], [-0.7, -0.9], 12)
    seen = {
        "plan": pinhole.project(tip_path(robot.chain(), plan)),
        "other": pinhole.project(tip_path(robot.chain(), other)),
    }
    np.testing.assert_allclose(paths.pixels(plan, info), seen["plan"], atol=1e-6)
    message = trajectory_to_message(Trajectory(0.1 * np.arange(12.0), plan, np.zeros_like(plan)), robot.names, 0)
    elites = array_to_message(np.stack([plan, other]), 0)
    black = np.zeros((pinhole.height, pinhole.width, 3), np.uint8)
    drawn = paths.draw(black, info, message, elites)
    for points, colour in ((seen["plan"], GREEN), (seen["other"][4:], BLUE)):
        inside = points[((points > 2) & (points < (pinhole.width - 2, pinhole.height - 2))).all(1)].round().astype(int)
        assert len(inside) > 3
        for x, y in inside:
            near = drawn[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).astype(int)
            assert np.abs(near - colour).max(1).min() < 60, (x, y)
    assert not black.any() and not paths.draw(black, info, None, elites).any()


def test_a_goal_that_was_long_in_coming_is_not_sent_for_a_page_that_has_lost_the_command_meanwhile() -> None:
    sent: list[Any] = []
    library = SimpleNamespace(picture=lambda name: PICTURE, save=sent.append)
    node: Any = SimpleNamespace(
        values={"planner": "planner_node"}, known=Known(), library=library, show_goal=sent.append
    )

    def lost(request: Any) -> None:
        raise Refused("take the command first")

    async def asked(wanted: dict[str, Any]) -> None:
        async def body() -> dict[str, Any]:
            return wanted

        commands, disarmed = Commands(node, lost), []
        commands.frame = lambda wanted: body()  # type: ignore[method-assign]

        async def disarm(request: Any) -> str:
            disarmed.append(request)
            return ""

        commands._disarm = disarm  # type: ignore[method-assign]
        for name in ("goal", "sequence", "recorded"):
            for query in ({}, {"preview": ""}):
                with pytest.raises(Refused, match="take the command first"):
                    await commands.by_name[name](SimpleNamespace(json=body, query=query))  # type: ignore[arg-type]
        assert len(disarmed) == 2  # a sequence has no preview
        assert not commands.sequence.running

    asyncio.run(asked({"name": "left", "goals": [{"name": "left"}]}))
    assert not sent


def test_the_page_needs_nothing_from_elsewhere_and_shows_camera_state_and_nodes(panel: SimpleNamespace) -> None:
    async def scenario() -> None:
        async with browser(panel) as page:
            for name in ("", "panel.js", "panel.css"):
                async with page.session.get(f"/{name}") as answer:
                    assert answer.status == 200 and "default-src 'self'" in answer.headers["Content-Security-Policy"]
                    text = await answer.text()
                    assert "http://" not in text and "https://" not in text.replace('"https:"', "")
            async with page.session.get("/icon.svg") as answer:
                assert answer.status == 200 and answer.content_type == "image/svg+xml"
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
            for command in COMMANDS:
                assert (await page.post(command, token="wrong"))[0] == 401, command
                status, said = await page.post(command, json={})
                assert status == 409 and "take the command first" in said["error"], command
            frame = f"/api/recordings/{RECORDING}.jpg?at=0"
            async with page.session.get(frame) as answer:
                assert answer.status == 401
            async with page.session.get(frame, headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
                assert answer.status == 409
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
            await page.post("goal", json={"name": "near"})
            await page.post("dry_run", json={"on": True})
            await page.arm()
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


def test_a_disarmed_planner_tells_its_speed_and_dry_run_as_soon_as_they_change(panel: SimpleNamespace) -> None:
    async def scenario() -> None:
        async with browser(panel) as page:
            await page.post("take")
            await page.until(lambda s: s["state"] == "disarmed")
            await page.post("dry_run", json={"on": True})
            await page.until(lambda s: s["state"] == "disarmed" and s["dry_run"])
            await page.post("speed", json={"share": 0.5})
            await page.until(lambda s: s["speed"] == 0.5)
            await page.post("speed", json={"share": 1.0})
            await page.post("dry_run", json={"on": False})
            await page.until(lambda s: s["speed"] == 1.0 and not s["dry_run"])

    asyncio.run(scenario())


def test_speed_hold_dry_run_and_cancel_reach_the_planner(panel: SimpleNamespace) -> None:
    async def scenario() -> None:
        async with browser(panel) as page:
            await page.post("take")
            assert (await page.post("speed", json={"share": 2}))[0] == 409
            assert (await page.post("speed", json={"share": 0.5}))[0] == 200
            await page.post("dry_run", json={"on": True})
            await page.arm()
            await page.until(lambda s: s["state"] == "armed" and s["speed"] == 0.5 and s["dry_run"])
            status, said = await page.post("dry_run", json={"on": False})
            assert status == 409 and "disarm it first" in said["error"]
            await page.post("hold")
            await page.until(lambda s: s["state"] == "holding" and s["speed"] == 0.0)
            await page.post("hold")
            await page.until(lambda s: s["state"] == "armed" and s["speed"] == 0.5)
            assert (await page.post("goal?preview", json={"name": "near"}))[0] == 200
            await page.until(lambda s: s["state"] == "disarmed" and page.pictures.get("i"), 30.0)  # to be looked at
            await page.arm()
            await page.until(lambda s: s["state"] == "armed" and "accepted" in s["goal"])
            assert (await page.post("cancel"))[0] == 200
            await page.until(lambda s: s["goal"].startswith("dropped"))
            assert (await page.post("disarm"))[0] == 200
            assert (await page.post("dry_run", json={"on": False}))[0] == 200
            state = await page.until(lambda s: s["state"] == "disarmed")
            assert any("disarm" in event["text"] for event in state["events"])
            async with page.session.get("/api/events") as answer:
                numbers = [event["number"] for event in (await answer.json())["events"]]
            assert numbers == list(range(1, len(numbers) + 1)) and numbers[-1] >= state["happened"]  # from the first on

    asyncio.run(scenario())


def test_a_goal_is_taken_from_a_time_of_a_recording_and_kept(panel: SimpleNamespace) -> None:
    async def scenario() -> None:
        async with browser(panel) as page:
            await page.post("take")
            async with page.session.get("/api/recordings") as answer:
                assert (await answer.json())["recordings"] == [RECORDING]
            for wanted in (
                {"name": "../secret.mcap", "at": 0},
                {"name": RECORDING, "at": -1},
                {"name": RECORDING, "at": 9},
            ):
                assert (await page.post("recorded", json=wanted))[0] == 409
            headers = {"Authorization": f"Bearer {TOKEN}", "X-Panel": page.name}
            async with page.session.get(f"/api/recordings/{RECORDING}.jpg?at=1.9", headers=headers) as answer:
                shown = cv2.imdecode(np.frombuffer(await answer.read(), np.uint8), cv2.IMREAD_COLOR)
            assert abs(int(shown.mean()) - 200) < 3
            kept = {path.name for path in panel.goals.iterdir()}
            assert (await page.post("recorded", json={"name": RECORDING, "at": 1.9}))[0] == 200
            (new,) = {path.name for path in panel.goals.iterdir()} - kept
            np.testing.assert_array_equal(cv2.imread(str(panel.goals / new)), np.full((48, 64, 3), 200, np.uint8))

    asyncio.run(scenario())


def test_a_sequence_goes_from_goal_to_goal_and_ends_with_a_stop_another_goal_or_its_commander(
    panel: SimpleNamespace,
) -> None:
    async def scenario() -> None:
        async with browser(panel) as page:
            await page.post("take")
            for goals in ([], [{"name": "nowhere"}], [{"name": "near", "dwell": -1}], "near"):
                assert (await page.post("sequence", json={"goals": goals}))[0] == 409
            await page.arm()
            goals = [{"name": "near", "dwell": 0.2}, {"name": "right", "dwell": 60}]
            assert (await page.post("sequence", json={"goals": goals, "timeout": 30}))[0] == 200
            await page.until(lambda s: s["sequence"] == "goal 1 of 2")
            await page.until(lambda s: s["sequence"] == "goal 2 of 2", 40.0)
            assert (await page.post("goal", json={"name": "near"}))[0] == 200
            state = await page.until(lambda s: not s["sequence"])
            said = [event["text"] for event in state["events"]]
            assert "near: the goal is reached" in said and "the sequence was ended at goal 2" in said
            await page.post("sequence", json={"goals": goals})
            await page.until(lambda s: s["sequence"])
            async with page.session.post("/api/stop") as answer:
                assert answer.status == 200
            await page.until(lambda s: not s["sequence"] and s["state"] == "stopped")
            await page.post("reset")
            await page.post("sequence", json={"goals": goals})
            await page.until(lambda s: s["sequence"])
        async with browser(panel) as other:
            await other.until(lambda s: s["commander"] is None and not s["sequence"])

    asyncio.run(scenario())


def test_a_recording_has_the_marks_of_attempts_and_how_they_went(panel: SimpleNamespace) -> None:
    async def scenario() -> None:
        async with browser(panel) as page:
            await page.post("take")
            status, said = await page.post("record", json={"on": False})
            assert status == 409 and "nothing is being recorded" in said["error"]
            assert (await page.post("record", json={"on": True}))[0] == 200
            assert (await page.post("record", json={"on": True}))[0] == 409
            state = await page.until(lambda s: s["marks_heard"] and s["recording"])
            status, said = await page.post("mark", json={"mark": "success"})
            assert status == 409 and "no episode is running" in said["error"]
            assert (await page.post("mark", json={"mark": "fame"}))[0] == 409
            for mark in ("start", "success", "start", "failure", "start", "discard"):
                assert (await page.post("mark", json={"mark": mark}))[0] == 200
            file = panel.recordings / state["recording"]["file"]
            assert (await page.post("record", json={"on": False}))[0] == 200
            await page.until(lambda s: s["recording"] is None)
            recorded = [m.decode(m.data).data for m in read_messages(file) if m.topic == "/episode"]
            assert recorded == [
                *("start: attempt 1", "end: success", "start: attempt 2", "end: failure", "start: attempt 3", "discard")
            ]

    asyncio.run(scenario())


def test_the_report_of_the_model_is_a_page_that_runs_nothing_and_the_machine_is_examined_while_disarmed(
    panel: SimpleNamespace,
) -> None:
    async def scenario() -> None:
        async with browser(panel) as page:
            async with page.session.get("/report") as answer:
                text = await answer.text()
                assert answer.status == 200 and "default-src 'none'" in answer.headers["Content-Security-Policy"], text
            assert "<title>reach</title>" in text and "<script" not in text
            await page.post("take")
            async with page.session.get("/api/doctor") as answer:
                assert (await answer.json())["findings"] == []
            await page.arm()
            await page.until(lambda s: s["state"] == "armed")
            status, said = await page.post("doctor")
            assert status == 409 and "disarm it first" in said["error"]
            await page.post("disarm")
            await page.until(lambda s: s["state"] == "disarmed")
            status, said = await page.post("doctor")
            assert status == 200, said
            async with page.session.get("/api/doctor") as answer:
                findings = {each["check"]: each for each in (await answer.json())["findings"]}
            assert findings["model"]["state"] == "ok" and findings["camera topic"]["state"] == "ok"

    asyncio.run(scenario())


def test_a_region_of_the_picture_is_shown_as_in_a_robot_file_and_written_only_when_asked(
    panel: SimpleNamespace,
) -> None:
    async def scenario() -> None:
        async with browser(panel) as page:
            await page.post("take")
            await page.until(lambda s: page.pictures.get("c"))
            region = {"top": 10, "left": 20, "height": 90, "width": 120}
            status, said = await page.post("region", json={**region, "left": 100})
            assert status == 409 and "width is 120" in said["error"]  # the picture has 192 columns
            status, said = await page.post("region", json=region)
            assert status == 200 and said["said"] == "cameras: {above: {crop: [10, 20, 90, 120]}}"
            assert panel.robot_file.read_text() == ROBOT_FILE
            status, said = await page.post("region", json={**region, "write": True})
            assert status == 200, said
            assert panel.robot_file.read_text() == ROBOT_FILE.replace(
                "{height: 64", "{crop: [10, 20, 90, 120], height: 64"
            )
            assert list(panel.robot_file.parent.glob("*.yaml")) == [panel.robot_file]

    asyncio.run(scenario())
