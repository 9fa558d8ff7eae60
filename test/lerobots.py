# SPDX-License-Identifier: Apache-2.0
"""LeRobot folders for tests, written without the lerobot package."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from test_bag import picture

FPS, LENGTHS = 20, (30, 45, 25)
CAMERA = "observation.images.front"
NAMES = ["shoulder.pos", "elbow.pos"]


def video(
    path: Path, frames: list[np.ndarray], codec: str = "mpeg4", skip: tuple[int, ...] = (), rate: int = FPS
) -> None:
    """SVT-AV1 encodes in a process of its own: run by root, it takes a real-time priority that starves all others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if codec == "libsvtav1":
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            pool.submit(_encode, path, frames, codec, skip, rate).result()
    else:
        _encode(path, frames, codec, skip, rate)


def _encode(path: Path, frames: list[np.ndarray], codec: str, skip: tuple[int, ...], rate: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.gop_size = 2
        if codec == "mpeg4":
            stream.bit_rate = 8_000_000
        for i, rgb in enumerate(frames):
            if i in skip:
                continue
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, rate)
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


def arm_folder(root: Path, recorded: np.ndarray, names: Any, robot: str = "my_arm") -> Path:
    """A data set of one episode of positions (n, A) as they are recorded, whose pictures do not matter."""
    count, width = recorded.shape
    grey = cv2.imencode(".png", np.full((16, 16, 3), 90, np.uint8))[1].tobytes()
    vector = {"dtype": "float32", "shape": [width], "names": names}
    features = {CAMERA: {"dtype": "image", "shape": [16, 16, 3]}, "action": vector, "observation.state": vector}
    info = {"codebase_version": "v3.0", "fps": FPS, "robot_type": robot, "features": features}
    values = pa.array(recorded.astype(np.float32).tolist(), pa.list_(pa.float32(), width))
    columns = {"action": values, "observation.state": values, "timestamp": pa.array(np.arange(count) / FPS)}
    columns |= {
        "episode_index": pa.array(np.zeros(count, int)),
        CAMERA: pa.array([{"bytes": grey, "path": ""}] * count),
    }
    for name in ("meta/episodes", "data"):
        (root / name).mkdir(parents=True)
    pq.write_table(pa.table(columns), root / "data/file-000.parquet")
    (root / "meta/info.json").write_text(json.dumps(info))
    return root


def folder(root: Path, version: str, image: bool = False, nan_row: int | None = None, **changes: Any) -> Path:
    """A data set of three episodes; the command in one row of the first may be NaN."""
    v3 = version.startswith("v3")
    tables = []
    for episode in range(len(LENGTHS)):
        stamps, commanded, measured = motion(episode)
        n = len(stamps)
        if episode == 0 and nan_row is not None:
            commanded[nan_row] = np.nan
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
