"""The hooks of a run on its model, and what they do in each forward."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UnsupportedError
from ..models.adapter import Adapter
from ..models.placing import Placed, place
from .cache import Ledger, cache_in, check_cache, ledger_of
from .capture import Recorder, Switch, attach, detach
from .companions import Companions
from .continuing import Continuing
from .decision import Prompt
from .encoder import EncoderWatch, Picture
from .generation import check_generate, check_trainable, in_order_of, repeated_order, with_prompt, with_room
from .hooks import Hooks, bind, by_name
from .plan import Plan
from .reading import Reading
from .report import Totals
from .rewriting import Rewrite, rewrite
from .sources import Sources, footprints_of, in_order
from .threads import ThreadGuard
from .timing import Stopwatch


class Wiring:
    """A plan at work on one model: installed, it turns every forward into a reading or a continuation.

    `prompt` is the last one read, `totals` and `unsummed` are what the report is made of, `aside` holds the features of
    all visual tokens of the last prompt, for the next turn of its conversation.
    """

    def __init__(self, model: nn.Module, adapter: Adapter, plan: Plan, companions: Companions, number: int) -> None:
        self.prompt: Prompt | None = None
        self.stopwatch = Stopwatch()
        self.totals = Totals()
        self.unsummed: list[Prompt] = []
        self.aside: dict[str, Any] = {}  # what the encoder gave for the last prompt, by modality
        self._model, self._adapter, self._plan, self._number = model, adapter, plan, number
        self._companions = companions
        self._hooks = Hooks()
        self._encoder = EncoderWatch(adapter, plan.captures, self.stopwatch)
        self._decoder_recorders = {n: Recorder() for n in plan.captures.decoder}
        self._decoder_switch = Switch([])
        self._sources = Sources()
        self._state: Reading | Continuing | None = None
        self.num_rewrites = 0
        self._is_rewritten = False  # a `generate` is running whose arguments are final
        self._rewriting: Rewrite | None = None  # of the prompt that is about to be read
        self._open: tuple[Rewrite, Ledger] | None = None  # a cache that still speaks of the rewritten prompt
        self._inside = False  # a forward of the entry is running, so that decoder layers belong to `_state`
        self._new_prompt = True  # the next forward does not continue the last prompt
        self._logits_to_keep: Any = 0
        self._guard = ThreadGuard()

    def install(self) -> None:
        adapter, hooks = self._adapter, self._hooks
        hooks.before(adapter.entry, self._before_entry)
        hooks.after(adapter.entry, self._after_entry, always=True)
        hooks.before(adapter.language_model, self._before_language_model)
        hooks.after(adapter.language_model, self._after_language_model)
        for number, layer in enumerate(adapter.decoder_layers):
            hooks.before(layer, bind(self._before_layer, number))
        for method, point in self._plan.observers:
            module = adapter.decoder_layers[point.layer].get_submodule(point.module)
            hooks.after(module, bind(self._after_observed, (method, point)))
        top = _top_of(self._model, adapter.entry)
        if top is not None:
            hooks.before(top, self._before_top)
            hooks.override(top, "generate", top.generate, self._generate, traced=True)
            hooks.override(top, "_expand_multimodal_outputs", top._expand_multimodal_outputs, self._repeat_encoded)
            hooks.override(top, "_loss_function", top.loss_function, self._loss)
        for name, modality in adapter.modalities.items():
            hooks.override(
                adapter.entry, modality.encode, getattr(adapter.entry, modality.encode), bind(self._encode, name)
            )
        if adapter.deepstack is not None:
            add = getattr(adapter.language_model, adapter.deepstack)
            hooks.override(adapter.language_model, adapter.deepstack, add, self._add_deepstack)
        self._encoder.install(hooks)
        for number, recorder in self._decoder_recorders.items():
            attach(adapter.decoder_attention(number), recorder)
        self._decoder_switch = Switch([adapter.decoder_attention(n) for n in self._decoder_recorders])

    def uninstall(self) -> None:
        self._decoder_switch.off()
        self._encoder.uninstall()
        self._hooks.remove()
        for number, recorder in self._decoder_recorders.items():
            detach(self._adapter.decoder_attention(number), recorder)
        self._sources = Sources()
        self._state = None

    # -- hooks, in the order in which they fire ----------------------------------------------------------------------

    def _generate(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs = by_name(original, args, kwargs)
        check_generate(original.__self__, kwargs)
        with self._guard.held():
            self._new_prompt = True
            self._recall(ledger_of(cache_in(kwargs)))
            self._encoder.remember(True)
            self.aside = {n: copy.copy(o) for n, o in (kwargs.get("mm_encoder_outputs") or {}).items()}
            try:
                return self._generate_rewritten(original, kwargs) if self._plan.rewriters else original(**kwargs)
            finally:
                self._encoder.remember(False)
                if self._inside:  # interrupted: hooks that always fire do not fire after a KeyboardInterrupt
                    self._end_forward()

    def _generate_rewritten(self, original: Any, kwargs: dict[str, Any]) -> Any:
        if kwargs.get("inputs") is not None:
            kwargs["input_ids"] = kwargs.pop("inputs")
        before = kwargs.get("input_ids")
        cache = cache_in(kwargs)
        if cache is None or cache.get_seq_length() == 0:
            kwargs = self._rewrite(kwargs)
        how, self._is_rewritten = self._rewriting, True
        if how is not None:
            kwargs = with_room(original.__self__, kwargs, how)
        try:
            out = original(**kwargs)
        finally:
            self._is_rewritten, self._rewriting = False, None
            self._hand_over(moved=True)
        return out if how is None or before is None else with_prompt(out, before, how)

    def _rewrite(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Arguments as the rewriters want them; `_rewriting` says how they came about."""
        rewritten = rewrite(self._adapter, self._plan, self._companions, inputs)
        self._rewriting = rewritten.rewrite
        self.num_rewrites += 1
        if rewritten.encoding is not None:
            self._encoder.adopt(rewritten.encoding, rewritten.arguments["mm_encoder_outputs"]["image"].pooler_output)
        return rewritten.arguments

    def _hand_over(self, moved: bool) -> None:
        """Let the cache of a rewritten prompt speak of the user's prompt from now on."""
        if self._open is not None:
            how, ledger = self._open
            how.hand_over(ledger, moved or how.moved)
            self._open = None

    def _encode(self, name: str, original: Any, *args: Any, **kwargs: Any) -> Any:
        with self._guard.held():
            output, encoding = self._encoder.encode(name, original, by_name(original, args, kwargs))
        if encoding is not None:
            self.aside[name] = copy.copy(output)
            if isinstance(self._state, Reading):
                self._sources.attach(encoding)
        return output

    def _repeat_encoded(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        """Encoded pictures for beams and samples, so that each sees all pictures of its own row."""
        given = by_name(original, args, kwargs)
        repeated = dict(given["mm_encoder_output"])
        for name, output in repeated.items():
            if getattr(output, "pooler_output", None) is None:
                continue
            slots = self._adapter.slots(name, given)
            if slots is None:
                raise UnsupportedError(f"a prompt to be repeated must show its {name} placeholders; give input_ids.")
            marks = self._encoder.marks(output.pooler_output)
            order = repeated_order(list(output.pooler_output), slots.sum(dim=1).tolist(), given.get("expand_size", 1))
            repeated[name] = in_order_of(output, order)
            self._encoder.mark(repeated[name].pooler_output, [marks[i] for i in order])
        return repeated

    def _add_deepstack(self, original: Any, hidden: Tensor, mask: Tensor, features: Tensor) -> Tensor:
        """Features of early encoder layers, added to the visual tokens that are left."""
        if isinstance(self._state, Reading) and self._inside:
            return self._state.add_to_visual(original, hidden, mask, features)
        return original(hidden, mask, features)

    def _before_top(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._logits_to_keep = by_name(module.forward, args, kwargs).get("logits_to_keep", 0)

    def _before_entry(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._inside and self._guard.is_mine():  # an interrupted forward: its last hook did not fire
            self._end_forward()
        if self.prompt is not None:
            self.prompt.finite.poll()
        self._guard.enter()
        self._state, self._inside = None, True
        inputs = by_name(module.forward, args, kwargs)
        changed = None
        cache = cache_in(inputs)
        ledger = ledger_of(cache)
        is_prefill = ledger is None and (cache is None or cache.get_seq_length() == 0)
        if self._plan.rewriters and not self._is_rewritten:
            self._rewriting = None
            if is_prefill:
                inputs = changed = self._rewrite(inputs)
        pictures = self._encoder.pictures(inputs)
        placed = place(self._adapter, inputs, footprints_of(pictures)) if pictures else None
        has_visual = placed is not None and sum(placed.layout.num_tokens) > 0
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
            self._recall(ledger)
            if inputs.get("token_type_ids") is not None:  # masks are made of them, which layers are not given
                changed = {**inputs, "token_type_ids": None}
            ledger.running = True
        elif has_visual:
            check_cache(cache)
            assert placed is not None
            self._begin_reading(inputs, placed, in_order(pictures, placed))
        return None if changed is None else ((), changed)

    def _begin_reading(self, inputs: dict[str, Any], placed: Placed, pictures: list[Picture]) -> None:
        check_trainable(self._adapter)
        replay = self.prompt if self._continues(inputs, pictures) else None
        self._new_prompt = False
        self._sources = Sources(
            inputs,
            pictures,
            self._cleared_recorders(),
            is_unpadded=placed.is_unpadded,
            companions=self._companions,
        )
        plan, layout = self._plan, placed.layout
        steps = [] if replay else plan.steps(self._adapter, layout)
        if self._rewriting is not None and not replay:
            steps = self._rewriting.first_cut(plan, layout) + steps
        self._state = Reading(
            self._adapter, steps, layout, self._sources, plan.positions, plan.roles, self.stopwatch, replay
        )
        if self._rewriting is not None:
            self._state.prompt.rewrite = self._rewriting.repeat(len(layout.slot))
        self._decoder_switch.on()

    def _continues(self, inputs: dict[str, Any], pictures: list[Picture]) -> bool:
        """True for a forward without a cache that reads the last prompt again, with tokens added."""
        use_cache = inputs.get("use_cache")
        use_cache = self._adapter.language_model.config.use_cache if use_cache is None else use_cache
        if use_cache or cache_in(inputs) is not None or self._new_prompt:
            return False
        return self.prompt is not None and self.prompt.continues_as(inputs, pictures)

    def _before_language_model(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._state is not None and self._inside:
            part = "prefill" if isinstance(self._state, Reading) else "decode"
            self.stopwatch.start(part, self._device())

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
            inputs = args[0] if args else kwargs["hidden_states"]
            self._state.observe(*bound, inputs, output[0] if isinstance(output, tuple) else output)

    def _after_language_model(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not self._inside:
            return
        if isinstance(self._state, Reading):
            self.stopwatch.stop("prefill")
            self._state.check_logits_to_keep(self._logits_to_keep)
            self._state.finish(self._number)
            before, self.prompt = self.prompt, self._state.prompt
            ledger = ledger_of(self._state.cache)
            if self._rewriting is not None and ledger is not None:
                self._open = self._rewriting, ledger
                if not self._is_rewritten:
                    self._hand_over(moved=False)
            if self._state.is_replay:
                assert before is not None
                self.totals.decoded_tokens += self.prompt.segments[0].length - before.segments[0].length
                return
            self.unsummed.append(self.prompt)
            if len(self.unsummed) > 8:  # long since computed, so reading it back waits for nothing
                self.totals.add(self.unsummed.pop(0).record())
        elif isinstance(self._state, Continuing):
            self.stopwatch.stop("decode")
            self._state.finish()
            self.totals.decoded_tokens += self._state.num_new

    def _after_entry(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self._guard.is_mine():  # a refused thread leaves the forward of the other one alone
            self._end_forward()

    def _end_forward(self) -> None:
        self._inside, self._logits_to_keep = False, 0
        self._decoder_switch.off()
        self._cleared_recorders()
        self._sources = Sources()
        self.stopwatch.abandon()
        if self._state is not None:
            self._state.close(self._number)
        self._guard.leave()

    def _loss(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        labels, state = kwargs.get("labels"), self._state
        if state is not None and labels is not None:
            how = state.prompt.rewrite if isinstance(state, Reading) else None
            ignore, shifted = kwargs.get("ignore_index", -100), kwargs.get("shift_labels")

            def cut(whole: Tensor) -> Tensor:
                return state.cut_labels(whole if how is None else how.cut_labels(whole, ignore), ignore)

            kwargs["labels"] = cut(labels)
            if shifted is not None:  # each token's successor, which the cut changes: shift back, cut, shift again
                unshifted = nn.functional.pad(shifted[:, :-1], (1, 0), value=ignore)
                kwargs["shift_labels"] = torch.cat([cut(unshifted)[:, 1:], shifted[:, -1:]], dim=1)
        return original(*args, **kwargs)

    # -- helpers -----------------------------------------------------------------------------------------------------

    def _recall(self, ledger: Ledger | None) -> None:
        """Make a model that counts positions from its last prompt count from the one on this cache."""
        if ledger is not None and ledger.position_memory is not None:
            self._adapter.recall_positions(ledger.position_memory)

    def _cleared_recorders(self) -> dict[int, Recorder]:
        for recorder in self._decoder_recorders.values():
            recorder.clear()
        return self._decoder_recorders

    def _device(self) -> torch.device:
        return next(self._adapter.entry.parameters()).device


def _top_of(model: nn.Module, entry: nn.Module) -> Any:
    """The generating model whose child is the entry module."""
    return next((m for m in model.modules() if hasattr(m, "generate") and any(c is entry for c in m.children())), None)
