# SPDX-License-Identifier: Apache-2.0
"""The commands of the panel's page. `lewm_ros.panel.server` has checked who gives them."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter as RosParameter
from std_srvs.srv import SetBool, Trigger

from lewm_model.config import ConfigError
from lewm_model.robot.encodings import EncodingError, compressed_to_rgb
from lewm_model.robot.observation import Camera
from lewm_model.robot.robot import Robot, load_robot, with_crop
from lewm_ros.client import Station
from lewm_ros.goals import GoalError, read_goal
from lewm_ros.messages import MessageError, message_to_rgb
from lewm_ros.node import compressed_topic
from lewm_ros.panel.checks import CheckError, examine
from lewm_ros.panel.pictures import camera_at, size_side_by_side
from lewm_ros.panel.recordings import RecorderProcess
from lewm_ros.panel.ros import PanelNode
from lewm_ros.panel.sequence import GoalSequence
from lewm_ros.panel.state import number

ANSWER_S = 3.0  # how long a service of a node may take to answer
MOST_GOALS = 100  # of a sequence
MOST_S = 3600.0  # of a time that the page gives
# What the recorder subscribes to besides cameras. What is remapped for the panel is for the recorder, too.
RECORDED = (
    "joint_states",
    "arm_controller/joint_trajectory",
    "arm_controller/controller_state",
    "goal_image",
    "episode",
)
MARKS = {"end": "end", "success": "end: success", "failure": "end: failure", "discard": "discard"}  # of an episode


class Refused(Exception):
    """A command that is not carried out; the message tells the person at the page why."""


class Commands:
    """Each command takes the request of the page and returns a sentence for it, or raises Refused.

    :param check: raises Refused where the page of a request does not command any more.
    """

    def __init__(self, node: PanelNode, check: Callable[[web.Request], None]) -> None:
        self._node, self._known, self._check = node, node.known, check
        self._full_speed = 1.0  # share of full speed to return to after a hold
        self._reading = asyncio.Lock()  # one recording at a time
        self._examining = asyncio.Lock()
        self.findings: list[dict[str, str]] = []  # of the newest examination of this machine
        self._episode = ""  # name of the running episode
        self._episodes = 0
        self.sequence = GoalSequence(node.values["planner"], lambda level, text: self._note(level, text))
        self.recorder = RecorderProcess(lambda text: self._note("error", text))
        self.by_name: dict[str, Callable[[web.Request], Awaitable[str]]] = {
            "arm": self._arm,
            "disarm": self._disarm,
            "hold": self._hold,
            "speed": self._speed,
            "reset": lambda request: self.trigger("reset"),
            "cancel": self._cancel,
            "capture": self._capture,
            "goal": self._goal,
            "upload": self._upload,
            "recorded": self._recorded,
            "sequence": self._sequence,
            "dry_run": self._dry_run,
            "region": self._region,
            "doctor": self._doctor,
            "record": self._record,
            "mark": self._mark,
        }

    @property
    def state(self) -> dict[str, Any]:
        """Of sequence and recording, for the page."""
        return {
            "sequence": self.sequence.said,
            "recording": self.recorder.state,
            "marks_heard": self._node.marks.get_subscription_count() > 0,
            "episode": self._episode,
        }

    async def close(self) -> None:
        """Ends sequence and recording."""
        self.sequence.end()
        await self.recorder.end()

    # ---- the arm -----------------------------------------------------------------------------------------------------

    async def stop(self) -> str:
        """Stops the arm, and ends a sequence."""
        self.sequence.end()
        return await self.trigger("stop")

    async def _arm(self, request: web.Request) -> str:
        return _success(await self._call(self._node.enabling, SetBool.Request(data=True)))

    async def _disarm(self, request: web.Request) -> str:
        self.sequence.end()
        return _success(await self._call(self._node.enabling, SetBool.Request(data=False)))

    async def _hold(self, request: web.Request) -> str:
        status = self._known.newest("status")
        said = {} if status is None else {pair.key: pair.value for pair in status.values}
        if now := number(said.get("speed_scale")):
            self._full_speed = now
            self._node.speed(0.0)
            return "the arm holds; press it again to go on"
        self._node.speed(self._full_speed)
        return f"goes on at {self._full_speed:.0%}"

    async def _speed(self, request: web.Request) -> str:
        share = _within(await body(request), "share", 0.0, 1.0)
        self._node.speed(share)
        return f"{share:.0%} of full speed"

    async def _dry_run(self, request: web.Request) -> str:
        on = (await body(request)).get("on") is True
        parameters = [RosParameter("dry_run", value=on).to_parameter_msg()]
        answer = await self._call(self._node.setting, SetParameters.Request(parameters=parameters))
        if not answer.results[0].successful:
            raise Refused(answer.results[0].reason)
        return "nothing is sent to the arm" if on else "commands go to the arm"

    # ---- goals -------------------------------------------------------------------------------------------------------

    async def _cancel(self, request: web.Request) -> str:
        await self._end_sequence(request)
        return await self.trigger("cancel")

    async def _capture(self, request: web.Request) -> str:
        await self._give_way(request)
        return await self.trigger("capture")

    async def _goal(self, request: web.Request) -> str:
        name = str((await body(request)).get("name"))
        picture = self._named(name)
        await self._give_way(request)
        self._node.show_goal(picture)
        return f"{name} is the goal"

    async def _upload(self, request: web.Request) -> str:
        try:
            picture = compressed_to_rgb(await request.read())
        except EncodingError as error:
            raise Refused(f"not taken: {error}") from error
        return await self._new_goal(request, picture)

    async def _recorded(self, request: web.Request) -> str:
        return await self._new_goal(request, await self.frame(await body(request)))

    async def frame(self, wanted: dict[str, Any]) -> np.ndarray:
        """A picture (H, W, 3) uint8 RGB of a recording: `name`, and `at` in s and `episode` as for `read_goal`."""
        at_s, episode = _within(wanted, "at", 0.0, MOST_S), int(_within({"episode": 0, **wanted}, "episode", 0, 1e9))
        try:
            path = self._node.recordings.path(str(wanted.get("name")))
            async with self._reading:  # in a thread, as a long recording takes seconds
                return await asyncio.to_thread(read_goal, path, at_s, episode)
        except (GoalError, ImportError) as error:  # ImportError: mcap or h5py is not installed
            raise Refused(str(error)) from error

    async def _sequence(self, request: web.Request) -> str:
        wanted = await body(request)
        timeout_s, goals = _within({"timeout": 20.0, **wanted}, "timeout", 1.0, MOST_S), wanted.get("goals")
        if (
            not isinstance(goals, list)
            or not 0 < len(goals) <= MOST_GOALS
            or not all(isinstance(g, dict) for g in goals)
        ):
            raise Refused(
                f"a sequence has 1 to {MOST_GOALS} goals, each with name and dwell; choose them in the gallery"
            )
        names = [str(goal.get("name")) for goal in goals]
        stations = [
            Station(name, self._named(name), _within({"dwell": 0.0, **goal}, "dwell", 0.0, MOST_S))
            for name, goal in zip(names, goals, strict=True)
        ]
        await self._end_sequence(request)
        self.sequence.start(stations, timeout_s)
        return f"the sequence begins: {', '.join(names)}"

    async def _end_sequence(self, request: web.Request) -> None:
        """Ends a sequence and waits for it: it cancels its goal, and must not cancel the one that comes next.

        Meanwhile the page may have lost the command: then nothing more is done for it.
        """
        self.sequence.end()
        await asyncio.to_thread(self.sequence.join, ANSWER_S)
        if self.sequence.running:
            raise Refused("a sequence is running still; try it again")
        self._check(request)

    async def _give_way(self, request: web.Request) -> None:
        """Ends a sequence before another goal; where the page asks for a preview of what is imagined, it also disarms
        the arm first: to arm it is to confirm.
        """
        if "preview" in request.query:
            await self._disarm(request)
        await self._end_sequence(request)  # at last, since it looks whether the page still commands

    def _named(self, name: str) -> np.ndarray:
        try:
            return self._node.library.picture(name)
        except GoalError as error:
            raise Refused(str(error)) from error

    async def _new_goal(self, request: web.Request, picture: np.ndarray) -> str:
        """Keeps a picture (H, W, 3) uint8 RGB in the gallery and makes it the goal."""
        await self._give_way(request)
        try:
            kept = self._node.library.save(picture)
        except GoalError as error:
            raise Refused(f"not taken: {error}") from error
        self._node.show_goal(picture)
        return "the picture is the goal" + (f", and kept as {kept}" if kept else "")

    # ---- recording ---------------------------------------------------------------------------------------------------

    async def _record(self, request: web.Request) -> str:
        """Starts or ends the recorder."""
        if (await body(request)).get("on") is not True:
            await asyncio.to_thread(self._node.marks_arrived)
            self._episode, path = "", await self.recorder.end()
            if path is None:
                raise Refused("nothing is being recorded")
            return f"recorded to {path.name}"
        folder = self._node.recordings.folder
        if folder is None:
            raise Refused("there is no folder for recordings; start panel_node with -p recordings:=FOLDER")
        self._episode, self._episodes = "", 0
        try:
            path = await self.recorder.start(folder, self._recorder_arguments())
        except (RuntimeError, OSError) as error:
            raise Refused(str(error)) from error
        return f"recording to {path.name}"

    def _recorder_arguments(self) -> list[str]:
        node, kind = self._node, "compressed" if self._node.values["compressed"] else "raw"
        topics = {topic: node.resolve_topic_name(topic) for topic in (*RECORDED, *node.camera_topics)}
        topics |= {f"{topic}/compressed": compressed_topic(node, topic) for topic in node.camera_topics}
        arguments = ["-p", f"input:={kind}", "-r", f"__ns:={node.get_namespace()}"]
        try:
            if node.robot and load_robot(node.robot).cameras:
                arguments += ["-p", f"robot:={node.robot}"]
        except ConfigError as error:
            self._note("warn", f"the robot file's cameras are not recorded: {error}")
        return arguments + [word for old, new in topics.items() for word in ("-r", f"{old}:={new}")]

    async def _mark(self, request: web.Request) -> str:
        """Marks begin or end of an episode, and how an attempt went, on the topic that recorders keep."""
        mark = (await body(request)).get("mark")
        if not self._node.marks.get_subscription_count():
            raise Refused("nobody records episode marks; start a recording first")
        if mark == "start":
            self._episodes += 1
            self._episode = f"attempt {self._episodes}"
            self._node.mark(f"start: {self._episode}")
            return f"{self._episode} begins"
        if mark not in MARKS:
            raise Refused(f"the mark is {mark!r}; it must be start, {', '.join(MARKS)}")
        if not self._episode:
            raise Refused("no episode is running; start one first")
        self._node.mark(MARKS[mark])
        ended, self._episode = self._episode, ""
        return f"{ended}: {MARKS[mark].removeprefix('end: ')}"

    # ---- the camera's region -----------------------------------------------------------------------------------------

    async def _region(self, request: web.Request) -> str:
        """Shows the crop of a region of a camera's picture as in a robot file; `write` writes it to `robot_file`."""
        wanted, file = await body(request), self._node.values["robot_file"]
        seen = [self._known.newest(camera.topic) for camera in self._node.bundle.cameras]
        if any(picture is None for picture in seen):
            raise Refused("no picture of the camera has come yet")
        try:
            sizes = [message_to_rgb(picture).shape[:2] for picture in seen]
            high, wide = size_side_by_side(sizes)
            top, left = (int(_within(wanted, name, 0, size - 1)) for name, size in (("top", high), ("left", wide)))
            height, width = int(_within(wanted, "height", 1, high - top)), int(_within(wanted, "width", 1, wide - left))
            number, (top, left, height, width) = camera_at(sizes, top, left, height, width)
            camera = self._camera_of(load_robot(file), number) if file else self._node.bundle.cameras[number]
        except (ConfigError, MessageError, ValueError) as error:
            raise Refused(str(error)) from error
        if camera.rectify:
            raise Refused("the camera's pictures are rectified before they are cropped; measure the crop in those")
        high, wide = sizes[number]
        if camera.rotation == 180:  # a crop is measured in the turned picture
            top, left = high - top - height, wide - left - width
        crop = (top, left, height, width)
        said = f"cameras: {{{camera.name}: {{crop: {list(crop)}}}}}"
        if wanted.get("write") is not True:
            return said
        if not file:
            raise Refused("no file is named; start panel_node with -p robot_file:=FILE")
        try:
            _rewrite(Path(file), with_crop(Path(file).read_text(encoding="utf-8"), camera.name, crop))
        except (ConfigError, OSError) as error:
            raise Refused(f"{file} stays as it is: {error}") from error
        return f"{said} is in {file}; record and train with it, this model keeps its own crop"

    def _camera_of(self, robot: Robot, number: int) -> Camera:
        """The camera of a robot file that has the topic of the bundle's camera of this number."""
        topic = self._node.bundle.cameras[number].topic
        cameras = [camera for camera in robot.cameras if camera.topic == topic]
        if len(cameras) != 1:
            raise ConfigError(f"the robot file has {len(cameras)} cameras on {topic}; write the crop into it by hand")
        return cameras[0]

    # ---- checks ------------------------------------------------------------------------------------------------------

    async def _doctor(self, request: web.Request) -> str:
        """Examines this machine, which takes processor time that a moving arm needs."""
        status = self._known.newest("status")
        if status is not None and any(pair.key == "state" and pair.value == "armed" for pair in status.values):
            raise Refused("the arm is armed; disarm it first, the examination takes processor time")
        if self._examining.locked():
            raise Refused("the machine is being examined already")
        async with self._examining:
            try:
                self.findings = await examine(self._node)
            except CheckError as error:
                raise Refused(f"the machine could not be examined: {error}") from error
        failed = sum(finding["state"] == "fail" for finding in self.findings)
        return f"{failed} of {len(self.findings)} checks failed"

    # ---- services ----------------------------------------------------------------------------------------------------

    async def trigger(self, name: str) -> str:
        """Calls one of the node's triggers."""
        return _success(await self._call(self._node.triggers[name], Trigger.Request()))

    async def _call(self, client: Any, request: Any) -> Any:
        """Calls a service of a node and returns the response.

        :raises Refused: the service is not there, or does not answer in time.
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

    def _note(self, level: str, text: str) -> None:
        self._known.note("panel_node", level, text)


async def body(request: web.Request) -> dict[str, Any]:
    """The JSON object of a request; raises Refused where it has none."""
    try:
        found = await request.json()
    except ValueError as error:
        raise Refused(f"the request is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise Refused("the request is no JSON object")
    return found


def _rewrite(file: Path, text: str) -> None:
    """Replaces a robot file, if the new one can be loaded; it is never there in part."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, suffix=".yaml", delete=False) as new:
        new.write(text)
    try:
        load_robot(new.name)
        shutil.copymode(file, new.name)
        os.replace(new.name, file)
    finally:
        Path(new.name).unlink(missing_ok=True)


def _within(values: dict[str, Any], name: str, low: float, high: float) -> float:
    """A number of a request; raises Refused where it is none between `low` and `high`."""
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise Refused(f"{name} is {value!r}; it must be between {low:g} and {high:g}")
    return float(value)


def _success(answer: Any) -> str:
    if not answer.success:
        raise Refused(answer.message)
    return str(answer.message)
