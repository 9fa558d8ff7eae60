# SPDX-License-Identifier: Apache-2.0
"""`make demo` from end to end with an untrained model: what it leaves, not how well it does."""

import json
import os

import cv2
import pytest

pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

from bundles import tiny_bundle

from lewm_model.config import resource
from lewm_ros import demo


def test_the_demo_leaves_figures_a_film_a_summary_and_a_picture_of_every_failure(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", os.environ["ROS_DOMAIN_ID"])  # the demo takes one of its own
    out = tmp_path / "out"
    model = tiny_bundle(tmp_path / "tiny").folder
    demo.main(["--goals", "1", "--seed", "3", "--model", str(model), "--out", str(out)])
    printed = capsys.readouterr().out
    for word in ("near", "anywhere", "planner", "random", "hold", "camera frame to command"):
        assert word in printed

    summary = json.loads((out / "summary.json").read_text())
    figures = {figure["name"]: figure["value"] for figure in summary["figures"]}
    assert all(set(figure) == {"name", "value", "unit", "command"} for figure in summary["figures"])
    assert "--seed 3" in summary["figures"][0]["command"]
    assert figures["demo.success_held_hold"] == 0.0
    assert 0 < figures["demo.frame_to_command_ms_p95"] < 5000
    assert 10 < figures["demo.camera_rate_hz"] < 21
    assert figures["demo.plans"] > 10
    assert figures["demo.first_command_s"] > 0
    assert figures["demo.goals_per_minute_goals"] == 1
    assert figures["demo.longest_command_gap_ms"] >= 0
    assert figures["demo.jerk_violations"] == 0
    names = ("success_held_near", "success_held", "success_held_random", "success_first_hit", "dropped_frames")
    for name in (*names, "goals_per_minute_ratio"):
        assert f"demo.{name}" in figures

    not_held = 2 - (figures["demo.success_held"] + figures["demo.success_held_near"]) / 100
    assert len(summary["failures"]) == not_held
    for failure in summary["failures"]:
        assert len(failure["start"]) == len(failure["goal"]) == 2
        assert failure["least_error_m"] <= failure["final_error_m"]
        assert cv2.imread(str(out / failure["picture"])) is not None
    assert cv2.imread(str(out / "summary.png")) is not None
    for picture in ("velocity.png", "demo.png"):
        assert cv2.imread(str(out / picture)) is not None

    film = cv2.VideoCapture(str(out / "demo.mp4"))
    frames = 0
    while film.read()[0]:
        frames += 1
    assert film.get(cv2.CAP_PROP_FPS) == pytest.approx(20.0)
    assert 0.7 * (2.5 + 7.5) * 20 < frames < 1.3 * (2.5 + 7.5) * 20


def test_a_missing_model_ends_the_demo_with_a_sentence(tmp_path):
    with pytest.raises(SystemExit, match="there is no model bundle at"):
        demo.main(["--model", str(tmp_path / "nothing"), "--out", str(tmp_path)])


def test_a_model_of_another_task_ends_the_demo_before_anything_starts(tmp_path):
    with pytest.raises(SystemExit, match="was trained for the task 'push', not for 'reach'; give another"):
        demo.main(["--model", str(resource("models", "push")), "--out", str(tmp_path)])
