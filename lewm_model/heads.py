"""Small networks on frozen latents. They never send a gradient into the world model: its loss stays what it is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lewm_model.config import ModelConfig

SLACK = 0.05  # steps by which neighbours may be too far apart, root mean square
SAME_WEIGHT = 2.0  # of the distance between views of the same frame


class StepsToGo(nn.Module):
    """Distance between latents in control steps at full speed: how long the way is, not how unlike the pictures are.

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
    c: ModelConfig, views: Tensor, neighbours: Tensor, steps: int, seed: int, batch: int = 1024
) -> tuple[StepsToGo, dict[str, float]]:
    """Trains the head on `views` (V, N, D) and row pairs `neighbours` (M, 2) of frames one low-level step apart.

    views[0] are the encoded latents of N frames, the others what the model imagined for the same frames some blocks
    ahead: the planner measures imagined latents, so the head learns to see the same place in both.

    Returns the head and the mean distances of neighbours (at most about 1), random pairs, and views of one frame.
    """
    torch.manual_seed(seed)
    head = StepsToGo(c)
    optimiser = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    multiplier = torch.zeros(())  # of the constraint, by dual ascent; softplus keeps it positive
    local = far = same = torch.zeros(())
    for _ in range(steps):
        here, there = neighbours[torch.randint(len(neighbours), (batch,))].unbind(1)
        imagined = views[torch.randint(len(views), (batch,)), here]
        first, second, third = head.net(torch.cat([views[0, here], views[0, there], imagined])).chunk(3)
        local = ((first - second).square().sum(-1) + 1e-8).sqrt()
        far = ((first - third.roll(1, 0)).square().sum(-1) + 1e-8).sqrt()
        same = (first - third).square().sum(-1)
        violation = F.relu(local - 1.0).square().mean()
        # Far pairs count less the farther they are, so that the middle distances, which planning uses, are stretched.
        loss = F.softplus(100.0 - far, beta=0.05).mean() + 100.0 * F.softplus(multiplier) * violation
        loss = loss + SAME_WEIGHT * same.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        multiplier += violation.detach() - SLACK**2
    metrics = {"neighbours": local.mean(), "random_pairs": far.mean(), "imagined": same.sqrt().mean()}
    return head.eval(), {name: float(value.detach()) for name, value in metrics.items()}


HEADS = {"steps_to_go": StepsToGo}
