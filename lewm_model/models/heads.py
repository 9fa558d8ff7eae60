# SPDX-License-Identifier: Apache-2.0
"""Small networks on frozen latents. Their losses send no gradient into the world model."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from lewm_model.config import ModelConfig

# Sizes and units are part of every trained network; changing one makes stored heads unusable.
CHANNELS = 32  # of the feature maps inside the decoder
POLICY_WIDTH, POLICY_SCALE = 384, 240.0  # of the policy; control steps in a unit of its input steps_to_go
TIME_WIDTH, TIME_SCALE = 256, 40.0  # of the temporal distance; control steps in a unit of its output


class DisplacementEmbedding(nn.Module):
    """Distance between latents as the length of the way, in control steps at full speed.

    A network f maps latents to R^A so that f(z') - f(z) is the sum of the actions that led from z to z', in control
    steps at full speed: path integration, learned from recorded actions and frames alone. The distance is the Euclidean
    one between f(z) and f(goal). For velocity actions, such as an arm's, it has no local minimum. Latents (…, D).
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


class ActionProposal(nn.Module):
    """Goal-conditioned inverse dynamics: the action block that leads from a latent towards a goal latent.

    The displacement between the two, spread evenly over the steps that are left, at full speed at most. The network is
    that of the displacement embedding.
    """

    scale: Tensor  # (A,) full speed in standard deviations of the actions
    shift: Tensor  # (A,) mean of the actions in standard deviations

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.frameskip = c.frameskip
        self.net = DisplacementEmbedding(c).net
        self.register_buffer("scale", torch.ones(c.action_dim))
        self.register_buffer("shift", torch.zeros(c.action_dim))

    def forward(self, latent: Tensor, goal: Tensor, steps_to_go: Tensor) -> Tensor:
        """latent (1, D), goal (1, D), steps_to_go (1,) in control steps -> z-scored block (1, frameskip * A)."""
        speed = (self.net(goal) - self.net(latent)) / steps_to_go.unsqueeze(-1)  # share of full speed
        return (speed.clamp(-1.0, 1.0) * self.scale - self.shift).repeat(1, self.frameskip)


class Decoder(nn.Module):
    """Latents to pictures, so that people can look at what is imagined; it is not used for planning.

    A latent becomes a few pixels with many channels, which convolutions enlarge by 2 several times (sub-pixel
    convolution, arXiv 1609.05158). The result is added to the background, the median of the recorded frames. What the
    latent does not hold, such as an object that never moved, is drawn as in the background.
    """

    background: Tensor  # (H, W, 3) in [0, 1]

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.size = c.image_size
        doublings = max(1, math.ceil(math.log2(min(c.image_size) / 7)))
        # Height and width of the smallest feature map; the lesser of them is 4 to 7 pixels.
        self.first = tuple(math.ceil(side / 2**doublings) for side in c.image_size)
        self.expand = nn.Sequential(
            nn.Linear(c.latent_dim, 128), nn.ReLU(), nn.Linear(128, CHANNELS * math.prod(self.first)), nn.ReLU()
        )
        layers: list[nn.Module] = []
        for before, after in pairwise([CHANNELS] * doublings + [3]):
            layers += [nn.Conv2d(before, 4 * after, 3, 1, 1), nn.PixelShuffle(2), nn.ReLU()]
        self.enlarge = nn.Sequential(*layers[:-1])
        self.register_buffer("background", torch.zeros(*c.image_size, 3))

    def forward(self, latents: Tensor) -> Tensor:
        """latents (N, D) -> pictures (N, H, W, 3) RGB, white is 1; not clipped to [0, 1]."""
        small = self.expand(latents).reshape(-1, CHANNELS, *self.first)
        large = self.enlarge(small)[:, :, : self.size[0], : self.size[1]]
        return self.background + large.permute(0, 2, 3, 1)


class ClonedPolicy(nn.Module):
    """Goal-conditioned behaviour cloning: the actions after which recordings of play reached a frame like the goal.

    For goals that need more than moving the arm's joints to a pose, such as an object to be pushed. Its actions begin
    some control steps after the frame, at the hand-over of the plan made from it (`TrainConfig.policy_delay_s`).
    """

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.net = _network((3 * c.latent_dim + 2, *3 * (POLICY_WIDTH,)), c.block_dim, nn.ReLU)

    def forward(self, latent: Tensor, goal: Tensor, steps_to_go: Tensor) -> Tensor:
        """latent (B, D), goal (B or 1, D), steps_to_go (B,) in control steps, 0 where it is not known -> z-scored
        blocks (B, frameskip * A).
        """
        goal = goal.expand_as(latent)
        steps = steps_to_go.unsqueeze(-1)
        left = [steps / POLICY_SCALE, (steps > 0).to(latent.dtype)]
        return self.net(torch.cat([latent, goal, goal - latent, *left], -1))


class TemporalDistance(nn.Module):
    """Temporal-distance value: control steps that play takes from one latent to another.

    For the same goals as `ClonedPolicy`. The larger output of two networks counts, since a search exploits the
    errors of a single one. They are trained on the square root, so that near goals weigh as much as far ones. Latents
    (…, D).
    """

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        widths = (3 * c.latent_dim, *3 * (TIME_WIDTH,))
        self.nets = nn.ModuleList(_network(widths, 1, nn.GELU) for _ in range(2))

    def roots(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Square root of the time by each network, (2, …), the time in units of TIME_SCALE control steps."""
        latents, goal = torch.broadcast_tensors(latents, goal)
        inputs = torch.cat([latents, goal, goal - latents], -1)
        return torch.stack([net(inputs)[..., 0] for net in self.nets])

    def forward(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Steps from `latents` (…, D) to `goal` (…, D), broadcast against each other -> (…)."""
        return TIME_SCALE * self.roots(latents, goal).amax(0).clamp(min=0.0).square()


def _network(widths: tuple[int, ...], outputs: int, activation: Callable[[], nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.LayerNorm(after), activation()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


HEADS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "displacement": DisplacementEmbedding,
    "proposal": ActionProposal,
    "policy": ClonedPolicy,
    "temporal_distance": TemporalDistance,
}
