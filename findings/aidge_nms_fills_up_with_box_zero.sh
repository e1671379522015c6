#!/usr/bin/env bash
# aidge_onnx 0.10.1: the result of a NonMaxSuppression has as many rows as may be selected at most.
# Rows that nothing was selected for are [0, 0, 0], which means box 0 of class 0 of image 0. Nothing
# tells them from a selected box, so a detector reports it once for every empty row.
#
# Seen: of 6 boxes ONNX Runtime selects 3 and 0; Aidge gives 3 and 0 and eight times 0 where ten are
# allowed. If box 0 is below the score threshold it is selected all the same.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet aidge-core==0.10.1 aidge-onnx==0.10.1 \
    aidge-backend-cpu==0.10.1 onnx==1.22.0 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import aidge_backend_cpu
import aidge_core
import aidge_onnx
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

aidge_core.Log.set_console_level(aidge_core.Level.Fatal)
rows = (0, 0.1, -0.1, 10, 10.1, 100)
boxes = np.array([[[0, row, 1, row + 1] for row in rows]], "f4")


def selected(scores):
    """Numbers of the boxes that ONNX Runtime and Aidge select, each with a score above 0.4."""
    constants = {
        "scores": np.array([[scores]], "f4"), "limit": np.array([10]),
        "overlap": np.array([0.5], "f4"), "threshold": np.array([0.4], "f4"),
    }
    node = helper.make_node("NonMaxSuppression", ["x", *constants], ["y"])
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6, 4]),
        helper.make_tensor_value_info("y", TensorProto.INT64, [None, 3]),
    ]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph([node], "net", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    session = ort.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    network = aidge_onnx.load_onnx("net.onnx")
    network.set_backend("cpu")
    network.forward_dims([list(boxes.shape)], True)
    aidge_core.SequentialScheduler(network).forward(True, [aidge_core.Tensor(boxes)])
    (last,) = network.get_output_nodes()
    found = np.array(last.get_operator().get_output(0))
    return session.run(None, {"x": boxes})[0][:, 2].tolist(), found[:, 2].tolist()


for scores in ([0.9, 0.75, 0.6, 0.95, 0.5, 0.3], [0.1, 0.2, 0.6, 0.95, 0.5, 0.3]):
    wanted, found = selected(scores)
    print(f"scores {scores}: {wanted} in ONNX Runtime, {found} here")
    assert len(wanted) == 2 and found == wanted + [0] * 8, "that changed"
PY
