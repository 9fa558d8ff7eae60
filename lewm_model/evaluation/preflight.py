# SPDX-License-Identifier: Apache-2.0
"""The preflight, `lewm doctor model`: whether an arm can be moved with a model.

A model may look well trained and still be useless for planning: its predictions do not depend on the actions, its cost
surface is flat, or the camera is another one. The preflight measures everything that a plan depends on, on recorded
episodes that the model was not trained on, and says GO or NO-GO with the reasons. It computes with one of the robot's
back ends.

docs/evaluation.md explains the limits.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from lewm_model.bundle.bundle import Bundle, BundleError
from lewm_model.bundle.held_out import held_out_episodes
from lewm_model.bundle.update import update
from lewm_model.bundle.verdict import GO, NO_GO, judged
from lewm_model.config import PlanConfig
from lewm_model.data.clips import DataError, Episodes
from lewm_model.evaluation.timing import bench, plan_of
from lewm_model.models.objective import mean_and_final
from lewm_model.models.signature import POLICY, TEMPORAL_DISTANCE
from lewm_model.monitoring.novelty import load_novelty, most_together
from lewm_model.monitoring.vigilance import SURPRISING
from lewm_model.runtime import Runtime

STARTS = 150  # frames that rollouts start from
CANDIDATES = 64  # action sequences that are imagined from each: the recorded one, and others of the recording
PAIRS = 300  # pairs of frames of an episode, whose distance is compared with the way between them
FRAMES = 600  # frames whose latents and new pixels are examined

_SEED = 0x504C414E  # of the episodes that are simulated for it, which no recording has

# Limits for planning, measured on good, bad and half-trained models: see docs/evaluation.md.
LEAST_RANK = 3.0  # effective rank of the latents; a quarter of their dimension if that is less
LEAST_STD = 0.3  # standard deviation of the numbers of a latent, which the training makes 1
MOST_ERROR_RATIO = 0.5  # prediction error, relative to that of "nothing changes", one block and a whole horizon ahead
LEAST_SENSITIVITY = 0.25  # variance of the imagined ends of different actions, relative to the recorded changes
MOST_RANK = 0.1  # share of random candidates that are imagined to end nearer to the recorded end than the recorded one
MOST_RANK_BY_TIME = 0.25  # the same if distances are times: where play rests, all candidates that rest are as near
LEAST_COST_VARIATION = 0.3  # standard deviation of the candidates' costs over their mean; a limit from the literature
LEAST_MONOTONICITY = 0.8  # rank correlation of the distance to a goal with the length of the way to it
LEAST_MONOTONICITY_BY_TIME = 0.6  # the same with the time that passed, since play comes back to where it was
NO_SENSITIVITY = 0.01  # sensitivity below which a model with hardly any spread counts as untrained
CHANCE_RANK = 0.4  # rank of the recorded actions (0.5 is chance) beyond which a model counts as ignoring actions
MOST_NEW_PICTURES = 0.2  # share of pictures with colours that the recordings of the training never had there


@dataclass(frozen=True)
class Check:
    """One condition for planning: the measured value and its limit."""

    name: str
    value: float | None  # None: could not be measured, and does not cause a NO-GO
    limit: float
    good: bool
    found: str  # the measurement as a sentence


@dataclass(frozen=True)
class Preflight:
    """The verdict on a bundle. `reason` of a NO-GO says the likely cause and what to do; it is "" for GO."""

    verdict: str
    reason: str
    checks: tuple[Check, ...]
    error_ratios: tuple[float, ...]  # prediction error relative to that of "nothing changes", 1, 2, ... blocks ahead
    data: str  # the recording that it was measured on
    backend: str
    judged: dict[str, Any] = field(default_factory=dict)  # files and settings it holds for (`bundle.verdict`)


def preflight(runtime: Runtime, data: Episodes, seed: int = 0, plan: PlanConfig | None = None) -> Preflight:
    """Examines a bundle on the held-out episodes of `data`, which must be of the camera that it will see.

    :param plan: the plan settings of the robot; by default `plan_of` the bundle.
    :raises DataError: the recording does not fit the bundle, or is too short.
    :raises BundleError: the model gives numbers that are not finite.
    """
    bundle = runtime.bundle
    plan = plan_of(bundle) if plan is None else plan
    episodes = held_out_episodes(bundle, data)
    rng = np.random.default_rng((seed, 4))
    measured = _Measured(runtime, data, episodes, rng, plan)
    times = bench(runtime, plan, repeats=20)
    checks = (
        _of_pictures(measured),
        *_of_latents(measured),
        *_of_imagination(measured),
        _of_distance(measured),
        _of_latency(bundle, plan, times),
    )
    return Preflight(
        verdict=GO if all(check.good for check in checks) else NO_GO,
        reason=_reason(checks, measured),
        checks=checks,
        error_ratios=tuple(round(float(ratio), 4) for ratio in measured.error_ratios),
        data=data.source,
        backend=runtime.backend,
        judged=judged(bundle, plan),
    )


def simulated(bundle: Bundle, episodes: int = 12) -> Episodes:
    """A new recording in the simulated world of the bundle's task, of the motion that its models learn from.

    :raises DataError: its task or arm is not simulated; the preflight then needs a recording.
    """
    from lewm_model.sim.arm import ArmSim  # a robot may not have MuJoCo
    from lewm_model.sim.collect import record_episode
    from lewm_model.tasks.registry import suite_of

    try:
        suite = suite_of(bundle)
    except BundleError as error:
        raise DataError(f"{error}; or give a recording of its own arm and camera") from error
    with ArmSim(suite.world_file) as sim:
        if sim.names != bundle.actions.names:
            raise DataError(
                f"the bundle {bundle.folder} moves {', '.join(bundle.actions.names)}, the simulated arm has "
                f"{', '.join(sim.names)}; give a recording of its own arm and camera"
            )
        steps = 60 if suite.led is None else 120
        recorded = [record_episode(sim, suite.motion, _SEED, i, steps, bundle.observation) for i in range(episodes)]
        control_dt_s = sim.control_dt_s
    last = np.full((1, len(bundle.actions.names)), np.nan, np.float32)
    lengths = np.array([len(pixels) for pixels, _, _ in recorded])
    return Episodes(
        pixels=np.concatenate([pixels for pixels, _, _ in recorded]),
        actions=np.concatenate([np.concatenate([actions, last]) for _, actions, _ in recorded]),
        proprio=np.concatenate([proprio for _, _, proprio in recorded]),
        offsets=np.cumsum(lengths) - lengths,
        lengths=lengths,
        control_dt_s=control_dt_s,
        action_names=bundle.actions.names,
        action_kinds=bundle.actions.kinds,
        action_units=bundle.actions.units,
        sha256="",
        path=f"{episodes} episodes in the simulator, made for the preflight",
    )


class _Measured:
    """The measurements with the model that the checks share."""

    def __init__(
        self, runtime: Runtime, data: Episodes, episodes: np.ndarray, rng: np.random.Generator, plan: PlanConfig
    ) -> None:
        self.plan = plan
        self.runtime, self.bundle, self.data, self.rng = runtime, runtime.bundle, data, rng
        model, spec = self.bundle.model, self.bundle.actions
        skip, history, horizon = model.frameskip, model.history, plan.horizon
        before, ahead = (history - 1) * skip, horizon * skip
        firsts = [
            data.offsets[e] + np.arange(before, data.lengths[e] - ahead)
            for e in episodes
            if data.lengths[e] > before + ahead
        ]
        starts = np.concatenate(firsts) if firsts else np.zeros(0, int)
        if len(starts) < STARTS:
            raise DataError(
                f"{data.source}: {len(starts)} frames can be planned from, {STARTS} are needed; record more episodes "
                f"of at least {before + ahead + 1} frames that the model was not trained on"
            )
        self._latents: dict[int, np.ndarray] = {}
        rows = rng.choice(data.rows(episodes), min(FRAMES, len(data.rows(episodes))), replace=False)
        self.rows = np.sort(rows)
        self.latents = np.stack([self.latent(row) for row in self.rows])  # (F, D)
        if not np.isfinite(self.latents).all():
            raise BundleError(f"the model in {self.bundle.folder} gives latents that are not finite; train it anew")
        self.std = float(self.latents.std(0).mean())
        self.rank = _effective_rank(self.latents)

        def blocks(start: int) -> np.ndarray:
            """The recorded actions (H, E) of a horizon, z-scored."""
            return spec.normalise(data.actions[start : start + ahead]).reshape(horizon, -1)

        chosen = rng.choice(starts, STARTS, replace=False)
        others = rng.choice(starts, (STARTS, CANDIDATES - 1))
        errors, changes, spread = (np.zeros(horizon) for _ in range(3))
        ranks, variations = np.zeros(STARTS), np.zeros(STARTS)
        for i, start in enumerate(chosen):
            context = np.stack([self.latent(start - skip * k) for k in range(history - 1, -1, -1)])
            past = spec.normalise(data.actions[start - before : start]).reshape(history - 1, model.block_dim)
            ends = np.stack([self.latent(start + skip * (k + 1)) for k in range(horizon)])  # (H, D)
            candidates = np.stack([blocks(start), *(blocks(other) for other in others[i])])
            distances, imagined = runtime.rollout(context, past, candidates, ends[-1])
            errors += np.square(imagined[0] - ends).mean(-1)
            changes += np.square(context[-1] - ends).mean(-1)
            spread += imagined.var(0).mean(-1)
            nearer, tied = distances[1:, -1] < distances[0, -1], np.isclose(distances[1:, -1], distances[0, -1])
            ranks[i] = np.where(tied, 0.5, nearer).mean()
            costs = mean_and_final(distances)
            variations[i] = costs.std() / max(float(costs.mean()), 1e-9)
        self.error_ratios = errors / np.maximum(changes, 1e-12)
        self.sensitivity = float(spread[-1] / max(changes[-1], 1e-12))
        self.recorded_rank = float(ranks.mean())
        self.cost_variation = float(np.median(variations))
        self.monotonicity = self._monotonicity(episodes)
        self.new_pictures, self.new_pixels = self._novelty()

    def _monotonicity(self, episodes: np.ndarray) -> float:
        """Rank correlation of the distance between two frames of an episode with the way of the joints between them, or
        with the time between them if distances are times.
        """
        data, spec, model = self.data, self.bundle.actions, self.bundle.model
        past = np.zeros((model.history - 1, model.block_dim), np.float32)
        rest = np.repeat(spec.still[None, None], self.plan.horizon, axis=1)
        distances, ways = np.zeros(PAIRS), np.zeros(PAIRS)
        for i in range(PAIRS):
            episode = self.rng.choice(episodes[data.lengths[episodes] > 1])
            first, last = np.sort(data.offsets[episode] + self.rng.choice(data.lengths[episode], 2, replace=False))
            context = np.repeat(self.latent(first)[None], model.history, axis=0)
            distances[i] = self.runtime.rollout(context, past, rest, self.latent(last))[0][0, 0]
            travelled = data.actions[first:last].sum(0) * spec.control_dt_s / spec.full_step
            ways[i] = last - first if TEMPORAL_DISTANCE in self.bundle.heads else np.linalg.norm(travelled)
        return _rank_correlation(distances, ways)

    def _novelty(self) -> tuple[float | None, float]:
        """Share of pictures that show something new (None: not known), and mean share of new pixels."""
        novelty, calibration = load_novelty(self.bundle), self.bundle.calibration
        if novelty is None or calibration is None or calibration.new_pixels is None:
            return None, 0.0
        new = [novelty.new_pixels(self.data.pixels[row]) for row in self.rows]
        together = np.array([most_together(pixels) for pixels in new])
        return float((together > SURPRISING * calibration.new_pixels).mean()), float(np.mean(new))

    def latent(self, row: int) -> np.ndarray:
        """The latent (D,) of a frame; each is encoded once."""
        if row not in self._latents:
            self._latents[row] = self.runtime.encode(self.data.pixels[row])
        return self._latents[row]


def _effective_rank(latents: np.ndarray) -> float:
    """exp of the entropy of the spectrum of the covariance of latents (N, D): D for an isotropic Gaussian, 1 for points
    on a line.
    """
    spectrum = np.maximum(np.linalg.eigvalsh(np.cov(latents.T.astype(np.float64))), 1e-12)
    shares = spectrum / spectrum.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two arrays (N,); 0 if one of them is constant."""
    if np.ptp(first) < 1e-9 or np.ptp(second) < 1e-9:
        return 0.0
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)


def _of_pictures(m: _Measured) -> Check:
    if m.new_pictures is None:
        return Check("pictures", None, MOST_NEW_PICTURES, True, "not known: the bundle is not calibrated")
    return Check(
        "pictures",
        m.new_pictures,
        MOST_NEW_PICTURES,
        m.new_pictures <= MOST_NEW_PICTURES,
        f"{m.new_pictures:.0%} of the pictures show colours that the training's recordings never had there "
        f"({m.new_pixels:.1%} of the pixels)",
    )


def _of_latents(m: _Measured) -> tuple[Check, Check]:
    dimensions = m.bundle.model.latent_dim
    least = min(LEAST_RANK, dimensions / 4)
    return (
        Check("spread", m.std, LEAST_STD, m.std >= LEAST_STD, f"the latents have a standard deviation of {m.std:.2g}"),
        Check(
            "rank",
            m.rank,
            least,
            m.rank >= least,
            f"the latents use {m.rank:.1f} of their {dimensions} dimensions",
        ),
    )


def _of_imagination(m: _Measured) -> tuple[Check, ...]:
    first, last, horizon = float(m.error_ratios[0]), float(m.error_ratios[-1]), len(m.error_ratios)
    most_rank = MOST_RANK_BY_TIME if TEMPORAL_DISTANCE in m.bundle.heads else MOST_RANK
    return (
        Check(
            "prediction, 1 block",
            first,
            MOST_ERROR_RATIO,
            first <= MOST_ERROR_RATIO,
            f"one block ahead its error is {first:.2g} of that of assuming that nothing changes",
        ),
        Check(
            f"prediction, {horizon} blocks",
            last,
            MOST_ERROR_RATIO,
            last <= MOST_ERROR_RATIO,
            f"{horizon} blocks ahead its error is {last:.2g} of that of assuming that nothing changes",
        ),
        Check(
            "action sensitivity",
            m.sensitivity,
            LEAST_SENSITIVITY,
            m.sensitivity >= LEAST_SENSITIVITY,
            f"different actions are imagined to change {m.sensitivity:.2g} of what they do change",
        ),
        Check(
            "recorded action's rank",
            m.recorded_rank,
            most_rank,
            m.recorded_rank <= most_rank,
            f"{m.recorded_rank:.1%} of random actions are imagined to end nearer to where the recorded ones ended; "
            "50 % is chance",
        ),
        Check(
            "cost variation",
            m.cost_variation,
            LEAST_COST_VARIATION,
            m.cost_variation >= LEAST_COST_VARIATION,
            f"the costs of random plans vary by {m.cost_variation:.2g} of their mean",
        ),
    )


def _of_distance(m: _Measured) -> Check:
    least = LEAST_MONOTONICITY_BY_TIME if TEMPORAL_DISTANCE in m.bundle.heads else LEAST_MONOTONICITY
    return Check(
        "goal distance",
        m.monotonicity,
        least,
        m.monotonicity >= least,
        f"the distance to a goal picture and the way to it have a rank correlation of {m.monotonicity:.2f}",
    )


def _of_latency(bundle: Bundle, plan: PlanConfig, times: dict[str, Any]) -> Check:
    """A plan is the best of the iterations within its deadline, so at least one must fit; with a policy there is only
    one.
    """
    what, least = ("a plan", "plan_ms") if POLICY in bundle.heads else ("one iteration of the search", "rollout_ms")
    least_ms, most = times["encoder_ms"]["p50"] + times[least]["p50"], 1e3 * plan.deadline_s
    found = f"a picture and {what} take {least_ms:.0f} ms of {most:.0f} ms on this machine"
    return Check("latency", least_ms, most, least_ms <= most, found)


def _reason(checks: tuple[Check, ...], m: _Measured) -> str:
    """The most likely cause of the failed checks, and what to do; "" if none failed."""
    missed = {check.name for check in checks if not check.good}
    steps = m.bundle.training.get("config", {}).get("steps")
    if not missed:
        return ""
    if missed == {"pictures"}:
        return (
            "something in the pictures is where the recordings never had it (an object, a lamp, a slightly moved "
            "camera), but the model still imagines well: move it back, or make it known with `lewm calibrate`"
        )
    if "pictures" in missed:
        return (
            "the pictures are not those of the camera that the model learned from: move the camera, the lamps and the "
            "objects back, or record and train anew"
        )
    if "spread" in missed and m.sensitivity < NO_SENSITIVITY:
        return f"the model is not trained, or hardly ({steps} steps): it imagines no change for any action"
    if {"spread", "rank"} & missed:
        return (
            "the latents have collapsed: pictures of different places look alike to the model; train with "
            "sigreg_weight above 0, or on recordings that are more varied"
        )
    if "action sensitivity" in missed or m.recorded_rank > CHANCE_RANK:
        return (
            "what the model imagines does not follow the actions: check the recording's stamps, order of joints and "
            "commands, then train anew"
        )
    if {name for name in missed if name != "latency"}:
        return "the model does not imagine well enough to plan with: train it longer, or on more recordings"
    return (
        "no plan is ready within plan.deadline_s on this machine: use fewer plan.samples, a faster back end, or a "
        "longer deadline"
    )


def save_preflight(bundle: Bundle, found: Preflight) -> Bundle:
    """Writes the verdict into the bundle's model.json; a new training removes it."""
    return update(bundle, lambda draft: replace(draft, evaluation={**draft.evaluation, "preflight": asdict(found)}))
