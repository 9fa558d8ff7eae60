# SPDX-License-Identifier: Apache-2.0
"""Programs of a second user, without a home folder, with one that cannot be written, without a temporary folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

from lewm_model.config import cache_folder
from lewm_ros.graph import reserve_domain

NOBODY = 65534
# What every program with nodes does first, and a node that comes up.
START = """
import sys, tempfile
from pathlib import Path
def none(): raise FileNotFoundError("no usable temporary directory")
tempfile.gettempdir = none
from lewm_ros.goals import ended_goals_file
from lewm_ros.graph import Graph, reserve_domain, set_environment
out = Path(sys.argv[1])
with reserve_domain():
    set_environment()
    with Graph("somebody", out) as graph:
        graph.start("sim_node", {"rate": 5.0})
        graph.bring_up("sim_node")
ended_goals_file()
print("it runs")
"""


def another_user() -> list[str]:
    """The words before a command that run it as another user; empty where that is not possible."""
    change = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    reach = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
    if os.getuid() != 0 or subprocess.run([*change, sys.executable, "-c", reach], capture_output=True).returncode:
        return []
    return change


@pytest.mark.parametrize("home", [None, "/proc/nothing"], ids=["HOME is unset", "HOME cannot be written"])
def test_another_user_without_a_home_or_temporary_folder_runs_nodes_beside_the_first(tmp_path: Path, home) -> None:
    with reserve_domain():  # somebody else has one
        environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "ROS_HOME")}
        environment |= {"HOME": home} if home else {}
        out = tmp_path / "out"
        out.mkdir()
        for folder in (out, *out.parents):  # pytest's folders are this user's alone
            if folder.stat().st_uid == os.getuid() and folder.is_relative_to(tmp_path.parent.parent.parent):
                folder.chmod(0o777 if folder == out else 0o755)
        command = [*another_user(), sys.executable, "-c", START, str(out)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, cwd=os.getcwd())
    assert "it runs" in done.stdout, done.stderr
    assert (out / "ros_home" / "log").is_dir()


def test_two_programs_never_get_the_same_domain() -> None:
    taken, domains = [], set()
    for _ in range(20):
        taken.append(reserve_domain())
        domains.add(os.environ["ROS_DOMAIN_ID"])
    assert len(domains) == 20
    for reserved in taken:
        reserved.close()


def test_a_cache_is_found_without_a_home_and_never_in_a_folder_of_somebody_else(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = cache_folder("meshes")
    assert folder.is_dir() and folder.is_relative_to(tmp_path)
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    other = os.getuid() + 1
    monkeypatch.setattr("os.getuid", lambda: other)
    (tmp_path / f"lewm_ros-{os.getuid()}").mkdir()
    with pytest.raises(PermissionError, match="belongs to another user; set XDG_CACHE_HOME"):
        cache_folder("meshes")
