# SPDX-License-Identifier: Apache-2.0
"""`lewm robust`: a change shows in the picture, the world is as it was afterwards, the table says what was held."""

import json
from pathlib import Path

import numpy as np
import pytest

from lewm_model.bundle.bundle import load_bundle
from lewm_model.config import resource
from lewm_model.evaluation.robustness import (
    Change,
    Row,
    changed_world,
    changes,
    goal_picture,
    refused,
    robustness,
    write,
)
from lewm_model.evaluation.statistics import Rate
from lewm_model.runtime import load_runtime
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.world import State
from lewm_model.tasks.task import picture_of

POSE = np.array([-0.7, 1.2])


@pytest.fixture(scope="module")
def sim() -> ArmSim:
    return ArmSim()


@pytest.mark.parametrize("change", changes()[1:], ids=lambda change: f"{change.factor} {change.severity}")
def test_each_change_changes_the_picture_and_leaves_the_world_as_it_was(sim: ArmSim, change: Change) -> None:
    before = goal_picture(sim, POSE).astype(int)
    with changed_world(sim, change, seed=0):
        found = goal_picture(sim, POSE)
    assert found.dtype == np.uint8 and found.shape == before.shape
    assert np.abs(found - before).mean() > 0.3
    np.testing.assert_array_equal(goal_picture(sim, POSE), before)


def test_a_camera_that_is_shifted_by_a_share_of_the_picture_moves_things_by_that_share(sim: ArmSim) -> None:
    columns = {}
    for change in changes():
        if change.factor in ("none", "camera.shift"):
            with changed_world(sim, change, seed=0):
                picture = goal_picture(sim, POSE).astype(int)
            red = (picture[..., 0] > 120) & (picture[..., 1] < 60)
            columns[change.severity] = float(np.nonzero(red)[1].mean()) / picture.shape[1]
    assert columns[""] - columns["3 %"] == pytest.approx(0.03, abs=0.005)
    assert columns[""] - columns["5 %"] == pytest.approx(0.05, abs=0.005)


def test_the_table_holds_the_worst_row_of_a_group_and_a_picture(tmp_path: Path) -> None:
    runtime = load_runtime(load_bundle(resource("models", "reach")))
    rows = list(robustness(runtime, goals=2, only=("clean",)))
    assert [row.change.factor for row in rows] == ["none"]
    write(rows, tmp_path, "lewm robust models/reach --goals 2 --only clean", "reach")
    figures = {row["name"]: row["value"] for row in json.loads((tmp_path / "summary.json").read_text())["figures"]}
    assert figures["robust.reach_clean"] == rows[0].goal_clean.percent == figures["robust.row_none"]
    assert (tmp_path / "robust.png").stat().st_size > 1000


def test_the_nodes_take_goals_at_another_table_and_in_noise_and_refuse_what_is_new(
    sim: ArmSim,
) -> None:
    runtime = load_runtime(load_bundle(resource("models", "reach")))
    sight, poses = runtime.bundle.observation, np.linspace(0.8 * sim.limits.lower, 0.8 * sim.limits.upper, 4)
    share = {}
    for change in changes():
        pictures = []
        for number, pose in enumerate(poses):
            with changed_world(sim, change, number):
                pictures.append(picture_of(State(pose), sim, sight))
        share[f"{change.factor} {change.severity}"] = refused(runtime, pictures).percent
    for taken in (
        "none ",
        "table.color bluish",
        "table.color dark",
        "table.color brown",
        "table.texture wood",
        "noise 0.08",
        "light.low x 0.3, noise 0.04",
        "camera.zoom 3 %",
    ):
        assert share[taken] == 0.0, taken
    for new in ("distractors 5 things", "occlusion a tenth", "agent.color mixed"):
        assert share[new] == 100.0, new


def test_the_rows_that_decide_are_tried_with_more_goals_and_two_processes_count_what_one_does() -> None:
    runtime, only = load_runtime(load_bundle(resource("models", "reach"))), ("blur",)
    alone = list(robustness(runtime, goals=1, only=only, goal_changed=False))
    *rows, decides = robustness(runtime, goals=1, only=only, goal_changed=False, decide=2, jobs=2)
    assert rows == alone and [row.change.severity for row in rows] == ["0.8%", "1.6%"]
    assert decides.goal_clean.trials == 2 and decides.change in [row.change for row in rows]


def test_pictures_of_another_renderer_are_goals_of_their_poses() -> None:
    folder = Path(__file__).parent / "data" / "gazebo_frames" / "plain"
    runtime = load_runtime(load_bundle(resource("models", "reach")))
    (row,) = robustness(runtime, goals=2, only=("frames",), frames=(folder,))
    assert row.change.severity == "plain" and row.goal_clean.trials == 2
    assert row.off_steps < 1.0


def test_what_was_measured_is_written_row_by_row_and_a_group_of_severe_changes_has_no_worst_mild_one(
    tmp_path: Path,
) -> None:
    severe = next(change for change in changes() if change.severity == "x 0.4")
    write([Row(severe, Rate(3, 4), None, 0.5, None)], tmp_path, "lewm robust models/reach", "reach")
    figures = {row["name"]: row["value"] for row in json.loads((tmp_path / "summary.json").read_text())["figures"]}
    assert figures["robust.row_light_strength_x_0_4"] == 75.0 and "robust.reach_light" not in figures


def test_a_bundle_that_pushes_is_tried_in_its_own_task_and_its_figures_have_its_name(tmp_path: Path) -> None:
    runtime = load_runtime(load_bundle(resource("models", "push")))
    rows = list(robustness(runtime, goals=1, only=("clean",)))
    write(rows, tmp_path, "lewm robust models/push --goals 1 --only clean", "push")
    names = {row["name"] for row in json.loads((tmp_path / "summary.json").read_text())["figures"]}
    assert "robust.push_clean" in names and rows[0].goal_clean.trials == 1
    with pytest.raises(ValueError, match="the task of this bundle is push"):
        next(robustness(runtime, goals=1, frames=(tmp_path,)))
