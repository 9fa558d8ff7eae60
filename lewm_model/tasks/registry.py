# SPDX-License-Identifier: Apache-2.0
"""The tasks by name: `lewm eval --task`, the demo and the recipes find them here. A new task is a file and an entry."""

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

if TYPE_CHECKING:  # what records needs more than what runs
    from lewm_model.sim.arm import ArmSim
    from lewm_model.sim.collect import Motion


@dataclass(frozen=True)
class Suite:
    """Tasks that one model is made for, and how it is tried in them."""

    name: str
    tasks: tuple[Task[ArmSim], ...]  # the last one is what is told first
    plan: PlanConfig
    world: str = "worlds/tabletop.sdf"  # SDF or scene file, below the package's folder or elsewhere
    motion: Motion = RANDOM  # what moves the arm in recordings that a model learns from
    led: Callable[[Path], Motion] | None = None  # the same, where the policy of a bundle got to
    model: str = ""  # the shipped bundle, below models/; none is shipped for "" and for other suites
    parameters: str = "plan.yaml"  # of the nodes, below config/
    demo: str = "demo"  # what the demo's figures begin with
    picture_s: float = 0.5  # after the first command: a moment worth a picture
    stopping: bool = False  # whether the demo also lets the planner look and plan only while the arm rests, to compare

    @property
    def world_file(self) -> Path:
        """The file of the world."""
        path = Path(self.world)
        return path if path.is_absolute() else resource(*path.parts)

    @property
    def robot(self) -> str:
        """The robot file of a scene, its name or path; "" of a world that is none."""
        if self.world_file.suffix != ".yaml":
            return ""
        named = Path(load_yaml(self.world_file)["robot"])
        return str(self.world_file.parent / named) if named.suffix else str(named)

    def figure_name(self, name: str) -> str:
        """What a figure is called: with an arm in a scene of its own, success has the names of task and robot in it.

        :param name: as "demo.success_held", or "eval.KIND_success_held" of one of the tasks.
        """
        if not self.robot:
            return name
        _, _, plain = name.partition(".")
        task, _, robot = self.name.partition("_")
        plain = plain.removeprefix(f"{self.tasks[-1].name}_")  # the task that is told first needs no name
        return f"arm.{task}_{plain}_{robot}" if "success" in plain else f"arm.{plain}"


SUITES = {
    suite.name: suite
    for suite in (
        Suite("reach", (NEAR, ANYWHERE), PlanConfig(), model="reach", stopping=True),
        Suite(
            "push",
            (PUSH,),
            POLICY_PLAN,
            motion=Play(PUSH.object),
            led=partial(Play, PUSH.object),
            model="push",
            parameters="push.yaml",
            demo="demo_push",
            picture_s=4.0,
        ),
    )
}
REACH_OF = "reach_"  # and the name of a scene in config/scenes: reaching in three dimensions, for any arm
FEW = 0.6  # share of its recordings in which a joint or two move alone
TOOL_RAD = math.radians(15.0)  # tolerance of that for the tool's direction, beside that of every reach for the tip


def reach_in(name: str, scene: str, model: str = "") -> Suite:
    """Reaching with the arm of a scene file: the tip where the picture shows it, and the tool pointing as there."""
    near, space = replace(NEAR, angle_rad=TOOL_RAD), replace(ANYWHERE, name="space", angle_rad=TOOL_RAD)
    motion = RandomMotion(arguments=("--task", name), few=FEW)
    return Suite(name, (near, space), PlanConfig(), scene, motion, model=model, demo="demo_arm")


def suite_named(name: str) -> Suite:
    """The tasks of that name; those of an arm in a scene of its own are called TASK_SCENE. Of several scenes of a robot
    a task takes the one that is called SCENE_TASK.

    :raises ValueError: there is no such task; names those that there are.
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
    """The tasks that a bundle is made for; one that does not say is told by whether it has a policy.

    :raises BundleError: its task is none that can be simulated.
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
