# SPDX-License-Identifier: Apache-2.0
"""No command replaces what the user cannot make again."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bags import BagWriter, write_motion
from test_bag import motion, number, picture
from tiny import dot_recording, tiny_bundle
from typer.testing import CliRunner

from lewm_model.cli.main import app
from lewm_model.data.clips import load_episodes
from lewm_model.data.episodes import EpisodeWriter
from lewm_model.data.errors import DataError
from lewm_model.data.outputs import check_output, is_ours


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    with BagWriter(tmp_path / "s1.mcap") as bag:
        write_motion(bag, motion, 0.05 * np.arange(30), picture)
    return tmp_path / "s1.mcap"


def refused(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, DataError), result.output
    return str(result.exception)


def test_no_command_replaces_what_it_reads_or_a_file_that_is_not_ours(recording: Path, tmp_path: Path) -> None:
    other, photo = tmp_path / "s2.mcap", tmp_path / "holiday.png"
    other.write_bytes(recording.read_bytes())
    photo.write_bytes(b"\x89PNG a photograph of mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    (tmp_path / "made").mkdir()
    bundle = tiny_bundle(tmp_path / "made").folder
    dots = dot_recording(tmp_path / "dots.h5", seed=7)
    (tmp_path / "link.h5").symlink_to(dots)
    content = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for arguments, reason in (
        (["convert", other, "--out", recording], "not written by this program"),
        (["convert", recording, "--out", recording], "is also read"),
        (["convert", recording, "--out", recording, "--overwrite"], "is also read"),
        (["convert", other, "--out", recording, "--overwrite"], "not written by this program"),
        (["convert", dots, "--out", tmp_path / "link.h5", "--overwrite"], "is also read"),
        (["collect", recording], "not written by this program"),
        (["collect", dots], "give another name, or --overwrite"),
        (["record", recording], "not written by this program"),
        (["train", dots, tmp_path / "mine"], "not written by this program"),
        (["train", dots, tmp_path, "--overwrite"], "lies in"),
        (["train", dots, bundle], "or --overwrite"),
        (["import", bundle / "weights.safetensors", bundle, "--overwrite"], "lies in"),
        (["bundle", bundle, "--to-swm", tmp_path / "mine"], "not written by this program"),
        (["bundle", bundle, "--to-swm", bundle, "--overwrite"], "is also read"),
        (["report", bundle, "--out", tmp_path / "mine"], "not written by this program"),
        (["data", "report", dots, "--out", photo], "not written by this program"),
        (["data", "report", dots, "--out", dots], "is also read"),
    ):
        assert reason in refused(*arguments), arguments
    assert content == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_our_own_outputs_are_replaced_when_that_is_said(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    for more in ([], ["--overwrite"]):
        result = CliRunner().invoke(app, ["convert", str(recording), "--out", str(out), *more])
        assert result.exit_code == 0, result.exception
        assert is_ours(out)
    assert "--overwrite" in refused("convert", recording, "--out", out)
    drawing = tmp_path / "drawing.png"
    for _ in range(2):  # a drawing may be replaced
        result = CliRunner().invoke(app, ["data", "report", str(out), "--out", str(drawing)])
        assert result.exit_code == 0 and is_ours(drawing), result.exception
    (tmp_path / "empty").mkdir()
    check_output(tmp_path / "empty")


def test_a_home_folder_that_the_shell_did_not_expand_is_no_folder_of_that_name(recording: Path) -> None:
    assert "called ~" in refused("convert", recording, "--out=~/arm.h5")


def test_pictures_without_pixels_are_refused(recording: Path, tmp_path: Path) -> None:
    assert "--image-size is 0" in refused("convert", recording, "--out", tmp_path / "out.h5", "--image-size", "0")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EOPNOTSUPP])  # the disk's answer to setting room aside
def test_a_full_disk_is_told_and_nothing_is_left(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fallocate(*_: object) -> int:
        ctypes.set_errno(number)
        return -1

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("lewm_model.data.episodes._LIBRARY", SimpleNamespace(fallocate=fallocate))
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=1000))
    result = CliRunner().invoke(app, ["convert", str(recording), "--out", str(tmp_path / "out.h5")])
    assert isinstance(result.exception, OSError) and "the disk is full; make room" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["s1.mcap"]


def test_room_for_an_episode_is_set_aside_before_it_is_written_and_what_is_left_is_freed(tmp_path: Path) -> None:
    pixels, still = np.zeros((20, 32, 32, 3), np.uint8), np.zeros((20, 1))
    with EpisodeWriter(tmp_path / "out.h5", 32, ("a",), 0.05) as writer:
        writer.append(pixels, still[1:], still)
        set_aside = os.stat(tmp_path / "out.h5.part").st_blocks * 512
    assert set_aside > 2**24 > 8 * os.stat(tmp_path / "out.h5").st_blocks * 512


def test_two_commands_with_one_output_do_not_mix(recording: Path, tmp_path: Path) -> None:
    """Each writes beside the output under a name of its own, so that the last one to end counts, whole."""
    with BagWriter(tmp_path / "s2.mcap") as bag:
        write_motion(bag, motion, 0.05 * np.arange(30), lambda i: picture(100 + i))
    out = str(tmp_path / "out.h5")
    command = [sys.executable, "-m", "lewm_model.cli.main", "convert", "--image-size", "32"]
    both = [subprocess.Popen([*command, str(path), "--out", out]) for path in (recording, tmp_path / "s2.mcap")]
    ended = [one.wait() for one in both]
    assert 0 in ended
    shown = {number(pixels) // 100 for pixels in load_episodes(Path(out)).pixels}
    assert len(shown) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.h5", "s1.mcap", "s2.mcap"]
