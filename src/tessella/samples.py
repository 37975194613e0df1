"""Questions about pictures, from the user's own file or drawn by the project, and the inputs that a model reads.

A file has one JSON object a line:

    {"image": "photos/1.jpg", "question": "what is this?", "answer": "a cat", "kind": "animals"}
    {"images": ["a.png", "b.png"], "question": "what has changed?"}

Paths are relative to the file; `answer` and `kind` may be left out.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from .core.errors import InputError

DRAWN = "mini"  # the name of the project's own questions
NUM_DRAWN = 64  # of them, where no number is given
MAX_DRAWN = 10_000
SPLIT = "train"  # digits and words that the bench never asks about, in pictures of which none was a lesson
FILE = "samples.jsonl"  # what a folder of samples holds
MAX_PIXELS = 1_000_000_000  # of all pictures together: 3 GB of memory

_FIELDS = ("image", "images", "question", "answer", "kind")


@dataclass(frozen=True)
class Sample:
    """A question about one or several pictures; the answer and the kind of question where they are known."""

    images: tuple[Image.Image, ...]
    question: str
    answer: str | None = None
    kind: str | None = None


def load_samples(data: str | Path, limit: int | None = None, seed: int = 0) -> list[Sample]:
    """Samples of a JSON-lines file, of a folder with `samples.jsonl`, or drawn by the project ('mini', 'mini:200').

    `limit`: at most so many; of a file they are drawn by `seed` and stay in the file's order. Drawn samples go through
    the eight kinds of questions in turn, and another `seed` draws other ones.

    Raises InputError that names file and line for a line that is no sample and for a picture that is missing or cannot
    be read; every line is checked, also those that the limit leaves out.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit must be at least 1 sample; got {limit}.")
    if seed < 0:
        raise InputError(f"seed must be at least 0; got {seed}.")
    name, colon, number = str(data).partition(":")
    if name == DRAWN:
        count = _read_count(str(data), number) if colon else (limit or NUM_DRAWN)
        return _draw(min(count, limit or count), seed)
    lines = _read_lines(_find_file(Path(data)))
    if limit is not None and limit < len(lines):
        lines = [lines[i] for i in sorted(Random(seed).sample(range(len(lines)), limit))]
    return _open(lines)


def name_data(data: str | Path) -> str:
    """What to call a source of samples in records: its last name, which says nothing of a machine's folders."""
    return str(data) if str(data).partition(":")[0] == DRAWN else Path(data).absolute().name


def digest_samples(samples: Sequence[Sample]) -> str:
    """16 hexadecimal digits that depend on every pixel, question, answer and kind, and on the order."""
    digest = hashlib.sha256()
    for sample in samples:
        texts = [sample.question, sample.answer, sample.kind, *(f"{i.mode} {i.size}" for i in sample.images)]
        digest.update(json.dumps(texts).encode())
        for image in sample.images:
            digest.update(image.tobytes())
    return digest.hexdigest()[:16]


def batches(model: Any, processor: Any, samples: Sequence[Sample], size: int = 8) -> Iterator[tuple[list[Sample], Any]]:
    """Samples in order, `size` at a time, each time with the inputs for `model(...)` and `generate` on its device.

    Raises InputError for a question that holds the picture marker or is longer than the model reads.
    """
    from .app.prompting import check_room, prepare

    for start in range(0, len(samples), size):
        some = list(samples[start : start + size])
        for sample in some:
            check_room(model, processor, sample.question)
        yield some, prepare(model, processor, [s.images for s in some], [s.question for s in some], max_new_tokens=1)


@dataclass(frozen=True)
class _Line:
    """A checked line: where it stands, its pictures' files and its texts."""

    where: str
    files: tuple[Path, ...]
    texts: tuple[str, str | None, str | None]  # question, answer, kind


def _read_count(data: str, number: str) -> int:
    if not number.isascii() or not number.isdigit() or not 1 <= int(number) <= MAX_DRAWN:
        raise InputError(f"data must be a file, a folder, 'mini' or 'mini:1' to 'mini:{MAX_DRAWN}'; got {data!r}.")
    return int(number)


def _draw(count: int, seed: int) -> list[Sample]:
    from .mini.questions import KINDS, sample

    if count > MAX_DRAWN:
        raise InputError(f"at most {MAX_DRAWN:,} samples are drawn; got limit {count:,}.")
    drawn = [sample(KINDS[i % len(KINDS)], seed * MAX_DRAWN + i, SPLIT) for i in range(count)]
    return [Sample((s.image.convert("RGB"),), s.question, s.answer, s.kind) for s in drawn]


def _find_file(place: Path) -> Path:
    file = place / FILE if place.is_dir() else place
    if not file.is_file():
        what = f"the folder {str(place)!r} holds no {FILE}" if place.is_dir() else f"there is no file {str(place)!r}"
        raise InputError(f"{what}; data is a JSON-lines file, a folder with {FILE}, 'mini' or 'mini:{NUM_DRAWN}'.")
    return file


def _read_lines(file: Path) -> list[_Line]:
    try:
        texts = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{str(file)!r} is not UTF-8 text: {error.reason} at byte {error.start}.") from None
    except OSError as error:
        raise InputError(f"{str(file)!r} cannot be read: {error.strerror or error}.") from error
    lines = [
        _read_line(text, f"line {number} of {str(file)!r}", file.parent)
        for number, text in enumerate(texts, start=1)
        if text.strip()
    ]
    if not lines:
        raise InputError(f"{str(file)!r} holds no samples; one JSON object a line is needed.")
    return lines


def _read_line(text: str, where: str, folder: Path) -> _Line:
    from .app.prompting import check_question

    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON: {getattr(error, 'msg', error)}.") from None
    if not isinstance(fields, dict):
        raise InputError(f"{where} must be an object with {', '.join(_FIELDS)}; got {text.strip()[:40]!r}.")
    for name in fields:
        if name not in _FIELDS:
            close = difflib.get_close_matches(name, _FIELDS, n=1)
            hint = f" Closest: {close[0]!r}." if close else ""
            raise InputError(f"{where} has a field {name!r}; allowed: {', '.join(_FIELDS)}.{hint}")
    if ("image" in fields) == ("images" in fields):
        raise InputError(f"{where} needs one of 'image' (a file) and 'images' (a list of files).")
    names = fields["images"] if "images" in fields else [fields["image"]]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
        raise InputError(f"{where}: 'image' is a file's name and 'images' a list of at least one; got {names!r:.60}.")
    for name in ("question", "answer", "kind"):
        value = fields.get(name)
        if value is not None and not (isinstance(value, str) and value.strip()):
            raise InputError(f"{where}: {name!r} must be a text that is not empty; got {value!r:.60}.")
    try:
        check_question(fields.get("question"))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    files = tuple(folder / name for name in names)
    for file in files:
        if not file.is_file():
            raise InputError(f"{where}: there is no picture file {str(file)!r}.")
    return _Line(where, files, (fields["question"], fields.get("answer"), fields.get("kind")))


def _open(lines: Sequence[_Line]) -> list[Sample]:
    from .pictures.opening import open_picture

    out: list[Sample] = []
    pixels = 0
    for line in lines:
        try:
            images = tuple(open_picture(file) for file in line.files)
        except InputError as error:
            raise InputError(f"{line.where}: {error}") from None
        pixels += sum(image.width * image.height for image in images)
        if pixels > MAX_PIXELS:
            raise InputError(
                f"the pictures of the first {len(out) + 1} of {len(lines)} samples have more than "
                f"{MAX_PIXELS // 1_000_000:,} million pixels together; give a limit, or smaller pictures."
            )
        out.append(Sample(images, *line.texts))
    return out
