"""A Q/DQ ONNX file as the model of a task, used like an `onnxruntime.InferenceSession`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from sensitivity.errors import OnnxFileError
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.biases import BiasPlace, bias_place
from sensitivity.onnx_graph.canonical import canonical
from sensitivity.onnx_graph.clamps import clamping_pairs, clamps_of
from sensitivity.onnx_graph.float_model import FloatModel, Form, float_model, with_batchnorm_folded
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.passes.fake_quant_pairs import FakeQuantPairs
from sensitivity.onnx_graph.passes.focus_as_conv import with_focus_as_conv
from sensitivity.onnx_graph.passes.skip_uses import NewGrid, SkipUses, Weights, dequantized
from sensitivity.onnx_graph.refusals import check_switchable
from sensitivity.onnx_graph.uses import integer_biases, paths, uses
from sensitivity.onnx_graph.walk import first_input, value_name
from sensitivity.quantizers.onnx.batches import feed, fixed_batch, length, pieces, without_filling
from sensitivity.quantizers.recent import Recent
from sensitivity.records import names_of

Watcher = Callable[[str, NDArray[Any]], None]
"""Function of a tensor's name and its values."""

SESSIONS = 2
"""Number of variants that keep their session. An evaluator runs one variant many times and then
never again."""


class OnnxModel:
    """A Q/DQ file whose uses of pairs can be switched.

    run, get_inputs, get_outputs and get_providers are those of an InferenceSession. All graph
    optimizations are off, so that the results are those of the file itself, without the fusions of
    a runtime.

    path: a Q/DQ file from any toolkit.
    float_path: the file that it was made from, whose weights, biases and activations a skipped
        operation gets. With None, weights stay what their pairs give.
    custom_ops: a library for ONNX Runtime's `register_custom_ops_library`.
    stand_alone: shapes of a batch and number of samples -> whether so many samples at a time give
        what the whole batch gives, as far as it was tried.
    agrees_in_parts: whether the file run in parts is known to give the file's own outputs.
    Raises OnnxFileError for a file that cannot be read, or whose quantizers cannot be switched.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        float_path: str | Path | None = None,
        custom_ops: str | Path | None = None,
    ) -> None:
        self.path = Path(path)
        self.custom_ops = custom_ops
        self.graph = canonical(with_pairs(_loaded(self.path)))
        check_switchable(self.graph, self.path.name, custom_ops=custom_ops is not None)
        self.paths = paths(self.graph.graph)
        self.float: FloatModel | None = None
        if float_path is not None:
            forms = float_forms(Path(float_path), custom_ops)
            self.float = float_model(self.graph.graph, self.paths, forms, Path(float_path).name)
        self.weights: Weights = {} if self.float is None else self.float.weights
        self.uses = uses(self.paths)
        if not self.uses:
            raise OnnxFileError(
                f"Expected {self.path.name} to hold Q/DQ pairs that operations read, got pairs "
                "that nothing reads; export the model again."
            )
        self.clamps = clamps_of(
            clamping_pairs(self.uses, self.graph.graph.inputs),
            {} if self.float is None else self.float.limits,
        )
        self.stand_alone: dict[Any, bool] = {}
        self.agrees_in_parts = False
        self._skipped: frozenset[str] = frozenset()
        self._grids: dict[str, NewGrid] = {}
        self._threads = 0
        self._sessions = Recent[Any](SESSIONS)
        self._watched: tuple[tuple[str, ...], Watcher] | None = None

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: Any = None,
    ) -> list[Any]:
        """Return the outputs as numpy arrays, without the uses that are skipped at this moment."""
        if self._watched is not None:
            return self._run_watched(output_names, dict(input_feed), *self._watched)
        result: list[Any] = self._session().run(output_names, dict(input_feed), run_options)
        return result

    def get_inputs(self) -> list[Any]:
        """Return the inputs as InferenceSession does."""
        return list(self._session().get_inputs())

    def get_outputs(self) -> list[Any]:
        """Return the outputs as InferenceSession does."""
        return list(self._session().get_outputs())

    def get_providers(self) -> list[str]:
        """Return the execution providers as InferenceSession does."""
        return ["CPUExecutionProvider"]

    @property
    def metadata(self) -> Mapping[str, str]:
        """The metadata of the file by key."""
        return dict(self.graph.metadata_props)

    @property
    def skipped(self) -> frozenset[str]:
        """Uses that are left out at this moment."""
        return self._skipped

    @contextmanager
    def skipping(self, names: frozenset[str]) -> Iterator[None]:
        """Leave exactly these uses of pairs out inside the `with`."""
        before = self._skipped
        self._skipped = names
        try:
            yield
        finally:
            self._skipped = before

    @property
    def grids(self) -> Mapping[str, NewGrid]:
        """Use -> the grid that replaces its own at this moment."""
        return self._grids

    @contextmanager
    def on_grids(self, grids: Mapping[str, NewGrid]) -> Iterator[None]:
        """Give uses of pairs these grids inside the `with`, in addition to those that are replaced
        already.

        If the input or the weight of an operation gets a new grid, its integer bias becomes float,
        because its integers are on the old grid.
        """
        before = self._grids
        self._grids = {**before, **grids}
        try:
            yield
        finally:
            self._grids = before

    @cached_property
    def biases(self) -> Mapping[str, str]:
        """Use of an operation's input or weight -> use of its bias, if that is stored as INT32 on a
        grid made of both scales."""
        return integer_biases(self.paths)

    @cached_property
    def bias_places(self) -> Mapping[str, BiasPlace]:
        """Use of a weight -> bias input of its operation, for operations of the main graph whose
        bias can be changed."""
        places: dict[str, BiasPlace] = {}
        for path in self.paths:
            if path.graph is not self.graph.graph:
                continue
            place = bias_place(path)
            if place is not None:
                places[place.weight.name] = place
        return places

    def float_bias(self, place: BiasPlace) -> NDArray[Any] | None:
        """Return the bias for a weight that has another grid, or none; None if there is no bias."""
        value = place.value
        if value is None:
            return None
        pair = qdq.pair_of(value)
        stored = value if pair is None else pair.source
        name = value_name(stored)
        if name in self.weights:
            return np.asarray(self.weights[name])
        if pair is None:
            return qdq.constant(value)
        return dequantized(pair)

    @property
    def freed(self) -> frozenset[str]:
        """Uses of biases that are float at this moment, because a grid that theirs is made of has
        changed."""
        changed = self.biases.keys() & self._grids
        return frozenset(map(self.biases.__getitem__, changed))

    @contextmanager
    def watching(self, names: Sequence[str], see: Watcher) -> Iterator[None]:
        """Run unquantized inside the `with`, one sample at a time, and call `see` for each of these
        tensors.

        names: tensors of the main graph.
        see: called with the name of a tensor and its values.
        """
        before = self._watched
        self._watched = (tuple(names), see)
        try:
            yield
        finally:
            self._watched = before

    @contextmanager
    def in_one_thread(self) -> Iterator[None]:
        """Run in one thread inside the `with`. Several threads add in another order, which can
        change roundings."""
        before = self._threads
        self._threads = 1
        try:
            yield
        finally:
            self._threads = before

    def without(self, names: frozenset[str]) -> ir.Model:
        """Return the graph without these uses of pairs, and with the grids of this moment."""
        model = self.graph.clone()
        if names or self._grids:
            SkipUses(names | self.freed, self.weights, self.clamps, self._grids)(model)
        return model

    def branches_not_taken(self, inputs: Any) -> set[ir.Graph]:
        """Return the bodies of the main graph's If nodes that a run on these inputs does not enter,
        with all graphs in them.

        Bodies of Loop and Scan, and of an If in a body, count as entered.

        inputs: as `feed` takes them.
        """
        choices: dict[ir.Node, str] = {}
        for node in self.graph.graph:
            if node.op_type == "If":
                choices[node] = value_name(first_input(node))
        names = list(dict.fromkeys(choices.values()))
        if not names:
            return set()
        runner = session(_giving(self.graph, names), self.path.name, self.custom_ops)
        given = feed(inputs, names_of(runner.get_inputs()))
        taken = dict(zip(names, runner.run(list(map(_copied, names)), given), strict=True))
        idle: set[ir.Graph] = set()
        for node, condition in choices.items():
            is_true = bool(np.ravel(taken[condition])[0])
            body = node.attributes["else_branch" if is_true else "then_branch"].as_graph()
            idle |= {body, *body.subgraphs()}
        return idle

    def _session(self) -> Any:
        """Return the session of the variant of this moment."""
        grids = frozenset((name, grid.key) for name, grid in self._grids.items())
        key = (self._skipped, grids, self._threads)

        def make() -> Any:
            return self._new_session(self.without(self._skipped))

        return self._sessions.get(key, make)

    def _new_session(self, model: ir.Model) -> Any:
        content = ir.to_proto(model).SerializeToString()
        return session(content, self.path.name, self.custom_ops, threads=self._threads)

    def _run_watched(
        self,
        output_names: Sequence[str] | None,
        given: dict[str, Any],
        names: tuple[str, ...],
        see: Watcher,
    ) -> list[Any]:
        """Run the unquantized model in pieces, show the watched tensors and return the outputs."""
        inputs = set(map(value_name, self.graph.graph.inputs))
        inner = tuple(name for name in names if name not in inputs)
        key = (inner, self._threads)
        runner = self._sessions.get(key, lambda: self._new_session(self._giving_float(inner)))
        outputs = output_names or list(map(value_name, self.graph.graph.outputs))
        size = fixed_batch(runner) or 1
        samples = length(given) or size
        asked = list(dict.fromkeys([*outputs, *inner]))
        parts = []
        for start, part in enumerate(pieces(given, size)):
            values = {**part, **dict(zip(asked, runner.run(asked, part), strict=True))}
            fresh = samples - start * size  # the last piece may be padded
            for name in names:
                see(name, without_filling(values[name], size, fresh))
            parts.append([values[name] for name in outputs])
        return list(map(_joined, zip(*parts, strict=True)))

    def _giving_float(self, names: Sequence[str]) -> ir.Model:
        """Return the unquantized model with these tensors of its main graph as additional
        outputs."""
        model = self.graph.clone()
        outputs = model.graph.outputs
        inner = set(names).difference(map(value_name, outputs))
        produced: dict[str | None, ir.Value] = {}
        for node in model.graph:
            produced.update((value.name, value) for value in node.outputs if value.name in inner)
        outputs.extend(produced[name] for name in names if name in inner)
        SkipUses(names_of(self.uses), self.weights, self.clamps)(model)
        return model


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return one output of all pieces of a batch, or of the first piece if the output has no
    axis."""
    return np.concatenate(parts) if parts[0].ndim else parts[0]


def with_pairs(model: ir.Model) -> ir.Model:
    """Replace each fake-quant operation of TensorFlow by a Q/DQ pair, and return the model.

    Raises OnnxFileError for an operation that no pair can replace.
    """
    FakeQuantPairs()(model)
    return model


def float_forms(path: Path, custom_ops: str | Path | None = None) -> list[Form]:
    """Return equivalent ways to write a float model, any of which a tool may have quantized."""
    original = _loaded(path)

    def optimized_original() -> ir.Model:
        return optimized(str(path), path.name, custom_ops)

    return [
        ("as it is", lambda: original),
        ("with BatchNorm folded", partial(with_batchnorm_folded, original)),
        ("as ONNX Runtime's basic optimizations write it", optimized_original),
        ("with each Focus as one convolution", lambda: with_focus_as_conv(optimized_original())),
    ]


def optimized(content: bytes | str, name: str, custom_ops: str | Path | None = None) -> ir.Model:
    """Return what the preprocessing of ONNX Runtime's quantizer makes of a model.

    content: bytes, or the path of a file.
    Raises OnnxFileError if ONNX Runtime refuses the model.
    """
    options = _options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(written)
        _made_session(content, name, options, custom_ops)
        return _loaded(written)


def session(
    content: bytes,
    name: str,
    custom_ops: str | Path | None = None,
    *,
    threads: int = 0,
    shared: bool = False,
) -> Any:
    """Return an InferenceSession without graph optimizations.

    name: name of the file, for messages.
    threads: 0 for all cores.
    shared: whether memory comes from the allocator that all such sessions share.
    Raises OnnxFileError if ONNX Runtime refuses the model.
    """
    options = _options()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    if shared:
        options.add_session_config_entry("session.use_env_allocators", "1")
    return _made_session(content, name, options, custom_ops)


def _options() -> Any:
    """Return the options of a session without optimizations."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _made_session(
    content: bytes | str, name: str, options: Any, custom_ops: str | Path | None
) -> Any:
    """Return a session. Raises OnnxFileError if ONNX Runtime refuses the model."""
    try:
        if custom_ops is not None:
            options.register_custom_ops_library(str(custom_ops))
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no public base class
        said = " ".join(str(error).split())[:300]
        raise OnnxFileError(
            f"Expected {name} to be a model that ONNX Runtime can run, got: {said}; "
            "check it with onnx.checker.check_model, or export it again."
        ) from error


def _giving(model: ir.Model, names: Sequence[str]) -> bytes:
    """Return the model with copies of these booleans of its main graph as additional outputs."""
    proto = ir.to_proto(model)
    for name in names:
        node = onnx.helper.make_node("Identity", [name], [_copied(name)])
        proto.graph.node.append(node)
        output = onnx.helper.make_tensor_value_info(_copied(name), onnx.TensorProto.BOOL, None)
        proto.graph.output.append(output)
    content: bytes = proto.SerializeToString()
    return content


def _copied(name: str) -> str:
    return f"{name}_copied"


def _loaded(path: Path) -> ir.Model:
    model = load_model(path)
    ir.external_data.load_to_model(model)
    return model
