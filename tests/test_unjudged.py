"""Units whose outputs the score does not read are marked, and no others."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from sensitivity.journal.journal import open_journal
from sensitivity.measure.measurer import Measurer
from sensitivity.measure.reads import block, every_part
from sensitivity.measure.scan import scan
from sensitivity.measure.study import Study
from sensitivity.measure.unjudged import mark_unjudged, ranked_last
from sensitivity.records import Effect, Estimate, Quantizer, Unit
from sensitivity.tasks.base import Task
from sensitivity.tasks.batches import map_arrays
from sensitivity.tasks.outputs import leaves, with_arrays

UNITS = tuple(
    Unit(name, (f"{name}.q",)) for name in ("trunk", "boxes", "masks", "protos", "extra", "idle")
)
QUANTIZERS = tuple(Quantizer(unit.quantizers[0], unit.name, "input", 8, None) for unit in UNITS)
N, CLASSES, MASKS = 24, 4, 3


class Heads:
    """A detector with masks: "preds" holds scores of classes and mask coefficients as channels,
    "protos" the masks.

    Each quantizer that is on moves its own part a little; the trunk moves all, and idle nothing.
    """

    name, reason, smallest, warnings = "heads", "made up", None, ()

    def __init__(self, form: str) -> None:
        self.form = form
        self.asked = 0

    def outputs(self, inputs: Any, variants: Any) -> Any:
        for index, disabled in enumerate(variants):
            on = {unit.name: unit.quantizers[0] not in disabled for unit in UNITS}
            self.asked += 1
            yield index, self.nest(inputs, on)

    def nest(self, inputs: Any, on: dict[str, bool]) -> Any:
        trunk = 0.3 * on["trunk"]
        classes = inputs[:, :CLASSES] + trunk + 0.05 * on["boxes"]
        masks = inputs[:, CLASSES:] + trunk + 0.5 * on["masks"]
        preds = np.concatenate([classes, masks], axis=1)[..., None].repeat(2, axis=2)
        protos = np.ones((len(inputs), 2, 3)) + trunk + 0.5 * on["protos"]
        extra = np.zeros((len(inputs), 5)) + 0.5 * on["extra"]
        if self.form == "dict":
            return {"preds": preds, "rest": [protos, extra]}
        if self.form == "dataclass":
            return Outputs(preds, (protos, extra))
        if self.form == "with a number":
            return preds, (protos, extra), np.asarray(preds.sum())
        return preds, (protos, extra)


@dataclass
class Outputs:
    preds: Any
    rest: Any


def first(outputs: Any) -> Any:
    if isinstance(outputs, dict):
        return outputs["preds"]
    return outputs.preds if isinstance(outputs, Outputs) else outputs[0]


def top1(outputs: Any, targets: Any) -> Any:
    return (first(outputs)[:, :CLASSES, 0].argmax(1) == targets).astype(float)


def constant(outputs: Any, targets: Any) -> Any:
    return np.zeros(len(targets))


def studied(tmp_path: Any, score: Any, form: str = "tuple", simulator: Any = None) -> Study:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(N, CLASSES + MASKS))
    batches = [
        (inputs[at : at + 8], inputs[at : at + 8, :CLASSES].argmax(1)) for at in range(0, N, 8)
    ]
    task = Task(None, {"rank": batches}, score)
    journal = open_journal(tmp_path / "journal.jsonl", {"model": "made up"}, resume=True)
    measurer = Measurer(task, lambda ranges: simulator or Heads(form), journal)
    return Study(measurer, UNITS, QUANTIZERS)


@pytest.mark.parametrize("form", ["tuple", "dict", "dataclass", "with a number"])
@pytest.mark.parametrize("mode", ["disable", "enable"])
def test_channels_and_outputs_that_the_score_does_not_read_are_found_in_any_nest(
    tmp_path, form, mode
) -> None:
    study = studied(tmp_path, top1, form)
    found = mark_unjudged(study, scan(study, mode))
    assert set(found.unjudged) == {"masks", "protos", "extra"}
    assert [effect.unit for effect in found.effects if not effect.judged] == list(found.unjudged)
    assert [effect.rank for effect in found.effects] == [1, 2, 3, 4, 5, 6]
    assert {effect.unit for effect in found.effects[:3]} == {"trunk", "boxes", "idle"}, (
        "no effect is not unseen"
    )
    assert all(effect.effect.n == 0 for effect in found.effects[3:])


def test_a_score_that_reads_everything_leaves_nothing_unjudged(tmp_path) -> None:
    def all_of_it(outputs: Any, targets: Any) -> Any:
        return top1(outputs, targets) + sum(
            np.abs(leaf).reshape(len(targets), -1).sum(1) for leaf in leaves(outputs)
        )

    study = studied(tmp_path, all_of_it)
    assert mark_unjudged(study, scan(study, "disable")).unjudged == ()


def test_a_score_that_notices_nothing_at_all_says_nothing_about_any_unit(tmp_path) -> None:
    study = studied(tmp_path, constant)
    assert mark_unjudged(study, scan(study, "disable")).unjudged == ()


def test_a_score_that_complains_about_other_values_has_read_them(tmp_path) -> None:
    def strict(outputs: Any, targets: Any) -> Any:
        if np.abs(outputs[1][0]).max() > 3:
            raise ValueError("a mask of that size")
        return top1(outputs, targets)

    study = studied(tmp_path, strict)
    found = mark_unjudged(study, scan(study, "disable"))
    assert set(found.unjudged) == {"masks", "extra"}


def test_what_the_journal_knows_is_not_looked_at_again(tmp_path) -> None:
    simulator = Heads("tuple")
    study = studied(tmp_path, top1, simulator=simulator)
    scanned = scan(study, "disable")
    found = mark_unjudged(study, scanned)
    asked = simulator.asked
    assert mark_unjudged(studied(tmp_path, top1, simulator=simulator), scanned) == found
    assert simulator.asked == asked


def test_ranks_and_ties_are_of_the_order_that_is_left() -> None:
    one = Estimate(0.1, 0.0, 0.2, 9)
    effects = [
        Effect(rank, tie, name, one, 0.5)
        for rank, tie, name in ((1, 1, "a"), (2, 1, "b"), (3, 2, "c"), (4, 2, "d"))
    ]
    found = ranked_last(effects, frozenset({"b"}))
    assert [(effect.unit, effect.rank, effect.tie) for effect in found] == [
        ("a", 1, 1),
        ("c", 2, 2),
        ("d", 3, 2),
        ("b", 4, 4),
    ]


def test_nan_in_the_same_place_is_no_difference() -> None:
    before = np.array([[np.nan, 1.0, 2.0]])
    assert block(before, before.copy()) is None
    assert [axis.tolist() for axis in block(before, np.array([[np.nan, 1.0, 3.0]]))] == [[2]]


def test_a_nest_is_rebuilt_of_its_own_kinds() -> None:
    torch = pytest.importorskip("torch", reason="tensors among the leaves")
    Pair = namedtuple("Pair", "a b")
    nest = {"x": Pair(torch.ones(2, dtype=torch.float16), None), "y": [np.ones(3), "text"]}
    assert [tuple(leaf.shape) for leaf in leaves(nest)] == [(2,), (3,)]
    rebuilt = with_arrays(nest, [np.zeros(2), np.full(3, 2.0)])
    assert isinstance(rebuilt["x"], Pair)
    assert rebuilt["x"].a.dtype == torch.float16
    assert rebuilt["x"].a.sum() == 0
    assert (rebuilt["y"][0].sum(), rebuilt["y"][1]) == (6.0, "text")
    assert nest["x"].a.sum() == 2, "the nest itself stays"
    assert map_arrays(lambda leaf: None, 5) == 5


def test_every_part_of_the_outputs_is_looked_at() -> None:
    """Each channel and each stretch of positions on its own, and an output of one value for each
    sample as a whole."""
    shapes = [(2, 3, 200), (2,)]
    covered = [np.zeros(shape, int) for shape in shapes]
    for touched in every_part([np.zeros(shape) for shape in shapes]):
        for counts, part in zip(covered, touched, strict=True):
            if part is not None:
                counts[np.ix_(np.arange(len(counts)), *part)] += 1
    assert (covered[0] == 2).all()  # by its channel and by its stretch
    assert (covered[1] == 1).all()
