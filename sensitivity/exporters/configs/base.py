"""Interface of the writers of other tools' settings."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from sensitivity.errors import ExportError, listed
from sensitivity.records import Quantizer, Range, names_of

BIAS = "INT32"
"""Format of a stored bias, which follows from its input and weight."""

WIDE = "INT16"
"""Format of a quantizer with 16 bits."""


@dataclass(frozen=True)
class Operation:
    """One operation of the main graph of model.float.onnx.

    name: name of its node; "" if it has none.
    inputs, outputs: names of its values, in order.
    weight: name of the initializer that is its weight; None if it has none.
    int8, plan: indices of the inputs that model.int8.onnx and model.partial.onnx quantize, without
        a bias.
    wide: indices of those that model.partial.onnx quantizes to 16 bits.
    constants: indices of the inputs that are constants of the file.
    returned: indices of the outputs that are outputs of the graph.
    weight_shape: shape of the weight in the file; () if it has none.
    groups: number of groups of a convolution.
    """

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weight: str | None
    int8: frozenset[int]
    plan: frozenset[int]
    wide: frozenset[int] = frozenset()
    constants: frozenset[int] = frozenset()
    returned: frozenset[int] = frozenset()
    weight_shape: tuple[int, ...] = ()
    groups: int = 1

    @property
    def kept(self) -> bool:
        """Whether the plan keeps it quantized."""
        return bool(self.plan)

    @property
    def left_out(self) -> bool:
        """Whether the plan leaves it in float although it was quantized before."""
        return bool(self.int8) and not self.plan


@dataclass(frozen=True)
class NamedPlan:
    """A plan in the names that other tools know.

    operations: operations of the ONNX file, for tools that read it; empty for tools that take the
        PyTorch model.
    quantizers: quantizers of the scanned model, each with the name of its layer.
    left_out: names of the quantizers that the plan leaves out.
    formats: name of a quantizer that the plan gives more bits or FP8 -> its range there.
    """

    operations: tuple[Operation, ...]
    quantizers: tuple[Quantizer, ...]
    left_out: frozenset[str]
    formats: Mapping[str, Range] = field(default_factory=dict)

    @property
    def kept(self) -> tuple[Operation, ...]:
        """Operations that the plan keeps quantized."""
        return tuple(operation for operation in self.operations if operation.kept)

    @property
    def excluded(self) -> tuple[Operation, ...]:
        """Operations that the plan does not quantize, of types that model.int8.onnx quantizes.
        Tools that quantize by type need the name of each."""
        types = self.quantized_types
        return tuple(each for each in self.operations if each.op_type in types and not each.kept)

    @property
    def quantized_types(self) -> tuple[str, ...]:
        """Types of the operations that model.int8.onnx quantizes, sorted."""
        return tuple(sorted({each.op_type for each in self.operations if each.int8}))

    @property
    def layers(self) -> dict[str, bool]:
        """Layer -> whether the plan leaves it out, in the order of the quantizers.

        Raises ExportError for a layer that the plan leaves out in part, which a layer's name cannot
        express.
        """
        states_of: dict[str, set[bool]] = {}
        for quantizer in self.quantizers:
            states_of.setdefault(quantizer.layer, set()).add(quantizer.name in self.left_out)
        parted = [layer for layer, states in states_of.items() if len(states) > 1]
        if parted:
            raise split_layers(parted)
        return {layer: True in states for layer, states in states_of.items()}


@dataclass(frozen=True)
class Config:
    """The settings of another tool.

    text: content of the file.
    apply: how to give it to the tool, a command or a line of Python.
    notes: sentences about where the tool deviates from the plan; empty if it does not.
    """

    text: str
    apply: str
    notes: tuple[str, ...] = ()


class ConfigWriter(Protocol):
    """Writer of the settings of one tool.

    name: what `--config` calls the tool.
    file: name of the file in the run directory.
    reads: the names by which the tool knows a model: operations of the ONNX file, or modules of the
        PyTorch model.
    """

    name: str
    file: str
    reads: Literal["operations", "modules"]

    def write(self, plan: NamedPlan) -> Config:
        """Return the plan as the tool's settings.

        Raises ExportError for a name that the tool would match wrongly or not at all.
        """
        ...


def as_json(settings: Any) -> str:
    """Return settings as the text of a JSON file."""
    return json.dumps(settings, indent=2) + "\n"


def own_names(operations: Iterable[Operation], plan: NamedPlan, tool: str) -> list[str]:
    """Return the names of the operations, in order.

    Raises ExportError if one has no name, or shares it with an operation that is not among them,
    which the tool would then take too.
    """
    wanted = list(operations)
    names = names_of(wanted)
    if "" in names:
        nameless = wanted[names.index("")]
        raise ExportError(
            f"Expected every operation that {tool} has to find to have a name, got a "
            f"{nameless.op_type} of {', '.join(nameless.inputs)} without one; name the nodes of "
            "the model and export again."
        )
    in_file, in_plan = Counter(names_of(plan.operations)), Counter(names)
    shared = [name for name in in_plan if in_file[name] > in_plan[name]]
    if shared:
        raise ExportError(
            f"Expected names that {tool} can tell apart, got operations on both sides of the plan "
            f"that are called {listed(shared)}; give each node of the model a name of its own."
        )
    return list(dict.fromkeys(names))


def left_out_names(plan: NamedPlan, tool: str) -> list[str]:
    """Return the names of the operations that the plan leaves out, checked as in `own_names`."""
    return own_names((each for each in plan.operations if each.left_out), plan, tool)


def check_characters(names: Iterable[str], forbidden: str, tool: str, why: str) -> None:
    """Raise ExportError for a name with a character that has a special meaning for the tool.

    why: what the character means to the tool, as in "separates layers".
    """
    for name in names:
        bad = next((character for character in name if character in forbidden), None)
        if bad is not None:
            raise _misread(name, f"without {bad!r}", tool, why)


def check_beginnings(names: Iterable[str], forbidden: str, tool: str, why: str) -> None:
    """Raise ExportError for a name that begins with a character with a special meaning for the
    tool."""
    for name in names:
        if name.startswith(forbidden):
            raise _misread(name, f"that do not begin with {forbidden!r}", tool, why)


def _misread(name: str, how: str, tool: str, why: str) -> ExportError:
    return ExportError(
        f"Expected names {how}, which for {tool} {why}, got {name}; rename that layer, or use "
        "another tool's settings."
    )


def check_formats(plan: NamedPlan, tool: str, allowed: Sequence[str] = ("INT8",)) -> None:
    """Raise ExportError for quantizers in a format that these settings cannot express."""
    others = {each.format for each in plan.quantizers if each.format != BIAS} - set(allowed)
    if others:
        raise ExportError(
            f"Expected a plan in {' or '.join(allowed)}, which is what these settings of {tool} "
            f"give, got one with {listed(others)}; use the exported file instead."
        )


def split_layers(layers: Sequence[str]) -> ExportError:
    """Return the error for layers with some quantizers left out and others kept by the plan."""
    return ExportError(
        "Expected a plan that leaves layers out as a whole, which is all that a layer's name can "
        f"say, got some quantizers of {listed(layers)} left out and others kept; scan with --unit "
        "layer, or use the exported file."
    )
