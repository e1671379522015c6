"""Models that mask classes with logits of minus infinity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import models
from torch import nn

from sensitivity.arrays import mean_square, without_same_infinities
from sensitivity.errors import ModelError
from sensitivity.exporters.agreement import relative_rms
from sensitivity.exporters.torch_model import export_files
from sensitivity.exporters.trace import trace
from sensitivity.exporters.verify import verify
from sensitivity.preflight.export import check_traced
from sensitivity.preflight.float_model import furthest
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.onnx.batches import difference
from sensitivity.quantizers.onnx.float_model import distance
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.signals.distillation import NOT_FINITE, distillation_loss

MASKED = [False, False, True, False, True]


class Masked(nn.Module):
    """A classifier that never answers with two of its five classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.last(torch.relu(self.stem(x)).mean((2, 3)))
        return logits.masked_fill(torch.tensor(MASKED, device=x.device), -torch.inf)


@pytest.fixture(scope="module")
def inputs():
    return models.batch(6, 16)


@pytest.fixture(scope="module")
def source(inputs):
    return ModelOptModel(models.quantized(models.seeded(Masked), inputs))


def test_masked_classes_are_exported_and_compared(source, inputs, tmp_path):
    units = layers(source.quantizers)
    files = export_files(source, inputs, units, [], tmp_path, fingerprint="f00d")
    checks = verify(source, files, inputs, units, []).files
    by_variant = {check.variant: check for check in checks}
    assert by_variant["float"].rms < 1e-5
    assert 0 < by_variant["int8"].quantization_rms < 0.1
    assert by_variant["int8"].rms <= 0.05 * by_variant["int8"].quantization_rms


def test_masked_classes_are_no_reason_against_an_export(source, inputs):
    check_traced(source, trace(source, inputs), inputs)


def test_infinite_values_differ_where_only_one_side_has_them():
    finite, infinite = np.array([[1.0, 2.0]]), np.array([[1.0, -np.inf]])
    assert relative_rms([infinite], [infinite], [infinite]) == 0
    assert relative_rms([finite], [infinite], [finite]) == np.inf
    assert np.isnan(relative_rms([np.array([[1.0, np.nan]])], [finite], [finite]))
    assert relative_rms([infinite], [-infinite], [finite]) == np.inf
    assert relative_rms([infinite * [[1.5, 1]]], [infinite], [infinite]) == pytest.approx(0.5)


def test_a_difference_is_seen_where_the_reference_is_0():
    zero = np.zeros((1, 2))
    assert relative_rms([np.array([[0.0, np.nan]])], [zero], [zero]) == 1


def test_batches_with_masked_classes_are_compared():
    masked = np.array([[2.0, -np.inf]], np.float32)
    assert difference(masked, masked * np.float32([[1.5, 1]])) == 0.5
    assert difference(masked, np.float32([[2, 3]])) == np.inf
    assert difference(np.float32([[2, 3]]), masked) == np.inf


def test_infinities_of_opposite_sign_differ_in_every_comparison_with_float():
    infinite = np.array([[1.0, np.inf]])
    for compare in (difference, distance, lambda *both: furthest([both[0]], [both[1]])):
        assert compare(infinite, infinite) == 0
        assert compare(infinite, -infinite) == np.inf


def test_the_same_infinities_are_left_out():
    one, other = without_same_infinities(np.array([np.inf, 1, -np.inf]), np.array([np.inf, 2, 3]))
    assert one.tolist() == [0, 1, -np.inf]
    assert other.tolist() == [0, 2, 3]
    assert mean_square(np.array([np.inf, 3.0, np.nan])) == 3


def test_distillation_learns_from_the_classes_that_are_not_masked():
    wanted = torch.tensor([[1.0, 0.0, -torch.inf]])
    got = torch.tensor([[0.0, 1.0, -torch.inf]], requires_grad=True)
    loss = distillation_loss([wanted])(wanted, got)
    plain = distillation_loss([wanted[:, :2]])(wanted[:, :2], got.detach()[:, :2])
    loss.backward()
    assert loss.item() == pytest.approx(plain.item())
    assert got.grad[0].tolist() == pytest.approx([-0.462117, 0.462117, 0.0], abs=1e-5)


def test_other_infinite_outputs_are_not_learned_from():
    boxes = torch.full((2, 3, 4), torch.inf)
    with pytest.raises(ModelError) as caught:
        distillation_loss([boxes])
    assert str(caught.value) == NOT_FINITE
