#!/usr/bin/env bash
# onnx-tool 1.0.1: the multiplications of a ConvTranspose are counted from the number of its outputs
# where that of its inputs belongs, and for every pixel of the output. The channels that come in do
# not count, and a stride of 2 makes four times as many. Where both operands of a MatMul are
# repeated (3 x 1 x 4 x 8 and 2 x 8 x 6), the axes of the first are taken for those of the result.
# A plan that weighs layers by this count weighs these layers wrongly.
#
# Seen: upsampling 3 or 300 channels to 4 costs 16384, which is 5.3 times what it should be and one
# 19th; the MatMul has half of its cost, and a result of 3 x 1 x 4 x 6. Conv and Gemm are right.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx-tool==1.0.1 onnx==1.22.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import contextlib
import io

import numpy as np
import onnx
import onnx_tool
from onnx import TensorProto, helper, numpy_helper


def counted(kind, x, weight, y, **attributes):
    """The multiplications of one node, and the shape of its output, as onnx-tool counts them."""
    node = helper.make_node(kind, ["x", "w"], ["y"], **attributes)
    shapes = (("x", x), ("y", y))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in shapes]
    stored = [numpy_helper.from_array(np.ones(weight, "f4"), "w")]
    graph = helper.make_graph([node], "net", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    with contextlib.redirect_stdout(io.StringIO()):
        network = onnx_tool.Model(model).graph
        network.shape_infer({"x": np.zeros(x, "f4")})
        network.profile()
    (only,) = network.nodemap.values()
    return int(np.asarray(only.macs).flat[0]), list(network.tensormap["y"].get_shape())


cases = [
    ("Conv", [1, 3, 8, 8], [4, 3, 2, 2], [1, 4, 4, 4], {"strides": [2, 2]}, 16 * 4 * 3 * 4, 1),
    ("Gemm", [4, 8], [8, 6], [4, 6], {}, 4 * 8 * 6, 1),
    ("MatMul", [3, 1, 4, 8], [2, 8, 6], [3, 2, 4, 6], {}, 3 * 2 * 4 * 8 * 6, 0.5),
]
for channels, ratio in ((3, 16 / 3), (300, 16 / 300)):
    shapes = [1, channels, 8, 8], [channels, 4, 2, 2], [1, 4, 16, 16]
    exact = 64 * channels * 4 * 4
    cases.append(("ConvTranspose", *shapes, {"strides": [2, 2]}, exact, ratio))
for kind, x, weight, y, attributes, exact, ratio in cases:
    found, shape = counted(kind, x, weight, y, **attributes)
    print(f"{kind} of {x} and {weight}: {exact} multiplications, counted {found}; output {shape}")
    assert abs(found / exact - ratio) < 1e-6, "that changed"
    assert shape == ([3, 1, 4, 6] if kind == "MatMul" else y), "that changed"
PY
