"""The types that a file asks a weakly typed TensorRT network for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from sensitivity.onnx_graph.load import load_model

QDQ_OPS = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True)
class FileTypes:
    """Types of a file.

    quantized: whether it holds Q or DQ.
    half: whether some of its constants or casts are FP16.
    """

    quantized: bool
    half: bool

    def builder_flags(self, float_type: str) -> tuple[str, ...]:
        """Return the flags of a weakly typed build.

        A file without Q/DQ is built in the types that it has, so that the float baseline stays
        float while INT8 files fall back to FP16.

        float_type: type of what a quantized file leaves in float.

        >>> FileTypes(quantized=True, half=False).builder_flags("fp16")
        ('INT8', 'FP16')
        >>> FileTypes(quantized=False, half=False).builder_flags("fp16")
        ()
        """
        flags = []
        if self.quantized:
            flags.append("INT8")
        if self.half or (self.quantized and float_type == "fp16"):
            flags.append("FP16")
        return tuple(flags)

    def precision(self, float_type: str, *, strong: bool) -> str:
        """Return the precision of unquantized layers.

        strong: whether the network is strongly typed; the file's types alone then decide.
        """
        is_half = self.half if strong else "FP16" in self.builder_flags(float_type)
        return "fp16" if is_half else "fp32"


def file_types(file: Path) -> FileTypes:
    """Return the types that a file asks for.

    Raises OnnxFileError if it is not a whole ONNX model.
    """
    graph = load_model(file).graph
    types: set[int | None] = {value.dtype for value in graph.initializers.values()}
    operations = set[str]()
    for node in graph.all_nodes():
        operations.add(node.op_type)
        if node.op_type == "Cast":
            types.add(node.attributes.get_int("to", 0))
    is_quantized = not QDQ_OPS.isdisjoint(operations)
    return FileTypes(is_quantized, ir.DataType.FLOAT16 in types)
