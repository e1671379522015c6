"""SQ5: whether the file holds what the plan says. The rules find nothing if no plan is given."""

from __future__ import annotations

import json
from collections.abc import Iterator

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.walk import name_of
from sensitivity.rules.base import Hit, Subject, rule
from sensitivity.rules.examples import CANONICAL, Example
from sensitivity.rules.paths import pair_before
from sensitivity.rules.targets import TARGETS

KEPT, SKIPPED = "sensitivity.kept", "sensitivity.skipped"
"""Metadata keys of our exports. The values are JSON lists of unit names."""


def _named(skip: tuple[str, ...]) -> str:
    """Return the canonical convolution with the names that our export writes, with `conv`
    unquantized if it is in `skip`."""
    if "conv" in skip:
        return "[conv] y = Conv <pads = [1, 1, 1, 1]> (x, w)"
    return CANONICAL.body.replace("xq =", '["conv.input_quantizer/QuantizeLinear"] xq =')


def _metadata(*, kept: tuple[str, ...] = (), skipped: tuple[str, ...] = ()) -> dict[str, str]:
    return {KEPT: json.dumps(kept), SKIPPED: json.dumps(skipped)}


@rule(
    "SQ501",
    "quantized-but-skipped",
    "error",
    TARGETS,
    why="The plan leaves this unit in float to reach the accuracy target. A file in which it is "
    "quantized is not the one that was measured.",
    fix="Export again with this plan, and lint the file that is deployed.",
    source="plan.json of sensitivity",
    bad=Example(CANONICAL.body, metadata=_metadata(kept=("conv",)), skip=("conv",)),
    good=Example(_named(("conv",)), metadata=_metadata(skipped=("conv",)), skip=("conv",)),
)
def quantized_but_skipped(subject: Subject) -> Iterator[Hit]:
    """Find quantizers and layers that the plan leaves in float and the file quantizes."""
    if subject.plan is None:
        return
    present = quantizers_in(subject)
    reported = set()
    for name in subject.plan.quantizers:
        if name in present:
            reported.add(name.rpartition(".")[0])
            yield (
                present[name],
                f"expected no Q/DQ for {name}, which the plan leaves out, got a pair",
            )
    kept = _units(subject, KEPT)
    for unit in subject.plan.skip:
        if unit in reported:
            continue
        if unit in kept or _has_quantized_weight(operation_of(subject, unit)):
            yield unit, f"expected {unit} in float, which the plan skips, got it quantized"


def _has_quantized_weight(node: ir.Node | None) -> bool:
    return node is not None and pair_before(qdq.weight(node)) is not None


@rule(
    "SQ502",
    "kept-but-float",
    "error",
    TARGETS,
    why="The plan keeps this unit in INT8 and counts on its speed, but the file has it in float.",
    fix="Export again with this plan; if the file went through another tool, look for what that "
    "tool removed.",
    source="plan.json of sensitivity",
    bad=Example(_named(("conv",)), metadata=_metadata(skipped=("conv",)), skip=()),
    good=Example(CANONICAL.body, metadata=_metadata(kept=("conv",)), skip=()),
)
def kept_but_float(subject: Subject) -> Iterator[Hit]:
    """Find layers that the plan quantizes and the file has in float, by metadata or by Q/DQ."""
    if subject.plan is None:
        return
    skip = set(subject.plan.skip)
    for unit in _units(subject, SKIPPED):
        if unit not in skip:
            yield unit, f"expected {unit} in INT8, which the plan keeps, got it skipped in the file"
    for unit in _units(subject, KEPT):
        node = None if unit in skip else operation_of(subject, unit)
        if node is not None and not _quantized(node):
            yield unit, f"expected {unit} in INT8, which the plan keeps, got it without Q/DQ"


@rule(
    "SQ503",
    "plan-not-comparable",
    "warning",
    TARGETS,
    why="Units are found by the names that our export writes into the file; without them the file "
    "cannot be compared with the plan.",
    fix="Lint the file that 'sensitivity export' wrote, or run lint without --plan.",
    source="plan.json of sensitivity",
    bad=Example(CANONICAL.body, skip=("stem",)),
    good=Example(_named(("conv",)), metadata=_metadata(skipped=("conv",)), skip=("conv",)),
)
def plan_not_comparable(subject: Subject) -> Iterator[Hit]:
    """Report a file with neither our metadata nor any name of the plan."""
    if subject.plan is None or {KEPT, SKIPPED} & set(subject.model.metadata_props):
        return
    names_quantizer = not quantizers_in(subject).keys().isdisjoint(subject.plan.quantizers)
    names_unit = any(operation_of(subject, unit) is not None for unit in subject.plan.skip)
    if not names_quantizer and not names_unit:
        yield (
            "graph",
            f"expected the {len(subject.plan.skip)} units of the plan by name, got none of them",
        )


def quantizers_in(subject: Subject) -> dict[str, str]:
    """Return quantizer -> node of its Q/DQ pair in the file. Our export names nodes
    <quantizer>/<operation>."""
    nodes: dict[str, str] = {}
    for pair in subject.pairs:
        name, slash, _ = name_of(pair.quantize or pair.dequantize).rpartition("/")
        if slash:
            nodes.setdefault(name, pair.name)
    return nodes


def operation_of(subject: Subject, unit: str) -> ir.Node | None:
    """Return the operation that our export named after this unit; None if there is none, or if the
    unit has several."""
    operations = [
        node for node in subject.nodes if node.name == unit and qdq.weight(node) is not None
    ]
    return operations[0] if len(operations) == 1 else None


def _quantized(node: ir.Node) -> bool:
    return _has_quantized_weight(node) or pair_before(qdq.activation(node)) is not None


def _units(subject: Subject, key: str) -> tuple[str, ...]:
    return tuple(json.loads(subject.model.metadata_props.get(key, "[]")))
