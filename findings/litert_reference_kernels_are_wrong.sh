#!/usr/bin/env bash
# ai-edge-litert 2.3.0: the interpreter's reference kernels (OpResolverType.BUILTIN_REF, which one
# takes to find out whether an optimized kernel is at fault) are the wrong ones of the two for SUM
# of int8, where every output is the code -1, and for LOCAL_RESPONSE_NORMALIZATION, where the last
# channel of each window is left out. The optimized kernels are right.
#
# Seen: with formulas in float64, optimized kernels within a step and 1e-6, reference ones far off.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ai-edge-litert==2.3.0 flatbuffers==25.12.19 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

KIND = schema.TensorType
rng = np.random.default_rng(0)


def tensor(name, shape, kind, grid=None, buffer=0):
    made = schema.TensorT()
    made.name, made.shape, made.type, made.buffer = name, shape, kind, buffer
    if grid:
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale, made.quantization.zeroPoint = [grid[0]], [grid[1]]
    return made


def file_of(name, version, options, tensors):
    """The last tensor is the output, the first the input, one between them holds axes 1 and 2."""
    axes = schema.BufferT()
    axes.data = np.frombuffer(np.array([1, 2], "i4").tobytes(), "u1")
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = list(range(len(tensors) - 1)), [len(tensors) - 1]
    operator.builtinOptions = options
    kind = type(options).__name__.removesuffix("T")
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = tensors, [operator]
    graph.inputs, graph.outputs = [0], operator.outputs
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
    code.version = version
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes = 3, [graph], [code]
    model.buffers = [schema.BufferT(), axes]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def run(content, kernels, x):
    made = Interpreter(model_content=content, experimental_op_resolver_type=kernels)
    made.allocate_tensors()
    made.set_tensor(made.get_input_details()[0]["index"], x)
    made.invoke()
    return made.get_tensor(made.get_output_details()[0]["index"])


def both(content, x):
    kinds = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES, OpResolverType.BUILTIN_REF
    return [run(content, kind, x) for kind in kinds]


codes = rng.integers(-128, 128, size=(1, 8, 8, 4)).astype("i1")
wanted = np.round(0.03 * (codes.astype("f8") + 5).sum((1, 2)) / 0.5)
content = file_of("SUM", 2, schema.ReducerOptionsT(), [
    tensor("x", [1, 8, 8, 4], KIND.INT8, (0.03, -5)), tensor("axes", [2], KIND.INT32, buffer=1),
    tensor("y", [1, 4], KIND.INT8, (0.5, 0)),
])
optimized, reference = both(content, codes)
print(f"SUM: {wanted[0].tolist()} wanted, {optimized[0]} optimized, {reference[0]} by reference")
assert np.abs(optimized - wanted).max() <= 1
assert reference.ravel().tolist() == [-1] * 4, "that changed"

values = rng.normal(size=(1, 3, 3, 8)).astype("f4")
options = schema.LocalResponseNormalizationOptionsT()
options.radius, options.bias, options.alpha, options.beta = 2, 1.0, 0.3, 0.75
content = file_of("LOCAL_RESPONSE_NORMALIZATION", 1, options, [
    tensor("x", [1, 3, 3, 8], KIND.FLOAT32), tensor("y", [1, 3, 3, 8], KIND.FLOAT32),
])
optimized, reference = both(content, values)


def normalized(last):
    windows = [values[..., max(0, c - 2) : c + 2 + last] for c in range(8)]
    squares = np.stack([(window.astype("f8") ** 2).sum(-1) for window in windows], -1)
    return values / (1 + 0.3 * squares) ** 0.75


apart = {
    "optimized": float(np.abs(optimized - normalized(1)).max()),
    "reference": float(np.abs(reference - normalized(1)).max()),
    "reference, windows without their last channel": float(np.abs(reference - normalized(0)).max()),
}
print("LOCAL_RESPONSE_NORMALIZATION, largest error:", apart)
assert [error < 1e-5 for error in apart.values()] == [True, False, True], "that changed"
PY
