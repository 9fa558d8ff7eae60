# SPDX-License-Identifier: Apache-2.0
"""Recordings of the panel: those in a folder, and the recorder, which runs as a process of its own."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lewm_ros.goals import GoalError
from lewm_ros.graph import end_with_parent

FILES = (".mcap", ".db3", ".h5", ".hdf5")
START_S = 15.0  # how long the recorder may take to start
END_S = 10.0  # how long it may take to close its file


class Recordings:
    """The recordings of a folder, named by their files; also folders that `ros2 bag record` made.

    :param folder: "" has none.
    :raises GoalError: it is no folder.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder).resolve() if folder else None
        if self.folder is not None and not self.folder.is_dir():
            raise GoalError(f"recordings {folder} is no folder; create it, or leave recordings empty")

    def names(self) -> list[str]:
        """Names of the recordings, the newest first."""
        return list(self._paths())

    def path(self, name: str) -> Path:
        """The recording of that name.

        :raises GoalError: there is none.
        """
        paths = self._paths()  # names are looked up, never joined to a path, so that none leads out of the folder
        if name not in paths:
            raise GoalError(f"there is no recording {name[:80]!r} in the folder `recordings`")
        return paths[name]

    def _paths(self) -> dict[str, Path]:
        if self.folder is None:
            return {}
        found = [p for p in self.folder.iterdir() if p.suffix in FILES or (p / "metadata.yaml").is_file()]
        return {path.name: path for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)}


class RecorderProcess:
    """`lewm_ros.record` as a child process; used from one asyncio thread.

    :param ended: called with a sentence when it ends without being told to.
    """

    def __init__(self, ended: Callable[[str], None]) -> None:
        self._ended = ended
        self._process: asyncio.subprocess.Process | None = None
        self._following: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._last = ""  # line that it has printed
        self.path: Path | None = None  # of the file that is being written
        self._began_s = 0.0

    @property
    def state(self) -> dict[str, Any] | None:
        """File, seconds and bytes of the recording; None when none is made."""
        if self.path is None:
            return None
        size = self.path.stat().st_size if self.path.is_file() else 0
        return {"file": self.path.name, "seconds": time.monotonic() - self._began_s, "bytes": size}

    async def start(self, folder: Path, arguments: Sequence[str]) -> Path:
        """Starts a recording with more ROS arguments; returns its file.

        :raises RuntimeError: one is being made already, or the recorder does not start; the message says why.
        """
        if self.path is not None:
            raise RuntimeError(f"{self.path.name} is being recorded; end it first")
        path = self.path = folder / time.strftime("%Y%m%d-%H%M%S.mcap")
        self._began_s, self._last = time.monotonic(), "it has said nothing"
        self._ready.clear()
        command = (sys.executable, "-m", "lewm_ros.record", "--ros-args", "-p", f"out:={path}", *arguments)
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, preexec_fn=end_with_parent
        )
        self._following = asyncio.create_task(self._follow(self._process))
        try:
            await asyncio.wait_for(self._ready.wait(), START_S)
        except asyncio.TimeoutError:
            await self.end()
            raise RuntimeError(f"the recorder has not started within {START_S:g} s: {self._last}") from None
        if self._process is None:
            raise RuntimeError(f"the recorder has ended: {self._last}")
        return path

    async def end(self) -> Path | None:
        """Ends the recording, and waits until its file is complete; returns the file, None when none was made."""
        process, path, self._process = self._process, self.path, None
        if process is not None:
            process.send_signal(signal.SIGINT)
            try:
                await asyncio.wait_for(process.wait(), END_S)
            except asyncio.TimeoutError:
                process.kill()
        self.path = None
        return path

    async def _follow(self, process: asyncio.subprocess.Process) -> None:
        """Reads what the recorder says until it ends."""
        assert process.stdout is not None
        async for line in process.stdout:
            self._last = line.decode(errors="replace").strip() or self._last
            if "recording to" in self._last:
                self._ready.set()
        await process.wait()
        if self._process is process:  # by itself: nobody has ended it
            self._process = self.path = None
            self._ended(f"the recording has ended: {self._last}")
        self._ready.set()
