"""Open picture files of any kind as RGB, or say in one line why not."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..core.errors import InputError

MAX_PIXELS = 80_000_000  # more than any camera's picture, and less than where Pillow starts to warn
_FULL_16_BIT = 257  # 65535 / 255


@dataclass(frozen=True)
class Picture:
    """An RGB picture and what a user may want to know about how it was read."""

    image: Image.Image
    notes: tuple[str, ...] = ()


def open_picture(path: str | Path) -> Image.Image:
    """The picture in a file as RGB. Raises InputError as `read_picture` does."""
    return read_picture(path).image


def read_picture(path: str | Path) -> Picture:
    """The picture in a file as RGB, upright, on white where it is transparent, its first frame if it has several.

    Raises InputError for a missing file, a folder, a file that is no picture, is cut short or holds more than
    80 million pixels (refused from its header, before anything is decoded).
    """
    place = Path(path)
    _check_file(place)
    with place.open("rb") as file:
        return _read(file, str(place), place.name, None, MAX_PIXELS)


def decode_picture(
    data: bytes, name: str, formats: Sequence[str] | None = None, max_pixels: int = MAX_PIXELS
) -> Picture:
    """The picture in the bytes of a file, as `read_picture` opens one; `name` is what errors call it.

    `formats` are Pillow's names of those that are tried. Raises InputError as `read_picture` does.
    """
    return _read(io.BytesIO(data), name, name, formats, max_pixels)


def _read(stream: BinaryIO, name: str, short_name: str, formats: Sequence[str] | None, max_pixels: int) -> Picture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata; what matters is raised below
        try:
            file = Image.open(stream, formats=formats)
        except Image.DecompressionBombError:
            raise _too_large(name, _header_size(stream), max_pixels) from None
        except UnidentifiedImageError:
            raise InputError(f"{name!r} is not a picture that can be read.") from None
        except Exception as error:  # decoders raise many kinds of error on broken headers
            raise InputError(f"{name!r} cannot be read as a picture: {_first_line(error)}.") from error
        with file:
            if file.width * file.height > max_pixels:
                raise _too_large(name, file.size, max_pixels)
            return _decode(file, name, short_name)


def composite_on_white(image: Image.Image) -> Image.Image:
    """An RGB picture from one with transparency."""
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture as RGB: 16-bit values are scaled to 8, transparency becomes white.

    Raises InputError for values that have no agreed meaning as colours.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return _grey(np.asarray(image, dtype=np.float64) / _FULL_16_BIT)
    if image.mode in ("I", "F"):
        return _grey(_scale_wide(np.asarray(image, dtype=np.float64), image.mode))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return composite_on_white(image)
    return image.convert("RGB")


def _check_file(place: Path) -> None:
    try:
        if place.is_dir():
            raise InputError(f"{str(place)!r} is a folder; give one picture file.")
        if not place.exists():
            raise InputError(f"there is no file {str(place)!r}.")
        with place.open("rb") as file:
            if not file.read(1):
                raise InputError(f"{str(place)!r} is empty (0 bytes).")
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{str(place)!r} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # a null byte in the name
        raise InputError(f"{str(place)!r} is not a file name: {error}.") from error


def _decode(file: Image.Image, name: str, short_name: str) -> Picture:
    notes = []
    try:
        if getattr(file, "is_animated", False):
            notes.append(f"{short_name} has several frames; the first one is used.")
        file.load()
        try:
            upright = ImageOps.exif_transpose(file)
        except Exception:  # damaged EXIF data says nothing about the pixels
            upright = file
            notes.append(f"{short_name} has damaged EXIF data; its rotation is not known.")
        upright.format = file.format
        return Picture(to_rgb(upright), tuple(notes))
    except InputError as error:
        raise InputError(f"{name!r}: {error}") from None
    except Exception as error:  # decoders raise many kinds of error on damaged data
        reason = "is cut short" if "truncated" in str(error) else f"is damaged: {_first_line(error)}"
        raise InputError(f"{name!r} {reason}.") from error


def _scale_wide(values: np.ndarray, mode: str) -> np.ndarray:
    """Values of a 32-bit picture in 0..255, from one of the ranges in common use."""
    if not np.isfinite(values).all():
        raise InputError("it holds values that are not finite.")
    low, high = float(values.min()), float(values.max())
    if low >= 0 and mode == "F" and high <= 1:
        return values * 255
    if low >= 0 and high <= 255:
        return values
    if low >= 0 and high <= 65535:
        return values / _FULL_16_BIT
    raise InputError(f"its values run from {low:g} to {high:g}; allowed: 0 to 1, 0 to 255 or 0 to 65535.")


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")


def _header_size(stream: BinaryIO) -> tuple[int, int] | None:
    """Width and height that a file claims, read by the format's own header parser."""
    stream.seek(0)
    prefix = stream.read(16)
    for name in Image.ID:
        factory, accepts = Image.OPEN[name]
        if accepts is not None and accepts(prefix) is True:
            stream.seek(0)
            try:
                return factory(stream, "").size
            except Exception:  # not this format after all
                continue
    return None


def _too_large(name: str, size: tuple[int, int] | None, max_pixels: int) -> InputError:
    claimed = f"{size[0]:,} x {size[1]:,} pixels" if size else "more than 179 million pixels"
    allowed = f"{max_pixels / 1e6:g} million"
    return InputError(f"{name!r} claims {claimed}; allowed are {allowed} in all. Shrink it first.")


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
