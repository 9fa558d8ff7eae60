"""Recordings of every kind to one HDF5 file of episodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lewm_model.data.converters.conversion import Conversion
from lewm_model.data.converters.hdf5 import salvage_hdf5
from lewm_model.data.converters.lerobot import convert_lerobot, is_lerobot
from lewm_model.data.converters.rosbag2 import Topics, convert_bag
from lewm_model.data.errors import DataError

HDF5 = (".h5", ".hdf5")
CONTROL_DT_S, IMAGE_SIZE = 0.05, 64  # of what does not say them itself


def convert(
    paths: Sequence[Path],
    out: Path,
    control_dt_s: float | None = None,
    tolerance_s: float | None = None,
    image_size: int | None = None,
    joint_names: Sequence[str] = (),
    topics: Topics | None = None,
    camera: str = "",
    action: str = "action",
    actions_are: str = "recorded",
) -> Conversion:
    """Writes recordings of ROS 2 (any number), one LeRobot data set, or one HDF5 recording, damaged or not, to `out`.

    The options are those of `convert_bag`, `convert_lerobot` and `salvage_hdf5`. Raises DataError.
    """
    single = paths[0] if len(paths) == 1 else None
    for path in paths:
        other = "a LeRobot data set" if is_lerobot(path) else "an HDF5 recording" if path.suffix in HDF5 else ""
        if other and single is None:
            raise DataError(f"{path} is {other}, of which one at a time is converted; recordings of ROS can be several")
    if single is not None and is_lerobot(single):
        if control_dt_s is not None:
            raise DataError(f"{single} says its own rate; leave --control-dt-s out and choose a frameskip for training")
        return convert_lerobot(single, out, image_size or IMAGE_SIZE, camera, action, actions_are)
    if single is not None and single.suffix in HDF5:
        if not single.is_file():
            raise DataError(f"there is no recording at {single}")
        return salvage_hdf5(single, out, image_size, control_dt_s)
    return convert_bag(
        paths, out, control_dt_s or CONTROL_DT_S, tolerance_s, image_size or IMAGE_SIZE, list(joint_names), topics
    )
