# SPDX-License-Identifier: Apache-2.0
"""`lewm eval`: tasks come from episodes the model never saw, baselines are what they say, comparisons are fair."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from bundles import tiny_bundle
from sim_recording import sim_recording
from tiny import dot_recording
from tiny import tiny_bundle as dot_bundle
from typer.testing import CliRunner

from lewm_model.bundle.held_out import held_out_episodes
from lewm_model.cli.main import app
from lewm_model.data.clips import DataError, load_episodes
from lewm_model.evaluation.success import Results, cut_trials, run_baselines
from lewm_model.sim.arm import ArmSim
from lewm_model.tasks import registry
from lewm_model.tasks.reach import ANYWHERE, NEAR
from lewm_model.tasks.task import Outcome


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return sim_recording(tmp_path_factory.mktemp("recording") / "fresh.h5")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def test_only_episodes_that_the_model_was_not_trained_on_are_held_out(tmp_path):
    trained = dot_bundle(tmp_path)
    own = load_episodes(tmp_path / "dots.h5")
    config = trained.training["config"]
    training, held_out = own.split(config["validation_fraction"], config["seed"])
    found = held_out_episodes(trained, own)
    assert found.tolist() == held_out.tolist() and not set(found) & set(training)
    other = load_episodes(dot_recording(tmp_path / "other.h5", episodes=3, seed=9))
    assert held_out_episodes(trained, other).tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=r"an action takes 0\.1 s, the bundle's 0\.05 s"):
        held_out_episodes(trained, dataclasses.replace(other, control_dt_s=0.1))


def test_the_training_s_episodes_recorded_again_are_refused(bundle, data):
    for seed, world, refused in ((77, "tabletop.sdf", True), (78, "tabletop.sdf", False), (77, "shelf.sdf", False)):
        entry = {"sha256": "another", "actions_sha256": "another", "held_out": [], "path": "other.h5"}
        entry["recorded"] = {**data.recorded, "seed": seed, "world": world, "episodes": 9}
        trained = dataclasses.replace(bundle, training={"data": [entry]})
        if refused:
            with pytest.raises(DataError, match="those of the training, which had the same seed"):
                held_out_episodes(trained, data)
        else:
            assert len(held_out_episodes(trained, data)) == 4


def test_tasks_are_cut_from_the_given_episodes_and_the_same_for_a_seed(data):
    episodes = np.array([1, 3])
    owner = np.repeat(np.arange(4), data.lengths)
    with ArmSim(render=False) as sim:
        for task in (NEAR, ANYWHERE):
            trials, again, others = (cut_trials(task, 6, seed, data, episodes, sim) for seed in (0, 0, 1))
            assert [t.start_row for t in trials] == [t.start_row for t in again] != [t.start_row for t in others]
            for cut in trials:
                start, goal = int(owner[cut.start_row]), int(owner[cut.goal_row])
                assert {start, goal} <= {1, 3} and (start == goal) is (task is NEAR)
                np.testing.assert_array_equal(cut.goal_picture, data.pixels[cut.goal_row])
                np.testing.assert_allclose(cut.trial.goal.joints, data.proprio[cut.goal_row], atol=1e-6)
                assert cut.trial.before > task.tolerance(sim)
            assert all((t.goal_row - t.start_row == NEAR.goal_steps) is (task is NEAR) for t in trials)
        with pytest.raises(DataError, match="need recorded positions"):
            cut_trials(NEAR, 1, 0, dataclasses.replace(data, proprio=None), episodes, sim)
        with pytest.raises(DataError, match="1 held-out episodes have more than 25 frames"):
            cut_trials(NEAR, 1, 0, data, episodes[:1], sim)


def test_replay_and_the_straight_line_reach_what_holding_still_does_not(data):
    with ArmSim(render=False) as sim:
        tasks = cut_trials(NEAR, 6, 0, data, np.arange(4), sim)
        results = {each.name: each for each in run_baselines(tasks, sim, seed=0)}
        assert results["hold"].first_hit.successes == 0
        assert results["straight"].held.successes == results["replay"].held.successes == 6
        assert results["random"].held.successes < 6
        far = cut_trials(ANYWHERE, 2, 0, data, np.arange(4), sim)
        assert [each.name for each in run_baselines(far, sim, seed=0)] == ["hold", "random", "straight"]


def test_planners_are_compared_pair_by_pair():
    good, bad = Outcome(True, True, 0.0), Outcome(False, True, 0.1)
    first, second = Results("a", [good] * 9 + [bad]), Results("b", [good] * 4 + [bad] * 5 + [good])
    pair = first.compared_with(second)
    assert (pair.only_first, pair.only_second, pair.tasks) == (5, 1, 10)
    assert pair.p_value == pytest.approx(2 * (1 + 6) / 64)  # binomial, 6 pairs that differ


def test_the_command_writes_every_task_and_pictures_of_failures(bundle, data, tmp_path, monkeypatch):
    reach = registry.SUITES["reach"]
    short = tuple(dataclasses.replace(task, budget_steps=15) for task in reach.tasks)
    monkeypatch.setitem(registry.SUITES, "reach", dataclasses.replace(reach, tasks=short))
    recording = sim_recording(tmp_path / "again.h5", episodes=2, steps=40, seed=78)
    out = tmp_path / "out"
    arguments = ["eval", str(bundle.folder), str(tmp_path / "again.h5"), "--episodes", "2", "--out", str(out)]
    answer = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert answer.exit_code == 0 and "icem holds" in answer.stdout
    facts = json.loads((out / "reach.json").read_text())
    assert facts["data"]["sha256"] == recording.sha256
    for kind in facts["tasks"]:
        policies = kind["policies"]
        assert {"icem", "proposal", "hold", "random", "straight"} <= set(policies)
        assert [len(each["outcomes"]) for each in policies.values()] == [2] * len(policies)
        assert policies["icem"]["plan_ms_median"] > 0
    assert {path.name for path in out.glob("*.png")} == {
        f"{kind}_{planner}.png" for kind in ("near", "anywhere") for planner in ("icem", "proposal")
    }
    for wrong, message in (
        (["--task", "fly"], "choose one of reach, push"),
        (["--planner", "luck"], "no planner luck"),
    ):
        assert message in str(CliRunner().invoke(app, [*arguments, *wrong]).exception)
