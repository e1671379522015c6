#!/usr/bin/env bash
# compressed-tensors 0.20.0: a dynamic strategy of "token" keeps the first two axes and takes one
# scale over the others, however many there are. That is one scale per token for activations of
# three axes only. A Linear that is given [tokens, features], as experts and classifiers are, gets
# one scale for all tokens, and one that is given [batch, heads, tokens, features] one per head.
# What is computed for a token then depends on the others. Nothing is said.
#
# Seen: of six tokens, each a tenth of the one before, the last three become 0 as [6, features]; as
# [1, 6, features], each is off by 0.013 of its own largest output at most. Alone, a small token is
# right in both shapes.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 compressed-tensors==0.20.0 transformers==5.24.0 \
    numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import torch
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    apply_quantization_config,
)
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

torch.manual_seed(0)
tokens = torch.randn(6, 64) * 0.1 ** torch.arange(6.0)[:, None]
layer = torch.nn.Linear(64, 8, bias=False).requires_grad_(False)
exact = layer(tokens)
args = QuantizationArgs(num_bits=8, strategy="token", dynamic=True)
scheme = QuantizationScheme(targets=["Linear"], input_activations=args)
network = torch.nn.Sequential(layer)
apply_quantization_config(network, QuantizationConfig(config_groups={"all": scheme}))
for shape, scales in (((1, 6), 6), ((2, 3), 6), ((6,), 1), ((1, 1, 6), 1), ((1, 2, 3), 2)):
    x = tokens.reshape(*shape, 64)
    found = compute_dynamic_scales_and_zp(x, args, layer)[0].numel()
    apart = (network(x).reshape(exact.shape) - exact).abs().amax(1) / exact.abs().amax(1)
    words = ", ".join(f"{float(value):.3f}" for value in apart)
    print(f"{list(x.shape)}: {found} scales for 6 tokens, each off by {words}")
    assert found == scales, "that changed"
    assert apart.max() < 0.03 if scales == 6 else apart.max() > 0.5, "that changed"
alone, among = (network(x)[-1] for x in (tokens[-1:], tokens))
print(f"the last token: {float(alone.abs().max()):.1e} alone, {float(among.abs().max()):.1e} here")
assert alone.abs().max() > 0 and among.abs().max() == 0, "that changed"
PY
