#!/usr/bin/env bash
# onnxruntime 1.31.1: a Relu in front of an FP8 QuantizeLinear with a zero point is removed by the
# default optimizations, and negative values pass. It is superfluous in front of uint8 codes whose
# zero point is their lowest; the rewrite takes the zero of FP8 for one of those. No error is
# raised. A Clip between two such pairs does not load ("Unexpected data type"). Both are right without
# the optimizers ReluQuantRewrite and ClipQuantRewrite, with ORT_ENABLE_BASIC, or if the type is
# given by output_dtype instead of a zero point.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime as ort

x = np.array([[-2.0, -0.5, 0.5, 2.0]], "f4")
ALL = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
BASIC = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC


def run(clamp, pair, level=ALL, without=()):
    """The outputs of a clamp between an FP8 pair and another, or that the file does not load."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 21]>
        net (float[1, 4] x) => (float[1, 4] y)
        <float s = {{0.25}}, float zero = {{0}}, float8e4m3fn z = {{0}}, uint8 u = {{0}}>
        {{
            p = QuantizeLinear (x, s, z)
            d = DequantizeLinear (p, s, z)
            c = {clamp}
            q = QuantizeLinear{pair}
            y = DequantizeLinear (q, s)
        }}"""
    )
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.log_severity_level, options.graph_optimization_level = 4, level
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), options, ["CPUExecutionProvider"], disabled_optimizers=without
        )
    except Exception as error:
        assert "Unexpected data type" in str(error)
        return "does not load"
    return session.run(None, {"x": x})[0][0].tolist()


RELU, CLIP = "Relu (d)", "Clip (d, zero)"
ZERO, TYPE, UINT8 = "(c, s, z)", "<output_dtype = 17> (c, s)", "(c, s, u)"
REWRITES = ("ReluQuantRewrite", "ClipQuantRewrite")
relu, clip = run(RELU, ZERO), run(CLIP, ZERO)
print(f"input {x[0].tolist()}: Relu in front of FP8 gives {relu}; Clip in front of FP8 {clip}")
right = [
    run(clamp, *rest)
    for clamp in (RELU, CLIP)
    for rest in ((ZERO, BASIC), (ZERO, ALL, REWRITES), (TYPE,), (UINT8,))
]
print("otherwise", right[0])
assert relu == x[0].tolist() and clip == "does not load", "that changed"
assert right == [[0.0, 0.0, 0.5, 2.0]] * len(right), "that changed"
PY
