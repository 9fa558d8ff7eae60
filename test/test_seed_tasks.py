# SPDX-License-Identifier: Apache-2.0
"""The tasks of the LeWM paper: the reference's criterion, goals from other episodes, and plans that reach them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import seed_attempts, seed_latents, seed_planners, seed_tasks
from benchmarks.seed_environments import Reacher
from lewm_model.config import MODEL_SIZES, TRAIN_SIZES, ModelConfig, TrainConfig, from_dict, load_yaml, resource
from lewm_model.data.actions import action_spec
from lewm_model.sim.world import State
from lewm_model.tasks.task import draw_trials, run_scripted, trial_of


def recorded(task, env, path, episodes=2):
    data = seed_attempts.record(env, path / "few.h5", episodes, seed=0)
    return data, action_spec(data, np.arange(episodes), 5), seed_attempts.cut_goals(task, env, data, seed=0)


@pytest.fixture(scope="module")
def two_room(tmp_path_factory):
    task = seed_attempts.TASKS["two_room"]
    env = task.environment()
    return env, *recorded(task, env, tmp_path_factory.mktemp("two_room"))


def test_recordings_are_those_of_the_scripted_policy_and_of_random_actions(two_room):
    _, data, _, _ = two_room
    frames = seed_attempts.EPISODE_STEPS + 1
    assert data.pixels.shape == (2 * frames, 64, 64, 3) and data.actions.shape == (2 * frames, 2)
    changes = np.abs(np.diff(data.actions, axis=0)).max(1) > 0
    assert changes[: frames - 2].mean() > 0.9, "noise at each step"
    assert changes[frames:-2].mean() < 0.5, "random actions are held for some steps"
    moved = np.abs(np.diff(data.proprio[:frames], axis=0)).sum(0)
    assert (moved > 100).all(), "the scripted policy goes somewhere, and goes on when it is there"


def test_replayed_actions_reach_the_goal_and_stay_where_those_that_do_nothing_fail(two_room):
    env, _, spec, goals = two_room
    for goal in goals:
        for name, planner in seed_planners.baselines(spec, seed=0).items():
            outcome = seed_attempts.attempt(env, goal, planner(goal), spec)
            if name == "replay":
                assert outcome.held and outcome.first_hit
            if name == "hold":
                assert not outcome.first_hit
                assert outcome.final_error == goal.trial.before > goal.trial.task.tolerance(env)


def goal_far_from_the_wall(env):
    start, end = State(np.array([40.0, 150.0])), State(np.array([80.0, 180.0]))
    env.place(end, end)
    return seed_attempts.Goal(trial_of(seed_attempts.TASKS["two_room"], start, end, env), env.picture(), None)


def test_both_planners_reach_a_goal_when_the_latent_is_the_position(two_room):
    """Far from the wall, where a rollout is the sum of the actions."""
    env, _, spec, _ = two_room
    scale = 50.0

    class Position(torch.nn.Module):
        config = SimpleNamespace(history=1, block_dim=10)

        def encode(self, frames):
            red = (frames[..., 0].float() - frames[..., 1].float()).clamp_min(0.0) ** 2
            x, y = (
                (red * axis).sum((1, 2)) / red.sum((1, 2)) for axis in (torch.arange(64.0), torch.arange(64.0)[:, None])
            )
            return torch.stack([x, y], 1) * 3.5 / scale

    planners = seed_planners.Ours.__new__(seed_planners.Ours)
    planners.model, planners.spec, planners.seed = Position(), spec, 0
    planners.noise = torch.Generator().manual_seed(0)
    planners.embedding = lambda latents, goal: (latents - goal).norm(dim=-1)
    mean, std = (torch.tensor(values) for values in (spec.mean, spec.std))

    def rollout(context, past, candidates):
        steps = (candidates.unflatten(-1, (5, 2)) * std + mean).clamp(-1.0, 1.0)
        return context + 5.0 / scale * steps.sum(2).cumsum(1)

    planners.rollout = rollout
    goal = goal_far_from_the_wall(env)
    for planner in (planners.displacement, planners.latent, planners.their_planner):
        outcome = seed_attempts.attempt(env, goal, planner(goal), spec)
        assert outcome.first_hit and outcome.final_error <= 16.0, planner


class ExactRuntime:
    """Latents are positions, far from the wall; the policy goes straight, in 25 steps where it is told no time."""

    scale = 50.0

    def __init__(self, spec):
        self.bundle = SimpleNamespace(actions=spec)

    def encode(self, picture):
        red = (picture[..., 0].astype(float) - picture[..., 1]).clip(0) ** 2
        axis = np.arange(64.0)
        x, y = (red * axis).sum() / red.sum(), (red * axis[:, None]).sum() / red.sum()
        return np.array([x, y], np.float32) * 3.5 / self.scale

    def propose(self, latents, goal, steps):
        spec, left = self.bundle.actions, np.where(steps == 0.0, 25.0, steps)[:, None]
        return np.tile(spec.normalise(np.clip((goal - latents) * self.scale / 5.0 / left, -1.0, 1.0)), (1, 5))

    def step(self, contexts, past, blocks):
        spec = self.bundle.actions
        actions = np.clip(blocks.reshape(len(blocks), 5, 2) * np.array(spec.std) + np.array(spec.mean), -1.0, 1.0)
        return (contexts[:, -1] + 5.0 / self.scale * actions.sum(1)).astype(np.float32)

    def rollout(self, context, past, candidates, goal):
        ways = [np.repeat(context[None, -1], len(candidates), 0)]
        for k in range(candidates.shape[1]):
            ways.append(self.step(ways[-1][:, None], past, candidates[:, k]))
        ways = np.stack(ways, 1)
        return np.linalg.norm(ways - goal, axis=-1) * self.scale / 5.0, ways[:, 1:]


def test_a_policy_alone_holds_a_goal_and_one_followed_in_imagination_reaches_it(two_room):
    env, _, spec, _ = two_room
    runtime = ExactRuntime(spec)
    planners = seed_planners.Ours.__new__(seed_planners.Ours)
    planners.runtime, planners.spec, planners.seed = runtime, spec, 0
    planners.model = SimpleNamespace(config=SimpleNamespace(history=1, block_dim=10))
    planners.encode = lambda frames: torch.from_numpy(np.stack([runtime.encode(frame) for frame in frames]))
    planners.time = lambda now, wanted: (now - wanted).norm(dim=-1) * runtime.scale / 5.0
    goal = goal_far_from_the_wall(env)
    for planner in (planners.policy, planners.follow):
        outcome = seed_attempts.attempt(env, goal, planner(goal), spec)
        assert outcome.first_hit and outcome.final_error <= 16.0, planner
        assert outcome.held or planner == planners.follow


def test_a_context_has_frames_one_block_apart_and_the_blocks_between_them():
    past = seed_attempts.Past({0: "first", 2: "second", 5: "third", 7: "fourth"}, [np.full(2, k) for k in range(7)])
    frames, blocks = past.context(history=3, frameskip=5, block_dim=10)
    assert frames == ["second", "fourth"], "there is none before the attempt"
    np.testing.assert_array_equal(blocks, np.repeat(np.arange(2, 7), 2)[None])
    frames, blocks = past.context(history=1, frameskip=5, block_dim=10)
    assert frames == ["fourth"] and blocks.shape == (0, 10)


def test_what_latents_tell_is_read_from_them_and_a_teleport_surprises(two_room, monkeypatch, tmp_path):
    """Latents are the position, and what is imagined is a straight way, far from the wall."""
    env, _, spec, _ = two_room
    data, _, _ = recorded(seed_attempts.TASKS["two_room"], env, tmp_path, episodes=6)
    latent = ExactRuntime(spec)

    def positions(model, pictures):
        return torch.from_numpy(
            np.nan_to_num([latent.encode(picture) for picture in pictures])
        )  # no dot is red after a change of colours

    class Straight:
        config = SimpleNamespace(history=1, frameskip=5, block_dim=10)
        image_mean = torch.zeros(1)

        def rollout(self, context, past, blocks):
            actions = blocks.reshape(len(blocks), -1, 5, 2) * torch.tensor(spec.std) + torch.tensor(spec.mean)
            return context[:, -1:] + 5.0 / latent.scale * actions.clamp(-1, 1).sum(2).float()

    monkeypatch.setattr(seed_latents, "load_model", lambda bundle: Straight())
    monkeypatch.setattr(seed_latents, "encode_all", positions)
    monkeypatch.setattr("lewm_model.evaluation.probe.MLP_STEPS", 100)
    bundle = SimpleNamespace(actions=spec)
    found = seed_latents.physics(bundle, env, data, seed=0)
    assert found["dot_linear_r"][0] > 0.99 and found["dot_linear_mse"][0] < 0.02
    found = seed_latents.surprise(bundle, env, data, seed=0)
    assert found["teleport_auroc"][0] == 1.0 and found["false_alarms"][0] < 100.0


def test_figures_of_all_tasks_wait_for_all_tasks():
    found = [
        {"name": f"seed.{task}_{key}", "value": first + number}
        for number, task in enumerate(seed_attempts.TASKS)
        for key, first in (("success_held", 0), ("decision_ratio", 60))
    ]
    assert seed_tasks.of_all(found[:6]) == {}
    assert {name: value for name, (value, _) in seed_tasks.of_all(found).items()} == {
        "seed.strict_mean": 1.5,
        "seed.decision_ratio": 60,
    }


@pytest.mark.parametrize("name", seed_attempts.TASKS)
def test_trials_of_the_seed_s_tasks_are_drawn_and_won_by_who_is_told_the_goal_as_those_of_others(name):
    if name != "two_room":
        pytest.importorskip("dm_control", reason="requirements-tasks.txt is not installed")
    task = seed_attempts.TASKS[name]
    env = task.environment()
    trials, again = (draw_trials(task, 3, 0, env) for _ in range(2))
    assert [t.start.joints.tolist() for t in trials] == [t.start.joints.tolist() for t in again]
    outcomes = [run_scripted(trial, env, 0, number) for number, trial in enumerate(trials)]
    assert all(trial.before > task.tolerance(env) for trial in trials)
    assert sum(outcome.held for outcome in outcomes) >= 2


def test_reacher_is_judged_by_the_reference_without_ending_the_attempt(tmp_path):
    pytest.importorskip("dm_control", reason="requirements-tasks.txt is not installed")
    env = Reacher()
    env.begin(0)
    start = env.state().joints
    assert env.picture().shape == (64, 64, 3)
    still = np.zeros(2)
    at = State(np.array([0.5, 1.0, 0.0, 0.0]))
    env.place(at, at)
    assert all(env.step(still) for _ in range(30)), "at rest at the goal it stays reached, and the episode goes on"
    env.place(at, State(np.array([0.5, 1.06, 0.0, 0.0])))
    assert not env.step(still), "0.06 rad beside it it is not reached"
    env.begin(0)
    np.testing.assert_array_equal(env.state().joints, start)


@pytest.mark.parametrize("name", ["pusht", "ogb_cube"])
def test_the_settings_of_what_was_not_run_are_valid(name):
    values = load_yaml(resource("config", "tasks", f"{name}.yaml"))
    assert set(values) == {"model", "train"}
    from_dict(ModelConfig, values["model"], MODEL_SIZES["reference"])
    from_dict(TrainConfig, values["train"], TRAIN_SIZES["reference"])
