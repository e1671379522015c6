"""ONNX Runtime: arguments of `quantize_static`.

Source: onnxruntime 1.31.1, `quantization/quantize.py` (arguments), `base_quantizer.py`
    (`should_quantize_node`: node names are compared as a whole), `qdq_quantizer.py`
    (`DedicatedQDQPair`, `OpTypesToExcludeOutputQuantization`, `QDQKeepRemovableActivations`, and
    `_add_qdq_ops_for_converted_activation` for a tensor in two types),
    `operators/direct_q8.py` (`ForceQuantizeNoInputCheck`) and `tensor_quant_overrides.py` (types of
    tensors by their names).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from typing import Any, Literal

from sensitivity.errors import ExportError, listed
from sensitivity.exporters.configs.base import (
    WIDE,
    Config,
    NamedPlan,
    Operation,
    as_json,
    check_formats,
    own_names,
)
from sensitivity.records import names_of

ONLY_BEHIND_QUANTIZED = ("Relu", "Clip")
"""Types whose input ONNX Runtime quantizes only if another operation quantizes the same tensor."""

IN_8_BITS, IN_16_BITS = "QInt8", "QUInt16"
"""ONNX Runtime's types of activations: the default of `quantize_static`, and the one with 16 bits
that its documentation uses."""

WITH_TYPES = (
    ', object_hook=lambda entry: {key: QuantType[value] if key == "quant_type" else set(value) if '
    'key == "recv_nodes" else value for key, value in entry.items()}'
)
"""What json.load needs for the types of tensors, which JSON has as words."""


class OrtConfig:
    """Writes the nodes to exclude and the tensors with 16 bits, with the options that keep the
    pairs at the inputs of the other nodes."""

    name = "ort"
    file = "config.ort.json"
    reads: Literal["operations"] = "operations"

    def write(self, plan: NamedPlan) -> Config:
        check_formats(plan, "ONNX Runtime", ("INT8", WIDE))
        _check_weights(plan)
        types = plan.quantized_types
        overrides = _overrides(plan)
        converted = [name for name, entry in overrides.items() if "convert" in entry]
        if converted:
            _check_can_convert(plan, converted)
        options: dict[str, Any] = {
            # A pair for each reader, and none after a node. Otherwise a node that is left out would
            # read rounded values. With such pairs, all readers get one type.
            "DedicatedQDQPair": not converted,
            "OpTypesToExcludeOutputQuantization": types,
            "ForceQuantizeNoInputCheck": True,
            "QDQKeepRemovableActivations": True,
        }
        if overrides:
            options["TensorQuantOverrides"] = {name: [one] for name, one in overrides.items()}
        settings = {
            "op_types_to_quantize": types,
            "nodes_to_exclude": own_names(plan.excluded, plan, "ONNX Runtime"),
            "per_channel": any(each.axis is not None for each in plan.quantizers),
            "extra_options": options,
        }
        with_types = WITH_TYPES if overrides else ""
        return Config(
            as_json(settings),
            'quantize_static("model.float.onnx", "model.ort.onnx", reader, '
            f'**json.load(open("{self.file}"){with_types}))',
            tuple(_notes(plan, dedicated=not converted)),
        )


def _check_weights(plan: NamedPlan) -> None:
    wide = [each.name for each in plan.quantizers if each.role == "weight" and each.format == WIDE]
    if wide:
        raise ExportError(
            "Expected weights in INT8, since these settings of ONNX Runtime give 16 bits to "
            f"activations only, got {listed(wide)} in {WIDE}; use the exported file instead."
        )


def _overrides(plan: NamedPlan) -> dict[str, dict[str, Any]]:
    """Return tensor -> ONNX Runtime's entry for it, for the tensors that an operation reads in 16
    bits.

    Readers of the same tensor in 8 bits get it converted from there. The other way round, those in
    16 bits would read what 8 bits left.
    """
    wide = _readers(plan, lambda operation: operation.wide)
    others = _readers(plan, lambda operation: operation.plan - operation.wide)
    overrides: dict[str, dict[str, Any]] = {}
    for tensor in wide:
        overrides[tensor] = {"quant_type": IN_16_BITS}
        if tensor in others:
            names = names_of(others[tensor])
            overrides[tensor]["convert"] = {"quant_type": IN_8_BITS, "recv_nodes": names}
    return overrides


def _readers(
    plan: NamedPlan, indices: Callable[[Operation], Collection[int]]
) -> dict[str, list[Operation]]:
    """Return tensor -> operations that read it at one of their indices, in order."""
    readers: dict[str, list[Operation]] = defaultdict(list)
    for operation in plan.operations:
        tensors = [operation.inputs[index] for index in sorted(indices(operation))]
        for tensor in dict.fromkeys(tensors):
            readers[tensor].append(operation)
    return readers


def _check_can_convert(plan: NamedPlan, converted: Collection[str]) -> None:
    """Raise ExportError if ONNX Runtime cannot give these tensors to their readers in two types, or
    would round another one for float operations then."""
    fixed = [tensor for tensor in converted if _has_one_type(tensor, plan)]
    if fixed:
        raise ExportError(
            "Expected each tensor that is read in both 16 and 8 bits to be an activation that no "
            f"operation reads in both, which is what ONNX Runtime converts, got {listed(fixed)}; "
            "leave one of its readers out with --skip, or use the exported file instead."
        )
    several = {tensor for tensor, count in _quantized_readers(plan).items() if count > 1}
    rounded = names_of(_float_readers(plan, several.difference(converted)))
    if rounded:
        raise ExportError(
            "Expected float operations to share no tensor with several quantized ones, because "
            f"ONNX Runtime rounds it for all of them where another tensor ({listed(converted)}) is "
            f"read in both 16 and 8 bits, got {listed(rounded)}; plan with --formats int8,float, "
            "or use the exported file instead."
        )


def _has_one_type(tensor: str, plan: NamedPlan) -> bool:
    """Whether the tensor is a constant, or one operation reads it in both 16 and 8 bits."""
    for operation in plan.operations:
        indices = {index for index in operation.plan if operation.inputs[index] == tensor}
        if indices & operation.constants or (indices & operation.wide) not in (set(), indices):
            return True
    return False


def _notes(plan: NamedPlan, *, dedicated: bool) -> list[str]:
    """Return where ONNX Runtime deviates from the plan.

    dedicated: whether each of several readers of a tensor has a pair of its own.
    """
    notes = []
    readers = _quantized_readers(plan)
    once = {tensor for tensor, count in readers.items() if count == 1}
    outputs = [tensor for tensor in _returned(plan) if tensor in (once if dedicated else readers)]
    rounded = names_of(_float_readers(plan, once.union(outputs)))
    if rounded:
        notes.append(
            f"{listed(rounded)} stay in float and read a tensor that ONNX Runtime rounds for a "
            "quantized operation that reads it too."
        )
    if outputs:
        notes.append(
            f"ONNX Runtime rounds {listed(outputs)}, also as output of the graph, for a quantized "
            "operation that reads it."
        )
    unsure = [each.name for each in plan.kept if each.op_type in ONLY_BEHIND_QUANTIZED]
    if unsure:
        notes.append(
            f"ONNX Runtime rounds what {listed(unsure)} read only where another operation that "
            "reads the same is quantized."
        )
    return notes


def _returned(plan: NamedPlan) -> list[str]:
    """Return the tensors of operations that are outputs of the graph."""
    return [
        operation.outputs[index]
        for operation in plan.operations
        for index in sorted(operation.returned)
    ]


def _quantized_readers(plan: NamedPlan) -> Counter[str]:
    """Return tensor -> number of inputs of operations that the plan quantizes it for."""
    return Counter(operation.inputs[index] for operation in plan.kept for index in operation.plan)


def _float_readers(plan: NamedPlan, tensors: Collection[str]) -> list[Operation]:
    """Return the float operations that read one of these tensors, and not as their weight."""
    return [
        operation
        for operation in plan.operations
        if not operation.kept
        and any(name in tensors for name in operation.inputs if name != operation.weight)
    ]
