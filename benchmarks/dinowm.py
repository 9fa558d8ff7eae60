# SPDX-License-Identifier: Apache-2.0
"""A predictor of the size of DINO-WM's (arXiv 2411.04983): what planning costs when a frame is 196 tokens, not one.

Random weights, since only the time matters. Patch features of a DINOv2 ViT-S/14 at 196 x 196 pixels, 384 numbers each,
with 10 numbers of the action and 10 of proprioception beside them in every token; a ViT of depth 6, 16 heads of 64,
MLP 2048, over up to 3 frames, in which a token sees its own and earlier frames.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TOKENS, FEATURES, BESIDE = 196, 384, 20
DEPTH, HEADS, HEAD_DIM, MLP, FRAMES = 6, 16, 64, 2048, 3


class Block(nn.Module):
    """Pre-norm transformer block. (B, N, W) -> (B, N, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * HEADS * HEAD_DIM, bias=False)
        self.out = nn.Linear(HEADS * HEAD_DIM, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, MLP), nn.GELU(), nn.Linear(MLP, width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, HEADS, HEAD_DIM)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))
        return x + self.mlp(x)


class DinoWMShape(nn.Module):
    """Predicts frames of patch tokens, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        width = FEATURES + BESIDE
        self.position = nn.Parameter(torch.randn(1, FRAMES * TOKENS, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(width)
        frame = torch.arange(FRAMES * TOKENS) // TOKENS
        self.register_buffer("mask", frame[:, None] >= frame)

    mask: Tensor

    def rollout(self, frame: Tensor, beside: Tensor) -> Tensor:
        """frame (TOKENS, FEATURES), embedded actions and proprioception (S, H, BESIDE) -> the last predicted
        frame (S, TOKENS, FEATURES).
        """
        samples, horizon, _ = beside.shape
        frames = [frame.expand(samples, -1, -1)]
        for step in range(horizon):
            start = max(0, step + 1 - FRAMES)
            window = [
                torch.cat([frames[i], beside[:, i, None].expand(-1, TOKENS, -1)], -1) for i in range(start, step + 1)
            ]
            x = torch.cat(window, 1)
            n = x.shape[1]
            x = x + self.position[:, :n]
            for block in self.blocks:
                x = block(x, self.mask[:n, :n])
            frames.append(self.norm(x)[:, -TOKENS:, :FEATURES])
        return frames[-1]
