#!/usr/bin/env bash
# tinygrad 0.14.0: an Attention of opset 23 with is_causal=1 and keys of the past, as in a language
# model that goes on writing. Query i stands behind the past and may read all of it and keys up to
# its own. OnnxRunner counts from the first key of the past: a query that is alone, after 5 tokens,
# reads the first of them and nothing else. Nothing is said.
#
# Seen: each step's outputs are wrong by as much as the values are large, and are those of i + 1
# keys of the past. Without past, and without is_causal, all is right. The reference of onnx agrees
# with ONNX Runtime.
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

HEADS, WIDTH = 2, 8
rng = np.random.default_rng(0)


def attention(queries, past, causal):
    """Return the network of one Attention; its arrays have the shape [1, HEADS, n, WIDTH]."""
    counts = {"q": queries, "k": queries, "v": queries, "pk": past, "pv": past}
    counts = {name: count for name, count in counts.items() if past or name in "qkv"}
    results = {"y": queries} | ({"nk": past + queries, "nv": past + queries} if past else {})
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, HEADS, n, WIDTH])
         for name, n in one.items()]
        for one in (counts, results)
    )
    names = ["q", "k", "v", *(["", "pk", "pv"] if past else [])]
    node = helper.make_node("Attention", names, list(results), is_causal=causal)
    graph = helper.make_graph([node], "net", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    checker.check_model(model, full_check=True)
    values = {name: rng.normal(size=[1, HEADS, n, WIDTH]) for name, n in counts.items()}
    return model, {name: value.astype("f4") for name, value in values.items()}


def by_hand(values, past):
    """Return what queries give that read the first i + 1 + past keys."""
    keys, found = (
        np.concatenate([values[p], values[n]], 2) if p in values else values[n]
        for p, n in (("pk", "k"), ("pv", "v"))
    )
    scores = np.exp(values["q"] @ keys.swapaxes(2, 3) / np.sqrt(WIDTH))
    scores = np.tril(scores, past)
    return scores / scores.sum(-1, keepdims=True) @ found


for queries, past, causal in ((3, 0, 1), (3, 5, 0), (3, 5, 1), (1, 5, 1)):
    model, values = attention(queries, past, causal)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = session.run(None, values)[0]
    assert np.allclose(wanted, ReferenceEvaluator(model).run(None, values)[0], atol=1e-5)
    onnx.save(model, "net.onnx")
    given = {name: Tensor(value) for name, value in values.items()}
    seen = OnnxRunner("net.onnx")(given)["y"].numpy()
    apart = float(np.abs(seen - wanted).max())
    print(f"{queries} queries, {past} of the past, is_causal={causal}: {apart:.3f} apart")
    if past and causal:
        assert np.allclose(wanted, by_hand(values, past), atol=1e-5)
        assert apart > 0.5 and np.allclose(seen, by_hand(values, 0), atol=1e-5), "that changed"
    else:
        assert apart < 1e-5
PY
