# SPDX-License-Identifier: Apache-2.0
"""The web server of the panel: pages that watch over a web socket, and commands over HTTP."""

from __future__ import annotations

import asyncio
import hmac
import json
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from lewm_ros.goals import GoalError
from lewm_ros.panel.checks import CheckError, report
from lewm_ros.panel.commands import Commands, Refused
from lewm_ros.panel.pictures import SIDE, Pictures, sized, to_jpeg
from lewm_ros.panel.ros import PanelNode
from lewm_ros.panel.state import state_of

PAGE = Path(__file__).parent / "page"
FILES = {"": "index.html", "panel.js": "panel.js", "panel.css": "panel.css", "icon.svg": "icon.svg"}
NAMES = ("camera", "goal", "imagined", "difference", "nearest")  # of the pictures; each has a first letter of its own
STATE_HZ = 10.0  # how often pages get the state
HEARTBEAT_S = 0.5  # without a message from the commanding browser, its dead-man's button counts as released
NO_TOKEN = "open the address with the token that panel_node printed"
MOST_BYTES = 10_000_000  # of a picture that is uploaded
HEADERS = {
    # The page runs no script and shows no picture but its own, and cannot be put into a frame of another page.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; style-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
# The report's page has its style and pictures inside, and runs nothing.
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"


class Panel:
    """Serves the page, its pictures and its commands. Everything here runs in one asyncio thread."""

    def __init__(self, node: PanelNode) -> None:
        self._node, self._known = node, node.known
        self.token = node.values["token"] or secrets.token_urlsafe(16)
        self._pictures, self._commands = Pictures(node), Commands(node, self._check_commander)
        self._watching: dict[str, web.WebSocketResponse] = {}  # by the name that `_watch` gives to the page
        self.commander: str | None = None
        self._pressed_s = -math.inf  # steady time of the last message of the commander that its button is held
        self._held = False
        self._reporting, self._reported = asyncio.Lock(), None  # type: asyncio.Lock, bytes | None
        self.own: set[str] = set()  # host names under which the page may be opened; empty allows any
        self.application = web.Application(client_max_size=MOST_BYTES, middlewares=[self._guard])
        self.application.add_routes(
            [
                web.get("/ws", self._watch),
                web.get("/api/events", self._events),
                web.get("/api/goals", self._goals),
                web.get("/api/goals/{name}.jpg", self._goal_picture),
                web.get("/api/recordings", self._recordings),
                web.get("/api/recordings/{name}.jpg", self._recorded_picture),
                web.get("/api/bundle", self._bundle),
                web.get("/api/doctor", self._doctor),
                web.get("/report", self._report),
                web.post("/api/stop", self._stop),
                web.post("/api/{command}", self._command),
                web.get("/{file:(panel\\.js|panel\\.css|icon\\.svg)?}", self._file),
            ]
        )
        self.application.cleanup_ctx.append(self._told)

    async def _told(self, application: web.Application) -> Any:
        tasks = [asyncio.create_task(self._tell()), asyncio.create_task(self._hold_button())]
        yield
        for task in tasks:
            task.cancel()
        self._node.press(False)
        await self._commands.close()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Callable[[web.Request], Awaitable[Any]]) -> Any:
        """Refuses requests of other web pages: any page can make a browser send requests to this address."""
        origin = request.headers.get("Origin")
        mine = f"{request.scheme}://{request.host}"
        called = request.host.rpartition(":")[0].strip("[]")
        if self.own and called not in self.own:  # a foreign name that resolves to this address (DNS rebinding)
            return web.json_response({"error": f"this panel is not {request.host}"}, status=403)
        if origin is not None and origin != mine:
            return web.json_response({"error": f"pages of {origin} may not use this panel"}, status=403)
        try:
            response = await handler(request)
        except Refused as refusal:
            response = web.json_response({"error": str(refusal)}, status=409)
        if not response.prepared:
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
        return response

    async def _file(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(PAGE / FILES[request.match_info["file"]])

    # ---- watching ----------------------------------------------------------------------------------------------------

    async def _watch(self, request: web.Request) -> web.WebSocketResponse:
        """The web socket of one page: it gets state and pictures, and sends whether its dead-man's button is held."""
        socket = web.WebSocketResponse(heartbeat=10.0)  # s; the dead-man's button has a shorter timeout, HEARTBEAT_S
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
                self._release()
                self._known.note("panel_node", "warn", "the browser that commanded is gone")
        return socket

    async def _tell(self) -> None:
        """Sends state and new pictures to every page, to a slow one less often."""
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
                pictures = {name: self._pictures.newest(name) for name in NAMES}
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
        """What the page shows besides pictures, for JSON."""
        return {
            **state_of(self._node),
            **self._commands.state,
            "nearest": self._pictures.nearest_said,
            "held": self._held,
            "commander": self.commander,
            "watching": len(self._watching),
        }

    async def _events(self, request: web.Request) -> web.Response:
        """All events that are kept, the oldest first; the state has the newest only."""
        with self._known.lock:
            return web.json_response({"events": list(self._known.events)})

    async def _goals(self, request: web.Request) -> web.Response:
        return web.json_response({"goals": self._node.library.names(), "folder": self._node.values["goal_folder"]})

    async def _goal_picture(self, request: web.Request) -> web.Response:
        try:
            picture = self._node.library.picture(request.match_info["name"])
        except GoalError as error:
            raise Refused(str(error)) from error
        return web.Response(body=to_jpeg(sized(picture, SIDE)), content_type="image/jpeg")

    async def _recordings(self, request: web.Request) -> web.Response:
        folder = self._node.recordings.folder
        return web.json_response({"recordings": self._node.recordings.names(), "folder": str(folder or "")})

    async def _recorded_picture(self, request: web.Request) -> web.Response:
        """A picture of a recording, for who commands: reading one costs time."""
        if not self._has_token(request):
            return web.json_response({"error": NO_TOKEN}, status=401)
        self._check_commander(request)
        try:
            wanted = {"at": float(request.query["at"]), "episode": int(request.query.get("episode", 0))}
        except (KeyError, ValueError) as error:
            raise Refused(f"say at which second of the recording: {error}") from error
        picture = await self._commands.frame({"name": request.match_info["name"], **wanted})
        return web.Response(body=to_jpeg(sized(picture, SIDE)), content_type="image/jpeg")

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

    async def _doctor(self, request: web.Request) -> web.Response:
        return web.json_response({"findings": self._commands.findings})

    async def _report(self, request: web.Request) -> web.Response:
        """The bundle's report. It is made once, as it takes seconds and the bundle stays the same."""
        async with self._reporting:
            if self._reported is None:
                try:
                    self._reported = await report(self._node)
                except CheckError as error:
                    raise Refused(f"there is no report: {error}") from error
        headers = {"Content-Security-Policy": REPORT_POLICY}
        return web.Response(body=self._reported, content_type="text/html", charset="utf-8", headers=headers)

    # ---- commands ----------------------------------------------------------------------------------------------------

    async def _stop(self, request: web.Request) -> web.Response:
        """Needs no token and no right to command: whoever sees that something goes wrong may stop the arm."""
        self._known.note("panel_node", "warn", "stop was pressed")
        return web.json_response({"said": await self._commands.stop()})

    def _has_token(self, request: web.Request) -> bool:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        return hmac.compare_digest(given.encode(), self.token.encode())

    def _check_commander(self, request: web.Request) -> None:
        """Raises Refused where the page of a request does not command."""
        if self.commander is None or self.commander != request.headers.get("X-Panel", ""):
            raise Refused("take the command first")

    async def _command(self, request: web.Request) -> web.Response:
        if not self._has_token(request):
            return web.json_response({"error": NO_TOKEN}, status=401)
        who, command = request.headers.get("X-Panel", ""), request.match_info["command"]
        if who not in self._watching:
            raise Refused("this page is not connected; load it again")
        if command == "take":
            if self.commander not in (None, who):
                raise Refused("somebody else commands; they must give it back first, or close their page")
            self.commander = who
            return web.json_response({"said": "you command"})
        self._check_commander(request)
        if command == "give":
            self._release()
            return web.json_response({"said": "you watch"})
        if command not in self._commands.by_name:
            raise web.HTTPNotFound
        said = await self._commands.by_name[command](request)
        self._known.note("panel_node", "ok", f"{command}: {said}")
        return web.json_response({"said": said})

    def _release(self) -> None:
        """Nobody commands any more: the dead-man's button is let go, and no further goal of a sequence is sent."""
        self.commander, self._pressed_s = None, -math.inf
        self._commands.sequence.end()

    async def _hold_button(self) -> None:
        """Publishes the dead-man's button of the commanding browser; a browser that is silent has released it."""
        while True:
            await asyncio.sleep(0.05)
            held = time.monotonic() - self._pressed_s < HEARTBEAT_S
            if held or self._held:
                self._node.press(held)
            self._held = held


async def _send(socket: web.WebSocketResponse, state: str, pictures: Mapping[str, bytes | None]) -> None:
    """Sends the state as text, then each picture as bytes: the first letter of its name and a JPEG, empty for none."""
    try:
        await socket.send_str(state)
        for name, jpeg in pictures.items():
            await socket.send_bytes(name[0].encode() + (jpeg or b""))
    except (ConnectionError, RuntimeError):
        pass  # the page was closed, which `_watch` notices


async def serve(panel: Panel, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serves until the task is cancelled; `ready` gets the address of the page.

    :raises OSError: the port is in use or not allowed.
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
