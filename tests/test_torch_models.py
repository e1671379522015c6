"""Torch models as people have them: how a batch reaches them, their outputs, layers that torch
fuses, dead channels."""

from __future__ import annotations

from collections import UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.models import quantized, seeded
from torch import Tensor, nn

from sensitivity.errors import ModelError
from sensitivity.exporters.evaluate import evaluate_file
from sensitivity.exporters.torch_model import export_files
from sensitivity.exporters.verify import verify
from sensitivity.opened import quantized_model
from sensitivity.quantizers.base import QuantizedModel, layers
from sensitivity.quantizers.torch.calls import call
from sensitivity.quantizers.torch.half import in_float32
from sensitivity.quantizers.torch.native import GridQuantizer
from sensitivity.quantizers.torch.tensor_quantizer import scales_of
from sensitivity.simulators.choose import simulator_for
from sensitivity.simulators.compare import difference
from sensitivity.simulators.toggle import ToggleSimulator


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exported(model: nn.Module, inputs: Any, folder: Path) -> dict[str, Path]:
    """The three files of a model with nothing left out, verified."""
    source = quantized_model(model)
    never = {quantizer.name for quantizer in source.quantizers} - source.executed(inputs)
    with source.disabled(never):
        return verified(quantized_model(model), inputs, folder)


def verified(source: QuantizedModel, inputs: Any, folder: Path) -> dict[str, Path]:
    units = layers(source.quantizers)
    files = export_files(source, inputs, units, [], folder, fingerprint="")
    verify(source, files, inputs, units, [])
    return files


class Encoder(nn.Module):
    """Torch's own encoder, which one fused kernel computes in eval mode, past the quantizers of its
    linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1
        )
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))


FUSED = ("encoder.layers.0.linear1", "encoder.layers.0.linear2")


def encoder() -> nn.Module:
    torch.backends.mha.set_fastpath_enabled(False)  # as one calibrates such a model
    try:
        return quantized(seeded(Encoder), drawn(8, 6, 16))
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_layers_that_torch_fuses_are_executed_and_cost_something() -> None:
    source, x = quantized_model(encoder()), drawn(4, 6, 16)
    linear = [one.name for one in source.quantizers if one.layer in FUSED]
    assert len(linear) == 4
    assert set(linear) <= source.executed(x)
    for simulator in (ToggleSimulator(source), simulator_for(source, x)):
        variants = [
            frozenset[str](),
            *(frozenset(unit.quantizers) for unit in layers(source.quantizers)),
        ]
        outputs = dict(simulator.outputs(x, variants))
        changed = {
            unit.name: difference(outputs[0], outputs[index])
            for index, unit in enumerate(layers(source.quantizers), 1)
            if unit.name in FUSED
        }
        assert min(changed.values()) > 0, (simulator.name, changed)


def test_torchs_fast_path_is_as_it_was_after_a_call_that_fails_too() -> None:
    seen: list[bool] = []

    def model(x: Tensor) -> Tensor:
        seen.append(torch.backends.mha.get_fastpath_enabled())
        return x

    assert torch.backends.mha.get_fastpath_enabled()
    call(model, drawn(1))
    with pytest.raises(Exception, match="Expected the model to accept a batch"):
        call(model, (drawn(1), drawn(1)))
    assert seen == [False]
    assert torch.backends.mha.get_fastpath_enabled()


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], bidirectional: bool) -> None:
        super().__init__()
        self.rnn = kind(6, 5, 2, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(10 if bidirectional else 5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both-ways"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN], ids=["lstm", "gru", "rnn"])
def test_recurrent_layers_are_replayed_and_exported(
    kind: type[nn.RNNBase], bidirectional: bool, tmp_path: Path
) -> None:
    x = drawn(4, 3, 6)
    model = quantized(seeded(lambda: Recurrent(kind, bidirectional)), x)
    source = quantized_model(model)
    simulator = simulator_for(source, x)
    names = source.executed(x)
    assert {"rnn.weight_ih_l0_weight_quantizer", "rnn.layer_1_input_quantizer"} <= names
    variants = [frozenset[str](), frozenset(one.name for one in source.quantizers)]
    reference = dict(ToggleSimulator(source).outputs(x, variants))
    assert difference(reference[0], reference[1]) > 0
    assert "bit for bit" in simulator.reason
    for index, outputs in simulator.outputs(x, variants):
        assert difference(reference[index], outputs) == 0
    exported(model, x, tmp_path)


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor | None = None


Pair = namedtuple("Pair", ["logits", "size"])


class Giving(nn.Module):
    """A network whose forward gives its outputs in a nest."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.wrap = nn.Linear(6, 8), nn.Linear(8, 4), wrap

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        return self.wrap(self.b(torch.relu(self.a(x))))


WRAPS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "dataclass": (lambda y: Output(y), lambda output: output.logits),
    "named-tuple": (lambda y: Pair(y, y.sum(1)), lambda output: output.logits),
    "dict": (lambda y: {"logits": y, "more": [y * 2]}, lambda output: output["more"][0] / 2),
}


@pytest.mark.parametrize(("wrap", "read"), WRAPS.values(), ids=WRAPS)
def test_outputs_reach_the_score_in_the_models_own_nest_from_the_model_replay_and_the_file(
    wrap: Callable[[Tensor], Any], read: Callable[[Any], Tensor], tmp_path: Path
) -> None:
    x = drawn(6, 6)
    model = quantized(seeded(lambda: Giving(wrap)), x)
    source = quantized_model(model)
    simulator = simulator_for(source, x)
    assert simulator.name == "replay"
    ((_, outputs),) = simulator.outputs(x, [frozenset()])
    assert torch.equal(read(outputs), read(call(model, x)))
    files = exported(model, x, tmp_path)
    metric, _ = evaluate_file(
        files["int8"], [(x, None)], lambda outputs, _: read(outputs)[:, 0], lambda s: s.mean()
    )
    with torch.no_grad():
        assert metric == pytest.approx(float(read(call(model, x))[:, 0].mean()), rel=1e-3)


BATCHES: dict[str, Any] = {
    "list-of-a-data-loader": [drawn(6, 6), torch.ones(6)],
    "tuple": (drawn(6, 6), torch.ones(6)),
    "dict": {"x": drawn(6, 6), "mask": torch.ones(6)},
    "batch-of-a-tokenizer": UserDict({"mask": torch.ones(6), "x": drawn(6, 6)}),
}


@pytest.mark.parametrize("inputs", BATCHES.values(), ids=BATCHES)
def test_every_kind_of_batch_works_with_an_input_that_the_graph_does_not_use(
    inputs: Any, tmp_path: Path
) -> None:
    model = quantized(seeded(lambda: Giving(lambda y: y)), drawn(6, 6))
    source = quantized_model(model)
    simulator = simulator_for(source, inputs)
    assert simulator.name == "replay"
    ((_, outputs),) = simulator.outputs(inputs, [frozenset()])
    with torch.no_grad():
        expected = call(model, drawn(6, 6))
    assert torch.equal(outputs, expected)
    files = exported(model, inputs, tmp_path)
    metric, _ = evaluate_file(
        files["int8"], [(inputs, None)], lambda y, _: y[:, 0], lambda s: s.mean()
    )
    assert metric == pytest.approx(float(expected[:, 0].mean()), rel=1e-3)


class Depthwise(nn.Module):
    """A model with a filter that is all 0 and one that is almost 0, as pruning and MobileNets leave
    them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.depthwise(torch.relu(self.stem(x)))).mean((2, 3)))


def test_dead_channels_are_calibrated_replayed_bit_for_bit_and_exported(tmp_path: Path) -> None:
    x = drawn(4, 3, 8, 8)
    model = seeded(Depthwise)
    with torch.no_grad():
        model.depthwise.weight[3] = 0
        model.depthwise.weight[5] *= 1e-9
    model = quantized(model, x)
    source = quantized_model(model)
    assert not [one for one in source.quantizers if one.problem]
    scale = source.grid("depthwise.weight_quantizer").scale
    assert (scale[[3, 5]] == np.delete(scale, [3, 5]).min()).all()
    assert (scale > 0).all()
    weight = model.depthwise._parameters["weight"].detach()
    ours = GridQuantizer(source, "depthwise.weight_quantizer")(weight)
    assert torch.equal(ours, model.depthwise.weight_quantizer(weight))
    assert "bit for bit" in simulator_for(source, x).reason
    exported(model, x, tmp_path)


@pytest.mark.parametrize(
    ("amax", "is_weight", "scales"),
    [
        ([0.0], True, [1.0]),
        ([127.0, 0.0, 2.0**-24, 254.0], True, [1.0, 1.0, 1.0, 2.0]),
        ([127 * 2.0**-20, 0.0], True, [2.0**-20, 2.0**-20]),
        ([127 * 2.0**-25, 0.0], True, [2.0**-25, 2.0**-22]),
        ([0.0], False, [2.0**20]),
    ],
    ids=["whole-weight", "channels", "small", "tiny", "input"],
)
def test_scales_of_dead_channels_round_their_values_to_0(
    amax: list[float], is_weight: bool, scales: list[float]
) -> None:
    assert scales_of(np.float32(amax), 127, is_weight=is_weight).tolist() == scales


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_models_in_half_precision_are_measured_as_they_are_and_exported_in_fp32(
    kind: torch.dtype, tmp_path: Path
) -> None:
    x = drawn(4, 3, 8, 8).to(kind)
    model = quantized(seeded(Depthwise).to(kind), x)
    source = quantized_model(model)
    assert [warning[:20] for warning in source.warnings] == [
        f"The model is in {'BF16' if kind == torch.bfloat16 else 'FP16'}"
    ]
    simulator = simulator_for(source, x)
    assert simulator.name == "replay"
    ((_, outputs),) = simulator.outputs(x, [frozenset()])
    assert outputs.dtype == kind
    before, weight = source.fingerprint(), model.head.weight.data
    with in_float32(source.model):
        files = exported(model, x, tmp_path)
        expected = call(model, x).detach()
        assert expected.dtype == torch.float32
    assert source.fingerprint() == before
    assert model.head.weight.data_ptr() == weight.data_ptr()
    _, scores = evaluate_file(
        files["int8"], [(x, None)], lambda y, _: y[:, 0].bfloat16(), lambda s: s.mean()
    )
    assert scores == pytest.approx(expected[:, 0].numpy(), rel=1e-2)


def test_what_is_around_a_model_is_taken_off_and_names_are_those_inside() -> None:
    model = quantized(seeded(Depthwise), drawn(4, 3, 8, 8))
    names = [one.name for one in quantized_model(model).quantizers]
    for around in (
        nn.DataParallel(model),
        torch.compile(model),
        nn.DataParallel(torch.compile(model)),
    ):
        source = quantized_model(around)
        assert source.model is model
        assert [one.name for one in source.quantizers] == names


def test_compiled_parts_and_torchscript_are_refused_with_what_to_give() -> None:
    model = quantized(seeded(Depthwise), drawn(4, 3, 8, 8))
    with pytest.raises(ModelError, match=r"got TorchScript, .*as it was before torch\.jit\.script"):
        quantized_model(torch.jit.trace(seeded(Depthwise), drawn(4, 3, 8, 8)))
    model.stem.compile()
    with pytest.raises(
        ModelError, match=r"got stem under torch\.compile; give it as it was before"
    ):
        quantized_model(model)


class Attention(nn.Module):
    """Fused attention and dropouts, none of which is active in eval mode."""

    def __init__(self, share: float = 0.0) -> None:
        super().__init__()
        self.qkv, self.head, self.share = nn.Linear(8, 24), nn.Linear(8, 4), share
        self.dropouts = nn.Sequential(
            nn.Dropout(0.5), nn.AlphaDropout(0.5), nn.RReLU(), nn.Dropout1d(0.5)
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)[:, None].chunk(3, -1)
        y = nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=self.share)
        return self.head(self.dropouts(y[:, 0])).mean(1)


def test_only_what_draws_random_numbers_is_toggled() -> None:
    x = drawn(4, 6, 8)
    source = quantized_model(quantized(seeded(Attention), x))
    assert "bit for bit" in simulator_for(source, x).reason
    random = simulator_for(quantized_model(quantized(seeded(lambda: Attention(0.5)), x)), x)
    assert (random.name, "it draws random numbers" in random.reason) == ("toggle", True)
