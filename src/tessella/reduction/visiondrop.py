"""VisionDrop: tokens that other visual tokens attend to, and the rest merged; at the connector and inside the model.

Paper    Xu et al., AAAI 2026, arXiv:2506.22283
Acts     connector, exactly as VisionZip; then prefill, in front of decoder layers 8, 16 and 24
Needs    the class token's row, its feature and keys at the feature layer; queries and keys of the layers about to run
Differs  the paper has one schedule, of (42, 6), (30, 5), (22, 4), (16, 3) tokens kept and merged, 32 in the mean: used
         without a keep. Ours: a keep is the mean over all layers (scope `layer-mean`), or under another scope what the
         last cut leaves; cut i leaves N_i = round(0.73^i N_0) tokens, for the least N_0 that ends there,
         of which round(N_i / 7.5) are merged. Without layers a keep is shared out as VisionZip's. Every picture or crop
         is ranked alone inside the model too, by its own queries over all keys before each, whatever mask or cap on
         scores a layer has. Merged tokens stand behind the others; where positions are kept (M-RoPE) they have their
         centre's. `cls_fallback`, ours: in an encoder of pictures of any size attention received in the last layer that
         attends globally stands in for the missing class token; with "received" in every encoder
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import count

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.budget import Budget, Counts
from ..core.cards import Card
from ..core.contracts import Method, Step, mask_of
from ..core.errors import BudgetError, MethodError, UnsupportedError
from ..core.layout import Layout
from ..core.model_info import ModelInfo, PaperLayer, fit_layers
from ..core.reduction import Reduction, Space
from ..core.registry import register
from ..core.view import Captures, View
from ..ops.attention import attention_from
from ..ops.merging import across, merge_into_centres, nearest_centres, spaced_centres, with_centres
from ..ops.selection import top_indices

PAPER_LAYERS = tuple(PaperLayer(n, depth=32) for n in (8, 16, 24))
PAPER_DOMINANT, PAPER_CONTEXTUAL = (42, 30, 22, 16), (6, 5, 4, 3)
DECAY = 0.73  # tokens after a cut, as a share of those before


@register
@dataclass(frozen=True)
class VisionDrop(Method):
    layers: tuple[int, ...] | None = None  # layer_list; None: the paper's 8, 16 and 24 of 32
    dominant: tuple[int, ...] | None = None  # D: of the connector, the class token among them, then of each layer
    contextual: tuple[int, ...] | None = None  # K of the same
    causal: bool = True  # inside the model a token asks those before it only
    cls_fallback: str | None = None  # "received": mean attention received where there is no class token

    card = Card(
        title="VisionDrop",
        paper="2506.22283",
        year=2025,
        stages=("connector", "prefill"),
        needs=("class_token", "class_features", "encoder_keys", "features", "projection"),
        count="adaptive",
        count_reason="a keep is a mean over layers, which no single cut leaves; every cut's count is exact",
        cost="heavy",
        newlines="drop",
        scope="layer-mean",
        nearest="hiprune",
    )

    def __post_init__(self) -> None:
        layers, dominant, contextual = self._layers, self.dominant, self.contextual
        if list(layers) != sorted(set(layers)) or min(layers, default=1) < 1:
            raise MethodError(f"visiondrop: layers must ascend, from 1 on; got {layers}.")
        if self.cls_fallback not in (None, "received"):
            raise MethodError(f"visiondrop: cls_fallback must be None or 'received'; got {self.cls_fallback!r}.")
        if dominant is None and contextual is None:
            return
        if dominant is None or contextual is None or not len(dominant) == len(contextual) == len(layers) + 1:
            raise MethodError(
                f"visiondrop: dominant and contextual are one number each for the connector and for {len(layers)} "
                f"layers; got {dominant} and {contextual}."
            )
        totals = [d + c for d, c in zip(dominant, contextual, strict=True)]
        if min(dominant) < 1 or min(contextual) < 0 or totals != sorted(totals, reverse=True):
            raise MethodError(
                "visiondrop: dominant >= 1 and contextual >= 0, together no more than before; "
                f"got {dominant} and {contextual}."
            )

    def fit(self, info: ModelInfo) -> Method:
        """This method with its layers fitted. Raises UnsupportedError if one is not in the model."""
        named = {f"layers[{i}]": layer for i, layer in enumerate(self._layers)}
        try:
            fitted = tuple(fit_layers(named, dict.fromkeys(named, "decoder"), info).values())
        except UnsupportedError as error:
            raise UnsupportedError(f"{self.id}: {error}") from None
        return self if fitted == self._layers else replace(self, layers=fitted)

    def needs(self, info: ModelInfo) -> tuple[str, ...]:
        inside = ("projection",) if self._layers else ()
        first = ("attention_received",) if self.falls_back(info) else ("class_token", "class_features")
        return (*first, "encoder_keys", "features", *inside)

    def remarks(self, info: ModelInfo) -> tuple[str, ...]:
        return ("attention received stands in for the class token",) if self.falls_back(info) else ()

    def falls_back(self, info: ModelInfo) -> bool:
        """Whether attention received takes the place of the class token's row."""
        return not info.has_class_token and (info.packs_pictures or self.cls_fallback == "received")

    def steps(self, info: ModelInfo, budget: Budget | None) -> tuple[Step, ...]:
        """One cut at the connector and one at each layer. Raises BudgetError where counts are given twice, or not."""
        if budget is not None and self.dominant is not None:
            raise BudgetError(
                f"visiondrop: dominant={self.dominant} fixes what is kept; leave out the keep of {budget}."
            )
        if budget is None and self.dominant is None and len(self._layers) != len(PAPER_LAYERS):
            raise BudgetError("visiondrop needs a keep, or dominant and contextual, for other than three layers.")
        captures = Captures(encoder=(self._encoder_layer(info),), class_features=info.has_class_token)
        out = [Step(self, "connector", 0, budget, self.reduce, captures)]
        for number, layer in enumerate(self._layers, start=1):
            cut = partial(self.reduce_inside, number)
            out.append(Step(self, "prefill", int(layer), budget, cut, Captures(), of_first=True))
        *earlier, last = enumerate(out)
        expected = [replace(step, expect=partial(self.expect, number)) for number, step in earlier]
        return (*expected, replace(last[1], count="exact"))

    def reduce(self, view: View, counts: Counts) -> Reduction:
        """The cut at the connector: the class token, dominant patches in raster order, then contextual tokens."""
        num_kept, num_contextual = self.planned(0, counts)
        with view.clock("score"):
            score = self.score(view)
        with view.clock("select"):
            has_class = view.info.has_class_token
            num_patches = [max(k - c - has_class, 0) for k, c in zip(num_kept, num_contextual, strict=True)]
            dominant = mask_of(top_indices(score, num_patches, view.mask), score.shape[1])
            centres = spaced_centres(view.mask & ~dominant, num_contextual)
            order = with_centres(dominant, centres, view.mask, num_kept, has_class)
            keys = view.encoder_keys(self._encoder_layer(view.info)).float().mean(dim=1)
            out = merged(view.features(), keys, view.mask & ~dominant, centres, order, num_kept, "encoder")
            if has_class:
                assert out.embeddings is not None
                out.embeddings[:, :1] = view.class_features()[:, None]
            return out

    def reduce_inside(self, number: int, view: View, counts: Counts) -> Reduction:
        """A cut in front of layer `layers[number - 1]`, of tokens in the order in which they stand in the sequence."""
        num_kept, num_contextual = self.planned(number, counts)
        with view.clock("score"):
            score, keys = self.score_inside(view, int(self._layers[number - 1]))
        with view.clock("select"):
            place = view.places("visual")
            line = torch.where(place < 0, torch.iinfo(place.dtype).max, place).argsort(dim=1, stable=True)
            num_dominant = [k - c for k, c in zip(num_kept, num_contextual, strict=True)]
            top = top_indices(score.gather(1, line), num_dominant, view.mask)  # padding is last in the line too
            dominant = mask_of(top, score.shape[1])
            centres = spaced_centres(view.mask & ~dominant, num_contextual)
            order = with_centres(dominant, centres, view.mask, num_kept)
            tokens, keys = (t.gather(1, across(line, t)) for t in (view.tokens.embeddings, keys))
            return unlined(merged(tokens, keys, view.mask & ~dominant, centres, order, num_kept, "projected"), line)

    def score(self, view: View) -> Float[Tensor, "B V"]:
        """Sum over heads of the class token's attention to each patch, or what stands in for it."""
        layer = self._encoder_layer(view.info)
        if self.falls_back(view.info):
            return view.attention_received(layer)
        return view.class_attention(layer).float().sum(dim=1)

    def score_inside(self, view: View, layer: int) -> tuple[Float[Tensor, "B V"], Float[Tensor, "B V D"]]:
        """Attention that each token receives of the item's tokens in a layer about to run; its key, mean over heads."""
        query, key = view.project(layer, rotate=True)
        place, everywhere = view.places("visual"), view.places("all")
        length = key.shape[2]
        seen = torch.full((len(key), length + 1), -1, device=key.device)
        seen = seen.scatter(1, torch.where(everywhere < 0, length, everywhere), everywhere)[:, :length]
        query = query.gather(2, place.clamp(min=0)[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3]))
        scale = view.attention_scale(layer) or query.shape[3] ** -0.5
        received = attention_from(query, key, scale, place, seen, self.causal)
        keys = key.float().mean(dim=1)
        return received.gather(1, place.clamp(min=0)), keys.gather(1, across(place, keys))

    def planned(self, number: int, counts: Counts) -> tuple[tuple[int, ...], list[int]]:
        """Tokens of each item after cut `number`, 0 at the connector; and how many of them are contextual.

        Raises BudgetError where given numbers are more than there are.
        """
        there = counts.num_tokens
        if not counts.asked:
            given = zip(self.dominant or PAPER_DOMINANT, self.contextual or PAPER_CONTEXTUAL, strict=True)
            dominant, contextual = list(given)[number]
            if dominant + contextual > min(there, default=dominant + contextual):
                raise BudgetError(
                    f"visiondrop: {dominant} dominant and {contextual} contextual tokens of a picture that has "
                    f"{min(there)}; give a keep, or smaller numbers."
                )
            return (dominant + contextual,) * len(there), [contextual] * len(there)
        asked = zip(counts.num_keep, there, strict=True)
        kept = tuple(min(schedule(k, len(self._layers))[number], n) for k, n in asked)
        share = 7.5 if self._layers else 6.4  # VisionZip's 10 of 64
        contextual_of = [max(0, min(round(k / share), k - 1)) for k in kept]
        if number:  # nothing to merge
            contextual_of = [c if k < n else 0 for c, k, n in zip(contextual_of, kept, there, strict=True)]
        return kept, contextual_of

    def expect(self, number: int, counts: Counts, layout: Layout) -> float:
        """Tokens that cut `number` leaves, which the counts of the last cut decide."""
        return float(sum(self.planned(number, counts)[0]))

    def _encoder_layer(self, info: ModelInfo) -> int:
        return info.global_layers[-1] if self.falls_back(info) and info.global_layers else info.feature_layer

    @property
    def _layers(self) -> tuple[int, ...]:
        return PAPER_LAYERS if self.layers is None else self.layers


def schedule(last: int, cuts: int) -> tuple[int, ...]:
    """Tokens after the connector and after each of `cuts` further cuts, the last of which leaves `last`.

    >>> schedule(19, 3)
    (48, 35, 26, 19)
    """
    least = max(last, int((last - 1) / DECAY**cuts))
    first = next(n for n in count(least) if round(n * DECAY**cuts) >= last or n == last == 1)
    return tuple(max(min(last, 1), round(first * DECAY**i)) for i in range(cuts + 1))


def merged(
    tokens: Float[Tensor, "B V C"],
    keys: Float[Tensor, "B V D"],
    rest: Bool[Tensor, "B V"],
    centres: Int[Tensor, "B M"],
    order: Int[Tensor, "B K"],
    num_kept: tuple[int, ...],
    space: Space,
) -> Reduction:
    """The sequence `order`, with the mean of those of the `rest` added to each centre whose keys are most like its."""
    target = nearest_centres(keys, centres, rest & ~mask_of(centres, rest.shape[1]))
    return merge_into_centres(tokens, order, centres, target, num_kept, space)


def unlined(reduction: Reduction, line: Int[Tensor, "B V"]) -> Reduction:
    """A reduction of tokens that stood in a line as one of the tokens themselves."""
    order, source = reduction.order, reduction.source
    assert order is not None
    assert source is not None

    def named(index: Int[Tensor, "B K"]) -> Int[Tensor, "B K"]:
        return torch.where(index < 0, -1, line.gather(1, index.clamp(min=0)))

    keep = torch.zeros_like(reduction.keep).scatter(1, line, reduction.keep)
    return replace(
        reduction, keep=keep, order=named(order), source=torch.zeros_like(source).scatter(1, line, named(source))
    )
