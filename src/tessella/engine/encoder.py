"""The vision encoder under watch: what a pipeline wants to know of it stays with the pictures that it encoded."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..core.budget import Budget
from ..core.contracts import Method
from ..core.errors import UnsupportedError
from ..core.pipeline import Pipeline, as_pipeline
from ..core.recipe import Recipe
from ..core.view import Captures
from ..models.adapter import Adapter, find_adapter
from ..models.footprint import Footprint
from .capture import Recorder, Switch, attach, detach
from .hooks import Hooks, bind
from .plan import join_captures, make_plan
from .timing import Stopwatch

Mark = tuple["Encoding", int]  # which entry of an encoding some features are


@dataclass(eq=False)
class Encoding:
    """What one pass of the vision encoder left behind. It stays with the encoder's output, which may be used again.

    - `arguments`: what was encoded, as the entry's method was given it.
    - `footprints`: what each entry of the output holds; `first[i]` is the number of entry i's first footprint.
    - `features`: the connector's input; `class_features [items, Ce]`; `attention` and `hidden` by encoder layer.
    - `shown`: where the tokens are of a method's making, the normalised pictures that each entry shows.
    """

    modality: str
    arguments: dict[str, Any]
    footprints: list[Footprint]
    first: list[int]
    features: Tensor | None = None
    class_features: Tensor | None = None
    attention: dict[int, Recorder] = field(default_factory=dict)
    hidden: dict[int, Tensor] = field(default_factory=dict)
    shown: list[tuple[Tensor, ...]] | None = None

    @classmethod
    def begin(cls, adapter: Adapter, modality: str, arguments: dict[str, Any]) -> Encoding:
        entries = adapter.footprints(modality, arguments)
        first = [0, *itertools.accumulate(map(len, entries))]
        return cls(modality, arguments, [f for entry in entries for f in entry], first)

    @cached_property
    def patch_starts(self) -> list[int]:
        """Patches in front of each footprint, and of all."""
        return [0, *itertools.accumulate(f.num_patches for f in self.footprints)]

    @cached_property
    def input_starts(self) -> list[int]:
        """Rows of the connector's input in front of each footprint's, and all."""
        return [0, *itertools.accumulate(f.num_inputs for f in self.footprints)]

    @cached_property
    def item_starts(self) -> list[int]:
        """Encoder items in front of each footprint, and of all."""
        return [0, *itertools.accumulate(f.num_items for f in self.footprints)]

    def count_entries(self, count: int) -> None:
        """Take note that the output has one entry a footprint, where older versions split what newer ones join."""
        if count != len(self.first) - 1 and count == len(self.footprints):
            self.first = list(range(count + 1))

    def numbers(self, entry: int) -> range:
        """The footprints of an entry."""
        return range(self.first[entry], self.first[entry + 1])

    def shows(self, captures: Captures) -> bool:
        """True if all that `captures` names of the encoder was recorded."""
        layers = set(captures.encoder) <= set(self.attention) and set(captures.encoder_hidden) <= set(self.hidden)
        return layers and (self.class_features is not None or not captures.class_features)


@dataclass(frozen=True, eq=False)
class Picture:
    """One footprint as a forward was given it; `encoding` and `number` tell where it was, or will be, encoded.

    `content` are its pixels or, where these are unknown, its encoded features; `has_pixels` says which. `shown` are the
    normalised pictures behind features that a method has made.
    """

    modality: str
    footprint: Footprint
    content: Tensor
    has_pixels: bool
    encoding: Encoding | None = None
    number: int = 0
    shown: tuple[Tensor, ...] = ()


class EncoderWatch:
    """Records what `captures` names whenever the encoder runs, and marks the encoded pictures with it.

    The encoder runs inside a `forward`, before the first one in `generate`, or when a user encodes by hand.
    """

    def __init__(self, adapter: Adapter, captures: Captures, stopwatch: Stopwatch) -> None:
        self._adapter, self._captures, self._stopwatch = adapter, captures, stopwatch
        self._recorders = {n: Recorder() for n in captures.encoder}
        self._switch = Switch([])
        self._making: Encoding | None = None
        self._known: list[tuple[Tensor, Mark]] | None = None  # what the current `generate` has encoded

    def install(self, hooks: Hooks) -> None:
        adapter, captures = self._adapter, self._captures
        hooks.before(adapter.encoder, self._before_encoder)
        hooks.after(adapter.encoder, lambda *_: self._stopwatch.stop("encode"))
        hooks.before(adapter.connector, self._before_connector)
        if captures.class_features:
            hooks.after(adapter.encoder_layers[adapter.info.feature_layer], self._after_feature_layer)
        for number in captures.encoder_hidden:
            hooks.after(adapter.encoder_layers[number], bind(self._after_layer, number))
        for number, recorder in self._recorders.items():
            attach(adapter.encoder_attention(number), recorder)
        self._switch = Switch([adapter.encoder_attention(n) for n in self._recorders])

    def uninstall(self) -> None:
        self._switch.off()
        for number, recorder in self._recorders.items():
            detach(self._adapter.encoder_attention(number), recorder)

    def remember(self, on: bool) -> None:
        """While on, encoded pictures are also known by their values, should a model spread over devices move them."""
        self._known = [] if on else None

    def encode(self, modality: str, original: Any, inputs: dict[str, Any]) -> tuple[Any, Encoding | None]:
        """The output of `original(**inputs)` with its entries marked, and the encoding behind them.

        None for the encoding of a call within another, as where clips are encoded as pictures.
        """
        if self._making is not None:
            return original(**inputs), None
        if self._captures.reads_encoder:
            self._adapter.check_encoding(inputs)
        encoding = self._making = Encoding.begin(self._adapter, modality, inputs)
        self._switch.on()
        try:
            output = original(**inputs)
            encoding.attention = {n: r.taken() for n, r in self._recorders.items()}
        finally:
            self._switch.off()
            self._making = None
            for recorder in self._recorders.values():
                recorder.clear()
        pooled = getattr(output, "pooler_output", None)
        if pooled is not None:
            encoding.count_entries(len(pooled))
            self.adopt(encoding, pooled)
        return output, encoding

    def adopt(self, encoding: Encoding, pooled: Sequence[Tensor]) -> None:
        """Let entries that a method has made be known like those that were encoded."""
        marks: list[Mark | None] = [(encoding, number) for number in range(len(pooled))]
        self.mark(pooled, marks)
        if self._known is not None:
            self._known += zip(pooled, marks, strict=True)  # type: ignore[arg-type]

    @staticmethod
    def mark(pooled: Any, marks: Sequence[Mark | None]) -> None:
        """Let the entries of a `pooler_output` say where they were encoded; those of a tensor are views, so it says."""
        if isinstance(pooled, Tensor):
            pooled.tessella_marks = list(marks)  # type: ignore[attr-defined]
            return
        for entry, mark in zip(pooled, marks, strict=True):
            entry.tessella_mark = mark

    def marks(self, pooled: Any) -> list[Mark | None]:
        """Which entry of which encoding each entry of `pooler_output` is; None where that is not known."""
        whole = getattr(pooled, "tessella_marks", None)
        if whole is not None:
            return list(whole)
        known = self._known or []
        return [getattr(p, "tessella_mark", None) or _find(p, known) for p in pooled]

    def pictures(self, inputs: dict[str, Any]) -> list[Picture]:
        """Every picture of a forward's arguments, by modality in their order.

        Beam search and sampling repeat the list of encoded entries, not the tensors in it.
        """
        out: list[Picture] = []
        for name, modality in self._adapter.modalities.items():
            output = (inputs.get("mm_encoder_outputs") or {}).get(name)
            if output is not None:
                out += self._encoded_pictures(name, output.pooler_output)
            elif inputs.get(modality.pixels) is not None:
                flat = [f for entry in self._adapter.footprints(name, inputs) for f in entry]
                pixels = self._adapter.pixels(name, inputs)
                numbered = enumerate(zip(flat, pixels, strict=True))
                out += [Picture(name, f, p, True, None, i) for i, (f, p) in numbered]
        return out

    def _encoded_pictures(self, name: str, pooled: Any) -> list[Picture]:
        marks = self.marks(pooled)
        found = [m for m in marks if m is not None and m[0].modality == name and m[0].shows(self._captures)]
        if (
            len(found) < len(marks) or not found
        ):  # encoded elsewhere, changed since, or under a pipeline that asked for less
            footprints = self._adapter.footprints_of_features(name, pooled)
            return [Picture(name, f, p, False) for f, p in zip(footprints, pooled, strict=True)]
        made = [(e, i) for e, i in found if e.shown is not None]
        if made:  # by one method, so all of them
            known = zip(made, pooled, strict=True)
            return [Picture(name, e.footprints[i], p, False, e, i, e.shown[i]) for (e, i), p in known]  # type: ignore[index]
        pixels = {e: self._adapter.pixels(name, e.arguments) for e, _ in found}
        return [
            Picture(name, encoding.footprints[i], pixels[encoding][i], True, encoding, i)
            for encoding, entry in found
            for i in encoding.numbers(entry)
        ]

    def _before_encoder(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._stopwatch.start("encode", next(module.parameters()).device)

    def _before_connector(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._making is not None:
            self._making.features = args[0] if args else next(iter(kwargs.values()))

    def _after_feature_layer(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self._making is not None:
            self._making.class_features = (output[0] if isinstance(output, tuple) else output)[:, 0]

    def _after_layer(self, number: int, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self._making is not None:
            self._making.hidden[number] = output[0] if isinstance(output, tuple) else output


def encode_once(
    model: nn.Module,
    inputs: Mapping[str, Any],
    pipelines: Sequence[str | Method | Recipe | Pipeline],
    stopwatch: Stopwatch | None = None,
) -> dict[str, Any]:
    """`mm_encoder_outputs` of one pass of the vision encoder over `inputs`, which serve a run of any of `pipelines`.

    Give them to `generate` or `forward` in place of `pixel_values`; what the pipelines read of the encoder, and the
    pixels, come with them. Nothing of the language model runs. `stopwatch` takes the time as `encode`.

    Raises UnsupportedError for inputs without pixels, for a pipeline that the model cannot carry and for one that
    rewrites the inputs, which has an encoder pass of its own.
    """
    adapter = find_adapter(model)
    given = [name for name, m in adapter.modalities.items() if inputs.get(m.pixels) is not None]
    if not given:
        raise UnsupportedError("encode_once needs inputs with pixel_values; got " + ", ".join(sorted(inputs)) + ".")
    plans = [make_plan(adapter, _with_any_keep(as_pipeline(p)), None) for p in pipelines]
    rewriting = next((str(p.pipeline) for p in plans if p.rewriters), None)
    if rewriting is not None:
        raise UnsupportedError(f"'{rewriting}' rewrites the inputs; it cannot share an encoder pass. Leave it out.")
    watch = EncoderWatch(adapter, join_captures(p.captures for p in plans), stopwatch or Stopwatch())
    hooks = Hooks()
    watch.install(hooks)
    out: dict[str, Any] = {}
    try:
        for name in given:
            original = getattr(adapter.entry, adapter.modalities[name].encode)
            arguments = {n: inputs[n] for n in inspect.signature(original).parameters if n in inputs}
            out[name], _ = watch.encode(name, original, {**arguments, "return_dict": True})
    finally:
        watch.uninstall()
        hooks.remove()
    return out


def _find(picture: Tensor, generated: list[tuple[Tensor, Mark]]) -> Mark | None:
    same = (m for t, m in generated if t.shape == picture.shape and torch.equal(t.to(picture.device), picture))
    return next(same, None)


def _with_any_keep(pipeline: Pipeline) -> Pipeline:
    """The pipeline with a keep wherever one is still missing; what is read of the encoder does not depend on it."""
    parts = (replace(part, budget=Budget(1.0)) if part.needs_keep else part for part in pipeline.parts)
    return Pipeline(tuple(parts))
