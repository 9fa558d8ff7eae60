# SPDX-License-Identifier: Apache-2.0
"""The check of numerical equivalence: a back end's outputs are compared with golden outputs that the bundle holds.

TensorRT 10.3 and 10.4 are known to compute wrong results for transformers without an error, which only a comparison on
the device itself shows. So every engine is compared after its build and whenever it is loaded, and the fp16 graphs when
they are exported.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np

from lewm_model.bundle.bundle import Bundle, BundleError
from lewm_model.models.objective import mean_and_final
from lewm_model.models.signature import POLICY, proposing

GOLDEN = "onnx/golden.safetensors"
CANDIDATES, ELITES = 300, 30  # of the golden rollout, as in the LeWM paper's search
FRAMES = 8  # sample frames, one action block apart

# Limits, wide enough for rounding in fp16.
LEAST_COSINE = 0.999  # similarity of a latent to the golden one
GREATEST_ERROR = 0.05  # of any number, in standard deviations of the golden ones
LEAST_RANK_CORRELATION = 0.99  # Spearman's, of the candidates' costs
LEAST_SHARED_ELITES = 27  # of the ELITES cheapest candidates


class Computes(Protocol):
    """The back end that is compared; methods as of `lewm_model.runtime.Runtime`."""

    def encode(self, image: np.ndarray) -> np.ndarray: ...

    def rollout(
        self, context: np.ndarray, past_actions: np.ndarray, candidates: np.ndarray, goal: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]: ...

    def propose(self, latents: np.ndarray, goal: np.ndarray, steps_to_go: np.ndarray) -> np.ndarray: ...

    def step(self, contexts: np.ndarray, past_actions: np.ndarray, blocks: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Answers:
    """A back end's outputs for the golden inputs: latents of the frames, and rollouts and proposals from these."""

    latents: np.ndarray  # (FRAMES, D)
    distances: np.ndarray  # (CANDIDATES, H + 1)
    imagined: np.ndarray  # (CANDIDATES, H, D)
    blocks: np.ndarray  # (FRAMES - 1, E) proposed from each frame towards the last; (0, E) without such a head
    stepped: np.ndarray  # (FRAMES - h + 1, D) one block after each h consecutive frames; (0, D) without a policy


@dataclass(frozen=True)
class Golden:
    """The golden inputs, and the outputs of ONNX Runtime in fp32."""

    frames: np.ndarray  # (FRAMES, H, W, 3) uint8
    past_actions: np.ndarray  # (h - 1, E)
    candidates: np.ndarray  # (CANDIDATES, H, E) z-scored
    answers: Answers

    @property
    def horizon(self) -> int:
        """Action blocks that the rollout graph imagines."""
        return int(self.candidates.shape[1])


@dataclass(frozen=True)
class Equivalence:
    """Differences of a back end from the golden outputs."""

    latent_cosine: float  # least of all frames and imagined latents
    latent_error: float  # greatest, in standard deviations of the latents
    rank_correlation: float  # Spearman's, of the candidates' costs
    shared_elites: int  # of the ELITES cheapest candidates
    block_error: float  # greatest of the proposed blocks, in z-scores; 0 without such a head

    @property
    def problem(self) -> str:
        """Why the back end must not be used; "" when it may. NaN fails every comparison, and thus the check."""
        checks = (
            (
                self.latent_cosine >= LEAST_COSINE,
                f"latents have cosine {self.latent_cosine:.4f}, at least {LEAST_COSINE} is needed",
            ),
            (
                self.latent_error <= GREATEST_ERROR,
                f"latents are off by {self.latent_error:.3g} standard deviations, {GREATEST_ERROR} is allowed",
            ),
            (
                self.rank_correlation >= LEAST_RANK_CORRELATION,
                f"costs have rank correlation {self.rank_correlation:.4f}, at least {LEAST_RANK_CORRELATION} is needed",
            ),
            (
                self.shared_elites >= LEAST_SHARED_ELITES,
                f"{self.shared_elites} of {ELITES} elites are the same, at least {LEAST_SHARED_ELITES} are needed",
            ),
            (
                self.block_error <= GREATEST_ERROR,
                f"proposed blocks are off by {self.block_error:.3g} standard deviations, {GREATEST_ERROR} is allowed",
            ),
        )
        return "; ".join(text for good, text in checks if not good)

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def golden_inputs(bundle: Bundle, horizon: int, frames: np.ndarray) -> Golden:
    """Golden inputs, still without outputs: `frames` (FRAMES, H, W, 3) uint8, and seeded random candidates with the
    same action throughout each block.
    """
    model = bundle.model
    rng = np.random.default_rng(0)

    def blocks(*lead: int) -> np.ndarray:
        actions = rng.standard_normal((*lead, 1, model.action_dim)).repeat(model.frameskip, -2)
        return actions.reshape(*lead, model.block_dim).astype(np.float32)

    nothing = Answers(*(np.zeros(0, np.float32),) * 5)
    return Golden(frames, blocks(model.history - 1), blocks(CANDIDATES, horizon), nothing)


def answer(runtime: Computes, golden: Golden, propose: bool, step: bool) -> Answers:
    """Runs a back end on the golden inputs; as on the robot, its rollouts start from its own latents.

    :param propose: whether the bundle has the graph `proposal`.
    :param step: whether the bundle has the graph `step`.
    """
    latents = np.stack([runtime.encode(frame) for frame in golden.frames])
    goal, past, history = latents[-1], golden.past_actions, len(golden.past_actions) + 1
    distances, imagined = runtime.rollout(latents[:history], past, golden.candidates, goal)
    blocks = np.zeros((0, golden.candidates.shape[2]), np.float32)
    stepped = np.zeros((0, latents.shape[1]), np.float32)
    if propose:
        steps = 5.0 * np.arange(1, len(latents), dtype=np.float32)
        ways = zip(latents[:-1, None], steps[:, None], strict=True)
        blocks = np.concatenate([runtime.propose(latent, goal, step) for latent, step in ways])
    if step:
        rows = np.arange(len(latents) - history + 1)
        contexts = latents[rows[:, None] + np.arange(history)]
        stepped = runtime.step(contexts, np.repeat(past[None], len(rows), 0), golden.candidates[rows, 0])
    return Answers(latents, distances, imagined, blocks, stepped)


def measure(runtime: Computes, golden: Golden) -> Equivalence:
    """Compares a back end with the golden answers."""
    wanted = golden.answers
    found = answer(runtime, golden, len(wanted.blocks) > 0, len(wanted.stepped) > 0)
    pairs = [(found.latents, wanted.latents), (found.imagined, wanted.imagined)]
    pairs += [(found.stepped, wanted.stepped)] * (len(wanted.stepped) > 0)
    cost, wanted_cost = mean_and_final(found.distances), mean_and_final(wanted.distances)
    elites = [set(np.argsort(c, kind="stable")[:ELITES].tolist()) for c in (cost, wanted_cost)]
    return Equivalence(
        latent_cosine=float(np.min([_cosine(a, b).min() for a, b in pairs])),
        latent_error=float(np.max([np.abs(a - b).max() / (b.std() + 1e-9) for a, b in pairs])),
        rank_correlation=_rank_correlation(cost, wanted_cost),
        shared_elites=len(elites[0] & elites[1]),
        block_error=float(np.abs(found.blocks - wanted.blocks).max(initial=0.0)),
    )


def save_golden(bundle: Bundle, golden: Golden) -> None:
    """Writes the golden file into the folder of a draft (`lewm_model.bundle.update`)."""
    from safetensors.numpy import save_file

    tensors = {"frames": golden.frames, "past_actions": golden.past_actions, "candidates": golden.candidates}
    tensors |= asdict(golden.answers)
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, bundle.folder / GOLDEN)


def load_golden(bundle: Bundle) -> Golden:
    """The golden inputs and outputs of a bundle. Raises BundleError where it has none, or of other shapes."""
    from safetensors.numpy import load_file

    path, model = bundle.path(GOLDEN), bundle.model
    try:
        tensors = load_file(path)
        frames, past_actions, candidates = (tensors.pop(name) for name in ("frames", "past_actions", "candidates"))
        tensors.setdefault("stepped", np.zeros((0, model.latent_dim), np.float32))  # of bundles without a policy
        golden = Golden(frames, past_actions, candidates, Answers(**tensors))
        count, samples, horizon = len(frames), len(candidates), golden.horizon
    except Exception as error:  # safetensors raises many kinds; KeyError, TypeError or IndexError for other arrays
        raise BundleError(f"{path} does not hold golden outputs ({type(error).__name__}: {error})") from error
    found, size, latent = golden.answers, model.image_size, model.latent_dim
    for name, array, shape in (
        ("frames", golden.frames, (count, *size, 3)),
        ("past_actions", golden.past_actions, (model.history - 1, model.block_dim)),
        ("candidates", golden.candidates, (samples, horizon, model.block_dim)),
        ("latents", found.latents, (count, latent)),
        ("distances", found.distances, (samples, horizon + 1)),
        ("imagined", found.imagined, (samples, horizon, latent)),
        ("blocks", found.blocks, (count - 1 if proposing(bundle.heads) else 0, model.block_dim)),
        ("stepped", found.stepped, (count - model.history + 1 if POLICY in bundle.heads else 0, latent)),
    ):
        if array.shape != shape or array.dtype != (np.uint8 if name == "frames" else np.float32):
            raise BundleError(f"{path} has {name} {array.shape} {array.dtype}, this bundle needs {shape}")
    return golden


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1) + 1e-12)


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation; NaN where a value is not finite or all are the same."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()) or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    from scipy.stats import spearmanr  # not at the top: only needed where engines are checked

    return float(spearmanr(a, b).statistic)
