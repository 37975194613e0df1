"""TransPrune: keep the tokens that the layers change most and that the instruction attends to, in three cuts.

Paper    Li et al., CVPR 2026, arXiv:2507.20630
Acts     prefill, in front of decoder layers 7, 9 and 12 of 32: behind the paper's 7, 9 and 12 executed layers
Needs    what goes into attention and feed-forward of layers 6 to 11 and what comes out; the attention rows of the text
         behind the picture in each layer about to run, unless `alpha` is 1
Differs  the paper takes 1 - |cos|, the authors' code 1 - cos: the code is followed, `abs_cos` is the paper's. The code
         serves one prompt with one picture; here every prompt of a batch has a softmax of its own over its real tokens,
         and all its visual tokens compete. A token that a module is given as zeros has no variation. A prompt without
         text behind its picture is ranked by variation alone, as with alpha = 1. Where a family norms what a module
         gives before it adds it (Gemma 3, GLM-4V), Y is what the module itself gives. Layers that are accumulated
         follow the cuts: from the one before the first cut to the one before the last. A keep is what the last cut
         leaves, 1/8 being the paper's, and scales the other ratios; the authors' lower budget is not released, ratios
         (0.5, 0.25, 0.0625) have its average. Positions are re-indexed at every cut, as the authors do, unless the user
         says otherwise
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..core.cards import Card
from ..core.errors import MethodError
from ..core.model_info import ModelInfo, PaperLayer
from ..core.progressive import Progressive
from ..core.registry import register
from ..core.view import Point, View
from ..ops.normalising import softmax

MODULES = ("self_attn", "mlp")
EPS = 1e-8


@register
@dataclass(frozen=True)
class TransPrune(Progressive):
    layers: tuple[int, ...] = tuple(PaperLayer(n, depth=32) for n in (7, 9, 12))  # the paper's P, executed layers
    accumulate: tuple[int, ...] | None = field(default=None, metadata={"layer_of": "decoder"})  # A, 0-based; None: all
    alpha: float = 0.5  # share of the variation in the score; 1: no attention is read
    abs_cos: bool = False  # 1 - |cos| in the softmax, as the paper writes

    paper_ratios: ClassVar[tuple[float, ...]] = (0.875, 0.625, 0.125)
    card = Card(
        title="TransPrune",
        paper="2507.20630",
        year=2025,
        stages=("prefill",),
        needs=("projection", "decoder_rows"),
        count="adaptive",
        count_reason="without a keep the paper's ratios; with one the last cut leaves exactly that",
        exact_with_keep=True,
        rounding="floor",
        rounding_source="int(n * ratio) in the authors' code",
        prompt_dependent=True,
        newlines="compete",
        scope="prompt",
        unit="prompt",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise MethodError(f"transprune: alpha is a share in [0, 1]; got {self.alpha}.")
        given, first, last = self.accumulated, int(self.layers[0]), int(self.layers[-1])
        ascend = bool(given) and list(given) == sorted(set(given)) and given[0] >= 0
        if not (ascend and given[0] < first and given[-1] < last):
            raise MethodError(
                f"transprune: accumulate must ascend, begin in front of the first cut (a layer below {first}) and end "
                f"in front of the last (below {last}); got {given}."
            )

    @property
    def accumulated(self) -> tuple[int, ...]:
        """Layers whose variation is summed; by default from the one before the first cut to that before the last."""
        if self.accumulate is None:
            return tuple(range(int(self.layers[0]) - 1, int(self.layers[-1])))
        return tuple(map(int, self.accumulate))

    def needs(self, info: ModelInfo) -> tuple[str, ...]:
        return () if self.alpha == 1 else self.card.needs

    def observes(self, info: ModelInfo) -> tuple[Point, ...]:
        return tuple(Point(layer, module) for layer in self.accumulated for module in MODULES)

    def observe(
        self, view: View, point: Point, inputs: Float[Tensor, "B S C"], outputs: Float[Tensor, "B S C"]
    ) -> None:
        """Add the variation of the visual tokens in one module to that of the modules before it."""
        variation = transition_variation(inputs, outputs, real_tokens(view, inputs.shape[1]), self.abs_cos)
        visual = variation.gather(1, view.places("visual").clamp(min=0))
        view.state["variation"] = view.state["variation"] + visual if "variation" in view.state else visual

    def score(self, view: View) -> Float[Tensor, "B V"]:
        """`alpha` of the variation and the rest of the attention of the instruction, each as shares of its sum."""
        variation = shares(view.state["variation"], view.mask)
        if self.alpha == 1:
            return variation
        asking = behind(view)
        alpha = torch.where(asking.any(dim=1, keepdim=True), self.alpha, 1.0)
        return alpha * variation + (1 - alpha) * guided_attention(view, asking)


def transition_variation(
    inputs: Float[Tensor, "B S C"], outputs: Float[Tensor, "B S C"], real: Bool[Tensor, "B S"], abs_cos: bool = False
) -> Float[Tensor, "B S"]:
    """TTV of a module: `softmax(1 - cos(x, y)) |y| / |x|`, the softmax over the real tokens of each sequence.

    >>> x = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> transition_variation(x, 3 * x, torch.ones(1, 2, dtype=torch.bool))
    tensor([[1.5000, 1.5000]])
    """
    x, y = inputs.float(), outputs.float()
    before, after = x.norm(dim=2), y.norm(dim=2)
    cosine = (x * y).sum(dim=2) / (before.clamp(min=EPS) * after.clamp(min=EPS))
    weight = softmax(1 - (cosine.abs() if abs_cos else cosine), real)
    return torch.where(real & (before > 0), weight * after / before, 0)


def real_tokens(view: View, length: int) -> Bool[Tensor, "B S"]:
    """Which places of the current sequence hold a token; the others are padding."""
    place = view.places("all")
    real = torch.zeros(len(place), length + 1, dtype=torch.bool, device=place.device)
    return real.scatter(1, torch.where(place < 0, length, place), True)[:, :length]


def behind(view: View) -> Bool[Tensor, "B T"]:
    """Which text tokens stand behind the last visual token: the instruction."""
    return view.places("text") > view.places("visual").amax(dim=1, keepdim=True)


def guided_attention(view: View, asking: Bool[Tensor, "B T"]) -> Float[Tensor, "B V"]:
    """IGA: attention of the text `asking` to each token in the next layer, mean over heads and text, as shares."""
    rows = view.attention_rows(view.at_layer, queries="text").mean(dim=1)  # [B, Q, V]
    asking = asking[:, : rows.shape[1]]  # places may be padded further
    total = rows.masked_fill(~asking[:, :, None], 0).sum(dim=1)
    return shares(total / asking.sum(dim=1, keepdim=True).clamp(min=1), view.mask)


def shares(values: Float[Tensor, "B V"], mask: Bool[Tensor, "B V"]) -> Float[Tensor, "B V"]:
    """Values of the real tokens over their sum."""
    values = values.masked_fill(~mask, 0)
    return values / (values.sum(dim=1, keepdim=True) + EPS)
