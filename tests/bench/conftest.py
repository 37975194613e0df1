"""What the tests of the bench share; being here, it lets the folders below import `synthetic`."""

from __future__ import annotations

import pytest
from synthetic import Row, rows_of


@pytest.fixture
def small_bench() -> list[Row]:
    """Two types of 40 questions, references and three methods at two keeps."""

    def right(colour: int, place: int) -> dict[str, str]:
        return {"colour": "1" * colour + "0" * (40 - colour), "place": "1" * place + "0" * (40 - place)}

    return [
        *rows_of("none", right(38, 36), tokens=200),
        *rows_of("blind", right(6, 4), tokens=0),
        *rows_of("downsample:1/4", right(24, 20), tokens=50),
        *rows_of("downsample:1/9", right(20, 12), tokens=22),
        *rows_of("good:1/4", right(36, 34), tokens=50),
        *rows_of("good:1/9", right(34, 28), tokens=22),
        *rows_of("fair:1/4", right(35, 34), tokens=50),
        *rows_of("fair:1/9", right(22, 20), tokens=22),
        *rows_of("poor:1/4", right(10, 10), tokens=50),
        *rows_of("poor:1/9", right(8, 6), tokens=22),
    ]
