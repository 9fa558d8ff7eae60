# SPDX-License-Identifier: Apache-2.0
"""The preflight says GO for the shipped model and NO-GO, with the right reason, where something is wrong with it.

Models that were trained wrongly are examined by `make eval`; here the shipped one is spoilt in ways that look the same.
"""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from bundles import tiny_bundle
from sim_recording import sim_recording
from typer.testing import CliRunner

from lewm_model.bundle.bundle import BundleError, load_bundle, save_description, sha256
from lewm_model.bundle.verdict import GO, NO_GO, Verdict, verdict
from lewm_model.cli.main import app
from lewm_model.config import POLICY_PLAN, PlanConfig, resource
from lewm_model.data.clips import DataError
from lewm_model.evaluation import preflight as plannability
from lewm_model.evaluation.preflight import preflight, save_preflight, simulated
from lewm_model.evaluation.timing import plan_of
from lewm_model.runtime.onnx_backend import OnnxRuntime
from lewm_model.runtime.torch_backend import TorchRuntime

TIMES = {"encoder_ms": {"p50": 2.0}, "rollout_ms": {"p50": 4.0}}


@pytest.fixture(scope="module")
def runtime():
    return OnnxRuntime(load_bundle(resource("models", "reach")))


@pytest.fixture(scope="module")
def data(runtime):
    return simulated(runtime.bundle)


@pytest.fixture(autouse=True)
def steady_machine(monkeypatch):
    """How busy the machine of the tests is says nothing about a model."""
    monkeypatch.setattr(plannability, "bench", lambda *arguments, **options: TIMES)


class Spoilt:
    """The shipped model with something else in the place of its encoder or its imagination."""

    def __init__(self, runtime, encode=lambda latent: latent, actions=lambda candidates: candidates):
        self.runtime, self.bundle, self.backend = runtime, runtime.bundle, runtime.backend
        self.change, self.actions = encode, actions

    def encode(self, image):
        return self.change(self.runtime.encode(image)).astype(np.float32)

    def rollout(self, context, past, candidates, goal):
        return self.runtime.rollout(context, past, self.actions(candidates), goal)


def test_the_shipped_model_is_go_and_says_so_in_its_bundle(runtime, data):
    found = preflight(runtime, data)
    assert (found.verdict, found.reason) == (GO, ""), found
    assert all(check.good and check.value is not None for check in found.checks)
    assert len(found.error_ratios) == 5 and max(found.error_ratios) < 0.1
    assert runtime.bundle.evaluation["preflight"]["verdict"] == GO
    assert verdict(runtime.bundle, plan_of(runtime.bundle)).no_go is None


def test_another_camera_is_named(runtime, data):
    turned = dataclasses.replace(data, pixels=np.rot90(data.pixels, axes=(1, 2)).copy())
    found = preflight(runtime, turned)
    assert found.verdict == NO_GO and "not those of the camera" in found.reason


def test_a_thing_that_was_put_down_is_told_from_another_camera(runtime, data):
    pixels = data.pixels.copy()
    pixels[:, 60:63, 1:4] = (150, 190, 150)  # in a corner that the arm does not reach
    found = preflight(runtime, dataclasses.replace(data, pixels=pixels))
    assert found.verdict == NO_GO and "make it known with `lewm calibrate`" in found.reason
    assert [check.name for check in found.checks if not check.good] == ["pictures"]


def test_latents_that_hardly_differ_have_collapsed(runtime, data):
    line = np.random.default_rng(0).standard_normal(runtime.bundle.model.latent_dim)
    line /= np.linalg.norm(line)
    for change in (lambda latent: 0.1 * latent, lambda latent: (latent @ line) * line):
        found = preflight(Spoilt(runtime, encode=change), data)
        assert found.verdict == NO_GO and "collapsed" in found.reason


def test_latents_that_are_not_finite_are_an_error(runtime, data):
    with pytest.raises(BundleError, match="not finite; train it anew"):
        preflight(Spoilt(runtime, encode=lambda latent: latent * np.nan), data)


def test_an_imagination_that_does_not_follow_the_actions_is_found_out(runtime, data):
    rng = np.random.default_rng(0)
    found = preflight(Spoilt(runtime, actions=lambda candidates: rng.permutation(candidates)), data)
    assert found.verdict == NO_GO and "does not follow the actions" in found.reason
    ranked = {check.name: check.value for check in found.checks}["recorded action's rank"]
    assert 0.35 < ranked < 0.65, "chance"


def test_a_model_that_was_never_trained_is_called_so(tmp_path, data):
    from safetensors.torch import save_file

    from lewm_model.bundle.bundle import WEIGHTS, save_description
    from lewm_model.models.lewm import LeWM

    shipped = load_bundle(resource("models", "reach"))
    torch.manual_seed(0)
    (tmp_path / "new").mkdir()
    save_file(LeWM(shipped.model).state_dict(), tmp_path / "new" / WEIGHTS)
    new = dataclasses.replace(shipped, folder=tmp_path / "new", heads=(), calibration=None, training={})
    found = preflight(TorchRuntime(save_description(new)), data)
    assert found.verdict == NO_GO and "not trained" in found.reason
    ranked = {check.name: check for check in found.checks}
    assert ranked["recorded action's rank"].value == pytest.approx(0.5, abs=0.02)
    assert ranked["pictures"].good and ranked["pictures"].value is None, "not known is no reason"


def test_a_plan_that_takes_too_long_is_a_reason_of_its_own(runtime, data, monkeypatch):
    slow = {**TIMES, "rollout_ms": {"p50": 80.0}}
    monkeypatch.setattr(plannability, "bench", lambda *arguments, **options: slow)
    found = preflight(runtime, data)
    assert found.verdict == NO_GO and "no plan is ready within plan.deadline_s" in found.reason


def test_the_verdict_is_kept_in_the_bundle_and_changes_nothing_else(tmp_path, runtime, data):
    folder = tmp_path / "reach"
    shutil.copytree(runtime.bundle.folder, folder)
    before = {path: sha256(path) for path in folder.rglob("*") if path.is_file() and path.name != "model.json"}
    description = json.loads((folder / "model.json").read_text())
    flawed = preflight(Spoilt(runtime, encode=lambda latent: 0.1 * latent), data)
    saved = save_preflight(load_bundle(folder), flawed)
    again = load_bundle(folder)
    said = verdict(again, plan_of(again))
    assert said == verdict(saved, plan_of(saved)) and "NO-GO: the latents have collapsed" in said.no_go
    assert {path: sha256(path) for path in before} == before
    now = json.loads((folder / "model.json").read_text())
    assert now["evaluation"].pop("preflight") != description["evaluation"].pop("preflight")
    for part, was in description.items():  # fields that earlier versions did not write are added
        kept = {name: now[part][name] for name in was} if isinstance(was, dict) else now[part]
        if part == "cameras":
            kept = [{name: camera[name] for name in old} for camera, old in zip(kept, was, strict=True)]
        assert kept == was, part


@pytest.mark.parametrize("found", [None, "bad", [1], {"verdict": "GO"}, {}])
def test_a_preflight_that_is_damaged_never_ends_a_node(runtime, found):
    bundle = dataclasses.replace(runtime.bundle, evaluation={"preflight": found})
    said = verdict(bundle, plan_of(bundle))
    assert said.no_go is None or "NO-GO" in said.no_go
    assert said.no_go or said.doubt, "none of these is a GO of just these files and settings"


def test_too_short_a_recording_and_another_arm_are_refused(tmp_path, runtime):
    with pytest.raises(DataError, match="frames can be planned from, 150 are needed"):
        preflight(runtime, sim_recording(tmp_path / "short.h5", episodes=2, steps=30))
    group = dataclasses.replace(runtime.bundle.actions.groups[0], names=("left", "right"))
    spec = dataclasses.replace(runtime.bundle.actions, groups=(group,))
    with pytest.raises(DataError, match="give a recording of its own arm and camera"):
        simulated(dataclasses.replace(runtime.bundle, actions=spec))


def test_the_command_says_what_is_missed_and_fails(tmp_path):
    bundle = tiny_bundle(tmp_path / "tiny")
    answer = CliRunner().invoke(app, ["doctor", "model", str(bundle.folder)])
    assert "ok   latency: a picture and one iteration" in answer.stdout and "miss " in answer.stdout
    assert "NO-GO" in str(answer.exception)
    judged = load_bundle(bundle.folder)
    assert verdict(judged, plan_of(judged)).no_go is not None


def test_a_verdict_is_of_the_files_and_settings_that_were_judged_and_of_no_others(runtime, data):
    plan = PlanConfig()
    found = preflight(runtime, data, plan=plan)
    assert found.verdict == GO
    go = dataclasses.replace(
        runtime.bundle, evaluation={"preflight": json.loads(json.dumps(dataclasses.asdict(found)))}
    )
    assert verdict(go, plan) == Verdict(None, None)
    slower = verdict(go, dataclasses.replace(plan, deadline_s=0.12, samples=32))
    assert slower.no_go is None and "plan.samples 64, not 32; plan.deadline_s 0.07, not 0.12" in slower.doubt
    drawn = {**go.files, "decoder.safetensors": "another"}
    assert verdict(dataclasses.replace(go, files=drawn), plan) == Verdict(None, None), "nothing is planned with it"
    for name in ("weights.safetensors", "heads.safetensors", "onnx/rollout.onnx"):
        other = verdict(dataclasses.replace(go, files={**go.files, name: "another"}), plan)
        assert other.no_go is None and "its files are not those that the preflight saw" in other.doubt
    bad = dataclasses.asdict(dataclasses.replace(found, verdict=NO_GO, reason="too slow"))
    no_go = dataclasses.replace(go, evaluation={"preflight": bad})
    assert "too slow" in verdict(no_go, dataclasses.replace(plan, deadline_s=0.5)).no_go, "until it is judged again"
    assert verdict(dataclasses.replace(no_go, files={**go.files, "weights.safetensors": "another"}), plan).no_go is None


@pytest.mark.parametrize(
    "command",
    [["doctor", "model", "{}"], ["robust", "{}", "--goals", "1"], ["eval", "{}", "--episodes", "1"]],
    ids=lambda command: command[0],
)
def test_a_model_of_another_task_is_refused_in_one_sentence(tmp_path, command):
    folder = tmp_path / "stacking"
    save_description(dataclasses.replace(tiny_bundle(folder), task="stack"))
    result = CliRunner().invoke(app, [part.format(folder) for part in command])
    assert isinstance(result.exception, (BundleError, DataError)), result.output
    assert "was trained for the task 'stack', " in str(result.exception)


def test_the_settings_of_a_params_file_are_those_that_are_judged_with_the_bundle_s_horizon(tmp_path):
    from lewm_model.cli.evaluation import _plan_in

    reach, push = (load_bundle(resource("models", name)) for name in ("reach", "push"))
    assert _plan_in(resource("config", "push.yaml"), push) == POLICY_PLAN
    assert _plan_in(resource("config", "plan.yaml"), reach) == PlanConfig()
    other = tmp_path / "other.yaml"
    other.write_text("/**/planner_node: {ros__parameters: {plan: {horizon: 7}}}")
    with pytest.raises(BundleError, match=r"horizon is 7, the bundle .* is made for plans of 5 blocks; leave"):
        _plan_in(other, reach)
