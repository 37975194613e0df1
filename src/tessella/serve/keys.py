"""API keys: where they come from, and how a request's is compared."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..core.errors import InputError

ENVIRONMENT = "TESSELLA_API_KEYS"


def read_keys(file: str | Path | None, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The keys of a file, one a line, and those of the environment, with commas between; none is allowed.

    Raises InputError for a file that cannot be read or holds none, and for a key that no header can carry.
    """
    keys = [key.strip() for key in environment.get(ENVIRONMENT, "").split(",") if key.strip()]
    if file is not None:
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise InputError(f"the key file {str(file)!r} cannot be read: {reason}.") from None
        found = [line.strip() for line in lines if line.strip()]
        if not found:
            raise InputError(f"the key file {str(file)!r} holds no key; write one a line.")
        keys += found
    for number, key in enumerate(keys, start=1):
        if not key.isascii() or not key.isprintable() or " " in key:
            raise InputError(f"API key {number} of {len(keys)} holds a character that is no visible ASCII.")
    return tuple(keys)


def is_known(given: str, keys: Sequence[str]) -> bool:
    """Whether a key is one of `keys`, in a time that tells nothing about them."""
    digest = _digest(given)
    return sum(hmac.compare_digest(digest, _digest(key)) for key in keys) > 0


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
