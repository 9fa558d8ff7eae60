# SPDX-License-Identifier: Apache-2.0
"""`make demo-push` with the shipped push model and one goal: what it leaves, and that no command breaks a limit."""

import json
import os

import cv2
import pytest

pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

from lewm_ros import demo


def test_the_nodes_push_an_object_and_the_demo_leaves_figures_a_film_and_a_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", os.environ["ROS_DOMAIN_ID"])  # the demo takes one of its own
    demo.main(["--task", "push", "--goals", "1", "--seed", "3", "--out", str(tmp_path)])
    assert "push over ROS" in capsys.readouterr().out
    summary = json.loads((tmp_path / "summary.json").read_text())
    figures = {figure["name"].removeprefix("demo_push."): figure["value"] for figure in summary["figures"]}
    assert all(figure["command"] == "make demo-push GOALS=1 SEED=3 RATE=20" for figure in summary["figures"])
    assert figures["goals"] == 1 and figures["success_held_hold"] == 0.0
    # One plan for each block of 0.25 s; an arm that rests at its goal needs none.
    assert figures["plans"] > (8 if figures["success_held"] else 40)
    assert figures["jerk_violations"] == 0
    assert len(summary["failures"]) == (figures["success_held"] == 0.0)
    assert cv2.imread(str(tmp_path / "demo.png")) is not None
    assert cv2.VideoCapture(str(tmp_path / "demo.mp4")).read()[0]


def test_a_missing_model_ends_the_demo_with_a_sentence(tmp_path):
    with pytest.raises(SystemExit, match="there is no model bundle at"):
        demo.main(["--task", "push", "--model", str(tmp_path / "nothing"), "--out", str(tmp_path)])
