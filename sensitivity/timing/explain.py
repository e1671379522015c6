"""Explains in words why an engine is as fast as it is, from the steps that it ran.

The functions are pure and take the `LayerRun`s of any runtime. Causes follow from the tensors that
steps share. A runtime that does not name its tensors (ONNX Runtime's profile) gets times and
precisions, but no causes for its reformats.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter

from sensitivity.errors import listed
from sensitivity.records import PLANNED, Timing, timing_of
from sensitivity.runtimes.base import LayerRun, Port
from sensitivity.timing.profile import FileProfile

SHOWN = 8
"""Largest number of names in a sentence."""

FLOATS = frozenset({"fp32", "fp16", "bf16"})
ADVICE = {
    "residual": "Quantize the residual input of these adds as well (one scale with the other "
    "input's consumers)",
    "float neighbour": "Quantize the layer between, or leave its INT8 neighbours unquantized too, "
    "so that fewer boundaries remain",
    "layout": "The runtime chose these layouts; fewer changes of precision nearby make such copies "
    "rarer",
    "scales": "Give the inputs of one concat, and the readers of one tensor, one scale",
    "input": "Feed the engine INT8 or FP16 inputs if this matters",
    "output": "Take the output in the engine's own type if this matters",
    "unfused": "Lower the file for this runtime with 'sensitivity export --for' if it is not yet, "
    "or leave those layers unquantized",
    "unknown": "Look at the layers before and after them in layers.csv",
}
UNFUSED = "'sensitivity lint' says what keeps them from being fused"
"""The advice on unfused pairs of a file that cannot be lowered for the runtime."""

WORDS = {
    "residual": "On residual adds that are not quantized",
    "float neighbour": "Beside layers that run in float",
    "layout": "Between two layouts of one type",
    "scales": "Between two scales of one type",
    "input": "At the network's input",
    "output": "At the network's output",
    "unfused": "Q and DQ of the file that were not fused into a layer",
    "unknown": "At places that the profile does not show",
}


@dataclass(frozen=True)
class Reformat:
    """A step that computes nothing.

    cause: key of WORDS.
    beside: names of the steps that it is between.
    """

    step: LayerRun
    cause: str
    beside: tuple[str, ...]


def not_in(wanted: str, runs: Sequence[LayerRun], kept: Iterable[str]) -> dict[str, str]:
    """Return ONNX node -> precision, for each node of `kept` that did not run in the wanted
    precision.

    The precision is "?" if no step says that it computed the node.

    wanted: "int8" or "fp8".
    kept: nodes that are in this precision in the file.
    """
    ran = dict[str, str]()
    for run in runs:
        if run.origin is None:
            ran |= dict.fromkeys(run.onnx, run.precision)
    missed = {}
    for node in kept:
        precision = ran.get(node, "?")
        if precision != wanted:
            missed[node] = precision
    return missed


def in_int8(
    timings: Iterable[Timing], profiles: Mapping[str, FileProfile]
) -> tuple[int, int] | None:
    """Return how many layers of the plan's file ran in INT8, and how many it has in INT8.

    Returns None if there is no profile of it.
    """
    partial = timing_of("partial", timings)
    profile = None if partial is None else profiles.get(partial.variant)
    if profile is None or not profile.kept:
        return None
    kept = len(profile.kept)
    return kept - len(not_in("int8", profile.runs, profile.kept)), kept


def mixed_adds(runs: Sequence[LayerRun]) -> tuple[LayerRun, ...]:
    """Return INT8 steps with a second input in float.

    Such a step is a residual add that was fused into a convolution, but not quantized.
    """
    return tuple(filter(_adds_float, runs))


def _adds_float(run: LayerRun) -> bool:
    others = {port.precision for port in run.inputs[1:]}
    return run.precision == "int8" and not FLOATS.isdisjoint(others)


def reformats(runs: Sequence[LayerRun]) -> tuple[Reformat, ...]:
    """Return each reformat and each unfused Q or DQ, with its cause."""
    graph = _Neighbours(runs)
    return tuple(_cause(run, graph) for run in runs if run.origin is not None)


def explain(
    runs: Sequence[LayerRun],
    kept: Collection[str] = (),
    fp8: Collection[str] = (),
    *,
    lowers: bool = True,
) -> list[str]:
    """Return the sentences about one profiled engine.

    They say what did not run in INT8 or FP8, what the reformats cost, where they come from and what
    to change.

    kept: names of the ONNX nodes that are in INT8 in the file.
    fp8: names of those that are in FP8 in it.
    lowers: whether 'sensitivity export --for' takes the file for this runtime.
    """
    sentences = _precision_sentences("int8", runs, kept)
    sentences += _precision_sentences("fp8", runs, fp8)
    if mixed := mixed_adds(runs):
        sentences.append(
            f"{len(mixed)} residual add{_s(mixed)} {_are(mixed)} unquantized: "
            f"{_shown(_shorts(mixed))}. Of each, one input is in INT8 and the other in float, so "
            "the sum is in float and must be quantized anew."
        )
    return sentences + _reformat_sentences(runs, lowers=lowers)


def _precision_sentences(wanted: str, runs: Sequence[LayerRun], kept: Collection[str]) -> list[str]:
    missed, name = not_in(wanted, runs, kept), PLANNED[wanted]
    layers = "quantized layers" if wanted == "int8" else f"layers in {name}"
    if not kept:
        return []
    if not missed:
        return [f"All {len(kept)} {layers} ran in {name}."]
    shown = _shown([f"{node} ({precision})" for node, precision in missed.items()])
    return [
        f"{len(missed)} of {len(kept)} {layers} did not run in {name}: {shown}; "
        "see 'sensitivity lint' for what keeps each from it."
    ]


def _reformat_sentences(runs: Sequence[LayerRun], *, lowers: bool) -> list[str]:
    all_reformats = reformats(runs)
    if not all_reformats:
        return ["No step only converts or copies."]
    total = sum(run.ms or 0.0 for run in runs)
    spent = _ms(all_reformats)
    cost = ""
    if total:
        share = f"{spent / total:.0%} of the profiled time"
        cost = f", {spent:.3g} of {total:.3g} ms ({share})"
    by_cause = defaultdict[str, list[Reformat]](list)
    for reformat in all_reformats:
        by_cause[reformat.cause].append(reformat)
    costliest = sorted(by_cause.values(), key=_ms, reverse=True)
    whole = f"Conversions and copies: {len(all_reformats)} step{_s(all_reformats)}{cost}."
    return [whole, *(_cause_sentence(alike, lowers=lowers) for alike in costliest)]


def _cause_sentence(alike: Sequence[Reformat], *, lowers: bool) -> str:
    """Return a sentence that says where the reformats of one cause are, what they cost and what to
    do."""
    beside = dict.fromkeys(chain.from_iterable(map(attrgetter("beside"), alike)))
    where = f" ({_shown(beside)})" if beside else ""
    cause = alike[0].cause
    steps = f"{len(alike)} step{_s(alike)}, {_ms(alike):.3g} ms{where}"
    advice = UNFUSED if cause == "unfused" and not lowers else ADVICE[cause]
    return f"{WORDS[cause]}: {steps}. {advice}."


def _ms(group: Iterable[Reformat]) -> float:
    return sum(reformat.step.ms or 0.0 for reformat in group)


class _Neighbours:
    """Which step writes and which steps read each tensor."""

    def __init__(self, runs: Sequence[LayerRun]) -> None:
        self.writer = dict[str, LayerRun]()
        self.readers = defaultdict[str, list[LayerRun]](list)
        for run in runs:
            self.writer |= dict.fromkeys(_tensors(run.outputs), run)
            for tensor in _tensors(run.inputs):
                self.readers[tensor].append(run)
        self.mixed = {run.name for run in mixed_adds(runs)}

    def sources(self, port: Port) -> list[LayerRun]:
        """Return the step that computed this tensor, looking through reformats.

        Returns none for an input of the network.
        """
        if port.tensor not in self.writer:
            return []
        writer = self.writer[port.tensor]
        is_reformat = writer.origin is not None
        if is_reformat and writer.inputs:
            return self.sources(writer.inputs[0])
        return [writer]

    def targets(self, port: Port) -> list[LayerRun]:
        """Return the steps that use this tensor, looking through reformats."""
        steps = list[LayerRun]()
        for reader in self.readers[port.tensor]:
            is_reformat = reader.origin is not None
            if is_reformat and reader.outputs:
                steps += self.targets(reader.outputs[0])
            else:
                steps.append(reader)
        return steps

    def mixed_adds(self, steps: Iterable[LayerRun]) -> list[LayerRun]:
        """Return those of the steps that add an input in float to one in INT8, each once."""
        return [step for step in _unique(steps) if step.name in self.mixed]


def _tensors(ports: Iterable[Port]) -> list[str]:
    """Return the names of the ports' tensors that the profile names."""
    return list(filter(None, map(attrgetter("tensor"), ports)))


def _cause(run: LayerRun, graph: _Neighbours) -> Reformat:
    """Return why a step only converts or copies, from the first tensors that it reads and
    writes."""
    ports = run.inputs[:1] + run.outputs[:1]
    if len(_tensors(ports)) == 2:
        return _cause_between(run, graph)
    if run.origin == "qdq" and run.onnx:
        return Reformat(run, "unfused", ())
    return Reformat(run, "unknown", ())


def _cause_between(run: LayerRun, graph: _Neighbours) -> Reformat:
    """Return the cause of a step whose first input and first output have names."""
    read, written = run.inputs[0], run.outputs[0]
    sources, targets = graph.sources(read), graph.targets(written)
    between = _unique([*sources, *targets])
    end = _end(sources, targets)
    if read.precision == written.precision and not end:
        same = "scales" if run.origin == "qdq" else "layout"
        return Reformat(run, same, _shorts(between))
    mixed = graph.mixed_adds([*between, *graph.readers[read.tensor]])
    if mixed:
        return Reformat(run, "residual", _shorts(mixed))
    if end:
        return Reformat(run, end, _shorts(between))
    floats = [step for step in between if step.precision in FLOATS]
    return Reformat(run, "float neighbour", _shorts(floats or between))


def _end(sources: Sequence[LayerRun], targets: Sequence[LayerRun]) -> str:
    """Return the end of the network at which a reformat is: "input", "output", or "" if inside."""
    if not sources:
        return "input"
    return "" if targets else "output"


def _shorts(steps: Iterable[LayerRun]) -> tuple[str, ...]:
    return tuple(map(_short, steps))


def _unique(steps: Iterable[LayerRun]) -> list[LayerRun]:
    return list({step.name: step for step in steps}.values())


def _short(run: LayerRun) -> str:
    """Return the first ONNX nodes of a fused step, enough to find it.

    Weights, Q/DQ and TensorRT's unnamed layers are left out.
    """
    names = list(filter(_tells_the_layer, run.onnx))
    return " + ".join(names[:3]) or run.name[:60]


def _tells_the_layer(name: str) -> bool:
    is_constant = name.endswith((".weight", ".bias"))
    is_unnamed = "[" in name
    return not (is_constant or is_unnamed or "quantizelinear" in name.lower())


def _shown(names: Collection[str]) -> str:
    return listed(names, SHOWN)


def _s(items: Collection[object]) -> str:
    if len(items) == 1:
        return ""
    return "s"


def _are(items: Collection[object]) -> str:
    if len(items) == 1:
        return "is"
    return "are"
