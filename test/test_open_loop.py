# SPDX-License-Identifier: Apache-2.0
"""The paper's policy on the simulated arm, and the DINO-WM shape beside which LeWM is timed."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace

import numpy as np
import torch

from benchmarks.dinowm import BESIDE, FEATURES, TOKENS, DinoWMShape
from benchmarks.open_loop import reach_open_loop
from lewm_model.bundle.bundle import load_bundle
from lewm_model.config import PlanConfig, resource
from lewm_model.evaluation.timing import _Loop
from lewm_model.robot.actions import ActionSpec
from lewm_model.robot.observation import Observation
from lewm_model.runtime.equivalence import load_golden
from lewm_model.runtime.onnx_backend import OnnxRuntime
from lewm_model.sim.arm import ArmSim
from lewm_model.tasks.reach import NEAR
from lewm_model.tasks.task import draw_trials

SPEC = ActionSpec.of_one_kind(
    ("shoulder", "elbow"), "joint_velocity", "rad/s", 0.05, 5, (0.1, 0.0), (0.7, 0.6), (-1.5, -1.5), (1.5, 1.5)
)


def test_plans_of_25_steps_are_executed_to_their_end_and_a_perfect_one_reaches_the_goal() -> None:
    with ArmSim() as sim:
        (task,) = draw_trials(NEAR, 1, 0, sim)
        bundle = SimpleNamespace(observation=Observation.of_one((64, 64)), actions=SPEC)
        # The latent is where the arm is, whatever the picture shows.
        runtime = SimpleNamespace(bundle=bundle, encode=lambda image: sim.joint_positions())
        plans = []

        def plan(latent: np.ndarray, goal: np.ndarray) -> np.ndarray:
            plans.append(sim.time_s)
            velocity = np.repeat((goal - latent)[None] / 1.25, 25, axis=0)
            return ((velocity - np.asarray(SPEC.mean)) / np.asarray(SPEC.std)).reshape(5, 10)

        outcome = reach_open_loop(task, sim, runtime, plan)  # type: ignore[arg-type]
    np.testing.assert_allclose(plans, [0.0, 1.25], atol=0.011)
    assert outcome.held and outcome.final_error < 0.01


@torch.inference_mode()
def test_the_dinowm_shape_imagines_frames_of_tokens_from_its_actions_and_sees_no_later_frame() -> None:
    torch.manual_seed(0)
    model = DinoWMShape().eval()
    frame, beside = torch.randn(TOKENS, FEATURES), torch.randn(1, 2, BESIDE)
    found = model.rollout(frame, beside)
    assert found.shape == (1, TOKENS, FEATURES)
    beside[:, 0] += 1.0
    assert (model.rollout(frame, beside) - found).abs().max() > 1e-3
    assert not model.mask[0, TOKENS] and model.mask[TOKENS, 0]


def test_plans_leave_nothing_behind() -> None:
    bundle = load_bundle(resource("models", "reach"))
    frames = load_golden(bundle).frames
    loop = _Loop(OnnxRuntime(bundle), PlanConfig(samples=16, elites=4, iterations=1), frames[-1])

    def plan(times: int) -> None:
        for number in range(times):
            loop.step(frames[number % len(frames)])

    plan(260)  # a controller remembers 256 frames: all there before memory is measured
    tracemalloc.start()
    try:
        plan(10)
        before = tracemalloc.get_traced_memory()[0]
        plan(50)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    # 50 stamps and latents replace others from before the measurement: less than a kilobyte each.
    assert grown < 50_000, f"50 plans hold {grown} bytes"
