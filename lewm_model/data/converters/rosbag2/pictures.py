# SPDX-License-Identifier: Apache-2.0
"""The pictures of planned episodes: read once, decoded in threads, written when an episode has all of them."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lewm_model.data.converters.conversion import stretches
from lewm_model.data.converters.rosbag2.episodes import BagReport, PlannedEpisode
from lewm_model.data.converters.rosbag2.files import TopicMessage, messages
from lewm_model.data.converters.rosbag2.messages import CAMERA_INFO, COMPRESSED, IMAGE, decoded
from lewm_model.data.episodes import EpisodeWriter
from lewm_model.data.errors import DataError
from lewm_model.robot.encodings import EncodingError, compressed_to_rgb, raw_to_rgb
from lewm_model.robot.observation import Camera, Observation, ObservationError
from lewm_model.robot.rectify import Rectifier, camera_info_topic

# Share by which the aspect ratio of a camera's pictures may change; beyond it they show another part of the scene.
OTHER_SHAPE = 0.03
READ_AHEAD = 64  # pictures that wait to be decoded: enough for every core, little memory


def write_episodes(
    writer: EpisodeWriter,
    source: Path,
    files: Sequence[Path],
    image_topics: Sequence[str],
    episodes: Sequence[PlannedEpisode],
    observation: Observation,
    control_dt_s: float,
    report: BagReport,
) -> None:
    """Reads the pictures that the episodes need and writes each episode when it is complete.

    :raises DataError: a camera is to be rectified and its calibration was not recorded, or a picture is not as large as
        its crop or calibration says.
    """
    rectifiers = read_rectifiers(source, files, image_topics, observation.cameras)
    # Where each picture (camera, number) belongs: episodes and rows. One of a slow camera may belong to two frames.
    places: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for i, episode in enumerate(episodes):
        for row, numbers in enumerate(episode.frames):
            for camera, n in enumerate(numbers):
                places[camera, n].append((i, row))
    missing = [len(observation.cameras) * len(episode.frames) for episode in episodes]
    waiting: dict[tuple[int, int, int], Future[tuple[np.ndarray, tuple[int, ...]]]] = {}  # by (episode, row, camera)
    parts: dict[tuple[int, int, int], np.ndarray] = {}
    shapes: dict[int, tuple[int, ...]] = {}  # of each camera's first picture

    def finish(place: tuple[int, int, int]) -> None:
        try:
            picture, shape = waiting.pop(place).result()
            first = shapes.setdefault(place[2], shape)
            if abs(shape[0] * first[1] - shape[1] * first[0]) > OTHER_SHAPE * shape[0] * first[1]:
                report.left_out[f"pictures of another shape than the first, {first[1]} x {first[0]}"] += 1
            else:
                parts[place] = picture
        except EncodingError as error:
            report.left_out["images that cannot be read"] += 1
            if f"{source}: {error}" not in report.gaps:
                report.gaps.append(f"{source}: {error}")

    seen = Counter[int]()
    bar = tqdm(total=len(places), desc=f"converting {source.name}", unit="frame", disable=None, delay=2)
    with bar, ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for message in messages(files):
            if message.topic not in image_topics or message.type not in (IMAGE, COMPRESSED):
                continue
            camera = image_topics.index(message.topic)
            belongs = places.get((camera, seen[camera]), [])
            seen[camera] += 1
            if not belongs:
                continue
            part = pool.submit(_part, message, observation.cameras[camera], rectifiers[camera])
            bar.update()
            for i, row in belongs:
                waiting[i, row, camera] = part
                missing[i] -= 1
            while len(waiting) > READ_AHEAD:
                finish(next(iter(waiting)))
            for i in [i for i, _ in belongs if not missing[i]]:
                for place in [place for place in waiting if place[0] == i]:
                    finish(place)
                cameras, rows = range(len(observation.cameras)), range(len(episodes[i].frames))
                pictures = [[parts.pop((i, row, k), None) for k in cameras] for row in rows]
                _append(writer, source, episodes[i], pictures, control_dt_s, report)


def _append(
    writer: EpisodeWriter,
    source: Path,
    episode: PlannedEpisode,
    pictures: Sequence[Sequence[np.ndarray | None]],
    control_dt_s: float,
    report: BagReport,
) -> None:
    """Writes the stretches of an episode whose pictures could be read: of each frame one of each camera."""
    whole = np.array([all(part is not None for part in parts) for parts in pictures])
    for piece in stretches(whole):
        begin, end = piece[0], piece[-1] + 1
        writer.append(
            np.stack([np.concatenate([part for part in pictures[row] if part is not None], axis=1) for row in piece]),
            (np.diff(episode.commanded[begin:end], axis=0) / control_dt_s).astype(np.float32),
            episode.proprio[begin:end].astype(np.float32),
            episode.stamps_s[begin:end],
        )
        report.frames_used += len(piece)
        title = f" {episode.name!r}" if episode.name else ""
        report.episodes.append(f"{source}{title}: {len(piece)} frames from {episode.stamps_s[begin]:.2f} s on")


def read_rectifiers(
    source: Path, files: Sequence[Path], image_topics: Sequence[str], cameras: Sequence[Camera]
) -> list[Rectifier | None]:
    """What rectifies the pictures of each camera, from the first calibration beside them; None where none is asked for.

    :raises DataError: a calibration was not recorded, or cannot be used.
    """
    topics = [
        camera_info_topic(topic) if camera.rectify else "" for topic, camera in zip(image_topics, cameras, strict=True)
    ]
    found: dict[str, Rectifier | None] = {"": None}
    missing = set(topics) - set(found)
    for message in messages(files) if missing else ():
        if message.topic in missing and message.type == CAMERA_INFO:
            try:
                found[message.topic] = Rectifier(decoded(message))
            except ObservationError as error:
                raise DataError(f"{source}, {message.topic}: {error}") from error
            missing.remove(message.topic)
            if not missing:
                break
    if missing:
        raise DataError(
            f"{source} has no calibration on {', '.join(sorted(missing))}, by which the robot file has pictures "
            "rectified; record it too, or leave `rectify` out"
        )
    return [found[topic] for topic in topics]


def _part(message: TopicMessage, camera: Camera, rectify: Rectifier | None) -> tuple[np.ndarray, tuple[int, ...]]:
    """The camera's part of the model's picture, and the shape of the recorded one, which may have come reduced."""
    try:
        picture = _picture(message, camera)
        return camera.picture(picture if rectify is None else rectify(picture)), picture.shape
    except ObservationError as error:
        raise DataError(str(error)) from error


def _picture(message: TopicMessage, camera: Camera) -> np.ndarray:
    """(H, W, 3) uint8 RGB. A JPEG much larger than the camera's part may come reduced, unless crop or calibration count
    its pixels.
    """
    fields = decoded(message)
    if fields is None:
        raise EncodingError(f"a message on {message.topic} is not a {message.type}")
    try:
        if message.type == COMPRESSED:
            enough = None if camera.crop or camera.rectify else (camera.height, camera.width)
            return compressed_to_rgb(fields.data, fields.format, enough=enough)
        return raw_to_rgb(
            fields.encoding, fields.width, fields.height, fields.step, bool(fields.is_bigendian), fields.data
        )
    except EncodingError:
        raise
    except (AttributeError, TypeError, ValueError) as error:  # fields of other names or types
        raise EncodingError(f"{message.topic} has another definition of {message.type} than ROS") from error
