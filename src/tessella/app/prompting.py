"""From pictures and a question to the inputs of a model, with every limit checked before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from ..core.errors import InputError
from ..pictures.opening import MAX_PIXELS

Part = str | Image.Image
FALLBACK = "USER: {prompt} ASSISTANT:"  # for processors without a chat template


def check_question(question: str) -> None:
    """Raise InputError for a question that is empty or holds bytes that are no text."""
    if not isinstance(question, str) or not question.strip():
        raise InputError("the question is empty; give a text such as 'what color is the star?'.")
    try:
        question.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError("the question holds bytes that are not UTF-8 text.") from None


def check_room(model: Any, processor: Any, question: str, max_new_tokens: int = 1) -> None:
    """Raise InputError if the question alone is longer than the model reads; cheap, before pictures are processed."""
    marker = getattr(processor, "image_token", None)
    if marker and marker in question:
        raise InputError(
            f"the question holds the picture marker {marker!r}; leave it out, it is added for each picture."
        )
    tokens = len(processor.tokenizer(question, add_special_tokens=False, verbose=False)["input_ids"])
    _check_length(model, tokens, 0, max_new_tokens)


def prepare(
    model: Any,
    processor: Any,
    pictures: Sequence[Sequence[Image.Image]],
    questions: Sequence[str],
    max_new_tokens: int,
) -> Any:
    """Inputs for `generate` on the model's device: one row per question, its pictures in front of it."""
    rows = [(*row, question.strip()) for question, row in zip(questions, pictures, strict=True)]
    return prepare_parts(model, processor, rows, max_new_tokens)


def prepare_parts(model: Any, processor: Any, rows: Sequence[Sequence[Part]], max_new_tokens: int) -> Any:
    """Inputs for `generate` on the model's device: one row for each sequence of texts and pictures, padded on the left.

    Raises InputError for pictures that the image processor cannot take and for prompts that are too long.
    """
    pictures = [[part for part in row if not isinstance(part, str)] for row in rows]
    return read_prompts(model, processor, [write_parts(processor, row) for row in rows], pictures, max_new_tokens)


def read_prompts(
    model: Any,
    processor: Any,
    texts: Sequence[str],
    pictures: Sequence[Sequence[Image.Image]],
    max_new_tokens: int,
    **more: Any,
) -> Any:
    """As `prepare_parts`, from chat texts in which pictures have their markers; the processor is given `more` too."""
    flat = [image for row in pictures for image in row]
    for image in flat:
        _check_proportions(processor, image)
    begin = getattr(processor.tokenizer, "bos_token", None) or ""
    begun = bool(begin) and texts[0].startswith(begin)  # the template wrote it, so the tokenizer must not
    try:
        inputs = processor(
            text=list(texts),
            images=[list(row) for row in pictures] if flat else None,
            padding=True,
            padding_side="left",
            add_special_tokens=not begun,
            return_tensors="pt",
            **more,
        )
    except Exception as error:  # image processors raise many kinds of error
        sizes = ", ".join(f"{i.width} x {i.height}" for i in flat[:3])
        what = f"the picture ({sizes})" if flat else "the prompt"
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"the model's processor refuses {what}: {reason}") from error
    inputs.pop("labels", None)  # PaliGemma's are those of an answer, which is still to come
    marker = getattr(model.config, "image_token_id", None)
    visual = 0 if marker is None else int((inputs["input_ids"] == marker).sum(dim=1).max())
    _check_length(model, inputs["input_ids"].shape[1], visual, max_new_tokens)
    return inputs.to(model.device, model.dtype)


def write_prompt(processor: Any, question: str, num_images: int) -> str:
    """The chat text of one question behind its picture markers, by the processor's own template if it has one."""
    return write_parts(processor, [*[None] * num_images, question.strip()])


def write_parts(processor: Any, parts: Sequence[Part | None]) -> str:
    """The chat text of texts and pictures in their order; what is no text stands for a picture."""
    if getattr(processor, "chat_template", None):
        content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image"} for p in parts]
        message = [{"role": "user", "content": content}]
        return str(processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False))
    marker = getattr(processor, "image_token", "<image>")
    several = sum(not isinstance(p, str) for p in parts) > 1
    number, text = 0, ""
    for part in parts:
        if isinstance(part, str):
            text += part
        else:  # several with text between them: some families take pictures that touch for one
            number += 1
            text += f"Picture {number}: {marker}\n" if several else f"{marker}\n"
    return FALLBACK.format(prompt=text)


def seen_picture(processor: Any, image: Image.Image) -> Image.Image:
    """The part of a picture that the encoder sees: all of it, or the middle where the processor crops."""
    settings = processor.image_processor
    short, crop = _short_side(settings), _size(settings, "crop_size")
    if not getattr(settings, "do_center_crop", False) or not short or "width" not in crop:
        return image
    scale = min(image.size) / short
    width, height = min(image.width, crop["width"] * scale), min(image.height, crop["height"] * scale)
    left, top = (image.width - width) / 2, (image.height - height) / 2
    return image.crop((round(left), round(top), round(left + width), round(top + height)))


def max_tokens(model: Any) -> int | None:
    """How many tokens the language model reads at most, if its configuration says."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    limit = getattr(config, "max_position_embeddings", None)
    return int(limit) if limit else None


def _check_length(model: Any, prompt: int, visual: int, new: int) -> None:
    limit = max_tokens(model)
    if limit is not None and prompt + new > limit:
        of_these = f" ({visual} of them visual)" if visual else ""
        raise InputError(
            f"the question is too long: {prompt:,} tokens{of_these} and up to {new:,} to answer; "
            f"this model reads at most {limit:,}."
        )


def _check_proportions(processor: Any, image: Image.Image) -> None:
    """Refuse pictures so narrow that scaling their short side to the model's size needs a huge picture."""
    short = _short_side(processor.image_processor)
    if short and short * short * max(image.size) / min(image.size) > MAX_PIXELS:
        raise InputError(
            f"a picture of {image.width} x {image.height} pixels is too narrow: with its short side at {short} it "
            f"would have more than {MAX_PIXELS // 1_000_000} million pixels. Crop it first."
        )


def _short_side(settings: Any) -> int | None:
    """The pixels to which an image processor scales the short side of pictures, if it does."""
    if hasattr(settings, "merge_size"):  # such processors bound the pixels of the whole picture by the same name
        return None
    return _size(settings, "size").get("shortest_edge")


def _size(settings: Any, name: str) -> dict[str, int]:
    value = getattr(settings, name, None)
    if value is None:
        return {}
    if isinstance(value, int):
        return {"shortest_edge": value}
    return {k: v for k, v in dict(value).items() if v is not None}
