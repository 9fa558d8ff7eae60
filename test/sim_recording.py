# SPDX-License-Identifier: Apache-2.0
"""A short recording in the demo's world, made in the test's own process."""

from __future__ import annotations

from pathlib import Path

from lewm_model.bundle.held_out import SIMULATOR
from lewm_model.data.clips import Episodes, load_episodes
from lewm_model.data.episodes import EpisodeWriter
from lewm_model.robot.observation import Observation
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.collect import record_episode
from lewm_model.sim.random_motion import RANDOM


def sim_recording(path: Path, episodes: int = 4, steps: int = 60, seed: int = 77, size: int = 64) -> Episodes:
    """Records random motion, with the metadata that `lewm collect` writes, so that its seed is known."""
    kind = {"kind": "random motion", "world": "tabletop.sdf", "policy": ""}
    recorded = {"recorder": SIMULATOR, "seed": seed, "episodes": episodes, **kind}
    with ArmSim() as sim:
        view = Observation.of_one((size, size))
        made = [record_episode(sim, RANDOM, seed, number, steps, view) for number in range(episodes)]
        with EpisodeWriter(path, size, sim.names, sim.control_dt_s, recorded=recorded) as writer:
            for pixels, actions, proprio in made:
                writer.append(pixels, actions, proprio)
    return load_episodes(path)
