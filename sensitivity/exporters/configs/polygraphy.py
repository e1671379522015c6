"""Polygraphy: precisions of layers in a TensorRT network, for TensorRT before 11.

Source: polygraphy 0.53.6, `tools/args/backend/trt/loader.py` (`--layer-precisions`),
    `tools/args/util/util.py` (`parse_arglist_to_tuple_list`: the last colon separates name and
    precision) and `backend/trt/loader.py` (`SetLayerPrecisions`: names are compared as a whole).
"""

from __future__ import annotations

from typing import Literal

from sensitivity.exporters.configs.base import (
    Config,
    NamedPlan,
    check_beginnings,
    check_characters,
    check_formats,
    left_out_names,
)
from sensitivity.exporters.configs.trtexec import NOTE


class PolygraphyConfig:
    """Writes arguments, one per line, that make layers left out compute in FP32."""

    name = "polygraphy"
    file = "config.polygraphy.txt"
    reads: Literal["operations"] = "operations"

    def write(self, plan: NamedPlan) -> Config:
        check_formats(plan, "Polygraphy")
        names = left_out_names(plan, "Polygraphy")
        check_characters(names, " \t\\'\"", "Polygraphy", "is interpreted or removed by xargs")
        check_beginnings(names, "-", "Polygraphy", "begins an option")
        arguments = ["--int8"]
        if names:
            precisions = [f"{name}:float32" for name in names]
            arguments += ["--precision-constraints", "obey", "--layer-precisions", *precisions]
        return Config(
            "\n".join(arguments) + "\n",
            f"xargs -a {self.file} polygraphy run model.float.onnx --trt --calibration-cache FILE",
            (NOTE.replace("--calib", "a calibration"),),
        )
