"""The two computations that a robot runs, as modules with the exact inputs and outputs of the exported graphs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lewm_model.heads import StepsToGo
from lewm_model.model import LeWM


class EncoderGraph(nn.Module):
    """image (1, S, S, 3) uint8 RGB -> latent (1, D)."""

    def __init__(self, model: LeWM) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.encode(image)


class RolloutGraph(nn.Module):
    """context (h, D), candidates (S, H, E), goal (D,), past_actions (h - 1, E) -> distances (S, H + 1), latents (S, H, D).

    A model with history 1 has no past actions, and its graph no such input. Distances are those of the steps-to-go head
    where there is one, else the squared latent distance of the paper; column 0 is that of the newest frame.
    """

    def __init__(self, model: LeWM, head: StepsToGo | None) -> None:
        super().__init__()
        self.model, self.head = model, head

    def forward(
        self, context: Tensor, candidates: Tensor, goal: Tensor, past_actions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        samples = candidates.shape[0]
        past = candidates[:, :0] if past_actions is None else past_actions.expand(samples, -1, -1)
        latents = self.model.rollout(context.expand(samples, -1, -1), past, candidates)
        ways = torch.cat([context[-1:].expand(samples, -1, -1), latents], 1)
        if self.head is None:
            return (ways - goal).square().sum(-1), latents
        return self.head(ways, goal), latents
