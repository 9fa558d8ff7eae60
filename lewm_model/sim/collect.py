"""Records episodes of random motion in the simulator: the data a world model learns from.

No expert and no goal: the arm wanders, strokes across its joint space, moves one joint alone and rests. Run

    python -m lewm_model.sim.collect data/train.h5 --episodes 400 --steps 100 --seed 0
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import shlex
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lewm_model.bundle.bundle import load_bundle, sha256
from lewm_model.bundle.held_out import SIMULATOR
from lewm_model.config import RECORDED_SIDE, resource
from lewm_model.data.episodes import EpisodeWriter
from lewm_model.planning.motion import KnotLimits, Timeline
from lewm_model.robot.observation import Observation, to_model_image
from lewm_model.runtime import Runtime, load_runtime
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.looks import Looks
from lewm_model.sim.random_motion import BLOCK_STEPS, random_velocities
from lewm_model.sim.world import side_by_side

# Of the picture: its size, for the world's first camera alone, or the cameras that are seen side by side.
View = int | tuple[int, int] | Observation


def look_at(sim: ArmSim, view: View) -> np.ndarray:
    """What is seen now, (H, W, 3) uint8."""
    if isinstance(view, Observation):
        return view.picture([sim.render(camera.name) for camera in view.cameras])
    return to_model_image(sim.render(), view)


def record_episode(
    sim: ArmSim, seed: int, episode: int, steps: int, image_size: View
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One episode of random motion; what it holds depends on (seed, episode) only.

    :return: pixels (steps + 1, S, S, 3) uint8, action (steps, A) float32 rad/s, proprio (steps + 1, A) float32 rad.
    """
    rng = np.random.default_rng(np.random.SeedSequence((seed, episode)))
    sim.reset(seed=int(rng.integers(2**32)))
    start = sim.joint_positions()
    dt = sim.control_dt_s
    limits = KnotLimits(sim.limits, BLOCK_STEPS * dt)
    timeline = Timeline(0.0, start, limits)
    blocks = math.ceil(steps / BLOCK_STEPS)
    timeline.splice(0, random_velocities(rng, start, blocks, limits, lambda poses: not sim.touches(poses)))
    motion = timeline.sample(dt * np.arange(steps + 1))
    sim.set_trajectory(motion.times_s, motion.positions, motion.velocities)
    action = np.diff(motion.positions, axis=0) / dt
    pixels = []
    proprio = np.empty((steps + 1, len(start)), np.float32)
    for i in range(steps + 1):
        if i > 0:
            sim.step(dt)
        pixels.append(look_at(sim, image_size))
        proprio[i] = sim.joint_positions()
    return np.array(pixels), action.astype(np.float32), proprio


def record_play(
    sim: ArmSim, seed: int, episode: int, steps: int, image_size: View, runtime: Runtime | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `record_episode`, of play with the block, which lies elsewhere at the start of each episode; with a `runtime`
    play begins where its bundle's policy got to.
    """
    from lewm_model.sim.push_script import play

    pixels, proprio = [], []

    def look() -> None:
        pixels.append(look_at(sim, image_size))
        proprio.append(sim.joint_positions().copy())

    action = play(sim, np.random.default_rng(np.random.SeedSequence((seed, episode))), steps, look, runtime=runtime)
    return np.array(pixels), action.astype(np.float32), np.array(proprio, np.float32)


_worker: Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]] | None = None
_LOOKS = 0x4C4F4F4B  # the seeds of looks are (this, seed, episode)


def _start_worker(
    world: str, seed: int, steps: int, image_size: View, vary: bool, play: bool, policy: Path | None
) -> None:
    global _worker
    sim = ArmSim(world)
    _worker = partial(record_episode, sim, seed, steps=steps, image_size=image_size)
    if play:
        runtime = None if policy is None else load_runtime(load_bundle(policy), build_engines=False)
        _worker = partial(record_play, sim, seed, steps=steps, image_size=image_size, runtime=runtime)
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
    vary: bool = False,
    play: bool = False,
    policy: Path | None = None,
) -> None:
    """Records episodes to an HDF5 file. The same arguments give the same data, with any number of workers.

    :param out: file to write; appears when complete.
    :param steps: actions in an episode, 20 in a second; an episode has one frame more.
    :param world: SDF file; None is the packaged `worlds/tabletop.sdf`.
    :param image_size: pixels, square; of a world with several cameras the height of each one's picture. They are
        recorded side by side.
    :param workers: processes that simulate and render.
    :param vary: every frame has lamps, colours, a texture, a camera pose and things in sight of its own
        (`lewm_model.sim.looks`). Such a recording trains; what is usual (`lewm calibrate`) needs one as it is.
    :param play: the arm plays with the block (`lewm_model.sim.push_script`) instead of moving at random.
    :param policy: bundle with a policy, which moves the arm before each episode; it then begins where that got to.
    :raises ValueError: a count is below 1, or a policy is to move the arm and nobody plays.
    """
    if policy is not None and not play:
        raise ValueError(f"the policy of {policy} moves the arm before play; record with --play, or without --policy")
    for name, value in (
        ("episodes", episodes),
        ("steps", steps),
        ("image_size", image_size),
        ("workers", workers),
    ):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more")
    path = resource("worlds", "tabletop.sdf") if world is None else Path(world)
    with ArmSim(path, render=False) as sim:  # a broken world fails here and not in every worker
        names, dt, seen = sim.names, sim.control_dt_s, side_by_side(sim.cameras, image_size)
    several = len(seen.cameras) > 1
    arguments = (str(path), seed, steps, seen if several else image_size, vary, play, policy)
    size, cameras = (seen.size, seen.cameras) if several else ((image_size, image_size), ())
    command = shlex.join(
        ["python", "-m", "lewm_model.sim.collect", str(out), "--episodes", str(episodes), "--steps", str(steps)]
        + ["--seed", str(seed), "--world", str(path.name), "--image-size", str(image_size)]
        + ["--vary"] * vary
        + ["--play"] * play
        + (["--policy", str(policy)] if policy else [])
    )
    attributes: dict[str, str | int | float] = {"seed": seed, "world": path.name, "command": command}
    recorded = {
        "recorder": SIMULATOR,
        "kind": "play" if play else "random motion",
        "seed": seed,
        "world": path.name,
        "policy": "" if policy is None else sha256(policy / "model.json"),
        "episodes": episodes,
        "steps": steps,
        "image_size": image_size,
        "looks": "drawn for every frame" if vary else "as the world has it",
        "command": command,
    }
    context = multiprocessing.get_context("spawn")
    with (
        EpisodeWriter(out, size, names, dt, "joint_velocity", attributes, recorded=recorded, cameras=cameras) as writer,
        context.Pool(min(workers, episodes), _start_worker, arguments) as pool,
    ):
        made: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]] = pool.imap(_record, range(episodes))
        for pixels, action, proprio in tqdm(made, "episodes", episodes, unit="ep", disable=not sys.stderr.isatty()):
            writer.append(pixels, action, proprio)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m lewm_model.sim.collect", description="Record random motion in the simulator."
    )
    parser.add_argument("out", help="HDF5 file to write")
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--steps", type=int, default=100, help="actions in an episode, 20 in a second (default 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--world", help="SDF file (default: worlds/tabletop.sdf)")
    parser.add_argument("--image-size", type=int, default=64, help="pixels, square (default 64)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--vary", action="store_true", help="lamps, colours and camera of each frame are its own")
    parser.add_argument("--play", action="store_true", help="play with the block instead of moving at random")
    parser.add_argument("--policy", type=Path, help="with --play: bundle whose policy moves first")
    collect(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
