# SPDX-License-Identifier: Apache-2.0
"""The report is one page that needs nothing else, shows what is known and says what is missing."""

import json
import re

import numpy as np
import pytest
from tiny import dot_recording
from typer.testing import CliRunner

from lewm_model.bundle.bundle import load_bundle
from lewm_model.cli.main import app
from lewm_model.config import resource
from lewm_model.data.clips import DataError, Episodes, load_episodes
from lewm_model.evaluation.summary import write_report
from lewm_model.robot.observation import Observation
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.collect import record_episode
from lewm_model.sim.random_motion import RANDOM
from lewm_model.training.report import Log


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(resource("models", "reach"))


@pytest.fixture(scope="module")
def recording() -> Episodes:
    """One episode of the simulated arm that the shipped model was not trained on."""
    with ArmSim() as sim:
        pixels, actions, proprio = record_episode(sim, RANDOM, 77, 0, 40, Observation.of_one((64, 64)))
        names = sim.names
    actions = np.vstack([actions, np.full((1, 2), np.nan, np.float32)])
    offsets, lengths = np.array([0]), np.array([41])
    return Episodes(pixels, actions, proprio, offsets, lengths, 0.05, names, ("joint_velocity",) * 2, "none", "a test")


def test_it_holds_its_pictures_itself_and_loads_nothing(bundle, recording, tmp_path):
    run, evaluation = tmp_path / "run", tmp_path / "eval"
    run.mkdir()
    log = Log(run, 0)
    for step in range(5):
        log.write("train", step, {"prediction": 1.0 / (step + 1)})
        log.write("validation", step, {"identity": 0.4})
    log.close()
    (evaluation / "reach").mkdir(parents=True)
    figures = [{"name": "eval.<held>", "value": 97.5, "unit": "%", "command": "make eval"}]
    (evaluation / "reach" / "summary.json").write_text(json.dumps({"figures": figures}))
    page = write_report(bundle, tmp_path / "out", run, evaluation, recording).read_text()
    assert page.count("data:image/png;base64,") == 4  # curves, rollouts, latents, calibration
    assert not re.search(r"(src|href)=['\"](?!data:)", page) and "<script" not in page
    assert "http" not in re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page)  # which may spell anything
    for name in ("training", "rollouts", "latents", "calibration"):
        assert (tmp_path / "out" / f"{name}.png").stat().st_size > 5000
    for text in (
        *bundle.files.values(),
        bundle.training["commit"],
        "shoulder",
        "eval.&lt;held&gt;",
        "97.5",
        "make eval",
    ):
        assert text in page
    assert "was given" not in page, "nothing is missing"


def test_what_is_not_given_is_said_to_be_missing_and_how_to_get_it(bundle, tmp_path):
    result = CliRunner().invoke(app, ["report", str(bundle.folder), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "report.html").read_text()
    for option in ("--run", "--data", "--eval"):
        assert option in page


def test_folders_without_anything_to_show_and_other_recordings_are_refused(bundle, tmp_path):
    with pytest.raises(DataError, match="holds no training curves"):
        write_report(bundle, tmp_path / "out", run=tmp_path)
    with pytest.raises(DataError, match=r"has no summary\.json"):
        write_report(bundle, tmp_path / "out", evaluation=tmp_path / "nowhere")
    (tmp_path / "summary.json").write_text("[]")
    with pytest.raises(DataError, match="holds no figures"):
        write_report(bundle, tmp_path / "out", evaluation=tmp_path)
    other = load_episodes(dot_recording(tmp_path / "dots.h5", episodes=2))
    with pytest.raises(DataError, match="do not fit the bundle"):
        write_report(bundle, tmp_path / "out", data=other)
