"""What it costs in accuracy that some quantizers share one range."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sensitivity.measure.ranking import gain
from sensitivity.measure.study import Study
from sensitivity.records import Estimate, Range, Variant


def sharing_cost(study: Study, own: Sequence[Range]) -> Estimate | None:
    """Metric of everything in INT8 with own ranges minus the same with shared ones, paired, on
    `rank`.

    own: the ranges before they were shared, of those that changed; None where there are none.
    Measured on as many batches of `rank` as the quantized baseline was.
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
