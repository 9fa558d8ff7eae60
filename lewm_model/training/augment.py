# SPDX-License-Identifier: Apache-2.0
"""Changed pictures: the same scene in another light and from another camera, drawn anew for every frame.

A world model keeps of a picture what helps to predict the next one. What lasts for a clip, as the light does, helps; so
a model that has only ever seen one light holds on to it, and is lost in another. Here each FRAME is changed by itself:
the light of a frame then says nothing about the light of the next one, and the latent drops it. The two terms of the
loss stay what they are.

Everything is computed for the whole batch at once, on the device that trains. Dear changes (noise, blur, JPEG, the
camera's pose) are made to a share of the frames only. Random numbers come from torch's generators, so that a step that
is seeded gives the same pictures again.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lewm_model.config import AugmentConfig

CHUNK = 64  # pictures that a CPU changes at once: its cache holds them
BLOCK = 8  # pixels of a JPEG block's side
SHARED = 4  # pictures that share one drawing of noise
CANDIDATES = 8  # pixels among which the two regions of another colour are looked for
# JPEG's example tables (ITU T.81, annex K) rise from 16 to about 100 over the frequencies; this is their rough course.
FINEST, STEEPNESS = 16.0, 6.0


def changed(frames: Tensor, c: AugmentConfig) -> Tensor:
    """uint8 RGB frames (…, S, S, 3), a share `c.share` of them changed, each in its own way; same shape and type."""
    if c.share == 0.0:
        return frames
    pictures = frames.reshape(-1, *frames.shape[-3:])
    at_once = len(pictures) if frames.is_cuda else CHUNK
    return torch.cat([_changed(part, c) for part in pictures.split(at_once)]).reshape(frames.shape)


def _changed(pictures: Tensor, c: AugmentConfig) -> Tensor:
    n = round(c.share * len(pictures))
    rows = torch.randperm(len(pictures), device=pictures.device)[:n]
    x = pictures.index_select(0, rows).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    x.mul_(1.0 / 255.0)
    for change, share in (
        (moved, c.moved_share),
        (recoloured, c.recoloured_share),
        (covered, c.covered_share),
        (lit, 1.0),
        (exposed, c.exposed_share),
        (blurred, c.blurred_share),
        (compressed, c.compressed_share),
        (noisy, c.noisy_share),
    ):
        count = round(share * n)
        if count:  # the order is random, so neighbours are as good a choice as any
            first = int(torch.randint(n - count + 1, ()))
            some = x[first : first + count]
            some.copy_(change(some, c))
    x = x.mul_(255.0).round_().clamp_(0.0, 255.0).to(torch.uint8)
    return pictures.index_copy(0, rows, x.permute(0, 2, 3, 1).contiguous())


# ---- changes: pictures (N, 3, S, S) in [0, 1] -> the same; what leaves [0, 1] is cut at the end ----------------------


def lit(x: Tensor, c: AugmentConfig) -> Tensor:
    """Another light: contrast, strength, tint, a shade across, darker corners, offset."""
    n, side = len(x), x.shape[-1]
    strength = _uniform((n, 1, 1, 1), c.gain, x) * torch.exp(_uniform((n, 3, 1, 1), c.tint, x))
    strength = strength + 1.0
    across = torch.linspace(-1.0, 1.0, side, device=x.device)
    angle, edge = _uniform((n, 1, 1), math.pi, x), _uniform((n, 1, 1), 1.0, x)
    # A shade has a direction, a place where it begins and an edge: hard as that of a thing nearby, or a slow fall.
    along = angle.cos() * across + angle.sin() * across[:, None]
    width = torch.exp(_uniform((n, 1, 1), 1.5, x)) * 0.5
    field = 1.0 - c.shade * torch.rand((n, 1, 1), device=x.device) * torch.sigmoid((along - edge) / width)
    corners = c.vignette * torch.rand((n, 1, 1), device=x.device)
    field = field - corners * (across.square() + across.square()[:, None]) * 0.5
    contrast = 1.0 + _uniform((n, 1, 1, 1), c.contrast, x)
    grey = x.mean((1, 2, 3), keepdim=True)
    # (grey + contrast * (x - grey)) * field * strength + offset, in three passes over the pictures
    factor = field[:, None] * (strength * contrast)
    rest = field[:, None] * (strength * (1.0 - contrast) * grey) + _uniform((n, 1, 1, 1), c.offset, x)
    return torch.addcmul(rest, x, factor)


def exposed(x: Tensor, c: AugmentConfig) -> Tensor:
    """Another gamma: what a camera, or a renderer, makes of the light."""
    return x.clamp(1e-4, 1.0).pow_(torch.exp(_uniform((len(x), 1, 1, 1), c.gamma, x)))


def recoloured(x: Tensor, c: AugmentConfig) -> Tensor:
    """Two regions of like colour get other colours: another table, an arm that is painted otherwise.

    The second region is the one that differs most from the first of some pixels, so that not only the table is painted.
    """
    n = len(x)
    where = torch.randint(x.shape[-1] ** 2, (n, 1, CANDIDATES), device=x.device).expand(-1, 3, -1)
    found = x.flatten(2).gather(2, where)  # (n, 3, CANDIDATES)
    other = (found - found[:, :, :1]).square().sum(1).argmax(1)
    seeds = torch.stack([found[:, :, 0], found[torch.arange(n, device=x.device), :, other]], 1)  # (n, 2, 3)
    shifts = _uniform((n, 2, 3), c.hue, x)
    result = x.clone()
    for i in range(2):
        apart = (x - seeds[:, i, :, None, None]).square().sum(1, keepdim=True)
        result += torch.exp(-apart / (2.0 * c.region**2)) * shifts[:, i, :, None, None]
    return result


def covered(x: Tensor, c: AugmentConfig) -> Tensor:
    """A rectangle of any colour lies somewhere: a thing that does not matter, a hand, or dead pixels."""
    n, side = len(x), x.shape[-1]
    area = c.cover * torch.rand(n, device=x.device).square() * side**2  # small ones are more frequent
    ratio = torch.exp(_uniform((n,), 1.0, x))
    size = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1)
    corner = (torch.rand((n, 2), device=x.device) * (side - size).clamp_min(0.0)).floor()
    at = torch.arange(side, device=x.device)
    inside = (at >= corner[:, :, None]) & (at < (corner + size)[:, :, None])  # (n, 2, side)
    mask = (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]
    return torch.where(mask, torch.rand((n, 3, 1, 1), device=x.device), x)


def moved(x: Tensor, c: AugmentConfig) -> Tensor:
    """The camera was bumped: shifted, turned and a little nearer or farther."""
    n = len(x)
    angle = _uniform((n,), math.radians(c.turn_deg), x)
    scale = 1.0 + _uniform((n,), c.zoom, x)
    shift = 2.0 * _uniform((n, 2), c.shift, x)  # the picture is 2 wide
    cos, sin = angle.cos() * scale, angle.sin() * scale
    matrix = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], 1).reshape(n, 2, 3)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, "bilinear", "border", align_corners=False)


def blurred(x: Tensor, c: AugmentConfig) -> Tensor:
    """Out of focus by up to `c.blur` pixels: a share of the Gaussian picture of that width."""
    radius = max(1, math.ceil(2 * c.blur))
    at = torch.arange(-radius, radius + 1, device=x.device)
    kernel = torch.exp(-0.5 * (at / max(c.blur, 1e-3)) ** 2)
    kernel = (kernel / kernel.sum()).tolist()
    soft = F.pad(x, (radius,) * 4, "replicate")
    for axis, side in (
        (2, x.shape[2]),
        (3, x.shape[3]),
    ):  # a few shifted pictures are quicker to add than a convolution
        soft = torch.stack([k * soft.narrow(axis, i, side) for i, k in enumerate(kernel)]).sum(0)
    return torch.lerp(x, soft, torch.rand((len(x), 1, 1, 1), device=x.device))


def compressed(x: Tensor, c: AugmentConfig) -> Tensor:
    """What JPEG of a low quality does: colour at half the size, and each block's frequencies in coarse steps."""
    n, side = len(x), x.shape[-1]
    padding = -side % (2 * BLOCK)
    padded = F.pad(x, (0, padding, 0, padding), "replicate") * 255.0
    mix, back = _luma_chroma(x.device)
    ycc = (mix @ padded.flatten(2)).view(padded.shape)
    step = (c.jpeg * torch.rand((n, 1, 1), device=x.device)).clamp_min(0.01) * _steps(x.device)
    luma = _quantised(ycc[:, :1], step)
    chroma = F.interpolate(_quantised(F.avg_pool2d(ycc[:, 1:], 2), step), scale_factor=2, mode="nearest")
    rgb = (back @ torch.cat([luma, chroma], 1).flatten(2)).view(padded.shape)
    return rgb[:, :, :side, :side] / 255.0


def noisy(x: Tensor, c: AugmentConfig) -> Tensor:
    """The sensor's noise in single pixels, up to `c.noise`; a few pictures share theirs, for it is dear to draw."""
    drawn = torch.randn((-(-len(x) // SHARED), *x.shape[1:]), device=x.device)
    strength = c.noise * torch.rand((len(x), 1, 1, 1), device=x.device)
    return torch.addcmul(x, drawn.repeat(SHARED, 1, 1, 1)[: len(x)], strength)


# ---- parts -----------------------------------------------------------------------------------------------------------


def _uniform(shape: tuple[int, ...], most: float, like: Tensor) -> Tensor:
    """Uniform in [-most, most]."""
    return (2.0 * torch.rand(shape, device=like.device) - 1.0) * most


@lru_cache(maxsize=4)
def _luma_chroma(device: torch.device) -> tuple[Tensor, Tensor]:
    """From red, green and blue, and back: (3, 3) each."""
    mix = torch.tensor([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
    return mix.to(device), torch.linalg.inv(mix).to(device)


@lru_cache(maxsize=4)
def _cosines(device: torch.device) -> Tensor:
    """The orthonormal DCT of a block's values, row by row: (BLOCK ** 2, BLOCK ** 2)."""
    k = torch.arange(BLOCK, dtype=torch.float32)
    matrix = torch.cos(math.pi * (k + 0.5) * k[:, None] / BLOCK) * math.sqrt(2 / BLOCK)
    matrix[0] *= math.sqrt(0.5)
    return torch.kron(matrix, matrix).to(device)


@lru_cache(maxsize=4)
def _steps(device: torch.device) -> Tensor:
    """Quantisation steps (BLOCK ** 2,) at quality 50, grey levels."""
    k = torch.arange(BLOCK, dtype=torch.float32)
    return (FINEST + STEEPNESS * (k + k[:, None])).flatten().to(device)


def _quantised(x: Tensor, step: Tensor) -> Tensor:
    """Channels (N, C, H, W) after the DCT of their blocks was rounded to multiples of step (N, 1, BLOCK ** 2)."""
    n, channels, height, width = x.shape
    across = (n, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    blocks = x.reshape(across).transpose(3, 4).reshape(n, -1, BLOCK**2)
    dct = _cosines(x.device)
    blocks = ((blocks @ dct.T / step).round() * step) @ dct
    return blocks.reshape(n, channels, across[2], across[4], BLOCK, BLOCK).transpose(3, 4).reshape(x.shape)
