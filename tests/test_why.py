"""Why a layer hurts, from the ranges that were found for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.reporting_samples import complete, near, units

from sensitivity.records import (
    Distribution,
    Distributions,
    Effect,
    Estimate,
    OnGrid,
    Range,
    Recalibrated,
)
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.page import render
from sensitivity.reporting.why import range_sentences, reasons

OWN = Range("w", "own", (8.0,))
SPLIT = Range("w", "per channel", (0.25, 8.0, 0.5), axis=0)


def said(old: Range, new: Range) -> str:
    return " ".join(range_sentences(old, new))


def test_one_wide_channel_is_set_against_the_median_one() -> None:
    assert said(OWN, SPLIT) == (
        "Weights: the widest of 3 channels reaches 8, the median one 0.5. One scale for all of "
        "them makes steps 16 times as coarse as the median channel needs."
    )
    empty = replace(SPLIT, amax=(0.0, 8.0, 0.0))
    assert "makes steps infinitely many times as coarse" in said(OWN, empty)


def test_what_a_depthwise_convolution_reads_is_not_called_weights() -> None:
    """An equalized input has a range per channel too."""
    (told,) = range_sentences(OWN, replace(SPLIT, method="equalized", axis=1), "input")
    assert told.startswith("Activations: the widest of 3 channels reaches 8")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (OWN, Range("a", "mse", (2.0,)), "few values lie beyond 2 (mse), but the range went to 8"),
        (
            Range("a", "own", (3.0,), low=-1.0),
            Range("a", "percentile 99.9", (1.5,), low=-0.5),
            "beyond [-0.5, 1.5] (percentile 99.9), but the range went to [-1, 3]: steps 2 times",
        ),
    ],
    ids=["symmetric", "asymmetric"],
)
def test_a_range_that_went_too_far_is_reported_with_its_steps(
    old: Range, new: Range, words: str
) -> None:
    assert said(old, new).startswith("Activations: ")
    assert words in said(old, new)


def test_what_is_as_before_or_wider_says_nothing() -> None:
    assert said(OWN, OWN) == ""
    assert said(OWN, replace(OWN, amax=(9.0,))) == ""
    assert said(replace(OWN, amax=(0.0,)), replace(OWN, amax=(0.0,))) == ""
    assert said(replace(OWN, amax=(0.0,)), replace(SPLIT, amax=(0.0, 0.0))) == ""


def test_a_corrected_bias_says_how_far_outputs_had_moved() -> None:
    moved = replace(OWN, bias=(0.25, -0.5))
    assert said(OWN, moved) == "Biases: rounding weights moved the mean of a channel by up to 0.5."


def test_a_fine_tuned_layer_says_no_more_than_that() -> None:
    moved = replace(OWN, method="mse, fine-tuning", bias=(0.25, -0.5))
    assert said(OWN, moved) == (
        "Biases: fine-tuned, with those of all layers, by distillation from the float model."
    )
    assert said(OWN, replace(OWN, bias=(0.0, 0.0))) == ""


def explained(*ranges: Recalibrated, effects: tuple[Effect, ...]) -> ReportData:
    return replace(complete(8), units=units(8), effects=effects, ranges=ranges)


def effect(rank: int, name: str, value: float, half: float = 0.01, n: int = 300) -> Effect:
    return Effect(rank, rank, name, near(value, half, n), 0.4)


def ranges_of(name: str) -> Recalibrated:
    return Recalibrated(name, "per channel", (OWN,), (SPLIT,), near(0.1))


def test_only_the_worst_layers_whose_effect_is_clear_are_explained() -> None:
    made = (
        effect(1, "a", 0.3),
        effect(2, "<b>", 0.2),
        effect(3, "unclear", 0.005),
        Effect(4, 4, "signal", Estimate(0.0, None, None, 0), 0.4),
        effect(5, "no ranges", 0.1),
    )
    data = explained(*map(ranges_of, ("<b>", "a", "unclear", "signal")), effects=made)
    rows = reasons(data)
    assert [row.unit for row in rows] == ["a", "<b>"]
    assert rows[0].effect == "+30.0 pt [29.0, 31.0]"
    assert rows[0].channels == (1.0, 0.0625, 0.0312)
    text = render(data)
    assert "Why the most sensitive layers lose accuracy" in text
    assert "Ranges of 3 channels, the widest first" in text
    assert "&lt;b&gt;" in text
    assert "Why the most sensitive layers lose accuracy" not in render(replace(data, ranges=()))


def test_where_no_effect_is_shown_the_largest_are_explained_and_so_is_what_is_left_out() -> None:
    """Without other ranges, the values of the quantizers give the reason."""
    made = tuple(effect(rank, f"stage1.{rank - 1}", 0.01 / rank, 0.02) for rank in range(1, 7))
    grids = {
        f"stage1.{at}": OnGrid((-1.0, 1.0), (0.01, 0.01), 0.0, at / 1000, 0.0) for at in range(6)
    }
    inputs = Distributions(
        8,
        tuple(
            Distribution(q, "input", -1, 1, (1,), grids[u.name])
            for u in units(6)
            for q in u.quantizers
        ),
    )
    data = replace(explained(effects=made), units=units(6), distributions=inputs)
    assert data.plan
    data = replace(data, plan=replace(data.plan, skip=("stage1.5",)))
    rows = reasons(data)
    assert [row.unit for row in rows] == ["stage1.0", "stage1.1", "stage1.2", "stage1.5"]
    assert rows[-1].sentences == (
        "Activations: 0.5 % of their power is lost by rounding and clipping; the median layer "
        "loses 0.25 %.",
    )
    text = render(data)
    assert "Where the largest effects may come from" in text
    assert "None of them is more than chance on these samples." in text
