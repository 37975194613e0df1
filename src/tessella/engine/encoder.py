"""The vision encoder under watch: what a pipeline wants to know of it stays with the pictures that it encoded."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..core.contracts import Method
from ..core.errors import UnsupportedError
from ..core.pipeline import Pipeline, as_pipeline
from ..core.view import Captures
from ..models.adapter import Adapter, find_adapter
from .capture import Recorder, Switch, attach, detach
from .hooks import Hooks, bind
from .plan import join_captures, make_plan
from .timing import Stopwatch

Mark = tuple["Encoding", int]  # which item of an encoding a picture is


@dataclass
class Encoding:
    """What one pass of the vision encoder left behind. It stays with the encoder's output, which may be used again."""

    pixels: Tensor | list[Tensor] | None = None  # a list of pictures where these have several sizes
    features: Tensor | None = None  # [items, N, Ce], the connector's input
    class_features: Tensor | None = None  # [items, Ce]
    attention: dict[int, Recorder] = field(default_factory=dict)
    hidden: dict[int, Tensor] = field(default_factory=dict)

    @property
    def is_joined(self) -> bool:
        """True for pictures of several sizes, encoded by several passes; only their pixels are known."""
        return isinstance(self.pixels, list)

    def picture(self, number: int) -> Tensor | None:
        """Pixels of one picture."""
        return None if self.pixels is None else self.pixels[number]

    def shows(self, captures: Captures) -> bool:
        """True if all that `captures` names of the encoder was recorded."""
        layers = set(captures.encoder) <= set(self.attention) and set(captures.encoder_hidden) <= set(self.hidden)
        return layers and (self.class_features is not None or not captures.class_features)


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

    def encode(self, original: Any, inputs: dict[str, Any]) -> tuple[Any, Encoding]:
        """The output of `original(**inputs)` with its pictures marked, and the encoding behind them."""
        if self._captures.reads_encoder:
            self._adapter.check_encoding(inputs)
        encoding = self._making = Encoding(pixels=inputs.get("pixel_values"))
        self._switch.on()
        try:
            output = original(**inputs)
            encoding.attention = {n: r.taken() for n, r in self._recorders.items()}
        finally:
            self._switch.off()
            self._making = None
            for recorder in self._recorders.values():
                recorder.clear()
        for number, picture in enumerate(getattr(output, "pooler_output", ())):
            picture.tessella_encoding = (encoding, number)
            if self._known is not None:
                self._known.append((picture, (encoding, number)))
        return output, encoding

    def behind(self, inputs: dict[str, Any]) -> tuple[Encoding | None, Tensor | None]:
        """The encoding behind a forward's `mm_encoder_outputs`, and which of its items each picture is.

        None for the items: all of them in order. Beam search and sampling repeat the list of encoded pictures, not
        the tensors in it.
        """
        output = (inputs.get("mm_encoder_outputs") or {}).get("image")
        if output is None:
            return None, None
        known = self._known or []
        marks = [getattr(p, "tessella_encoding", None) or _find(p, known) for p in output.pooler_output]
        found = [m for m in marks if m is not None]
        if not found or len(found) < len(marks):
            return None, None  # encoded elsewhere, or changed since
        if any(m[0] is not found[0][0] for m in found):
            pixels = [encoding.picture(number) for encoding, number in found]
            sizes = {p.shape for p in pixels if p is not None}
            if None in pixels or len(sizes) == 1:
                return None, None  # encoded by several calls
            return Encoding(pixels=pixels), None  # type: ignore[arg-type]  # none of them is None
        encoding, items = found[0][0], [number for _, number in found]
        if not encoding.shows(self._captures):
            return None, None  # made under a pipeline that asked for less
        in_order = encoding.pixels is not None and items == list(range(len(encoding.pixels)))
        return encoding, None if in_order else torch.tensor(items)

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
    pipelines: Sequence[str | Method | Pipeline],
    stopwatch: Stopwatch | None = None,
) -> dict[str, Any]:
    """`mm_encoder_outputs` of one pass of the vision encoder over `inputs`, which serve a run of any of `pipelines`.

    Give them to `generate` or `forward` in place of `pixel_values`; what the pipelines read of the encoder, and the
    pixels, come with them. Nothing of the language model runs. `stopwatch` takes the time as `encode`.

    Raises UnsupportedError for inputs without pixels, for a pipeline that the model cannot carry and for one that
    rewrites the inputs, which has an encoder pass of its own.
    """
    if inputs.get("pixel_values") is None:
        raise UnsupportedError("encode_once needs inputs with pixel_values; got " + ", ".join(sorted(inputs)) + ".")
    adapter = find_adapter(model)
    plans = [make_plan(adapter, as_pipeline(p), None) for p in pipelines]
    rewriting = next((str(p.pipeline) for p in plans if p.rewriters), None)
    if rewriting is not None:
        raise UnsupportedError(f"'{rewriting}' rewrites the inputs; it cannot share an encoder pass. Leave it out.")
    original = adapter.entry.get_image_features
    given = {n: inputs[n] for n in inspect.signature(original).parameters if n in inputs}
    watch = EncoderWatch(adapter, join_captures(p.captures for p in plans), stopwatch or Stopwatch())
    hooks = Hooks()
    watch.install(hooks)
    try:
        output, _ = watch.encode(original, {**given, "return_dict": True})
    finally:
        watch.uninstall()
        hooks.remove()
    return {"image": output}


def _find(picture: Tensor, generated: list[tuple[Tensor, Mark]]) -> Mark | None:
    same = (m for t, m in generated if t.shape == picture.shape and torch.equal(t.to(picture.device), picture))
    return next(same, None)
