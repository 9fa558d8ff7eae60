# SPDX-License-Identifier: Apache-2.0
"""Goal pictures: from files and recordings, a folder of named ones, identities, and which goals have ended."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from std_msgs.msg import Header

from lewm_model.robot.encodings import EncodingError, compressed_to_rgb, raw_to_rgb
from lewm_ros.messages import NANOSECONDS, nanoseconds

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
MOST_ENDED = 10_000  # ended goals that are remembered, the newest
SUFFIXES = (".png", ".jpg", ".jpeg")


class GoalError(ValueError):
    """A goal picture that is not available; the message says what to do."""


def read_picture(path: Path) -> np.ndarray:
    """A picture file as (H, W, 3) uint8 RGB.

    :raises GoalError: the file is missing, or not a picture.
    """
    try:
        return compressed_to_rgb(path.read_bytes())
    except (OSError, EncodingError) as error:
        raise GoalError(
            f"cannot read a picture from {path} ({error}); give a PNG or JPEG file of what the camera should see"
        ) from error


def read_goal(path: Path, at_s: float | None = None, episode: int = 0, topic: str = "") -> np.ndarray:
    """A goal (H, W, 3) uint8 RGB from a picture file, or from a recording `at_s` seconds after its first picture.

    :param episode: of an HDF5 recording; `at_s` then counts from its first picture.
    :param topic: of the camera, in a bag with several.
    :raises GoalError: the file cannot be read, or has no picture at that time.
    """
    if at_s is None:
        return read_picture(path)
    try:
        if path.suffix in (".h5", ".hdf5"):
            return _recorded_frame(path, at_s, episode)
        return _bag_picture(path, at_s, topic)
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise GoalError(f"cannot read a goal from {path}: {error}; give an HDF5 recording or a ROS bag") from error


def _recorded_frame(path: Path, at_s: float, episode: int) -> np.ndarray:
    import h5py

    with h5py.File(path) as file:
        length, offset = int(file["ep_len"][episode]), int(file["ep_offset"][episode])
        row = round(at_s / float(file.attrs["control_dt_s"]))
        if not 0 <= row < length:
            raise GoalError(f"episode {episode} of {path} has {length} pictures; {at_s:g} s would be number {row}")
        return np.asarray(file["pixels"][offset + row], np.uint8)


def _bag_picture(path: Path, at_s: float, topic: str) -> np.ndarray:
    from lewm_model.data.converters.rosbag2.files import bag_files, messages  # needs mcap, which a robot may lack

    first_ns = None
    for message in messages(bag_files(path)):
        if message.type not in (RAW, COMPRESSED) or (topic and message.topic != topic):
            continue
        if not topic and message.topic.endswith("goal_image"):  # what was to be seen, not what was
            continue
        first_ns = message.log_ns if first_ns is None else first_ns
        if message.log_ns - first_ns < at_s * NANOSECONDS:
            continue
        found = message.decode(message.data)
        if message.type == COMPRESSED:
            return compressed_to_rgb(found.data, found.format)
        size = (found.width, found.height, found.step)
        return raw_to_rgb(found.encoding, *size, bool(found.is_bigendian), found.data)
    raise GoalError(f"{path} has no picture {f'on {topic} ' if topic else ''}{at_s:g} s after its first one")


class GoalLibrary:
    """The goal pictures of a folder, named by their files without suffix. The folder is read anew each time.

    :param folder: "" makes an empty library that keeps nothing.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder) if folder else None
        if self._folder is not None and not self._folder.is_dir():
            raise GoalError(f"goal_folder {folder} is no folder; create it, or leave goal_folder empty")

    def names(self) -> list[str]:
        """Names of the goals."""
        return sorted(self._files())

    def picture(self, name: str) -> np.ndarray:
        """The goal of that name, (H, W, 3) uint8 RGB.

        :raises GoalError: there is no such goal, or its file is no picture.
        """
        files = self._files()  # names are looked up, never joined to a path, so that none leads out of the folder
        if name not in files:
            known = f"there are {', '.join(files)}" if files else "goal_folder holds no picture (or is not set)"
            raise GoalError(f"there is no goal {name[:80]!r}; {known}")
        return read_picture(files[name])

    def save(self, picture: np.ndarray) -> str | None:
        """Saves a picture (H, W, 3) uint8 RGB under a new name and returns the name; None without a folder.

        :raises GoalError: it cannot be written.
        """
        if self._folder is None:
            return None
        name = time.strftime("captured-%Y%m%d-%H%M%S")
        path = self._folder / f"{name}.png"
        try:
            if not cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
                raise GoalError(f"cannot write {path}; look at the folder's permissions and the disk")
        except cv2.error as error:
            raise GoalError(f"cannot write {path}: {error}") from error
        return name

    def _files(self) -> dict[str, Path]:
        if self._folder is None:
            return {}
        return {path.stem: path for path in sorted(self._folder.iterdir()) if path.suffix.lower() in SUFFIXES}


# ---- identities ------------------------------------------------------------------------------------------------------


def picture_hash(message: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of an image message's data."""
    return hashlib.sha256(memoryview(message.data)).hexdigest()[:16]


def goal_identity(header: Header) -> str:
    """The identity of a goal, from the header of its latent: stamp (ns) and hash of its picture.

    camera_node puts the hash into frame_id. The same picture with another stamp is another goal; a message that a
    latched topic delivers again, to a restarted node, is the same goal.
    """
    name = header.frame_id
    if not re.fullmatch("[0-9a-f]{16}", name):  # not published by camera_node
        name = hashlib.sha256(name.encode(errors="replace")).hexdigest()[:16]
    return f"{nanoseconds(header.stamp)}-{name}"


class EndedGoals:
    """Goals that were cancelled, reached or replaced, and must not be pursued again by themselves. Thread-safe.

    A latched topic delivers the last goal to every node that starts, also to a planner that was restarted after its
    goal had been cancelled. So the identities are also kept in a file, a line each.

    :param path: the file; several nodes may share it.
    :param warn: called once when the file cannot be used; identities are then kept until the process ends.
    """

    def __init__(self, path: Path, warn: Callable[[str], Any]) -> None:
        self._path, self._warn = path, warn
        self._lock = threading.Lock()
        self._how: dict[str, str] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_text(errors="replace").splitlines() if path.exists() else []
            if len(lines) > 2 * MOST_ENDED:
                lines = lines[-MOST_ENDED:]
                part = path.with_name(f"{path.name}.{os.getpid()}")
                part.write_text("".join(f"{line}\n" for line in lines))
                os.replace(part, path)
        except OSError as error:
            self._fail(error)
            lines = []
        for line in lines:
            identity, _, how = line.partition(" ")
            self._how[identity] = how

    def add(self, identity: str, how: str) -> None:
        """Records that a goal has ended: `how` is "cancelled", "reached" or "replaced"."""
        with self._lock:
            if identity in self._how:
                return
            self._how[identity] = how
            if len(self._how) > MOST_ENDED:
                del self._how[next(iter(self._how))]
            try:
                with self._path.open("a") as file:
                    file.write(f"{identity} {how}\n")
            except OSError as error:
                self._fail(error)

    def how(self, identity: str) -> str | None:
        """How the goal ended; None when it has not ended."""
        with self._lock:
            return self._how.get(identity)

    def forget_after(self, now_ns: int) -> None:
        """Forgets goals with later stamps. In simulated time, which begins anew with each run, they are of an earlier
        run, and a goal of this one may yet get the same stamp.
        """
        with self._lock:
            stamps = {goal: goal.partition("-")[0] for goal in self._how}  # a damaged line has none
            self._how = {goal: self._how[goal] for goal, ns in stamps.items() if ns.isdecimal() and int(ns) <= now_ns}

    def _fail(self, error: OSError) -> None:
        self._warn(f"cannot write the ended goals to {self._path} ({error}); a restart of this node forgets them")
        self._warn = lambda text: None


def ended_goals_file() -> Path:
    """The file in which the nodes of this user keep the ended goals: in ROS_HOME, beside the logs of ROS."""
    home = os.environ.get("ROS_HOME") or os.path.join(os.path.expanduser("~"), ".ros")
    return Path(home) / "lewm_ros" / "ended_goals"
