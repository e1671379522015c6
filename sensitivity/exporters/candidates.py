"""Files of many skip-sets of one model, made from one trace, for timing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sensitivity.exporters.lower import LowerTarget, lower_file
from sensitivity.exporters.ranges import activation_ranges, keep_ranges
from sensitivity.exporters.simulate import quantized_weights
from sensitivity.exporters.torch_model import (
    canonical,
    disabled_by_variant,
    file_grids,
    needed_opset,
)
from sensitivity.exporters.trace import trace
from sensitivity.exporters.writing import save
from sensitivity.quantizers.base import QuantizedModel
from sensitivity.records import Unit


class Candidates:
    """Makes files of skip-sets. The model is traced once, on construction.

    The files are not verified and hold the model's original ranges.

    calibration: batches of inputs for the ranges that lowerings need; None takes the example batch.
    target: what files are lowered for; None if the canonical ones are timed.
    Raises ExportError if the model cannot be exported.
    """

    def __init__(
        self,
        source: QuantizedModel,
        example_inputs: Any,
        units: Sequence[Unit],
        folder: Path,
        *,
        calibration: Iterable[Any] | None = None,
        target: LowerTarget | None = None,
    ) -> None:
        self._source, self._units, self._folder, self._target = source, units, folder, target
        self._weights, _ = quantized_weights(source, example_inputs)
        self._grids = file_grids(source)
        self._traced = trace(source, example_inputs, opset=needed_opset(self._grids))
        self._layers = {quantizer.name: quantizer.layer for quantizer in source.quantizers}
        self._ranges = activation_ranges(
            self._model(frozenset()), [example_inputs] if calibration is None else calibration
        )
        folder.mkdir(parents=True, exist_ok=True)

    def canonical(self, skip: Sequence[str]) -> Path:
        """Write the canonical file with these units left out, and return its path."""
        model = self._model(disabled_by_variant(self._source, self._units, skip)["partial"])
        keep_ranges(model, self._ranges)
        return save(model, self._folder / "candidate.onnx")

    def lowered(self, skip: Sequence[str], name: str) -> Path:
        """Write the file that the runtime is timed with, and return its path.

        It is the canonical file if there is no lowering for the runtime.
        """
        file = self.canonical(skip)
        out = self._folder / f"{name}.onnx"
        return lower_file(file, self._target, out) if self._target else file.replace(out)

    def _model(self, disabled: frozenset[str]) -> Any:
        kept = {name: grid for name, grid in self._grids.items() if name not in disabled}
        return canonical(self._traced, kept, self._weights, self._layers)
