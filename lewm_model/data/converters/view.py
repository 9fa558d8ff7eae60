# SPDX-License-Identifier: Apache-2.0
"""Which cameras of a robot file a recording is converted with, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lewm_model.data.errors import DataError
from lewm_model.robot.observation import Camera
from lewm_model.robot.robot import load_robot


@dataclass(frozen=True)
class View:
    """The cameras that a model sees side by side, each with its topic, crop and size.

    :param options: of `lewm convert` that choose them.
    """

    cameras: tuple[Camera, ...] = ()
    options: tuple[str, ...] = ()


ALL = "all"


def view_of(robot: str, names: Sequence[str]) -> View:
    """The cameras of a robot file of these names, or ALL, in the order of the file.

    :raises DataError: there are none, or none of such a name.
    :raises lewm_model.config.ConfigError: there is no such robot.
    """
    found = load_robot(robot).cameras
    known = [camera.name for camera in found]
    every = list(names) == [ALL]
    unknown = [] if every else sorted(set(names) - set(known))
    if unknown or not found:
        missing = f"no camera {unknown[0]!r}" if unknown else "no cameras"
        raise DataError(f"robot {robot} has {missing}; its file has {', '.join(known) or 'none'}, add it there")
    chosen = tuple(camera for camera in found if every or camera.name in names)
    return View(chosen, ("--robot", robot, "--cameras", ",".join(names)))
