"""Tests that every source of quantized models must pass, to be inherited.

    class TestMyToolkit(SourceConformance):
        source_name = "my_toolkit"                    # its name in the registry

        def make(self):                               # the calibrated model, new at each call
            return my_toolkit.quantize(reference_network(), reference_inputs())

        def uncalibrate(self, model):                 # undo the calibration of one quantizer
            del model.stem.input_quantizer.amax
            return "stem.input_quantizer"

A torch toolkit needs no more than that. A source of other models also overrides `own_outputs`,
`simulators`, `change_weight` and `unquantized`, each in a few lines. A source with other layers
than `LAYERS` overrides `layers`.

`ranking` and `check_same_ranking` compare the same model through two sources.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations, starmap
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import kendalltau

from sensitivity import optional
from sensitivity.errors import ModelError, NamesError
from sensitivity.measure.variants import unit_variant
from sensitivity.opened import quantized_model
from sensitivity.quantizers.base import QuantizedModel, check_calibrated, layers
from sensitivity.records import Unit, names_of
from sensitivity.signals.distortion import SQNR, flat_outputs
from sensitivity.simulators.base import Simulator
from sensitivity.simulators.choose import simulator_for
from sensitivity.simulators.toggle import ToggleSimulator
from sensitivity.testing.reference import LAYERS, reference_inputs, reference_network

Outputs = list[NDArray[Any]]


class SourceConformance:
    """Tests of one source.

    source_name: name of the source in the registry.
    layers: exact names of weighted layers that must be among the units.
    float_tolerance: largest difference between the model with all quantizers off and the float
        model, relative to the largest output. It is 0 if the toolkit only adds quantizers, 1e-6 if
        it also folds or reorders arithmetic.
    own_tolerance: the same between the model with all quantizers on and the toolkit's own model.
    """

    source_name: str
    layers: Sequence[str] = LAYERS
    float_tolerance = 0.0
    own_tolerance = 0.0

    # What a source must give.
    # --------------------------------------------------------------------------------------

    def make(self) -> Any:
        """Return the reference network, quantized and calibrated on `inputs(0)`.

        Each call returns a new and equal one.
        """
        raise NotImplementedError

    def uncalibrate(self, model: Any) -> str:
        """Make one quantizer of the model uncalibrated, in place, and return its exact name."""
        raise NotImplementedError

    # What a source that is no torch model overrides.
    # -----------------------------------------------------------------

    def inputs(self, seed: int = 0) -> Any:
        """Return one batch in the form that the source's simulators take."""
        return reference_inputs(seed=seed)

    def float_outputs(self, inputs: Any) -> Any:
        """Return the outputs of the float model."""
        with optional.torch.no_grad():
            return reference_network()(inputs)

    def unquantized(self) -> Any:
        """Return a model of the same kind without any quantizer."""
        return reference_network()

    def own_outputs(self, model: Any, inputs: Any) -> Any:
        """Return the outputs of the quantized model in the toolkit itself, without this project."""
        with optional.torch.no_grad():
            return model(inputs)

    def simulators(self, source: QuantizedModel) -> Iterable[Simulator]:
        """Return every simulator that a scan of this source may use."""
        return ToggleSimulator(source), simulator_for(source, self.inputs())

    def change_weight(self, model: Any) -> None:
        """Change one weight of the model slightly, in place."""
        weight = next(parameter for parameter in model.parameters() if parameter.ndim > 1)
        weight.data.view(-1)[0] += 1e-3

    def kill_channel(self, model: Any) -> str | None:
        """Set the first channel of one weight, and the range that was calibrated for it, to 0.

        Returns the exact name of its quantizer; None if the toolkit has no such ranges.
        """
        return None

    # The promises.
    # ----------------------------------------------------------------------------------------------

    @pytest.fixture
    def model(self) -> Any:
        return self.make()

    @pytest.fixture
    def source(self, model: Any) -> QuantizedModel:
        return quantized_model(model)

    def test_the_registry_finds_it(self, source: QuantizedModel) -> None:
        assert source.source == self.source_name

    def test_every_quantizer_is_calibrated_and_has_an_integer_grid(
        self, source: QuantizedModel
    ) -> None:
        check_calibrated(source.quantizers)
        for quantizer in source.quantizers:
            grid = source.grid(quantizer.name)
            assert grid.low < grid.high, quantizer
            assert grid.axis == quantizer.axis
            _check_scales(grid.scale)
            if grid.axis is None:
                assert len(grid.scale) == 1
            else:
                assert len(grid.scale) > 1
                assert grid.axis >= 0

    def test_names_are_unique_and_the_same_at_each_time(self, source: QuantizedModel) -> None:
        names = names_of(source.quantizers)
        assert len(set(names)) == len(names)
        assert source.quantizers == quantized_model(self.make()).quantizers

    def test_units_are_the_layers_by_their_own_names(self, source: QuantizedModel) -> None:
        units = {unit.name: unit for unit in layers(source.quantizers)}
        roles = {quantizer.name: quantizer.role for quantizer in source.quantizers}
        for layer in self.layers:
            assert layer in units
            own = set(map(roles.get, units[layer].quantizers))
            assert own >= {"input", "weight"}, layer

    def test_all_off_equals_the_float_model(self, source: QuantizedModel) -> None:
        names = frozenset(names_of(source.quantizers))
        expected = flat(self.float_outputs(self.inputs(1)))
        self._check_all(source, names, expected, self.float_tolerance)

    def test_all_on_equals_the_toolkits_own_model(self, model: Any, source: QuantizedModel) -> None:
        expected = flat(self.own_outputs(model, self.inputs(1)))
        self._check_all(source, frozenset(), expected, self.own_tolerance)

    def test_each_layer_alone_changes_the_outputs_and_no_two_alike(
        self, source: QuantizedModel
    ) -> None:
        variants = _variants_of(
            unit for unit in layers(source.quantizers) if unit.name in self.layers
        )
        for simulator in self.simulators(source):
            outputs = self._outputs(simulator, variants)
            closest = min(starmap(distance, combinations(outputs, 2)))
            assert closest > 0, simulator.name

    def test_all_simulators_give_the_same_in_any_order(self, source: QuantizedModel) -> None:
        variants = _variants_of(layers(source.quantizers))
        forward, backward = variants, variants[::-1]
        reference = None
        for simulator in self.simulators(source):
            outputs = self._outputs(simulator, forward)
            reference = reference or outputs
            turned = self._outputs(simulator, backward)[::-1]
            furthest = max(map(distance, [*outputs, *turned], reference * 2))
            assert furthest <= self.own_tolerance, simulator.name

    def test_an_exception_inside_leaves_everything_as_it_was(
        self, model: Any, source: QuantizedModel
    ) -> None:
        names = names_of(source.quantizers)
        raised = pytest.raises(ZeroDivisionError)
        with self._unchanged(source, model), raised, source.disabled(names[:3]):
            raise ZeroDivisionError

    def test_an_evaluation_that_is_stopped_halfway_leaves_everything_as_it_was(
        self, model: Any, source: QuantizedModel
    ) -> None:
        _, *variants = _variants_of(layers(source.quantizers))
        with self._unchanged(source, model):
            for simulator in self.simulators(source):
                results = simulator.outputs(self.inputs(1), variants)
                next(iter(results))
                results.close()  # type: ignore[attr-defined]

    def test_nothing_is_quantized_with_every_quantizer_disabled(
        self, source: QuantizedModel
    ) -> None:
        assert source.remaining() == ()

    def test_a_forward_executes_every_quantizer_and_leaves_everything_as_it_was(
        self, model: Any, source: QuantizedModel
    ) -> None:
        with self._unchanged(source, model):
            assert source.executed(self.inputs()) == set(names_of(source.quantizers))

    def test_contexts_nest(self, model: Any, source: QuantizedModel) -> None:
        first, second = (unit.quantizers for unit in layers(source.quantizers)[:2])
        with self._unchanged(source, model), source.disabled(first), source.disabled(second):
            pass

    def test_a_name_that_only_begins_a_quantizers_is_refused(self, source: QuantizedModel) -> None:
        name = source.quantizers[0].name
        for wrong in (name[:-1], f"{name}0", name.rpartition(".")[0] or "x"):
            with (
                pytest.raises(NamesError, match="Expected a quantizer's name"),
                source.disabled([wrong]),
            ):
                raise AssertionError("it was accepted")
            with pytest.raises(NamesError):
                source.grid(wrong)

    def test_the_fingerprint_is_of_the_state_and_changes_with_a_weight(
        self, model: Any, source: QuantizedModel
    ) -> None:
        before = source.fingerprint()
        assert quantized_model(self.make()).fingerprint() == before
        self.change_weight(model)
        assert quantized_model(model).fingerprint() != before

    def test_an_uncalibrated_quantizer_is_named(self, model: Any) -> None:
        name = self.uncalibrate(model)
        with pytest.raises(
            ModelError, match=r"^Expected every enabled quantizer to be calibrated"
        ) as caught:
            check_calibrated(quantized_model(model).quantizers)
        assert f"{name}: " in str(caught.value)

    def test_a_dead_channel_of_a_weight_is_calibrated_and_becomes_0(self, model: Any) -> None:
        name = self.kill_channel(model)
        if name is None:
            pytest.skip("the toolkit has no ranges of 0")
        source = quantized_model(model)
        check_calibrated(source.quantizers)
        _check_scales(source.grid(name).scale)
        expected = flat(self.own_outputs(model, self.inputs(1)))
        assert all(np.isfinite(array).all() for array in expected)
        self._check_all(source, frozenset(), expected, self.own_tolerance)

    @contextmanager
    def _unchanged(self, source: QuantizedModel, model: Any) -> Iterator[None]:
        """Check that the model computes the same after the `with` as before it."""
        before, outputs = source.fingerprint(), flat(self.own_outputs(model, self.inputs(1)))
        yield
        assert source.fingerprint() == before
        assert distance(flat(self.own_outputs(model, self.inputs(1))), outputs) == 0

    def test_a_model_without_quantizers_is_refused_with_what_to_do(self) -> None:
        with pytest.raises(ModelError, match=r"^Expected .*; .*quantize"):
            quantized_model(self.unquantized())

    def _check_all(
        self, source: QuantizedModel, variant: frozenset[str], expected: Outputs, tolerance: float
    ) -> None:
        """Check the outputs of every simulator for one variant."""
        for simulator in self.simulators(source):
            (outputs,) = self._outputs(simulator, [variant])
            assert distance(outputs, expected) <= tolerance, simulator.name

    def _outputs(self, simulator: Simulator, variants: Sequence[frozenset[str]]) -> list[Outputs]:
        by_variant = dict[int, Outputs]()
        for index, outputs in simulator.outputs(self.inputs(1), variants):
            by_variant[index] = flat(outputs)
        assert by_variant.keys() == set(range(len(variants)))
        return [by_variant[index] for index in sorted(by_variant)]


def flat(outputs: Any) -> Outputs:
    """Return copies of all arrays in a nest of outputs.

    They are copied because a simulator's outputs are valid only until the next ones are asked for.
    """
    return list(map(np.array, flat_outputs(outputs)))


def distance(one: Outputs, other: Outputs) -> float:
    """Return the largest difference, relative to the largest value of the same array in `other`.

    Returns inf if shapes differ.
    """
    if list(map(np.shape, one)) != list(map(np.shape, other)):
        return float("inf")
    return max(map(_difference, one, other), default=0.0)


def _difference(array: NDArray[Any], other: NDArray[Any]) -> float:
    apart = np.abs(array - other).max(initial=0)
    largest = float(np.abs(other).max(initial=0))
    return float(apart / max(largest, 1e-30))


def _check_scales(scales: NDArray[Any]) -> None:
    """Check that all scales are finite and above 0."""
    np.testing.assert_array_less(0, scales)
    np.testing.assert_array_less(scales, np.inf)


def _variants_of(units: Iterable[Unit]) -> list[frozenset[str]]:
    """Return the variant with everything quantized, then one per unit in which only it is
    disabled."""
    return [frozenset(), *(frozenset(unit.quantizers) for unit in units)]


def ranking(
    source: QuantizedModel, simulator: Simulator, batches: Iterable[Any]
) -> dict[str, float]:
    """Return unit -> the noise that quantizing it alone adds to the float model's outputs.

    The noise is the mean of `signals.SQNR`, noise over signal.
    """
    units = layers(source.quantizers)
    float_ = frozenset(names_of(source.quantizers))
    alone = [unit_variant(unit, source.quantizers, "enable").disabled for unit in units]
    totals = defaultdict[str, list[NDArray[Any]]](list)
    for inputs in batches:
        ((_, output),) = simulator.outputs(inputs, [float_])
        unquantized = flat(output)
        for index, output in simulator.outputs(inputs, alone):
            totals[units[index].name].append(SQNR.of(unquantized, flat(output)))
    return {unit.name: float(np.mean(np.concatenate(totals[unit.name]))) for unit in units}


def check_same_ranking(
    one: Mapping[str, float], other: Mapping[str, float], tau: float = 0.95
) -> float:
    """Return Kendall's tau-b of two rankings over the units that both have.

    Raises AssertionError if it is under `tau`, if the first units differ, or if the two share fewer
    than three units.
    """
    shared = list(filter(other.__contains__, one))
    assert len(shared) >= 3, f"only {shared} are units of both"
    values = np.array([(one[name], other[name]) for name in shared])
    tau_b = float(kendalltau(*values.T).statistic)
    first, second = (shared[place] for place in values.argmax(axis=0))
    assert first == second, f"{first} comes first in one, {second} in the other"
    assert tau_b >= tau, f"Kendall's tau is {tau_b:.3f}"
    return tau_b
