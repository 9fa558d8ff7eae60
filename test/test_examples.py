# SPDX-License-Identifier: Apache-2.0
"""The programs of examples/ run, and show what they say they show."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from sim_recording import sim_recording

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture
def run(monkeypatch, capsys):
    def run(name: str, *arguments: str) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        ended = runpy.run_path(str(EXAMPLES / name))["main"]()
        return ended, capsys.readouterr().out

    return run


def test_what_the_model_imagines_is_nearer_to_what_is_seen_than_the_first_frame(run):
    _, said = run("imagine.py")
    distances = np.array(re.findall(r"imagined ([\d.]+) away, the first frame ([\d.]+)", said), float)
    assert len(distances) == 5
    assert (distances[:, 0] < 0.3 * distances[:, 1]).all()


def test_a_recording_is_told_episode_by_episode(run, tmp_path):
    sim_recording(tmp_path / "some.h5", episodes=2, steps=10)
    _, said = run("look_at_data.py", str(tmp_path / "some.h5"))
    lines = said.splitlines()
    assert lines[0] == "2 episodes of shoulder, elbow, every 0.05 s"
    assert lines[1].startswith("0: 11 frames") and lines[2].startswith("1: 11 frames")
    assert "GO" in lines[3]


def test_a_goal_that_nobody_takes_ends_with_an_exit_status_and_a_reason(run, tmp_path):
    pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")
    picture = tmp_path / "goal.png"
    cv2.imwrite(str(picture), np.full((64, 64, 3), 90, np.uint8))
    status, said = run("reach_pictures.py", str(picture), str(picture), "--timeout", "0.3")
    assert status == 4
    assert said.count("timed_out") == 1 and "is camera_node active?" in said
