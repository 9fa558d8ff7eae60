# SPDX-License-Identifier: Apache-2.0
"""What the latents of the paper's tasks tell, on episodes that the model never saw: the physics of a picture, read by
linear and MLP probes, and surprise when something happens that cannot.

Both are the house's own measures (`lewm probe`, `lewm surprise`) in worlds without joints.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.seed_environments import Environment
from lewm_model.bundle.bundle import Bundle, load_model
from lewm_model.data.clips import Episodes
from lewm_model.evaluation.figures import Figures
from lewm_model.evaluation.probe import fit
from lewm_model.evaluation.surprise import auroc
from lewm_model.sim.world import State
from lewm_model.training.calibration import episode_errors
from lewm_model.training.latents import encode_all

PROBES = {"ridge": "linear", "mlp": "mlp"}


def physics(bundle: Bundle, env: Environment, data: Episodes, seed: int) -> Figures:
    """Mean squared error of the standardised quantity and Pearson's r, by quantity and probe. The probes see as many
    latents, one action block apart, as the model's predictor does.
    """
    assert data.proprio is not None
    model, states = load_model(bundle), data.proprio.astype(np.float64)
    latents = encode_all(model, data.pixels).numpy()
    span = (model.config.history - 1) * model.config.frameskip
    rows = np.concatenate([first + np.arange(span, length) for first, length in _episodes(data)])
    owner = np.repeat(np.arange(len(data.lengths)), data.lengths)[rows]
    back = model.config.frameskip * np.arange(model.config.history - 1, -1, -1)
    inputs = latents[rows[:, None] - back].reshape(len(rows), -1)
    figures: Figures = {}
    for name, quantity in env.quantities.items():
        for found in fit(name, inputs, quantity(states[rows]), owner, seed):
            figures[f"{name}_{PROBES[found.probe]}_mse"] = (found.mse, "of the standardised quantity")
            figures[f"{name}_{PROBES[found.probe]}_r"] = (found.r, "Pearson's r")
    return figures


@torch.no_grad()
def surprise(bundle: Bundle, env: Environment, data: Episodes, seed: int) -> Figures:
    """How well the error of imagining one block ahead tells teleports and changes of colour from nothing.

    Of the errors in the first half of the episodes one in 1000 is above the limit; the other half is judged. In each of
    those the task's subject is put, at a random frame, where it was in another episode; or all colours change.
    """
    assert data.proprio is not None
    model, spec, rng = load_model(bundle), bundle.actions, np.random.default_rng((seed, 9))
    span, block = model.config.history * model.config.frameskip, model.config.frameskip
    episodes = _episodes(data)

    def errors(pictures: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return episode_errors(model, encode_all(model, pictures), actions, spec)[0]

    quiet = [errors(data.pixels[i : i + n], data.actions[i : i + n - 1]) for i, n in episodes]
    half = len(episodes) // 2
    limit = float(np.quantile(np.concatenate(quiet[:half]), 0.999))
    usual: list[float] = []
    spoilt: dict[str, list[float]] = {"teleport": [], "colour": []}
    for episode in range(half, len(episodes)):
        first, length = episodes[episode]
        at = int(rng.integers(span, length - block))  # the first frame after the disturbance
        there = slice(first + at, first + at + block)
        other = int(rng.integers(data.lengths[episode - half]))
        elsewhere = data.proprio[data.offsets[episode - half] + other].astype(np.float64)
        teleported = []
        for joints in data.proprio[there].astype(np.float64):
            joints[env.subject] = elsewhere[env.subject]
            env.place(State(joints), State(joints))
            teleported.append(env.picture())
        usual.append(float(quiet[episode][at - span : at - span + block].max()))
        before, actions = (
            data.pixels[there.start - span : there.start],
            data.actions[there.start - span : there.stop - 1],
        )
        for kind, seen in (("teleport", np.stack(teleported)), ("colour", data.pixels[there][..., [2, 0, 1]])):
            spoilt[kind].append(float(errors(np.concatenate([before, seen]), actions).max()))
    frames = np.concatenate(quiet[half:])
    figures: Figures = {"false_alarms": (1000.0 * float((frames > limit).mean()), "of 1000 undisturbed frames")}
    for kind, values in spoilt.items():
        figures[f"{kind}_auroc"] = (auroc(np.array(values), np.array(usual)), "of the first block after it")
        figures[f"{kind}_noticed"] = (100.0 * float((np.array(values) > limit).mean()), "% of the episodes")
    return figures


def _episodes(data: Episodes) -> list[tuple[int, int]]:
    """First row and number of frames of each episode."""
    return [(int(first), int(length)) for first, length in zip(data.offsets, data.lengths, strict=True)]
