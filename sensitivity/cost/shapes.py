"""Shapes of a file's values with a batch of 1. The file is run once, so computed shapes are exact
too."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path

import onnx

from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.work import Work, needed_values, work
from sensitivity.runtimes.onnxruntime import OnnxRuntime
from sensitivity.timing.inputs import random_inputs


def work_of(file: Path) -> Work:
    """Return the work of the quantized layers of a canonical file."""
    model = load_model(file)
    return work(model, value_shapes(file, needed_values(model)))


def value_shapes(file: Path, names: Collection[str]) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of these float values."""
    proto = onnx.load(str(file))
    inputs = random_inputs(file)
    outputs = {value.name for value in proto.graph.output}
    proto.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in names
        if name not in outputs and name not in inputs
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        engine = OnnxRuntime(optimize=False).build(path)
        try:
            values = dict(inputs) | engine.run(inputs)
        finally:
            engine.close()
    return {name: tuple(int(size) for size in values[name].shape) for name in names}
