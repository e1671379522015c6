"""Brings a float file into the form that a quantizer takes, without changing what it computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from sensitivity.errors import OnnxFileError, SensitivityError
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.passes.fake_quant_pairs import is_fake_quant
from sensitivity.onnx_graph.passes.focus_as_conv import with_focus_as_conv
from sensitivity.onnx_graph.qdq import PAIR
from sensitivity.onnx_graph.refusals import is_quantized_otherwise
from sensitivity.quantizers.onnx.batches import Arrays
from sensitivity.quantizers.onnx.float_model import distance, run_batch, tolerances
from sensitivity.quantizers.onnx.model import optimized, session

FIRST_OPSET = 13
"""First opset with a scale per channel. For earlier ones, ONNX Runtime's quantizer writes invalid
files."""

SAME = 1e-4
"""Usual limit on the difference of outputs, as a fraction of their spread, since sums are taken in
another order."""

WITH_BIAS = ("Conv", "ConvTranspose", "Gemm")
"""Operations whose third input is a bias."""

HALF = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
"""Types of half precision."""


class FloatFile:
    """A float ONNX file that ONNX Runtime can run.

    model: the model as it is in the file, or with other shapes; its weights are in memory.
    Raises OnnxFileError if ONNX Runtime refuses it.
    """

    def __init__(self, path: Path, model: onnx.ModelProto) -> None:
        self.path = path
        self.model = model
        self.session = session(model.SerializeToString(), path.name)

    def get_inputs(self) -> Sequence[Any]:
        """Return the inputs as InferenceSession does."""
        return list(self.session.get_inputs())

    def get_outputs(self) -> Sequence[Any]:
        """Return the outputs as InferenceSession does."""
        return list(self.session.get_outputs())

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any]) -> list[Any]:
        """Return the outputs as InferenceSession does."""
        return list(self.session.run(output_names, dict(input_feed)))

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of the file by key."""
        return {item.key: item.value for item in self.model.metadata_props}

    @property
    def opset(self) -> int:
        """The version of the standard operations."""
        return opset_of(self.model)


def is_float(path: Path) -> bool:
    """Return whether no operation of the file belongs to a quantizer.

    Files that are quantized in part are calibrated already.
    Raises OnnxFileError for a file that cannot be read.
    """
    model = load_model(path)
    bodies = (function.all_nodes() for function in model.functions.values())
    nodes = chain(model.graph.all_nodes(), *bodies)
    return not any(_is_of_quantizer(node) for node in nodes)


def _is_of_quantizer(node: ir.Node) -> bool:
    """Return whether the operation is part of a pair or quantized in another way."""
    return node.op_type in PAIR or is_quantized_otherwise(node) or is_fake_quant(node)


def float_file(path: Path, shapes: Mapping[str, Sequence[int | str]]) -> FloatFile:
    """Return the file with these shapes of its inputs.

    shapes: name of an input, or "" for the only one -> its sides, with a word for a side of any
        length.
    Raises OnnxFileError for a file in half precision, which the quantizer does not take, and for
    one that cannot be run; SensitivityError for shapes that do not fit its inputs.
    """
    loaded = load_model(path)
    ir.external_data.load_to_model(loaded)
    proto: onnx.ModelProto = ir.to_proto(loaded)
    kinds = {tensor.data_type for tensor in proto.graph.initializer}
    if kinds & HALF:
        raise OnnxFileError(
            f"Expected {path.name} to be a float file in FP32, got weights in half precision; "
            "export it in FP32: INT8 ranges and the comparison with float need its full precision."
        )
    _drop_overridable(proto)
    if shapes:
        _fix_shapes(proto, shapes, path)
    return FloatFile(path, proto)


def prepared(file: FloatFile, example: Arrays) -> onnx.ModelProto:
    """Return the model with opset 13 or later, constants and BatchNorm folded, each Focus as one
    convolution, and a name for every operation.

    example: inputs of one batch, on which the result is compared with the file.
    Raises OnnxFileError if it cannot be converted, or computes something else.
    """
    lifted = _lifted(file)
    folded = with_focus_as_conv(optimized(lifted.SerializeToString(), file.path.name))
    result: onnx.ModelProto = ir.to_proto(folded)
    _only_used_opsets(result)
    name_nodes(result.graph)
    flatten_biases(result.graph)
    separate_biases(result.graph)
    _check_same(file, result, example)
    return onnx.shape_inference.infer_shapes(result, data_prop=True)


def flatten_biases(graph: onnx.GraphProto) -> None:
    """Give each constant bias of a Gemm the shape [outputs], as the quantizer needs it."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        names = list(filter(constants.__contains__, node.input[1:3]))
        if node.op_type != "Gemm" or len(names) < 2:
            continue
        weight, bias = (onnx.numpy_helper.to_array(constants[name]) for name in names)
        outputs = weight.shape[_output_axis(node)]
        is_flat = bias.shape == (outputs,)
        is_row = set(bias.shape[:-1]) <= {1}  # the same values for all samples
        if is_row and not is_flat:
            flat = np.broadcast_to(bias.reshape(-1), outputs).copy()
            _give_bias(graph, node, onnx.numpy_helper.from_array(flat))


def separate_biases(graph: onnx.GraphProto) -> None:
    """Give each operation a bias of its own.

    ONNX Runtime's quantizer does so too, but names the copy of `conv_25` `conv_252`, even if a
    tensor has this name.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    seen = set[str]()
    for node in graph.node:
        has_bias = node.op_type in WITH_BIAS and len(node.input) > 2
        if not has_bias or node.input[2] not in constants:
            continue
        name = node.input[2]
        if name in seen:
            _give_bias(graph, node, constants[name])
        seen.add(name)


def _give_bias(graph: onnx.GraphProto, node: onnx.NodeProto, bias: onnx.TensorProto) -> None:
    """Let a node read a copy of this constant, named after the node's output."""
    copy = onnx.TensorProto()
    copy.CopyFrom(bias)
    copy.name = f"{node.output[0]}_bias"
    graph.initializer.append(copy)
    node.input[2] = copy.name


def _output_axis(gemm: onnx.NodeProto) -> int:
    """Return the axis of a Gemm's weight that has one entry per output."""
    numbers = {attribute.name: attribute.i for attribute in gemm.attribute}
    return 0 if numbers.get("transB") else 1


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the standard operations."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    return int(max(versions.get("", 1), versions.get("ai.onnx", 1)))


def name_nodes(graph: onnx.GraphProto) -> None:
    """Give each operation that has no name, or shares one with others, a name made of its type and
    output."""
    seen = Counter(node.name for node in graph.node)
    for node in graph.node:
        is_taken = seen[node.name] > 1
        if not node.name or is_taken:
            output = next(iter(node.output), "")
            node.name = f"{node.op_type}_{output}"


def _lifted(file: FloatFile) -> onnx.ModelProto:
    """Return the model with opset 13 or later. Raises OnnxFileError if it cannot be converted."""
    if file.opset >= FIRST_OPSET:
        return file.model
    try:
        model: onnx.ModelProto = onnx.version_converter.convert_version(file.model, FIRST_OPSET)
    except Exception as error:  # raised in C++, without a public base class
        said = " ".join(str(error).split())[:200]
        raise OnnxFileError(
            f"Expected {file.path.name} of opset {file.opset} to be lifted to opset {FIRST_OPSET}, "
            f"which INT8 with scales per channel needs, got from onnx.version_converter: {said}; "
            f"export it again with opset {FIRST_OPSET} or later."
        ) from error
    _drop_overridable(model)
    return model


def _check_same(file: FloatFile, result: onnx.ModelProto, example: Arrays) -> None:
    """Raise OnnxFileError if the result does not compute what the file does."""
    names = [value.name for value in file.get_outputs()]
    theirs = run_batch(file.session, example, names)
    ours = run_batch(session(result.SerializeToString(), file.path.name), example, names)
    allowed = tolerances(file.session, example, theirs, SAME)
    apart = {name: distance(ours[name], theirs[name]) for name in allowed}
    worst = max(allowed, key=lambda name: apart[name] / allowed[name], default=None)
    if worst is not None and not apart[worst] <= allowed[worst]:
        raise OnnxFileError(
            f"Expected {file.path.name}, lifted to opset {opset_of(result)} and with BatchNorm and "
            f"constants folded, to compute what it did, got output {worst} that differs by "
            f"{apart[worst]:.2g} of its spread (up to {allowed[worst]:.1g} is rounding); "
            f"export it with opset {FIRST_OPSET} or later."
        )


def _drop_overridable(model: onnx.ModelProto) -> None:
    """Remove constants from the inputs, among which files before IR version 4 list them too.

    An input is neither folded nor quantized as a weight.
    """
    # Before version 4 every constant had to be an input, and the converter looks for it there.
    model.ir_version = max(model.ir_version, 4)
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    del graph.input[:]
    graph.input.extend(inputs)


def _only_used_opsets(model: onnx.ModelProto) -> None:
    """Remove unused domains. ONNX Runtime declares all that it knows, and other runtimes would look
    for them."""
    used = {""}
    for node in ir.from_proto(model).graph.all_nodes():
        used.add(node.domain)
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _fix_shapes(
    model: onnx.ModelProto, shapes: Mapping[str, Sequence[int | str]], path: Path
) -> None:
    """Give inputs these shapes, as `float_file` describes."""
    inputs = {value.name: value for value in model.graph.input}
    only = list(inputs) if len(inputs) == 1 else [""]
    for name, sides in shapes.items():
        wanted = name or only[0]
        if wanted not in inputs:
            raise SensitivityError(
                f"Expected --shape as NAME=SIDES for an input of {path.name} "
                f"({', '.join(inputs)}), got {name or 'no name'}; write --shape "
                f"{next(iter(inputs))}=1,3,224,224."
            )
        given = inputs[wanted].type.tensor_type.shape.dim
        if len(given) != len(sides):
            raise SensitivityError(
                f"Expected --shape of {wanted} to have its {len(given)} sides, got "
                f"{','.join(map(str, sides))}; write a word for a side of any length."
            )
        for side, length in zip(given, sides, strict=True):
            if isinstance(length, int):
                side.dim_value = length
            else:
                side.dim_param = length
    _infer_other_shapes(model)


def _infer_other_shapes(model: onnx.ModelProto) -> None:
    """Infer all other shapes from those of the inputs."""
    del model.graph.value_info[:]
    for value in model.graph.output:
        for side in value.type.tensor_type.shape.dim:  # the rank must stay
            side.Clear()
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    model.graph.CopyFrom(inferred.graph)
