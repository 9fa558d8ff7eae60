# SPDX-License-Identifier: Apache-2.0
"""Pictures that no arm should be sent to are refused with the reason; those of the shipped models' tasks are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest

from lewm_model.bundle.bundle import load_bundle
from lewm_model.config import resource
from lewm_model.monitoring.goal_check import STEADY_S, Exposure, GoalReport, examine_goal
from lewm_model.monitoring.novelty import load_novelty
from lewm_model.runtime.onnx_backend import OnnxRuntime
from lewm_model.sim.arm import ArmSim
from lewm_model.tasks.registry import SUITES
from lewm_model.tasks.task import draw_trials, picture_of

GOALS = 12
Examine = Callable[[np.ndarray], GoalReport]


def left_half(goal: np.ndarray) -> np.ndarray:
    return cv2.resize(np.ascontiguousarray(goal[:, : len(goal) // 2]), goal.shape[:2])


def without_its_arm(goal: np.ndarray) -> np.ndarray:
    """Grey in the half that shows more of the arm; with the other half grey it could pass for a goal in shade."""
    middle = len(goal) // 2
    lost = slice(0, middle) if goal[:middle].std() > goal[middle:].std() else slice(middle, None)
    spoilt = goal.copy()
    spoilt[lost] = 128
    return spoilt


SPOILT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "black": np.zeros_like,
    "white": lambda goal: np.full_like(goal, 255),
    "nearly black": lambda goal: goal // 64,
    "red and blue swapped": lambda goal: np.ascontiguousarray(goal[..., ::-1]),
    "noise": lambda goal: np.random.default_rng(0).integers(0, 256, goal.shape, np.uint8),
    "half of it": left_half,
    "half of it lost": without_its_arm,
}


@pytest.fixture(scope="module")
def sim() -> Iterator[ArmSim]:
    with ArmSim() as sim:
        yield sim


@pytest.fixture(scope="module", params=["reach", "push"])
def case(request: pytest.FixtureRequest, sim: ArmSim) -> tuple[list[np.ndarray], Examine]:
    """Goals of a shipped model's tasks, and what examines them."""
    bundle = load_bundle(resource("models", request.param))
    runtime, novelty = OnnxRuntime(bundle), load_novelty(bundle)
    goals = [
        picture_of(trial.goal, sim, bundle.observation)
        for trial in draw_trials(SUITES[request.param].tasks[-1], GOALS, 0, sim)
    ]
    return goals, lambda goal: examine_goal(goal, runtime.encode(goal), bundle.calibration, novelty)


def test_goals_of_the_tasks_are_accepted(case: tuple[list[np.ndarray], Examine]) -> None:
    goals, examine = case
    assert [examine(goal).problem for goal in goals] == [None] * GOALS


@pytest.mark.parametrize("how", SPOILT)
def test_a_picture_that_is_no_goal_is_refused_with_the_reason(case: tuple[list[np.ndarray], Examine], how: str) -> None:
    goals, examine = case
    for goal in goals:
        problem = examine(np.asarray(SPOILT[how](goal), np.uint8)).problem
        assert problem is not None
        assert "allowed" in problem or "is the least" in problem, "the limit is named"


def test_a_goal_in_another_light_is_accepted_by_the_model_that_learned_many_and_refused_by_the_one_that_saw_one(
    case: tuple[list[np.ndarray], Examine], request: pytest.FixtureRequest
) -> None:
    goals, examine = case
    problems = [examine((0.6 * goal).astype(np.uint8)).problem for goal in goals]
    learned = "reach" in request.node.callspec.id
    assert all((problem is None) is learned for problem in problems)


def test_without_a_calibration_only_a_picture_of_one_colour_is_refused() -> None:
    goal = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert examine_goal(goal, np.zeros(8), None, None).problem is None
    assert "of one colour" in str(examine_goal(np.zeros_like(goal), np.zeros(8), None, None).problem)


def test_the_exposure_is_steady_when_frames_have_agreed_for_a_while() -> None:
    goal, exposure = np.full((64, 64, 3), 120, np.uint8), Exposure()
    assert "sent frames for less than" in str(exposure.see(goal // 8, 0.0))
    told = [exposure.see(np.uint8(goal * min(1.0, 0.2 + 0.1 * step)), 0.1 * step) for step in range(20)]
    assert "not steady" in str(told[8])
    assert told[8 + round(STEADY_S / 0.1) + 1 :] == [None] * (11 - round(STEADY_S / 0.1))
