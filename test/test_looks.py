# SPDX-License-Identifier: Apache-2.0
"""Scenes that vary: every frame has another look, what is simulated stays the same, and a recording says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from lewm_model.sim.arm import ArmSim
from lewm_model.sim.collect import collect
from lewm_model.sim.looks import Look, Looks, SwingingLooks, Texture, table_of, wear

POSE = np.array([-0.7, 1.2])


@pytest.fixture(scope="module")
def sim() -> Iterator[ArmSim]:
    with ArmSim() as sim:
        sim.reset(joint_positions=POSE)
        yield sim


def test_a_varied_recording_has_the_same_motions_and_other_pictures_whoever_records_it(tmp_path: Path) -> None:
    for name, vary, workers in (("plain", False, 1), ("one", True, 1), ("two", True, 2)):
        collect(tmp_path / f"{name}.h5", episodes=3, steps=8, seed=3, image_size=32, workers=workers, vary=vary)
    with (
        h5py.File(tmp_path / "plain.h5") as plain,
        h5py.File(tmp_path / "one.h5") as one,
        h5py.File(tmp_path / "two.h5") as two,
    ):
        for name in ("action", "proprio"):
            np.testing.assert_array_equal(plain[name][:], one[name][:])
        np.testing.assert_array_equal(one["pixels"][:], two["pixels"][:])
        apart = np.abs(plain["pixels"][:].astype(int) - one["pixels"][:]).mean((1, 2, 3))
        assert 0.1 < (apart == 0.0).mean() < 0.6  # some frames show the scene as it is
        table = np.median(one["pixels"][:9].reshape(9, -1, 3), axis=1)
        assert np.abs(np.diff(table, axis=0)).max() > 20  # colours of the table within one episode
        assert json.loads(one.attrs["recorded"])["looks"] == "drawn for every frame"
        assert json.loads(plain.attrs["recorded"])["looks"] == "as the world has it"
        assert "--vary" in one.attrs["command"] and "--vary" not in plain.attrs["command"]


def test_looks_leave_the_world_as_it_was(sim: ArmSim) -> None:
    before = sim.render()
    looks = Looks(sim)
    looks.begin(1)
    pictures = np.array([sim.render() for _ in range(20)])
    sim.stage = sim.lens = None
    np.testing.assert_array_equal(sim.render(), before)
    assert len(np.unique(pictures.reshape(20, -1)[:, ::1000], axis=0)) > 10


@pytest.mark.parametrize(
    ("look", "where"),
    [
        (Look(ambient=np.full(3, 0.5)), "everywhere"),
        (Look(ambient=np.full(3, 0.3), lamps=((np.array([0.0, 0.6, -0.8]), np.full(3, 0.4)),) * 2), "everywhere"),
        (Look(shift=(0.05, 0.0)), "arm"),
        (Look(turn_rad=0.1), "arm"),
        (Look(zoom=0.05), "arm"),
        (
            Look(
                distractors=((6, np.array([0.2, -0.4, 0.002]), np.array([0.05, 0.05, 0.002]), np.array([1.0, 0, 0])),)
            ),
            "thing",
        ),
        (Look(texture=Texture(0.2, (20.0, 5.0), (2.0, 4.0), False)), "table"),
    ],
    ids=["dimmer", "two lamps", "shift", "turn", "zoom", "thing", "texture"],
)
def test_each_part_of_a_look_shows_where_it_should(sim: ArmSim, look: Look, where: str) -> None:
    sim.stage = sim.lens = None
    before = sim.render().astype(int)
    table = (np.abs(before - np.median(before.reshape(-1, 3), axis=0)) < 3).all(-1)
    wear(sim, lambda: look)
    changed = np.abs(sim.render() - before).max(-1) > 3
    if where == "everywhere":
        assert changed[table].mean() > 0.99
    elif where == "table":
        assert changed[table].mean() > 0.5 and not changed[~table].any()
    elif where == "thing":
        assert 0.003 < changed.mean() < 0.02 and not changed[~table].any()
    else:
        assert 0.01 < changed.mean() < 0.3 and changed[~table].any()


def test_a_table_is_painted_and_a_lamp_lights_it_as_told(sim: ArmSim) -> None:
    paint = dict.fromkeys(table_of(sim), np.array([0.2, 0.4, 0.6]))
    wear(
        sim, lambda: Look(colours=paint, ambient=np.full(3, 0.25), lamps=((np.array([0, 0, -1.0]), np.full(3, 0.25)),))
    )
    table = np.median(sim.render().reshape(-1, 3), axis=0)
    sim.stage = sim.lens = None
    np.testing.assert_allclose(table, 255 * 0.5 * np.array([0.2, 0.4, 0.6]), atol=5.0)


def test_a_scene_that_never_rests_changes_little_from_picture_to_picture_and_much_in_a_while(sim: ArmSim) -> None:
    looks, now_s = SwingingLooks(sim, seed=1), [0.0]
    wear(sim, lambda: looks.at(now_s[0]))
    tables = []
    for number in range(60):
        now_s[0] = number / 3
        tables.append(np.median(sim.render().reshape(-1, 3), axis=0))
    now_s[0] += 0.05
    soon = np.median(sim.render().reshape(-1, 3), axis=0)
    sim.stage = sim.lens = None
    assert np.ptp(np.array(tables), axis=0).min() > 60
    assert np.abs(soon - tables[-1]).max() < 12


def test_a_lamp_casts_shadows_on_the_table_alone(sim: ArmSim) -> None:
    table = table_of(sim)[0]
    paint, lamp = np.full(3, 0.8), (np.array([0.8, 0.0, -0.6]), np.full(3, 0.5))
    arm = tuple(int(geom) for geom in np.flatnonzero(sim.geoms_of_robot))
    pictures = []
    for shadows in (None, (arm, paint)):
        look = Look(ambient=np.full(3, 0.3), lamps=(lamp,), colours={table: paint}, shadows=shadows)
        wear(sim, lambda look=look: look)
        pictures.append(sim.render().astype(float))
    sim.stage = sim.lens = None
    lit, shaded = pictures
    dark = (np.abs(lit - shaded) > 1.0).any(-1)
    assert 0.005 < dark.mean() < 0.1
    # What the lamp gives is 0.6 x 0.5 of 0.3 + 0.6 x 0.5: half is left in its shadow.
    np.testing.assert_allclose(np.median(shaded[dark] / lit[dark]), 0.5, atol=0.02)
    assert np.ptp(lit[dark], axis=0).max() < 3.0, "only the table is dark"
