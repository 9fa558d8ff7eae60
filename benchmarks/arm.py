# SPDX-License-Identifier: Apache-2.0
"""How fast arms with meshes are simulated, a control step of physics and a picture, and how fast the shield checks
their plans: limits, workspace and self-collision of a whole trajectory. On one core.

    python -m benchmarks.arm --rounds 5

The arms of config/scenes whose packages are installed move at random, clear of themselves and the table. Each round
times 100 control steps; the figure is the median, as it is over the trajectories that the shield is given.
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
BLOCK_S, POINT_S = 0.25, 0.05  # of plans: action block, and from point to point
PLANS, PLAN_BLOCKS = 200, 4  # trajectories that the shield checks, and action blocks of each before it stops


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


def measure_shield(scene: Path) -> float:
    """How long the shield takes for a trajectory from home, ms."""
    robot = load_robot(read_scene(scene).robot, scene.parent)
    chain, limits, now, rng = robot.chain(), robot.limits, 100.0, np.random.default_rng(0)
    box, self_collision, knots = robot.box(chain), robot.self_collision(chain), KnotLimits(limits, BLOCK_S)
    taken_s = []
    for _ in range(PLANS):
        shield = Shield(limits, ShieldConfig(), lambda: now, lambda: now, box, self_collision=self_collision)
        shield.frame(now)
        for _ in range(2):  # one position twice: it rests
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
        # SO-101, the arm that most people own, has the plain name.
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
