#!/usr/bin/env bash
# openvino 2026.4.1: a cubic Resize with exclude_outside=1 is computed as with 0. ONNX says that
# weights of pixels outside the image are set to 0 then, and the others scaled to a sum of 1;
# OpenVINO repeats the pixels at the border, and does not say that it left the attribute out.
#
# Seen: with exclude_outside=0 OpenVINO agrees with ONNX Runtime and ONNX's reference; with 1 these
# two agree, and OpenVINO's outputs are still those of 0.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 openvino==2026.4.1 \
    numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnxruntime as ort
import openvino as ov
from onnx import TensorProto, checker, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

x = np.random.default_rng(0).normal(size=(1, 2, 7, 7)).astype("f4")
found = {}
for outside in (0, 1):
    node = helper.make_node(
        "Resize", ["x", "", "scales"], ["y"], mode="cubic", exclude_outside=outside
    )
    shapes = (("x", [1, 2, 7, 7]), ("y", [1, 2, 14, 14]))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in shapes]
    stored = [numpy_helper.from_array(np.array([1, 1, 2, 2], "f4"), "scales")]
    graph = helper.make_graph([node], "net", ports[:1], ports[1:], stored)
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {"x": x})
    (reference,) = ReferenceEvaluator(model).run(None, {"x": x})
    assert np.allclose(reference, wanted, atol=1e-5)
    core = ov.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(content), "CPU", options)
    found[outside] = (wanted, compiled({"x": x})[compiled.output(0)])
    apart = float(np.abs(found[outside][1] - wanted).max())
    print(f"exclude_outside={outside}: OpenVINO is {apart:.4f} from ONNX Runtime and the reference")
assert np.allclose(*found[0], atol=1e-5)
assert np.allclose(found[1][1], found[0][0], atol=1e-5), "that changed"
assert np.abs(found[1][1] - found[1][0]).max() > 0.05, "that changed"
PY
