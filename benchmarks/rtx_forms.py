"""Which Q/DQ form gives TensorRT-RTX's engine fewer kernels and fewer bytes of activations, and
what it costs in accuracy.

    python benchmarks/rtx_forms.py

Every form starts from the canonical INT8 file of `sensitivity export` and is lowered for TensorRT
(strongly typed). Needs tensorrt-rtx and no GPU: TensorRT-RTX executes nothing, and the metric is
that of the form in ONNX Runtime before it is lowered. SENSITIVITY_ASSETS says where weights and
images are.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from sensitivity.config import ScanSettings
from sensitivity.exporters.agreement import relative_rms
from sensitivity.exporters.evaluate import evaluate_file, run
from sensitivity.exporters.lower import lower_file
from sensitivity.exporters.lower_openvino import before_moves
from sensitivity.exporters.simulate import first_samples
from sensitivity.exporters.torch_model import export_files
from sensitivity.exporters.writing import save
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.passes.insert_qdq import along
from sensitivity.records import EngineStructure
from sensitivity.runtimes.onnxruntime import OnnxRuntime
from sensitivity.session import open_session
from sensitivity.tasks.batches import batch_size
from sensitivity.timing.engine_structure import build_structure

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "results" / "rtx_forms.md"
MODELS = {
    "ResNet-20": (f"{ROOT / 'examples' / '02_resnet20' / 'task.py'}:task", (False, True)),
    "YOLOv8n": (f"{ROOT / 'examples' / '03_yolov8n' / 'task.py'}:task", (False,)),
}
"""Task, and whether its skip connections are quantized. Those of YOLOv8 get no quantizers: a SiLU
follows them, and no runtime fuses an Add with it."""
COMPARED = 4
"""Samples on which outputs are compared with those of the float file."""
MOST_RAISED = 256.0
"""The largest factor by which a channel is raised, since the output of a convolution must stay in
the range of FP16."""

Form = Callable[[ir.Model], ir.Model]


@dataclass(frozen=True)
class Row:
    """One form of a model.

    distance: of its outputs from those of the float file, relative RMS.
    metric: of the form in ONNX Runtime; None if it was not asked for.
    """

    model: str
    form: str
    engine: EngineStructure
    distance: float
    metric: float | None


def as_it_is(model: ir.Model) -> ir.Model:
    return model


def per_tensor_weights(model: ir.Model) -> ir.Model:
    """The largest scale of each weight, used for all of its channels."""
    for pair in _per_channel(model):
        assert pair.scale is not None
        _with_one_scale(model.graph, pair, float(pair.scale.max()))
    return model


def raised_channels(model: ir.Model) -> ir.Model:
    """The levels of weights per channel with one scale: each channel of a convolution is raised to
    the range of the largest, and a Mul after the convolution lowers its output again."""
    pairs = {id(pair.output): pair for pair in _per_channel(model)}
    for node in [node for node in model.graph if node.op_type == "Conv"]:
        pair = pairs.get(id(node.inputs[1]))
        if pair is not None:
            _raise_channels(model.graph, node, pair)
    return model


def then(*forms: Form) -> Form:
    def every(model: ir.Model) -> ir.Model:
        for form in forms:
            model = form(model)
        return model

    return every


FORMS: Mapping[str, Form] = {
    "as exported": as_it_is,
    "quantized before moves": before_moves,
    "weights per tensor": per_tensor_weights,
    "weights per tensor, quantized before moves": then(per_tensor_weights, before_moves),
    "channels raised to one scale": raised_channels,
    "channels raised, quantized before moves": then(raised_channels, before_moves),
}


def _per_channel(model: ir.Model) -> list[qdq.Pair]:
    return [
        pair
        for pair in qdq.pairs(model.graph)
        if pair.of_weight and pair.axis is not None and pair.scale is not None
    ]


def _with_one_scale(graph: ir.Graph, pair: qdq.Pair, scale: float) -> None:
    parameters = (
        add(graph, f"{pair.name}.one_scale", np.array(scale, np.float32)),
        add(graph, f"{pair.name}.one_zero_point", np.array(0, np.int8)),
    )
    for node in pair.nodes:
        node.attributes.pop("axis", None)
        for index, value in enumerate(parameters, start=1):
            node.replace_input_with(index, value)


def _raise_channels(graph: ir.Graph, node: ir.Node, pair: qdq.Pair) -> None:
    weight, scale = qdq.constant(pair.source), pair.scale
    assert weight is not None
    assert scale is not None
    assert pair.quantize is not None
    largest = float(scale.max())
    factor = np.minimum(largest / scale, MOST_RAISED).astype(np.float32)
    raised = (weight * along(factor, 0, weight.ndim)).astype(np.float32)
    pair.quantize.replace_input_with(0, add(graph, f"{pair.source.name}.raised", raised))
    _with_one_scale(graph, pair, largest)
    bias = qdq.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is not None:
        name = f"{node.name}.bias_raised"
        node.replace_input_with(2, add(graph, name, (bias * factor).astype(np.float32)))
    _lower_output(graph, node, along(1 / factor, 1, weight.ndim)[0])


def _lower_output(graph: ir.Graph, node: ir.Node, factor: np.ndarray) -> None:
    """Put a Mul after the node, or after the Relu that alone reads it, since that gives the same
    values."""
    users = node.outputs[0].consumers()
    last = users[0] if len(users) == 1 and users[0].op_type == "Relu" else node
    value = last.outputs[0]
    lowered = ir.node("Mul", [value, add(graph, f"{node.name}.lowered", factor)])
    lowered.name, lowered.outputs[0].name = f"{node.name}.lower", f"{value.name}.lowered"
    lowered.outputs[0].type, lowered.outputs[0].shape = value.type, value.shape
    value.replace_all_uses_with(lowered.outputs[0], replace_graph_outputs=True)
    graph.insert_after(last, lowered)
    lowered.replace_input_with(0, value)


def rows(name: str, task: str, residuals: bool, samples: int, folder: Path) -> Iterator[Row]:
    """All forms of one model.

    samples: samples of holdout for the metric; 0 for none.
    """
    place = folder / f"{name}-{residuals}"
    settings = ScanSettings(task=task, out=place, quantize_residuals=residuals)
    with open_session(task, place, resume=False, choices=settings) as session:
        files = export_files(
            session.source,
            session.example,
            session.units,
            [],
            place,
            fingerprint="",
            calibration=session.inputs(),
        )
        compared = first_samples(session.example, COMPARED)
        float_outputs = _outputs(files["float"], compared)
        batches = _first(session.task.data["holdout"], samples) if samples else []
        for form, change in FORMS.items():
            file = save(change(load_model(files["int8"])), place / "form.onnx")
            distance = relative_rms(_outputs(file, compared), float_outputs, float_outputs)
            metric = None
            if batches:
                judge = session.task
                metric, _ = evaluate_file(file, batches, judge.score, judge.aggregate)
            engine = build_structure(lower_file(file, "tensorrt", place / "lowered.onnx"))
            words = f"{form}, residuals too" if residuals else form
            row = Row(name, words, engine, distance, metric)
            print(_line(row), flush=True)
            yield row


def _outputs(file: Path, inputs: Any) -> list[np.ndarray]:
    with OnnxRuntime(optimize=False).build(file) as engine:
        return list(run(engine, inputs).values())


def _first(batches: Iterable[tuple[Any, Any]], samples: int) -> list[tuple[Any, Any]]:
    """Whole batches, until they hold this many samples."""
    taken: list[tuple[Any, Any]] = []
    for inputs, targets in batches:
        taken.append((inputs, targets))
        samples -= batch_size(inputs)
        if samples <= 0:
            break
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument(
        "--samples", type=int, default=256, help="Of holdout, for the metric; 0: none."
    )
    parser.add_argument("--out", type=Path, default=OUT, help="The table, as Markdown.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = [
            row
            for name in arguments.models
            for residuals in MODELS[name][1]
            for row in rows(name, MODELS[name][0], residuals, arguments.samples, Path(folder))
        ]
    arguments.out.write_text(markdown(found))


def markdown(found: list[Row]) -> str:
    versions = sorted({f"{row.engine.version}, SM {row.engine.sm}" for row in found})
    lines = [
        "# Which Q/DQ form gives TensorRT-RTX fewer kernels and bytes",
        "",
        f"`python benchmarks/rtx_forms.py`, with tensorrt-rtx {'; '.join(versions)}. Structure of "
        "the engine, and no time; nothing was executed there.",
        "INT8 files, strongly typed. Activation MB: what kernels write for one sample, weights "
        "apart. Outputs from float: relative RMS on 4 samples; metric: on holdout; both of the "
        "canonical form in ONNX Runtime. A dash: not measured.",
        "Channels raised: the same weight levels as per channel, each channel raised to the scale "
        "of the largest, and lowered again by a Mul after the convolution.",
        "",
        "| model | form | layers as planned | kernels | of them requantize | activation MB | "
        "outputs from float | metric |",
        "|---|---|---|---|---|---|---|---|",
        *map(_line, found),
    ]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    made = row.engine
    right = sum(layer.as_planned for layer in made.layers)
    metric = "-" if row.metric is None else f"{row.metric:.4f}"
    return (
        f"| {row.model} | {row.form} | {right} of {len(made.layers)} | {made.kernels} | "
        f"{made.requantize_kernels} | {made.activation_bytes / 1e6:.2f} | {row.distance:.2%} | "
        f"{metric} |"
    )


if __name__ == "__main__":
    main()
