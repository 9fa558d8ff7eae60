# SPDX-License-Identifier: Apache-2.0
"""Poses in an SDF file, 4 x 4 float64 matrices in m, and the named frames that they are given in."""

from __future__ import annotations

import math

import numpy as np

from lewm_model.sim.sdf_element import Element


def pose_matrix(x: float, y: float, z: float, roll: float, pitch: float, yaw: float) -> np.ndarray:
    """SDF's pose as a matrix: rotation Rz(yaw) Ry(pitch) Rx(roll), m and rad."""
    cr, sr, cp, sp = math.cos(roll), math.sin(roll), math.cos(pitch), math.sin(pitch)
    cy, sy = math.cos(yaw), math.sin(yaw)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr, x],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr, y],
            [-sp, cp * sr, cp * cr, z],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


def pose_of(element: Element) -> np.ndarray:
    child = element.get("pose")
    if child is None or not child.text.strip():
        return np.eye(4)
    return pose_matrix(*child.floats(6, attributes="relative_to"))


def relative_to(element: Element) -> str | None:
    child = element.get("pose")
    if child is None:
        return None
    child.allow(attributes="relative_to")
    return child.attributes.get("relative_to")


class Frames:
    """The named frames of one model, each resolved to a pose in the model's frame."""

    def __init__(self, model: Element) -> None:
        self._elements: dict[str, Element] = {}
        for element in model.children:
            if element.tag in ("link", "joint", "frame"):
                name = element.attribute("name")
                if name in self._elements or name in ("world", "__model__"):
                    raise element.error(f"the name '{name}' is taken; names in a model are unique")
                self._elements[name] = element
        self._poses: dict[str, np.ndarray] = {"__model__": np.eye(4)}
        self._open: list[str] = []

    def pose(self, name: str, user: Element) -> np.ndarray:
        """Pose of frame `name` in the model's frame; `user` is the element that names it, for the error."""
        if name in self._poses:
            return self._poses[name]
        if name not in self._elements:
            raise user.error(f"there is no frame '{name}' in this model; it has {', '.join(self._elements)}")
        if name in self._open:
            raise user.error(f"poses go in a circle: {' -> '.join([*self._open, name])}")
        element = self._elements[name]
        if element.tag == "link":
            default = "__model__"
        elif element.tag == "joint":
            default = element.need("child").string()
        else:
            default = element.attributes.get("attached_to", "__model__")
        self._open.append(name)
        self._poses[name] = self.pose(relative_to(element) or default, element) @ pose_of(element)
        self._open.pop()
        return self._poses[name]

    def within(self, link: str, element: Element) -> np.ndarray:
        """Pose of a collision, visual, inertial or sensor of `link`, in the link's frame."""
        reference = relative_to(element)
        if reference is None:
            return pose_of(element)
        return np.linalg.inv(self.pose(link, element)) @ self.pose(reference, element) @ pose_of(element)

    def link_of(self, name: str, user: Element) -> str:
        """The link that frame `name` is fixed to."""
        for _ in range(len(self._elements) + 1):
            element = self._elements.get(name)
            if element is None:
                raise user.error(f"'{name}' is not attached to a link; set attached_to to a link of this model")
            if element.tag == "link":
                return name
            name = (
                element.need("child").string() if element.tag == "joint" else element.attributes.get("attached_to", "")
            )
        raise user.error("attached_to goes in a circle")
