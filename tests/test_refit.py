"""Roundings that are learned for the formats of a plan."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sensitivity.planners.formats import set_of_steps
from sensitivity.records import fp8_name, wide_name
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


def test_the_first_steps_give_a_format_and_the_last_ones_take_a_unit_to_float() -> None:
    plan: Any = SimpleNamespace(
        skip=("fixed", "a", "float only", "fp8 only"),
        wide=("b", "c"),
        fp8=("e",),
        names=(*map(wide_name, "bc"), fp8_name("e")),
    )
    formats = [*map(wide_name, "abcd"), *map(fp8_name, ["a", "b", "e", "fp8 only"])]
    study: Any = SimpleNamespace(formats=dict.fromkeys(formats, ()))
    chains = refit._chains(plan, study)
    first = [wide_name("a"), "float only", fp8_name("fp8 only"), *map(wide_name, "bc")]
    steps = refit._steps(plan, chains, ("fixed",))
    assert steps == [*first, fp8_name("e"), "a", "fp8 only"]
    assert set(set_of_steps(steps, chains)) == {*plan.names, *plan.skip} - {"fixed"}
