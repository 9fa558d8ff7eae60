# SPDX-License-Identifier: Apache-2.0
"""The machine: board, JetPack, power mode. Reported by `lewm doctor` and `lewm bench`."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

JETPACK_OF_L4T = {"36": "6", "38": "7"}  # major release of Jetson Linux -> JetPack


@dataclass(frozen=True)
class Target:
    """A machine; a field is "" where it does not apply or is unknown."""

    board: str  # name of a Jetson board, else of the processor
    jetpack: str  # such as "6 (L4T 36.4.3)"
    power_mode: str  # "MAXN", "15W", ...; timings depend on it
    cores: int  # CPU cores that this process may use

    @property
    def jetson(self) -> bool:
        return bool(self.jetpack)


def this_machine(root: Path = Path("/")) -> Target:
    """The machine that this process runs on; `root` is another folder in tests."""
    return Target(_board(root), _jetpack(root), _power_mode(), len(os.sched_getaffinity(0)))


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _board(root: Path) -> str:
    model = _read(root / "proc/device-tree/model")
    if model:
        return model
    found = re.search(r"^model name\s*:\s*(.+)$", _read(root / "proc/cpuinfo"), re.MULTILINE)
    return found[1] if found else platform.machine()


def _jetpack(root: Path) -> str:
    """JetPack, from a line such as `# R36 (release), REVISION: 4.3, GCID: ...`."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", _read(root / "etc/nv_tegra_release"))
    if not found:
        return ""
    return f"{JETPACK_OF_L4T.get(found[1], '?')} (L4T {found[1]}.{found[2]})"


def _power_mode() -> str:
    """Power mode, from the answer of `nvpmodel -q`, whose first line is `NV Power Mode: MAXN`."""
    program = shutil.which("nvpmodel")
    if program is None:
        return ""
    try:
        answer = subprocess.run([program, "-q"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"NV Power Mode:\s*(\S+)", answer)
    return found[1] if found else ""
