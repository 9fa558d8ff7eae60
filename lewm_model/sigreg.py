"""SIGReg: the one regulariser of LeWM, which pulls the latents towards an isotropic Gaussian (LeJEPA, LeWM).

Random directions turn the latents into one-dimensional samples; for each direction the Epps-Pulley statistic compares
the empirical characteristic function with that of N(0, 1).
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lewm_model.distributed import mean_over_ranks, ranks

KNOTS = 17  # integration points of the characteristic function
T_MAX = 3.0


class SIGReg(nn.Module):
    """Statistic of latents (T, B, D) over the batch B, averaged over directions and time steps; 0 for N(0, I).

    Under torch.distributed every rank holds a part of the batch; the characteristic function is averaged over the
    ranks (differentiably) and the directions are rank 0's, so value and gradient are those of one process that holds
    the whole batch.
    """

    t: Tensor
    phi: Tensor
    weights: Tensor

    def __init__(self, projections: int = 1024) -> None:
        super().__init__()
        self.projections = projections
        t = torch.linspace(0.0, T_MAX, KNOTS)
        trapezoid = torch.full((KNOTS,), 2 * T_MAX / (KNOTS - 1))
        trapezoid[[0, -1]] /= 2
        phi = torch.exp(-t.square() / 2)
        self.register_buffer("t", t, persistent=False)
        self.register_buffer("phi", phi, persistent=False)  # characteristic function of N(0, 1)
        self.register_buffer("weights", trapezoid * phi, persistent=False)

    def forward(self, latents: Tensor, directions: Tensor | None = None) -> Tensor:
        """The statistic of `latents` (T, B, D); `directions` (D, projections) are drawn afresh when not given."""
        if directions is None:
            directions = torch.randn(latents.shape[-1], self.projections, device=latents.device)
        if ranks() > 1:
            dist.broadcast(directions, 0)
        with torch.autocast(latents.device.type, enabled=False):  # bf16 has 8 bits
            directions = directions / directions.norm(dim=0)
            phase = (latents.float() @ directions).unsqueeze(-1) * self.t  # (T, B, projections, KNOTS)
            real, imaginary = mean_over_ranks(phase.cos().mean(1)), mean_over_ranks(phase.sin().mean(1))
            error = (real - self.phi).square() + imaginary.square()
            return (error @ self.weights).mean() * latents.shape[1] * ranks()
