"""Packages that a plain install lacks, each imported when it is first used.

    from sensitivity import optional

    with optional.torch.no_grad(): ...

So a file that needs torch on some of its ways says so at its top, and a Q/DQ file is analysed on a
machine that has no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import openvino as openvino
    import torch as torch
    from PIL import Image as Image
    from PIL import ImageOps as ImageOps
    from torch.utils import _pytree as pytree

    __all__ = ["Image", "ImageOps", "openvino", "pytree", "torch"]

_MODULES = {
    "Image": "PIL.Image",
    "ImageOps": "PIL.ImageOps",
    "openvino": "openvino",
    "pytree": "torch.utils._pytree",
    "torch": "torch",
}


def __getattr__(name: str) -> Any:
    """The module of this name. Raises ModuleNotFoundError where it is not installed."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(_MODULES[name])
