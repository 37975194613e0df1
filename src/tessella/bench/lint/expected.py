"""What the full model answers correctly, measured apart from any bench: by task and digest of its weights.

A ledger's full row is held against it. The numbers of the embedded model are those of `benchmarks/mini_accuracy.json`.
"""

from __future__ import annotations

NUM_PER_TYPE = 2000  # questions behind each number

EXPECTED: dict[tuple[str, str], dict[str, float]] = {
    ("mini world", "9d9c41b81a741631cd29ea1776c4a9d280a6ab1f61c42601461188967e423a35"): {
        "colour": 0.9995,
        "shape": 1.0,
        "place": 0.999,
        "relation": 1.0,
        "count": 0.9765,
        "existence": 0.9995,
        "digit": 0.989,
        "reading": 0.961,
    },
    ("mini world", "b47b755701d0c18d307b94629167b82142cc7542c9ea880c10467102bbc08385"): {
        "colour": 0.9995,
        "shape": 0.999,
        "place": 0.999,
        "relation": 0.999,
        "count": 0.973,
        "existence": 0.9995,
        "digit": 0.99,
        "reading": 0.9575,
    },
}
