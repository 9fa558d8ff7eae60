# SPDX-License-Identifier: Apache-2.0
"""Conversion of recordings of every kind into one HDF5 file of episodes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py

from lewm_model.config import RECORDED_SIDE
from lewm_model.data.converters.columns import Columns
from lewm_model.data.converters.conversion import Conversion
from lewm_model.data.converters.hdf5 import SIGNATURE, salvage_hdf5
from lewm_model.data.converters.lerobot import convert_lerobot, is_lerobot
from lewm_model.data.converters.rosbag2.convert import convert_bag
from lewm_model.data.converters.rosbag2.messages import Topics
from lewm_model.data.converters.rosbag2.streams import CLOCKS
from lewm_model.data.converters.view import View
from lewm_model.data.errors import DataError
from lewm_model.data.pairing import pair_file
from lewm_model.robot.observation import ObservationError

HDF5 = (".h5", ".hdf5")


def is_hdf5(path: Path) -> bool:
    """Whether it is an HDF5 recording, by its name or its content: a damaged one may have lost its beginning."""
    if path.suffix in HDF5 or not path.is_file():
        return path.suffix in HDF5
    with open(path, "rb") as stream:
        return stream.read(len(SIGNATURE)) == SIGNATURE


def convert(
    paths: Sequence[Path],
    out: Path,
    control_dt_s: float | None = None,
    tolerance_s: float | None = None,
    image_size: int | None = None,
    columns: Columns | None = None,
    topics: Topics | None = None,
    clock: str | None = None,
    camera: str | None = None,
    action: str | None = None,
    actions_are: str | None = None,
    accept_doubts: bool = False,
    view: View | None = None,
) -> Conversion:
    """Writes recordings of ROS 2 (any number), one LeRobot data set, or one HDF5 recording, damaged or not, to `out`.

    The parameters are those of `convert_bag`, `convert_lerobot` and `salvage_hdf5`; None takes their default.

    :param accept_doubts: write a recording even if its actions do not fit its pictures.
    :raises DataError: nothing can be converted, or a parameter does not apply to this kind of recording.
    """
    if any(out.exists() and path.exists() and out.samefile(path) for path in paths):
        raise DataError(f"{out} cannot be written over itself; give another --out")
    single, columns = paths[0] if len(paths) == 1 else None, columns or Columns()
    for path in paths:
        other = "a LeRobot data set" if is_lerobot(path) else "an HDF5 recording" if is_hdf5(path) else ""
        if other and single is None:
            raise DataError(f"{path} is {other}, of which one at a time is converted; recordings of ROS can be several")
    if view is not None and image_size is not None:
        raise DataError("the robot file says how large each camera's picture is; leave --image-size or --cameras out")
    if image_size is not None and image_size < 1:
        raise DataError(f"--image-size is {image_size}; it is the side of a picture, 1 pixel or more")
    ros = {"the topics": topics, "--clock": clock, "--tolerance-s": tolerance_s}
    lerobot = {"--camera": camera, "--action": action, "--actions-are": actions_are}
    size = image_size or RECORDED_SIDE
    unchecked = out.with_name(f"{out.name}.{os.getpid()}.unchecked")  # another process may write the same output
    report: Conversion
    try:
        if single is not None and is_lerobot(single):
            refuse_options(single, "a LeRobot data set", ros)
            if control_dt_s is not None:
                raise DataError(
                    f"{single} says its own rate; leave --control-dt-s out and choose a frameskip for training"
                )
            kind = actions_are or "recorded"
            report = convert_lerobot(single, unchecked, size, camera or "", action or "action", kind, columns, view)
        elif single is not None and is_hdf5(single):
            others = {**ros, **lerobot, "--units": columns.units or None, "--robot": columns.limits or view}
            refuse_options(single, "an HDF5 recording", others)
            if not single.is_file():
                raise DataError(f"there is no recording at {single}")
            report = salvage_hdf5(single, unchecked, image_size, control_dt_s, columns)
        else:
            first = paths[0] if paths else Path()
            refuse_options(first, "a recording of ROS (its unit is said with --units)", lerobot)
            clock, seen = clock or CLOCKS[0], view or View()
            report = convert_bag(paths, unchecked, control_dt_s, tolerance_s, size, columns, topics, clock, seen)
        _check_pairing(report, unchecked, accept_doubts)
        with h5py.File(unchecked, "r+") as file:  # attributes such as the command must name the final file
            for name, value in file.attrs.items():
                if isinstance(value, str) and str(unchecked) in value:
                    file.attrs[name] = value.replace(str(unchecked), str(out))
        os.replace(unchecked, out)
    except ObservationError as error:  # a crop that lies outside the pictures
        raise DataError(str(error)) from error
    finally:
        unchecked.unlink(missing_ok=True)
    return report


def _check_pairing(report: Conversion, path: Path, accept_doubts: bool) -> None:
    """Notes in the report whether actions and pictures fit.

    :raises DataError: they do not, and the user did not accept that.
    """
    pairing = pair_file(path)
    if pairing.wrong and not accept_doubts:
        raise DataError(
            "actions and pictures do not fit: "
            + "; ".join(pairing.wrong)
            + f". Nothing was written; if you know that they do fit, give --accept-doubts\n{report}"
        )
    report.problems += pairing.wrong + pairing.doubts
    if pairing.unjudged:
        report.note(pairing.unjudged)
    if pairing.lag_steps is not None:
        report.note(
            f"pictures show what is commanded {pairing.lag_steps:+.1f} steps later, correlation "
            f"{pairing.correlation:.2f}"
        )


def refuse_options(path: Path, kind: str, options: Mapping[str, object]) -> None:
    """Raises DataError for options that were given and do not apply to this kind of recording."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise DataError(f"{path} is {kind}, to which {' and '.join(given)} do not apply; leave them out")
