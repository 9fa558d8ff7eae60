# SPDX-License-Identifier: Apache-2.0
"""Robot files and scenes: another arm is another file."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh

from lewm_model.config import ConfigError, resource
from lewm_model.data.clips import load_episodes
from lewm_model.planning.motion import KnotLimits, Timeline
from lewm_model.planning.random_motion import random_velocities
from lewm_model.robot.observation import Observation
from lewm_model.robot.robot import load_robot, with_crop
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.collect import collect
from lewm_model.sim.world import State
from lewm_model.tasks.reach import Reach
from lewm_model.tasks.registry import reach_in, suite_named
from lewm_model.tasks.task import draw_trials, hold_still, run_scripted

ROBOTS = sorted(path.stem for path in resource("config", "robots").glob("*.yaml"))
# Three joints and a finger, of primitive shapes, whose forearm reaches the table and the column.
ARM = """<mujoco><worldbody><body name="column"><geom type="cylinder" size="0.04 0.1" pos="0 0 0.1"/>
<body name="upper" pos="0 0 0.22" euler="0 0 20"><joint name="pan" axis="0 0 1"/><geom type="sphere" size="0.03"/>
<body name="lower"><joint name="lift" axis="0 1 0"/><geom type="capsule" size="0.02" fromto="0.06 0 0 0.25 0 0"/>
<body name="hand" pos="0.3 0 0"><joint name="bend" axis="0 1 0" pos="0.01 0 0.005"/>
<geom type="capsule" size="0.02" fromto="0 0 0 0.2 0 0"/>
<site name="grip" pos="0.22 0 0"/>
<body name="finger" pos="0.2 0.03 0"><joint name="finger" axis="0 0 1"/>
<geom type="capsule" size="0.005" fromto="0.03 0 0 0.08 0 0"/></body>
</body></body></body></body></worldbody></mujoco>"""
LIMITS = "velocity: 1.5, acceleration: 6.0, jerk: 100.0"
ROBOT = f"""
joints:
  pan: {{lower: -2.0, upper: 2.0, {LIMITS}}}
  lift: {{lower: -1.0, upper: 1.5, {LIMITS}, home: -0.3}}
  bend: {{lower: -2.0, upper: 2.0, {LIMITS}}}
  finger: {{lower: -0.1, upper: 0.8, {LIMITS}, effort: 2.0}}
gripper: {{joint: finger, open: 0.8, closed: 0.0}}
kinematics: {{file: arm.xml, base: world, tip: grip, tool_m: [0.1, 0.0, 0.0], radius_m: 0.02, tip_radius_m: 0.005}}
workspace: {{lower: [-1.0, -1.0, 0.0], upper: [1.0, 1.0, 1.0]}}
simulation: {{file: arm.xml, tip: grip}}
"""
SCENE = """
robot: mine.yaml
objects: [{name: cube, position_m: [0.3, 0.1, 0.0175]}]
cameras:
  - {name: front, position_m: [0.8, 0.4, 0.6], look_at_m: [0.1, 0.0, 0.1], height: 48, width: 64}
  - {name: wrist, link: hand, position_m: [0.0, 0.0, 0.1], look_at_m: [0.3, 0.0, 0.0], height: 48, width: 48}
"""


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    for name, text in (("arm.xml", ARM), ("mine.yaml", ROBOT), ("scene.yaml", SCENE)):
        (tmp_path / name).write_text(text)
    return tmp_path / "scene.yaml"


@pytest.mark.parametrize("name", ROBOTS)
def test_every_robot_that_ships_has_limits_that_an_arm_can_be_planned_with(name: str) -> None:
    robot = load_robot(name)
    limits = KnotLimits(robot.limits, 0.25)
    assert limits.longest_stop_s < 2.0
    assert ((robot.home >= robot.limits.lower) & (robot.home <= robot.limits.upper)).all()


def test_every_scene_that_ships_has_a_task_of_reaching_by_its_name() -> None:
    scenes = {path.stem: path for path in resource("config", "scenes").glob("*.yaml")}
    for name, path in scenes.items():
        own = scenes.get(f"{name}_reach", path)  # of several scenes of a robot, the one made for reaching
        assert suite_named(f"reach_{name}").world_file == own


def test_the_tabletop_file_says_what_its_world_says() -> None:
    with ArmSim(render=False) as sim:
        assert load_robot("tabletop").limits == sim.limits
    np.testing.assert_allclose(
        load_robot("tabletop").chain().positions(np.array([[0.4, 0.7]]))[0, -1, :2],
        sim.end_effector([0.4, 0.7])[:2],
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("velocity: 1.5", "velocty: 1.5", "Joint has no field 'velocty'"),
        ("home: -0.3", "home: -1.3", "'lift' has its home at -1.3; it must lie within -1.0 to 1.5"),
        ("joint: finger", "joint: pan", "list it as the last joint"),
        ("gripper:", "griper:", "a robot has no field 'griper'"),
        ("joints:", "others:", "has no field 'others'"),
        ("joints:", "joints:\n  slide: fast", "joints.slide is 'fast'; it must map"),
        ("joints:", "joints:\n  slide: {lower: 0.0, upper: 1.0}", "missing .* required .*'acceleration'"),
    ],
)
def test_a_robot_file_with_a_mistake_is_refused_with_what_is_wrong(
    scene: Path, old: str, new: str, message: str
) -> None:
    path = scene.parent / "mine.yaml"
    path.write_text(ROBOT.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        load_robot(path)


def test_a_robot_that_is_not_there_is_told_from_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"known are .*so101"):
        load_robot("so102")
    with pytest.raises(ConfigError, match=r"requirements-arms\.txt"):
        load_robot("so101").path("package://no_such_package_here/arm.xml")


def test_a_description_outside_its_package_is_not_read() -> None:
    with pytest.raises(ConfigError, match="is not there"):
        load_robot("so101").path("package://lewm_model/../setup.py")


def test_an_arm_of_another_kind_is_simulated_from_files_alone(scene: Path) -> None:
    robot = load_robot("mine.yaml", scene.parent)
    with ArmSim(scene) as sim:
        assert sim.names == robot.names and sim.limits == robot.limits
        assert sim.render().shape == (48, 64, 3) and sim.render("wrist").shape == (48, 48, 3)
        np.testing.assert_allclose(sim.joint_positions(), robot.home, atol=1e-9)
        sim.step(0.5)
        np.testing.assert_allclose(sim.joint_positions(), robot.home, atol=2e-3)  # the drives carry the arm's weight


def test_an_arm_collides_with_itself_and_the_table_but_not_with_what_it_does_not_hit(scene: Path) -> None:
    with ArmSim(scene, render=False) as sim:
        assert not sim.collides() and not sim.touches(sim.home[None])
        sim.reset(joint_positions=[1.5, 1.4, 0.0, 0.0])  # the hand in the table
        assert sim.collides() and sim.touches(sim.joint_positions()[None])
        sim.reset(joint_positions=[0.0, -0.3, 1.9, 0.0])  # above it
        assert not sim.collides()


def test_links_of_an_mjcf_are_where_mujoco_has_them_and_the_jacobian_is_their_derivative(scene: Path) -> None:
    robot = load_robot("mine.yaml", scene.parent)
    chain, rng = robot.chain(), np.random.default_rng(0)
    with ArmSim(scene, render=False) as sim:
        for joints in rng.uniform(sim.limits.lower, sim.limits.upper, (10, 4)):
            origins, rotations = chain.frames(joints[None, :3])
            tip = list(chain.links).index("grip")
            np.testing.assert_allclose(origins[0, tip], sim.end_effector(joints), atol=1e-9)
            tool = origins[0, tip] + rotations[0, tip] @ [0.1, 0.0, 0.0]
            np.testing.assert_allclose(origins[0, -1], tool, atol=1e-9)
            small = 1e-6 * np.eye(3)
            moved = chain.positions(joints[:3] + small)[:, -1] - chain.positions(joints[:3] - small)[:, -1]
            np.testing.assert_allclose(chain.jacobian(joints[None, :3])[0, :3], moved.T / 2e-6, atol=1e-8)


def test_the_box_of_a_robot_file_is_for_the_links_with_their_thickness_and_the_tool(scene: Path) -> None:
    robot = load_robot("mine.yaml", scene.parent)
    chain = robot.chain()
    box = robot.box(chain)
    assert box is not None and box.find_outside([[0.0, -0.3, 0.0]]) is None
    poses = np.linspace([0.0, 0.0, 0.0], [0.0, 1.2, 0.0], 500)
    near = int((chain.positions(poses)[:, -1, 2] < 0.004).argmax())  # of 5 mm
    outside = box.find_outside(poses[near : near + 1])
    assert outside is not None and "'tool'" in outside


def test_random_motion_follows_its_trajectory_and_touches_nothing(scene: Path) -> None:
    with ArmSim(scene, render=False) as sim:
        rng, limits = np.random.default_rng(0), KnotLimits(sim.limits, 0.25)

        def clear(poses: np.ndarray) -> bool:
            return not sim.touches(poses)

        assert not clear(np.array([[0.0, 1.4, 0.0, 0.0]])), "a pose in the table"
        knots = random_velocities(rng, sim.home, 80, limits, clear)
        timeline = Timeline(0.0, sim.home, limits)
        timeline.splice(0, knots)
        motion = timeline.sample(0.05 * np.arange(401))
        assert clear(motion.positions)
        assert np.ptp(motion.positions, axis=0).min() > 0.3, "every joint moves"
        sim.set_trajectory(motion.times_s, motion.positions, motion.velocities)
        errors = []
        for i in range(400):
            sim.step(0.05)
            errors.append(sim.joint_positions() - motion.positions[i + 1])
        assert np.abs(errors)[:, :3].max() < 0.02


def test_an_arm_of_another_kind_is_recorded_without_a_setting_of_sizes(scene: Path, tmp_path: Path) -> None:
    collect(tmp_path / "episodes.h5", episodes=2, steps=20, world=scene, image_size=32, workers=1)
    episodes = load_episodes(tmp_path / "episodes.h5")
    assert episodes.action_names == load_robot("mine.yaml", tmp_path).names
    assert episodes.action_kinds == ("joint_velocity",) * 3 + ("gripper",)
    assert np.ptp(episodes.pixels[np.arange(42)], axis=0).max() > 50, "the arm is seen to move"
    front, wrist = episodes.cameras
    assert (front.name, front.width, front.topic) == ("front", 43, "camera/image_raw"), "48 x 64, 32 pixels high"
    assert (wrist.name, wrist.width, wrist.topic) == ("wrist", 32, "wrist/image_raw")
    assert episodes.image_size == (32, 75)
    with ArmSim(scene) as sim:
        sim.reset(joint_positions=episodes.proprio[0])
        seen = Observation(episodes.cameras).picture([sim.render("front"), sim.render("wrist")])
    same = np.abs(seen.astype(int) - episodes.pixels[0]).mean()
    assert same < 3.0, "they lie side by side in this order"


def test_random_starts_are_clear(scene: Path) -> None:
    with ArmSim(scene, render=False) as sim:
        for seed in range(50):
            sim.reset(seed=seed)
            assert not sim.touches(sim.joint_positions()[None])


def test_any_arm_can_be_asked_to_reach_in_three_dimensions_where_it_touches_nothing(scene: Path) -> None:
    suite = reach_in("reach_mine", str(scene))
    arm = ArmSim(suite.world_file, render=False)
    for task in suite.tasks:
        for number, trial in enumerate(draw_trials(task, 2, 0, arm)):
            assert not arm.touches(np.stack([trial.start.joints, trial.goal.joints]))
            assert trial.before > task.tolerance(arm) and not hold_still(trial, arm).held
            assert run_scripted(trial, arm, 0, number).held


def test_a_tool_that_points_elsewhere_has_not_reached_its_goal(scene: Path) -> None:
    task, arm = reach_in("reach_mine", str(scene)).tasks[-1], ArmSim(scene, render=False)
    assert isinstance(task, Reach) and task.angle_rad is not None
    goal = State(arm.home)
    assert task.error(goal, goal, arm) < task.tolerance(arm)
    bent = State(np.clip(arm.home + [0.0, 0.0, 0.4, 0.0], arm.limits.lower, arm.limits.upper))
    angle = np.arccos(arm.tool_direction(bent.joints) @ arm.tool_direction(arm.home))
    assert angle == pytest.approx(0.4) and task.error(bent, goal, arm) > task.tolerance(arm)
    wide = replace(task, tolerance_m=10.0)
    assert wide.error(bent, goal, arm) == pytest.approx(10.0 * 0.4 / task.angle_rad), "however near the tip is"
    assert replace(wide, angle_rad=0.5).error(bent, goal, arm) < 10.0


def test_a_gripper_does_not_lengthen_the_reach_of_an_arm(scene: Path) -> None:
    with_gripper = ArmSim(scene, render=False).reach_m
    scene.write_text(SCENE + "held: [finger]\n")
    assert with_gripper == ArmSim(scene, render=False).reach_m


def test_a_joint_that_a_scene_holds_stays_at_home_and_is_no_part_of_what_is_commanded(scene: Path) -> None:
    (scene.parent / "mine.yaml").write_text(ROBOT.replace("effort: 2.0", "effort: 2.0, home: 0.4"))
    scene.write_text(SCENE + "held: [finger]\n")
    arm = ArmSim(scene, render=False)
    assert arm.names == ("pan", "lift", "bend") and arm.limits.names == arm.names and len(arm.home) == 3
    arm.reset(joint_positions=[0.0, -0.3, 0.0])
    arm.set_trajectory([0.0, 0.5], [[0.0, -0.3, 0.0], [0.4, -0.5, 0.4]])
    arm.step(1.0)
    np.testing.assert_allclose(arm.joint_positions(), [0.4, -0.5, 0.4], atol=5e-3)
    finger = arm.model.joint("robot::finger").qposadr[0]
    assert arm._data.qpos[finger] == pytest.approx(0.4, abs=5e-3)


def test_the_tool_points_along_the_axis_that_the_robot_file_tells(scene: Path) -> None:
    (scene.parent / "mine.yaml").write_text(ROBOT.replace("tip: grip}", "tip: grip, tool_axis: [2.0, 0.0, 0.0]}", 2))
    arm = ArmSim(scene, render=False)
    along = arm.end_effector([0.0, 0.0, 0.0, 0.0]) - arm.model.body("robot::column").pos - [0.0, 0.0, 0.22]
    np.testing.assert_allclose(
        arm.tool_direction([0.0, 0.0, 0.0, 0.0]), along / np.linalg.norm(along), atol=1e-6, err_msg="along the hand"
    )
    (scene.parent / "mine.yaml").write_text(ROBOT.replace("tip: grip}", "tip: grip, tool_axis: [0.0, 0.0, 0.0]}", 2))
    with pytest.raises(ConfigError, match="tool_axis"):
        ArmSim(scene, render=False)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("robot: mine.yaml", "robot: mine.yaml\nheld: [thumb]", "thumb"),
        ("link: hand", "link: foot", "'foot', which the robot does not have"),
        ("look_at_m: [0.1, 0.0, 0.1]", "look_at_m: [0.8, 0.4, 0.6]", "looks at its own position"),
        ("name: cube,", "name: wrist,", "a name of its own"),
        ("name: cube,", "name: cube, shape: cone,", "'cone'"),
        ("robot: mine.yaml", "robot: yours.yaml", "yours.yaml"),
    ],
)
def test_a_scene_with_a_mistake_is_refused_with_what_is_wrong(scene: Path, old: str, new: str, message: str) -> None:
    scene.write_text(SCENE.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        ArmSim(scene, render=False)


def test_a_mesh_with_many_faces_is_drawn_with_few_and_kept(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    trimesh.creation.icosphere(5, 0.03).export(tmp_path / "ball.stl")
    arm = ARM.replace("<worldbody>", '<asset><mesh name="ball" file="ball.stl"/></asset><worldbody>', 1)
    arm = arm.replace('<geom type="sphere" size="0.03"/>', '<geom type="mesh" mesh="ball"/>')
    (tmp_path / "arm.xml").write_text(arm)
    for _ in range(2):  # the second time out of the cache
        with ArmSim(scene, render=False) as sim:
            assert 100 < sim.model.nmeshface <= 600
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 1


def test_the_simulated_robot_publishes_every_camera_of_its_scene(scene: Path) -> None:
    rclpy = pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup)")
    from sensor_msgs.msg import Image

    from lewm_ros.camera_node import NEWEST_FRAME
    from lewm_ros.sim_node import SimNode

    rclpy.init()
    node, listener = SimNode(), rclpy.create_node("listener")
    try:
        assert node.set_parameters([rclpy.parameter.Parameter("world", value=str(scene))])[0].successful
        done = rclpy.lifecycle.TransitionCallbackReturn.SUCCESS
        assert node.trigger_configure() == done and node.trigger_activate() == done
        seen: dict[str, tuple[int, int]] = {}
        for topic in ("camera/image_raw", "wrist/image_raw"):
            listener.create_subscription(
                Image, topic, lambda m, topic=topic: seen.update({topic: (m.height, m.width)}), NEWEST_FRAME
            )
        end = time.monotonic() + 30.0
        while len(seen) < 2 and time.monotonic() < end:
            rclpy.spin_once(listener, timeout_sec=0.1)
        assert seen == {"camera/image_raw": (48, 64), "wrist/image_raw": (48, 48)}
    finally:
        node.deactivate()
        node.cleanup()
        node.destroy_node()
        listener.destroy_node()
        rclpy.shutdown()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("  front: {height: 96, width: 96}  # ours", "  front: {crop: [1, 2, 30, 40], height: 96, width: 96}  # ours"),
        ("  front: {height: 96, crop: [0, 0, 9, 9]}", "  front: {height: 96, crop: [1, 2, 30, 40]}"),
        ("  front:\n    height: 96  # rows", "  front:\n    crop: [1, 2, 30, 40]\n    height: 96  # rows"),
        (
            "  front:\n    crop:\n      - 0\n      - 0\n      - 9\n      - 9\n    height: 96",
            "  front:\n    crop:\n      [1, 2, 30, 40]\n    height: 96",
        ),
    ],
)
def test_a_crop_is_written_into_a_robot_file_that_otherwise_stays_as_it_was(before: str, after: str) -> None:
    text = "# An arm.\ncameras:\n{}\njoints: {{elbow: 1}}\n"
    assert with_crop(text.format(before), "front", (1, 2, 30, 40)) == text.format(after)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("joints: {}", "no camera 'front'"),
        ("cameras: {back: {height: 9}}", "no camera 'front'"),
        ("cameras:\n  back: &one {crop: [0, 0, 9, 9]}\n  front: *one\n", "by hand: crop: \\[1, 2, 30, 40\\]"),
    ],
)
def test_a_crop_that_cannot_be_written_into_a_robot_file_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        with_crop(text, "front", (1, 2, 30, 40))
