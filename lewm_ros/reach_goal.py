# SPDX-License-Identifier: Apache-2.0
"""Sends goals one after the other and waits for each: `ros2 run lewm_ros reach_goal goal.png --timeout 20`.

    reach_goal home.png left.png home.png --dwell 2            a sequence, with two seconds at each
    reach_goal session.mcap --at 12.5                          the picture 12.5 s after the first one of a recording
    reach_goal arm.h5 --at 3 --episode 7                       the same of an episode of a converted recording

Shows the distance and the state of the planner, and cancels on Ctrl-C. Exit status: 0 every goal was reached, 1 a goal
was refused, 3 the planner held back, 4 the time was over, 5 somebody else cancelled, 130 Ctrl-C. It does not arm the
planner: `~/enable` does.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from lewm_ros.client import GoalClient, Progress, Result, Station
from lewm_ros.goals import GoalError, read_goal

INTERRUPTED = 130  # exit status that shells give to a program ended by Ctrl-C


def show(progress: Progress) -> None:
    """Shows the progress in one line, overwritten each time; only on a terminal."""
    if sys.stderr.isatty():
        distance = "" if progress.distance is None else f"distance {progress.distance:.2f}, "
        planner = progress.message or "no status has come from the planner"
        said = f"{distance}{planner if progress.accepted else 'waiting for camera_node to look at the goal'}"
        print(f"\r\033[K{said[:100]}", end="", file=sys.stderr, flush=True)


def tell(station: Station, result: Result) -> None:
    """Prints how a goal ended, in place of its progress."""
    print(f"{chr(13) if sys.stderr.isatty() else ''}{station.name}: {result.text}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the sequence."""
    arguments = sys.argv if arguments is None else arguments
    parser = argparse.ArgumentParser(
        "reach_goal", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("goals", nargs="+", type=Path, help="picture files, or recordings with --at")
    parser.add_argument("--timeout", type=float, default=20.0, help="seconds for each goal (default 20)")
    parser.add_argument("--dwell", type=float, default=0.0, help="seconds at each goal before the next")
    parser.add_argument("--at", type=float, help="seconds from the first picture of a recording, or of the episode")
    parser.add_argument("--episode", type=int, default=0, help="of a recording in HDF5 (default 0)")
    parser.add_argument("--image-topic", default="", help="of a bag with several cameras")
    parser.add_argument("--planner", default="planner_node", help="name of the planner's node")
    given = parser.parse_args(remove_ros_args(arguments)[1:])
    try:
        stations = [
            Station(str(path), read_goal(path, given.at, given.episode, given.image_topic), given.dwell)
            for path in given.goals
        ]
    except GoalError as error:
        sys.exit(f"reach_goal: {error}")
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # handled as Ctrl-C: it cancels the goal
    status = 0
    try:
        with GoalClient(given.planner, rclpy.create_node("reach_goal")) as client:
            status = client.follow(stations, given.timeout, show, tell).outcome.value
    except (KeyboardInterrupt, ExternalShutdownException):
        print("cancelled")
        status = INTERRUPTED
    finally:
        rclpy.try_shutdown()
    sys.exit(status)


if __name__ == "__main__":
    main()
