# SPDX-License-Identifier: Apache-2.0
"""Is a model from this trainer as good as one from the authors' code? `make compare-train`.

One recording of the simulated arm, one network that both have (the sizes of `small`, with patches and GELU), the same
steps, batch, learning rate and loss weight. The authors' side trains their network with their SIGReg and torch's AdamW,
as their script does, from the same clips; then its checkpoint is imported. Heads, planner and tasks are the same for
both: goals in a closed loop without ROS, and the probes of `lewm probe` on a recording that neither was trained on.

    python -m benchmarks.comparison --steps 2200 --goals 100 --seed 0
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import torch
from rich.table import Table
from tqdm import tqdm

from benchmarks import reference
from lewm_model.bundle.bundle import Bundle, load_model
from lewm_model.bundle.interchange import hydra_config, import_checkpoint
from lewm_model.config import MODEL_SIZES, TRAIN_SIZES, ModelConfig, PlanConfig, TrainConfig, from_dict
from lewm_model.data.actions import action_spec
from lewm_model.data.clips import ClipSampler, Episodes, load_episodes
from lewm_model.evaluation.figures import Figures, report_figures
from lewm_model.evaluation.probe import probe_bundle
from lewm_model.evaluation.statistics import Rate, held
from lewm_model.models.lewm import LeWM
from lewm_model.runtime import load_runtime
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.collect import collect
from lewm_model.tasks.reach import ANYWHERE, NEAR
from lewm_model.tasks.task import attempt_all, draw_trials
from lewm_model.training.heads import add_heads
from lewm_model.training.trainer import learning_rate_factor, train

ROOT = Path(__file__).resolve().parent.parent
PATCHES = {"stem": "patch", "patch_size": 16, "activation": "gelu", "picture_norm": "fixed", "latent_dim": 12}
TASK_SEED = 1
UNSEEN_SEED = 1000  # of the recording on which the probes are fitted and evaluated


def reference_bundle(data: Episodes, folder: Path, c: ModelConfig, config: TrainConfig) -> Bundle:
    """Trains the authors' network, imports its checkpoint into `folder`, and trains heads on it as `train` does."""
    training, _ = data.split(config.validation_fraction, config.seed)
    spec = action_spec(data, training, c.frameskip)
    sampler = ClipSampler(data, training, config.clip_frames, c.frameskip, config.clips_per_pose, config.seed)
    torch.manual_seed(config.seed)
    ours = LeWM(c)  # only for its pixel statistics
    model, regulariser = reference.network(c).train(), reference.sigreg(config.sigreg_projections)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: learning_rate_factor(step, config))
    for step in tqdm(range(config.steps), desc="reference", mininterval=5):
        frames, actions = sampler.batch(step, config.batch)
        blocks = spec.normalise(actions.reshape(*actions.shape[:2], c.frameskip, -1)).reshape(actions.shape)
        images = reference.pixels(ours, frames)
        loss = reference.loss(model, images, torch.from_numpy(blocks), c.history, regulariser, config.sigreg_weight)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimiser.step()
        schedule.step()
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), checkpoint / "weights.pt")
    (checkpoint / "config.json").write_text(json.dumps(hydra_config(c)))
    (checkpoint / "actions.json").write_text(json.dumps(asdict(spec)))
    bundle = import_checkpoint(checkpoint, folder / "bundle")
    return add_heads(bundle, load_model(bundle), data, training, config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--goals", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--head-steps", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=ROOT / "out/compare-train")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shutil.rmtree(arguments.out, ignore_errors=True)
    arguments.out.mkdir(parents=True)
    recordings = []
    for name, episodes, seed in (("episodes", arguments.episodes, arguments.seed), ("unseen", 60, UNSEEN_SEED)):
        collect(arguments.out / f"{name}.h5", episodes, 100, seed)
        recordings.append(load_episodes(arguments.out / f"{name}.h5"))
    data, unseen = recordings
    c = from_dict(ModelConfig, PATCHES, MODEL_SIZES["small"])
    values = {"steps": arguments.steps, "seed": arguments.seed, "head_steps": arguments.head_steps, "threads": 1}
    values["augment"] = {"share": 0.0}  # the authors' code does not augment
    config = from_dict(TrainConfig, values, TRAIN_SIZES["small"])
    bundles, seconds = {}, {}
    for name in ("ours", "reference"):
        folder, began = arguments.out / name, time.monotonic()
        if name == "ours":
            bundles[name] = train(data, folder / "bundle", folder / "run", c, config)
        else:
            bundles[name] = reference_bundle(data, folder, c, config)
        seconds[name] = time.monotonic() - began
    table = Table(title=f"{arguments.steps} steps of {config.batch} clips, {arguments.goals} goals of each kind")
    for heading in ("", "this trainer", "the authors' code"):
        table.add_column(heading)
    lines: dict[str, dict[str, float | Rate]] = {"training and heads, s": dict(seconds)}
    with ArmSim() as sim:
        for task in (NEAR, ANYWHERE):
            trials = draw_trials(task, arguments.goals, TASK_SEED, sim)
            lines[f"held at the end, {task.name}"] = {
                name: held([r.outcome for r in attempt_all(trials, sim, load_runtime(b, "torch"), PlanConfig(), 0)])
                for name, b in bundles.items()
            }
    for name, bundle in bundles.items():
        for each in probe_bundle(bundle, unseen, arguments.seed, object_frames=200):
            if each.target in ("joint angles", "end effector"):
                lines.setdefault(f"probe R^2, {each.target}, {each.probe}", {})[name] = each.r2
    command = f"make compare-train STEPS={arguments.steps} GOALS={arguments.goals} SEED={arguments.seed}"
    figures: Figures = {}
    for line, found in lines.items():
        shown = [str(v) if isinstance(v, Rate) else f"{v:.3g}" for v in (found["ours"], found["reference"])]
        table.add_row(line, *shown)
        for name, value in found.items():
            key = "compare_train." + line.replace("^2", "2").replace(",", "").replace(" ", "_") + f"_{name}"
            figures[key] = (value.percent, "%") if isinstance(value, Rate) else (value, "")
    report_figures(arguments.out, table, figures, command)


if __name__ == "__main__":
    main()
