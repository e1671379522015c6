"""Skip connections are quantized at the input of the Add, whatever code adds, and share the scale
of other readers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import models
from torch import nn

from sensitivity.config import ScanSettings
from sensitivity.exporters.simulate import outputs_of
from sensitivity.exporters.torch_model import FILES, export_files
from sensitivity.exporters.verify import verify
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.load import load_model
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.runtimes.tensorrt_rtx_build import unavailable
from sensitivity.timing.engine_structure import build_structure
from sensitivity.units.placement import residual_quantizers, unified_scales
from sensitivity.units.relations import placed


class Block(nn.Module):
    """torchvision's BasicBlock: one ReLU called twice, an in-place sum."""

    def __init__(self, before: int = 4, after: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample = nn.Conv2d(before, after, 1) if before != after else None

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += identity
        return self.relu(out)


class BasicBlocks(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.first, self.second = Block(width, width), Block(width, 2 * width)
        self.head = nn.Linear(2 * width, 5)

    def forward(self, x):
        x = nn.functional.relu(self.stem(x))
        return self.head(self.second(self.first(x)).mean((2, 3)))


class Summed(nn.Module):
    """One skip connection, of a ReLU that is called as a function, over a sum that `add` takes."""

    def __init__(self, add) -> None:
        super().__init__()
        self.stem, self.conv, self.last = (
            nn.Conv2d(3, 4, 1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Conv2d(4, 5, 1),
        )
        self.add = add

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.last(self.add(self.conv(x), x))


def in_place(x, y):
    x += y
    return x


def into_the_skip(x, y):
    y.add_(x)
    return y


SUMS = {
    "x + y": lambda x, y: x + y,
    "y + x": lambda x, y: y + x,
    "x += y": in_place,
    "y.add_(x)": into_the_skip,
    "torch.add": torch.add,
    "torch.add by name": lambda x, y: torch.add(input=x, other=y),
    "FloatFunctional": nn.quantized.FloatFunctional().add,
}


def added(build, inputs):
    """The model with its skip connections quantized, for the whole test."""
    source = ModelOptModel(models.quantized(models.seeded(build), inputs))
    return residual_quantizers(source, [inputs]), source


def exported(source, inputs, skip, out):
    """Files whose outputs agree with the simulated model, with shared scales, by variant."""
    found = placed(source, inputs, ScanSettings(task="task.py"))
    with unified_scales(source, found.scales):
        files = export_files(source, inputs, found.units, skip, out, fingerprint="")
        verify(source, files, inputs, found.units, skip)
    return {variant: load_model(file) for variant, file in files.items()}


def pairs_by_name(model):
    return {pair.name.partition("/")[0]: pair for pair in qdq.pairs(model.graph)}


def operands(model):
    """For each Add, the quantizers that its inputs come from."""
    return [
        [pair.name.partition("/")[0] for pair in map(qdq.pair_of, node.inputs) if pair is not None]
        for node in model.graph.all_nodes()
        if node.op_type == "Add"
    ]


@pytest.mark.parametrize("add", SUMS.values(), ids=SUMS)
def test_a_skip_connection_is_quantized_whatever_code_adds(add, tmp_path):
    inputs = models.batch(6, 8)
    within, source = added(lambda: Summed(add), inputs)
    unquantized = outputs_of(source, inputs, ())
    with within as names:
        assert names == ("residual_add.residual_quantizer",)
        source = ModelOptModel(source.model)
        assert torch.equal(outputs_of(source, inputs, names), unquantized)
        with torch.no_grad(), source.disabled([each.name for each in source.quantizers]):
            largest = float(torch.relu(source.model.stem(inputs)).max())
        assert source.range(names[0]).amax == (largest,)
        files = exported(source, inputs, [names[0].rpartition(".")[0]], tmp_path)
        assert operands(files["int8"]) == [[names[0]]]
        assert operands(files["partial"]) == [[]]
    assert torch.equal(outputs_of(ModelOptModel(source.model), inputs, ()), unquantized)


def test_sums_of_a_torch_fx_module_are_found():
    inputs = models.batch(6, 8)
    within, _ = added(lambda: torch.fx.symbolic_trace(Summed(torch.add)), inputs)
    with within as names:
        assert names == ("residual_add.residual_quantizer",)


def test_a_skipped_first_convolution_of_an_identity_block_reads_float(tmp_path):
    inputs = models.batch(6, 8)
    within, source = added(BasicBlocks, inputs)
    with within as names:
        assert names == (
            "first.residual_add.residual_quantizer",
            "second.residual_add.residual_quantizer",
        )
        files = exported(ModelOptModel(source.model), inputs, ["first.conv1"], tmp_path)
    assert operands(files["partial"]) == [[names[0]], [names[1]]]
    nodes = {node.name: node for node in files["partial"].graph.all_nodes()}
    assert [qdq.pair_of(value) for value in nodes["first.conv1"].inputs[:2]] == [None, None]
    assert all(qdq.pair_of(value) for value in nodes["first.conv2"].inputs[:2])


def test_residual_and_input_of_one_tensor_share_one_scale_and_are_quantized_once(tmp_path):
    inputs = models.batch(6, 8)
    within, source = added(BasicBlocks, inputs)
    with within as names:
        files = exported(ModelOptModel(source.model), inputs, [], tmp_path)
    pairs = pairs_by_name(files["int8"])
    residual, first = pairs[names[0]], pairs["first.conv1.input_quantizer"]
    assert residual.source is first.source
    np.testing.assert_array_equal(residual.scale, first.scale)
    assert all(qdq.pair_of(pair.source) is None for pair in pairs.values())


class Nested(nn.Module):
    """Two sums in one forward, around a block with a sum of its own; a concat of a skip connection
    and a sum; a sum of two sums, which no convolution can take in."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 4, 1), Block()
        self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        y = self.left(self.block(x)) + x
        z = self.right(y) + y
        return self.head(torch.cat([x, z + y], 1))


def test_each_sum_that_a_convolution_ends_in_gets_one_quantizer_and_other_sums_none(tmp_path):
    inputs = models.batch(6, 8)
    within, source = added(Nested, inputs)
    with within as names:
        assert names == (
            "block.residual_add.residual_quantizer",
            "residual_add.residual_quantizer",
            "residual_add_1.residual_quantizer",
        )
        files = exported(ModelOptModel(source.model), inputs, ["residual_add"], tmp_path)
    assert operands(files["int8"]) == [[names[0]], [names[1]], [names[2]], []]
    assert operands(files["partial"]) == [[names[0]], [], [names[2]], []]
    # the concat joins `x`, which the block and both Adds of it read, and what it feeds
    scales = {
        name: float(pair.scale)
        for name, pair in pairs_by_name(files["int8"]).items()
        if pair.axis is None
    }
    joined = ("block.conv1.input_quantizer", names[0], names[1], "head.input_quantizer")
    assert len({scales[name] for name in joined}) == 1


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Summed(torch.add)

    def forward(self, x):
        if x.shape[-1] == 3:
            raise ValueError("three")
        return self.inner(x)


def test_sums_are_left_alone_after_a_call_that_failed():
    inputs = models.batch(6, 8)
    within, source = added(Failing, inputs)
    with within:
        expected = outputs_of(source, inputs, ())
        with pytest.raises(ValueError, match="three"):
            source.model(inputs[..., :3])
        assert torch.equal(outputs_of(source, inputs, ()), expected)
        ones = torch.ones(1, 4, 8, 8)
        assert torch.equal(ones + ones * 0.123, ones * 1.123)


def test_tensorrt_rtx_builds_each_layer_as_planned(tmp_path):
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)
    inputs = models.batch(6, 8)
    within, source = added(lambda: BasicBlocks(16), inputs)
    with within:
        exported(ModelOptModel(source.model), inputs, ["first.conv1"], tmp_path)
    for variant in ("int8", "partial"):
        built = build_structure(tmp_path / FILES[variant])
        assert built.as_planned, built.sentence
    assert {layer.layer for layer in built.layers if layer.planned == "float"} == {"first.conv1"}
