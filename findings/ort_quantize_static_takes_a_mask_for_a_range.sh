#!/usr/bin/env bash
# onnxruntime 1.31.1: quantize_static takes the lowest value of an attention mask, and of a Pad in
# front of a MaxPool, for the end of a range like any other. Between 0 and -1e9 all scores of a head
# are one code: each token then looks at all those before it alike. With -inf, which torch writes
# for a causal mask, the scale is infinite, and the outputs are 0 or NaN. It says nothing, and
# the file loads.
#
# Seen, as part of the largest output of a head with 8 tokens: with masks of -1e4, -1e9 and the
# lowest float32, an Add or a Where of the mask costs 0.7 to 1; with -inf the outputs are all 0.
# With 16 bits -1e4 costs less than 0.2, and the others as much as before. With mask and Softmax in
# nodes_to_exclude a finite mask costs less than 0.2. A Pad of -inf gives NaN or infinity, one of
# the lowest float32 gives 0.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

random = np.random.default_rng(0)
node = helper.make_node
tokens, width = 8, 16


class Samples(CalibrationDataReader):
    def __init__(self, samples):
        self.rest = iter(samples)

    def get_next(self):
        return next(self.rest, None)


def outputs(file, samples):
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    return np.stack([session.run(None, sample)[0] for sample in samples])


def results(nodes, constants, x_shape, y_shape, **options):
    """Outputs before and after quantize_static."""
    shapes = (("x", x_shape), ("y", y_shape))
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes]
    stored = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    checker.check_model(model, full_check=True)
    onnx.save(model, "float.onnx")
    samples = [{"x": random.normal(size=x_shape).astype("f4")} for _ in range(16)]
    quantize_static("float.onnx", "int8.onnx", Samples(samples), **options)
    checker.check_model(onnx.load("int8.onnx"), full_check=True)
    return outputs("float.onnx", samples), outputs("int8.onnx", samples)


query = random.normal(size=[width, width]).astype("f4") * 0.5


def head(lowest, masking, **options):
    """Results of one attention head whose tokens do not see later ones."""
    if masking == "Add":
        mask = node("Add", ["scores", "mask"], ["masked"], name="mask")
        constants = {"mask": np.triu(np.full([tokens, tokens], lowest, "f4"), 1)}
    else:
        mask = node("Where", ["seen", "scores", "mask"], ["masked"], name="mask")
        constants = {"seen": np.tri(tokens, dtype=bool), "mask": np.array(lowest, "f4")}
    nodes = [
        node("MatMul", ["x", "query"], ["q"], name="query"),
        node("Transpose", ["x"], ["k"], name="key", perm=[0, 2, 1]),
        node("MatMul", ["q", "k"], ["scores"], name="scores"),
        mask,
        node("Softmax", ["masked"], ["p"], name="softmax"),
        node("MatMul", ["p", "x"], ["y"], name="values"),
    ]
    shape = [1, tokens, width]
    return results(nodes, {"query": query, **constants}, shape, shape, **options)


def padded_pool(lowest, **options):
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="conv"),
        node("Pad", ["c", "pads", "lowest"], ["padded"], name="pad"),
        node("MaxPool", ["padded"], ["y"], name="pool", kernel_shape=[3, 3], strides=[2, 2]),
    ]
    constants = {
        "w": random.normal(size=[4, 4, 1, 1]).astype("f4"),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "lowest": np.array(lowest, "f4"),
    }
    return results(nodes, constants, [1, 4, 8, 8], [1, 4, 4, 4], **options)


def cost(pair):
    plain, found = pair
    return float(np.abs(found - plain).max() / np.abs(plain).max())


lowest_float = float(np.finfo("f4").min)
sixteen = {"activation_type": QuantType.QUInt16}
for masking in ("Add", "Where"):
    for lowest in (-1e4, -1e9, lowest_float):
        left_out = {"nodes_to_exclude": ["mask", "softmax"]}
        costs = {"8 bits": cost(head(lowest, masking)),
                 "16 bits": cost(head(lowest, masking, **sixteen)),
                 "8 bits, both float": cost(head(lowest, masking, **left_out))}
        print(f"{masking} of {lowest:.4g}:", {word: round(c, 3) for word, c in costs.items()})
        assert costs["8 bits"] > 0.5, "that changed"
        wrong = costs["16 bits"] > 0.5
        assert wrong if lowest < -1e4 else costs["16 bits"] < 0.2, "that changed"
        assert costs["8 bits, both float"] < 0.2
    for words, options in (("8 bits", {}), ("16 bits", sixteen)):
        _, found = head(-np.inf, masking, **options)
        print(f"{masking} of -inf, {words}: the largest output is {np.abs(found).max()}")
        assert not found.any(), "that changed"
for lowest, options in ((lowest_float, {}), (lowest_float, sixteen), (-np.inf, {}),
                        (-np.inf, sixteen)):
    plain, found = padded_pool(lowest, **options)
    print(f"Pad of {lowest:.4g} and MaxPool, {options or '8 bits'}: the first outputs are "
          f"{found.ravel()[:3]}")
    assert np.isfinite(plain).all()
    wrong = not found.any() if np.isfinite(lowest) else not np.isfinite(found).any()
    assert wrong, "that changed"
PY
