"""Packages that a plain install lacks, most runs do without, or that take long to import, each
imported when it is first used.

    from sensitivity import optional

    with optional.torch.no_grad(): ...

So a file that needs torch on some of its ways says so at its top, and a Q/DQ file is analysed on a
machine that has no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sensitivity.first_use import importer

if TYPE_CHECKING:
    import graphlay as graphlay
    import openvino as openvino
    import ray as ray
    import torch as torch
    from ai_edge_litert import schema_py_generated as tflite_schema
    from PIL import Image as Image
    from PIL import ImageOps as ImageOps
    from scipy import stats as stats
    from torch.utils import _pytree as pytree

    __all__ = [
        "Image",
        "ImageOps",
        "graphlay",
        "openvino",
        "pytree",
        "ray",
        "stats",
        "tflite_schema",
        "torch",
    ]

__getattr__ = importer(
    __name__,
    {
        "Image": "PIL.Image",
        "ImageOps": "PIL.ImageOps",
        "graphlay": "graphlay",
        "openvino": "openvino",
        "pytree": "torch.utils._pytree",
        "ray": "ray",
        "stats": "scipy.stats",
        "tflite_schema": "ai_edge_litert.schema_py_generated",
        "torch": "torch",
    },
)
