"""Small networks on frozen latents. They never send a gradient into the world model: its loss stays what it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from lewm_model.config import ModelConfig

BATCH = 1024  # pairs of frames in an optimiser step
PICTURES = 32  # that the decoder draws in an optimiser step
SQUARED = 4.0  # weight of the decoder's squared error beside the absolute one, of pictures in [0, 1]
THINGS, DIFFERS = 8.0, 0.1  # additional weight of pixels that differ from the background by more than DIFFERS of [0, 1]
CHANNELS = 32  # of the pictures inside the decoder
BACKGROUND_FRAMES = 500  # whose median is the background
DELAY_STEPS = 2  # control steps from a frame to where the plan that was made from it takes over
POLICY_HORIZON = 240  # control steps to the farthest frame that is taken as a goal of what was done: longer than a push
POLICY_WIDTH, POLICY_BATCH = 384, 512
TIME_WIDTH, TIME_SCALE = 256, 40.0  # of the time-to-go head; control steps in a unit
FASTER = 0.2  # expectile of the times that play took
ELSEWHERE = 0.25  # of the goals of the time to go are frames of any episode, and count as POLICY_HORIZON steps away
LATENT_NOISE = 0.05  # standard deviations; latents of new pictures differ a little from those that were learned


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
    c: ModelConfig,
    encoded: Tensor,
    imagined: Tensor,
    travelled: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    steps: int,
    seed: int,
) -> tuple[StepsToGo, dict[str, float]]:
    """Trains the head on pairs of frames of the same episode.

    `encoded` (V, N, D) are the latents of N frames, seen once or, with the pictures changed, several times;
    `imagined` (W, N, D) are what the model imagined for the same frames some blocks ahead. The planner measures
    imagined latents, so the head learns to see the same place in all of them.
    `travelled` (N, A): sum of the actions from the episode's start to each frame, in steps at full speed.
    `offsets` and `lengths` (E,) say which rows an episode has.

    Returns the head and its root mean square errors in steps, on encoded and on imagined latents.
    """
    torch.manual_seed(seed)
    head = StepsToGo(c)
    optimiser = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    error = torch.zeros(BATCH, c.action_dim)
    guessed = torch.zeros(BATCH, dtype=torch.bool)
    views = torch.cat([encoded, imagined])
    for _ in range(steps):
        episode = torch.randint(len(offsets), (BATCH,))
        here, there = (offsets[episode] + (torch.rand(BATCH) * lengths[episode]).long() for _ in range(2))
        first_view, view = torch.randint(len(encoded), (BATCH,)), torch.randint(len(views), (BATCH,))
        first, second = head.net(torch.cat([views[first_view, here], views[view, there]])).chunk(2)
        error = second - first - (travelled[there] - travelled[here])
        guessed = view >= len(encoded)
        optimiser.zero_grad()
        F.smooth_l1_loss(error, torch.zeros_like(error)).backward()
        optimiser.step()
        schedule.step()
    squared = error.detach().square().mean(1)
    metrics = {"rms_encoded_steps": squared[~guessed].mean(), "rms_imagined_steps": squared[guessed].mean()}
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


class Decoder(nn.Module):
    """Latents to pictures, so that people can look at what is imagined; nothing is planned with it.

    A latent becomes a few pixels with many channels, which convolutions turn into pictures of twice the side again and
    again (sub-pixel convolution, arXiv 1609.05158), and that is what is added to the background: the median of the
    recorded frames. What the latent does not hold, a block that never moved, say, is not in the picture.
    """

    background: Tensor  # (S, S, 3) in [0, 1]

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.side = c.image_size
        doublings = max(1, math.ceil(math.log2(c.image_size / 7)))
        self.first = math.ceil(c.image_size / 2**doublings)  # side of the smallest picture, 4 to 7 pixels
        self.expand = nn.Sequential(
            nn.Linear(c.latent_dim, 128), nn.ReLU(), nn.Linear(128, CHANNELS * self.first**2), nn.ReLU()
        )
        layers: list[nn.Module] = []
        for before, after in pairwise([CHANNELS] * doublings + [3]):
            layers += [nn.Conv2d(before, 4 * after, 3, 1, 1), nn.PixelShuffle(2), nn.ReLU()]
        self.enlarge = nn.Sequential(*layers[:-1])
        self.register_buffer("background", torch.zeros(c.image_size, c.image_size, 3))

    def forward(self, latents: Tensor) -> Tensor:
        """latents (N, D) -> pictures (N, S, S, 3), RGB; [0, 1] but for what an untrained network does."""
        small = self.expand(latents).reshape(-1, CHANNELS, self.first, self.first)
        large = self.enlarge(small)[:, :, : self.side, : self.side]
        return self.background + large.permute(0, 2, 3, 1)


def train_decoder(
    c: ModelConfig, views: Tensor, pixels: Callable[[np.ndarray], np.ndarray], steps: int, seed: int
) -> Decoder:
    """Trains a decoder on frozen latents.

    The absolute error keeps edges sharp, the squared error pulls the arm out of the background at the start. Pixels of
    things weigh more than those of the background: a block of a few pixels, whose place is known to a pixel, would be
    left out else.

    `views` (V, N, D) as for `train_steps_to_go`, so that it draws what is imagined as well as what is seen;
    `pixels` gives the frames (…, S, S, 3) uint8 of some of the N numbers: not all of them need be in memory.
    """
    torch.manual_seed(seed)
    decoder = Decoder(c)
    frames = views.shape[1]
    some = torch.from_numpy(pixels(torch.randperm(frames)[:BACKGROUND_FRAMES].numpy()))
    decoder.background.copy_(some.float().median(0).values / 255)
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, steps, pct_start=0.1)
    for _ in tqdm(range(steps), "decoder", unit="step", mininterval=2):
        row, view = torch.randint(frames, (PICTURES,)), torch.randint(len(views), (PICTURES,))
        wanted = torch.from_numpy(pixels(row.numpy())).float() / 255
        error = (decoder(views[view, row]) - wanted).abs()
        things = (wanted - decoder.background).abs().amax(-1, keepdim=True) > DIFFERS
        loss = ((1.0 + THINGS * things) * (error + SQUARED * error.square())).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return decoder.eval()


class PlayPolicy(nn.Module):
    """Goal-conditioned inverse dynamics of play: what the player did next, before a picture like the goal came.

    For goals that the arm's own way does not lead to, as a thing that has to be pushed. Its actions begin DELAY_STEPS
    after the frame, where a plan takes over.
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
        left = [steps / POLICY_HORIZON, (steps > 0).to(latent.dtype)]
        return self.net(torch.cat([latent, goal, goal - latent, *left], -1))


def train_play_policy(
    c: ModelConfig,
    latents: Tensor,
    actions: Tensor,
    resting: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    steps: int,
    seed: int,
) -> tuple[PlayPolicy, dict[str, float]]:
    """Trains the policy by hindsight: any later frame of an episode is the goal of what was done until then.

    `latents` (N, D) of N frames, `actions` (N, A) z-scored, `resting` (N,) bool where the arm rests, `offsets` and
    `lengths` (E,) say which rows an episode has. Blocks in which the arm rests are left out: a policy that has learned
    to rest does so wherever it is in doubt, and resting at the goal is the controller's part. Half of the batch is not
    told how many steps were left. Returns the policy and the mean loss of its blocks, in z-scores, over the last tenth
    of the steps.
    """
    torch.manual_seed(seed)
    policy = PlayPolicy(c)
    nearest = DELAY_STEPS + c.frameskip  # of the frames that can be a goal
    within = torch.arange(DELAY_STEPS, nearest)
    last = _last_rows(len(latents), offsets, lengths, nearest + 1)
    starts = torch.nonzero(last >= 0)[:, 0]
    starts = starts[~resting[starts[:, None] + within].all(1)]

    def draw() -> Tensor:
        here = starts[torch.randint(len(starts), (POLICY_BATCH,))]
        farthest = torch.clamp(last[here] - here, max=POLICY_HORIZON)
        ahead = nearest + (torch.rand(POLICY_BATCH) * (farthest - nearest + 1)).long()
        known = torch.rand(POLICY_BATCH) < 0.5
        latent, goal = (z + LATENT_NOISE * torch.randn_like(z) for z in (latents[here], latents[here + ahead]))
        done = actions[here[:, None] + within].flatten(1)
        return F.smooth_l1_loss(policy(latent, goal, known * ahead.float()), done)

    loss = _fit(policy, steps, draw)
    return policy.eval(), {"loss": loss}


class TimeToGo(nn.Module):
    """How many control steps play takes from one latent to another, for goals that the arm's own way does not lead to.

    Two networks, of which the longer time counts: a search finds what one of them errs about. They learn the square
    root, in which near goals matter as far ones do. Latents (…, D).
    """

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        widths = (3 * c.latent_dim, *3 * (TIME_WIDTH,))
        self.nets = nn.ModuleList(_network(widths, 1, nn.GELU) for _ in range(2))

    def roots(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Square roots of the times, (2, …): what each network says, in units of TIME_SCALE control steps."""
        latents, goal = torch.broadcast_tensors(latents, goal)
        inputs = torch.cat([latents, goal, goal - latents], -1)
        return torch.stack([net(inputs)[..., 0] for net in self.nets])

    def forward(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Steps from `latents` (…, D) to `goal` (…, D), broadcast against each other -> (…)."""
        return TIME_SCALE * self.roots(latents, goal).amax(0).clamp(min=0.0).square()


def train_time_to_go(
    c: ModelConfig, latents: Tensor, offsets: Tensor, lengths: Tensor, steps: int, seed: int
) -> tuple[TimeToGo, dict[str, float]]:
    """Trains the head by hindsight: from each frame to any later one of its episode it took as long as it took.

    Play dawdles, so the times are an expectile below the mean: what was faster weighs more. A share of the goals is of
    any episode and counts as farther than all others: what lies out of reach is the goal of no play, and a search would
    take it for near. Arguments are those of `train_play_policy`. Returns the head and the mean loss of the last tenth
    of the steps.
    """
    torch.manual_seed(seed)
    head = TimeToGo(c)
    last = _last_rows(len(latents), offsets, lengths, 1)
    starts = torch.nonzero(last >= 0)[:, 0]

    def draw() -> Tensor:
        here = starts[torch.randint(len(starts), (BATCH,))]
        farthest = torch.clamp(last[here] - here, max=POLICY_HORIZON)
        ahead = (torch.rand(BATCH) * (farthest + 1)).long()
        elsewhere = torch.rand(BATCH) < ELSEWHERE
        there = torch.where(elsewhere, starts[torch.randint(len(starts), (BATCH,))], here + ahead)
        ahead = torch.where(elsewhere, POLICY_HORIZON, ahead)
        latent, goal = (z + LATENT_NOISE * torch.randn_like(z) for z in (latents[here], latents[there]))
        error = (ahead / TIME_SCALE).sqrt() - head.roots(latent, goal)
        return (torch.where(error < 0, 1.0 - FASTER, FASTER) * error.square()).mean()

    loss = _fit(head, steps, draw)
    return head.eval(), {"loss": loss}


def _network(widths: tuple[int, ...], outputs: int, activation: Callable[[], nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.LayerNorm(after), activation()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


def _fit(head: nn.Module, steps: int, draw: Callable[[], Tensor]) -> float:
    """Trains `head` by `steps` losses that `draw` computes of a new batch each; their mean over the last tenth."""
    optimiser = torch.optim.AdamW(head.parameters(), lr=1.5e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    mean, counted = torch.zeros(()), max(1, steps // 10)
    for step in range(steps):
        loss = draw()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step >= steps - counted:
            mean += loss.detach() / counted
    return float(mean)


def _last_rows(rows: int, offsets: Tensor, lengths: Tensor, nearest: int) -> Tensor:
    """(rows,): the row of its episode's last frame for each row with at least `nearest` rows after it, else -1."""
    last = torch.full((rows,), -1)
    for offset, length in zip(offsets.tolist(), lengths.tolist(), strict=True):
        last[offset : offset + length - nearest] = offset + length - 1
    return last


HEADS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "steps_to_go": StepsToGo,
    "proposal": ActionProposal,
    "policy": PlayPolicy,
    "time_to_go": TimeToGo,
}
