"""The engine half of the contract suite: checks of any method on a real (tiny) model.

`check_on_model(method)` runs them all; `MODEL_CHECKS` names them for parametrised tests. A method that the model cannot
carry must be refused with a reason, and then has nothing more to show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ..core.budget import Budget
from ..core.contracts import Method
from ..core.errors import UnsupportedError
from ..core.pipeline import Part, Pipeline
from ..engine.apply import can_apply, reduce
from ..engine.companions import remember
from ..engine.run import Run
from .families import tiny_family
from .random_tower import RandomTower
from .tiny import IMAGE_TOKEN, NUM_VISUAL, tiny_inputs, tiny_llava
from .tiny_words import tokenizer

KEEP = 6  # of 16
SQUARE = (32, 32)  # pixels of a picture of 16 tokens in the tiny Qwen2.5-VL


@dataclass(frozen=True)
class Host:
    """A tiny model on which a method is tried; `inputs` makes prompts for it, of 16 visual tokens a picture."""

    model: Any
    inputs: Callable[..., dict[str, Tensor]]
    row: Callable[[int], dict[str, Tensor]]  # a row of `inputs((1, 1), seed=3)` alone
    unwanted: tuple[int, ...] | None = None  # tokens that it may not write


@cache
def hosts(dtype: torch.dtype = torch.float32) -> tuple[Host, ...]:
    """A LLaVA with class token, one without, and a Qwen2.5-VL: windows, merged patches, positions of three axes."""

    def prompts(images_per_row: Sequence[int] = (1,), **options: Any) -> dict[str, Tensor]:
        return tiny_inputs(images_per_row, dtype=dtype, **options)

    def one(row: int) -> dict[str, Tensor]:
        batch = prompts((1, 1), padding="left", seed=3)
        count = int(batch["attention_mask"][row].sum())
        by_token = {n: batch[n][row : row + 1, -count:] for n in ("input_ids", "attention_mask")}
        return {**by_token, "pixel_values": batch["pixel_values"][row : row + 1]}

    qwen = tiny_family("qwen2_5_vl")

    def qwen_prompts(images_per_row: Sequence[int] = (1,), padding: Any = None, **options: Any) -> dict[str, Tensor]:
        return qwen.inputs([[SQUARE] * n for n in images_per_row], dtype=dtype, **options)

    def qwen_row(row: int) -> dict[str, Tensor]:
        return qwen.inputs([[SQUARE]], seed=3, first_row=row, dtype=dtype)

    clip, siglip = (tiny_llava(e, dtype=dtype) for e in ("clip", "siglip"))
    remember(clip, tokenizer(), lambda: RandomTower(clip.config.vision_config.hidden_size))
    remember(siglip, tokenizer())
    return (
        *(Host(model, prompts, one, (IMAGE_TOKEN,)) for model in (clip, siglip)),
        Host(qwen.model(dtype=dtype), qwen_prompts, qwen_row),
    )


def check_on_model(method: Method) -> None:
    """Run every check; raises AssertionError naming what was broken."""
    for check in MODEL_CHECKS.values():
        check(method)


def check_keeps_all(method: Method) -> None:
    """At keep=1.0 logits and tokens are bit-identical to the untouched model, through the whole gather path."""
    if not method.card.takes_keep and (method.card.min_keep == 0 or method.card.count == "adaptive"):
        return  # it removes everything by design, or its number follows the picture
    for host in _hosts(method):
        model, inputs = host.model, host.inputs()
        with torch.no_grad():
            before = model(**inputs).logits
            tokens = _generate(host, inputs)
            keep = 1.0 if method.card.takes_keep else None
            with reduce(model, method, keep=keep) as run:
                after = model(**inputs).logits
                assert torch.equal(before, after), f"{method.id}: keep=1.0 changes the logits"
                assert torch.equal(tokens, _generate(host, inputs)), f"{method.id}: keep=1.0 changes the tokens"
                assert run.num_cuts + run.num_rewrites >= 1, f"{method.id}: it never acted at keep=1.0"


def check_counts(method: Method) -> None:
    """Cache lengths, report and kept tokens agree, layer by layer."""
    for host in _hosts(method):
        model, inputs = host.model, host.inputs()
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
    for host in _hosts(method):
        model, inputs = host.model, host.inputs()
        given = {name: value.clone() for name, value in inputs.items()}
        with torch.no_grad(), _reduced(model, method) as run:
            out = _generate(host, inputs)
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
    for host in _hosts(method):
        model, inputs = host.model, host.inputs()
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
    for host in _hosts(method):
        model = host.model
        batch = host.inputs((1, 1), padding="left", seed=3)
        with torch.no_grad():
            plain = model(**batch).logits[:, -1]
            with _reduced(model, method):
                together = model(**batch).logits[:, -1]
            for row in range(2):
                single = host.row(row)
                own = (model(**single).logits[:, -1] - plain[row]).abs().max().item()
                with _reduced(model, method):
                    alone = model(**single).logits[:, -1]
                gap = (alone - together[row]).abs().max().item()
                assert gap <= max(4 * own, 1e-5), f"{method.id}: row {row} differs from its single run by {gap:.2g}"


def check_decoding_is_consistent(method: Method) -> None:
    """Tokens decoded on the cache equal those of a full forward at every step."""
    for host in _hosts(method):
        model, inputs = host.model, host.inputs()
        with torch.no_grad(), _reduced(model, method):
            cached = _generate(host, inputs)
            again = _generate(host, inputs, use_cache=False)
        assert torch.equal(cached, again), f"{method.id}: decoding with and without cache differ"


def check_same_again(method: Method) -> None:
    """The same prompt gives the same kept tokens, after a longer prompt too."""
    for host in _hosts(method):
        model, inputs = host.model, host.inputs()
        longer = host.inputs((1,), text_length=20, seed=5)
        with torch.no_grad(), _reduced(model, method) as run:
            model(**inputs)
            first = [k.tolist() for row in run.kept for k in row]
            model(**longer)
            model(**inputs)
            second = [k.tolist() for row in run.kept for k in row]
        assert first == second, f"{method.id}: kept {first}, then {second}"


def check_several_pictures(method: Method) -> None:
    """Two pictures in one prompt, one in the next; text-only prompts pass through untouched."""
    for host in _hosts(method):
        model = host.model
        two = host.inputs((2, 1), padding="left", seed=4)
        text = host.inputs((0,), seed=4)
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
    for host in _hosts(method, torch.bfloat16):
        model, inputs = host.model, host.inputs()
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


def _hosts(method: Method, dtype: torch.dtype = torch.float32) -> list[Host]:
    """Tiny models that can carry the method; those that cannot must refuse with a reason."""
    out = []
    for host in hosts(dtype):
        verdict = can_apply(host.model, method)
        if verdict:
            out.append(host)
            continue
        assert verdict.reason, f"{method.id} is refused on {host.model.config.model_type} without a reason"
        reason = _refusal(host.model, method)
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


def _generate(host: Host, inputs: dict[str, Tensor], **kwargs: object) -> Tensor:
    unwanted = {} if host.unwanted is None else {"suppress_tokens": list(host.unwanted)}
    return host.model.generate(**inputs, max_new_tokens=5, do_sample=False, **unwanted, **kwargs)


def _traces(model: nn.Module) -> list[object]:
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    names = [sorted(vars(m)) for m in model.modules()]
    implementations = [m.config._attn_implementation for m in model.modules() if hasattr(m, "config")]
    return [hooks, names, implementations]
