"""What was used last stays, within a number of bytes."""

from __future__ import annotations

from tessella.serve.local.bounded import Bounded


def test_what_was_not_used_for_longest_leaves() -> None:
    held: Bounded[str, int] = Bounded(10)
    assert held.put("a", 1, 4) == []
    assert held.put("b", 2, 4) == []
    assert held.get("a") == 1
    assert held.put("c", 3, 4) == [2]
    assert (held.get("a"), held.get("b"), held.get("c"), held.num_bytes, len(held)) == (1, None, 3, 8, 2)


def test_a_value_that_alone_is_too_large_drives_nothing_out() -> None:
    held: Bounded[str, int] = Bounded(10)
    held.put("a", 1, 4)
    assert held.put("b", 2, 11) == []
    assert (held.get("a"), held.get("b"), held.num_bytes) == (1, None, 4)


def test_a_key_holds_its_last_value() -> None:
    held: Bounded[str, int] = Bounded(10)
    held.put("a", 1, 4)
    assert held.put("a", 2, 6) == [1]
    assert (held.get("a"), held.num_bytes) == (2, 6)


def test_a_limit_of_nothing_turns_it_off() -> None:
    held: Bounded[str, int] = Bounded(0)
    held.put("a", 1, 1)
    assert (held.get("a"), held.num_bytes) == (None, 0)
