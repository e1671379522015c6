"""Some steps of a network as one ONNX Runtime session."""

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
"""The outputs of one node of the network: OrtValues, None for an output that the file leaves
out."""

Key = Hashable
"""What holds a node's values: a slot of a schedule, say."""

Action = tuple[int, Sequence[Key], Key]
"""(node of the network, where each of its deps is held, where its own values go)."""


class Program:
    """Runs actions, one after the other, and gives the values of those whose keys are in `keep`.

    The session is made by `build`, from values of the right types.
    """

    def __init__(
        self, source: OnnxModel, split: Split, actions: Sequence[Action], keep: Collection[Key]
    ) -> None:
        self._source = source
        # What each action computes: its recipe, where each dep of its node is held, and where its
        # values go.
        self._steps = [(split.recipes[node], reads, out) for node, reads, out in actions]
        self._kept = {out: recipe for recipe, _, out in self._steps if out in keep}
        self._feeds: list[tuple[str, Key, int]] = []
        self._outputs: list[str] = []
        self._session: Any = None

    def build(self, held: Any) -> None:
        """Make the session, once. held: at least the values that the actions read from outside."""
        if self._session is not None or not self._steps:
            return
        made = {out for _, _, out in self._steps}
        graph = onnx.GraphProto(name="steps")
        names = _Names()
        constants: dict[str, onnx.TensorProto] = {}
        # Name -> where a value from outside is held, and which output of its node it is.
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
        # The session below the Python class, which checks each call for longer than small kernels
        # take.
        self._session = running._sess

    def run(self, held: Any) -> dict[Key, Values]:
        """Return the values of the keys in `keep`. held: as for `build`."""
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
        # Quantizers of 16 bits that are tried may be operations of ONNX Runtime's own.
        for domain, version in ({MICROSOFT: 1} | dict(model.opset_imports)).items():
            proto.opset_import.append(onnx.OperatorSetIdProto(domain=domain, version=version))
        proto.functions.extend(ir.to_proto(function) for function in model.functions.values())
        return proto


class _Names:
    """Names of values by the key that holds them and which output of their node they are."""

    def __init__(self) -> None:
        self._numbers: dict[Key, int] = {}

    def of(self, key: Key, output: int) -> str:
        """Return the name, the same each time."""
        number = self._numbers.setdefault(key, len(self._numbers))
        return f"value_{number}_{output}"


def _described(name: str, value: Any) -> onnx.ValueInfoProto:
    """Return an input of a graph with the type of this OrtValue. Raises Unsplittable for one that
    is no tensor."""
    if not value.is_tensor():
        raise Unsplittable("it passes on values that are no tensors")
    return onnx.helper.make_tensor_value_info(name, value.element_type(), None)


def _add(
    graph: onnx.GraphProto,
    recipe: Recipe,
    names: Mapping[str, str],
    constants: dict[str, onnx.TensorProto],
) -> None:
    """Add a recipe's nodes under names of their own. names: of what it reads and gives."""
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
    """Rename in the body of an operation what it reads from outside."""
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
    """Return the array as ONNX Runtime takes it, in the same memory, which it does not keep
    alive."""
    return ort.OrtValue.ortvalue_from_numpy(array)._ortvalue


@cache
def share_memory() -> None:
    """One allocator for all programs: each of its own would keep the most that it ever needed."""
    info = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    ort.create_and_register_allocator(info, None)
