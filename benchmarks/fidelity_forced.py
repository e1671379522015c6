"""Each piece of an exported file between two quantizers, computed from the simulated model's
values.

In a deep model one value that rounds to the other side of a step moves others, so two computations
that differ only in the order of their sums end up far apart. Here every quantizer of the file is
given what the simulated model's quantizer got. Differences then do not add up, and those that
remain are due to the file itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sensitivity.exporters.simulate import flat_inputs, hooked, numpy, outputs_of
from sensitivity.exporters.verify import flat
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.load import load_model
from sensitivity.quantizers.base import QuantizedModel
from sensitivity.runtimes.onnxruntime import OnnxRuntime

Array = NDArray[Any]


def forced_shares(source: QuantizedModel, file: Path, inputs: Any) -> dict[str, float]:
    """The error of each value of a file: its distance from the simulated model's value (RMS), as a
    fraction of the effect of quantization on that value.

    The values are the outputs of the canonical `file` of full INT8, and everything that it
    quantizes except its inputs.

    inputs: one batch.
    """
    expected, outputs = _simulated(source, inputs, ())
    unquantized, plain = _simulated(
        source, inputs, [quantizer.name for quantizer in source.quantizers]
    )
    model = load_model(file)
    names = [value.name or "" for value in model.graph.outputs]
    fed = _fed_by_quantizers(model)
    found = _run(model, inputs, {port: expected[key] for port, (key, _) in fed.items()})
    shares: dict[str, float] = {}
    for key, value in fed.values():
        if value in found:
            # A value that is quantized twice in a row may stand before the first quantizer: the
            # nearer one counts.
            share = _share(found[value], expected[key], unquantized[key])
            shares[value] = min(share, shares.get(value, np.inf))
    return shares | {
        name: _share(found[name], *pair) for name, *pair in zip(names, outputs, plain, strict=True)
    }


def _simulated(
    source: QuantizedModel, inputs: Any, disabled: Collection[str]
) -> tuple[dict[tuple[str, int], Array], list[Array]]:
    """What each quantizer was given, by its name and the number of the call, and the model's
    outputs."""
    given: dict[tuple[str, int], Array] = {}
    calls: dict[str, int] = {}

    def keep(name: str, args: Any, output: Any) -> None:
        given[name, calls.get(name, 0)] = numpy(args[0]).copy()
        calls[name] = calls.get(name, 0) + 1

    with hooked(source, [one.name for one in source.quantizers if one.role != "weight"], keep):
        outputs = flat(outputs_of(source, inputs, disabled))
    return given, outputs


def _fed_by_quantizers(model: ir.Model) -> dict[str, tuple[tuple[str, int], str]]:
    """Cut the graph before each quantizer of an activation.

    Returns the name of each new input -> (quantizer and call, value that was cut).
    """
    fed = {}
    for node in [node for node in model.graph if node.op_type == "QuantizeLinear"]:
        value = node.inputs[0]
        if value is None or qdq.constant(value) is not None:
            continue
        name, _, call = (node.name or "").partition("/QuantizeLinear")
        port = ir.Value(name=f"{node.name}.given", type=value.type, shape=value.shape)
        node.replace_input_with(0, port)
        model.graph.inputs.append(port)
        if value.producer() is not None and not value.is_graph_output():
            model.graph.outputs.append(value)
        fed[str(port.name)] = ((name, int(call.removeprefix("_") or 0)), str(value.name))
    return fed


def _run(model: ir.Model, inputs: Any, given: Mapping[str, Array]) -> dict[str, Array]:
    names, tensors = flat_inputs(inputs)
    feed = dict(given) | {name: numpy(tensor) for name, tensor in zip(names, tensors, strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        ir.save(model, file)
        with OnnxRuntime(optimize=False).build(file) as engine:
            return {name: np.asarray(array) for name, array in engine.run(feed).items()}


def _share(found: Array, expected: Array, unquantized: Array) -> float:
    error, own = (
        np.linalg.norm(array.astype(np.float64) - expected) for array in (found, unquantized)
    )
    return float(error / own) if own else float(np.inf if error else 0)
