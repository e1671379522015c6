"""The graph of a model in layers: what graph.json holds of torch models and of Q/DQ files."""

from __future__ import annotations

from pathlib import Path

from support import models, onnx_models
from support.onnx_text import network_of
from torch import nn

from sensitivity.exporters.trace import trace
from sensitivity.onnx_graph.connections import connections
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.quantizers.onnx.qdq import OnnxQdqModel
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.records import ModelGraph, Range
from sensitivity.testing.fakes import FakeModel
from sensitivity.units.graph import model_graph


def drawn(graph: ModelGraph) -> set[tuple[str, str]]:
    """Edges by the operations that they connect; a join is named by its operation."""
    names = [node.operation if node.kind == "join" else node.name for node in graph.nodes]
    return {(names[before], names[after]) for before, after in graph.edges}


def of_torch(build: type[nn.Module]) -> tuple[ModelOptModel, ModelGraph]:
    source = ModelOptModel(models.quantized(models.seeded(build), models.batch()))
    found = model_graph(source, trace(source, models.batch(2)))
    assert found is not None
    return source, found


def test_layers_of_a_torch_model_are_joined_where_their_values_meet() -> None:
    found = of_torch(models.Branches)[1]
    assert drawn(found) == {
        ("input", "stem.0"),
        ("stem.0", "shared"),
        ("stem.0", "Add"),
        ("shared", "Add"),
        ("Add", "left"),
        ("Add", "right"),
        ("left", "Concat"),
        ("right", "Concat"),
        ("Concat", "up"),
        ("Concat", "classes"),
        ("up", "box"),
        ("box", "output_box"),
        ("classes", "output_classes"),
    }
    operations = {node.name: node.operation for node in found.nodes}
    assert operations["up"] == "ConvTranspose"
    assert operations["input"] == ""
    assert all(before < after for before, after in found.edges)


def test_readers_of_one_tensor_are_named_only_while_their_ranges_differ() -> None:
    source, found = of_torch(models.Branches)
    readers = ("left.input_quantizer", "right.input_quantizer")
    assert found.meetings == ()
    with source.with_ranges([Range(readers[0], "mse", (0.5,))]):
        changed = model_graph(source, trace(source, models.batch(2)))
    assert changed is not None
    assert changed.meetings == (readers,)


def test_a_qdq_file_is_drawn_by_the_operations_that_read_its_pairs(tmp_path: Path) -> None:
    file = onnx_models.static_file(
        onnx_models.float_file(tmp_path / "float.onnx"), tmp_path / "model.onnx"
    )
    found = model_graph(OnnxQdqModel(OnnxModel(file)), None)
    assert found is not None
    silu = {("Conv_c1", "Sigmoid_s1"), ("Conv_c1", "Mul_m1"), ("Sigmoid_s1", "Mul_m1")}
    skip = {("Mul_m1", "Conv_c2"), ("Mul_m1", "Add_a1"), ("Conv_c2", "Add_a1")}
    assert silu | skip <= drawn(found)
    assert {node.kind for node in found.nodes} == {"input", "layer", "output"}


def edges_of(body: str, *layers: str) -> set[tuple[str, str]]:
    """The records of a graph from x to y.

    layers: the values that operations with quantizers give.
    """
    head = '<ir_version: 8, opset_import: ["" : 17]> g (float[n, 4] x) => (float[n, 4] y)'
    model = network_of(f"{head} {{ {body} }}")
    owners = {node: str(node.outputs[0].name) for node in model.graph}
    return drawn(
        connections(model.graph, {node: name for node, name in owners.items() if name in layers})
    )


def test_what_reads_only_a_shape_reads_no_values() -> None:
    body = "a = Relu (x) s = Shape (x) y = Reshape (a, s)"
    assert edges_of(body, "a") == {("x", "a"), ("a", "y")}


def test_a_sum_of_sums_is_one_and_a_sum_that_two_read_stays() -> None:
    terms = "a = Relu (x) b = Sigmoid (x) c = Tanh (x) d = Add (a, b) "
    ins = {("x", each) for each in "abc"} | {("a", "Add"), ("b", "Add"), ("c", "Add")}
    assert edges_of(terms + "y = Add (d, c)", *"abc") == ins | {("Add", "y")}
    twice = edges_of(terms + "e = Add (d, c) y = Mul (e, d)", *"abc")
    assert twice == ins | {("Add", "Add"), ("Add", "Mul"), ("Mul", "y")}


def test_an_activation_of_its_own_gate_meets_nothing() -> None:
    assert edges_of("a = Relu (x) s = Sigmoid (a) y = Mul (a, s)", "a") == {("x", "a"), ("a", "y")}


def test_a_model_whose_graph_nobody_knows_has_none() -> None:
    assert model_graph(FakeModel({"a": 1.0}), None) is None
