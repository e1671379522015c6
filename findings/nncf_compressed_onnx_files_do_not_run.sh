#!/usr/bin/env bash
# nncf 3.4.0: compress_weights of an ONNX file gives a weight of more than two axes scales of the
# wrong shape. DequantizeLinear wants one axis where it has `axis` and no block_size; NNCF writes
# [8, 1, 1] for a Conv, at its defaults, and [2, 48] for a MatMul with a batch of weights. In groups
# (group_size) a Gemm with transB=1, as torch writes a Linear, has its blocks along axis 0 and its
# scales along axis 1. onnx.checker finds nothing, NNCF says nothing, and the file does not run.
#
# Seen: ONNX Runtime loads all three and refuses the first run; a MatMul, a Gemm, and a Gemm with
# transB=1 without groups are within 2 percent of the float file.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet nncf==3.4.0 onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY' | grep "^>"
import nncf
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper

rng = np.random.default_rng(0)
groups = {"mode": nncf.CompressWeightsMode.INT4_SYM, "group_size": 16, "all_layers": True}
cases = [
    ("MatMul", {}, [4, 32], [32, 48], [4, 48], {}, True),
    ("Gemm", {}, [4, 32], [32, 48], [4, 48], {}, True),
    ("Gemm", {"transB": 1}, [4, 32], [48, 32], [4, 48], {}, True),
    ("Gemm", {}, [4, 32], [32, 48], [4, 48], groups, True),
    ("Gemm", {"transB": 1}, [4, 32], [48, 32], [4, 48], groups, False),
    ("MatMul", {}, [2, 4, 32], [2, 32, 48], [2, 4, 48], {}, False),
    ("Conv", {}, [1, 16, 8, 8], [8, 16, 3, 3], [1, 8, 6, 6], {}, False),
]
for kind, attributes, x_shape, w_shape, y_shape, options, runs in cases:
    x, weight = (rng.normal(size=shape).astype("f4") for shape in (x_shape, w_shape))
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", x_shape), ("y", y_shape))
    ]
    node = helper.make_node(kind, ["x", "w"], ["y"], **attributes)
    stored = [numpy_helper.from_array(weight, "w")]
    graph = helper.make_graph([node], "net", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString())
    wanted = session.run(None, {"x": x})[0]
    made = nncf.compress_weights(model, **options)
    checker.check_model(made, full_check=True)
    scale = next(list(one.dims) for one in made.graph.initializer if one.name.endswith("scale"))
    session = ort.InferenceSession(made.SerializeToString())
    title = f"{kind} {attributes}, weight {w_shape}, {'groups' if options else 'int8'}"
    try:
        apart = np.abs(session.run(None, {"x": x})[0] - wanted).max() / np.abs(wanted).max()
        said = f"{apart:.4f} of the largest output apart"
    except Exception as error:
        apart, said = None, str(error).split(" was false. ")[-1].strip()[:70]
    print(f"> {title}: scales {scale}; {said}", flush=True)
    assert (apart is not None) == runs, "that changed"
    assert apart is None or apart < (0.25 if options else 0.02)
print("> all as described")
PY
