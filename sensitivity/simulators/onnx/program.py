"""Runs some steps of a network as one ONNX Runtime session."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from functools import cache
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from sensitivity.onnx_graph.passes.skip_uses import MICROSOFT
from sensitivity.quantizers.onnx.model import OnnxModel, session
from sensitivity.records import names_of
from sensitivity.simulators.onnx.network import Recipe, Split, Unsplittable

Values = list[Any]
"""Outputs of one node of the network as OrtValues; None for an output that the file leaves out."""

Key = Hashable
"""Key under which a node's values are held, such as a slot of a schedule."""

Action = tuple[int, Sequence[Key], Key]
"""(node of the network, keys of its deps, key for its own values)."""


class Program:
    """Actions that run one after the other, and give the values of the keys in `keep`.

    `build` makes the session, because it needs values of the right types.
    """

    def __init__(
        self, source: OnnxModel, split: Split, actions: Sequence[Action], keep: Collection[Key]
    ) -> None:
        self._source = source
        # Recipe of each action, keys of the deps of its node, and key for its own values.
        self._steps = [(split.recipes[node], reads, out) for node, reads, out in actions]
        self._kept = {out: recipe for recipe, _, out in self._steps if out in keep}
        self._feeds: list[tuple[str, Key, int]] = []
        self._outputs: list[str] = []
        self._session: Any = None

    def build(self, held: Any) -> None:
        """Make the session, if it is not made yet.

        held: key -> values, at least those that the actions read from outside.
        """
        if self._session is not None or not self._steps:
            return
        made = {out for _, _, out in self._steps}
        graph = onnx.GraphProto(name="steps")
        names = _Names()
        constants: dict[str, onnx.TensorProto] = {}
        # Name of a value from outside -> its key, and the index of the output.
        outside: dict[str, tuple[Key, int]] = {}
        for recipe, reads, out in self._steps:
            inputs: dict[str, str] = {}
            for name, (dep, output) in recipe.reads.items():
                key = reads[dep]
                inputs[name] = names.of(key, output)
                if key not in made:
                    outside[inputs[name]] = key, output
            outputs = {name: names.of(out, output) for name, output in recipe.places.items()}
            _add(graph, recipe, inputs | outputs, constants)
        for name, (key, output) in outside.items():
            graph.input.append(_described(name, held[key][output]))
            self._feeds.append((name, key, output))
        for key, recipe in self._kept.items():
            self._outputs += [names.of(key, output) for output in recipe.places.values()]
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._outputs)
        graph.initializer.extend(constants.values())
        running = session(
            self._proto(graph).SerializeToString(),
            self._source.path.name,
            self._source.custom_ops,
            threads=1,
            shared=True,
        )
        # The Python class checks each call for longer than small kernels take, so the session
        # below it is called.
        self._session = running._sess

    def run(self, held: Any) -> dict[Key, Values]:
        """Return the values of the keys in `keep`.

        held: as for `build`.
        """
        if not self._steps:
            return {}
        feeds = {name: held[key][output] for name, key, output in self._feeds}
        found = iter(self._session.run_with_ort_values(feeds, self._outputs, None))
        values: dict[Key, Values] = {}
        for key, recipe in self._kept.items():
            values[key] = [next(found) if name else None for name in recipe.outputs]
        return values

    def _proto(self, graph: onnx.GraphProto) -> onnx.ModelProto:
        model = self._source.graph
        proto = onnx.ModelProto(ir_version=max(model.ir_version, 4), graph=graph)
        # Candidate quantizers of 16 bits may be operations of ONNX Runtime's own.
        for domain, version in ({MICROSOFT: 1} | dict(model.opset_imports)).items():
            proto.opset_import.append(onnx.OperatorSetIdProto(domain=domain, version=version))
        proto.functions.extend(ir.to_proto(function) for function in model.functions.values())
        return proto


class _Names:
    """Names of values, by the key that holds them and the index of the output."""

    def __init__(self) -> None:
        self._numbers: dict[Key, int] = {}

    def of(self, key: Key, output: int) -> str:
        """Return the name of a value, the same each time."""
        number = self._numbers.setdefault(key, len(self._numbers))
        return f"value_{number}_{output}"


def _described(name: str, value: Any) -> onnx.ValueInfoProto:
    """Return a graph input with the type of this OrtValue. Raises Unsplittable for one that is not
    a tensor."""
    if not value.is_tensor():
        raise Unsplittable("it passes on values that are no tensors")
    return onnx.helper.make_tensor_value_info(name, value.element_type(), None)


def _add(
    graph: onnx.GraphProto,
    recipe: Recipe,
    names: Mapping[str, str],
    constants: dict[str, onnx.TensorProto],
) -> None:
    """Add a recipe's nodes to the graph, under names of their own.

    names: new name of each value that the recipe reads or gives.
    constants: tensors of the graph by name, to which those of the recipe are added.
    """
    if recipe.value is not None:
        (name,) = names.values()
        constants[name] = onnx.numpy_helper.from_array(recipe.value, name)
        return
    renamed = dict(names)
    for name, tensor in recipe.constants.items():
        constants.setdefault(name, tensor)
    for node in recipe.nodes:
        for name in filter(None, node.output):
            renamed.setdefault(name, f"inner_{len(graph.node)}_{name}")
        graph.node.append(_renamed(node, renamed))


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = ""
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    for attribute in copy.attribute:
        if attribute.HasField("g"):
            _rename_captured(attribute.g, names)
        for graph in attribute.graphs:
            _rename_captured(graph, names)
    return copy


def _rename_captured(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename the values that the body of an operation reads from outside."""
    own = {*names_of(graph.input), *names_of(graph.initializer)}
    for node in graph.node:
        own.update(node.output)
    outer = {name: new for name, new in names.items() if name not in own}
    nodes = [_renamed(node, outer) for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    for value in graph.output:
        value.name = outer.get(value.name, value.name)


def ort_value(array: NDArray[Any]) -> Any:
    """Return the array as an OrtValue in the same memory, which the OrtValue does not keep
    alive."""
    return ort.OrtValue.ortvalue_from_numpy(array)._ortvalue


@cache
def share_memory() -> None:
    """Let all sessions use one allocator, because one of their own would keep the most that they
    ever needed."""
    info = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    ort.create_and_register_allocator(info, None)
