# SPDX-License-Identifier: Apache-2.0
"""The computations that a robot runs, as modules with the exact inputs and outputs of the exported graphs."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from lewm_model.models.lewm import LeWM
from lewm_model.models.rollout import FastRollout, folded


class EncoderGraph(nn.Module):
    """image (1, H, W, 3) uint8 RGB -> latent (1, D)."""

    def __init__(self, model: LeWM) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.encode(image.float())  # TensorRT takes a uint8 input only if a cast follows directly


class RolloutGraph(nn.Module):
    """context (h, D), candidates (S, H, E), goal (D,), past_actions (h - 1, E) -> distances (S, H + 1),
    latents (S, H, D).

    A model with history 1 has no past actions, and its graph no such input. Distances are those of the head that
    measures them (`measuring`), else the squared latent distance of the paper; column 0 is that of the newest frame.

    With `still`, the z-scored block (E,) of an arm that stands still, the model's drift is subtracted: such an arm
    stays where it is, so any change that the model imagines for it is the model's own error. Near the goal, where that
    error matters, it is nearly the same for all candidates.
    """

    still: Tensor | None

    def __init__(self, model: LeWM, head: nn.Module | None, still: Tensor | None = None) -> None:
        super().__init__()
        self.rollout, self.head = FastRollout(model), head
        self.register_buffer("still", still, persistent=False)

    def forward(
        self, context: Tensor, candidates: Tensor, goal: Tensor, past_actions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        now = context[-1:]
        if self.still is not None:
            candidates = torch.cat([self.still.expand(1, candidates.shape[1], -1), candidates])
        latents = self.rollout(context, past_actions, candidates)
        if self.still is not None:
            latents = latents[1:] - (latents[:1] - now)
        ways = torch.cat([now.expand(latents.shape[0], -1, -1), latents], 1)
        return self.distance(ways, goal), latents

    def distance(self, latents: Tensor, goal: Tensor) -> Tensor:
        """From latents (…, D) to goal (…, D), broadcast against each other -> (…)."""
        if self.head is None:
            return (latents - goal).square().sum(-1)
        return self.head(latents, goal)


class StepGraph(nn.Module):
    """contexts (S, h, D), blocks (S, E), past_actions (S, h - 1, E) -> latents (S, D) one block later.

    A model with history 1 has no past actions, and its graph no such input.
    """

    def __init__(self, model: LeWM) -> None:
        super().__init__()
        self.rollout = FastRollout(model)

    def forward(self, contexts: Tensor, blocks: Tensor, past_actions: Tensor | None = None) -> Tensor:
        past = None if past_actions is None else past_actions.transpose(0, 1)
        return self.rollout(contexts.transpose(0, 1), past, blocks.unsqueeze(1))[:, 0]


class ProposalGraph(nn.Module):
    """latent (N, D), goal (1, D), steps_to_go (N,) -> block (N, E), z-scored; N is 1 unless the head is a policy."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, latent: Tensor, goal: Tensor, steps_to_go: Tensor) -> Tensor:
        return self.head(latent, goal, steps_to_go)


def for_inference(model: LeWM) -> LeWM:
    """A copy in eval mode for the encoder's graph: its projector's BatchNorm is folded into the layer before it."""
    model = copy.deepcopy(model).eval()
    model.projector.net = folded(model.projector)
    return model


def in_half(module: nn.Module) -> nn.Module:
    """Makes `module` compute in fp16, with fp32 in and out and its LayerNorms in fp32; returns it.

    LayerNorm squares, and its eps of 1e-12 is 0 in fp16. Precision is set here and not by rewriting the ONNX graph,
    because tools that do so round to fp16 between neighbouring fp32 nodes.
    """
    module.half()
    _convert(module, torch.float16, torch.float32)
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            _convert(part.float(), torch.float32, torch.float16)
    return module


def half_encoder(model: LeWM) -> LeWM:
    """A copy for inference whose encoder blocks multiply in fp16; everything else stays in fp32.

    An error in a latent grows with every imagined step, and stem and projector are only a hundredth of the work.
    """
    model = for_inference(model)
    for block in model.encoder.blocks:
        block.half()
        for norm in (block.norm1, block.norm2):
            norm.float()
    return model


def _convert(module: nn.Module, inside: torch.dtype, outside: torch.dtype) -> None:
    def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(value.to(inside) for value in inputs)

    def after(_: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output.to(outside)

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)
