"""Plans over 8 bits, 16-bit activations and float beside those of AIMET and AMD Quark.

python benchmarks/formats.py --json benchmarks/results/formats.json

All start from the same float file, the same calibration images and pairs in the same places, and
their results are judged by the same function on the same samples. Each row is made in a process of
its own. The other tools are installed from the package index into environments of their own, beside
the models; their needs that are here already are taken from here. Rows are written as soon as they
are there, beside those of earlier calls. Needs SENSITIVITY_ASSETS, and for the text recogniser its
weights: pip install --no-deps rapidocr-onnxruntime.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from formats_models import MODELS, WEIGHTED, Model, Reader, macs_of, session

from sensitivity.timing.environment import environment

RANK_BATCHES = 3
"""Of `rank`, for the sensitivities of AIMET."""

WIDE = "int8,int16,float"
DROPS = {
    "mobilenet": (0.5, 1.0),
    "resnet20": (0.1, 0.5),
    "repvgg": (0.5, 1.0),
    "vit": (0.5, 1.0),
    "text": (0.5, 1.0),
}
"""In points."""

Row = dict[str, Any]


def int8_file(model: Model, path: Path) -> Path:
    """Pairs on the inputs and weights of weighted operations, min-max ranges, by ONNX Runtime."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantize_static(
        str(model.file),
        str(path),
        Reader(model.input, model.calib),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(WEIGHTED),
        per_channel=model.per_channel,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "AddQDQPairToWeight": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": list(WEIGHTED),
        },
    )
    return path


def kinds_of(model: onnx.ModelProto, names: Collection[str]) -> dict[str, str]:
    """Node -> "INT8", "16 bits" or "float", by the pairs on its inputs."""
    made = {name: node for node in model.graph.node for name in node.output}
    types = {one.name: one.data_type for one in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.name in names:
            pairs = [made.get(name) for name in node.input[:2]]
            rounded = [pair for pair in pairs if pair and pair.op_type.endswith("DequantizeLinear")]
            kinds = [KIND.get(types[pair.input[2]], "float") for pair in rounded]
            kinds += ["float"] * (2 - len(kinds))
            found[node.name] = max(kinds, key=["INT8", *KINDS].index)
    return found


KINDS = ("16 bits", "float")
KIND = {
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.UINT8: "INT8",
    onnx.TensorProto.INT16: "16 bits",
    onnx.TensorProto.UINT16: "16 bits",
}
"""Of integers, by the type of the zero point; Quark writes pairs for BF16 as well."""


# Tools.
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """A model of mixed formats.

    run: inputs -> the first output. kinds, macs: of each weighted node. asked: the target that the
    tool was asked for, in points. tried: what `held` saw on the way.
    """

    run: Callable[[np.ndarray], Any]
    kinds: Mapping[str, str]
    macs: Mapping[str, int]
    asked: float
    tried: Sequence[Row] = ()


Tool = Callable[[Model, float, Path], Judged]
"""(model, largest drop in points, scratch folder) -> its plan."""


def held(model: Model, drop: float, folder: Path, *, tool: Tool, tighter: float) -> Judged:
    """The plan for the loosest target with which the tool holds `drop` on `holdout` as well, by
    what float expects to lose there, or as counted if the task cannot say that.

    A mean on `confirm` that meets a target is no proof that other samples do: the tool is asked for
    less and less, until they do. `holdout` serves as the referee, for each tool alike.

    tighter: how much less a call asks for than the one before, in points.
    """
    asked, tried = drop, list[Row]()
    while True:
        judged = tool(model, asked, folder)
        lost = seen_on(model, judged.run, "holdout")
        tried.append({"asked": asked, "macs": share_of(judged), "lost": lost})
        print("held", tried[-1], flush=True)
        is_held = lost.get("expected", lost["counted"]) <= drop / 100 + 1e-9
        if is_held or share_of(judged) == 1:
            return replace(judged, tried=tried)
        asked = round(asked - tighter, 6)


def seen_on(model: Model, run: Callable[[np.ndarray], Any], split: str) -> dict[str, float]:
    """What a plan loses on a split: counted by the metric, and as float's own probabilities expect
    it from the answers that changed, if the task can say so. The second varies much less."""
    floats = partial(run_batch, session(model.file), model.input)
    lost = {"counted": model.metric(floats, split) - model.metric(run, split)}
    if model.soft is not None:
        drops = [model.soft(floats(x), run(x)) for x, _ in model.data[split]]
        lost["expected"] = float(np.mean(np.concatenate(drops)))
    return lost


def share_of(judged: Judged) -> float:
    """The part of all multiply-accumulates that is not in INT8."""
    wide = sum(judged.macs[name] for name in judged.macs if judged.kinds[name] in KINDS)
    return wide / sum(judged.macs.values())


def ours(model: Model, drop: float, folder: Path, **settings: Any) -> Judged:
    """The plan of this project, by multiply-accumulates.

    settings: others of `sensitivity.plan`. The other tools take a set whose mean on `confirm` meets
        the target; with confidence 0.5 this one does so too, by the true drop.
    """
    from sensitivity import Task
    from sensitivity.quantizers.onnx.model import OnnxModel

    kept = model.file.with_suffix("")  # one scan for all targets
    quantized = kept.with_suffix(".int8.onnx")
    if not kept.exists():
        int8_file(model, quantized)
    calib = [(x, np.zeros(len(x), int)) for x in model.calib]
    task = Task(
        OnnxModel(quantized, float_path=model.file),
        {**model.data, "calib": calib},
        model.score,
        soft=model.soft,
    )
    return planned(model, task, kept, drop, **settings)


def ours_on_average(model: Model, drop: float, folder: Path) -> Judged:
    """The plan whose expected drop meets the target, as the other tools take it."""
    return ours(model, drop, folder, confidence=0.5)


def ours_from_torch(model: Model, drop: float, folder: Path) -> Judged:
    """The same from the calibrated PyTorch model, which can be repaired in more ways."""
    if model.task is None:
        raise ValueError(f"Expected a model with a task in PyTorch, got {model.name}.")
    return planned(model, model.task, model.file.with_suffix(".torch"), drop)


def planned(
    model: Model, task: Any, kept: Path, drop: float, *, search: bool = True, **settings: Any
) -> Judged:
    """kept: the run directory. search: whether to search even if an earlier search has the
    answer."""
    import sensitivity

    run = sensitivity.scan(task, out=kept, resume=kept.exists())
    plan = sensitivity.plan(
        run, max_drop=f"{drop:g}pt", formats=WIDE, cost="operations", search=search, **settings
    )
    files = sensitivity.export(plan).files
    partial_file = onnx.load(files["partial" if "partial" in files else "int8"])
    exported = replace(model, file=files["float"])
    macs, runner = macs_of(exported), session(partial_file)
    run_file = partial(run_batch, runner, exported.input)
    return Judged(run_file, kinds_of(partial_file, macs), macs, drop)


def run_batch(runner: Any, name: str, x: np.ndarray) -> Any:
    """The first output of a session. name: of its input."""
    return runner.run(None, {name: x})[0]


def aimet(model: Model, drop: float, folder: Path, *, ranges: str = "min_max") -> Judged:
    """Automatic mixed precision of AIMET: sensitivities on some of `rank`, the target on
    `confirm`. ranges: its quantization scheme.

    Its sensitivities do not depend on the target. They are kept beside the model, and a search that
    was interrupted goes on.
    """
    from aimet_onnx import QuantizationSimModel
    from aimet_onnx.common.defs import CallbackFunc, QuantizationDataType
    from aimet_onnx.mixed_precision import choose_mixed_precision
    from aimet_onnx.utils import disable_quantizers

    integer, real = QuantizationDataType.int, QuantizationDataType.float
    candidates = [
        ((16, real), (16, real)),
        ((16, integer), (8, integer)),
        ((8, integer), (8, integer)),
    ]
    kept = model.file.with_suffix(f".aimet_{ranges}")
    kept.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(aimet_config(model)))
    loaded = onnx.load(model.file)
    sim = QuantizationSimModel(loaded, quant_scheme=ranges, config_file=str(folder / "config.json"))

    weighted = (node for node in sim.model.model.graph.node if node.op_type in WEIGHTED)
    read = {base(name) for node in weighted for name in node.input[:2]}
    for name, quantizer in sim.qc_quantize_op_dict.items():
        quantizer.enabled = quantizer.enabled and name in read

    def forward(runner: Any, *_: Any) -> None:
        for x in model.calib:
            runner.run(None, {model.input: x})

    def score(split: str, batches: int | None, runner: Any, *_: Any) -> float:
        return float(model.metric(lambda x: runner.run(None, {model.input: x})[0], split, batches))

    sim.compute_encodings(forward)
    calls = [
        CallbackFunc(partial(score, *one)) for one in (("rank", RANK_BATCHES), ("confirm", None))
    ]
    with disable_quantizers(sim, list(sim.qc_quantize_op_dict)):
        whole = score("confirm", None, sim.session)
    print("aimet", whole, score("confirm", None, sim.session), flush=True)
    choose_mixed_precision(
        sim,
        candidates,
        eval_callback_for_phase1=calls[0],
        eval_callback_for_phase2=calls[1],
        allowed_accuracy_drop=drop / 100,
        results_dir=str(kept),
        clean_start=False,
        forward_pass_callback=CallbackFunc(forward),
        use_all_amp_candidates=True,
    )
    macs = macs_of(model)
    kinds = {
        node.name: aimet_kind([sim.qc_quantize_op_dict.get(base(one)) for one in node.input[:2]])
        for node in sim.model.model.graph.node
        if node.name in macs
    }

    def run_sim(x: np.ndarray) -> Any:
        return run_batch(sim.session, model.input, x)  # ends with `sim`: that owns its quantizers

    return Judged(run_sim, kinds, macs, drop)


def aimet_config(model: Model) -> dict[str, Any]:
    """Inputs and weights of weighted operations are quantized, biases and outputs are not. AIMET
    wants to be told whether the model's input is, and stops at encodings of LayerNorm's weights
    that it wrote itself, so that they must be out of the settings."""
    readers = [node for node in onnx.load(model.file).graph.node if model.input in node.input]
    is_read = any(node.op_type in WEIGHTED for node in readers)
    return {
        "defaults": {
            "hw_version": "default",
            "ops": {"is_symmetric": "True"},
            "params": {"is_quantized": "True", "is_symmetric": "True"},
            "strict_symmetric": "True",
            "unsigned_symmetric": "False",
            "per_channel_quantization": str(model.per_channel),
        },
        "params": {"bias": {"is_quantized": "False"}},
        "op_type": {name: {"is_input_quantized": "True"} for name in WEIGHTED}
        | {"LayerNormalization": {"params": {"weight": {"is_quantized": "False"}}}},
        "supergroups": [],
        "model_input": {"is_input_quantized": str(is_read)},
        "model_output": {},
    }


def base(name: str) -> str:
    """The tensor that a quantizer of the simulation reads."""
    return name.removesuffix("_updated").removesuffix("_qdq")


def aimet_kind(quantizers: Sequence[Any]) -> str:
    """Of a node, by what it reads. None and a quantizer that is off round nothing."""
    bits = []
    for one in quantizers:
        if one is None or not one.enabled or one.data_type.name == "float":
            return "float"
        bits.append(one.bitwidth)
    return "INT8" if max(bits) == 8 else "16 bits"


def quark(model: Model, drop: float, folder: Path, *, wide: bool = True) -> Judged:
    """Quark's automatic mixed precision, from the same INT8 file that the plan here starts from.
    Sensitivities and the target are both measured on `confirm`, by the metric. wide: whether
    16-bit activations are a candidate beside BF16.

    Nodes in `read_twice` stay in INT8: without a pair behind them Quark 0.13 stops at them.
    """
    from onnxruntime.quantization import CalibrationMethod, create_calibrator
    from quark.onnx import AutoMixprecisionConfig, BFloat16Spec, Int8Spec, Int16Spec, QLayerConfig
    from quark.onnx.algorithm.finetuning.onnx_evaluate import create_session
    from quark.onnx.algorithm.mprecision.auto_mixprecision import auto_mixprecision

    start = int8_file(model, folder / "int8.onnx")
    calibrator = create_calibrator(
        str(model.file), list(WEIGHTED), str(folder / "augmented.onnx"), CalibrationMethod.MinMax,
        extra_options={"symmetric": True},
    )  # fmt: skip
    calibrator.collect_data(Reader(model.input, model.calib))
    targets = [one for _, one in model.data["confirm"]]

    def lost(
        whole: Sequence[Sequence[np.ndarray]], rounded: Sequence[Sequence[np.ndarray]]
    ) -> float:
        means = []
        for outputs in (whole, rounded):
            scores = [model.score(one[0], y) for one, y in zip(outputs, targets, strict=True)]
            means.append(float(np.mean(np.concatenate(scores))))
        return 100 * (means[0] - means[1])

    candidates = [QLayerConfig(activation=BFloat16Spec(), weight=BFloat16Spec())]
    if wide:
        candidates.insert(0, QLayerConfig(activation=Int16Spec(), weight=Int8Spec()))
    config = AutoMixprecisionConfig(
        target_layer_config=candidates,
        target_op_type=WEIGHTED,
        exclude_layers=read_twice(model),
        data_size=len(targets),  # 0 is one batch in 0.13, not all as its documentation says
        metric_distance_fn=lost,
        metric_threshold=drop + 1e-9,
        metric_optimize_object="quality",
        shared_param_mode="unshare",
    )
    reader = Reader(model.input, [x for x, _ in model.data["confirm"]])
    options = {"ActivationSymmetric": True, "WeightSymmetric": True}
    options |= config._get_config(dict(options))
    made = auto_mixprecision(
        str(model.file), str(start), False, reader, calibrator.compute_data(), options
    )
    runner = create_session(made)  # with its operations for BF16
    macs = macs_of(model)
    return Judged(partial(run_batch, runner, model.input), kinds_of(made, macs), macs, drop)


def read_twice(model: Model) -> list[str]:
    """The weighted nodes whose output several inputs of nodes read."""
    nodes = onnx.load(model.file).graph.node
    read = Counter(name for node in nodes for name in node.input)
    return [n.name for n in nodes if n.op_type in WEIGHTED and read[n.output[0]] > 1]


TOOLS: Mapping[str, Tool] = {
    "sensitivity": ours,
    "sensitivity, on average": ours_on_average,
    "sensitivity, held": partial(held, tool=partial(ours, search=False), tighter=0.1),
    "sensitivity, from PyTorch": ours_from_torch,
    "sensitivity, ranges as they came": partial(ours, no_recalibrate=True),
    "AIMET": aimet,
    "AIMET, held": partial(held, tool=aimet, tighter=0.4),  # one sample of 250
    "AIMET, its ranges of least error": partial(aimet, ranges="tf_enhanced"),
    "Quark": quark,
    "Quark, BF16 alone": partial(quark, wide=False),
}
PACKAGES = {"AIMET": "aimet-onnx==2.42.0", "Quark": "amd-quark==0.13"}
"""Of tools whose names begin so."""


def package(tool: str) -> str | None:
    """The package of another tool."""
    return PACKAGES.get(tool.split(",")[0])


def interpreter(tool: str, folder: Path) -> Path:
    """Python with a tool's package, which is installed the first time.

    folder: keeps the environments.
    """
    wanted = package(tool)
    if wanted is None:
        return Path(sys.executable)
    home = folder / wanted.replace("==", "-")
    python = home / "bin" / "python"
    if not python.exists():
        venv.create(home, with_pip=True)
        own = sysconfig.get_path("purelib", vars={"base": str(home)})
        (Path(own) / "zz_here.pth").write_text(sysconfig.get_path("purelib") + "\n")
        command = [python, "-m", "pip", "install", "--quiet", wanted]
        subprocess.run(command, check=True)  # noqa: S603 - one of PACKAGES
    return python


def row_of(name: str, tool: str, drop: float, folder: Path) -> Row:
    """`row`, made by the tool's Python. folder: keeps models and environments."""
    python = interpreter(tool, folder)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "row.json"
        command = [python, __file__, "--json", file, "--runs", folder, "--row", "--models", name]
        command += ["--tools", tool, "--drops", str(drop)]
        subprocess.run(command, check=True)  # noqa: S603 - this script
        found: Row = json.loads(file.read_text())
    return found


def row(name: str, tool: str, drop: float, folder: Path) -> Row:
    model = MODELS[name](folder)
    floats = session(model.file)
    whole = {
        split: model.metric(lambda x: floats.run(None, {model.input: x})[0], split)
        for split in ("confirm", "holdout")
    }
    with tempfile.TemporaryDirectory() as scratch:
        started = time.monotonic()
        judged = TOOLS[tool](model, drop, Path(scratch))
        seconds = time.monotonic() - started
        found = {split: model.metric(judged.run, split) for split in whole}
        lost = seen_on(model, judged.run, "holdout")
    kinds, macs = judged.kinds, judged.macs
    every = sum(macs.values())
    shares = {kind: sum(macs[n] for n in macs if kinds[n] == kind) / every for kind in KINDS}
    return {
        "model": model.name,
        "tool": tool,
        "max_drop": drop,
        "asked": judged.asked,
        "met": whole["confirm"] - found["confirm"] <= drop / 100 + 1e-9,
        "float": whole,
        "plan": found,
        "lost": lost,
        "tried": judged.tried,
        "nodes": {kind: [n for n in macs if kinds[n] == kind] for kind in KINDS},
        "macs": shares,
        "seconds": seconds,
    }


def place(found: Row) -> tuple[str, float, int]:
    """Where a row stands in the table."""
    return found["model"], found["max_drop"], list(TOOLS).index(found["tool"])


QUARK_LEAVES = """Quark 0.13 stops with an AssertionError at a weighted node whose output is read
several times and has no pair. Such nodes are excluded from its search (`exclude_layers`) and stay
in INT8: 5 of 51 in the recogniser, and one in the ViT, where Quark searches nothing."""


def markdown(result: Mapping[str, Any]) -> str:
    head = (
        "| model | target | tool | asked for | met on confirm | in 16 bits | in float | MACs in 16 "
        "bits or float, % | metric on confirm | on holdout | float on holdout | expected loss on "
        "holdout | seconds |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    )
    lines = [_line(one) for one in result["rows"]]
    commands = "\n".join(f"- `{one}`" for one in result["commands"])
    cpu = result["environment"].get("cpu", "")
    return "\n".join([
        "# Plans of three formats, beside AIMET and Quark", "", head, *lines, "",
        QUARK_LEAVES, "",
        f"Commands, on cpu {cpu}, one thread:", "", commands, "",
    ])  # fmt: skip


def _line(one: Row) -> str:
    expected = one.get("lost", {}).get("expected")
    cells = [
        one["model"], f"{one['max_drop']:g} pt", one["tool"],
        f"{one.get('asked', one['max_drop']):.2g} pt", "yes" if one["met"] else "no",
        *(str(len(one["nodes"][kind])) for kind in KINDS),
        f"{100 * sum(one['macs'].values()):.1f}",
        *(f"{100 * one['plan'][split]:.1f}" for split in ("confirm", "holdout")),
        f"{100 * one['float']['holdout']:.1f}",
        f"{100 * expected:.2f} pt" if expected is not None else "", f"{one['seconds']:.0f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Plans of three formats, beside two other tools.")
    parser.add_argument("--json", type=Path, required=True, help="rows; a table goes beside them")
    parser.add_argument("--runs", type=Path, default=Path("runs/formats"), help="keeps the models")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument(
        "--tools", nargs="+", choices=TOOLS, default=["sensitivity", "AIMET", "Quark"]
    )
    parser.add_argument("--drops", nargs="+", type=float, help="in points; two for each model")
    parser.add_argument("--row", action="store_true", help="make one row alone, in this process")
    given = parser.parse_args(arguments)
    if given.row:
        made = row(given.models[0], given.tools[0], given.drops[0], given.runs)
        given.json.write_text(json.dumps(made))
        return
    result: dict[str, Any] = {"commands": [], "rows": []}
    if given.json.exists():
        result = json.loads(given.json.read_text())
    packages = dict(one.split("==") for one in filter(None, map(package, given.tools)))
    result["environment"] = environment() | result.get("environment", {}) | packages
    command = shlex.join(["python", "benchmarks/formats.py", *arguments])
    result["commands"] = [*dict.fromkeys([*result["commands"], command])]
    for name in given.models:
        for drop in given.drops or DROPS[name]:
            for tool in given.tools:
                found = row_of(name, tool, drop, given.runs)
                print(json.dumps(found), flush=True)
                others = [one for one in result["rows"] if place(one) != place(found)]
                result["rows"] = sorted([*others, found], key=place)
                given.json.write_text(json.dumps(result, indent=1) + "\n")
                given.json.with_suffix(".md").write_text(markdown(result))


if __name__ == "__main__":
    main(sys.argv[1:])
