# SPDX-License-Identifier: Apache-2.0
"""The tasks by name, for `lewm eval --task`, the demo and the recipes. A new task is a file and an entry here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lewm_model.bundle.bundle import POLICY, Bundle, BundleError
from lewm_model.config import POLICY_PLAN, PlanConfig, load_yaml, resource
from lewm_model.sim.random_motion import RANDOM, RandomMotion
from lewm_model.tasks.push import PUSH
from lewm_model.tasks.push_script import Play
from lewm_model.tasks.reach import ANYWHERE, NEAR
from lewm_model.tasks.task import Task

if TYPE_CHECKING:  # since recording needs packages, such as h5py, that trying a model does not
    from lewm_model.sim.arm import ArmSim
    from lewm_model.sim.collect import Motion


@dataclass(frozen=True)
class Suite:
    """The tasks that a model is made for, and how it is recorded for, trained for and tried in them."""

    name: str
    tasks: tuple[Task[ArmSim], ...]  # the last one is the main one, which reports name first
    plan: PlanConfig
    world: str = "worlds/tabletop.sdf"  # SDF or scene file, in the package or an absolute path
    motion: Motion = RANDOM  # of the recordings that a model learns from
    led: Callable[[Path], Motion] | None = None  # the same, after the policy of a bundle has moved
    model: str = ""  # the shipped bundle, in models/; "": none
    parameters: str = "plan.yaml"  # params file of the nodes, in config/
    demo: str = "demo"  # beginning of the names of the demo's figures
    picture_s: float = 0.5  # after the first command, when the demo takes its picture
    stopping: bool = False  # whether the demo also plans only while the arm rests, to compare

    @property
    def world_file(self) -> Path:
        """Path of the world's file."""
        path = Path(self.world)
        return path if path.is_absolute() else resource(*path.parts)

    @property
    def robot(self) -> str:
        """The robot file of a scene, its name or path; "" for an SDF world."""
        if self.world_file.suffix != ".yaml":
            return ""
        named = Path(load_yaml(self.world_file)["robot"])
        return str(self.world_file.parent / named) if named.suffix else str(named)

    def figure_name(self, name: str) -> str:
        """The name of a figure: for an arm in a scene of its own, that of a success has the names of task and robot.

        :param name: as "demo.success_held", or "eval.KIND_success_held" of one of the tasks.
        """
        if not self.robot:
            return name
        _, _, plain = name.partition(".")
        task, _, robot = self.name.partition("_")
        plain = plain.removeprefix(f"{self.tasks[-1].name}_")  # the main task is not named
        return f"arm.{task}_{plain}_{robot}" if "success" in plain else f"arm.{plain}"


SUITES = {
    suite.name: suite
    for suite in (
        Suite("reach", (NEAR, ANYWHERE), PlanConfig(), model="reach", stopping=True),
        Suite(
            "push",
            (PUSH,),
            POLICY_PLAN,
            motion=Play(PUSH.object, PUSH.setup),
            led=partial(Play, PUSH.object, PUSH.setup),
            model="push",
            parameters="push.yaml",
            demo="demo_push",
            picture_s=4.0,
        ),
    )
}
REACH_OF = "reach_"  # before the name of a scene in config/scenes: the task to reach in it with position and direction
FEW = 0.6  # share of the episodes of its recordings in which only one or two joints move
TOOL_RAD = math.radians(15.0)  # its tolerance of the tool's direction; that of the tip's position is as for every reach


def reach_in(name: str, scene: str, model: str = "") -> Suite:
    """The tasks to reach with the arm of a scene: bring the tip and the tool's direction to those of the picture."""
    near, space = replace(NEAR, angle_rad=TOOL_RAD), replace(ANYWHERE, name="space", angle_rad=TOOL_RAD)
    motion = RandomMotion(arguments=("--task", name), few=FEW)
    return Suite(name, (near, space), PlanConfig(), scene, motion, model=model, demo="demo_arm")


def suite_named(name: str) -> Suite:
    """The tasks of a name. Those of an arm in a scene of its own are called TASK_SCENE, where config/scenes has SCENE
    or, with precedence, SCENE_TASK.

    :raises ValueError: there is no such task; the message names all.
    """
    scenes = sorted(path.stem for path in resource("config", "scenes").glob("*.yaml"))
    scene = name.removeprefix(REACH_OF)
    if name.startswith(REACH_OF) and scene in scenes:
        own, model = f"{scene}_{REACH_OF.rstrip('_')}", f"{scene}-{REACH_OF.rstrip('_')}"
        shipped = model in (path.name for path in resource("models").iterdir())
        return reach_in(name, f"config/scenes/{own if own in scenes else scene}.yaml", model if shipped else "")
    if name not in SUITES:
        known = ", ".join([*SUITES, *(REACH_OF + each for each in scenes)])
        raise ValueError(f"there is no task {name!r}; choose one of {known}")
    return SUITES[name]


def suite_of(bundle: Bundle) -> Suite:
    """The tasks that a bundle is made for. One that does not name a task is taken for push if it has a policy, else for
    reach.

    :raises BundleError: its task is not one that can be simulated.
    """
    if bundle.task:
        try:
            return suite_named(bundle.task)
        except ValueError as error:
            raise BundleError(
                f"the model in {bundle.folder} was trained for the task {bundle.task!r}, which is not simulated here: "
                f"{error}"
            ) from error
    return next(suite for suite in SUITES.values() if (suite.led is not None) == (POLICY in bundle.heads))
