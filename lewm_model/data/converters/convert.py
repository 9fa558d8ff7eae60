# SPDX-License-Identifier: Apache-2.0
"""Recordings of every kind to one HDF5 file of episodes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py

from lewm_model.config import RECORDED_SIDE
from lewm_model.data.converters.columns import Columns
from lewm_model.data.converters.conversion import Conversion
from lewm_model.data.converters.hdf5 import salvage_hdf5
from lewm_model.data.converters.lerobot import convert_lerobot, is_lerobot
from lewm_model.data.converters.rosbag2 import CLOCKS, Topics, convert_bag
from lewm_model.data.errors import DataError
from lewm_model.data.pairing import pair_file

HDF5 = (".h5", ".hdf5")


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
) -> Conversion:
    """Writes recordings of ROS 2 (any number), one LeRobot data set, or one HDF5 recording, damaged or not, to `out`.

    The options are those of `convert_bag`, `convert_lerobot` and `salvage_hdf5`; None is their default. Raises
    DataError, also for an option that says nothing about this kind of recording.

    :param accept_doubts: whether a recording whose actions do not fit its pictures is written nevertheless.
    """
    if any(out.exists() and path.exists() and out.samefile(path) for path in paths):
        raise DataError(f"{out} cannot be written over itself; give another --out")
    unchecked = out.with_name(out.name + ".unchecked")
    options = (control_dt_s, tolerance_s, image_size, columns, topics, clock, camera, action, actions_are)
    try:
        report = _convert(paths, unchecked, *options)
        pairing = pair_file(unchecked)
        if pairing.wrong and not accept_doubts:
            raise DataError(
                "actions and pictures do not fit: "
                + "; ".join(pairing.wrong)
                + f". Nothing was written; where you know better, --accept-doubts writes it\n{report}"
            )
        report.problems += pairing.wrong + pairing.doubts
        if pairing.lag_steps is not None:
            report.note(
                f"pictures show what is commanded {pairing.lag_steps:+.1f} steps later, correlation "
                f"{pairing.correlation:.2f}"
            )
        with h5py.File(unchecked, "r+") as file:  # what says how the file came about names it as it is called
            for name, value in file.attrs.items():
                if isinstance(value, str) and str(unchecked) in value:
                    file.attrs[name] = value.replace(str(unchecked), str(out))
        os.replace(unchecked, out)
    finally:
        unchecked.unlink(missing_ok=True)
    return report


def _convert(
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
) -> Conversion:
    """As `convert`, without looking at whether actions and pictures fit."""
    single, columns = paths[0] if len(paths) == 1 else None, columns or Columns()
    for path in paths:
        other = "a LeRobot data set" if is_lerobot(path) else "an HDF5 recording" if path.suffix in HDF5 else ""
        if other and single is None:
            raise DataError(f"{path} is {other}, of which one at a time is converted; recordings of ROS can be several")
    ros = {"the topics": topics, "--clock": clock, "--tolerance-s": tolerance_s}
    lerobot = {"--camera": camera, "--action": action, "--actions-are": actions_are}
    if single is not None and is_lerobot(single):
        _refuse(single, "a LeRobot data set", ros)
        if control_dt_s is not None:
            raise DataError(f"{single} says its own rate; leave --control-dt-s out and choose a frameskip for training")
        size, kind = image_size or RECORDED_SIDE, actions_are or "recorded"
        return convert_lerobot(single, out, size, camera or "", action or "action", kind, columns)
    if single is not None and single.suffix in HDF5:
        positions = {"--units": columns.units or None, "--robot": columns.limits}
        _refuse(single, "an HDF5 recording", {**ros, **lerobot, **positions})
        if not single.is_file():
            raise DataError(f"there is no recording at {single}")
        return salvage_hdf5(single, out, image_size, control_dt_s, columns)
    _refuse(paths[0] if paths else Path(), "a recording of ROS (its unit is said with --units)", lerobot)
    size, clock = image_size or RECORDED_SIDE, clock or CLOCKS[0]
    return convert_bag(paths, out, control_dt_s, tolerance_s, size, columns, topics, clock)


def _refuse(path: Path, kind: str, options: Mapping[str, object]) -> None:
    """Raises DataError for options that were given and say nothing about this kind of recording."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise DataError(f"{path} is {kind}, of which {' and '.join(given)} say nothing; leave them out")
