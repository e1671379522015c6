"""AMD Quark for ONNX: the `exclude` list of its `QConfig`.

Source: amd-quark 0.13, `onnx/quantization/config/config.py` (`QConfig.exclude`) and
    `onnx/quantization/quant_utils.py` (`get_all_target_nodes`: names are compared as a whole, and
    one that begins with "^" is a regular expression).
"""

from __future__ import annotations

from typing import Literal

from sensitivity.exporters.configs.base import (
    Config,
    NamedPlan,
    as_json,
    check_beginnings,
    check_formats,
    own_names,
)


class QuarkConfig:
    """Writes the names of all nodes that stay in float, including those that were never
    quantized."""

    name = "quark"
    file = "config.quark.json"
    reads: Literal["operations"] = "operations"

    def write(self, plan: NamedPlan) -> Config:
        check_formats(plan, "Quark")
        in_float = [each for each in plan.operations if not each.kept]
        names = own_names(in_float, plan, "Quark")
        check_beginnings(names, "^", "Quark", "begins a pattern")
        return Config(as_json(names), f'QConfig(..., exclude=json.load(open("{self.file}")))')
