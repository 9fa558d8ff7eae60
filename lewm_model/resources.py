"""Where the files that ship with the package lie: worlds, model bundles, configuration and launch files.

A source checkout has them beside ``lewm_model``; an installed package has them in ``share/lewm_ros`` of its
prefix. Nothing here imports ROS, so that training and evaluation find the same files on a machine without it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACKAGE = "lewm_ros"


def resource(*parts: str) -> Path:
    """Absolute path of a file or folder that ships with the package, e.g. ``resource("worlds", "tabletop.sdf")``.

    Looks beside the source tree first, then in ``share/lewm_ros`` of each prefix in ``AMENT_PREFIX_PATH``, then in
    that of the Python environment.

    :param parts: path below the root of the repository or of ``share/lewm_ros``.
    :raises FileNotFoundError: none of the places has it; the message names each.
    """
    source_tree = Path(__file__).resolve().parent.parent
    prefixes = [*filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)), sys.prefix]
    roots = [source_tree, *(Path(prefix) / "share" / PACKAGE for prefix in prefixes)]
    for root in roots:
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise FileNotFoundError(
        f"{Path(*parts)} does not ship with this installation of {PACKAGE}; looked in {', '.join(map(str, roots))}. "
        "Install the package again (colcon build, or make setup in a checkout), or give the path of your own file."
    )
