"""Generated pages say what the program says today."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def generate(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))  # as for a script
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_up_to_date(generate):
    stale = [
        n for n, page in generate.PAGES.items() if not generate.is_current(n, (ROOT / "docs" / n).read_text(), page())
    ]
    assert stale == []  # python docs/generate.py


def test_a_changed_page_is_noticed_and_written_again(generate, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generate, "FOLDER", tmp_path)
    monkeypatch.setattr(generate, "PAGES", {"page.md": lambda: "fresh\n"})
    assert generate.main(["--check"]) == 1
    assert "out of date: page.md" in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()
    assert generate.main([]) == 0
    assert (tmp_path / "page.md").read_text() == "fresh\n"
    assert generate.main(["--check"]) == 0
    (tmp_path / "page.md").write_text("stale\n")
    assert generate.main(["--check"]) == 1


def test_help_captured_with_another_typer_is_compared_by_its_options(generate):
    written = "captured with typer 0.0\n## tessella ask\n  --keep KEEP   Old layout\n  -h, --help  Help"
    assert generate.is_current("c", written, "## tessella ask\n    --keep <KEEP> New layout\n    -h, --help  Help")
    assert not generate.is_current("c", written, "## tessella ask\n    --kept <KEEP> New layout\n    -h, --help  Help")
    assert not generate.is_current("c", written, "## tessella ask\n    -h, --help  Help")
