"""Runs all checks and handles their findings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
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
    """Return everything that is wrong or doubtful with a task's model and data, errors first.

    target: what a plan must meet; None if it is not known yet.
    """
    checks: list[Callable[[], Iterable[Finding]]] = [
        partial(check_model, session.source, session.example),
        partial(task_float_findings, session),
        partial(unexecuted, session.unexecuted),
        partial(export_findings, session),
        partial(metric_findings, session, target),
    ]
    if session.has_samples:
        checks.append(partial(data_findings, session.task, target))
    found: list[Finding] = []
    with session.measurer.progress("checks", len(checks)) as advance:
        for findings in checks:
            found += findings()
            advance(1, 0)
    return by_severity(found)


def check_model(source: QuantizedModel, example: Any) -> Iterator[Finding]:
    """Yield what can be found about a model without its data.

    example: one batch of inputs; None if there is none.
    """
    yield from source.remaining()
    if isinstance(source, WithFloat) and example is not None:
        yield from source.float_findings(example)


def unexecuted(quantizers: Sequence[Quantizer]) -> Iterator[Finding]:
    """Yield one warning for each layer with quantizers that no forward executes."""
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
    """Return errors first, then warnings, then notes; each kind in the order found."""
    order = {"error": 0, "warning": 1, "note": 2}
    return tuple(sorted(findings, key=lambda finding: order[finding.severity]))


FINAL = {"metric-fails", "target-above-scale"}
"""Errors with which --force does not go on: nothing can be measured, or no plan can be found."""


def refuse_errors(findings: Sequence[Finding], *, force: bool = False) -> None:
    """Raise CheckError if there is an error among the findings.

    force: whether to go on unless the error is one of FINAL.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    for finding in errors:
        if finding.code in FINAL:
            raise CheckError(f"{finding.message} {finding.fix}".strip())
    if force or not errors:
        return
    first, *others = errors
    message = f"{sentence(first)} To continue anyway, add --force."
    if others:
        message += f" ({len(others)} more: see sensitivity check.)"
    raise CheckError(message)


def sentence(finding: Finding) -> str:
    """Return what was found and what to do as text."""
    return f"{finding.message} {finding.fix}".strip()


def warnings_of(findings: Sequence[Finding]) -> tuple[str, ...]:
    """Return what the reader of results must know: all findings except notes."""
    kept = [finding for finding in findings if finding.severity != "note"]
    return tuple(map(sentence, kept))
