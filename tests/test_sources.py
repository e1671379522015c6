"""Every source passes the public conformance suite, and all of them give the same model the same
ranking."""

from __future__ import annotations

from typing import Any

import pytest
from support.models import quantized
from support.pq_models import quantized_by_pq
from support.pt2e_models import quantized_by_pt2e

from sensitivity.opened import quantized_model
from sensitivity.testing.reference import LAYERS, Reference, reference_inputs, reference_network
from sensitivity.testing.sources import SourceConformance, check_same_ranking, ranking


class TestModelOpt(SourceConformance):
    source_name = "modelopt"

    def make(self) -> Any:
        pytest.importorskip("modelopt")
        return quantized(reference_network(), reference_inputs())

    def uncalibrate(self, model: Any) -> str:
        model.block.conv1.input_quantizer.reset_amax()
        return "block.conv1.input_quantizer"

    def kill_channel(self, model: Any) -> str:
        model.stem.weight.data[0] = 0
        model.stem.weight_quantizer._amax[0] = 0
        return "stem.weight_quantizer"


class TestPytorchQuantization(SourceConformance):
    source_name = "pytorch_quantization"

    def make(self) -> Any:
        return quantized_by_pq(Reference, reference_inputs(), like=reference_network())

    def uncalibrate(self, model: Any) -> str:
        del model.block.conv1._input_quantizer._amax
        return "block.conv1._input_quantizer"

    def kill_channel(self, model: Any) -> str:
        model.stem.weight.data[0] = 0
        model.stem._weight_quantizer._amax[0] = 0
        return "stem._weight_quantizer"


class TestPt2e(SourceConformance):
    source_name = "pt2e"

    def make(self) -> Any:
        return quantized_by_pt2e(reference_network(), reference_inputs())

    def uncalibrate(self, model: Any) -> str:
        """What torchao gives if no data has passed."""
        convolutions = [node for node in model.graph.nodes if "conv2d" in str(node.target)]
        dequantize = convolutions[1].args[0]
        for node in (dequantize, dequantize.args[0]):
            node.args = (node.args[0], 1.0, 0, *node.args[3:])
        model.recompile()
        return "block.conv1.input_quantizer"


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"a": 1.0, "b": 2.0, "c": 3.0, "d": 2.5}, None),
        ({"a": 2.1, "b": 2.0, "c": 3.0, "d": 2.5}, "tau is 0.667"),
        ({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}, "c comes first in one, d in the other"),
        ({"a": 1.0, "b": 2.0, "x": 3.0}, "units of both"),
    ],
    ids=["same", "order", "top", "names"],
)
def test_rankings_are_compared_over_the_units_of_both(
    other: dict[str, float], said: str | None
) -> None:
    one = {"a": 0.1, "b": 0.2, "c": 0.4, "d": 0.3}
    if said is None:
        assert check_same_ranking(one, other) == 1.0
    else:
        with pytest.raises(AssertionError, match=said):
            check_same_ranking(one, other)


def test_a_ranking_has_every_unit_and_the_layer_that_reads_one_huge_channel_comes_first() -> None:
    found = ranking_of(TestModelOpt())
    assert set(found) == set(LAYERS)
    assert max(found, key=found.__getitem__) == "down"


def ranking_of(conformance: SourceConformance) -> dict[str, float]:
    source = quantized_model(conformance.make())
    simulator, *_ = conformance.simulators(source)
    return ranking(source, simulator, [conformance.inputs(seed) for seed in (1, 2)])


SOURCES = (TestModelOpt, TestPytorchQuantization, TestPt2e)


@pytest.mark.parametrize("other", SOURCES[1:], ids=lambda kind: kind.source_name)
def test_the_same_model_ranks_the_same_through_every_source(other: type[SourceConformance]) -> None:
    assert check_same_ranking(ranking_of(TestModelOpt()), ranking_of(other())) > 0.999
