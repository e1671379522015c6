"""RKNN-Toolkit2: layers in float16 for the hybrid quantization of Rockchip's NPUs.

Source: public examples of RKNN-Toolkit2's hybrid quantization. The file `*.quantization.cfg` of
    step 1 has an entry `custom_quantize_layers`, whose keys are names of layer outputs and whose
    values are int8, int16 or float16. These settings have not been tried with the toolkit.
"""

from __future__ import annotations

import json
from typing import Literal

from sensitivity.exporters.configs.base import Config, NamedPlan, check_formats, left_out_names

NOTE = (
    "Step 1 fuses operations and names each layer by its last output: compare the names with those "
    "in the cfg that it writes."
)


class RknnConfig:
    """Writes that entry of the cfg, with the outputs of the operations that are left out."""

    name = "rknn"
    file = "config.rknn.yaml"
    reads: Literal["operations"] = "operations"

    def write(self, plan: NamedPlan) -> Config:
        check_formats(plan, "RKNN")
        left_out_names(plan, "RKNN")
        outputs = [name for each in plan.operations if each.left_out for name in each.outputs]
        lines = [f"  {json.dumps(name)}: float16" for name in outputs if name]
        head = "custom_quantize_layers:" + ("" if lines else " {}")
        return Config(
            "\n".join([head, *lines]) + "\n",
            "hybrid_quantization_step2, after putting it in the place of custom_quantize_layers in "
            "the cfg of hybrid_quantization_step1",
            (NOTE,),
        )
