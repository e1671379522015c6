"""Names to "module:Class", imported only when asked for."""

from __future__ import annotations

import importlib
from typing import Any

from sensitivity.errors import unknown_name

FAMILIES: dict[str, dict[str, str]] = {
    "quantizers": {
        "modelopt": "sensitivity.quantizers.modelopt:ModelOptModel",
        "pytorch_quantization": "sensitivity.quantizers.pytorch_quantization:PytorchQuantizationModel",
        "pt2e": "sensitivity.quantizers.pt2e:Pt2eModel",
        "onnx_qdq": "sensitivity.quantizers.onnx_qdq:OnnxQdqModel",
    },
    "signals": {"sqnr": "sensitivity.signals.distortion:SQNR", "kl": "sensitivity.signals.distortion:KL"},
    "planners": {
        "greedy": "sensitivity.planners.greedy:GreedyPlanner",
        "cost": "sensitivity.planners.cost:CostPlanner",
        "exhaustive": "sensitivity.planners.exhaustive:ExhaustivePlanner",
    },
    "runtimes": {
        "onnxruntime": "sensitivity.runtimes.onnxruntime:OnnxRuntime",
        "openvino": "sensitivity.runtimes.openvino:OpenVino",
        "tensorrt": "sensitivity.runtimes.tensorrt:TensorRt",
        "tensorrt_rtx": "sensitivity.runtimes.tensorrt:TensorRtRtx",
        "trtexec": "sensitivity.runtimes.trtexec:TrtExec",
    },
}


def load(family: str, name: str) -> Any:
    """The class registered under this name. Raises NamesError, with close names, where there is none."""
    members = FAMILIES[family]
    if name not in members:
        raise unknown_name(f"a name in {family}", name, members)
    module, _, attribute = members[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
