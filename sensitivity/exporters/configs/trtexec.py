"""TensorRT's trtexec: precisions of layers, for versions before 11.

Source: NVIDIA/TensorRT, `samples/common/sampleOptions.cpp` (`getLayerPrecisions`: commas separate
    layers, the last colon comes before the precision, single quotes are removed) and
    `sampleEngine.cpp` (`setLayerPrecisions`: names are compared as a whole; newer versions take a
    "*" in one as a wildcard). The lists of flags under `tests/contract` have `--layerPrecisions` in
    8.6 to 10.16 and no longer in 11.0.
"""

from __future__ import annotations

from typing import Literal

from sensitivity.exporters.configs.base import (
    Config,
    NamedPlan,
    check_characters,
    check_formats,
    left_out_names,
)

NOTE = (
    "TensorRT chooses the precision of all other layers, and has no INT8 ranges without --calib; "
    "the exported Q/DQ file holds the plan exactly, and TensorRT 11 takes nothing else."
)


class TrtexecConfig:
    """Writes flags, one per line, that make layers left out compute and write FP32."""

    name = "trtexec"
    file = "config.trtexec.txt"
    reads: Literal["operations"] = "operations"

    def write(self, plan: NamedPlan) -> Config:
        check_formats(plan, "trtexec")
        names = left_out_names(plan, "trtexec")
        check_characters(names, ",", "trtexec", "separates layers")
        check_characters(names, "*", "trtexec", "stands for any characters")
        check_characters(names, " \t\\'\"", "trtexec", "is interpreted or removed by xargs")
        flags = ["--int8"]
        if names:
            spec = ",".join(f"{name}:fp32" for name in names)
            flags += [
                "--precisionConstraints=obey",
                f"--layerPrecisions={spec}",
                f"--layerOutputTypes={spec}",
            ]
        return Config(
            "\n".join(flags) + "\n",
            f"xargs trtexec --onnx=model.float.onnx --calib=FILE < {self.file}",
            (NOTE,),
        )
