# SPDX-License-Identifier: Apache-2.0
"""The panel: one web page that shows what the robot sees, wants, imagines and doubts, and lets one person command it.

    ros2 run lewm_ros panel_node --ros-args -p model:=models/reach

It prints its address, with a token: who has the token may command, who has only the address watches, and anybody may
stop. One browser commands at a time; when that one is lost, another may take over, and where the planner needs a
dead-man's button, losing it is letting go. It listens to what the other nodes publish, calls the planner's services,
and runs in a process of its own with a lower priority than the nodes that work. docs/panel.md describes the page.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import math
import os
import secrets
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from aiohttp import WSMsgType, web
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import Log
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image, Joy
from std_msgs.msg import Float32
from std_srvs.srv import SetBool, Trigger

from lewm_model.bundle.bundle import BundleError, load_bundle
from lewm_model.models.signature import measuring
from lewm_model.monitoring.vigilance import SURPRISING
from lewm_model.robot.encodings import EncodingError, compressed_to_rgb
from lewm_model.runtime.decoder import load_decoder
from lewm_model.runtime.errors import RuntimeLoadError
from lewm_ros.camera_node import LATCHED, NEWEST_FRAME
from lewm_ros.goals import GoalError, GoalLibrary
from lewm_ros.messages import MessageError, message_to_array, message_to_rgb, rgb_to_message
from lewm_ros.node import spin, start_ros
from lewm_ros.parameters import Parameter, ParameterError, declare, read

NICENESS = 10  # the planner comes first
PAGE = Path(__file__).parent / "panel"
FILES = {"": "index.html", "panel.js": "panel.js", "panel.css": "panel.css"}
STATE_HZ = 10.0  # how often the page is told what is new
LOOK_S = 0.25  # how often the node looks whether somebody watches
STALE_S = 1.5  # after which a surprise or an imagined future is no longer shown
HEARTBEAT_S = 0.5  # without a word from the commanding browser, its button counts as released
ANSWER_S = 3.0  # that a node may take to answer
MOST_EVENTS, MOST_BYTES = 500, 10_000_000  # that are kept of the log; of a picture that is sent
SIDE = 192  # pixels, of each picture of the imagined future
LOG_WARN, LOG_ERROR = 30, 40  # rcl_interfaces/Log; rclpy has them as bytes or as numbers
LIFELESS = "default-src 'self'; img-src 'self' blob:; style-src 'self'; frame-ancestors 'none'"
PARAMETERS = (
    Parameter("model", "models/reach", "Folder of the model bundle, the one of camera_node and planner_node."),
    Parameter("planner", "planner_node", "Name of the planner that is shown and commanded."),
    Parameter("camera", "camera_node", "Name of the camera node that captures goals."),
    Parameter("compressed", False, "Whether camera/image_raw has CompressedImage messages (JPEG, PNG) and not Image."),
    Parameter("goal_folder", "", "Folder of goal pictures, of the gallery; uploads are kept there. Empty has none."),
    Parameter("host", "127.0.0.1", "Address to listen on; another than this machine's own lets the network watch."),
    Parameter("port", 8765, "Port to listen on; 0 takes any that is free.", 0, 65535),
    Parameter("token", "", "What commands must come with; empty makes a new one at each start, and prints it."),
    Parameter("rate", 8.0, "Camera pictures per second that a page gets, at most.", 0.5, 30.0),
    Parameter("deadman_button", -1, "The planner's: the page then has a button to hold while it may move.", -1, 63),
)


class Refused(Exception):
    """A command that is not carried out; the message is for the person."""


@dataclass
class Known:
    """What the nodes have said, shared by the thread of ROS and that of the web server."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    said: dict[str, tuple[float, Any]] = field(default_factory=dict)  # newest of each topic, and when, steady s
    nodes: dict[str, dict[str, str]] = field(default_factory=dict)  # newest diagnostics of each node
    events: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MOST_EVENTS))
    happened: int = 0  # events so far

    def take(self, name: str, message: Any) -> None:
        with self.lock:
            self.said[name] = (time.monotonic(), message)

    def newest(self, name: str, newer_than_s: float = math.inf) -> Any:
        """The newest message of a topic; None where there is none, or only an older one."""
        with self.lock:
            came_s, message = self.said.get(name, (-math.inf, None))
        return message if time.monotonic() - came_s <= newer_than_s else None

    def note(self, who: str, level: str, text: str) -> None:
        """Keeps an event, unless it is the last one once more."""
        with self.lock:
            last = self.events[-1] if self.events else None
            if last is None or (last["who"], last["text"]) != (who, text):
                self.happened += 1
                event = {"number": self.happened, "at": time.time(), "who": who, "level": level, "text": text}
                self.events.append(event)


class PanelNode(Node):
    """The side of ROS.

    :raises ParameterError, BundleError, RuntimeLoadError, GoalError: what it cannot work with, and what to do.
    """

    def __init__(self) -> None:
        super().__init__("panel_node")
        declare(self, PARAMETERS)
        self.values = values = read(self, PARAMETERS)
        self.bundle = load_bundle(values["model"])
        self.decoder = load_decoder(self.bundle)
        self.library = GoalLibrary(values["goal_folder"])
        self.known = Known()
        planner = values["planner"]
        self._goals = self.create_publisher(Image, "goal_image", LATCHED)
        self._speed = self.create_publisher(Float32, f"{planner}/speed_scale", 1)
        self._joy = self.create_publisher(Joy, "joy", QoSProfile(depth=1))
        self.triggers = {name: self.create_client(Trigger, f"{planner}/{name}") for name in ("stop", "reset", "cancel")}
        self.triggers["capture"] = self.create_client(Trigger, f"{values['camera']}/capture_goal")
        self.enabling = self.create_client(SetBool, f"{planner}/enable")
        self.setting = self.create_client(SetParameters, f"{planner}/set_parameters")
        self.watched = False  # whether a page is open; pictures are listened to only then
        self._inputs: list[Any] = []
        self.create_timer(LOOK_S, self._look)
        self._subscribe(Image, "goal_image", LATCHED)  # is sent once, perhaps long before somebody looks
        self._subscribe(DiagnosticStatus, "goal_status", LATCHED)
        self.create_subscription(DiagnosticStatus, f"{planner}/status", self._on_status, LATCHED)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.create_subscription(Log, "/rosout", self._on_log, 50)

    def _subscribe(self, kind: Any, topic: str, quality: Any) -> Any:
        name = topic.rpartition("/")[2]
        return self.create_subscription(kind, topic, lambda message: self.known.take(name, message), quality)

    def _look(self) -> None:
        """Listens to pictures while somebody watches: the planner tells how it plans only to who asks."""
        if self.watched and not self._inputs:
            camera = CompressedImage if self.values["compressed"] else Image
            self._inputs = [
                self._subscribe(camera, "camera/image_raw", NEWEST_FRAME),
                self._subscribe(Float32, "surprise", NEWEST_FRAME),
                self._subscribe(Float32, "novelty", NEWEST_FRAME),
                self._subscribe(Image, f"{self.values['planner']}/imagined", NEWEST_FRAME),
            ]
        elif not self.watched and self._inputs:
            for subscription in self._inputs:
                self.destroy_subscription(subscription)
            self._inputs = []

    def _on_status(self, message: DiagnosticStatus) -> None:
        self.known.take("status", message)
        self.known.note(message.name, _level(message.level), message.message)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        with self.known.lock:
            for status in message.status:
                said = {pair.key: pair.value for pair in status.values}
                self.known.nodes[status.name] = {**said, "message": status.message, "level": _level(status.level)}

    def _on_log(self, message: Log) -> None:
        if message.level >= LOG_WARN and message.name != self.get_name():
            level = "error" if message.level >= LOG_ERROR else "warn"
            self.known.note(message.name, level, message.msg)

    # ---- commands; any thread may call them --------------------------------------------------------------------------

    def show_goal(self, picture: np.ndarray) -> None:
        """Sends a goal picture (H, W, 3) uint8 RGB."""
        self._goals.publish(rgb_to_message(picture, time.time_ns()))

    def speed(self, share: float) -> None:
        """Sets the share of full speed; 0 holds the arm."""
        self._speed.publish(Float32(data=share))

    def press(self, pressed: bool) -> None:
        """Says whether the dead-man's button is pressed."""
        button = self.values["deadman_button"]
        if button >= 0:
            self._joy.publish(Joy(buttons=[0] * button + [int(pressed)]))


def _level(level: bytes) -> str:
    return ("ok", "warn", "error", "error")[min(3, int.from_bytes(level, "little"))]


# ---- pictures --------------------------------------------------------------------------------------------------------


class Pictures:
    """JPEGs of what the nodes show, each made once, however many watch. Used from one thread."""

    def __init__(self, node: PanelNode) -> None:
        self._node, self._made = node, {}  # type: PanelNode, dict[str, tuple[Any, bytes]]

    def newest(self, name: str) -> bytes | None:
        """The JPEG of "camera", "goal", "imagined" or "difference"; None where there is nothing to show."""
        known = self._node.known
        if name == "camera":
            return self._jpeg(name, known.newest("image_raw", STALE_S), message_to_rgb)
        if name == "goal":
            return self._jpeg(name, known.newest("goal_image"), message_to_rgb)
        imagined = known.newest("imagined", STALE_S)
        if imagined is None or self._node.decoder is None:
            return None
        if name == "imagined":
            return self._jpeg(name, imagined, self._strip)
        return self._jpeg(name, imagined, self._difference)

    def _jpeg(self, name: str, message: Any, draw: Callable[[Any], np.ndarray]) -> bytes | None:
        if message is None:
            return None
        made = self._made.get(name)
        if made is None or made[0] is not message:
            try:
                picture = draw(message)
            except (MessageError, EncodingError, ValueError) as error:
                self._node.known.note("panel_node", "error", f"{name}: {error}")
                return None
            made = self._made[name] = (message, to_jpeg(picture))
        return made[1]

    def _imagined(self, message: Any) -> np.ndarray:
        assert self._node.decoder is not None
        latents = message_to_array(message, self._node.bundle.model.latent_dim, most_rows=64)[..., 0]
        return self._node.decoder.draw(latents)

    def _strip(self, message: Any) -> np.ndarray:
        """What is imagined, side by side."""
        return np.hstack([_sized(picture, SIDE) for picture in self._imagined(message)])

    def _difference(self, message: Any) -> np.ndarray:
        """The imagined end beside the goal: grey where they are equal, red and blue where one is the brighter."""
        end = _sized(self._imagined(message)[-1], SIDE).astype(float).mean(2)
        goal = self._node.known.newest("goal_image")
        if goal is None:
            raise ValueError("there is no goal picture to compare with")
        wanted = _sized(message_to_rgb(goal), SIDE).astype(float).mean(2)
        more = np.clip(end - wanted, -120, 120)
        grey = np.full((*more.shape, 3), 128.0)
        grey += more[..., None] * np.array([1.0, -0.3, -1.0])
        return np.clip(grey, 0, 255).astype(np.uint8)


def _sized(picture: np.ndarray, height: int) -> np.ndarray:
    width = round(picture.shape[1] * height / picture.shape[0])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)


def to_jpeg(picture: np.ndarray) -> bytes:
    """A picture (H, W, 3) uint8 RGB as JPEG."""
    return cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


# ---- the web server --------------------------------------------------------------------------------------------------


class Panel:
    """The side of the web. Everything here runs in one asyncio thread."""

    def __init__(self, node: PanelNode) -> None:
        self._node, self._known = node, node.known
        self.token = node.values["token"] or secrets.token_urlsafe(16)
        self._pictures = Pictures(node)
        self._watching: dict[str, web.WebSocketResponse] = {}  # by the name that the browser gives itself
        self.commander: str | None = None
        self._pressed_s = -math.inf  # when the commanding browser last said that its button is held
        self._held = False
        self._full_speed = 1.0  # to go on with after a hold
        self.own: set[str] = set()  # what a page of ours calls this server
        self.application = web.Application(client_max_size=MOST_BYTES, middlewares=[self._guard])
        self.application.add_routes(
            [
                web.get("/ws", self._watch),
                web.get("/api/goals", self._goals),
                web.get("/api/goals/{name}.jpg", self._goal_picture),
                web.get("/api/bundle", self._bundle),
                web.post("/api/stop", self._stop),
                web.post("/api/{command}", self._command),
                web.get("/{file:(panel\\.js|panel\\.css)?}", self._file),
            ]
        )
        self.application.cleanup_ctx.append(self._told)

    async def _told(self, application: web.Application) -> Any:
        tasks = [asyncio.create_task(self._tell()), asyncio.create_task(self._hold_button())]
        yield
        for task in tasks:
            task.cancel()
        self._node.press(False)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Callable[[web.Request], Awaitable[Any]]) -> Any:
        """Turns away pages of others: a page anywhere on the web can make a browser send requests to this address."""
        origin = request.headers.get("Origin")
        mine = f"{request.scheme}://{request.host}"
        called = request.host.rpartition(":")[0].strip("[]")
        if self.own and called not in self.own:  # a name of somebody else's that leads to this address
            return web.json_response({"error": f"this panel is not {request.host}"}, status=403)
        if origin is not None and origin != mine:
            return web.json_response({"error": f"pages of {origin} may not use this panel"}, status=403)
        try:
            response = await handler(request)
        except Refused as refusal:
            response = web.json_response({"error": str(refusal)}, status=409)
        if not response.prepared:
            response.headers.update(
                {"Content-Security-Policy": LIFELESS, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
            )
        return response

    async def _file(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(PAGE / FILES[request.match_info["file"]])

    # ---- what everybody sees -----------------------------------------------------------------------------------------

    async def _watch(self, request: web.Request) -> web.WebSocketResponse:
        """A page: it is told the state and gets pictures, and says whether its button is held."""
        socket = web.WebSocketResponse(heartbeat=10.0)  # the button has a shorter one of its own
        await socket.prepare(request)
        name = secrets.token_urlsafe(8)
        self._watching[name] = socket
        try:
            await socket.send_json({"you": name})
            async for message in socket:
                if message.type == WSMsgType.TEXT and self.commander == name:
                    self._pressed_s = time.monotonic() if message.data == "held" else -math.inf
        finally:
            del self._watching[name]
            if self.commander == name:
                self.commander, self._pressed_s = None, -math.inf
                self._known.note("panel_node", "warn", "the browser that commanded is gone")
        return socket

    async def _tell(self) -> None:
        """Sends what is new to every page, no faster than it takes it."""
        sent: dict[str, dict[str, bytes | None]] = {}
        busy: dict[str, asyncio.Task[None]] = {}
        period_s, next_picture_s = 1.0 / STATE_HZ, 0.0
        while True:
            await asyncio.sleep(period_s)
            self._node.watched = bool(self._watching)
            if not self._watching:
                continue
            state = json.dumps(self.state(), allow_nan=False)
            pictures: dict[str, bytes | None] = {}
            if time.monotonic() >= next_picture_s:
                next_picture_s = time.monotonic() + 1.0 / self._node.values["rate"] - period_s / 2
                pictures = {name: self._pictures.newest(name) for name in ("camera", "goal", "imagined", "difference")}
            for name, socket in list(self._watching.items()):
                if name not in busy or busy[name].done():
                    has = sent.setdefault(name, {})
                    new = {kind: jpeg for kind, jpeg in pictures.items() if has.get(kind) is not jpeg}
                    has.update(new)
                    busy[name] = asyncio.create_task(_send(socket, state, new))
            for name in set(sent) - set(self._watching):
                del sent[name]
                busy.pop(name, None)

    def state(self) -> dict[str, Any]:
        """What the page shows, besides pictures."""
        known, values = self._known, self._node.values
        alive = self._node.count_publishers(f"{values['planner']}/status") > 0
        status = known.newest("status") if alive else None
        said = {} if status is None else {pair.key: pair.value for pair in status.values}
        with known.lock:
            nodes = {name: dict(found) for name, found in known.nodes.items()}
            events, happened = list(known.events)[-60:], known.happened
        planner = next((found for name, found in nodes.items() if name.endswith(values["planner"])), {})
        surprise, novelty = known.newest("surprise", STALE_S), known.newest("novelty", STALE_S)
        goal_status = known.newest("goal_status")
        calibration = self._node.bundle.calibration
        return {
            "state": said.get("state", "no planner"),
            "reason": "nothing is heard of the planner" if status is None else status.message,
            "reached": said.get("reached") == "yes",
            "dry_run": status is not None and status.message.startswith("dry run"),
            "speed": _number(said.get("speed_scale")),
            "distance": _number(said.get("distance")),
            "distance_limit": None if calibration is None else calibration.reached,
            "unit": "control steps" if measuring(self._node.bundle.heads) else "squared latent distance",
            "cost": _number(said.get("cost")),
            "saturation": _number(said.get("saturation")),
            "surprise": None if surprise is None else _finite(surprise.data),
            "novelty": None if novelty is None else _finite(novelty.data),
            "surprise_limit": SURPRISING,
            "latency": {
                f"{stage}_{p}": _number(planner.get(f"{stage}_ms_{p}"))
                for stage in ("plan", "frame_to_command")
                for p in ("p50", "p95")
            },
            "late": _number(planner.get("plans_late")),
            "plans": _number(planner.get("plans")),
            "interventions": {
                key.removeprefix("interventions "): value
                for key, value in planner.items()
                if key.startswith("interventions") and value != "0"
            },
            "nodes": {name: {"level": found["level"], "message": found["message"]} for name, found in nodes.items()},
            "goal": "" if goal_status is None else goal_status.message,
            "block_s": self._node.bundle.actions.block_s,
            "deadman": values["deadman_button"] >= 0,
            "held": self._held,
            "commander": self.commander,
            "watching": len(self._watching),
            "events": events,
            "happened": happened,
        }

    async def _goals(self, request: web.Request) -> web.Response:
        return web.json_response({"goals": self._node.library.names(), "folder": self._node.values["goal_folder"]})

    async def _goal_picture(self, request: web.Request) -> web.Response:
        try:
            picture = self._node.library.picture(request.match_info["name"])
        except GoalError as error:
            raise Refused(str(error)) from error
        return web.Response(body=to_jpeg(_sized(picture, SIDE)), content_type="image/jpeg")

    async def _bundle(self, request: web.Request) -> web.Response:
        bundle = self._node.bundle
        preflight = bundle.evaluation.get("preflight", {})
        return web.json_response(
            {
                "name": bundle.folder.resolve().name,
                "task": bundle.task,
                "joints": list(bundle.actions.names),
                "preflight": preflight.get("verdict", "not judged"),
                "reason": preflight.get("reason", "run `lewm doctor model` with this model"),
                "checks": [
                    {"name": check["name"], "good": check["good"], "found": check["found"]}
                    for check in preflight.get("checks", [])
                ],
                "calibrated": bundle.calibration is not None,
            }
        )

    # ---- commands ----------------------------------------------------------------------------------------------------

    async def _stop(self, request: web.Request) -> web.Response:
        """Needs no token and no right to command: whoever sees that something goes wrong may stop it."""
        self._known.note("panel_node", "warn", "stop was pressed")
        return web.json_response({"said": await self._trigger("stop")})

    async def _command(self, request: web.Request) -> web.Response:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            return web.json_response({"error": "open the address with the token that panel_node printed"}, status=401)
        who, command = request.headers.get("X-Panel", ""), request.match_info["command"]
        if who not in self._watching:
            raise Refused("this page is not connected; load it again")
        if command == "take":
            if self.commander not in (None, who):
                raise Refused("somebody else commands; they must give it back first, or close their page")
            self.commander = who
            return web.json_response({"said": "you command"})
        if self.commander != who:
            raise Refused("take the command first")
        if command == "give":
            self.commander, self._pressed_s = None, -math.inf
            return web.json_response({"said": "you watch"})
        commands: dict[str, Callable[[web.Request], Awaitable[str]]] = {
            "arm": self._arm,
            "disarm": self._disarm,
            "hold": self._hold,
            "speed": self._speed,
            "reset": lambda request: self._trigger("reset"),
            "cancel": lambda request: self._trigger("cancel"),
            "capture": lambda request: self._trigger("capture"),
            "goal": self._goal,
            "upload": self._upload,
            "dry_run": self._dry_run,
        }
        if command not in commands:
            raise web.HTTPNotFound
        said = await commands[command](request)
        self._known.note("panel_node", "ok", f"{command}: {said}")
        return web.json_response({"said": said})

    async def _arm(self, request: web.Request) -> str:
        return _success(await self._call(self._node.enabling, SetBool.Request(data=True)))

    async def _disarm(self, request: web.Request) -> str:
        return _success(await self._call(self._node.enabling, SetBool.Request(data=False)))

    async def _hold(self, request: web.Request) -> str:
        status = self._known.newest("status")
        said = {} if status is None else {pair.key: pair.value for pair in status.values}
        if now := _number(said.get("speed_scale")):
            self._full_speed = now
            self._node.speed(0.0)
            return "the arm holds; press it again to go on"
        self._node.speed(self._full_speed)
        return f"goes on at {self._full_speed:.0%}"

    async def _speed(self, request: web.Request) -> str:
        share = (await _body(request)).get("share")
        if not isinstance(share, (int, float)) or not 0.0 <= share <= 1.0:
            raise Refused(f"the speed is {share!r}; it must be between 0 and 1")
        self._node.speed(float(share))
        return f"{share:.0%} of full speed"

    async def _dry_run(self, request: web.Request) -> str:
        on = (await _body(request)).get("on") is True
        parameters = [RosParameter("dry_run", value=on).to_parameter_msg()]
        answer = await self._call(self._node.setting, SetParameters.Request(parameters=parameters))
        if not answer.results[0].successful:
            raise Refused(answer.results[0].reason)
        return "nothing is sent to the arm" if on else "commands go to the arm"

    async def _goal(self, request: web.Request) -> str:
        name = str((await _body(request)).get("name"))
        try:
            self._node.show_goal(self._node.library.picture(name))
        except GoalError as error:
            raise Refused(str(error)) from error
        return f"{name} is the goal"

    async def _upload(self, request: web.Request) -> str:
        try:
            picture = compressed_to_rgb(await request.read())
            kept = self._node.library.save(picture)
        except (EncodingError, GoalError) as error:
            raise Refused(f"not taken: {error}") from error
        self._node.show_goal(picture)
        return "the picture is the goal" + (f", and kept as {kept}" if kept else "")

    async def _trigger(self, name: str) -> str:
        return _success(await self._call(self._node.triggers[name], Trigger.Request()))

    async def _call(self, client: Any, request: Any) -> Any:
        """Calls a service.

        :raises Refused: nobody serves it, or it does not answer in time.
        """
        if not client.service_is_ready():
            raise Refused(f"{client.srv_name} is not there; is the node up?")
        loop, answered = asyncio.get_running_loop(), asyncio.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(answered.set))
        try:
            await asyncio.wait_for(answered.wait(), ANSWER_S)
        except asyncio.TimeoutError:
            raise Refused(f"{client.srv_name} has not answered for {ANSWER_S:g} s") from None
        return future.result()

    async def _hold_button(self) -> None:
        """Passes on that the commanding browser holds its button; what is not heard of in time is let go."""
        while True:
            await asyncio.sleep(0.05)
            held = time.monotonic() - self._pressed_s < HEARTBEAT_S
            if held or self._held:
                self._node.press(held)
            self._held = held


async def _send(socket: web.WebSocketResponse, state: str, pictures: Mapping[str, bytes | None]) -> None:
    """The state, then pictures: a byte for the first letter of what it is, and a JPEG, empty where there is none."""
    try:
        await socket.send_str(state)
        for name, jpeg in pictures.items():
            await socket.send_bytes(name[0].encode() + (jpeg or b""))
    except (ConnectionError, RuntimeError):
        pass  # it has gone; its own coroutine notices


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError as error:
        raise Refused(f"what was sent is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise Refused("what was sent is no JSON object")
    return body


def _success(answer: Any) -> str:
    if not answer.success:
        raise Refused(answer.message)
    return str(answer.message)


def _number(text: Any) -> float | None:
    """None for what is no finite number: JSON has no other."""
    try:
        return _finite(float(text))
    except (TypeError, ValueError):
        return None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# ---- the process -----------------------------------------------------------------------------------------------------


async def serve(panel: Panel, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serves until it is cancelled; `ready` gets the address.

    :raises OSError: the port cannot be had.
    """
    runner = web.AppRunner(panel.application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        server = site._server
        assert isinstance(server, asyncio.Server)
        if host in ("127.0.0.1", "localhost", "::1"):
            panel.own = {"127.0.0.1", "localhost", "::1"}
        ready(f"http://{host}:{server.sockets[0].getsockname()[1]}/")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the node until the process is told to end (SIGINT, SIGTERM)."""
    os.nice(NICENESS)
    start_ros(arguments)
    try:
        node = PanelNode()
    except (ParameterError, BundleError, RuntimeLoadError, GoalError) as error:
        rclpy.try_shutdown()
        sys.exit(f"panel_node: {error}")
    panel = Panel(node)
    executor, ended = SingleThreadedExecutor(), threading.Event()
    executor.add_node(node)
    thread = threading.Thread(target=spin, args=(executor, lambda: not ended.is_set(), node), daemon=True)
    thread.start()

    def ready(address: str) -> None:
        node.get_logger().info(f"the panel is at {address}#token={panel.token} (without the token it only shows)")

    async def until_told() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        await serve(panel, node.values["host"], node.values["port"], ready)

    try:
        asyncio.run(until_told())
    except (asyncio.CancelledError, KeyboardInterrupt):
        pass
    except OSError as error:
        node.get_logger().fatal(f"the panel cannot listen on {node.values['host']}:{node.values['port']}: {error}")
    finally:
        ended.set()
        thread.join(2.0)
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
