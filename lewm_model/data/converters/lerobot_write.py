# SPDX-License-Identifier: Apache-2.0
"""Episodes as a LeRobot data set of version 3.0, so that what was recorded here is of use there.

The last frame of an episode is left out: nobody knows what was commanded after it, and LeRobot has an action in every
row. Pictures become an H.264 video, nearly lossless.
"""

from __future__ import annotations

import json
import os
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lewm_model.data.clips import Episodes
from lewm_model.data.errors import DataError

CAMERA = "observation.images.camera"
_FILE = "chunk-000/file-000"
_QUALITY = {"crf": "10", "preset": "veryfast"}


def write_lerobot(data: Episodes, out: Path, task: str = "move", robot: str = "arm") -> int:
    """Writes a data set to a folder that appears when it is whole; returns how many frames it has.

    :param task: what LeRobot calls the task, in words.
    :param robot: its robot_type.
    :raises DataError: a package is missing, or the recording does not say how much time lies between its rows.
    """
    try:
        import av
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError("LeRobot data sets need pyarrow and PyAV: pip install pyarrow av") from error
    height, width = data.pixels.shape[1:3]
    if not data.control_dt_s > 0.0 or height % 2 or width % 2:
        raise DataError(
            f"{data.source}: frames of {width} x {height} every {data.control_dt_s} s; LeRobot needs the time between "
            "them, and its videos an even number of pixels: `lewm convert` with --control-dt-s and --image-size first"
        )
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    for name in ("meta/episodes/chunk-000", "data/chunk-000", f"videos/{CAMERA}/chunk-000"):
        (part / name).mkdir(parents=True)
    fps = 1.0 / data.control_dt_s
    fps = round(fps) if abs(fps - round(fps)) < 1e-3 else fps
    rows: list[dict[str, Any]] = []  # one an episode
    parts: list[dict[str, np.ndarray]] = []
    index = 0
    rate = Fraction(fps).limit_denominator(1000)
    lengths = (data.lengths - 1).tolist()  # the last frame leads nowhere
    with av.open(str(part / f"videos/{CAMERA}/{_FILE}.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options=_QUALITY)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", 2
        bar = tqdm(total=sum(lengths), desc=f"writing {out.name}", unit="frame", disable=None, delay=2)
        with bar:
            for offset, length in zip(data.offsets.tolist(), lengths, strict=True):
                if length < 1:
                    continue
                kept = np.arange(offset, offset + length)
                for k, rgb in enumerate(data.pixels[kept]):
                    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
                    frame.pts, frame.time_base = index + k, 1 / rate
                    container.mux(stream.encode(frame))
                bar.update(length)
                columns = {
                    "action": data.actions[kept],
                    "timestamp": (np.arange(length) / fps).astype(np.float32),
                    "frame_index": np.arange(length),
                    "episode_index": np.full(length, len(rows)),
                    "index": index + np.arange(length),
                    "task_index": np.zeros(length, np.int64),
                }
                if data.proprio is not None:
                    columns["observation.state"] = data.proprio[kept]
                parts.append(columns)
                begin = index / fps
                rows.append(
                    {
                        "episode_index": len(rows),
                        "tasks": [task],
                        "length": length,
                        "data/chunk_index": 0,
                        "data/file_index": 0,
                        "dataset_from_index": index,
                        "dataset_to_index": index + length,
                        f"videos/{CAMERA}/chunk_index": 0,
                        f"videos/{CAMERA}/file_index": 0,
                        f"videos/{CAMERA}/from_timestamp": begin,
                        f"videos/{CAMERA}/to_timestamp": begin + length / fps,
                        "meta/episodes/chunk_index": 0,
                        "meta/episodes/file_index": 0,
                    }
                )
                index += length
        container.mux(stream.encode())
    whole = {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}
    vectors = [name for name, values in whole.items() if values.ndim == 2]
    table = {
        name: pa.array(values.tolist(), pa.list_(pa.float32(), values.shape[1]))
        if name in vectors
        else pa.array(values)
        for name, values in whole.items()
    }
    parquet.write_table(pa.table(table), part / f"data/{_FILE}.parquet")
    parquet.write_table(pa.Table.from_pylist(rows), part / f"meta/episodes/{_FILE}.parquet")
    # As pandas writes a table whose index is the task: LeRobot looks the number up by the words.
    index_of = {"index_columns": ["task"], "column_indexes": [], "columns": [], "creator": {}, "pandas_version": "2"}
    tasks = pa.table({"task_index": pa.array([0]), "task": pa.array([task])})
    tasks = tasks.replace_schema_metadata({b"pandas": json.dumps(index_of).encode()})
    parquet.write_table(tasks, part / "meta/tasks.parquet")
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
    for name, values in whole.items():
        names = list(data.action_names) if values.ndim == 2 and values.shape[1] == len(data.action_names) else None
        shape = list(values.shape[1:]) or [1]
        features[name] = {"dtype": str(values.dtype), "shape": shape, "names": names}
    info = {
        "codebase_version": "v3.0",
        "robot_type": robot,
        "total_episodes": len(rows),
        "total_frames": index,
        "total_tasks": 1,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "splits": {"train": f"0:{len(rows)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": features,
    }
    stats: dict[str, Any] = {name: _statistics(values.reshape(len(values), -1)) for name, values in whole.items()}
    sample = data.pixels[np.unique(np.linspace(0, len(data.pixels) - 1, 200).astype(int))]
    colours = _statistics(sample.reshape(-1, 3) / 255.0)
    stats[CAMERA] = {name: [[[value]] for value in some] for name, some in colours.items()} | {"count": [len(sample)]}
    source = {"source": data.source, "action_kinds": data.action_kinds, "control_dt_s": data.control_dt_s}
    for name, content in (("info", info), ("stats", stats), ("lewm_ros", source)):
        (part / f"meta/{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    if out.exists():
        shutil.rmtree(out)
    os.replace(part, out)
    return index


def _statistics(values: np.ndarray) -> dict[str, list[float]]:
    """Of each column of (n, A)."""
    found = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    return {name: one.astype(float).tolist() for name, one in found.items()} | {"count": [len(values)]}
