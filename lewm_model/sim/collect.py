# SPDX-License-Identifier: Apache-2.0
"""Records episodes in the simulator, from which a world model learns: `lewm collect`."""

from __future__ import annotations

import multiprocessing
import shlex
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from lewm_model.bundle.bundle import sha256
from lewm_model.bundle.held_out import SIMULATOR
from lewm_model.config import RECORDED_SIDE, resource
from lewm_model.data.episodes import EpisodeWriter
from lewm_model.robot.observation import Observation
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.looks import Looks
from lewm_model.sim.random_motion import RANDOM
from lewm_model.sim.world import side_by_side


class Motion(Protocol):
    """The motion of the arm in an episode: random, or of the scripted policy of a task. It must be picklable, since it
    is passed to other processes.
    """

    @property
    def kind(self) -> str:
        """Its name in a recording's description."""

    @property
    def policy(self) -> Path | None:
        """The bundle whose policy moves the arm first; None if none does."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """The options of `lewm collect` that choose it."""

    def __call__(self, sim: ArmSim, rng: np.random.Generator, steps: int, look: Callable[[], None]) -> np.ndarray:
        """Puts arm and objects where the episode begins and moves the arm for `steps` control steps.

        :param look: called at the start and after every step.
        :return: actions (steps, A) rad/s, mean commanded velocities.
        """


def record_episode(
    sim: ArmSim, motion: Motion, seed: int, episode: int, steps: int, observation: Observation
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Records one episode, which depends on the motion and (seed, episode) only.

    :return: pixels (steps + 1, H, W, 3) uint8, action (steps, A) float32 rad/s, proprio (steps + 1, A) float32 rad.
    """
    pixels, proprio = [], []

    def look() -> None:
        pixels.append(sim.picture(observation))
        proprio.append(sim.joint_positions().copy())

    action = motion(sim, np.random.default_rng(np.random.SeedSequence((seed, episode))), steps, look)
    return np.array(pixels), action.astype(np.float32), np.array(proprio, np.float32)


_worker: Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]] | None = None
_LOOKS = 0x4C4F4F4B  # the seeds of looks are (this, seed, episode)


def _start_worker(world: str, motion: Motion, seed: int, steps: int, observation: Observation, vary: bool) -> None:
    global _worker
    sim = ArmSim(world)
    _worker = partial(record_episode, sim, motion, seed, steps=steps, observation=observation)
    if vary:
        _worker = partial(_varied, Looks(sim), seed, _worker)


def _varied(
    looks: Looks, seed: int, record: Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]], episode: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    looks.begin(_LOOKS, seed, episode)
    return record(episode)


def _record(episode: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    assert _worker is not None
    return _worker(episode)


def collect(
    out: str | Path,
    episodes: int,
    steps: int = 100,
    seed: int = 0,
    world: str | Path | None = None,
    image_size: int = RECORDED_SIDE,
    workers: int = 2,
    motion: Motion = RANDOM,
    vary: bool = False,
) -> None:
    """Records episodes to an HDF5 file. The same arguments give the same data, with any number of workers.

    :param out: file to write; it appears when it is complete.
    :param steps: actions in an episode, one for each period of the world's camera; an episode has one frame more.
    :param world: SDF or scene file; None is the packaged `worlds/tabletop.sdf`.
    :param image_size: side of a square picture, pixels. With several cameras the height of each one's picture; they
        are recorded side by side.
    :param workers: processes that simulate and render.
    :param vary: every frame has lamps, colours, a texture, a camera pose and distractors of its own
        (`lewm_model.sim.looks`). Such a recording is for training; `lewm calibrate` needs one without.
    :raises ValueError: a count is below 1.
    """
    for name, value in (
        ("episodes", episodes),
        ("steps", steps),
        ("image_size", image_size),
        ("workers", workers),
    ):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more")
    path = resource("worlds", "tabletop.sdf") if world is None else Path(world)
    with ArmSim(path, render=False) as sim:  # so that a broken world fails here and not in every worker
        names, dt, seen = sim.names, sim.control_dt_s, side_by_side(sim.cameras, image_size)
        arm = names[sim.parts[0]]  # the other joints are a gripper's
        kinds = ["joint_velocity" if name in arm else "gripper" for name in names]
    several = len(seen.cameras) > 1
    observation = seen if several else Observation.of_one((image_size, image_size))
    command = shlex.join(
        ["lewm", "collect", str(out), "--episodes", str(episodes), "--steps", str(steps), "--seed", str(seed)]
        + ["--world", str(path.name), "--image-size", str(image_size), *["--vary"] * vary, *motion.arguments]
    )
    attributes: dict[str, str | int | float] = {"seed": seed, "world": path.name, "command": command}
    recorded = {
        "recorder": SIMULATOR,
        "kind": motion.kind,
        "seed": seed,
        "world": path.name,
        "policy": "" if motion.policy is None else sha256(motion.policy / "model.json"),
        "episodes": episodes,
        "steps": steps,
        "image_size": image_size,
        "looks": "drawn for every frame" if vary else "as the world has it",
        "command": command,
    }
    size, cameras = observation.size, seen.cameras if several else ()
    context = multiprocessing.get_context("spawn")
    arguments = (str(path), motion, seed, steps, observation, vary)
    with (
        EpisodeWriter(
            out,
            size,
            names,
            dt,
            kinds[0] if len(set(kinds)) == 1 else kinds,
            attributes,
            recorded=recorded,
            cameras=cameras,
        ) as writer,
        context.Pool(min(workers, episodes), _start_worker, arguments) as pool,
    ):
        made: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]] = pool.imap(_record, range(episodes))
        for pixels, action, proprio in tqdm(made, "episodes", episodes, unit="ep", disable=not sys.stderr.isatty()):
            writer.append(pixels, action, proprio)
