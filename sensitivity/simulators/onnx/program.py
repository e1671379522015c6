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
        self._source, self._split, self._actions = source, split, actions
        made = {out for _, _, out in actions}
        self._keep = [out for _, _, out in actions if out in keep]
        read = {key: None for node, reads, _ in actions for key in reads if key not in made}
        self._given = list(read)
        self._feeds: list[tuple[str, Key, int]] = []
        self._outputs: list[str] = []
        self._session: Any = None

    def build(self, held: Any) -> None:
        """Make the session, once. held: at least the values that the actions read from outside."""
        if self._session is not None or not self._actions:
            return
        names = {
            key: _Names(index)
            for index, key in enumerate([*self._given, *(out for _, _, out in self._actions)])
        }
        graph = onnx.GraphProto(name="steps")
        used: dict[str, tuple[Key, int]] = {}
        constants: dict[str, onnx.TensorProto] = {}
        for number, (node, reads, out) in enumerate(self._actions):
            recipe = self._split.recipes[node]
            assert recipe is not None
            inputs: dict[str, str] = {}
            for name, (dep, output) in recipe.reads.items():
                inputs[name] = names[reads[dep]].at(output)
                used[inputs[name]] = reads[dep], output
            _add(graph, recipe, inputs, names[out], constants, number)
        given = set(self._given)
        for name, (key, output) in used.items():
            if key in given:
                value = held[key][output]
                if not value.is_tensor():
                    raise Unsplittable("it passes on values that are no tensors")
                graph.input.append(
                    onnx.helper.make_tensor_value_info(name, value.element_type(), None)
                )
                self._feeds.append((name, key, output))
        for key, recipe in self._kept():
            self._outputs += [
                names[key].at(index) for index, name in enumerate(recipe.outputs) if name
            ]
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._outputs)
        graph.initializer.extend(constants.values())
        made = session(
            self._proto(graph).SerializeToString(),
            self._source.path.name,
            self._source.custom_ops,
            threads=1,
            shared=True,
        )
        # The session below the Python class, which checks each call for longer than small kernels
        # take.
        self._session = made._sess

    def run(self, held: Any) -> dict[Key, Values]:
        if not self._actions:
            return {}
        feeds = {name: held[key][output] for name, key, output in self._feeds}
        found = iter(self._session.run_with_ort_values(feeds, self._outputs, None))
        return {
            key: [next(found) if name else None for name in recipe.outputs]
            for key, recipe in self._kept()
        }

    def _kept(self) -> list[tuple[Key, Recipe]]:
        keep = set(self._keep)
        recipes = (
            (out, self._split.recipes[node]) for node, _, out in self._actions if out in keep
        )
        return [(out, recipe) for out, recipe in recipes if recipe is not None]

    def _proto(self, graph: onnx.GraphProto) -> onnx.ModelProto:
        model = self._source.graph
        proto = onnx.ModelProto(ir_version=max(model.ir_version, 4), graph=graph)
        # Quantizers of 16 bits that are tried may be operations of ONNX Runtime's own.
        for domain, version in ({MICROSOFT: 1} | dict(model.opset_imports)).items():
            proto.opset_import.append(onnx.OperatorSetIdProto(domain=domain, version=version))
        proto.functions.extend(ir.to_proto(function) for function in model.functions.values())
        return proto


class _Names:
    """Names of the values that one key holds."""

    def __init__(self, index: int) -> None:
        self._index = index

    def at(self, output: int) -> str:
        return f"value_{self._index}_{output}"


def _add(
    graph: onnx.GraphProto,
    recipe: Recipe,
    inputs: Mapping[str, str],
    outputs: _Names,
    constants: dict[str, onnx.TensorProto],
    number: int,
) -> None:
    """Add a recipe's nodes under names of their own."""
    if recipe.value is not None:
        constants[outputs.at(0)] = onnx.numpy_helper.from_array(recipe.value, outputs.at(0))
        return
    renamed = dict(inputs) | {
        name: outputs.at(index) for index, name in enumerate(recipe.outputs) if name
    }
    for name, tensor in recipe.constants.items():
        if name not in constants:
            constants[name] = tensor
    for position, node in enumerate(recipe.nodes):
        inner = {
            name: f"inner_{number}_{position}_{name}"
            for name in node.output
            if name and name not in renamed
        }
        renamed |= inner
        graph.node.append(_renamed(node, renamed))


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = ""
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    for attribute in copy.attribute:
        for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            _rename_captured(graph, names)
    return copy


def _rename_captured(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    own = {value.name for value in graph.input} | {value.name for value in graph.initializer}
    own |= {name for node in graph.node for name in node.output}
    outer = {name: new for name, new in names.items() if name not in own}
    nodes = [_renamed(node, outer) for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    for value in graph.output:
        value.name = outer.get(value.name, value.name)


def ort_value(array: NDArray[Any]) -> Any:
    """The array as ONNX Runtime takes it, in the same memory, which it does not keep alive."""
    return ort.OrtValue.ortvalue_from_numpy(array)._ortvalue


@cache
def share_memory() -> None:
    """One allocator for all programs: each of its own would keep the most that it ever needed."""
    info = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    ort.create_and_register_allocator(info, None)
