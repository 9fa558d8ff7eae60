# SPDX-License-Identifier: Apache-2.0
"""`make eval`, short: its figures have their names, and the spoilt bundles are spoilt in the way that they say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from sim_recording import sim_recording

from lewm_model.config import resource
from lewm_model.evaluation import preflight as plannability
from validation import evaluate, spoilt_bundles


def test_the_figures_of_a_part_have_names_values_units_and_the_command(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"figures": [{"name": "eval.reach_probe_r2", "value": 0.5}]}))
    evaluate.main(["--only", "surprise", "--episodes", "2", "--hours", "0.01", "--out", str(tmp_path)])
    figures = {each["name"]: each for each in json.loads((tmp_path / "summary.json").read_text())["figures"]}
    assert figures["eval.reach_probe_r2"]["value"] == 0.5, "other parts' figures stay"
    for name in ("eval.surprise_auroc_teleport", "eval.surprise_auroc_colour"):
        assert figures[name]["value"] > 0.99 and "combined" in figures[name]["unit"]
        assert figures[name]["command"] == "make eval EPISODES=2 SEED=0"
    assert "eval.surprise_auroc_teleported_arm_imagination" in figures
    assert figures["eval.surprise_false_per_hour_combined"]["value"] == 0.0
    assert figures["eval.surprise_auroc_in_changing_light"]["value"] > 0.8
    assert figures["eval.false_alarms_per_hour_high"]["value"] > figures["eval.false_alarms_per_hour"]["value"] == 0.0


def test_shuffled_actions_are_the_same_ones_in_another_order(tmp_path):
    data = sim_recording(tmp_path / "two.h5", episodes=2, steps=20)
    mixed = spoilt_bundles.shuffled(data)
    ends = data.offsets + data.lengths - 1
    assert np.isnan(mixed.actions[ends]).all() and np.isnan(mixed.actions).sum() == np.isnan(data.actions).sum()
    assert not np.array_equal(mixed.actions, data.actions, equal_nan=True)
    np.testing.assert_array_equal(*(np.sort(each.actions[:, 0]) for each in (data, mixed)))
    assert mixed.sha256 != data.sha256, "no bundle takes it for the recording that it was trained on"


def test_the_other_camera_is_another_one_and_every_reason_is_one_the_preflight_gives():
    assert resource("worlds", "tabletop.sdf").read_text().count(spoilt_bundles.CAMERA) == 1
    reasons = Path(plannability.__file__).read_text()
    for case in (*evaluate.FIVE, *evaluate.MORE):
        assert case.bundle in spoilt_bundles.KINDS or resource(*case.bundle.split("/")).is_dir()
        assert not case.phrase or case.phrase in reasons
