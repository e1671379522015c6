#!/usr/bin/env bash
# onnx 1.23.2: helper.make_tensor refuses a number that INT8 or UINT8 cannot hold, and takes one
# that INT4, UINT4, INT2 or UINT2 cannot: its upper bits are cut off, so that 9 in INT4 becomes -7.
# A 4-bit weight whose scale is a little too small changes sign in its largest values instead of
# saturating. The checker finds nothing.
#
# Seen: OverflowError for the 8-bit types; [9, -9] becomes [-7, 7] in INT4, [17, -1] becomes
# [1, 15] in UINT4.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
from onnx import TensorProto, checker, helper, numpy_helper


def stored(kind, values):
    try:
        tensor = helper.make_tensor("w", kind, [len(values)], values)
    except OverflowError:
        return "OverflowError"
    checker.check_tensor(tensor)
    return numpy_helper.to_array(tensor).astype(int).tolist()


for name, values, said in (
    ("INT8", [129, -129], "OverflowError"), ("UINT8", [257, -1], "OverflowError"),
    ("INT4", [7, -8], [7, -8]), ("INT4", [9, -9], [-7, 7]), ("UINT4", [17, -1], [1, 15]),
    ("INT2", [3, -3], [-1, 1]), ("UINT2", [5, -1], [1, 3]),
):
    seen = stored(getattr(TensorProto, name), values)
    print(f"{values} in {name}: {seen}")
    assert seen == said, "that changed"
PY
