#!/usr/bin/env bash
# tosa-converter-for-tflite 2026.2.0, Arm's translator from TFLite to TOSA: RESIZE_NEAREST_NEIGHBOR
# without half_pixel_centers and align_corners takes the pixel at floor(position / factor). TOSA's
# nearest mode rounds, and the translator gives it the same positions, without an offset that would
# make up for it. What lies half way or further is taken from the next pixel: a feature map that is
# enlarged by two is shifted by half a pixel. Nothing is said; Arm's reference model (tosa-tools
# 2026.8.0) computes what the file says. A SPLIT_V that leaves one size open, as -1, gets parts that
# reach past the end; it is not run here.
#
# Seen: 0 1 2 3, enlarged by two, becomes 0 1 1 2 2 3 3 3 instead of 0 0 1 1 2 2 3 3, and three of
# eight pixels are 0 3 5 instead of 0 2 5. A resize with half_pixel_centers and a bilinear one are
# right. LiteRT 2.3.0 follows the formula.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet tosa-converter-for-tflite==2026.2.0 tosa-tools==2026.8.0 \
    ai-edge-litert==2.3.0 flatbuffers==25.2.10 numpy==2.1.3
cd "$work"
PATH="$work/venv/bin:$PATH" python - 2>/dev/null <<'PY'
import subprocess

import flatbuffers
import numpy as np
import tosa_converter_for_tflite as converter
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

TARGET = "specification_version=1.0 profiles=pro_int,pro_fp level=none"


def file_of(name, options, *tensors):
    """One operation; each tensor is its shape, or the values of a constant."""
    graph, model, code = schema.SubGraphT(), schema.ModelT(), schema.OperatorCodeT()
    model.buffers, graph.tensors = [schema.BufferT()], []
    for number, given in enumerate(tensors):
        made = schema.TensorT()
        stored = isinstance(given, np.ndarray)
        made.name, made.shape = f"t{number}", list(given.shape if stored else given)
        made.type = schema.TensorType.INT32 if stored else schema.TensorType.INT8
        if stored:
            made.buffer = len(model.buffers)
            model.buffers.append(schema.BufferT())
            model.buffers[-1].data = np.frombuffer(given.astype("i4").tobytes(), "u1")
        else:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [0.5], [0]
        graph.tensors.append(made)
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0, 1], [2]
    kind = type(options).__name__.removesuffix("T")
    operator.builtinOptions = options
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
    graph.operators, graph.inputs, graph.outputs = [operator], [0], [2]
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
    code.version = 2
    model.version, model.subgraphs, model.operatorCodes = 3, [graph], [code]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def outputs(content, x):
    """What LiteRT computes, and Arm's reference model of the translated file."""
    litert = Interpreter(model_content=content)
    litert.allocate_tensors()
    litert.set_tensor(0, x)
    litert.invoke()
    wanted = litert.get_tensor(litert.get_output_details()[0]["index"]).ravel()
    with open("net.tflite", "wb") as stream:
        stream.write(content)
    text = converter.TosaConverterOutputFormat.Text
    converter.tflite_flatbuffer_to_tosa_mlir("net.tflite", "net.mlir", text)
    np.save("x.npy", x)
    for command in (
        ["tosa-opt", f"--tosa-attach-target={TARGET}", "--tosa-serialize",
         "--tosa-flatbuffer-filename=net.tosa", "net.mlir"],
        ["tosa_reference_model", "--tosa_file=net.tosa", "--flatbuffer_dir=.", "--output_dir=.",
         "--ifm_name=TosaInput_0", "--ifm_file=x.npy", "--ofm_name=TosaOutput_0",
         "--ofm_file=y.npy"],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return wanted, np.load("y.npy").ravel()


for name, old, new, half_pixels in (
    ("ResizeNearestNeighbor", 4, 8, False), ("ResizeNearestNeighbor", 8, 3, False),
    ("ResizeNearestNeighbor", 4, 8, True), ("ResizeBilinear", 4, 8, False),
):
    x = np.arange(old, dtype="i1").reshape(1, 1, old, 1) * 10
    options = getattr(schema, f"{name}OptionsT")()
    options.halfPixelCenters = half_pixels
    code = "RESIZE_BILINEAR" if name == "ResizeBilinear" else "RESIZE_NEAREST_NEIGHBOR"
    content = file_of(code, options, x.shape, np.array([1, new]), (1, 1, new, 1))
    wanted, found = outputs(content, x)
    print(f"{code}, half_pixel_centers={half_pixels}: {wanted.tolist()} in LiteRT,")
    print(f"    {found.tolist()} by TOSA")
    if code == "RESIZE_NEAREST_NEIGHBOR" and not half_pixels:
        assert np.array_equal(wanted, 10 * (np.arange(new) * old // new))
        rounded = np.floor(np.arange(new) * old / new + 0.5)
        assert np.array_equal(found, 10 * np.minimum(rounded, old - 1)), "that changed"
    else:
        assert np.abs(wanted - found).max() <= 1, "that changed"
PY
