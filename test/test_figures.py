# SPDX-License-Identifier: Apache-2.0
"""Figures: every number that this project publishes is written in one format."""

import json

from lewm_model.evaluation.figures import write_figures


def test_a_figure_has_a_name_a_value_a_unit_and_the_command_that_gives_it_again(tmp_path):
    path = tmp_path / "new" / "summary.json"
    summary = write_figures(path, {"a.share": (2 / 3, "%"), "a.goals": (1234567, "goals")}, "make a", runs=[1, 2])
    assert json.loads(path.read_text()) == summary
    assert summary == {
        "figures": [
            {"name": "a.share", "value": 0.66667, "unit": "%", "command": "make a"},
            {"name": "a.goals", "value": 1234567, "unit": "goals", "command": "make a"},
        ],
        "runs": [1, 2],
    }


def test_what_could_not_be_measured_is_null_which_every_reader_of_json_understands(tmp_path):
    found = {"a.nan": (float("nan"), "s"), "a.none": (None, "s"), "a.infinite": (float("inf"), "s")}
    write_figures(tmp_path / "summary.json", found, "make a")
    text = (tmp_path / "summary.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert [figure["value"] for figure in json.loads(text)["figures"]] == [None, None, None]


def test_figures_of_another_part_stay_only_when_they_are_asked_to(tmp_path):
    path = tmp_path / "summary.json"
    write_figures(path, {"a.one": (1, ""), "a.two": (2, "")}, "first", gpu="H100")
    both = write_figures(path, {"a.two": (3, ""), "a.three": (4, "")}, "second", keep=True)
    assert {row["name"]: (row["value"], row["command"]) for row in both["figures"]} == {
        "a.one": (1, "first"), "a.two": (3, "second"), "a.three": (4, "second"),
    }  # fmt: skip
    assert both["gpu"] == "H100"
    assert len(write_figures(path, {"a.four": (5, "")}, "third")["figures"]) == 1
