"""Small networks on frozen latents. They never send a gradient into the world model: its loss stays what it is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lewm_model.config import ModelConfig


class StepsToGo(nn.Module):
    """Distance between latents in low-level control steps at full speed: how long the way is, not how unlike the pictures.

    A network f maps latents to a space where the Euclidean distance is that number. It is learned from recorded
    neighbours alone (quasimetric reinforcement learning, arXiv 2304.01203, here with a symmetric metric): frames one
    step apart are at most 1 apart, all other pairs are pushed as far apart as that allows, which makes the distance
    the length of the shortest way. Latents (…, D).
    """

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(c.latent_dim, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 32)
        )

    def forward(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Steps from `latents` (…, D) to `goal` (…, D), broadcast against each other -> (…)."""
        difference = self.net(latents) - self.net(goal)
        return (difference.square().sum(-1) + 1e-8).sqrt()


def train_steps_to_go(
    c: ModelConfig, latents: Tensor, neighbours: Tensor, steps: int, seed: int, batch: int = 1024, gap: int = 1
) -> tuple[StepsToGo, dict[str, float]]:
    """Trains the head on latents (N, D) and row pairs (M, 2) of frames that are `gap` low-level steps apart.

    Returns the head and the mean distances of neighbours (at most about `gap`) and of random pairs.
    """
    torch.manual_seed(seed)
    head = StepsToGo(c)
    optimiser = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    multiplier = torch.zeros(())  # of the constraint, by dual ascent; softplus keeps it positive
    local = far = torch.zeros(())
    for _ in range(steps):
        pair = neighbours[torch.randint(len(neighbours), (batch,))]
        f = head.net(latents[torch.cat([pair[:, 0], pair[:, 1]])])
        first, second = f[:batch], f[batch:]
        local = ((first - second).square().sum(-1) + 1e-8).sqrt()
        far = ((first - first.roll(1, 0)).square().sum(-1) + 1e-8).sqrt()
        violation = (F.relu(local - gap) / gap).square().mean()
        weight = F.softplus(multiplier)
        # Far pairs count less the farther they are, so that the middle distances, which planning uses, are stretched.
        loss = F.softplus(100.0 - far, beta=0.05).mean() + weight * violation * 100
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        multiplier += 0.01 * (violation.detach() - 0.05**2) * 100
    return head.eval(), {"neighbours": float(local.mean()), "random_pairs": float(far.mean())}


HEADS = {"steps_to_go": StepsToGo}
