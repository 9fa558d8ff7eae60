# SPDX-License-Identifier: Apache-2.0
"""Training: episodes in, bundle out; on one GPU or CPU, or under torchrun on many (docs/training.md).

Every step's batch and random numbers depend on (seed, step) alone, and a checkpoint holds weights, optimiser and step;
so on a CPU a killed run that is resumed ends with the same bits as an undisturbed one.
"""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from lewm_model.bundle.bundle import WEIGHTS, Bundle, load_model
from lewm_model.bundle.held_out import trained_on
from lewm_model.bundle.update import create
from lewm_model.config import (
    MODEL_SIZES,
    POLICY_PLAN,
    ConfigError,
    ModelConfig,
    PlanConfig,
    TrainConfig,
    from_dict,
)
from lewm_model.data.actions import action_spec
from lewm_model.data.clips import ClipSampler, DataError, Episodes
from lewm_model.models.distributed import device_of, rank, ranks
from lewm_model.models.lewm import LeWM, prediction_loss
from lewm_model.models.signature import POLICY
from lewm_model.models.sigreg import SIGReg
from lewm_model.robot.actions import ActionSpec
from lewm_model.training.augment import changed
from lewm_model.training.checkpoint import Checkpoint
from lewm_model.training.heads import train_heads, with_heads
from lewm_model.training.latents import encode, z_scored
from lewm_model.training.report import Log, write_report

LOG_EVERY = 20  # steps
OPEN_LOOP = 5  # action blocks of the rollouts whose error is measured in validation
WARN_FROM = 0.1  # share of the steps after which warnings begin; an untrained model would cause them all
# A latent has collapsed below one of these: mean standard deviation of its numbers, which SIGReg pulls to 1; effective
# rank as a share of their count. The shipped models have more than 0.9 and 0.3.
LEAST_STD, LEAST_RANK = 0.3, 0.15
LEAST_ACTION_EFFECT = 1.05  # least factor by which the actions of other clips increase a prediction's error
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def autocast(config: TrainConfig, device: str) -> torch.autocast:
    """The context in which networks compute with the configured precision, on a device of this type."""
    return torch.autocast(device, getattr(torch, DTYPES[config.precision]), config.precision != "fp32")


def quickest_precision() -> str:
    """bf16 where this machine's processor has instructions for it, else fp32: PyTorch emulates them, and multiplies
    matrices 28 times as slowly as in fp32.
    """
    can: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of PyTorch do not tell
    return "bf16" if can.get("avx512_bf16") or can.get("amx_bf16") else "fp32"


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Share of the configured learning rate at a step: linear warm-up, then cosine to zero."""
    warmup = max(1, round(config.warmup_fraction * config.steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, config.steps - warmup)))


def effective_rank(latents: Tensor) -> float:
    """exp of the entropy of the spectrum of the covariance of latents (N, D): D for an isotropic Gaussian, 1 for points
    on a line.
    """
    spectrum = torch.linalg.eigvalsh(torch.cov(latents.T.double())).clamp_min(1e-12)
    shares = spectrum / spectrum.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


@torch.no_grad()
def validate(model: LeWM, sampler: ClipSampler, spec: ActionSpec, batches: int = 4) -> dict[str, float]:
    """Mean squared prediction errors on held-out episodes, and the spread of the latent.

    :return: `prediction`: of the model. `identity`: of the baseline that predicts z_t for z_t+1. `shuffled`: of the
        model with the actions of other clips, no greater than `prediction` where actions have no effect. `latent_std`,
        `effective_rank`: of all latents.
    """
    model.eval()
    error = identity = shuffled = 0.0
    seen = []
    for index in range(batches):
        frames, actions = sampler.batch(10**9 + index, 64)
        latents, blocks = encode(model, frames), z_scored(actions, spec, model)
        error += float(prediction_loss(model, latents, blocks)) / batches
        shuffled += float(prediction_loss(model, latents, blocks.roll(len(blocks) // 2, 0))) / batches
        identity += float((latents[:, 1:] - latents[:, :-1]).square().mean()) / batches
        seen.append(latents.flatten(0, 1))
    model.train()
    z = torch.cat(seen)
    return {
        "prediction": error,
        "identity": identity,
        "shuffled": shuffled,
        "latent_std": float(z.std(0).mean()),
        "effective_rank": effective_rank(z),
    }


@torch.no_grad()
def open_loop(model: LeWM, sampler: ClipSampler, spec: ActionSpec, batches: int = 2) -> dict[str, float]:
    """Mean squared errors of rollouts on held-out episodes, K blocks ahead: `open_loop_K` of the model, `identity_K` of
    the baseline in which nothing changes.

    The sampler's clips have `history` frames of context, then the frames to imagine.
    """
    model.eval()
    history = model.config.history
    ahead = len(sampler.frame_steps) - history
    errors = torch.zeros(2, ahead, device=model.image_mean.device)
    for index in range(batches):
        frames, actions = sampler.batch(10**9 + index, 64)
        latents, blocks = encode(model, frames), z_scored(actions, spec, model)
        imagined = model.rollout(latents[:, :history], blocks[:, : history - 1], blocks[:, history - 1 :])
        still = latents[:, history - 1 : history]
        for row, guess in enumerate((imagined, still)):
            errors[row] += (guess - latents[:, history:]).square().mean((0, 2)) / batches
    model.train()
    names = ("open_loop", "identity")
    return {f"{n}_{k + 1}": float(errors[row, k]) for row, n in enumerate(names) for k in range(ahead)}


def warnings_for(measured: dict[str, float], latent_dim: int) -> list[str]:
    """What is wrong with a training, from the values of `validate`, in sentences that say what to do."""
    found = []
    if measured["latent_std"] < LEAST_STD or measured["effective_rank"] < max(1.5, LEAST_RANK * latent_dim):
        found.append(
            f"the latent collapses: its standard deviation is {measured['latent_std']:.2f} (1 is healthy), its "
            f"effective rank {measured['effective_rank']:.1f} of {latent_dim}; raise sigreg_weight, or the batch"
        )
    if measured["shuffled"] < LEAST_ACTION_EFFECT * measured["prediction"]:
        found.append(
            "the actions have no effect on the predictions: with those of other clips they are "
            f"{measured['shuffled'] / measured['prediction']:.2f} times as wrong; check that the recording's actions "
            "belong to its frames, and that the robot moves"
        )
    if measured["prediction"] > measured["identity"]:
        found.append(
            f"the prediction is worse ({measured['prediction']:.3g}) than saying that nothing changes "
            f"({measured['identity']:.3g})"
        )
    return found


class Objective(nn.Module):
    """LeWM's loss as one module, which DistributedDataParallel and torch.compile can wrap."""

    def __init__(self, model: LeWM, config: TrainConfig) -> None:
        super().__init__()
        self.model, self.parts = model, config.encoder_parts
        self.regulariser = SIGReg(config.sigreg_projections)

    def forward(self, frames: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 frames (B, T, S, S, 3), z-scored blocks (B, T - 1, E) -> prediction loss, SIGReg, latents (B, T, D)."""
        latents = self.model.encode(frames, self.parts)
        prediction = prediction_loss(self.model, latents, blocks)
        return prediction, self.regulariser(latents.transpose(0, 1)), latents.detach()


@dataclass(frozen=True)
class Fitted:
    """A trained world model in eval mode on the CPU, before its heads; the same on every rank."""

    model: LeWM
    spec: ActionSpec
    training: np.ndarray  # episodes
    held_out: np.ndarray
    validation: dict[str, float]
    warnings: list[str]  # of the trained model; those during the training are in the log


def model_config_for(data: Episodes, size: str, values: dict[str, Any]) -> ModelConfig:
    """The sizes of a model for a recording: `values` take precedence over the action and picture size of the recording,
    these over `size` of MODEL_SIZES.

    :raises DataError: no model of this size takes such pictures.
    :raises ConfigError: a value cannot be used.
    """
    high, wide = data.image_size
    seen = {"action_dim": data.actions.shape[1], "image_height": high, "image_width": wide}
    given = from_dict(ModelConfig, values, MODEL_SIZES[size])
    try:
        return from_dict(ModelConfig, values, {**MODEL_SIZES[size], **seen})
    except ConfigError as error:
        stride = given.patch_size if given.stem == "patch" else 16
        raise DataError(
            f"{data.source}: pictures of {high} x {wide} pixels do not fit a model of size {size} ({error}); convert "
            f"the recording with --image-size {max(1, round(high / stride)) * stride}"
        ) from error


def train(
    data: Episodes, out: Path, run: Path, model_config: ModelConfig, config: TrainConfig, task: str = ""
) -> Bundle:
    """Trains a world model and its heads, writes the bundle to `out` and logs, checkpoints and a report to `run`.

    Resumes when `run` holds a checkpoint of the same data and settings. With several processes rank 0 calls this, and
    the others `fit`.

    :param task: name of the tasks that it is trained for (`lewm_model.tasks.registry`), or a description.
    :raises DataError: the recording does not fit the settings, or `run` has a checkpoint of others.
    """
    commit = commit_of()  # now, since the checkout may change while the training runs
    fitted = fit(data, run, model_config, config)
    heads, metrics = train_heads(fitted.model, data, fitted.training, fitted.spec, config)
    model = fitted.model.cpu()
    provenance = {
        "command": command_line(),
        "commit": commit,
        "config": asdict(config),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "torch": torch.__version__,
    }
    provenance = trained_on(provenance, data, fitted.held_out)
    evaluation = {"validation": fitted.validation, "warnings": fitted.warnings}

    def make(draft: Path) -> Bundle:
        save_file(model.state_dict(), draft / WEIGHTS)
        horizon = (POLICY_PLAN if POLICY in heads else PlanConfig()).horizon
        bundle = Bundle(draft, model_config, fitted.spec, (), provenance, evaluation, horizon=horizon, task=task)
        return with_heads(replace(bundle, cameras=data.cameras or bundle.cameras), heads, metrics)

    bundle = create(out, make)
    write_report(run, bundle)
    return bundle


def fit(
    data: Episodes, run: Path, model_config: ModelConfig, config: TrainConfig, begin: Bundle | None = None
) -> Fitted:
    """Trains the world model, together with the other ranks.

    :param begin: bundle to fine-tune: training begins with its weights and keeps its statistics of the actions.
    :raises DataError: the recording does not fit the settings, or `run` has a checkpoint of others.
    """
    if data.image_size != model_config.image_size:
        raise DataError(
            f"{data.source}: frames are {' x '.join(map(str, data.image_size))} pixels, the model is set to "
            f"{' x '.join(map(str, model_config.image_size))}; leave image_height and image_width out"
        )
    if data.actions.shape[1] != model_config.action_dim:
        raise DataError(
            f"{data.source}: actions have {data.actions.shape[1]} numbers, the model is set to "
            f"{model_config.action_dim}; leave action_dim out of its configuration"
        )
    if config.batch % ranks():
        raise DataError(f"a batch of {config.batch} clips cannot be shared by {ranks()} processes; change train.batch")
    torch.set_num_threads(config.threads)
    training, held_out = data.split(config.validation_fraction, config.seed)
    spec = action_spec(data, training, model_config.frameskip) if begin is None else begin.actions

    def sampler(episodes: np.ndarray, frames: int) -> ClipSampler:
        return ClipSampler(
            data, episodes, frames, model_config.frameskip, config.clips_per_pose, config.seed, config.clips_per_episode
        )

    samplers = [sampler(episodes, config.clip_frames) for episodes in (training, held_out)]
    ahead = min(OPEN_LOOP, (int(data.lengths[held_out].max()) - 1) // model_config.frameskip + 1 - model_config.history)
    if ahead >= 1:
        samplers.append(sampler(held_out, model_config.history + ahead))
    torch.manual_seed(config.seed)
    model = LeWM(model_config)
    if begin is not None:
        model.load_state_dict(load_model(begin).state_dict())
    model.to(device_of(config))
    optimiser = optimiser_of(model, config)
    run.mkdir(parents=True, exist_ok=True)
    what = {name: value for name, value in asdict(config).items() if name not in ("device", "compile", "threads")}
    checkpoint = Checkpoint(run, {"model": asdict(model_config), "train": what, "data": data.sha256})
    _optimise(model, optimiser, samplers, spec, config, checkpoint, run)
    measured = validate(model, samplers[1], spec)
    if ahead >= 1:
        measured |= open_loop(model, samplers[2], spec)
    warnings = [] if config.steps else ["no step was trained: these figures are of random weights"]
    warnings += warnings_for(measured, model_config.latent_dim)
    return Fitted(model.eval(), spec, training, held_out, measured, warnings)


def optimiser_of(model: LeWM, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW as configured."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,  # one pass over the parameters, on CPUs too
    )


def _batches(
    sampler: ClipSampler, steps: range, config: TrainConfig
) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
    """(step, this rank's part of the batch) for each step; the next batch is read while a step is computed."""
    with ThreadPoolExecutor(1) as reader:

        def read(step: int) -> Future[tuple[np.ndarray, np.ndarray]]:
            return reader.submit(sampler.batch, step, config.batch, rank(), ranks())

        ahead = read(steps[0]) if len(steps) else None
        for step in steps:
            assert ahead is not None
            batch = ahead.result()
            ahead = read(step + 1) if step + 1 in steps else None
            yield step, batch


def _optimise(
    model: LeWM,
    optimiser: torch.optim.Optimizer,
    samplers: list[ClipSampler],
    spec: ActionSpec,
    config: TrainConfig,
    checkpoint: Checkpoint,
    run: Path,
) -> None:
    """The training loop, from the checkpoint on."""
    device = model.image_mean.device
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    done = checkpoint.load(model, optimiser, scaler)
    writes = rank() == 0
    objective: nn.Module = Objective(model, config).to(device)
    if ranks() > 1:
        cards = [device.index] if device.type == "cuda" else None
        objective = nn.parallel.DistributedDataParallel(objective, cards, broadcast_buffers=False)
    if config.compile:
        objective = torch.compile(objective)
    log = Log(run, done) if writes else None
    progress = tqdm(
        _batches(samplers[0], range(done, config.steps), config),
        initial=done,
        total=config.steps,
        desc="train",
        unit="step",
        mininterval=2,
        disable=not writes,
    )
    model.train()
    for step, (frames, actions) in progress:
        torch.manual_seed(config.seed * 1_000_003 + step + rank() * 10**12)
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(step, config)
        with autocast(config, device.type):
            pictures = changed(torch.from_numpy(frames).to(device), config.augment)
            prediction, gaussian, latents = objective(pictures, z_scored(actions, spec, model))
        loss = prediction + config.sigreg_weight * gaussian
        optimiser.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        # With fp16 the scaler skips such a step, and scales the loss less from then on.
        if not scaler.is_enabled() and not torch.isfinite(norm):
            raise DataError(
                f"the loss is not finite at step {step}; lower the learning rate (now {config.learning_rate})"
            )
        scaler.step(optimiser)
        scaler.update()
        if log and step % LOG_EVERY == 0:
            terms = {"prediction": prediction, "sigreg": gaussian, "loss": loss, "gradient_norm": norm}
            values = {name: float(value.detach()) for name, value in terms.items()}
            values["latent_std"] = std = float(latents.float().flatten(0, 1).std(0).mean())
            values["learning_rate"] = optimiser.param_groups[0]["lr"]
            log.write("train", step, values)
            progress.set_postfix(
                prediction=f"{values['prediction']:.4f}", sigreg=f"{values['sigreg']:.2f}", std=f"{std:.2f}"
            )
        if log and (step + 1) % config.validate_every == 0:
            measured = validate(model, samplers[1], spec)
            ahead = open_loop(model, samplers[2], spec) if len(samplers) > 2 else {}
            log.write("validation", step + 1, measured | ahead)
            if step + 1 >= WARN_FROM * config.steps:
                for warning in warnings_for(measured, model.config.latent_dim):
                    log.warn(step + 1, warning)
                    progress.write(f"warning at step {step + 1}: {warning}")
        if writes and ((step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps):
            checkpoint.save(model, optimiser, step + 1, scaler)
    if log:
        log.close()


def trained_with(bundle: Bundle, values: dict[str, Any], base: dict[str, Any]) -> TrainConfig:
    """The settings that a bundle was trained with, over `base` where it does not know one, changed by `values`."""
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    before = {name: value for name, value in bundle.training.get("config", {}).items() if name in known}
    return from_dict(TrainConfig, {**before, **values}, base)


def command_line() -> str:
    """The command line of this process, as a user would type it: `lewm ...`, or `python -m ...`."""
    called = sys.orig_argv[1:]
    return " ".join(["python", *called] if called[:1] == ["-m"] else ["lewm", *sys.argv[1:]])


def commit_of() -> str:
    """The commit of this code, with '+' when the checkout has uncommitted changes; '' when it is not a checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        try:
            return subprocess.run(
                ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return ""

    return git("rev-parse", "--short=12", "HEAD") + (
        "+" if git("status", "--porcelain", "--untracked-files=no") else ""
    )
