"""Facts about single ATen ops: how to call them with values, and when they share, change or reuse
memory."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import torch
from torch import fx

from sensitivity.records import names_of

Run = Callable[..., Any]

FRESH = {
    "aten::conv1d",
    "aten::conv2d",
    "aten::conv2d.padding",
    "aten::conv3d",
    "aten::conv_transpose1d",
    "aten::conv_transpose2d.input",
    "aten::conv_transpose3d.input",
    "aten::linear",
    "aten::batch_norm",
    "aten::layer_norm",
    "aten::group_norm",
    "aten::instance_norm",
    "aten::max_pool2d",
    "aten::upsample_nearest2d.vec",
}
"""Composite ops that never return what they read. Other composite ops may: dropout does in eval
mode."""

OVERWRITES = {
    "relu", "leaky_relu", "relu6", "elu", "gelu", "mish", "silu", "sigmoid", "hardsigmoid",
    "hardswish", "hardtanh", "tanh", "clamp", "clamp_min", "clamp_max", "add", "sub", "mul", "div",
    "exp", "neg",
}  # fmt: skip
"""Elementwise ops whose in-place form runs the same kernel."""

SHARES = ("p", "dropout_p")
"""Arguments of random ops. An op draws nothing if one of these is 0."""
MODES = ("train", "training")
"""Arguments of random ops. An op draws nothing if one of these is false."""


def bind(target: Run, node: fx.Node, deps: Sequence[fx.Node]) -> Run:
    """Return a function of the values of `deps`, in this order, that calls `target` with the
    arguments of `node`."""
    position = dict(zip(deps, count()))
    template, kwargs = list(node.args), dict(node.kwargs)
    fill: list[tuple[int, int]] = []
    nests: list[Any] = [kwargs]
    for at, value in enumerate(template):
        if isinstance(value, fx.Node):
            fill.append((at, position[value]))
        else:
            nests.append(value)
    # Deps inside lists and keyword arguments are filled in by a walk over the nest of arguments.
    if _holds_nodes(nests):
        return _bind_nested(target, node, position)

    def run(*values: Any) -> Any:
        args = template.copy()
        for at, index in fill:
            args[at] = values[index]
        return target(*args, **kwargs)

    return run


def _holds_nodes(value: Any) -> bool:
    found: list[fx.Node] = []
    fx.map_arg(value, found.append)
    return bool(found)


def _bind_nested(target: Run, node: fx.Node, position: dict[fx.Node, int]) -> Run:
    args, kwargs = node.args, node.kwargs

    def run(*values: Any) -> Any:
        def value_of(dep: fx.Node) -> Any:
            return values[position[dep]]

        return target(*fx.map_arg(args, value_of), **fx.map_arg(kwargs, value_of))

    return run


def functional(node: fx.Node) -> tuple[Run | None, fx.Node | None]:
    """Return the form of an op without side effects, and the node that the op changes in place.

    The form is None if the op writes to memory in a way that has no such form. The node is None if
    the op changes nothing.
    """
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return (target if callable(target) else None), None
    schema = target._schema
    if not schema.is_mutable:
        return target, None
    written = list(map(_is_written, schema.arguments))
    only_first_is_written = written[0] and sum(written) == 1
    changed = node.args[0]
    plain = _without_underscore(schema)
    if plain is None or not only_first_is_written or not isinstance(changed, fx.Node):
        return None, None
    return plain, changed


def _is_written(argument: Any) -> bool:
    """Return whether an op writes to this argument of its schema."""
    return argument.alias_info is not None and bool(argument.alias_info.is_write)


def _without_underscore(schema: Any) -> Run | None:
    """Return the op that returns what an op such as `add_` writes in place, or None if there is
    none."""
    namespace, _, name = schema.name.partition("::")
    if not name.endswith("_"):
        return None
    return _overload(getattr(torch.ops, namespace), name.removesuffix("_"), schema)


def is_fresh(target: Any) -> bool:
    """Return whether the result of an op is certain to share no memory with what the op reads."""
    if not isinstance(target, torch._ops.OpOverload):
        return target is not operator.getitem
    if any(result.alias_info is not None for result in target._schema.returns):
        return False
    name: str = target.name()  # type: ignore[no-untyped-call]
    if name in FRESH:
        return True
    return not torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")


def is_random(node: fx.Node) -> bool:
    """Return whether an op draws random numbers in this call. Dropout with a probability of 0 or in
    eval mode does not."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return False
    if torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    given = _given(target, node)
    shares, modes = map(given.get, SHARES), map(given.get, MODES)
    draws_nothing = any(map(_is_zero, shares))
    in_eval = any(mode is False for mode in modes)
    return not (draws_nothing or in_eval)


def _is_zero(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == 0


def _given(target: torch._ops.OpOverload, node: fx.Node) -> dict[str, Any]:
    """Return the arguments of a call by name, with the defaults of those that are not given."""
    arguments = target._schema.arguments
    given: dict[str, Any] = {}
    for argument in arguments:
        if argument.has_default_value():
            given[argument.name] = argument.default_value
    given.update(zip(names_of(arguments), node.args, strict=False))
    given.update(node.kwargs)
    return given


def updates_statistics(node: fx.Node) -> bool:
    """Return whether a normalization takes its statistics from the batch and stores them, which its
    schema does not tell."""
    normalizes = node.target in (
        torch.ops.aten.batch_norm.default,
        torch.ops.aten.instance_norm.default,
    )
    return normalizes and isinstance(node.args[3], fx.Node) and node.args[5] is True


def in_place(target: Any, node: fx.Node, deps: Sequence[fx.Node]) -> Run | None:
    """Return a function of the values of `deps` that calls the in-place form of an op.

    Returns None if there is no such form, or if the result does not fit into the memory of the
    first dep.
    """
    if not isinstance(target, torch._ops.OpOverload):
        return None
    schema = target._schema
    name = schema.name.removeprefix("aten::")
    reads_first = deps[:1] == list(node.args[:1])
    if name not in OVERWRITES or not reads_first or not _have_one_form(node, deps[0]):
        return None
    overload = _overload(torch.ops.aten, f"{name}_", schema)
    return None if overload is None else bind(overload, node, deps)


def _overload(namespace: Any, name: str, schema: Any) -> Run | None:
    """Return the op of this name with the overload of a schema, or None if there is none."""
    packet = getattr(namespace, name, None)
    found: Run | None = getattr(packet, schema.overload_name or "default", None)
    return found


def _have_one_form(one: fx.Node, other: fx.Node) -> bool:
    """Return whether the values of both nodes are tensors of the same type and shape."""
    first, second = one.meta.get("val"), other.meta.get("val")
    if not isinstance(first, torch.Tensor) or not isinstance(second, torch.Tensor):
        return False
    return (first.dtype, str(first.shape)) == (second.dtype, str(second.shape))
