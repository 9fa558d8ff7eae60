# SPDX-License-Identifier: Apache-2.0
"""OGB-Cube: states that determine what happens, a script that moves the cube, and recordings in which it moves."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import seed_attempts
from lewm_model.sim.world import State
from lewm_model.tasks.task import draw_trials, run_scripted


@pytest.fixture(scope="module")
def env():
    pytest.importorskip("dm_control", reason="requirements-tasks.txt is not installed")
    pytest.importorskip("ogbench", reason="requirements-tasks.txt is not installed")
    return seed_attempts.TASKS["cube"].environment()


def episode(env, seed):
    """States (101, S) float64 and actions (100, 5) of an episode."""
    env.begin(seed)
    states, actions = [env.state().joints], []
    for _ in range(seed_attempts.EPISODE_STEPS):
        actions.append(env.act())
        env.step(actions[-1])
        states.append(env.state().joints)
    return np.array(states), np.array(actions)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_cube_moves_in_play_and_an_attempt_from_any_state_goes_as_it_was_recorded(env, seed):
    states, actions = episode(env, seed)
    moved = np.linalg.norm(states[25:, :3] - states[:-25, :3], axis=1)
    assert (moved > 0.04).mean() > 0.4, "most windows have a goal elsewhere"
    for first in range(0, 75, 15):
        env.place(State(states[first]), State(states[first + 25]))
        reached = [env.step(action) for action in actions[first : first + 25]]
        assert reached[-1]
        np.testing.assert_array_equal(env.state().joints, states[first + 25])


def test_the_reference_counts_a_cube_within_four_centimetres(env):
    env.begin(0)
    start = env.state()
    for away, reached in ((0.035, True), (0.045, False)):
        env.place(start, State(start.joints[:3] + [0.0, away, 0.0]))
        assert env.step(np.zeros(5)) is reached


def test_the_script_takes_the_cube_to_a_place_on_the_table_and_keeps_one_in_the_air(env):
    env.begin(0)
    start = env.state()
    for height in (0.02, 0.15):
        goal = State(np.array([0.5, 0.1, height]))
        env.place(start, goal)
        assert all([env.step(env.towards(goal)) for _ in range(100)][-30:])


def test_trials_are_held_by_the_script_whatever_the_hand_did_before(env):
    task = seed_attempts.TASKS["cube"]
    trials = draw_trials(task, 20, 0, env)
    assert sum(run_scripted(trial, env, 0, number).held for number, trial in enumerate(trials)) >= 18


def test_pictures_show_cube_and_hand_but_no_target(env):
    env.begin(0)
    start = env.state()
    pictures = []
    for goal in (start, State(np.array([0.5, 0.2, 0.1]))):
        env.place(start, goal)
        pictures.append(env.picture())
    assert pictures[0].shape == (64, 64, 3) and pictures[0].dtype == np.uint8
    np.testing.assert_array_equal(*pictures)
    red = pictures[0][..., 0].astype(int) - pictures[0][..., 2]
    assert 4 <= (red > 60).sum() <= 40, "the cube is some pixels wide"
