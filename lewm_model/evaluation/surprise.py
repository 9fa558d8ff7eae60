# SPDX-License-Identifier: Apache-2.0
"""Does a model notice what must not happen? Violation of expectation in the simulator: `lewm surprise`.

Random motions that the model never saw are played once undisturbed and once with each disturbance from some frame on.
Two detectors look at every frame, as on the robot: the imagination's error over one action block, in multiples of the
usual one (`Calibration.surprise`; or how far the arm moved while the picture stayed identical, `frozen`), and colours
that a pixel never had (`Novelty`). The robot acts on the greater of the two.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from rich.table import Table
from tqdm import tqdm

from lewm_model.bundle.bundle import Bundle, BundleError, load_model
from lewm_model.config import MonitorConfig
from lewm_model.evaluation.statistics import poisson_interval, poisson_upper
from lewm_model.monitoring.frozen import frozen
from lewm_model.monitoring.novelty import load_novelty
from lewm_model.monitoring.vigilance import SURPRISING
from lewm_model.robot.observation import Observation
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.collect import record_episode
from lewm_model.sim.looks import random_place
from lewm_model.sim.random_motion import RANDOM
from lewm_model.training.calibration import episode_errors
from lewm_model.training.latents import encode_all

HOLD_FRAMES = MonitorConfig().hold_frames  # surprising frames in a row that hold the arm, unless it is told otherwise
EPISODES = 200  # of each kind
STEPS = 100  # control steps of an episode
WINDOW = 20  # frames from the disturbance on that are looked at
LAG = 5  # frames that a time-shifted camera is late: 0.25 s at 20 Hz

MOVES = 0.25  # share of full speed: an arm that is faster over the first block after the disturbance moves
DETECTORS = ("imagination", "novelty", "combined")
WATCHED_STEPS = 600  # control steps of an episode in which nothing happens
_SEED, _WATCHED = 0x53555250, 0x57415443  # of the episodes, which no recording has

# Simulator, cameras, pictures (T, H, W, 3), joint positions (T, A), first frame -> what is seen from that on
# (WINDOW, H, W, 3).
Disturb = Callable[[ArmSim, Observation, np.ndarray, np.ndarray, int, np.random.Generator], np.ndarray]


def _drawn(
    sim: ArmSim, view: Observation, poses: np.ndarray, places: Mapping[str, np.ndarray] = MappingProxyType({})
) -> np.ndarray:
    """Pictures (N, H, W, 3) of the arm at poses (N, A), with objects at (x, y) m."""
    pictures = np.empty((len(poses), *view.size, 3), np.uint8)
    for picture, pose in zip(pictures, poses, strict=True):
        sim.reset(joint_positions=np.clip(pose, sim.limits.lower, sim.limits.upper))
        for name, place in places.items():
            there = sim.object_pose(name)
            there[:2] = place
            sim.set_object_pose(name, there)
        picture[:] = sim.picture(view)
    return pictures


def _recoloured(of_objects: bool) -> Disturb:
    def disturb(
        sim: ArmSim, view: Observation, seen: np.ndarray, poses: np.ndarray, at: int, rng: np.random.Generator
    ) -> np.ndarray:
        channels = (1, 2, 0) if rng.random() < 0.5 else (2, 0, 1)
        what = sim.objects if of_objects else ("arm",)
        for each in what:
            sim.recolour(each, channels)
        pictures = _drawn(sim, view, poses[at : at + WINDOW])
        for each in what:
            sim.recolour(each)
        return pictures

    return disturb


def _teleported_arm(
    sim: ArmSim, view: Observation, seen: np.ndarray, poses: np.ndarray, at: int, rng: np.random.Generator
) -> np.ndarray:
    """The arm continues its motion from another pose."""
    there = rng.uniform(0.95 * sim.limits.lower, 0.95 * sim.limits.upper)
    return _drawn(sim, view, poses[at : at + WINDOW] - poses[at] + there)


def _teleported_objects(
    sim: ArmSim, view: Observation, seen: np.ndarray, poses: np.ndarray, at: int, rng: np.random.Generator
) -> np.ndarray:
    places = {name: random_place(sim, rng) for name in sim.objects}
    return _drawn(sim, view, poses[at : at + WINDOW], places)


def _occluded(
    sim: ArmSim, view: Observation, seen: np.ndarray, poses: np.ndarray, at: int, rng: np.random.Generator
) -> np.ndarray:
    """A dark square hides a sixteenth of the picture."""
    pictures, side = seen[at : at + WINDOW].copy(), seen.shape[1] // 4
    top, left = rng.integers(0, seen.shape[1] - side + 1, 2)
    pictures[:, top : top + side, left : left + side] = 30
    return pictures


def _frozen(
    sim: ArmSim, view: Observation, seen: np.ndarray, poses: np.ndarray, at: int, rng: np.random.Generator
) -> np.ndarray:
    return np.repeat(seen[at - 1 : at], WINDOW, axis=0)


def _late(
    sim: ArmSim, view: Observation, seen: np.ndarray, poses: np.ndarray, at: int, rng: np.random.Generator
) -> np.ndarray:
    return seen[at - LAG : at - LAG + WINDOW]


class ChangingLight:
    """Light that changes all the time, as a lens of the simulated camera: strength, tint and a shade swing, each with
    its own period.

    It depends on the frame alone, so that the same frame drawn again has the same light.
    """

    def __init__(self, seed: int, control_dt_s: float) -> None:
        rng = np.random.default_rng((_SEED, seed))
        self.frame = 0  # number of the next picture that is drawn
        self._rates = 2 * np.pi * control_dt_s / rng.uniform(1.5, 6.0, 5)  # rad a frame
        self._phases = rng.uniform(0.0, 2 * np.pi, 5)

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        strength, *tint, side = np.sin(self._rates * self.frame + self._phases)
        self.frame += 1
        shade = 1.0 + 0.25 * side * np.linspace(-1.0, 1.0, picture.shape[1])[:, None]
        light = (0.85 + 0.25 * strength) * shade * (1.0 + 0.1 * np.array(tint))
        return np.clip(picture * light, 0, 255).astype(np.uint8)


KINDS: dict[str, Disturb] = {
    "recoloured arm": _recoloured(of_objects=False),
    "recoloured object": _recoloured(of_objects=True),
    "teleported arm": _teleported_arm,
    "teleported object": _teleported_objects,
    "occluded": _occluded,
    "frozen": _frozen,
    "time-shifted": _late,
}
OF_OBJECT = ("recoloured object", "teleported object")  # kinds that a world without an object cannot show
GROUPS = {"colour": ("recoloured arm", "recoloured object"), "teleport": ("teleported arm", "teleported object")}


@dataclass(frozen=True)
class Scores:
    """What each of DETECTORS says of each frame, and whether the arm moves when the disturbance begins."""

    undisturbed: dict[str, np.ndarray]  # (E, T - first scored frame)
    disturbed: dict[str, dict[str, np.ndarray]]  # kind -> detector -> (E, WINDOW), from the disturbance on
    moves: np.ndarray  # (E,) bool
    same: dict[str, np.ndarray]  # (E, WINDOW): the undisturbed episodes' scores of the same frames
    control_dt_s: float


class _Detectors:
    """What the robot judges pictures by. Raises BundleError for a bundle that is not calibrated."""

    def __init__(self, bundle: Bundle) -> None:
        calibration, novelty = bundle.calibration, load_novelty(bundle)
        if calibration is None or novelty is None:
            raise BundleError(
                f"{bundle.folder} does not know what is usual; run `lewm calibrate` with a recording first"
            )
        self._calibration, self._novelty = calibration, novelty
        self._model, self._spec = load_model(bundle), bundle.actions
        self.first = bundle.model.history * bundle.actions.frameskip  # frame that is the first to be imagined

    @torch.no_grad()
    def imagination(self, pictures: np.ndarray, actions: np.ndarray, poses: np.ndarray) -> np.ndarray:
        """Scores (T - first,) of pictures (T, S, S, 3), between which actions (T - 1, A) led to poses (T, A) rad."""
        spec, latents = self._spec, encode_all(self._model, pictures)
        errors, changes = episode_errors(self._model, latents, actions, spec)
        spans = [slice(t - spec.frameskip, t + 1) for t in range(self.first, len(pictures))]
        still = np.array([frozen(list(pictures[span]), list(poses[span]), spec.full_step) for span in spans])
        return np.maximum(self._calibration.surprise(errors, changes), still)

    def novelty(self, pictures: np.ndarray) -> np.ndarray:
        """Scores (T,) of pictures (T, S, S, 3), the first ones since the start."""
        self._novelty.forget()
        return np.array([self._novelty.look(p, t * self._spec.control_dt_s) for t, p in enumerate(pictures)])

    def both(self, pictures: np.ndarray, actions: np.ndarray, poses: np.ndarray) -> np.ndarray:
        """(2, T - first): imagination and novelty of one episode."""
        return np.stack([self.imagination(pictures, actions, poses), self.novelty(pictures)[self.first :]])


def watch(
    bundle: Bundle, hours: float, seed: int = 0, world: Path | None = None, changing_light: bool = False
) -> Scores:
    """Scores of `hours` in which nothing is wrong, in undisturbed episodes of WATCHED_STEPS.

    :raises BundleError: as `score_episodes`.
    """
    detectors, found = _Detectors(bundle), []
    with ArmSim(world) as sim:
        _check_arm(bundle, sim)
        count = max(1, round(hours * 3600 / sim.control_dt_s / (WATCHED_STEPS + 1 - detectors.first)))
        for episode in tqdm(range(count), "episodes", unit="ep", disable=not sys.stderr.isatty()):
            sim.lens = ChangingLight(seed + episode, sim.control_dt_s) if changing_light else None
            seen, actions, poses = record_episode(
                sim, RANDOM, _WATCHED + seed, episode, WATCHED_STEPS, bundle.observation
            )
            found.append(detectors.both(seen, actions, poses.astype(float)))
    return Scores(_by_detector(found), {}, np.zeros(count, bool), {}, bundle.actions.control_dt_s)


def _check_arm(bundle: Bundle, sim: ArmSim) -> None:
    if sim.names != bundle.actions.names:
        raise BundleError(
            f"{bundle.folder} moves {', '.join(bundle.actions.names)}, the simulated arm has {', '.join(sim.names)}; "
            "give its world with --world"
        )


def score_episodes(
    bundle: Bundle, episodes: int = EPISODES, seed: int = 0, world: Path | None = None, changing_light: bool = False
) -> Scores:
    """Plays and scores the episodes; with `changing_light` the light's strength, tint and shade swing meanwhile.

    :raises BundleError: the bundle is not calibrated, or is of another robot than the simulated one.
    """
    detectors = _Detectors(bundle)
    spec, first = bundle.actions, detectors.first
    undisturbed: list[np.ndarray] = []
    same: list[np.ndarray] = []
    moves = np.zeros(episodes, bool)
    with ArmSim(world) as sim:
        _check_arm(bundle, sim)
        kinds = {kind: disturb for kind, disturb in KINDS.items() if sim.objects or kind not in OF_OBJECT}
        disturbed: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
        for episode in tqdm(range(episodes), "episodes", unit="ep", disable=not sys.stderr.isatty()):
            light = ChangingLight(seed + episode, sim.control_dt_s)
            sim.lens = light if changing_light else None
            seen, actions, poses = record_episode(sim, RANDOM, _SEED + seed, episode, STEPS, bundle.observation)
            poses = poses.astype(float)
            rng = np.random.default_rng(np.random.SeedSequence((_SEED, seed, episode)))
            at = int(rng.integers(first + LAG, STEPS - WINDOW))
            way = np.abs(actions[at : at + spec.frameskip]).mean(0) / (spec.full_step / spec.control_dt_s)
            moves[episode] = way.max() > MOVES
            quiet = detectors.both(seen, actions, poses)
            undisturbed.append(quiet)
            same.append(quiet[:, at - first : at - first + WINDOW])
            begin = at - first  # frames before it are imagined from nothing that was disturbed
            for kind, disturb in kinds.items():
                light.frame = at
                spoilt = np.concatenate([seen[begin:at], disturb(sim, bundle.observation, seen, poses, at, rng)])
                errors = detectors.imagination(spoilt, actions[begin : at + WINDOW - 1], poses[begin : at + WINDOW])
                disturbed[kind].append(np.stack([errors, detectors.novelty(spoilt[first:])]))
    return Scores(
        _by_detector(undisturbed),
        {kind: _by_detector(scores) for kind, scores in disturbed.items()},
        moves,
        _by_detector(same),
        spec.control_dt_s,
    )


def _by_detector(scores: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Scores (2, T) of episodes -> (E, T) for each of DETECTORS."""
    both = np.stack(scores, axis=1)
    return dict(zip(DETECTORS, (both[0], both[1], both.max(0)), strict=True))


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties counting half. Any shapes."""
    from sklearn.metrics import roc_auc_score

    disturbed = np.concatenate([np.ones(positive.size, bool), np.zeros(negative.size, bool)])
    return float(roc_auc_score(disturbed, np.concatenate([positive.ravel(), negative.ravel()])))


@dataclass(frozen=True)
class Detection:
    """How well one detector finds one kind of disturbance.

    `auroc` compares single frames: those of the first block after the disturbance with all undisturbed ones.
    `auroc_episode` compares the greatest scores of the first half second with those of the same frames undisturbed.
    """

    kind: str
    detector: str
    auroc: float
    auroc_episode: float
    noticed_percent: float  # of the episodes within half a second: one frame beyond the calibrated threshold
    delay_s: float | None  # median, of those that were noticed within WINDOW
    held_percent: float  # HOLD_FRAMES in a row within WINDOW, which holds the arm
    episodes: int


def judge(scores: Scores, block: int) -> list[Detection]:
    """Every kind with every detector, and the kinds' groups; "frozen" and "time-shifted" also of arms that move.

    Kinds that the world could not show are left out.

    :param block: frames in an action block.
    """
    every = np.ones(len(scores.moves), bool)
    rows: list[tuple[str, tuple[str, ...], np.ndarray]] = [(kind, (kind,), every) for kind in scores.disturbed]
    rows += [(f"{kind}, arm moves", (kind,), scores.moves) for kind in ("frozen", "time-shifted")]
    shown = {group: tuple(kind for kind in kinds if kind in scores.disturbed) for group, kinds in GROUPS.items()}
    rows += [(group, kinds, every) for group, kinds in shown.items()]
    found = []
    for name, kinds, which in rows:
        if not which.any():
            continue
        for detector in DETECTORS:
            positive = np.concatenate([scores.disturbed[kind][detector][which] for kind in kinds])
            negative = np.concatenate([scores.same[detector][which]] * len(kinds))
            half = round(0.5 / scores.control_dt_s)
            beyond = positive > SURPRISING
            noticed = beyond.any(1)
            in_a_row = _in_a_row(beyond).any(1)
            delays = beyond.argmax(1)[noticed] * scores.control_dt_s
            found.append(
                Detection(
                    name,
                    detector,
                    auroc(positive[:, :block], scores.undisturbed[detector]),
                    auroc(positive[:, :half].max(1), negative[:, :half].max(1)),
                    100 * float(beyond[:, :half].any(1).mean()),
                    float(np.median(delays)) if len(delays) else None,
                    100 * float(in_a_row.mean()),
                    len(positive),
                )
            )
    return found


def _in_a_row(beyond: np.ndarray) -> np.ndarray:
    """Where HOLD_FRAMES frames in a row are beyond the threshold: (E, T) bool -> (E, T - HOLD_FRAMES + 1) bool."""
    length = beyond.shape[1] - HOLD_FRAMES + 1
    return np.logical_and.reduce([beyond[:, i : i + length] for i in range(HOLD_FRAMES)])


@dataclass(frozen=True)
class FalseAlarms:
    """What a detector says while nothing is wrong, at the calibrated threshold."""

    detector: str
    hours: float
    frames_per_hour: float  # beyond the threshold, each of which slows the arm
    frames_per_hour_below: float  # 95 % upper limit, taking them as independent
    holds_per_hour: float  # HOLD_FRAMES in a row: a false alarm
    holds_interval: tuple[float, float]  # 95 %, of Poisson's


def false_alarms(scores: Scores) -> list[FalseAlarms]:
    """The false alarms of each detector in the undisturbed episodes."""
    found = []
    for detector in DETECTORS:
        beyond = scores.undisturbed[detector] > SURPRISING
        hours = beyond.size * scores.control_dt_s / 3600
        runs = _in_a_row(beyond)
        holds = int(runs[:, 0].sum() + (runs[:, 1:] & ~runs[:, :-1]).sum())
        low, high = poisson_interval(holds)
        count, rate = int(beyond.sum()), (low / hours, high / hours)
        found.append(FalseAlarms(detector, hours, count / hours, poisson_upper(count) / hours, holds / hours, rate))
    return found


def as_dict(bundle: Bundle, seed: int, found: list[Detection], quiet: list[FalseAlarms]) -> dict[str, Any]:
    """Everything, for JSON."""
    return {
        "bundle": str(bundle.folder),
        "seed": seed,
        "threshold": SURPRISING,
        "disturbances": [asdict(each) for each in found],
        "undisturbed": [asdict(each) for each in quiet],
    }


def tables(found: list[Detection], quiet: list[FalseAlarms]) -> list[Table]:
    """For the terminal."""
    shown = Table(title="disturbances: AUROC of single frames (of the first half second's greatest score)")
    for heading in ("", *DETECTORS, "noticed in 0.5 s", "delay", "held in 1 s"):
        shown.add_column(heading, justify="left" if heading == "" else "right")
    for i in range(0, len(found), len(DETECTORS)):
        three = found[i : i + len(DETECTORS)]
        combined = three[-1]
        delay = "-" if combined.delay_s is None else f"{combined.delay_s:.2f} s"
        areas = [f"{each.auroc:.3f} ({each.auroc_episode:.3f})" for each in three]
        shares = (f"{combined.noticed_percent:.1f} %", delay, f"{combined.held_percent:.1f} %")
        shown.add_row(f"{combined.kind} ({combined.episodes})", *areas, *shares)
    alarms = Table(title=f"undisturbed: {quiet[0].hours:.2f} h, at the calibrated threshold")
    for heading in ("detector", "frames an hour", "95 % below", "holds an hour"):
        alarms.add_column(heading, justify="left" if heading == "detector" else "right")
    for each in quiet:
        alarms.add_row(
            each.detector,
            f"{each.frames_per_hour:.1f}",
            f"{each.frames_per_hour_below:.1f}",
            f"{each.holds_per_hour:.1f} ({each.holds_interval[0]:.1f} to {each.holds_interval[1]:.1f})",
        )
    return [shown, alarms]


def plot(path: Path, scores: Scores) -> None:
    """Scores over time around the disturbance: the median of the episodes, and where 80 % of them lie."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(2, 4, figsize=(13, 6), sharex=True, sharey=True, layout="constrained", dpi=100)
    panels = {"undisturbed": scores.same, **scores.disturbed}
    times = scores.control_dt_s * np.arange(WINDOW)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes, (name, detectors) in zip(grid.flat, panels.items(), strict=False):
        for detector, colour in (("imagination", "tab:blue"), ("novelty", "tab:orange")):
            low, middle, high = np.maximum(np.quantile(detectors[detector], (0.1, 0.5, 0.9), axis=0), 1e-2)
            axes.plot(times, middle, color=colour, label=detector)
            axes.fill_between(times, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.axhline(SURPRISING, color="black", linewidth=0.8, linestyle="--")
        axes.set(title=name, yscale="log")
    for axes in grid[-1]:
        axes.set_xlabel("s since the disturbance")
    for axes in grid[:, 0]:
        axes.set_ylabel("times the usual")
    grid[0, 0].legend(loc="lower left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
