"""A rule: what must hold, why, how to fix it, the source, and the smallest graphs that break and
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
"""error: the runtime refuses the file or computes something else. warning: it costs speed or
accuracy. info: it may cost speed or accuracy."""


@dataclass(frozen=True)
class Finding:
    """One place where a rule does not hold.

    node: name of the node in the file, or of its first output if the node has no name.
    message: what must hold and what was found.
    """

    code: str
    severity: Severity
    node: str
    message: str
    fix: str


@dataclass(frozen=True)
class PlanNames:
    """What rules need from plan.json.

    skip: exact names of the skipped units.
    quantizers: exact names of all quantizers that the plan disables.
    """

    skip: tuple[str, ...]
    quantizers: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Subject:
    """The file to be linted.

    plan: None if the user gave none.
    """

    model: ir.Model
    target: str
    plan: PlanNames | None = None

    @property
    def graph(self) -> ir.Graph:
        """The main graph."""
        return self.model.graph

    @property
    def opset(self) -> int:
        """Opset of ONNX's own operators; 0 if the file states none."""
        return self.model.opset_imports.get("", 0)

    @cached_property
    def nodes(self) -> tuple[ir.Node, ...]:
        """Every node, including those of subgraphs."""
        return tuple(self.graph.all_nodes())

    @cached_property
    def pairs(self) -> tuple[qdq.Pair, ...]:
        """Every Q/DQ pair, including those of subgraphs, in the order of the nodes."""
        return tuple(qdq.pairs(self.graph))


Hit = tuple[str, str]
"""Name of the node, and the message: what must hold and what was found."""

Check = Callable[[Subject], Iterator[Hit]]


@dataclass(frozen=True)
class Seen:
    """What the parser and builder of TensorRT-RTX were observed to do with a file that breaks a
    rule.

    does: the observation, to follow the name of the version, as in "runs the layer in float".
    severity: severity of the finding for this target; None takes that of the rule.
    """

    does: str
    severity: Severity | None = None

    @property
    def sentence(self) -> str:
        """The observation as a sentence without a full stop."""
        return f"{RTX_SEEN} {self.does}"


@dataclass(frozen=True)
class Rule:
    """A rule of `sensitivity lint`.

    code: SQ and three digits, the first of which is the topic.
    name: two or three words joined by dashes.
    targets: the targets that the rule is for.
    source: document or source file that states it, or "measured" with what and where.
    bad: a graph that breaks the rule for every target.
    good: the same graph, corrected.
    check: yields the places where the rule does not hold.
    rtx: what TensorRT-RTX was observed to do, even if the rule is not for it; None if that is
        unknown or adds nothing.
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
        """Return the severity of a finding for one of the rule's targets."""
        seen = self.rtx if target == RTX else None
        return self.severity if seen is None or seen.severity is None else seen.severity

    def findings(self, subject: Subject) -> Iterator[Finding]:
        """Yield every place where the rule does not hold, with the severity for the subject's
        target."""
        severity = self.severity_for(subject.target)
        seen = self.rtx if subject.target == RTX else None
        observation = "" if seen is None else f"; {seen.sentence}"
        for node, message in self.check(subject):
            yield Finding(self.code, severity, node, message + observation, self.fix)


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
    """Return a decorator that turns a check into a Rule.

    `catalog` lists the modules in which rules are searched for.
    """

    def make(check: Check) -> Rule:
        return Rule(code, name, severity, targets, why, fix, source, bad, good, check, rtx)

    return make
