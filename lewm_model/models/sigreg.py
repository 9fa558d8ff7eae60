# SPDX-License-Identifier: Apache-2.0
"""SIGReg: the one regulariser of LeWM, which pulls the latents towards an isotropic Gaussian (LeJEPA, LeWM).

Random directions turn the latents into one-dimensional samples; for each direction the Epps-Pulley statistic compares
the empirical characteristic function with that of N(0, 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lewm_model.models.distributed import mean_over_ranks, ranks

KNOTS, T_MAX = 17, 3.0  # of the integral over the characteristic function: points, evenly spaced in [0, T_MAX]
STEP = T_MAX / (KNOTS - 1)  # between two of them


class _CharacteristicFunction(torch.autograd.Function):
    """Samples x (T, B, P) -> means over B of cos(t x) and sin(t x) at the knots t, each (T, P, KNOTS).

    The knots are multiples of STEP, so all of them follow from powers of one complex number: a sixth of the
    trigonometric functions, and no tensor of the size (T, B, P, KNOTS) in memory.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        angle = x * STEP
        ctx.save_for_backward(angle)
        real, imaginary = x.new_empty(x.shape[0], KNOTS, x.shape[2]), x.new_empty(x.shape[0], KNOTS, x.shape[2])
        for k, c, s in _powers(angle):
            torch.mean(c, 1, out=real[:, k])
            torch.mean(s, 1, out=imaginary[:, k])
        return real.transpose(1, 2), imaginary.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (angle,) = ctx.saved_tensors
        t = torch.arange(KNOTS, device=angle.device) * (STEP / angle.shape[1])
        real, imaginary = (gradient.mul(t).transpose(1, 2).unsqueeze(2) for gradient in gradients)  # (T, KNOTS, 1, P)
        out = torch.zeros_like(angle)
        for k, c, s in _powers(angle):
            out.addcmul_(c, imaginary[:, k]).addcmul_(s, real[:, k], value=-1)
        return out


def _powers(angle: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(k, cos(k angle), sin(k angle)) for each knot."""
    step_c, step_s = angle.cos(), angle.sin()
    c, s = torch.ones_like(angle), torch.zeros_like(angle)
    for k in range(KNOTS):
        if k and k % 6 == 0:  # computed directly again, before rounding errors add up
            c, s = (angle * k).cos(), (angle * k).sin()
        elif k > 1:
            c, s = (c * step_c).addcmul_(s, step_s, value=-1), (s * step_c).addcmul_(c, step_s)
        elif k == 1:
            c, s = step_c, step_s
        yield k, c, s


class SIGReg(nn.Module):
    """Statistic of latents (T, B, D) over the batch B, averaged over directions and time steps; 0 for N(0, I).

    Under torch.distributed every rank holds a part of the batch; the characteristic function is averaged over the
    ranks (differentiably) and the directions are rank 0's, so value and gradient are those of one process that holds
    the whole batch.
    """

    phi: Tensor
    weights: Tensor

    def __init__(self, projections: int = 1024) -> None:
        super().__init__()
        self.projections = projections
        t = torch.linspace(0.0, T_MAX, KNOTS)
        trapezoid = torch.full((KNOTS,), 2 * STEP)
        trapezoid[[0, -1]] /= 2
        phi = torch.exp(-t.square() / 2)
        self.register_buffer("phi", phi, persistent=False)  # characteristic function of N(0, 1)
        self.register_buffer("weights", trapezoid * phi, persistent=False)

    def forward(self, latents: Tensor, directions: Tensor | None = None) -> Tensor:
        """The statistic of `latents` (T, B, D); `directions` (D, projections) are drawn afresh when not given."""
        if directions is None:
            directions = torch.randn(latents.shape[-1], self.projections, device=latents.device)
        if ranks() > 1:
            dist.broadcast(directions, 0)
        with torch.autocast(latents.device.type, enabled=False):  # the 8 bits of bf16 are too few here
            directions = directions / directions.norm(dim=0)
            real, imaginary = _CharacteristicFunction.apply(latents.float() @ directions)  # (T, projections, KNOTS)
            real, imaginary = mean_over_ranks(real), mean_over_ranks(imaginary)
            error = (real - self.phi).square() + imaginary.square()
            return (error @ self.weights).mean() * latents.shape[1] * ranks()
