"""What there is: methods as rows for a table, one method in full."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from ..core.contracts import CONTRACTS, Method
from ..core.model_info import PaperLayer
from ..core.registry import load_class, methods


@dataclasses.dataclass(frozen=True)
class Setting:
    """A hyper-parameter: its default as text, and for a layer the depth that the default was written for."""

    name: str
    default: str
    note: str = ""


def method_rows(
    *,
    stage: str | None = None,
    needs: str | None = None,
    training_free: bool | None = None,
    baseline: bool | None = None,
    model: Any = None,
) -> list[dict[str, Any]]:
    """One row per registered method that passes the filters; with a model also whether it can carry the method.

    Raises UnsupportedError for a model of an unknown family.
    """
    if model is not None:
        from ..engine.apply import can_apply
        from ..models.adapter import find_adapter

        find_adapter(model)
    out = []
    for name, cls in methods(stage=stage, needs=needs, training_free=training_free, baseline=baseline).items():
        card = cls.card
        row: dict[str, Any] = {
            "id": name,
            "title": card.title,
            "year": card.year,
            "stages": list(card.stages),
            "contract": contract_of(cls),
            "needs": list(card.needs),
            "training_free": card.training_free,
            "baseline": card.baseline,
            "count": card.count,
            "cost": card.cost,
            "paper": card.paper,
        }
        if model is not None:
            verdict = can_apply(model, card.example or name)
            row |= {"can_apply": verdict.ok, "reason": verdict.reason, "nearest": verdict.nearest}
        out.append(row)
    return out


def reasons_against(model: Any) -> dict[str, str]:
    """Why a model cannot carry a method, by the ids of those that it cannot."""
    return {row["id"]: row["reason"] for row in method_rows(model=model) if not row["can_apply"]}


def method_details(name: str) -> dict[str, Any]:
    """Card, documentation and settings of one method. Raises UnknownMethodError with the closest ids."""
    cls = load_class(name)
    card = dataclasses.asdict(cls.card)
    return {
        "id": name,
        "class": cls.__name__,
        "contract": contract_of(cls),
        "card": {k: list(v) if isinstance(v, tuple) else v for k, v in card.items()},
        "paper": f"https://arxiv.org/abs/{cls.card.paper}" if cls.card.paper else None,
        "documentation": documentation_of(cls),
        "settings": [dataclasses.asdict(s) for s in settings_of(cls)],
    }


def settings_of(cls: type[Method]) -> list[Setting]:
    """The hyper-parameters of a method with their defaults."""
    out = []
    for f in dataclasses.fields(cls):  # type: ignore[arg-type]
        default = f.default
        if default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            out.append(Setting(f.name, "", "must be given"))
        elif default is dataclasses.MISSING:
            assert callable(f.default_factory)
            out.append(Setting(f.name, repr(f.default_factory())))
        elif isinstance(default, PaperLayer):
            note = f"of {default.depth} {default.part} layers in the paper; scaled when a model has fewer"
            out.append(Setting(f.name, str(int(default)), note))
        else:
            out.append(Setting(f.name, repr(default)))
    return out


def contract_of(cls: type[Method]) -> str:
    """The contract that a method fulfils, by what it returns: 'Scorer', 'Selector', ..."""
    found = [c for c in CONTRACTS if issubclass(cls, c)]
    names = {c.__name__ for c in found}
    return "Corrector" if "Corrector" in names else found[0].__name__ if found else "Method"


def documentation_of(cls: type[Method]) -> str:
    """The documentation at the top of a method's file, or of its class where the file has none."""
    module = inspect.getmodule(cls)
    text = inspect.getdoc(module) if module is not None else None
    return (text or inspect.getdoc(cls) or "").strip()
