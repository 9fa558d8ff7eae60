# SPDX-License-Identifier: Apache-2.0
"""Augmentation: pictures of the same scene in another light and from another camera, drawn anew for every frame.

The latent keeps of a picture what helps to predict the next one. What is constant in a clip, such as the light, helps;
so a model that was trained in one light encodes it, and fails in another. Here each FRAME is changed by itself: the
light of one frame then does not predict the light of the next, and the latent drops it. The loss stays as it is.

Every change is computed for many pictures at once, on the device that trains. Expensive changes (noise, blur, JPEG,
camera pose) are applied to a share of the frames only. Random numbers come from torch's generators, so a training step
with the same seed gives the same pictures.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lewm_model.config import AugmentConfig

CHUNK = 64  # pictures that a CPU changes at once, so that they stay in its cache
BLOCK = 8  # pixels, side of a JPEG block (ITU T.81)
SHARED = 4  # pictures that get the same noise, since drawing it takes longer than adding it
CANDIDATES = 8  # random pixels of a picture from which the colours of the two regions to recolour are taken
# Quantisation step of JPEG at quality 50, grey levels of 255: at frequency 0, and its increase for each further one.
# A linear approximation of the example tables of ITU T.81, annex K, which rise from 16 to about 100.
FINEST, STEEPNESS = 16.0, 6.0


def changed(frames: Tensor, c: AugmentConfig) -> Tensor:
    """RGB frames (…, S, S, 3) uint8, a share `c.share` of them changed, each differently; same shape and dtype."""
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
        if count:  # the pictures are in random order, so consecutive ones are a random choice
            first = int(torch.randint(n - count + 1, ()))
            some = x[first : first + count]
            some.copy_(change(some, c))
    x = x.mul_(255.0).round_().clamp_(0.0, 255.0).to(torch.uint8)
    return pictures.index_copy(0, rows, x.permute(0, 2, 3, 1).contiguous())


# ---- changes: pictures (N, 3, S, S) in [0, 1] -> (N, 3, S, S), which may leave [0, 1]; `_changed` clips them ---------


def lit(x: Tensor, c: AugmentConfig) -> Tensor:
    """Another light: contrast, strength, tint, a shadow on one side, darker corners, offset."""
    n, side = len(x), x.shape[-1]
    strength = _uniform((n, 1, 1, 1), c.gain, x) * torch.exp(_uniform((n, 3, 1, 1), c.tint, x))
    strength = strength + 1.0
    across = torch.linspace(-1.0, 1.0, side, device=x.device)
    angle, edge = _uniform((n, 1, 1), math.pi, x), _uniform((n, 1, 1), 1.0, x)
    # A shadow has a direction, a place where it begins, and an edge: sharp, as of a nearby object, or gradual.
    along = angle.cos() * across + angle.sin() * across[:, None]
    width = torch.exp(_uniform((n, 1, 1), 1.5, x)) * 0.5
    field = 1.0 - c.shade * torch.rand((n, 1, 1), device=x.device) * torch.sigmoid((along - edge) / width)
    corners = c.vignette * torch.rand((n, 1, 1), device=x.device)
    field = field - corners * (across.square() + across.square()[:, None]) * 0.5
    contrast = 1.0 + _uniform((n, 1, 1, 1), c.contrast, x)
    grey = x.mean((1, 2, 3), keepdim=True)
    # (grey + contrast * (x - grey)) * field * strength + offset, arranged so that one pass reads the pictures
    factor = field[:, None] * (strength * contrast)
    rest = field[:, None] * (strength * (1.0 - contrast) * grey) + _uniform((n, 1, 1, 1), c.offset, x)
    return torch.addcmul(rest, x, factor)


def exposed(x: Tensor, c: AugmentConfig) -> Tensor:
    """Another gamma: how a camera, or a renderer, maps light to brightness."""
    return x.clamp(1e-4, 1.0).pow_(torch.exp(_uniform((len(x), 1, 1, 1), c.gamma, x)))


def recoloured(x: Tensor, c: AugmentConfig) -> Tensor:
    """Two regions, each of pixels of similar colour, get other colours: another table, an arm in another paint.

    The second region has the colour, of CANDIDATES random pixels, that differs most from the first one's. Two random
    pixels would both lie on the table in most pictures, since it is the largest region.
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
    """A rectangle of random colour hides a part: an irrelevant object, a hand, or dead pixels."""
    n, side = len(x), x.shape[-1]
    area = c.cover * torch.rand(n, device=x.device).square() * side**2  # squared, so that small ones are more frequent
    ratio = torch.exp(_uniform((n,), 1.0, x))
    size = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1)
    corner = (torch.rand((n, 2), device=x.device) * (side - size).clamp_min(0.0)).floor()
    at = torch.arange(side, device=x.device)
    inside = (at >= corner[:, :, None]) & (at < (corner + size)[:, :, None])  # (n, 2, side)
    mask = (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]
    return torch.where(mask, torch.rand((n, 3, 1, 1), device=x.device), x)


def moved(x: Tensor, c: AugmentConfig) -> Tensor:
    """The camera was bumped: the picture is shifted, turned and scaled."""
    n = len(x)
    angle = _uniform((n,), math.radians(c.turn_deg), x)
    scale = 1.0 + _uniform((n,), c.zoom, x)
    shift = 2.0 * _uniform((n, 2), c.shift, x)  # in affine_grid's coordinates a picture is 2 wide
    cos, sin = angle.cos() * scale, angle.sin() * scale
    matrix = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], 1).reshape(n, 2, 3)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, "bilinear", "border", align_corners=False)


def blurred(x: Tensor, c: AugmentConfig) -> Tensor:
    """Out of focus by up to `c.blur` pixels: a mix of the picture and its Gaussian blur of that width."""
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
    """Artefacts of JPEG at a low quality: colour at half the resolution, and coarsely quantised frequencies."""
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
    """Sensor noise, white, of a standard deviation up to `c.noise`; SHARED pictures have the same one."""
    drawn = torch.randn((-(-len(x) // SHARED), *x.shape[1:]), device=x.device)
    strength = c.noise * torch.rand((len(x), 1, 1, 1), device=x.device)
    return torch.addcmul(x, drawn.repeat(SHARED, 1, 1, 1)[: len(x)], strength)


# ---- helpers ---------------------------------------------------------------------------------------------------------


def _uniform(shape: tuple[int, ...], most: float, like: Tensor) -> Tensor:
    """Random numbers of `shape`, uniform in [-most, most], on the device of `like`."""
    return (2.0 * torch.rand(shape, device=like.device) - 1.0) * most


@lru_cache(maxsize=4)
def _luma_chroma(device: torch.device) -> tuple[Tensor, Tensor]:
    """JFIF's matrices from RGB to luma and chroma and back, (3, 3) each."""
    mix = torch.tensor([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
    return mix.to(device), torch.linalg.inv(mix).to(device)


@lru_cache(maxsize=4)
def _cosines(device: torch.device) -> Tensor:
    """The orthonormal DCT of a block whose values are in row order: (BLOCK ** 2, BLOCK ** 2)."""
    k = torch.arange(BLOCK, dtype=torch.float32)
    matrix = torch.cos(math.pi * (k + 0.5) * k[:, None] / BLOCK) * math.sqrt(2 / BLOCK)
    matrix[0] *= math.sqrt(0.5)
    return torch.kron(matrix, matrix).to(device)


@lru_cache(maxsize=4)
def _steps(device: torch.device) -> Tensor:
    """Quantisation steps (BLOCK ** 2,) at quality 50, grey levels of 255."""
    k = torch.arange(BLOCK, dtype=torch.float32)
    return (FINEST + STEEPNESS * (k + k[:, None])).flatten().to(device)


def _quantised(x: Tensor, step: Tensor) -> Tensor:
    """Channels (N, C, H, W) with the DCT of their blocks rounded to multiples of `step` (N, 1, BLOCK ** 2)."""
    n, channels, height, width = x.shape
    across = (n, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    blocks = x.reshape(across).transpose(3, 4).reshape(n, -1, BLOCK**2)
    dct = _cosines(x.device)
    blocks = ((blocks @ dct.T / step).round() * step) @ dct
    return blocks.reshape(n, channels, across[2], across[4], BLOCK, BLOCK).transpose(3, 4).reshape(x.shape)
