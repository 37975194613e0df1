"""A tokenizer for the tiny models, whose tokens are words."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from .tiny import BOS, VOCABULARY


def tokenizer() -> PreTrainedTokenizerFast:
    """Words w6, w7, ... for the tokens of the tiny model; the first six are special, and one begins every text."""
    special = ["<pad>", "<s>", "</s>", "<3>", "<4>", "<image>"]
    words = {w: i for i, w in enumerate([*special, *(f"w{n}" for n in range(len(special), VOCABULARY))])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<3>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<3>"
    )
