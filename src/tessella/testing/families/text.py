"""One word-level tokenizer for all tiny families: each adds the special tokens that its processor asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .parts import VOCABULARY

PAD, BOS, EOS, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
_TEXT = """
    a an the one two three four what which where who how is are was do does in on at of to and or not it this that
    there here red green blue yellow black white gray brown color shape size number picture video frame star circle
    square dog cat bird fish car boat tree house sun moon man woman child book cup door left right top bottom first
    last before after big small many some answer question user assistant system yes no : . , ? !"""
WORDS = tuple(_TEXT.split())

CHAT_TEMPLATE = """\
{%- for message in messages %}{{ message.role }} : \
{%- if message.content is string %} {{ message.content }}\
{%- else %}{% for part in message.content %} {{ media[part.type] or part.text }}{% endfor %}{% endif %} \
{% endfor %}{% if add_generation_prompt %}assistant :{% endif %}"""


def word_tokenizer(special: Mapping[str, str] | None = None, *, bos: bool = True) -> Any:
    """A `PreTrainedTokenizerFast` with VOCABULARY tokens: special ones, words, then numbers; all else is `<unk>`.

    `special` names further special tokens, e.g. {"image_token": "<image>"}: each becomes an attribute of the tokenizer.
    With `bos` a sequence begins with `<s>`.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = dict(special or {})
    tokens = (PAD, BOS, EOS, UNKNOWN, *special.values(), *WORDS, *map(str, range(VOCABULARY)))
    vocabulary = {token: n for n, token in enumerate(tokens[:VOCABULARY])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        extra_special_tokens=special,
    )


def chat_template(image: str = "<image>", video: str = "<video>") -> str:
    """A chat template that writes these placeholders where a message holds a picture or a clip."""
    return f'{{%- set media = {{"image": "{image}", "video": "{video}"}} %}}' + CHAT_TEMPLATE
