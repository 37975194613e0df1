"""Write result files whole or not at all, after checking beforehand that they can be written."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from pathlib import Path

from PIL import Image

from ..core.errors import InputError

PICTURE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def check_target(path: str | Path, endings: tuple[str, ...] | None = None) -> Path:
    """The path, once it is sure that a file can be written there; call it before slow work.

    Raises InputError when its folder is missing or read-only, when it is a folder, or when its ending is not allowed.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError(f"cannot write {str(target)!r}: it is a folder; name a file inside it.")
    if not target.parent.is_dir():
        raise InputError(f"cannot write {str(target)!r}: there is no folder {str(target.parent)!r}; create it first.")
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"cannot write {str(target)!r}: the folder {str(target.parent)!r} is read-only.")
    if endings and target.suffix.lower() not in endings:
        raise InputError(
            f"cannot write {str(target)!r}: the name must end in {', '.join(endings)}; got {target.suffix!r}."
        )
    return target


def check_picture_target(path: str | Path) -> Path:
    """As `check_target`, for a picture file."""
    return check_target(path, tuple(PICTURE_FORMATS))


def save_bytes(data: bytes, path: str | Path) -> None:
    """Write a file through a temporary one beside it, so that a reader never sees half of it."""
    target = check_target(path)
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    except OSError as error:
        raise InputError(f"cannot write {str(target)!r}: {error.strerror}.") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError):
            raise InputError(f"cannot write {str(target)!r}: {error.strerror}.") from error
        raise


def encode_picture(image: Image.Image, ending: str = ".png") -> bytes:
    """The bytes of a picture file; the same picture gives the same bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format=PICTURE_FORMATS[ending.lower()])
    return buffer.getvalue()


def save_picture(image: Image.Image, path: str | Path) -> None:
    """Write a picture file whole, in the format that its ending names."""
    target = check_picture_target(path)
    save_bytes(encode_picture(image, target.suffix), target)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
