"""Packages that are optional, needed by few runs, or slow to import. Each is imported when it is
first used.

    from sensitivity import optional

    with optional.torch.no_grad(): ...

A module that needs torch only on some paths can thus name it at its top, and a Q/DQ file can be
analysed on a machine without torch.
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
    from pycocotools import mask as mask_tools
    from scipy import stats as stats
    from torch.utils import _pytree as pytree

    __all__ = [
        "Image",
        "ImageOps",
        "graphlay",
        "mask_tools",
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
        "mask_tools": "pycocotools.mask",
        "openvino": "openvino",
        "pytree": "torch.utils._pytree",
        "ray": "ray",
        "stats": "scipy.stats",
        "tflite_schema": "ai_edge_litert.schema_py_generated",
        "torch": "torch",
    },
)
