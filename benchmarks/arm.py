"""How fast arms with meshes are simulated: a control step of physics and a picture, on one core.

    python -m benchmarks.arm --rounds 5

The arms of config/scenes whose packages are installed move at random, clear of themselves and the table. Each round
times 100 control steps; the figure is the median. `out/arm/NAME.png` shows what the cameras saw.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np

from lewm_model.config import ConfigError, resource
from lewm_model.evaluation.figures import Figures, write_figures
from lewm_model.planning.motion import KnotLimits, Timeline
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.random_motion import BLOCK_STEPS, random_velocities

STEPS = 100  # control steps in a round
SHOWN = 4  # pictures of each camera


def measure(scene: Path, rounds: int, out: Path) -> float:
    """Control steps with a picture a second; leaves pictures in `out`."""
    rng, rates, shown = np.random.default_rng(0), [], []
    with ArmSim(scene) as sim:
        dt = sim.control_dt_s
        limits = KnotLimits(sim.limits, BLOCK_STEPS * dt)
        for number in range(rounds + 1):  # the first one warms up
            sim.reset(joint_positions=sim.home)
            timeline = Timeline(0.0, sim.home, limits)
            knots = random_velocities(rng, sim.home, STEPS // BLOCK_STEPS, limits, lambda poses: not sim.touches(poses))
            timeline.splice(0, knots)
            motion = timeline.sample(dt * np.arange(STEPS + 1))
            sim.set_trajectory(motion.times_s, motion.positions, motion.velocities)
            begin = time.perf_counter()
            for _ in range(STEPS):
                sim.step(dt)
                sim.render()
            if number:
                rates.append(STEPS / (time.perf_counter() - begin))
            if number < SHOWN:
                shown.append(np.hstack([sim.render(camera.name) for camera in sim.cameras]))
    out.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(out / f"{scene.stem}.png"), cv2.cvtColor(np.vstack(shown), cv2.COLOR_RGB2BGR))
    return float(np.median(rates))


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the simulation of arms with meshes.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("out/arm"))
    options = parser.parse_args()
    command = f"make bench-arm ROUNDS={options.rounds}"
    figures: Figures = {}
    for scene in sorted(resource("config", "scenes").glob("*.yaml")):
        try:
            rate = measure(scene, options.rounds, options.out)
        except ConfigError as error:
            print(f"{scene.stem}: not measured: {error}")
            continue
        # SO-101, the arm that most people own, has the plain name.
        name = "arm.sim_frames_per_s" + ("" if scene.stem == "so101" else f"_{scene.stem}")
        figures[name] = (rate, "1/s")
        print(f"{scene.stem}: {rate:.0f} control steps with a picture a second")
    write_figures(options.out / "summary.json", figures, command)


if __name__ == "__main__":
    main()
