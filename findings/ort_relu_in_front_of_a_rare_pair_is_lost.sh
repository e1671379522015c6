#!/usr/bin/env bash
# onnxruntime 1.31.1: a Relu in front of a QuantizeLinear to FP8 or 4 bits is removed by the default
# optimizations, and negative values pass. It is superfluous in front of uint8 codes whose zero
# point is their lowest; the rewrite takes any zero point of these types for such a one. No error is
# raised. A Clip between two such pairs does not load ("Unexpected data type"). Both are right
# without the optimizers ReluQuantRewrite and ClipQuantRewrite, and with ORT_ENABLE_BASIC.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime as ort

x = np.array([[-1.5, -0.5, 0.5, 1.5]], "f4")
ALL = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
BASIC = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC


ZEROS = {
    "float8e4m3fn": (17, b"\0"),
    "float8e5m2": (19, b"\0"),
    "int4": (22, b"\0"),
    "uint4": (21, b"\b"),  # 8
}


def run(kind, clamp, zero="z", level=ALL, without=()):
    """The outputs of a clamp between two pairs, or that the file does not load."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 21]>
        net (float[1, 4] x) => (float[1, 4] y)
        <float s = {{0.25}}, float zero = {{0}}, {kind} z, uint8 u = {{0}}>
        {{
            p = QuantizeLinear (x, s, z)
            d = DequantizeLinear (p, s, z)
            c = {clamp}
            q = QuantizeLinear (c, s, {zero})
            y = DequantizeLinear (q, s, {zero})
        }}"""
    )
    number, raw = ZEROS[kind]
    model.graph.initializer.append(onnx.helper.make_tensor("z", number, [], raw, raw=True))
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.log_severity_level, options.graph_optimization_level = 4, level
    try:
        session = ort.InferenceSession(
            model.SerializeToString(),
            options,
            ["CPUExecutionProvider"],
            disabled_optimizers=without,
        )
    except Exception as error:
        assert "Unexpected data type" in str(error)
        return "does not load"
    return session.run(None, {"x": x})[0][0].tolist()


RELU, CLIP = "Relu (d)", "Clip (d, zero)"
REWRITES = ("ReluQuantRewrite", "ClipQuantRewrite")
for kind in ZEROS:
    relu, clip = run(kind, RELU), run(kind, CLIP)
    right = [
        run(kind, clamp, *rest)
        for clamp in (RELU, CLIP)
        for rest in (("z", BASIC), ("z", ALL, REWRITES), ("u",))
    ]
    print(f"{kind}: Relu of {x[0].tolist()} is {relu}, otherwise {right[0]}; Clip {clip}")
    assert relu == x[0].tolist() and clip == "does not load", "that changed"
    assert right == [[0.0, 0.0, 0.5, 1.5]] * len(right), "that changed"
PY
