"""Results are held within bounds, in memory or in a folder."""

from __future__ import annotations

import os

import pytest

from tessella.core.errors import InputError
from tessella.serve.page.shelf import Shelf


def test_the_oldest_pages_make_room_by_number_and_by_bytes():
    shelf = Shelf(most=3, max_bytes=100)
    numbers = [shelf.put(b"a" * 10) for _ in range(4)]
    assert len(set(numbers)) == 4
    assert all(len(number) == 22 for number in numbers)
    assert [shelf.find(number) for number in numbers] == [None, *[b"a" * 10] * 3]
    large = shelf.put(b"b" * 95)
    assert shelf.find(numbers[3]) is None
    assert shelf.find(large) == b"b" * 95
    assert shelf.find(shelf.put(b"c" * 101)) is None


def test_a_page_that_is_put_again_counts_once_and_as_new():
    shelf = Shelf(most=2, max_bytes=20)
    first, second = shelf.put(b"a" * 10), shelf.put(b"b" * 10)
    assert shelf.put(b"a" * 10, first) == first
    third = shelf.put(b"c" * 10)
    assert [shelf.find(number) is not None for number in (first, second, third)] == [True, False, True]


def test_a_folder_outlives_its_server_and_keeps_the_bounds(tmp_path):
    shelf = Shelf(most=5, max_bytes=1000, folder=tmp_path)
    numbers = [shelf.put(f"page {n}".encode()) for n in range(3)]
    for n, number in enumerate(numbers):
        os.utime(tmp_path / f"{number}.html", (n, n))
    (tmp_path / "notes.html").write_text("somebody's own")
    later = Shelf(most=2, max_bytes=1000, folder=tmp_path)
    assert [later.find(number) for number in numbers] == [None, b"page 1", b"page 2"]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
        [*(f"{n}.html" for n in numbers[1:]), "notes.html"]
    )
    assert later.find("notes") is later.find("../notes") is None


def test_a_file_that_somebody_removed_is_gone(tmp_path):
    shelf = Shelf(most=2, max_bytes=1000, folder=tmp_path)
    number = shelf.put(b"page")
    (tmp_path / f"{number}.html").unlink()
    assert shelf.find(number) is None


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="it is no folder to write to"):
        Shelf(2, 1000, tmp_path / "missing")
