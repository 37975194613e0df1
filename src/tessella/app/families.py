"""Which method runs on which family: from real runs of the tiny models, or from what the engine says beforehand."""

from __future__ import annotations

import importlib
import pkgutil
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..core.errors import TessellaError
from ..core.pipeline import Pipeline, example_of
from ..core.registry import methods

if TYPE_CHECKING:
    from ..bench.pace import Progress
    from ..testing.families import TinyFamily

KEEP = "1/2"
NUM_TOKENS = 3  # of each answer
Judge = Callable[[Any, "TinyFamily", str], "Outcome"]  # of a tiny model and its family, for a method's id


@dataclass(frozen=True)
class Outcome:
    """Whether a method runs on a family; "no" is a refusal with its reason, "FAILED" anything else that went wrong."""

    mark: Literal["yes", "no", "FAILED"]
    reason: str = ""


@dataclass(frozen=True)
class Matrix:
    """Outcomes by family and method, and for families that could not be tried the reason."""

    outcomes: Mapping[str, Mapping[str, Outcome]]
    missing: Mapping[str, str]

    @property
    def has_failed(self) -> bool:
        return any(o.mark == "FAILED" for mine in self.outcomes.values() for o in mine.values())

    @property
    def reasons(self) -> list[str]:
        """Each reason once, in the order of the table."""
        return list(dict.fromkeys(o.reason for m in self.methods for o in self._row(m) if o.reason))

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(m for mine in self.outcomes.values() for m in mine))

    def rows(self) -> list[list[str]]:
        """One row a method: its id and for each family "yes", or "no" with the number of the reason, from 1."""
        number = {reason: f" {n}" for n, reason in enumerate(self.reasons, start=1)}
        return [[m, *(o.mark + number.get(o.reason, "") for o in self._row(m))] for m in self.methods]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        families = {f: {m: asdict(o) for m, o in mine.items()} for f, mine in self.outcomes.items()}
        return {"outcomes": families, "missing": dict(self.missing)}

    def _row(self, method: str) -> list[Outcome]:
        return [mine[method] for mine in self.outcomes.values()]


def family_matrix(judge: Judge, tell: Callable[[Progress], None] | None = None) -> Matrix:
    """Judge every registered method on the tiny model of every family that has an adapter; `tell` gets the progress."""
    from ..bench.pace import Progress
    from ..testing.families import tiny_families

    known, outcomes = adapters(), {}
    missing = missing_families()
    families = {name: family for name, family in tiny_families().items() if name in known}
    start, done, total = time.perf_counter(), 0, len(families) * len(methods())
    for name, family in families.items():
        try:
            model = family.model()
        except ImportError as error:
            missing[name] = f"its tiny model cannot be made: {first_line(error)}"
            continue
        outcomes[name] = {}
        for method in methods():
            outcomes[name][method] = judge(model, family, method)
            done += 1
            if tell is not None:
                left = (time.perf_counter() - start) / done * (total - done)
                tell(Progress(done, total, left, method, name))
    return Matrix(outcomes, missing)


def try_method(model: Any, family: TinyFamily, method: str) -> Outcome:
    """Let a tiny model answer in three tokens, on half of its visual tokens where the method takes a keep."""
    from ..engine.apply import reduce

    inputs = family.inputs()
    try:
        with reduce(model, with_keep(method)) as run:
            out = model.generate(**inputs, max_new_tokens=NUM_TOKENS, do_sample=False)
        read, written = run.report.prompts, out.shape[1] - inputs["input_ids"].shape[1]
        if (read, written) != (1, NUM_TOKENS):
            return Outcome("FAILED", f"{read} prompts were read and {written} of {NUM_TOKENS} tokens written")
    except TessellaError as error:
        return Outcome("no", general_reason(str(error), method))
    except Exception as error:  # whatever is wrong is what the matrix is to show
        return Outcome("FAILED", f"{type(error).__name__}: {first_line(error)}")
    return Outcome("yes")


def ask_beforehand(model: Any, family: TinyFamily, method: str) -> Outcome:
    """What `can_apply` says, without a run."""
    from ..engine.apply import can_apply

    verdict = can_apply(model, with_keep(method))
    return Outcome("yes") if verdict else Outcome("no", general_reason(verdict.reason, method))


def with_keep(method: str) -> Pipeline:
    """A method as its card's example says, or alone, with a keep where it takes one."""
    pipeline = example_of(method)
    takes = any(p.method.card.takes_keep and p.budget is None for p in pipeline.parts)
    return pipeline.with_budget(KEEP if takes else None)


def general_reason(reason: str, method: str) -> str:
    """A reason without the names of the method and the family, so that several can share it.

    >>> general_reason("fastervlm needs a class token; this gemma3 model has none. Nearest: hiprune.", "fastervlm")
    'needs a class token; this model has none.'
    """
    text = reason.partition(" Nearest: ")[0].removeprefix(f"{method} ")
    return re.sub(r"\bthis \w+ model\b", "this model", text)


def adapters() -> dict[str, type]:
    """The adapter of each family, by the name of its file."""
    from ..models.adapter import adapter_classes

    return {c.__module__.rpartition(".")[2]: c for c in adapter_classes()}


def missing_families() -> dict[str, str]:
    """Families that cannot be tried here, with the reason."""
    import transformers

    from .. import models
    from ..testing.families import lacking_families, tiny_families

    library = f"transformers {transformers.__version__}"
    out = {name: f"{library} has no {architecture}" for name, architecture in lacking_families().items()}
    out |= {name: "it has a tiny model, but no adapter" for name in tiny_families() if name not in adapters()}
    out |= {name: "it has an adapter, but no tiny model" for name in adapters() if name not in tiny_families()}
    for file in pkgutil.iter_modules(models.__path__):
        try:
            importlib.import_module(f"{models.__name__}.{file.name}")
        except ModuleNotFoundError as error:  # as `adapter_classes` passes it over
            out[file.name] = f"{library} has no module {error.name}"
    return dict(sorted(out.items()))


def first_line(error: BaseException) -> str:
    """An error's text up to the first line break."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
