"""Which types a file asks a weakly typed TensorRT network for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from sensitivity.onnx_graph.load import load_model

QDQ_OPS = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True)
class FileTypes:
    """quantized: it holds Q or DQ. half: some of its constants or casts are FP16."""

    quantized: bool
    half: bool

    def builder_flags(self, float_type: str) -> tuple[str, ...]:
        """Flags of a weakly typed build. float_type is for what a quantized file leaves in float; a
        file without Q/DQ is built in the types that it has, so that the float baseline stays float
        where INT8 files fall back to FP16.

        >>> FileTypes(quantized=True, half=False).builder_flags("fp16")
        ('INT8', 'FP16')
        >>> FileTypes(quantized=False, half=False).builder_flags("fp16")
        ()
        """
        flags = {
            "INT8": self.quantized,
            "FP16": self.half or (self.quantized and float_type == "fp16"),
        }
        return tuple(flag for flag, is_set in flags.items() if is_set)

    def precision(self, float_type: str, *, strong: bool) -> str:
        """What unquantized layers run in: the file's types alone where the network is strongly
        typed."""
        may_fall_back = not strong and "FP16" in self.builder_flags(float_type)
        return "fp16" if self.half or may_fall_back else "fp32"


def file_types(file: Path) -> FileTypes:
    """Raises OnnxFileError for a file that is not a whole ONNX model."""
    graph = load_model(file).graph
    nodes = list(graph.all_nodes())
    types: set[int | None] = {value.dtype for value in graph.initializers.values()}
    types |= {node.attributes.get_int("to", 0) for node in nodes if node.op_type == "Cast"}
    is_quantized = any(node.op_type in QDQ_OPS for node in nodes)
    return FileTypes(is_quantized, ir.DataType.FLOAT16 in types)
