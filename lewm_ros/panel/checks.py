# SPDX-License-Identifier: Apache-2.0
"""The doctor's findings and the bundle's report for the panel.

Both come from the command line `lewm` in a process of its own, so that what it imports and computes delays no stop.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path
from typing import Any

from lewm_model.evaluation.doctor import JOINT_STATES, topics_of
from lewm_ros.graph import end_with_parent
from lewm_ros.node import compressed_topic
from lewm_ros.panel.ros import PanelNode


class CheckError(RuntimeError):
    """A check that gave no result; the message is what it printed last."""


async def examine(node: PanelNode) -> list[dict[str, str]]:
    """What `lewm doctor` finds on this machine with the panel's bundle and topics: check, state, found and advice.

    :raises CheckError: it did not get to the end.
    """
    topics = topics_of(node.bundle)
    arguments = ["--joint-states-topic", node.resolve_topic_name(topics.pop(JOINT_STATES))]
    for topic in topics.values():
        name = compressed_topic(node, topic) if node.values["compressed"] else node.resolve_topic_name(topic)
        arguments += ["--image-topic", name]
    printed, last = await _lewm("doctor", "machine", node.values["model"], "--json", *arguments)
    try:
        found: list[dict[str, str]] = json.loads(printed)
    except ValueError:
        raise CheckError(last) from None
    return found


async def report(node: PanelNode) -> bytes:
    """The page that `lewm report` writes about the bundle, with its pictures inside.

    :raises CheckError: it wrote none.
    """
    with tempfile.TemporaryDirectory(prefix="lewm_panel_") as folder:
        _, last = await _lewm("report", node.values["model"], "--out", f"{folder}/report")
        try:
            return Path(folder, "report", "report.html").read_bytes()
        except OSError:
            raise CheckError(last) from None


async def _lewm(*arguments: str) -> tuple[bytes, str]:
    """Runs the command; returns what it printed, and the last line of its errors."""
    process: Any = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "lewm_model.cli.main", *arguments),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        preexec_fn=end_with_parent,
    )
    printed, errors = await process.communicate()
    lines = errors.decode(errors="replace").strip().splitlines()
    return printed, lines[-1] if lines else f"lewm {arguments[0]} ended with {process.returncode}"
