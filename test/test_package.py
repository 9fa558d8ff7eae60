# SPDX-License-Identifier: Apache-2.0
"""What is written down twice agrees: package.xml, setup.py, requirements, launch file, params file and the nodes."""

import ast
import importlib
import re
import runpy
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import setuptools
import yaml
from typer.testing import CliRunner

import lewm_model
from lewm_model.cli.main import app
from lewm_model.config import resource

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = ElementTree.parse(ROOT / "package.xml").getroot()
FROM_LAUNCH_ARGUMENTS = {"model", "backend", "enable_on_start"}
SIMULATED_ARM = {"urdf", "workspace.base", "workspace.tip"}  # of viewer_node; users set more for their own arm
# Python modules whose package has another name, and packages that come with one that is listed.
PYTHON_PACKAGES = {
    "fast_simplification": "fast-simplification",
    "cv2": "opencv-python-headless",
    "mcap_ros2": "mcap-ros2-support",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
ROS_PACKAGES_OF_OTHERS = {"builtin_interfaces": "std_msgs"}
OPTIONAL = {"cuda", "tensorrt"}  # on the robot, from the machine's own installation: JetPack, or NVIDIA's packages


@pytest.fixture(scope="module")
def setup_arguments() -> dict:
    """What setup.py gives to setuptools."""
    arguments: dict = {}
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(setuptools, "setup", arguments.update)
        context.chdir(ROOT)
        runpy.run_path(str(ROOT / "setup.py"))
    return arguments


def imported_modules(*folders: str) -> set[str]:
    """Top-level names that the code in these folders imports, anywhere in a file."""
    found = set()
    for folder in folders:
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.split(".")[0])
    return found - {"lewm_model", "lewm_ros"} - set(sys.stdlib_module_names)


def requirement_names(*files: str) -> set[str]:
    lines = [line.split("#")[0].strip() for file in files for line in (ROOT / file).read_text().splitlines()]
    return {re.split(r"[<>=!~;\s\[]", line)[0].lower() for line in lines if line and not line.startswith("-")}


def test_lewm_tells_its_version():
    assert CliRunner().invoke(app, ["--version"]).output == f"lewm {lewm_model.__version__}\n"


def test_the_version_is_the_same_everywhere(setup_arguments):
    assert setup_arguments["version"] == MANIFEST.findtext("version") == lewm_model.__version__


def test_package_xml_is_one_that_ros_tools_accept():
    assert MANIFEST.get("format") == "3"
    assert MANIFEST.findtext("export/build_type") == "ament_python"
    assert MANIFEST.findtext("license") == "Apache-2.0"
    assert (ROOT / MANIFEST.find("license").get("file")).exists()
    # The expression of catkin_pkg; with an address that does not match, colcon silently builds no ament package.
    address = r"[-a-zA-Z0-9_%+]+(\.[-a-zA-Z0-9_%+]+)*@[-a-zA-Z0-9%]+(\.[-a-zA-Z0-9%]+)*\.[a-zA-Z]{2,}"
    assert re.fullmatch(address, MANIFEST.find("maintainer").get("email"))


def test_package_xml_names_every_ros_package_that_the_code_imports():
    depends = {element.text for element in MANIFEST if element.tag.endswith("depend")}
    python_packages = requirement_names("requirements.txt", "requirements-run.txt")
    ros = {
        ROS_PACKAGES_OF_OTHERS.get(module, module)
        for module in imported_modules("lewm_ros", "launch")
        if PYTHON_PACKAGES.get(module, module) not in python_packages
    }
    assert ros, "no ROS import was found; the test looks in the wrong place"
    assert ros <= depends


def test_package_xml_names_every_package_that_the_launch_files_start():
    from launch_stand_in import launched
    from test_launch_files import CASES

    depends = {element.text for element in MANIFEST if element.tag.endswith("depend")}
    gazebo = ("gazebo.launch.py", "gazebo")
    cases = [case for case in CASES if case[0] not in gazebo and case[1].get("sim") not in gazebo]
    started = {process.package for name, arguments in cases for process in launched(name, **arguments)}
    assert {"rviz2", "controller_manager"} <= started
    by_name = {"ros_gz_sim", "ros_gz_bridge", "topic_tools", "ros2bag", "rosbag2_storage_mcap"}  # in no command above
    assert (started | by_name) - {"", "lewm_ros"} <= depends


def test_the_model_side_imports_no_ros_and_only_what_requirements_txt_lists():
    modules = imported_modules("lewm_model")
    assert "rclpy" not in modules
    packages = {PYTHON_PACKAGES.get(module, module) for module in modules} - OPTIONAL
    assert packages <= requirement_names("requirements.txt", "requirements-run.txt")


def test_constraints_pin_every_requirement():
    pinned = requirement_names("constraints.txt")
    assert requirement_names(*(f"requirements{kind}.txt" for kind in ("", "-run", "-ros", "-dev"))) <= pinned


def test_every_program_of_lewm_ros_is_an_executable_and_every_executable_can_be_imported(setup_arguments):
    pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")
    scripts = dict(script.split(" = ") for script in setup_arguments["entry_points"]["console_scripts"])
    programs = {file.stem for file in (ROOT / "lewm_ros").glob("*.py") if "\ndef main(" in file.read_text()}
    assert set(scripts) == {"lewm", *programs}
    for name, target in scripts.items():
        module, function = target.split(":")
        assert module == ("lewm_model.cli.main" if name == "lewm" else f"lewm_ros.{name}")
        assert callable(getattr(importlib.import_module(module), function)), target


def test_every_file_that_a_user_needs_is_installed(setup_arguments):
    installed = {file for _, files in setup_arguments["data_files"] for file in files}
    shipped = [file for folder in ("launch", "config", "worlds", "models") for file in (ROOT / folder).rglob("*")]
    needed = {
        file.relative_to(ROOT).as_posix()
        for file in shipped
        if file.is_file() and not {"__pycache__", "engines"} & set(file.parts)
    }
    assert {"launch/plan.launch.py", "config/plan.yaml", "config/fastdds.xml", "worlds/tabletop.sdf"} <= needed
    assert installed == needed | {"package.xml", "resource/lewm_ros", "resource/bin/lewm"}
    places = {f"{folder}/{Path(file).name}" for folder, files in setup_arguments["data_files"] for file in files}
    assert "share/lewm_ros/worlds/tabletop.sdf" in places
    assert "share/ament_index/resource_index/packages/lewm_ros" in places


def test_resources_are_found_in_the_checkout_and_in_an_ament_prefix(tmp_path, monkeypatch):
    assert resource("worlds", "tabletop.sdf").exists()
    (tmp_path / "share" / "lewm_ros" / "worlds").mkdir(parents=True)
    (tmp_path / "share" / "lewm_ros" / "worlds" / "only_installed.sdf").touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/nowhere:{tmp_path}")
    assert resource("worlds", "only_installed.sdf") == tmp_path / "share/lewm_ros/worlds/only_installed.sdf"
    with pytest.raises(FileNotFoundError, match=f"moon.sdf does not ship .* {tmp_path}"):
        resource("worlds", "moon.sdf")


# ---- launch file and params file -------------------------------------------------------------------------------------


def flat(values: dict, prefix: str = "") -> dict:
    """Parameter names with dots -> values."""
    names: dict = {}
    for name, value in values.items():
        names |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return names


def node_parameters(file: Path, node: str) -> dict:
    return flat(yaml.safe_load(file.read_text())[f"/**/{node}"]["ros__parameters"])


def declared_parameters(node: str) -> dict:
    pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")
    return {row.name: row for row in importlib.import_module(f"lewm_ros.{node}").PARAMETERS}


@pytest.mark.parametrize("node", ["camera_node", "planner_node", "sim_node", "viewer_node"])
def test_plan_yaml_gives_each_parameter_of_a_node_its_default(node):
    given, declared = node_parameters(ROOT / "config" / "plan.yaml", node), declared_parameters(node)
    from_launch = FROM_LAUNCH_ARGUMENTS | (SIMULATED_ARM if node == "viewer_node" else set())
    assert given.keys() <= declared.keys() - from_launch
    left_out = declared.keys() - given.keys() - from_launch
    assert not [name for name in left_out if declared[name].needed]
    for name, value in given.items():
        if name != "robot":  # it has no default: a user must state it
            assert value == declared[name].default, name
            assert type(value) is type(declared[name].default), name


def test_the_robot_in_plan_yaml_is_the_simulated_one():
    from lewm_model.robot.robot import load_robot
    from lewm_model.sim.arm import ArmSim

    with ArmSim(render=False) as sim:
        assert load_robot(node_parameters(ROOT / "config" / "plan.yaml", "planner_node")["robot"]).limits == sim.limits


def test_push_yaml_is_what_the_push_task_is_evaluated_with_on_the_same_arm():
    from lewm_model.bundle.bundle import load_bundle
    from lewm_model.config import POLICY_PLAN, PlanConfig

    given, plain = (node_parameters(ROOT / "config" / name, "planner_node") for name in ("push.yaml", "plan.yaml"))
    assert plain["robot"] == given["robot"]
    plan = {name.removeprefix("plan."): value for name, value in given.items() if name.startswith("plan.")}
    horizon = load_bundle(ROOT / "models" / "push").horizon
    assert PlanConfig(**plan, horizon=horizon) == POLICY_PLAN


def calls(file: Path, function: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == function
    ]


def test_every_launch_argument_that_a_page_names_exists():
    declared = {
        ast.literal_eval(call.args[0])
        for file in (ROOT / "launch").glob("*.launch.py")
        for call in calls(file, "DeclareLaunchArgument")
    }
    checked: set[str] = set()
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for command in re.findall(r"ros2 launch lewm_ros (?:\\\n|[^`\n])*", page.read_text()):
            named = set(re.findall(r"\b([a-z_]+):=", command))
            assert named <= declared, f"{page.name}: {named - declared}"
            checked |= named
    assert {"arm", "model", "sim"} <= checked


def test_every_launch_argument_is_described():
    described = {}
    for file in (ROOT / "launch").glob("*.launch.py"):
        for call in calls(file, "DeclareLaunchArgument"):
            keywords = {keyword.arg: keyword.value for keyword in call.keywords}
            described[file.name, ast.literal_eval(call.args[0])] = ast.literal_eval(keywords["description"])
    arguments = {"model", "sim", "goal_image", "image_topic", "command_topic", "params_file", "namespace", "backend"}
    assert {("plan.launch.py", argument) for argument in arguments} <= set(described)
    for argument, description in described.items():
        assert description.endswith("."), argument
