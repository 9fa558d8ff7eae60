"""Training: episodes in, bundle out.

Every step's batch and random numbers depend on (seed, step) alone, and a checkpoint holds weights, optimiser and step;
so a killed run that is resumed ends with the same bits on a CPU as one that was left alone.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from lewm_model.bundle import HEADS, WEIGHTS, ActionSpec, Bundle, save_description
from lewm_model.config import ModelConfig, TrainConfig
from lewm_model.data.clips import ClipSampler, DataError, Episodes
from lewm_model.decoder import WEIGHTS as DECODER
from lewm_model.heads import ActionProposal, train_steps_to_go
from lewm_model.model import LeWM, prediction_loss
from lewm_model.sigreg import SIGReg


class Checkpoint:
    """The last finished checkpoint of a run: one file, replaced in one move, so that a kill leaves the one before."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.path = folder / "checkpoint.pt"
        self.identity = json.dumps(identity, sort_keys=True)

    def save(self, model: LeWM, optimiser: torch.optim.Optimizer, step: int) -> None:
        temporary = self.path.with_suffix(".part")
        state = {
            "identity": self.identity,
            "step": step,
            "model": model.state_dict(),
            "optimiser": optimiser.state_dict(),
        }
        try:
            torch.save(state, temporary)
            os.replace(temporary, self.path)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            raise OSError(
                f"step {step} could not be saved to {self.path} ({error}); the checkpoint before it is intact. "
                "Free some space and run the same command again, it resumes"
            ) from error

    def load(self, model: LeWM, optimiser: torch.optim.Optimizer) -> int:
        """Restores model and optimiser; returns the number of steps done, 0 when there is no checkpoint."""
        if not self.path.is_file():
            return 0
        state = torch.load(self.path, weights_only=True)
        if state["identity"] != self.identity:
            raise DataError(
                f"{self.path} belongs to a run with other data or settings; delete it to start anew, "
                "or choose another --run folder"
            )
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        return int(state["step"])


def action_spec(data: Episodes, episodes: np.ndarray, frameskip: int) -> ActionSpec:
    """Statistics of the training episodes' actions; rows that end an episode are left out."""
    rows = data.actions[data.rows(episodes)]
    rows = rows[np.isfinite(rows).all(1)].astype(np.float64)
    names = data.action_names or tuple(f"joint{i + 1}" for i in range(rows.shape[1]))
    return ActionSpec(
        names=names,
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
    """Prediction error on held-out episodes, the identity baseline (z_t predicts z_t+1), and the latent's spread."""
    model.eval()
    error = identity = 0.0
    seen = []
    for index in range(batches):
        frames, actions = sampler.batch(10**9 + index, 64)
        latents = model.encode(torch.from_numpy(frames))
        error += float(prediction_loss(model, latents, _blocks(actions, spec))) / batches
        identity += float((latents[:, 1:] - latents[:, :-1]).square().mean()) / batches
        seen.append(latents.flatten(0, 1))
    model.train()
    z = torch.cat(seen)
    return {
        "prediction": error,
        "identity": identity,
        "latent_std": float(z.std(0).mean()),
        "effective_rank": effective_rank(z),
    }


@torch.no_grad()
def encode_all(model: LeWM, pixels: np.ndarray, batch: int = 256) -> Tensor:
    """Latents (N, D) of frames (N, S, S, 3) uint8, in eval mode."""
    return torch.cat([model.encode(torch.from_numpy(pixels[i : i + batch])) for i in range(0, len(pixels), batch)])


def _blocks(actions: np.ndarray, spec: ActionSpec) -> Tensor:
    """Raw blocks (B, T, frameskip * A) -> z-scored."""
    steps = actions.reshape(*actions.shape[:2], spec.frameskip, -1)
    return torch.from_numpy(spec.normalise(steps).reshape(actions.shape))


def train(data: Episodes, out: Path, run: Path, model_config: ModelConfig, config: TrainConfig) -> Bundle:
    """Trains a world model and its heads, writes the bundle to `out` and logs and checkpoints to `run`.

    Resumes when `run` holds a checkpoint of the same data and settings. Raises DataError for data that does not fit.
    """
    if data.image_size != model_config.image_size:
        raise DataError(
            f"{data.source}: frames are {data.image_size} pixels wide, the model takes {model_config.image_size}; "
            f"record with --image-size {model_config.image_size} or set the model's image_size"
        )
    if data.actions.shape[1] != model_config.action_dim:
        raise DataError(
            f"{data.source}: actions have {data.actions.shape[1]} numbers, the model takes {model_config.action_dim}"
        )
    commit = _commit()  # of the code as it is now, not when the training ends
    torch.set_num_threads(config.threads)
    training, held_out = data.split(config.validation_fraction, config.seed)
    spec = action_spec(data, training, model_config.frameskip)
    samplers = [
        ClipSampler(data, episodes, config.clip_frames, model_config.frameskip, config.clips_per_episode, config.seed)
        for episodes in (training, held_out)
    ]
    torch.manual_seed(config.seed)
    model = LeWM(model_config)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )
    run.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint(run, {"model": asdict(model_config), "train": asdict(config), "data": data.sha256})
    done = checkpoint.load(model, optimiser)
    _optimise(model, optimiser, samplers, spec, config, checkpoint, run, done)
    metrics = validate(model.eval(), samplers[1], spec)
    model.eval()

    out.mkdir(parents=True, exist_ok=True)
    for stale in ("onnx", "engines"):
        shutil.rmtree(out / stale, ignore_errors=True)
    (out / DECODER).unlink(missing_ok=True)
    save_file(model.state_dict(), out / WEIGHTS)
    provenance = {
        "command": " ".join(["lewm", *sys.argv[1:]]),
        "commit": commit,
        "data": {
            "source": data.source,
            "sha256": data.sha256,
            "episodes": len(training),
            "held_out_episodes": len(held_out),
        },
        "config": asdict(config),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "torch": torch.__version__,
    }
    bundle = Bundle(out, model_config, spec, (), provenance, {"validation": metrics})
    return add_heads(bundle, model, data, training, config)


def _optimise(
    model: LeWM,
    optimiser: torch.optim.Optimizer,
    samplers: list[ClipSampler],
    spec: ActionSpec,
    config: TrainConfig,
    checkpoint: Checkpoint,
    run: Path,
    done: int,
) -> None:
    regulariser = SIGReg(config.sigreg_projections)
    writer = SummaryWriter(run, purge_step=done)
    progress = tqdm(
        range(done, config.steps), initial=done, total=config.steps, desc="train", unit="step", mininterval=2
    )
    model.train()
    for step in progress:
        frames, actions = samplers[0].batch(step, config.batch)
        torch.manual_seed(config.seed * 1_000_003 + step)
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(step, config)
        latents = model.encode(torch.from_numpy(frames))
        prediction = prediction_loss(model, latents, _blocks(actions, spec))
        gaussian = regulariser(latents.transpose(0, 1))
        loss = prediction + config.sigreg_weight * gaussian
        optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        if not torch.isfinite(norm):
            raise DataError(
                f"the loss is not finite at step {step}; lower the learning rate (now {config.learning_rate})"
            )
        optimiser.step()
        if step % 20 == 0:
            terms = {"prediction": prediction, "sigreg": gaussian, "loss": loss, "gradient_norm": norm}
            values = {name: float(value.detach()) for name, value in terms.items()}
            for name, value in values.items():
                writer.add_scalar(f"train/{name}", value, step)
            std = float(latents.detach().flatten(0, 1).std(0).mean())
            writer.add_scalar("train/latent_std", std, step)
            progress.set_postfix(
                prediction=f"{values['prediction']:.4f}", sigreg=f"{values['sigreg']:.2f}", std=f"{std:.2f}"
            )
        if (step + 1) % config.validate_every == 0:
            for name, value in validate(model, samplers[1], spec).items():
                writer.add_scalar(f"validation/{name}", value, step + 1)
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
            checkpoint.save(model, optimiser, step + 1)
    writer.close()


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
        z_scored = _blocks(actions, spec)
        context = latents[starts[:, None] + frameskip * np.arange(history)]
        imagined = model.rollout(context, z_scored[:, : history - 1], z_scored[:, history - 1 :])
        for ahead in range(1, horizon + 1):
            views[ahead, starts + (history - 1 + ahead) * frameskip] = imagined[:, ahead - 1]
    return views


def train_heads(
    model: LeWM, data: Episodes, episodes: np.ndarray, spec: ActionSpec, config: TrainConfig
) -> tuple[dict[str, torch.nn.Module], dict[str, Any]]:
    """Heads on the frozen latents of the training episodes, and what they measured."""
    if config.head_steps == 0:
        return {}, {}
    rows = data.rows(episodes)
    latents = torch.zeros(len(data.pixels), model.config.latent_dim)
    latents[rows] = torch.cat([encode_all(model, frames) for frames in data.batches(rows)])
    travelled = np.zeros_like(data.actions)
    for episode in episodes:
        first, last = data.offsets[episode], data.offsets[episode] + data.lengths[episode] - 1
        travelled[first + 1 : last + 1] = np.cumsum(
            data.actions[first:last] * spec.control_dt_s / spec.full_step, axis=0
        )
    head, metrics = train_steps_to_go(
        model.config,
        imagined_views(model, data, episodes, latents, spec),
        torch.from_numpy(travelled),
        torch.from_numpy(data.offsets[episodes]),
        torch.from_numpy(data.lengths[episodes]),
        config.head_steps,
        config.seed,
    )
    proposal = ActionProposal(model.config).eval()
    proposal.net.load_state_dict(head.net.state_dict())
    std = torch.tensor(spec.std)
    proposal.scale.copy_(torch.from_numpy(spec.full_step / spec.control_dt_s) / std)
    proposal.shift.copy_(torch.tensor(spec.mean) / std)
    return {"steps_to_go": head, "proposal": proposal}, {"steps_to_go": metrics}


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
