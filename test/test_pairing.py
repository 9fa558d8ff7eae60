# SPDX-License-Identifier: Apache-2.0
"""Actions that do not belong to the pictures are named, and those that do are accepted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import dot_recording
from typer.testing import CliRunner

from lewm_model.cli.main import app
from lewm_model.data.clips import Episodes, load_episodes
from lewm_model.data.errors import DataError
from lewm_model.data.pairing import MOST_APART, PAIRS_APART, pair
from validation.recordings import SPOILS, draw, spoil

SAID = {
    "lag": "before its action|after its action",
    "swap": "columns are exchanged",
    "sign": "the sign is wrong",
    "unit": "times as far as its action says",
    "mirrored": "in different poses|are mirrored",
    "other pictures": "in different poses|do not show the commanded motion",
}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Episodes:
    return load_episodes(dot_recording(tmp_path_factory.mktemp("data") / "dots.h5", episodes=40, steps=60))


def test_good_recordings_are_left_in_peace(pool: Episodes) -> None:
    for seed in range(5):
        found = pair(draw(pool, np.random.default_rng(seed)))
        assert found.wrong == [] and found.doubts == []
        assert found.lag_steps == pytest.approx(0.0, abs=0.5) and found.correlation > 0.5


@pytest.mark.parametrize("kind", SPOILS)
def test_what_was_spoilt_is_named(pool: Episodes, kind: str) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        with_it = pair(spoil(draw(pool, rng), kind, rng)).wrong
        assert any(word in "; ".join(with_it) for word in SAID[kind].split("|")), with_it


def test_a_conversion_refuses_what_does_not_fit_unless_it_is_accepted(tmp_path: Path) -> None:
    import h5py

    path = dot_recording(tmp_path / "dots.h5", episodes=12, steps=40)
    with h5py.File(path, "r+") as file:
        file["action"][:] = -file["action"][:]
    arguments = ["convert", str(path), "--out", str(tmp_path / "out.h5")]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, DataError) and "the sign is wrong" in str(result.exception)
    assert not (tmp_path / "out.h5").exists() and not list(tmp_path.glob("*.unchecked*"))
    result = CliRunner().invoke(app, [*arguments, "--accept-doubts"])
    assert result.exit_code == 0 and "problem: the action a moves its joint the other way" in result.output


def test_a_steady_motion_and_a_short_recording_say_nothing(pool: Episodes) -> None:
    from dataclasses import replace

    short = replace(pool, offsets=pool.offsets[:1], lengths=pool.lengths[:1])
    assert pair(short).wrong == []
    steady = replace(pool, actions=np.full_like(pool.actions, 0.5), proprio=None)
    assert not any("do not show the commanded motion" in said for said in pair(steady).wrong)


def test_many_episodes_that_are_all_shorter_than_the_lags_are_no_fault(pool: Episodes) -> None:
    from dataclasses import replace

    offsets = np.concatenate([o + np.arange(0, n - 12, 12) for o, n in zip(pool.offsets, pool.lengths, strict=True)])
    actions = pool.actions.copy()
    actions[offsets + 11] = np.nan
    found = pair(replace(pool, actions=actions, offsets=offsets, lengths=np.full(len(offsets), 12)))
    assert found.frames > 150 and found.lag_steps is None
    assert not any("do not show" in said for said in found.wrong), found.wrong


def test_two_episodes_that_pass_through_one_view_in_different_poses_are_no_fault(pool: Episodes) -> None:
    """A view can hide a joint; however many frames two episodes have in it, they are one observation."""
    from dataclasses import replace

    pixels = pool.pixels.copy()
    first, second = pool.offsets[:2]
    pixels[second + 20 : second + 50] = pixels[first + 20 : first + 50]
    found = pair(replace(pool, pixels=pixels, offsets=pool.offsets[:10], lengths=pool.lengths[:10]))
    assert found.apart > MOST_APART and found.pairs_apart < PAIRS_APART
    assert not any("different poses" in said for said in found.wrong), found.wrong


def test_joints_that_the_camera_does_not_see_or_that_turn_steadily_are_no_fault(pool: Episodes) -> None:
    from dataclasses import replace

    assert pool.proprio is not None
    rng, columns = np.random.default_rng(0), len(pool.actions)
    steady = np.full((columns, 1), 1.0, np.float32)
    unseen = np.concatenate([np.cumsum(rng.normal(size=n)) for n in pool.lengths])[:, None].astype(np.float32)
    turned = 0.05 * np.concatenate([np.arange(n) for n in pool.lengths])[:, None].astype(np.float32)
    actions = np.concatenate([pool.actions, steady, np.diff(unseen, axis=0, append=0.0) / 0.05], 1)
    more = {"action_names": ("a", "b", "roll", "hidden"), "action_kinds": ("joint_velocity",) * 4}
    found = pair(
        replace(
            pool,
            actions=actions.astype(np.float32),
            proprio=np.concatenate([pool.proprio, turned, unseen], 1),
            action_units=("rad/s",) * 4,
            **more,  # type: ignore[arg-type]
        )
    )
    assert not any("exchanged" in said or "different poses" in said for said in found.wrong), found.wrong
