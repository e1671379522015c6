"""NNCF: the ignored scope of `nncf.quantize` for the ONNX file.

Source: nncf 3.4.0, `scopes.py` (`IgnoredScope`: `names` are compared as a whole, and a name or a
    type that is not in the graph is an error).
"""

from __future__ import annotations

from typing import Literal

from sensitivity.exporters.configs.base import (
    Config,
    NamedPlan,
    as_json,
    check_formats,
    own_names,
)


class NncfConfig:
    """Writes the names of nodes that stay in float, and the types that are never quantized."""

    name = "nncf"
    file = "config.nncf.json"
    reads: Literal["operations"] = "operations"

    def write(self, plan: NamedPlan) -> Config:
        check_formats(plan, "NNCF")
        types = {each.op_type for each in plan.operations}
        settings = {
            "names": own_names(plan.excluded, plan, "NNCF"),
            "types": sorted(types - set(plan.quantized_types)),
            "validate": True,
        }
        return Config(
            as_json(settings),
            f"nncf.quantize(model, data, ignored_scope=nncf.IgnoredScope(**json.load(open("
            f'"{self.file}"))))',
        )
