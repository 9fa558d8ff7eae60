# SPDX-License-Identifier: Apache-2.0
"""Calibration: the limits from which a goal counts as reached, and a frame as surprising or new.

All are measured on episodes that the model was not trained on, in which nothing is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from lewm_model.bundle.bundle import Bundle, Calibration, load_heads, load_model
from lewm_model.bundle.held_out import held_out_episodes
from lewm_model.bundle.update import update
from lewm_model.config import CalibrationConfig, TrainConfig
from lewm_model.data.clips import DataError, Episodes
from lewm_model.models.distributed import device_of
from lewm_model.models.graphs import RolloutGraph
from lewm_model.models.heads import DisplacementEmbedding
from lewm_model.models.lewm import LeWM
from lewm_model.models.signature import DISPLACEMENT, POLICY, measuring
from lewm_model.monitoring.novelty import Novelty, area, most_together, remember, save_seen
from lewm_model.monitoring.vigilance import SURPRISING
from lewm_model.planning.expectation import KNOWN_FRAMES
from lewm_model.robot.actions import ActionSpec
from lewm_model.training.heads import travelled_steps
from lewm_model.training.latents import encode_rows

FEWEST_FRAMES = 500  # from which the greatest error in each of the GROUPS is a usable limit
GROUPS = 6  # of frames by the change that was imagined, since the error grows with it; each has its own limit
FOLDS = 5  # parts of the frames, each of which is judged by limits from the others
# Share of the greatest error that every limit has at least: a simulated camera has no noise, so at rest the errors are
# 0, and the smallest error of a real frame would be surprising.
LEAST_ERROR = 0.1
FEWEST_PAIRS = 20  # of frames of the same place, from which a quantile of their distances is usable
FEWEST_NEW = 1.5  # pixels, the least limit of novelty: frames of a simulated camera without noise have no new pixel
USUAL_WAY, LEAST_WAY = 0.99, 1e-3  # quantile of the differences of ways that is usual; its least value, control steps
LEAST_AREA = 0.01  # of the picture, the least limit of the excess over the usual area: an arm's hardly varies


def calibrate(bundle: Bundle, data: Episodes, config: CalibrationConfig | None = None) -> Bundle:
    """Measures the limits on a recording and writes them into the bundle; `config` is by default CalibrationConfig().

    The frames are the held-out episodes when `data` is the recording that the bundle was trained on, else all of it.
    Limits of surprise come from all these frames; how many frames exceed them although nothing is wrong is measured by
    cross-fitting: each part of the frames is judged by limits from the other parts. Colours of a held-out episode are
    new where the other episodes do not have them; of another recording a fifth of the episodes is held out for that.

    :raises DataError: the recording does not fit the model, has too few frames, or only one episode.
    """
    config = CalibrationConfig() if config is None else config
    episodes = held_out_episodes(bundle, data)
    others = np.setdiff1d(np.arange(len(data.lengths)), episodes)
    if len(others):
        held_out = episodes
    else:
        others, held_out = data.split(0.2, 0)
    model, heads = load_model(bundle).to(device_of(TrainConfig())), load_heads(bundle)
    latents = encode_rows(model, data, data.rows(episodes))
    errors, changes = prediction_errors(model, data, episodes, latents, bundle.actions)
    if len(errors) < FEWEST_FRAMES:
        raise DataError(
            f"{data.source}: {len(errors)} frames are too few to calibrate with; {FEWEST_FRAMES} are needed, "
            "record more episodes"
        )
    graph = RolloutGraph(model.cpu(), heads.get(measuring(heads) or ""))
    distances = same_place_distances(
        graph, data, episodes, latents, bundle.actions, POLICY in bundle.heads, config.same_place_steps
    )
    reached = float(np.quantile(distances, config.reached_share))
    usual_changes, usual_errors = _usual(errors, changes)

    def frames_of(some: np.ndarray) -> Iterator[np.ndarray]:
        return (picture for frames in data.batches(data.rows(some)) for picture in frames)

    colours = remember(frames_of(others))
    novelty = Novelty(colours, 1.0)
    new_pixels = goal_pixels = FEWEST_NEW
    for picture in frames_of(held_out):
        new = novelty.new_pixels(picture)
        new_pixels, goal_pixels = max(new_pixels, most_together(new)), max(goal_pixels, float(new.sum()))
    # A single frame can make a colour seen, but not common, so all frames may set this limit.
    areas = [area(novelty.uncommon_pixels(picture)) for some in (others, held_out) for picture in frames_of(some)]
    usual_area = float(np.median(areas))
    excess = max(LEAST_AREA * np.prod(bundle.model.image_size), max(areas) - usual_area)
    squares = latents[data.rows(episodes)].square().sum(-1)
    span = bundle.model.history * bundle.actions.frameskip
    owners = np.repeat(np.arange(len(episodes)), np.maximum(0, data.lengths[episodes] - span))
    surprising = false_positives(errors, changes, owners)
    interval = binomtest(surprising, len(errors)).proportion_ci(0.95, "exact")
    found = Calibration(
        reached,
        config.left * reached,
        usual_changes,
        usual_errors,
        surprising / len(errors),
        len(errors),
        new_pixels,
        goal_pixels,
        (float(squares.min()), float(squares.max())),
        (float(interval.low), float(interval.high)),
        (usual_area, excess),
        way_errors(heads, data, episodes, latents, bundle.actions),
    )

    def change(draft: Bundle) -> Bundle:
        save_seen(draft, colours)
        return replace(draft, calibration=found)

    return update(bundle, change)


def way_errors(
    heads: dict[str, nn.Module], data: Episodes, episodes: np.ndarray, latents: Tensor, spec: ActionSpec
) -> tuple[float, ...] | None:
    """`Calibration.way_errors`: the USUAL_WAY quantile of each column over pairs of frames up to KNOWN_FRAMES + 2
    blocks apart, which is how far apart the frames are that are compared when a hold may end.
    """
    head = heads.get(DISPLACEMENT)
    if not isinstance(head, DisplacementEmbedding):
        return None
    rows = data.rows(episodes)
    seen = np.zeros_like(data.actions)
    with torch.no_grad():
        seen[rows] = head.net(latents[rows]).numpy()
    wrong = seen - travelled_steps(data, episodes, spec)
    owners = np.repeat(np.arange(len(data.lengths)), data.lengths)
    differences = [
        np.abs(wrong[rows[apart:]] - wrong[rows[:-apart]])[owners[rows[apart:]] == owners[rows[:-apart]]]
        for apart in spec.frameskip * np.arange(1, KNOWN_FRAMES + 3)
    ]
    usual = np.quantile(np.concatenate(differences), USUAL_WAY, axis=0)
    return tuple(float(each) for each in np.maximum(usual, LEAST_WAY))


def false_positives(errors: np.ndarray, changes: np.ndarray, owners: np.ndarray) -> int:
    """How many of M frames are surprising by limits that come from other frames.

    `errors` and `changes` (M,) are those of `prediction_errors`. `owners` (M,), ascending from 0, is the episode of
    each frame: frames of an episode resemble each other, so they are judged together, unless there are fewer than
    FOLDS episodes.
    """
    position = owners if owners[-1] + 1 >= FOLDS else np.arange(len(owners))
    fold = position * FOLDS // (position[-1] + 1)
    count = 0
    for judged in (fold == number for number in range(FOLDS)):
        usual_changes, usual_errors = _usual(errors[~judged], changes[~judged])
        limits = SURPRISING * np.interp(changes[judged], usual_changes, usual_errors)
        count += int((errors[judged] > limits).sum())
    return count


def _usual(errors: np.ndarray, changes: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The limits of a `Calibration`, from the errors and changes (M,) of frames: for each group of frames of similar
    change, its median change and the greatest error of frames that change as much or less.
    """
    usual: dict[float, float] = {}
    greatest = LEAST_ERROR * float(errors.max())
    for group in np.array_split(np.argsort(changes), GROUPS):
        greatest = max(greatest, float(errors[group].max()))
        usual[float(np.median(changes[group]))] = greatest
    return tuple(usual), tuple(usual.values())


def prediction_errors(
    model: LeWM, data: Episodes, episodes: np.ndarray, latents: Tensor, spec: ActionSpec
) -> tuple[np.ndarray, np.ndarray]:
    """`episode_errors` of these episodes, concatenated. `latents` (N, D) has a row for each frame of the recording;
    only those of these episodes are read.
    """
    errors, changes = [np.zeros(0)], [np.zeros(0)]
    for episode in episodes:
        first, last = data.offsets[episode], data.offsets[episode] + data.lengths[episode] - 1
        error, change = episode_errors(model, latents[first : last + 1], data.actions[first:last], spec)
        errors.append(error)
        changes.append(change)
    return np.concatenate(errors), np.concatenate(changes)


@torch.no_grad()
def episode_errors(
    model: LeWM, latents: Tensor, actions: np.ndarray, spec: ActionSpec
) -> tuple[np.ndarray, np.ndarray]:
    """Mean squared errors (M,) of the latents imagined one block ahead, and the mean squared changes (M,) imagined.

    What the model imagines for an arm at rest, its drift, is subtracted. The first entry is of frame
    history * frameskip; M is 0 when the episode is not longer than that.

    :param latents: (T, D) of an episode's frames.
    :param actions: (T - 1, A) between them, in the units of the recording.
    """
    history, frameskip = model.config.history, model.config.frameskip
    span = history * frameskip  # control steps from the oldest frame of the context to the one that is imagined
    starts = np.arange(len(latents) - span)
    if len(starts) < 1:
        return np.zeros(0), np.zeros(0)
    device = model.image_mean.device
    blocks = torch.from_numpy(spec.normalise(actions[starts[:, None] + np.arange(span)])).to(device)
    blocks = blocks.reshape(len(starts), history, -1)
    context = latents[starts[:, None] + frameskip * np.arange(history)].to(device)
    still = torch.from_numpy(spec.still).to(device).expand(len(starts), 1, -1)
    past, now = blocks[:, :-1], context[:, -1]
    imagined = model.rollout(context, past, blocks[:, -1:])[:, 0]
    drift = model.rollout(context, past, still)[:, 0] - now
    imagined = imagined - drift
    errors = (imagined - latents[starts + span].to(device)).square().mean(-1)
    return errors.cpu().numpy(), (imagined - now).square().mean(-1).cpu().numpy()


@torch.no_grad()
def same_place_distances(
    graph: RolloutGraph,
    data: Episodes,
    episodes: np.ndarray,
    latents: Tensor,
    spec: ActionSpec,
    moves_objects: bool = False,
    same_place_steps: float = CalibrationConfig.same_place_steps,
) -> np.ndarray:
    """Distances (M,), as the planner measures them, between frames of an episode that show the arm in the same place.

    :param latents: (N, D), a row for each frame of the recording.
    :param moves_objects: whether the arm may have moved an object that belongs to the goal. Then a pose to which the
        arm came back does not count as the same place; only frames between which it hardly moved do.
    :param same_place_steps: as in CalibrationConfig.
    :raises DataError: there are fewer than FEWEST_PAIRS of them.
    """
    distances = []
    for episode in episodes:
        offset, length = int(data.offsets[episode]), int(data.lengths[episode])
        steps = data.actions[offset : offset + length - 1] * spec.control_dt_s / spec.full_step
        if moves_objects:  # the length of the way, which coming back does not undo
            steps = np.linalg.norm(steps, axis=1, keepdims=True)
        travelled = np.concatenate([np.zeros((1, steps.shape[1])), np.cumsum(steps, axis=0)])
        apart = np.linalg.norm(travelled[:, None] - travelled, axis=-1)
        first, second = np.nonzero(np.triu(apart < same_place_steps, k=1))
        if len(first):
            distances.append(graph.distance(latents[offset + first], latents[offset + second]).numpy())
    found = np.concatenate(distances) if distances else np.zeros(0)
    if len(found) < FEWEST_PAIRS:
        raise DataError(
            f"{data.source}: only {len(found)} pairs of frames show the arm in the same place; record episodes in "
            "which it rests, or comes back, now and then"
        )
    return found
