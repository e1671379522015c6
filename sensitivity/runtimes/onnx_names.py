"""Finds the node of the ONNX file that a runtime's own name for a step comes from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sensitivity.onnx_graph.load import load_model

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True)
class NodeName:
    """A node of the file.

    name: its name, or its first output if the exporter left it unnamed.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class OnnxNames:
    """Looks nodes up by their own name or by the name of a tensor that they make.

    ends: names of the model's inputs and outputs.
    """

    def __init__(self, nodes: Iterable[NodeName], ends: Iterable[str] = ()) -> None:
        self.nodes = tuple(nodes)
        self.ends = frozenset(ends)
        self.by_name = {node.name: node for node in self.nodes}
        self.by_output = dict[str, NodeName]()
        for node in self.nodes:
            self.by_output |= dict.fromkeys(node.outputs, node)

    def find(self, name: str) -> NodeName | None:
        """Return the node of this name, otherwise the one that makes a tensor of this name."""
        return self.by_name.get(name) or self.by_output.get(name)

    def weighted_at_or_before(self, name: str) -> NodeName | None:
        """Return the nearest weighted node (Conv, Gemm, ...) at this node or before it along first
        inputs.

        Fused steps are often named after the last tensor that they make, such as the output of the
        ReLU after a convolution.
        """
        node = self.find(name)
        while node is not None and node.op not in WEIGHTED:
            first, *_ = (*node.inputs, "")
            node = self.by_output.get(first)
        return node

    def known(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the nodes that these names belong to, each once, in the file's order."""
        matched = set(map(self.find, names))
        return tuple(node.name for node in self.nodes if node in matched)


def onnx_names(file: Path) -> OnnxNames:
    """Return the names of the main graph's nodes.

    Raises OnnxFileError for a file that is not a whole ONNX model.
    """
    graph = load_model(file).graph
    nodes = []
    for node in graph:
        inputs, outputs = tuple(map(_name, node.inputs)), tuple(map(_name, node.outputs))
        nodes.append(NodeName(node.name or outputs[0], node.op_type, inputs, outputs))
    return OnnxNames(nodes, map(_name, [*graph.inputs, *graph.outputs]))


def input_types(file: Path) -> dict[str, np.dtype[Any]]:
    """Return the type of each input of the model, in its order.

    Raises OnnxFileError as `onnx_names` does.
    """
    graph = load_model(file).graph
    types = {}
    for value in graph.inputs:
        is_given = value.name not in graph.initializers
        if is_given and value.dtype is not None:
            types[_name(value)] = np.dtype(value.dtype.numpy())
    return types


def _name(value: Any) -> str:
    """Return the name of a tensor; "" for an optional one that is left out."""
    if value is None:
        return ""
    return str(value.name)
