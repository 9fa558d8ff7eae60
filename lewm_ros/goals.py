"""Goal pictures in files: one to read, and a folder of named ones."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np

from lewm_model.robot.encodings import EncodingError, compressed_to_rgb

SUFFIXES = (".png", ".jpg", ".jpeg")


class GoalError(ValueError):
    """A goal picture that cannot be had; the message says what to do."""


def read_picture(path: Path) -> np.ndarray:
    """A picture file as (H, W, 3) uint8 RGB.

    :raises GoalError: not there, or not a picture.
    """
    try:
        return compressed_to_rgb(path.read_bytes())
    except (OSError, EncodingError) as error:
        raise GoalError(
            f"cannot read a picture from {path} ({error}); give a PNG or JPEG file of what the camera should see"
        ) from error


class GoalLibrary:
    """The pictures of a folder; a goal's name is its file's without the suffix. The folder is read anew each time.

    :param folder: "" is a library that is empty and takes nothing.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder) if folder else None
        if self._folder is not None and not self._folder.is_dir():
            raise GoalError(f"goal_folder {folder} is no folder; make it, or leave goal_folder empty")

    def names(self) -> list[str]:
        """What there is."""
        return sorted(self._files())

    def picture(self, name: str) -> np.ndarray:
        """The goal of that name, (H, W, 3) uint8 RGB.

        :raises GoalError: there is none, or its file is no picture.
        """
        files = self._files()  # a name is looked up, never joined to a path: no name leads out of the folder
        if name not in files:
            known = f"there are {', '.join(files)}" if files else "goal_folder holds no picture (or is not set)"
            raise GoalError(f"there is no goal {name[:80]!r}; {known}")
        return read_picture(files[name])

    def save(self, picture: np.ndarray) -> str | None:
        """Keeps a picture (H, W, 3) uint8 RGB under a new name and returns that; None without a folder.

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
