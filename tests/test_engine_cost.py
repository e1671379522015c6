"""The cost of units by whole engines, compared with engines whose true cost is known."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from sensitivity.cost.engines import PARTITIONS, TOGETHER, engine_cost, engine_sets
from sensitivity.records import Border, CostModel
from sensitivity.stats.evidence import likeliest

UNITS = tuple(f"u{number}" for number in range(32))
CHAIN = tuple(Border(a, b, 0.02) for a, b in pairwise(UNITS))


def a_model(share: float, seed: int) -> CostModel:
    """20 ms in INT8, 0.1 to 1 ms for each unit."""
    prices = np.random.default_rng(seed).uniform(0.1, 1.0, len(UNITS)).tolist()
    borders = tuple(replace(border, cost=border.cost * share) for border in CHAIN)
    return CostModel("table", "ms", 20.0, dict(zip(UNITS, prices, strict=True)), borders)


def times(truth: CostModel, noise: float, seed: int) -> dict[tuple[str, ...], float]:
    rng = np.random.default_rng(seed)
    return {skip: truth.of(skip) + noise * rng.normal() * bool(skip) for skip in engine_sets(UNITS)}


def test_every_unit_is_alone_once_and_with_others_several_times() -> None:
    sets = engine_sets(UNITS)
    assert sets[:2] == [(), UNITS]
    assert [skip for skip in sets if len(skip) == 1] == [(unit,) for unit in UNITS]
    together = [skip for skip in sets if 1 < len(skip) < len(UNITS)]
    assert all(sum(unit in skip for skip in together) == PARTITIONS for unit in UNITS)
    assert {len(skip) for skip in together} == {TOGETHER}


@pytest.mark.parametrize(
    ("units", "sets"),
    [("a", {(), ("a",)}), ("ab", {(), ("a",), ("b",), ("a", "b")}), ("abc", None)],
)
def test_models_of_few_units_have_no_set_twice(units: str, sets: set | None) -> None:
    found = engine_sets(tuple(units))
    assert len(set(found)) == len(found)
    assert all(skip == tuple(sorted(skip)) for skip in found), (
        "in the order of the units, so that equal sets are one"
    )
    assert sets is None or set(found) == sets


@pytest.mark.parametrize("share", [0.0, 0.5, 2.0])
def test_engines_without_luck_tell_units_and_how_much_borders_come_to(share: float) -> None:
    truth = a_model(share, seed=1)
    cost = engine_cost(a_model(1.0, seed=2), times(truth, 0.0, seed=0))
    assert (cost.kind, cost.note) == ("engine", "")
    assert cost.of(()) == pytest.approx(truth.of(()))
    assert [border.cost for border in cost.borders] == pytest.approx(
        [border.cost for border in truth.borders]
    )
    assert list(cost.units.values()) == pytest.approx(list(truth.units.values()), abs=0.01)
    assert cost.error < 0.01


def test_with_luck_units_are_nearer_to_the_truth_than_each_engine_alone() -> None:
    alone, fitted, errors = [], [], []
    for seed in range(10):
        truth = a_model(1.0, seed)
        table = replace(truth, units={unit: ms * 1.3 for unit, ms in truth.units.items()})
        ms = times(truth, 0.3, seed)
        cost = engine_cost(table, ms)
        alone += [ms[unit,] - truth.of((unit,)) for unit in UNITS]
        fitted += [cost.of((unit,)) - truth.of((unit,)) for unit in UNITS]
        errors.append(cost.error)
    assert np.std(fitted) < 0.6 * np.std(alone)
    assert np.mean(errors) == pytest.approx(0.3, rel=0.3)


def test_a_table_that_is_right_is_believed_more_than_engines_that_are_off() -> None:
    truth = a_model(1.0, seed=3)
    cost = engine_cost(truth, times(truth, 0.5, seed=4))
    off = [cost.units[unit] - truth.units[unit] for unit in UNITS]
    assert np.std(off) < 0.1


def test_engines_that_do_not_add_up_to_the_float_one_are_reported() -> None:
    truth = a_model(1.0, seed=5)
    ms = times(truth, 0.0, seed=0)
    cost = engine_cost(truth, ms | {UNITS: 3 * ms[UNITS]})
    assert cost.note.startswith("Engines with some units out of INT8 add up to ")
    assert cost.note.endswith(
        f"ms for all of them, the float engine takes {3 * ms[UNITS]:.3g} ms: do not trust the "
        "predicted times of large skip-sets."
    )


def test_the_evidence_is_that_of_scikit_learn() -> None:
    gaussian_process = pytest.importorskip("sklearn.gaussian_process")
    rng = np.random.default_rng(0)
    features, surprise = rng.normal(size=(9, 4)), rng.normal(size=9)
    scales, noises = (0.1, 1.0, 4.0), (0.2, 0.7, 1.5)
    found = likeliest(features @ features.T, surprise, scales, noises)
    kernels = gaussian_process.kernels
    linear = kernels.DotProduct(sigma_0=0.0, sigma_0_bounds="fixed")

    def theirs(scale: float, noise: float) -> float:
        kernel = kernels.ConstantKernel(scale, "fixed") * linear + kernels.WhiteKernel(
            noise**2, "fixed"
        )
        process = gaussian_process.GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None)
        return process.fit(features, surprise).log_marginal_likelihood_value_

    best = max(
        ((scale, noise) for scale in scales for noise in noises), key=lambda one: theirs(*one)
    )
    assert (found.scale, found.noise) == best
    assert found.log_likelihood == pytest.approx(theirs(*best))
