"""A rule: what must hold, why, how to fix it, who says so, and the smallest graphs that break and
keep it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.rules.examples import Example
from sensitivity.rules.targets import RTX, RTX_SEEN

Severity = Literal["error", "warning", "info"]
"""error: the runtime refuses the file or computes something else; warning: it costs speed or
accuracy; info: it may."""


@dataclass(frozen=True)
class Finding:
    """One place where a rule does not hold. node: its name in the file, or that of its first output
    if unnamed."""

    code: str
    severity: Severity
    node: str
    message: str
    fix: str


@dataclass(frozen=True)
class PlanNames:
    """What a rule needs of plan.json. skip: exact unit names; quantizers: exact names of all
    quantizers it disables."""

    skip: tuple[str, ...]
    quantizers: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Subject:
    """The file under judgement. plan: None where the user gave none."""

    model: ir.Model
    target: str
    plan: PlanNames | None = None

    @property
    def graph(self) -> ir.Graph:
        """The main graph."""
        return self.model.graph

    @property
    def opset(self) -> int:
        """Of ONNX's own operators; 0 where the file names none."""
        return self.model.opset_imports.get("", 0)

    @cached_property
    def nodes(self) -> tuple[ir.Node, ...]:
        """Every node, also of sub-graphs."""
        return tuple(self.graph.all_nodes())

    @cached_property
    def pairs(self) -> tuple[qdq.Pair, ...]:
        """Every Q/DQ pair, also of sub-graphs, in the order of the nodes."""
        return tuple(qdq.pairs(self.graph))


Hit = tuple[str, str]
"""Name of the node, and the message: what must hold and what came."""

Check = Callable[[Subject], Iterator[Hit]]


@dataclass(frozen=True)
class Seen:
    """What the parser and builder of TensorRT-RTX were seen to do with a file that breaks a rule.

    does: what follows the name of the version, such as "runs the layer in float".
    severity: of the finding there; None takes that of the rule.
    """

    does: str
    severity: Severity | None = None

    @property
    def sentence(self) -> str:
        """Without a full stop."""
        return f"{RTX_SEEN} {self.does}"


@dataclass(frozen=True)
class Rule:
    """code: SQ and three digits, the first is the topic; name: two or three words, joined by
    dashes.

    targets: where it holds. bad: breaks this rule for every one of them; good: the same graph put
    right.
    source: document or source file that says so, or "measured" with what and where.
    rtx: what TensorRT-RTX was seen to do, also where the rule is not for it; None where that is not
    known or adds nothing.
    """

    code: str
    name: str
    severity: Severity
    targets: tuple[str, ...]
    why: str
    fix: str
    source: str
    bad: Example
    good: Example
    check: Check
    rtx: Seen | None = None

    def severity_for(self, target: str) -> Severity:
        """Of a finding for one of the rule's targets."""
        seen = self.rtx if target == RTX else None
        return self.severity if seen is None or seen.severity is None else seen.severity

    def findings(self, subject: Subject) -> Iterator[Finding]:
        """Every place where the rule does not hold, with its severity for the subject's target."""
        severity = self.severity_for(subject.target)
        seen = self.rtx if subject.target == RTX else None
        told = "" if seen is None else f"; {seen.sentence}"
        for node, message in self.check(subject):
            yield Finding(self.code, severity, node, message + told, self.fix)


def rule(
    code: str,
    name: str,
    severity: Severity,
    targets: tuple[str, ...],
    *,
    why: str,
    fix: str,
    source: str,
    bad: Example,
    good: Example,
    rtx: Seen | None = None,
) -> Callable[[Check], Rule]:
    """Turn a check into a Rule. Rules are found by `catalog`, which lists the modules that hold
    them."""

    def make(check: Check) -> Rule:
        return Rule(code, name, severity, targets, why, fix, source, bad, good, check, rtx)

    return make
