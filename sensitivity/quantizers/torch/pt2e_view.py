"""A view of the graph of a PT2E model, with a module that can be switched for each Q/DQ pair."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from sensitivity.errors import ModelError
from sensitivity.quantizers.ranges import shape_along
from sensitivity.records import Role

NAMESPACE = "quantized_decomposed"
DEQUANTIZE = {
    torch.ops.quantized_decomposed.dequantize_per_tensor.default: False,
    torch.ops.quantized_decomposed.dequantize_per_channel.default: True,
}
"""Dequantize op with fixed scales -> whether it is per-channel."""
QUANTIZE = {
    torch.ops.quantized_decomposed.quantize_per_tensor.default,
    torch.ops.quantized_decomposed.quantize_per_channel.default,
}
OF_PAIRS = {*DEQUANTIZE, *QUANTIZE}
"""The ops of Q/DQ pairs with fixed scales."""
BIASED: dict[Any, int] = {
    torch.ops.aten.conv1d.default: 0,
    torch.ops.aten.conv1d.padding: 0,
    torch.ops.aten.conv2d.default: 0,
    torch.ops.aten.conv2d.padding: 0,
    torch.ops.aten.conv3d.default: 0,
    torch.ops.aten.conv3d.padding: 0,
    torch.ops.aten.conv_transpose1d.default: 1,
    torch.ops.aten.conv_transpose2d.input: 1,
    torch.ops.aten.conv_transpose3d.input: 1,
    torch.ops.aten.linear.default: 0,
}
"""Op whose arguments begin with an input, a weight and a bias, which may be missing -> the axis of
the weight's output channels."""
OF_BIAS = 2
"""Position of the bias among the arguments of these ops."""
OF_ANOTHER = "_of_another"
"""Added to the name of a weight or bias of the user's module that another of its ops reads."""
GUARDS = "_guards_fn"
"""Name of the module with which torch.export checks inputs. A graph with it cannot be exported
again."""


class PairQuantizer(nn.Module):
    """The quantizer of one Q/DQ pair, with the arithmetic of PT2E's ops. It returns its input while
    `_disabled`.

    axis: channel axis; None for per-tensor quantization.
    scale: a float64 number as the op has it, or float32[channels].
    zero_point: an integer, or integers[channels].
    low, high: the smallest and the largest level.
    fp8: whether the levels are those of FP8 E4M3 instead of integers.
    """

    def __init__(self, scale: Any, zero_point: Any, axis: int | None, low: int, high: int) -> None:
        super().__init__()
        self.axis, self.low, self.high = axis, low, high
        self.scale, self.zero_point = scale, zero_point
        self.fp8 = False
        self._disabled = False
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        if self._disabled:
            return x
        scale, zero_point = self._along(self.scale, x), self._along(self.zero_point, x)
        steps = torch.mul(x.float(), 1.0 / scale)
        if self.fp8:
            return steps.clamp_(self.low, self.high).to(torch.float8_e4m3fn).float().mul_(scale)
        levels = steps.round_().add_(zero_point).clamp_(self.low, self.high)
        return levels.sub_(zero_point).mul_(scale)

    def _along(self, value: Any, x: Tensor) -> Any:
        """Return scales or zero points in a shape that broadcasts against `x`."""
        if self.axis is None:
            return value
        return value.to(x.device).reshape(shape_along(self.axis, x.ndim))


@dataclass(frozen=True)
class _Slot:
    """The position of an argument among the values of other nodes that an op reads."""

    at: int


@dataclass(frozen=True)
class _Bias:
    """The position of the bias that an op holds itself."""


class Operation(nn.Module):
    """One op of the graph, called with the values that it reads, some of which are quantized first.

    template: the op's (args, kwargs) with a `_Slot` for each value.
    fed: position of a value -> attribute of its quantizer.
    """

    def __init__(self, target: Callable[..., Any], template: Any, fed: dict[int, str]) -> None:
        super().__init__()
        self.target, self.template, self.fed = target, template, fed
        self.training = False

    def forward(self, *values: Any) -> Any:
        given = list(values)
        for at, attribute in self.fed.items():
            given[at] = getattr(self, attribute)(given[at])

        def filled(argument: Any) -> Any:
            if isinstance(argument, _Bias):
                return self.bias
            return given[argument.at] if isinstance(argument, _Slot) else argument

        args, kwargs = fx.node.map_aggregate(self.template, filled)
        return self.target(*args, **kwargs)


class WeightedOperation(Operation):
    """An op with a weight that is quantized and a bias that is a constant, or missing.

    It holds both as its parameters `weight` and `bias`, as torch's layers do, so that they can be
    changed. Like a layer, it is called with its input alone.

    channel_axis: axis of the output channels of the weight.
    out_channels: number of output channels.
    stride, padding, dilation: of a convolution, for each axis of the image; a padding may be "same"
        or "valid".
    groups, transposed, padding_mode: as torch's convolutions have them.
    """

    padding_mode = "zeros"
    """That of torch's ops. `torch.export` makes other paddings ops of their own."""

    def __init__(self, target: Callable[..., Any], template: Any, fed: dict[int, str]) -> None:
        args, kwargs = template
        first = args[:OF_BIAS]
        super().__init__(target, ((*first, _Bias(), *args[OF_BIAS + 1 :]), kwargs), fed)
        self.channel_axis = BIASED[target]
        self.transposed = self.channel_axis == 1

    def forward(self, value: Any) -> Any:
        return super().forward(value, self.weight)

    def keep(self, weight: Tensor, bias: Tensor | None) -> None:
        """Hold the weight and the bias, and the settings of a convolution, under the names that
        they have in torch's layers."""
        held: dict[str, Any] = self._parameters
        held["weight"], held["bias"] = weight, bias
        self.groups = 1
        if weight.ndim > 2:
            self._keep_settings(weight.ndim - 2)
        channels = weight.shape[self.channel_axis]
        self.out_channels = channels * (self.groups if self.transposed else 1)

    def _keep_settings(self, axes: int) -> None:
        """Hold the settings of a convolution over an image with this number of axes."""
        args, _ = self.template
        known: Any = self.target
        given = {each.name: each.default_value for each in known._schema.arguments}
        given.update(zip(given, args, strict=False))
        self.groups = given["groups"]
        self.stride = _for_axes(given["stride"], axes)
        padding = given["padding"]
        self.padding = padding if isinstance(padding, str) else _for_axes(padding, axes)
        self.dilation = _for_axes(given["dilation"], axes)


def _for_axes(value: int | list[int], axes: int) -> tuple[int, ...]:
    """Return a setting of a convolution for each axis of the image, which an op may have once for
    all of them."""
    values = [value] if isinstance(value, int) else value
    return tuple(values) if len(values) == axes else tuple(values) * axes


@dataclass(frozen=True)
class Placed:
    """A quantizer of the view.

    folded: whether its weight is stored as integers only, without the float weight.
    weight: the float weight that it quantizes; None if it quantizes no weight.
    """

    name: str
    layer: str
    role: Role
    module: PairQuantizer
    folded: bool
    weight: Tensor | None = None


class View:
    """A view of a PT2E graph in which modules quantize.

    module: a GraphModule that computes what `model` does and shares its weights.
    quantizers: in the order of the graph.
    layers: weight quantizer -> the operation that reads its weight and holds its bias; without
        weights that several operations read.

    Every op that reads a dequantized value becomes an `Operation`, named after the module of the
    user's code that it came from. It holds a quantizer for each such value:
    `conv1.input_quantizer`, `conv1.weight_quantizer`. A pair whose value is an output, or is
    quantized again, belongs to the op that made the value: `conv1.output_quantizer`. Integer
    weights are replaced by the float weight if the model still has it, else by their dequantized
    values.

    Raises ModelError for ops of PT2E without fixed scales.
    """

    def __init__(self, model: fx.GraphModule) -> None:
        _check_ops(model)
        self.module = fx.GraphModule(model, copy.deepcopy(model.graph))
        missing = {**vars(model)}
        # The methods `train` and `eval` that torch.export sets only raise.
        for name in [*vars(self.module), "train", "eval"]:
            missing.pop(name, None)
        for name, value in missing.items():
            setattr(self.module, name, value)
        self.module.training = False
        self._modules: set[str] = set()
        for node in model.graph.nodes:
            self._modules.update(dict(_stack(node)))
        self._floats = _floats(model)
        self._layers: dict[str, str] = {}  # Path of a new module -> its layer.
        self._shared: dict[Any, PairQuantizer] = {}
        self._outputs: dict[fx.Node, fx.Node] = {}
        self._found: list[Placed] = []
        self._weighted: dict[str, WeightedOperation] = {}  # By the path of the operation.
        self._rewrite()
        self.quantizers = tuple(self._found)
        self.layers = self._layers_of_weights()

    def _layers_of_weights(self) -> dict[str, WeightedOperation]:
        """Return weight quantizer -> the only operation that reads its weight, with its bias."""
        names = {id(placed.module): placed.name for placed in self.quantizers}
        readers: dict[str, list[WeightedOperation]] = {}
        for operation in self._weighted.values():
            quantizer = getattr(operation, operation.fed[1])
            readers.setdefault(names[id(quantizer)], []).append(operation)
        return {name: reading[0] for name, reading in readers.items() if len(reading) == 1}

    def _rewrite(self) -> None:
        graph = self.module.graph
        for node in list(graph.nodes):
            if (node.op, node.target) == ("call_module", GUARDS):
                graph.erase_node(node)
            elif node.op == "output" or node.target in QUANTIZE:
                self._move_pairs(node)
            elif node.op == "call_function" and node.target not in DEQUANTIZE:
                self._operation(node)
        self._erase_unread()
        self._rename_read()
        graph.lint()
        self.module.recompile()

    def _move_pairs(self, node: fx.Node) -> None:
        """Let the graph's output or another pair read quantizers in the place of pairs."""
        for source in filter(_is_pair, node.all_input_nodes):
            node.replace_input_with(source, self._output(source))

    def _erase_unread(self) -> None:
        """Remove the pairs that nothing reads any more, and the constants that they read."""
        graph = self.module.graph
        for node in reversed(list(graph.nodes)):
            if node.users:
                continue
            if node.op == "get_attr" or node.target in OF_PAIRS:
                graph.erase_node(node)

    def _operation(self, node: fx.Node) -> None:
        """Replace an op by an `Operation` if it reads dequantized values."""
        sources: list[fx.Node] = []

        def slot(value: fx.Node) -> Any:
            sources.append(value)
            return _Slot(len(sources) - 1)

        has_bias = _can_hold_bias(node)
        args = _without_bias(node) if has_bias else node.args
        template = fx.map_arg((args, node.kwargs), slot)
        pairs = {at: source for at, source in enumerate(sources) if _is_pair(source)}
        if not pairs:
            return
        layer, path = self._names(node, has_weight=any(map(_is_weight, sources)))
        kind = WeightedOperation if has_bias else Operation
        operation = kind(node.target, template, {})  # type: ignore[arg-type]
        self._put(path, operation, layer)
        for at, source in pairs.items():
            sources[at], operation.fed[at] = self._input(source, layer, path, operation)
        if isinstance(operation, WeightedOperation):
            self._hold(operation, path, node, sources.pop())
        with self.module.graph.inserting_before(node):
            call = self.module.graph.call_module(path, tuple(sources))
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call)
        self.module.graph.erase_node(node)

    def _input(
        self, source: fx.Node, layer: str, path: str, operation: Operation
    ) -> tuple[fx.Node, str]:
        """Return the node that an operation reads in the place of a dequantized value, and the
        attribute of the quantizer for it.

        source: the node that dequantizes.
        path: path of the operation's module.
        """
        value, folded = self._unquantized(source)
        role: Role = "input"
        weight = None
        if value.op == "get_attr":
            role, weight = "weight", self._value(value)
        attribute = f"{role}_quantizer"
        taken = sum(name.startswith(attribute) for name in operation._modules)
        if taken:
            attribute = f"{attribute}_{taken}"
        # A layer that is called again reads the same weight through the same quantizer.
        key = (layer, value, str(source.args[1:]))
        if key not in self._shared:
            quantizer = self._shared[key] = self._quantizer(source)
            name = f"{path}.{attribute}"
            self._found.append(Placed(name, layer, role, quantizer, folded, weight))
        operation.add_module(attribute, self._shared[key])
        return value, attribute

    def _hold(
        self, operation: WeightedOperation, path: str, node: fx.Node, weight: fx.Node
    ) -> None:
        """Let an operation hold its weight and its bias.

        path: of the operation.
        node: the op that it replaces.
        weight: the node of the weight in float.
        """
        bias = node.args[OF_BIAS] if len(node.args) > OF_BIAS else None
        held = {
            "weight": self._value(weight),
            "bias": self._value(bias) if isinstance(bias, fx.Node) else None,
        }
        for name, value in held.items():
            if getattr(operation, name, value) is not value:
                self._rename(path, name)
        operation.keep(**held)
        self._weighted[path] = operation

    def _rename(self, path: str, name: str) -> None:
        """Let the ops that read a weight or bias of the user's module find it under another name,
        because an operation holds its own under this one."""
        value = getattr(self.module.get_submodule(path), name)
        for node in self.module.graph.find_nodes(op="get_attr", target=f"{path}.{name}"):
            node.target = self._set(f"{path}.{name}{OF_ANOTHER}", value)

    def _rename_read(self) -> None:
        """Give a weight or bias that other ops read too another name for them, so that what they
        read stays as it is when an operation gets another."""
        for path in self._weighted:
            self._rename(path, "weight")
            self._rename(path, "bias")

    def _value(self, node: fx.Node) -> Any:
        """Return the weight or buffer that a node reads."""
        return attrgetter(str(node.target))(self.module)

    def _output(self, source: fx.Node) -> fx.Node:
        """Return a call of the quantizer of a value that the graph's output or another pair
        reads.

        source: the node that dequantizes.
        """
        if source not in self._outputs:
            value, folded = self._unquantized(source)
            if value.op == "call_module":
                maker = str(value.target).removesuffix(".output_quantizer")
                layer = self._layers[str(value.target)]
            else:
                layer, maker = self._names(
                    value, has_weight=any(map(_is_weight, value.all_input_nodes))
                )
                self._ensure(maker)
            path = self._free(f"{maker}.output_quantizer")
            quantizer = self._quantizer(source)
            self._put(path, quantizer, layer)
            self._found.append(Placed(path, layer, "output", quantizer, folded))
            with self.module.graph.inserting_after(source):
                self._outputs[source] = self.module.graph.call_module(path, (value,))
        return self._outputs[source]

    def _names(self, node: fx.Node, *, has_weight: bool) -> tuple[str, str]:
        """Return the layer of an op, and the path of its module.

        An op that comes from one of torch's layers, or that reads a weight, takes the path of its
        module in the user's code. The path of any other op is that of its module and the op's own
        name. A module that is called again is the same layer at another path.
        """
        path, kind = (("", ""), *_stack(node))[-1]
        is_module = has_weight or kind.startswith("torch.nn.")
        if path and is_module:
            return path, self._free(path)
        if node.op == "placeholder":
            name = str(node.target)
        else:
            name = str(getattr(node.target, "__name__", node.name))
        name = name.partition(".")[0].rstrip("_")
        whole = self._free(f"{path}.{name}".removeprefix("."), but=self._modules)
        return whole, whole

    def _free(self, path: str, but: Collection[str] = ()) -> str:
        """Return a path that no module has: this one, or the first with a number after it.

        but: other paths that must not be taken either.
        """
        # Only a path without a number may be that of a module of the user's code.
        taken = {*self._layers, *but, *(self._modules - {path})}
        name, number = path, 0
        while name in taken:
            number += 1
            name = f"{path}_{number}"
        return name

    def _put(self, path: str, module: nn.Module, layer: str) -> None:
        """Put a module at this path, and let it hold the weights and modules that were there."""
        old = _submodule(self.module, path)
        self.module.add_submodule(path, module)
        self._layers[path] = layer
        if old is not None:
            for kind in ("_parameters", "_buffers", "_modules"):
                getattr(module, kind).update(getattr(old, kind))

    def _ensure(self, path: str) -> None:
        if _submodule(self.module, path) is None:
            self.module.add_submodule(path, nn.Module())
            self._layers[path] = path

    def _unquantized(self, dequantize: fx.Node) -> tuple[fx.Node, bool]:
        """Return the node of the value before a pair, and whether it had to be restored from
        integers, which may be so for a weight."""
        quantized = _first_input(dequantize)
        if quantized.target in QUANTIZE:
            return _first_input(quantized), False
        name, folded = self._float_of(str(quantized.target), dequantize)
        graph = self.module.graph
        for existing in graph.find_nodes(op="get_attr", target=name):
            return existing, folded
        with graph.inserting_before(quantized):
            return graph.get_attr(name), folded

    def _float_of(self, frozen: str, dequantize: fx.Node) -> tuple[str, bool]:
        """Return the name of the float weight for an integer weight, and whether it is restored.

        If no float weight of the model quantizes to exactly these integers, they are dequantized.

        frozen: attribute of the integer weight.
        """
        levels, pair = attrgetter(frozen)(self.module), self._quantizer(dequantize)
        with torch.no_grad():
            restored = dequantize.target(levels, *_arguments(self.module, dequantize))  # type: ignore[operator]
            for name, weight in self._floats.items():
                if weight.shape == levels.shape and torch.equal(pair(weight), restored):
                    return self._set(name, weight), False
        return self._set(f"{frozen}_restored", restored), True

    def _set(self, name: str, value: Tensor) -> str:
        """Let the view hold a value under this name, or under another one if an operation holds its
        own weight or bias there. Returns the name."""
        path, _, attribute = name.rpartition(".")
        if _submodule(self.module, path) is None:
            self.module.add_submodule(path, nn.Module())
        holder = self.module.get_submodule(path)
        is_operation = isinstance(holder, WeightedOperation)
        if is_operation and getattr(holder, attribute, value) is not value:
            attribute = f"{attribute}{OF_ANOTHER}"
        if isinstance(value, nn.Parameter):
            holder.register_parameter(attribute, value)
        else:
            holder.register_buffer(attribute, value)
        return f"{path}.{attribute}".removeprefix(".")

    def _quantizer(self, dequantize: fx.Node) -> PairQuantizer:
        scale, zero_point, *rest = _arguments(self.module, dequantize)
        axis = int(rest.pop(0)) if DEQUANTIZE[dequantize.target] else None  # type: ignore[index]
        return PairQuantizer(scale, zero_point, axis, int(rest[0]), int(rest[1]))


def _check_ops(model: fx.GraphModule) -> None:
    for node in model.graph.nodes:
        if is_pt2e_op(node) and node.target not in OF_PAIRS:
            raise ModelError(
                f"Expected quantize and dequantize ops with fixed scales, got {node.target} at "
                f"{node.name}; use a quantizer with static, per-tensor or per-channel quantization."
            )


def is_pt2e_op(node: fx.Node) -> bool:
    """Return whether a node quantizes or dequantizes, or chooses the parameters for that."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == NAMESPACE


def _can_hold_bias(node: fx.Node) -> bool:
    """Return whether an op has a quantized weight, and a bias that is a constant or missing."""
    if node.target not in BIASED or "bias" in node.kwargs:
        return False
    value, weight, *rest = node.args
    bias = rest[0] if rest else None
    is_constant = bias is None or (isinstance(bias, fx.Node) and bias.op == "get_attr")
    is_quantized = isinstance(weight, fx.Node) and _is_pair(weight) and _is_weight(weight)
    reads_no_more = {value, weight, bias}.issuperset(node.all_input_nodes)
    return isinstance(value, fx.Node) and is_quantized and is_constant and reads_no_more


def _without_bias(node: fx.Node) -> tuple[Any, ...]:
    """Return the arguments of an op with None for its bias."""
    return (*node.args[:OF_BIAS], None, *node.args[OF_BIAS + 1 :])


def _is_pair(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target in DEQUANTIZE


def _is_weight(node: fx.Node) -> bool:
    """Return whether a node is a weight or buffer, or the ops of a pair that read one."""
    while node.target in OF_PAIRS:
        node = _first_input(node)
    return node.op == "get_attr"


def _first_input(node: fx.Node) -> fx.Node:
    """Return the node of the value that an op of a pair quantizes or dequantizes."""
    value = node.args[0]
    assert isinstance(value, fx.Node)
    return value


def _stack(node: fx.Node) -> list[tuple[str, str]]:
    """Return (path, class) of each module of the user's code that an op came from, outermost
    first."""
    stack = node.meta.get("nn_module_stack") or {}
    return [(str(path), str(kind)) for path, kind in stack.values()]


def _arguments(module: nn.Module, node: fx.Node) -> list[Any]:
    """Return the arguments of a dequantize op after the first; scales and zero points of channels
    are tensors."""

    def value_of(argument: fx.Node) -> Any:
        return attrgetter(str(argument.target))(module)

    return list(fx.map_arg(node.args[1:], value_of))


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _floats(model: fx.GraphModule) -> dict[str, Tensor]:
    """Return the float parameters, first those that the graph does not read, which folding leaves
    behind."""
    floats = {name: value for name, value in model.named_parameters() if value.is_floating_point()}
    read = {str(node.target) for node in model.graph.find_nodes(op="get_attr")}
    return dict(sorted(floats.items(), key=lambda item: item[0] in read))
