# SPDX-License-Identifier: Apache-2.0
"""The trained models that ship: half precision ranks candidates as single precision does."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lewm_model.bundle.bundle import Bundle, load_bundle, load_heads, load_model
from lewm_model.config import resource
from lewm_model.models.objective import mean_and_final
from lewm_model.runtime import equivalence
from lewm_model.runtime.equivalence import Computes
from lewm_model.runtime.export import graph_modules
from lewm_model.runtime.onnx_backend import OnnxRuntime
from lewm_model.runtime.torch_backend import TorchRuntime


@pytest.fixture(scope="module", params=["reach", "push", "push-any-light"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return load_bundle(resource("models", request.param))


class TorchHalf:
    """The fp16 graphs in PyTorch, which rounds after every operation; ONNX Runtime's CPU does parts in fp32."""

    def __init__(self, bundle: Bundle) -> None:
        still = torch.from_numpy(bundle.actions.still)
        self.modules = graph_modules(load_model(bundle), load_heads(bundle), "fp16", still)

    @torch.inference_mode()
    def encode(self, image: np.ndarray) -> np.ndarray:
        return self.modules["encoder"](torch.from_numpy(image[None]))[0].numpy()

    @torch.inference_mode()
    def rollout(
        self, context: np.ndarray, past_actions: np.ndarray, candidates: np.ndarray, goal: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        inputs = (torch.from_numpy(value) for value in (context, candidates, goal))
        distances, latents = self.modules["rollout"](
            *inputs, torch.from_numpy(past_actions) if len(past_actions) else None
        )
        return distances.numpy(), latents.numpy()

    @torch.inference_mode()
    def propose(self, latents: np.ndarray, goal: np.ndarray, steps_to_go: np.ndarray) -> np.ndarray:
        inputs = (torch.from_numpy(value) for value in (latents, goal[None], steps_to_go))
        return self.modules["proposal"](*inputs).numpy()

    @torch.inference_mode()
    def step(self, contexts: np.ndarray, past_actions: np.ndarray, blocks: np.ndarray) -> np.ndarray:
        past = torch.from_numpy(past_actions) if past_actions.shape[1] else None
        return self.modules["step"](torch.from_numpy(contexts), torch.from_numpy(blocks), past).numpy()


def half(bundle: Bundle, backend: str) -> Computes:
    return OnnxRuntime(bundle, precision="fp16") if backend == "onnxruntime" else TorchHalf(bundle)


def test_its_sample_frames_are_pictures_that_differ_and_its_costs_spread(bundle: Bundle) -> None:
    golden = equivalence.load_golden(bundle)
    assert all(np.ptp(frame) > 50 for frame in golden.frames)
    assert np.abs(np.diff(golden.frames.astype(int), axis=0)).max(axis=(1, 2, 3)).min() > 20
    assert golden.answers.distances[:, -1].std() > 1.0  # control steps


def test_single_precision_matches_pytorch_on_real_frames(bundle: Bundle) -> None:
    runtime, reference, golden = OnnxRuntime(bundle), TorchRuntime(bundle), equivalence.load_golden(bundle)
    for frame in golden.frames:
        np.testing.assert_allclose(runtime.encode(frame), reference.encode(frame), rtol=0, atol=3e-5)
    assert equivalence.measure(reference, golden).problem == ""


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_half_precision_passes_the_gate_of_numerical_equivalence(bundle: Bundle, backend: str) -> None:
    assert equivalence.measure(half(bundle, backend), equivalence.load_golden(bundle)).problem == ""


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_half_precision_ranks_candidates_between_any_two_sample_frames(bundle: Bundle, backend: str) -> None:
    golden, history = equivalence.load_golden(bundle), bundle.model.history
    runtimes = (half(bundle, backend), OnnxRuntime(bundle))
    latents = [[runtime.encode(frame) for frame in golden.frames] for runtime in runtimes]
    for start in range(history - 1, len(golden.frames)):
        for goal in range(0, len(golden.frames), 3):
            costs = []
            for runtime, known in zip(runtimes, latents, strict=True):
                context = np.stack(known[start - history + 1 : start + 1])
                distances, _ = runtime.rollout(context, golden.past_actions, golden.candidates, known[goal])
                costs.append(mean_and_final(distances))
            ranks = [np.argsort(np.argsort(cost)) for cost in costs]
            elites = [set(np.argsort(cost)[:30].tolist()) for cost in costs]
            assert np.corrcoef(ranks[0], ranks[1])[0, 1] > 0.99
            assert len(elites[0] & elites[1]) >= 27


def test_a_bundle_whose_heads_have_their_former_names_loads(tmp_path: Path) -> None:
    shutil.copytree(resource("models", "reach"), tmp_path / "reach", ignore=shutil.ignore_patterns("engines"))
    description = tmp_path / "reach" / "model.json"
    description.write_text(description.read_text().replace('"displacement"', '"steps_to_go"'))
    former, present = load_bundle(tmp_path / "reach"), load_bundle(resource("models", "reach"))
    assert former.heads == present.heads and set(load_heads(former)) == set(present.heads)


@pytest.mark.parametrize(("name", "knows"), [("reach", True), ("push-any-light", True), ("push", False)])
def test_a_model_for_any_light_sees_the_same_in_half_and_in_half_again_as_much(name: str, knows: bool) -> None:
    bundle = load_bundle(resource("models", name))
    runtime, frames = OnnxRuntime(bundle), equivalence.load_golden(bundle).frames
    for strength in (0.5, 1.5):
        lit = np.clip(strength * frames.astype(float), 0, 255).astype(np.uint8)
        moved = np.array(
            [np.square(runtime.encode(a) - runtime.encode(b)).mean() for a, b in zip(frames, lit, strict=True)]
        )
        assert (moved < 0.05).all() if knows else (moved > 1.0).all(), "of a latent's variance of about 1"
