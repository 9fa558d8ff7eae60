# SPDX-License-Identifier: Apache-2.0
"""The SDF loader: what it understands means the same as in SDF, and what it does not is an error with file and line."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path

import numpy as np
import pytest

from lewm_model.config import resource
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.sdf import load_world
from lewm_model.sim.sdf_element import SdfError
from lewm_model.sim.sdf_frames import pose_matrix

WORLD = resource("worlds", "tabletop.sdf")
PEDESTAL = "<ambient>0.0130 0.0130 0.0168 1</ambient>"


def test_libsdformat_accepts_the_world() -> None:
    try:
        library = ctypes.CDLL("libsdformat12.so.12")
    except OSError:
        pytest.skip("libsdformat12.so.12 is not installed (Debian: apt install libsdformat12-12)")
    assert library.cmdCheck(str(WORLD).encode()) == 0


# (text in the world, what replaces it, where the error points: text on that line, part of the message)
BROKEN = [
    ("<static>true</static>", "<statik>true</statik>", "<statik>", "<statik> in <model> is not supported"),
    ("<gravity>0 0 -9.81</gravity>", "<wind/>", "<wind/>", "<wind> in <world> is not supported"),
    ("<radius>0.055</radius>", "<radius>0.055</radius><fat/>", "<fat/>", "<fat> in <cylinder>"),
    ('name="base"', 'name="base" colour="red"', 'colour="red"', "attribute 'colour' of <link>"),
    ("<pose>0 0 -0.02 0 0 0</pose>", '<pose degrees="true">0 0 -0.02 0 0 0</pose>', "degrees", "attribute 'degrees'"),
    ("<pose>0 0 -0.02 0 0 0</pose>", "<pose>0 0 -0.02 0 0</pose>", "-0.02 0 0</pose>", "6 finite number"),
    ("<mass>0.6</mass>", "<mass>nan</mass>", "<mass>nan", "1 finite number"),
    ("<mass>0.6</mass>", "<mass>-1</mass>", "<mass>-1", "must be above 0"),
    ("<mass>0.6</mass>", "<mass>0.6</mass><mass>1</mass>", "<mass>1", "appears again"),
    ("<izz>0.0048</izz>", "<izz>0.48</izz>", "<izz>0.48", "no body has the principal moments"),
    ('<joint name="elbow" type="revolute">', '<joint name="elbow" type="screw">', '"screw"', "joint type 'screw'"),
    ('relative_to="link_1"', 'relative_to="link_9"', 'name="elbow"', "no frame 'link_9'"),
    ('<pose relative_to="base">', '<pose relative_to="link_1">', 'name="', "poses go in a circle"),
    ("<parent>link_1</parent>", "<parent>link_2</parent>", 'name="link_2"', "hangs from itself"),
    ("<child>link_2</child>", "<child>link_7</child>", 'name="elbow"', "no link of the model"),
    (
        "<lower>-2.2</lower><upper>2.2</upper><effort>8",
        "<lower>2.2</lower><upper>2.2</upper><effort>8",
        "<effort>8",
        "less",
    ),
    ('name="gz::sim::systems::Physics"', 'name="my::Plugin"', "my::Plugin", "plugin 'my::Plugin' is not supported"),
    ("gz-sim-physics-system", "libphysics", "libphysics", "comes from 'gz-sim-physics-system'"),
    ("<velocity_p_gain>2</velocity_p_gain>", "", "joint-trajectory-controller", "2 joints need 2 <velocity_p_gain>"),
    ("<position_p_gain>150</position_p_gain>", "<position_p_gain>0</position_p_gain>", "_gain>0<", "not driven"),
    ("<joint_name>elbow</joint_name>", "<joint_name>wrist</joint_name>", "wrist", "'wrist' is no revolute joint"),
    ('name="end_effector" attached_to="link_2"', 'name="hand" attached_to="link_2"', "tip_collision", "'end_effector'"),
    ("<shadows>false</shadows>", "<shadows>true</shadows>", "<scene>", "shadows are not rendered"),
    ('type="directional"', 'type="spot"', '"spot"', "light type 'spot'"),
    ("<mu2>0.6</mu2>", "<mu2>0.5</mu2>", "<mu2>0.5", "MuJoCo's friction has no direction"),
    (PEDESTAL, "<ambient>1 1 1 1</ambient>", "<ambient>1 1 1 1", "one colour for both"),
    (PEDESTAL, "", "<material>", "<material> needs a <ambient>"),
    ("<size>0.30 0.06 0.03</size>", "<size>0.30 0 0.03</size>", "0.30 0 0.03", "sizes of a <box> must be above 0"),
    ("<radius>0.055</radius>", "<radius>0</radius>", "<radius>0<", "must be above 0"),
    ('type="camera"', 'type="lidar"', "lidar", "sensor type 'lidar'"),
    ('<sdf version="1.9">', '<sdf version="1.4">', "1.4", "version 1.4"),
    ('<model name="block">', '<model name="table">', 'name="table"', "more than one model 'table'"),
    ("</world>", "</wurld>", "</wurld>", "not well-formed"),
]


@pytest.mark.parametrize(("old", "new", "marker", "message"), BROKEN, ids=[row[3] for row in BROKEN])
def test_errors_say_file_line_and_reason(tmp_path: Path, old: str, new: str, marker: str, message: str) -> None:
    text = WORLD.read_text()
    assert old in text
    text = text.replace(old, new, 1)
    path = tmp_path / "broken.sdf"
    path.write_text(text)
    with pytest.raises(SdfError) as error:
        load_world(path)
    assert message in str(error.value)
    file, line = str(error.value).split(": ")[0].rsplit(":", 1)
    assert file == str(path)
    assert marker in text.splitlines()[int(line) - 1]


def test_a_missing_file_and_a_world_without_an_arm_are_errors(tmp_path: Path) -> None:
    with pytest.raises(SdfError, match=r"nowhere\.sdf: cannot be read"):
        load_world(tmp_path / "nowhere.sdf")
    path = tmp_path / "empty.sdf"
    path.write_text('<sdf version="1.9"><world name="w"><physics name="p" type="ode"><max_step_size>0.002'
                    "</max_step_size></physics></world></sdf>")  # fmt: skip
    with pytest.raises(SdfError, match="JointTrajectoryController"):
        load_world(path)


def test_an_arm_without_an_end_effector_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "handless.sdf"
    path.write_text(chain_world([(0.0,) * 6], [(0, 0, 1)]).replace("end_effector", "hand"))
    with pytest.raises(SdfError, match='needs <frame name="end_effector"'):
        load_world(path)


def chain_world(poses: list[tuple[float, ...]], axes: list[tuple[float, float, float]]) -> str:
    """A world with an arm of n joints: joint i lies at `poses[i]` in the link before and turns about `axes[i]`."""
    inertial = "<inertial><mass>0.1</mass><inertia><ixx>1e-3</ixx><iyy>1e-3</iyy><izz>1e-3</izz></inertia></inertial>"
    body, plugin, before = f'<link name="l">{inertial}</link>', "", "l"
    for i, (pose, axis) in enumerate(zip(poses, axes, strict=True)):
        body += (
            f'<joint name="j{i}" type="revolute"><pose relative_to="{before}">{" ".join(map(str, pose))}</pose>'
            f"<parent>{before}</parent><child>l{i}</child><axis><xyz>{' '.join(map(str, axis))}</xyz><limit>"
            "<lower>-2</lower><upper>2</upper><effort>50</effort><velocity>1</velocity></limit></axis></joint>"
            f'<link name="l{i}"><pose relative_to="j{i}"/>{inertial}</link>'
        )
        plugin += (
            f"<joint_name>j{i}</joint_name><position_p_gain>200</position_p_gain><velocity_p_gain>2</velocity_p_gain>"
        )
        before = f"l{i}"
    return (
        '<sdf version="1.9"><world name="w"><physics name="p" type="ode"><max_step_size>0.002</max_step_size></physics>'
        '<model name="eye"><static>true</static><link name="e"><sensor name="c" type="camera">'
        "<update_rate>10</update_rate><camera><horizontal_fov>1</horizontal_fov><image><width>32</width><height>24</height></image>"
        "<clip><near>0.1</near><far>9</far></clip></camera></sensor></link></model>"
        f'<model name="robot"><pose>0.1 0.2 0.3 0.3 -0.2 0.5</pose>{body}'
        '<joint name="mount" type="fixed"><parent>world</parent><child>l</child></joint>'
        f'<frame name="end_effector" attached_to="{before}"><pose>0.1 0.02 0.03 0 0 0</pose></frame>'
        '<plugin filename="gz-sim-joint-trajectory-controller-system" '
        f'name="gz::sim::systems::JointTrajectoryController">{plugin}</plugin></model></world></sdf>'
    )


def rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rodrigues' formula, as a 4 x 4 matrix."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    pose = np.eye(4)
    pose[:3, :3] = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return pose


@pytest.mark.parametrize("joints", [1, 3, 6])
def test_arms_of_any_number_of_joints_have_sdf_kinematics(tmp_path: Path, joints: int) -> None:
    rng = np.random.default_rng(joints)
    poses = [tuple(rng.uniform(-0.5, 0.5, 6)) for _ in range(joints)]
    axes = [tuple(rng.standard_normal(3)) for _ in range(joints)]
    path = tmp_path / "chain.sdf"
    path.write_text(chain_world(poses, axes))
    with ArmSim(path, render=False) as sim:
        assert sim.names == tuple(f"j{i}" for i in range(joints))
        assert sim.control_dt_s == pytest.approx(0.1)
        model = pose_matrix(0.1, 0.2, 0.3, 0.3, -0.2, 0.5)
        base = (model @ pose_matrix(*poses[0]))[:3, 3]
        for _ in range(20):
            angles = rng.uniform(-2, 2, joints)
            pose = model
            for step, axis, angle in zip(poses, axes, angles, strict=True):
                pose = pose @ pose_matrix(*step) @ rotation(np.array(axis), angle)
            tip = (pose @ [0.1, 0.02, 0.03, 1.0])[:3]
            np.testing.assert_allclose(sim.end_effector(angles), tip, atol=1e-12)
            if joints > 1:  # of one joint, or of parallel ones, the reach is measured across the axis
                assert np.linalg.norm(tip - base) <= sim.reach_m + 1e-12


def test_pose_follows_sdfs_convention() -> None:
    """Roll about x first, then pitch about y, then yaw about z, all about fixed axes."""
    x, y, z = np.eye(3)
    expected = rotation(z, 0.3) @ rotation(y, -0.7) @ rotation(x, 1.1)
    np.testing.assert_allclose(pose_matrix(0, 0, 0, 1.1, -0.7, 0.3), expected, atol=1e-15)
