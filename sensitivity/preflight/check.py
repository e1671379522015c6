"""The checks in turn, and what they found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sensitivity.errors import CheckError, listed
from sensitivity.preflight.data import data_findings
from sensitivity.preflight.export import export_findings
from sensitivity.preflight.float_model import task_float_findings
from sensitivity.preflight.metric import metric_findings
from sensitivity.quantizers.base import QuantizedModel, WithFloat
from sensitivity.records import Finding, Quantizer, Target
from sensitivity.session import Session


def check(session: Session, target: Target | None = None) -> tuple[Finding, ...]:
    """Everything that is wrong or doubtful with a task's model and data, the errors first.

    target: what a plan must hold; None where it is not known yet.
    """
    found = [
        *check_model(session.source, session.example),
        *task_float_findings(session),
        *unexecuted(session.unexecuted),
        *export_findings(session),
        *metric_findings(session, target),
        *(data_findings(session.task, target) if session.has_samples else ()),
    ]
    return by_severity(found)


def check_model(source: QuantizedModel, example: Any) -> Iterator[Finding]:
    """What can be said of a model without its data. example: one batch of inputs; None where there
    is none."""
    yield from source.remaining()
    if isinstance(source, WithFloat) and example is not None:
        yield from source.float_findings(example)


def unexecuted(quantizers: Sequence[Quantizer]) -> Iterator[Finding]:
    """One warning for each layer of which no forward executes some quantizer."""
    layers = defaultdict[str, list[str]](list)
    for quantizer in quantizers:
        layers[quantizer.layer].append(quantizer.name)
    for layer, names in layers.items():
        yield Finding(
            "never-executed",
            "warning",
            layer,
            "Expected a forward of the task's data to execute every quantizer, got "
            f"{listed(names)} of {layer} never executed: left out of the scan, and not quantized.",
            "Nothing, where this part runs in training only; else check that the forward calls it.",
        )


def by_severity(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors first, then warnings, then notes; each kind in the order found."""
    order = {"error": 0, "warning": 1, "note": 2}
    return tuple(sorted(findings, key=lambda finding: order[finding.severity]))


def refuse_errors(findings: Sequence[Finding], *, force: bool = False) -> None:
    """Raise CheckError where there is an error among the findings; with `force` only where nothing
    can be measured."""
    errors = [finding for finding in findings if finding.severity == "error"]
    for finding in errors:
        if finding.code == "metric-fails":
            raise CheckError(finding.message)
    if force or not errors:
        return
    first, *others = errors
    said = f"{sentence(first)} To go on all the same, add --force."
    if others:
        said += f" ({len(others)} more: see sensitivity check.)"
    raise CheckError(said)


def sentence(finding: Finding) -> str:
    """What was found and what to do, for one who reads text."""
    return f"{finding.message} {finding.fix}".strip()


def warnings_of(findings: Sequence[Finding]) -> tuple[str, ...]:
    """What the reader of results must know: everything but the notes."""
    kept = [finding for finding in findings if finding.severity != "note"]
    return tuple(map(sentence, kept))
