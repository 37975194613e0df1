"""What becomes of an answer when all visual tokens leave in front of a decoder layer, for each layer in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.cards import Positions
from ..core.contracts import Method
from ..core.registry import make
from ..engine.apply import reduce
from ..models.adapter import find_adapter
from ..samples import Sample, batches


@dataclass(frozen=True)
class Withdrawal:
    """A batch of samples: the probability of each answer's first token, and whether it is the likeliest.

    With every token (`full`, `right_full`), and by the layer in front of which all left (`change` from `full`,
    `right`). Of `num_own` samples the answer was the model's own. All on the CPU.
    """

    full: Float[Tensor, " B"]
    right_full: Bool[Tensor, " B"]
    change: Float[Tensor, "B L"]
    right: Bool[Tensor, "B L"]
    num_own: int


@torch.no_grad()
def withdraw(
    model: Any, processor: Any, samples: Sequence[Sample], batch: int, tell: Callable[[], None] = lambda: None
) -> Iterator[Withdrawal]:
    """One withdrawal for each batch of samples; `tell` is called behind each layer.

    The answer is its first token; where a sample has none, or the tokenizer does not know it, what the full model finds
    likeliest.
    """
    for some, inputs in batches(model, processor, samples, batch):
        everything = likely_next(model, inputs)
        at, num_own = _answers(processor.tokenizer, some, everything)
        full = everything.gather(1, at)
        changes, rights = [], []
        for layer in range(find_adapter(model).info.num_layers):
            withdrawal, positions = without_from(layer)
            with reduce(model, withdrawal, positions=positions):
                without = likely_next(model, inputs)
            changes.append(without.gather(1, at) - full)
            rights.append(without.argmax(dim=1, keepdim=True) == at)
            tell()
        yield Withdrawal(
            full[:, 0].cpu(),
            (everything.argmax(dim=1, keepdim=True) == at)[:, 0].cpu(),
            torch.cat(changes, dim=1).cpu(),
            torch.cat(rights, dim=1).cpu(),
            num_own,
        )


def without_from(layer: int) -> tuple[Method, Positions | None]:
    """What takes all visual tokens away in front of a layer, and the policy under which the text stays in its place."""
    if layer == 0:
        return make("blind"), "original"
    return make("information_horizon", method=make("none"), share=0.0, at_layer=layer), None


def likely_next(model: Any, inputs: Any) -> Float[Tensor, "B W"]:
    """Probabilities of the token behind each prompt, in float32; prompts are padded on the left."""
    return model(**inputs, logits_to_keep=1).logits[:, -1].float().softmax(dim=1)  # type: ignore[no-any-return]


def answer_token(tokenizer: Any, answer: str | None, probabilities: Float[Tensor, " W"]) -> int | None:
    """The first token of an answer, written behind a space or not, whichever is likelier; None if there is none."""
    if answer is None:
        return None
    firsts: set[int | None] = set()
    for text in (answer, f" {answer}"):
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        firsts |= {next((t for t in tokens if tokenizer.decode([t]).strip()), None)}  # some write the space by itself
    known = sorted(token for token in firsts if token is not None and token != tokenizer.unk_token_id)
    return max(known, key=lambda token: float(probabilities[token]), default=None)


def _answers(tokenizer: Any, samples: Sequence[Sample], likely: Float[Tensor, "B W"]) -> tuple[Int[Tensor, "B 1"], int]:
    """The token that answers each sample, and for how many that is the model's own."""
    named = [answer_token(tokenizer, s.answer, row) for s, row in zip(samples, likely, strict=True)]
    own = likely.argmax(dim=1).tolist()
    tokens = [mine if token is None else token for token, mine in zip(named, own, strict=True)]
    return torch.tensor(tokens, device=likely.device)[:, None], named.count(None)
