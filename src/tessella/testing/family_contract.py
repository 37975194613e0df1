"""The family contract: what must hold on every family that has an adapter, whatever the method.

`check_family(family)` runs it all on one `TinyFamily`; `FAMILY_CHECKS` names the checks for parametrised tests, and
`FAMILY_METHOD_CHECKS` those of a pipeline on a family. That removal equals a hand-built short input is for the tests of
this repository to show: an oracle shares nothing with what it judges.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core.errors import LayoutError
from ..engine.apply import reduce
from . import family_counts, family_methods, family_turns
from .families import TinyFamily
from .family_cases import (
    PER_TOKEN,
    Above,
    Inputs,
    Raises,
    Row,
    Told,
    batches,
    decode,
    everything,
    indices_of,
    inputs_of,
    num_visual,
    prompts,
    some_of,
    text_inputs,
    tiny_model,
    tokens_of,
    traces_of,
)

TWO_CUTS = "random:0.7 | fastv@2:0.6"
NEAR = 2  # words behind the last picture, so that sliding windows reach back to what is gone
FACTOR = 4  # of the untouched model's own difference between a batch and its rows
FLOOR = 1e-5  # logits are of size 5; float32 sums in another order differ by so much


def check_family(family: TinyFamily) -> None:
    """Run every check; raises AssertionError naming what was broken."""
    for check in FAMILY_CHECKS.values():
        check(family)


def check_keeps_all(family: TinyFamily) -> None:
    """At keep=1.0 logits and tokens are bit-identical to the untouched model, with every cut really made."""
    model = tiny_model(family)
    for name, rows in everything(family).items():
        inputs = inputs_of(family, *rows)
        logits, tokens = model(**inputs).logits, tokens_of(model, inputs, 4)
        with reduce(model, "random:1.0 | fastv@2:1.0") as run:
            assert torch.equal(logits, model(**inputs).logits), f"{family.id}, {name}: keep=1.0 changes the logits"
            assert run.num_cuts == 2, f"{family.id}, {name}: {run.num_cuts} cuts at keep=1.0 where 2 are due"
            assert tokens == tokens_of(model, inputs, 4), f"{family.id}, {name}: keep=1.0 changes the tokens"


def check_decodes_as_without_cache(family: TinyFamily) -> None:
    """Tokens and logits decoded on the cache equal those of a whole forward at every step, for every kind of prompt."""
    model = tiny_model(family)
    for name, rows in everything(family).items():
        inputs = inputs_of(family, *rows, text_length=NEAR)
        with reduce(model, TWO_CUTS):
            tokens, logits = decode(model, inputs, 4)
            again, slowly = decode(model, inputs, 4, use_cache=False)
        assert tokens.tolist() == again.tolist(), f"{family.id}, {name}: decoding with and without cache differ"
        _close(logits, slowly, f"{family.id}, {name}: logits with and without cache")


def check_beams_as_without_cache(family: TinyFamily) -> None:
    """Three beams of two ragged rows give the same tokens with and without a cache."""
    model = tiny_model(family)
    for name, rows in batches(family).items():
        inputs = inputs_of(family, *rows)
        with reduce(model, TWO_CUTS):
            beams = tokens_of(model, inputs, 4, num_beams=3, num_return_sequences=2)
            again = tokens_of(model, inputs, 4, num_beams=3, num_return_sequences=2, use_cache=False)
        assert beams == again, f"{family.id}, {name}: beams with and without cache differ"


def check_samples_as_without_cache(family: TinyFamily) -> None:
    """Sampling draws the same tokens with and without a cache, for the same seed."""
    model = tiny_model(family)
    inputs = inputs_of(family, *batches(family)["pictures"])
    found = []
    for use_cache in (True, False):
        torch.manual_seed(11)
        with reduce(model, TWO_CUTS):
            found.append(
                tokens_of(model, inputs, 5, do_sample=True, top_k=0, num_return_sequences=2, use_cache=use_cache)
            )
    assert found[0] == found[1], f"{family.id}: sampling with and without cache differ"
    assert found[0][0] != found[0][1], f"{family.id}: two samples of one row are the same, so nothing was drawn"


def check_batch_equals_rows(family: TinyFamily) -> None:
    """Rows of a ragged, left-padded batch decode as they do alone, where a method keeps another number of each grid.

    The difference is at most FACTOR times that of the untouched model.
    """
    model = tiny_model(family)
    for name, rows in batches(family).items():
        batch = inputs_of(family, *rows, text_length=NEAR)
        for at_layer in (0, 2):
            own, gap = 0.0, 0.0
            _, plain = decode(model, batch, 3)
            with reduce(model, Above(at_layer)) as run:
                tokens, logits = decode(model, batch, 3)
                kept = indices_of(run)
            for n, row in enumerate(rows):
                single = inputs_of(family, row, first_row=n, text_length=NEAR)
                own = max(own, _gap(decode(model, single, 3)[1][0], plain[n]))
                with reduce(model, Above(at_layer)) as run:
                    alone, its_logits = decode(model, single, 3)
                    if row.pictures or row.clips:
                        assert indices_of(run)[0] == kept[n], f"{family.id}, {name}: row {n} keeps others alone"
                assert alone[0].tolist() == tokens[n].tolist(), f"{family.id}, {name}: row {n} answers otherwise alone"
                gap = max(gap, _gap(its_logits[0], logits[n]))
            assert len({len(k) for row in kept for k in row}) > 1, f"{family.id}, {name}: the counts are not ragged"
            assert gap <= max(FACTOR * own, FLOOR), (
                f"{family.id}, {name}: rows differ by {gap:.2g}; untouched {own:.2g}"
            )


def check_right_padding(family: TinyFamily) -> None:
    """In a forward of a right-padded batch the logits at real places are those of the rows alone."""
    model = tiny_model(family)
    for name, rows in batches(family).items():
        batch = inputs_of(family, *rows, padding="right")
        plain = model(**batch).logits
        for at_layer in (0, 2):
            own, gap = 0.0, 0.0
            with reduce(model, Above(at_layer)) as run:
                full = run.expand(model(**batch).logits)
            for n, row in enumerate(rows):
                single = inputs_of(family, row, first_row=n)
                length = single["input_ids"].shape[1]
                untouched = model(**single).logits[0]
                own = max(own, _gap(untouched, plain[n, :length]))
                if not (row.pictures or row.clips):
                    gap = max(gap, _gap(untouched, full[n, :length]))
                    continue
                with reduce(model, Above(at_layer)) as run:
                    alone = run.expand(model(**single).logits)[0]
                gone = alone.isnan().any(dim=-1)
                assert torch.equal(gone, full[n, :length].isnan().any(dim=-1)), f"{family.id}: row {n} keeps others"
                gap = max(gap, _gap(alone[~gone], full[n, :length][~gone]))
            assert gap <= max(FACTOR * own, FLOOR), (
                f"{family.id}, {name}: rows differ by {gap:.2g}; untouched {own:.2g}"
            )


def check_eager_attention(family: TinyFamily) -> None:
    """With eager attention, whose masks are added to the scores, a ragged batch decodes as with SDPA."""
    inputs = inputs_of(family, *batches(family)["pictures"])
    found = {}
    for attention in ("sdpa", "eager"):
        model = tiny_model(family, attention=attention)
        with reduce(model, Above(2)):
            found[attention] = decode(model, inputs, 3)
    assert found["sdpa"][0].tolist() == found["eager"][0].tolist(), f"{family.id}: eager attention answers otherwise"
    _close(found["eager"][1], found["sdpa"][1], f"{family.id}: logits of eager attention and SDPA")


def check_long_prompt_then_short(family: TinyFamily) -> None:
    """A prompt gives what it gives alone, after a longer one and after one without pictures in the same run."""
    model = tiny_model(family)
    long = inputs_of(family, list(prompts(family).values())[-1], text_length=24)
    short = inputs_of(family, Row(family.sizes[:1]))
    text = text_inputs(family)
    with reduce(model, TWO_CUTS) as run:
        logits, tokens, kept = model(**short).logits, tokens_of(model, short, 4), indices_of(run)
    with reduce(model, TWO_CUTS) as run:
        for before in (long, text):
            model(**before)
            assert torch.equal(logits, model(**short).logits), f"{family.id}: another prompt before changes the logits"
            tokens_of(model, before, 2)
            assert tokens == tokens_of(model, short, 4), f"{family.id}: another prompt before changes the tokens"
            assert indices_of(run) == kept, f"{family.id}: another prompt before changes the choice"


def check_text_alone(family: TinyFamily) -> None:
    """A prompt without pictures is answered bit for bit as by the untouched model."""
    model, text = tiny_model(family), text_inputs(family)
    logits, tokens = model(**text).logits, tokens_of(model, text, 4)
    with reduce(model, TWO_CUTS):
        assert torch.equal(logits, model(**text).logits), f"{family.id}: a prompt without picture changes"
        assert tokens == tokens_of(model, text, 4), f"{family.id}: the answer to a prompt without picture changes"


def check_restored(family: TinyFamily) -> None:
    """After the scope, and after exceptions in it, in a method and in `generate`, the model is as it came."""
    model, inputs = tiny_model(family), inputs_of(family, Row(family.sizes[:1]))
    logits, tokens = model(**inputs).logits, tokens_of(model, inputs, 2)
    before = traces_of(model)

    def check(after: str) -> None:
        changed = [name for name, trace in traces_of(model).items() if trace != before[name]]
        assert not changed, f"{family.id}: {changed[0]!r} keeps traces after {after}"
        assert torch.equal(logits, model(**inputs).logits), f"{family.id}: the logits differ after {after}"
        assert tokens == tokens_of(model, inputs, 2), f"{family.id}: the tokens differ after {after}"

    with reduce(model, "hiprune:0.5 | fastv@2:0.6"):
        tokens_of(model, inputs, 2)
    check("a run")
    for at_layer in (0, 2):
        for call in (lambda: model(**inputs), lambda: tokens_of(model, inputs, 2)):
            try:
                with reduce(model, Raises(at_layer), keep=0.5):
                    call()
            except ArithmeticError:
                check(f"a method that fails in front of layer {at_layer}")
            else:
                raise AssertionError(f"{family.id}: a method that fails was not called")
    try:
        with reduce(model, TWO_CUTS):
            model(**inputs)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        check("an interruption")


def check_inputs_untouched(family: TinyFamily) -> None:
    """Nothing that was given is written to."""
    model = tiny_model(family)
    for name, row in prompts(family).items():
        inputs = inputs_of(family, row)
        given = {n: value.clone() for n, value in inputs.items()}
        with reduce(model, TWO_CUTS):
            model(**inputs)
            tokens_of(model, inputs, 2)
        for n, value in given.items():
            assert torch.equal(value, inputs[n]), f"{family.id}, {name}: {n} was written to"


def check_bfloat16(family: TinyFamily) -> None:
    """In bfloat16 greedy tokens are those in float32 wherever the best two are further apart than the noise.

    Both models hold the weights of the bfloat16 one. The noise is FACTOR times the untouched models' own difference.
    """
    coarse = tiny_model(family, torch.bfloat16)
    fine = _same_weights(family)
    row = list(prompts(family).values())[-1]
    inputs, exact = inputs_of(family, row, dtype=torch.bfloat16), inputs_of(family, row)
    exact |= {name: value.float() for name, value in inputs.items() if value.is_floating_point()}
    noise = FACTOR * _gap(coarse(**inputs).logits[0, -1].float(), fine(**exact).logits[0, -1]) / 2
    decided = 0
    for at_layer in (0, 2):
        method = Told(at_layer, (some_of(num_visual(fine, exact)[0]),))
        with reduce(coarse, method):
            tokens, _ = decode(coarse, inputs, 6)
        with reduce(fine, method):
            expected, logits = decode(fine, exact, 6)
        banned = torch.tensor(fine.generation_config.suppress_tokens)
        for step in range(6):
            best = logits[0, step].index_fill(0, banned, float("-inf")).topk(2).values
            if float(best[0] - best[1]) > noise:
                assert tokens[0, step] == expected[0, step], f"{family.id}: step {step} differs in bfloat16"
                decided += 1
            if tokens[0, step] != expected[0, step]:
                break
    assert decided > 0, f"{family.id}: noise of {noise:.2g} leaves no step to compare"


def check_misfits(family: TinyFamily) -> None:
    """Placeholders that do not match the pictures are refused in one line that counts them."""
    model = tiny_model(family)
    one, two = (inputs_of(family, Row((family.sizes[0],) * n)) for n in (1, 2))
    words = {name: value for name, value in one.items() if name in PER_TOKEN}
    fewer = {**one, "input_ids": _without_one_placeholder(model, one)}
    for what, wrong in {"a placeholder too few": fewer, "a picture too many": {**two, **words}}.items():
        for call in (model, lambda **given: tokens_of(model, given, 2)):
            said = ""
            with reduce(model, TWO_CUTS):
                try:
                    call(**wrong)
                except LayoutError as error:
                    said = str(error)
            one_line = "placeholders" in said and "\n" not in said
            assert one_line, f"{family.id}: of {what} is said {said!r}"


def _close(ours: Tensor, theirs: Tensor, what: str) -> None:
    gap = _gap(ours, theirs)
    assert gap <= 1e-4, f"{what} differ by {gap:.2g}"


def _gap(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max()) if ours.numel() else 0.0


def _same_weights(family: TinyFamily) -> Any:
    """The float32 model that holds the weights of the bfloat16 one."""
    return family.model(dtype=torch.bfloat16).float()


def _without_one_placeholder(model: Any, inputs: Inputs) -> Tensor:
    ids = inputs["input_ids"].clone()
    place = int(ids[0].bincount().argmax())  # of all tokens placeholders are the most
    ids[0, int((ids[0] == place).nonzero()[0])] = int(ids[0, -1])
    return ids


Check = Callable[[TinyFamily], None]


def _checks_in(*modules: dict[str, Any]) -> dict[str, Check]:
    named = [(n, check) for names in modules for n, check in names.items() if n.startswith("check_")]
    return {n.removeprefix("check_"): torch.no_grad()(check) for n, check in named if n != "check_family"}


FAMILY_CHECKS: dict[str, Check] = _checks_in(globals(), vars(family_counts), vars(family_turns))
FAMILY_METHOD_CHECKS = {
    name.removeprefix("method_"): torch.no_grad()(check)
    for name, check in vars(family_methods).items()
    if name.startswith("method_")
}
