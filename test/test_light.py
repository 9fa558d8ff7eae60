# SPDX-License-Identifier: Apache-2.0
"""Lamps of an SDF look as in Gazebo: pictures of the embedded simulator compared with those of gz-sim's renderer."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from lewm_model.config import resource
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.sdf_element import SdfError

FRAMES = Path(__file__).parent / "data" / "gazebo_frames"
TABLETOP = resource("worlds", "tabletop.sdf").read_text()


def world(folder: Path, *changes: tuple[str, str]) -> Path:
    text = TABLETOP
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    path = folder / "world.sdf"
    path.write_text(text)
    return path


def test_pictures_differ_from_gazebos_by_less_than_a_grey_level() -> None:
    with (FRAMES / "plain" / "poses.csv").open() as file:
        rows = list(csv.DictReader(file))
    with ArmSim(FRAMES / "world.sdf") as sim:
        for row in rows[::4]:
            sim.reset(joint_positions=[float(row["shoulder_rad"]), float(row["elbow_rad"])])
            theirs = cv2.imread(str(FRAMES / "plain" / row["file"]))[..., ::-1].astype(int)
            assert np.abs(sim.render().astype(int) - theirs).mean() < 1.0, row["file"]


def table_of(path: Path) -> np.ndarray:
    with ArmSim(path) as sim:
        return sim.render()[5, 5].astype(int)


def test_a_stronger_lamp_is_brighter_and_a_coloured_one_colours(tmp_path: Path) -> None:
    usual = table_of(world(tmp_path))
    dim = table_of(world(tmp_path, ("<intensity>2</intensity>", "<intensity>1</intensity>")))
    red = table_of(world(tmp_path, ("<diffuse>0.55 0.55 0.55 1", "<diffuse>0.55 0.35 0.35 1")))
    assert (dim < usual - 30).all()
    assert abs(red[0] - usual[0]) <= 1 and (red[1:] < usual[1:] - 20).all()


def test_a_lamp_without_an_intensity_has_that_of_one(tmp_path: Path) -> None:
    one = table_of(world(tmp_path, ("<intensity>2</intensity>", "<intensity>1</intensity>")))
    np.testing.assert_array_equal(table_of(world(tmp_path, ("<intensity>2</intensity>", ""))), one)


def test_in_the_dark_everything_is_black(tmp_path: Path) -> None:
    dark = world(tmp_path, ("<intensity>2</intensity>", "<intensity>0</intensity>"), ("0.45 0.45 0.45 1", "0 0 0 1"))
    assert table_of(dark).max() <= 1


@pytest.mark.parametrize(
    ("new", "message"),
    [("<intensity>-1</intensity>", "must be 0 or more"), ("<intensity>bright</intensity>", "finite number")],
)
def test_an_intensity_that_makes_no_sense_is_refused_with_its_line(tmp_path: Path, new: str, message: str) -> None:
    with pytest.raises(SdfError, match=rf"world.sdf:\d+: .*{message}"):
        ArmSim(world(tmp_path, ("<intensity>2</intensity>", new)), render=False)
