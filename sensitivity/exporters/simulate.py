"""Runs the user's fake-quantized model and records what exported files are compared with."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from sensitivity import optional
from sensitivity.errors import ExportError
from sensitivity.onnx_graph.levels import broadcast_scale, level_type, nearest_levels
from sensitivity.onnx_graph.passes.insert_qdq import QuantizedWeight
from sensitivity.quantizers.base import QuantizedModel, file_grid
from sensitivity.quantizers.torch.calls import arguments, call, device_of, to_device
from sensitivity.records import names_of
from sensitivity.seeds import generator
from sensitivity.tasks.batches import as_numpy, batch_size

ROUNDING = 2.0**-24
"""Half a unit in the last place of float32, relative to the largest summand."""


def outputs_of(source: QuantizedModel, inputs: Any, disabled: Collection[str]) -> Any:
    """Return the outputs of the model for one batch with exactly these quantizers disabled, on the
    CPU."""
    with optional.torch.inference_mode(), source.disabled(disabled):
        return to_device(call(source.model, to_device(inputs, device_of(source.model))), "cpu")


def quantized_weights(
    source: QuantizedModel, inputs: Any
) -> tuple[dict[str, QuantizedWeight], set[str]]:
    """Return the input and output of each weight quantizer, and the names of all quantizers that
    this batch reaches."""
    weights: dict[str, QuantizedWeight] = {}
    reached: set[str] = set()
    roles = {quantizer.name: quantizer.role for quantizer in source.quantizers}

    def keep(name: str, args: Any, output: Any) -> None:
        reached.add(name)
        if roles[name] == "weight" and name not in weights:
            weights[name] = _quantized_weight(source, name, args[0], output)

    with hooked(source, roles, keep):
        outputs_of(source, inputs, ())
    return weights, reached


@contextmanager
def reached_quantizers(source: QuantizedModel) -> Iterator[set[str]]:
    """Yield a set that receives the names of the quantizers that are called inside the `with`,
    enabled or not."""
    reached: set[str] = set()

    def keep(name: str, args: Any, output: Any) -> None:
        reached.add(name)

    with hooked(source, names_of(source.quantizers), keep):
        yield reached


def _quantized_weight(
    source: QuantizedModel, name: str, given: Any, output: Any
) -> QuantizedWeight:
    grid = file_grid(source, name)
    values, quantized = numpy(given), numpy(output)
    steps = quantized / broadcast_scale(grid.scale, grid, quantized.shape)
    return QuantizedWeight(values, nearest_levels(steps, level_type(name, grid)))


def jittered_outputs(
    source: QuantizedModel, inputs: Any, disabled: Collection[str], number: int, noise: float = 0.0
) -> Any:
    """Return outputs as `outputs_of`, with every activation perturbed before it is quantized.

    The result is what the model computes if the same sums are taken in another order: a few values
    near a rounding boundary change by a whole step, and those steps move others. Deep models end up
    far from themselves (ResNet-20: a quarter of what quantization changes), so no exact export can
    agree better than this.

    number: number of the random draw.
    noise: size of the perturbation relative to the largest value; at least the rounding error of
        float32.
    """
    modules = dict(source.model.named_modules())
    draw = generator(offset=number)

    def jitter(module: Any, args: Any) -> Any:
        array = numpy(args[0])
        largest = np.abs(array).max(initial=0) * max(noise, ROUNDING)
        moved = np.empty_like(array)
        for sample in np.ndindex(array.shape[:1]):  # the draws have eight bytes each
            moved[sample] = draw.uniform(-1, 1, array.shape[1:]) * largest
        return (args[0] + optional.torch.from_numpy(moved).to(args[0].device), *args[1:])

    with ExitStack() as stack:
        for quantizer in source.quantizers:
            if quantizer.role != "weight" and quantizer.name not in disabled:
                stack.callback(modules[quantizer.name].register_forward_pre_hook(jitter).remove)
        return outputs_of(source, inputs, disabled)


@contextmanager
def hooked(source: QuantizedModel, names: Collection[str], keep: Any) -> Iterator[None]:
    """Call keep(name, args, output) after each call of these modules, inside the `with`."""
    modules = dict(source.model.named_modules())

    def hook_for(name: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            keep(name, args, output)

        return hook

    with ExitStack() as stack:
        for name in names:
            stack.callback(modules[name].register_forward_hook(hook_for(name)).remove)
        yield


def numpy(tensor: Any) -> np.ndarray:
    """Return a tensor as an array on the host. bfloat16, which numpy lacks, becomes float32."""
    return as_numpy(tensor)


def first_samples(inputs: Any, samples: int) -> Any:
    """Return the first samples of a batch, which is a tensor, or a tuple, list or mapping of
    tensors."""
    return samples_of(inputs, 0, samples)


def chunks(batches: Iterable[Any], size: int, most: int) -> Iterator[Any]:
    """Yield the first `most` samples of batches of inputs, `size` at a time."""
    left = most
    for inputs in batches:
        count = min(batch_size(inputs), left)
        for start in range(0, count, size):
            yield samples_of(inputs, start, min(start + size, count))
        left -= count
        if left <= 0:
            return


def samples_of(inputs: Any, start: int, stop: int) -> Any:
    """Return some samples of a batch, which is a tensor, or a tuple, list or mapping of tensors."""
    if isinstance(inputs, Mapping):
        return {key: samples_of(value, start, stop) for key, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return tuple(samples_of(value, start, stop) for value in inputs)
    return inputs[start:stop]


def flat_inputs(inputs: Any) -> tuple[list[str], list[optional.torch.Tensor]]:
    """Return the names and tensors of one batch.

    The names are `input` for a tensor, `input_0`, ... for a tuple or list, or the keys of a
    mapping.
    """
    args, kwargs = arguments(inputs)
    named = {f"input_{index}": value for index, value in enumerate(args)} | kwargs
    if not isinstance(inputs, (tuple, list, Mapping)):
        named = {"input": inputs}
    for name, value in named.items():
        if not isinstance(value, optional.torch.Tensor):
            raise ExportError(
                f"Expected every input of the model to be a tensor, got {type(value).__name__} for "
                f"{name}; wrap the model in a module that takes tensors only."
            )
    return list(named), list(named.values())
