#!/usr/bin/env bash
# nvidia-modelopt 0.47.0 with torch 2.13.0: copy.deepcopy of a model with a quantized nn.LSTM or nn.GRU raises, so whatever
# copies a model (exporters, averaging, saving the best one) fails on it. A quantized Linear can be copied.
#
# Seen: TypeError "cannot pickle 'VFModule' object".
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 nvidia-modelopt==0.47.0 requests huggingface_hub numpy==2.4.6
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import copy

import modelopt.torch.quantization as mtq
import torch

x = torch.randn(4, 9, 12)
for kind in (torch.nn.Linear(12, 16), torch.nn.LSTM(12, 16, batch_first=True), torch.nn.GRU(12, 16, batch_first=True)):
    model = mtq.quantize(torch.nn.Sequential(kind).eval(), copy.deepcopy(mtq.INT8_DEFAULT_CFG), lambda m: m(x))
    try:
        copy.deepcopy(model)
        said = "copied"
    except TypeError as error:
        said = str(error)
    name = type(kind).__name__
    print(f"{name}: {said}")
    assert said == ("copied" if "Linear" in name else "cannot pickle 'VFModule' object"), "that changed"
PY
