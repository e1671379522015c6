"""AIMET for ONNX: tensors whose quantizers stay enabled in a `QuantizationSimModel`.

Source: aimet-onnx 2.42.0, `quantsim.py` (`qc_quantize_op_dict`: name of a tensor -> its quantizer,
    which has `enabled`). AIMET has one quantizer per tensor, whatever reads it, and no file format
    that names layers to leave out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
        moved = moved_from(plan)
        rounded = {name: None for each in plan.kept for name in rounded_for(each, each.plan, moved)}
        others = [
            each.name
            for each in plan.operations
            if each.left_out and not rounded.keys().isdisjoint(rounded_for(each, each.int8, moved))
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


def moved_from(plan: NamedPlan) -> dict[str, str]:
    """Return output of an operation that only moves values -> the tensor that they come from."""
    moved: dict[str, str] = {}
    for each in plan.operations:  # in the order of the graph
        if each.op_type in MOVING:
            read = each.inputs[0]
            moved |= dict.fromkeys(each.outputs, moved.get(read, read))
    return moved


def rounded_for(
    operation: Operation, indices: Iterable[int], moved: Mapping[str, str]
) -> list[str]:
    """Return the names of the tensors whose quantizers round these inputs of an operation.

    A weight is named by its initializer, even if it is transposed.

    moved: from `moved_from`.
    """
    weight, inputs = operation.weight, operation.inputs
    return [
        weight if index == WEIGHT_INDEX and weight else moved.get(inputs[index], inputs[index])
        for index in sorted(indices)
    ]
