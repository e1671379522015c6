"""What is known of single ATen ops: how to call them from values, and when they share, change or
reuse memory."""

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
"""Composite ops that never give back what they read. Of the others that is not known: dropout does,
in eval mode."""

OVERWRITES = {
    "relu", "leaky_relu", "relu6", "elu", "gelu", "mish", "silu", "sigmoid", "hardsigmoid",
    "hardswish", "hardtanh", "tanh", "clamp", "clamp_min", "clamp_max", "add", "sub", "mul", "div",
    "exp", "neg",
}  # fmt: skip
"""Elementwise ops: their in-place form runs the same kernel."""

SHARES = ("p", "dropout_p")
"""Arguments of random ops that draw nothing where one of these is 0."""
MODES = ("train", "training")
"""Arguments of ops that are random only where one of these is true."""


def bind(target: Run, node: fx.Node, deps: Sequence[fx.Node]) -> Run:
    """Return a function of the values of `deps`, in their order, that calls `target` with the
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
    # A list or keyword argument that holds a dep is filled in by way of the nest.
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
    """Return the op without side effects, and the node that the original changes in place, None
    where it changes nothing.

    The op is None where the original writes to something in a way that has no such form.
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
    """Return the op that gives what an op such as `add_` writes in place; None where there is
    none."""
    namespace, _, name = schema.name.partition("::")
    if not name.endswith("_"):
        return None
    return _overload(getattr(torch.ops, namespace), name.removesuffix("_"), schema)


def is_fresh(target: Any) -> bool:
    """Return whether the result surely shares no memory with what was read."""
    if not isinstance(target, torch._ops.OpOverload):
        return target is not operator.getitem
    if any(result.alias_info is not None for result in target._schema.returns):
        return False
    name: str = target.name()  # type: ignore[no-untyped-call]
    if name in FRESH:
        return True
    return not torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")


def is_random(node: fx.Node) -> bool:
    """Return whether the op draws random numbers as it is called here: dropout of nothing does not,
    nor dropout in eval mode."""
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
    """Arguments of a call by name, with the defaults of those that are not given."""
    arguments = target._schema.arguments
    given: dict[str, Any] = {}
    for argument in arguments:
        if argument.has_default_value():
            given[argument.name] = argument.default_value
    given.update(zip(names_of(arguments), node.args, strict=False))
    given.update(node.kwargs)
    return given


def updates_statistics(node: fx.Node) -> bool:
    """Return whether a normalization takes its statistics from the batch and keeps them, which its
    schema does not say."""
    normalizes = node.target in (
        torch.ops.aten.batch_norm.default,
        torch.ops.aten.instance_norm.default,
    )
    return normalizes and isinstance(node.args[3], fx.Node) and node.args[5] is True


def in_place(target: Any, node: fx.Node, deps: Sequence[fx.Node]) -> Run | None:
    """Return the op's in-place form, bound; None where there is none, or where its result does not
    fit into the first dep."""
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
    """Return the op of this name with the overload of a schema; None where there is none."""
    packet = getattr(namespace, name, None)
    found: Run | None = getattr(packet, schema.overload_name or "default", None)
    return found


def _have_one_form(one: fx.Node, other: fx.Node) -> bool:
    """Return whether both give a tensor, of the same type and shape."""
    first, second = one.meta.get("val"), other.meta.get("val")
    if not isinstance(first, torch.Tensor) or not isinstance(second, torch.Tensor):
        return False
    return (first.dtype, str(first.shape)) == (second.dtype, str(second.shape))
