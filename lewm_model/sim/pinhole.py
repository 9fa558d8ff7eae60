# SPDX-License-Identifier: Apache-2.0
"""Projection of points of a world into the picture of its camera."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np

from lewm_model.config import resource
from lewm_model.sim.arm import load_world


@dataclass(frozen=True)
class Pinhole:
    """A camera of a world as an ideal pinhole camera: square pixels, optical axis in the middle of the picture.

    `position` (3,) m; the columns of `rotation` (3, 3) are the camera's axes in the world: x right, y up, z backwards.
    """

    width: int
    height: int
    focal_px: float
    position: np.ndarray
    rotation: np.ndarray

    @staticmethod
    def of_world(world: str | Path | None = None, number: int = 0) -> Pinhole:
        """The camera with this number of an SDF or scene file; None is the packaged `worlds/tabletop.sdf`."""
        loaded = load_world(resource("worlds", "tabletop.sdf") if world is None else world)
        data = mujoco.MjData(loaded.model)
        mujoco.mj_forward(loaded.model, data)
        sensor = loaded.cameras[number]
        camera = loaded.model.camera(sensor.name).id
        return Pinhole(
            sensor.width,
            sensor.height,
            sensor.height / 2 / math.tan(math.radians(loaded.model.cam_fovy[camera]) / 2),
            data.cam_xpos[camera].copy(),
            data.cam_xmat[camera].reshape(3, 3).copy(),
        )

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points (N, 3) m in front of the camera -> (N, 2) pixels, x to the right and y down."""
        x, y, z = ((points - self.position) @ self.rotation).T
        return np.stack([self.width / 2 - self.focal_px * x / z, self.height / 2 + self.focal_px * y / z], axis=1)
