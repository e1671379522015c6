"""Tracing of a torch model with marked quantizers by `torch.export`, whose graph becomes a
functional graph of callables in plain data."""

from __future__ import annotations

import inspect
import operator
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from sensitivity.quantizers.torch.calls import arguments, every_module_called
from sensitivity.simulators.torch.binding import (
    bind,
    functional,
    in_place,
    is_fresh,
    is_random,
    updates_statistics,
)
from sensitivity.simulators.torch.layouts import depends_on_position, prefers_channels_last

Run = Callable[..., Any]

STACK_TRACES = "do_not_emit_stack_traces"
"""The setting of `torch.fx` that leaves out stack traces."""


class Untraceable(Exception):
    """The reason why a model cannot be replayed, as a clause about the model, such as "it changes
    its inputs"."""


class _NotFunctional(Exception):
    """The exported graph holds something that only torch's own functionalization can remove."""


def _refuse(*values: Any) -> Any:
    """Raise AssertionError, as the `run` of nodes that only hold a value or the place of a
    quantizer."""
    raise AssertionError("this node is not run")


@dataclass(frozen=True)
class Node:
    """A node of a traced graph.

    kind: "input"; "tensor" for a weight, buffer or constant with the value `tensor`; "quantizer"
        for the place of `quantizers[index]`, which has no `run`; "call" for any other node.
    deps: positions of the nodes whose values it reads.
    run: returns its value for the values of `deps`.
    overwrite: returns its value in the memory of the first dep. None if it cannot.
    fresh: whether its value is certain to share no memory with what it reads.
    prefers_channels_last: whether it gains from converting its image, see `layouts`.
    depends_on_position: whether bits may depend on the position in memory, see `layouts`.
    """

    kind: str
    deps: tuple[int, ...] = ()
    run: Run = _refuse
    overwrite: Run | None = None
    index: int = -1
    tensor: Any = None
    fresh: bool = True
    prefers_channels_last: bool = False
    depends_on_position: bool = False


@dataclass(frozen=True)
class Traced:
    """A traced graph.

    nodes: in topological order.
    inputs: the node of each flat input; None for an input that is no tensor.
    outputs: for each flat output its node, or its value if it is constant.
    constant: whether each flat output is constant.
    spec: the nest of the outputs, to unflatten them.
    batches: the smallest and the largest batch for which the graph holds.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[int | None, ...]
    outputs: tuple[Any, ...]
    constant: tuple[bool, ...]
    spec: Any
    batches: tuple[int, int]

    def holds_for(self, length: int | None) -> bool:
        """Return whether the graph holds for batches of this length.

        length: None for inputs that have none.
        """
        shortest, longest = self.batches
        return length is None or shortest <= length <= longest

    def nested(self, values: Iterable[Any]) -> Any:
        """Return the outputs as the model nests them.

        values: the values of the outputs that are not constant, in their order.
        """
        computed = iter(values)
        flat = [
            leaf if is_constant else next(computed)
            for leaf, is_constant in zip(self.outputs, self.constant, strict=True)
        ]
        return pytree.tree_unflatten(flat, self.spec)


def ordered_arguments(model: nn.Module, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the same as `calls.arguments`, with the names in the order of the model's signature,
    which torch.export needs."""
    args, kwargs = arguments(inputs)
    parameters = list(inspect.signature(model.forward).parameters)
    # Names that the signature does not have come last, in the order given.
    in_order = dict.fromkeys([*parameters, *kwargs])
    return args, {name: kwargs[name] for name in in_order if name in kwargs}


def trace(model: nn.Module, inputs: Any) -> Traced:
    """Trace a model on one batch. The graph holds for any batch size if the model allows that.

    Raises Untraceable if the model cannot be replayed.
    """
    program = _export(model, *ordered_arguments(model, inputs))
    try:
        return _Reader(program).read()
    except _NotFunctional:
        return _read_functionalized(program)


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    def free_batch(leaf: Any) -> Any:
        # torch fixes a first dimension of 0 or 1 in any case, and warns if it was asked not to.
        has_batch = isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) > 1
        return {0: torch.export.Dim.AUTO} if has_batch else None

    shapes = pytree.tree_map(free_batch, kwargs or args)
    try:
        with (
            torch.no_grad(),
            every_module_called(),
            _no_stack_traces(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # The model's code may raise anything while it is followed.
        raise Untraceable(f"torch.export cannot follow it ({_first_line(error)})") from error


@contextmanager
def _no_stack_traces() -> Iterator[None]:
    """Keep torch from looking up the line of code of every node inside the `with`.

    That takes a fifth of an export, and nothing here reads it. A torch without this setting ignores
    it.
    """
    config = vars(fx.config)
    before = config.get(STACK_TRACES, False)
    config[STACK_TRACES] = True
    try:
        yield
    finally:
        config[STACK_TRACES] = before


def _read_functionalized(program: Any) -> Traced:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = program.run_decompositions({})
    except Exception as error:
        raise Untraceable(f"torch cannot make it functional ({_first_line(error)})") from error
    try:
        return _Reader(program).read()
    except _NotFunctional as error:
        raise Untraceable(str(error)) from error


def _first_line(error: Exception) -> str:
    lines = map(str.strip, str(error).splitlines())
    first = next(filter(None, lines), "no message")
    return f"{type(error).__name__}: {first[:160]}"


class _Reader:
    """Reader of the nodes of one exported program as `Node`s.

    An in-place op becomes its functional form, and its result replaces the value that it writes to
    from there on. That is right only if nothing else shares this memory, so `_group` tells which
    nodes may share memory.
    """

    def __init__(self, program: Any) -> None:
        self._program = program
        self._nodes: list[Node] = []
        self._place: dict[fx.Node, int] = {}
        self._group: dict[fx.Node, int] = {}
        self._inputs: list[int | None] = []
        self._batches = (1, sys.maxsize)
        self._position = {node: position for position, node in enumerate(program.graph.nodes)}

    def read(self) -> Traced:
        signature = self._program.graph_signature
        for spec in signature.output_specs:
            if spec.kind != OutputKind.USER_OUTPUT:
                raise Untraceable(
                    f"it changes {spec.target or 'a value of its own'} in its forward"
                )
        specs = {spec.arg.name: spec for spec in signature.input_specs}
        *nodes, output = self._program.graph.nodes
        for node in nodes:
            match node.op:
                case "placeholder":
                    self._placeholder(node, specs[node.name])
                case "get_attr":
                    self._add(node, Node("tensor", tensor=self._attribute(node)))
                case "call_function":
                    self._call(node)
        leaves = output.args[0]
        return Traced(
            nodes=tuple(self._nodes),
            inputs=tuple(self._inputs),
            outputs=tuple(self._place.get(leaf, leaf) for leaf in leaves),
            constant=tuple(not isinstance(leaf, fx.Node) for leaf in leaves),
            spec=self._program.call_spec.out_spec,
            batches=self._batches,
        )

    def _placeholder(self, node: fx.Node, spec: Any) -> None:
        """Add an input of the user, or a tensor that the program holds."""
        if spec.kind != InputKind.USER_INPUT:
            self._add(node, Node("tensor", tensor=self._stored(spec)))
        elif isinstance(node.meta.get("val"), Tensor):
            self._inputs.append(self._add(node, Node("input")))
            self._batches = self._narrower(self._batches, node)
        else:
            self._inputs.append(None)

    def _add(self, fx_node: fx.Node, node: Node) -> int:
        self._nodes.append(node)
        self._place[fx_node] = len(self._nodes) - 1
        self._group[fx_node] = len(self._nodes) - 1
        return len(self._nodes) - 1

    def _stored(self, spec: Any) -> Any:
        stored = {**self._program.state_dict, **self._program.constants}
        if spec.target not in stored:
            raise Untraceable(f"it holds {spec.target}, which is no tensor")
        value = stored[spec.target]
        return value.detach() if isinstance(value, Tensor) else value

    def _attribute(self, node: fx.Node) -> Any:
        value = operator.attrgetter(str(node.target))(self._program.graph_module)
        if not isinstance(value, Tensor):
            raise _NotFunctional("it branches on its data")
        return value

    def _narrower(self, batches: tuple[int, int], node: fx.Node) -> tuple[int, int]:
        value = node.meta["val"]
        if value.ndim == 0:
            return batches
        length = value.shape[0]
        limits = None
        if not isinstance(length, int):
            limits = self._program.range_constraints.get(length.node.expr)
        if limits is None:
            # The length is fixed, or follows from other lengths, so only this one is certain.
            low = high = int(length)
        else:
            low = int(limits.lower)
            high = int(limits.upper) if str(limits.upper).isdigit() else sys.maxsize
        return max(batches[0], low), min(batches[1], high)

    def _call(self, node: fx.Node) -> None:
        deps = list(dict.fromkeys(node.all_input_nodes))
        places = tuple(self._place[dep] for dep in deps)
        if node.target is torch.ops.sensitivity.quantizer.default:
            self._add(node, Node("quantizer", places, index=int(node.args[1])))  # type: ignore[arg-type]
            return
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            raise _NotFunctional("it branches on its data")
        if is_random(node):
            raise Untraceable(f"it draws random numbers ({node.target})")
        if updates_statistics(node):
            raise Untraceable(
                f"it updates the statistics of {node.name} in its forward; call model.eval()"
            )
        target, changed = functional(node)
        if target is None:
            raise _NotFunctional(
                f"it writes into memory in a way that cannot be replayed ({node.target})"
            )
        if changed is not None:
            self._check_alone(node, changed)
        fresh = is_fresh(target)
        made = Node(
            "call",
            places,
            bind(target, node, deps),
            in_place(target, node, deps),
            fresh=fresh,
            prefers_channels_last=prefers_channels_last(node),
            depends_on_position=depends_on_position(node),
        )
        self._add(node, made)
        if not fresh:
            for dep in deps:
                self._join(self._group[dep], self._group[node])
        if changed is not None:
            self._move(changed, node)

    def _join(self, one: int, other: int) -> None:
        """Move all nodes of the group `other` to the group `one`."""
        _rename(self._group, other, one)

    def _check_alone(self, node: fx.Node, changed: fx.Node) -> None:
        """Check that an in-place op writes to memory that nothing else reads later and that does
        not belong to the model.

        Raises _NotFunctional if the memory is shared with a value that is read later or a tensor of
        the model, and Untraceable if the changed value is itself an input or buffer of the model.
        """
        now, place = self._position[node], self._place[changed]
        for other, group in self._group.items():
            if group != self._group[changed] or self._place[other] == place:
                continue
            last_read = max((self._position[user] for user in other.users), default=-1)
            if last_read > now or self._is_the_models(other):
                raise _NotFunctional(
                    f"it writes into memory that something else reads ({node.target})"
                )
        if self._is_the_models(changed):
            raise Untraceable(
                f"it changes its inputs or buffers in its forward ({node.target} on {changed.name})"
            )

    def _is_the_models(self, node: fx.Node) -> bool:
        """Return whether the present value of a node is an input of the model or a tensor that the
        model holds."""
        return self._nodes[self._place[node]].kind in ("input", "tensor")

    def _move(self, changed: fx.Node, node: fx.Node) -> None:
        """Replace the value that was changed in place by that of `node`, from here on."""
        _rename(self._place, self._place[changed], self._place[node])
        self._join(self._group[changed], self._group[node])


def _rename(numbers: dict[fx.Node, int], old: int, new: int) -> None:
    for node, number in numbers.items():
        if number == old:
            numbers[node] = new
