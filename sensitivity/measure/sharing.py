"""Measures the accuracy that is lost because some quantizers share one range."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sensitivity.measure.ranking import gain
from sensitivity.measure.study import Study
from sensitivity.records import Estimate, Range, Variant


def sharing_cost(study: Study, own: Sequence[Range]) -> Estimate | None:
    """Return the metric of everything in INT8 with own ranges minus the same with shared ranges,
    paired, on `rank`.

    It is measured on as many batches of `rank` as the quantized baseline was. Returns None if `own`
    is empty.

    own: original ranges of the quantizers whose range changed when it was shared.
    """
    if not own:
        return None
    measurer = study.measurer
    shared = measurer.known(study.baselines["quantized"], "rank")
    parts, seen = [], 0
    apart = Variant("own ranges", frozenset(), frozenset(own))
    for (scores,) in measurer.stream([apart], "rank", "scan: own ranges"):
        parts.append(scores)
        seen += len(scores)
        if seen >= len(shared):
            break
    return gain(shared, np.concatenate(parts), measurer.task.aggregate)
