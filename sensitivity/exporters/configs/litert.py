"""LiteRT: entries for a recipe of AI Edge Quantizer, the quantizer of `.tflite` files.

Source: ai-edge-quantizer 0.10, `recipe_manager.py` (entries are read in order and the last match
    counts; `regex` is searched in the scope of an operator) and `utils/tfl_flatbuffer_utils.py`
    (`get_op_scope`: the names of its outputs, each followed by ";").
"""

from __future__ import annotations

import re
from typing import Literal

from sensitivity.exporters.configs.base import (
    Config,
    NamedPlan,
    as_json,
    check_formats,
    own_names,
)

NOTE = (
    "The names are those of the file that was scanned: the float .tflite file must call these "
    "tensors so too, as one of the same converter does."
)


class LitertConfig:
    """Writes one entry for each operator that stays in float, with the whole name of its output.

    A node of an ONNX file that was converted from a .tflite file has the name of that output.
    """

    name = "litert"
    file = "config.litert.json"
    reads: Literal["operations"] = "operations"

    def write(self, plan: NamedPlan) -> Config:
        check_formats(plan, "LiteRT")
        entries = [
            {
                "regex": f"(^|;){re.escape(name)};",
                "operation": "*",
                "algorithm_key": "no_quantize",
                "op_config": {},
            }
            for name in own_names(plan.excluded, plan, "LiteRT")
        ]
        apply = (
            'Quantizer("float.tflite", [*recipe.static_wi8_ai8(), '
            f'*json.load(open("{self.file}"))])'
        )
        return Config(as_json(entries), apply, (NOTE,) if entries else ())
