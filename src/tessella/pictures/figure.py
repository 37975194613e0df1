"""The figure of one reduction, for every page: what became of each patch, in the end and step by step."""

from __future__ import annotations

import base64
from html import escape

from PIL import Image

from .drawing import SIZE, draw_cut, fates_of
from .saving import encode_picture
from .shown import Shown

STEP_SIZE = 144  # pixels of the longer side of the picture of a step
LEGEND = (
    "Kept patches show the picture, dropped ones are grey; merged ones have the colour of the kept patch that took "
    "them in, which is framed in it."
)


def reduction_figure(
    method: str,
    shown: Shown,
    answer: str,
    counts: str,
    right: bool | None = None,
    level: int = 2,
    ending: str = ".png",
    size: int = SIZE,
) -> str:
    """The figure of one reduction: method, its patches, the answer, the counts in words.

    All words are text and are escaped. `right` puts a mark beside the answer, `level` is that of the heading, `ending`
    names the format of the pictures and `size` is their longer side in pixels.
    """
    mark = "" if right is None else f'<span class="{_CLASSES[right]}">{_MARKS[right]}</span> '
    return (
        f"<figure><h{level}>{escape(method)}</h{level}>{patches_markup(shown, f'kept by {method}', ending, size)}"
        f"<figcaption>{mark}<strong>{escape(answer) or '(no answer)'}</strong><br>{escape(counts)}</figcaption>"
        "</figure>"
    )


def patches_markup(shown: Shown, words: str, ending: str = ".png", size: int = SIZE) -> str:
    """The pictures of a prompt with a legend that counts patches and, where there were several cuts, each of them.

    `words` (text) say in the picture's description whose patches they are.
    """
    counts = _counts(shown, len(shown.cuts) - 1)
    spoken = ", ".join(f"{count} {name}" for name, count in counts.items())
    legend = "".join(
        f'<li class="{name}"><i></i>{name} {count}</li>' for name, count in counts.items() if count or name == "kept"
    )
    picture = _image(draw_cut(shown, size=size), f"Patches {words}: {spoken}", ending)
    return f'{picture}<ul class="fates">{legend}</ul>{_steps(shown, ending)}'


def _steps(shown: Shown, ending: str) -> str:
    """A small multiple for each cut, where there were several."""
    if len(shown.cuts) < 2:
        return ""
    items = []
    for number, cut in enumerate(shown.cuts):
        kept = _counts(shown, number)["kept"]
        picture = _image(draw_cut(shown, number, STEP_SIZE), f"{kept} patches from layer {cut.at_layer} on", ending)
        items.append(f"<li>{picture}<span>layer {cut.at_layer}</span> <span>{kept} kept</span></li>")
    return f'<ol class="steps" aria-label="Step by step, from which layer on">{"".join(items)}</ol>'


def _counts(shown: Shown, number: int) -> dict[str, int]:
    fates = [fate for mine in fates_of(shown, number) for fate in mine]
    return {name: sum(len(getattr(fate, name)) for fate in fates) for name in ("kept", "merged", "dropped")}


def _image(picture: Image.Image, words: str, ending: str) -> str:
    data = base64.b64encode(encode_picture(picture, ending)).decode("ascii")
    return (
        f'<img width="{picture.width}" height="{picture.height}" alt="{escape(words)}" '
        f'src="data:image/{ending[1:]};base64,{data}">'
    )


_CLASSES = {True: "same", False: "differs"}
_MARKS = {True: "✓ right:", False: "✗ wrong:"}
