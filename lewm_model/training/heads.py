# SPDX-License-Identifier: Apache-2.0
"""Training of the heads, small networks on a model's frozen latents, and how they get into a bundle.

Batches are drawn and gathered on the CPU, in whose memory the latents are, and computed on the device of the training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from lewm_model.bundle.bundle import HEADS, ActionSpec, Bundle, load_heads, load_model
from lewm_model.bundle.held_out import not_trained_on, trained_on
from lewm_model.bundle.update import update
from lewm_model.config import ModelConfig, TrainConfig
from lewm_model.data.clips import Episodes
from lewm_model.models.distributed import device_of
from lewm_model.models.heads import (
    TIME_SCALE,
    ActionProposal,
    ClonedPolicy,
    DisplacementEmbedding,
    TemporalDistance,
)
from lewm_model.models.lewm import LeWM
from lewm_model.models.signature import POLICY, TEMPORAL_DISTANCE
from lewm_model.training.latents import encode_rows, imagined_views

BATCH = 1024  # pairs of frames in an optimiser step
POLICY_BATCH = 512  # the same for the policy


def train_heads(
    model: LeWM, data: Episodes, episodes: np.ndarray, spec: ActionSpec, config: TrainConfig
) -> tuple[dict[str, nn.Module], dict[str, Any]]:
    """Trains the heads that `config` asks for on the frozen latents of these episodes; returns heads and metrics by
    name. The model ends up on the device of `config`, the heads on the CPU.
    """
    model = model.to(device_of(config))
    heads: dict[str, nn.Module] = {}
    metrics: dict[str, Any] = {}
    if config.policy_steps:
        heads, metrics = train_policy_heads(model, [(data, episodes)], spec, config)
    if config.head_steps == 0:
        return heads, metrics
    rows = data.rows(episodes)
    torch.manual_seed(config.seed)
    # The frames as recorded, and augmented ones: the heads learn that both show the same state.
    encoded = [encode_rows(model, data, rows)]
    if config.augment.share:
        encoded += [encode_rows(model, data, rows, config.augment) for _ in range(config.views - 1)]
    imagined = [imagined_views(model, data, episodes, latents, spec)[1:] for latents in encoded]
    lengths, offsets = (torch.from_numpy(values[episodes]) for values in (data.lengths, data.offsets))
    travelled = travelled_steps(data, episodes, spec)
    head, metrics["displacement"] = train_displacement(
        model.config,
        torch.stack(encoded),
        torch.cat(imagined),
        torch.from_numpy(travelled),
        offsets,
        lengths,
        config.head_steps,
        config.seed,
        device_of(config),
    )
    proposal = ActionProposal(model.config).eval()
    proposal.net.load_state_dict(head.net.state_dict())
    std = torch.tensor(spec.std)
    proposal.scale.copy_(torch.from_numpy(spec.full_step / spec.control_dt_s) / std)
    proposal.shift.copy_(torch.tensor(spec.mean) / std)
    return {**heads, "displacement": head, "proposal": proposal}, metrics


def travelled_steps(data: Episodes, episodes: np.ndarray, spec: ActionSpec) -> np.ndarray:
    """(N, A): sum of the actions from the episode's start to each frame of these episodes, in control steps at full
    speed; zeros for other frames.
    """
    travelled = np.zeros_like(data.actions)
    for episode in episodes:
        first, last = data.offsets[episode], data.offsets[episode] + data.lengths[episode] - 1
        actions = data.actions[first:last]
        travelled[first + 1 : last + 1] = np.cumsum(actions * spec.control_dt_s / spec.full_step, axis=0)
    return travelled


def add_heads(bundle: Bundle, model: LeWM, data: Episodes, episodes: np.ndarray, config: TrainConfig) -> Bundle:
    """Trains the heads of `config` on these episodes and adds them to the bundle, whose other heads stay."""
    heads, metrics = train_heads(model, data, episodes, bundle.actions, config)
    others = np.setdiff1d(np.arange(len(data.lengths)), episodes)
    training = trained_on(bundle.training, data, others)
    return update(bundle, lambda draft: replace(with_heads(draft, heads, metrics), training=training))


def with_heads(draft: Bundle, heads: dict[str, nn.Module], metrics: dict[str, Any]) -> Bundle:
    """Writes trained heads and their metrics into a draft of a bundle (`lewm_model.bundle.update`), whose other heads
    stay; returns its new description.
    """
    every = {**load_heads(draft), **heads}
    tensors = {f"{name}.{key}": value for name, head in every.items() for key, value in head.state_dict().items()}
    if tensors:
        save_file(tensors, draft.folder / HEADS)
    measured = {**draft.evaluation.get("heads", {}), **metrics}
    return replace(draft, heads=tuple(every), evaluation={**draft.evaluation, "heads": measured})


def retrain_policy_heads(bundle: Bundle, play: Sequence[Episodes], config: TrainConfig) -> Bundle:
    """Trains policy and temporal distance of a bundle anew, on these recordings of play; its other heads stay.

    Episodes that were held out of a recording which the bundle was trained on stay held out; of other recordings all
    episodes are used.
    """
    training, used = bundle.training, []
    for data in play:
        kept = not_trained_on(bundle, data)
        held_out = np.zeros(0, int) if len(kept) == len(data.lengths) else kept
        used.append((data, np.setdiff1d(np.arange(len(data.lengths)), held_out)))
        training = trained_on(training, data, held_out)
    heads, metrics = train_policy_heads(load_model(bundle).to(device_of(config)), used, bundle.actions, config)
    return update(bundle, lambda draft: replace(with_heads(draft, heads, metrics), training=training))


def train_policy_heads(
    model: LeWM, play: Sequence[tuple[Episodes, np.ndarray]], spec: ActionSpec, config: TrainConfig
) -> tuple[dict[str, nn.Module], dict[str, Any]]:
    """Trains policy and temporal distance on the frozen latents of recordings of play, each with the episodes to use;
    returns heads and metrics by name.
    """
    device = device_of(config)
    latents, actions, still, offsets, lengths, first = [], [], [], [], [], 0
    for data, episodes in play:
        latents.append(encode_rows(model, data, data.rows(episodes)))
        raw = np.nan_to_num(data.actions)
        actions.append(torch.from_numpy(spec.normalise(raw)))
        still.append(torch.from_numpy((np.abs(raw) <= config.resting * np.array(spec.std)).all(1)))
        offsets.append(torch.from_numpy(data.offsets[episodes] + first))
        lengths.append(torch.from_numpy(data.lengths[episodes]))
        first += len(raw)
    z, done, rests, begins, frames = (torch.cat(parts) for parts in (latents, actions, still, offsets, lengths))
    delay = config.policy_delay_steps(spec.control_dt_s)
    policy, found = train_cloned_policy(model.config, z, done, rests, begins, frames, delay, config, device)
    time, time_metrics = train_temporal_distance(model.config, z, begins, frames, config, device)
    metrics = {POLICY: {**found, "delay_steps": delay}, TEMPORAL_DISTANCE: time_metrics}
    return {POLICY: policy, TEMPORAL_DISTANCE: time}, metrics


def train_displacement(
    c: ModelConfig,
    encoded: Tensor,
    imagined: Tensor,
    travelled: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    steps: int,
    seed: int,
    device: str = "cpu",
) -> tuple[DisplacementEmbedding, dict[str, float]]:
    """Trains the displacement embedding f on pairs of frames of the same episode: f(z') - f(z) is the way between them.

    The planner measures imagined latents, so one frame of a pair is a recorded one, the other recorded or imagined.

    :param encoded: (V, N, D), latents of N frames as recorded and, with augmentation, of V - 1 augmented views.
    :param imagined: (W, N, D), latents that the model imagined for the same frames, some blocks ahead.
    :param travelled: (N, A), sum of the actions from the episode's start to each frame, in control steps at full speed.
    :param offsets: (E,), the first row of each episode.
    :param lengths: (E,), frames of each episode.
    :return: the head, and its root mean square errors in control steps, on encoded and on imagined latents.
    """
    torch.manual_seed(seed)
    head = DisplacementEmbedding(c).to(device)
    optimiser = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    error = torch.zeros(BATCH, c.action_dim)
    guessed = torch.zeros(BATCH, dtype=torch.bool)
    views = torch.cat([encoded, imagined])
    for _ in _bar(steps, "distance"):
        episode = torch.randint(len(offsets), (BATCH,))
        here, there = (offsets[episode] + (torch.rand(BATCH) * lengths[episode]).long() for _ in range(2))
        first_view, view = torch.randint(len(encoded), (BATCH,)), torch.randint(len(views), (BATCH,))
        pairs = torch.cat([views[first_view, here], views[view, there]]).to(device)
        first, second = head.net(pairs).chunk(2)
        error = second - first - (travelled[there] - travelled[here]).to(device)
        guessed = view >= len(encoded)
        optimiser.zero_grad()
        F.smooth_l1_loss(error, torch.zeros_like(error)).backward()
        optimiser.step()
        schedule.step()
    squared = error.detach().cpu().square().mean(1)
    metrics = {"rms_encoded_steps": squared[~guessed].mean(), "rms_imagined_steps": squared[guessed].mean()}
    return head.cpu().eval(), {name: float(value.sqrt()) for name, value in metrics.items()}


def train_cloned_policy(
    c: ModelConfig,
    latents: Tensor,
    actions: Tensor,
    resting: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    delay_steps: int,
    config: TrainConfig,
    device: str = "cpu",
) -> tuple[ClonedPolicy, dict[str, float]]:
    """Goal-conditioned behaviour cloning with hindsight: any later frame of an episode is a goal of the actions before.

    Blocks in which the arm rests are left out: a policy that has learned to rest also rests where it is in doubt, and
    to rest at the goal is the planner's part. Half of a batch is given the number of control steps to the goal, the
    other half 0, which stands for unknown.

    :param latents: (N, D) of N frames.
    :param actions: (N, A), z-scored.
    :param resting: (N,) bool, where the arm rests.
    :param offsets: (E,), the first row of each episode.
    :param lengths: (E,), frames of each episode.
    :param delay_steps: control steps from a frame to the block that is learned for it, which a robot executes then.
    :param config: steps, seed, farthest goal and noise on the latents.
    :return: the policy, and the mean loss of its blocks, in z-scores, over the last tenth of the steps.
    """
    torch.manual_seed(config.seed)
    policy = ClonedPolicy(c).to(device)
    nearest = delay_steps + c.frameskip  # of the frames that can be a goal
    within = torch.arange(delay_steps, nearest)
    last = _last_rows(len(latents), offsets, lengths, nearest + 1)
    starts = torch.nonzero(last >= 0)[:, 0]
    starts = starts[~resting[starts[:, None] + within].all(1)]

    def draw() -> Tensor:
        here = starts[torch.randint(len(starts), (POLICY_BATCH,))]
        farthest = torch.clamp(last[here] - here, max=config.goal_horizon)
        ahead = nearest + (torch.rand(POLICY_BATCH) * (farthest - nearest + 1)).long()
        known = torch.rand(POLICY_BATCH) < 0.5
        latent, goal = (
            (z + config.latent_noise * torch.randn_like(z)).to(device) for z in (latents[here], latents[here + ahead])
        )
        done = actions[here[:, None] + within].flatten(1)
        return F.smooth_l1_loss(policy(latent, goal, (known * ahead.float()).to(device)), done.to(device))

    loss = _fit(policy, config.policy_steps, draw, "policy")
    return policy.cpu().eval(), {"loss": loss}


def train_temporal_distance(
    c: ModelConfig,
    latents: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    config: TrainConfig,
    device: str = "cpu",
) -> tuple[TemporalDistance, dict[str, float]]:
    """Trains the temporal distance with hindsight: the time from each frame to any later one of its episode.

    Play takes detours, so the head learns an expectile of the times below their mean, in which faster ways weigh more.
    A share of the goals are frames of any episode, at the greatest distance: play never shows a goal that cannot be
    reached, and without them a search would take such a goal for near. Parameters are those of `train_cloned_policy`.

    :return: the head, and its mean loss over the last tenth of the steps.
    """
    torch.manual_seed(config.seed)
    head = TemporalDistance(c).to(device)
    last = _last_rows(len(latents), offsets, lengths, 1)
    starts = torch.nonzero(last >= 0)[:, 0]

    def draw() -> Tensor:
        here = starts[torch.randint(len(starts), (BATCH,))]
        farthest = torch.clamp(last[here] - here, max=config.goal_horizon)
        ahead = (torch.rand(BATCH) * (farthest + 1)).long()
        elsewhere = torch.rand(BATCH) < config.unreachable_share
        there = torch.where(elsewhere, starts[torch.randint(len(starts), (BATCH,))], here + ahead)
        ahead = torch.where(elsewhere, config.goal_horizon, ahead)
        latent, goal = (
            (z + config.latent_noise * torch.randn_like(z)).to(device) for z in (latents[here], latents[there])
        )
        error = (ahead / TIME_SCALE).sqrt().to(device) - head.roots(latent, goal)
        return (torch.where(error < 0, 1.0 - config.expectile, config.expectile) * error.square()).mean()

    loss = _fit(head, config.policy_steps, draw, "time to go")
    return head.cpu().eval(), {"loss": loss}


def _bar(steps: int, what: str) -> Any:
    """range(steps), with a progress bar on a terminal."""
    return tqdm(range(steps), what, unit="step", mininterval=2, disable=None)


def _fit(head: nn.Module, steps: int, draw: Callable[[], Tensor], what: str) -> float:
    """Trains `head` for `steps` optimiser steps; `draw` returns the loss of a new batch. Returns the mean loss over the
    last tenth of the steps.
    """
    optimiser = torch.optim.AdamW(head.parameters(), lr=1.5e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    mean, counted = torch.zeros(()), max(1, steps // 10)
    for step in _bar(steps, what):
        loss = draw()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step >= steps - counted:
            mean += loss.detach().cpu() / counted
    return float(mean)


def _last_rows(rows: int, offsets: Tensor, lengths: Tensor, nearest: int) -> Tensor:
    """(rows,): for each row the row of its episode's last frame; -1 when fewer than `nearest` rows follow it there."""
    last = torch.full((rows,), -1)
    for offset, length in zip(offsets.tolist(), lengths.tolist(), strict=True):
        last[offset : offset + length - nearest] = offset + length - 1
    return last
