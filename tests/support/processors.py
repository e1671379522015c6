"""What tests need of the processor."""

from __future__ import annotations

import pytest

from sensitivity.timing.environment import environment, saturates

exact_int8 = pytest.mark.skipif(
    saturates(environment()),
    reason="sums of INT8 products saturate on this processor: it has no VNNI instructions",
)
"""Mark for tests that compare what a runtime computes in INT8 by default with exact values."""
