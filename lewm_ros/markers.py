# SPDX-License-Identifier: Apache-2.0
"""Planned paths of the end effector as markers for RViz and Foxglove.

Positions are in m in the frame of the arm's base link.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from lewm_model.robot.chain import Chain

LIFETIME = Duration(sec=2)  # after which markers vanish when the viewer has ended
BLUE, GREEN, AMBER, RED, GREY = (
    (0.11, 0.42, 0.66),
    (0.08, 0.63, 0.24),
    (0.9, 0.6, 0.1),
    (0.8, 0.2, 0.15),
    (0.5, 0.5, 0.5),
)
STATES = {"armed": GREEN, "holding": AMBER, "stopped": RED}
EDGES = [(a, a | bit) for a in range(8) for bit in (1, 2, 4) if not a & bit]  # pairs of corners of a box


def tip_path(chain: Chain, joint_path: np.ndarray) -> np.ndarray:
    """Positions (N, 3) m of the chain's last link at joint positions (N, A) rad."""
    return chain.positions(joint_path)[:, -1]


def plan_markers(
    chain: Chain,
    frame: str,
    stamp: Any,
    elites: np.ndarray | None,
    plan: np.ndarray | None,
    joints: np.ndarray | None,
    state: str,
    reached: bool,
    box: tuple[np.ndarray, np.ndarray] | None,
) -> MarkerArray:
    """Markers in the namespaces elites, plan, goal and workspace.

    :param chain: from the base, whose frame is `frame`, to the end effector.
    :param elites: joint paths of the best candidates, (E, N, A) rad, the best first; None draws none.
    :param plan: joint path of the newest plan, (N, A) rad, or None.
    :param joints: measured positions (A,) rad, or None: the end effector there is drawn as a ball.
    :param state: of the shield, written beside the ball, which has its colour.
    :param reached: whether the arm rests at its goal.
    :param box: least and greatest x, y, z of the workspace, (3,) m each, or None.
    """
    header = Header(stamp=stamp, frame_id=frame)
    markers = []
    paths = [] if elites is None else list(elites)
    for rank, path in enumerate(paths):
        share = rank / max(1, len(paths) - 1)
        markers.append(
            _marker(header, "elites", rank, Marker.LINE_STRIP, 0.002, BLUE, 0.7 - 0.5 * share, tip_path(chain, path))
        )
    if plan is not None and len(plan):
        way = tip_path(chain, plan)
        markers.append(_marker(header, "plan", 0, Marker.LINE_STRIP, 0.006, GREEN, 1.0, way))
        markers.append(_marker(header, "plan", 1, Marker.SPHERE_LIST, 0.02, GREEN, 1.0, way[-1:]))
    if joints is not None:
        tip = tip_path(chain, joints[None])[0]
        colour = STATES.get(state, GREY)
        ball = _marker(header, "goal", 0, Marker.SPHERE, 0.03, GREEN if reached else colour, 0.9 if reached else 0.4)
        ball.pose.position = _point(tip)
        said = _marker(header, "goal", 1, Marker.TEXT_VIEW_FACING, 0.04, GREEN if reached else colour, 1.0)
        said.pose.position = _point(tip + (0.0, 0.0, 0.08))
        said.text = "goal reached" if reached else state
        markers += [ball, said]
    if box is not None:
        lower, upper = box
        corners = np.array([np.where([i & 1, i & 2, i & 4], upper, lower) for i in range(8)])
        markers.append(
            _marker(header, "workspace", 0, Marker.LINE_LIST, 0.004, GREY, 0.8, corners[EDGES].reshape(-1, 3))
        )
        inside = _marker(header, "workspace", 1, Marker.CUBE, 1.0, GREY, 0.08)
        inside.pose.position = _point((lower + upper) / 2)
        inside.scale = Vector3(**dict(zip("xyz", map(float, upper - lower), strict=True)))
        markers.append(inside)
    return MarkerArray(markers=markers)


def _marker(
    header: Header,
    namespace: str,
    number: int,
    kind: int,
    size_m: float,
    colour: tuple[float, float, float],
    alpha: float,
    points: np.ndarray | None = None,
) -> Marker:
    red, green, blue = colour
    return Marker(
        header=header,
        ns=namespace,
        id=number,
        type=kind,
        action=Marker.ADD,
        pose=Pose(orientation=Quaternion(w=1.0)),
        scale=Vector3(x=size_m, y=size_m, z=size_m),
        color=ColorRGBA(r=red, g=green, b=blue, a=alpha),
        lifetime=LIFETIME,
        points=[] if points is None else [_point(point) for point in points],
    )


def _point(position: np.ndarray) -> Point:
    x, y, z = map(float, position)
    return Point(x=x, y=y, z=z)
