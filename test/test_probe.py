# SPDX-License-Identifier: Apache-2.0
"""Probes find what is in a latent, do not find what is not, and are judged on episodes that they were not fitted to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bundles import tiny_bundle
from sim_recording import sim_recording

from lewm_model.data.clips import DataError
from lewm_model.evaluation import probe
from lewm_model.evaluation.probe import context_rows, fit, moved_object, probe_bundle, table
from lewm_model.robot.observation import Observation
from lewm_model.sim.arm import ArmSim

RNG = np.random.default_rng(0)
OWNER = np.repeat(np.arange(40), 50)


@pytest.fixture(autouse=True)
def short_fits(monkeypatch):
    monkeypatch.setattr(probe, "MLP_STEPS", 300)


def judged(inputs, wanted):
    return {each.probe: each for each in fit("it", inputs, wanted, OWNER, seed=0)}


def test_a_linear_target_is_found_by_both_and_a_curved_one_by_the_mlp():
    latents = RNG.standard_normal((2000, 6))
    linear, curved = latents @ RNG.standard_normal((6, 2)) + 3.0, np.abs(latents[:, :1])
    both, mlp = judged(latents, linear), judged(latents, curved)
    assert both["ridge"].r2 > 0.999 and both["mlp"].r2 > 0.98
    assert mlp["ridge"].r2 < 0.1 and mlp["mlp"].r2 > 0.8
    assert both["ridge"].mse < 0.01 and both["ridge"].r > 0.999


def test_what_only_names_the_episode_is_not_found():
    """With frames of one episode on both sides of the split, this would look like knowledge."""
    names = RNG.standard_normal((40, 4))[OWNER]
    constants = RNG.standard_normal((40, 1))[OWNER]
    found = judged(names, constants)
    assert found["ridge"].r2 < 0.3 and found["mlp"].r2 < 0.3
    assert found["mlp"].episodes == round(probe.TEST_SHARE * 40) and found["mlp"].frames == 50 * 12


def test_a_context_ends_at_its_frame_and_stays_in_the_episode(tmp_path):
    data = sim_recording(tmp_path / "two.h5", episodes=2, steps=15)
    contexts, now = context_rows(data, np.array([0, 1]), 5)
    np.testing.assert_array_equal(contexts[:, -1], now)
    np.testing.assert_array_equal(np.diff(contexts, axis=1), np.full((len(now), 2), 5))
    assert now.tolist() == [10, 11, 12, 13, 14, 26, 27, 28, 29, 30]  # 16 frames each, the last has no action
    assert np.isfinite(data.actions[now]).all() and np.isfinite(data.actions[now - 1]).all()


def test_moved_object_can_be_seen_and_lie_where_it_is_said():
    with ArmSim() as sim:
        pictures, poses = moved_object(sim, "block", Observation.of_one((64, 64)), 6, seed=0)
        again, _ = moved_object(sim, "block", Observation.of_one((64, 64)), 2, seed=0)
    np.testing.assert_array_equal(pictures[:2], again)
    for picture, (x, y, _) in zip(pictures, poses, strict=True):
        green = (picture[..., 1].astype(int) - picture[..., 0] > 60) & (picture[..., 1] > picture[..., 2])
        rows, columns = np.nonzero(green)
        metres = 1.32 / 64  # a pixel, on the table
        assert np.hypot((columns.mean() - 31.5) * metres - x, (31.5 - rows.mean()) * metres - y) < 0.04


def test_too_few_held_out_episodes_are_refused(tmp_path):
    bundle = tiny_bundle(tmp_path / "tiny")
    data = sim_recording(tmp_path / "few.h5", episodes=2, steps=15)
    with pytest.raises(DataError, match="2 held-out episodes are too few"):
        probe_bundle(bundle, data)


def test_a_bundle_is_probed_for_joints_end_effector_velocities_and_object(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "MLP_STEPS", 20)
    monkeypatch.setattr(probe, "FEWEST_EPISODES", 1)
    bundle = tiny_bundle(tmp_path / "tiny")
    data = sim_recording(tmp_path / "few.h5", episodes=5, steps=20)
    found = probe_bundle(bundle, data, object_frames=12)
    assert {each.target for each in found} == {
        "joint angles", "end effector", "joint velocities, 1 latent", "joint velocities, 3 latents",
        "object position", "object angle",
    }  # fmt: skip
    assert table(found).row_count == len(found) == 12


def test_a_bundle_for_a_task_that_is_not_simulated_is_probed_for_what_was_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "MLP_STEPS", 20)
    monkeypatch.setattr(probe, "FEWEST_EPISODES", 1)
    bundle = replace(tiny_bundle(tmp_path / "tiny"), task="stack")
    found = probe_bundle(bundle, sim_recording(tmp_path / "few.h5", episodes=5, steps=20))
    assert [each.target for each in found][::2] == [
        "joint angles", "joint velocities, 1 latent", "joint velocities, 3 latents",
    ]  # fmt: skip
