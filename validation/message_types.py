# SPDX-License-Identifier: Apache-2.0
"""Builds control_msgs, the message types of trajectory controllers, where ROS is installed as wheels.

    python -m validation.message_types

`control_msgs` is not among the wheels, but the interface generators are. They generate C and Python code from the
definitions (validation/control_msgs, from ros-controls/control_msgs, jazzy), which the C compiler builds. The result is
installed into the environment that runs this. In a ROS installation, which has the package, nothing is done.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from pathlib import Path
from subprocess import run

import numpy as np

PACKAGE = "control_msgs"
DEFINITIONS = Path(__file__).parent / PACKAGE
TYPE_SUPPORTS = ("c", "introspection_c", "fastrtps_c")
DEPENDENCIES = ("builtin_interfaces", "std_msgs", "geometry_msgs", "trajectory_msgs")


def generate(out: Path) -> None:
    """Generates C and Python sources of all definitions, in a folder of `out` for each kind."""
    # The wheels register each generator twice, which rosidl does not accept.
    entries = (entry for found in importlib.metadata.distributions() for entry in found.entry_points)
    unique = importlib.metadata.EntryPoints({(entry.group, entry.name): entry for entry in entries}.values())
    importlib.metadata.entry_points = lambda: unique  # type: ignore[assignment]
    from rosidl_cli.command.generate.api import generate as generate_interfaces

    generate_interfaces(
        package_name=PACKAGE,
        interface_files=[f"{DEFINITIONS}:msg/{file.name}" for file in sorted((DEFINITIONS / "msg").glob("*.msg"))],
        include_paths=[str(Path(sys.prefix) / "share")],
        output_path=out,
        types=["c", "py"],
        typesupports=list(TYPE_SUPPORTS),
    )


def build(out: Path) -> None:
    """Builds the sources in `out`: libraries of the types into out/lib, Python extensions into out/python."""
    lib, python = out / "lib", out / "python"
    shutil.copytree(out / "py/msg", python / "msg", ignore=shutil.ignore_patterns("*.c"))
    lib.mkdir()
    prefix = Path(sys.prefix)
    includes = [Path(sysconfig.get_path("include")), Path(np.get_include()), prefix / "include"]
    includes += sorted((prefix / "include").iterdir())
    for kind in TYPE_SUPPORTS:  # the sources include <control_msgs/msg/...>
        folder = out / "include" / kind
        folder.mkdir(parents=True)
        (folder / PACKAGE).symlink_to(out / kind)
        includes.append(folder)

    def link(target: Path, sources: Iterable[Path], *needs: str) -> None:
        objects = []
        for i, source in enumerate(sources):
            objects.append(out / f"{target.name}.{i}.o")
            compiler = ["gcc", "-std=gnu11"] if source.suffix == ".c" else ["g++", "-std=c++17"]
            folders = [f"-I{folder}" for folder in includes]
            run([*compiler, *folders, "-fPIC", "-O1", "-w", "-c", source, "-o", objects[-1]], check=True)
        libraries = [f"-l{need}" for need in ("rosidl_runtime_c", "rcutils", *needs)]
        folders = [f"-L{lib}", f"-L{prefix / 'lib'}", f"-Wl,-rpath,{prefix / 'lib'}"]
        run(["g++", "-shared", *objects, *folders, *libraries, "-o", target], check=True)

    def own(kind: str) -> str:
        return f"{PACKAGE}__rosidl_{kind}"

    def others(kind: str) -> list[str]:
        return [f"{package}__rosidl_{kind}" for package in DEPENDENCIES]

    def library(kind: str, sources: Iterable[Path], *needs: str) -> None:
        link(lib / f"lib{own(kind)}.so", sorted(sources), *others(kind), *needs)

    c = own("generator_c")
    library("generator_c", (out / "c/msg/detail").glob("*.c"))
    library("typesupport_introspection_c", (out / "introspection_c/msg/detail").glob("*.c"), c)
    fast = ("fastcdr", "rmw", "rosidl_typesupport_fastrtps_cpp", "rosidl_typesupport_fastrtps_c")
    library("typesupport_fastrtps_c", (out / "fastrtps_c/msg/detail").glob("*.cpp"), c, *fast)
    library("typesupport_c", (out / "c/msg").glob("*.cpp"), c, "rosidl_typesupport_c")
    library("generator_py", (out / "py/msg").glob("*.c"), c, own("typesupport_c"))
    for source in sorted((out / "py").glob("*.ep.*.c")):
        support = source.name.split(".")[-2]
        target = python / f"{PACKAGE}_s__{support}{sysconfig.get_config_var('EXT_SUFFIX')}"
        link(target, [source], c, own("generator_py"), own(support.removeprefix("rosidl_")), support)


def install(out: Path) -> None:
    """Installs definitions and libraries, and last the Python package, so that it is never incomplete."""
    prefix, files = Path(sys.prefix), sorted((DEFINITIONS / "msg").glob("*.msg"))
    shutil.copytree(DEFINITIONS / "msg", prefix / "share" / PACKAGE / "msg", dirs_exist_ok=True)
    index = prefix / "share/ament_index/resource_index"
    (index / "rosidl_interfaces" / PACKAGE).write_text("".join(f"msg/{file.name}\n" for file in files))
    (index / "packages" / PACKAGE).touch()
    shutil.copytree(out / "lib", prefix / "lib", dirs_exist_ok=True)
    (out / "python/__init__.py").touch()
    shutil.copytree(out / "python", Path(sysconfig.get_path("platlib")) / PACKAGE)


def main() -> None:
    """Builds and installs, unless the package is installed already."""
    if importlib.util.find_spec(PACKAGE) is not None:
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        build(Path(folder))
        install(Path(folder))


if __name__ == "__main__":
    main()
