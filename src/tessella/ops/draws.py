"""Random draws that depend on a seed and on what is drawn for, not on batch order, device or any global state."""

from __future__ import annotations

import zlib

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor


def philox_uniforms(
    seed: int, sample_id: int, image_index: int, group_index: int, count: int
) -> Float64[np.ndarray, " {count}"]:
    """`count` uniform draws in [0, 1) of the Philox generator seeded by the four non-negative numbers.

    >>> philox_uniforms(0, 7, 0, 0, 3).shape
    (3,)
    >>> bool((philox_uniforms(0, 7, 0, 0, 3) == philox_uniforms(0, 7, 0, 0, 5)[:3]).all())
    True
    """
    seeds = np.random.SeedSequence([seed, sample_id, image_index, group_index])
    return np.random.Generator(np.random.Philox(seeds)).random(count)


def sample_id_of(pixels: Float[Tensor, "*shape"]) -> int:
    """CRC32 of the shape of a picture's pixels and of the first 4096 bytes of them as float32.

    >>> import torch
    >>> sample_id_of(torch.zeros(3, 4, 4)) == sample_id_of(torch.zeros(3, 4, 4, dtype=torch.bfloat16))
    True
    """
    shape = np.asarray(pixels.shape, dtype="<i8").tobytes()
    head = pixels.detach().reshape(-1)[:1024].float().cpu().numpy().astype("<f4").tobytes()
    return zlib.crc32(head, zlib.crc32(shape))


def group_of(tile: int, frame: int) -> int:
    """The group number of a tile and frame of one image, for `philox_uniforms`.

    >>> group_of(tile=0, frame=3), group_of(tile=2, frame=3)
    (3, 2000009)
    """
    return tile * 1_000_003 + frame
