"""ONNX Runtime: arguments of `quantize_static`.

Source: onnxruntime 1.31.1, `quantization/quantize.py` (arguments), `base_quantizer.py`
    (`should_quantize_node`: node names are compared as a whole), `qdq_quantizer.py`
    (`DedicatedQDQPair`, `OpTypesToExcludeOutputQuantization`, `QDQKeepRemovableActivations`) and
    `operators/direct_q8.py` (`ForceQuantizeNoInputCheck`).
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

from sensitivity.errors import listed
from sensitivity.exporters.configs.base import (
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


class OrtConfig:
    """Writes the nodes to exclude, with the options that keep the pairs at the inputs of the other
    nodes."""

    name = "ort"
    file = "config.ort.json"
    reads: Literal["operations"] = "operations"

    def write(self, plan: NamedPlan) -> Config:
        check_formats(plan, "ONNX Runtime")
        types = plan.quantized_types
        settings = {
            "op_types_to_quantize": types,
            "nodes_to_exclude": own_names(plan.excluded, plan, "ONNX Runtime"),
            "per_channel": any(each.axis is not None for each in plan.quantizers),
            "extra_options": {
                # A pair for each reader, and none after a node. Otherwise a node that is left out
                # would read rounded values.
                "DedicatedQDQPair": True,
                "OpTypesToExcludeOutputQuantization": types,
                "ForceQuantizeNoInputCheck": True,
                "QDQKeepRemovableActivations": True,
            },
        }
        return Config(
            as_json(settings),
            'quantize_static("model.float.onnx", "model.ort.onnx", reader, '
            f'**json.load(open("{self.file}")))',
            tuple(_notes(plan)),
        )


def _notes(plan: NamedPlan) -> list[str]:
    notes = []
    rounded = names_of(_reading_rounded(plan))
    if rounded:
        notes.append(
            f"{listed(rounded)} stay in float and read a tensor that ONNX Runtime rounds for the "
            "one quantized operation that reads it too."
        )
    unsure = [each.name for each in plan.kept if each.op_type in ONLY_BEHIND_QUANTIZED]
    if unsure:
        notes.append(
            f"ONNX Runtime rounds what {listed(unsure)} read only where another operation that "
            "reads the same is quantized."
        )
    return notes


def _reading_rounded(plan: NamedPlan) -> list[Operation]:
    """Return the float operations that share a tensor with exactly one quantized operation, to
    which ONNX Runtime gives no pair of its own."""
    quantized_readers = Counter(name for operation in plan.kept for name in operation.inputs)

    def reads_rounded(operation: Operation) -> bool:
        tensors = [name for name in operation.inputs if name != operation.weight]
        return any(quantized_readers[name] == 1 for name in tensors)

    return [
        operation
        for operation in plan.operations
        if not operation.kept and reads_rounded(operation)
    ]
