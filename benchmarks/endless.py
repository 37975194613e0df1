"""Model folders for measuring a server: none of their models names a token that ends an answer, so all are as long."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from shapes import FIRST_WORD, IMAGE_TOKEN, Shape, build_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast
from transformers.utils import logging

from tessella import mini

IMAGE = "<image>"
MARKS = ("<pad>", "<s>", "</s>", "<unk>", "<ask>", IMAGE)  # in front of the words
CHAT = (
    "<s> {% for m in messages %}{% for part in m['content'] %}"
    "{{ '<image> ' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{% endfor %} <ask>"
)


def write_mini(folder: Path) -> None:
    """The embedded model, but for its end token: behind its short answers it writes on, whatever that is worth."""
    shutil.copytree(mini.path(), folder)
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        settings = json.loads(path.read_text(encoding="utf-8"))
        for part in (settings, settings.get("text_config", {})):
            part["eos_token_id"] = None
        path.write_text(json.dumps(settings), encoding="utf-8")


def write_shape(folder: Path, shape: Shape, seed: int = 0) -> None:
    """A model with random weights in bfloat16, and a processor whose words are 'w6', 'w7' and so on."""
    model = build_model(shape, torch.device("cpu"), torch.bfloat16, seed)
    model.config.text_config.eos_token_id = model.generation_config.eos_token_id = None
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    build_processor(shape).save_pretrained(folder)


def build_processor(shape: Shape) -> LlavaProcessor:
    """Pictures of the shape's size, and a word for each of its tokens."""
    words = [*MARKS, *(f"w{number}" for number in range(FIRST_WORD, shape.vocabulary))]
    assert words[IMAGE_TOKEN] == IMAGE
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<ask>", IMAGE],
        padding_side="left",
    )
    side = {"height": shape.image_size, "width": shape.image_size}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=side, crop_size=side, do_center_crop=False),
        tokenizer=tokenizer,
        patch_size=shape.patch_size,
        vision_feature_select_strategy="default",
        chat_template=CHAT,
        image_token=IMAGE,
        num_additional_image_tokens=1,
    )
