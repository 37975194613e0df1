"""QuoTA: frames that matter to the question get more visual tokens, by resizing the grid of each.

Paper    Wang et al., March 2025, arXiv:2503.08689
Acts     input: frames are encoded, each grid is resized to its share of one budget, and the prompt follows
Needs    one picture a frame; a relevance of each frame to the question
Differs  the paper asks a second model, Qwen2-VL-2B, for the probability of 'yes': give such a model as `judge`. Without
         one the answering model's own attention serves (`scorer="attention"`: the share of each frame in what the last
         token looks at in decoder layer `score_layer`, untrained for this), or a text tower (`scorer="tower"`: a
         softmax of similarities). Neither decouples the question: `decoupling_prompt`, `objects_in` and
         `judge_question` are the paper's steps for a judge of yours. The budget is the keep over the whole prompt;
         everything kept is the prompt as it is. Grids that are not square keep their proportions. No newlines: the
         models that can carry this have none. A frame without tokens keeps its place in the report. `v5` merges within
         rows, then within columns, and leaves the order of places, which the specification leaves open. Clips are
         refused: give their frames as pictures
Names    scale, power: those of (100 P)^2; resizer: the authors' v1 to v5; cap: theirs is off for v1 alone
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.budget import Counts
from ..core.cards import Card
from ..core.contracts import Rewriter
from ..core.errors import MethodError
from ..core.model_info import ModelInfo, PaperLayer
from ..core.registry import register
from ..core.rewriting import Draft, Grid
from ..ops import resizing

Judge = Callable[[Sequence[Tensor], str], Sequence[float]]  # frames [c, h, w] and the question -> scores in [0, 1]
SCORERS = ("attention", "tower")
RESIZERS: Final = {  # the authors' names
    "v1": resizing.interpolated,
    "v2": resizing.averaged,
    "v3": resizing.spaced,
    "v4": resizing.merged,
    "v5": resizing.merged_by_line,
}


@register
@dataclass(frozen=True)
class Quota(Rewriter):
    resizer: str = "v1"
    scale: float = 100.0
    power: float = 2.0
    cap: bool | None = None  # no frame gets more tokens than it has; None: as the authors have it for the resizer
    scorer: str = "attention"
    score_layer: int = PaperLayer(12, depth=32)  # ours, by what the embedded model shows
    judge: Judge | None = None  # instead of `scorer`

    card = Card(
        title="QuoTA",
        stages=("input",),
        paper="2503.08689",
        year=2025,
        needs=("pixels", "grid", "text", "made_tokens"),
        count="at_most",
        count_reason="a frame's share is rounded down, and then to rows x columns of its new grid",
        scope="prompt",
        unit="image",
        prompt_dependent=True,
        nearest="downsample",
    )

    def __post_init__(self) -> None:
        for name, given, allowed in (("resizer", self.resizer, tuple(RESIZERS)), ("scorer", self.scorer, SCORERS)):
            if given not in allowed:
                raise MethodError(f"quota: {name} must be one of {', '.join(allowed)}; got {given!r}.")
        if self.cap is False and self.resizer not in ("v1", "v2"):
            raise MethodError(f"quota: {self.resizer} picks or merges tokens, so cap=False is for v1 and v2 alone.")
        if not self.power > 0 or not self.scale > 0:
            raise MethodError(f"quota: scale and power must be > 0; got {self.scale} and {self.power}.")

    @property
    def is_capped(self) -> bool:
        """Whether a frame may not get more tokens than it has."""
        return self.resizer != "v1" if self.cap is None else self.cap

    def needs(self, info: ModelInfo) -> tuple[str, ...]:
        tower = self.judge is None and self.scorer == "tower"
        return (*self.card.needs, *(("text_tower",) if tower else ("words",) if self.judge else ()))

    def rewrite(self, draft: Draft, counts: Counts) -> Draft:
        """Every frame's grid at its share of the prompt's budget."""
        if counts.is_everything:
            return draft
        frames = draft.encode(draft.pictures)
        blocks = [block for row in draft.layout.blocks for block in row]
        scores = self.scores(draft, frames)
        out: list[list[tuple[Grid, ...]]] = []
        for here in prompts_of(draft):
            budget, sizes = sum(counts.num_keep[here]), counts.num_tokens[here]
            for i, count in enumerate(self.counts(scores[here], sizes, budget), start=here.start):
                out.append([(self.resized(frames[i], blocks[i].rows, blocks[i].columns, count, draft.pictures[i]),)])
        return draft.replace(out)

    def scores(self, draft: Draft, frames: Sequence[Float[Tensor, "_ C"]]) -> list[float]:
        """The relevance of each frame, in [0, 1], to the question of its prompt."""
        read = self._judged if self.judge is not None else self._alike if self.scorer == "tower" else self._attended
        return [score for given, images in read(draft, frames) for score in checked(given, images)]

    def _judged(self, draft: Draft, frames: Sequence[Tensor]) -> Iterator[tuple[Sequence[float], int]]:
        assert self.judge is not None
        for prompt, here in enumerate(prompts_of(draft)):
            if draft.pictures[here]:
                pictures = draft.pictures[here]
                yield self.judge(pictures, draft.question(prompt)), len(pictures)

    def _alike(self, draft: Draft, frames: Sequence[Tensor]) -> Iterator[tuple[Sequence[float], int]]:
        alike = draft.text_similarity()
        for here in prompts_of(draft):
            if alike[here]:
                yield torch.stack(alike[here]).mul(self.scale).softmax(dim=0).tolist(), len(alike[here])

    def _attended(self, draft: Draft, frames: Sequence[Tensor]) -> Iterator[tuple[Sequence[float], int]]:
        products = draft.last_attention(frames, self.score_layer)
        for here in prompts_of(draft):
            if products[here]:
                shares = torch.cat(products[here], dim=1).softmax(dim=1).mean(dim=0)
                parts = shares.split([p.shape[1] for p in products[here]])
                yield torch.stack([part.sum() for part in parts]).clamp(max=1).tolist(), len(parts)

    def counts(self, scores: Sequence[float], sizes: Sequence[int], budget: int) -> list[int]:
        """Tokens of each frame, of whose `sizes` there are, out of a budget."""
        shares = shares_of(self.weights(scores))
        return tokens_of(capped(shares, sizes, budget) if self.is_capped else shares, budget)

    def weights(self, scores: Sequence[float]) -> list[float]:
        """(scale P)^power."""
        return [(self.scale * p) ** self.power for p in scores]

    def resized(
        self, tokens: Float[Tensor, "N C"], rows: int, columns: int, count: int, picture: Float[Tensor, "c _ _"]
    ) -> Grid:
        """A frame's grid at `count` tokens at most; one without any keeps a single token, which is cut."""
        if count == 0:
            return Grid(tokens[:1], 1, 1, picture, kept=torch.zeros(1, dtype=torch.bool))
        made = RESIZERS[self.resizer](tokens.float().unflatten(0, (rows, columns)), count).to(tokens.dtype)
        return Grid(made.flatten(0, 1), made.shape[0], made.shape[1], picture)


# -- how many tokens a frame gets --------------------------------------------------------------------------------------


def prompts_of(draft: Draft) -> list[slice]:
    """Where the frames of each prompt stand among all."""
    ends = list(accumulate(draft.layout.num_images, initial=0))
    return [slice(first, end) for first, end in pairwise(ends)]


def checked(scores: Sequence[float], num_frames: int) -> list[float]:
    """Scores of a prompt's frames as numbers. Raises MethodError unless there is one in (0, 1] for each."""
    out = [float(s) for s in scores]
    if len(out) != num_frames:
        raise MethodError(f"quota: a judge must give one score a frame, {num_frames}; got {len(out)}.")
    wrong = [s for s in out if not 0 <= s <= 1]
    if wrong or not any(out):
        raise MethodError(f"quota: scores must lie in [0, 1], and not all at 0; got {(wrong or out)[0]}.")
    return out


def shares_of(weights: Sequence[float]) -> list[Fraction]:
    """Weights over their sum, exactly."""
    exact = [Fraction(w) for w in weights]
    return [w / sum(exact) for w in exact]


def capped(shares: Sequence[Fraction], sizes: Sequence[int], budget: int) -> list[Fraction]:
    """Shares of frames that get at most as many tokens as they have.

    What is cut off goes to the frames below their cap, in one pass: to each as much of it as it has of all the shares
    that are left, so that what would go to frames at their cap is lost.
    """
    caps = [Fraction(n, budget) for n in sizes]
    cut = [min(s, c) for s, c in zip(shares, caps, strict=True)]
    more = (sum(shares) - sum(cut)) / sum(cut)
    return [min(s * (1 + more), c) if s < c else c for s, c in zip(cut, caps, strict=True)]


def tokens_of(shares: Sequence[Fraction], budget: int) -> list[int]:
    """Whole tokens of each share of a budget, rounded down."""
    return [math.floor(s * budget) for s in shares]


# -- what a judge may be asked -----------------------------------------------------------------------------------------


def decoupling_prompt(question: str) -> str:
    """What to ask the answering model, without any picture, to learn which objects a question is about."""
    return (
        "You will read a question about a video that you cannot see. Work in three numbered steps.\n"
        "Step 1: must something that has a shape be found in the frames to answer it? Write yes or no.\n"
        "Step 2: list all such things in square brackets.\n"
        "Step 3: repeat the list without what is abstract, such as feelings, numbers or events.\n\n"
        "Question: which colour is the bus behind the cyclist?\n"
        "Step 1: yes\nStep 2: ['bus', 'cyclist']\nStep 3: ['bus', 'cyclist']\n\n"
        "Question: how does the speaker's mood change?\n"
        "Step 1: yes\nStep 2: ['speaker', 'mood']\nStep 3: ['speaker']\n\n"
        "Question: what is the video about?\n"
        "Step 1: no\nStep 2: []\nStep 3: []\n\n"
        f"Question: {question.strip()}\n"
    )


def objects_in(answer: str) -> tuple[str, ...]:
    """The objects of an answer to `decoupling_prompt`; none where it says no, or cannot be read.

    >>> objects_in("STEP 1: Yes. Step 2: ['cat', 'joy'] step 3: ['cat']")
    ('cat',)
    """
    found = re.search(r"step\s*3\s*:\s*(\[[^\]]*\])", answer, flags=re.IGNORECASE)
    if found is None or not re.search(r"step\s*1\s*:\s*yes\b", answer, flags=re.IGNORECASE):
        return ()
    try:
        listed = ast.literal_eval(found[1])
    except (ValueError, SyntaxError):
        listed = [part.strip(" '\"") for part in found[1][1:-1].split(",")]
    return tuple(item.strip() for item in listed if isinstance(item, str) and item.strip())


def judge_question(question: str, objects: Sequence[str] = ()) -> str:
    """What to ask a judge about one frame; its score is the probability of the letter A.

    >>> judge_question("Who wins?", ["runner"])
    'Can any of these be seen in the image: runner? Answer with the letter alone. A. yes B. no'
    """
    if objects:
        asked = f"Can any of these be seen in the image: {', '.join(objects)}?"
    else:
        asked = f"{question.strip()} Does the image show enough to answer this?"
    return f"{asked} Answer with the letter alone. A. yes B. no"
