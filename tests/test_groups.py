"""Units that belong together are found in the graph and the modules; a user's own groups and pins
are matched by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import models
from support.pt2e_models import quantized_by_pt2e
from torch import nn

from sensitivity.config import ScanSettings
from sensitivity.errors import ExportError, ModelError, NamesError, SensitivityError
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.quantizers.torch.pt2e import Pt2eModel
from sensitivity.records import Quantizer, Unit
from sensitivity.testing.fakes import FakeModel
from sensitivity.units.relations import placed, structure_of
from sensitivity.units.units import Pins, Relation, patterns, pins, units_of
from sensitivity.workflows.repvgg import Block


def conv(inputs: int, outputs: int, size: int = 3) -> nn.Sequential:
    layers = [
        nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
    ]
    return nn.Sequential(*layers)


class Residual(nn.Module):
    """A block with a convolution in its shortcut, one without, and a head of two branches over two
    scales."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.conv1, self.conv2, self.short = conv(8, 8), conv(8, 8), conv(8, 8, 1)
        self.left, self.right = conv(8, 8), conv(8, 8, 1)
        self.mix = conv(16, 8)
        self.detect = Detect()

    def forward(self, x):
        x = self.stem(x)
        x = self.conv2(self.conv1(x)) + self.short(x)
        x = self.left(x) + x
        y = self.mix(torch.cat([x, self.right(nn.functional.max_pool2d(x, 1))], 1))
        return self.detect([x, y])


class Detect(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.box = nn.ModuleList(nn.Conv2d(8, 4, 1) for _ in range(2))
        self.classes = nn.ModuleList(nn.Conv2d(8, 5, 1) for _ in range(2))

    def forward(self, maps):
        pairs = zip(maps, self.box, self.classes, strict=True)
        return tuple(torch.cat([box(x), classes(x)], 1) for x, box, classes in pairs)


def source_of(build, *inputs) -> ModelOptModel:
    return ModelOptModel(models.quantized(models.seeded(build), *inputs))


def choices(**settings) -> ScanSettings:
    return ScanSettings(task="task.py", **settings)


@pytest.fixture(scope="module")
def residual() -> ModelOptModel:
    return source_of(Residual, models.batch())


def test_residual_concat_fan_out_and_head_are_found_in_one_model(residual):
    units = {
        unit.name: unit for unit in placed(residual, models.batch(), choices(unit="group")).units
    }
    shown = {name: (unit.kind, unit.layers) for name, unit in units.items()}
    assert shown == {
        "stem.0": ("layer", ()),
        "residual:conv1.0": ("residual", ("conv1.0", "conv2.0", "short.0")),
        "left.0": ("layer", ()),
        "concat:right.0": ("concat", ("right.0", "mix.0")),
        "head:detect.box.0": ("head", ("detect.box.0", "detect.box.1")),
        "head:detect.classes.0": ("head", ("detect.classes.0", "detect.classes.1")),
    }
    assert sorted(q for unit in units.values() for q in unit.quantizers) == sorted(
        q.name for q in residual.quantizers
    )


def test_each_relation_has_its_layers(residual):
    found = structure_of(residual, models.batch())
    assert found.problem is None
    relations = [(one.kind, one.layers) for one in found.relations]
    assert relations == [
        ("head", ("detect.box.0", "detect.box.1")),
        ("head", ("detect.classes.0", "detect.classes.1")),
        ("fan-out", ("conv1.0", "short.0")),
        ("concat", ("right.0", "mix.0", "detect.box.0", "detect.classes.0")),
        ("fan-out", ("detect.box.1", "detect.classes.1")),
        ("residual", ("conv2.0", "short.0")),
    ]


class Decoder(nn.Module):
    """A block of a language model: q, k and v read one tensor, gate and up another."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(8, bias=False) for _ in range(2))
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(8, 16, bias=False), nn.Linear(8, 16, bias=False)
        self.down = nn.Linear(16, 8, bias=False)

    def forward(self, x):
        read = self.norms[0](x)
        heads = [
            part(read).unflatten(-1, (2, 4)).transpose(1, 2) for part in (self.q, self.k, self.v)
        ]
        mixed = nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        read = self.norms[1](x)
        return x + self.down(nn.functional.silu(self.gate(read)) * self.up(read))


def test_q_k_and_v_are_one_group_and_gate_and_up_another() -> None:
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    units = placed(source_of(Decoder, x), x, choices(unit="group")).units
    joined = {unit.name: unit.layers for unit in units if unit.layers}
    assert joined == {"fan-out:q": ("q", "k", "v"), "fan-out:gate": ("gate", "up")}


def test_a_pt2e_model_has_the_same_groups(residual):
    converted = quantized_by_pt2e(models.seeded(Residual), models.batch())
    units = placed(Pt2eModel(converted), models.batch(), choices(unit="group")).units
    assert units == placed(residual, models.batch(), choices(unit="group")).units


def test_a_residual_without_a_convolution_in_its_shortcut_is_no_group_by_itself():
    class Identity(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            x = torch.relu(self.stem(x))
            return torch.relu(self.conv(x) + x.mean((2, 3), keepdim=True))

    assert not structure_of(source_of(Identity, models.batch()), models.batch()).relations


def test_a_quantizer_held_by_two_layers_joins_them_even_where_a_group_of_the_user_parts_them():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.c(torch.relu(self.b(torch.relu(self.a(x)))))

    source = source_of(Two, models.batch())
    source.model.c.input_quantizer = source.model.a.input_quantizer
    source = ModelOptModel(source.model)
    units = placed(source, models.batch(), choices(unit="group")).units
    assert [(unit.name, unit.kind, unit.layers) for unit in units] == [
        ("shared:a", "shared", ("a", "c")),
        ("b", "layer", ()),
    ]
    units = placed(source, models.batch(), choices(unit="group", group=("mine=a,b",))).units
    assert [(unit.name, unit.layers) for unit in units] == [("mine", ("a", "b", "c"))]


def test_repvgg_branches_are_one_group_and_reported_with_the_fix():
    def build() -> nn.Module:
        return nn.Sequential(Block(3, 8, 2), Block(8, 8), nn.Conv2d(8, 4, 1))

    source = source_of(build, models.batch())
    found = placed(source, models.batch(), choices(unit="group"))
    assert [(unit.name, unit.kind) for unit in found.units] == [
        ("repvgg:0.conv3", "repvgg"),
        ("repvgg:1.conv3", "repvgg"),
        ("2", "layer"),
    ]
    (warning,) = found.warnings
    assert warning.startswith(
        "2 RepVGG blocks still have their training branches (0.conv3, 1.conv3)"
    )
    assert "switch_to_deploy" in warning
    assert placed(source, models.batch(), choices()).warnings == found.warnings


def test_heads_and_merged_blocks_are_marked_on_single_layers_too():
    class RepVGGBlock(nn.Module):
        def __init__(self):
            super().__init__()
            self.rbr_reparam = nn.Conv2d(3, 8, 3, padding=1)

        def forward(self, x):
            return torch.relu(self.rbr_reparam(x))

    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.neck, self.more = RepVGGBlock(), conv(8, 8), conv(8, 8)
            self.head = Detect()

        def forward(self, x):
            x = self.neck(self.block(x))
            return self.head([x, self.more(x)])

    source = source_of(Detector, models.batch())
    kinds = {unit.name: unit.kind for unit in placed(source, models.batch(), choices()).units}
    assert kinds == {
        "block.rbr_reparam": "repvgg", "neck.0": "layer", "more.0": "layer", "head.box.0": "head",
        "head.box.1": "head",
        "head.classes.0": "head", "head.classes.1": "head",
    }  # fmt: skip


def test_a_classifier_called_head_and_an_attention_of_many_heads_are_no_detection_head():
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(4)))
            self.multihead = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
            self.head = nn.Linear(3, 4)

        def forward(self, x):
            return self.head(self.multihead(self.convs(x)).mean((2, 3)))

    units = placed(source_of(Classifier, models.batch()), models.batch(), choices()).units
    assert {unit.kind for unit in units} == {"layer"}


def test_a_model_that_cannot_be_traced_falls_back_to_layers_and_says_so():
    class Data(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return {"sum": self.a(x) + self.b(x), "note": "no tensor"}

    found = placed(source_of(Data, models.batch()), models.batch(), choices(unit="group"))
    assert [unit.name for unit in found.units] == ["a", "b"]
    assert found.scales == ()
    (warning,) = found.warnings
    assert warning.startswith(
        "The model's graph could not be read (Expected every output of the model to be a tensor"
    )
    assert "units are layers" in warning
    (warning,) = placed(source_of(Data, models.batch()), models.batch(), choices()).warnings
    assert "so every quantizer keeps its own range" in warning


def test_two_samples_of_the_example_are_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def traced(source, example):
        sizes.append(len(example))
        raise ExportError("no")

    monkeypatch.setattr("sensitivity.exporters.trace.trace", traced)
    found = structure_of(source_of(Residual, models.batch()), torch.cat([models.batch()] * 2))
    assert sizes == [2]
    assert (found.problem, found.traced) == ("no", None)


def test_a_model_that_is_no_torch_model_has_layers_and_its_own_ranges():
    found = placed(FakeModel({"a": 0.1, "b": 0.2}), None, choices())
    assert [unit.name for unit in found.units] == ["a", "b"]
    assert found.warnings == ()


def test_ranges_to_share_leave_out_what_cannot_and_separate_scales_leaves_out_all():
    source = source_of(Residual, models.batch())
    scales = placed(source, models.batch(), choices()).scales
    assert ("conv1.0.input_quantizer", "short.0.input_quantizer") in scales
    source.model.short[0].input_quantizer._unsigned = True
    assert ("conv1.0.input_quantizer", "short.0.input_quantizer") not in placed(
        source, models.batch(), choices()
    ).scales
    assert placed(source, models.batch(), choices(separate_scales=True)).scales == ()


def quantizers(*names: str) -> list[Quantizer]:
    return [
        Quantizer(f"{name}.{role}_quantizer", name, role, 8, None)
        for name in names
        for role in ("input", "weight")
    ]


def test_units_of_one_quantizer_have_its_name_and_a_users_group_joins_those_of_its_layers():
    own = quantizers("a", "b")
    assert [unit.name for unit in units_of(own, "quantizer", [])] == [
        quantizer.name for quantizer in own
    ]
    units = units_of(own, "quantizer", patterns(["mine=b"], own))
    assert [unit.name for unit in units] == ["a.input_quantizer", "a.weight_quantizer", "mine"]
    assert units[2].quantizers == ("b.input_quantizer", "b.weight_quantizer")


ORDER = ("repvgg", "head", "shared", "concat", "residual", "fan-out")


@pytest.mark.parametrize("stronger", range(len(ORDER) - 1))
def test_a_unit_that_came_together_for_two_reasons_is_called_by_the_stronger(stronger):
    both = [Relation(kind, ("a", "b")) for kind in ORDER[stronger : stronger + 2]]
    for relations in (both, both[::-1]):
        (unit,) = units_of(quantizers("a", "b"), "group", relations)
        assert unit.kind == ORDER[stronger]


def test_a_reason_for_one_layer_of_a_unit_does_not_name_the_unit() -> None:
    """Layers of one quantizer cannot be separated, whatever group the user puts one of them in."""
    own = quantizers("a", "b")
    relations = [*patterns(["mine=a"], own), Relation("shared", ("a", "b"))]
    (unit,) = units_of(own, "group", relations)
    assert (unit.name, unit.kind, unit.layers) == ("shared:a", "shared", ("a", "b"))


def test_a_users_group_is_stronger_than_the_graphs_and_takes_exact_names_before_patterns():
    own = quantizers("conv1", "conv10", "conv2", "other")
    relation = Relation("concat", ("conv1", "conv2", "conv10"))
    units = units_of(own, "group", [*patterns(["first=conv1"], own), relation])
    assert [(unit.name, unit.layers) for unit in units] == [
        ("first", ("conv1",)),
        ("concat:conv10", ("conv10", "conv2")),
        ("other", ()),
    ]
    (unit, rest) = units_of(own, "layer", [*patterns(["all=conv*"], own), relation])
    assert (unit.name, unit.kind, unit.layers, rest.name) == (
        "all",
        "pattern",
        ("conv1", "conv10", "conv2"),
        "other",
    )


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (("head",), r"Expected --group as NAME=PATTERN, got 'head'"),
        (
            ("head=modle.*",),
            r"Expected --group to match at least one name, got 'modle.\*' \(0 of 2\). Close names: "
            r"model.",
        ),
        (
            ("one=model.a", "two=model.*"),
            r"Expected each layer in one --group, got model.a in one and two",
        ),
    ],
    ids=["no pattern", "matches nothing", "claimed twice"],
)
def test_a_group_that_cannot_be_made_is_reported(group, message):
    with pytest.raises(SensitivityError, match=message):
        patterns(group, quantizers("model.a", "model.b"))


UNITS = (
    Unit("model.0", ("q0",)),
    Unit("concat:model.1", ("q1", "q2"), "concat", ("model.1", "model.2")),
    Unit("model.3", ("q3",)),
)


def test_pins_name_units_by_name_by_pattern_or_by_a_layer_in_them():
    assert pins(["model.0"], [], UNITS) == Pins(("model.0",), ())
    assert pins(["model.2"], ["*.3"], UNITS) == Pins(("concat:model.1",), ("model.3",))
    assert pins(["model.*"], [], UNITS).skip == tuple(unit.name for unit in UNITS)


def test_a_pin_that_matches_nothing_or_is_pinned_both_ways_is_reported():
    with pytest.raises(
        NamesError,
        match=r"Expected --keep to match at least one name, got 'modle.3' \(0 of 5\). Close",
    ):
        pins([], ["modle.3"], UNITS)
    with pytest.raises(
        NamesError,
        match=r"Expected --skip and --keep to name different units, got concat:model.1 in",
    ):
        pins(["model.1"], ["model.2"], UNITS)


def test_skip_connections_get_quantizers_for_the_whole_of_a_session_and_lose_them_after_it(
    tmp_path,
):
    from sensitivity import api
    from sensitivity.config import PlanSettings
    from sensitivity.run_dir import RunDir
    from sensitivity.tasks.load import load_task
    from sensitivity.units.placement import residual_quantizers

    task = f"{Path(__file__).parent / 'tasks' / 'tiny.py'}:residual"
    source = ModelOptModel(load_task(task).model)
    fingerprint = source.fingerprint()
    with residual_quantizers(source, [models.batch()]) as names:
        inside = ModelOptModel(source.model)
        assert names == ("residual_add.residual_quantizer",)
        assert {quantizer.name for quantizer in inside.quantizers} >= set(names)
    assert ModelOptModel(source.model).fingerprint() == fingerprint
    assert not source.model._forward_hooks
    assert not hasattr(source.model, "residual_add")

    api.scan(ScanSettings(task=task, out=tmp_path, quantize_residuals=True))
    info = RunDir(tmp_path).info()
    assert info.residuals
    assert any("residual_quantizer" in name for unit in info.units for name in unit.quantizers)
    assert api.plan(
        PlanSettings(directory=tmp_path, max_drop="99pt", skip=("*residual_add*",))
    ).skip


def test_a_model_that_takes_no_new_quantizers_is_reported():
    from sensitivity.units.placement import residual_quantizers

    with (
        pytest.raises(
            ModelError,
            match="Expected a model that takes new quantizers for --quantize-residuals, got one of",
        ),
        residual_quantizers(FakeModel({"a": 0.1}), []),
    ):
        pass
