"""The registry: ids are file names, files are imported on first use, claims are exclusive."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

import tessella
from tessella.core import registry
from tessella.core.budget import Counts
from tessella.core.errors import MethodError, RegistryError, UnknownMethodError
from tessella.core.pipeline import parse
from tessella.core.registry import load_class, make, method_modules, methods, register
from tessella.testing import ArrayView, check_method

NINE = ["blind", "divprune", "fastervlm", "fastv", "hiprune", "none", "random", "uniform", "visionzip"]

PLUGIN = '''
"""Last: keep the last tokens.

Paper    none: a test
Acts     connector
Needs    nothing
Differs  nothing known
"""
from dataclasses import dataclass

import torch

from tessella.core.cards import Card
from tessella.core.contracts import Scorer
from tessella.core.registry import register


@register
@dataclass(frozen=True)
class LastOnes(Scorer):
    power: int = 1

    card = Card(title="Last", stages=("connector",), baseline=True)

    def score(self, view):
        return torch.arange(view.mask.shape[1]).expand_as(view.mask).float() ** self.power
'''


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the import path; entry points are whatever the test puts in `registry.entry_points`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before, modules = dict(registry._classes), set(sys.modules)
    method_modules.cache_clear()
    yield tmp_path
    registry._classes.clear()
    registry._classes.update(before)
    for name in set(sys.modules) - modules:
        if Path(getattr(sys.modules[name], "__file__", "") or "/").parent == tmp_path:
            del sys.modules[name]
    method_modules.cache_clear()


def offer(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    found = [EntryPoint(name, value, registry.GROUP) for name, value in points.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: found)


def test_ids_are_file_names() -> None:
    assert set(NINE) <= set(method_modules())
    assert list(method_modules()) == sorted(method_modules())
    for method_id, cls in methods().items():
        assert cls.id == method_id
        assert cls.__module__ == f"tessella.reduction.{method_id}"
        assert cls.__name__.lower() == method_id.replace("_", "")


def test_filters_read_the_cards() -> None:
    assert {"none", "blind", "random", "uniform", "pool", "downsample"} == set(methods(baseline=True))
    assert "fastv" in methods(stage="prefill")
    assert "divprune" not in methods(stage="prefill")
    assert {"fastervlm", "visionzip"} <= set(methods(needs="class_token"))
    assert methods(training_free=False).keys().isdisjoint(NINE)


@pytest.mark.parametrize(
    "asked, closest", [("fast_v", "fastv"), ("FastV", None), ("divprun", "divprune"), ("zzz", None)]
)
def test_unknown_method(asked: str, closest: str | None) -> None:
    with pytest.raises(UnknownMethodError) as error:
        load_class(asked)
    text = str(error.value)
    assert text.startswith(f"no method '{asked}'.")
    assert text.endswith(" List: tessella methods")
    if closest:
        assert f" Closest: '{closest}'" in text
    assert isinstance(error.value, KeyError)


def test_settings_that_are_refused() -> None:
    with pytest.raises(
        MethodError, match="hiprune has no setting 'alfa'; allowed: alpha, object_layer, output_layer, "
    ):
        make("hiprune", alfa=1)
    with pytest.raises(MethodError, match="divprune has no setting 'ratio'; it has none"):
        make("divprune", ratio=1)


def test_files_are_imported_on_first_use() -> None:
    code = (
        "import sys; from tessella.core.registry import make, method_modules; ids = list(method_modules());"
        "wing = lambda: sorted(m for m in sys.modules if m.startswith('tessella.reduction.'));"
        "assert wing() == [], wing(); make('fastv'); print(wing())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "['tessella.reduction.fastv']", done.stderr


def test_importing_us_is_light_and_exports_answer_twice() -> None:
    code = (
        "import sys, tessella; assert 'torch' not in sys.modules\n"
        "for name in tessella.__all__:\n"
        "    first, again = getattr(tessella, name), getattr(tessella, name)\n"
        "    assert first is again and type(first).__name__ != 'module', name\n"
        "print(len(tessella.__all__))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == str(len(tessella.__all__)), done.stderr
    folders = {p.name for p in Path(tessella.__file__).parent.iterdir() if p.is_dir()}
    assert not folders & set(tessella.__all__)
    assert len(tessella.__all__) <= 16


def test_plugin_enters_through_its_entry_point(plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (plugins / "last_ones.py").write_text(PLUGIN)
    offer(monkeypatch, last_ones="last_ones")
    method = make("last_ones", power=2)
    view = ArrayView(embeddings=torch.zeros(1, 5, 2))
    assert method.reduce(view, Counts((2,), (5,))).keep.tolist() == [[False, False, False, True, True]]
    assert str(parse("last_ones(power=2):0.5")) == "last_ones(power=2):0.5"
    check_method(method)


def test_two_claims_name_both(plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, fastv="somewhere.fastv")
    with pytest.raises(RegistryError, match=r"two claims .* 'fastv': tessella.reduction.fastv and somewhere.fastv"):
        method_modules()


def test_two_classes_of_one_id(plugins: Path) -> None:
    class FastV(load_class("fastv")):  # type: ignore[misc]
        pass

    FastV.__module__ = "elsewhere.fastv"
    with pytest.raises(RegistryError, match=r"two claims .* 'fastv': tessella.reduction.fastv and elsewhere.fastv"):
        register(FastV)


def test_a_file_that_registers_nothing(plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (plugins / "empty_one.py").write_text("")
    offer(monkeypatch, empty_one="empty_one")
    with pytest.raises(RegistryError, match="empty_one registers no method 'empty_one'; its id is its file name"):
        make("empty_one")


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("class LastOnes", "class Last", "class Last must be spelled like its file name 'last_ones'"),
        ('    card = Card(title="Last", stages=("connector",), baseline=True)\n', "", "LastOnes has no card"),
    ],
)
def test_classes_that_are_refused(
    plugins: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, message: str
) -> None:
    (plugins / "last_ones.py").write_text(PLUGIN.replace(old, new))
    offer(monkeypatch, last_ones="last_ones")
    with pytest.raises(RegistryError, match=message):
        make("last_ones")
