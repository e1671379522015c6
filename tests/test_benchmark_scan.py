"""The scan benchmark on a tiny task: its output, and that its loops agree. Times are not
checked."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("modelopt")
ROOT = Path(__file__).parents[1]
TINY = f"{ROOT}/tests/tasks/tiny.py:task"
KEYS = (
    *(
        "naive_s",
        "exact_s",
        "raced_s",
        "naive_model_s",
        "exact_model_s",
        "floor_s",
        "naive_samples",
        "exact_samples",
    ),
    *(
        "raced_samples",
        "tau",
        "metrics_equal",
        "plan_met",
        "plan_units",
        "naive_plan_units",
        "peak_mib",
        "backend",
    ),
)


@pytest.fixture(scope="module")
def bench():
    names = ("scan", "scan_loops", "scan_models", "scan_plans", "scan_table")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})


@pytest.fixture(scope="module")
def result(bench):
    settings = bench.scan.Settings(samples=24, seeds=1, large=1, memory=(1, 64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.scan, "MODEL_SAMPLES", 60)
        found = bench.scan.benchmark(bench.scan_models.Subject("tiny", TINY, 10.0), settings)
    return json.loads(
        json.dumps({"command": "test", "environment": bench.scan.environment(), **found})
    )


def test_all_promised_numbers_are_written(result):
    assert [key for key in KEYS if result[key] is None] == []


def test_the_exact_replay_gives_each_layer_the_naive_loops_metric(result):
    assert result["metrics_equal"]
    assert result["scores_equal"]
    assert result["metric_difference"] == 0


def test_the_naive_loop_forwards_every_sample_once_per_layer(result):
    assert result["naive_samples"] == result["exact_samples"] == 7 * 24


def test_a_plan_that_is_said_to_meet_the_target_reaches_it_on_all_images(result):
    for run in result["raced_runs"]:
        assert run["met"] == (run["metric"] >= result["target"])


def test_results_are_the_same_at_each_memory_budget(result):
    assert result["memory_results_equal"]
    assert [row["budget_mib"] for row in result["memory"]] == [1, 64]
    for row in result["memory"]:
        assert row["planned_mib"] <= row["unlimited_mib"]
        assert 0 < row["held_mib"] <= row["planned_mib"]
        assert row["within"] or row["warned"]


def test_the_table_shows_the_command_and_both_loops(bench, result):
    table = bench.scan_table.markdown(result)
    assert "Command: test" in table
    assert "| metrics equal to the naive loop's |  | yes |  |" in table


def test_a_loop_that_disagrees_is_reported(bench):
    task = bench.scan_models.read_anew(bench.scan_models.loaded(TINY), 8)
    source = bench.scan.quantized_model(task.model)
    units = bench.scan.layers(source.quantizers)
    _, naive, exact = bench.scan.paired_loops(task, source, units)
    exact[units[0].name] = 1 - exact[units[0].name]
    found = bench.scan.Subjected(
        task, source, units, naive, exact, lambda _: 0.0, bench.scan.Target(drop=0.1)
    )
    assert not bench.scan._agreement(found)["scores_equal"]


def test_the_naive_loop_leaves_the_model_as_it_was(bench):
    task = bench.scan_models.read_anew(bench.scan_models.loaded(TINY), 8)
    source = bench.scan.quantized_model(task.model)
    before = source.fingerprint()
    names = [quantizer.name for quantizer in source.quantizers]
    clock = bench.scan_loops.Clock(task.model)
    off = bench.scan_loops.evaluated(task.model, names, task, clock)
    assert source.fingerprint() == before
    assert off.mean() == 1  # the labels are the float model's own


def test_reordered_samples_are_the_same_ones(bench):
    task = bench.scan_models.read_anew(bench.scan_models.loaded(TINY), None)
    other = bench.scan_models.reordered(task, 3, 40)
    pixels = [torch.cat([inputs for inputs, _ in one.data["rank"]]) for one in (task, other)]
    assert not torch.equal(*pixels)
    assert torch.equal(*(each.sum((1, 2, 3)).sort().values for each in pixels))


def test_the_float_replay_gives_the_float_model_for_every_variant(bench):
    task = bench.scan_models.loaded(TINY)
    source = bench.scan.quantized_model(task.model)
    inputs = next(iter(task.data["rank"]))[0]
    with torch.no_grad(), source.disabled([quantizer.name for quantizer in source.quantizers]):
        expected = task.model(inputs)
    variants = [frozenset(unit.quantizers) for unit in bench.scan.layers(source.quantizers)]
    for _, outputs in bench.scan_loops.float_replay(source).outputs(inputs, variants):
        assert torch.equal(outputs, expected)


def test_more_samples_than_there_are_come_again_and_again(bench):
    task = bench.scan_models.read_anew(bench.scan_models.loaded(TINY), 10)
    pixels = torch.cat(
        [inputs for inputs, _ in bench.scan_models.reordered(task, 0, 30).data["confirm"]]
    )
    _, counts = torch.unique(pixels.sum((1, 2, 3)), return_counts=True)
    assert counts.tolist() == [3] * 10


def test_steps_are_taken_in_proportion(bench):
    taken: list[str] = []

    def loop(name, steps):
        for _ in range(steps):
            taken.append(name)
            yield

    bench.scan_loops.interleaved((2, loop("a", 2)), (4, loop("b", 4)))
    assert "".join(taken) == "abbabb"


def test_naive_plans_grow_one_layer_at_a_time_until_the_target_holds(bench):
    units = [bench.scan.Unit(name, (f"{name}.q",)) for name in "abc"]
    tried: list[int] = []

    def metric(disabled):
        tried.append(len(disabled))
        return len(disabled) / 3

    assert bench.scan_plans.naive_plan("cab", units, metric, 0.6) == ("c", "a")
    assert tried == [0, 1, 2]
    assert bench.scan_plans.naive_plan("cab", units, metric, 1.1) is None


def test_the_cost_model_follows_its_formulas(bench):
    at = {"units": 7, "samples": 100, "naive_s": 70.0, "exact_s": 12.0, "exact_setup_s": 5.0}
    large = [
        bench.scan_plans.Raced(seconds, 5.0, samples, (), None)
        for seconds, samples in ((15.0, 11000), (17.0, 11000))
    ]
    cost = bench.scan_plans.cost_model(70, 5000, at, large)
    assert cost["naive"] == {"samples": 350_000, "seconds": 35_000}
    assert cost["exact"]["seconds"] == 5 + 350_000 * 7 / 700
    assert cost["raced"]["samples"] == 11000 + 63 * 16
    assert cost["raced"]["seconds"] == pytest.approx(5 + cost["raced"]["samples"] / 1000)
    assert bench.scan_plans.cost_model(70, 5000, at, [])["raced"] is None
