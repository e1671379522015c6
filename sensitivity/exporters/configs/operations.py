"""The operations of an exported model, and which of their inputs its files quantize."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from sensitivity.errors import ExportError, listed
from sensitivity.exporters.configs.base import WIDE, Operation, split_layers
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.uses import format_of, paths
from sensitivity.onnx_graph.walk import input_at, producer, value_name
from sensitivity.records import names_of


def operations_of(files: Mapping[str, Path]) -> tuple[Operation, ...]:
    """Return the operations of the main graph, in its order.

    files: variant ("float", "int8" and "partial") -> exported file.
    Raises ExportError if a quantized operation cannot be named, or if the plan quantizes only some
    of its inputs.
    """
    int8, formats = quantized_inputs(files["int8"]), _formats_of_inputs(files["partial"])
    plan, wide = _indices(formats), _indices(formats, WIDE)
    operations = tuple(
        _operation(node, int8, plan, wide)
        for node in load_model(files["float"]).graph
        if node.op_type != "Constant"
    )
    count = Counter(names_of(operations))
    hidden = [name for name in int8 if count[name] != 1]
    if hidden:
        raise ExportError(
            "Expected every quantized operation to have a name of its own in the main graph, which "
            f"is where other tools look for it, got {listed(hidden)}; name the nodes of the model "
            "and export again."
        )
    parted = [each.name for each in operations if each.plan and each.plan != each.int8]
    if parted:
        raise split_layers(parted)
    return operations


def quantized_inputs(file: Path) -> dict[str, frozenset[int]]:
    """Return operation -> indices of its inputs that come from a Q/DQ pair, in the order of the
    graph.

    Biases and outputs of the graph are not counted.
    """
    return _indices(_formats_of_inputs(file))


def _formats_of_inputs(file: Path) -> dict[str, dict[int, str]]:
    """Return operation -> index of each of these inputs -> format of its nearest pair."""
    formats: defaultdict[str, dict[int, str]] = defaultdict(dict)
    graph = load_model(file).graph
    for path in paths(graph):
        user = path.user
        if user is None or path.is_bias:
            continue
        # A unit has another name if an output of the graph has the operation's name.
        name = user.name if path.graph is graph else None
        formats[name or path.unit][path.index] = format_of(path.last_use.pair)
    return formats


def _indices(
    formats: Mapping[str, Mapping[int, str]], wanted: str | None = None
) -> dict[str, frozenset[int]]:
    """Return operation -> indices of its inputs in one format, or in any for None."""
    return {
        name: frozenset(index for index, each in of_input.items() if wanted in (None, each))
        for name, of_input in formats.items()
    }


def _operation(
    node: ir.Node,
    int8: Mapping[str, frozenset[int]],
    plan: Mapping[str, frozenset[int]],
    wide: Mapping[str, frozenset[int]],
) -> Operation:
    name, weight = node.name or "", _weight(node)
    array = qdq.constant(weight)
    return Operation(
        name=name,
        op_type=node.op_type,
        inputs=tuple(map(value_name, node.inputs)),
        outputs=tuple(map(value_name, node.outputs)),
        weight=None if weight is None else weight.name,
        int8=int8.get(name, frozenset()),
        plan=plan.get(name, frozenset()),
        wide=wide.get(name, frozenset()),
        constants=frozenset(
            index for index, value in enumerate(node.inputs) if qdq.constant(value) is not None
        ),
        returned=frozenset(
            index for index, value in enumerate(node.outputs) if value.is_graph_output()
        ),
        weight_shape=() if array is None else array.shape,
        groups=node.attributes.get_int("group", 1),
    )


def _weight(node: ir.Node) -> ir.Value | None:
    """Return the constant that is the weight of an operation, possibly behind a Transpose."""
    value = qdq.weight(node)
    while value is not None and qdq.constant(value) is None:
        value = input_at(producer(value), 0)
    return value
