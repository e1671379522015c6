"""Traces a PyTorch model into an ONNX graph that marks quantizers and layers by name.

Each enabled quantizer becomes a node `sensitivity.Quantizer(x, name=...)` that changes nothing. The
output of each quantized layer and BatchNorm becomes a node `sensitivity.Output(x, module=...,
call=...)`. The passes of `onnx_graph.passes` turn the former into Q/DQ pairs, and use the latter to
name nodes and to check single layers. The float, the quantized and the partial file come from one
traced graph.
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
"""Newest opset of the torch exporter that keeps module names. No operation that it writes computes
other values in opset 21 than in 20."""

IR_VERSIONS = {19: 9, 20: 9, 21: 10}
"""Opset -> first IR version of the file format that has its types."""

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def trace(
    source: QuantizedModel, example_inputs: Any, *, sums: bool = False, opset: int = OPSET
) -> ir.Model:
    """Trace a copy of the model on one batch. The user's model is not changed.

    The first axis, the batch axis, stays dynamic. A model in BF16 or FP16 is traced in FP32 with
    the same weights.

    sums: whether the second operand of every sum in the model's code is marked too, named as in
        `marks.SumOperand`.
    opset: opset of the graph, 17 to 21.
    Raises ExportError, caused by torch's own exception, if the model cannot be exported.
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
    # The exporter would take the graph of a torch.fx module for that of a scripted one.
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
    """Set the opset of the model, and the IR version of the file format that has its types."""
    model.opset_imports[""] = opset
    model.ir_version = max(model.ir_version, IR_VERSIONS.get(opset, 0))
    return model


def _copy(model: nn.Module) -> nn.Module:
    try:
        return model_copy(model)
    except Exception as error:  # copying the model's attributes may raise anything
        raise ExportError(
            f"Expected a model that can be copied for the export, got {type(error).__name__}: "
            f"{error}; keep what cannot be copied, such as open files and locks, out of the model."
        ) from error


def mark_quantizers(model: nn.Module, source: QuantizedModel) -> None:
    """Replace every enabled quantizer, under all of its names, by a mark, and every disabled one by
    an identity."""
    modules = dict(model.named_modules())
    kinds = {type(modules[quantizer.name]) for quantizer in source.quantizers}
    marks: dict[int, nn.Module] = {
        id(module): PreScaled(module) for module in modules.values() if type(module) in kinds
    }
    marks |= {
        id(modules[quantizer.name]): PreScaled(
            modules[quantizer.name], QuantizerMark(quantizer.name)
        )
        for quantizer in source.quantizers
    }
    put_in_place(model, marks)


def mark_outputs(model: nn.Module, layers: set[str]) -> None:
    """Mark the output of each layer and BatchNorm at each of its calls."""
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
    """Replaces a quantizer that first multiplies its input by a pre-quantization scale
    (SmoothQuant, AWQ).

    The scale is applied even if the quantizer is disabled, since the weights after it were divided
    by it.
    """

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
    """Replaces a quantizer while a model is traced, and leaves a mark with its name in the
    graph."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return _marked(x, "Quantizer", name_s=self.name)


def _marked(x: torch.Tensor, kind: str, **attributes: Any) -> torch.Tensor:
    """Return the same values, with a node of this kind in the graph.

    attributes: attributes of the node, with a suffix that gives the exporter their type, `_s` or
        `_i`.
    """
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
    """Return a forward function that takes a flat list of tensors and returns a flat tuple of them.

    Each call appends to `structures` the names of its outputs and their original nest as JSON.
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
            dynamo=False,  # the exporter that supports these opsets and keeps module names
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
