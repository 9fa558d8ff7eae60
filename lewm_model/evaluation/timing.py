# SPDX-License-Identifier: Apache-2.0
"""How fast a bundle runs on this machine: encoder, rollout, plan, and from picture to plan. `lewm bench --json`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from lewm_model.bundle.bundle import Bundle, BundleError
from lewm_model.config import POLICY_PLAN, PlanConfig
from lewm_model.models.signature import POLICY
from lewm_model.planning.planner import Decision, Planner
from lewm_model.robot.actions import ActionSpec
from lewm_model.robot.limits import JointLimits
from lewm_model.runtime import Runtime
from lewm_model.runtime.equivalence import load_golden
from lewm_model.runtime.machine import this_machine
from lewm_model.runtime.tensorrt.cuda import Cuda

WARM_UP = 5  # first runs, which are slower and are left out


def plan_of(bundle: Bundle) -> PlanConfig:
    """The plan settings for a bundle when a robot's configuration does not give others."""
    return replace(POLICY_PLAN if POLICY in bundle.heads else PlanConfig(), horizon=bundle.horizon)


def bench(runtime: Runtime, config: PlanConfig | None = None, repeats: int = 100) -> dict[str, Any]:
    """Times a bundle on a back end; all durations are milliseconds of wall-clock time.

    `config` is by default `plan_of` the bundle with every iteration of the search: how soon a plan is good enough
    depends on where arm and goal are, and its longest duration has to meet the deadline. `end_to_end_ms` is the time
    from a picture in memory to a trajectory: encoding, planning within the deadline, sampling the motion. It is without
    the transport of pictures and commands, which the diagnostics of the nodes include.
    """
    bundle, model = runtime.bundle, runtime.bundle.model
    config = replace(plan_of(bundle), tolerated=0.0) if config is None else config
    frames = _frames(bundle)
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    context, past = normal(model.history, model.latent_dim), normal(model.history - 1, model.block_dim)
    goal = normal(model.latent_dim)
    candidates = normal(config.samples, config.horizon, model.block_dim)
    loop = _Loop(runtime, config, goal_frame=frames[-1])
    decisions: list[Decision] = []
    end_to_end = _time(lambda i: decisions.append(loop.step(frames[i % len(frames)])), repeats)
    return {
        "bundle": str(bundle.folder),
        "backend": runtime.backend,
        "precision": getattr(runtime, "precision", "fp32"),
        "machine": {**asdict(this_machine()), "gpu": Cuda().gpu().name if runtime.backend == "tensorrt" else ""},
        "notes": runtime.notes,
        "plan": asdict(config),
        "iterations_done": float(np.mean([decision.iterations for decision in decisions[WARM_UP:]])),
        "repeats": repeats,
        "encoder_ms": _time(lambda i: runtime.encode(frames[i % len(frames)]), repeats),
        "rollout_ms": _time(lambda i: runtime.rollout(context, past, candidates, goal), repeats),
        "plan_ms": _percentiles([decision.plan_s for decision in decisions[WARM_UP:]]),
        "end_to_end_ms": end_to_end,
    }


def limits_for(spec: ActionSpec) -> JointLimits:
    """Limits for timing without a robot file: as fast as in the recording, at that speed after 1/6 s, and with a range
    that takes 4 s to cross, like the simulated arm of worlds/tabletop.sdf.
    """
    speed = spec.full_step / spec.control_dt_s
    return JointLimits(spec.names, -2 * speed, 2 * speed, speed, 6 * speed, 100 * speed)


class _Loop:
    """Drives the planner block by block, on a clock that stands still while it plans, so that no plan is late."""

    def __init__(self, runtime: Runtime, config: PlanConfig, goal_frame: np.ndarray) -> None:
        spec = runtime.bundle.actions
        limits = limits_for(spec)
        self.now_s = 0.0
        self.runtime = runtime
        self.controller = Planner(runtime, limits, config, lambda: self.now_s)
        self.controller.start(np.zeros(len(spec.names)))
        assert self.controller.timeline is not None
        self.knot = self.controller.timeline.knot_at_or_after(self.controller.needed_s)
        self.lead_s = self.controller.needed_s + 1e-3  # just in time for a hand-over
        for _ in range(3):  # after which the planner knows the frame period, and that it need not wait for a newer one
            self._observe(goal_frame)
        self.controller.set_goal(-runtime.encode(goal_frame))  # far from all frames: at its goal nothing is planned

    def step(self, frame: np.ndarray) -> Decision:
        self._observe(frame)
        decision = self.controller.plan()
        assert decision is not None, "a block passed without a plan"
        return decision

    def _observe(self, frame: np.ndarray) -> None:
        assert self.controller.timeline is not None
        self.knot += 1
        self.now_s = self.controller.timeline.knot_time(self.knot) - self.lead_s
        self.controller.observe(self.now_s, self.runtime.encode(frame))


def _frames(bundle: Bundle) -> np.ndarray:
    """The bundle's sample frames, or random pictures if it has none."""
    try:
        return load_golden(bundle).frames
    except BundleError:
        return np.random.default_rng(0).integers(0, 256, (8, *bundle.model.image_size, 3), np.uint8)


def _time(action: Callable[[int], Any], repeats: int) -> dict[str, float]:
    durations = []
    for i in range(WARM_UP + repeats):
        begin = time.perf_counter()
        action(i)
        durations.append(time.perf_counter() - begin)
    return _percentiles(durations[WARM_UP:])


def _percentiles(durations_s: list[float]) -> dict[str, float]:
    values = np.percentile(np.asarray(durations_s) * 1e3, (50, 95, 99))
    return {name: round(float(value), 3) for name, value in zip(("p50", "p95", "p99"), values, strict=True)}
