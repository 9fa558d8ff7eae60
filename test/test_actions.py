# SPDX-License-Identifier: Apache-2.0
"""Action groups: what the columns of an action are, and what follows for a plan."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from lewm_model.data.actions import action_spec
from lewm_model.data.clips import load_episodes
from lewm_model.data.episodes import EpisodeWriter
from lewm_model.data.errors import DataError
from lewm_model.planning.motion import KnotLimits
from lewm_model.robot.actions import ActionError, ActionGroup, ActionSpec, measure
from lewm_model.robot.limits import JointLimits

ARM_WITH_GRIPPER = ActionSpec(
    (
        ActionGroup("joint_velocity", ("lift", "turn"), "rad/s", (0.0, 0.5), (1.0, 0.5), (-1.0, -0.02), (1.0, 1.5)),
        ActionGroup("gripper", ("finger",), "m/s", (0.01,), (0.1,), (-0.2,), (0.3,)),
    ),
    control_dt_s=0.1,
    frameskip=2,
)


def test_what_is_asked_of_all_columns_goes_through_the_groups_in_order() -> None:
    spec = ARM_WITH_GRIPPER
    assert spec.names == ("lift", "turn", "finger") and spec.units == ("rad/s", "rad/s", "m/s")
    assert spec.kinds == ("joint_velocity", "joint_velocity", "gripper") and spec.drives_joints
    assert spec.block_s == pytest.approx(0.2)
    np.testing.assert_allclose(spec.full_step, [0.1, 0.15, 0.03])
    np.testing.assert_allclose(spec.still, np.tile([0.0, -1.0, -0.1], 2), atol=1e-7)


def test_an_action_survives_json_and_that_of_schema_1_is_one_group() -> None:
    import json

    assert ActionSpec.from_dict(json.loads(json.dumps(asdict(ARM_WITH_GRIPPER)))) == ARM_WITH_GRIPPER
    old = {"names": ["a"], "kind": "joint_velocity", "unit": "rad/s", "control_dt_s": 0.05, "frameskip": 5}
    old |= {"mean": [0.1], "std": [1.0], "low": [-1.0], "high": [2.0]}
    spec = ActionSpec.from_dict(old)
    assert len(spec.groups) == 1 and spec.high == (2.0,) and spec.kinds == ("joint_velocity",)
    for wrong in (
        {**old, "kind": "torque"},
        {**old, "std": [0.0]},
        {**old, "more": 1},
        {"groups": [3]},
        {"groups": []},
    ):
        with pytest.raises(ActionError):
            ActionSpec.from_dict(wrong)


def test_the_range_of_a_recording_is_that_of_each_side_and_one_wrong_row_does_not_make_it() -> None:
    rows = np.random.default_rng(0).uniform([-0.02, -1.0], [1.5, 1.0], (500, 2))
    rows[7, 0] = -124.7
    spec = measure(("a", "b"), ("joint_velocity", "gripper"), ("rad/s", "rad/s"), rows, 0.05, 5)
    assert [group.kind for group in spec.groups] == ["joint_velocity", "gripper"]
    assert -0.03 < spec.low[0] < -0.01 and 1.4 < spec.high[0] < 1.5
    least, greatest = spec.within
    assert least[0] == spec.low[0] and greatest[0] == spec.high[0]


def test_a_plan_may_use_the_whole_recorded_range_of_a_joint_that_went_one_way_only() -> None:
    spec = measure(
        ("a",), ("joint_velocity",), ("rad/s",), np.random.default_rng(0).uniform(0.1, 1.5, (500, 1)), 0.05, 5
    )
    limits = JointLimits(("a",), *(np.array([value]) for value in (-3.0, 3.0, 2.0, 20.0, 400.0)))
    knots = KnotLimits(limits, spec.block_s, spec.within)
    wanted = np.array([[[5.0]] * 4, [[-5.0]] * 4])
    found = knots.project(np.zeros(1), np.zeros(1), wanted)
    assert found[0].max() == pytest.approx(spec.high[0]) and found[1].min() == 0.0
    with pytest.raises(ValueError, match="0 must lie between"):
        KnotLimits(limits, spec.block_s, (np.array([0.1]), np.array([1.0])))


def test_a_recording_says_the_kind_and_unit_of_each_column(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path, kinds, units = tmp_path / "arm.h5", ("joint_velocity", "gripper"), ("rad/s", "m/s")
    with EpisodeWriter(path, 16, ("lift", "finger"), 0.1, kinds, action_units=units) as writer:
        for _ in range(2):
            writer.append(np.zeros((9, 16, 16, 3), np.uint8), rng.normal(size=(8, 2)), rng.normal(size=(9, 2)))
    data = load_episodes(path)
    assert data.action_kinds == kinds and data.action_units == units and data.velocities
    assert action_spec(data, np.arange(2), 2).kinds == kinds


def test_a_joint_that_never_moves_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "arm.h5"
    with EpisodeWriter(path, 16, ("lift", "stuck"), 0.1) as writer:
        actions = np.random.default_rng(0).normal(size=(8, 2)) * [1.0, 0.0]
        writer.append(np.zeros((9, 16, 16, 3), np.uint8), actions, np.zeros((9, 2)))
    with pytest.raises(DataError, match=r"stuck never moves in the recording.*lewm convert"):
        action_spec(load_episodes(path), np.arange(1), 2)
