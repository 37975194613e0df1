"""Encoded pictures by their content, so that a second question about a picture skips the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...core.pipeline import Pipeline
from ...engine.encoded import Encoded, num_bytes, split
from ...engine.encoder import encode_once
from ...engine.timing import Stopwatch
from .bounded import Bounded
from .prompts import Prepared, batch


class Features:
    """Encodes pictures that are not known yet, once for all pipelines that ask for them, and remembers them.

    What one pass of the encoder left stays and leaves as a whole, since its captures belong together.
    """

    def __init__(self, model: Any, limit: int, pad_token: int) -> None:
        self._model, self._pad = model, pad_token
        self._passes: Bounded[int, dict[str, Encoded]] = Bounded(limit)
        self._pass_of: dict[str, int] = {}
        self._count = 0

    @property
    def num_bytes(self) -> int:
        return self._passes.num_bytes

    def of(self, prepared: Sequence[Prepared]) -> tuple[dict[str, Encoded], set[str], float]:
        """Encoded pictures by key for questions of one shape, the keys that were known, and milliseconds of the rest.

        Pictures of which the encoder's output cannot be told apart are left out.
        """
        pipelines = list({str(p.pipeline): p.pipeline for p in prepared}.values())
        found = {key: e for p in prepared for key in p.picture_keys if (e := self._find(key, pipelines)) is not None}
        known = set(found)
        chosen: list[Prepared] = []
        missing: list[str] = []
        for one in prepared:
            if any(key not in found and key not in missing for key in one.picture_keys):
                chosen.append(one)
                missing += one.picture_keys
        if not chosen:
            return found, known, 0.0
        stopwatch = Stopwatch()
        output = encode_once(self._model, batch(chosen, self._pad), pipelines, stopwatch)["image"]
        pictures = split(output, len(missing))
        if pictures is not None:
            new = dict(zip(missing, pictures, strict=True))
            self._remember(new)
            found = new | found
        return found, known, stopwatch.milliseconds()["encode"]

    def _find(self, key: str, pipelines: Sequence[Pipeline]) -> Encoded | None:
        number = self._pass_of.get(key)
        held = None if number is None else self._passes.get(number)
        if held is None or not all(held[key].serves(self._model, p) for p in pipelines):
            return None
        return held[key]

    def _remember(self, new: dict[str, Encoded]) -> None:
        pictures = list(new.values())
        self._count += 1
        gone = self._passes.put(self._count, new, num_bytes(pictures[0].encoding, pictures))
        self._pass_of |= dict.fromkeys(new, self._count)
        for held in gone:
            for key in held:
                if self._passes.get(self._pass_of.get(key, -1)) is None:
                    self._pass_of.pop(key, None)
