"""Build the small LLaVA: configuration, tokenizer, processor; save it as an ordinary Hugging Face folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from tessella.mini.questions import list_texts
from tessella.mini.world import PATCH, SIDE

PAD, BOS, END, IMAGE, USER, ASSISTANT = "<pad>", "<s>", "</s>", "<image>", "<user>", "<assistant>"
SPECIAL_TOKENS = (PAD, BOS, END, IMAGE, USER, ASSISTANT)
MAX_POSITIONS = 2048
NUM_VISUAL = (SIDE // PATCH) ** 2
# Pixels map to [-2, 2]; the grounds are dim and the colours bright.
IMAGE_MEAN, IMAGE_STD = (0.4, 0.4, 0.4), (0.3, 0.3, 0.3)
# A word with its space and at most one capital in front, or one digit, one capital, or a run of anything else.
PIECES = r" ?\p{Lu}?\p{Ll}+|\p{N}|\p{Lu}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+|\p{L}+"
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{%- for message in messages -%}"
    "{{ '<user>' if message['role'] == 'user' else '<assistant>' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}"
    "{%- endfor -%}{%- endif -%}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}"
    "{%- endfor -%}"
    "{{ '<assistant>' if add_generation_prompt else '' }}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE in which each word of the questions is one token, each capital letter and digit another."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    texts = list_texts()
    texts += [text[0].upper() + text[1:] for text in texts if text.endswith("?")]
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        min_frequency=1,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=END,
        additional_special_tokens=[IMAGE, USER, ASSISTANT],
        padding_side="left",
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def build_processor() -> LlavaProcessor:
    """Resize to 112 x 112, normalise, put 196 placeholders for a picture, write the chat."""
    image_processor = CLIPImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=list(IMAGE_MEAN),
        image_std=list(IMAGE_STD),
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
        num_additional_image_tokens=1,
    )


def build_config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=128,
        hidden_act="gelu",
    )
    bos, end, pad = (tokenizer.convert_tokens_to_ids(token) for token in (BOS, END, PAD))
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=bos,
        eos_token_id=end,
        pad_token_id=pad,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=NUM_VISUAL,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
    )


def build_model(processor: LlavaProcessor, seed: int = 0) -> LlavaForConditionalGeneration:
    """The untrained model in float32; every matrix starts with a standard deviation of 1 / sqrt(inputs)."""
    torch.manual_seed(seed)
    config = build_config(processor.tokenizer)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 4 or (weight.ndim == 2 and "embed" not in name and "lm_head" not in name):
                weight.normal_(std=weight[0].numel() ** -0.5)
                if name.endswith(("out_proj.weight", "fc2.weight", "o_proj.weight", "down_proj.weight")):
                    weight.mul_(0.3)
            elif weight.ndim == 1 and name.endswith("bias"):
                weight.zero_()
        model.model.vision_tower.embeddings.position_embedding.weight.normal_(std=0.3)
        model.model.language_model.embed_tokens.weight.normal_(std=0.05)
    tokenizer = processor.tokenizer
    model.generation_config = GenerationConfig(
        bos_token_id=config.text_config.bos_token_id,
        eos_token_id=config.text_config.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=16,
        do_sample=False,
    )
    return model


def save(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """Write bfloat16 weights, configurations and the processor; each file is replaced whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        fresh = Path(name)
        state = {key: value.detach().to(torch.bfloat16) for key, value in model.state_dict().items()}
        half = LlavaForConditionalGeneration(model.config).to(torch.bfloat16)
        half.load_state_dict(state)
        half.generation_config = model.generation_config
        half.save_pretrained(fresh)
        processor.save_pretrained(fresh)
        for file in sorted(fresh.iterdir()):
            shutil.copyfile(file, folder / (file.name + ".part"))
            os.replace(folder / (file.name + ".part"), folder / file.name)
