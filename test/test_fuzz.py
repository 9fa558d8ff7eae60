# SPDX-License-Identifier: Apache-2.0
"""A short run of the fuzzer over every target, and what longer ones found."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

from bags import BagWriter, write_motion
from bundles import tiny_bundle
from tiny import dot_recording

from lewm_model.bundle.bundle import BundleError, load_bundle, load_heads, load_model
from lewm_model.config import ConfigError, ModelConfig, TrainConfig, from_dict, load_yaml, resource
from lewm_model.data.clips import DataError, load_episodes
from lewm_model.data.converters.rosbag2.convert import convert_bag
from lewm_model.robot.encodings import EncodingError, compressed_to_rgb
from lewm_model.runtime import RuntimeLoadError, load_runtime
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.sdf import load_world
from lewm_model.sim.sdf_element import SdfError
from lewm_ros.messages import LAST_STAMP_NS, latent_to_message, nanoseconds

ROOT = Path(__file__).resolve().parent.parent


def test_no_target_is_brought_down_by_a_few_thousand_inputs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "validation.fuzz", "--inputs", "2000", "--out", str(tmp_path / "out")]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    figures = {figure["name"]: figure["value"] for figure in summary["figures"]}
    assert figures["fuzz.crashes"] == figures["fuzz.hangs"] == 0, run.stdout
    assert figures["fuzz.inputs"] >= 2000
    assert all(row["inputs"] > 0 for row in summary["targets"].values())
    assert run.returncode == 0, run.stderr


# ---- what it found ---------------------------------------------------------------------------------------------------


def test_a_stamp_beyond_what_a_message_can_say_becomes_the_last_one() -> None:
    beyond = (2**31 - 1) * 10**9 + 2**32 - 1  # int32 seconds and uint32 nanoseconds: this can arrive
    assert nanoseconds(latent_to_message(np.zeros(3), beyond).header.stamp) == LAST_STAMP_NS


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_picture_that_claims_to_be_enormous_is_refused_before_memory_is_taken(suffix: str) -> None:
    import cv2

    content = bytearray(cv2.imencode(suffix, np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    assert compressed_to_rgb(content).shape == (8, 8, 3)
    if suffix == ".png":
        content[16:24] = (30_000).to_bytes(4, "big") * 2
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    else:
        at = content.find(b"\xff\xc0")
        content[at + 5 : at + 9] = (30_000).to_bytes(2, "big") * 2
    with pytest.raises(EncodingError, match="claims 900000000 pixels"):
        compressed_to_rgb(content)


def test_only_jpeg_and_png_reach_the_decoders() -> None:
    import cv2

    with pytest.raises(EncodingError, match="no JPEG or PNG"):
        compressed_to_rgb(cv2.imencode(".webp", np.zeros((8, 8, 3), np.uint8))[1].tobytes())


@pytest.mark.parametrize(
    ("times_s", "positions", "start_s", "message"),
    [
        ([0.0, 0.1], [[-1e308, 0.0], [1e308, 0.0]], 0.0, "at most 1e.10 is allowed"),
        ([0.0, 1e-9], [[0.0, 0.0], [0.1, 0.0]], 2e9, "increase from point to point"),
    ],
)
def test_a_trajectory_that_would_end_in_nan_is_refused_and_the_arm_goes_on(
    times_s: list[float], positions: list[list[float]], start_s: float, message: str
) -> None:
    with ArmSim(render=False) as sim:
        with pytest.raises(ValueError, match=message):
            sim.set_trajectory(times_s, positions, start_s=start_s)
        sim.set_trajectory([0.0, 1.0], [[0.0, 0.0], [0.2, 0.1]])
        sim.step(2.0)
        np.testing.assert_allclose(sim.joint_positions(), [0.2, 0.1], atol=0.02)


def changed_bundle(folder: Path, change) -> Path:
    bundle = tiny_bundle(folder)
    description = json.loads((bundle.folder / "model.json").read_text())
    change(description)
    (bundle.folder / "model.json").write_text(json.dumps(description))
    return folder


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("group", "names", [], "names of the columns"),
        ("group", "names", "ab", "names of the columns"),
        ("group", "names", ["a", "\ud800"], "names of the columns"),
        ("group", "mean", ["x", "y"], "one finite number"),
        ("group", "std", [[1.0], [1.0]], "one finite number"),
        ("group", "high", [1e300, 1.0], "one finite number"),
        ("group", "low", [2.0, 2.0], "low must not be above high"),
        ("actions", "control_dt_s", math.inf, "both must be positive"),
        ("actions", "frameskip", "5", "both must be positive"),
        ("model", "encoder_depth", 10**9, "256 or less"),
        ("files", "a\0b", "", "cannot be read"),
        ("files", "a" * 400, "", "cannot be read"),
    ],
)
def test_a_description_that_is_no_description_is_refused_as_one(
    tmp_path: Path, part: str, field: str, value: object, message: str
) -> None:
    def change(description: dict) -> None:
        (description["actions"]["groups"][0] if part == "group" else description[part]).update({field: value})

    with pytest.raises(BundleError, match=message):
        load_bundle(changed_bundle(tmp_path / "bundle", change))


def test_a_path_that_no_file_can_have_is_no_bundle() -> None:
    with pytest.raises(BundleError):
        load_bundle("x" * 300)


def test_a_description_of_endless_depth_is_refused(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path / "bundle").folder
    (folder / "model.json").write_text("[" * 100_000)
    with pytest.raises(BundleError, match="nested too deep"):
        load_bundle(folder)


def test_sizes_that_the_weights_do_not_have_take_no_memory(tmp_path: Path) -> None:
    sizes = {"encoder_mlp": 60_000, "predictor_mlp": 60_000, "projector_width": 60_000, "encoder_depth": 200}
    folder = changed_bundle(tmp_path / "bundle", lambda description: description["model"].update(sizes))
    with pytest.raises(BundleError, match="does not fit the architecture"):
        load_model(load_bundle(folder))


def test_damaged_weights_and_graphs_whose_hashes_fit_are_refused_by_who_reads_them(tmp_path: Path) -> None:
    from lewm_model.bundle.bundle import save_description

    bundle = tiny_bundle(tmp_path / "bundle")
    (bundle.folder / "onnx" / "encoder.onnx").write_bytes(b"\x08\x07garbage")
    (bundle.folder / "weights.safetensors").write_bytes(b"\xff" * 100)
    (bundle.folder / "heads.safetensors").write_bytes(b"")
    damaged = save_description(load_bundle_unchecked(bundle))
    with pytest.raises(RuntimeLoadError, match="ONNX Runtime does not read"):
        load_runtime(damaged, "onnxruntime")
    with pytest.raises(BundleError, match="does not hold weights"):
        load_model(damaged)
    with pytest.raises(BundleError, match="does not hold weights"):
        load_heads(damaged)


def load_bundle_unchecked(bundle):
    from dataclasses import replace

    return replace(bundle, heads=("proposal",))


def test_graphs_of_another_model_are_refused_when_they_are_loaded(tmp_path: Path) -> None:
    folder = changed_bundle(
        tmp_path / "bundle",
        lambda description: description.update(
            model=description["model"] | {"image_height": 128},
            cameras=[description["cameras"][0] | {"height": 128}],
        ),
    )
    with pytest.raises(RuntimeLoadError, match=r"encoder has the inputs image \(1, 64, 64, 3\) uint8"):
        load_runtime(load_bundle(folder), "onnxruntime")


@pytest.mark.parametrize(
    "content",
    ["!!int ''", "a: !!timestamp x", "2020-99-99", "[" * 3000, "\xff\xfe", "a: " + "9" * 5000, "- 1", "!!bool x: 1"],
)
def test_a_configuration_that_yaml_chokes_on_is_a_configuration_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "train.yaml").write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError):
        load_yaml(tmp_path / "train.yaml")


def test_aliases_do_not_make_an_endless_message(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]" for i in range(9)]
    (tmp_path / "train.yaml").write_text("\n".join([*lines, "steps: *a9"]))
    values = load_yaml(tmp_path / "train.yaml")
    with pytest.raises(ConfigError, match="must be of type int") as error:
        from_dict(TrainConfig, {"steps": values["steps"]})
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("values", [None, [], "x", {1: 2, "a": 3}, {"latent_dim": 2**63}, {"dropout": math.nan}])
def test_whatever_a_section_is_it_is_taken_or_refused(values: object) -> None:
    with pytest.raises(ConfigError):
        from_dict(ModelConfig, values)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('<?xml version="1.0"?>', '<?xml version="1.0" encoding="utf-7"?>', "encoding is not supported"),
        ('<?xml version="1.0"?>', '<?xml version="1.0" encoding="nowhere"?>', "encoding is not supported"),
        ("<max_step_size>0.002", "<max_step_size>1e-9", "write 1e-05 to 0.05 s"),
        ("<update_rate>20<", "<update_rate>1e-300<", "write 0.01 to 1000"),
        ("<width>", "<width>9", "whole numbers up to 8192"),
        ("<mass>0.6</mass>", "<mass>1e300</mass>", "no number may be beyond"),
    ],
)
def test_a_world_that_nobody_can_simulate_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = resource("worlds", "tabletop.sdf").read_text()
    assert old in text
    (tmp_path / "world.sdf").write_text(text.replace(old, new).replace("<width>996", "<width>99996"))
    with pytest.raises(SdfError, match=message):
        load_world(tmp_path / "world.sdf")


def test_a_world_of_entities_or_without_an_end_is_refused(tmp_path: Path) -> None:
    levels = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(9))
    (tmp_path / "world.sdf").write_text(f'<!DOCTYPE sdf [<!ENTITY e0 "1">{levels}]><sdf version="1.9">&e9;</sdf>')
    with pytest.raises(SdfError, match="write out the XML entity 'e0'"):
        load_world(tmp_path / "world.sdf")
    with pytest.raises(SdfError, match="is not a file"):
        load_world("/dev/zero")


def test_a_trajectory_that_lasts_for_years_is_not_sent_on_to_gazebo() -> None:
    import rclpy
    from rclpy.serialization import serialize_message

    from lewm_model.planning.motion import Trajectory
    from lewm_ros.gazebo_commands import GazeboCommands
    from lewm_ros.messages import trajectory_to_message

    rclpy.init()
    try:
        node = GazeboCommands()
        sent: list[bytes] = []
        publisher = SimpleNamespace(publish=lambda message: sent.append(serialize_message(message)))
        for seconds, count in ((2e9, 0), (1.0, 1)):
            motion = Trajectory(np.array([0.0, seconds]), np.zeros((2, 2)), np.zeros((2, 2)))
            now_ns = node.get_clock().now().nanoseconds
            message = trajectory_to_message(motion, ("shoulder", "elbow"), now_ns)
            node._on_command("arm_controller/joint_trajectory", publisher, message)
            assert len(sent) == count
        node.destroy_node()
    finally:
        rclpy.shutdown()


def test_a_chain_of_a_thousand_frames_is_refused(tmp_path: Path) -> None:
    text = resource("worlds", "tabletop.sdf").read_text()
    chain = "".join(f'<frame name="f{i}" attached_to="f{i + 1}"/>' for i in range(2000))
    (tmp_path / "world.sdf").write_text(text.replace('<link name="base"', f'{chain}<link name="base"', 1))
    with pytest.raises(SdfError):
        load_world(tmp_path / "world.sdf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file["ep_offset"].__setitem__(0, 2**40), "beyond"),
        (lambda file: file["ep_len"].__setitem__(0, -3), "overlap or are empty"),
        (lambda file: file["ep_offset"].__setitem__(1, 0), "overlap or are empty"),
        (lambda file: file.attrs.__setitem__("action_names", "{"), "action_names"),
        (lambda file: file.attrs.__setitem__("action_names", '["a"]'), "name the 2 columns"),
        (lambda file: file.attrs.__setitem__("action_kind", np.zeros(3)), "action_kind cannot be read"),
        (lambda file: file.attrs.__setitem__("action_units", np.zeros(3)), "action_units cannot be read"),
        (lambda file: (file.__delitem__("ep_len"), file.create_group("ep_len")), "cannot be read as HDF5"),
    ],
)
def test_a_recording_whose_numbers_do_not_go_together_is_refused(tmp_path: Path, change, message: str) -> None:
    import h5py

    path = dot_recording(tmp_path / "dots.h5", episodes=3, steps=5, size=16)
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(DataError, match=message):
        load_episodes(path)


def test_a_recording_larger_than_the_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    import h5py

    path = tmp_path / "sparse.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("pixels", (2**29, 1024, 1024, 3), "uint8", chunks=(1, 64, 64, 3))
        file.create_dataset("action", (2**29, 2), "float32", chunks=(1024, 2))
        file["ep_len"], file["ep_offset"] = [2**29], [0]
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match=r"1.69e\+06 GB of frames, some of which were never written"):
        load_episodes(path)
    with h5py.File(path, "a") as file:
        del file["pixels"], file["action"]
        file["pixels"], file["ep_len"][0] = np.zeros((2**10, 4, 4, 3), np.uint8), 2**10
        file.create_dataset("action", (2**10, 2**27), "float32", chunks=(1024, 2))
    with pytest.raises(DataError, match="GB of memory"):
        load_episodes(path)


@pytest.mark.parametrize("damage", ["time", "position", "definition", "joint name"])
def test_a_recording_with_absurd_messages_converts_without_them(tmp_path: Path, damage: str, monkeypatch) -> None:
    import bags

    def motion(times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.stack([np.sin(times_s), np.cos(times_s)], 1), np.stack([np.cos(times_s), -np.sin(times_s)], 1)

    with BagWriter(tmp_path / "a.mcap") as bag:
        if damage == "definition":
            text = bags.DEFINITIONS["std_msgs/msg/String"]
            monkeypatch.setitem(bags.DEFINITIONS, "std_msgs/msg/String", text.replace("data", "text"))
            bag.write("/episode", "std_msgs/msg/String", {"text": "start"}, 999.0)
        write_motion(bag, motion, 0.05 * np.arange(20), lambda i: np.zeros((16, 16, 3), np.uint8))
        if damage == "time":
            bag.joints(("shoulder", "elbow"), [0.0, 0.0], 1000.2, (2**63 + 5) / 1e9)
        if damage == "position":
            bag.joints(("shoulder", "elbow"), [1e308, 0.0], 1000.2, 1000.2)
        if damage == "joint name":
            bag.joints(("shoulder", "elbow\0"), [0.0, 0.0], 1000.2, 1000.2)
    report = convert_bag([tmp_path / "a.mcap"], tmp_path / "a.h5", image_size=16)
    assert report.frames_used == 20
    assert sum(report.left_out.values()) == 1


@pytest.mark.parametrize(("ready_share", "worker", "hangs"), [(0.0, "input()", True), (1.0, "time.sleep(6)", False)])
def test_a_worker_that_sleeps_hangs_and_one_that_a_busy_machine_keeps_waiting_does_not(
    ready_share: float, worker: str, hangs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that never answers, and whose waiting time for a processor grows not at all or as fast as the clock."""
    from validation import fuzz

    command = [sys.executable, "-c", f"import time; input(); {worker}"]
    started = subprocess.Popen
    monkeypatch.setattr(fuzz.subprocess, "Popen", lambda _, **options: started(command, **options))
    monkeypatch.setattr(fuzz, "START_S", 3.0)
    monkeypatch.setattr(fuzz.Worker, "_waited_s", lambda _: ready_share * time.monotonic())
    ended, number = fuzz.Worker(tmp_path, tmp_path, 0).do("any", 7, 1, None)
    assert ended is not None and number == 7
    assert bool(ended.get("hang")) == hangs, ended
