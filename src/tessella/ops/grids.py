"""Smaller grids inside a grid of tokens: how many rows and columns, which lines, which cells."""

from __future__ import annotations

from fractions import Fraction


def stride(num_tokens: int, num_keep: int) -> tuple[int, ...]:
    """`num_keep` indices evenly spaced over a line: `floor((i + 1/2) N / k)`.

    >>> stride(24, 8)
    (1, 4, 7, 10, 13, 16, 19, 22)
    """
    return tuple((2 * i + 1) * num_tokens // (2 * num_keep) for i in range(num_keep))


def shape_of(rows: int, columns: int, num_keep: int) -> tuple[int, int]:
    """Rows and columns, at most `num_keep` >= 1 in all, of the grid that stands for a larger one.

    The largest with nearly square cells, then the one most like the larger grid, then the one with more rows.

    >>> shape_of(14, 14, 22), shape_of(24, 24, 128)
    ((5, 4), (11, 11))
    """
    best: tuple[tuple[int, ...] | tuple[Fraction | int, ...], int, int] | None = None
    for r in range(1, min(rows, num_keep) + 1):
        c = min(columns, num_keep // r)
        low, high = sorted((r * columns, c * rows))
        skew = Fraction(high, low)  # |log skew| orders like skew, which is at least 1
        square = 5 * high <= 7 * low
        rank = (0, -r * c, skew, -r) if square else (1, skew, -r * c, -r)
        if best is None or rank < best[0]:
            best = (rank, r, c)
    assert best is not None
    return best[1:]


def spans(length: int, num_cells: int) -> tuple[tuple[int, int], ...]:
    """First place and end of each cell of a line under adaptive pooling; neighbouring cells may share places.

    >>> spans(5, 2)
    ((0, 3), (2, 5))
    """
    return tuple((i * length // num_cells, -(-(i + 1) * length // num_cells)) for i in range(num_cells))
