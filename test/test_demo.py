# SPDX-License-Identifier: Apache-2.0
"""`make demo` from end to end with an untrained model: what it leaves, not how well it does."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest

pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

from bundles import tiny_bundle

from lewm_model.bundle.bundle import save_description
from lewm_model.bundle.verdict import judged
from lewm_model.config import PlanConfig, resource
from lewm_ros import demo

# What requirements-run.txt leaves out; the demo's processes must not import it.
ABSENT = """
import sys
class Absent:
    packages = {"h5py", "hdf5plugin", "matplotlib", "mcap", "onnx", "onnxscript", "pyarrow", "rosbags", "scipy",
                "sklearn", "stable_worldmodel", "tensorboard", "torch", "transformers", "trimesh", "zstandard"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.packages:
            raise ModuleNotFoundError(f"{name} is not part of the demo's environment", name=name)
sys.meta_path.insert(0, Absent())
"""


def test_without_torch_the_demo_leaves_figures_a_film_a_summary_and_a_picture_of_every_failure(tmp_path):
    out = tmp_path / "out"
    model = tiny_bundle(tmp_path / "tiny").folder
    (tmp_path / "sitecustomize.py").write_text(ABSENT)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(demo.__file__).parent.parent}"}
    arguments = ["--goals", "1", "--seed", "3", "--model", str(model), "--out", str(out)]
    command = [sys.executable, "-m", "lewm_ros.demo", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    printed = done.stdout
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

    assert str(out) in printed.replace("\n", "")  # where to look
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


def test_a_model_that_the_preflight_refuses_ends_the_demo_with_the_reason_and_a_status_that_is_not_zero(tmp_path):
    bundle = tiny_bundle(tmp_path / "tiny")
    preflight = {"verdict": "NO-GO", "reason": "it cannot rank goals", "judged": judged(bundle, PlanConfig())}
    save_description(replace(bundle, evaluation={**bundle.evaluation, "preflight": preflight}))
    with pytest.raises(SystemExit, match="says NO-GO: it cannot rank goals") as ended:
        demo.main(["--model", str(bundle.folder), "--out", str(tmp_path / "out")])
    assert ended.value.code not in (0, None)
    assert not (tmp_path / "out" / "summary.json").exists()


def test_each_run_has_a_folder_of_its_own_and_the_shared_name_leads_to_the_newest_complete_one(tmp_path):
    shared = tmp_path / "out" / "demo"
    (shared / "failures").mkdir(parents=True)  # as an earlier version left it
    first, second, broken_off = (demo.new_folder(shared) for _ in range(3))
    assert len({first, second, broken_off}) == 3
    for run in (first, second):
        (run / "summary.json").write_text(run.name)
        demo.lead_to(shared, run)
        assert (shared / "summary.json").read_text() == run.name
    assert shared.resolve() == second and not (shared / "failures").exists()
    given = tmp_path / "given"
    (given / "failures").mkdir(parents=True)
    for name in ("summary.json", "mine.txt"):
        (given / name).touch()
    demo.emptied(given)
    assert [path.name for path in given.iterdir()] == ["mine.txt"]


def test_the_demo_tells_the_address_of_its_panel_once_and_waits_for_nothing():
    said = [" ", "[INFO] the panel is at http://127.0.0.1:4/#token=t (without the token it only shows)\n"]
    told = demo.panel_addresses(SimpleNamespace(log=lambda name: said.pop(0)))
    assert [next(told, None) for _ in range(4)] == [None, "http://127.0.0.1:4/#token=t", None, None]
