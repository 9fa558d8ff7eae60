# SPDX-License-Identifier: Apache-2.0
"""`lewm surprise`: its areas and rates are right, and the shipped model notices what it must."""

from __future__ import annotations

import dataclasses
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from lewm_model.bundle.bundle import BundleError, load_bundle
from lewm_model.cli.main import app
from lewm_model.config import resource
from lewm_model.evaluation import surprise as s
from lewm_model.robot.observation import Observation
from lewm_model.sim.arm import ArmSim


def test_the_area_is_how_often_a_positive_scores_above_a_negative():
    assert s.auroc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1.0
    assert s.auroc(np.array([0.0]), np.array([1.0, 2.0])) == 0.0
    assert s.auroc(np.zeros((2, 3)), np.zeros(4)) == 0.5
    assert s.auroc(np.array([1.0, 3.0]), np.array([0.0, 1.0, 2.0])) == pytest.approx((1.5 + 3) / 6)


def test_false_alarms_are_counted_in_frames_and_holds_an_hour():
    quiet = np.zeros((2, 36))
    quiet[0, 3:8] = 5.0  # five in a row: one hold
    quiet[1, [1, 4]] = 5.0
    scores = s.Scores(dict.fromkeys(s.DETECTORS, quiet), {}, np.ones(2, bool), {}, control_dt_s=0.05)
    found = s.false_alarms(scores)[-1]
    assert found.hours == pytest.approx(72 * 0.05 / 3600)
    assert found.frames_per_hour == pytest.approx(7 / found.hours)
    assert found.holds_per_hour == pytest.approx(1 / found.hours)
    assert found.frames_per_hour_below > found.frames_per_hour


def test_recoloured_things_have_their_own_colours_again():
    with ArmSim() as sim:
        own = sim.render().copy()
        for what in ("arm", *sim.objects):
            sim.recolour(what, (1, 2, 0))
            other = sim.render().copy()
            sim.recolour(what)
            assert 50 < (np.abs(other.astype(int) - own).max(2) > 40).sum() < own[..., 0].size // 4
            np.testing.assert_array_equal(sim.render(), own)
        with pytest.raises(ValueError, match="no object 'table'; it has block"):
            sim.recolour("table")


def test_the_shipped_model_notices_teleports_and_colours_but_not_an_undisturbed_arm(tmp_path):
    scores = s.score_episodes(load_bundle(resource("models", "reach")), episodes=3)
    found = {(each.kind, each.detector): each for each in s.judge(scores, 5)}
    for kind in ("teleport", "colour"):
        assert found[kind, "combined"].auroc > 0.99
        assert found[kind, "combined"].noticed_percent == 100.0 and found[kind, "combined"].episodes == 6
    # Each detector sees what the other one is blind to.
    assert found["teleported arm", "imagination"].auroc > 0.99 > 0.7 > found["teleported arm", "novelty"].auroc
    assert found["teleported object", "novelty"].auroc > 0.99
    assert s.false_alarms(scores)[-1].frames_per_hour == 0.0
    s.plot(tmp_path / "surprise.png", scores)
    assert (tmp_path / "surprise.png").stat().st_size > 10_000


def test_a_disturbance_begins_at_its_frame_and_shows_what_it_says():
    rng = np.random.default_rng(0)
    with ArmSim() as sim:
        view = Observation.of_one((64, 64))
        poses = np.linspace([-1.0, 0.5], [1.0, -0.5], 60)
        seen = s._drawn(sim, view, poses)
        shown = {kind: disturb(sim, view, seen, poses, 30, rng) for kind, disturb in s.KINDS.items()}
    assert all(pictures.shape == (s.WINDOW, 64, 64, 3) for pictures in shown.values())
    np.testing.assert_array_equal(shown["frozen"], np.repeat(seen[29:30], s.WINDOW, axis=0))
    np.testing.assert_array_equal(shown["time-shifted"], seen[30 - s.LAG : 30 - s.LAG + s.WINDOW])
    for kind in ("recoloured arm", "recoloured object", "teleported arm", "teleported object", "occluded"):
        assert (np.abs(shown[kind].astype(int) - seen[30:50]).max((1, 2, 3)) > 40).all(), kind


def test_hours_are_watched_in_a_light_that_changes_and_end_in_an_interval():
    scores = s.watch(load_bundle(resource("models", "reach")), hours=0.008, changing_light=True)
    quiet = s.false_alarms(scores)[-1]
    assert quiet.hours == pytest.approx(0.008, rel=0.1)
    low, high = quiet.holds_interval
    assert low <= quiet.holds_per_hour <= high and high > 3 / quiet.hours


def test_a_world_without_an_object_is_judged_by_what_it_can_show(tmp_path):
    tree = ElementTree.parse(resource("worlds", "tabletop.sdf"))
    world = tree.getroot().find("world")
    world.remove(next(model for model in world.findall("model") if model.get("name") == "block"))
    tree.write(tmp_path / "empty.sdf")
    scores = s.score_episodes(load_bundle(resource("models", "reach")), 1, world=tmp_path / "empty.sdf")
    kinds = {each.kind for each in s.judge(scores, 5)}
    assert {"recoloured arm", "teleported arm", "colour", "teleport"} <= kinds and not kinds & set(s.OF_OBJECT)
    s.plot(tmp_path / "surprise.png", scores)


def test_a_bundle_that_does_not_know_what_is_usual_is_refused():
    bundle = dataclasses.replace(load_bundle(resource("models", "reach")), calibration=None)
    with pytest.raises(BundleError, match="run `lewm calibrate`"):
        s.score_episodes(bundle, 1)


def test_the_command_leaves_numbers_and_a_picture(tmp_path):
    arguments = ["surprise", str(resource("models", "reach")), "--episodes", "1", "--out", str(tmp_path)]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    assert {each["detector"] for each in json.loads((tmp_path / "surprise.json").read_text())["undisturbed"]} == set(
        s.DETECTORS
    )
    assert (tmp_path / "surprise.png").is_file()
