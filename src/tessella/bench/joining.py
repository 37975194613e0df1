"""Join ledgers of several machines into one: what shards wrote apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..core.errors import InputError
from .ledger import Ledger, read_ledger, read_timings
from .records import Record, Setting


def join_ledgers(sources: Sequence[str | Path], out: str | Path) -> int:
    """Copy every record of `sources` that `out` lacks into it; returns how many. `out` may be there already.

    Raises InputError where two ledgers have different answers to one question under one setting, which one setting
    cannot give: nothing is written then.
    """
    if not sources:
        raise InputError("name at least one ledger to join.")
    read = [(str(path), read_ledger(path)) for path in sources]
    timings = [read_timings(path) for path in sources]
    with Ledger(out, "join") as target:
        there: dict[tuple[str, str, int], tuple[str, Record]] = {}
        settings: dict[str, Setting] = {}
        before = set()
        if Path(out).exists() and Path(out).stat().st_size:
            for setting, record in read_ledger(out):
                settings[record.setting] = setting
                there[record.setting, record.kind, record.number] = (str(out), record)
            before = set(there)
        for name, rows in read:
            for setting, record in rows:
                settings[record.setting] = setting
                key = (record.setting, record.kind, record.number)
                _check_same(there.setdefault(key, (name, record)), (name, record), setting)
        target.begin(list(settings.values()), {"joined": [Path(name).name for name, _ in read]})
        new = [record for key, (_, record) in there.items() if key not in before]
        target.add(new)
        for found in timings:
            for (key, batch), measured in found.items():
                target.add_timing(key, batch, measured)
    return len(new)


def _check_same(one: tuple[str, Record], other: tuple[str, Record], setting: Setting) -> None:
    (first, a), (second, b) = one, other
    if (a.answer, a.truth, a.score) != (b.answer, b.truth, b.score):
        raise InputError(
            f"{first!r} and {second!r} differ on {a.kind} {a.number} under {setting.pipeline}: {a.answer!r} and "
            f"{b.answer!r}. They were not measured alike; keep them apart."
        )
