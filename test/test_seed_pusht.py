# SPDX-License-Identifier: Apache-2.0
"""Push-T: a script that solves it, recordings in which the T moves, and the simulator beside another package's."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.seed_environments import difference
from benchmarks.seed_pusht import REACHED_PX, REACHED_RAD, PushT, corners
from lewm_model.sim.world import State


@pytest.fixture(scope="module")
def env():
    pytest.importorskip("pymunk", reason="requirements-tasks.txt is not installed")
    return PushT()


def random_state(rng):
    """A state (7,) at rest, the pusher in a corner, off the T."""
    return State(np.array([40.0, 40.0, *rng.uniform(160.0, 352.0, 2), rng.uniform(0, 2 * np.pi), 0.0, 0.0]))


def test_the_script_solves_it_from_anywhere(env):
    """The T within 20 px and 20 degrees, and then the pusher where it should be, in 400 steps."""
    solved = 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        start, goal = random_state(rng), random_state(rng)
        env.place(start, goal)
        assert env.error(start, goal) > REACHED_PX
        reached = [env.step(env.towards(goal)) for _ in range(400)]
        solved += reached[-1]
    assert solved == 5


def test_recordings_show_the_t_pushed_and_turned_and_the_pusher_elsewhere(env):
    ways, turns, near = [], [], []
    for seed in range(4):
        env.begin(seed)
        states = [env.state().joints]
        for _ in range(100):
            env.step(env.act())
            states.append(env.state().joints)
        states = np.array(states)
        ways.append(np.linalg.norm(states[-1, 2:4] - states[0, 2:4]))
        turns.append(max(abs(difference(a, states[0, 4])) for a in states[:, 4]))
        near.append(
            np.linalg.norm(states[:, None, :2] - np.stack([corners(s) for s in states[:, 2:5]]), axis=-1).min(1)
        )
    assert max(ways) > 40 and max(turns) > 0.5
    assert 0.05 < (np.concatenate(near) > 60).mean() < 0.7, "beside the T and away from it"


def test_it_is_reached_within_the_reference_s_bounds(env):
    at = State(np.array([40.0, 40.0, 256.0, 256.0, 1.0, 0.0, 0.0]))
    for off, turn, reached in ((0.9, 0.9, True), (1.1, 0.0, False), (0.0, 1.1, False)):
        goal = State(at.joints + [0.0, 0.0, off * REACHED_PX, 0.0, turn * REACHED_RAD, 0.0, 0.0])
        env.place(at, goal)
        assert env.step(np.zeros(2)) is reached
        assert (env.error(env.state(), goal) < REACHED_PX) is reached


def test_an_attempt_goes_as_it_was_recorded(env):
    env.begin(1)
    states, actions = [env.state()], []
    for _ in range(60):
        actions.append(env.act())
        env.step(actions[-1])
        states.append(env.state())
    for first in (10, 30):
        env.place(states[first], states[first + 25])
        assert [env.step(action) for action in actions[first : first + 25]][-1]
        assert env.error(env.state(), states[first + 25]) < 0.25 * REACHED_PX


def test_a_push_moves_the_t_as_in_gym_pusht(env, monkeypatch):
    """The same simulation by other people, in which an action is a place, not a way."""
    # It is written for an older pymunk, and only counts contacts with this.
    monkeypatch.setattr("pymunk.Space.add_collision_handler", lambda *of: SimpleNamespace(), raising=False)
    other = pytest.importorskip("gym_pusht.envs.pusht", reason="requirements-tasks.txt is not installed").PushTEnv()
    start = np.array([256.0, 120.0, 256.0, 200.0, 0.3, 0.0, 0.0])
    other.reset(seed=0, options={"reset_to_state": start[:5]})
    other.block.angle = start[4]  # it turns the T about another point than its origin when it is put somewhere
    other.block.position = tuple(start[2:4])
    env.place(State(start), State(start))
    there = [*other.agent.position, *other.block.position, other.block.angle]
    np.testing.assert_allclose(there, env.state().joints[:5], atol=1e-6)
    for _ in range(8):
        action = np.array([0.0, 0.4])
        to = np.array(other.agent.position) + 100.0 * action
        env.step(action)
        other.step(to)
    here = env.state().joints
    assert np.linalg.norm(here[2:4] - start[2:4]) > 30.0, "it was pushed"
    np.testing.assert_allclose([*other.agent.position, *other.block.position], here[:4], atol=1.0)
    assert abs(difference(other.block.angle, here[4])) < 0.02
