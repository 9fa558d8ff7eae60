# SPDX-License-Identifier: Apache-2.0
"""LeRobot data sets (folders of version 2.0, 2.1 and 3.0) to episodes, without the lerobot package.

    meta/info.json                       version, fps, features, and how the other files are named
    data/**/*.parquet                    a row for each frame: action, observation.state, timestamp, episode_index
    videos/**/*.mp4                      one file an episode (2.x), or several episodes in one (3.0); without videos
                                         the tables hold the pictures, as PNG or JPEG
    meta/episodes/**/*.parquet           tasks, and where each episode begins in its video (3.0)
    meta/episodes.jsonl                  lengths and tasks (2.x)

The action of a row was commanded when its frame was taken and executes until the next frame, as in recordings of this
package. A frame that is missing, in the table or in the video, cuts the episode; frames are never repeated or made up.
"""

from __future__ import annotations

import itertools
import json
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lewm_model.config import RECORDED_SIDE
from lewm_model.data.converters.columns import TURN, UNITS, Columns, refuse_wrong
from lewm_model.data.converters.conversion import Conversion, stretches
from lewm_model.data.converters.view import View
from lewm_model.data.episodes import EpisodeWriter
from lewm_model.data.errors import DataError
from lewm_model.robot.encodings import EncodingError, compressed_to_rgb
from lewm_model.robot.limits import JointLimits
from lewm_model.robot.observation import Camera, Observation

STATE = "observation.state"
# Robots whose joints LeRobot records as -100 to 100 unless its option `use_degrees` is set.
NORMALISED = ("so100", "so101", "so_follower", "koch", "omx", "lekiwi", "hope_jr")
MOST = 1e9  # greatest magnitude of a number that is kept (lewm_model.data.clips.MOST)
HELD = 0.02  # share of the greatest number of the action by which a held joint may move
OTHER_RATE = 0.05  # share by which the rate of the rows may differ from that in info.json
# Meaning of the numbers of the action -> factor that makes them radians; None keeps them as they are.
ACTIONS: dict[str, float | None] = {
    "recorded": None,
    "joint-positions-rad": 1.0,
    "joint-positions-deg": math.pi / 180.0,
}


def is_lerobot(folder: Path) -> bool:
    """Whether the folder is a LeRobot data set."""
    return (folder / "meta" / "info.json").is_file()


def convert_lerobot(
    folder: Path,
    out: str | Path,
    image_size: int = RECORDED_SIDE,
    camera: str = "",
    action: str = "action",
    actions_are: str = "recorded",
    columns: Columns | None = None,
    view: View | None = None,
) -> Conversion:
    """Writes the episodes of a LeRobot data set to one HDF5 file that `lewm train` reads; `control_dt_s` is 1 / fps.

    :param camera: key of the camera, such as observation.images.front; "" takes the only one. Several, separated by
        commas, become one picture, side by side from left to right.
    :param action: key of the action.
    :param actions_are: a key of `ACTIONS`. Positions become the velocities between them, in rad/s, which is what
        `planner_node` commands; that costs the first frame. "recorded" keeps the numbers, whatever they are.
    :param columns: which columns of the action are kept, the unit of each, and which of them drive a gripper.
    :param view: cameras of a robot file, each with its crop and size, instead of `camera` and `image_size`; the keys
        of the data set's cameras end with their names.
    :raises DataError: the folder is not such a data set, a key is missing or ambiguous, the numbers cannot be positions
        of joints in that unit, or nothing is left.
    """
    columns = columns or Columns()
    info = _info(folder)
    features = info["features"]
    seen = _camera_keys(folder, features, camera, view)
    _check_action(folder, features, action, actions_are)
    every = _names(features[action], action)
    chosen = _chosen(folder, every, columns, actions_are)
    measured = math.prod(features[STATE].get("shape", [0])) if STATE in features else 0
    states = _names(features[STATE], STATE) if measured else ()
    alike = states == every and chosen.factors is not None
    measured = len(chosen.at) if alike else measured
    dt = 1.0 / info["fps"]
    report = Conversion()
    report.notes.append(f"camera {', '.join(seen)}; an action every {dt:.4g} s: {', '.join(chosen.names)}")
    if chosen.factors is None:
        report.notes.append(
            "actions are kept as they were recorded, which planner_node does not command; where they are joint "
            "positions, convert again with --actions-are joint-positions-deg or joint-positions-rad"
        )
    options = list(view.options) if view else ["--image-size", str(image_size), "--camera", ",".join(seen)]
    options += ["--action", action, "--actions-are", actions_are]
    more = {"--joints": columns.names, "--hold": columns.held, "--gripper": columns.grippers}
    options += [part for option, some in more.items() if some for part in (option, ",".join(some))]
    options += ["--units", columns.units] if columns.units else []
    command = shlex.join(["lewm", "convert", str(folder), "--out", str(out), *options])
    kind = columns.kinds(chosen.names, "recorded" if chosen.factors is None else "joint_velocity")
    recorded = {
        "recorder": "lewm convert",
        "kind": "LeRobot",
        "sources": [str(folder)],
        "camera": ",".join(seen),
        "action": action,
        "actions_are": actions_are,
        "command": command,
    }
    lenses = _lenses(seen, image_size, view)
    parts = tuple(lenses.values())
    size, views = Observation(parts).size, parts if view is not None or len(seen) > 1 else ()
    attributes: dict[str, str | int | float] = {"command": command}
    with EpisodeWriter(out, size, chosen.names, dt, kind, attributes, measured, recorded, cameras=views) as writer:
        known = _episodes(folder, info)
        _frame_times.cache_clear()  # the files may have changed since
        shared = _rows_in_videos(seen, known)
        drawn = [key for key in seen if features[key]["dtype"] == "image"]
        widths = {key: math.prod(features[key]["shape"]) for key in (action, *([STATE] if measured else []))}
        missing, farthest = set(known), 0.0
        for number, table in _tables(folder, drawn, action, widths, report):
            missing.discard(number)
            angles = np.abs(table["action"][:, chosen.at][:, chosen.degrees])
            farthest = max(farthest, float(np.nan_to_num(angles, posinf=0.0).max(initial=0.0)))
            if alike and chosen.factors is not None:  # the state has the columns and unit of the action
                table["state"] = table["state"][:, chosen.at] * chosen.factors
            about = {**known.get(number, {}), "rows": {camera: shared.get((camera, number)) for camera in seen}}
            _convert_episode(writer, folder, info, lenses, chosen, number, table, about, report)
        if missing:
            some = ", ".join(map(str, sorted(missing)[:10])) + (", ..." if len(missing) > 10 else "")
            report.problems.append(
                f"meta/ lists {len(missing)} episodes without rows in data/ ({some}): was the data set downloaded "
                "completely?"
            )
        if not report.episodes:
            raise DataError(f"no episode of 2 frames or more is left\n{report}")
        if 0.0 < farthest < TURN:
            raise DataError(
                f"{folder}: no joint is ever farther than {farthest:.3g} from zero, which looks like radians and not "
                "like degrees; say --actions-are joint-positions-rad, or --units deg if they are degrees"
            )
    return report


def _camera_keys(folder: Path, features: dict[str, Any], camera: str, view: View | None) -> list[str]:
    """Keys of the cameras to convert, from left to right; the parameters are those of `convert_lerobot`.

    :raises DataError: the data set has no camera, not these, or several of which none was chosen.
    """
    cameras = [key for key, feature in features.items() if feature.get("dtype") in ("video", "image")]
    if not cameras:
        raise DataError(f"{folder} has no camera: none of its features is a video or an image")
    if view is not None:
        camera = ",".join(_keys(folder, view, cameras))
    seen = [key.strip() for key in camera.split(",") if key.strip()] or cameras
    if (not camera and len(cameras) > 1) or not set(seen) <= set(cameras) or len(set(seen)) < len(seen):
        raise DataError(
            f"{folder} has the cameras {', '.join(cameras)}; say which to take with --camera, several separated by "
            "commas: they become one picture, side by side from left to right"
        )
    return seen


def _check_action(folder: Path, features: dict[str, Any], action: str, actions_are: str) -> None:
    """Raises DataError when the data set has no numbers of that key, or `actions_are` is unknown."""
    if actions_are not in ACTIONS:
        raise DataError(f"--actions-are is {actions_are!r}; it is one of {', '.join(ACTIONS)}")
    kind = str(features.get(action, {}).get("dtype"))
    if kind not in ("float32", "float64"):
        numeric = [key for key, feature in features.items() if str(feature.get("dtype")).startswith("float")]
        raise DataError(
            f"{folder} has no action {action!r}{f' of floats, it is {kind}' if action in features else ''}; name one "
            f"of its numbers with --action: {', '.join(numeric)}"
        )


def _lenses(seen: Sequence[str], image_size: int, view: View | None) -> dict[str, Camera]:
    """The crop and size of the picture of each camera, by its key in the data set."""
    if view is not None:
        return dict(zip(seen, view.cameras, strict=True))
    short = [key.rpartition(".")[2] for key in seen]
    short = short if len(set(short)) == len(short) else list(seen)
    topics = ["camera/image_raw", *(f"{name}/image_raw" for name in short[1:])]
    parts = (Camera(name, image_size, image_size, topic) for name, topic in zip(short, topics, strict=True))
    return dict(zip(seen, parts, strict=True))


@dataclass(frozen=True)
class _Chosen:
    """The columns of the action that are kept or held, and how their numbers are converted."""

    names: tuple[str, ...]  # of the kept columns
    at: list[int]  # their numbers
    held: list[int]  # numbers of the held columns
    factors: np.ndarray | None  # (len(at),) by which the numbers are multiplied to get rad; None keeps them
    turns: np.ndarray  # (len(at),) bool: angles, which may wrap
    degrees: np.ndarray  # (len(at),) bool: taken for degrees without the user having said so of this column
    limits: JointLimits | None  # of the robot, if its robot file was given


def _chosen(folder: Path, every: tuple[str, ...], columns: Columns, actions_are: str) -> _Chosen:
    """The columns to keep, of those named `every`.

    :raises DataError: a column does not exist, or its unit is unknown.
    """
    names = columns.names or tuple(name for name in every if name not in columns.held)
    unknown = sorted(({*names} | {*columns.held}) - set(every))
    if unknown or not names:
        raise DataError(f"{folder} has no joint {unknown[0] if unknown else ''!r}; it has {', '.join(every)}")
    if len(set(names)) != len(names):
        raise DataError(f"{folder}: the columns are {', '.join(names)}; choose some with other names by --action")
    if columns.units and ACTIONS[actions_are] is None:
        raise DataError("--units are of positions; say --actions-are joint-positions-rad or joint-positions-deg, too")
    at, held = [every.index(name) for name in names], [every.index(name) for name in columns.held]
    factor = ACTIONS[actions_are]
    if factor is None:
        if columns.limits is not None:
            raise DataError(
                "--robot checks positions; say --actions-are joint-positions-rad or joint-positions-deg, too"
            )
        none = np.zeros(len(at), bool)
        return _Chosen(names, at, held, None, none, none, None)
    said = {part.rpartition("=")[0].strip() for part in columns.units.split(",") if part}
    for name in names:
        if "grip" in name.lower() and not ({name, ""} & said or name in columns.grippers):
            raise DataError(
                f"{folder}: {name} looks like a gripper, which LeRobot records as 0 to 100 per cent and not as an "
                f"angle; say --gripper {name}, leave it out with --hold {name}, or say its unit: --units {name}=deg"
            )
    usual = {name: UNITS["percent"] if name in columns.grippers else factor for name in every}
    factors = columns.factors(every, usual)
    turns = np.array([name not in columns.grippers for name in names])
    degrees = turns & np.array([factor == UNITS["deg"] and not {name, ""} & said for name in names])
    return _Chosen(names, at, held, factors[at], turns, degrees, columns.limits)


def _info(folder: Path) -> dict[str, Any]:
    """The content of meta/info.json, with fps as float and version 2 or 3.

    :raises DataError: it is missing, damaged or of another version.
    """
    path = folder / "meta" / "info.json"
    try:
        info = json.loads(path.read_text())
        version, fps, features = str(info["codebase_version"]), float(info["fps"]), info["features"]
        if not (0.1 <= fps <= 1000) or not all(isinstance(feature, dict) for feature in features.values()):
            raise ValueError(f"fps is {fps}, or the features are not a table")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} does not describe a LeRobot data set: {error!r}") from error
    if not version.startswith(("v2.", "v3.")):
        raise DataError(
            f"{folder} has version {version}; 2.0, 2.1 and 3.0 are read. LeRobot itself converts older ones"
        )
    return {**info, "fps": fps, "version": 3 if version.startswith("v3.") else 2}


def _names(feature: dict[str, Any], key: str) -> tuple[str, ...]:
    """A name for each column of a vector. LeRobot writes a list of names, nested lists or tables of them, a table from
    name to column, or none; then, and where names are not unique, columns are numbered.
    """
    count = math.prod(feature.get("shape") or [0])
    found = _listed(feature.get("names"))
    if not len(found) == count == len(set(found)):
        found = [f"{key}{i}" for i in range(count)]
    return tuple(name.removesuffix(".pos") for name in found)


def _listed(names: Any) -> list[str]:
    """The names of the columns in their order; with several groups, each after the name of its group."""
    if isinstance(names, dict) and all(type(at) is int for at in names.values()):
        return [str(name) for name in sorted(names, key=lambda name: names[name])]
    if isinstance(names, dict):
        groups = {str(group): _listed(inner) for group, inner in names.items()}
        return [f"{group}_{name}" if len(groups) > 1 else name for group, some in groups.items() for name in some]
    if isinstance(names, list):
        return [
            name for inner in names for name in (_listed(inner) if isinstance(inner, list | dict) else [str(inner)])
        ]
    return []


def _inside(folder: Path, name: str) -> Path:
    """The path of a file of the data set.

    :raises DataError: it leads out of the data set.
    """
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise DataError(f"{folder}: {name} lies outside the data set")
    return path


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError("LeRobot data sets need pyarrow and PyAV: pip install pyarrow av") from error
    return parquet


def _episodes(folder: Path, info: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """The metadata of each episode, by its number: tasks, and in version 3.0 where its videos are."""
    rows: list[dict[str, Any]] = []
    try:
        if info["version"] == 3:
            for path in sorted((folder / "meta" / "episodes").rglob("*.parquet")):
                table = _pyarrow().read_table(path)
                wanted = [name for name in table.column_names if not name.startswith("stats/")]
                rows += table.select(wanted).to_pylist()
        elif (folder / "meta" / "episodes.jsonl").is_file():
            lines = (folder / "meta" / "episodes.jsonl").read_text().splitlines()
            rows = [json.loads(line) for line in lines if line.strip()]
        return {int(row["episode_index"]): row for row in rows}
    except DataError:
        raise
    except Exception as error:  # of pyarrow, json, and missing columns
        raise DataError(f"{folder / 'meta'}: the episodes cannot be read: {error}") from error


def _tables(
    folder: Path, drawn: Sequence[str], action: str, widths: dict[str, int], report: Conversion
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and columns of each episode, in the order of the files; files that cannot be read are reported and left
    out.

    :param drawn: keys of cameras whose pictures are in the tables.
    :param widths: how many numbers the action and, where it is read, the state have.
    :raises DataError: there are no tables, or an episode's rows are there twice.
    """
    parquet = _pyarrow()
    files = sorted((folder / "data").rglob("*.parquet"))
    if not files:
        raise DataError(f"{folder / 'data'} holds no parquet file; was the data set downloaded completely?")
    behind: dict[int, int] = {}  # row of each episode that follows those that were read
    for path in files:
        try:
            counted = ["frame_index"] if "frame_index" in parquet.read_schema(path).names else []
            table = parquet.read_table(path, columns=["episode_index", "timestamp", *counted, *widths, *drawn])
            numbers = table.column("episode_index").to_numpy()
            stamps = table.column("timestamp").to_numpy().astype(np.float64).reshape(-1)
            rows_s = table.column("frame_index").to_numpy().astype(int) if counted else None
            vectors = {
                "action" if key == action else "state": _vectors(table.column(key), key, width)
                for key, width in widths.items()
            }
            pictures = {key: table.column(key) for key in drawn}
        except Exception as error:  # pyarrow's own errors, and those of columns that are missing or ragged
            report.problems.append(f"{path} cannot be read and is left out: {error}")
            continue
        begins = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
        for begin, end in itertools.pairwise(begins):
            if end > begin:
                number, part = int(numbers[begin]), slice(begin, end)
                first = behind.get(number, 0)
                rows = np.arange(first, first + end - begin) if rows_s is None else rows_s[part]
                if rows[0] < first:
                    raise DataError(
                        f"{path} has rows of episode {number} that another file has, too; take the one that does not "
                        "belong to the data set out of data/"
                    )
                behind[number] = int(rows[-1]) + 1
                found: dict[str, Any] = {name: values[part] for name, values in vectors.items()}
                found |= {"pictures": {key: some[part] for key, some in pictures.items()}}
                yield number, found | {"stamps": stamps[part], "rows": rows}


def _vectors(column: Any, key: str, width: int) -> np.ndarray:
    """The numbers of a column of a table, (n, width), NaN for an empty cell.

    :raises ValueError: a cell has another number of them.
    """
    cells = [np.full(width, np.nan) if cell is None else np.array(cell, np.float64) for cell in column.to_pylist()]
    values = np.array(cells).reshape(len(cells), -1)
    if len(cells) and values.shape[1] != width:
        raise ValueError(f"{key} has {values.shape[1]} numbers, and meta/info.json says {width}")
    return values.reshape(len(cells), width)


def _convert_episode(
    writer: EpisodeWriter,
    folder: Path,
    info: dict[str, Any],
    lenses: dict[str, Camera],
    chosen: _Chosen,
    number: int,
    table: dict[str, Any],
    known: dict[str, Any],
    report: Conversion,
) -> None:
    stamps_s, recorded, dt = table["stamps"], table["action"], 1.0 / info["fps"]
    commanded, scale = recorded[:, chosen.at], chosen.factors
    title = f"episode {number}"
    frames = len(stamps_s)
    report.frames_recorded += frames
    report.intervals_s += np.diff(stamps_s).tolist()
    apart_s = float(np.median(np.diff(stamps_s))) if frames > 2 else dt
    if abs(apart_s - dt) > OTHER_RATE * dt:
        raise DataError(
            f"{folder} {title}: its rows are {apart_s:.4g} s apart, and meta/info.json says {info['fps']:.4g} frames a "
            "second; correct the one that is wrong, or actions would be of another size"
        )
    good = (np.abs(commanded) <= MOST).all(1)
    state = table.get("state", np.zeros((frames, 0)))
    good &= (np.abs(state) <= MOST).all(1)
    if not good.all():
        report.left_out["frames with numbers that are not finite"] += int((~good).sum())
    views: list[list[np.ndarray | None]] = []  # of each camera
    try:
        for camera, lens in lenses.items():
            if camera in table["pictures"]:
                views.append([_image(folder, value, lens) for value in table["pictures"][camera].to_pylist()])
            else:
                path, begin_s = _video_place(folder, info, camera, number, known)
                times_s = _own_frames(path, begin_s + stamps_s, 0.5 * dt, table["rows"], known["rows"][camera], report)
                views.append(list(_video(path, times_s, 0.5 * dt, lens)))
    except DataError as error:
        report.problems.append(f"{title}: {error}")
        return
    pictures = [_side_by_side(parts) for parts in zip(*views, strict=True)]
    there = np.array([picture is not None for picture in pictures], bool)
    if not there.all():
        report.gaps.append(f"{title}: {int((~there).sum())} of {frames} frames are not in the video, or unreadable")
        good &= there
    if chosen.held:
        still = np.median(recorded[:, chosen.held], axis=0)
        moved = (np.abs(recorded[:, chosen.held] - still) > HELD * np.abs(recorded).max()).any(1)
        if moved.any():
            report.left_out["frames in which a held joint had moved"] += int(moved.sum())
        good &= ~moved
    late = np.flatnonzero(np.abs(np.diff(stamps_s) - dt) > 0.5 * dt) + 1
    for row in late:
        report.gaps.append(
            f"{title}: {stamps_s[row] - stamps_s[row - 1]:.3f} s without a frame at {stamps_s[row]:.3f} s"
        )
    if scale is not None:
        commanded = _positions(commanded, late, chosen, info, f"{folder} {title}", dt, report)
    if scale is not None:  # from frame i to i + 1 the joints move from the positions commanded at i - 1 to those at i
        action = np.diff(commanded, axis=0, prepend=np.nan) / dt
    else:
        action = commanded
    good &= np.isfinite(action).all(1)
    for part in np.split(np.arange(frames), late):
        follows = good[part].copy()
        if scale is not None and len(part):
            follows[0] = False  # the command before the gap, from which its motion began, is unknown
        for piece in stretches(follows):
            rows = part[piece]
            writer.append(
                np.stack([picture for row in rows if (picture := pictures[row]) is not None]),
                action[rows[:-1]].astype(np.float32),
                state[rows].astype(np.float32),
                stamps_s[rows],
            )
            report.frames_used += len(rows)
            tasks = known.get("tasks") or []
            task = f" {str(tasks[0])!r}" if isinstance(tasks, list) and tasks else ""
            report.episodes.append(f"{title}{task}: {len(rows)} frames from {stamps_s[rows[0]]:.2f} s on")


def _keys(folder: Path, view: View, keys: Sequence[str]) -> list[str]:
    """The key in the data set of each camera of a robot file.

    :raises DataError: the data set does not have one of them.
    """
    if rectified := [camera.name for camera in view.cameras if camera.rectify]:
        raise DataError(
            f"{folder} has no calibration by which the pictures of camera {rectified[0]!r} could be rectified; leave "
            "`rectify` out of the robot file"
        )
    of_name = {key.rpartition(".")[2]: key for key in keys}
    missing = [camera.name for camera in view.cameras if camera.name not in of_name]
    if missing:
        raise DataError(
            f"{folder} has no camera {missing[0]!r}; it has {', '.join(keys)}, so give them these names in the robot "
            "file, or choose others with --cameras"
        )
    return [of_name[camera.name] for camera in view.cameras]


def _side_by_side(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """The pictures of all cameras as one; None if one is missing."""
    there = [part for part in parts if part is not None]
    return np.concatenate(there, axis=1) if len(there) == len(parts) else None


def _positions(
    recorded: np.ndarray,
    late: np.ndarray,
    chosen: _Chosen,
    info: dict[str, Any],
    source: str,
    dt: float,
    report: Conversion,
) -> np.ndarray:
    """Positions (n, A) in rad, without jumps where the recorded angles wrap.

    :param late: rows before which rows are missing.

    :raises DataError: no joint can have moved so.
    """
    assert chosen.factors is not None
    joints = np.nan_to_num(np.abs(recorded[:, chosen.degrees]), posinf=0.0)
    far, ended = joints.max(initial=0.0), (joints == 100.0).sum(0) > 1
    normalised = str(info.get("robot_type") or "").lower().startswith(NORMALISED)
    if far <= 100.5 and (ended.any() or (normalised and far > 99.5)):
        raise DataError(
            f"{source}: the joints end at 100, which looks like LeRobot's range of -100 to 100 and not like degrees; "
            "give each joint's factor to rad, --units shoulder_pan=0.019,..., or say --units deg if they are degrees"
        )
    if normalised and far <= 100.5 and chosen.degrees.any():
        problem = (
            f"{info['robot_type']}: LeRobot records its joints as -100 to 100 unless use_degrees is set, and these "
            "numbers may be either; say --units deg if they are degrees, or give each joint's factor to rad"
        )
        if problem not in report.problems:
            report.problems.append(problem)
    positions = recorded * chosen.factors
    wraps = (np.abs(np.diff(positions, axis=0)) > 0.9 * TURN).any(0) & chosen.turns
    finite = np.isfinite(positions).all(1)
    if wraps.any():
        for name in np.array(chosen.names)[wraps]:
            report.note(f"the numbers of {name} wrap at pi; its turns were counted")
        positions[finite] = np.where(wraps, np.unwrap(positions[finite], axis=0), positions[finite])
    if finite.any():
        pieces = [part[np.isfinite(part).all(1)] for part in np.split(positions, late)]
        refuse_wrong(chosen.names, pieces, dt, source, chosen.limits)
    return positions


def _image(folder: Path, value: Any, lens: Camera) -> np.ndarray | None:
    """The model's picture from a cell {bytes, path} of a table; None if it cannot be read."""
    try:
        content = value["bytes"] or _inside(folder, value["path"]).read_bytes()
        return lens.picture(compressed_to_rgb(content))
    except (EncodingError, OSError, TypeError, KeyError):
        return None


def _video_place(
    folder: Path, info: dict[str, Any], camera: str, number: int, known: dict[str, Any]
) -> tuple[Path, float]:
    """The episode's video file and where in it the episode begins, s."""
    try:
        if info["version"] == 3:
            place = {key: known[f"videos/{camera}/{key}"] for key in ("chunk_index", "file_index", "from_timestamp")}
            name = info["video_path"].format(
                video_key=camera, chunk_index=int(place["chunk_index"]), file_index=int(place["file_index"])
            )
            return _inside(folder, name), float(place["from_timestamp"])
        chunk = number // int(info.get("chunks_size", 1000))
        name = info["video_path"].format(video_key=camera, episode_chunk=chunk, episode_index=number)
        return _inside(folder, name), 0.0
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(f"its metadata do not say where its video is: {error!r}") from error


def _rows_in_videos(
    cameras: Sequence[str], episodes: dict[int, dict[str, Any]]
) -> dict[tuple[str, int], tuple[int, int]]:
    """For the camera and number of each episode of version 3.0, how many rows lie in its video before its own, and how
    many in all.
    """
    rows: dict[tuple[str, int], tuple[int, int]] = {}
    for camera in cameras:
        videos: dict[tuple[Any, Any], list[tuple[float, int, int]]] = {}
        for number, known in episodes.items():
            try:
                place = known[f"videos/{camera}/chunk_index"], known[f"videos/{camera}/file_index"]
                begin_s, length = float(known[f"videos/{camera}/from_timestamp"]), int(known["length"])
                videos.setdefault(place, []).append((begin_s, number, length))
            except (KeyError, TypeError, ValueError):
                continue
        for some in videos.values():
            before = 0
            whole = sum(length for _, _, length in some)
            for _, number, length in sorted(some):
                rows[camera, number] = before, whole
                before += length
    return rows


def _own_frames(
    path: Path,
    times_s: np.ndarray,
    tolerance_s: float,
    rows: np.ndarray,
    around: tuple[int, int] | None,
    report: Conversion,
) -> np.ndarray:
    """When in the video the frames of an episode are, (n,) s: `times_s`, by its stamps, unless the video contradicts.

    A video with as many frames as rows has one for each, in order. Where most of an episode's lie elsewhere than its
    stamps say, metadata have drifted or the video has another rate, and the count is right.

    :param rows: (n,) which rows of the episode they are.
    :param around: how many rows lie in the video before the episode's, and in all; None: there is no other in it.
    """
    before, whole = around or (0, len(times_s))
    stamps_s = _frame_times(path)
    if 2 < len(stamps_s) < whole and np.diff(stamps_s).max() < 3.0 * tolerance_s:  # its stamps show no gap
        problem = (
            f"{path.name} has {len(stamps_s)} frames for {whole} rows: if it lost them before its end, pictures behind "
            "are those of later rows"
        )
        if problem not in report.problems:
            report.problems.append(problem)
    if len(stamps_s) != whole or before + rows.max() >= whole or before + rows.min() < 0:
        return times_s
    own: np.ndarray = stamps_s[before + rows]
    apart_s = float(np.median(np.abs(own - times_s)))
    if apart_s <= tolerance_s:
        return times_s
    report.problems.append(
        f"{path.name}: stamps and video are {apart_s:.3f} s apart; it has a frame for each row, so they were counted"
    )
    return own


@lru_cache(maxsize=16)
def _frame_times(path: Path) -> np.ndarray:
    """When each frame of a video is shown, (n,) s, without decoding any; empty where that cannot be told."""
    import av

    try:
        with av.open(str(path)) as container:
            packets = container.demux(container.streams.video[0])
            return np.sort([float(one.pts * one.time_base) for one in packets if one.pts is not None])
    except (av.error.FFmpegError, IndexError, OSError, ValueError):  # it is named when it is decoded
        return np.empty(0)


def _video(path: Path, times_s: Sequence[float] | np.ndarray, tolerance_s: float, lens: Camera) -> Iterator[Any]:
    """The model's picture at each of these increasing times, None when no frame is within the tolerance.

    :raises DataError: the video is missing or cannot be opened.
    """
    try:
        import av
    except ImportError as error:
        raise DataError("LeRobot data sets need pyarrow and PyAV: pip install pyarrow av") from error
    if not path.is_file():
        raise DataError(f"there is no video {path}; was the data set downloaded completely?")
    try:
        container = av.open(str(path))
        stream = container.streams.video[0]
    except (av.error.FFmpegError, IndexError, OSError, ValueError) as error:
        raise DataError(f"the video {path} cannot be opened: {error}") from error
    with container:
        stream.thread_type = "AUTO"
        frames = _decoded(container, stream, float(times_s[0]))
        frame = next(frames, None)
        following = next(frames, None)
        for wanted_s in times_s:
            # The nearest frame, since a video may have more frames than the table has rows.
            while following is not None and (frame is None or _nearer(following, frame, wanted_s)):
                frame, following = following, next(frames, None)
            if frame is None or abs(frame.time - wanted_s) > tolerance_s:
                yield None
            else:
                yield lens.picture(frame.to_ndarray(format="rgb24"))
                frame, following = following, next(frames, None)


def _nearer(one: Any, other: Any, time_s: float) -> bool:
    return abs(one.time - time_s) < abs(other.time - time_s)


def _decoded(container: Any, stream: Any, begin_s: float) -> Iterator[Any]:
    """Frames from the keyframe before `begin_s` on, up to the first that cannot be decoded."""
    import av

    try:
        if begin_s > 0.0 and stream.time_base:
            container.seek(int(begin_s / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if frame.time is not None:
                yield frame
    except (av.error.FFmpegError, OSError, ValueError):  # a truncated video; its other frames count as missing
        return
