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
        fp16 = self.half or (self.quantized and float_type == "fp16")
        return (("INT8",) if self.quantized else ()) + (("FP16",) if fp16 else ())

    def precision(self, float_type: str, *, strong: bool) -> str:
        """What unquantized layers run in: the file's types alone where the network is strongly
        typed."""
        return (
            "fp16"
            if self.half or (not strong and "FP16" in self.builder_flags(float_type))
            else "fp32"
        )


def file_types(file: Path) -> FileTypes:
    """Raises OnnxFileError for a file that is not a whole ONNX model."""
    graph = load_model(file).graph
    nodes = list(graph.all_nodes())
    casts = (node.attributes.get("to") for node in nodes if node.op_type == "Cast")
    return FileTypes(
        quantized=any(node.op_type in QDQ_OPS for node in nodes),
        half=any(value.dtype == ir.DataType.FLOAT16 for value in graph.initializers.values())
        or any(to is not None and to.as_int() == ir.DataType.FLOAT16 for to in casts),
    )
