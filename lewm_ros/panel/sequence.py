# SPDX-License-Identifier: Apache-2.0
"""A sequence of goals that the panel sends one after the other, as `reach_goal` does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import rclpy

from lewm_ros.client import GoalClient, Outcome, Progress, Result, Station


class _Ended(Exception):
    """Raised in the sequence's thread to end it; the client then cancels a goal that is not reached yet."""


class GoalSequence:
    """Runs `GoalClient.follow` in a thread of its own, since it blocks. `start` and `end` are called from one thread.

    :param planner: name of the planner node.
    :param tell: called with "ok" or "warn" and a sentence for each goal and at the end, in the sequence's thread.
    """

    def __init__(self, planner: str, tell: Callable[[str, str], None]) -> None:
        self._planner, self._tell = planner, tell
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._done, self._stations = 0, 0

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def said(self) -> str:
        """How far it is, as a sentence for the page; empty when none runs."""
        return f"goal {min(self._done + 1, self._stations)} of {self._stations}" if self.running else ""

    def start(self, stations: Sequence[Station], timeout_s: float) -> None:
        """Starts a sequence; an earlier one must have ended.

        :param timeout_s: for each goal.
        """
        assert not self.running
        self._ended.clear()
        self._done, self._stations = 0, len(stations)
        self._thread = threading.Thread(target=self._run, args=(stations, timeout_s), daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Ends the sequence within a few tenths of a second; the goal on whose way the arm is is cancelled."""
        self._ended.set()

    def join(self, timeout_s: float) -> None:
        """Waits for the end of the sequence, if one is running."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self, stations: Sequence[Station], timeout_s: float) -> None:
        try:
            node = rclpy.create_node("panel_goals", start_parameter_services=False)
            with GoalClient(self._planner, node) as client:
                result = client.follow(stations, timeout_s, self._look, self._reached)
            if result.outcome is Outcome.REACHED:
                self._tell("ok", f"the sequence of {len(stations)} goals is complete")
        except _Ended:
            self._tell("warn", f"the sequence was ended at goal {min(self._done + 1, len(stations))}")
        except Exception as error:  # also of rclpy, which is shut down when the panel ends
            self._tell("error", f"the sequence failed: {error!r}")

    def _look(self, progress: Progress) -> None:
        if self._ended.is_set():
            raise _Ended

    def _reached(self, station: Station, result: Result) -> None:
        good = result.outcome is Outcome.REACHED
        self._done += good
        self._tell(
            "ok" if good else "warn", f"{station.name}: {result.text}{'' if good else '; the sequence ends here'}"
        )
