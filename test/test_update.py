# SPDX-License-Identifier: Apache-2.0
"""A bundle that is changed is the old one or the new one, whenever the change is killed, fails or is looked at."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lewm_model.bundle.bundle import SEEN, WEIGHTS, ActionSpec, Bundle, BundleError, load_bundle
from lewm_model.bundle.update import create, update
from lewm_model.config import ModelConfig

ACTIONS = ActionSpec.of_one_kind(
    ("a", "b"), "joint_velocity", "rad/s", 0.05, 5, (0.0, 0.0), (1.0, 1.0), (-1.0, -1.0), (1.0, 1.0)
)
FORK = multiprocessing.get_context("fork")
KILLS = 15


def written(folder: Path, number: int) -> None:
    """Writes files that name their version; every third version lacks one that the others have."""
    (folder / "onnx").mkdir(exist_ok=True)
    for name in (WEIGHTS, "onnx/encoder.onnx", SEEN):
        (folder / name).write_text(f"{name} of version {number}\n" * 200)
    if number % 3 == 0:
        (folder / SEEN).unlink()


def made(folder: Path, number: int) -> Bundle:
    written(folder, number)
    return Bundle(folder, ModelConfig(), ACTIONS, evaluation={"version": number})


def changed(draft: Bundle, number: int) -> Bundle:
    written(draft.folder, number)
    return replace(draft, evaluation={"version": number})


def version(folder: Path) -> int:
    """The bundle's version; fails if its files are of different versions."""
    bundle = load_bundle(folder)
    number = int(bundle.evaluation["version"])
    assert set(bundle.files) == {WEIGHTS, "onnx/encoder.onnx", SEEN} - ({SEEN} if number % 3 == 0 else set())
    for name in bundle.files:
        assert bundle.path(name).read_text() == f"{name} of version {number}\n" * 200
    return number


def keeps_updating(folder: Path) -> None:
    bundle = load_bundle(folder)
    number = int(bundle.evaluation["version"])
    while True:
        number += 1
        if number % 5:
            bundle = update(bundle, lambda draft, number=number: changed(draft, number))
        else:
            bundle = create(folder, lambda draft, number=number: made(draft, number))


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_process_that_is_killed_while_it_updates_leaves_the_old_bundle_or_the_new_one(tmp_path: Path) -> None:
    folder, rng, seen = tmp_path / "bundle", random.Random(0), {0}
    bundle = create(folder, lambda draft: made(draft, 0))
    began_s = time.monotonic()
    update(bundle, lambda draft: changed(draft, 0))
    update_s = time.monotonic() - began_s  # a busy disk makes it many times longer
    for _ in range(KILLS):
        before = version(folder)
        process = FORK.Process(target=keeps_updating, args=(folder,))
        process.start()
        time.sleep(0.03 + rng.uniform(0.0, 4 * update_s))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        after = version(folder)
        assert after >= before
        seen.add(after)
    assert len(seen) > KILLS // 3, "hardly any update was done before the kill"
    update(load_bundle(folder), lambda draft: draft)
    assert not hidden(folder), "what the killed ones left is removed"
    assert {path.name for path in folder.iterdir()} <= {"model.json", WEIGHTS, SEEN, "onnx"}


@pytest.mark.parametrize("step", range(12))
def test_a_kill_between_any_two_steps_leaves_a_bundle_that_loads(tmp_path: Path, step: int) -> None:
    """Each renaming of files is a step, and so is the writing of a file to the disk."""
    folder = tmp_path / "bundle"
    create(folder, lambda draft: made(draft, 1))

    def die_at(step: int) -> None:
        from lewm_model.bundle import update as module

        left, replace_file = [step], os.replace

        def counting(*arguments: object) -> None:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            replace_file(*arguments)  # type: ignore[arg-type]

        module.os.replace = counting  # type: ignore[attr-defined]
        update(load_bundle(folder), lambda draft: changed(draft, 2))

    process = FORK.Process(target=die_at, args=(step,))
    process.start()
    process.join()
    assert version(folder) == (1 if step <= 3 else 2)  # three files are prepared before the switch
    copied = shutil.copytree(folder, tmp_path / "copy")
    assert version(copied) == version(folder), "a copy of it is as good"
    finished = update(load_bundle(folder), lambda draft: replace(draft, training={"command": "none"}))
    assert version(folder) == finished.evaluation["version"] and not hidden(folder)


def test_whoever_reads_while_it_is_updated_finds_one_version(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    create(folder, lambda draft: made(draft, 0))
    process = FORK.Process(target=keeps_updating, args=(folder,), daemon=True)
    process.start()
    try:
        seen, until_s = set(), time.monotonic() + 60.0  # a busy disk makes updates slow, and is no failure
        while len(seen) < 10 and time.monotonic() < until_s:
            bundle = load_bundle(folder)  # checks every hash
            seen.add(bundle.evaluation["version"])
    finally:
        process.kill()
        process.join()
    assert len(seen) == 10, "hardly any update was done"


def test_a_change_that_fails_leaves_the_bundle_as_it_was_and_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    bundle = create(folder, lambda draft: made(draft, 1))

    def fails(draft: Bundle) -> Bundle:
        changed(draft, 2)
        raise RuntimeError("no graph")

    with pytest.raises(RuntimeError, match="no graph"):
        update(bundle, fails)
    assert version(folder) == 1 and not hidden(folder)
    with pytest.raises(RuntimeError, match="no graph"):
        create(tmp_path / "new", lambda draft: fails(Bundle(draft, ModelConfig(), ACTIONS)))
    assert not (tmp_path / "new").exists()


def test_two_programs_that_change_one_bundle_do_not_lose_each_other_s_work(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    bundle = create(folder, lambda draft: made(draft, 1))

    def meanwhile(draft: Bundle) -> Bundle:
        update(bundle, lambda other: changed(other, 2))
        return changed(draft, 3)

    with pytest.raises(BundleError, match="changed by another program meanwhile; run the command again"):
        update(bundle, meanwhile)
    assert version(folder) == 2
    with pytest.raises(BundleError, match="changed by another program"):
        update(bundle, lambda draft: changed(draft, 3))  # read before the other's change


def test_engines_stay_with_an_updated_bundle_and_go_with_a_new_one(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    bundle = create(folder, lambda draft: made(draft, 1))
    (folder / "engines" / "gpu").mkdir(parents=True)
    (folder / "README").write_text("mine")
    update(bundle, lambda draft: changed(draft, 2))
    assert (folder / "engines" / "gpu").is_dir()
    create(folder, lambda draft: made(draft, 3))
    assert not (folder / "engines").exists() and (folder / "README").read_text() == "mine"
    assert not (folder / SEEN).exists(), "nothing of the bundle before is left"


def test_a_file_that_was_damaged_is_not_taken_over(tmp_path: Path) -> None:
    bundle = create(tmp_path / "bundle", lambda draft: made(draft, 1))
    (bundle.folder / WEIGHTS).write_text("damaged")
    with pytest.raises(BundleError, match=r"weights\.safetensors does not match its SHA-256"):
        update(bundle, lambda draft: draft)
