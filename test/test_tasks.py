"""The tasks and figures of the evaluation: the same for everyone who asks, and not easier than they say."""

import numpy as np
import pytest

from lewm_model.evaluation.statistics import first_hit, held
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.pinhole import Pinhole
from lewm_model.tasks.reach import (
    HELD_S,
    Outcome,
    Task,
    baselines,
    draw_tasks,
    hold_still,
    score,
    tip_distance_m,
    tolerance_m,
)

TIMES = 0.02 * np.arange(126)  # 0 to 2.5 s


@pytest.fixture(scope="module")
def sim():
    with ArmSim(render=False) as sim:
        yield sim


@pytest.mark.parametrize("kind", ["near", "anywhere"])
def test_tasks_are_the_same_for_a_seed_inside_the_limits_and_not_solved_at_the_start(sim, kind):
    tasks, again, others = (draw_tasks(kind, 20, seed, sim) for seed in (0, 0, 1))
    for task, same, other in zip(tasks, again, others, strict=True):
        np.testing.assert_array_equal(task.start, same.start)
        np.testing.assert_array_equal(task.goal, same.goal)
        assert not np.array_equal(task.start, other.start)
        for pose in (task.start, task.goal):
            assert (pose >= sim.limits.lower).all()
            assert (pose <= sim.limits.upper).all()
        assert tip_distance_m(sim, task.start, task.goal) > tolerance_m(sim)
        assert not hold_still(task, sim).first_hit
    assert draw_tasks(kind, 5, 0, sim)[4].goal.tolist() == tasks[4].goal.tolist(), "more goals keep the first ones"


def test_near_goals_can_be_reached_in_25_steps_and_budgets_are_as_stated(sim):
    near, anywhere = draw_tasks("near", 30, 3, sim), draw_tasks("anywhere", 1, 3, sim)
    assert (near[0].budget_s, anywhere[0].budget_s) == (2.5, 7.5)
    for task in near:
        assert (np.abs(task.goal - task.start) <= 25 * sim.control_dt_s * sim.limits.velocity).all()


def test_the_tolerance_is_a_fortieth_of_the_workspace_diameter(sim):
    assert tolerance_m(sim) == pytest.approx(2 * sim.reach_m / 40)


def test_held_means_every_sample_of_the_last_half_second():
    good, bad = np.full(126, 0.01), np.full(126, 0.10)
    assert score(TIMES, good, 2.5, 0.03) == Outcome(True, True, 0.01)
    assert score(TIMES, bad, 2.5, 0.03) == Outcome(False, False, 0.10)
    late = np.where(TIMES < 2.5 - HELD_S - 0.01, 0.10, 0.01)
    assert score(TIMES, late, 2.5, 0.03).held
    leaves = good.copy()
    leaves[-10] = 0.031
    assert score(TIMES, leaves, 2.5, 0.03) == Outcome(False, True, 0.01)
    passes = bad.copy()
    passes[40] = 0.02
    assert score(TIMES, passes, 2.5, 0.03) == Outcome(False, True, 0.10)


def test_samples_outside_the_budget_do_not_count():
    times = np.concatenate([[-0.5], TIMES, [2.6, 2.7]])
    errors = np.concatenate([[0.0], np.full(126, 0.1), [0.0, 0.0]])
    assert score(times, errors, 2.5, 0.03) == Outcome(False, False, 0.1)


@pytest.mark.parametrize("missing", [slice(110, 118), slice(120, 126), slice(20, 50)])
def test_a_stretch_without_samples_is_an_error_and_not_a_success(missing):
    with pytest.raises(ValueError, match="cannot be judged"):
        score(np.delete(TIMES, missing), np.delete(np.full(126, 0.01), missing), 2.5, 0.03)


def test_random_motion_rarely_holds_a_goal_and_is_the_same_for_a_seed(sim):
    tasks = draw_tasks("near", 10, 0, sim)
    first, second = (dict(baselines(tasks, sim, seed=5)) for _ in range(2))
    assert first == second
    assert held(first["hold"]).successes == first_hit(first["hold"]).successes == 0
    assert held(first["random"]).percent <= 30


def test_an_arm_that_starts_at_its_goal_holds_it(sim):
    pose = np.array([0.5, -0.5])
    assert hold_still(Task("near", pose, pose, 2.5), sim).held


def test_the_pinhole_finds_the_end_effector_in_the_picture():
    camera = Pinhole.of_world()
    with ArmSim() as sim:
        for pose in ([0.0, 0.0], [1.0, -2.0], [-2.0, 0.5]):
            sim.reset(joint_positions=pose)
            x, y = np.round(camera.project(sim.end_effector()[None])[0]).astype(int)
            around = sim.render()[y - 6 : y + 7, x - 6 : x + 7]
            assert (around.max(2) < 30).sum() > 20, "the black tip is there"
