#!/usr/bin/env bash
# torch 2.13.0 with torchao 0.18.0: a PT2E network states the range of its codes in every pair, as
# quant_min and quant_max. torch.onnx.export keeps their type only: QuantizeLinear then saturates at
# the ends of uint8 or int8. With the 7-bit activations that reduce_range=True gives (for processors
# without VNNI), everything beyond the calibrated range is cut off in torch and passes in the file.
#
# Seen: codes of 0 to 127 in torch, and no Clip in the file. Inputs within the calibrated range
# give the same outputs, inputs three times as large do not; with 8 bits both do.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 torchao==0.18.0 onnx==1.23.2 onnxscript==0.7.2 \
    onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import numpy as np
import onnx
import onnxruntime as ort
import torch
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

torch.manual_seed(0)
layers = torch.nn.Conv2d(8, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 1)
net = torch.nn.Sequential(*layers).eval()
x = torch.rand(2, 8, 6, 6) * 2 - 1


def apart(reduce_range):
    """Differences between the file and torch, within the calibrated range and beyond."""
    settings = x86.get_default_x86_inductor_quantization_config(reduce_range=reduce_range)
    quantizer = x86.X86InductorQuantizer().set_global(settings)
    prepared = prepare_pt2e(torch.export.export(net, (x,)).module(), quantizer)
    prepared(x)
    converted = convert_pt2e(prepared)
    ranges = {
        tuple(node.args[3:5])
        for node in converted.graph.nodes
        if "quantize_per_tensor" in str(node.target)
    }
    torch.onnx.export(converted, (x,), "net.onnx", dynamo=True, external_data=False)
    model = onnx.load("net.onnx")
    kinds = sorted({node.op_type for node in model.graph.node})
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession("net.onnx", options, providers=["CPUExecutionProvider"])
    found = []
    for values in (x, 3 * x):
        theirs = converted(values).detach().numpy()
        ours = session.run(None, {session.get_inputs()[0].name: values.numpy()})[0]
        found.append(float(np.abs(ours - theirs).max() / np.abs(theirs).max()))
    print(f"reduce_range={reduce_range}: codes {sorted(ranges)} in torch, {kinds} in the file;")
    print(f"    apart by {found[0]:.3f} within the range and {found[1]:.3f} beyond")
    return found, ranges, kinds


found, ranges, _ = apart(False)
assert ranges == {(0, 255)} and max(found) < 0.03
found, ranges, kinds = apart(True)
assert ranges == {(0, 127)} and found[0] < 0.03
assert found[1] > 0.3 and "Clip" not in kinds, "the range of codes is kept now"
PY
