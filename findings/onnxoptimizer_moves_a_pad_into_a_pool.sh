#!/usr/bin/env bash
# onnxoptimizer 0.4.2: its default passes move a Pad of zeros into the pool behind it, where the
# padding means something else. A MaxPool leaves it out of the maximum; an AveragePool with pads of
# its own and count_include_pad=0 leaves it out of the count, while the Pad's zeros belong to the
# image and are counted. The result is valid and of the right shape. torch's ZeroPad2d, and
# convolutions padded by hand in converted TensorFlow networks, write such Pads.
#
# Seen: off by a tenth of the largest output or more for a MaxPool and for an AveragePool with pads;
# exact for an AveragePool without pads and for a Conv.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnxoptimizer==0.4.2 onnx==1.23.2 onnxruntime==1.31.1 \
    numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import numpy as np
import onnxoptimizer
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper

x = np.random.default_rng(5).normal(size=[1, 3, 8, 8]).astype("f4")
constants = {
    "pads": np.asarray([0, 0, 1, 1, 0, 0, 1, 1]),
    "w": np.random.default_rng(6).normal(size=[3, 3, 3, 3]).astype("f4"),
}
square = {"kernel_shape": [3, 3]}
own = {**square, "pads": [1, 1, 1, 1]}


def outputs(model):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


def mean_of_own_padding():
    """The average with pads of its own: zeros of the Pad count, those of the pool do not."""
    image = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)))
    counted = np.pad(np.ones([10, 10]), 1)
    view = np.lib.stride_tricks.sliding_window_view
    return view(image, (3, 3), (2, 3)).sum((4, 5)) / view(counted, (3, 3)).sum((2, 3))


for kind, attributes, size, is_wrong in (
    ("Conv", square, 8, False),
    ("AveragePool", square, 8, False),
    ("AveragePool", own, 10, True),
    ("MaxPool", square, 8, True),
):
    more = ["w"] if kind == "Conv" else []
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["p"], name="pad"),
        helper.make_node(kind, ["p", *more], ["y"], name="layer", **attributes),
    ]
    sizes = (("x", x.shape), ("y", [1, 3, size, size]))
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in sizes]
    stored = [numpy_helper.from_array(constants[name], name) for name in ["pads", *more]]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    wanted = outputs(model)
    if attributes is own:
        assert np.allclose(wanted, mean_of_own_padding(), atol=1e-5)
    made = onnxoptimizer.optimize(model)
    checker.check_model(made, full_check=True)
    apart = float(np.abs(outputs(made) - wanted).max() / np.abs(wanted).max())
    kinds = [one.op_type for one in made.graph.node]
    print(f"{kind} {attributes}: {apart:.3f} of the largest output apart, {kinds}")
    assert apart > 0.1 if is_wrong else apart < 1e-5, "that changed"
PY
