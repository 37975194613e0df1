"""Queries and keys of chosen attention modules, while the model's own attention does the work.

Each attention implementation gets a wrapped twin under its own registered name (and its mask function under the same
name: without it transformers builds no mask at all). The twin records for the modules that a run asks about and calls
the original. The name contains "flash" exactly when the original's does, because transformers branches on that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..core.errors import UnsupportedError

PREFIX = "tessella_"


@dataclass
class Recorder:
    """Calls of one attention module in one forward, in order (some encoders call a module once a window)."""

    queries: list[Tensor] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)
    masks: list[Tensor | None] = field(default_factory=list)
    scaling: float = 1.0
    softcap: float | None = None
    answer_zeros: bool = False

    def taken(self) -> Recorder:
        """A recorder that holds what this one has recorded so far."""
        return Recorder(list(self.queries), list(self.keys), list(self.masks), self.scaling, self.softcap)

    def clear(self) -> None:
        self.queries.clear()
        self.keys.clear()
        self.masks.clear()


_recorders: WeakKeyDictionary[nn.Module, list[Recorder]] = WeakKeyDictionary()


def attach(module: nn.Module, recorder: Recorder) -> None:
    """Send the calls of an attention module to a recorder."""
    _recorders.setdefault(module, []).append(recorder)


def detach(module: nn.Module, recorder: Recorder) -> None:
    """Undo `attach`."""
    left = [r for r in _recorders.get(module, []) if r is not recorder]
    if left:
        _recorders[module] = left
    else:
        _recorders.pop(module, None)


class Switch:
    """Turns the wrapped implementation of some attention modules on and off; off restores what was there."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        configs = {id(m.config): m.config for m in modules}
        self._configs: list[Any] = list(configs.values())
        self._before: list[str | None] = []

    def on(self) -> None:
        if not self._before:
            self._before = [c._attn_implementation for c in self._configs]
            for config, name in zip(self._configs, self._before, strict=True):
                config._attn_implementation_internal = wrapped_name(name)

    def off(self) -> None:
        for config, name in zip(self._configs, self._before, strict=False):
            config._attn_implementation_internal = name
        self._before = []


def wrapped_name(implementation: str | None) -> str:
    """The registered name of an implementation's wrapped twin, registering it on first use.

    Raises UnsupportedError for implementations that give no queries and keys to wrap.
    """
    original = (implementation or "eager").removeprefix(PREFIX)
    if original.startswith("paged|") or original == "flex_attention":
        raise UnsupportedError(
            f"attention implementation {original!r} cannot be observed; load the model with "
            "attn_implementation='sdpa', 'eager' or a flash one."
        )
    name = PREFIX + original
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, _wrap(original))
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[original])
    return name


def _wrap(original: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        recorders = _recorders.get(module, ())
        probes = [r for r in recorders if r.answer_zeros]
        for recorder in probes or recorders:  # a probe's call is none of the model's own
            for part in _sequences(query, key, kwargs.get("cu_seq_lens_q")):
                recorder.queries.append(part[0])
                recorder.keys.append(part[1])
                recorder.masks.append(attention_mask)
            recorder.scaling = scaling if scaling is not None else query.shape[-1] ** -0.5
            recorder.softcap = None if original == "sdpa" else kwargs.get("softcap")  # SDPA knows of none
        if probes:
            shape = (query.shape[0], query.shape[2], query.shape[1], value.shape[-1])
            return torch.zeros(shape, dtype=query.dtype, device=query.device), None
        call = _eager_of(module) if original == "eager" else ALL_ATTENTION_FUNCTIONS[original]
        return call(module, query, key, value, attention_mask, scaling=scaling, **kwargs)

    return attention


def _sequences(query: Tensor, key: Tensor, bounds: Tensor | None) -> Iterable[tuple[Tensor, Tensor]]:
    """Queries and keys of one call, which flash attention is given with the bounds of the sequences packed in it."""
    if bounds is None:
        return ((query, key),)
    lengths = bounds.diff().tolist()
    return zip(query.split(lengths, dim=2), key.split(lengths, dim=2), strict=True)


def _eager_of(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The eager function of the modelling file that defines the module."""
    return sys.modules[type(module).__module__].eager_attention_forward  # type: ignore[attr-defined]
