# SPDX-License-Identifier: Apache-2.0
"""The cameras of a robot file that a recording is converted with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lewm_model.data.errors import DataError
from lewm_model.robot.observation import Camera
from lewm_model.robot.robot import load_robot


@dataclass(frozen=True)
class View:
    """The cameras whose pictures a model gets side by side, each with its topic, crop and size.

    :param options: options of `lewm convert` that choose them, for the recorded command line.
    """

    cameras: tuple[Camera, ...] = ()
    options: tuple[str, ...] = ()


ALL = "all"


def view_of(robot: str, names: Sequence[str]) -> View:
    """The cameras of a robot file that have these names, or all for [ALL], in the order of the file.

    :raises DataError: the file has no cameras, or none of such a name.
    :raises lewm_model.config.ConfigError: the robot file cannot be read.
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
