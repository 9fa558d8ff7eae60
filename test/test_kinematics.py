# SPDX-License-Identifier: Apache-2.0
"""Where the links are: the same as MuJoCo says, and a chain that cannot be watched is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lewm_model.config import resource
from lewm_model.robot.chain import Chain, Workspace
from lewm_model.robot.limits import LimitsError, limits_from_urdf

TABLETOP = resource("config", "arms", "tabletop.urdf")
JOINTS = ("shoulder", "elbow")

# Six joints with turned origins, as a UR5e has them, then a rail with a slanted axis and a turned flange.
SIX_JOINTS = """<?xml version="1.0"?>
<robot name="six">
  <link name="world_link"/> <link name="pedestal"/>
  {links}
  <joint name="stand" type="fixed"><parent link="world_link"/><child link="pedestal"/>
    <origin xyz="0.1 -0.2 0.3" rpy="0 0 3.141592653589793"/></joint>
  <joint name="pan" type="revolute"><parent link="pedestal"/><child link="l0"/>
    <origin xyz="0 0 0.1625"/><axis xyz="0 0 1"/><limit lower="-3" upper="3" velocity="2" effort="9"/></joint>
  <joint name="lift" type="revolute"><parent link="l0"/><child link="l1"/>
    <origin xyz="0 0 0" rpy="1.570796327 0 0"/><axis xyz="0 0 1"/>
    <limit lower="-3" upper="3" velocity="2" effort="9"/></joint>
  <joint name="elbow" type="continuous"><parent link="l1"/><child link="l2"/>
    <origin xyz="-0.425 0 0"/><axis xyz="0 0 -2"/><limit velocity="2" effort="9"/></joint>
  <joint name="wrist_1" type="revolute"><parent link="l2"/><child link="l3"/>
    <origin xyz="-0.3922 0 0.1333" rpy="0.3 -0.7 1.9"/><axis xyz="0 1 0"/>
    <limit lower="-3" upper="3" velocity="2" effort="9"/></joint>
  <joint name="wrist_2" type="revolute"><parent link="l3"/><child link="l4"/>
    <origin xyz="0 -0.0997 0" rpy="1.570796327 0 0"/>
    <limit lower="-3" upper="3" velocity="2" effort="9"/></joint>
  <joint name="rail" type="prismatic"><parent link="l4"/><child link="l5"/>
    <origin xyz="0 0.0996 0" rpy="1.57 3.14 -3.14"/><axis xyz="1 2 -0.5"/>
    <limit lower="-1" upper="1" velocity="2" effort="9"/></joint>
  <joint name="flange" type="fixed"><parent link="l5"/><child link="l6"/>
    <origin xyz="0.01 0.02 0.03" rpy="-1.2 0.4 2.8"/><axis xyz="0 0 0"/></joint>
</robot>
"""
SIX = ("pan", "lift", "elbow", "wrist_1", "wrist_2", "rail")


@pytest.fixture
def six(tmp_path: Path) -> Path:
    link = '<link name="l{}"><inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/>'
    path = tmp_path / "six.urdf"
    path.write_text(SIX_JOINTS.format(links="".join(link.format(i) + "</inertial></link>" for i in range(7))))
    return path


def test_the_tip_of_the_tabletop_arm_is_where_the_simulator_has_it() -> None:
    pytest.importorskip("mujoco")
    from lewm_model.sim.arm import ArmSim

    sim = ArmSim(render=False)
    limits = limits_from_urdf(TABLETOP, JOINTS, 9.0, 150.0)
    assert limits.names == sim.names
    for field in ("lower", "upper", "velocity"):
        np.testing.assert_array_equal(getattr(limits, field), getattr(sim.limits, field))
    chain = Chain.from_urdf(TABLETOP, "base", "end_effector", JOINTS)
    poses = np.random.default_rng(0).uniform(limits.lower, limits.upper, (200, 2))
    tips = chain.positions(poses)[:, -1]
    np.testing.assert_allclose(tips, [sim.end_effector(pose) for pose in poses], rtol=0, atol=1e-9)


def test_every_link_of_a_chain_with_turned_origins_is_where_mujoco_has_it(six: Path) -> None:
    mujoco = pytest.importorskip("mujoco")
    spec = mujoco.MjSpec.from_file(str(six))
    spec.compiler.fusestatic = False  # otherwise MuJoCo merges the flange into the link before it
    model = spec.compile()
    data = mujoco.MjData(model)
    order = np.random.default_rng(1).permutation(6)  # the action's columns need not be in the chain's order
    names = [SIX[i] for i in order]
    chain = Chain.from_urdf(six, "world_link", "l6", names)
    poses = np.random.default_rng(0).uniform(-3.0, 3.0, (100, 6))
    found = chain.positions(poses)
    assert chain.links == ("pedestal", "l0", "l1", "l2", "l3", "l4", "l5", "l6")
    for pose, origins in zip(poses, found, strict=True):
        for name, value in zip(names, pose, strict=True):
            data.qpos[model.joint(name).qposadr[0]] = value
        mujoco.mj_kinematics(model, data)
        for link, origin in zip(chain.links, origins, strict=True):
            np.testing.assert_allclose(origin, data.body(link).xpos, rtol=0, atol=1e-9, err_msg=link)


def test_a_base_in_the_middle_of_the_chain_gives_positions_in_its_own_frame(six: Path) -> None:
    chain = Chain.from_urdf(six, "pedestal", "l1", ["pan", "lift"])
    assert chain.links == ("l0", "l1")
    np.testing.assert_allclose(chain.positions([[1.0, 2.0]]), [[[0, 0, 0.1625]] * 2])
    assert not chain.moving.any()


def test_links_that_no_joint_can_displace_are_not_watched(six: Path) -> None:
    chain = Chain.from_urdf(six, "world_link", "l6", SIX)
    still = [link for link, moves in zip(chain.links, chain.moving, strict=True) if not moves]
    assert still == ["pedestal", "l0", "l1"]


@pytest.mark.parametrize(
    ("base", "tip", "joints", "message"),
    [
        ("root", "l6", SIX, "no base link 'root'; its links are world_link, pedestal"),
        ("world_link", "hand", SIX, "no tip link 'hand'"),
        ("l6", "world_link", SIX, "end at 'world_link' and do not include 'l6'"),
        ("world_link", "l6", SIX[:-1], "joint 'rail' .* moves the tip and is not among the planned joints"),
        ("world_link", "l4", SIX, "joint 'rail' does not lie between 'world_link' and 'l4'"),
        ("world_link", "l6", (*SIX, "grip"), "joint 'grip' does not lie between"),
    ],
)
def test_a_chain_that_is_not_the_planned_joints_is_an_error(
    six: Path, base: str, tip: str, joints: tuple[str, ...], message: str
) -> None:
    with pytest.raises(LimitsError, match=message):
        Chain.from_urdf(six, base, tip, joints)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('<child link="l3"/>', '<child link="l2"/>', "'l2' .* is the child of two joints"),
        ('<parent link="l2"/>', "", "joint 'wrist_1' .* has no <parent link=...>"),
        ('<axis xyz="0 1 0"/>', '<axis xyz="0 0 0"/>', "<axis> of joint 'wrist_1' .* has no length"),
        ('<axis xyz="0 1 0"/>', '<axis xyz="0 1"/>', "<axis xyz> of joint 'wrist_1' .* write three numbers"),
        ("0.3 -0.7 1.9", "0.3 nan 1.9", "<origin rpy> of joint 'wrist_1' .* write three numbers"),
        ("0.3 -0.7 1.9", "0.3 pi 1.9", "write three numbers"),
        ('"rail" type="prismatic"', '"rail" type="floating"', "joint 'rail' .* is floating"),
        ('<parent link="world_link"/>', '<parent link="l6"/>', "form a cycle"),
        ("</robot>", "", "cannot be read as XML"),
    ],
)
def test_a_broken_urdf_is_an_error(six: Path, old: str, new: str, message: str) -> None:
    text = six.read_text()
    assert old in text
    six.write_text(text.replace(old, new))
    with pytest.raises(LimitsError, match=message):
        Chain.from_urdf(six, "world_link", "l6", SIX)


def test_joint_positions_of_another_arm_are_an_error() -> None:
    chain = Chain.from_urdf(TABLETOP, "base", "end_effector", JOINTS)
    for wrong in ([0.0, 0.0], [[0.0, 0.0, 0.0]]):
        with pytest.raises(ValueError, match="is expected"):
            chain.positions(wrong)


# ---- the box ---------------------------------------------------------------------------------------------------------


def tabletop_box(lower: tuple[float, ...], upper: tuple[float, ...]) -> Workspace:
    return Workspace(Chain.from_urdf(TABLETOP, "base", "end_effector", JOINTS), lower, upper)


def test_the_link_the_side_and_the_box_are_named() -> None:
    box = tabletop_box((-0.4, -1.0, 0.0), (0.5, 1.0, 0.2))
    assert box.find_outside([[0.0, 1.5]]) is None
    sentence = box.find_outside([[0.0, 1.5], [0.0, 0.0]])
    assert sentence == "link 'end_effector' at x = 0.550 m, the box ends at 0.500 m"
    sentence = box.find_outside([[np.pi, 1.5], [np.pi, 0.0]])
    assert sentence == "link 'end_effector' at x = -0.550 m, the box begins at -0.400 m"
    np.testing.assert_allclose(box.beyond([[0.0, 0.0], [0.0, 1.5]]), [[0, 0, 0, 0.05, 0, 0], [0] * 6], atol=1e-12)


def test_room_is_given_side_by_side() -> None:
    box = tabletop_box((-1.0, -0.2, 0.0), (0.5, 1.0, 0.2))
    assert box.find_outside([[0.0, 0.0]], room=0.06) is None
    out_at_x = box.beyond([[0.0, 0.0]])[0]
    assert box.find_outside([[0.0, 0.0]], room=out_at_x) is None
    assert "at y" in (box.find_outside([[-1.0, 0.0]], room=out_at_x) or "")


def test_the_column_that_the_arm_stands_on_need_not_be_in_the_box() -> None:
    box = tabletop_box((0.1, -0.5, 0.0), (0.6, 0.5, 0.2))  # link_1 turns at x = 0
    assert box.find_outside([[0.0, 0.0]]) is None


def test_not_a_number_is_outside() -> None:
    box = tabletop_box((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
    assert box.find_outside([[0.0, np.nan]]) is not None


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_inside_means_every_moving_link_is_between_the_sides(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lower, upper = rng.uniform(-0.7, 0.0, 3), rng.uniform(0.1, 0.7, 3)
    box = tabletop_box(lower, upper)
    poses = rng.uniform(-2.6, 2.6, (3, 2))
    origins = box.chain.positions(poses)[:, box.chain.moving]
    inside = bool(((origins >= lower) & (origins <= upper)).all())
    assert (box.find_outside(poses) is None) is inside


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        ((0, 0, 0), (1, 0, 1), "lower is not less than workspace.upper along y"),
        ((0, 0), (1, 1), "workspace.lower is .* give x, y and z"),
        ((0, 0, 0), (1, np.nan, 1), "workspace.upper is .* give x, y and z"),
    ],
)
def test_a_box_that_is_none_is_an_error(lower: tuple, upper: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tabletop_box(lower, upper)


def test_a_chain_that_nothing_moves_has_no_workspace(six: Path) -> None:
    with pytest.raises(ValueError, match="choose a later tip link"):
        Workspace(Chain.from_urdf(six, "pedestal", "l1", ["pan", "lift"]), (-1, -1, -1), (1, 1, 1))
