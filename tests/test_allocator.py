"""What the command line asks of the C library's memory, and what it does without it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from sensitivity import allocator


@pytest.mark.parametrize("taken", [1, 0], ids=["taken", "refused"])
def test_glibc_is_asked_to_keep_the_memory_of_large_tensors(monkeypatch, taken) -> None:
    asked = {}

    def mallopt(setting: int, value: int) -> int:
        asked[setting] = value
        return taken

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    assert allocator.keep_freed_memory() == bool(taken)
    assert asked[-8] == 1, "M_ARENA_MAX of malloc.h"
    if taken:
        assert asked == {-8: 1, -3: 64 * 2**20, -1: 256 * 2**20}, "M_MMAP_ and M_TRIM_THRESHOLD"


def test_another_c_library_is_left_as_it_is(monkeypatch) -> None:
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: SimpleNamespace())
    assert not allocator.keep_freed_memory()
    monkeypatch.setattr(allocator.os, "name", "nt")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: pytest.fail("Windows has no such name"))
    assert not allocator.keep_freed_memory()


def test_free_memory_is_given_back_where_the_c_library_can(monkeypatch) -> None:
    given = []
    library = SimpleNamespace(malloc_trim=given.append)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: library)
    allocator.collect_and_trim()
    assert given == [0]
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: SimpleNamespace())
    allocator.trim_heap()


def test_the_end_of_a_command_collects_nothing_more(monkeypatch) -> None:
    """With torch and ModelOpt imported, the interpreter took two seconds more to end."""
    registered: list[Callable[[], None]] = []
    monkeypatch.setattr(allocator.atexit, "register", registered.append)
    allocator.end_without_collecting()
    (at_end,) = registered
    assert gc.isenabled()
    before = gc.get_freeze_count()
    try:
        at_end()
        assert not gc.isenabled()
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()
        gc.enable()


def test_only_a_process_that_collects_seldom_spares_what_is_loaded() -> None:
    before, spared = gc.get_threshold(), gc.get_freeze_count()
    try:
        gc.set_threshold(700)
        allocator.spare_loaded()
        assert gc.get_freeze_count() == spared, "the process of a user of the Python interface"
        allocator.collect_seldom()
        assert gc.get_threshold()[0] > 700
        allocator.spare_loaded()
        assert gc.get_freeze_count() > spared
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
