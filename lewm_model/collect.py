"""Records episodes of random motion in the simulator: the data a world model learns from.

No expert and no goal: the arm wanders, strokes across its joint space, moves one joint alone and rests. Run

    python -m lewm_model.collect data/train.h5 --episodes 400 --steps 100 --seed 0
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lewm_model.data.episodes import EpisodeWriter
from lewm_model.imaging import to_model_image
from lewm_model.limits import JointLimits
from lewm_model.resources import resource
from lewm_model.sim.arm_sim import ArmSim

BLOCK_STEPS = 5  # control steps in one action block
_MARGIN_RAD = 0.02  # kept free before a position limit
_STOP_TOLERANCE = 1e-9
# What the arm does for a while: probability, and how many blocks.
_PHASES = {
    "wander": (0.30, (4, 10)),
    "stroke": (0.20, (4, 12)),
    "single": (0.15, (3, 8)),
    "hold": (0.35, (2, 5)),
}


def _stopping_distance(speed: np.ndarray, most: np.ndarray, block_s: float) -> np.ndarray:
    """How far joints go that stop from `speed` (A,) rad/s when a knot may differ from the last by `most` (A,)."""
    blocks = np.floor(speed / most + _STOP_TOLERANCE)  # whole steps of `most`
    rest = np.maximum(speed - blocks * most, 0.0)
    # Speeds at the knots are rest + k most; each block covers the mean of the speeds at its ends.
    return block_s * (0.5 * rest + blocks * rest + 0.5 * most * blocks**2)


def _within_limits(
    wanted: np.ndarray,
    position: np.ndarray,
    velocity: np.ndarray,
    most: np.ndarray,
    limits: JointLimits,
    block_s: float,
) -> np.ndarray:
    """The velocity at the next knot nearest to `wanted` (A,) after which the arm can still stop before its limits."""
    low = np.maximum(velocity - most, -limits.velocity)
    high = np.minimum(velocity + most, limits.velocity)
    chosen = np.clip(wanted, low, high)
    for sign, room in (
        (1.0, limits.upper - _MARGIN_RAD - position),
        (-1.0, position - limits.lower - _MARGIN_RAD),
    ):
        # In the direction of this limit: the most that still stops in time, by bisection, between hardest braking
        # (or rest, when that is reached) and what was chosen.
        top = sign * chosen
        bottom = np.minimum(np.maximum(sign * velocity - most, 0.0), np.maximum(top, 0.0))

        def fits(v: np.ndarray, sign: float = sign, room: np.ndarray = room) -> np.ndarray:
            travel = block_s * 0.5 * (sign * velocity + v) + _stopping_distance(np.maximum(v, 0.0), most, block_s)
            return travel <= room

        good = fits(top) | (top <= 0.0)
        for _ in range(40):
            middle = 0.5 * (bottom + top)
            ok = fits(middle)
            bottom = np.where(~good & ok, middle, bottom)
            top = np.where(~good & ~ok, middle, top)
        chosen = np.where(good, chosen, sign * bottom)
    return chosen


def random_velocities(
    rng: np.random.Generator, start: np.ndarray, blocks: int, limits: JointLimits, block_s: float
) -> np.ndarray:
    """Velocities at the knots of a random motion, (blocks + 1, A) rad/s, the first at rest.

    Between knots the velocity blends with smoothstep, so that the change from knot to knot bounds acceleration
    (1.5 dv / block) and jerk (6 dv / block^2); all of `limits` hold. Speeds are spread evenly over their range: a
    Gaussian process goes through its own distribution function.

    :param start: (A,) joint positions at the start, rad.
    :param block_s: time between knots, s.
    """
    joints = len(start)
    most = np.minimum(limits.acceleration * block_s / 1.5, limits.jerk * block_s**2 / 6.0)
    names = list(_PHASES)
    weights = [_PHASES[name][0] for name in names]
    position, velocity = start.astype(np.float64), np.zeros(joints)
    latent = rng.standard_normal(joints)
    knots = [velocity]
    phase, left, alone = "wander", 0, 0
    for _ in range(blocks):
        if left == 0:
            phase = names[rng.choice(len(names), p=weights)]
            left = int(rng.integers(*_PHASES[phase][1], endpoint=True))
            alone = int(rng.integers(joints))
            latent = rng.standard_normal(joints)
        left -= 1
        if phase in ("wander", "single"):
            keep = 0.7
            latent = keep * latent + math.sqrt(1.0 - keep**2) * rng.standard_normal(joints)
        uniform = np.array([math.erf(value / math.sqrt(2.0)) for value in latent])
        wanted = np.zeros(joints) if phase == "hold" else uniform * limits.velocity
        if phase == "single":
            wanted[np.arange(joints) != alone] = 0.0
        following = _within_limits(wanted, position, velocity, most, limits, block_s)
        # What runs into a limit turns round instead of waiting there.
        blocked = np.abs(following) < np.abs(wanted) - 0.25 * limits.velocity
        latent = np.where(blocked & (np.abs(velocity) < 0.5 * limits.velocity), -latent, latent)
        position = position + 0.5 * block_s * (velocity + following)
        velocity = following
        knots.append(velocity)
    return np.array(knots)


def sample_knots(
    velocities: np.ndarray, start: np.ndarray, block_s: float, dt_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities every `dt_s` of the motion with these knots.

    Between knots v(u) = v0 + (v1 - v0)(3u^2 - 2u^3), whose integral is v0 u + (v1 - v0)(u^3 - u^4 / 2).

    :return: rad and rad/s, each (blocks * n + 1, A) for n samples in a block.
    """
    count = round(block_s / dt_s)
    u = (np.arange(count) / count)[None, :, None]
    first, change = velocities[:-1, None], np.diff(velocities, axis=0)[:, None]
    at_knots = start + np.vstack(
        [np.zeros_like(start), np.cumsum(block_s * 0.5 * (velocities[:-1] + velocities[1:]), axis=0)]
    )
    position = at_knots[:-1, None] + block_s * (first * u + change * (u**3 - u**4 / 2.0))
    velocity = first + change * (3.0 * u**2 - 2.0 * u**3)
    joints = velocities.shape[1]
    return (
        np.vstack([position.reshape(-1, joints), at_knots[-1:]]),
        np.vstack([velocity.reshape(-1, joints), velocities[-1:]]),
    )


def record_episode(
    sim: ArmSim, seed: int, episode: int, steps: int, image_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One episode of random motion; what it holds depends on (seed, episode) only.

    :return: pixels (steps + 1, S, S, 3) uint8, action (steps, A) float32 rad/s, proprio (steps + 1, A) float32 rad.
    """
    rng = np.random.default_rng(np.random.SeedSequence((seed, episode)))
    sim.reset(seed=int(rng.integers(2**32)))
    start = sim.joint_positions()
    dt = sim.control_dt_s
    block_s = BLOCK_STEPS * dt
    velocities = random_velocities(rng, start, math.ceil(steps / BLOCK_STEPS), sim.limits, block_s)
    position, velocity = sample_knots(velocities, start, block_s, dt)
    sim.set_trajectory(dt * np.arange(len(position)), position, velocity)
    action = np.diff(position[: steps + 1], axis=0) / dt
    pixels = np.empty((steps + 1, image_size, image_size, 3), np.uint8)
    proprio = np.empty((steps + 1, len(start)), np.float32)
    for i in range(steps + 1):
        if i > 0:
            sim.step(dt)
        pixels[i] = to_model_image(sim.render(), image_size)
        proprio[i] = sim.joint_positions()
    return pixels, action.astype(np.float32), proprio


_worker: tuple[ArmSim, int, int, int] | None = None


def _start_worker(world: str, seed: int, steps: int, image_size: int) -> None:
    global _worker
    _worker = (ArmSim(world), seed, steps, image_size)


def _record(episode: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    assert _worker is not None
    sim, seed, steps, image_size = _worker
    return record_episode(sim, seed, episode, steps, image_size)


def collect(
    out: str | Path,
    episodes: int,
    steps: int = 100,
    seed: int = 0,
    world: str | Path | None = None,
    image_size: int = 64,
    workers: int = 2,
) -> None:
    """Records episodes to an HDF5 file. The same arguments give the same data, with any number of workers.

    :param out: file to write; appears when complete.
    :param steps: actions in an episode, 20 in a second; an episode has one frame more.
    :param world: SDF file; None is the packaged `worlds/tabletop.sdf`.
    :param image_size: pixels, square.
    :param workers: processes that simulate and render.
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
    arguments = (str(path), seed, steps, image_size)
    with ArmSim(path, render=False) as sim:  # a broken world fails here and not in every worker
        names, dt = sim.names, sim.control_dt_s
    command = shlex.join(
        ["python", "-m", "lewm_model.collect", str(out), "--episodes", str(episodes), "--steps", str(steps)]
        + ["--seed", str(seed), "--world", str(path.name), "--image-size", str(image_size)]
    )
    attributes: dict[str, str | int | float] = {"seed": seed, "world": path.name, "command": command}
    context = multiprocessing.get_context("spawn")
    with (
        EpisodeWriter(out, image_size, names, dt, "joint_velocity", attributes) as writer,
        context.Pool(min(workers, episodes), _start_worker, arguments) as pool,
    ):
        recorded: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]] = pool.imap(_record, range(episodes))
        for pixels, action, proprio in tqdm(recorded, "episodes", episodes, unit="ep", disable=not sys.stderr.isatty()):
            writer.append(pixels, action, proprio)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m lewm_model.collect", description="Record random motion in the simulator."
    )
    parser.add_argument("out", help="HDF5 file to write")
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--steps", type=int, default=100, help="actions in an episode, 20 in a second (default 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--world", help="SDF file (default: worlds/tabletop.sdf)")
    parser.add_argument("--image-size", type=int, default=64, help="pixels, square (default 64)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    collect(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
