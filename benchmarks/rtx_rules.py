"""What the parser and builder of TensorRT-RTX make of both examples of every lint rule.

    python benchmarks/rtx_rules.py

Needs tensorrt-rtx and no GPU, since nothing is executed. The tests compare the table with the
installed version, and with what lint says for tensorrt-rtx.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx

from sensitivity.rules.catalog import RULES
from sensitivity.rules.examples import Example
from sensitivity.runtimes.tensorrt_rtx_build import SM, build
from sensitivity.timing.engine_structure import structure_of

OUT = Path(__file__).parent / "results" / "rtx_rules.md"
NOT_BUILT = {"SQ204 bad"}
"""Rules whose scale is not a constant, from which nothing can be learned about the builder."""


def examples() -> Iterator[tuple[str, Example]]:
    """Every example, by the code of its rule and "good" or "bad"."""
    for rule in RULES:
        yield f"{rule.code} bad", rule.bad
        yield f"{rule.code} good", rule.good


def answer(example: Example, path: Path) -> str:
    """ "refused", or the types of the layers with a weight, each once, such as "int8" or "fp32,
    int8".

    It is "built" if the engine names no such layer.

    path: where the file is written.
    """
    onnx.save(example.proto(), path)
    made = build(path)
    if not made.ok:
        return "refused"
    types = {layer.built for layer in structure_of(made, path).layers if layer.built is not None}
    return ", ".join(sorted(types)) or "built"


def answers() -> dict[str, str]:
    """The answer for every example, "not built" for those in NOT_BUILT. Each takes about a
    second."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "example.onnx"
        return {
            name: "not built" if name in NOT_BUILT else answer(example, path)
            for name, example in examples()
        }


def markdown(found: dict[str, str], version: str) -> str:
    lines = [
        "# What TensorRT-RTX makes of the examples of the lint rules",
        "",
        f"`python benchmarks/rtx_rules.py`, with tensorrt-rtx {version}, for SM {SM}. "
        "Types are those of the",
        "layers with a weight, as the builder lists them; *built*: it lists none. Nothing was "
        "executed.",
        "",
        "| rule | bad | good |",
        "|---|---|---|",
        *(f"| {rule.code} | {found[f'{rule.code} bad']} | {found[f'{rule.code} good']} |"
          for rule in RULES),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def read(page: str) -> tuple[str, dict[str, str]]:
    """The version that a table was made with, and its answers."""
    version = page.partition("tensorrt-rtx ")[2].partition(",")[0]
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| SQ")]
    found = {}
    for code, bad, good in rows:
        found |= {f"{code} bad": bad, f"{code} good": good}
    return version, found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=OUT, help="The table, as Markdown.")
    arguments = parser.parse_args()
    import tensorrt_rtx

    arguments.out.write_text(markdown(answers(), tensorrt_rtx.__version__))


if __name__ == "__main__":
    main()
