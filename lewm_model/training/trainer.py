"""Training: episodes in, bundle out; on one GPU or CPU, or under torchrun on many (docs/training.md).

Every step's batch and random numbers depend on (seed, step) alone, and a checkpoint holds weights, optimiser and step;
so a killed run that is resumed ends with the same bits on a CPU as one that was left alone.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from lewm_model.bundle.bundle import HEADS, WEIGHTS, ActionSpec, Bundle, clear, load_model, save_description
from lewm_model.config import AugmentConfig, ModelConfig, TrainConfig
from lewm_model.data.clips import ClipSampler, DataError, Episodes
from lewm_model.models.distributed import rank, ranks
from lewm_model.models.heads import ActionProposal, train_play_policy, train_steps_to_go, train_time_to_go
from lewm_model.models.lewm import LeWM, prediction_loss
from lewm_model.models.signature import POLICY, TIME_TO_GO
from lewm_model.models.sigreg import SIGReg
from lewm_model.training.augment import changed
from lewm_model.training.report import Log, write_report

LOG_EVERY = 20  # steps
OPEN_LOOP = 5  # action blocks that are imagined to see how far imagination drifts
WARN_FROM = 0.1  # of the steps; before, everything looks wrong
LEAST_STD, LEAST_RANK = 0.3, 0.15  # of a latent; the rank as a share of its numbers
STILL = 0.02  # standard deviations of the actions; slower arms rest
LEAST_ACTION_EFFECT = 1.05  # times as wrong are predictions at least with the actions of other clips
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


class Checkpoint:
    """The last finished checkpoint of a run: one file, replaced in one move, so that a kill leaves the one before.

    It holds weights, optimiser, loss scale and the number of steps done. That number is the state of the sampler and of
    every random generator too: all that is random in a step follows from (seed, step). So nothing in it depends on how
    many processes train, and another number of them may go on.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.path = folder / "checkpoint.pt"
        self.identity = json.dumps(identity, sort_keys=True)

    def save(
        self, model: LeWM, optimiser: torch.optim.Optimizer, step: int, scaler: torch.amp.GradScaler | None = None
    ) -> None:
        temporary = self.path.with_suffix(".part")
        state = {
            "identity": self.identity,
            "step": step,
            "model": model.state_dict(),
            "optimiser": optimiser.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
        }
        try:
            with temporary.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())  # a disk that is full may say so only now
            os.replace(temporary, self.path)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            raise OSError(
                f"step {step} could not be saved to {self.path} ({error}); the checkpoint before it is intact. "
                "Free some space and run the same command again, it resumes"
            ) from error

    def load(self, model: LeWM, optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None = None) -> int:
        """Restores what `save` saved; returns the number of steps done, 0 when there is no checkpoint.

        Rank 0 reads the file and gives it to the others, which may be on machines that do not see it.
        """
        found: list[Any] = [self._read() if rank() == 0 else None]
        if ranks() > 1:
            dist.broadcast_object_list(found, 0)
        state = found[0]
        if state is None:
            return 0
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        if scaler and state.get("scaler"):
            scaler.load_state_dict(state["scaler"])
        return int(state["step"])

    def _read(self) -> dict[str, Any] | None:
        if not self.path.is_file():
            return None
        state = torch.load(self.path, "cpu", weights_only=True)
        if state["identity"] != self.identity:
            raise DataError(
                f"{self.path} belongs to a run with other data or settings; delete it to start anew, "
                "or choose another --run folder"
            )
        return state


def action_spec(data: Episodes, episodes: np.ndarray, frameskip: int) -> ActionSpec:
    """Statistics of the training episodes' actions; rows that end an episode are left out."""
    rows = data.actions[data.rows(episodes)]
    rows = rows[np.isfinite(rows).all(1)].astype(np.float64)
    return ActionSpec(
        names=data.action_names,
        kind=data.action_kind or "recorded",
        unit="rad/s" if data.action_kind == "joint_velocity" else "as recorded",
        control_dt_s=data.control_dt_s,
        frameskip=frameskip,
        mean=tuple(rows.mean(0).tolist()),
        std=tuple(rows.std(0).tolist()),
        low=tuple(rows.min(0).tolist()),
        high=tuple(rows.max(0).tolist()),
    )


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then cosine to zero; 1 is the configured learning rate."""
    warmup = max(1, round(config.warmup_fraction * config.steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, config.steps - warmup)))


def effective_rank(latents: Tensor) -> float:
    """exp of the entropy of the covariance's spectrum; D for an isotropic Gaussian, 1 for a line. latents (N, D)."""
    spectrum = torch.linalg.eigvalsh(torch.cov(latents.T.double())).clamp_min(1e-12)
    shares = spectrum / spectrum.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


@torch.no_grad()
def validate(model: LeWM, sampler: ClipSampler, spec: ActionSpec, batches: int = 4) -> dict[str, float]:
    """Prediction error on held-out episodes, the identity baseline (z_t predicts z_t+1), and the latent's spread.

    `shuffled` is the error with the actions of other clips: no greater than `prediction` where actions do nothing.
    """
    model.eval()
    error = identity = shuffled = 0.0
    seen = []
    for index in range(batches):
        frames, actions = sampler.batch(10**9 + index, 64)
        latents, blocks = _encode(model, frames), _blocks(actions, spec, model)
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
    """How far imagination drifts: errors of rollouts 1, 2, … blocks ahead, and of a world that stands still.

    The sampler's clips have `history` frames of context, then the frames to imagine.
    """
    model.eval()
    history = model.config.history
    ahead = len(sampler.frame_steps) - history
    errors = torch.zeros(2, ahead, device=model.image_mean.device)
    for index in range(batches):
        frames, actions = sampler.batch(10**9 + index, 64)
        latents, blocks = _encode(model, frames), _blocks(actions, spec, model)
        imagined = model.rollout(latents[:, :history], blocks[:, : history - 1], blocks[:, history - 1 :])
        still = latents[:, history - 1 : history]
        for row, guess in enumerate((imagined, still)):
            errors[row] += (guess - latents[:, history:]).square().mean((0, 2)) / batches
    model.train()
    names = ("open_loop", "identity")
    return {f"{n}_{k + 1}": float(errors[row, k]) for row, n in enumerate(names) for k in range(ahead)}


def warnings_for(measured: dict[str, float], latent_dim: int) -> list[str]:
    """What is going wrong in a training, from the values of `validate`; sentences that say what to do."""
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


@torch.no_grad()
def encode_all(model: LeWM, pixels: np.ndarray, batch: int = 256, augment: AugmentConfig | None = None) -> Tensor:
    """Latents (N, D) of frames (N, S, S, 3) uint8, changed as `augment` says, in eval mode, on the CPU."""
    return torch.cat([_encode(model, pixels[i : i + batch], augment).cpu() for i in range(0, len(pixels), batch)])


def encode_rows(model: LeWM, data: Episodes, rows: np.ndarray, augment: AugmentConfig | None = None) -> Tensor:
    """Latents (N, D) of these rows of a recording, and zeros in the others; not all frames are in memory at once."""
    latents = torch.zeros(len(data.pixels), model.config.latent_dim)
    latents[rows] = torch.cat([encode_all(model, frames, augment=augment) for frames in data.batches(rows)])
    return latents


def _encode(model: LeWM, frames: np.ndarray, augment: AugmentConfig | None = None) -> Tensor:
    pictures = torch.from_numpy(frames).to(model.image_mean.device)
    return model.encode(pictures if augment is None else changed(pictures, augment))


def _blocks(actions: np.ndarray, spec: ActionSpec, model: LeWM) -> Tensor:
    """Raw blocks (B, T, frameskip * A) -> z-scored, on the model's device."""
    steps = actions.reshape(*actions.shape[:2], spec.frameskip, -1)
    return torch.from_numpy(spec.normalise(steps).reshape(actions.shape)).to(model.image_mean.device)


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
    warnings: list[str]  # of what it is now; those on the way are in the log


def train(data: Episodes, out: Path, run: Path, model_config: ModelConfig, config: TrainConfig) -> Bundle:
    """Trains a world model and its heads, writes the bundle to `out` and logs, checkpoints and a report to `run`.

    Resumes when `run` holds a checkpoint of the same data and settings. Raises DataError for data that does not fit.
    With several processes the others call `fit`, and this one, rank 0, writes.
    """
    commit = _commit()  # of the code as it is now, not when the training ends
    fitted = fit(data, run, model_config, config)
    clear(out)
    save_file(fitted.model.state_dict(), out / WEIGHTS)
    provenance = {
        "command": " ".join(["lewm", *sys.argv[1:]]),
        "commit": commit,
        "data": {
            "source": data.source,
            "sha256": data.sha256,
            "episodes": len(fitted.training),
            "held_out_episodes": len(fitted.held_out),
        },
        "config": asdict(config),
        "parameters": sum(parameter.numel() for parameter in fitted.model.parameters()),
        "torch": torch.__version__,
    }
    evaluation = {"validation": fitted.validation, "warnings": fitted.warnings}
    bundle = Bundle(out, model_config, fitted.spec, (), provenance, evaluation)
    bundle = add_heads(bundle, fitted.model, data, fitted.training, config)
    write_report(run, bundle)
    return bundle


def fit(data: Episodes, run: Path, model_config: ModelConfig, config: TrainConfig) -> Fitted:
    """Trains the world model, together with the other ranks. Raises DataError for data that does not fit."""
    if data.image_size != model_config.image_size:
        raise DataError(
            f"{data.source}: frames are {data.image_size} pixels wide, the model takes {model_config.image_size}; "
            f"record with --image-size {model_config.image_size} or set the model's image_size"
        )
    if data.actions.shape[1] != model_config.action_dim:
        raise DataError(
            f"{data.source}: actions have {data.actions.shape[1]} numbers, the model takes {model_config.action_dim}"
        )
    if config.batch % ranks():
        raise DataError(f"a batch of {config.batch} clips cannot be shared by {ranks()} processes; change train.batch")
    torch.set_num_threads(config.threads)
    training, held_out = data.split(config.validation_fraction, config.seed)
    spec = action_spec(data, training, model_config.frameskip)

    def sampler(episodes: np.ndarray, frames: int) -> ClipSampler:
        return ClipSampler(data, episodes, frames, model_config.frameskip, config.clips_per_pose, config.seed)

    samplers = [sampler(episodes, config.clip_frames) for episodes in (training, held_out)]
    ahead = min(OPEN_LOOP, (int(data.lengths[held_out].max()) - 1) // model_config.frameskip + 1 - model_config.history)
    if ahead >= 1:
        samplers.append(sampler(held_out, model_config.history + ahead))
    torch.manual_seed(config.seed)
    model = LeWM(model_config).to(device_of(config))
    optimiser = optimiser_of(model, config)
    run.mkdir(parents=True, exist_ok=True)
    what = {name: value for name, value in asdict(config).items() if name not in ("device", "compile", "threads")}
    checkpoint = Checkpoint(run, {"model": asdict(model_config), "train": what, "data": data.sha256})
    _optimise(model, optimiser, samplers, spec, config, checkpoint, run)
    measured = validate(model, samplers[1], spec)
    if ahead >= 1:
        measured |= open_loop(model, samplers[2], spec)
    warnings = warnings_for(measured, model_config.latent_dim) if config.steps else []
    return Fitted(model.cpu().eval(), spec, training, held_out, measured, warnings)


def optimiser_of(model: LeWM, config: TrainConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,  # one pass over the parameters, on CPUs too
    )


def device_of(config: TrainConfig) -> str:
    """Where this process trains; of several on a machine with GPUs, each on its own."""
    if config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def _batches(
    sampler: ClipSampler, steps: range, config: TrainConfig
) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
    """(step, this rank's part of its batch); the next one is read while a step is computed."""
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
    autocast = torch.autocast(device.type, getattr(torch, DTYPES[config.precision]), config.precision != "fp32")
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
        with autocast:
            pictures = changed(torch.from_numpy(frames).to(device), config.augment)
            prediction, gaussian, latents = objective(pictures, _blocks(actions, spec, model))
        loss = prediction + config.sigreg_weight * gaussian
        optimiser.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        if not scaler.is_enabled() and not torch.isfinite(
            norm
        ):  # fp16's scaler leaves such a step out, and scales less
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


@torch.no_grad()
def imagined_views(
    model: LeWM, data: Episodes, episodes: np.ndarray, latents: Tensor, spec: ActionSpec, horizon: int = 5
) -> Tensor:
    """(horizon + 1, N, D): the latents (N, D), and what the model imagined for each frame 1 .. horizon blocks ahead.

    The recorded actions are imagined from the frames before; where an episode has none, the encoded latent stands in.
    """
    views = latents.expand(horizon + 1, -1, -1).clone()
    history, frameskip = model.config.history, model.config.frameskip
    blocks = history - 1 + horizon
    for episode in episodes:
        offset, length = int(data.offsets[episode]), int(data.lengths[episode])
        starts = offset + np.arange(length - 1 - blocks * frameskip + 1)  # of the oldest frame of the context
        if len(starts) < 1:
            continue
        actions = data.actions[starts[:, None] + np.arange(blocks * frameskip)].reshape(len(starts), blocks, -1)
        z_scored = _blocks(actions, spec, model)
        context = latents[starts[:, None] + frameskip * np.arange(history)]
        imagined = model.rollout(context, z_scored[:, : history - 1], z_scored[:, history - 1 :])
        for ahead in range(1, horizon + 1):
            views[ahead, starts + (history - 1 + ahead) * frameskip] = imagined[:, ahead - 1]
    return views


def train_play_heads(
    model: LeWM, play: Sequence[tuple[Episodes, np.ndarray]], spec: ActionSpec, config: TrainConfig
) -> tuple[dict[str, torch.nn.Module], dict[str, Any]]:
    """Policy and time to go, on the frozen latents of recordings of play, each with its episodes; and their metrics."""
    latents, actions, still, offsets, lengths, first = [], [], [], [], [], 0
    for data, episodes in play:
        latents.append(encode_rows(model, data, data.rows(episodes)))
        raw = np.nan_to_num(data.actions)
        actions.append(torch.from_numpy(spec.normalise(raw)))
        still.append(torch.from_numpy((np.abs(raw) <= STILL * np.array(spec.std)).all(1)))
        offsets.append(torch.from_numpy(data.offsets[episodes] + first))
        lengths.append(torch.from_numpy(data.lengths[episodes]))
        first += len(raw)
    z, done, rests, begins, frames = (torch.cat(parts) for parts in (latents, actions, still, offsets, lengths))
    steps, seed = config.policy_steps, config.seed
    policy, policy_metrics = train_play_policy(model.config, z, done, rests, begins, frames, steps, seed)
    time, time_metrics = train_time_to_go(model.config, z, begins, frames, steps, seed)
    return {POLICY: policy, TIME_TO_GO: time}, {POLICY: policy_metrics, TIME_TO_GO: time_metrics}


def retrain_play_heads(bundle: Bundle, play: Sequence[Episodes], config: TrainConfig) -> Bundle:
    """Replaces the heads of a bundle that were trained on play by those of more recordings of it.

    The first recording is the one that the world model was trained on, and what was held out of it stays held out.
    """
    episodes = [play[0].split(config.validation_fraction, config.seed)[0]]
    episodes += [np.arange(len(data.lengths)) for data in play[1:]]
    model = load_model(bundle)
    heads, metrics = train_play_heads(model, list(zip(play, episodes, strict=True)), bundle.actions, config)
    tensors = {f"{name}.{key}": value for name, head in heads.items() for key, value in head.state_dict().items()}
    save_file(tensors, bundle.folder / HEADS)
    return save_description(replace(bundle, evaluation={**bundle.evaluation, "heads": metrics}))


def train_heads(
    model: LeWM, data: Episodes, episodes: np.ndarray, spec: ActionSpec, config: TrainConfig
) -> tuple[dict[str, torch.nn.Module], dict[str, Any]]:
    """Heads on the frozen latents of the training episodes, and what they measured."""
    heads: dict[str, torch.nn.Module] = {}
    metrics: dict[str, Any] = {}
    if config.policy_steps:
        heads, metrics = train_play_heads(model, [(data, episodes)], spec, config)
    if config.head_steps == 0:
        return heads, metrics
    rows = data.rows(episodes)
    torch.manual_seed(config.seed)
    # The same frames as they are, and in other lights: the heads learn that they show the same.
    encoded = [encode_rows(model, data, rows)]
    if config.augment.share:
        encoded += [encode_rows(model, data, rows, config.augment) for _ in range(config.views - 1)]
    imagined = [imagined_views(model, data, episodes, latents, spec)[1:] for latents in encoded]
    lengths, offsets = (torch.from_numpy(values[episodes]) for values in (data.lengths, data.offsets))
    travelled = np.zeros_like(data.actions)
    for episode in episodes:
        first, last = data.offsets[episode], data.offsets[episode] + data.lengths[episode] - 1
        travelled[first + 1 : last + 1] = np.cumsum(
            data.actions[first:last] * spec.control_dt_s / spec.full_step, axis=0
        )
    head, metrics["steps_to_go"] = train_steps_to_go(
        model.config,
        torch.stack(encoded),
        torch.cat(imagined),
        torch.from_numpy(travelled),
        offsets,
        lengths,
        config.head_steps,
        config.seed,
    )
    proposal = ActionProposal(model.config).eval()
    proposal.net.load_state_dict(head.net.state_dict())
    std = torch.tensor(spec.std)
    proposal.scale.copy_(torch.from_numpy(spec.full_step / spec.control_dt_s) / std)
    proposal.shift.copy_(torch.tensor(spec.mean) / std)
    return {**heads, "steps_to_go": head, "proposal": proposal}, metrics


def add_heads(bundle: Bundle, model: LeWM, data: Episodes, episodes: np.ndarray, config: TrainConfig) -> Bundle:
    """Trains the heads on `episodes`, writes them and the description, and returns the bundle that has them."""
    heads, metrics = train_heads(model, data, episodes, bundle.actions, config)
    tensors = {f"{name}.{key}": value for name, head in heads.items() for key, value in head.state_dict().items()}
    if tensors:
        save_file(tensors, bundle.folder / HEADS)
    evaluation = {**bundle.evaluation, "heads": metrics}
    return save_description(replace(bundle, heads=tuple(heads), evaluation=evaluation))


def _commit() -> str:
    """The commit of the code that trains, with '+' when the tree has uncommitted changes; '' outside a checkout."""
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
