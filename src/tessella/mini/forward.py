"""The forward pass used in training: the model's own weights, without the steps that training does not need.

It equals `LlavaForConditionalGeneration.forward` (a test holds it) but returns the encoder's hidden states, computes
the last decoder layer for the questions only, and compiles.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

HEADS, HEAD_DIM = 4, 32
CHUNK = 256  # tokens of a prefix whose attention is computed at once


def _split(x: Tensor) -> Tensor:
    """[B, N, C] -> [B, H, N, D]."""
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention [B, N, C] by two products: on a CPU its backward pass takes 11 ms where the fused kernel takes 28."""
    scores = (q * HEAD_DIM**-0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def _attend_causally(q: Tensor, k: Tensor, v: Tensor, start: int, stop: int) -> Tensor:
    """Attention of the tokens from `start` to `stop` to themselves and to all before them."""
    causal = torch.full((stop - start, stop), -1e4, dtype=q.dtype).triu(start + 1)
    return _attend(q[:, :, start:stop], k[:, :, :stop], v[:, :, :stop], causal)


def run_encoder_layer(layer: nn.Module, x: Tensor) -> Tensor:
    attention = layer.self_attn
    h = layer.layer_norm1(x)
    q, k, v = (_split(proj(h)) for proj in (attention.q_proj, attention.k_proj, attention.v_proj))
    x = x + attention.out_proj(_attend(q, k, v))
    h = layer.mlp.fc1(layer.layer_norm2(x))
    return x + layer.mlp.fc2(F.gelu(h))


def run_class_token(layer: nn.Module, x: Tensor) -> Tensor:
    """The class token [B, C] behind an encoder layer, without the other tokens."""
    attention = layer.self_attn
    h = layer.layer_norm1(x)
    q, k, v = _split(attention.q_proj(h[:, :1])), _split(attention.k_proj(h)), _split(attention.v_proj(h))
    x = x[:, :1] + attention.out_proj(_attend(q, k, v))
    return (x + layer.mlp.fc2(F.gelu(layer.mlp.fc1(layer.layer_norm2(x)))))[:, 0]


def _norm(norm: nn.Module, x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], norm.weight.to(x.dtype), norm.variance_epsilon)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


def run_decoder_layer(layer: nn.Module, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, prefix: int) -> Tensor:
    """A decoder layer; the first `prefix` tokens are causal, the others follow `mask` [B, 1, N - prefix, N]."""
    attention = layer.self_attn
    h = _norm(layer.input_layernorm, x)
    q, k, v = (_split(proj(h)) for proj in (attention.q_proj, attention.k_proj, attention.v_proj))
    q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
    parts = [_attend_causally(q, k, v, at, min(at + CHUNK, prefix)) for at in range(0, prefix, CHUNK)]
    x = x + attention.o_proj(torch.cat((*parts, _attend(q[:, :, prefix:], k, v, mask)), dim=1))
    h = _norm(layer.post_attention_layernorm, x)
    return x + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(h)) * layer.mlp.up_proj(h))


def run_last_layer(layer: nn.Module, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, prefix: int) -> Tensor:
    """The same for the tokens behind the prefix only: [B, N - prefix, C]."""
    attention = layer.self_attn
    h = _norm(layer.input_layernorm, x)
    k, v = _rotate(_split(attention.k_proj(h)), cos, sin), _split(attention.v_proj(h))
    q = _rotate(_split(attention.q_proj(h[:, prefix:])), cos[:, :, prefix:], sin[:, :, prefix:])
    x = x[:, prefix:] + attention.o_proj(_attend(q, k, v, mask))
    h = _norm(layer.post_attention_layernorm, x)
    return x + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(h)) * layer.mlp.up_proj(h))


def _cast(x: Tensor) -> Tensor:
    """Keep the residual stream in the type of autocast, which the layers would otherwise cast to again and again."""
    return x.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else x


DecoderLayer = Callable[[nn.Module, Tensor, Tensor, Tensor, Tensor, int], Tensor]


def encode(model: LlavaForConditionalGeneration, pixels: Tensor, interpolate: bool = False) -> tuple[Tensor, Tensor]:
    """Hidden states [B, 1 + V, C] that the connector reads, and the pooled class token [B, C]."""
    tower = model.model.vision_tower
    x = _cast(tower.pre_layrnorm(tower.embeddings(pixels, interpolate_pos_encoding=interpolate)))
    layers = tower.encoder.layers
    for layer in layers[:-1]:
        x = run_encoder_layer(layer, x)
    return x, tower.post_layernorm(run_class_token(layers[-1], x))


def decode(
    model: LlavaForConditionalGeneration,
    features: Tensor,
    input_ids: Tensor,
    positions: Tensor,
    segments: Tensor,
    layers: tuple[DecoderLayer, DecoderLayer] = (run_decoder_layer, run_last_layer),
    prefix: int | None = None,
) -> Tensor:
    """Hidden states [B, N - prefix, C] in front of the output matrix.

    `features` [B, V, C] are those of all pictures of a row, which have their places in common with the other rows. The
    prefix, in which a token sees all before it, ends with the last visual token unless it is told to end before.
    """
    slots = (input_ids[0] == model.config.image_token_id).nonzero()[:, 0]
    prefix = prefix or int(slots[-1]) + 1
    mask = _cast(build_mask(segments, prefix))
    language = model.model.language_model
    x = _cast(language.embed_tokens(input_ids))
    x = x.index_copy(1, slots, model.model.multi_modal_projector(features).to(x.dtype))
    cos, sin = language.rotary_emb(x, positions)
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    for layer in language.layers[:-1]:
        x = layers[0](layer, x, cos, sin, mask, prefix)
    return _norm(language.norm, layers[1](language.layers[-1], x, cos, sin, mask, prefix))


def build_mask(segments: Tensor, prefix: int) -> Tensor:
    """Additive mask [B, 1, N - prefix, N]: causal, and between tokens of one segment or towards segment 0.

    Tokens of a negative segment see the first two tokens of segment 0, not the picture behind them.
    """
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()[prefix:]
    same = segments[:, prefix:, None] == segments[:, None, :]
    seen = (segments[:, prefix:, None] >= 0) | (torch.arange(length) < 2)
    allowed = causal & (same | ((segments[:, None, :] == 0) & seen))
    return torch.zeros(allowed.shape).masked_fill(~allowed, -1e4)[:, None]
