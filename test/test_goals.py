# SPDX-License-Identifier: Apache-2.0
"""Goal pictures by name: what is in the folder, nothing outside it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lewm_ros.goals import EndedGoals, GoalError, GoalLibrary

RED = np.zeros((8, 6, 3), np.uint8)
RED[..., 0] = 200


def test_a_goal_is_found_by_the_name_of_its_file(tmp_path):
    cv2.imwrite(str(tmp_path / "tidy.png"), RED[..., ::-1])
    (tmp_path / "notes.txt").write_text("no picture")
    library = GoalLibrary(str(tmp_path))
    assert library.names() == ["tidy"]
    np.testing.assert_array_equal(library.picture("tidy"), RED)


@pytest.mark.parametrize("name", ["missing", "", "../secret", "tidy.png", "/etc/passwd", "a" * 10_000, "tidy\0"])
def test_a_name_that_is_not_there_is_refused_with_those_that_are(tmp_path, name):
    folder = tmp_path / "goals"
    folder.mkdir()
    for path in (folder / "tidy.png", tmp_path / "secret.png"):
        cv2.imwrite(str(path), RED)
    with pytest.raises(GoalError, match="there are tidy"):
        GoalLibrary(str(folder)).picture(name)


def test_a_folder_that_is_not_there_and_a_file_that_is_no_picture_are_refused(tmp_path):
    with pytest.raises(GoalError, match="is no folder"):
        GoalLibrary(str(tmp_path / "nowhere"))
    (tmp_path / "broken.png").write_bytes(b"PNG?")
    with pytest.raises(GoalError, match="cannot read a picture"):
        GoalLibrary(str(tmp_path)).picture("broken")
    with pytest.raises(GoalError, match="holds no picture"):
        GoalLibrary("").picture("tidy")


def test_a_picture_that_is_kept_can_be_chosen(tmp_path):
    library = GoalLibrary(str(tmp_path))
    name = library.save(RED)
    assert name is not None
    np.testing.assert_array_equal(library.picture(name), RED)
    assert GoalLibrary("").save(RED) is None


def test_which_goals_have_ended_is_known_to_the_next_process_and_a_disk_that_fails_is_told_once(tmp_path):
    said = []
    goals = EndedGoals(tmp_path / "state" / "ended", said.append)
    goals.add("1-aa", "cancelled")
    goals.add("1-aa", "replaced")
    assert EndedGoals(tmp_path / "state" / "ended", said.append).how("1-aa") == "cancelled"
    assert goals.how("2-aa") is None and not said
    (tmp_path / "file").write_text("in the way")
    broken = EndedGoals(tmp_path / "file" / "ended", said.append)
    broken.add("1-aa", "cancelled")
    assert broken.how("1-aa") == "cancelled"
    assert len(said) == 1 and "cannot write" in said[0]
