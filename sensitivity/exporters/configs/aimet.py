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


class AimetConfig:
    """Lists the activations and weights that are read by operations that the plan keeps
    quantized."""

    name = "aimet"
    file = "config.aimet.json"
    reads: Literal["operations"] = "operations"

    def write(self, plan: NamedPlan) -> Config:
        check_formats(plan, "AIMET")
        own_names(plan.kept, plan, "AIMET")
        rounded = {name: None for each in plan.kept for name in _tensors(each, each.plan)}
        others = [
            each.name
            for each in plan.operations
            if each.left_out and not rounded.keys().isdisjoint(_tensors(each, each.int8))
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


def _tensors(operation: Operation, indices: Iterable[int]) -> list[str]:
    """Return the names of these inputs. A weight is named by its initializer, even if it is
    transposed."""
    weight = operation.weight
    return [
        weight if index == WEIGHT_INDEX and weight else operation.inputs[index]
        for index in sorted(indices)
    ]
