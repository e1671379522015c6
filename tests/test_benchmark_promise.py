"""The benchmark of promises: its summary of rows, and that the splits of a draw do not overlap."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.models import Fixed, quantized
from support.scripts import load_script
from torch.nn import functional

from sensitivity.config import PlanSettings, check_numbers, target_of
from sensitivity.errors import SensitivityError


@pytest.fixture(scope="module")
def promise() -> Any:
    return load_script("benchmarks/promise.py")


def row(build: str, drop: float, skipped: int, status: str = "met") -> dict[str, Any]:
    return {
        "build": build, "draw": 0, "target": "1pt", "status": status, "skipped": skipped,
        "repaired": 2, "confirm_drop": 0.004, "true_drop": drop, "true_low": drop - 0.01,
        "true_high": drop + 0.01,
    }  # fmt: skip


def test_the_summary_says_how_far_plans_are_over_and_how_many_keep_the_target(promise: Any) -> None:
    rows = [
        row("old", 0.03, 2, "not proven"),
        row("new", 0.014, 4),
        row("new", 0.008, 3),
        row("new", 0.01, 2, "not proven"),
    ]
    old, new = promise.summaries(rows)
    assert (old["build"], old["mean_overshoot"], old["overshoot_error"]) == (
        "old", pytest.approx(0.02), None,
    )  # fmt: skip
    assert (old["met"], old["met_kept_share"]) == (0, None)
    assert new["mean_overshoot"] == pytest.approx((0.004 - 0.002 + 0.0) / 3)
    assert (new["kept_share"], new["met_kept_share"]) == (pytest.approx(2 / 3), 0.5)
    assert (new["mean_skipped"], new["draws"]) == (3, 3)


def test_a_row_has_the_paired_interval_in_place_of_single_samples(promise: Any) -> None:
    found = promise.judged({"draw": 1, "lost": [1.0, 0.0, -1.0, 1.0] * 50})
    assert found["true_drop"] == 0.25
    assert found["true_low"] < 0.25 < found["true_high"]
    assert (found["true_n"], "lost" in found) == (200, False)


def test_the_table_is_in_points(promise: Any) -> None:
    rows = [row("new", 0.012, 4)]
    result = {
        "model": "m", "command": "c", "environment": {"cpu": "one"}, "rows": rows,
        "summary": promise.summaries(rows),
    }  # fmt: skip
    table = promise.markdown(result)
    assert "| new | 1pt | 1 | +0.20 |  | 0% | 1 | 4.0 | 2.0 |" in table
    assert "| 0 | new | 1pt | met | 4 | 2 | 0.40 | 1.20 [0.20, 2.20] |" in table


@pytest.mark.parametrize("confidence", [0.49, 1.0, float("nan")])
def test_a_confidence_that_is_no_chance_is_refused(confidence: float) -> None:
    settings = PlanSettings(directory=Path("."), confidence=confidence)
    with pytest.raises(SensitivityError, match=r"--confidence to be at least 0.5 and under 1, got"):
        check_numbers(settings)


def test_the_confidence_belongs_to_the_target() -> None:
    for given in ({"max_drop": "1pt"}, {"max_drop": "2%"}, {"target": 0.5}):
        settings = PlanSettings(directory=Path("."), confidence=0.9, **given)
        check_numbers(settings)
        assert target_of(settings, 1.0).confidence == 0.9


@pytest.mark.parametrize(
    ("model", "n"), [("MOBILENET", 800), ("RESNET", 2000), ("REPVGG", 997), ("YOLO", 200)]
)
def test_no_image_of_a_draw_is_in_two_parts(promise: Any, model: str, n: int) -> None:
    sizes = getattr(sys.modules["promise_draw"], f"{model}_SIZES")
    from sensitivity.tasks.classification import random_parts

    parts = random_parts(n, sizes, seed=3)
    together = np.concatenate([*parts.values()])
    assert len(np.unique(together)) == len(together) == sum(sizes.values())


def test_a_sample_scores_the_mean_of_its_views(promise: Any) -> None:
    draws = sys.modules["promise_draw"]
    torch = pytest.importorskip("torch")
    views = [[(torch.tensor(x), None)] for x in ([1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 1.0])]
    task = SimpleNamespace(score=lambda outputs, _: outputs.tolist())
    drawn = draws.Drawn(task, None, views)
    assert draws.scores(drawn, lambda inputs: inputs) == [0.75, 0.25]
    assert len(set(draws.VIEWS)) == len(draws.VIEWS)
    assert all(0 <= top <= 32 and 0 <= left <= 32 for top, left, _ in draws.VIEWS)


def test_samples_of_a_metric_that_is_no_mean_have_values_whose_mean_is_the_metric(
    promise: Any,
) -> None:
    draws = sys.modules["promise_draw"]
    torch = pytest.importorskip("torch")
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [2.0, 2.0]])
    ratio = SimpleNamespace(
        score=lambda outputs, _: outputs.numpy(),
        aggregate=lambda rows: rows[:, 0].sum() / rows[:, 1].sum(),
    )
    found = draws.scores(draws.Drawn(ratio, None, [[(rows, None)]]), lambda inputs: inputs)
    # 3 * 6/8 - 2 * (5/6, 3/4 less the second, 4/6 less the third), by hand
    assert found == pytest.approx(
        [3 * 0.75 - 2 * 5 / 6, 3 * 0.75 - 2 * 3 / 4, 3 * 0.75 - 2 * 4 / 6]
    )


def test_a_plan_of_a_build_without_an_api_is_applied_to_a_copy() -> None:
    draw = load_script("benchmarks/promise_draw.py")
    inputs = torch.linspace(-1, 1, 12).reshape(4, 3)
    model = quantized(Fixed(), inputs)
    narrow = {"quantizer": "fc.input_quantizer", "amax": [0.25]}
    by_channel = {"quantizer": "fc.weight_quantizer", "amax": [0.1, 0.2, 0.3]}
    plan = {"recalibrated": [{"ranges": [narrow, by_channel]}], "quantizers": []}
    planned = draw.with_plan(model, plan)
    assert planned.fc.input_quantizer.amax.item() == 0.25
    assert planned.fc.weight_quantizer.amax.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert model.fc.input_quantizer.amax.item() == 1.0
    names = ["fc.input_quantizer", "fc.weight_quantizer"]
    in_float = draw.with_plan(model, plan | {"quantizers": names})
    float_fc = functional.linear(inputs, model.fc.weight, model.fc.bias)
    assert torch.equal(in_float.fc(inputs), float_fc)
    assert not torch.equal(planned.fc(inputs), float_fc)
