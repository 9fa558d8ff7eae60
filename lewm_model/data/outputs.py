# SPDX-License-Identifier: Apache-2.0
"""What a command may write over: one rule for all of them, because a recording that is lost cannot be made again.

An output that is one of the inputs is refused always. So is what exists and was not written by this package, whatever
its name. What this package wrote earlier is replaced when the user says `--overwrite`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import h5py

from lewm_model.data.errors import DataError

DRAWN_BY = "lewm_ros"  # the Software entry of our PNG files


def check_output(out: Path, inputs: Iterable[Path] = (), overwrite: bool = False) -> None:
    """Refuses an output that would cost the user something.

    :param out: file or folder that is about to be written.
    :param inputs: what is read for it; none of it may be, or lie in, the output.
    :param overwrite: whether what this package wrote there earlier may go.
    :raises DataError: it would; the message says what to do.
    """
    for given in inputs:
        if not given.exists():
            continue
        if out.exists() and out.samefile(given):
            raise DataError(f"{out} is what is read, and would be replaced; give another output")
        if out.is_dir() and given.resolve().is_relative_to(out.resolve()):
            raise DataError(f"{given} lies in {out}, which is to be written; give another folder for the output")
    if not out.exists() and not out.is_symlink():
        return
    if out.is_dir() and all(entry.name.startswith(".") for entry in out.iterdir()):  # what a killed command left
        return
    if not is_ours(out):
        raise DataError(f"{out} exists and was not written by this program; give another name, or remove it yourself")
    if not overwrite:
        raise DataError(f"{out} exists already; give another name, or --overwrite to replace it")


def is_ours(path: Path) -> bool:
    """Whether this package wrote a file or folder, judged by what is in it."""
    if path.is_dir():
        marks = (("model.json",), ("weights.pt", "actions.json"), ("report.html",), ("meta/lewm_ros.json",))
        return any(all((path / name).is_file() for name in names) for names in marks)
    if not path.is_file():
        return False
    try:
        with open(path, "rb") as stream:
            head = stream.read(512)
        if head.startswith(b"\x89PNG"):
            return b"Software\0" + DRAWN_BY.encode() in head
        if head.startswith(b"\x89HDF"):
            with h5py.File(path) as file:
                return {"action_names", "control_dt_s", "command"} <= set(file.attrs)
    except Exception:  # of a damaged file nobody knows whose it is
        return False
    return False
