# SPDX-License-Identifier: Apache-2.0
"""Any arm's recording becomes a model that planner_node takes, and nobody states a size, a joint count or a unit."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from bags import BagWriter, write_motion
from tiny import NO_CHANGES, TINY_MODEL, TINY_TRAIN
from typer.testing import CliRunner

from lewm_model.bundle.bundle import load_bundle
from lewm_model.cli.main import app
from lewm_model.data.clips import load_episodes
from lewm_model.robot.observation import Camera

ARMS = {
    "three joints": ("base", "shoulder", "elbow"),
    "seven joints": tuple(f"panda_joint{i + 1}" for i in range(7)),
    "a gripper": ("shoulder", "elbow", "finger"),
}
EPISODES, FRAMES, RATE_HZ = 2, 560, 20.0  # one episode is held out, and a calibration needs 500 frames


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


class Arm:
    """Joints that swing, each at a pace of its own, and rest every 4 s; bars in the picture show where they are."""

    def __init__(self, joints: int) -> None:
        self.joints = joints
        self.pace = np.linspace(1.0, 2.3, joints)

    def motion(self, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        t = np.asarray(times_s)[:, None]
        often = 2 * np.pi / 4.0
        phase, rate = (t - np.sin(often * t) / often) * self.pace + np.arange(self.joints), 1 - np.cos(often * t)
        return 0.5 * np.sin(phase), 0.5 * self.pace * rate * np.cos(phase)

    def picture(self, time_s: float) -> np.ndarray:
        heights = (24 + 40 * self.motion(np.array([time_s]))[0][0]).round().astype(int)
        picture = np.full((48, 64, 3), 30, np.uint8)
        for bar, height in enumerate(heights):
            left = 8 + bar * 48 // self.joints
            picture[: max(1, height), left : left + 48 // self.joints - 1] = (220, 40 * bar % 250, 90)
        return picture


def bags(folder: Path, arm: Arm, names: tuple[str, ...]) -> list[Path]:
    """A recording of ROS for each episode."""
    paths = [folder / f"arm{episode}.mcap" for episode in range(EPISODES)]
    for episode, path in enumerate(paths):
        times_s = 100.0 * episode + 0.5 + np.arange(FRAMES) / RATE_HZ
        with BagWriter(path) as recorder:
            write_motion(
                recorder, arm.motion, times_s, lambda i, t=times_s: arm.picture(t[i]), joint_dt_s=0.02, names=names
            )
    return paths


@pytest.mark.parametrize("kind", ARMS)
def test_a_recording_of_any_arm_becomes_a_model_that_the_planner_takes(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ARMS[kind]
    recording, bundle = tmp_path / "episodes.h5", tmp_path / "bundle"
    gripper = ["--gripper", names[-1]] if kind == "a gripper" else []
    run("convert", *bags(tmp_path, Arm(len(names)), names), "--out", recording, *gripper)
    found = json.loads(run("data", "report", recording, "--json"))
    assert found["verdict"]
    heads = 5 if gripper else 0
    settings = {
        "model": {name: value for name, value in TINY_MODEL.items() if name != "image_size"},
        "train": {**TINY_TRAIN, "steps": 5, "head_steps": heads, "augment": NO_CHANGES, "views": 1},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings))
    # Graphs take most of the time, so that one arm has them and the others run in PyTorch.
    monkeypatch.setattr("lewm_model.runtime.export.export_onnx", lambda made, **_: made)
    run("train", recording, bundle, "--config", tmp_path / "tiny.yaml", "--run", tmp_path / "run", "--task", "wave")
    monkeypatch.undo()
    run("calibrate", bundle, recording)
    if gripper:
        run("export", bundle)
    backend = "onnxruntime" if gripper else "torch"
    result = CliRunner().invoke(app, ["doctor", "model", str(bundle), str(recording), "--backend", backend])
    assert result.exception is None or "NO-GO" in str(result.exception), "so few steps make no good model"
    model = load_bundle(bundle)
    assert model.evaluation["preflight"]["verdict"] and model.calibration is not None
    assert model.actions.names == names and model.model.action_dim == len(names) and model.task == "wave"
    assert model.model.image_size == load_episodes(recording).image_size
    assert model.actions.kinds[-1] == ("gripper" if gripper else "joint_velocity")
    configure_planner(tmp_path, bundle, names, backend)
    assert "disarmed until ~/enable" in capfd.readouterr().err


def configure_planner(folder: Path, bundle: Path, names: tuple[str, ...], backend: str) -> None:
    """Configures planner_node with a user's robot file that holds the joint limits and nothing else."""
    rclpy = pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup)")
    from lewm_ros.planner_node import PlannerNode

    limits = {"lower": -2.5, "upper": 2.5, "velocity": 1.5, "acceleration": 8.0, "jerk": 120.0}
    robot = folder / "mine.yaml"
    robot.write_text(yaml.safe_dump({"joints": dict.fromkeys(names, limits)}, sort_keys=False))
    rclpy.init()
    node = PlannerNode()
    try:
        for name, value in {"model": str(bundle), "robot": str(robot), "backend": backend}.items():
            assert node.set_parameters([rclpy.parameter.Parameter(name, value=value)])[0].successful
        assert node.trigger_configure() == rclpy.lifecycle.TransitionCallbackReturn.SUCCESS
        node.cleanup()
    finally:
        node.destroy_node()
        rclpy.shutdown()


def test_a_recording_that_is_converted_again_keeps_its_units_its_gripper_and_its_cameras(tmp_path: Path) -> None:
    from lewm_model.data.episodes import EpisodeWriter

    rng = np.random.default_rng(0)
    cameras = (Camera("front", 24, 32), Camera("wrist", 24, 24, rotation=180))
    kinds, units = ("joint_velocity", "gripper"), ("rad/s", "m/s")
    path = tmp_path / "two.h5"
    with EpisodeWriter(path, (24, 56), ("elbow", "slide"), 0.1, kinds, action_units=units, cameras=cameras) as writer:
        for _ in range(2):
            pixels = rng.integers(0, 255, (12, 24, 56, 3), np.uint8)
            writer.append(pixels, rng.normal(size=(11, 2)), rng.normal(size=(12, 2)))
    run("convert", path, "--out", tmp_path / "again.h5", "--accept-doubts")
    again = load_episodes(tmp_path / "again.h5")
    assert (again.action_kinds, again.action_units, again.cameras) == (kinds, units, cameras)
    with h5py.File(path) as before:
        np.testing.assert_array_equal(again.pixels, before["pixels"][:])
    with pytest.raises(ValueError, match="of front, wrist; they cannot be made a square, so leave --image-size out"):
        run("convert", path, "--out", tmp_path / "square.h5", "--image-size", "24", "--accept-doubts")
