"""The work of layers, read from a file, and the cost of leaving them out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sensitivity.cost.model import table_cost, work_cost
from sensitivity.cost.shapes import work_of
from sensitivity.cost.table import (
    ConversionTime,
    LayerTime,
    Table,
    key_of,
    measured_table,
    size_key,
    to_measure,
)
from sensitivity.errors import SensitivityError
from sensitivity.onnx_graph.work import OUTSIDE, LayerShape
from sensitivity.records import Border, CostModel, Unit
from sensitivity.runtimes.onnxruntime import OnnxRuntime

UNITS = tuple(
    Unit(name, (f"{name}.input_quantizer", f"{name}.weight_quantizer")) for name in ("a", "b", "fc")
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """x -> conv a -> SiLU -> conv b (stride 2, depthwise) -> LeakyRelu -> mean -> Gemm fc -> y,
    canonical Q/DQ."""
    nodes, constants = [], []

    def constant(name: str, value) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def pair(value: str, name: str, per_channel: int = 0) -> str:
        scale = np.full(per_channel, 0.01, np.float32) if per_channel else np.float32(0.05)
        grid = [constant(f"{name}.s", scale), constant(f"{name}.z", np.zeros_like(scale, np.int8))]
        axis = {"axis": 0} if per_channel else {}
        nodes.append(
            helper.make_node(
                "QuantizeLinear", [value, *grid], [f"{name}.q"], f"{name}/QuantizeLinear", **axis
            )
        )
        nodes.append(
            helper.make_node(
                "DequantizeLinear",
                [f"{name}.q", *grid],
                [f"{name}.dq"],
                f"{name}/DequantizeLinear",
                **axis,
            )
        )
        return f"{name}.dq"

    def layer(op: str, name: str, value: str, weight, **attributes) -> None:
        stored = constant(f"{name}.w", weight.astype(np.float32))
        given = [
            pair(value, f"{name}.input_quantizer"),
            pair(stored, f"{name}.weight_quantizer", len(weight)),
        ]
        given.append(constant(f"{name}.b", np.zeros(len(weight), np.float32)))
        nodes.append(helper.make_node(op, given, [f"{name}.y"], name, **attributes))

    rng = np.random.default_rng(0)
    layer("Conv", "a", "x", rng.normal(size=(4, 3, 3, 3)), pads=[1, 1, 1, 1])
    nodes.append(helper.make_node("Sigmoid", ["a.y"], ["a.sig"]))
    nodes.append(helper.make_node("Mul", ["a.y", "a.sig"], ["a.act"]))
    layer(
        "Conv",
        "b",
        "a.act",
        rng.normal(size=(4, 1, 3, 3)),
        pads=[1, 1, 1, 1],
        strides=[2, 2],
        group=4,
    )
    nodes.append(helper.make_node("LeakyRelu", ["b.y"], ["b.act"], alpha=0.1))
    nodes.append(helper.make_node("ReduceMean", ["b.act"], ["mean"], axes=[2, 3], keepdims=0))
    layer("Gemm", "fc", "mean", rng.normal(size=(10, 4)), transB=1)
    nodes[-1].output[0] = "y"
    shape = ["batch", 3, 8, 8]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])],
        constants,
    )
    path = tmp_path_factory.mktemp("work") / "model.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


def test_layers_are_read_with_their_shapes_activations_and_quantizers(file: Path) -> None:
    a, b, fc = work_of(file).layers
    assert (a.node, a.shape.input, a.shape.output) == ("a", (1, 3, 8, 8), (1, 4, 8, 8))
    assert a.shape.then == (("SiLU", "{}"),)
    assert b.shape.then[0][0] == "LeakyRelu"
    assert b.quantizers == ("b.input_quantizer", "b.weight_quantizer")
    assert (a.shape.macs, b.shape.macs, fc.shape.macs) == (64 * 4 * 27, 16 * 4 * 9, 40)
    assert fc.shape.bias


def test_links_go_from_layer_to_layer_and_to_the_outside(file: Path) -> None:
    links = {(link.before, link.after): link.size for link in work_of(file).links}
    assert links == {
        (OUTSIDE, "a"): (1, 3, 8, 8),
        ("a", "b"): (1, 4, 8, 8),
        ("b", "fc"): (1, 4),
        ("fc", OUTSIDE): (1, 10),
    }


def test_a_transposed_convolution_is_counted_by_its_input() -> None:
    shape = LayerShape("ConvTranspose", "{}", (1, 8, 4, 4), (8, 2, 2, 2), (1, 2, 8, 8), False, ())
    assert shape.macs == 8 * 16 * 2 * 4


def test_work_ranks_units_and_is_no_time(file: Path) -> None:
    cost = work_cost(work_of(file), UNITS)
    assert cost.unit == "work"
    assert cost.units["a"] > cost.units["b"] > cost.units["fc"] > 0
    assert cost.of(["a"]) > cost.of(["fc"]) > cost.of(())


@pytest.mark.parametrize(
    ("side", "added"),
    # 300 values move in the time of 4,800 multiply-accumulates as INT8, of 19,200 as float.
    # 8,000,000 multiply-accumulates, a quarter of that time as INT8, take longer than 120,000.
    [(10, 14_400.0), (200, 6_000_000.0)],
    ids=["bytes decide", "arithmetic decides"],
)
def test_work_is_a_roofline_of_16_multiply_accumulates_a_byte(
    file: Path, side: int, added: float
) -> None:
    work = work_of(file)
    square = (side, side)
    layer = replace(
        work.layers[0], shape=LayerShape("MatMul", "{}", square, square, square, False, ())
    )
    one = replace(work, layers=[layer], links=[])
    assert sum(work_cost(one, UNITS).units.values()) == added


def test_a_table_is_timed_once_and_kept(file: Path, tmp_path: Path) -> None:
    work, out, steps = work_of(file), tmp_path / "costs.json", []
    table = measured_table(
        work, OnnxRuntime(), "here", out, threads=1, advance=lambda *step: steps.append(step)
    )
    assert len(steps) == to_measure(work) == 7
    assert all(time.int8 > 0 and time.float_ > 0 for time in table.layers.values())
    assert measured_table(work, OnnxRuntime(), "here", out, threads=1) == table
    other = measured_table(work, OnnxRuntime(), "elsewhere", out, threads=1)
    assert other.layers.keys() == table.layers.keys()
    assert other != table, "times of another machine or version are not taken"
    assert measured_table(work, OnnxRuntime(), "here", out, threads=1) == table, (
        "and do not displace these"
    )


def test_a_damaged_table_is_one_sentence(file: Path, tmp_path: Path) -> None:
    (tmp_path / "costs.json").write_text("[{]")
    with pytest.raises(
        SensitivityError, match="costs.json to hold measured times, got .*; delete it to time again"
    ):
        measured_table(work_of(file), OnnxRuntime(), "here", tmp_path / "costs.json", threads=1)


def times_of(file: Path) -> Table:
    """Each layer takes 1 ms in INT8 and 2 ms in float, each conversion 0.1 and 0.2 ms."""
    work = work_of(file)
    layers = {key_of(layer.shape): LayerTime(1.0, 2.0) for layer in work.layers}
    return Table(
        "here", layers, {size_key(link.size): ConversionTime(0.1, 0.2) for link in work.links}
    )


def test_a_skip_set_costs_its_layers_and_the_borders_around_it(file: Path) -> None:
    cost = table_cost(work_of(file), UNITS, times_of(file))
    assert cost.of(()) == pytest.approx(3 + 0.1 + 0.2), (
        "the input is quantized, the output dequantized"
    )
    assert cost.of(["a"]) == pytest.approx(4 + 0.15 + 0.2), (
        "the border moves from the input to after a"
    )
    assert cost.of(["b"]) == pytest.approx(4 + 0.1 + 0.15 + 0.15 + 0.2)
    assert cost.of(["a", "b", "fc"]) == pytest.approx(6.0)


def test_a_table_is_corrected_to_the_engines_as_they_are_whole(file: Path) -> None:
    cost = table_cost(work_of(file), UNITS, times_of(file), int8_ms=5.0, float_ms=9.0)
    assert cost.of(()) == pytest.approx(5.0)
    assert cost.of(["a", "b", "fc"]) == pytest.approx(9.0)
    assert 5.0 < cost.of(["a"]) < 9.0


def test_a_correction_that_is_out_of_hand_is_not_used(file: Path) -> None:
    cost = table_cost(work_of(file), UNITS, times_of(file), int8_ms=5.0, float_ms=4.0)
    assert cost.of(()) == pytest.approx(5.0)
    assert cost.of(["a", "b", "fc"]) == pytest.approx(5.0 + 6.0 - 3.3)
    assert cost.note.startswith(
        "The table says that leaving everything out of INT8 takes +2.7 ms, the whole engines say "
        "-1 ms"
    )


def test_a_unit_without_quantized_layers_costs_nothing_to_leave_out(file: Path) -> None:
    cost = table_cost(work_of(file), (*UNITS, Unit("ghost", ("ghost.q",))), times_of(file))
    assert cost.of(["ghost"]) == cost.of(())


def test_borders_count_only_where_they_are_cut() -> None:
    cost = CostModel(
        "table", "ms", 1.0, {"a": 0.5, "b": 0.5}, (Border("a", "b", 0.2), Border("a", "", 0.3))
    )
    assert cost.of(()) == pytest.approx(1.3)
    assert cost.of(["a"]) == pytest.approx(1.7)
    assert cost.of(["a", "b"]) == pytest.approx(2.0)
