"""The Python of the README and of the guides runs as it is written, in order, with the embedded model."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": (["visual tokens  64 of 196 kept"], ["kept.png"]),
    "docs/your-own-script.md": (
        ["visual tokens  192 of 588 kept", "[64, 64]", "divprune:0.5 | fastv@2:0.5"],
        ["kept.png"],
    ),
}


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run(page: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    script = tmp_path / "script.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    printed, files = PAGES[page]
    for text in printed:
        assert text in done.stdout
    for name in files:
        assert (tmp_path / name).stat().st_size > 1000
