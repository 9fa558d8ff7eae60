# SPDX-License-Identifier: Apache-2.0
"""Atomic changes of a bundle: the new state is prepared in a draft, and a single rename switches to it.

A draft is a hidden folder inside the bundle's. When it is complete, its new files are moved to

    .new/<SHA-256>/<name>

and then model.json is replaced. That rename is the switch: readers look for a file under the hash in model.json, first
there and then in its usual place (`stored`). At last the new files are moved to their usual places. So a process may be
killed between any two steps: before the switch the old bundle is complete, after it the new one, and the next update
cleans up. TensorRT engines are not touched; their manifests say which graphs they belong to.
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

_DRAFT = ".draft-"  # prefix of a draft's name


def update(bundle: Bundle, change: Callable[[Bundle], Bundle]) -> Bundle:
    """Changes a bundle atomically and returns the new one.

    :param change: takes the draft, a copy of the bundle in another folder, may write, replace and remove files there,
        and returns the new description. Where it raises, the bundle stays as it was.
    :raises BundleError: another program changed the bundle since it was read.
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
    """Creates a bundle in `folder` atomically; one that is there is replaced, together with its engines.

    :param make: writes the bundle's files into the empty folder that it is given, and returns the bundle. Where it
        raises, `folder` stays as it was.
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
            folder.rmdir()  # only succeeds where it is empty, after an error
    return replace(made, folder=folder)


@contextlib.contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """An empty folder below `folder`. Drafts of processes that were killed are removed."""
    for left in folder.glob(_DRAFT + "*"):
        with _held(left) as free:
            if free:
                shutil.rmtree(left, ignore_errors=True)
    own = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=folder))
    try:
        with _held(own):
            draft = own / "bundle"  # a folder of its own, which an update of the draft can lock
            draft.mkdir()
            yield draft
    finally:
        shutil.rmtree(own, ignore_errors=True)


@contextlib.contextmanager
def _held(draft: Path) -> Iterator[bool]:
    """Locks a draft until the block, or this process, ends; False where another process has it."""
    try:
        descriptor = os.open(draft, os.O_RDONLY)
    except OSError:  # it was removed meanwhile
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
    """Moves the draft's `files` (name -> SHA-256), except those in `kept`, into the bundle. The caller holds the lock.

    Completes an interrupted update first.
    """
    before = _files(_description(folder))
    _settle(folder, before)
    # Permissions by umask: safetensors makes files readable by their owner only, and a robot may run as another user.
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
    """The content of model.json; empty where there is none."""
    try:
        return (folder / "model.json").read_bytes()
    except OSError:
        return b""


def _files(description: bytes) -> dict[str, str]:
    """The files (name -> SHA-256) that a model.json lists; none where it is damaged."""
    try:
        return {str(name): str(digest) for name, digest in json.loads(description)["files"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _changed(folder: Path) -> BundleError:
    return BundleError(f"the bundle {folder} was changed by another program meanwhile; run the command again")


def _to_disk(path: Path) -> None:
    """Waits until a file or folder is on the disk, so that a power cut after the switch cannot lose it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
