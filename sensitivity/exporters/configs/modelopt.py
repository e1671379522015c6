"""NVIDIA ModelOpt for PyTorch: entries of `quant_cfg` for `modelopt.torch.quantization.quantize`.

Source: nvidia-modelopt 0.47.0, `torch/quantization/config.py` (a list of entries, of which the last
    match wins) and `torch/quantization/conversion.py` (`_match_quantizer`: the whole name is
    matched by `fnmatch`, and so is the name of an expert's quantizer without its index).
"""

from __future__ import annotations

import glob
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, Literal

from sensitivity.errors import ExportError, listed
from sensitivity.exporters.configs.base import Config, NamedPlan, as_json
from sensitivity.quantizers.ranges import E4M3
from sensitivity.records import Range


class ModelOptConfig:
    """Writes one entry for each quantizer that is left out, or given more bits or FP8. They belong
    after the entries that the model was quantized with."""

    name = "modelopt"
    file = "config.modelopt.json"
    reads: Literal["modules"] = "modules"

    def write(self, plan: NamedPlan) -> Config:
        disabled = [each.name for each in plan.quantizers if each.name in plan.left_out]
        patterns = [glob.escape(name) for name in disabled]
        kept = [each.name for each in plan.quantizers if each.name not in plan.left_out]
        _check_patterns(patterns, kept)
        _check_patterns(
            map(glob.escape, plan.formats), [name for name in kept if name not in plan.formats]
        )
        entries: list[dict[str, Any]] = [
            {"quantizer_name": pattern, "enable": False} for pattern in patterns
        ]
        entries += [
            {"quantizer_name": glob.escape(name), "cfg": _settings(of_format)}
            for name, of_format in plan.formats.items()
        ]
        return Config(
            as_json(entries),
            f'config["quant_cfg"] += json.load(open("{self.file}")), then '
            "mtq.quantize(model, config, forward_loop)",
        )


def _settings(of_format: Range) -> dict[str, Any]:
    """Return ModelOpt's attributes of a quantizer with more bits or in FP8."""
    if of_format.fp8:
        return {"num_bits": E4M3, "axis": of_format.axis}
    return {"num_bits": of_format.bits}


def _check_patterns(patterns: Iterable[str], kept: Iterable[str]) -> None:
    """Raise ExportError if a pattern would change a quantizer that the plan keeps as it is."""
    every = list(kept)
    for pattern in patterns:
        caught = [name for name in every if fnmatchcase(_without_index(name), pattern)]
        if caught:
            raise ExportError(
                f"Expected {pattern} to name one quantizer for ModelOpt, which reads it as a "
                f"pattern, got {listed(caught)} too; rename one of the modules."
            )


def _without_index(name: str) -> str:
    """Return the second name that ModelOpt matches for a quantizer in a list of experts:
    experts.weight_quantizers.3 is also experts.weight_quantizer."""
    parent, _, index = name.rpartition(".")
    is_expert = index.isdecimal() and parent.endswith(
        ("weight_quantizer", "weight_quantizers", "input_quantizer", "input_quantizers")
    )
    return parent.removesuffix("s") if is_expert else name
