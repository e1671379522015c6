#!/usr/bin/env bash
# pychop 0.6.2: Chop(exp_bits, sig_bits), which simulates a floating-point format, gives 0 for values
# that overflow it by less than a factor of two, where the format has infinity, and infinity only
# beyond. A layer that overflows looks like one that is switched off. Values that round up to the
# power of two above the largest one are given as that, which the format does not have.
#
# Seen: 65536 and 131071 become 0 in FP16 (5 and 10 bits), 131072 infinity and 65520 65536; with 4
# and 3 bits 256 and 511 become 0, 512 infinity and 248 256. numpy and ml_dtypes give infinity for
# all of them.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pychop==0.6.2 ml_dtypes==0.6.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import ml_dtypes
import numpy as np
from pychop import Chop

formats = {
    "FP16": (5, 10, np.float16, [1.5, 65519, 65520, 65536, -70000, 131071, 131072]),
    "E4M3": (4, 3, ml_dtypes.float8_e4m3, [1.5, 247, 248, 256, -300, 511, 512]),
}
with np.errstate(over="ignore"):
    for name, (exponent, fraction, kind, values) in formats.items():
        x = np.array(values, "f4")
        right = x.astype(kind).astype("f4")
        chopped = np.asarray(Chop(exponent, fraction)(x))
        print(f"{name}: of {values} the format makes {right.tolist()}, pychop {chopped.tolist()}")
        assert np.array_equal(chopped[:2], right[:2])
        assert np.isinf(right[2:]).all()
        assert chopped[2:].tolist() == [x[3], 0, 0, 0, np.inf], "that changed"
PY
