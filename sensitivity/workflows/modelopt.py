"""ModelOpt's quantization of the models that this package prepares itself."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

from sensitivity.errors import MissingPackage

NO_TRANSFORMERS = "Cannot find transformers package"
"""Beginning of a warning when ModelOpt is imported, which concerns language models only."""


def quantize(
    model: Any, config: dict[str, Any], forward: Callable[[Any], None] | None = None
) -> Any:
    """Quantize a model as `mtq.quantize` does, and return it in eval mode.

    It prints nothing, since standard output is for results.

    model: a torch model.
    config: ModelOpt's configuration.
    forward: runs the calibration inputs through the model; None to calibrate later.
    Raises MissingPackage without ModelOpt.
    """
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.filterwarnings("ignore", NO_TRANSFORMERS)
        try:
            import modelopt.torch.quantization as mtq
        except ImportError:
            raise MissingPackage("nvidia-modelopt", "quantizing a model", "modelopt") from None
        return mtq.quantize(model, config, forward).eval()
