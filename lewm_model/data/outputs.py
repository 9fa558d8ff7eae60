# SPDX-License-Identifier: Apache-2.0
"""What a command may overwrite: one rule for all commands, because a lost recording cannot be made again.

An output that is one of the inputs is always refused, and so is an existing file or folder that this package did not
write. What this package wrote earlier is replaced with `--overwrite`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import h5py

from lewm_model.data.errors import DataError

DRAWN_BY = "lewm_ros"  # value of the entry "Software" in PNG files of this package


def check_output(out: Path, inputs: Iterable[Path] = (), overwrite: bool = False) -> None:
    """Refuses an output whose writing would destroy data of the user.

    :param out: file or folder that is about to be written.
    :param inputs: files and folders that are read for it; none of them may be, or lie in, the output.
    :param overwrite: whether what this package wrote there earlier may be replaced.
    :raises DataError: the output is refused; the message says what to do.
    """
    if out.parts[:1] == ("~",):  # the shell does not expand it behind an equals sign, or in quotes
        raise DataError(f"{out} would be in a folder that is called ~; write --out ~/... without = and quotes")
    for given in inputs:
        if not given.exists():
            continue
        if out.exists() and out.samefile(given):
            raise DataError(f"{out} is also read, and would be replaced; give another output")
        if out.is_dir() and given.resolve().is_relative_to(out.resolve()):
            raise DataError(f"{given} lies in {out}, which would be replaced; give another folder for the output")
    if not out.exists() and not out.is_symlink():
        return
    if out.is_dir() and all(entry.name.startswith(".") for entry in out.iterdir()):  # drafts that a killed command left
        return
    if not is_ours(out):
        raise DataError(f"{out} exists and was not written by this program; give another name, or remove it yourself")
    if not overwrite:
        raise DataError(f"{out} exists already; give another name, or --overwrite to replace it")


def is_ours(path: Path) -> bool:
    """Whether this package wrote a file or folder, judged by its content."""
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
    except Exception:  # a damaged file cannot be recognised, so it is protected
        return False
    return False
