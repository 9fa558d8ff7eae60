# SPDX-License-Identifier: Apache-2.0
"""Which quantities a model's latents encode: ridge and MLP probes on the frozen encoder. `lewm probe`

A probe is a regression from the latent to a quantity that was never shown in training: joint angles, the end effector's
position, the pose of an object. Velocities are probed from three latents one action block apart, since one frame does
not show them. Probes are fitted to some of the held-out episodes and judged on the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import nn

from lewm_model.bundle.bundle import Bundle, BundleError, load_model
from lewm_model.bundle.held_out import held_out_episodes
from lewm_model.data.clips import DataError, Episodes
from lewm_model.robot.observation import Observation
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.looks import random_place
from lewm_model.tasks.registry import suite_of
from lewm_model.training.latents import encode_all, encode_rows

CONTEXT = 3  # latents that velocities are probed from, one action block apart
TEST_SHARE = 0.3  # of the episodes
FEWEST_EPISODES = 10  # on either side of the split
PENALTIES = 10.0 ** np.arange(-4, 3)  # of ridge, per sample; chosen on a fifth of the episodes of the fit
OBJECT_PIXELS = 3  # of the model's picture that must show the object, since a hidden one cannot be encoded
MLP_STEPS, MLP_WIDTH, MLP_BATCH = 1500, 256, 512
_SEED = 0x50524F42  # of the object's places: (this, seed, frame)


@dataclass(frozen=True)
class Probed:
    """How well one probe predicts one target on episodes that it was not fitted to.

    Means over the target's numbers: squared error of the standardised target, Pearson's r, and R^2.
    """

    target: str
    probe: str  # "ridge" or "mlp"
    mse: float
    r: float
    r2: float
    frames: int
    episodes: int


def probe_bundle(bundle: Bundle, data: Episodes, seed: int = 0, object_frames: int = 3000) -> list[Probed]:
    """Probes a bundle on held-out episodes of a recording for the joints; in the world of its task also for the tip,
    the tool's direction, and objects, these on pictures in which they lie anywhere.

    :raises DataError: no joint positions were recorded, or too few episodes are held out.
    """
    episodes = held_out_episodes(bundle, data)
    if data.proprio is None:
        raise DataError(f"{data.source} has no joint positions ('proprio') to probe for; record them")
    if len(episodes) * min(TEST_SHARE, 1 - TEST_SHARE) < FEWEST_EPISODES:
        raise DataError(
            f"{data.source}: {len(episodes)} held-out episodes are too few to fit and to judge a probe; give a "
            f"recording of {int(np.ceil(FEWEST_EPISODES / TEST_SHARE))} or more that the model was not trained on"
        )
    model = load_model(bundle)
    rows = data.rows(episodes)
    latents = encode_rows(model, data, rows).numpy()
    owner = np.repeat(np.arange(len(data.lengths)), data.lengths)
    joints = data.proprio.astype(np.float64)
    found = fit("joint angles", latents[rows], joints[rows], owner[rows], seed)
    contexts, now = context_rows(data, episodes, bundle.actions.frameskip)
    velocities = 0.5 * (data.actions[now - 1] + data.actions[now])
    found += fit("joint velocities, 1 latent", latents[now], velocities, owner[now], seed)
    stacked = latents[contexts].reshape(len(now), -1)
    found += fit(f"joint velocities, {CONTEXT} latents", stacked, velocities, owner[now], seed)
    with _world_of(bundle, data) as sim:
        if sim is None:
            return found
        poses = {
            "end effector": np.stack([sim.end_effector(pose) for pose in joints[rows]]),
            "tool direction": np.stack([sim.tool_direction(pose) for pose in joints[rows]]),
        }
        for target, wanted in poses.items():
            varying = np.ptp(wanted, axis=0) > 1e-6  # a flat arm keeps its height, and points one way
            if varying.any():
                found += fit(target, latents[rows], wanted[:, varying], owner[rows], seed)
        for name in sim.objects:
            called = "object" if len(sim.objects) == 1 else name
            pictures, places = moved_object(sim, name, bundle.observation, object_frames, seed)
            object_latents, each = encode_all(model, pictures).numpy(), np.arange(len(pictures))
            found += fit(f"{called} position", object_latents, places[:, :2], each, seed)
            # A square object looks the same after a quarter turn.
            turned = np.stack([np.cos(4 * places[:, 2]), np.sin(4 * places[:, 2])], 1)
            found += fit(f"{called} angle", object_latents, turned, each, seed)
    return found


@contextmanager
def _world_of(bundle: Bundle, data: Episodes) -> Iterator[ArmSim | None]:
    """The world of the bundle's task, if the recording is of the arm in it; else None, as for a real arm."""
    try:
        world = suite_of(bundle).world_file
    except BundleError:
        yield None
        return
    with ArmSim(world) as sim:
        yield sim if data.action_names == sim.names else None


def context_rows(data: Episodes, episodes: np.ndarray, frameskip: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (M, CONTEXT) of latents one action block apart, and the row (M,) of the last of each, which has an action
    before and after it. The context ends at the frame whose velocity is probed, so no probe sees the future.
    """
    span = (CONTEXT - 1) * frameskip
    last = np.concatenate(
        [data.offsets[e] + np.arange(span, data.lengths[e] - 1) for e in episodes if data.lengths[e] > span + 1]
    )
    return last[:, None] - frameskip * np.arange(CONTEXT - 1, -1, -1), last


def moved_object(sim: ArmSim, name: str, view: Observation, frames: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, H, W, 3) of the arm and an object, both at random places and with the object visible.

    :return: pictures, and the object's (N, 3) x, y in m and yaw in rad.
    """
    pictures = np.empty((frames, *view.size, 3), np.uint8)
    poses = np.empty((frames, 3))
    for frame in range(frames):
        rng = np.random.default_rng(np.random.SeedSequence((_SEED, seed, frame)))
        while True:
            sim.reset(seed=int(rng.integers(2**32)))
            pose = sim.object_pose(name)
            pose[0] = 10 * sim.reach_m  # outside the picture
            sim.set_object_pose(name, pose)
            without = sim.picture(view).astype(int)
            x, y = random_place(sim, rng)
            yaw = rng.uniform(0, np.pi / 2)
            pose[:2], pose[3:] = (x, y), (np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2))
            sim.set_object_pose(name, pose)
            pictures[frame] = sim.picture(view)
            poses[frame] = x, y, yaw
            if (np.abs(pictures[frame] - without).max(2) > 32).sum() >= OBJECT_PIXELS:
                break
    return pictures, poses


def fit(target: str, inputs: np.ndarray, wanted: np.ndarray, owner: np.ndarray, seed: int) -> list[Probed]:
    """Fits both probes from `inputs` (N, D) to `wanted` (N, K); `owner` (N,) is the episode of each row."""
    from sklearn.linear_model import Ridge
    from sklearn.metrics import mean_squared_error
    from sklearn.preprocessing import StandardScaler

    inputs, wanted = inputs.astype(np.float64), wanted.astype(np.float64)
    rng = np.random.default_rng((seed, 3))
    order = rng.permutation(np.unique(owner))
    count = max(1, round(TEST_SHARE * len(order)))
    tested = np.isin(owner, order[:count])
    chosen = np.isin(owner, order[count : count + max(1, (len(order) - count) // 5)])  # to choose ridge's penalty
    x, y = (StandardScaler().fit(values[~tested]).transform(values) for values in (inputs, wanted))
    fitted = ~tested & ~chosen

    def regression(rows: np.ndarray, penalty: float) -> Ridge:
        """Without an intercept, since inputs and outputs are standardised."""
        return Ridge(penalty * rows.sum(), fit_intercept=False).fit(x[rows], y[rows])

    def error(penalty: float) -> float:
        return mean_squared_error(y[chosen], regression(fitted, penalty).predict(x[chosen]))

    ridge = regression(~tested, min(PENALTIES, key=error)).predict(x[tested]).reshape(-1, y.shape[1])
    mlp = _mlp(x[~tested], y[~tested], x[tested], seed)
    return [_judge(target, name, got, y[tested], count) for name, got in (("ridge", ridge), ("mlp", mlp))]


def _mlp(x: np.ndarray, y: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Predictions (M, K) for `test` (M, D) of a network with two hidden layers, fitted to x (N, D) and y (N, K)."""
    torch.manual_seed(seed)
    inputs, wanted = (torch.from_numpy(values).float() for values in (x, y))
    net = nn.Sequential(
        nn.Linear(x.shape[1], MLP_WIDTH), nn.ReLU(), nn.Linear(MLP_WIDTH, MLP_WIDTH), nn.ReLU(),
        nn.Linear(MLP_WIDTH, y.shape[1]),
    )  # fmt: skip
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, MLP_STEPS)
    for _ in range(MLP_STEPS):
        rows = torch.randint(len(inputs), (MLP_BATCH,))
        loss = (net(inputs[rows]) - wanted[rows]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return net(torch.from_numpy(test).float()).double().numpy()


def _judge(target: str, probe: str, got: np.ndarray, wanted: np.ndarray, episodes: int) -> Probed:
    from sklearn.metrics import mean_squared_error, r2_score

    r = [0.0 if a.std() < 1e-9 else float(np.corrcoef(a, b)[0, 1]) for a, b in zip(got.T, wanted.T, strict=True)]
    mse, r2 = float(mean_squared_error(wanted, got)), float(r2_score(wanted, got))
    return Probed(target, probe, mse, float(np.mean(r)), r2, len(wanted), episodes)


def as_dict(bundle: Bundle, data: Episodes, probes: list[Probed]) -> dict[str, Any]:
    """All results, for JSON."""
    return {
        "bundle": str(bundle.folder),
        "data": {"source": data.source, "sha256": data.sha256},
        "probes": [asdict(probed) for probed in probes],
    }


def table(probes: list[Probed]) -> Table:
    """The probes, for the terminal."""
    shown = Table(title="probes on frozen latents, judged on episodes that they were not fitted to")
    for heading in ("target", "probe", "R^2", "Pearson r", "MSE", "frames"):
        shown.add_column(heading, justify="left" if heading in ("target", "probe") else "right")
    for probed in probes:
        numbers = (f"{probed.r2:.4f}", f"{probed.r:.4f}", f"{probed.mse:.4f}", str(probed.frames))
        shown.add_row(probed.target, probed.probe, *numbers)
    return shown
