#!/usr/bin/env bash
# onnx 1.23.2 with ml_dtypes 0.6.0: numpy_helper.to_array gives the codes of a 4-bit or 2-bit weight
# as an array of the type int4, uint4 or int2 of ml_dtypes. NumPy adds up int8 in int64 and averages
# it in float64; for these types it does both in the type itself, where sums wrap around. The mean,
# the deviation and the median of codes are numbers that look like codes. Nothing is said.
# ml_dtypes' notes tell of sums in bfloat16 that end too early, not of this.
#
# Seen: of 100 ones, the sum is 4, mean and deviation are 0, and in int2 the median is -1; four
# fives have the mean 1 and the median -3. In int8 all are right, and so they are after astype.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 ml_dtypes==0.6.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import numpy as np
from onnx import TensorProto, helper, numpy_helper

STATISTICS = (np.sum, np.mean, np.std, np.median)


def statistics(codes):
    return [float(of(codes)) for of in STATISTICS]


ones = [100.0, 1.0, 0.0, 1.0]
cases = (
    ("INT8", 1, 100, ones),
    ("INT4", 1, 100, [4.0, 0.0, 0.0, 1.0]),
    ("UINT4", 1, 100, [4.0, 0.0, 0.0, 1.0]),
    ("INT2", 1, 100, [0.0, 0.0, 0.0, -1.0]),
    ("INT4", 5, 4, [4.0, 1.0, 0.0, -3.0]),
)
print("sum, mean, deviation and median")
for kind, code, count, seen in cases:
    tensor = helper.make_tensor("codes", getattr(TensorProto, kind), [count], [code] * count)
    codes = numpy_helper.to_array(tensor)
    found = statistics(codes)
    print(f"{count} codes {code} in {kind}: {found}")
    assert statistics(codes.astype("i1")) == [count * code, code, 0, code]
    assert found == seen, "that changed"
PY
