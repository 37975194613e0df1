"""ToDRE: keep visual tokens that differ most, and drop what is left of them where text no longer looks at them.

Paper    Li et al., May 2025, arXiv:2505.18757 (the second version, but for the rule `k_center` of the first)
Acts     connector, once; then prefill, once, behind the decoder layer at 7/8 of the depth, where all tokens go or none
Needs    the projected tokens, the class token's attention row in the last encoder layer for the first pick, and the
         attention of text and of visual tokens in one decoder layer
Differs  there is no authors' code. Every prompt of a batch decides by itself. Text is what stands behind the first
         visual token of the prompt, so that under a causal mask visual tokens see none of it and a_vt is 0; with
         `text_scope="all"` it is all text. A prompt without such text keeps its tokens. Without a class token the
         first pick is random, as in the paper's ablation; the mean of the other two pivots is that of tokens of length
         one. keep=1.0 keeps every token through the second step too; without a keep the second step acts alone. A
         budget over the layer mean is met as if the second step kept everything. A later turn on the same cache finds
         no visual token in the layers that dropped them
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.budget import Budget, Counts
from ..core.cards import Card
from ..core.contracts import Method, ScoredSelector, Step
from ..core.errors import BudgetError, MethodError, UnsupportedError
from ..core.layout import NEWLINE, THUMBNAIL, Layout
from ..core.model_info import ModelInfo
from ..core.reduction import Reduction
from ..core.registry import register
from ..core.view import Captures, View
from ..ops.greedy import farthest_first, max_sum
from ..ops.similarity import normalize

RULES = ("max_sum", "k_center")
PIVOTS = ("cls", "random", "nearest_mean", "farthest_mean")
TEXT_SCOPES = ("after", "all")
FAR = torch.iinfo(torch.long).max
FADES = "all tokens of a prompt go where its attention between text and image has faded, or none"


@register
@dataclass(frozen=True)
class ToDRE(ScoredSelector):
    rule: str = "max_sum"  # "k_center": farthest-first, as in the first version
    pivot: str | None = None  # the first pick, one of PIVOTS; None: "cls", or "random" where there is no class token
    tau: float = 0.1  # attention in both directions below which it has faded
    check_layer: int | None = field(default=None, metadata={"layer_of": "decoder"})  # None: floor(7 L / 8), from 1
    fading: bool = True  # the second step
    text_scope: str = "after"  # the paper's T, behind the image; or "all"
    seed: int = 0  # of the pivot "random"

    card = Card(
        title="ToDRE",
        paper="2505.18757",
        year=2025,
        stages=("connector", "prefill"),
        needs=("decoder_rows",),
        count="adaptive",
        count_reason=f"the first step keeps exactly what is asked; in the second {FADES}",
        cost="heavy",
        prompt_dependent=True,
        newlines="compete",
        unit="image",
        nearest="divprune",
    )

    def __post_init__(self) -> None:
        for name, allowed in (("rule", RULES), ("pivot", (None, *PIVOTS)), ("text_scope", TEXT_SCOPES)):
            given = getattr(self, name)
            if given not in allowed:
                raise MethodError(f"todre: {name} must be one of {', '.join(map(str, allowed))}; got {given!r}.")
        if not self.tau >= 0:
            raise MethodError(f"todre: tau is a share of attention >= 0; got {self.tau}.")

    def needs(self, info: ModelInfo) -> tuple[str, ...]:
        first = ("class_token",) if self.pivot_on(info) == "cls" else ()
        return (*first, *(("decoder_rows",) if self.fading else ()))

    def captures(self, info: ModelInfo) -> Captures:
        return Captures(encoder=(info.num_encoder_layers - 1,)) if self.pivot_on(info) == "cls" else Captures()

    def remarks(self, info: ModelInfo) -> tuple[str, ...]:
        stands_in = self.pivot is None and not info.has_class_token
        return ("a random first pick stands in for that of the class token",) if stands_in else ()

    def pivot_on(self, info: ModelInfo) -> str:
        """The pivot on a model, where the setting leaves it open."""
        return self.pivot or ("cls" if info.has_class_token else "random")

    def steps(self, info: ModelInfo, budget: Budget | None) -> tuple[Step, ...]:
        """The selection, where there is a keep, and the check. Raises BudgetError where neither has anything to do."""
        if budget is None and not self.fading:
            raise BudgetError("todre needs a keep where fading=False: an int >= 1, a fraction in (0, 1] or 'a/b'.")
        out: list[Step] = []
        if budget is not None:
            out.append(Step(self, "connector", 0, budget, self.reduce, self.captures(info), count="exact"))
        if self.fading:
            check = Fading(self.layer_to_check(info), self.tau, self.text_scope)
            whole = budget if budget is not None and budget.is_everything else None  # keep=1.0 is kept here too
            out.append(Step(check, "prefill", check.layer + 1, whole, check.reduce, check.captures(info)))
        return tuple(out)

    def layer_to_check(self, info: ModelInfo) -> int:
        """The 0-based layer whose attention is measured. Raises UnsupportedError unless a layer follows it."""
        layer = info.num_layers * 7 // 8 - 1 if self.check_layer is None else self.check_layer
        if not 0 <= layer < info.num_layers - 1:
            raise UnsupportedError(
                f"todre: no decoder layer follows check_layer={layer} of {info.num_layers}. Name an earlier one "
                "or leave the second step out: fading=False."
            )
        return layer

    def reduce(self, view: View, counts: Counts) -> Reduction:
        """The first step, whose count is exact."""
        return replace(super().reduce(view, counts), num_kept=counts.num_keep)

    def score(self, view: View) -> Float[Tensor, "B V"]:
        """How well each token would do as the first pick."""
        pivot = self.pivot_on(view.info)
        if pivot == "random":
            return view.uniforms(self.seed)
        if pivot == "cls":
            row = view.class_attention(view.info.num_encoder_layers - 1).float().mean(dim=1)
            return row.masked_fill(~eligible(view.layout).to(row.device, non_blocking=True), -torch.inf)
        unit = normalize(view.tokens.embeddings).masked_fill(~view.mask[:, :, None], 0)
        nearness = (unit @ unit.sum(dim=1)[:, :, None])[:, :, 0]
        return nearness if pivot == "nearest_mean" else -nearness

    def choose(self, scores: Float[Tensor, "B V"], view: View, counts: Counts) -> Int[Tensor, "B K"]:
        """The token of highest score, then by `rule` the one most unlike those picked before it, and so on."""
        with view.clock("select"):
            first = scores.masked_fill(~view.mask, -torch.inf).argmax(dim=1)
            expand = max_sum if self.rule == "max_sum" else farthest_first
            return expand(normalize(view.tokens.embeddings), counts.num_keep, view.mask, first)


@dataclass(frozen=True)
class Fading(Method):
    """The second step: a prompt without its visual tokens where neither they nor its text look at each other."""

    layer: int
    tau: float
    text_scope: str

    id: ClassVar[str] = "todre"
    card = Card(
        title="ToDRE, second step",
        stages=("prefill",),
        needs=("decoder_rows",),
        count="adaptive",
        count_reason=FADES,
        min_keep=0,
        takes_keep=False,
        prompt_dependent=True,
        positions="original",
        newlines="compete",
        scope="prompt",
        unit="prompt",
    )

    def captures(self, info: ModelInfo) -> Captures:
        return Captures(decoder=(self.layer,))

    def reduce(self, view: View, counts: Counts) -> Reduction:
        """All tokens of a prompt or none; which is known to the device only."""
        with view.clock("score"):
            to_visual, to_text, any_text = self.attention(view)
        faded = (to_visual < self.tau) & (to_text < self.tau) & any_text
        return Reduction(view.mask & ~faded[:, None])

    def attention(self, view: View) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"], Bool[Tensor, " B"]]:
        """The paper's a_tv and a_vt, and whether there is any text to measure them by."""
        places = view.places("text")
        text = places >= 0
        if self.text_scope == "after":
            first = torch.where(view.mask, view.places("visual"), FAR).amin(dim=1, keepdim=True)
            text = text & (places > first)
        to_visual = mass(view, self.layer, "text", text, view.mask)
        to_text = mass(view, self.layer, "visual", view.mask, text)
        return to_visual, to_text, text.any(dim=1)


def mass(
    view: View, layer: int, queries: Literal["text", "visual"], asking: Bool[Tensor, "B Q"], asked: Bool[Tensor, "B N"]
) -> Float[Tensor, " B"]:
    """Share of the attention of the `asking` tokens that goes to those `asked`, mean over heads; 0 where none asks."""
    keys: Literal["visual", "text"] = "visual" if queries == "text" else "text"
    rows = view.attention_rows(layer, queries, keys=keys).mean(dim=1)  # [B, Q, N]; a whole row would sum to 1
    asking, asked = asking[:, : rows.shape[1]], asked[:, : rows.shape[2]]  # places may be padded further
    each = rows.masked_fill(~(asking[:, :, None] & asked[:, None, :]), 0).sum(dim=(1, 2))
    return each / asking.sum(dim=1).clamp(min=1)


def eligible(layout: Layout) -> Bool[Tensor, "B V"]:
    """Tokens that the class token may choose from, on the host: the thumbnail's, or all but newlines."""
    thumbnail = layout.role == THUMBNAIL
    return torch.where(thumbnail.any(dim=1, keepdim=True), thumbnail, layout.mask & (layout.role != NEWLINE))
