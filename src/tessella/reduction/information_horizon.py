"""Information horizon: any method first, and tokens drawn at random where no criterion is better than chance.

Paper    Wang et al., "When Token Pruning is Worse than Random: Understanding Visual Token Information in VLLMs", CVPR
         2026, arXiv:2512.07580. Here is its pruning, "+Random"; calibration finds the horizon of a model
Acts     where its method acts, then prefill, in front of decoder layer `at_layer`: 20 of 28, or 16 of 32
Needs    what its method needs
Differs  there is no authors' code, and the paper gives its layers in words and its shares not at all. A keep is what is
         left behind the horizon: the method is asked for keep / share, at most for everything, and the draw leaves
         exactly the keep, or less where the method has left less. Without a keep, for a method that needs none, the
         draw leaves `share` of what it finds. Draws are made in each group in which the method chooses. A share of 0
         takes everything away at the horizon, and the keep is the method's; 1.0 keeps everything nevertheless. Kept
         tokens keep their positions
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.budget import Budget, Counts, round_count
from ..core.cards import Card, Count
from ..core.contracts import Method, Rewriter, Step, keep_highest
from ..core.errors import BudgetError, MethodError, UnsupportedError
from ..core.layout import Layout
from ..core.model_info import ModelInfo, PaperLayer
from ..core.reduction import Reduction
from ..core.registry import register
from ..core.view import Captures, Point, View

HORIZONS = {  # by task: Qwen2.5-VL-7B, then LLaVA-1.5-7B
    None: (PaperLayer(20, depth=28), PaperLayer(16, depth=32)),
    "ocr": (PaperLayer(27, depth=28), PaperLayer(24, depth=32)),
}


@register
@dataclass(frozen=True)
class InformationHorizon(Method):
    method: Method  # that prunes in front of the horizon
    at_layer: int | None = None  # the horizon h; None: the paper's for the task
    share: float = 0.5  # of the tokens in front of the horizon that are left behind it
    task: str | None = None  # "ocr": the horizon for reading, which lies deeper
    seed: int = 0  # of the draw; give another one to a method that draws too

    card = Card(
        title="Information horizon",
        paper="2512.07580",
        year=2025,
        stages=("connector", "prefill"),
        positions="original",
        example="information_horizon(method=divprune)",
    )

    def __post_init__(self) -> None:
        if not isinstance(self.method, Method):
            raise MethodError(f"information_horizon: method is a method that cuts tokens; got {self.method!r}.")
        if isinstance(self.method, Rewriter):
            raise MethodError(
                f"information_horizon: {self.method.id} rewrites inputs; write it in front: "
                f"'{self.method.id} | information_horizon(method=none)'."
            )
        if self.at_layer is not None and self.at_layer < 1:
            raise MethodError(f"information_horizon: at_layer must be >= 1; got {self.at_layer}.")
        if not 0 <= self.share <= 1:
            raise MethodError(f"information_horizon: share lies in [0, 1]; got {self.share}.")
        if self.task not in HORIZONS:
            raise MethodError(f"information_horizon: task must be None or 'ocr'; got {self.task!r}.")
        if self.seed < 0:
            raise MethodError(f"information_horizon: seed must be >= 0; got {self.seed}.")
        object.__setattr__(self, "card", self._card())  # of its method

    def fit(self, info: ModelInfo) -> Method:
        """Its method and the horizon fitted to a model: the paper's for that depth, else that of 28 layers, scaled."""
        if self.at_layer is not None:
            return super().fit(info)
        deep, shallow = HORIZONS[self.task]
        return replace(self, at_layer=shallow if info.num_layers == shallow.depth else deep).fit(info)

    def needs(self, info: ModelInfo) -> tuple[str, ...]:
        return self.method.needs(info)

    def captures(self, info: ModelInfo) -> Captures:
        return self.method.captures(info)

    def remarks(self, info: ModelInfo) -> tuple[str, ...]:
        return tuple(f"{self.method.id}: {remark}" for remark in self.method.remarks(info))

    def observes(self, info: ModelInfo) -> tuple[Point, ...]:
        return self.method.observes(info)

    def observe(
        self, view: View, point: Point, inputs: Float[Tensor, "B S C"], outputs: Float[Tensor, "B S C"]
    ) -> None:
        self.method.observe(view, point, inputs, outputs)

    def steps(self, info: ModelInfo, budget: Budget | None) -> tuple[Step, ...]:
        """The cuts of its method, and the draw.

        Raises BudgetError without a keep that the method needs, UnsupportedError where it cuts behind the horizon.
        """
        assert self.at_layer is not None, "fit() names the layer"
        if budget is None and self._needs_keep:
            raise BudgetError(f"information_horizon needs a keep for {self.method.id}: an int >= 1 or a fraction.")
        before = self.method.steps(info, self.budget_before(budget) if self.method.card.takes_keep else None)
        last = max(step.at_layer for step in before)
        if last >= self.at_layer:
            raise UnsupportedError(
                f"information_horizon draws in front of layer {self.at_layer}, and {self.method.id} still cuts in "
                f"front of layer {last}; give at_layer > {last}."
            )
        return (*before, self._draw(budget))

    def budget_before(self, budget: Budget | None) -> Budget | None:
        """What is asked of its method: keep / share, or everything if there is not as much."""
        if budget is None or not self.share:
            return budget
        more = Fraction(budget.keep) / Fraction(repr(float(self.share)))
        if isinstance(budget.keep, int):
            return Budget(round_count(more, "nearest"), budget.scope, capped=True)
        return Budget(min(more, Fraction(1)), budget.scope)

    def reduce(self, view: View, counts: Counts) -> Reduction:
        """The draw at the horizon."""
        if not self.share:
            return Reduction(torch.zeros_like(view.mask), (0,) * len(view.mask))
        with view.clock("select"):
            return Reduction(keep_highest(view.uniforms(self.seed), counts, mask=view.mask), counts.num_keep)

    def _draw(self, budget: Budget | None) -> Step:
        """The cut at the horizon."""
        step = Step(self, "prefill", int(self.at_layer or 0), budget, self.reduce, Captures())
        if not self.share:
            whole = budget if budget is not None and budget.is_everything else None
            return replace(step, budget=whole, count="adaptive", expect=expect_nothing)
        if budget is None:
            return replace(step, budget=Budget(self.share), count="exact")
        return replace(step, count="exact" if self._is_exact else "at_most", of_first=True)

    @property
    def _needs_keep(self) -> bool:
        return self.method.card.takes_keep and self.method.card.count != "adaptive"

    @property
    def _is_exact(self) -> bool:
        """Whether a keep is met exactly."""
        return self.share > 0 and self.method.card.promised_count(asked=True) == "exact"

    def _card(self) -> Card:
        """That of its method, but for the draw."""
        card = self.method.card
        count: Count = "adaptive" if not self._needs_keep else "exact" if self._is_exact else "at_most"
        return replace(
            type(self).card,
            stages=tuple(dict.fromkeys((*card.stages, "prefill"))),
            needs=card.needs,
            count=count,
            count_reason="" if count == "exact" else f"as many as {self.method.id} leaves, or a share of them",
            exact_with_keep=count == "adaptive" and self._is_exact,
            min_keep=card.min_keep if self.share else 0,
            rounding=card.rounding,
            rounding_source=card.rounding_source,
            cost=card.cost,
            prompt_dependent=card.prompt_dependent,
            newlines=card.newlines,
            thumbnails=card.thumbnails,
            scope=card.scope,
            unit=card.unit,
            nearest=card.nearest,
        )


def expect_nothing(counts: Counts, layout: Layout) -> float:
    """Tokens that are left where all go."""
    return 0.0
