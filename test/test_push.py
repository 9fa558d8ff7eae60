# SPDX-License-Identifier: Apache-2.0
"""The scripted policy that pushes, the push task, and a bundle whose policy learned from play."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lewm_model.bundle.bundle import load_bundle, load_heads, load_model, sha256
from lewm_model.cli.main import app
from lewm_model.config import MODEL_SIZES, POLICY_PLAN, ModelConfig, PlanConfig, TrainConfig, from_dict, resource
from lewm_model.data.clips import Episodes, load_episodes
from lewm_model.evaluation.preflight import preflight, simulated
from lewm_model.evaluation.timing import bench
from lewm_model.models.graphs import RolloutGraph
from lewm_model.models.lewm import LeWM
from lewm_model.planning.planner import Planner
from lewm_model.robot.actions import ActionSpec
from lewm_model.runtime import load_runtime
from lewm_model.runtime.export import export_onnx, sample_frames
from lewm_model.runtime.onnx_backend import OnnxRuntime
from lewm_model.runtime.torch_backend import TorchRuntime
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.collect import collect
from lewm_model.tasks.push import MOVED_M, PUSH
from lewm_model.tasks.push_script import Play, ScriptedPush, play
from lewm_model.training.calibration import same_place_distances
from lewm_model.training.heads import retrain_policy_heads, train_cloned_policy, train_temporal_distance
from lewm_model.training.trainer import train

RADII, ANGLES = PUSH.setup.radii_m, PUSH.setup.angles_rad


@pytest.fixture(scope="module")
def sim() -> ArmSim:
    return ArmSim(render=False)


def test_the_object_starts_elsewhere_in_each_episode_and_most_play_moves_it(sim: ArmSim) -> None:
    starts, ways = [], []
    for episode in range(8):
        seen: list[np.ndarray] = []
        rng = np.random.default_rng((7, episode))
        actions = play(
            sim, rng, "block", PUSH.setup, 100, lambda seen=seen: seen.append(sim.object_pose("block")), roam=False
        )
        assert actions.shape == (100, 2) and len(seen) == 101
        assert (np.abs(actions) <= sim.limits.velocity + 1e-9).all()
        starts.append(seen[0][:2])
        ways.append(float(np.linalg.norm((seen[-1] - seen[0])[:2])))
    radii = np.hypot(*np.transpose(starts))
    assert (radii >= RADII[0]).all() and (radii <= RADII[1]).all() and np.std(starts, axis=0).min() > 0.04
    assert np.mean(np.array(ways) > MOVED_M) > 0.3
    angles = np.arctan2(*np.transpose(starts)[::-1])
    assert (angles >= ANGLES[0]).all() and (angles <= ANGLES[1]).all() and np.ptp(angles) > 0.3


def test_recorded_play_shows_the_object_beyond_where_goals_lie_and_comes_back(sim: ArmSim) -> None:
    rng = np.random.default_rng(3)
    places = [PUSH.setup.random_place(rng, edge=True) for _ in range(400)]
    beyond = [
        not (RADII[0] <= np.hypot(*b) <= RADII[1] and ANGLES[0] <= np.arctan2(*b[::-1]) <= ANGLES[1]) for b in places
    ]
    assert 0.1 < np.mean(beyond) < 0.3
    player = ScriptedPush(sim, rng, PUSH.object, PUSH.setup)
    targets = [player.random_target(np.array([0.0, -0.5])) for _ in range(50)]
    assert all(RADII[0] <= np.hypot(*target) <= RADII[1] for target in targets)
    assert player.random_target(np.array([-5.0, 0.0])).shape == (2,), "an object that is far from every target"


def test_the_policy_learns_what_was_done_before_a_goal_came() -> None:
    """On a line: the latent is where the point is, and it goes to where the episode ends at an even speed."""
    config = from_dict(ModelConfig, {"latent_dim": 2, "action_dim": 1}, MODEL_SIZES["small"])
    rng = np.random.default_rng(0)
    latents, actions = [], []
    for speed in rng.uniform(-1, 1, 100):
        positions = rng.uniform(-1, 1) + speed * 0.05 * np.arange(60)
        latents.append(np.stack([positions, np.full(60, speed)], 1))  # a frame that shows the speed
        actions.append(np.full((60, 1), speed))
    offsets, lengths = torch.arange(100) * 60, torch.full((100,), 60)
    flat, done = (torch.tensor(np.concatenate(values), dtype=torch.float32) for values in (latents, actions))
    policy, metrics = train_cloned_policy(
        config, flat, done, torch.zeros(6000, dtype=torch.bool), offsets, lengths, 2, TrainConfig(policy_steps=300)
    )
    assert metrics["loss"] < 0.02
    blocks = policy(flat[[0, 60]], flat[[40, 100]], torch.tensor([40.0, 0.0])).detach()
    np.testing.assert_allclose(blocks.numpy(), done[[0, 60]].expand(2, 5).numpy(), atol=0.25)


def test_the_temporal_distance_is_that_of_play_which_did_not_dawdle() -> None:
    """From 0 to 1 on one of 20 lines, none of which leads to another: half of the episodes take 20 steps, half 40."""
    config = from_dict(ModelConfig, {"latent_dim": 2}, MODEL_SIZES["small"])
    lengths = torch.tensor([21, 41] * 20)
    latents = torch.cat(
        [
            torch.stack([torch.linspace(0, 1, n), torch.full((n,), i // 2 - 10.0)], 1)
            for i, n in enumerate(lengths.tolist())
        ]
    )
    head, _ = train_temporal_distance(
        config, latents, lengths.cumsum(0) - lengths, lengths, TrainConfig(policy_steps=600)
    )
    begin, middle, end, elsewhere = (torch.tensor(at) for at in ([0.0, 0.0], [0.5, 0.0], [1.0, 0.0], [1.0, 5.0]))
    far, half, here, none = (float(head(at, end).detach()) for at in (begin, middle, end, elsewhere))
    assert 20 - 3 < far < 30, "nearer to the fast ones than the mean of 30"
    assert 0.3 * far < half < 0.7 * far and here < 4.0
    assert none > 150.0, "where play never comes from"
    assert head(torch.zeros(4, 3, 2), end).shape == (4, 3)


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("push")
    collect(folder / "play.h5", episodes=4, steps=40, image_size=32, workers=1, motion=Play(PUSH.object, PUSH.setup))
    data = load_episodes(folder / "play.h5")
    assert data.recorded["kind"] == "play"
    model = from_dict(ModelConfig, {"image_size": 32, "encoder_depth": 1, "predictor_depth": 1}, MODEL_SIZES["small"])
    config = from_dict(
        TrainConfig,
        {"steps": 3, "batch": 8, "clip_frames": 2, "clips_per_pose": 4, "head_steps": 0, "policy_steps": 5}
        | {"threads": 1},
    )
    bundle = train(data, folder / "bundle", folder / "run", model, config)
    arguments = {"steps": 20, "image_size": 32, "workers": 1, "motion": Play(PUSH.object, PUSH.setup, bundle.folder)}
    collect(folder / "mistakes.h5", episodes=2, **arguments)  # the policy leads
    mistakes = load_episodes(folder / "mistakes.h5")
    assert mistakes.recorded["policy"] == sha256(bundle.folder / "model.json")
    assert not np.array_equal(mistakes.pixels[0], data.pixels[0])
    before = load_heads(bundle)["policy"].state_dict()["net.0.weight"]
    bundle = retrain_policy_heads(bundle, [data, mistakes], config)
    assert not torch.equal(load_heads(bundle)["policy"].state_dict()["net.0.weight"], before)
    export_onnx(bundle, POLICY_PLAN.horizon, frames=sample_frames(data, model))
    return folder / "bundle"


def test_a_policy_moves_the_arm_only_where_a_scripted_one_goes_on(tmp_path: Path) -> None:
    arguments = ["collect", str(tmp_path / "random.h5"), "--policy", str(tmp_path)]
    with pytest.raises(ValueError, match="the task reach has no scripted policy that continues"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_a_command_trains_policy_and_temporal_distance_anew_calibrates_and_exports(
    bundle_folder: Path, tmp_path: Path
) -> None:
    usual = tmp_path / "usual.h5"
    collect(usual, episodes=12, steps=60, seed=9, image_size=32, workers=1, motion=Play(PUSH.object, PUSH.setup))
    shutil.copytree(bundle_folder, tmp_path / "bundle")
    recording = str(bundle_folder.parent / "play.h5")  # without the corrections that it was trained on as well
    arguments = ["policy", str(tmp_path / "bundle"), recording, "--calibration", str(usual)]
    said = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert said.exit_code == 0 and "next: lewm doctor model" in said.output
    before, after = load_bundle(bundle_folder), load_bundle(tmp_path / "bundle")
    assert after.calibration is not None and after.files["weights.safetensors"] == before.files["weights.safetensors"]
    changed = {name for name, digest in after.files.items() if before.files.get(name) != digest}
    assert {"onnx/proposal.onnx", "onnx/rollout.onnx"} <= changed and "onnx/encoder.onnx" not in changed
    with pytest.raises(ValueError, match=r"has no policy; train it with train\.policy_steps above 0"):
        arguments[1] = str(resource("models", "reach"))
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_a_push_bundle_loads_and_every_back_end_proposes_and_imagines_the_same(bundle_folder: Path) -> None:
    bundle = load_bundle(bundle_folder)
    assert bundle.heads == ("policy", "temporal_distance")
    assert bundle.evaluation["heads"]["policy"]["delay_steps"] == 2, "control steps until a plan takes over"
    rng = np.random.default_rng(0)
    back_ends = TorchRuntime(bundle), OnnxRuntime(bundle)
    dimension, block = bundle.model.latent_dim, bundle.model.block_dim
    goal, *contexts = rng.standard_normal((7, dimension)).astype(np.float32)
    steps, actions = np.array([0.0, 30.0] * 3), rng.standard_normal((6, 1, block)).astype(np.float32)
    blocks = [runtime.propose(np.stack(contexts), goal, steps) for runtime in back_ends]
    np.testing.assert_allclose(*blocks, atol=1e-4)
    alone = back_ends[1].propose(contexts[3][None], goal, steps[3:4])
    np.testing.assert_allclose(alone[0], blocks[1][3], atol=1e-5)
    # A step is a rollout of one block, but for the drift that a rollout takes out.
    model = load_model(bundle)
    context = torch.from_numpy(np.stack(contexts))[:, None]
    wanted = model.rollout(context, torch.zeros(6, 0, block), torch.from_numpy(actions))[:, 0].detach().numpy()
    for runtime in back_ends:
        found = runtime.step(context.numpy(), np.zeros((6, 0, block), np.float32), actions[:, 0])
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_it_is_timed_and_examined_as_it_is_planned_with(bundle_folder: Path) -> None:
    runtime = load_runtime(load_bundle(bundle_folder), "onnxruntime")
    every_iteration = replace(POLICY_PLAN, tolerated=0.0)  # the longest decision has to meet the deadline
    assert bench(runtime, repeats=2)["plan"] == asdict(every_iteration)
    found = preflight(runtime, simulated(runtime.bundle, episodes=3))
    assert len(found.error_ratios) == POLICY_PLAN.horizon and "3 episodes" in found.data
    assert found.verdict == "NO-GO", "three steps of training"


def controller_of(
    runtime: TorchRuntime, sim: ArmSim, wanted: Callable[[], np.ndarray], config: PlanConfig = POLICY_PLAN
) -> Planner:
    """At rest, with a frame and a goal, and a policy that proposes the velocities `wanted()` (A,) rad/s."""
    runtime.propose = lambda latents, goal, steps: runtime.bundle.actions.normalise(  # type: ignore[method-assign]
        np.tile(wanted(), (len(latents), 5, 1))
    ).reshape(len(latents), -1)
    sim.reset(joint_positions=[0.0, 0.5])
    controller = Planner(runtime, sim.limits, config, clock=lambda: sim.time_s)
    controller.set_goal(np.zeros(runtime.bundle.model.latent_dim, np.float32))
    controller.start(sim.joint_positions())
    controller.observe(0.0, np.ones(runtime.bundle.model.latent_dim, np.float32))
    return controller


def test_the_controller_does_what_the_policy_proposes_within_the_limits(bundle_folder: Path, sim: ArmSim) -> None:
    exactly = replace(POLICY_PLAN, policy_noise=0.0)
    controller = controller_of(TorchRuntime(load_bundle(bundle_folder)), sim, lambda: np.array([0.4, -0.3]), exactly)
    decision = controller.plan()
    assert decision is not None and decision.trajectory is not None and decision.iterations == 1
    most = np.minimum([0.4, 0.3], controller.knot_limits.velocity)
    np.testing.assert_allclose(np.abs(decision.trajectory.velocities).max(0), most, atol=0.02)
    np.testing.assert_allclose(decision.trajectory.velocities[-1], 0.0, atol=1e-9)


def test_of_the_ways_that_a_policy_leads_the_one_that_is_imagined_to_come_nearest_is_taken(
    bundle_folder: Path, sim: ArmSim
) -> None:
    runtime = TorchRuntime(load_bundle(bundle_folder))
    wanted = np.zeros(2)
    controller = controller_of(runtime, sim, lambda: wanted)
    rollout = runtime.rollout

    def left_is_near(*arguments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        distances, latents = rollout(*arguments)
        return np.repeat(10.0 - arguments[2][..., 0].sum(1)[:, None], distances.shape[1], 1), latents

    runtime.rollout = left_is_near  # type: ignore[method-assign]
    decision = controller.plan()
    assert decision is not None
    assert decision.joint_path[-1, 0] > 0.02, "a policy that stands still is strayed from to where it is nearer"


def test_a_plan_is_kept_while_no_other_is_better_by_much(bundle_folder: Path, sim: ArmSim) -> None:
    runtime = TorchRuntime(load_bundle(bundle_folder))
    wanted = np.array([0.4, 0.4])
    controller = controller_of(runtime, sim, lambda: wanted)
    rollout = runtime.rollout

    def all_alike(*arguments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        distances, latents = rollout(*arguments)
        return np.full_like(distances, 10.0), latents

    runtime.rollout = all_alike  # type: ignore[method-assign]
    for moment, direction in ((0.0, 1.0), (0.25, -1.0), (0.5, -1.0)):
        wanted[:] = 0.4 * direction  # the policy changes its direction, at equal cost
        if moment > sim.time_s:
            sim.step(moment - sim.time_s)
        controller.observe(moment, np.ones(runtime.bundle.model.latent_dim, np.float32))
        decision = controller.plan()
        assert decision is not None and decision.trajectory is not None
        assert decision.joint_path[-1, 0] - decision.joint_path[0, 0] > 0.05


def test_where_the_arm_moves_objects_a_pose_that_it_came_back_to_is_not_the_same_place() -> None:
    """The arm goes there and back; the latent is the position of the object, which it pushed on the way."""
    spec = ActionSpec.of_one_kind(("a",), "joint_velocity", "rad/s", 0.1, 1, (0.0,), (1.0,), (-1.0,), (1.0,))
    actions = np.array([[0.0]] * 10 + [[1.0]] * 5 + [[-1.0]] * 5 + [[0.0]] * 10 + [[np.nan]], np.float32)
    pixels = np.zeros((31, 4, 4, 3), np.uint8)
    data = Episodes(pixels, actions, None, np.array([0]), np.array([31]), 0.1, ("a",), ("joint_velocity",), "", "")
    model = LeWM(from_dict(ModelConfig, {"latent_dim": 2}, MODEL_SIZES["small"])).eval()
    latents = torch.zeros(31, 2)
    latents[15:] = 3.0
    found = [
        same_place_distances(RolloutGraph(model, None), data, np.array([0]), latents, spec, moves_objects)
        for moves_objects in (False, True)
    ]
    assert found[0].max() == pytest.approx(18.0) and len(found[0]) > len(found[1]) > 50
    assert found[1].max() == 0.0
