#!/usr/bin/env bash
# torchao 0.18.0 with torch 2.13.0: prepare_pt2e folds every batch normalization behind a
# convolution into its weights, without looking who else reads the convolution. In b(c(x)) + c(x),
# as in blocks that add a layer and its normalized copy, the second reader gets normalized values
# too. That is before any rounding, so no choice of layers or observers repairs it. Nothing is said.
#
# Seen: the prepared network, whose observers only watch, is off by a tenth of the largest output or
# more with two readers; exact with one, and with two that both stand behind the normalization.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 torchao==0.18.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import torch
import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
from torch import nn
from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

torch.manual_seed(0)


class Block(nn.Module):
    def __init__(self, combine):
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3)
        self.normalization = nn.BatchNorm2d(8)
        self.combine = combine
        with torch.no_grad():
            self.normalization.running_mean.normal_()
            self.normalization.running_var.uniform_(0.3, 3)

    def forward(self, x):
        layer = self.convolution(x)
        return self.combine(layer, self.normalization(layer))


x = torch.randn(2, 3, 8, 8)
for words, combine, is_wrong in (
    ("one reader", lambda layer, normal: normal, False),
    ("two readers of the normalization", lambda layer, normal: normal + normal.relu(), False),
    ("two readers of the convolution", lambda layer, normal: normal + layer, True),
):
    block = Block(combine).eval()
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    with torch.no_grad():
        wanted = block(x)
        prepared = prepare_pt2e(torch.export.export(block, (x,)).module(), quantizer)
        apart = float((prepared(x) - wanted).abs().max() / wanted.abs().max())
    print(f"{words}: {apart:.4f} of the largest output apart before anything is rounded")
    assert apart > 0.1 if is_wrong else apart < 1e-5, "that changed"
PY
