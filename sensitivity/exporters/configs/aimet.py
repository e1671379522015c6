"""AIMET for ONNX: tensors whose quantizers stay enabled in a `QuantizationSimModel`.

Source: aimet-onnx 2.42.0, `quantsim.py` (`qc_quantize_op_dict`: name of a tensor -> its quantizer,
    which has `enabled`). AIMET has one quantizer per tensor, whatever reads it, and no file format
    that names layers to leave out.
"""

from __future__ import annotations

from collections.abc import Iterable
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

WEIGHT_INDEX = 1
"""Index of the weight among the inputs of every operation that has one."""

MOVING = frozenset({
    "Compress", "Flatten", "Gather", "Identity", "Reshape", "Split", "Squeeze", "Tile", "Transpose",
    "Unsqueeze",
})  # fmt: skip
"""Operations whose outputs have no quantizer (`op_outputs_to_ignore`). They only move values, so
the quantizer of what they read rounds the same ones."""


class AimetConfig:
    """Lists the activations and weights that are read by operations that the plan keeps
    quantized."""

    name = "aimet"
    file = "config.aimet.json"
    reads: Literal["operations"] = "operations"

    def write(self, plan: NamedPlan) -> Config:
        check_formats(plan, "AIMET")
        own_names(plan.kept, plan, "AIMET")
        rounded = {name: None for each in plan.kept for name in rounded_for(each, each.plan, plan)}
        others = [
            each.name
            for each in plan.operations
            if each.left_out and not rounded.keys().isdisjoint(rounded_for(each, each.int8, plan))
        ]
        notes = [
            f"{listed(others)} stay in float and read a tensor that AIMET rounds for an operation "
            "that is quantized."
        ]
        return Config(
            as_json(list(rounded)),
            f'names = json.load(open("{self.file}")), then for each name, quantizer of '
            "sim.qc_quantize_op_dict.items(): quantizer.enabled = name in names",
            tuple(notes if others else ()),
        )


def rounded_for(operation: Operation, indices: Iterable[int], plan: NamedPlan) -> list[str]:
    """Return the names of the tensors whose quantizers round these inputs of an operation.

    A weight is named by its initializer, even if it is transposed. What was only moved is named by
    where it came from.
    """
    moved = {
        name: each.inputs[0]
        for each in plan.operations
        if each.op_type in MOVING
        for name in each.outputs
    }
    names = []
    for index in sorted(indices):
        name = operation.inputs[index]
        while name in moved:
            name = moved[name]
        names.append(operation.weight if index == WEIGHT_INDEX and operation.weight else name)
    return names
