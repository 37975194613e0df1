"""What one measurement is: a resolved setting, and one record a sample under it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

FULL, BLIND, DOWNSAMPLE = "none", "blind", "downsample"  # the rows that others are read against


@dataclass(frozen=True)
class Setting:
    """Everything that can change an answer. `key` is a hash of all of it.

    `pipeline` is the pipeline's text with its budget; `method` and `keep` are the two parts that tables are made of
    (`keep` is None where the pipeline takes none or has budgets of its own). `details` holds plain values: model and
    weights digest, processor and back end, task version, decoding, dtype, device, positions, seed, versions.
    """

    pipeline: str
    method: str
    keep: str | None
    details: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The whole setting as canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits of the setting's SHA-256."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Record:
    """One sample under one setting. Times are milliseconds a sample, the batch's time shared equally."""

    setting: str  # key of the setting
    kind: str  # question type
    number: int  # (kind, number) names the question
    answer: str
    truth: str
    score: float  # in [0, 1]; 0 or 1 where an answer is right or wrong
    tokens_in: int
    tokens_kept: int
    mean_keep_ratio: float  # share of visual tokens on the mean over decoder layers
    cache_bytes: int
    ms: dict[str, float]  # encode, score, select, prefill, decode
