"""One door to all that the embedded world asks: single pictures, contexts of several and clips."""

from __future__ import annotations

from tessella.mini.clips import CLIP_KINDS, sample_clip
from tessella.mini.contexts import CONTEXT_KINDS, Prompt, sample_context
from tessella.mini.questions import KINDS, sample

ALL_KINDS = (*KINDS, *CONTEXT_KINDS, *CLIP_KINDS)


def draw_prompt(kind: str, seed: int, split: str = "test", variant: str = "plain") -> Prompt:
    """The prompt of a seed, always the same for the same arguments; only single pictures have variants.

    Raises ValueError for a kind, split or variant that does not exist, and for a variant of several pictures.
    """
    if kind in KINDS:
        drawn = sample(kind, seed, split, variant)
        return Prompt(kind, drawn.parts, drawn.answer)
    if variant != "plain":
        raise ValueError(f"only single pictures have variants ({', '.join(KINDS)}); got {variant!r} of {kind!r}")
    if kind in CONTEXT_KINDS:
        return sample_context(kind, seed, split)
    if kind in CLIP_KINDS:
        return sample_clip(kind, seed, split)
    raise ValueError(f"kind must be one of {', '.join(ALL_KINDS)}; got {kind!r}")
