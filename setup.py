# SPDX-License-Identifier: Apache-2.0
"""Build description of the ROS 2 package; colcon and pip both read it."""

from pathlib import Path
from xml.etree import ElementTree

from setuptools import find_packages, setup

PACKAGE = "lewm_ros"
ROOT = Path(__file__).resolve().parent
MANIFEST = ElementTree.parse(ROOT / "package.xml").getroot()


def manifest(tag: str) -> str:
    """One text of package.xml, so that version and description are written down once."""
    return " ".join(MANIFEST.findtext(tag, "").split())


def data_files(folder: str) -> list[tuple[str, list[str]]]:
    """Every file below ``folder`` of the repository, to be installed at the same place in share/lewm_ros."""
    groups: dict[str, list[str]] = {}
    for path in sorted((ROOT / folder).rglob("*")):
        relative = path.relative_to(ROOT)
        if path.is_file() and "__pycache__" not in relative.parts and "engines" not in relative.parts:
            groups.setdefault(f"share/{PACKAGE}/{relative.parent.as_posix()}", []).append(relative.as_posix())
    return list(groups.items())


maintainer = MANIFEST.find("maintainer")
assert maintainer is not None, "package.xml names no maintainer"

setup(
    name=PACKAGE,
    version=manifest("version"),
    description=manifest("description"),
    license=manifest("license"),
    maintainer=maintainer.text,
    maintainer_email=maintainer.attrib["email"],
    packages=find_packages(include=["lewm_ros", "lewm_ros.*", "lewm_model", "lewm_model.*"]),
    package_data={"lewm_ros": ["panel/page/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        ("bin", ["resource/bin/lewm"]),
        *data_files("launch"),
        *data_files("config"),
        *data_files("worlds"),
        *data_files("models"),
    ],
    python_requires=">=3.10,<3.13",
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"], "formats": ["rosbags", "hdf5plugin", "pyarrow", "av"]},
    zip_safe=False,
    entry_points={
        "console_scripts": [
            "lewm = lewm_model.cli.main:main",
            "camera_node = lewm_ros.camera_node:main",
            "planner_node = lewm_ros.planner_node:main",
            "viewer_node = lewm_ros.viewer_node:main",
            "panel_node = lewm_ros.panel_node:main",
            "composed = lewm_ros.composed:main",
            "lifecycle_manager = lewm_ros.lifecycle_manager:main",
            "explore_node = lewm_ros.explore_node:main",
            "sim_node = lewm_ros.sim_node:main",
            "send_goal = lewm_ros.send_goal:main",
            "reach_goal = lewm_ros.reach_goal:main",
            "gazebo_commands = lewm_ros.gazebo_commands:main",
            "record = lewm_ros.record:main",
            "topic_check = lewm_ros.topic_check:main",
            "demo = lewm_ros.demo:main",
        ],
    },
)
