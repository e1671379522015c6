"""Roundings that are learned for the formats of a plan."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sensitivity.records import wide_name
from sensitivity.steps import refit


@pytest.mark.parametrize("enough", range(1, 7))
def test_the_fewest_steps_that_are_enough_are_found(enough: int) -> None:
    asked: list[int] = []

    def tried(number: int) -> str | None:
        asked.append(number)
        return f"ranges for {number}" if number >= enough else None

    found = refit._of_fewest(6, tried)
    assert found == (f"ranges for {enough}" if enough < 6 else None)
    assert len(asked) <= 3
    assert not {0, 6} & set(asked), "both are known"


def test_the_first_steps_give_16_bits_and_the_last_ones_take_a_unit_to_float() -> None:
    plan: Any = SimpleNamespace(skip=("fixed", "a", "float only"), wide=("b", "c"))
    study: Any = SimpleNamespace(wide=dict.fromkeys(["a", "b", "c", "d"], ()))
    first = [*map(wide_name, "a"), "float only", *map(wide_name, "bc")]
    assert refit._steps(plan, study, ("fixed",)) == [*first, "a"]
