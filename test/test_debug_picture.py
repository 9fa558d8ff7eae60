# SPDX-License-Identifier: Apache-2.0
"""What debug_image shows: the pixels that matter, and that it is drawn whatever is missing or odd."""

import dataclasses

import numpy as np
import pytest

from lewm_model.monitoring.vigilance import SURPRISING
from lewm_model.robot.observation import Observation
from lewm_ros.debug_picture import (
    BAR_END,
    COLUMN,
    HEADER,
    HEIGHT,
    MARGIN,
    MOST_PICTURES,
    PANE,
    STATES,
    STRIP_SIDE,
    STRIP_TOP,
    WIDTH,
    Scene,
    draw,
)

RED_PICTURE, BLUE_PICTURE = (np.full((64, 64, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 0, 200)))
TOP = HEADER + MARGIN


def imagined(blocks: int) -> np.ndarray:
    """One picture per block, each of a different grey."""
    greys = np.linspace(0, 255, blocks).round().astype(np.uint8)
    return np.broadcast_to(greys[:, None, None, None], (blocks, 16, 16, 3)).copy()


def middle(picture: np.ndarray, left: int, top: int, side: int) -> list[int]:
    return picture[top + side // 2, left + side // 2].tolist()


def test_camera_and_goal_stand_beside_each_other_and_the_imagined_future_below():
    picture = draw(Scene(camera=RED_PICTURE, goal=BLUE_PICTURE, imagined=imagined(5)))
    assert picture.shape == (HEIGHT, WIDTH, 3) and picture.dtype == np.uint8
    assert middle(picture, MARGIN, TOP, PANE) == [200, 0, 0]
    assert middle(picture, 2 * MARGIN + PANE, TOP, PANE) == [0, 0, 200]
    strip = [middle(picture, MARGIN + i * (STRIP_SIDE + MARGIN), STRIP_TOP, STRIP_SIDE)[0] for i in range(5)]
    assert strip == [0, 64, 128, 191, 255]


def test_a_picture_that_is_not_square_is_shown_as_the_model_sees_it():
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96] = 255
    seen = Observation.of_one((64, 64)).enlarged(PANE).picture([wide])
    pane = draw(Scene(camera=seen))[TOP : TOP + PANE, MARGIN : MARGIN + PANE]
    assert (pane == 255).all()


@pytest.mark.parametrize("blocks", [1, MOST_PICTURES, 64])
def test_a_longer_future_gets_smaller_pictures_and_keeps_its_end(blocks):
    picture = draw(Scene(imagined=imagined(blocks)))
    count = min(blocks, MOST_PICTURES)
    side = min(STRIP_SIDE, (WIDTH - MARGIN) // count - MARGIN)
    last = middle(picture, MARGIN + (count - 1) * (side + MARGIN), STRIP_TOP, side)
    assert last[0] == (0 if blocks == 1 else 255)


@pytest.mark.parametrize(("state", "colour"), STATES.items())
def test_the_state_has_a_colour_of_its_own(state, colour):
    assert tuple(draw(Scene(state=state))[2, 2].tolist()) == colour


def test_a_bar_is_as_long_as_the_surprise_and_red_beyond_what_holds_the_arm():
    def red(surprise):
        area = draw(Scene(surprise=surprise))[TOP + 224 : TOP + 250, COLUMN:].astype(int)
        return int(((area[..., 0] > 150) & (area[..., 1] < 100)).any(0).sum())

    assert red(0.9 * SURPRISING) == 0
    width = WIDTH - COLUMN - MARGIN
    assert red(1.5 * SURPRISING) == pytest.approx(width * 1.5 * SURPRISING / BAR_END, abs=6)
    assert red(100.0) >= red(1.5 * SURPRISING) + 0.2 * width, "a greater one is drawn to the end of the box"


def test_the_cost_curve_falls_as_the_costs_do():
    def line(costs):
        box = draw(Scene(costs=np.array(costs)))[TOP + 20 : TOP + 92, COLUMN + 6 : COLUMN + 260].astype(int)
        blue = (box[..., 2] > 140) & (box[..., 0] < 80)
        assert blue.any()
        rows = np.where(blue.any(0), blue.argmax(0), -1)
        return rows[rows >= 0]

    falling, rising = line([9.0, 5.0, 2.0]), line([2.0, 5.0, 9.0])
    assert falling[0] < falling[-1] and rising[0] > rising[-1]


def test_the_way_to_the_goal_moves_to_the_left_as_time_passes():
    def middle_of_line(age_s):
        box = draw(Scene(history=[(age_s + 1.0, 5.0), (age_s, 5.0)]))[TOP + 124 : TOP + 196, COLUMN + 6 : COLUMN + 268]
        green = (box[..., 1] > 100) & (box[..., 0] < 80)
        return float(np.nonzero(green.any(0))[0].mean())

    assert middle_of_line(1.0) - middle_of_line(11.0) == pytest.approx(10 / 20 * 264, abs=10)


@pytest.mark.parametrize(
    "scene",
    [
        Scene(),
        Scene(imagined=np.zeros((0, 8, 8, 3), np.uint8)),
        Scene(costs=np.array([np.nan, np.inf]), history=[(1.0, np.nan)], surprise=np.nan, novelty=-np.inf),
        Scene(costs=np.array([3.0]), history=[(0.0, 0.0)], surprise=-1.0),
        Scene(message="wörter " * 200, state="ein sehr langer Zustand " * 5, latency="plan 3 ms " * 3),
    ],
)
def test_whatever_is_missing_or_odd_a_picture_is_drawn(scene):
    assert draw(scene).shape == (HEIGHT, WIDTH, 3)


def test_drawing_changes_nothing_that_it_was_given():
    scene = Scene(camera=RED_PICTURE.copy(), goal=BLUE_PICTURE.copy(), imagined=imagined(5))
    draw(scene)
    again = dataclasses.replace(scene)
    assert (again.camera == RED_PICTURE).all() and (again.imagined == imagined(5)).all()


def test_pictures_of_two_cameras_side_by_side_are_shown_whole():
    two = np.concatenate([RED_PICTURE, BLUE_PICTURE], axis=1)
    pane = draw(Scene(camera=two))[TOP : TOP + PANE, MARGIN : MARGIN + PANE]
    middle = pane[PANE // 2]
    assert (middle[10] == RED_PICTURE[0, 0]).all() and (middle[-10] == BLUE_PICTURE[0, 0]).all()
