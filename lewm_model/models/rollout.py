# SPDX-License-Identifier: Apache-2.0
"""`LeWM.rollout` without the multiply-adds and passes over memory that do not change its result.

What it leaves out or merges, compared with the definition in lewm.py; docs/planner.md has counts and times:

- The action embedding and the shifts, scales and gates that come from it are computed once for all steps: they depend
  on a frame's action only, and a sliding window contains the same frame up to `history` times.
- While the window fills, the keys and values of its frames stay valid and only the new frame is computed. A full window
  slides, every frame's position changes, and all of it is recomputed: cached keys would be wrong there.
- Only the last frame of a window predicts the next one, so the last layer computes that frame alone.
- A window's first frame attends to itself only: no query, and value and output are one matrix.
- Frames of the past, and their actions, are the same for all candidates, and computed for one of them.
- LayerNorm's scale and shift, BatchNorm, the attention's 1 / sqrt(d), AdaLN's 1 + scale and the projection of the
  positions are folded into the linear layers beside them.

Each frame of a window is a tensor of its own, (candidates, width): nothing is stacked, split or transposed, and values
between two matrix products still fit the CPU's cache. After `blocks.half()` the products inside the blocks are in fp16;
the norms, the residual stream and the few operations before and after the blocks stay in fp32.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_linear_bn_eval

from lewm_model.models.lewm import ConditionalBlock, LeWM, Projector

OUTER_EPS, INNER_EPS = 1e-6, 1e-5  # of the norms before and after the modulation, as in ConditionalBlock


class FastRollout(nn.Module):
    """The rollout of a trained model in eval mode, from one context; holds a copy of its weights."""

    position: Tensor  # (history, W), as projected

    def __init__(self, model: LeWM) -> None:
        super().__init__()
        self.history = model.config.history
        predictor, transformer = model.predictor, model.predictor.transformer
        patch, embed, enter = model.action_encoder.patch_embed, model.action_encoder.embed, transformer.input_proj
        with torch.no_grad():
            position = predictor.pos_embedding[0]
            project = isinstance(enter, nn.Linear)
            self.register_buffer("position", position @ enter.weight.T if project else position.clone())
            self.enter = copy.deepcopy(enter)
            first = _merged(patch.weight[:, :, 0], patch.bias, embed[0])
            rest = copy.deepcopy([embed[2], transformer.cond_proj])
            self.condition = nn.Sequential(first, nn.SiLU(), *rest, nn.SiLU())
            self.blocks = nn.ModuleList(FastBlock(block, self.history) for block in transformer.layers)
            leave = [*folded(model.pred_proj)]
            if isinstance(transformer.output_proj, nn.Linear):
                leave.insert(0, transformer.output_proj)
            self.leave = nn.Sequential(_after_norm(transformer.norm, leave[0]), *leave[1:])

    def forward(self, context: Tensor, past_actions: Tensor | None, candidates: Tensor) -> Tensor:
        """context (h, D) with 1 <= h <= history, past_actions (h - 1, E) or None where h is 1, candidates (S, H, E)
        -> imagined latents (S, H, D), float32: `LeWM.rollout` with the context repeated for every candidate.

        A context (h, S, D), with past_actions (h - 1, S, E), is separate for each candidate.
        """
        inside, horizon = self.blocks[0].widen.weight.dtype, candidates.shape[1]
        if context.dim() == 2:
            context = context.unsqueeze(1)
            past_actions = None if past_actions is None else past_actions.unsqueeze(1)
        past = () if past_actions is None else past_actions.unbind(0)
        actions = [*past, *candidates.unbind(1)]  # (1 or S, E) of the past, then (S, E)
        conditions = [self.condition(action).to(inside) for action in actions]
        modulations = [[block.modulation(condition) for block in self.blocks] for condition in conditions]
        frames = [*self.enter(context).unbind(0)]  # (1 or S, W) each, then (S, W); without position
        latents: list[Tensor] = []
        start = -1  # the window's first frame
        cache: list[tuple[list[Tensor], list[Tensor]]] = []  # for each block: keys and values of the window's frames
        for end in range(len(past) + 1, len(past) + 1 + horizon):
            slid = max(0, end - self.history)
            known = end - 1 - start  # frames whose keys and values are in the cache
            if slid != start:
                start, known, cache = slid, 0, [([], []) for _ in self.blocks]
            x = [frames[start + i] + self.position[i] for i in range(known, end - start)]
            for number, block in enumerate(self.blocks):
                final = number == len(self.blocks) - 1  # only the last frame predicts the next one
                mine = [modulations[i][number] for i in range(start + known, end)]
                x = [block(x[i], mine[i], cache[number], final and i < len(x) - 1) for i in range(len(x))]
            predicted = self.leave(_norm(x[-1], INNER_EPS))
            latents.append(predicted)
            frames.append(self.enter(predicted))
        return torch.stack(latents, 1)


class FastBlock(nn.Module):
    """`ConditionalBlock` for one frame of a window; of the frames before it, keys and values are cached."""

    def __init__(self, block: ConditionalBlock, history: int) -> None:
        super().__init__()
        attention, mlp, out = block.attn, block.mlp.net, block.attn.to_out[0]
        qkv, inner = _after_norm(attention.norm, attention.to_qkv), out.in_features
        self.heads, self.attends, self.activation = attention.heads, history > 1, mlp[2]
        self.value_out = _merged(qkv.weight[2 * inner :], qkv.bias[2 * inner :], out)
        if self.attends:
            scale = (inner // self.heads) ** -0.5
            self.query = _linear(qkv.weight[:inner] * scale, qkv.bias[:inner] * scale)
            # A key's bias adds the same to every score and cancels in the softmax. Attention weights sum to 1, so the
            # values' bias is added once, in the output layer.
            self.key = _linear(qkv.weight[inner : 2 * inner], None)
            self.value = _linear(qkv.weight[2 * inner :], None)
            self.out = _linear(out.weight, self.value_out.bias)
        self.widen, self.narrow = _after_norm(mlp[0], mlp[1]), copy.deepcopy(mlp[4])
        six = zip(block.adaLN_modulation[1].weight.chunk(6), block.adaLN_modulation[1].bias.chunk(6), strict=True)
        signs, ones = (-1, 1, 1) * 2, (0, 1, 0) * 2  # minus the shift, 1 + scale
        self.modulations = nn.ModuleList(
            _linear(sign * weight, sign * bias + one)
            for (weight, bias), sign, one in zip(six, signs, ones, strict=True)
        )

    def modulation(self, condition: Tensor) -> list[Tensor]:
        """condition (B, W) -> minus shift, 1 + scale and gate of the attention, and those of the MLP, each (B, W)."""
        return [linear(condition) for linear in self.modulations]

    def forward(
        self, x: Tensor, modulation: list[Tensor], cache: tuple[list[Tensor], list[Tensor]], only_cache: bool
    ) -> Tensor:
        """x (B, W) with its modulation (B', W) -> (B', W) after this block; its key and value are added to the cache.

        With `only_cache` the result is not needed, and x is returned.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation
        keys, values = cache
        normed = _modulated(x, scale1, shift1)
        if self.attends:
            keys.append(self.key(normed))
            values.append(self.value(normed))
        if only_cache:
            return x
        if len(keys) > 1:
            attended = self.out(self._mix(self.query(normed), keys, values))
        else:  # the window's first frame attends to itself
            attended = self.value_out(normed)
        x = x + gate1 * attended
        return x + gate2 * self.narrow(self.activation(self.widen(_modulated(x, scale2, shift2))))

    def _mix(self, query: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
        """Attention of one frame: query (B, heads * d) over a few keys (B or 1, heads * d) -> (B, heads * d).

        For two or three keys a batched matrix product would be slower than these sums.
        """
        heads = (self.heads, query.shape[-1] // self.heads)
        query = query.unflatten(-1, heads)
        scores = torch.stack([(query * key.unflatten(-1, heads)).sum(-1) for key in keys], -1)
        shares = scores.softmax(-1).unsqueeze(-2).unbind(-1)  # each (B, heads, 1)
        mixed = shares[0] * values[0].unflatten(-1, heads)
        for share, value in zip(shares[1:], values[1:], strict=True):
            mixed = mixed + share * value.unflatten(-1, heads)
        return mixed.flatten(-2)


def _modulated(x: Tensor, scale: Tensor, minus_shift: Tensor) -> Tensor:
    """Norm, modulation, norm. Subtracts because ONNX Runtime turns an addition before a norm into one operation that
    is eight times slower on CPUs than the two.
    """
    return _norm(_norm(x, OUTER_EPS) * scale - minus_shift, INNER_EPS).to(scale.dtype)


def _norm(x: Tensor, eps: float) -> Tensor:
    """LayerNorm without scale and shift."""
    return F.layer_norm(x, x.shape[-1:], eps=eps)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device=weight.device)
    linear.weight.copy_(weight)
    if bias is not None:
        linear.bias.copy_(bias)
    return linear


def _merged(weight: Tensor, bias: Tensor, after: nn.Linear) -> nn.Linear:
    """One layer for `weight` x + `bias` with `after` behind it."""
    return _linear(after.weight @ weight, after.weight @ bias + after.bias)


def _after_norm(norm: nn.LayerNorm, linear: nn.Linear) -> nn.Linear:
    """`linear` with the scale and shift of the norm before it."""
    bias = linear.weight @ norm.bias + (0.0 if linear.bias is None else linear.bias)
    return _linear(linear.weight * norm.weight, bias)


def folded(projector: Projector) -> nn.Sequential:
    """A projector in eval mode without its BatchNorm, which is folded into the layer before it; a copy."""
    first, norm, activation, second = projector.net
    return nn.Sequential(fuse_linear_bn_eval(first, norm), activation, copy.deepcopy(second))
