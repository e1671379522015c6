#!/usr/bin/env bash
# mlx 0.32.4: mx.load turns the BF16 tensors of a GGUF file into float16, though mlx has bfloat16
# and keeps it when it loads the same tensor from a safetensors file. Values above 65504 become
# infinity, and those below 3e-8 become 0: exactly what BF16 was chosen for.
#
# Seen: 1e5 becomes inf and 1e-9 becomes 0 from GGUF; both stay from safetensors.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'mlx[cpu]==0.32.4' gguf==0.19.0 safetensors==0.8.0 \
    ml_dtypes==0.6.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import gguf
import mlx.core as mx
import numpy as np

values = np.array([[1, 1e5, -1e9, 1e-9] * 8], "f4")
kind = gguf.GGMLQuantizationType.BF16
writer = gguf.GGUFWriter("net.gguf", "llama")
writer.add_tensor("w", gguf.quants.quantize(values, kind), raw_dtype=kind)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
(stored,) = gguf.GGUFReader("net.gguf").tensors
wanted = gguf.quants.dequantize(stored.data, stored.tensor_type)
mx.save_safetensors("net.safetensors", {"w": mx.array(values).astype(mx.bfloat16)})
found = {}
for path in ("net.safetensors", "net.gguf"):
    loaded = mx.load(path)["w"]
    found[path] = np.array(loaded.astype(mx.float32))
    print(f"{path}: {loaded.dtype} {found[path][0, :4].tolist()}")
assert np.array_equal(found["net.safetensors"], wanted) and np.isfinite(wanted).all()
assert found["net.gguf"][0, 1:4].tolist() == [np.inf, -np.inf, 0], "that changed"
PY
