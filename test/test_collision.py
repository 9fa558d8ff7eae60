# SPDX-License-Identifier: Apache-2.0
"""Self-collision: capsules along the links of an arm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from lewm_model.planning.motion import KnotLimits, Timeline
from lewm_model.robot.chain import Chain
from lewm_model.robot.collision import SelfCollision, segment_distance
from lewm_model.robot.limits import JointLimits
from lewm_ros.safety import Reason, Shield, ShieldConfig

PIECES, LENGTH_M = 4, 0.3
JOINTS = [f"joint{i}" for i in range(PIECES)]


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    """Four pieces of 0.3 m that fold in a plane."""
    links = "".join(f'<link name="link{i}"/>' for i in range(PIECES + 1)) + '<link name="base"/>'
    joints = (
        f'<joint name="{JOINTS[0]}" type="revolute"><parent link="base"/><child link="link0"/>'
        '<axis xyz="0 0 1"/></joint>'
    )
    for i in range(1, PIECES):
        joints += (
            f'<joint name="{JOINTS[i]}" type="revolute"><parent link="link{i - 1}"/><child link="link{i}"/>'
            f'<origin xyz="{LENGTH_M} 0 0"/><axis xyz="0 0 1"/></joint>'
        )
    joints += (
        f'<joint name="tip" type="fixed"><parent link="link{PIECES - 1}"/><child link="link{PIECES}"/>'
        f'<origin xyz="{LENGTH_M} 0 0"/></joint>'
    )
    path = tmp_path / "arm.urdf"
    path.write_text(f'<robot name="arm">{links}{joints}</robot>')
    return Chain.from_urdf(path, "base", f"link{PIECES}", JOINTS)


def test_a_stretched_arm_is_clear_and_a_folded_one_is_named(chain: Chain) -> None:
    arm = SelfCollision(chain, 0.04, np.zeros(PIECES))
    assert arm.find(np.zeros((1, PIECES))) is None
    folded = np.array([[0.0, 2.0, 2.0, 0.0]])
    assert arm.clearance(folded)[0] < 0.0
    assert "link" in str(arm.find(folded))


def test_neighbours_do_not_count_however_they_are_bent(chain: Chain) -> None:
    arm = SelfCollision(chain, 0.04, np.zeros(PIECES))
    assert arm.clearance(np.array([[0.0, 2.6, 0.0, 0.0]]))[0] > 0.0


def test_a_pose_that_is_no_number_touches(chain: Chain) -> None:
    arm = SelfCollision(chain, 0.04, np.zeros(PIECES))
    assert arm.find(np.full((1, PIECES), np.nan)) is not None


def test_radii_that_are_none_are_refused(chain: Chain) -> None:
    with pytest.raises(ValueError, match="above 0"):
        SelfCollision(chain, 0.0, np.zeros(PIECES))


def test_the_distance_of_segments_is_the_least_one() -> None:
    rng = np.random.default_rng(0)
    ends = rng.normal(size=(4, 40, 3))
    ends[1, :5] = ends[0, :5]  # points
    ends[3, 5:10] = ends[2, 5:10] + (ends[1, 5:10] - ends[0, 5:10])  # parallel
    found = segment_distance(*ends)
    for i in range(ends.shape[1]):
        a0, a1, b0, b1 = ends[:, i]

        def squared(x: np.ndarray, a0=a0, a1=a1, b0=b0, b1=b1) -> float:
            return float(np.square(a0 + x[0] * (a1 - a0) - b0 - x[1] * (b1 - b0)).sum())

        least = min(minimize(squared, start, bounds=[(0, 1)] * 2).fun for start in ([0, 0], [1, 1], [0.5, 0.5], [0, 1]))
        assert found[i] == pytest.approx(np.sqrt(least), abs=1e-4)


def test_the_shield_holds_a_plan_back_in_which_the_arm_hits_itself_and_lets_others_through(chain: Chain) -> None:
    one = np.ones(PIECES)
    limits = JointLimits(tuple(JOINTS), -2.8 * one, 2.8 * one, 1.5 * one, 9.0 * one, 150.0 * one)
    arm, now = SelfCollision(chain, 0.04, np.zeros(PIECES)), 100.0
    for knots, reason in ((24, Reason.SELF_COLLISION), (2, None)):
        shield = Shield(limits, ShieldConfig(), clock=lambda: now, steady=lambda: now, self_collision=arm)
        shield.frame(now)
        shield.joints(np.zeros(PIECES), now)
        shield.joints(np.zeros(PIECES), now)
        assert shield.arm() is None and shield.restart() is not None
        timeline = Timeline(now, np.zeros(PIECES), KnotLimits(limits, 0.25))
        wanted = np.repeat([[[0.0, 1.2, 1.2, 0.0]]], knots, axis=1)  # folds: the last piece comes round to the first
        timeline.splice(0, timeline.limits.project(np.zeros(PIECES), np.zeros(PIECES), wanted)[0])
        count = round((timeline.end_s - now) / 0.05) + 3
        refusal = shield.release(timeline.sample(now - 0.05 + 0.05 * np.arange(count)), now - 0.05)
        assert (None if refusal is None else refusal.reason) == reason
