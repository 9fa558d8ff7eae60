# SPDX-License-Identifier: Apache-2.0
"""Passes data from callbacks to a worker thread: the newest items only, never a growing queue."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any


class Mailbox:
    """Named slots that hold the newest `depth` items each; a full slot drops its oldest. Thread-safe."""

    def __init__(self, depth: int = 1) -> None:
        self._depth = depth
        self._items: dict[str, deque[Any]] = {}
        self._changed = threading.Condition()

    def put(self, slot: str, item: Any) -> bool:
        """Adds an item; returns whether an older one, not taken yet, was dropped for it."""
        with self._changed:
            items = self._items.setdefault(slot, deque(maxlen=self._depth))
            full = len(items) == self._depth
            items.append(item)
            self._changed.notify()
            return full

    def take(self, timeout_s: float) -> dict[str, list[Any]]:
        """Removes and returns all items by slot, oldest first; waits up to `timeout_s` for the first one."""
        with self._changed:
            if not self._items:
                self._changed.wait(timeout_s)
            taken, self._items = self._items, {}
        return {slot: list(items) for slot, items in taken.items()}
