# SPDX-License-Identifier: Apache-2.0
"""Episodes as a LeRobot data set of version 3.0, to use recordings with LeRobot's policies.

The last frame of an episode is left out: LeRobot has an action in every row, and that frame has none. Pictures become
an H.264 video, nearly lossless.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lewm_model.data.clips import Episodes
from lewm_model.data.errors import DataError

CAMERA = "observation.images.camera"
_FILE = "chunk-000/file-000"  # there is one file of each kind
_QUALITY = {"crf": "10", "preset": "veryfast"}  # constant rate factor of x264; below 18 no difference is visible
_KEYFRAME_EVERY = 2  # frames, as in LeRobot's own videos, since training reads frames in random order
_SAMPLE = 200  # frames for the statistics of the colours


def write_lerobot(data: Episodes, out: Path, task: str = "move", robot: str = "arm") -> int:
    """Writes a data set to a folder that appears when it is complete; returns its number of frames.

    :param task: the task that LeRobot stores with every frame, in words.
    :param robot: LeRobot's robot_type.
    :raises DataError: a package is missing, the time between rows is unknown, or a side of the pictures is odd.
    """
    if not (find_spec("av") and find_spec("pyarrow")):
        raise DataError("LeRobot data sets need pyarrow and PyAV: pip install pyarrow av")
    height, width = data.pixels.shape[1:3]
    if not data.control_dt_s > 0.0 or height % 2 or width % 2:
        raise DataError(
            f"{data.source}: frames of {width} x {height} every {data.control_dt_s} s; LeRobot needs the time between "
            "them, and its videos an even number of pixels: `lewm convert` with --control-dt-s and --image-size first"
        )
    part = out.with_name(f"{out.name}.{os.getpid()}.part")  # another process may write the same output
    try:
        frames = _write_folder(part, data, out.name, task, robot)
        if out.exists():
            shutil.rmtree(out)
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return frames


def _write_folder(folder: Path, data: Episodes, title: str, task: str, robot: str) -> int:
    """Writes all files of the data set; returns its number of frames."""
    for name in ("meta/episodes/chunk-000", "data/chunk-000", f"videos/{CAMERA}/chunk-000"):
        (folder / name).mkdir(parents=True)
    fps = 1.0 / data.control_dt_s
    fps = round(fps) if abs(fps - round(fps)) < 1e-3 else fps
    episodes = [
        np.arange(offset, offset + length - 1)
        for offset, length in zip(data.offsets.tolist(), data.lengths.tolist(), strict=True)
        if length > 1
    ]
    _write_video(folder / f"videos/{CAMERA}/{_FILE}.mp4", data.pixels, episodes, fps, title)
    columns = _columns(data, episodes, fps)
    _write_tables(folder, columns, episodes, fps, task)
    source = {"source": data.source, "action_kinds": data.action_kinds, "control_dt_s": data.control_dt_s}
    for name, content in (
        ("info", _info(data, columns, len(episodes), fps, robot)),
        ("stats", _all_statistics(data, columns)),
        ("lewm_ros", source),
    ):
        (folder / f"meta/{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    return sum(map(len, episodes))


def _write_video(path: Path, pixels: np.ndarray, episodes: Sequence[np.ndarray], fps: float, title: str) -> None:
    """The frames of all episodes, given as rows, one after the other."""
    import av

    height, width = pixels.shape[1:3]
    rate, number = Fraction(fps).limit_denominator(1000), 0
    bar = tqdm(total=sum(map(len, episodes)), desc=f"writing {title}", unit="frame", disable=None, delay=2)
    with bar, av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options=_QUALITY)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", _KEYFRAME_EVERY
        for rows in episodes:
            for rgb in pixels[rows]:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
                frame.pts, frame.time_base = number, 1 / rate
                container.mux(stream.encode(frame))
                number += 1
            bar.update(len(rows))
        container.mux(stream.encode())


def _columns(data: Episodes, episodes: Sequence[np.ndarray], fps: float) -> dict[str, np.ndarray]:
    """The columns of the table of frames, each (N,) or (N, A)."""
    rows, lengths = np.concatenate(episodes), [len(rows) for rows in episodes]
    frame_index = np.concatenate([np.arange(length) for length in lengths])
    columns = {
        "action": data.actions[rows],
        "timestamp": (frame_index / fps).astype(np.float32),
        "frame_index": frame_index,
        "episode_index": np.repeat(np.arange(len(episodes)), lengths),
        "index": np.arange(len(rows)),
        "task_index": np.zeros(len(rows), np.int64),
    }
    if data.proprio is not None:
        columns["observation.state"] = data.proprio[rows]
    return columns


def _write_tables(
    folder: Path, columns: dict[str, np.ndarray], episodes: Sequence[np.ndarray], fps: float, task: str
) -> None:
    """The Parquet files of frames, episodes and tasks."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    frames = {
        name: pa.array(values.tolist(), pa.list_(pa.float32(), values.shape[1]))
        if values.ndim == 2
        else pa.array(values)
        for name, values in columns.items()
    }
    parquet.write_table(pa.table(frames), folder / f"data/{_FILE}.parquet")
    rows: list[dict[str, Any]] = []
    begin = 0
    for number, episode in enumerate(episodes):
        end = begin + len(episode)
        rows.append(
            {
                "episode_index": number,
                "tasks": [task],
                "length": len(episode),
                "data/chunk_index": 0,
                "data/file_index": 0,
                "dataset_from_index": begin,
                "dataset_to_index": end,
                f"videos/{CAMERA}/chunk_index": 0,
                f"videos/{CAMERA}/file_index": 0,
                f"videos/{CAMERA}/from_timestamp": begin / fps,
                f"videos/{CAMERA}/to_timestamp": begin / fps + len(episode) / fps,
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
            }
        )
        begin = end
    parquet.write_table(pa.Table.from_pylist(rows), folder / f"meta/episodes/{_FILE}.parquet")
    # LeRobot looks the task's number up by its words, in the index of a table that pandas wrote.
    index_of = {"index_columns": ["task"], "column_indexes": [], "columns": [], "creator": {}, "pandas_version": "2"}
    tasks = pa.table({"task_index": pa.array([0]), "task": pa.array([task])})
    tasks = tasks.replace_schema_metadata({b"pandas": json.dumps(index_of).encode()})
    parquet.write_table(tasks, folder / "meta/tasks.parquet")


def _info(data: Episodes, columns: dict[str, np.ndarray], episodes: int, fps: float, robot: str) -> dict[str, Any]:
    """The content of meta/info.json: features of the data set, and paths of its files."""
    height, width = data.pixels.shape[1:3]
    features: dict[str, Any] = {
        CAMERA: {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.fps": fps,
                "video.height": height,
                "video.width": width,
                "video.channels": 3,
                "video.codec": "h264",
                "video.pix_fmt": "yuv420p",
                "video.is_depth_map": False,
                "has_audio": False,
            },
        }
    }
    for name, values in columns.items():
        names = list(data.action_names) if values.ndim == 2 and values.shape[1] == len(data.action_names) else None
        features[name] = {"dtype": str(values.dtype), "shape": list(values.shape[1:]) or [1], "names": names}
    return {
        "codebase_version": "v3.0",
        "robot_type": robot,
        "total_episodes": episodes,
        "total_frames": len(columns["index"]),
        "total_tasks": 1,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": features,
    }


def _all_statistics(data: Episodes, columns: dict[str, np.ndarray]) -> dict[str, Any]:
    """The content of meta/stats.json, with which LeRobot normalises; colours are in [0, 1] and of shape (3, 1, 1)."""
    found: dict[str, Any] = {name: _statistics(values.reshape(len(values), -1)) for name, values in columns.items()}
    sample = data.pixels[np.unique(np.linspace(0, len(data.pixels) - 1, _SAMPLE).astype(int))]
    colours = _statistics(sample.reshape(-1, 3) / 255.0)
    found[CAMERA] = {name: [[[value]] for value in some] for name, some in colours.items()} | {"count": [len(sample)]}
    return found


def _statistics(values: np.ndarray) -> dict[str, list[float]]:
    """Statistics of each column of (n, A)."""
    found = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    return {name: one.astype(float).tolist() for name, one in found.items()} | {"count": [len(values)]}
