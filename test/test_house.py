# SPDX-License-Identifier: Apache-2.0
"""The rules of the house: this checkout keeps them, and each kind of break is found with its line."""

from pathlib import Path

import pytest

from validation.house import examine

MODULES = {
    "lewm_model/__init__.py": "",
    "lewm_model/config.py": "SIZE = 3\n",
    "lewm_model/robot/__init__.py": "",
    "lewm_model/robot/limits.py": "from lewm_model.config import SIZE\n",
    "lewm_model/sim/__init__.py": "",
    "lewm_model/sim/arm.py": "from lewm_model.robot.limits import SIZE\n\n\ndef f():\n    return 'action block'\n",
    "lewm_ros/__init__.py": "",
    "lewm_ros/safety/__init__.py": "",
    "launch/plan.launch.py": "",
    "worlds/w.sdf": "<sdf><joint name='shoulder' type='revolute'/><joint name='mount' type='fixed'/></sdf>",
    "config/robots/r.yaml": "joints: [{name: joint_1}]\n",
}


@pytest.fixture
def house(tmp_path: Path) -> Path:
    for name, text in MODULES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert examine(tmp_path) == ([], [])
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        (
            "lewm_model/robot/a.py",
            "\ndef f():\n    import lewm_model.sim.arm\n",
            "a.py:3: robot imports lewm_model.sim",
        ),
        ("lewm_model/loose.py", "", "loose.py:1: a module outside any folder"),
        ("lewm_model/attic/a.py", "", "a.py:1: the folder attic has no place"),
        ("lewm_model/sim/a.py", "from lewm_ros.node import run\n", "a.py:1: lewm_model imports lewm_ros.node"),
        ("lewm_ros/safety/a.py", "import rclpy\n", "a.py:1: the shield imports rclpy"),
        ("lewm_model/sim/a.py", "NAMES = ['shoulder']\n", "a.py:1: names the joint 'shoulder'"),
        ("launch/a.launch.py", "x = 'joint_1'\n", "a.launch.py:1: names the joint 'joint_1'"),
        ("lewm_model/sim/a.py", "def f(image_size: int = 64): ...\n", "a.py:1: image_size is the size"),
        ("lewm_model/sim/a.py", "f(pictures=(224, 224))\n", "a.py:1: pictures is the size of a particular"),
        ("lewm_model/sim/a.py", "\nblock_pose = 1\n", "a.py:2: names the object of a task: block_pose"),
        ("lewm_model/sim/a.py", "x = 'a wooden thing'\n", "a.py:1: names the object of a task: 'a wooden thing'"),
    ],
)
def test_a_line_that_breaks_a_rule_is_told(house: Path, name: str, text: str, told: str) -> None:
    (house / name).parent.mkdir(exist_ok=True)
    (house / name).write_text(text)
    circles, breaks = examine(house)
    assert circles == [] and len(breaks) == 1 and told in str(breaks[0])


def test_modules_that_import_each_other_round_about_are_told_even_within_functions(house: Path) -> None:
    (house / "lewm_model/robot/a.py").write_text("from lewm_model.robot import b\n")
    (house / "lewm_model/robot/b.py").write_text("def f():\n    from lewm_model.robot.c import x\n")
    (house / "lewm_model/robot/c.py").write_text("from lewm_model.robot.a import x\n")
    circles, breaks = examine(house)
    assert circles == [["lewm_model.robot.a", "lewm_model.robot.b", "lewm_model.robot.c"]] and breaks == []


def test_a_task_s_own_file_knows_its_object(house: Path) -> None:
    (house / "lewm_model/tasks").mkdir()
    (house / "lewm_model/tasks/push.py").write_text("WHAT = 'wooden cube'\n")
    assert examine(house) == ([], [])


def test_no_two_modules_of_this_checkout_import_each_other() -> None:
    circles, breaks = examine()
    assert circles == [] and breaks == []
