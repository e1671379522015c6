"""A PyTorch model as an ONNX graph in which quantizers and layers are still marked by name.

Each enabled quantizer becomes a node `sensitivity.Quantizer(x, name=...)` that changes nothing, and
the output of each quantized layer and BatchNorm a node `sensitivity.Output(x, module=...,
call=...)`. The passes of `onnx_graph.passes` turn the first into Q/DQ pairs and use the second to
name nodes and to check layers one at a time. One traced graph serves the float, the quantized and
the partial file.
"""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import nn
from torch.utils import _pytree as pytree

from sensitivity.errors import ExportError
from sensitivity.exporters.simulate import flat_inputs
from sensitivity.onnx_graph.levels import OPSET
from sensitivity.onnx_graph.marks import DOMAIN, PRE_SCALE
from sensitivity.quantizers.base import QuantizedModel
from sensitivity.quantizers.torch.calls import (
    every_module_called,
    to_device,
    with_types_known,
)
from sensitivity.quantizers.torch.half import as_float32, half_type
from sensitivity.quantizers.torch.native import model_copy, put_in_place
from sensitivity.quantizers.torch.sums import change_sums

NEWEST_TRACED = 20
"""Of torch's exporter that keeps the modules' names. In opset 21 no operation that it writes gives
other values than in 20."""

IR_VERSIONS = {19: 9, 20: 9, 21: 10}
"""Of the file format: the first that has an opset's types."""

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def trace(
    source: QuantizedModel, example_inputs: Any, *, sums: bool = False, opset: int = OPSET
) -> ir.Model:
    """Trace a copy of the model on one batch; the user's model is left alone. The batch axis (the
    first) stays free.

    A model in BF16 or FP16 is traced in FP32, with the same weights.

    sums: mark the second operand of every sum that the model's code takes too, as
    `marks.SumOperand` names it.
    opset: of the graph, 17 to 21.
    Raises ExportError, with torch's own exception as its cause, where the model cannot be exported.
    """
    model, example_inputs = _copy(source.model).cpu().eval(), as_float32(example_inputs)
    if half_type(model) is not None:
        model = model.float()
    mark_quantizers(model, source)
    layers = {quantizer.layer for quantizer in source.quantizers}
    mark_outputs(model, layers)
    if sums:
        marking = {name: partial(_mark_operand, name) for name, _ in model.named_modules()}
        change_sums(model, marking)
    names, tensors = flat_inputs(to_device(example_inputs, "cpu"))
    structures: list[tuple[list[str], str]] = []
    # the exporter would take the graph of a torch.fx module for a scripted one
    is_fx = hasattr(model, "graph")
    forward = flat_forward(model if is_fx else model.forward, example_inputs, structures)
    if is_fx:
        model = nn.ModuleDict({"model": model})
    model.forward = forward
    with torch.inference_mode(), every_module_called(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        proto = _export(model, names, tensors, min(opset, NEWEST_TRACED))
    outputs, structure = structures[-1]
    return with_opset(_named(proto, outputs, structure), opset)


def with_opset(model: ir.Model, opset: int) -> ir.Model:
    """The model, said to be of this opset, with the version of the file format that has its
    types."""
    model.opset_imports[""] = opset
    model.ir_version = max(model.ir_version, IR_VERSIONS.get(opset, 0))
    return model


def _copy(model: nn.Module) -> nn.Module:
    try:
        return model_copy(model)
    except Exception as error:  # whatever the model's own attributes meet in a deep copy
        raise ExportError(
            f"Expected a model that can be copied for the export, got {type(error).__name__}: "
            f"{error}; keep what cannot be copied, such as open files and locks, out of the model."
        ) from error


def mark_quantizers(model: nn.Module, source: QuantizedModel) -> None:
    """Replace every enabled quantizer, under all of its names, by a mark, and every disabled one by
    nothing."""
    modules = dict(model.named_modules())
    kinds = {type(modules[quantizer.name]) for quantizer in source.quantizers}
    marks: dict[int, nn.Module] = {
        id(each): PreScaled(each) for each in modules.values() if type(each) in kinds
    }
    marks |= {
        id(modules[quantizer.name]): PreScaled(
            modules[quantizer.name], QuantizerMark(quantizer.name)
        )
        for quantizer in source.quantizers
    }
    put_in_place(model, marks)


def mark_outputs(model: nn.Module, layers: set[str]) -> None:
    """Mark what each layer, and each BatchNorm, gives each time that it is called."""
    for name, module in model.named_modules():
        if isinstance(module, (PreScaled, QuantizerMark)):
            continue
        if name in layers or isinstance(module, BATCH_NORMS):
            module.register_forward_hook(_marker(name))


def _marker(name: str) -> Callable[[nn.Module, Any, Any], Any]:
    calls: Counter[str] = Counter()

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        calls[name] += 1
        if not isinstance(output, torch.Tensor):
            return output
        return _marked(output, "Output", module_s=name, call_i=calls[name] - 1)

    return hook


def _mark_operand(
    module: str, position: int, first: torch.Tensor, second: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return first, _marked(second, "Operand", module_s=module, sum_i=position)


class PreScaled(nn.Module):
    """Stands in for a quantizer that multiplies its input by a pre-quantization scale first
    (SmoothQuant, AWQ), also where it is disabled: the weights behind it were divided by it."""

    def __init__(self, quantizer: Any, mark: nn.Module | None = None) -> None:
        super().__init__()
        scale = getattr(quantizer, "pre_quant_scale", None)
        self.register_buffer(PRE_SCALE, None if scale is None else scale.detach().float())
        self.mark = mark

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        scale = getattr(self, PRE_SCALE)
        scaled = x if scale is None else x * scale
        return scaled if self.mark is None else self.mark(scaled)


class QuantizerMark(nn.Module):
    """Stands in for a quantizer of this name while a model is traced, and leaves its mark in the
    graph."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return _marked(x, "Quantizer", name_s=self.name)


def _marked(x: torch.Tensor, kind: str, **attributes: Any) -> torch.Tensor:
    """The same values, and in the graph a node of this kind. attributes: of the node, with the
    ending that tells the exporter their type, `_s` or `_i`."""
    marked: torch.Tensor = _Mark.apply(x, kind, attributes)  # type: ignore[no-untyped-call]
    return marked


class _Mark(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, kind: str, attributes: Mapping[str, Any]) -> Any:
        return x.clone()

    @staticmethod
    def symbolic(g: Any, x: Any, kind: str, attributes: Mapping[str, Any]) -> Any:
        return g.op(f"{DOMAIN}::{kind}", x, **attributes).setType(x.type())


def flat_forward(forward: Any, example_inputs: Any, structures: list[tuple[list[str], str]]) -> Any:
    """A forward that takes a flat list of tensors and gives a flat tuple of them.

    At each call it appends to `structures` the names of its outputs, and the nest that they came in
    as JSON.
    """

    def flat(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if isinstance(example_inputs, Mapping):
            outputs = forward(**dict(zip(example_inputs, tensors, strict=True)))
        else:
            outputs = forward(*tensors)
        paths, spec = pytree.tree_flatten_with_path(with_types_known(outputs))
        for path, value in paths:
            if not isinstance(value, torch.Tensor):
                raise ExportError(
                    "Expected every output of the model to be a tensor, got "
                    f"{type(value).__name__} at output{pytree.keystr(path)}; wrap the model in a "
                    "module that gives tensors only."
                )
        structures.append(([_output_name(path) for path, _ in paths], pytree.treespec_dumps(spec)))
        return tuple(value for _, value in paths)

    return flat


def _output_name(path: Any) -> str:
    parts = [
        str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path
    ]
    return "_".join(["output", *parts])


def _export(
    model: nn.Module, names: list[str], tensors: list[torch.Tensor], opset: int
) -> onnx.ModelProto:
    buffer = io.BytesIO()
    try:
        torch.onnx.export(
            model,
            tuple(tensors),
            buffer,  # type: ignore[arg-type]
            input_names=names,
            opset_version=opset,
            dynamo=False,  # the exporter that gives these opsets and keeps the modules' names
            do_constant_folding=False,
            dynamic_axes={name: {0: "batch"} for name in names},
            custom_opsets={DOMAIN: 1},
        )
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"Expected torch.onnx.export (TorchScript, opset {opset}) to take the model, got "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}; the "
            "model must be traceable."
        ) from error
    return onnx.load_from_string(buffer.getvalue())


def _named(proto: onnx.ModelProto, outputs: list[str], structure: str) -> ir.Model:
    model: ir.Model = ir.from_proto(proto)
    for value, name in zip(model.graph.outputs, outputs, strict=True):
        value.name = name
        if value.shape is not None:
            # The exporter gives the first axis the size of the example.
            value.shape = ir.Shape(["batch", *value.shape[1:]]) if len(value.shape) else None
    model.metadata_props["sensitivity.outputs"] = structure
    return model
