"""A run: one use of a pipeline on one model. It owns hooks, decisions and the report; the model stays as it came."""

from __future__ import annotations

import inspect
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from PIL import Image
from torch import Tensor, nn

from ..core.cards import Positions
from ..core.errors import UnsupportedError
from ..core.layout import Layout
from ..core.pipeline import Pipeline
from ..core.view import Captures
from ..models.adapter import find_adapter
from ..pictures import drawing
from ..pictures.saving import save_picture
from .cache import check_cache, ledger_of
from .capture import Recorder, Switch, attach, detach
from .decision import Prompt
from .forward import Continuing, Reading
from .generation import check_generate, check_trainable
from .hooks import Hooks
from .plan import Plan, make_plan, mean_keep_ratio
from .report import Report, Totals
from .timing import Stopwatch
from .view import Encoding, Sources

Mark = tuple[Encoding, int]  # which item of an encoding a picture is

_active: WeakKeyDictionary[nn.Module, list[Run]] = WeakKeyDictionary()
_numbers = itertools.count(1)


class Run:
    """One use of a pipeline on one model, as a context manager; made by `tessella.reduce` or `tessella.apply`.

    - `report`: tokens, cache and time, summed over all prompts so far.
    - `kept`: for the last prompt, per row and image, the indices of kept tokens in raster order of the image.
    - `merged`: likewise, for each token the index of the kept token that holds it (-1 if dropped).
    - `layout`: where the visual tokens of the last prompt were.
    - `expand(logits)`: logits of a shortened sequence at their places in the full one.
    - `show(path)`: the pictures with kept, merged and dropped patches.

    A run inside another on the same model replaces it until it ends.
    """

    def __init__(self, model: nn.Module, pipeline: Pipeline, positions: Positions | None = None) -> None:
        self.model = model
        self.pipeline = pipeline
        self._adapter = find_adapter(model)
        self._plan: Plan = make_plan(self._adapter, pipeline, positions)
        self._number = next(_numbers)
        self._hooks = Hooks()
        self._sources = Sources()
        self._recorders: list[tuple[nn.Module, Recorder]] = []
        self._encoder_switch = self._decoder_switch = Switch([])
        self._encoder_recorders: dict[int, Recorder] = {}
        self._decoder_recorders: dict[int, Recorder] = {}
        self._encoding: Encoding | None = None  # being made
        self._stopwatch = Stopwatch()
        self._totals = Totals()
        self._unsummed: list[Prompt] = []
        self._prompt: Prompt | None = None
        self._state: Reading | Continuing | None = None
        self._rewritten = False
        self._inside = False  # a forward of the entry is running, so that decoder layers belong to `_state`
        self._new_prompt = True  # the next forward does not continue the last prompt
        self._logits_to_keep: Any = 0
        self._generated: list[tuple[Tensor, Mark]] | None = None  # what the current generate has encoded
        self._guard = _ThreadGuard()

    # -- life --------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Run:
        stack = _active.setdefault(self._adapter.entry, [])
        if self in stack:
            raise UnsupportedError("this run is already active; make another with tessella.reduce.")
        if stack:
            stack[-1]._uninstall()
        stack.append(self)
        try:
            self._install()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        stack = _active.get(self._adapter.entry, [])
        if self not in stack:
            return
        was_innermost = stack[-1] is self
        stack.remove(self)
        self._uninstall()
        if stack and was_innermost:
            stack[-1]._install()
        if not stack:
            _active.pop(self._adapter.entry, None)

    # -- what a user asks --------------------------------------------------------------------------------------------

    @property
    def report(self) -> Report:
        for prompt in self._unsummed:
            self._totals.add(prompt.record())
        self._unsummed.clear()
        totals = self._totals
        budgets = [str(p.budget) for p in self.pipeline.parts if p.budget]
        ratio = totals.tokens_kept / totals.tokens_in if totals.tokens_in else 1.0
        used = {s.positions for s in self._prompt.segments[1:]} if self._prompt else set()
        return Report(
            pipeline=str(self.pipeline),
            positions="/".join(sorted(used)) or "original",
            requested=" | ".join(budgets) or "everything the method decides",
            prompts=totals.prompts,
            tokens_in=totals.tokens_in,
            tokens_kept=totals.tokens_kept,
            keep_ratio=ratio,
            mean_keep_ratio=mean_keep_ratio(totals.layers, totals.tokens_in) if totals.tokens_in else 1.0,
            layers=tuple(totals.layers),
            cache_bytes=totals.cache_bytes,
            full_cache_bytes=totals.full_cache_bytes,
            decoded_tokens=totals.decoded_tokens,
            ms=self._stopwatch.milliseconds(),
            notes=self._plan.notes,
            last=totals.last,
        )

    @property
    def kept(self) -> list[list[Tensor]]:
        return self._last().kept()

    @property
    def merged(self) -> list[list[Tensor]]:
        return self._last().merged()

    @property
    def layout(self) -> Layout:
        return self._last().layout

    @property
    def num_cuts(self) -> int:
        """Cuts made in the last prompt; 0 before the first."""
        return len(self._prompt.decisions) if self._prompt else 0

    def expand(self, logits: Tensor, fill: float = float("nan")) -> Tensor:
        """Logits `[B, R, C]` of the last prompt's shortened sequence as `[B, S, C]`; dropped places hold `fill`."""
        prompt = self._last()
        segment, length = prompt.segments[-1], prompt.segments[0].length
        if logits.shape[:2] != segment.places.shape:
            raise UnsupportedError(
                f"expand takes the logits of the whole shortened prompt, [B, R] = {tuple(segment.places.shape)}; "
                f"got {tuple(logits.shape[:2])}."
            )
        out = torch.full((len(logits), length + 1, logits.shape[2]), fill, dtype=logits.dtype, device=logits.device)
        places = segment.places if segment.padded is None else torch.where(segment.padded, length, segment.places)
        index = places.to(logits.device)[:, :, None].expand_as(logits)
        return out.scatter(1, index, logits)[:, :length]

    def show(self, path: str | Path, images: Any = None, caption: str | None = None) -> Image.Image:
        """Save the last prompt's pictures with kept, merged and dropped patches; also returned.

        `images`: the original pictures of the batch in prompt order; by default they are restored from the pixels.
        """
        prompt = self._last()
        pictures = list(images) if images is not None else _restore(prompt.pixels, self._adapter.pixel_statistics())
        blocks = [b for row in prompt.layout.blocks for b in row]
        if len(pictures) != len(blocks):
            raise UnsupportedError(f"show needs {len(blocks)} pictures for the last prompt; got {len(pictures)}.")
        kept = [k for row in prompt.kept() for k in row]
        merged = [m for row in prompt.merged() for m in row]
        text = (
            caption or f"{self.pipeline}: {sum(map(len, kept))} of {sum(prompt.layout.num_tokens)} visual tokens kept"
        )
        sheet = drawing.draw_prompt(pictures, [[b] for b in blocks], kept, merged, text)
        save_picture(sheet, path)
        return sheet

    # -- installation ------------------------------------------------------------------------------------------------

    def _install(self) -> None:
        adapter, captures, hooks = self._adapter, self._plan.captures, self._hooks
        hooks.before(adapter.entry, self._before_entry)
        hooks.after(adapter.entry, self._after_entry, always=True)
        hooks.before(adapter.encoder, lambda *_: self._stopwatch.start("encode", self._device()))
        hooks.after(adapter.encoder, lambda *_: self._stopwatch.stop("encode"))
        hooks.before(adapter.connector, self._before_connector)
        hooks.before(adapter.language_model, self._before_language_model)
        hooks.after(adapter.language_model, self._after_language_model)
        for number, layer in enumerate(adapter.decoder_layers):
            hooks.before(layer, _bind(self._before_layer, number))
        if captures.class_features:
            hooks.after(adapter.encoder_layers[adapter.info.feature_layer], self._after_feature_layer)
        for number in captures.encoder_hidden:
            hooks.after(adapter.encoder_layers[number], _bind(self._after_encoder_layer, number))
        for method, point in self._plan.observers:
            module = adapter.decoder_layers[point.layer].get_submodule(point.module)
            hooks.after(module, _bind(self._after_observed, (method, point)))
        top = _top_of(self.model, adapter.entry)
        if top is not None:
            hooks.before(top, self._before_top)
            hooks.override(top, "generate", top.generate, self._generate)
            hooks.override(top, "_loss_function", top.loss_function, self._loss)
        hooks.override(adapter.entry, "get_image_features", adapter.entry.get_image_features, self._encode)
        self._encoder_recorders = {n: Recorder() for n in captures.encoder}
        self._decoder_recorders = {n: Recorder() for n in captures.decoder}
        encoders = [(adapter.encoder_attention(n), r) for n, r in self._encoder_recorders.items()]
        decoders = [(adapter.decoder_attention(n), r) for n, r in self._decoder_recorders.items()]
        self._recorders = encoders + decoders
        for module, recorder in self._recorders:
            attach(module, recorder)
        self._encoder_switch = Switch([m for m, _ in encoders])
        self._decoder_switch = Switch([m for m, _ in decoders])

    def _uninstall(self) -> None:
        self._encoder_switch.off()
        self._decoder_switch.off()
        self._hooks.remove()
        for module, recorder in self._recorders:
            detach(module, recorder)
        self._recorders.clear()
        self._sources = Sources()
        self._state = None

    # -- hooks, in the order in which they fire ----------------------------------------------------------------------

    def _generate(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs = _by_name(original, args, kwargs)
        check_generate(original.__self__, kwargs)
        with self._guard.held():
            self._new_prompt, self._generated = True, []
            try:
                return self._generate_rewritten(original, kwargs) if self._plan.rewriters else original(**kwargs)
            finally:
                self._generated = None
                if self._inside:  # interrupted: hooks that always fire do not fire after a KeyboardInterrupt
                    self._end_forward()

    def _generate_rewritten(self, original: Any, kwargs: dict[str, Any]) -> Any:
        before: Any = kwargs.get("input_ids", kwargs.get("inputs"))
        kwargs = self._rewrite(kwargs)
        after: Any = kwargs.get("input_ids", kwargs.get("inputs"))
        self._rewritten = True
        try:
            out = original(**kwargs)
        finally:
            self._rewritten = False
        sequences = out if isinstance(out, Tensor) else out.sequences
        repeats = len(sequences) // len(before)
        sequences = torch.cat([before.repeat_interleave(repeats, dim=0), sequences[:, after.shape[1] :]], dim=1)
        if isinstance(out, Tensor):
            return sequences
        out.sequences = sequences
        return out

    def _rewrite(self, inputs: dict[str, Any]) -> dict[str, Any]:
        for part in self._plan.rewriters:
            inputs = part.method.rewrite(inputs, part.budget, self._adapter.entry.get_image_features)  # type: ignore[attr-defined]
        return inputs

    def _encode(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        """`get_image_features`, with what the pipeline wants to know of the encoder attached to the encoded pictures.

        Both `forward` and `generate` come here; `generate` encodes before its first forward.
        """
        inputs = _by_name(original, args, kwargs)
        if self._plan.captures.reads_encoder:
            self._adapter.check_encoding(inputs)
        with self._guard.held():
            self._encoding = Encoding(pixels=inputs.get("pixel_values"))
            self._encoder_switch.on()
            try:
                output = original(*args, **kwargs)
                encoding = self._encoding
                encoding.attention = {n: r.taken() for n, r in self._encoder_recorders.items()}
            finally:
                self._encoder_switch.off()
                self._encoding = None
                for recorder in self._encoder_recorders.values():
                    recorder.clear()
        for number, picture in enumerate(getattr(output, "pooler_output", ())):
            picture.tessella_encoding = (encoding, number)
            if self._generated is not None:
                self._generated.append((picture, (encoding, number)))
        if isinstance(self._state, Reading):
            self._sources.encoding = encoding
        return output

    def _before_top(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._logits_to_keep = _by_name(module.forward, args, kwargs).get("logits_to_keep", 0)

    def _before_entry(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._guard.enter()
        self._state, self._inside = None, True
        inputs = _by_name(module.forward, args, kwargs)
        changed = None
        cache = inputs.get("past_key_values")
        ledger = ledger_of(cache)
        is_prefill = ledger is None and (cache is None or cache.get_seq_length() == 0)
        if is_prefill and self._plan.rewriters and not self._rewritten and inputs.get("pixel_values") is not None:
            inputs = changed = self._rewrite(inputs)
        encoding, items = _encoding_of(inputs, self._generated or [], self._plan.captures)
        if encoding is not None and encoding.pixels is not None:
            inputs = {**inputs, "pixel_values": encoding.pixels if items is None else encoding.pixels[items]}
        layout = self._adapter.layout(inputs)
        has_visual = layout is not None and sum(layout.num_tokens) > 0
        if not is_prefill and has_visual:
            raise UnsupportedError(
                "this forward brings new visual tokens on a cache that already holds a prompt; a reduction is decided "
                "once a prompt. Start with an empty cache and the whole conversation."
            )
        if ledger is not None:
            if ledger.owner != self._number:
                raise UnsupportedError(
                    "this cache was made by another run; use it inside that run or start an empty one."
                )
            if ledger.broken:
                raise UnsupportedError(
                    "a forward on this cache broke off, so its layers hold different steps; start with an empty cache."
                )
            mask = inputs.get("attention_mask")
            if mask is not None and mask.ndim != 2:
                raise UnsupportedError(
                    f"an attention_mask of {mask.ndim} dimensions on a reduced cache: layers hold different tokens, so "
                    "each needs a mask of its own. Give the two-dimensional mask of the whole conversation, or none."
                )
            ids = inputs.get("input_ids")
            tokens: Any = ids if ids is not None else inputs["inputs_embeds"]
            self._state = Continuing(self._adapter, ledger, mask, tokens.shape[1])
            ledger.running = True
        elif has_visual:
            check_cache(cache)
            assert layout is not None
            self._begin_reading(inputs, layout)
            self._sources.encoding, self._sources.items = encoding, items
        return None if changed is None else ((), changed)

    def _begin_reading(self, inputs: dict[str, Any], layout: Layout) -> None:
        check_trainable(self._adapter)
        replay = self._prompt if self._continues(inputs) else None
        self._new_prompt = False
        self._clear_sources()
        self._sources.inputs = inputs
        steps = [] if replay else self._plan.steps(self._adapter, layout)
        self._state = Reading(
            self._adapter, steps, layout, self._sources, self._plan.positions, self._stopwatch, replay
        )
        self._decoder_switch.on()

    def _before_connector(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._encoding is not None:
            self._encoding.features = args[0] if args else next(iter(kwargs.values()))

    def _after_feature_layer(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self._encoding is not None:
            self._encoding.class_features = (output[0] if isinstance(output, tuple) else output)[:, 0]

    def _after_encoder_layer(self, number: int, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self._encoding is not None:
            self._encoding.hidden[number] = output[0] if isinstance(output, tuple) else output

    def _continues(self, inputs: dict[str, Any]) -> bool:
        """True for a forward without a cache that reads the last prompt again, with tokens added."""
        use_cache = inputs.get("use_cache")
        use_cache = self._adapter.language_model.config.use_cache if use_cache is None else use_cache
        if use_cache or inputs.get("past_key_values") is not None or self._new_prompt:
            return False
        return self._prompt is not None and self._prompt.continues_as(inputs)

    def _before_language_model(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._state is not None and self._inside:
            part = "prefill" if isinstance(self._state, Reading) else "decode"
            self._stopwatch.start(part, self._device())

    def _before_layer(self, layer: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._state is None or not self._inside:
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        hidden, fitted = self._state.before_layer(layer, hidden, kwargs)
        if args:
            return (hidden, *args[1:]), fitted
        return args, {**fitted, "hidden_states": hidden}

    def _after_observed(self, bound: tuple[Any, Any], module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if isinstance(self._state, Reading) and self._inside:
            self._state.observe(*bound, output[0] if isinstance(output, tuple) else output)

    def _after_language_model(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not self._inside:
            return
        if isinstance(self._state, Reading):
            self._stopwatch.stop("prefill")
            self._state.check_logits_to_keep(self._logits_to_keep)
            self._state.finish(self._number)
            before, self._prompt = self._prompt, self._state.prompt
            if self._state.is_replay:
                assert before is not None
                self._totals.decoded_tokens += self._prompt.segments[0].length - before.segments[0].length
                return
            self._unsummed.append(self._prompt)
            if len(self._unsummed) > 8:  # long since computed, so reading it back waits for nothing
                self._totals.add(self._unsummed.pop(0).record())
        elif isinstance(self._state, Continuing):
            self._stopwatch.stop("decode")
            self._state.finish()
            self._totals.decoded_tokens += self._state.num_new

    def _after_entry(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self._guard.is_mine():  # a refused thread leaves the forward of the other one alone
            self._end_forward()

    def _end_forward(self) -> None:
        self._inside, self._logits_to_keep = False, 0
        self._decoder_switch.off()
        self._clear_sources()
        self._stopwatch.abandon()
        if self._state is not None:
            self._state.close(self._number)
        self._guard.leave()

    def _loss(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        labels = kwargs.get("labels")
        if self._state is not None and labels is not None:
            if self._rewritten or self._plan.rewriters:
                raise UnsupportedError("labels cannot be cut for a pipeline that rewrites the inputs.")
            ignore, shifted = kwargs.get("ignore_index", -100), kwargs.get("shift_labels")
            kwargs["labels"] = self._state.cut_labels(labels, ignore)
            if shifted is not None:  # each token's successor, which the cut changes: shift back, cut, shift again
                unshifted = nn.functional.pad(shifted[:, :-1], (1, 0), value=ignore)
                cut = self._state.cut_labels(unshifted, ignore)
                kwargs["shift_labels"] = torch.cat([cut[:, 1:], shifted[:, -1:]], dim=1)
        return original(*args, **kwargs)

    # -- helpers -----------------------------------------------------------------------------------------------------

    def _clear_sources(self) -> None:
        for recorder in self._decoder_recorders.values():
            recorder.clear()
        self._sources = Sources(decoder=self._decoder_recorders)

    def _device(self) -> torch.device:
        return next(self._adapter.entry.parameters()).device

    def _last(self) -> Prompt:
        if self._prompt is None:
            raise UnsupportedError("no prompt with pictures has been read under this run yet.")
        return self._prompt


class _ThreadGuard:
    """Lets one thread at a time use a run; a second is refused, not queued."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._depth = 0

    def enter(self) -> None:
        with self._lock:
            me = threading.get_ident()
            if self._owner not in (None, me):
                raise UnsupportedError(
                    "another thread is using this model under a reduction; a run serves one thread at a time. Use one "
                    "model a thread, or a queue."
                )
            self._owner = me
            self._depth += 1

    def is_mine(self) -> bool:
        return self._owner == threading.get_ident()

    def leave(self) -> None:
        with self._lock:
            if self._owner != threading.get_ident():
                return
            self._depth -= 1
            if self._depth <= 0:
                self._owner, self._depth = None, 0

    @contextmanager
    def held(self) -> Iterator[None]:
        self.enter()
        try:
            yield
        finally:
            self.leave()


def active_run(model: nn.Module) -> Run | None:
    """The innermost run on a model."""
    stack = _active.get(find_adapter(model).entry)
    return stack[-1] if stack else None


def _encoding_of(
    inputs: dict[str, Any], generated: list[tuple[Tensor, Mark]], captures: Captures
) -> tuple[Encoding | None, Tensor | None]:
    """The encoding behind a forward's `mm_encoder_outputs`, and which of its items each picture is (None: in order).

    Beam search and sampling repeat the list of encoded pictures, not the tensors in it. A model spread over devices
    may move them: then pictures that the current `generate` has encoded are known by their values.
    """
    output = (inputs.get("mm_encoder_outputs") or {}).get("image")
    if output is None:
        return None, None
    marks = [getattr(p, "tessella_encoding", None) or _find(p, generated) for p in output.pooler_output]
    found = [m for m in marks if m is not None]
    if not found or len(found) < len(marks) or any(m[0] is not found[0][0] for m in found):
        return None, None  # encoded elsewhere, or changed since
    encoding, items = found[0][0], [number for _, number in found]
    if not encoding.shows(captures):
        return None, None  # made under a pipeline that asked for less
    in_order = encoding.pixels is not None and items == list(range(len(encoding.pixels)))
    return encoding, None if in_order else torch.tensor(items)


def _find(picture: Tensor, generated: list[tuple[Tensor, Mark]]) -> Mark | None:
    same = (m for t, m in generated if t.shape == picture.shape and torch.equal(t.to(picture.device), picture))
    return next(same, None)


def _by_name(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call, every one by its name."""
    if not args:
        return dict(kwargs)
    named = dict(inspect.signature(function).bind_partial(*args, **kwargs).arguments)
    rest = named.pop("kwargs", {})
    return {**named, **rest}


def _bind(function: Any, value: Any) -> Any:
    def bound(*args: Any, **kwargs: Any) -> Any:
        return function(value, *args, **kwargs)

    return bound


def _top_of(model: nn.Module, entry: nn.Module) -> Any:
    """The generating model whose child is the entry module."""
    return next((m for m in model.modules() if hasattr(m, "generate") and any(c is entry for c in m.children())), None)


def _restore(pixels: Tensor | None, statistics: tuple[Any, Any]) -> list[Image.Image]:
    """Pictures from normalised pixels."""
    if pixels is None:
        raise UnsupportedError("the last prompt came without pixels; give show(images=...) the pictures.")
    mean, std = (torch.tensor(s, device=pixels.device).view(1, 3, 1, 1) for s in statistics)
    values = ((pixels.float() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(v) for v in values]
