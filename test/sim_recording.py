"""A short recording in the demo's world, made in the test's own process."""

from __future__ import annotations

from pathlib import Path

from lewm_model.data.clips import Episodes, load_episodes
from lewm_model.data.episodes import EpisodeWriter
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.collect import record_episode


def sim_recording(path: Path, episodes: int = 4, steps: int = 60, seed: int = 77, size: int = 64) -> Episodes:
    """Records random motion; its `command` is that of `lewm collect`, so that its seed is known."""
    command = f"python -m lewm_model.sim.collect {path.name} --seed {seed} --world tabletop.sdf"
    with ArmSim() as sim:
        recorded = [record_episode(sim, seed, number, steps, size) for number in range(episodes)]
        with EpisodeWriter(path, size, sim.names, sim.control_dt_s, attributes={"command": command}) as writer:
            for pixels, actions, proprio in recorded:
                writer.append(pixels, actions, proprio)
    return load_episodes(path)
