# SPDX-License-Identifier: Apache-2.0
"""`make faults-train`, short: killed in the middle, and a full disk under a checkpoint."""

from pathlib import Path

import pytest

from validation import faults_train


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[faults_train.Run, float]:
    return faults_train.undisturbed(tmp_path_factory.mktemp("faults") / "whole", steps=24)


def test_a_run_that_is_killed_and_resumed_has_the_weights_of_an_undisturbed_one(
    tmp_path: Path, whole: tuple[faults_train.Run, float]
) -> None:
    run, duration_s = whole
    for share in (0.5, 0.3, 0.1, 0.02):  # earlier and earlier: the run may already have ended
        _, alive, same = faults_train.killed(run, tmp_path / str(share), share * duration_s)
        assert same
        if alive:
            return
    pytest.fail("no run was killed before its end")


def test_a_full_disk_leaves_the_checkpoint_before_and_says_so(
    tmp_path: Path, whole: tuple[faults_train.Run, float]
) -> None:
    assert faults_train.full_disk(whole[0], tmp_path / "full") == dict.fromkeys(
        ("stops", "says", "intact", "resumes"), True
    )
