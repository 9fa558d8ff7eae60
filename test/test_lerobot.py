# SPDX-License-Identifier: Apache-2.0
"""LeRobot folders of both layouts become episodes: right frames with right actions, and gaps that are gaps."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

av = pytest.importorskip("av")
pytest.importorskip("pyarrow")
import pyarrow as pa
import pyarrow.parquet as pq
from lerobots import CAMERA, FPS, LENGTHS, arm_folder, folder, frames, motion, video
from test_bag import number, picture
from tiny import dot_recording
from typer.testing import CliRunner

from lewm_model.cli.main import app
from lewm_model.data.clips import DataError, Episodes, load_episodes
from lewm_model.data.converters.columns import Columns
from lewm_model.data.converters.lerobot import _video, convert_lerobot
from lewm_model.data.converters.view import View
from lewm_model.robot.observation import Camera


def check(data: Episodes, first: int = 0, radians: bool = False) -> None:
    """Every row's picture, action and state are those of the same moment."""
    starts = np.cumsum([0, *LENGTHS])
    for offset, length in zip(data.offsets, data.lengths, strict=True):
        rows = range(offset, offset + length)
        shown = np.array([number(data.pixels[row]) for row in rows])
        episode = int(np.searchsorted(starts, shown[0], side="right") - 1)
        at = shown - starts[episode]
        np.testing.assert_array_equal(np.diff(shown), 1)
        stamps, commanded, measured = motion(episode)
        expected = np.radians(np.diff(commanded, axis=0, prepend=0.0)) * FPS if radians else commanded
        np.testing.assert_allclose(data.actions[rows][:-1], expected[at][:-1], atol=1e-4)
        assert np.isnan(data.actions[rows][-1]).all()
        assert data.proprio is not None and data.stamps_s is not None
        np.testing.assert_allclose(data.proprio[rows], np.radians(measured[at]) if radians else measured[at], atol=1e-5)
        np.testing.assert_allclose(data.stamps_s[rows], stamps[at], atol=1e-5)


def test_several_cameras_of_a_data_set_lie_side_by_side_and_one_that_it_lacks_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", "v3.0", image=True)
    second = CAMERA.replace("front", "wrist")
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][second] = info["features"][CAMERA]
    (root / "meta/info.json").write_text(json.dumps(info))
    for path in (root / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.append_column(second, table.column(CAMERA)), path)
    front, wrist = Camera("front", 32, 32), Camera("wrist", 32, 16, crop=(0, 0, 48, 24))
    convert_lerobot(root, tmp_path / "a.h5", view=View((front, wrist)))
    data = load_episodes(tmp_path / "a.h5")
    assert data.cameras == (front, wrist) and data.image_size == (32, 48)
    np.testing.assert_array_equal(data.pixels[:, :, 33:36], data.pixels[:, :, 2:5])
    with pytest.raises(DataError, match="has no camera 'top'; it has"):
        convert_lerobot(root, tmp_path / "b.h5", view=View((Camera("top", 32, 32),)))


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("image", [False, True])
def test_both_layouts_with_videos_and_with_pictures_convert(tmp_path: Path, version: str, image: bool) -> None:
    root = folder(tmp_path / "set", version, image)
    report = convert_lerobot(root, tmp_path / "a.h5", image_size=32)
    data = load_episodes(tmp_path / "a.h5")
    assert list(data.lengths) == list(LENGTHS)
    check(data)
    assert (report.frames_used, report.frames_recorded, report.gaps, report.problems) == (100, 100, [], [])
    assert data.control_dt_s == 1 / FPS and data.action_names == ("shoulder", "elbow")
    assert set(data.action_kinds) == {"recorded"} and "planner_node does not command" in str(report)
    assert "'push the block': 30 frames" in report.episodes[0]


@pytest.mark.parametrize("image", [False, True])
def test_several_cameras_lie_side_by_side_as_they_were_named(tmp_path: Path, image: bool) -> None:
    """The second one shows the first one's pictures upside down; frames that it lacks are missing from both."""
    root = folder(tmp_path / "set", "v2.1", image)
    meta, wrist = root / "meta/info.json", "observation.images.wrist"
    info = json.loads(meta.read_text())
    info["features"][wrist] = {"dtype": "video", "shape": [48, 64, 3]}
    meta.write_text(json.dumps(info))
    for e in range(len(LENGTHS)):
        turned = [rgb[::-1, ::-1] for rgb in frames(e)]
        video(root / f"videos/chunk-000/{wrist}/episode_{e:06d}.mp4", turned, skip=(40, 41) if e == 1 else ())
    with pytest.raises(DataError, match=r"wrist; say which to take with --camera, several separated by"):
        convert_lerobot(root, tmp_path / "a.h5")
    report = convert_lerobot(root, tmp_path / "a.h5", image_size=32, camera=f"{CAMERA}, {wrist}")
    data = load_episodes(tmp_path / "a.h5")
    assert data.pixels.shape[1:] == (32, 64, 3)
    assert [camera.name for camera in data.cameras] == ["front", "wrist"]
    assert [camera.topic for camera in data.cameras] == ["camera/image_raw", "wrist/image_raw"]
    left, right = data.pixels[:, :, :32], data.pixels[:, ::-1, 32:][:, :, ::-1]
    assert [number(one) for one in left] == [number(one) for one in right]
    assert len(left) == 98 and "episode 1: 2 of 45 frames are not in the video" in str(report)
    one = convert_lerobot(root, tmp_path / "b.h5", image_size=32, camera=wrist)
    assert one.frames_used == 98 and load_episodes(tmp_path / "b.h5").pixels.shape[1:] == (32, 32, 3)


def test_positions_become_velocities_and_the_command_line_repeats_itself(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", "v3.0")
    arguments = ["convert", str(root), "--out", str(tmp_path / "a.h5"), "--image-size", "32"]
    result = CliRunner().invoke(app, [*arguments, "--actions-are", "joint-positions-deg"])
    assert result.exit_code == 0, result.output
    data = load_episodes(tmp_path / "a.h5")
    assert list(data.lengths) == [n - 1 for n in LENGTHS]
    assert set(data.action_kinds) == {"joint_velocity"}
    check(data, radians=True)
    assert data.recorded["command"].startswith("lewm convert") and data.recorded["actions_are"] == "joint-positions-deg"
    result = CliRunner().invoke(app, ["data", "report", str(root), "--json"])
    assert result.exit_code == 0, result.output
    numbers = json.loads(result.output)
    assert (numbers["episodes"], numbers["frames"], numbers["rate_hz"]) == (3, 100, pytest.approx(FPS, rel=1e-3))
    assert (tmp_path / "set.report.png").is_file()


@pytest.mark.parametrize("codec", ["libsvtav1", "libx264"])
def test_the_codecs_of_lerobot_are_read(tmp_path: Path, codec: str) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {codec}")
    convert_lerobot(folder(tmp_path / "set", "v3.0", codec=codec), tmp_path / "a.h5", image_size=32)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER, "an encoder has changed the priority of this process"
    data = load_episodes(tmp_path / "a.h5")
    assert list(data.lengths) == list(LENGTHS)
    check(data)


@pytest.mark.parametrize("actions_are", ["recorded", "joint-positions-deg"])
def test_a_command_that_is_not_finite_costs_what_it_led_to_and_nothing_else(tmp_path: Path, actions_are: str) -> None:
    root = folder(tmp_path / "set", "v3.0", image=True, nan_row=10)
    convert_lerobot(root, tmp_path / "a.h5", image_size=32, actions_are=actions_are)
    data = load_episodes(tmp_path / "a.h5")
    assert sum(data.lengths) >= sum(LENGTHS) - 6
    assert len(data.lengths) == len(LENGTHS) + 1  # the first is cut in two


def test_frames_that_are_missing_cut_the_episode(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", "v3.0", skip=(10, 11, 50))
    report = convert_lerobot(root, tmp_path / "a.h5", image_size=32)
    data = load_episodes(tmp_path / "a.h5")
    assert list(data.lengths) == [10, 18, 20, 24, 25]
    check(data)
    assert report.gaps[0].startswith("episode 0: 2 of 30 frames are not in the video")


def test_what_is_damaged_is_named_and_the_rest_kept(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", "v2.1")
    (root / "data/chunk-000/episode_000000.parquet").write_bytes(b"PAR1 nothing")
    cut = root / f"videos/chunk-000/{CAMERA}/episode_000002.mp4"
    cut.write_bytes(cut.read_bytes()[:500])
    report = convert_lerobot(root, tmp_path / "a.h5", image_size=32)
    data = load_episodes(tmp_path / "a.h5")
    assert list(data.lengths) == [45]
    check(data)
    assert "episode_000000.parquet cannot be read" in report.problems[0]
    assert "episode 2: the video" in report.problems[1]


def test_what_cannot_be_converted_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", "v2.1", image=True)
    out, meta = tmp_path / "a.h5", root / "meta/info.json"
    info = json.loads(meta.read_text())

    def change(**values: Any) -> None:
        meta.write_text(json.dumps({**info, **values}))

    with pytest.raises(DataError, match=r"has the cameras observation.images.front; say which to take with --camera"):
        convert_lerobot(root, out, camera="wrist")
    with pytest.raises(DataError, match=r"no action 'act'; .* with --action: action, observation.state, timestamp"):
        convert_lerobot(root, out, action="act")
    with pytest.raises(DataError, match="--actions-are is 'metres'; it is one of recorded, joint-positions-rad"):
        convert_lerobot(root, out, actions_are="metres")
    change(features={**info["features"], "action": {"dtype": "uint8", "shape": [2]}})
    with pytest.raises(DataError, match="has no action 'action' of floats, it is uint8"):
        convert_lerobot(root, out)
    change(codebase_version="v1.6")
    with pytest.raises(DataError, match=r"has version v1.6; 2.0, 2.1 and 3.0 are read"):
        convert_lerobot(root, out)
    change(features={"action": info["features"]["action"]})
    with pytest.raises(DataError, match="has no camera"):
        convert_lerobot(root, out)
    change(fps="x")
    with pytest.raises(DataError, match="does not describe a LeRobot data set"):
        convert_lerobot(root, out)
    change(
        features={**info["features"], CAMERA: {"dtype": "video", "shape": [48, 64, 3]}},
        video_path="../../{video_key}{episode_chunk}{episode_index}",
    )
    with pytest.raises(DataError, match=r"no episode of 2 frames(.|\n)*lies outside the data set"):
        convert_lerobot(root, out)
    assert not out.exists() and not list(tmp_path.glob("*.part"))


MOVING = np.degrees(0.5 * np.sin(np.arange(30) / 10))
DEGREES: dict[str, Any] = {"image_size": 16, "actions_are": "joint-positions-deg"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"elbow": 1, "shoulder": 0}, ("shoulder", "elbow")),
        ([["shoulder", "elbow"]], ("shoulder", "elbow")),
        ({"axes": ["shoulder.pos", "elbow.pos"]}, ("shoulder", "elbow")),
        ({"left": ["shoulder"], "right": ["shoulder"]}, ("left_shoulder", "right_shoulder")),
        (None, ("action0", "action1")),
    ],
)
def test_columns_are_named_as_the_data_set_orders_them(tmp_path: Path, names: Any, expected: tuple[str, ...]) -> None:
    root = arm_folder(tmp_path / "set", np.stack([MOVING, -2 * MOVING], 1), names)
    convert_lerobot(root, tmp_path / "a.h5", **DEGREES)
    data = load_episodes(tmp_path / "a.h5")
    assert data.action_names == expected
    np.testing.assert_allclose(data.actions[:5, 1], -2 * data.actions[:5, 0], rtol=1e-4)


def test_a_gripper_in_per_cent_is_no_angle(tmp_path: Path) -> None:
    gripper = 50 + 50 * np.sin(np.arange(30) / 5)
    root = arm_folder(tmp_path / "set", np.stack([MOVING, gripper], 1), ["pan.pos", "gripper.pos"])
    with pytest.raises(DataError, match="gripper looks like a gripper, which LeRobot records as 0 to 100 per cent"):
        convert_lerobot(root, tmp_path / "a.h5", **DEGREES)
    convert_lerobot(root, tmp_path / "a.h5", **DEGREES, columns=Columns(names=("pan",)))
    assert load_episodes(tmp_path / "a.h5").action_names == ("pan",)
    convert_lerobot(root, tmp_path / "b.h5", **DEGREES, columns=Columns(grippers=("gripper",)))
    with h5py.File(tmp_path / "b.h5") as file:
        assert json.loads(file.attrs["action_kind"]) == ["joint_velocity", "gripper"]
        travelled = np.nansum(file["action"][:, 1]) * file.attrs["control_dt_s"]
        assert travelled == pytest.approx((gripper[-2] - gripper[0]) / 100, abs=1e-3)
    with pytest.raises(DataError, match="left out: 30 x frames in which a held joint had moved"):
        convert_lerobot(root, tmp_path / "c.h5", **DEGREES, columns=Columns(held=("gripper",)))
    with pytest.raises(DataError, match="has no joint 'wrist'; it has pan, gripper"):
        convert_lerobot(root, tmp_path / "c.h5", **DEGREES, columns=Columns(names=("wrist",)))


def test_units_that_could_be_others_are_named(tmp_path: Path) -> None:
    ends = arm_folder(tmp_path / "ends", (100 * np.sin(np.arange(30) / 10))[:, None], ["pan.pos"], "so101_follower")
    with pytest.raises(DataError, match="looks like LeRobot's range of -100 to 100"):
        convert_lerobot(ends, tmp_path / "a.h5", **DEGREES)
    inner = arm_folder(tmp_path / "inner", MOVING[:, None], ["pan.pos"], "so101_follower")
    report = convert_lerobot(inner, tmp_path / "a.h5", **DEGREES)
    assert "say --units deg if they are degrees" in report.problems[0]
    assert convert_lerobot(inner, tmp_path / "a.h5", **DEGREES, columns=Columns(units="deg")).problems == []
    clipped = np.clip(110 * np.sin(np.arange(60) / 15), -100, 100)[:, None]
    anyone = arm_folder(tmp_path / "anyone", clipped, ["pan.pos"])  # of an unknown robot
    with pytest.raises(DataError, match="looks like LeRobot's range of -100 to 100"):
        convert_lerobot(anyone, tmp_path / "a.h5", **DEGREES)
    assert convert_lerobot(anyone, tmp_path / "a.h5", **DEGREES, columns=Columns(units="deg")).frames_used == 59
    wrap = arm_folder(tmp_path / "wrap", ((170 + 4.0 * np.arange(30) + 180) % 360 - 180)[:, None], ["roll"])
    report = convert_lerobot(wrap, tmp_path / "b.h5", **DEGREES)
    np.testing.assert_allclose(load_episodes(tmp_path / "b.h5").actions[:-1], np.radians(4.0 * FPS), rtol=1e-4)
    assert "the numbers of roll wrap at pi; its turns were counted" in report.notes
    rad = arm_folder(tmp_path / "rad", 40 + 2 * MOVING[:, None], ["roll"])
    with pytest.raises(DataError, match="looks like degrees"):
        convert_lerobot(rad, tmp_path / "c.h5", image_size=16, actions_are="joint-positions-rad")


def test_radians_that_are_called_degrees_are_refused_unless_it_is_said_twice(tmp_path: Path) -> None:
    root = arm_folder(tmp_path / "set", np.radians(MOVING)[:, None] * [1.0, 3.0], ["pan", "lift"])
    with pytest.raises(DataError, match=r"farther than 1.5 from zero, which looks like radians"):
        convert_lerobot(root, tmp_path / "a.h5", **DEGREES)
    assert not (tmp_path / "a.h5").exists()
    convert_lerobot(root, tmp_path / "a.h5", columns=Columns(units="deg"), **DEGREES)


def test_where_an_episode_begins_in_its_video_is_counted_when_the_metadata_have_drifted(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", "v3.0")
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        row[f"videos/{CAMERA}/from_timestamp"] += 0.1 * row["episode_index"]  # two frames for each earlier episode
    pq.write_table(pa.Table.from_pylist(rows), path)
    report = convert_lerobot(root, tmp_path / "a.h5", image_size=32)
    assert report.frames_used == sum(LENGTHS)
    check(load_episodes(tmp_path / "a.h5"))
    assert [problem.split(";")[0] for problem in report.problems] == [
        "file-000.mp4: stamps and video are 0.100 s apart",
        "file-000.mp4: stamps and video are 0.200 s apart",
    ]


def test_a_frame_number_that_no_video_has_changes_no_pictures(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", "v2.1")
    path = sorted(root.glob("data/*/*.parquet"))[0]
    rows = pq.read_table(path).to_pylist()
    rows[0]["frame_index"] = 99
    pq.write_table(pa.Table.from_pylist(rows), path)
    report = convert_lerobot(root, tmp_path / "a.h5", image_size=32)
    assert report.frames_used == sum(LENGTHS)
    check(load_episodes(tmp_path / "a.h5"))


@pytest.mark.parametrize("rate", [10, 30])
def test_of_a_video_that_says_another_rate_the_frames_are_counted(tmp_path: Path, rate: int) -> None:
    report = convert_lerobot(folder(tmp_path / "set", "v2.1", rate=rate), tmp_path / "a.h5", image_size=32)
    assert report.frames_used == sum(LENGTHS) and "so they were counted" in report.problems[0]
    check(load_episodes(tmp_path / "a.h5"))


@pytest.mark.parametrize("fps", [10, 15, 30])
def test_a_data_set_that_says_another_rate_than_its_rows_is_refused(tmp_path: Path, fps: int) -> None:
    root = folder(tmp_path / "set", "v2.1")
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps({**info, "fps": fps}))
    with pytest.raises(DataError, match=f"its rows are 0.05 s apart, and meta/info.json says {fps} frames a second"):
        convert_lerobot(root, tmp_path / "a.h5", image_size=32)


def rewritten(root: Path, change: Any) -> Path:
    """The data set with each table of its frames replaced by `change(table)`."""
    for path in sorted((root / "data").rglob("*.parquet")):
        pq.write_table(change(pq.read_table(path)), path)
    return root


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_rows_that_are_missing_cut_the_episode_and_the_others_keep_their_pictures(tmp_path: Path, version: str) -> None:
    def cut(table: Any) -> Any:
        rows = np.arange(LENGTHS[1])
        gone = (table["episode_index"].to_numpy() == 1) & np.isin(table["frame_index"].to_numpy(), rows[3:40])
        return table.filter(pa.array(~gone))

    root = rewritten(folder(tmp_path / "set", version), cut)
    report = convert_lerobot(root, tmp_path / "a.h5", image_size=32, actions_are="joint-positions-deg")
    data = load_episodes(tmp_path / "a.h5")
    assert list(data.lengths) == [29, 2, 4, 24] and any("without a frame" in gap for gap in report.gaps)
    check(data, radians=True)


def test_an_episode_whose_rows_are_in_two_files_keeps_its_pictures(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", "v3.0")
    whole = pa.concat_tables([pq.read_table(path) for path in sorted((root / "data").rglob("*.parquet"))])
    for i, part in enumerate((whole.slice(0, 40), whole.slice(40))):
        pq.write_table(part, root / f"data/chunk-000/file-00{i}.parquet")
    report = convert_lerobot(root, tmp_path / "a.h5", image_size=32)
    assert report.frames_used == sum(LENGTHS) and report.problems == []
    check(load_episodes(tmp_path / "a.h5"))


def test_an_episode_that_is_there_twice_is_refused_and_one_without_rows_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", "v2.1")
    first, second = (root / f"data/chunk-000/episode_00000{i}.parquet" for i in (0, 1))
    second.rename(tmp_path / "second.parquet")
    report = convert_lerobot(root, tmp_path / "a.h5", image_size=32)
    assert "meta/ lists 1 episodes without rows in data/ (1)" in report.problems[0]
    second.write_bytes(first.read_bytes())  # data sets were merged, and their episodes not numbered anew
    with pytest.raises(DataError, match=r"episode_000001.parquet has rows of episode 0 that another file has, too"):
        convert_lerobot(root, tmp_path / "a.h5", image_size=32)


@pytest.mark.parametrize("key", ["action", "observation.state"])
def test_tables_that_contradict_the_metadata_are_named_and_an_empty_cell_costs_its_frame(
    tmp_path: Path, key: str
) -> None:
    def changed(values: Any) -> Any:
        def change(table: Any) -> Any:
            rows = values(table[key].to_pylist())
            return table.set_column(table.column_names.index(key), key, pa.array(rows, pa.list_(pa.float32())))

        return change

    root = rewritten(folder(tmp_path / "set", "v2.1"), changed(lambda rows: [*rows[:9], None, *rows[10:]]))
    report = convert_lerobot(root, tmp_path / "a.h5", image_size=32)
    assert report.frames_used == sum(LENGTHS) - 3 and report.left_out["frames with numbers that are not finite"] == 3
    check(load_episodes(tmp_path / "a.h5"))
    for width in (1, 3):
        wrong = changed(lambda rows, width=width: [np.resize(row, width).tolist() for row in rows])
        with pytest.raises(DataError, match=f"{key} has {width} numbers, and meta/info.json says 2"):
            convert_lerobot(rewritten(folder(tmp_path / f"{width}", "v2.1"), wrong), tmp_path / "b.h5", image_size=32)


def test_a_video_with_fewer_frames_than_rows_and_no_gap_is_named_once(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", "v3.0")
    shown = [frame for e in range(3) for frame in frames(e)]
    video(root / f"videos/{CAMERA}/chunk-000/file-000.mp4", shown[:40] + shown[42:])
    report = convert_lerobot(root, tmp_path / "a.h5", image_size=32)
    assert [problem.split(":")[0] for problem in report.problems] == ["file-000.mp4 has 98 frames for 100 rows"]


def test_of_a_video_with_more_frames_the_nearest_ones_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "fast.mp4"
    frames = [picture(i) for i in range(60)]
    video(path, frames, rate=3 * FPS)
    shown = list(_video(path, np.arange(20) / FPS + 0.004, 0.5 / FPS, Camera("camera", 32, 32)))
    assert [number(pixels) for pixels in shown] == list(range(0, 60, 3))


def test_a_recording_written_as_lerobot_comes_back_the_same(tmp_path: Path) -> None:
    path, root = dot_recording(tmp_path / "dots.h5", episodes=3, steps=12), tmp_path / "set"
    arguments = ["convert", str(path), "--to", "lerobot", "--out", str(root)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0 and "36 frames written" in result.output, result.exception
    assert isinstance(CliRunner().invoke(app, arguments).exception, DataError)  # it is there already
    assert CliRunner().invoke(app, [*arguments, "--overwrite"]).exit_code == 0
    refused = CliRunner().invoke(app, [*arguments, "--overwrite", "--joints", "a"]).exception
    assert "to which --joints do not apply" in str(refused)
    info = json.loads((root / "meta/info.json").read_text())
    assert (info["codebase_version"], info["total_episodes"], info["total_frames"], info["fps"]) == ("v3.0", 3, 36, 20)
    tasks = pq.read_table(root / "meta/tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    report = convert_lerobot(root, tmp_path / "back.h5", image_size=32)
    assert report.frames_used == report.frames_recorded == 36 and report.problems == []
    before, after = load_episodes(path), load_episodes(tmp_path / "back.h5")
    assert list(after.lengths) == [12, 12, 12] and after.action_names == before.action_names
    for e in range(3):
        old, new = slice(before.offsets[e], before.offsets[e] + 12), slice(after.offsets[e], after.offsets[e] + 12)
        np.testing.assert_allclose(after.actions[new][:-1], before.actions[old][:-1], atol=1e-6)
        np.testing.assert_allclose(after.proprio[new], before.proprio[old], atol=1e-6)  # type: ignore[index]
        assert np.abs(after.pixels[new].astype(int) - before.pixels[old]).mean() < 3.0
