"""Scores all units with one forward and one backward pass per batch, by the curvature of the
outputs' distance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sensitivity.errors import ModelError
from sensitivity.quantizers.base import QuantizedModel
from sensitivity.records import Unit, names_of
from sensitivity.seeds import current_seed


def fisher(
    source: QuantizedModel, units: Sequence[Unit], batches: Iterable[tuple[Any, Any]]
) -> dict[str, float]:
    """Return the effect of quantizing each unit alone on the float model's outputs, to second
    order: unit -> score >= 0.

    For a classifier (one output [n, classes]) the score estimates the mean of `distortion.kl` over
    the samples, in nats; for other outputs that of `distortion.sqnr`. Larger is more sensitive.

    Let d be the error that quantizing a unit makes in the outputs of its layers (computed, not
    linearized), and J the derivative of the model's outputs with respect to them. The score is the
    mean over samples of d' J' M J d. M is half the Fisher information diag(p) - p p' of the
    probabilities p, or the square of one over the norm of each output. For a random v with E[v v']
    = M it is the mean of the square of (v' J) d, and v' J is one backward pass (Hutchinson 1990).
    Second-order saliency: LeCun, Denker and Solla 1990, "Optimal brain damage"; the Fisher
    information in its place for quantization: Li et al. 2021, "BRECQ", which keeps only its
    diagonal, as ModelOpt's auto_quantize does.

    The same batches give the same result, because the signs in v are drawn with the seed of the
    command. Afterwards everything is as it was before: quantizers, hooks, requires_grad, tensors.

    batches: (inputs, targets) as in a task; the targets are not used. Each is run forward and
        backward once.

    Raises ModelError if the model is not a torch model or gradients do not pass, TaskError if it
    refuses a batch.
    """
    if not hasattr(source.model, "register_forward_hook"):
        raise ModelError(
            f"Expected a torch model for --signal fisher, got {type(source.model).__name__}; use "
            "--signal sqnr."
        )
    from sensitivity.signals.fisher_pass import squared_slopes

    totals, samples = dict.fromkeys(names_of(units), 0.0), 0
    for squares, size in squared_slopes(source, units, batches, seed=current_seed()):
        samples += size
        for unit, square in zip(units, squares, strict=True):
            totals[unit.name] += square
    if not samples:
        raise ModelError(
            "Expected at least one batch for --signal fisher, got none; check the data of `rank`."
        )
    return {name: total / samples for name, total in totals.items()}
