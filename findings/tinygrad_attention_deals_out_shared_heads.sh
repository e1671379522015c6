#!/usr/bin/env bash
# tinygrad 0.14.0: in an Attention of opset 23 with fewer heads of keys than of queries, neighbours
# among the queries share a head: queries 0 and 1 read keys 0, queries 2 and 3 read keys 1.
# OnnxRunner repeats the keys as a whole and so deals them out in turn: queries 0 and 2 read keys 0.
# Nothing is said.
#
# Seen: with 4 heads of queries and 2 of keys the outputs of heads 1 and 2 are wrong by as much as
# the values are large, and are right if the keys and values of the file are dealt out in turn.
# With 4 heads of keys, or 1, all are right. The reference of onnx and ONNX Runtime agree.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet tinygrad==0.14.0 onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
DEV=PYTHON "$work/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, checker, helper
from onnx.reference import ReferenceEvaluator
from tinygrad import Tensor
from tinygrad.nn.onnx import OnnxRunner

HEADS = 4
rng = np.random.default_rng(0)


def attention(query, key):
    """Return the network of one Attention; arrays of shape [1, heads, positions, 8]."""
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("q", query), ("k", key), ("v", key), ("y", query))
    ]
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"])
    graph = helper.make_graph([node], "net", ports[:3], ports[3:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    checker.check_model(model, full_check=True)
    return model


def by_ort(values):
    model = attention(values["q"].shape, values["k"].shape)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, values)[0]


for shared in (4, 2, 1):
    sizes = {"q": [1, HEADS, 3, 8], "k": [1, shared, 5, 8], "v": [1, shared, 5, 8]}
    values = {name: rng.normal(size=size).astype("f4") for name, size in sizes.items()}
    model = attention(sizes["q"], sizes["k"])
    wanted = by_ort(values)
    assert np.allclose(wanted, ReferenceEvaluator(model).run(None, values)[0], atol=1e-5)
    onnx.save(model, "net.onnx")
    given = {name: Tensor(value) for name, value in values.items()}
    seen = OnnxRunner("net.onnx")(given)["y"].numpy()
    dealt = by_ort({n: v if n == "q" else np.tile(v, [1, HEADS // shared, 1, 1])
                    for n, v in values.items()})
    apart = np.abs(seen - wanted).max((0, 2, 3))
    print(f"{HEADS} heads of queries, {shared} of keys: {apart.round(3).tolist()} apart")
    assert (apart > 0.5).tolist() == [False, shared == 2, shared == 2, False], "that changed"
    assert np.allclose(seen, dealt, atol=1e-5), "that changed"
PY
