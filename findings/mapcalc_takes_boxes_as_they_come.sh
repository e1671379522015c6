#!/usr/bin/env bash
# mapcalc 0.2.2: an average precision goes through the found boxes from the highest score to the
# lowest; calculate_map goes through them in the order of the list, and uses scores nowhere. Where
# that order is another one (detectors that are run class by class, or tile by tile), the number is
# another one too. Nothing is said; the package asks for the scores.
#
# Seen: an object found with score 0.9 beside a false box of 0.1 gives 1, and 0.5 if the false box
# stands first in the list; scores 0.1 and 0.9 instead, and no scores at all, change neither.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet mapcalc==0.2.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
from mapcalc import calculate_map

TRUTH = {"boxes": [[10, 10, 50, 50]], "labels": [1]}
OBJECT, NOTHING = [10, 10, 50, 50], [100, 100, 150, 150]


def judged(boxes, scores):
    found = {"boxes": boxes, "labels": [1, 1]}
    return calculate_map(TRUTH, found | ({"scores": scores} if scores else {}), 0.5)


for boxes in ([OBJECT, NOTHING], [NOTHING, OBJECT]):
    for scores in ([0.9, 0.1], [0.1, 0.9], None):
        found = judged(boxes, scores)
        print(f"boxes {boxes} with scores {scores}: {found}")
        assert found == (1.0 if boxes[0] is OBJECT else 0.5), "that changed"
PY
