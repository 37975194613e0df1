"""The engine half of the contract suite: checks of any method on a real (tiny) model.

`check_on_model(method)` runs them all; `MODEL_CHECKS` names them for parametrised tests. A method that the model cannot
carry must be refused with a reason, and then has nothing more to show.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..core.budget import Budget
from ..core.contracts import Method
from ..core.errors import UnsupportedError
from ..core.pipeline import Part, Pipeline
from ..engine.apply import can_apply, reduce
from ..engine.run import Run
from .tiny import NUM_VISUAL, tiny_inputs, tiny_llava

KEEP = 6  # of 16


def check_on_model(method: Method) -> None:
    """Run every check; raises AssertionError naming what was broken."""
    for check in MODEL_CHECKS.values():
        check(method)


def check_keeps_all(method: Method) -> None:
    """At keep=1.0 logits and tokens are bit-identical to the untouched model, through the whole gather path."""
    if not method.card.takes_keep and method.card.min_keep == 0:
        return  # it removes everything by design
    for model, inputs in _models(method):
        with torch.no_grad():
            before = model(**inputs).logits
            tokens = _generate(model, inputs)
            keep = 1.0 if method.card.takes_keep else None
            with reduce(model, method, keep=keep) as run:
                after = model(**inputs).logits
                assert torch.equal(before, after), f"{method.id}: keep=1.0 changes the logits"
                assert torch.equal(tokens, _generate(model, inputs)), f"{method.id}: keep=1.0 changes the tokens"
                assert run.num_cuts + run.num_rewrites >= 1, f"{method.id}: it never acted at keep=1.0"


def check_counts(method: Method) -> None:
    """Cache lengths, report and kept tokens agree, layer by layer."""
    for model, inputs in _models(method):
        with torch.no_grad(), _reduced(model, method) as run:
            out = model(**inputs)
            lengths = [int(layer.keys.shape[-2]) for layer in out.past_key_values.layers]
            kept = [len(k) for row in run.kept for k in row]
        text = inputs["input_ids"].shape[1] - NUM_VISUAL
        record = run.report.last
        assert record is not None
        assert list(record.cache_lengths) == lengths, f"{method.id}: report {record.cache_lengths}, cache {lengths}"
        assert [n - text for n in lengths] == list(record.layers), f"{method.id}: cache and report count differently"
        assert lengths[-1] - text == sum(kept), (
            f"{method.id}: {kept} kept, but the last layer holds {lengths[-1] - text}"
        )
        if _is_exact(method):
            assert kept == [KEEP], f"{method.id}: {kept} kept where {KEEP} were asked"
        if method.card.takes_keep and method.card.count == "at_most":
            assert 0 < kept[0] <= KEEP, f"{method.id}: {kept} kept where up to {KEEP} were asked"


def check_prompt_comes_back(method: Method) -> None:
    """`generate` returns the user's own prompt in front of its tokens, and no argument is written to."""
    for model, inputs in _models(method):
        given = {name: value.clone() for name, value in inputs.items()}
        with torch.no_grad(), _reduced(model, method) as run:
            out = _generate(model, inputs)
            record = run.report.last
        length = inputs["input_ids"].shape[1]
        assert out.shape == (1, length + 5), f"{method.id}: sequences are {tuple(out.shape)} for a prompt of {length}"
        assert torch.equal(out[:, :length], given["input_ids"]), f"{method.id}: another prompt came back"
        for name, value in given.items():
            assert torch.equal(inputs[name], value), f"{method.id}: {name} was written to"
        assert record is not None
        assert record.tokens_in == ((NUM_VISUAL,),), f"{method.id}: the report counts {record.tokens_in} tokens before"
        each = record.full_cache_bytes / length
        assert each * sum(record.cache_lengths) / len(record.cache_lengths) == record.cache_bytes, (
            f"{method.id}: a cache of {record.full_cache_bytes} bytes is not that of the full prompt"
        )


def check_leaves_no_trace(method: Method) -> None:
    """After the scope, and after an exception inside it, the model is as it came."""
    for model, inputs in _models(method):
        with torch.no_grad():
            logits = model(**inputs).logits  # transformers installs hooks of its own in the first forward
            before = _traces(model)
            with _reduced(model, method):
                model(**inputs)
            assert torch.equal(logits, model(**inputs).logits), f"{method.id}: the model differs after the scope"
            try:
                with _reduced(model, method):
                    model(**inputs)
                    raise KeyboardInterrupt
            except KeyboardInterrupt:
                pass
            assert torch.equal(logits, model(**inputs).logits), f"{method.id}: the model differs after an exception"
        assert _traces(model) == before, f"{method.id}: hooks or attributes were left on the model"


def check_batch_equals_single(method: Method) -> None:
    """Rows of a left-padded batch give the logits of their single runs, within the untouched model's own difference."""
    for model, _ in _models(method):
        batch = tiny_inputs((1, 1), padding="left", seed=3)
        length = batch["attention_mask"].sum(dim=1).tolist()
        with torch.no_grad():
            plain = model(**batch).logits[:, -1]
            with _reduced(model, method):
                together = model(**batch).logits[:, -1]
            for row, count in enumerate(length):
                single = {
                    "input_ids": batch["input_ids"][row : row + 1, -count:],
                    "attention_mask": batch["attention_mask"][row : row + 1, -count:],
                    "pixel_values": batch["pixel_values"][row : row + 1],
                }
                own = (model(**single).logits[:, -1] - plain[row]).abs().max().item()
                with _reduced(model, method):
                    alone = model(**single).logits[:, -1]
                gap = (alone - together[row]).abs().max().item()
                assert gap <= max(4 * own, 1e-5), f"{method.id}: row {row} differs from its single run by {gap:.2g}"


def check_decoding_is_consistent(method: Method) -> None:
    """Tokens decoded on the cache equal those of a full forward at every step."""
    for model, inputs in _models(method):
        with torch.no_grad(), _reduced(model, method):
            cached = _generate(model, inputs)
            again = _generate(model, inputs, use_cache=False)
        assert torch.equal(cached, again), f"{method.id}: decoding with and without cache differ"


def check_same_again(method: Method) -> None:
    """The same prompt gives the same kept tokens, after a longer prompt too."""
    for model, inputs in _models(method):
        longer = tiny_inputs((1,), text_length=20, seed=5)
        with torch.no_grad(), _reduced(model, method) as run:
            model(**inputs)
            first = [k.tolist() for row in run.kept for k in row]
            model(**longer)
            model(**inputs)
            second = [k.tolist() for row in run.kept for k in row]
        assert first == second, f"{method.id}: kept {first}, then {second}"


def check_several_pictures(method: Method) -> None:
    """Two pictures in one prompt, one in the next; text-only prompts pass through untouched."""
    for model, _ in _models(method):
        two = tiny_inputs((2, 1), padding="left", seed=4)
        text = tiny_inputs((0,), seed=4)
        with torch.no_grad():
            plain = model(**text).logits
            with _reduced(model, method, keep=KEEP if method.card.scope != "layer-mean" else 0.8) as run:
                out = model(**two)
                kept = [[len(k) for k in row] for row in run.kept]
                assert torch.equal(plain, model(**text).logits), f"{method.id}: a prompt without picture changed"
        assert torch.isfinite(out.logits).all(), f"{method.id}: logits of a batch with several pictures are not finite"
        if _is_exact(method):
            assert [sum(row) for row in kept] == [2 * KEEP, KEEP], f"{method.id}: kept {kept} of two and one pictures"


def check_bfloat16(method: Method) -> None:
    """The method runs in bfloat16 and keeps as many tokens."""
    for model, inputs in _models(method, torch.bfloat16):
        with torch.no_grad(), _reduced(model, method) as run:
            logits = model(**inputs).logits
        assert logits.dtype == torch.bfloat16
        assert torch.isfinite(logits).all(), f"{method.id}: logits are not finite in bfloat16"
        if _is_exact(method):
            assert [len(k) for row in run.kept for k in row] == [KEEP]


MODEL_CHECKS: dict[str, Callable[[Method], None]] = {
    name.removeprefix("check_"): check
    for name, check in list(globals().items())
    if name.startswith("check_") and name != "check_on_model"
}


def _models(method: Method, dtype: torch.dtype = torch.float32) -> list[tuple[nn.Module, dict[str, Tensor]]]:
    """Tiny models that can carry the method, each with inputs; those that cannot must refuse with a reason."""
    out = []
    for encoder in ("clip", "siglip"):
        model = tiny_llava(encoder, dtype=dtype)  # type: ignore[arg-type]
        verdict = can_apply(model, method)
        if verdict:
            out.append((model, tiny_inputs((1,), dtype=dtype)))
            continue
        assert verdict.reason, f"{method.id} is refused on {encoder} without a reason"
        reason = _refusal(model, method)
        assert verdict.reason in reason, f"{method.id}: can_apply says {verdict.reason!r}, reduce {reason!r}"
    assert out, f"{method.id} runs on none of the tiny models"
    return out


def _refusal(model: nn.Module, method: Method) -> str:
    try:
        _reduced(model, method)
    except UnsupportedError as error:
        return str(error)
    return "nothing"


def _reduced(model: nn.Module, method: Method, keep: int | float = KEEP) -> Run:
    budget = Budget(keep) if method.card.takes_keep else None  # type: ignore[arg-type]
    return reduce(model, Pipeline((Part(method, budget),)))


def _is_exact(method: Method) -> bool:
    return method.card.takes_keep and method.card.promised_count(asked=True) == "exact"


def _generate(model: nn.Module, inputs: dict[str, Tensor], **kwargs: object) -> Tensor:
    return model.generate(**inputs, max_new_tokens=5, do_sample=False, suppress_tokens=[5], **kwargs)  # type: ignore[operator]


def _traces(model: nn.Module) -> list[object]:
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    names = [sorted(vars(m)) for m in model.modules()]
    implementations = [m.config._attn_implementation for m in model.modules() if hasattr(m, "config")]
    return [hooks, names, implementations]
