#!/usr/bin/env bash
# torch 2.13.0 on a CPU: fake_quantize_per_channel_affine gives the LOWEST value of the range for
# infinity and everything beyond 2^63 steps, where fake_quantize_per_tensor_affine and
# quantize_per_channel give the highest. A mask of the largest float, or an overflow of FP16
# training, changes its sign when a quantizer is set to one scale per channel.
#
# Seen: infinity and 1e30 become 12.7 with one scale, -12.8 with one per channel, also where the
# zero point is a float; -infinity becomes -12.8 in both. 1e12 is still right.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import torch

values = [float("inf"), 1e30, 1e12, -1e30, float("-inf"), 1.0]
x, scale, zero = torch.tensor([values]), torch.tensor([0.1]), torch.zeros(1)
codes = torch.quantize_per_channel(x, scale.double(), zero.long(), 0, torch.qint8)
found = {
    "one scale": torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127),
    "quantize_per_channel": codes.dequantize(),
    "per channel": torch.fake_quantize_per_channel_affine(x, scale, zero.int(), 0, -128, 127),
    "per channel, float zero point": torch.fake_quantize_per_channel_affine(
        x, scale, zero, 0, -128, 127
    ),
}
right = [12.7, 12.7, 12.7, -12.8, -12.8, 1.0]
turned = [-12.8, -12.8, *right[2:]]
print("of", values)
for words, made in found.items():
    given = [round(value, 3) for value in made[0].tolist()]
    print(f"{words}: {given}")
    assert given == (turned if words.startswith("per channel") else right), "that changed"
PY
