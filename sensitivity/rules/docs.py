"""docs/rules.md, written from the rules: python -m sensitivity.rules.docs > docs/rules.md"""

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

Judges any Q/DQ ONNX file, also from other tools, for
{EVERY_TARGET}.

- **error**: the runtime refuses the file, or computes something else; the exit code is 1.
- **warning**: it costs speed or accuracy. **info**: it may. The exit code is 0.

Rules for TensorRT come from its public sources and documents, as each says; none was tried on
TensorRT itself. Those marked *measured* were tried.
What {RTX_SEEN} does was seen in its parser and builder, for SM 8.9; nothing was
executed. What it makes of every example: [rtx_rules.md](../benchmarks/results/rtx_rules.md).

Each rule's two examples, in ONNX's text syntax, are its tests. Where *Good* is missing, it is this:

```text
{{canonical}}
```

This page is written from the rules: `python -m sensitivity.rules.docs > docs/rules.md`.
"""


def page() -> str:
    """The whole page as Markdown, one line break at its end."""
    parts = [HEAD.replace("{canonical}", onnx_text(CANONICAL)), index()]
    for topic in TOPICS:
        parts.append(f"## {topic}\n")
        parts += [entry(rule) for rule in rules_of(topic)]
    return "\n".join(parts)


def index() -> str:
    """The table at the head of the page: each of our rules with a link to its section."""
    rows = [
        f"| [{rule.code}](#{anchor(rule)}) | {rule.name} | {_severity(rule)} | {_for(rule)} |"
        for rule in RULES
    ]
    return "\n".join(["| code | name | severity | for |", "|---|---|---|---|", *rows, ""])


def anchor(rule: Rule) -> str:
    """How code hosts link to the rule's heading."""
    return f"{rule.code}-{rule.name}".lower()


def entry(rule: Rule) -> str:
    """One rule's section."""
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
    """Lines of at most 100 columns, and a line break at the end."""
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
    """An example with its inputs, outputs and constants."""
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
