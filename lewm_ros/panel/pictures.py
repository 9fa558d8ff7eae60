# SPDX-License-Identifier: Apache-2.0
"""The pictures of the panel, as JPEG: camera, goal, imagined future, and how the imagined end differs from the goal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from lewm_model.bundle.bundle import MOST_BLOCKS
from lewm_model.robot.encodings import EncodingError
from lewm_ros.messages import MessageError, message_to_array, message_to_rgb
from lewm_ros.node import STALE_S
from lewm_ros.panel.ros import PanelNode

Region = tuple[int, int, int, int]  # top, left, height and width, pixels
SIDE = 192  # pixels: height of each picture of the imagined future, and of a goal in the gallery


class Pictures:
    """JPEGs of the newest messages, each encoded once however many pages are open. Used from one thread."""

    def __init__(self, node: PanelNode) -> None:
        self._node = node
        self._made: dict[str, tuple[list[Any], bytes]] = {}  # by name: the messages of the newest picture, and its JPEG

        self.nearest_said = ""  # which recorded frame is nearest, for people

    def newest(self, name: str) -> bytes | None:
        """The JPEG of "camera", "goal", "imagined", "difference" or "nearest"; None where there is nothing to show."""
        known = self._node.known
        if name == "camera":
            return self._jpeg(name, [known.newest(topic, STALE_S) for topic in self._node.camera_topics], self._seen)
        if name == "goal":
            return self._jpeg(name, [known.newest("goal_image")], side_by_side)
        imagined = known.newest("imagined", STALE_S)
        if name == "nearest":
            self.nearest_said = self.nearest_said if imagined is not None else ""
            return self._jpeg(name, [imagined], lambda messages: self._nearest(messages[0]))
        if self._node.decoder is None:
            return None
        if name == "imagined":
            return self._jpeg(name, [imagined], lambda messages: self._strip(messages[0]))
        return self._jpeg(name, [imagined, known.newest("goal_image")], lambda messages: self._difference(*messages))

    def _jpeg(self, name: str, messages: list[Any], draw: Callable[[list[Any]], np.ndarray | None]) -> bytes | None:
        """The picture of some messages, drawn when one of them is new; None while one is missing."""
        if any(message is None for message in messages):
            return None
        made = self._made.get(name)
        if made is None or any(new is not old for new, old in zip(messages, made[0], strict=True)):
            try:
                picture = draw(messages)
                if picture is None:
                    return None
            except (MessageError, EncodingError, ValueError) as error:
                self._node.known.note("panel_node", "error", f"{name}: {error}")
                return None
            made = self._made[name] = (messages, to_jpeg(picture))
        return made[1]

    def _seen(self, messages: list[Any]) -> np.ndarray:
        """What the cameras see, with the planned paths over it where the camera's place is known."""
        picture, paths, known = side_by_side(messages), self._node.paths, self._node.known
        info, plan = known.newest("camera_info"), known.newest("plan", STALE_S)
        return (
            picture
            if paths is None or info is None
            else paths.draw(picture, info, plan, known.newest("elites", STALE_S))
        )

    def _latents(self, message: Any) -> np.ndarray:
        return message_to_array(message, self._node.bundle.model.latent_dim, most_rows=MOST_BLOCKS)[..., 0]

    def _imagined(self, message: Any) -> np.ndarray:
        assert self._node.decoder is not None
        return self._node.decoder.draw(self._latents(message))

    def _nearest(self, message: Any) -> np.ndarray | None:
        """The recorded frame nearest to the imagined end; None without a recording, and until it is known."""
        found = None if self._node.nearest is None else self._node.nearest.find(self._latents(message)[-1])
        if found is None:
            return None
        self.nearest_said = (
            f"episode {found.episode} at {found.at_s:.1f} s, {found.distance:.1f} times as far as recorded frames are "
            "from each other"
        )
        return sized(found.picture, SIDE)

    def _strip(self, message: Any) -> np.ndarray:
        """The imagined future, (SIDE, blocks * SIDE, 3) uint8 RGB: a picture a block, side by side."""
        return np.hstack([sized(picture, SIDE) for picture in self._imagined(message)])

    def _as_seen(self, goal: np.ndarray) -> np.ndarray:
        """A goal picture as the model sees it: one of a single camera is cropped and turned as its pictures are."""
        observation = self._node.bundle.observation
        if len(observation.cameras) > 1 or goal.shape[:2] == observation.size:
            return goal
        return observation.enlarged(SIDE).picture([goal])

    def _difference(self, imagined: Any, goal: Any) -> np.ndarray:
        """Brightness of the imagined end minus the goal's: grey where equal, red above it, blue below."""
        end = sized(self._imagined(imagined)[-1], SIDE).astype(float).mean(2)
        wanted = sized(self._as_seen(message_to_rgb(goal)), SIDE).astype(float).mean(2)
        more = np.clip(end - wanted, -120, 120)
        grey = np.full((*more.shape, 3), 128.0)
        grey += more[..., None] * np.array([1.0, -0.3, -1.0])
        return np.clip(grey, 0, 255).astype(np.uint8)


def side_by_side(messages: list[Any]) -> np.ndarray:
    """The pictures of image messages, as high as the highest."""
    pictures = [message_to_rgb(message) for message in messages]
    height = max(len(picture) for picture in pictures)
    return np.hstack([picture if len(picture) == height else sized(picture, height) for picture in pictures])


def size_side_by_side(sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """Height and width, pixels, of what `side_by_side` makes of pictures of these sizes."""
    highest = max(high for high, _ in sizes)
    return highest, sum(round(wide * highest / high) for high, wide in sizes)


def camera_at(sizes: list[tuple[int, int]], top: int, left: int, height: int, width: int) -> tuple[int, Region]:
    """Which of the pictures of these sizes (height, width), shown `side_by_side`, has a region, and the region in its
    own pixels.

    :raises ValueError: the region reaches over more than one picture.
    """
    highest, first = max(high for high, _ in sizes), 0
    for number, (high, wide) in enumerate(sizes):
        last = first + round(wide * highest / high)
        if first <= left and left + width <= last:
            upper, lower = (round(at * high / highest) for at in (top, top + height))
            begin, end = (min(wide, round((at - first) * high / highest)) for at in (left, left + width))
            return number, (upper, begin, max(1, lower - upper), max(1, end - begin))
        first = last
    raise ValueError("the region reaches over the pictures of two cameras; draw it within one")


def sized(picture: np.ndarray, height: int) -> np.ndarray:
    width = round(picture.shape[1] * height / picture.shape[0])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)


def to_jpeg(picture: np.ndarray) -> bytes:
    """A picture (H, W, 3) uint8 RGB as JPEG."""
    return cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
