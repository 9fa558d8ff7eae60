# SPDX-License-Identifier: Apache-2.0
"""What the panel's page shows of the robot besides pictures, as plain data for JSON."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus

from lewm_model.models.signature import measuring
from lewm_model.monitoring.vigilance import SURPRISING
from lewm_ros.messages import MessageError, message_to_joint_positions, message_to_trajectory
from lewm_ros.node import STALE_S
from lewm_ros.panel.ros import PanelNode

NEWEST_EVENTS = 60  # events that every message to a page has; it keeps the ones before


def state_of(node: PanelNode) -> dict[str, Any]:
    """The newest of everything; None for each number that is not known."""
    known, values, bundle = node.known, node.values, node.bundle
    alive = node.count_publishers(f"{values['planner']}/status") > 0
    status = known.newest("status") if alive else None
    said = {} if status is None else {pair.key: pair.value for pair in status.values}
    with known.lock:
        nodes = {name: dict(found) for name, found in known.nodes.items()}
        events, happened = list(known.events)[-NEWEST_EVENTS:], known.happened
    planner = next((found for name, found in nodes.items() if name.endswith(values["planner"])), {})
    surprise, novelty = known.newest("surprise", STALE_S), known.newest("novelty", STALE_S)
    goal_status, imagined = known.newest("goal_status"), known.newest("imagined", STALE_S)
    return {
        "state": said.get("state", "no planner"),
        "reason": "no status has come from the planner" if status is None else status.message,
        "reached": said.get("reached") == "yes",
        "dry_run": status is not None and status.message.startswith("dry run"),
        "speed": number(said.get("speed_scale")),
        "distance": number(said.get("distance")),
        "distance_limit": None if bundle.calibration is None else bundle.calibration.reached,
        "unit": "control steps" if measuring(bundle.heads) else "squared latent distance",
        "cost": number(said.get("cost")),
        "saturation": number(said.get("saturation")),
        "joints": joints_of(node),
        "surprise": None if surprise is None else number(surprise.data),
        "novelty": None if novelty is None else number(novelty.data),
        "surprise_limit": SURPRISING,
        "latency": {
            f"{stage}_{p}": number(planner.get(f"{stage}_ms_{p}"))
            for stage in ("plan", "frame_to_command")
            for p in ("p50", "p95")
        },
        "deadline": None if node.deadline_s is None else 1e3 * node.deadline_s,
        "late": number(planner.get("plans_late")),
        "plans": number(planner.get("plans")),
        "interventions": {
            key.removeprefix("interventions "): value
            for key, value in planner.items()
            if key.startswith("interventions") and value != "0"
        },
        "nodes": {name: {"level": found["level"], "message": found["message"]} for name, found in nodes.items()},
        "goal": _goal(goal_status, said.get("goal") == "no"),
        "block_s": bundle.actions.block_s,
        "blocks": 0 if imagined is None or node.decoder is None else imagined.height,
        "deadman": values["deadman_button"] >= 0,
        "events": events,
        "happened": happened,
    }


def _goal(status: Any, dropped: bool) -> str:
    """What became of the newest goal picture: camera_node's words, unless the planner has `dropped` what it took."""
    if status is None:
        return ""
    return "dropped: the planner has no goal" if dropped and status.level == DiagnosticStatus.OK else status.message


def joints_of(node: PanelNode) -> list[dict[str, Any]]:
    """A row for each joint of the planner: name, position and its limits in rad or m, and the greatest speed of the
    newest plan as share of the joint's limit; None for what is not known.
    """
    limits, spec = node.limits, node.bundle.actions
    if limits is None and not spec.drives_joints:
        return []
    names = spec.names if limits is None else limits.names
    state, plan = node.known.newest("joint_states", STALE_S), node.known.newest("plan", STALE_S)
    rows: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        try:
            position = None if state is None else number(message_to_joint_positions(state, (name,))[0])
        except MessageError:
            position = None
        ends = (None, None) if limits is None else (float(limits.lower[i]), float(limits.upper[i]))
        rows.append({"name": name, "position": position, "lower": ends[0], "upper": ends[1], "speed": None})
    if limits is not None and plan is not None and set(plan.joint_names) <= set(names):
        try:
            velocities = message_to_trajectory(plan, plan.joint_names).velocities
        except MessageError:
            velocities = None
        if velocities is not None:
            fastest = np.abs(velocities).max(0) / limits.of(plan.joint_names).velocity
            for name, share in zip(plan.joint_names, fastest, strict=True):
                rows[names.index(name)]["speed"] = number(share)
    return rows


def number(value: Any) -> float | None:
    """A number, or None where the value is not a finite one: JSON knows neither NaN nor infinity."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None
