"""Small networks on frozen latents. They never send a gradient into the world model: its loss stays what it is."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lewm_model.config import ModelConfig

BATCH = 1024  # pairs of frames in an optimiser step


class StepsToGo(nn.Module):
    """Distance between latents in control steps at full speed: how long the way is, not how unlike the pictures are.

    A network f maps latents to R^A so that f(z') - f(z) is the sum of the actions that led from z to z', in steps at
    full speed: path integration, learned from the recorded actions and frames alone. The distance is the Euclidean one
    between f(z) and f(goal). It has no local minimum where the actions are velocities, as an arm's are. Latents (…, D).
    """

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(c.latent_dim, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, c.action_dim)
        )

    def forward(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Steps from `latents` (…, D) to `goal` (…, D), broadcast against each other -> (…)."""
        difference = self.net(latents) - self.net(goal)
        return (difference.square().sum(-1) + 1e-8).sqrt()


def train_steps_to_go(
    c: ModelConfig, views: Tensor, travelled: Tensor, offsets: Tensor, lengths: Tensor, steps: int, seed: int
) -> tuple[StepsToGo, dict[str, float]]:
    """Trains the head on pairs of frames of the same episode.

    `views` (V, N, D): views[0] are the encoded latents of N frames, the others what the model imagined for the same
    frames some blocks ahead; the planner measures imagined latents, so the head learns to see the same place in both.
    `travelled` (N, A): sum of the actions from the episode's start to each frame, in steps at full speed.
    `offsets` and `lengths` (E,) say which rows an episode has.

    Returns the head and its root mean square errors in steps, on encoded and on imagined latents.
    """
    torch.manual_seed(seed)
    head = StepsToGo(c)
    optimiser = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    error = torch.zeros(BATCH, c.action_dim)
    imagined = torch.zeros(BATCH, dtype=torch.bool)
    for _ in range(steps):
        episode = torch.randint(len(offsets), (BATCH,))
        here, there = (offsets[episode] + (torch.rand(BATCH) * lengths[episode]).long() for _ in range(2))
        view = torch.randint(len(views), (BATCH,))
        first, second = head.net(torch.cat([views[0, here], views[view, there]])).chunk(2)
        error = second - first - (travelled[there] - travelled[here])
        imagined = view > 0
        optimiser.zero_grad()
        F.smooth_l1_loss(error, torch.zeros_like(error)).backward()
        optimiser.step()
        schedule.step()
    squared = error.detach().square().mean(1)
    metrics = {"rms_encoded_steps": squared[~imagined].mean(), "rms_imagined_steps": squared[imagined].mean()}
    return head.eval(), {name: float(value.sqrt()) for name, value in metrics.items()}


class ActionProposal(nn.Module):
    """Goal-conditioned inverse dynamics: the action block that leads from a latent towards a goal latent.

    What path integration says lies between the two, spread evenly over the steps that are left, no faster than full
    speed. Shares what it knows with the steps-to-go head.
    """

    scale: Tensor  # (A,) full speed in standard deviations of the actions
    shift: Tensor  # (A,) mean of the actions in standard deviations

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.frameskip = c.frameskip
        self.net = StepsToGo(c).net
        self.register_buffer("scale", torch.ones(c.action_dim))
        self.register_buffer("shift", torch.zeros(c.action_dim))

    def forward(self, latent: Tensor, goal: Tensor, steps_to_go: Tensor) -> Tensor:
        """latent (1, D), goal (1, D), steps_to_go (1,) in control steps -> z-scored block (1, frameskip * A)."""
        speed = (self.net(goal) - self.net(latent)) / steps_to_go.unsqueeze(-1)  # share of full speed
        return (speed.clamp(-1.0, 1.0) * self.scale - self.shift).repeat(1, self.frameskip)


HEADS: dict[str, Callable[[ModelConfig], nn.Module]] = {"steps_to_go": StepsToGo, "proposal": ActionProposal}
