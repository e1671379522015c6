#!/usr/bin/env bash
# nvidia-modelopt 0.47.0 with torch 2.13.0: in eval mode torch's nn.TransformerEncoderLayer takes a fast path that reads
# linear1.weight and the others itself and never calls the Linear modules, so their quantizers are not executed: a
# quantized encoder gives the same bits with its quantizers on and off. With the fast path off they are executed.
#
# Seen: no difference between quantizers on and off with the fast path, a difference without it.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 nvidia-modelopt==0.47.0 requests huggingface_hub numpy==2.4.6
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import copy

import modelopt.torch.quantization as mtq
import torch

torch.manual_seed(0)
model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2).eval()
x = torch.randn(4, 16, 32)
torch.backends.mha.set_fastpath_enabled(False)
model = mtq.quantize(model, copy.deepcopy(mtq.INT8_DEFAULT_CFG), lambda m: m(x))


def moved(fast_path):
    torch.backends.mha.set_fastpath_enabled(fast_path)
    with torch.no_grad():
        on = model(x)
        mtq.disable_quantizer(model, "*layers*linear*")
        off = model(x)
        mtq.enable_quantizer(model, "*layers*linear*")
    return float((on - off).abs().max())


fast, slow = moved(True), moved(False)
print(f"largest change by the quantizers of the linear layers: {fast} with torch's fast path, {slow:.4f} without it")
assert fast == 0, "the fast path executes them now"
assert slow > 0
PY
