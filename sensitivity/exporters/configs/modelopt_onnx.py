"""NVIDIA ModelOpt for ONNX: arguments of `modelopt.onnx.quantization.quantize`.

Source: nvidia-modelopt 0.47.0, `onnx/quantization/quantize.py`, `int8.py` (`quantize`) and
    `graph_utils.py` (`expand_node_names_from_patterns`: each name is a regular expression that is
    matched at the beginning of a node's name, so that "conv1" also matches "conv10"; and
    `find_nodes_from_convs_to_exclude`: convolutions that it leaves out by itself).
"""

from __future__ import annotations

import re
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

FEW_CHANNELS = 16
ALIGNED = 8
"""Channels of INT8 kernels in TensorRT are multiples of this."""


class ModelOptOnnxConfig:
    """Writes the nodes to quantize and the nodes to exclude, each as a regular expression for its
    whole name."""

    name = "modelopt-onnx"
    file = "config.modelopt-onnx.json"
    reads: Literal["operations"] = "operations"

    def write(self, plan: NamedPlan) -> Config:
        check_formats(plan, "ModelOpt ONNX")
        settings = {
            "quantize_mode": "int8",
            "op_types_to_quantize": plan.quantized_types,
            "nodes_to_quantize": _patterns(plan.kept, plan),
            "nodes_to_exclude": _patterns(plan.excluded, plan),
            # Otherwise it leaves out layers that are small for TensorRT, whatever the plan says.
            "enable_gemv_detection_for_trt": False,
        }
        return Config(
            as_json(settings),
            'modelopt.onnx.quantization.quantize("model.float.onnx", calibration_data=data, '
            f'**json.load(open("{self.file}")))',
            tuple(_notes(plan)),
        )


def _patterns(operations: tuple[Operation, ...], plan: NamedPlan) -> list[str]:
    return [f"^{re.escape(name)}$" for name in own_names(operations, plan, "ModelOpt ONNX")]


def _notes(plan: NamedPlan) -> list[str]:
    made = {name for each in plan.operations for name in each.outputs}
    left_out = [
        each.name
        for each in plan.kept
        if each.op_type == "Conv" and not _takes(each, is_first=each.inputs[0] not in made)
    ]
    if not left_out:
        return []
    return [
        f"ModelOpt leaves {listed(left_out)} in float, as it does with convolutions whose few "
        "channels TensorRT has no INT8 kernel for."
    ]


def _takes(conv: Operation, *, is_first: bool) -> bool:
    """Return whether ModelOpt quantizes a convolution when told to.

    is_first: whether its input is not computed by any operation.
    """
    if not conv.weight_shape:
        return False
    given, taken = conv.weight_shape[:2]
    kernel = conv.weight_shape[2:]
    if min(given, taken) >= FEW_CHANNELS:
        return True
    if conv.groups > 1:
        return given % ALIGNED == 0 and all(side >= 3 for side in kernel)
    is_aligned = given % ALIGNED == 0 or taken % ALIGNED == 0
    has_enough = is_first or max(given, taken) >= FEW_CHANNELS
    return is_aligned and has_enough and len(set(kernel)) == 1
