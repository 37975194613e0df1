"""MMTok: keep the tokens that together cover the words of the question and the whole picture best.

Paper    Dong et al., August 2025, ICLR 2026, arXiv:2508.18264
Acts     connector, once, for each question anew
Needs    projected tokens, encoder features, embeddings of the question; with `text="clean"` or "raw" its words
Differs  by default the question is every text token behind the picture, template included. `text="clean"` is the
         authors' choice of words for LLaVA, `text="raw"` theirs for Qwen2.5-VL: "Question: " and the question as it
         is. Without text only the picture is covered. Patches that only pad a picture to a square are not excluded by
         the method, because current processors crop; `picks` can be told them. The authors keep k tokens of every
         crop: that is scope `tile`. Of several pictures each has its own count.
         V (V + T) numbers are held and read once a pick: 33 MiB an item at V = 2,880, 400 MB at 10,000
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.budget import Counts
from ..core.cards import Card
from ..core.contracts import Selector
from ..core.errors import MethodError
from ..core.model_info import ModelInfo
from ..core.registry import register
from ..core.view import View
from ..ops.greedy import cover_most
from ..ops.similarity import cosine_similarity

TEXTS = ("ids", "clean", "raw")
NO_QUESTION = "What do you see in this image?"
PLACEHOLDERS = re.compile(r"^(?:\s*<[^<>]*(?:image|video|vision)[^<>]*>)+", re.IGNORECASE)
FORMATS = re.compile(  # what LLaVA's questions end with
    r"answer the question using a single word or phrase\.?"
    r"|answer with the option.s letter from the given choices directly\.?",
    re.IGNORECASE,
)
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the, is are was were be been being, have has had do does did, it they he she we you i, "
        "what where when why how who which, and or but so if then, question answer, "
        "to for with by from at into onto upon",
    )
)
BLOCK_ELEMENTS = 2**24  # similarities computed at once: 64 MiB of float32


@register
@dataclass(frozen=True)
class MMTok(Selector):
    text: str = "ids"  # "ids": all text behind the picture; "clean": its words without stop words; "raw": as for Qwen
    text_temperature: float | None = None  # tau_t; None: 0.01 for packed encoders (Qwen), 0.02 for the others
    vision_temperature: float = 0.2  # tau_v
    vision_weight: float = 0.5  # alpha
    extra_text: str = ""  # words that a small model drafts as an answer; for "clean"

    card = Card(
        title="MMTok",
        paper="2508.18264",
        year=2025,
        stages=("connector",),
        needs=("features", "text"),
        rounding="floor",
        rounding_source="int(ratio * N) in the authors' code for Qwen2.5-VL",
        cost="heavy",
        prompt_dependent=True,
        newlines="drop",
        nearest="divprune",
    )

    def __post_init__(self) -> None:
        if self.text not in TEXTS:
            raise MethodError(f"mmtok: text must be one of {', '.join(TEXTS)}; got {self.text!r}.")
        if self.extra_text and self.text != "clean":
            raise MethodError(f"mmtok: extra_text is added to words, with text='clean'; got text={self.text!r}.")
        for name in ("text_temperature", "vision_temperature"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise MethodError(f"mmtok: {name} must be > 0; got {value}.")
        if not self.vision_weight >= 0:
            raise MethodError(f"mmtok: vision_weight must be >= 0; got {self.vision_weight}.")

    def needs(self, info: ModelInfo) -> tuple[str, ...]:
        return self.card.needs if self.text == "ids" else (*self.card.needs, "words")

    def select(self, view: View, counts: Counts) -> Int[Tensor, "B K"]:
        """Greedy coverage of the question and the picture."""
        return self.picks(view, counts)

    def picks(self, view: View, counts: Counts, excluded: Bool[Tensor, "B V"] | None = None) -> Int[Tensor, "B K"]:
        """What `select` picks; tokens in `excluded` are covered, but never picked."""
        return cover_most(self.worth(view), counts.num_keep, view.mask if excluded is None else view.mask & ~excluded)

    def worth(self, view: View) -> Float[Tensor, "B V R"]:
        """What each token is worth to each of R targets, T text tokens and all V tokens of the picture."""
        text, is_text = self.text_of(view)
        num_text, mask = text.shape[1], view.mask
        out = torch.zeros(*mask.shape, num_text + (mask.shape[1] if self.vision_weight else 0), device=mask.device)
        temperature = self.text_temperature or (0.01 if view.info.packs_pictures else 0.02)
        share_out(text, is_text, view.tokens.embeddings, mask, temperature, 1.0, out[:, :, :num_text])
        if self.vision_weight:
            features = view.features()
            share_out(features, mask, features, mask, self.vision_temperature, self.vision_weight, out[:, :, num_text:])
        return out

    def text_of(self, view: View) -> tuple[Float[Tensor, "B T C"], Bool[Tensor, "B T"]]:
        """Embeddings of what stands for the question, and their mask."""
        if self.text == "ids":
            return view.text_embeddings("question")
        questions = view.words("question")
        if self.text == "raw":
            return view.embed([f"Question: {q.strip() or NO_QUESTION}" for q in questions])
        return view.embed([f"{content_words(q)} {self.extra_text}".strip() for q in questions])


def content_words(question: str) -> str:
    """The question without placeholders, format instructions and stop words; without the latter if nothing is left.

    >>> content_words("What is the color of the cat?\\nAnswer the question using a single word or phrase.")
    'color of cat'
    """
    text = FORMATS.sub(" ", PLACEHOLDERS.sub("", question)).strip() or NO_QUESTION
    return " ".join(w for w in re.findall(r"\w+", text) if w.lower() not in STOP_WORDS) or text


def share_out(
    targets: Float[Tensor, "B R C"],
    is_target: Bool[Tensor, "B R"],
    tokens: Float[Tensor, "B V C"],
    mask: Bool[Tensor, "B V"],
    temperature: float,
    total: float,
    out: Float[Tensor, "B V R"],
) -> None:
    """Write into `out` how the targets of an item, each with an equal part of `total`, share it out among tokens.

    The shares of a target are a softmax of its cosines to the real tokens over the temperature.
    """
    part = total * is_target / is_target.sum(dim=1, keepdim=True).clamp(min=1)  # [B, R]
    block = max(1, BLOCK_ELEMENTS // max(1, mask.numel()))
    for start in range(0, targets.shape[1], block):
        logits = cosine_similarity(tokens, targets[:, start : start + block]) / temperature
        shares = logits.masked_fill(~mask[:, :, None], -torch.inf).softmax(dim=1)
        out[:, :, start : start + block] = shares * part[:, None, start : start + block]
