# SPDX-License-Identifier: Apache-2.0
"""A scene exported as a world for Gazebo: our own SDF reader and Drake's find the same arm in it.

Gazebo itself is not part of the tests; docs/gazebo.md says which exported worlds it ran.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import trimesh
import yaml
from test_robot_file import ARM, ROBOT, SCENE
from typer.testing import CliRunner

from lewm_model.cli.main import app
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.export_sdf import INERTIA
from lewm_model.sim.sdf_element import SdfError
from lewm_model.sim.sdf_frames import pose_matrix

MESH = '<asset><mesh name="shell" file="shell.stl"/></asset><worldbody>'


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """An arm of primitive shapes and a mesh, seen by one camera."""
    trimesh.creation.icosphere(2, 0.04).export(tmp_path / "shell.stl")
    arm = ARM.replace("<worldbody>", MESH, 1).replace(
        '<geom type="sphere" size="0.03"/>', '<geom type="mesh" mesh="shell" rgba="0.9 0.7 0.1 1"/>', 1
    )
    said = yaml.safe_load(SCENE)
    said["cameras"] = said["cameras"][:1]
    for name, text in (("arm.xml", arm), ("mine.yaml", ROBOT), ("scene.yaml", yaml.safe_dump(said))):
        (tmp_path / name).write_text(text)
    return tmp_path / "scene.yaml"


def export(scene: Path) -> Path:
    out = scene.with_name("world.sdf")
    result = CliRunner().invoke(app, ["export-world", str(scene), str(out)])
    assert result.exception is None, result.output
    return out


def test_our_own_reader_finds_the_same_arm_with_the_same_drives_and_draws_it_alike(scene: Path) -> None:
    with ArmSim(scene) as sim, ArmSim(export(scene)) as read:
        assert read.names == sim.names
        for field in ("lower", "upper", "velocity"):
            np.testing.assert_allclose(getattr(read.limits, field), getattr(sim.limits, field))
        np.testing.assert_allclose(read.home, sim.home)
        poses = np.random.default_rng(0).uniform(sim.limits.lower, sim.limits.upper, (5, len(sim.names)))
        for pose in poses:
            np.testing.assert_allclose(read.end_effector(pose), sim.end_effector(pose), atol=1e-6)
            for each in (sim, read):
                each.reset(joint_positions=pose)
            assert np.abs(read.render().astype(int) - sim.render()).mean() < 1.0
        u = np.linspace(0.0, 1.0, 21)[1:, None]
        for each in (sim, read):  # the gains of the drives, and that they carry the arm's weight
            each.reset(joint_positions=sim.home)
            each.set_trajectory(u[:, 0], sim.home + 0.3 * u**2 * (3 - 2 * u))
            each.step(0.5)
        np.testing.assert_allclose(read.joint_positions(), sim.joint_positions(), atol=2e-3)


def test_the_gripper_has_a_controller_of_its_own_and_no_name_is_given_twice(scene: Path) -> None:
    root = ElementTree.parse(export(scene)).getroot()
    assert root.tag == "sdf" and root.get("version") == "1.9"
    (robot,) = root.findall("world/model[@name='robot']")
    controllers = [each for each in robot.findall("plugin") if "Trajectory" in each.get("name", "")]
    driven = {each.findtext("topic"): [joint.text for joint in each.findall("joint_name")] for each in controllers}
    assert driven == {
        "arm_controller/joint_trajectory": ["pan", "lift", "bend"],
        "gripper_controller/joint_trajectory": ["finger"],
    }
    names = [part.get("name") for part in robot if part.tag in ("link", "joint", "frame")]
    assert len(set(names)) == len(names) and "" not in names


def test_a_second_camera_is_written_and_our_own_reader_says_that_it_knows_one(scene: Path) -> None:
    scene.write_text(SCENE)
    out = export(scene)
    sensors = ElementTree.parse(out).getroot().findall(".//sensor")
    assert {sensor.findtext("topic") for sensor in sensors} == {"camera/image_raw", "wrist/image_raw"}
    with pytest.raises(SdfError, match=r"world\.sdf:\d+: the world has more than one camera"):
        ArmSim(out)


def test_drakes_parser_reads_the_same_arm(scene: Path) -> None:
    parsing = pytest.importorskip("pydrake.multibody.parsing", reason="drake is not installed (pip install drake)")
    from pydrake.multibody.plant import MultibodyPlant

    plant = MultibodyPlant(0.0)
    parsing.Parser(plant).AddModels(str(export(scene)))
    plant.Finalize()
    context = plant.CreateDefaultContext()
    with ArmSim(scene, render=False) as sim:
        for pose in np.random.default_rng(0).uniform(sim.limits.lower, sim.limits.upper, (10, len(sim.names))):
            for name, angle in zip(sim.names, pose, strict=True):
                plant.GetJointByName(name).set_angle(context, angle)
            tip = plant.GetFrameByName("end_effector").CalcPoseInWorld(context).translation()
            np.testing.assert_allclose(tip, sim.end_effector(pose), atol=1e-6)


def test_every_corner_of_an_exported_mesh_has_a_normal_that_points_outwards(scene: Path) -> None:
    """Gazebo ends with a segmentation fault where a mesh that collides has none."""
    (file,) = export(scene).with_name("world_meshes").glob("*.obj")
    lines = file.read_text().splitlines()
    corners = [entry.split("//") for line in lines if line.startswith("f ") for entry in line.split()[1:]]
    places, normals = (
        np.array([line.split()[1:] for line in lines if line.startswith(f"{kind} ")], float) for kind in ("v", "vn")
    )
    assert len(corners) > 0
    for corner, normal in corners:
        place = places[int(corner) - 1]
        assert place @ normals[int(normal) - 1] > 0.9 * np.linalg.norm(place), "the shell is a sphere"


def test_a_link_has_the_inertia_of_the_rotor_that_drives_it(scene: Path) -> None:
    """Without it Gazebo's controllers, as stiff as the drives, made the light links of an arm tremble."""

    def lower_arm() -> np.ndarray:
        out = scene.with_name("world.sdf")
        out.unlink(missing_ok=True)
        link = ElementTree.parse(export(scene)).getroot().find(".//link[@name='lower']")
        assert link is not None
        pose = np.array(link.findtext("inertial/pose", "0 0 0 0 0 0").split(), float)
        texts = {tag: float(link.findtext(f"inertial/inertia/{tag}", "0")) for tag in INERTIA}
        turn = pose_matrix(*pose)[:3, :3]
        tensor = np.zeros((3, 3))
        for tag, (row, column) in INERTIA.items():
            tensor[row, column] = tensor[column, row] = texts[tag]
        return turn @ tensor @ turn.T

    before = lower_arm()
    file = scene.with_name("arm.xml")
    file.write_text(file.read_text().replace('name="lift"', 'name="lift" armature="0.03"'))
    more = lower_arm() - before
    np.testing.assert_allclose(more, np.diag([0.015, 0.03, 0.015]), atol=1e-6)
