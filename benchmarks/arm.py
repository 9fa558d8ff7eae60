# SPDX-License-Identifier: Apache-2.0
"""How fast arms with meshes are simulated and their plans checked, on one core: `make bench-arm`.

A simulated control step is its physics and one picture. The shield checks a whole trajectory: limits, workspace and
self-collision.

    python -m benchmarks.arm --rounds 5

The arms of config/scenes whose packages are installed move at random without touching themselves or the table. A round
is 100 control steps; the figures are medians over the rounds, and over the trajectories given to the shield.
`out/arm/NAME.png` shows what the cameras saw.
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
from lewm_model.planning.random_motion import BLOCK_STEPS, random_velocities
from lewm_model.robot.robot import load_robot
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.scene import read_scene
from lewm_ros.safety import Shield, ShieldConfig

STEPS = 100  # control steps in a round
SHOWN = 4  # pictures of each camera
BLOCK_S, POINT_S = 0.25, 0.05  # of plans: length of an action block, time between points
PLANS, PLAN_BLOCKS = 200, 4  # trajectories that the shield checks; action blocks in each before its stop


def measure(scene: Path, rounds: int, out: Path) -> float:
    """Simulated control steps per second, each with a picture; writes SHOWN pictures of each camera to `out`."""
    rng, rates, shown = np.random.default_rng(0), [], []
    with ArmSim(scene) as sim:
        dt = sim.control_dt_s
        limits = KnotLimits(sim.limits, BLOCK_STEPS * dt)
        for number in range(rounds + 1):  # the first round warms up
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


def measure_shield(scene: Path) -> float:
    """Median time in which the shield checks a trajectory that starts at home, ms."""
    robot = load_robot(read_scene(scene).robot, scene.parent)
    chain, limits, now, rng = robot.chain(), robot.limits, 100.0, np.random.default_rng(0)
    box, self_collision, knots = robot.box(chain), robot.self_collision(chain), KnotLimits(limits, BLOCK_S)
    taken_s = []
    for _ in range(PLANS):
        shield = Shield(limits, ShieldConfig(), lambda: now, lambda: now, box, self_collision=self_collision)
        shield.frame(now)
        for _ in range(2):  # the same position twice, so that the arm counts as resting
            shield.joints(robot.home, now)
        if (refusal := shield.arm()) or shield.restart() is None:
            raise RuntimeError(f"{scene}: the shield does not let the arm start at home: {refusal}")
        timeline, wanted = Timeline(now, robot.home, knots), rng.normal(size=(1, PLAN_BLOCKS, len(robot.home)))
        timeline.splice(0, knots.project(robot.home, np.zeros_like(robot.home), wanted)[0])
        plan = timeline.sample(np.arange(now - POINT_S, timeline.end_s + 2 * POINT_S, POINT_S))
        begin = time.perf_counter()
        shield.release(plan, now - POINT_S)
        taken_s.append(time.perf_counter() - begin)
    return 1000 * float(np.median(taken_s))


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the simulation of arms with meshes.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("out/arm"))
    options = parser.parse_args()
    command = f"make bench-arm ROUNDS={options.rounds}"
    figures: Figures = {}
    for scene in sorted(resource("config", "scenes").glob("*.yaml")):
        try:
            rate, shield_ms = measure(scene, options.rounds, options.out), measure_shield(scene)
        except ConfigError as error:
            print(f"{scene.stem}: not measured: {error}")
            continue
        # SO-101, the most common of these arms, gives the figure without a suffix.
        suffix = "" if scene.stem == "so101" else f"_{scene.stem}"
        figures[f"arm.sim_frames_per_s{suffix}"] = (rate, "1/s")
        figures[f"arm.shield_ms{suffix}"] = (shield_ms, "ms")
        print(
            f"{scene.stem}: {rate:.0f} control steps with a picture a second; the shield checks a plan in "
            f"{shield_ms:.2f} ms"
        )
    write_figures(options.out / "summary.json", figures, command, keep=True)


if __name__ == "__main__":
    main()
