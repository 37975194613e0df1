"""What the tests of the commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tessella.app import demo
from tessella.cli.application import run


@pytest.fixture
def picture(tmp_path: Path) -> str:
    demo.bundled()[0].image.save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]):
    """Run the command line; returns (exit code, standard output, standard error)."""

    def called(*args: object) -> tuple[int, str, str]:
        code = run([str(a) for a in args])
        out = capsys.readouterr()
        return code, out.out, out.err

    return called


@pytest.fixture
def refusal(call):
    """Run a command that must fail with exit code 2, nothing on standard output and one line of error."""

    def refused(*args: object) -> str:
        code, out, err = call(*args)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert len(err) < 500
        return err.removeprefix("error: ").rstrip("\n")

    return refused
