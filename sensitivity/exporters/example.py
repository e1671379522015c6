"""Outputs of exported files for the example batch, on which files are compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sensitivity.exporters.evaluate import arrays_in_pieces, input_ports
from sensitivity.onnx_graph.digest import digest
from sensitivity.runtimes.base import Tensors
from sensitivity.runtimes.onnxruntime import OnnxRuntime


class Example:
    """One batch, and what canonical files give for it.

    Several checks ask for the same outputs, which are computed once.

    inputs: the batch, by the names of the files' inputs.
    """

    def __init__(self, inputs: Tensors) -> None:
        self.inputs = inputs
        self._known: dict[str, list[np.ndarray]] = {}

    def outputs(self, file: Path) -> list[np.ndarray]:
        """Return the outputs of a canonical file in ONNX Runtime without optimizations."""
        key = digest(file)
        if key not in self._known:
            self._known[key] = self.outputs_in(OnnxRuntime(optimize=False), file)
        return self._known[key]

    def outputs_in(self, runtime: OnnxRuntime, file: Path) -> list[np.ndarray]:
        """Return the outputs of any file in this runtime, which are not kept."""
        sizes = input_ports(file).values()
        has_fixed_batch = any(size is not None for size in sizes)
        with runtime.build(file) as engine:
            if has_fixed_batch:
                return list(engine.run(self.inputs).values())
            return arrays_in_pieces(engine, self.inputs)
