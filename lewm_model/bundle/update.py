# SPDX-License-Identifier: Apache-2.0
"""Changing a bundle: the new state is prepared in a draft beside the old one, and one move switches to it.

A draft is a hidden folder inside the bundle's. When it is complete, its new files are moved to

    .new/<SHA-256>/<name>

and then model.json is replaced. That one rename is the switch: whoever reads the bundle looks for a file under the hash
that model.json gives, first there and then in its usual place (`stored`). Last, the new files move to their usual
places. So a process may be killed between any two steps: before the switch the old bundle is whole, after it the new
one, and the next update tidies up. TensorRT engines stay where they are; they say themselves which graphs they are of.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from lewm_model.bundle.bundle import STAGED, Bundle, BundleError, locked, save_description, sha256, stored

_DRAFT = ".draft-"  # begins the name of a draft


def update(bundle: Bundle, change: Callable[[Bundle], Bundle]) -> Bundle:
    """Changes a bundle in one move and returns the new one.

    :param change: gets the draft, a copy of the bundle in a folder of its own, may write, replace and remove files
        there, and returns what the description shall say. Where it raises, the bundle stays as it was.
    :raises BundleError: the bundle's folder was changed by somebody else since `bundle` was read.
    """
    folder = bundle.folder
    with _draft(folder) as draft:
        with locked(folder):
            before = _description(folder)
            if _files(before) != bundle.files:
                raise _changed(folder)
            for name, digest in bundle.files.items():
                copy = draft / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                try:
                    shutil.copyfile(stored(folder, name, digest), copy)
                except OSError as error:
                    raise BundleError(f"{folder / name} cannot be copied: {error}") from error
                if sha256(copy) != digest:
                    raise BundleError(f"{folder / name} does not match its SHA-256 in model.json; copy it again")
        changed = save_description(change(replace(bundle, folder=draft)))
        with locked(folder, fcntl.LOCK_EX):
            if _description(folder) != before:
                raise _changed(folder)
            kept = {name for name, digest in changed.files.items() if bundle.files.get(name) == digest}
            _switch(folder, draft, changed.files, kept)
    return replace(changed, folder=folder)


def create(folder: Path, make: Callable[[Path], Bundle]) -> Bundle:
    """Makes a bundle in `folder`, in one move; another one that is there goes with all that belongs to it.

    :param make: writes the bundle's files into the empty folder that it gets, and returns the bundle. Where it raises,
        `folder` stays as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _draft(folder) as draft:
            made = save_description(make(draft))
            with locked(folder, fcntl.LOCK_EX):
                _switch(folder, draft, made.files)
                shutil.rmtree(folder / "engines", ignore_errors=True)  # of the bundle before
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # where nothing came of it
    return replace(made, folder=folder)


@contextlib.contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """An empty folder below `folder`. What killed processes left of theirs is removed."""
    for left in folder.glob(_DRAFT + "*"):
        with _held(left) as free:
            if free:
                shutil.rmtree(left, ignore_errors=True)
    own = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=folder))
    try:
        with _held(own):
            draft = own / "bundle"  # a folder of its own: somebody may lock that, to update the draft
            draft.mkdir()
            yield draft
    finally:
        shutil.rmtree(own, ignore_errors=True)


@contextlib.contextmanager
def _held(draft: Path) -> Iterator[bool]:
    """Whether the draft is nobody else's; it then is ours until the block, or this process, ends."""
    try:
        descriptor = os.open(draft, os.O_RDONLY)
    except OSError:  # gone meanwhile
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except OSError:
        free = False
    try:
        yield free
    finally:
        os.close(descriptor)


def _switch(folder: Path, draft: Path, files: Mapping[str, str], kept: Iterable[str] = ()) -> None:
    """Takes over the draft's `files` (name -> SHA-256) but those that are `kept` as they are. The caller has the lock.

    What an earlier update could not finish is finished first.
    """
    before = _files(_description(folder))
    _settle(folder, before)
    # As any file of this user (umask): safetensors writes files that only he can read, and robots have other users.
    readable = stat.S_IMODE((draft / "model.json").stat().st_mode)
    for name, digest in files.items():
        if name not in kept:
            staged = folder / STAGED / digest / name
            staged.parent.mkdir(parents=True, exist_ok=True)
            os.chmod(draft / name, readable)
            _to_disk(draft / name)
            os.replace(draft / name, staged)
            _to_disk(staged.parent)
    _to_disk(draft / "model.json")
    _to_disk(folder)
    os.replace(draft / "model.json", folder / "model.json")  # the switch
    _to_disk(folder)
    _settle(folder, files)
    for name in before.keys() - files.keys():
        if ".." not in PurePosixPath(name).parts and not PurePosixPath(name).is_absolute():
            (folder / name).unlink(missing_ok=True)


def _settle(folder: Path, files: Mapping[str, str]) -> None:
    """Moves staged files that belong to the bundle to their places, and drops the others."""
    for name, digest in files.items():
        staged = folder / STAGED / digest / name
        if staged.is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged, folder / name)
    shutil.rmtree(folder / STAGED, ignore_errors=True)


def _description(folder: Path) -> bytes:
    """What model.json holds; nothing where there is none."""
    try:
        return (folder / "model.json").read_bytes()
    except OSError:
        return b""


def _files(description: bytes) -> dict[str, str]:
    """The files (name -> SHA-256) that a model.json lists; none where it cannot be read, which may hold anything."""
    try:
        return {str(name): str(digest) for name, digest in json.loads(description)["files"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _changed(folder: Path) -> BundleError:
    return BundleError(f"the bundle {folder} was changed by another program meanwhile; run the command again")


def _to_disk(path: Path) -> None:
    """Waits until the disk has it: a switch must not survive a power cut that its files did not."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
