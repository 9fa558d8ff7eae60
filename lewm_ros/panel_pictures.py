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
from lewm_ros.panel_ros import PanelNode

SIDE = 192  # pixels: height of each picture of the imagined future, and of a goal in the gallery


class Pictures:
    """JPEGs of the newest messages, each encoded once however many pages are open. Used from one thread."""

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
        latents = message_to_array(message, self._node.bundle.model.latent_dim, most_rows=MOST_BLOCKS)[..., 0]
        return self._node.decoder.draw(latents)

    def _strip(self, message: Any) -> np.ndarray:
        """The imagined future, (SIDE, blocks * SIDE, 3) uint8 RGB: a picture a block, side by side."""
        return np.hstack([sized(picture, SIDE) for picture in self._imagined(message)])

    def _difference(self, message: Any) -> np.ndarray:
        """Brightness of the imagined end minus the goal's: grey where equal, red above it, blue below."""
        end = sized(self._imagined(message)[-1], SIDE).astype(float).mean(2)
        goal = self._node.known.newest("goal_image")
        if goal is None:
            raise ValueError("there is no goal picture to compare with")
        wanted = sized(message_to_rgb(goal), SIDE).astype(float).mean(2)
        more = np.clip(end - wanted, -120, 120)
        grey = np.full((*more.shape, 3), 128.0)
        grey += more[..., None] * np.array([1.0, -0.3, -1.0])
        return np.clip(grey, 0, 255).astype(np.uint8)


def sized(picture: np.ndarray, height: int) -> np.ndarray:
    width = round(picture.shape[1] * height / picture.shape[0])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)


def to_jpeg(picture: np.ndarray) -> bytes:
    """A picture (H, W, 3) uint8 RGB as JPEG."""
    return cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
