"""Shared scales and quantized skip connections, found before a scan and kept by the export."""

import copy

import numpy as np
import pytest
import torch
from support import models
from support.blocks import Blocks
from torch import nn

from sensitivity.errors import ModelError
from sensitivity.exporters.simulate import outputs_of
from sensitivity.exporters.torch_model import export_files
from sensitivity.exporters.verify import verify
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.load import load_model
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.quantizers.torch.sums import ResidualAdd
from sensitivity.units.placement import add_residual_quantizers, scale_groups, unified_scales


class Residual(nn.Module):
    """Two residual blocks, the second with a convolution in its shortcut."""

    def __init__(self):
        super().__init__()
        self.first = Block(8, 8)
        self.second = Block(8, 16)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        return self.head(self.second(self.first(x.repeat(1, 3, 1, 1)[:, :8])))


class Block(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(before, after, 1)) if before != after else nn.Identity()
        )

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def source_of(build, inputs):
    return ModelOptModel(models.quantized(models.seeded(build), inputs))


def test_siblings_and_what_meets_in_a_concat_share_a_scale():
    source = source_of(Blocks, models.batch(4, 32))
    found = scale_groups(source, models.batch(2, 32))
    assert found == (("left.input_quantizer", "right.input_quantizer"),)


def test_a_concat_joins_the_quantizers_of_its_parts():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
            self.d = nn.Conv2d(8, 4, 1)

        def forward(self, x):
            a, b = self.a(x), self.b(x)
            return self.d(torch.cat([a, b], 1)) + self.c(a)

    found = scale_groups(source_of(Joined, models.batch(4, 8)), models.batch(2, 8))
    assert set(found) == {
        ("a.input_quantizer", "b.input_quantizer"),
        ("d.input_quantizer", "c.input_quantizer"),
    }


def test_a_group_has_its_largest_range_inside_the_with_and_its_own_after_an_exception():
    source = source_of(models.Chain, models.batch(4))
    names = ("conv2.input_quantizer", "conv3.input_quantizer")
    before = [source.grid(name).scale.item() for name in names]
    inside = []

    def work():
        with unified_scales(source, [names]) as changed:
            inside.extend([changed, [source.grid(name).scale.item() for name in names]])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    (lower,) = [name for name, scale in zip(names, before, strict=True) if scale != max(before)]
    (own,), scales = inside
    assert (own.quantizer, own.amax[0] / 127) == (lower, pytest.approx(min(before)))
    assert scales == [max(before)] * 2
    assert [source.grid(name).scale.item() for name in names] == before


def test_a_weights_range_cannot_be_shared():
    source = source_of(models.Chain, models.batch(4))
    with (
        pytest.raises(
            ModelError, match=r"conv2.weight_quantizer to have one amax to share with its group"
        ),
        unified_scales(source, [["conv1.input_quantizer", "conv2.weight_quantizer"]]),
    ):
        pass


def test_skip_connections_are_quantized_measured_and_exported(tmp_path):
    inputs = models.batch(6, 8)
    before = source_of(Residual, inputs)
    unquantized = outputs_of(before, inputs, ())
    added = add_residual_quantizers(before, [inputs])
    assert added == (
        "first.residual_add.residual_quantizer",
        "second.residual_add.residual_quantizer",
    )
    source = ModelOptModel(before.model)
    assert set(added) < {quantizer.name for quantizer in source.quantizers}
    assert not torch.equal(outputs_of(source, inputs, ()), unquantized)
    assert torch.equal(outputs_of(source, inputs, added), unquantized)

    units = layers(source.quantizers)
    files = export_files(source, inputs, units, ["second.residual_add"], tmp_path, fingerprint="")
    verify(source, files, inputs, units, ["second.residual_add"])
    for variant, quantized in (("int8", [True, True]), ("partial", [True, False])):
        adds = [
            node for node in load_model(files[variant]).graph.all_nodes() if node.op_type == "Add"
        ]
        assert [any(qdq.pair_of(value) for value in node.inputs) for node in adds] == quantized


def test_a_value_quantized_twice_to_one_grid_is_quantized_side_by_side(tmp_path):
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv, self.last = (
                nn.Conv2d(3, 4, 1),
                nn.Conv2d(4, 4, 1),
                nn.Conv2d(4, 4, 1),
            )
            self.rounded = nn.Identity()

        def forward(self, x):
            x = self.rounded(self.stem(x))
            return self.last(self.conv(x) + x)

    inputs = models.batch(6, 8)
    before = source_of(Skip, inputs)
    before.model.rounded = ResidualAdd(copy.deepcopy(before.model.conv.input_quantizer))
    source = ModelOptModel(before.model)
    with unified_scales(source, [["rounded.residual_quantizer", "conv.input_quantizer"]]):
        files = export_files(
            source, inputs, layers(source.quantizers), [], tmp_path, fingerprint=""
        )
        verify(source, files, inputs, layers(source.quantizers), [])
    pairs = {
        pair.name.partition("/")[0]: pair for pair in qdq.pairs(load_model(files["int8"]).graph)
    }
    assert pairs["rounded.residual_quantizer"].source is pairs["conv.input_quantizer"].source
    np.testing.assert_array_equal(
        pairs["rounded.residual_quantizer"].scale, pairs["conv.input_quantizer"].scale
    )
