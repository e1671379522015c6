"""Plans for targets whose operations read and write one type: 16 bits spread to layers that write
what others read."""

from __future__ import annotations

import json
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import TASK, verb
from support.onnx_text import network_of
from support.planner_instances import instance, with_raises

from sensitivity.cost.model import operations_cost
from sensitivity.cost.model import with_raises as priced
from sensitivity.onnx_graph.activation_types import ActivationTypes
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.work import Work, quantized_layers, work
from sensitivity.planners.base import Goal, Judged, Skip
from sensitivity.planners.cost import CostPlanner
from sensitivity.planners.exhaustive import ExhaustivePlanner
from sensitivity.planners.formats import FormatsPlanner, cost_of_steps
from sensitivity.planners.pinned import given
from sensitivity.records import CostModel, Raise, Unit, unit_of, wide_name
from sensitivity.rules.formats import BORDERS
from sensitivity.run_dir import RunDir
from sensitivity.search.formats import chains_of, order_of_steps
from sensitivity.search.rerank import Order

CHAIN = CostModel(
    "operations",
    "work",
    0.0,
    {"a": 80.0, "b": 8.0, "c": 8.0},
    raises=(Raise("a", ("b",), 10.0), Raise("b", ("c",), 1.0), Raise("c", ("",), 1.0)),
)
"""Layers in a row; the last one gives the model's output."""

WIDE = {unit: wide_name(unit) for unit in "abc"}


def test_a_layer_is_raised_if_one_that_reads_what_it_writes_is_not_in_int8() -> None:
    assert CHAIN.raised([]) == ("c",)
    assert CHAIN.raised([WIDE["c"]]) == ("b",)
    assert CHAIN.raised(["b"]) == ("a", "c"), "what float reads is written in 16 bits"
    assert CHAIN.raised([WIDE["a"], WIDE["b"]]) == ("c",)
    assert CHAIN.of([WIDE["b"]]) == 1 + 10 + 1
    assert CHAIN.of([WIDE["a"], WIDE["b"]]) == 10 + 1 + 1


def test_steps_cost_together_what_their_set_costs() -> None:
    steps = cost_of_steps(CHAIN, {unit: (wide,) for unit, wide in WIDE.items()})
    for taken in combinations(("a", "b", "c"), 2):
        wide = [WIDE[unit] for unit in taken]
        assert steps.of(wide) == CHAIN.of(wide)
        assert steps.of([*wide, taken[0]]) == CHAIN.of([taken[0], wide[1]])


def test_steps_that_raise_an_expensive_layer_come_later() -> None:
    order = Order(("a", "b", "c"), {"a": 0.0, "b": 4.0, "c": 4.0})
    spared = {WIDE["b"]: 0.9, WIDE["c"]: 0.9}
    assert order_of_steps(order, chains_of(spared), spared, CHAIN).units[0] == WIDE["c"]


def test_with_pins_the_cost_of_the_rest_is_that_of_the_whole() -> None:
    for seed in range(20):
        one = with_raises(instance(seed, largest=7), seed)
        skip, keep, *free = one.units
        left = given(one.cost, [skip], [keep])
        for size in range(len(free) + 1):
            for chosen in combinations(free, size):
                assert left.of(chosen) == pytest.approx(one.cost.of((*chosen, skip)))


def test_the_cost_planner_is_near_brute_force_with_raises() -> None:
    excesses = []
    for seed in range(30):
        one = with_raises(instance(seed, largest=8), seed)
        choice = CostPlanner().choose(one.ranking, one.judge, one.goal)
        assert choice.met
        excesses.append(one.cost.of(choice.skip) / one.best_cost() - 1)
    assert np.median(excesses) == pytest.approx(0)
    assert np.mean(np.array(excesses) <= 0.01) >= 0.95, excesses


@pytest.mark.parametrize("planner", [CostPlanner, ExhaustivePlanner])
def test_a_plan_takes_16_bits_where_they_spread_the_least(planner: type) -> None:
    """Either b or c is enough; b raises the expensive a."""
    loss = {WIDE["b"]: 0.5, WIDE["c"]: 0.5, "b": 0.0, "c": 0.0, WIDE["a"]: 0.0, "a": 0.0}

    def judge(names: Skip) -> Judged:
        units = set(map(unit_of, names))
        metric = 1.0 - 0.5 * ("b" not in units) - 0.5 * ("c" not in units)
        return Judged(metric, metric >= 0.5, 100)

    def chosen(cost: CostModel) -> Skip:
        steps = FormatsPlanner(planner(), {unit: (wide,) for unit, wide in WIDE.items()})
        return steps.choose(tuple(loss), judge, Goal(0.5, 1.0, cost, loss)).skip

    assert chosen(CHAIN) == (WIDE["c"],)
    cheaper = CostModel("operations", "work", 0.0, CHAIN.units | {"b": 7.0})
    assert chosen(cheaper) == (WIDE["b"],), "without borders"


HEAD = '<ir_version: 8, opset_import: ["" : 17]> net '
PAIRS = """
    {0}q = QuantizeLinear ({1}, s, z)
    {0}d = DequantizeLinear ({0}q, s, z)
"""
WEIGHT = """
    {0}wq = QuantizeLinear (w, s, z)
    {0}wd = DequantizeLinear ({0}wq, s, z)
"""


def layer(name: str, reads: str, kind: str = "Conv") -> str:
    """A layer with pairs on what it reads and on its weight."""
    text = PAIRS.format(name, reads) + WEIGHT.format(name)
    return f"{text}    [{name}] {name} = {kind} ({name}d, {name}wd)\n"


def work_of_text(body: str, outputs: str = "y") -> Work:
    text = (
        HEAD
        + "(float[1,4,4,4] x) => ("
        + ", ".join(f"float[1,4,4,4] {name}" for name in outputs.split())
    )
    arrays = {"s": np.array(0.1, np.float32), "z": np.array(0, np.int8)}
    arrays["z16"] = np.array(0, np.int16)
    model = network_of(f"{text}) {{\n{body}}}", w=np.ones((4, 4, 1, 1), np.float32), **arrays)
    layers = quantized_layers(model.graph)
    quantizers = {node: (f"{node.name}.q",) for node in model.graph}
    return work(layers, dict.fromkeys(layers.needed_values, (1, 4, 4, 4)), quantizers)


def raises_of(found: Work, units: tuple[Unit, ...]) -> dict[str, set[str]]:
    cost = priced(operations_cost(found, units), found, units)
    return {one.unit: set(one.readers) for one in cost.raises}


def test_layers_raise_those_before_them_through_operations_without_weights() -> None:
    body = (
        layer("a", "x")
        + "    ar = Relu (a)\n"
        + layer("b", "ar")
        + "    sum = Add (b, ar)\n"
        + layer("c", "sum")
        + "    y = LeakyRelu (c)\n"
    )
    units = tuple(Unit(name, (f"{name}.q",)) for name in "abc")
    assert raises_of(work_of_text(body), units) == {"a": {"b", "c"}, "b": {"c"}, "c": {""}}


def test_the_models_outputs_and_layers_in_float_want_16_bits_whatever_else_reads_a_value() -> None:
    body = layer("a", "x") + layer("y", "a") + "    [f] f = Conv (a, w)\n"
    units = tuple(Unit(name, (f"{name}.q",)) for name in "ay")
    assert raises_of(work_of_text(body, "y f"), units) == {"a": {"y", ""}, "y": {""}}
    body = layer("a", "x") + layer("y", "a")
    assert raises_of(work_of_text(body, "y a"), units) == {"a": {"y", ""}, "y": {""}}


def test_operations_without_weights_that_are_units_raise_what_they_read() -> None:
    body = layer("a", "x") + PAIRS.format("p", "a") + "    [p] y = LeakyRelu (pd)\n"
    found = work_of_text(body)
    units = (Unit("a", ("a.q",)), Unit("p", ("p.q",)))
    assert raises_of(found, units) == {"a": {"p", ""}}


def test_layers_with_16_bits_in_the_file_are_not_raised_and_always_raise_others() -> None:
    pairs = PAIRS.format("b", "a").replace(" z)", " z16)")
    wide = pairs + WEIGHT.format("b") + "    [b] b = Conv (bd, bwd)\n"
    units = tuple(Unit(name, (f"{name}.q",)) for name in "aby")
    found = raises_of(work_of_text(layer("a", "x") + wide + layer("y", "b")), units)
    assert found == {"a": {"b", ""}, "y": {""}}


def test_a_raise_costs_an_eighth_of_the_layer_and_not_of_its_unit() -> None:
    found = work_of_text(layer("a", "x") + layer("b", "a") + layer("y", "b"))
    units = (Unit("ab", ("a.q", "b.q")), Unit("y", ("y.q",)))
    cost = priced(operations_cost(found, units), found, units)
    macs = found.layers[0].shape.macs
    assert cost.units["ab"] == 2 * macs
    assert cost.raises == (Raise("ab", ("y",), macs / 8), Raise("y", ("",), macs / 8))


# A run.
# --------------------------------------------------------------------------------------------------

FORMATS = ("--formats", "int8,int16,float", "--no-recalibrate")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ranges of two layers are far too wide for 8 bits."""
    out = tmp_path_factory.mktemp("borders") / "tiny"
    assert verb("scan", f"{TASK}:far_too_wide", "--out", out) == 0
    assert verb("plan", out, "--target", "0.8", *FORMATS, "--for", "qnn") == 0
    assert verb("export", out, "--for", "qnn") == 0
    return out


def test_a_plan_for_qnn_says_which_layers_run_in_16_bits_beside_its_own(done: Path) -> None:
    plan = RunDir(done).plan()
    assert {one.unit for one in plan.widened} == {"conv2", "conv5"}
    assert plan.raised == ("conv1", "conv4", "fc")
    (note,) = [note for note in plan.notes if "in 16 bits on this target" in note]
    assert note.startswith("In INT8 by the plan, but in 16 bits on this target: conv1, conv4, fc.")
    assert "the bit operations of everything in INT8" in note


def test_its_file_has_these_layers_in_16_bits(done: Path) -> None:
    plan = RunDir(done).plan()
    graph = load_model(done / "model.partial.onnx").graph
    types = ActivationTypes(graph)
    wide = {node.name for node in graph if node.op_type in {"Conv", "Gemm"} if types.of(node) == 16}
    assert wide == {*plan.wide, *plan.raised}


def test_the_lowered_file_is_checked_against_the_canonical_one(done: Path, capsys: Any) -> None:
    checks = json.loads((done / "export.json").read_text())["lowered"]
    assert checks["model.partial.qnn.onnx"]["target"] == "qnn"
    assert verb("lint", done / "model.partial.qnn.onnx", "--for", "qnn") == 0
    capsys.readouterr()
    assert verb("lint", done / "model.partial.onnx", "--for", "qnn") == 1
    assert "SQ80" in capsys.readouterr().out


def test_the_cost_planner_counts_multiply_accumulates_and_no_times(
    done: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cost"
    shutil.copytree(done, out)
    cost = ("--planner", "cost", "--for", "qnn")
    assert verb("plan", out, "--target", "0.8", *FORMATS, *cost) == 0
    plan = RunDir(out).plan()
    assert plan.predicted_ms is None
    assert any("the bit operations of everything in INT8" in note for note in plan.notes)
    assert not (out / "costs.json").exists()


def test_another_target_is_answered_with_its_own_raised_layers(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    shutil.copytree(done, out)
    lines = RunDir(out).journal.read_bytes()
    assert verb("plan", out, "--target", "0.79", *FORMATS, "--for", "qnn") == 0
    again = RunDir(out).plan()
    assert any("measured before" in note for note in again.notes)
    assert again.raised == RunDir(done).plan().raised
    assert any("in 16 bits on this target" in note for note in again.notes)
    assert RunDir(out).journal.read_bytes() == lines


def test_other_targets_raise_nothing_and_are_searched_for_apart(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "other"
    shutil.copytree(done, out)
    assert verb("plan", out, "--target", "0.8", *FORMATS, "--for", "onnxruntime") == 0
    other = RunDir(out).plan()
    assert other.raised == ()
    assert not any("measured before" in note for note in other.notes)


def test_the_page_of_formats_has_the_table_of_borders() -> None:
    page = (Path(__file__).parents[1] / "docs" / "formats.md").read_text()
    for target, borders in BORDERS.items():
        must = "must not" if borders.one_type else "may"
        assert f"| {target} | {must} | {borders.why} | {borders.source} |" in page
