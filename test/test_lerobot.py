"""LeRobot folders of both layouts become episodes: right frames with right actions, and gaps that are gaps."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

av = pytest.importorskip("av")
pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq
from test_bag import number, picture
from typer.testing import CliRunner

from lewm_model.cli import app
from lewm_model.data.clips import DataError, Episodes, load_episodes
from lewm_model.data.lerobot import convert_lerobot

FPS, LENGTHS = 20, (30, 45, 25)
CAMERA = "observation.images.front"
NAMES = ["shoulder.pos", "elbow.pos"]


def video(path: Path, frames: list[np.ndarray], codec: str = "mpeg4", skip: tuple[int, ...] = ()) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.gop_size = 2
        if codec == "mpeg4":
            stream.bit_rate = 8_000_000
        for i, rgb in enumerate(frames):
            if i in skip:
                continue
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def motion(episode: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stamps (n,), commanded and measured positions (n, 2), degrees."""
    t = np.arange(LENGTHS[episode]) / FPS
    commanded = 40 * np.sin(t[:, None] * [1.3, 2.1] + episode)
    return t, commanded, commanded - 0.5


def frames(episode: int) -> list[np.ndarray]:
    before = sum(LENGTHS[:episode])
    return [picture(before + i) for i in range(LENGTHS[episode])]


def folder(root: Path, version: str, image: bool = False, **changes: Any) -> Path:
    """A data set of three episodes."""
    v3 = version.startswith("v3")
    tables = []
    for episode in range(len(LENGTHS)):
        stamps, commanded, measured = motion(episode)
        n = len(stamps)
        columns: dict[str, Any] = {
            "action": pa.array(commanded.astype(np.float32).tolist(), pa.list_(pa.float32(), 2)),
            "observation.state": pa.array(measured.astype(np.float32).tolist(), pa.list_(pa.float32(), 2)),
            "timestamp": pa.array(stamps.astype(np.float32)),
            "frame_index": pa.array(np.arange(n)),
            "episode_index": pa.array(np.full(n, episode)),
            "task_index": pa.array(np.zeros(n, np.int64)),
        }
        if image:
            encoded = [cv2.imencode(".png", rgb[..., ::-1])[1].tobytes() for rgb in frames(episode)]
            columns[CAMERA] = pa.array([{"bytes": one, "path": f"{i}.png"} for i, one in enumerate(encoded)])
        tables.append(pa.table(columns))
    info = {
        "codebase_version": version,
        "fps": FPS,
        "chunks_size": 1000,
        "features": {
            CAMERA: {"dtype": "image" if image else "video", "shape": [48, 64, 3]},
            "action": {"dtype": "float32", "shape": [2], "names": NAMES if v3 else {"motors": NAMES}},
            "observation.state": {"dtype": "float32", "shape": [2], "names": NAMES},
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        },
    }
    (root / "meta").mkdir(parents=True)
    if v3:
        info["data_path"] = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        (root / "data/chunk-000").mkdir(parents=True)
        pq.write_table(pa.concat_tables(tables[:2]), root / "data/chunk-000/file-000.parquet")
        pq.write_table(tables[2], root / "data/chunk-000/file-001.parquet")
        begins = np.cumsum([0, *LENGTHS[:-1]]) / FPS
        rows = [
            {
                "episode_index": e,
                "tasks": ["push the block"],
                "length": LENGTHS[e],
                f"videos/{CAMERA}/chunk_index": 0,
                f"videos/{CAMERA}/file_index": 0,
                f"videos/{CAMERA}/from_timestamp": float(begins[e]),
                "stats/action/max": [1.0],
            }
            for e in range(len(LENGTHS))
        ]
        (root / "meta/episodes/chunk-000").mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), root / "meta/episodes/chunk-000/file-000.parquet")
        if not image:
            video(root / f"videos/{CAMERA}/chunk-000/file-000.mp4", [f for e in range(3) for f in frames(e)], **changes)
    else:
        info["data_path"] = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
        info["video_path"] = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
        (root / "data/chunk-000").mkdir(parents=True)
        lines = []
        for e, table in enumerate(tables):
            pq.write_table(table, root / f"data/chunk-000/episode_{e:06d}.parquet")
            lines.append(json.dumps({"episode_index": e, "tasks": ["push the block"], "length": LENGTHS[e]}))
            if not image:
                video(root / f"videos/chunk-000/{CAMERA}/episode_{e:06d}.mp4", frames(e), **changes)
        (root / "meta/episodes.jsonl").write_text("\n".join(lines))
    (root / "meta/info.json").write_text(json.dumps(info))
    return root


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
        np.testing.assert_allclose(data.proprio[rows], measured[at], atol=1e-5)
        np.testing.assert_allclose(data.stamps_s[rows], stamps[at], atol=1e-5)


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
    assert data.action_kind == "recorded" and "planner_node does not command" in str(report)
    assert "'push the block': 30 frames" in report.episodes[0]


def test_positions_become_velocities_and_the_command_line_repeats_itself(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", "v3.0")
    arguments = ["convert", str(root), "--out", str(tmp_path / "a.h5"), "--image-size", "32"]
    result = CliRunner().invoke(app, [*arguments, "--actions-are", "joint-positions-deg"])
    assert result.exit_code == 0, result.output
    data = load_episodes(tmp_path / "a.h5")
    assert list(data.lengths) == [n - 1 for n in LENGTHS]
    assert data.action_kind == "joint_velocity"
    check(data, radians=True)
    assert data.source.startswith("lewm convert") and "--actions-are joint-positions-deg" in data.source


@pytest.mark.parametrize("codec", ["libsvtav1", "libx264"])
def test_the_codecs_of_lerobot_are_read(tmp_path: Path, codec: str) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {codec}")
    convert_lerobot(folder(tmp_path / "set", "v3.0", codec=codec), tmp_path / "a.h5", image_size=32)
    data = load_episodes(tmp_path / "a.h5")
    assert list(data.lengths) == list(LENGTHS)
    check(data)


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
    with pytest.raises(DataError, match=r"no action 'act' .* it has the numbers action, observation.state, timestamp"):
        convert_lerobot(root, out, action="act")
    with pytest.raises(DataError, match="--actions-are is one of recorded, joint-positions-rad"):
        convert_lerobot(root, out, actions_are="metres")
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
