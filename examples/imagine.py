# SPDX-License-Identifier: Apache-2.0
"""What a model imagines of a motion, beside what the simulated camera then sees.

    python examples/imagine.py

For each action block: how far the imagined latent is from the one that was seen, and how far the first one is from it,
which is what a model that imagines nothing would say.
"""

import numpy as np

from lewm_model.bundle.bundle import load_bundle
from lewm_model.config import resource
from lewm_model.planning.motion import KnotLimits, Timeline
from lewm_model.runtime import load_runtime
from lewm_model.sim.arm import ArmSim


def main() -> None:
    bundle = load_bundle(resource("models", "reach"))
    runtime, actions, model = load_runtime(bundle, build_engines=False), bundle.actions, bundle.model
    with ArmSim() as sim:
        start, dt, steps = np.array([0.4, -0.6]), actions.control_dt_s, bundle.horizon * actions.frameskip
        sim.reset(joint_positions=start)

        # A smooth motion of both joints, which keeps every limit: its velocities at the ends of blocks.
        limits = KnotLimits(sim.limits, actions.block_s)
        wanted = np.outer([0.4, 0.8, 0.8, 0.4, 0.0], [1.0, -0.7])[None]
        motion = Timeline(0.0, start, limits)
        motion.splice(0, limits.project(start, np.zeros(2), wanted)[0])
        path = motion.sample(dt * np.arange(steps + 1))

        # The arm has rested: the same frame again and again, and no action between them.
        first = runtime.encode(sim.picture(bundle.observation))
        context = np.repeat(first[None], model.history, 0)
        rest = actions.normalise(np.zeros(((model.history - 1) * actions.frameskip, 2)))
        told = actions.normalise(np.diff(path.positions, axis=0) / dt)
        candidate = told.reshape(1, bundle.horizon, model.block_dim).astype(np.float32)
        past = rest.reshape(model.history - 1, model.block_dim).astype(np.float32)
        imagined = runtime.rollout(context, past, candidate, first)[1][0]

        sim.set_trajectory(path.times_s, path.positions, path.velocities)
        for block, latent in enumerate(imagined):
            sim.step(actions.block_s)
            seen = runtime.encode(sim.picture(bundle.observation))
            away, still = np.mean((latent - seen) ** 2), np.mean((first - seen) ** 2)
            print(f"after {(block + 1) * actions.block_s:.2f} s: imagined {away:.4f} away, the first frame {still:.4f}")


if __name__ == "__main__":
    main()
