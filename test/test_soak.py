# SPDX-License-Identifier: Apache-2.0
"""`make soak`, short: its numbers are sane, and it would see a leak."""

import json
import os

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")


from validation import soak
from validation.rig import NODES


def test_growth_is_told_from_the_first_window_after_the_warm_up_to_the_last():
    times = np.arange(10.0, 1801.0, 10.0)  # half an hour
    once = np.where(times < 100, 50.0, 200.0)  # what a process needs from the second minute on
    assert soak.growth_percent(times, once) == 0.0
    leaking = 200.0 + times * 100.0 / 1800
    assert soak.growth_percent(times, leaking) == pytest.approx(100 * (292 / 215 - 1), abs=1.0)
    hiccup = np.where((times > 1700) & (times < 1760), 400.0, 200.0)
    assert soak.growth_percent(times, hiccup) == 0.0


def test_a_short_soak_has_sane_numbers_and_leaves_a_table_and_a_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", os.environ["ROS_DOMAIN_ID"])  # it takes one of its own
    soak.main(["--minutes", "0.67", "--seed", "1", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    for word in (*NODES, "missed", "soak.rss_growth_percent"):
        assert word in printed

    summary = json.loads((tmp_path / "summary.json").read_text())
    figures = {figure["name"]: figure["value"] for figure in summary["figures"]}
    assert all(set(figure) == {"name", "value", "unit", "command"} for figure in summary["figures"])
    assert figures["soak.minutes"] == 0.67
    assert figures["soak.commands"] > 20
    assert 0 < figures["soak.frame_to_command_ms_p50"] < 5000
    assert figures["soak.frames"] > 100
    assert abs(figures["soak.rss_growth_percent"]) < 25
    assert np.isfinite(figures["soak.latency_growth_percent"])
    for sample in summary["samples"]:
        assert all(10 < mib < 4000 for mib in sample["rss_mib"].values())
    assert len(summary["samples"]) == 12
    assert cv2.imread(str(tmp_path / "soak.png")) is not None
