"""AIMET's automatic mixed precision on MobileNetV1 x0.25, to set beside `benchmarks/formats.py`.

python benchmarks/formats_aimet.py --json benchmarks/results/formats_aimet.json

Needs SENSITIVITY_ASSETS and `pip install aimet-onnx==2.42.0`, which is no dependency of this
project. Its candidates are INT8, 16-bit activations with INT8 weights, and FP16; it gets the same
images: calibration on 200, sensitivities on the first 150 of `rank`, the target on `confirm`, and
`holdout` judges.
Weights per channel and symmetric activations, both of min-max ranges, are what the model in
`benchmarks/formats.py` has.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from aimet_onnx import QuantizationSimModel
from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight
from aimet_onnx.common.defs import CallbackFunc, QuantizationDataType
from aimet_onnx.mixed_precision import choose_mixed_precision
from aimet_onnx.utils import disable_quantizers

from sensitivity.timing.environment import environment

BENCHMARKS = Path(__file__).parent
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS.parent / "examples" / "01_mobilenet")]
import formats  # noqa: E402
import task as mobilenet  # noqa: E402

MODEL = "MobileNetV1 x0.25"
TITLE = "AIMET's automatic mixed precision, beside formats.md"
INTEGER, FLOAT = QuantizationDataType.int, QuantizationDataType.float
CANDIDATES = [
    ((16, FLOAT), (16, FLOAT)),
    ((16, INTEGER), (8, INTEGER)),
    ((8, INTEGER), (8, INTEGER)),
]
"""Of activations and of weights: number of bits and type."""

RANK_BATCHES = 3
ACTIVATIONS = {"symmetric": "True", "asymmetric": "False"}

Batches = list[tuple[np.ndarray, np.ndarray]]


def config(activations: str) -> dict[str, Any]:
    """AIMET's settings: all operations are quantized, weights per channel, biases not."""
    return {
        "defaults": {
            "hw_version": "default",
            "ops": {"is_output_quantized": "True", "is_symmetric": ACTIVATIONS[activations]},
            "params": {"is_quantized": "True", "is_symmetric": "True"},
            "strict_symmetric": "True",
            "unsigned_symmetric": "False",
            "per_channel_quantization": "True",
        },
        "params": {"bias": {"is_quantized": "False"}},
        "op_type": {},
        "supergroups": [
            {"op_list": ["Conv", "LeakyRelu"]},
        ],
        "model_input": {"is_input_quantized": "True"},
        "model_output": {},
    }


def float_file(path: Path) -> onnx.ModelProto:
    """The float model with its batch norms folded; weights keep their names."""
    torch.onnx.export(
        mobilenet.float_model(),
        (torch.zeros(50, 3, 224, 224),),
        str(path),
        input_names=["input"],
        opset_version=17,
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
    )
    model = onnx.load(path)
    fold_all_batch_norms_to_weight(model)
    return model


def arrays(split: Iterable[tuple[torch.Tensor, Any]]) -> Batches:
    return [(images.numpy(), np.asarray(labels)) for images, labels in split]


def top_1(batches: Batches) -> Callable[[Any], float]:
    """What AIMET asks for: a session's part of right answers."""

    def evaluate(session: Any, *_: Any) -> float:
        right = [
            session.run(None, {"input": images})[0].argmax(1) == labels
            for images, labels in batches
        ]
        return float(np.mean(np.concatenate(right)))

    return evaluate


def planned(drop: float, activations: str) -> dict[str, Any]:
    """One row, as in `formats.py`. drop: allowed, as a part of 1."""
    calib, splits = mobilenet.parts()
    calibration, data = arrays(calib), {name: arrays(split) for name, split in splits.items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(config(activations)))
        model = float_file(folder / "net.onnx")
        sim = QuantizationSimModel(
            model, quant_scheme="min_max", config_file=str(folder / "config.json")
        )

        def forward(session: Any, *_: Any) -> None:
            for images, _labels in calibration:
                session.run(None, {"input": images})

        sim.compute_encodings(forward)
        data["rank"] = data["rank"][:RANK_BATCHES]
        scores = {split: top_1(data[split]) for split in data}
        with disable_quantizers(sim, list(sim.qc_quantize_op_dict)):
            whole = scores["confirm"](sim.session)
        quantized = {split: scores[split](sim.session) for split in ("confirm", "holdout")}
        calls = [CallbackFunc(each) for each in (scores["rank"], scores["confirm"], forward)]
        choose_mixed_precision(
            sim,
            CANDIDATES,
            eval_callback_for_phase1=calls[0],
            eval_callback_for_phase2=calls[1],
            allowed_accuracy_drop=drop,
            results_dir=name,
            clean_start=True,
            forward_pass_callback=calls[2],
            use_all_amp_candidates=True,
        )
        after = {split: scores[split](sim.session) for split in ("confirm", "holdout")}
    kinds = layer_kinds(sim)
    return {
        "model": f"{MODEL}, {activations} activations",
        "max_drop": f"{100 * drop:g}pt",
        "met": after["confirm"] >= whole - drop,
        "quantized": quantized,
        "confirm": [after["confirm"], None, None],
        "holdout": [after["holdout"], None, None],
        **shares(kinds, formats.layer_macs(formats.TASKS[MODEL])),
    }


def layer_kinds(sim: Any) -> dict[str, str]:
    """Layer -> "float", "16 bits" or "INT8", by what it reads: 16 bits where one of its inputs
    has them."""
    found = {}
    for node in sim.model.model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        data, weight = (sim.qc_quantize_op_dict.get(base(name)) for name in node.input[:2])
        layer = base(node.input[1]).removesuffix(".weight")
        found[layer] = kind(data, weight)
    return found


def base(name: str) -> str:
    """The tensor that a quantizer of the simulation reads."""
    return name.removesuffix("_updated").removesuffix("_qdq")


def kind(data: Any, weight: Any) -> str:
    """data, weight: quantizers; None and those that are off round nothing."""
    if weight is None or not weight.enabled or weight.data_type == FLOAT:
        return "float"
    if data is not None and data.enabled and data.data_type == INTEGER and data.bitwidth == 8:
        return "INT8"
    return "16 bits"


def shares(kinds: Mapping[str, str], macs: Mapping[str, int]) -> dict[str, Any]:
    every = sum(macs.values())
    parts = dict.fromkeys(formats.BIT_OPERATIONS, 0)
    for layer, one in kinds.items():
        parts[one] += macs[layer]
    bits = sum(formats.BIT_OPERATIONS[name] * number for name, number in parts.items())
    return {
        "in_float": [layer for layer, one in kinds.items() if one == "float"],
        "in_16_bits": [layer for layer, one in kinds.items() if one == "16 bits"],
        "macs_in_float": parts["float"] / every,
        "macs_in_16_bits": parts["16 bits"] / every,
        "bit_operations": bits / (formats.BIT_OPERATIONS["INT8"] * every),
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="AIMET's mixed precision on MobileNetV1.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--drops", nargs="*", type=float, default=[0.5, 1.0], help="in points")
    parser.add_argument("--activations", choices=ACTIVATIONS, default="symmetric")
    given = parser.parse_args(arguments)
    result: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/formats_aimet.py", *arguments]),
        "environment": environment() | {"aimet-onnx": version("aimet-onnx")},
        "rows": [],
    }
    for drop in given.drops:
        result["rows"].append(planned(drop / 100, given.activations))
        print(json.dumps(result["rows"][-1]), flush=True)
        if given.json:
            given.json.write_text(json.dumps(result, indent=1) + "\n")
            given.json.with_suffix(".md").write_text(formats.markdown(result, TITLE))


if __name__ == "__main__":
    main(sys.argv[1:])
