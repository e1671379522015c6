"""Writes docs/rules.md from the rules: python -m sensitivity.rules.docs > docs/rules.md"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping

import numpy as np

from sensitivity.rules.base import Rule
from sensitivity.rules.catalog import RULES, TOPICS, rules_of
from sensitivity.rules.examples import CANONICAL, Array, Example
from sensitivity.rules.targets import RTX, RTX_SEEN, TARGETS, TENSORRT

EVERY_TARGET = textwrap.fill(", ".join(f"`{target}`" for target in TARGETS), 99)
HEAD = f"""# Rules of `sensitivity lint`

    sensitivity lint model.onnx --for tensorrt-10
    sensitivity lint model.onnx --for onnxruntime --plan runs/my_task/plan.json --format json

Checks any Q/DQ ONNX file, including files of other tools, for
{EVERY_TARGET}.

- **error**: the runtime refuses the file or computes something else. The exit code is 1.
- **warning**: it costs speed or accuracy. The exit code is 0.
- **info**: it may cost speed or accuracy. The exit code is 0.

Rules for TensorRT come from its public sources and documents, which each rule names; none was
tried on TensorRT itself. Rules whose source says *measured* were tried.
The behaviour of {RTX_SEEN} was observed in its parser and builder, for SM 8.9; nothing was
executed. [rtx_rules.md](../benchmarks/results/rtx_rules.md) has its result for every example.

The two examples of each rule, in ONNX's text syntax, are also its tests. If *Good* is missing, it
is this graph:

```text
{{canonical}}
```

This page is generated from the rules: `python -m sensitivity.rules.docs > docs/rules.md`.
"""


def page() -> str:
    """Return the whole page as Markdown, with one line break at the end."""
    parts = [HEAD.replace("{canonical}", onnx_text(CANONICAL)), index()]
    for topic in TOPICS:
        parts.append(f"## {topic}\n")
        parts += [entry(rule) for rule in rules_of(topic)]
    return "\n".join(parts)


def index() -> str:
    """Return the table at the top of the page: each built-in rule with a link to its section."""
    rows = [
        f"| [{rule.code}](#{anchor(rule)}) | {rule.name} | {_severity(rule)} | {_for(rule)} |"
        for rule in RULES
    ]
    return "\n".join(["| code | name | severity | for |", "|---|---|---|---|", *rows, ""])


def anchor(rule: Rule) -> str:
    """Return the anchor that code hosts give the rule's heading."""
    return f"{rule.code}-{rule.name}".lower()


def entry(rule: Rule) -> str:
    """Return the section of one rule."""
    lines = [
        f"### {rule.code} {rule.name}\n",
        f"*{_severity(rule)}* for {_for(rule)}.\n",
        paragraph(rule.why),
        *([paragraph(f"**Seen.** {rule.rtx.sentence}.")] if rule.rtx is not None else []),
        paragraph(f"**Fix.** {rule.fix}"),
        paragraph(f"**Source.** {rule.source}."),
        f"**Bad**\n\n```text\n{onnx_text(rule.bad)}\n```\n",
    ]
    if rule.good is not CANONICAL:
        lines.append(f"**Good**\n\n```text\n{onnx_text(rule.good)}\n```\n")
    return "\n".join(lines)


def paragraph(text: str) -> str:
    """Return the text in lines of at most 100 columns, with a line break at the end."""
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False) + "\n"


def _severity(rule: Rule) -> str:
    there = rule.severity_for(RTX)
    if RTX not in rule.targets or there == rule.severity:
        return rule.severity
    return f"{rule.severity} ({there} for {RTX})"


def _for(rule: Rule) -> str:
    if set(rule.targets) == set(TARGETS):
        return "every target"
    if set(TENSORRT) <= set(rule.targets):
        return ", ".join(["TensorRT", *(name for name in rule.targets if name not in TENSORRT)])
    return ", ".join(rule.targets)


def onnx_text(example: Example) -> str:
    """Return an example as text, with its inputs, outputs and constants."""
    head = f"({example.inputs}) => ({example.outputs})"
    opset = f"opset {example.opset}: " if example.opset != 17 else ""
    return "\n".join([opset + head, *_given(example), example.body.strip()])


def _given(example: Example) -> Iterator[str]:
    yield from _constants(example.used)
    yield from (f"# metadata: {key} = {value}" for key, value in example.metadata.items())
    if example.skip is not None:
        yield f"# plan: skip {', '.join(example.skip) or 'nothing'}"


def _constants(constants: Mapping[str, Array]) -> Iterator[str]:
    for name, value in constants.items():
        shape = f"[{','.join(map(str, value.shape))}]" if value.shape else ""
        same = bool(np.all(value == value.ravel()[0]) or np.all(np.isnan(value.astype(np.float32))))
        yield f"# {name}: {value.dtype.name}{shape}" + (f" = {value.ravel()[0]:g}" if same else "")


if __name__ == "__main__":
    print(page(), end="")
