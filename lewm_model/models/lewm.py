# SPDX-License-Identifier: Apache-2.0
"""LeWM (arXiv 2603.19312): the whole network, in the order in which data passes through it.

    frames (B, T, H, W, 3) uint8 -> normalise -> Encoder (ViT, CLS token) -> projector -> latents (B, T, D)
    action blocks (B, T, frameskip * A), z-scored -> ActionEncoder -> (B, T, W)
    latents + action embeddings -> Predictor (causal transformer, AdaLN-zero) -> pred_proj -> next latents (B, T, D)

Names of the parameters outside the encoder are those of the reference code, so that checkpoints can be exchanged.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lewm_model.config import ModelConfig
from lewm_model.models.distributed import BatchNorm

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of red, green and blue in [0, 1]
FEW_TOKENS = 64  # up to which attention in fp32 is quicker on a CPU where it is written out
LEAST_SPREAD = 4.0  # grey levels of 255, added in quadrature: the noise of a picture of one colour is not amplified


def mlp_activation(name: str) -> nn.Module:
    return {"gelu": nn.GELU, "relu": nn.ReLU}[name]()


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Full attention of (B, heads, N, W) each -> (B, heads, N, W).

    In training on a CPU it is written out: forwards and backwards PyTorch's fused function takes 3 to 8 times as long
    in bf16, and 1.5 times in fp32 where there are few tokens. That keeps the weights (B, heads, N, N) in memory.
    """
    if q.device.type == "cpu" and q.requires_grad and (q.dtype != torch.float32 or q.shape[-2] <= FEW_TOKENS):
        weights = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), -1)
        return weights.to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v)


class ViTBlock(nn.Module):
    """Pre-norm transformer block of the encoder: full attention, then MLP. (B, N, W) -> (B, N, W).

    With fp16 weights only the matrix products are fp16; the norms and the residual stream keep the type of `x`.
    """

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.heads = c.encoder_heads
        self.norm1 = nn.LayerNorm(c.encoder_width, eps=1e-12)
        self.qkv = nn.Linear(c.encoder_width, 3 * c.encoder_width)
        self.out = nn.Linear(c.encoder_width, c.encoder_width)
        self.norm2 = nn.LayerNorm(c.encoder_width, eps=1e-12)
        self.mlp = nn.Sequential(
            nn.Linear(c.encoder_width, c.encoder_mlp),
            mlp_activation(c.activation),
            nn.Linear(c.encoder_mlp, c.encoder_width),
        )

    def forward(self, x: Tensor) -> Tensor:
        b, n, w = x.shape
        inside = self.qkv.weight.dtype
        qkv = self.qkv(self.norm1(x).to(inside))
        q, k, v = qkv.view(b, n, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        attended = attention(q, k, v)  # (B, heads, N, W / heads)
        x = x + self.out(attended.transpose(1, 2).reshape(b, n, w))
        return x + self.mlp(self.norm2(x).to(inside))

    def of_first_token(self, x: Tensor) -> Tensor:
        """What `forward` gives for the first token, (B, W), without what it computes for the others.

        A single query needs no keys and values of the others: q is multiplied by W_k^T and compared with x itself, and
        W_v is applied after the weighted sum.
        """
        b, _, w = x.shape
        d = w // self.heads
        normed = self.norm1(x)
        q_weight, k_weight, v_weight = self.qkv.weight.view(3, self.heads, d, w).unbind(0)
        q_bias, k_bias, v_bias = self.qkv.bias.view(3, self.heads, 1, d).unbind(0)
        q = (normed[:, 0] @ q_weight.transpose(1, 2) + q_bias) * d**-0.5  # (heads, B, W / heads)
        met = (q @ k_weight).transpose(0, 1) @ normed.transpose(1, 2)  # (B, heads, N)
        attention = (met + (q * k_bias).sum(-1).T.unsqueeze(-1)).softmax(-1)
        mixed = (attention @ normed).transpose(0, 1)  # (heads, B, W)
        attended = mixed @ v_weight.transpose(1, 2) + v_bias  # (heads, B, W / heads)
        first = x[:, 0] + self.out(attended.transpose(0, 1).reshape(b, w))
        return first + self.mlp(self.norm2(first))


class Encoder(nn.Module):
    """ViT: (B, 3, H, W) -> (B, features), the CLS token after the last norm or all patch tokens, concatenated."""

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        width = c.encoder_width
        self.stem: nn.Module
        if c.stem == "patch":
            self.stem = nn.Conv2d(3, width, c.patch_size, c.patch_size)
            tokens = (c.image_height // c.patch_size) * (c.image_width // c.patch_size)
        else:  # four strided convolutions: cheaper than patches on CPUs, and precise where sub-pixel edges matter
            channels = (3, width // 8, width // 4, width // 2, width)
            layers: list[nn.Module] = []
            for before, after in pairwise(channels):
                layers += [nn.Conv2d(before, after, 3, 2, 1), nn.ReLU()]
            self.stem = nn.Sequential(*layers[:-1])
            tokens = (c.image_height // 16) * (c.image_width // 16)
        first = c.readout == "cls"
        self.features = width * (1 if first else tokens)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if first else None
        self.position = nn.Parameter(torch.empty(1, tokens + first, width))
        self.blocks = nn.ModuleList(ViTBlock(c) for _ in range(c.encoder_depth))
        self.norm = nn.LayerNorm(width, eps=1e-12)
        for parameter in (self.cls_token, self.position):
            if parameter is not None:
                nn.init.trunc_normal_(parameter, std=0.02)
        if c.stem == "patch":  # as in the ViTModel of the reference
            for part in self.modules():
                if isinstance(part, (nn.Linear, nn.Conv2d)):
                    nn.init.trunc_normal_(part.weight, std=0.02)
                    nn.init.zeros_(part.bias)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.stem(images).flatten(2).transpose(1, 2)  # (B, N, W)
        if self.cls_token is None:
            x = tokens + self.position
            for block in self.blocks:
                x = block(x)
            return self.norm(x).flatten(1)
        x = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1) + self.position
        for block in self.blocks[:-1]:
            x = block(x)
        last = self.blocks[-1]  # in inference as in `forward`: rounding stays that of exported and calibrated bundles
        return self.norm(last.of_first_token(x) if self.training else last(x)[:, 0])


class Projector(nn.Module):
    """MLP with BatchNorm in the middle, on encoder and on predictor outputs. (N, in) -> (N, out)."""

    def __init__(self, width_in: int, hidden: int, width_out: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(width_in, hidden), BatchNorm(hidden), nn.GELU(), nn.Linear(hidden, width_out)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class ActionEncoder(nn.Module):
    """Embeds action blocks in the width of the latents: (B, T, frameskip * A) -> (B, T, D)."""

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.patch_embed = nn.Conv1d(c.block_dim, 10, 1)
        self.embed = nn.Sequential(
            nn.Linear(10, 4 * c.latent_dim), nn.SiLU(), nn.Linear(4 * c.latent_dim, c.latent_dim)
        )

    def forward(self, actions: Tensor) -> Tensor:
        return self.embed(self.patch_embed(actions.transpose(1, 2)).transpose(1, 2))


class CausalAttention(nn.Module):
    """Causal self-attention with a norm of its own and no bias on q, k, v. (B, T, W) -> (B, T, W)."""

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        inner = c.predictor_heads * c.predictor_head_dim
        self.heads, self.dropout = c.predictor_heads, c.dropout
        self.norm = nn.LayerNorm(c.predictor_width)
        self.to_qkv = nn.Linear(c.predictor_width, 3 * inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, c.predictor_width), nn.Dropout(c.dropout))

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        x = self.norm(x)
        if t == 1 and not (self.training and self.dropout):  # attention over one key returns its value
            return self.to_out(F.linear(x, self.to_qkv.weight.chunk(3)[2]))
        q, k, v = self.to_qkv(x).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.to_out(attended.transpose(1, 2).reshape(b, t, -1))


class FeedForward(nn.Module):
    """(B, T, W) -> (B, T, W), with a norm of its own."""

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.LayerNorm(c.predictor_width),
            nn.Linear(c.predictor_width, c.predictor_mlp),
            mlp_activation(c.activation),
            nn.Dropout(c.dropout),
            nn.Linear(c.predictor_mlp, c.predictor_width),
            nn.Dropout(c.dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class ConditionalBlock(nn.Module):
    """Transformer block whose shifts, scales and gates come from the action (AdaLN-zero: it starts as the identity)."""

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.attn = CausalAttention(c)
        self.mlp = FeedForward(c)
        self.norm1 = nn.LayerNorm(c.predictor_width, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(c.predictor_width, elementwise_affine=False, eps=1e-6)
        modulation = nn.Linear(c.predictor_width, 6 * c.predictor_width)
        nn.init.zeros_(modulation.weight)
        nn.init.zeros_(modulation.bias)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), modulation)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition).chunk(6, dim=-1)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class Transformer(nn.Module):
    """Conditional blocks between optional projections from and to the latent width."""

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        same = c.latent_dim == c.predictor_width
        self.input_proj = nn.Identity() if same else nn.Linear(c.latent_dim, c.predictor_width)
        self.cond_proj = nn.Identity() if same else nn.Linear(c.latent_dim, c.predictor_width)
        self.output_proj = nn.Identity() if same else nn.Linear(c.predictor_width, c.latent_dim)
        self.norm = nn.LayerNorm(c.predictor_width)
        self.layers = nn.ModuleList(ConditionalBlock(c) for _ in range(c.predictor_depth))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x, condition = self.input_proj(x), self.cond_proj(condition)
        for layer in self.layers:
            x = layer(x, condition)
        return self.output_proj(self.norm(x))


class Predictor(nn.Module):
    """Latents and action embeddings of up to `history` frames -> one prediction a frame. (B, T, D) -> (B, T, D)."""

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.randn(1, c.history, c.latent_dim))
        self.transformer = Transformer(c)

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        return self.transformer(latents + self.pos_embedding[:, : latents.shape[1]], actions)


class LeWM(nn.Module):
    """The world model: `encode` frames, `predict` one step, `rollout` many.

    Latents are float32 (…, D). Actions are z-scored action blocks (…, frameskip * A): the block that leaves the frame.
    """

    image_mean: Tensor
    image_std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("image_mean", torch.tensor(IMAGE_MEAN).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("image_std", torch.tensor(IMAGE_STD).view(3, 1, 1) * 255, persistent=False)
        self.encoder = Encoder(config)
        self.projector = Projector(self.encoder.features, config.projector_width, config.latent_dim)
        self.action_encoder = ActionEncoder(config)
        self.predictor = Predictor(config)
        self.pred_proj = Projector(config.latent_dim, config.projector_width, config.latent_dim)

    def encode(self, frames: Tensor, parts: int = 1) -> Tensor:
        """uint8 RGB frames (…, H, W, 3) -> latents (…, D).

        With `parts` above 1 the encoder takes the frames in that many parts and recomputes each for the gradient: less
        memory for the same latents and gradient, since no frame's features depend on another frame. BatchNorm and loss
        still see the whole batch.
        """
        lead, frames = frames.shape[:-3], frames.reshape(-1, *frames.shape[-3:])
        if parts == 1:
            features = self.describe(frames)
        else:
            features = torch.cat([checkpoint(self.describe, part, use_reentrant=False) for part in frames.chunk(parts)])
        return self.projector(features).reshape(*lead, -1)

    def describe(self, frames: Tensor) -> Tensor:
        """uint8 RGB frames (N, H, W, 3) -> the encoder's features (N, features)."""
        return self.encoder(self.scaled(frames))

    def scaled(self, frames: Tensor) -> Tensor:
        """uint8 RGB frames (N, H, W, 3) -> the encoder's input (N, 3, H, W), as ModelConfig.picture_norm says."""
        images = frames.permute(0, 3, 1, 2).float()
        if self.config.picture_norm == "own":
            centred = images - images.mean((2, 3), keepdim=True)
            spread = (centred.square().mean((2, 3), keepdim=True) + LEAST_SPREAD**2).sqrt()
            return centred / spread
        return (images - self.image_mean).div_(self.image_std)

    def predict(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Latents and actions (B, T, ·) with T <= history -> predictions (B, T, D), that at t of frame t + 1."""
        predicted = self.predictor(latents, self.action_encoder(actions))
        return self.pred_proj(predicted.flatten(0, 1)).unflatten(0, predicted.shape[:2])

    def rollout(self, context: Tensor, past_actions: Tensor, candidates: Tensor) -> Tensor:
        """Imagines candidate action sequences.

        context (B, h, D) are the latents of 1 <= h <= history frames one block apart, the last one now; past_actions
        (B, h - 1, frameskip * A) are the blocks between them; candidates (B, H, frameskip * A). Returns the imagined
        latents (B, H, D). The window of context slides once it is full, as in the reference.
        """
        embedded = self.action_encoder(torch.cat([past_actions, candidates], 1))
        latents = context
        for step in range(candidates.shape[1]):
            end = context.shape[1] + step
            start = max(0, end - self.config.history)
            predicted = self.predictor(latents[:, start:end], embedded[:, start:end])[:, -1]
            latents = torch.cat([latents, self.pred_proj(predicted).unsqueeze(1)], 1)
        return latents[:, context.shape[1] :]


def prediction_loss(model: LeWM, latents: Tensor, actions: Tensor) -> Tensor:
    """Mean squared error of teacher-forced one-step predictions over a clip; the targets keep their gradient.

    latents (B, T, D) with T - 1 a multiple of `history`; actions (B, T - 1, frameskip * A). With history 3 and 4 frames
    this is the reference's loss; a longer clip, or a shorter history, is cut into such windows.
    """
    windows, history = latents.shape[1] - 1, model.config.history
    if windows % history:
        raise ValueError(f"a clip has {windows} steps, which is not a multiple of history = {history}")
    context = latents[:, :-1].unflatten(1, (-1, history)).flatten(0, 1)
    blocks = actions.unflatten(1, (-1, history)).flatten(0, 1)
    predicted = model.predict(context, blocks).reshape_as(latents[:, 1:])
    return (predicted.float() - latents[:, 1:].float()).square().mean()
