# SPDX-License-Identifier: Apache-2.0
"""The pictures of planned episodes: read once, decoded in threads, written when an episode has all of them."""

from __future__ import annotations

import itertools
import os
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

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
PICTURES = IMAGE, COMPRESSED
READ_AHEAD = 64  # pictures that wait to be decoded, at most: enough for many cores, little memory
TOGETHER = 8  # pictures that a thread decodes in a row, since handing over takes time, too


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
    # Of each episode that was begun: frames (n, H, W, 3) uint8, and which parts of them are there, (n, cameras) bool.
    begun: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    edges = np.cumsum([0, *(camera.width for camera in observation.cameras)])  # of the parts
    shapes: dict[int, tuple[int, ...]] = {}  # of each camera's first picture

    def part(camera: int, episode: int, row: int) -> np.ndarray:
        """Where a camera's picture lies in a frame, (H, W, 3)."""
        if episode not in begun:
            n = len(episodes[episode].frames)
            begun[episode] = np.empty((n, *observation.size, 3), np.uint8), np.zeros((n, len(image_topics)), bool)
        return begun[episode][0][row, :, edges[camera] : edges[camera + 1]]

    def note(shape: _Shape | EncodingError, camera: int, episode: int, row: int) -> None:
        """Notes that a picture is in its place, or why it is not."""
        if isinstance(shape, EncodingError):
            report.left_out["images that cannot be read"] += 1
            if f"{source}: {shape}" not in report.gaps:
                report.gaps.append(f"{source}: {shape}")
            return
        first = shapes.setdefault(camera, shape)
        if abs(shape[0] * first[1] - shape[1] * first[0]) > OTHER_SHAPE * shape[0] * first[1]:
            report.left_out[f"pictures of another shape than the first, {first[1]} x {first[0]}"] += 1
            return
        begun[episode][1][row, camera] = True

    def jobs() -> Iterator[_Job]:
        """The pictures that are needed, in the order of recording."""
        seen = Counter[int]()
        for message in messages(
            files, wanted=lambda topic, kind: topic in image_topics and kind in (IMAGE, COMPRESSED)
        ):
            camera = image_topics.index(message.topic)
            belongs = places.get((camera, seen[camera]), [])
            seen[camera] += 1
            if belongs:
                yield _Job(message, camera, belongs, [part(camera, i, row) for i, row in belongs])

    bar = tqdm(total=len(places), desc=f"converting {source.name}", unit="frame", disable=None, delay=2)
    with bar:
        for job, shape in _decoded(jobs(), observation.cameras, rectifiers):
            bar.update()
            for i, row in job.places:
                note(shape, job.camera, i, row)
                missing[i] -= 1
                if not missing[i]:
                    pixels, there = begun.pop(i)
                    _append(writer, source, episodes[i], pixels, np.all(there, axis=1), control_dt_s, report)


class _Job(NamedTuple):
    """A picture to be decoded."""

    message: TopicMessage
    camera: int
    places: list[tuple[int, int]]  # episodes and rows that it belongs to
    parts: list[np.ndarray]  # of the frames there, (H, W, 3) uint8, that it fills


_Shape = tuple[int, ...]  # of a recorded picture, which may have come reduced


def _decoded(
    jobs: Iterator[_Job], cameras: Sequence[Camera], rectifiers: Sequence[Rectifier | None]
) -> Iterator[tuple[_Job, _Shape | EncodingError]]:
    """The jobs in the same order, done in threads, which OpenCV lets run beside one another; with each the shape of its
    picture, or why it cannot be read.
    """

    def decode(some: Sequence[_Job]) -> list[tuple[_Job, _Shape | EncodingError]]:
        return [(job, _fill(job, cameras[job.camera], rectifiers[job.camera])) for job in some]

    waiting: deque[Future[list[tuple[_Job, _Shape | EncodingError]]]] = deque()
    threads = os.cpu_count() or 1
    most = min(READ_AHEAD // TOGETHER, 2 * threads)
    with ThreadPoolExecutor(threads) as pool:
        while some := list(itertools.islice(jobs, TOGETHER)):
            waiting.append(pool.submit(decode, some))
            if len(waiting) > most:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _append(
    writer: EpisodeWriter,
    source: Path,
    episode: PlannedEpisode,
    pixels: np.ndarray,
    whole: np.ndarray,
    control_dt_s: float,
    report: BagReport,
) -> None:
    """Writes the stretches of an episode whose pictures could be read.

    :param pixels: (n, H, W, 3) uint8, its frames.
    :param whole: (n,) bool, the frames that every camera has a picture of.
    """
    for piece in stretches(whole):
        begin, end = piece[0], piece[-1] + 1
        writer.append(
            pixels[begin:end],
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
    for message in messages(files, wanted=lambda _, kind: kind == CAMERA_INFO) if missing else ():
        if message.topic in missing:
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


def _fill(job: _Job, camera: Camera, rectify: Rectifier | None) -> _Shape | EncodingError:
    """Fills the parts of a job with its picture; the picture's shape, or why it cannot be read."""
    try:
        picture = _picture(job.message, camera)
        part = camera.picture(picture if rectify is None else rectify(picture))
    except EncodingError as error:
        return error
    except ObservationError as error:
        raise DataError(str(error)) from error
    for place in job.parts:
        place[:] = part
    return picture.shape


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
