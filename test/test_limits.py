# SPDX-License-Identifier: Apache-2.0
"""Joint limits from files: what is read is what the file says, and what it does not say is an error, never a guess."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lewm_model.robot.limits import LimitsError, limits_from_parameters, limits_from_urdf

URDF = """<?xml version="1.0"?>
<robot name="arm">
  <link name="base"/>
  <joint name="pan" type="revolute"><parent link="base"/><child link="a"/><axis xyz="0 0 1"/>
    <limit lower="-1.5" upper="2.5" velocity="3" effort="10"/></joint>
  <joint name="lift" type="revolute"><parent link="a"/><child link="b"/>
    <limit lower="-1" upper="1" velocity="2" effort="10"/></joint>
  <joint name="wheel" type="continuous"><limit velocity="2" effort="10"/></joint>
  <joint name="rail" type="prismatic"><limit lower="0" upper="1" velocity="2" effort="10"/></joint>
  <joint name="bare" type="revolute"/>
  <joint name="half" type="revolute"><limit lower="-1" velocity="2"/></joint>
  <joint name="word" type="revolute"><limit lower="-1" upper="pi" velocity="2"/></joint>
  <joint name="nan" type="revolute"><limit lower="-1" upper="nan" velocity="2"/></joint>
  <joint name="still" type="revolute"><limit lower="-1" upper="1" velocity="0"/></joint>
</robot>
"""


def test_a_urdf_gives_the_limits_of_the_joints_in_the_order_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "arm.urdf"
    path.write_text(URDF)
    limits = limits_from_urdf(path, ["lift", "pan"], acceleration=[4.0, 5.0], jerk=150.0)
    assert limits.names == ("lift", "pan")
    np.testing.assert_array_equal(limits.lower, [-1.0, -1.5])
    np.testing.assert_array_equal(limits.upper, [1.0, 2.5])
    np.testing.assert_array_equal(limits.velocity, [2.0, 3.0])
    np.testing.assert_array_equal(limits.acceleration, [4.0, 5.0])
    np.testing.assert_array_equal(limits.jerk, [150.0, 150.0])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pan", "elbow"], "no joint 'elbow'; its joints are pan, lift"),
        (["wheel"], "is continuous, only revolute joints can be planned for; give it position limits"),
        (["rail"], "is prismatic"),
        (["bare"], "has no <limit"),
        (["half"], "'upper' of joint 'half' in .* is missing"),
        (["word"], "is 'pi', which is not a number"),
        (["nan"], "'upper' of joint 'nan' is nan; it must be finite"),
        (["still"], "'velocity' of joint 'still' is 0.0; it must be above 0"),
        (["pan", "pan"], "each once"),
        ([], "one or more joint names"),
    ],
)
def test_a_urdf_that_does_not_say_it_is_an_error(tmp_path: Path, names: list[str], message: str) -> None:
    path = tmp_path / "arm.urdf"
    path.write_text(URDF)
    with pytest.raises(ValueError, match=message):
        limits_from_urdf(path, names, 9.0, 150.0)


def test_accelerations_of_the_wrong_number_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "arm.urdf"
    path.write_text(URDF)
    with pytest.raises(ValueError, match="'acceleration' has shape"):
        limits_from_urdf(path, ["pan", "lift"], acceleration=[1.0, 2.0, 3.0], jerk=150.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as XML"),
        ("<robot", "cannot be read as XML"),
        ("<sdf/>", "is a <sdf>, a <robot> is expected"),
        ('<!DOCTYPE r [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><robot>&b;</robot>', "declares the XML entity 'a'"),
        ('<!DOCTYPE r [<!ENTITY a SYSTEM "file:///etc/hostname">]><robot>&a;</robot>', "declares the XML entity 'a'"),
        ("<robot><joint/></robot>", "no joint 'pan'; its joints are None"),
    ],
)
def test_what_is_no_urdf_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "arm.urdf"
    path.write_text(text)
    with pytest.raises(LimitsError, match=message):
        limits_from_urdf(path, ["pan"], 9.0, 150.0)
    with pytest.raises(LimitsError, match="cannot be read"):
        limits_from_urdf(tmp_path / "nowhere.urdf", ["pan"], 9.0, 150.0)


ROWS: dict[str, Any] = {
    "names": ("lift", "pan"),
    "lower": (-0.5, -1.5),
    "upper": (1.0, 2.0),
    "velocity": (1.0, 3.0),
    "acceleration": (4.0, 5.0),
    "jerk": (60.0, 70.0),
}


def test_parameters_that_are_empty_come_from_the_urdf_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "arm.urdf"
    path.write_text(URDF)
    for urdf in ("", path):
        limits = limits_from_parameters(**ROWS, urdf=urdf)
        for field, row in ROWS.items():
            np.testing.assert_array_equal(getattr(limits, field), row)
    limits = limits_from_parameters(**ROWS | {"lower": (), "velocity": ()}, urdf=path)
    np.testing.assert_array_equal(limits.lower, [-1.0, -1.5])
    np.testing.assert_array_equal(limits.upper, ROWS["upper"])
    np.testing.assert_array_equal(limits.velocity, [2.0, 3.0])


def test_a_continuous_joint_has_the_position_limits_of_the_parameters(tmp_path: Path) -> None:
    path = tmp_path / "arm.urdf"
    path.write_text(URDF)
    rows = ROWS | {"names": ("lift", "wheel"), "velocity": ()}
    np.testing.assert_array_equal(limits_from_parameters(**rows, urdf=path).velocity, [2.0, 2.0])
    with pytest.raises(LimitsError, match=r"'wheel' in .* is continuous: write limits.lower and limits.upper"):
        limits_from_parameters(**rows | {"upper": ()}, urdf=path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lower": (-1.1, -1.5)}, "limits.lower of joint 'lift' is -1.1 rad, .*arm.urdf allows -1;"),
        ({"upper": (1.0, 2.51)}, "limits.upper of joint 'pan' is 2.51 rad, .*arm.urdf allows 2.5;"),
        ({"velocity": (2.5, 3.0)}, "limits.velocity of joint 'lift' is 2.5 rad/s, .*arm.urdf allows 2;"),
        ({"acceleration": ()}, "limits.acceleration is empty: .* each of lift, pan; a URDF does not state it"),
        ({"jerk": ()}, "limits.jerk is empty"),
        ({"lower": (-0.5,)}, "'lower' has shape"),
        ({"upper": (-0.6, 2.0)}, "lower must be less"),
        ({"velocity": (float("nan"), 1.0)}, "'velocity' of joint 'lift' is nan"),
        ({"names": ("lift", "elbow")}, "has no joint 'elbow'"),
        ({"names": ()}, "one or more joint names"),
        (
            {"names": ("lift", "nan"), "lower": (-0.5, -1.0)},
            "limits.upper of joint 'nan' is 2 rad, .*arm.urdf allows nan",
        ),
        ({"names": ("lift", "rail")}, "'rail' in .* is prismatic"),
        ({"names": ("lift", "half")}, "'upper' of joint 'half' in .* is missing"),
    ],
)
def test_parameters_that_the_urdf_does_not_allow_or_complete_are_an_error(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "arm.urdf"
    path.write_text(URDF)
    with pytest.raises(ValueError, match=message):
        limits_from_parameters(**ROWS | change, urdf=path)


def test_without_a_urdf_no_parameter_may_be_empty() -> None:
    with pytest.raises(
        LimitsError, match=r"limits.lower is empty: write one number for each of lift, pan or give a urdf"
    ):
        limits_from_parameters(**ROWS | {"lower": ()})
