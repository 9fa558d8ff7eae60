# SPDX-License-Identifier: Apache-2.0
"""rosbag2 recordings (MCAP or SQLite) to episodes, without ROS.

A recording is read three times: for the joints that are commanded, for everything but the pixels (`streams.py`), from
which the episodes follow (`episodes.py`, `positions.py`), and for their pictures (`pictures.py`).

Frames are the pictures of the first camera, every `control_dt_s`; of other cameras the picture that was taken nearest
to it lies beside it. What the arm measured and what it was commanded is looked up at the stamps of the frames:

- measured: `JointState` messages, positions interpolated linearly between their stamps;
- commanded: the reference that the trajectory controller publishes in `controller_state`, whoever commands it,
  interpolated linearly. Where that was not recorded, `JointTrajectory` messages, interpolated as the controller does:
  a message takes effect when it is received and applies until the next one; what was commanded before the first one
  is unknown.

An action is the commanded motion between the stamps of two frames, divided by `control_dt_s`, so that actions times
`control_dt_s` add up to exactly what was commanded between the pictures.

`std_msgs/String` messages on the topic `episode` cut a recording into episodes: "start" (anything after it is a name),
"end", and "discard" for an episode that went wrong. Without any, the whole recording counts.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from lewm_model.config import RECORDED_SIDE
from lewm_model.data.converters.columns import Columns, refuse_wrong
from lewm_model.data.converters.rosbag2.episodes import BagReport, plan_episodes
from lewm_model.data.converters.rosbag2.files import bag_files
from lewm_model.data.converters.rosbag2.messages import Topics
from lewm_model.data.converters.rosbag2.pictures import write_episodes
from lewm_model.data.converters.rosbag2.streams import CLOCKS, Streams, joint_names, read_streams, unused_commands
from lewm_model.data.converters.view import View
from lewm_model.data.episodes import EpisodeWriter
from lewm_model.data.errors import DataError
from lewm_model.robot.observation import Camera, Observation

USUAL_STEP_S = 0.05  # the control step, where none is given, is the multiple of the camera's period nearest to it
MOST_JOINTS = 64  # no arm has more: the message is damaged


def convert_bag(
    paths: Sequence[str | Path],
    out: str | Path,
    control_dt_s: float | None = None,
    tolerance_s: float | None = None,
    image_size: int = RECORDED_SIDE,
    columns: Columns | None = None,
    topics: Topics | None = None,
    clock: str = "header",
    view: View | None = None,
) -> BagReport:
    """Writes the episodes of recordings to one HDF5 file that `lewm train` reads.

    :param paths: recordings, MCAP or SQLite files or folders of `ros2 bag record`.
    :param out: HDF5 file; appears when it is complete.
    :param control_dt_s: time of one action, s; None is what fits the camera's rate and is about `USUAL_STEP_S`.
    :param tolerance_s: greatest distance between a control step and its frame, and half of the greatest distance
        between the two joint states around a frame, s; None is half of `control_dt_s`.
    :param image_size: pixels, pictures are cropped to a square and scaled.
    :param columns: joints in the order of the action's columns; by default those that most commands are for.
    :param clock: "header", or "recorder" where the headers' stamps are of several clocks, or of none.
    :param view: the cameras whose pictures lie side by side in the model's; without any there is one, with the topic
        of `topics` and `image_size`.
    :return: what was found, used and left out, for people.
    :raises DataError: a file is no recording, a topic is missing, clocks or numbers cannot be right, or nothing is
        left.
    """
    topics, columns, view = topics or Topics(), columns or Columns(), view or View()
    if control_dt_s is not None:
        _check_times(control_dt_s, tolerance_s)
    if not paths:
        raise DataError("no recording was given")
    if clock not in CLOCKS:
        raise DataError(f"--clock is {clock!r}; it is one of {', '.join(CLOCKS)}")
    report = BagReport()
    sources = [(Path(path), bag_files(path, report.problems)) for path in paths]
    _refuse_twice([file for _, files in sources for file in files])
    columns = _named(columns, sources, topics)
    observation = Observation(view.cameras or (Camera("camera", image_size, image_size, topics.image),))
    images = [camera.topic for camera in observation.cameras]
    writer: EpisodeWriter | None = None
    try:
        for source, files in sources:
            streams = read_streams(source, files, topics, images, columns, clock, report)
            control_dt_s = _fitting_step_s(source, streams, control_dt_s, report)
            report.tolerance_s = 0.5 * control_dt_s if tolerance_s is None else tolerance_s
            _check_times(control_dt_s, report.tolerance_s)
            episodes = plan_episodes(streams, columns, control_dt_s, report.tolerance_s, report)
            for positions in ([one.proprio for one in episodes], [one.commanded for one in episodes]):
                refuse_wrong(columns.names, positions, control_dt_s, str(source), columns.limits)
            if writer is None:
                command = ["lewm", "convert", *(str(path) for path in paths), "--out", str(out)]
                command += _said(columns, topics, clock) + ["--control-dt-s", str(control_dt_s)]
                command += ["--tolerance-s", str(report.tolerance_s)]
                command += view.options or ("--image-size", str(image_size))
                how: dict[str, str | int | float] = {"command": shlex.join(command), "tolerance_s": report.tolerance_s}
                writer = EpisodeWriter(
                    out,
                    observation.size,
                    columns.names,
                    control_dt_s,
                    columns.kinds(columns.names),
                    how,
                    recorded={
                        "recorder": "lewm convert",
                        "kind": "ROS 2",
                        "sources": [str(path) for path in paths],
                        "topics": asdict(topics),
                        **how,
                    },
                    cameras=view.cameras,
                )
            write_episodes(writer, source, files, streams.image_topics, episodes, observation, control_dt_s, report)
        if writer is None or not report.episodes:
            raise DataError(f"no episode of 2 frames or more is left\n{report.finish()}")
    except BaseException:
        if writer is not None:
            writer.discard()
        raise
    writer.close()
    return report.finish()


def _refuse_twice(files: Sequence[Path]) -> None:
    """Raises DataError for a file that is to be converted twice: training would see what it is validated on."""
    known: dict[Path, Path] = {}
    for file in files:
        first = known.setdefault(file.resolve(), file)
        if first is not file:
            raise DataError(f"{file} is given twice{f', also as {first}' if first != file else ''}; give it once")


def _check_times(control_dt_s: float, tolerance_s: float | None) -> None:
    if not control_dt_s > 0.0 or (tolerance_s is not None and not 0.0 < tolerance_s <= 0.5 * control_dt_s):
        raise DataError(
            f"control_dt_s is {control_dt_s} and tolerance_s {tolerance_s}; both must be above 0, and the second at "
            "most half of the first"
        )


def _named(columns: Columns, sources: Sequence[tuple[Path, Sequence[Path]]], topics: Topics) -> Columns:
    """The columns; where the user named no joints, with those that the first recording with commands commands.

    :raises DataError: no recording has a command, or the names or units cannot be used.
    """
    names = columns.names
    for _, files in sources:
        names = names or joint_names(files, topics)
    names = tuple(name for name in names if name not in columns.held)
    if not names:
        others = {topic: said for _, files in sources for topic, said in unused_commands(files).items()}
        listed = ", ".join(f"{topic} ({said})" if said else topic for topic, said in sorted(others.items()))
        raise DataError(
            f"{sources[0][0]} holds no command on a topic {topics.command!r}; name the topic, or the joints if another "
            f"recording holds the commands. Commands that it could be: {listed or 'none'}"
        )
    if len(set(names)) != len(names) or len(names) > MOST_JOINTS or not all(map(str.isprintable, names)):
        raise DataError(f"the joints are {names[:8]!r}; give up to {MOST_JOINTS} names, each once")
    columns = replace(columns, names=names)
    columns.factors(names)  # refuses units and grippers of unknown columns before anything is read
    columns.kinds(names)
    return columns


def _fitting_step_s(source: Path, streams: Streams, wanted_s: float | None, report: BagReport) -> float:
    """The control step, s: what was asked for, or what fits the camera's period and that of the joint states.

    :raises DataError: frames or joint states come more slowly than was asked for.
    """
    period_s, usual_s, longest_s = streams.period_s, *streams.state_periods_s
    if not period_s > 0.0:
        return wanted_s or USUAL_STEP_S
    rate = 1.0 / period_s
    if abs(rate - round(rate)) < 0.01 * rate and round(rate) > 0:
        period_s = 1.0 / round(rate)  # what the camera is set to; stamps jitter
    least = math.ceil(longest_s / period_s - 1e-6)  # periods, so that a step has joint states around each frame
    fitting = period_s * max(1, round(USUAL_STEP_S / period_s), least)
    if wanted_s is None:
        slow = f", and joint states come every {longest_s:.3g} s" if fitting == period_s * least > USUAL_STEP_S else ""
        report.note(f"an action every {fitting:.4g} s: the camera has {1 / period_s:.4g} Hz{slow}")
        return fitting
    if wanted_s < 0.9 * period_s:
        raise DataError(
            f"{source}: the camera has {1 / period_s:.4g} Hz, so there is no frame every {wanted_s:.4g} s; give "
            f"--control-dt-s {period_s:.4g} or a multiple of it"
        )
    if wanted_s < usual_s * (1.0 - 1e-6):
        raise DataError(
            f"{source}: joint states come every {usual_s:.3g} s, too seldom for a step of {wanted_s:.4g} s; give "
            f"--control-dt-s {fitting:.4g} or a multiple of it"
        )
    return wanted_s


def _said(columns: Columns, topics: Topics, clock: str) -> list[str]:
    """The options of `lewm convert` that differ from their defaults."""
    usual = Topics()
    options = {
        "--joints": ",".join(columns.names),
        "--hold": ",".join(columns.held),
        "--gripper": ",".join(columns.grippers),
        "--units": columns.units,
        "--image-topic": topics.image if topics.image != usual.image else "",
        "--joint-states-topic": topics.joint_states if topics.joint_states != usual.joint_states else "",
        "--command-topic": topics.command if topics.command != usual.command else "",
        "--clock": clock if clock != CLOCKS[0] else "",
    }
    return [part for option, value in options.items() if value for part in (option, value)]
