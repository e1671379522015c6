"""SQ6: what OpenVINO gets wrong."""

from __future__ import annotations

from collections.abc import Iterator

from sensitivity.onnx_graph import qdq
from sensitivity.rules.base import Hit, Subject, rule
from sensitivity.rules.examples import WEIGHT, Example, conv
from sensitivity.rules.examples import qdq as pair
from sensitivity.rules.paths import MOVES_VALUES, grid_type, name_of

HALVES = "float[1,8,8,8] x, float[1,8,8,8] x2"
CONCAT = "[concat] c = Concat <axis = 1> (x, x2)\n"


@rule(
    "SQ601",
    "concat-int8",
    "error",
    ("openvino",),
    why="OpenVINO returns wrong values, without a word, for Concat -> Q (int8) -> DQ -> Conv; with uint8 and zero"
    " point 128, which is the same grid, it is exact.",
    fix="Shift activations to uint8 with zero point 128 ('sensitivity export --for openvino').",
    source="measured: OpenVINO 2024.6, 2025.4.1 and 2026.4.1 on a CPU with VNNI",
    bad=Example(CONCAT + pair("c") + WEIGHT + conv("cd"), inputs=HALVES),
    good=Example(CONCAT + pair("c", zero="u128") + WEIGHT + conv("cd"), inputs=HALVES),
)
def concat_int8(subject: Subject) -> Iterator[Hit]:
    for found in subject.pairs:
        if found.quantize is None or grid_type(found.quantize) != "int8":
            continue
        value = found.source
        while (node := value.producer()) is not None and node.op_type in MOVES_VALUES and node.inputs[0] is not None:
            value = node.inputs[0]
        users = [user for user in found.output.consumers() if qdq.weight(user) is not None]
        if node is not None and node.op_type == "Concat" and users:
            yield (
                found.name,
                f"expected uint8 with zero point 128 between {name_of(node)} and {name_of(users[0])}, got int8",
            )
