"""From a camera's picture to the model's picture, the same way at recording, training and run time."""

from __future__ import annotations

import cv2
import numpy as np


def to_model_image(rgb: np.ndarray, size: int) -> np.ndarray:
    """Centre-crops an RGB picture (H, W, 3) uint8 to a square and scales it to (size, size, 3) uint8.

    Scaling averages areas, so that what moves by less than a pixel still changes the picture.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise ValueError(f"a picture must be (H, W, 3) uint8 and not empty, this one is {rgb.shape} {rgb.dtype}")
    height, width = rgb.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = rgb[top : top + side, left : left + side]
    interpolation = cv2.INTER_AREA if side >= size else cv2.INTER_LINEAR
    return cv2.resize(square, (size, size), interpolation=interpolation) if side != size else square.copy()
