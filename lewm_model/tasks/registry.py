"""The tasks by name: `lewm eval --task`, the demo and the recipes find them here. A new task is a file and an entry."""

from __future__ import annotations

from dataclasses import dataclass

from lewm_model.config import POLICY_PLAN, PlanConfig
from lewm_model.tasks.push import PUSH
from lewm_model.tasks.reach import ANYWHERE, NEAR
from lewm_model.tasks.task import Task


@dataclass(frozen=True)
class Suite:
    """Tasks that one model is made for, and how it is tried in them."""

    name: str
    tasks: tuple[Task, ...]  # the last one is what is told first
    plan: PlanConfig
    model: str  # the shipped bundle, below models/
    parameters: str  # of the nodes, below config/
    demo: str  # what the demo's figures begin with
    picture_s: float  # after the first command: a moment worth a picture
    stopping: bool  # whether the demo also lets the planner look and plan only while the arm rests, to compare


SUITES = {
    suite.name: suite
    for suite in (
        Suite("reach", (NEAR, ANYWHERE), PlanConfig(), "reach", "plan.yaml", "demo", picture_s=0.5, stopping=True),
        Suite("push", (PUSH,), POLICY_PLAN, "push", "push.yaml", "demo_push", picture_s=4.0, stopping=False),
    )
}


def suite_named(name: str) -> Suite:
    """
    :raises ValueError: there is no such task; names those that there are.
    """
    if name not in SUITES:
        raise ValueError(f"there is no task {name!r}; choose one of {', '.join(SUITES)}")
    return SUITES[name]
