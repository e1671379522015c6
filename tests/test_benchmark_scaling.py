"""The simulation of a scan on many workers: real hand-out, workers that only let time pass."""

from typing import Any

import numpy as np
import pytest
from support.scripts import load_script

from sensitivity.quantizers.base import layers
from sensitivity.records import Quantizer


@pytest.fixture(scope="module")
def scaling() -> Any:
    return load_script("benchmarks/scaling.py")


def job_of(scaling: Any, opening_s: float) -> Any:
    """A task of two layers whose batches of four samples take ten minutes."""
    quantizers = tuple(
        Quantizer(f"{layer}.{role}_quantizer", layer, role, 8, None)
        for layer in ("stem", "head")
        for role in ("input", "weight")
    )
    scores = [np.linspace(0.0, quality, 4) for quality in (1.0, 0.7, 0.8, 0.9, 0.8, 0.9)]
    return scaling.Job(opening_s, (600.0,), 4, scores, layers(quantizers), quantizers)


def test_workers_share_batches_and_each_opens_the_task(scaling: Any) -> None:
    job = job_of(scaling, opening_s=50.0)
    alone, shared = (scaling.scanned_s(job, workers, images=80) for workers in (1, 10))
    # What the leading process itself does takes well under ten seconds.
    assert alone == pytest.approx(50 + 20 * 600, abs=10)
    assert shared == pytest.approx(50 + 2 * 600, abs=10)


def test_the_last_batches_are_measured_by_all_workers_together(scaling: Any) -> None:
    job = job_of(scaling, opening_s=0.0)
    # Eleven batches for ten workers: the last one has six variants, for a worker each.
    assert scaling.scanned_s(job, 10, images=44) == pytest.approx(600 + 100, abs=10)


def test_rows_compare_with_one_worker(scaling: Any) -> None:
    (row,) = scaling.rows_of(job_of(scaling, opening_s=0.0), [2], [8])
    assert row["efficiency"] == pytest.approx(1.0, abs=0.02)
    assert row["worker_hours"] == pytest.approx(2 / 6, abs=0.01)
