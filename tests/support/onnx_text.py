"""Networks written as text."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir


def network_of(text: str, **arrays: np.ndarray) -> ir.Model:
    """The network of onnx's text form, with these arrays as initializers and all shapes known."""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()
    )
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))
