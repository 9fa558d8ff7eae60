# SPDX-License-Identifier: Apache-2.0
"""What is new in a picture, and for how long."""

import numpy as np
import pytest

from lewm_model.config import MonitorConfig
from lewm_model.monitoring.novelty import COLOURS, WINDOW, Novelty, Remembered, area, most_together, remember

SIZE = 16
FAMILIAR_S = MonitorConfig.familiar_s
GREY, GREEN, RED = (120, 120, 120), (10, 200, 10), (220, 20, 20)


def table(*things: tuple[int, int, tuple[int, int, int]]) -> np.ndarray:
    """A grey picture with things of 3 x 3 pixels, (row, column, colour)."""
    picture = np.full((SIZE, SIZE, 3), GREY, np.uint8)
    for row, column, colour in things:
        picture[row : row + 3, column : column + 3] = colour
    return picture


@pytest.fixture
def novelty() -> Novelty:
    """It saw a red thing here and there, and a green one in a corner."""
    corner = (12, 12, GREEN)
    return Novelty(remember(np.stack([table(corner, (2, column, RED)) for column in range(12)])), usual=2.0)


def test_what_was_seen_is_not_new_and_what_was_seen_elsewhere_is(novelty: Novelty) -> None:
    assert novelty.look(table((12, 12, GREEN), (2, 5, RED)), 0.0) == 0.0
    assert novelty.look(table((2, 5, RED)), 0.1) == 1 / 2, "what was taken away, but for its edges"
    assert novelty.look(table((12, 12, GREEN), (7, 7, GREEN)), 0.2) == 9 / 2, "what was put down"
    moved = novelty.new_pixels(table((12, 9, GREEN)))
    assert moved.sum() == 7, "the middle that it left, and two columns that it came to"


def test_a_picture_that_is_shifted_by_a_pixel_is_not_new(novelty: Novelty) -> None:
    for row, column in ((-1, 0), (1, 0), (0, -1), (0, 1), (1, 1)):
        assert not novelty.new_pixels(np.roll(table((2, 5, RED), (12, 12, GREEN)), (row, column), (0, 1))).any()


def test_a_light_that_makes_the_table_white_is_not_new_and_a_thing_that_is_put_down_in_it_is(novelty: Novelty) -> None:
    def overexposed(*things: tuple[int, int, tuple[int, int, int]]) -> np.ndarray:
        return np.clip(table(*things) * 3.0, 0, 255).astype(np.uint8)  # GREY is 360

    known = Novelty(remember([table((12, 12, (20, 80, 20)))]), usual=2.0)
    assert known.look(overexposed((12, 12, (20, 80, 20))), 0.0) == 0.0
    assert known.look(overexposed((12, 12, (20, 80, 20)), (5, 5, (80, 20, 20))), 0.1) == 9 / 2


def test_pixels_count_where_they_lie_together() -> None:
    new = np.zeros((SIZE, SIZE), bool)
    new[::WINDOW, ::WINDOW] = True
    assert most_together(new) == 1
    new[3:5, 3:5] = True
    assert most_together(new) == 5


def test_noise_and_slightly_other_light_are_not_new(novelty: Novelty) -> None:
    rng = np.random.default_rng(0)
    picture = table((12, 12, GREEN)).astype(int)
    for change in (*rng.integers(-15, 16, (20, *picture.shape)), -25, 25):
        assert novelty.look(np.clip(picture + change, 0, 255).astype(np.uint8), 0.0) == 0.0


def test_what_stays_becomes_familiar_and_what_moves_does_not(novelty: Novelty) -> None:
    stays = table((12, 12, GREEN), (7, 7, GREEN))
    times = np.arange(0.0, FAMILIAR_S + 0.2, 0.05)
    scores = [novelty.look(stays, time) for time in times]
    assert all(score == 4.5 for score, time in zip(scores, times, strict=True) if time < FAMILIAR_S - 0.01)
    assert scores[-1] == 0.0
    assert novelty.look(table((12, 12, GREEN)), 1.2) == 0.0, "it may go again"
    assert novelty.look(table((12, 12, GREEN), (8, 9, GREEN)), 1.3) > 2.0, "but not elsewhere"

    for i, time in enumerate(np.arange(2.0, 5.0, 0.05)):  # a hand that waves
        assert novelty.look(table((12, 12, GREEN), (5 + i % 2, 3 + i % 4, (250, 250, 10))), time) > 2.0

    novelty.forget()
    assert novelty.look(stays, 6.0) == 4.5


def test_a_picture_that_shows_nothing_is_new_for_as_long_as_it_lasts(novelty: Novelty) -> None:
    for colour in (0, 255, np.array([90, 20, 20])):
        covered = np.zeros((SIZE, SIZE, 3), np.uint8) + np.uint8(colour)
        noise = np.random.default_rng(0).integers(0, 6, covered.shape, np.uint8)
        for time in np.arange(0.0, 5 * FAMILIAR_S, 0.05):
            assert novelty.look(covered ^ noise, time) > 100.0
        assert novelty.look(table((12, 12, GREEN)), 5 * FAMILIAR_S) == 0.0


def test_a_clock_that_jumps_back_does_not_make_anything_new_for_longer(novelty: Novelty) -> None:
    stays = table((12, 12, GREEN), (7, 7, GREEN))
    assert novelty.look(stays, 1000.0) == novelty.look(stays, 10.0) == 4.5
    assert novelty.look(stays, 10.0 + FAMILIAR_S) == 0.0


@pytest.mark.parametrize("light", [0.6, 1.4, (1.2, 1.0, 0.7), "shade"])
def test_another_light_is_not_new_and_a_thing_that_was_moved_in_it_is(novelty: Novelty, light: object) -> None:
    strength = np.linspace(0.6, 1.2, SIZE)[:, None] if light == "shade" else np.asarray(light)

    def lit(*things: tuple[int, int, tuple[int, int, int]]) -> np.ndarray:
        return np.clip(table(*things) * strength, 0, 255).astype(np.uint8)

    assert novelty.look(lit((12, 12, GREEN), (2, 5, RED)), 0.0) == 0.0
    assert novelty.look(lit((12, 12, GREEN), (7, 7, GREEN)), 0.1) == 9 / 2


def test_a_thing_that_was_moved_in_dim_light_is_not_taken_for_a_dark_one_that_was_seen_there() -> None:
    dark, corner = (10, 80, 10), (12, 12, GREEN)
    seen = [table(corner, (7, 7, dark) if column < 6 else (7, 2, dark), (2, column, RED)) for column in range(12)]
    novelty = Novelty(remember(np.stack(seen)), usual=2.0)
    dimmed, painted = (0.45 * table(corner, (2, 5, RED), (7, 7, GREEN))).astype(np.uint8), table(corner, (2, 5, RED))
    assert novelty.look(dimmed, 0.0) == 9 / 2
    painted[(painted == GREY).all(-1)] = 54  # the same light on another table
    assert novelty.look(painted, 0.1) == 0.0


def test_what_an_older_bundle_saw_is_compared_as_the_camera_gave_it() -> None:
    seen = np.ones((SIZE * SIZE, COLOURS), bool)
    seen[:, :64] = False  # nothing was ever as dark as that
    picture = np.full((SIZE, SIZE, 3), 20, np.uint8)
    picture[::2] = 30
    older = Remembered(seen, None)
    assert Novelty(older, 1.0, any_light=False).new_pixels(picture).all()
    assert not Novelty(older, 1.0).new_pixels(picture).any()
    assert Novelty(older, 1.0, usual_area=(9.0, 1.0)).look(picture, 0.0) == 0.0, "it does not know what is common"


def hidden(things: int) -> np.ndarray:
    """6 x 3 pixels of the picture for each of `things`."""
    return table(*((row, 2 + 3 * number, RED) for row in (5, 8) for number in range(things)))


@pytest.fixture
def travelled() -> Novelty:
    """It saw a red thing everywhere, one at a time: nine pixels."""
    places = [(row, column) for row in range(SIZE - 2) for column in range(SIZE - 2)]
    return Novelty(remember(table((*place, RED)) for place in places), usual=2.0, usual_area=(9.0, 9.0))


def test_what_hides_a_part_of_the_picture_is_noticed_in_a_colour_that_was_at_each_of_its_pixels(
    travelled: Novelty,
) -> None:
    assert travelled.look(table((4, 4, RED)), 0.0) <= 0.0
    assert not travelled.new_pixels(hidden(2)).any()
    excess = 6 * 6 - 4 - 9  # most neighbours of its corners are not hidden
    assert travelled.look(hidden(2), 0.1) == excess / 9 > 2.0
    assert travelled.look((0.6 * hidden(2)).astype(np.uint8), 0.2) == excess / 9, "in any light"


def test_pixels_that_are_scattered_have_no_area() -> None:
    noisy = np.random.default_rng(0).random((64, 64)) < 0.05
    assert area(noisy) < 0.1 * noisy.sum()
    noisy[10:26, 10:26] = True
    assert 0.9 * 16 * 16 < area(noisy) < 1.1 * 16 * 16


def test_an_area_that_stays_hidden_becomes_familiar_and_a_greater_one_does_not(travelled: Novelty) -> None:
    times = np.arange(0.0, FAMILIAR_S + 0.2, 0.05)
    scores = [travelled.look(hidden(2), time) for time in times]
    assert all(score > 2.0 for score, time in zip(scores, times, strict=True) if time < FAMILIAR_S - 0.01)
    assert scores[-1] == 0.0
    assert travelled.look(hidden(4), 1.3) > 2.0
    assert travelled.look(hidden(2), 1.4) == 0.0
    assert travelled.look(table((4, 4, RED)), 1.5) <= 0.0, "it is uncovered"
    assert travelled.look(hidden(2), 1.6) > 2.0, "and covered again"
    travelled.forget()
    assert travelled.look(hidden(2), 10.0) > 2.0
    assert travelled.look(hidden(2), 5.0) > 2.0, "a clock that jumped back"
    assert travelled.look(hidden(2), 5.0 + FAMILIAR_S) == 0.0
