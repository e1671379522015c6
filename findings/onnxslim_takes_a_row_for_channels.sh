#!/usr/bin/env bash
# onnxslim 0.1.98: it multiplies the constant of a Mul into the weights of the Conv in front
# wherever the constant has as many values as the Conv has channels. ONNX broadcasts from the last
# axis, so a constant of shape [8] belongs to the 8 columns of the image. Where an image is as wide
# as it has channels, each channel gets the factor of a column. The slimmed file is valid, and
# onnxslim compares no outputs unless asked to (model_check).
#
# Seen: 8 channels, constants of shape [8]: off by a third of the largest output or more for 8
# columns, exact for 8 columns with shape [8, 1, 1], and exact with 4 channels.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnxslim==0.1.98 onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import numpy as np
import onnxruntime as ort
import onnxslim
from onnx import TensorProto, checker, helper, numpy_helper

rng = np.random.default_rng(0)
x = rng.normal(size=[1, 3, 8, 8]).astype("f4")


def outputs(model):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


for channels, shape, is_wrong in ((8, [8], True), (8, [8, 1, 1], False), (4, [8], False)):
    constants = {
        "w": rng.normal(size=[channels, 3, 1, 1]).astype("f4"),
        "b": rng.normal(size=channels).astype("f4"),
        "k": np.linspace(0.1, 2, 8).astype("f4").reshape(shape),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv"),
        helper.make_node("Mul", ["c", "k"], ["y"], name="mul"),
    ]
    sizes = (("x", x.shape), ("y", [1, channels, 8, 8]))
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in sizes]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    layer = np.einsum("nchw,oc->nohw", x, constants["w"][:, :, 0, 0])
    wanted = (layer + constants["b"].reshape(-1, 1, 1)) * constants["k"]
    assert np.allclose(outputs(model), wanted, atol=1e-4)
    made = onnxslim.slim(model)
    apart = float(np.abs(outputs(made) - wanted).max() / np.abs(wanted).max())
    kinds = [one.op_type for one in made.graph.node]
    print(f"{channels} channels, constant {shape}: {apart:.3f} of the largest apart, {kinds}")
    assert apart > 0.3 if is_wrong else apart < 1e-4, "that changed"
PY
