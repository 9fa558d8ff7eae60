# SPDX-License-Identifier: Apache-2.0
"""The commands of README work as they stand there; those that take minutes are given options that make them short."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lewm_model.cli.main import app

ROOT = Path(__file__).resolve().parent.parent
SHORT = {
    "collect": "--episodes 16 --steps 40 --workers 1 --image-size 32",
    "train": "--config short.yaml",
    "eval": "--episodes 2 --planner proposal",
    "decoder": "--steps 3",
}
SHORT_TRAINING = """
model: {encoder_width: 32, encoder_depth: 1, encoder_heads: 2, encoder_mlp: 32, latent_dim: 8, projector_width: 32,
        predictor_width: 32, predictor_depth: 1, predictor_heads: 2, predictor_head_dim: 16, predictor_mlp: 32}
train: {steps: 4, batch: 8, head_steps: 4, threads: 1}
"""


def commands(first_word: str) -> list[str]:
    """README's commands that begin with a word, without their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [re.sub(r"\s+#.*", "", line).strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.split()[:1] == [first_word]]


def test_the_commands_of_your_own_model_work_one_after_the_other(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.yaml").write_text(SHORT_TRAINING)
    found = commands("lewm")
    assert len(found) >= 10
    for command in found:
        words = shlex.split(command)[1:]
        result = CliRunner().invoke(app, [*words, *shlex.split(SHORT.get(words[0], ""))])
        if words[:2] == ["doctor", "model"]:  # it gives a verdict, and a model that was trained for four steps fails
            assert "NO-GO" in str(result.exception), result.output
        else:
            assert result.exit_code == 0, f"{command}: {result.output} {result.exception!r}"
        last = result.output.strip().splitlines()[-1] if result.output.strip() else ""
        assert last, f"{command} ends without a word"
    assert Path("out/report/report.html").stat().st_size > 10_000
    assert "training" in Path("out/report/report.html").read_text().lower()


@pytest.mark.parametrize("command", commands("make"))
def test_make_has_what_readme_tells_to_make(command: str) -> None:
    done = subprocess.run([*command.split(), "-n"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_programs_that_readme_runs_with_ros_are_installed(tmp_path: Path) -> None:
    programs = {word for command in commands("ros2") for word in re.findall(r"run lewm_ros (\w+)", command)}
    assert programs
    setup = (ROOT / "setup.py").read_text()
    assert all(f'"{program} = lewm_ros.{program}:main"' in setup for program in programs)


def test_lewm_is_a_program_after_make_and_after_colcon_build(tmp_path: Path) -> None:
    wrapper = ROOT / "resource" / "bin" / "lewm"
    for folder in ("pip/bin", "colcon/bin", "colcon/lib/lewm_ros"):
        (tmp_path / folder).mkdir(parents=True)
    for place in ("pip", "colcon"):
        (tmp_path / place / "bin" / "lewm").symlink_to(wrapper)
    python = f'#!/bin/sh\nexec "{sys.executable}"'
    (tmp_path / "pip/bin/python").write_text(f'{python} "$@"\n')
    (tmp_path / "colcon/lib/lewm_ros/lewm").write_text(f'{python} -m lewm_model.cli.main "$@"\n')
    for program in (tmp_path / "pip/bin/python", tmp_path / "colcon/lib/lewm_ros/lewm"):
        program.chmod(0o755)
    for place in ("pip", "colcon"):
        done = subprocess.run([tmp_path / place / "bin" / "lewm", "--help"], cwd=ROOT, capture_output=True, text=True)
        assert "record, train, export, check" in done.stdout, done.stderr
