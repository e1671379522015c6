#!/usr/bin/env bash
# mlx 0.32.4: mx.load of a GGUF file stops at the first tensor of a type that it does not know
# (TQ1_0, TQ2_0, MXFP4), and returns what came before as if that were the file: this tensor is
# missing, and so is every tensor behind it, whatever its type. Types that it knows and cannot
# convert (Q5_0) raise an error.
#
# Seen: of "first", "second" and "last" only "first" is there, where "second" is TQ1_0, TQ2_0 or
# MXFP4; all three with Q8_0. The gguf package 0.19.0 reads all of them.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'mlx[cpu]==0.32.4' gguf==0.19.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import gguf
import mlx.core as mx
import numpy as np

weight = np.random.default_rng(0).normal(size=(4, 256)).astype("f4")


def write(kind):
    writer = gguf.GGUFWriter("net.gguf", "llama")
    writer.add_tensor("first", weight)
    writer.add_tensor("second", gguf.quants.quantize(weight, kind), raw_dtype=kind)
    writer.add_tensor("last", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


names = ["first", "second", "last"]
for kind in ("Q8_0", "TQ1_0", "TQ2_0", "MXFP4"):
    write(gguf.GGMLQuantizationType[kind])
    assert [tensor.name for tensor in gguf.GGUFReader("net.gguf").tensors] == names
    loaded = mx.load("net.gguf")
    seen = [name for name in names if name in loaded]
    print(f"second tensor {kind}: mlx returns {seen} of {names}")
    assert seen == (names if kind == "Q8_0" else ["first"]), "that changed"
PY
