"""Parts of a batch that are run in lockstep: where they meet, and how they end."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from sensitivity.errors import TaskError
from sensitivity.repairs import lockstep
from sensitivity.repairs.lockstep import in_lockstep, stop


def test_all_parts_meet_at_each_stop_before_any_goes_on() -> None:
    seen: list[Any] = []

    def run(part: int) -> None:
        for place in ("first", "second"):
            seen.append((part, place))
            stop(place, part)

    in_lockstep(run, [1, 2], lambda name, shown: seen.append((name, shown)))
    assert seen == [
        (1, "first"), (2, "first"), ("first", [(1,), (2,)]),
        (1, "second"), (2, "second"), ("second", [(1,), (2,)]),
    ]  # fmt: skip


def test_what_a_meeting_changes_in_place_is_what_the_parts_go_on_with() -> None:
    results = {}

    def run(part: int) -> None:
        value = torch.full((2,), float(part))
        stop("layer", value)
        results[part] = value.tolist()
        assert not torch.is_grad_enabled()

    def meet(name: str, shown: list[Any]) -> None:
        total = sum(value.sum() for (value,) in shown)
        for (value,) in shown:
            value.add_(total)

    in_lockstep(run, [1, 2], meet)
    assert results == {1: [7.0, 7.0], 2: [8.0, 8.0]}


def test_parts_that_take_another_path_are_refused_and_no_thread_is_left() -> None:
    before = threading.active_count()
    with pytest.raises(TaskError, match="got left and right at once"):
        in_lockstep(lambda part: stop(part), ["left", "right"], lambda *_: None)
    assert threading.active_count() == before


def test_an_error_of_a_part_and_one_of_a_meeting_are_raised_and_end_the_others() -> None:
    before = threading.active_count()

    def run(part: int) -> None:
        stop("layer")
        raise ValueError(part)

    with pytest.raises(ValueError, match="1"):
        in_lockstep(run, [1, 2], lambda *_: None)
    with pytest.raises(ZeroDivisionError):
        in_lockstep(run, [1, 2], lambda *_: 1 / 0)
    assert threading.active_count() == before


def test_memory_is_given_back_where_values_have_grown_or_become_half_as_large(monkeypatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(lockstep, "trim_heap", lambda: seen.append("given back"))

    def run(part: int) -> None:
        for size in (8, 6, 3, 4, 1):
            stop("layer", torch.zeros(size))

    in_lockstep(run, [1, 2], lambda name, shown: seen.append(len(shown[0][0])))
    assert seen == [
        "given back", 8, 6, "given back", 3, "given back", 4, "given back", 1, "given back",
    ]  # fmt: skip
