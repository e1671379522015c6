"""Copies of torch models in which a tracer sees each quantizer as one node, and the arithmetic of
these nodes."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.errors import ModelError
from sensitivity.quantizers.alternatives import candidate_ranges
from sensitivity.quantizers.base import QuantizedModel, amax_of
from sensitivity.quantizers.torch.biases import BiasChange, Delta, mark_biases
from sensitivity.quantizers.torch.rounded import RoundedWeight
from sensitivity.quantizers.torch.tensor_quantizer import SMALLEST_AMAX
from sensitivity.records import names_of


@torch.library.custom_op("sensitivity::quantizer", mutates_args=())
def quantizer_node(x: Tensor, index: int) -> Tensor:
    """Return a copy of `x`, and mark the place of `quantizers[index]` in a traced graph."""
    return x.clone(memory_format=torch.contiguous_format)


@quantizer_node.register_fake
def _(x: Tensor, index: int) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


class _Mark(nn.Module):
    def __init__(self, indices: list[int]) -> None:
        super().__init__()
        self.indices = indices
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        for index in self.indices:
            x = torch.ops.sensitivity.quantizer(x, index)
        return x


def marked_copy(source: QuantizedModel, biased: Sequence[str] = ()) -> nn.Module:
    """Return a copy of the model, for tracing only, with a `quantizer_node` in the place of each
    enabled quantizer.

    biased: layers whose bias passes through a `quantizer_node`, too. These nodes are numbered after
        those of the quantizers, in this order.

    Weights and buffers are shared with the user's model, so the copy costs no memory and must not
    be changed. A quantizer that has several names is replaced under all of them. The other ranges
    for a quantizer (`alternatives`) have no node here: `simulators.torch.candidates` adds their
    nodes to the graph.
    """
    model = source.model
    marked = model_copy(model, shared=(*model.parameters(), *model.buffers()))
    indices: defaultdict[str, list[int]] = defaultdict(list)
    own = [each for each in source.quantizers if each.replaces is None]
    for index, each in enumerate(own):
        indices[each.name].append(index)
    marks = {id(marked.get_submodule(name)): _Mark(places) for name, places in indices.items()}
    put_in_place(marked, marks)
    numbers = {path: len(own) + at for at, path in enumerate(biased)}
    mark_biases(marked, torch.ops.sensitivity.quantizer, numbers)
    return marked


@dataclass(frozen=True)
class ChangedBias:
    """A candidate range that changes a bias.

    index: into `source.quantizers`.
    layer: path of the module that holds the bias.
    delta: values added to the bias.
    """

    index: int
    layer: str
    delta: Delta


def biased_layers(source: QuantizedModel) -> tuple[str, ...]:
    """Return the paths of the modules whose bias a candidate range could change, whether any does
    or not: a model is then traced once for all repairs."""
    return tuple(sorted(set(_paths(source).values())))


def layers_with_changes(source: QuantizedModel) -> tuple[str, ...]:
    """Return the paths of the modules whose bias is changed by a candidate range."""
    return tuple(sorted({change.layer for change in bias_changes(source)}))


def _paths(source: QuantizedModel) -> dict[str, str]:
    """Return weight quantizer -> path of the module whose bias goes with it.

    The layer of a quantizer may hold several such modules: in a PT2E graph it is a module of the
    user's code, in which several ops have a weight.
    """
    biases = getattr(getattr(source, "own", source), "biases", None)
    if biases is None:
        return {}
    paths = {id(module): path for path, module in source.model.named_modules()}
    return {name: paths[id(layer)] for name, layer in biases.layers.items()}


def bias_changes(source: QuantizedModel) -> list[ChangedBias]:
    """Return all candidate ranges that change a bias."""
    paths, changes = _paths(source), []
    for index, candidate in enumerate(candidate_ranges(source)):
        if candidate.bias is not None:
            changes.append(ChangedBias(index, paths[candidate.quantizer], candidate.bias))
    return changes


def model_copy(model: nn.Module, *, shared: Iterable[Tensor] = ()) -> nn.Module:
    """Return a deep copy of a model.

    shared: tensors that the copy has in common with the model.

    torch's table of functions is shared, too: recurrent layers of ModelOpt hold it, and it cannot
    be copied.
    """
    memo: dict[int, Any] = {id(tensor): tensor for tensor in shared}
    memo[id(torch._VF)] = torch._VF
    return copy.deepcopy(model, memo)


def put_in_place(model: nn.Module, others: Mapping[int, nn.Module]) -> None:
    """Replace modules of a model under all of their names, also in plain lists, from which
    recurrent layers of ModelOpt call their quantizers.

    others: id of a module inside `model` -> its replacement.
    """

    def other(item: Any) -> Any:
        return others.get(id(item), item)

    for module in list(model.modules()):
        children = module._modules
        for attribute, child in list(children.items()):
            children[attribute] = other(child)
        for value in vars(module).values():
            if isinstance(value, list):
                value[:] = map(other, value)


PIECE = 2**17
"""Number of values in a piece: 512 KiB of float32, which fit into the cache of a core. For smaller
pieces the calls of the four passes cost more than nearer caches save. Pieces of 4 MiB take a fifth
longer."""


class GridQuantizer:
    """Fake quantization to an integer grid, bit for bit as NVIDIA's torch toolkits compute it on a
    CPU.

    The toolkits multiply by high / amax, round, clip, and divide by high / amax, in float32
    (`modelopt/torch/quantization/tensor_quant.py`, `_tensor_quant`).
    `torch.fake_quantize_per_*_affine` multiplies by the scale instead. The last bit differs, so a
    value is rounded to another level now and then, and the difference grows downstream. It also
    takes several times as long, since it fills a mask for the gradient.
    """

    fresh = True

    def __init__(self, source: QuantizedModel, name: str) -> None:
        grid, amax = source.grid(name), amax_of(source, name)
        if grid.zero_point != 0 or not isinstance(amax, Tensor):
            raise ModelError(
                f"Expected {name} to be symmetric with a fixed amax, got zero point "
                f"{grid.zero_point}."
            )
        amax = amax.detach().float()
        dead = amax <= SMALLEST_AMAX
        # The multiplier is a tensor, since CUDA divides by a number through its reciprocal, which
        # changes the last bit.
        multiplier = torch.tensor(float(grid.high), device=amax.device) / amax
        # The toolkits multiply a dead channel by 0 and divide it by 1.
        self._multiplier, self._divisor = (
            multiplier.masked_fill(dead, 0.0),
            multiplier.masked_fill(dead, 1.0),
        )
        self._low, self._high = grid.low, grid.high

    def __call__(self, x: Tensor) -> Tensor:
        return self.in_layout(x.contiguous())

    def in_layout(self, x: Tensor) -> Tensor:
        """Return the quantized values in the layout of `x` if it is contiguous or has its channels
        last; else contiguous."""
        dense = x if _is_dense(x) else x.contiguous()
        values = dense.float()
        return self._quantized(values, torch.empty_like(values)).to(x.dtype)

    def overwrite(self, x: Tensor) -> Tensor:
        """Return the quantized values, in the memory of `x` if its type and layout allow that."""
        if not x.is_contiguous():
            return self(x)
        return self.overwrite_in_layout(x)

    def overwrite_in_layout(self, x: Tensor) -> Tensor:
        """Return the same as `in_layout`, in the memory of `x` if its type and layout allow
        that."""
        if x.dtype != torch.float32 or not _is_dense(x):
            return self.in_layout(x)
        return self._quantized(x, x)

    def _quantized(self, x: Tensor, result: Tensor) -> Tensor:
        """Fill `result` with the quantized values of `x`, and return it.

        On a CPU, with one range per tensor, the four passes over memory are made piece by piece,
        while each piece is in the cache.
        """
        whole = x.device.type != "cpu" or self._multiplier.ndim > 0
        pieces = [(x, result)] if whole else _pieces(x, result)
        for source, target in pieces:
            torch.mul(source, self._multiplier, out=target)
            target.round_().clamp_(self._low, self._high).div_(self._divisor)
        return result


def _pieces(x: Tensor, result: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return pairs of views of the same PIECE values of both tensors, which are dense and have the
    same layout."""
    sources, targets = _flat(x).split(PIECE), _flat(result).split(PIECE)  # type: ignore[no-untyped-call]
    return list(zip(sources, targets, strict=True))


def _is_dense(x: Tensor) -> bool:
    """Return whether a tensor fills its memory without gaps, contiguous or with channels last."""
    if x.is_contiguous():
        return True
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _flat(x: Tensor) -> Tensor:
    """Return a view of the values of a dense tensor along one axis, in their order in memory."""
    in_order = x if x.is_contiguous() else x.permute(0, 2, 3, 1)
    return in_order.view(-1)


class OwnQuantizer:
    """The user's own quantizer module, for quantizers without an integer grid (FP8, blocks, ranges
    taken from each batch)."""

    fresh = False

    def __init__(self, source: QuantizedModel, name: str) -> None:
        # A candidate range has no module in the model, so a source with such ranges makes one.
        module_of = getattr(source, "module", source.model.get_submodule)
        self._module: Any = module_of(name)

    def __call__(self, x: Tensor) -> Tensor:
        return self._module(x)  # type: ignore[no-any-return]

    overwrite = None


NativeQuantizer = GridQuantizer | OwnQuantizer | BiasChange | RoundedWeight


def native_quantizers(source: QuantizedModel, *, own: bool = False) -> list[NativeQuantizer]:
    """Return the operations of a traced graph: one for each of `source.quantizers`, then one for
    each of `bias_changes`.

    own: use the user's own module also for a quantizer that has an integer grid.
    """
    make = OwnQuantizer if own else _native
    quantizers: list[NativeQuantizer] = []
    names = names_of(source.quantizers)
    for name, candidate in zip(names, candidate_ranges(source), strict=True):
        quantizer: NativeQuantizer = make(source, name)
        if candidate.rounding is not None:
            quantizer = RoundedWeight(quantizer, source.grid(name), candidate.rounding)
        quantizers.append(quantizer)
    return [*quantizers, *(BiasChange(change.delta) for change in bias_changes(source))]


def _native(source: QuantizedModel, name: str) -> GridQuantizer | OwnQuantizer:
    try:
        return GridQuantizer(source, name)
    except ModelError:
        return OwnQuantizer(source, name)
