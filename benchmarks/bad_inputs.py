"""Two hundred bad inputs: each input, the sentence that the command answers, and the exit code.

    python benchmarks/bad_inputs.py --out docs/bad_inputs.md  # the table; 1 if one is unclear
    python benchmarks/bad_inputs.py --only journal           # by name, with all that was printed

Each command runs in a separate process, in a folder with small valid files, a finished run, and
task files that have one mistake each.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from damage import BRANCH, FINDING, PAIRS, Ended, forked, warm, write

SINE = (
    '<ir_version: 8, opset_import: ["" : 17]> s (float[batch, 4] x) => (float[batch, 4] y) { y = '
    "Sin (x) }"
)
TASKS = Path(__file__).with_name("bad_tasks.py")
GOOD_CODES = (1, 2)


@dataclass(frozen=True)
class Case:
    """One bad input.

    words: the command line after `sensitivity`.
    before: prepares the copied folder before the command runs.
    """

    name: str
    words: str
    before: Callable[[], object] = lambda: None


def made(folder: Path) -> None:
    """Write the files that the cases start from into `folder`, which must be the working folder."""
    write(PAIRS, Path("int8.onnx"))
    write(BRANCH, Path("branch.onnx"))
    write(PAIRS, Path("external/model.onnx"), external=True)
    x = np.random.default_rng(2).normal(size=(60, 4)).astype(np.float32)
    np.savez("data.npz", x=x, y=np.arange(60) % 3)
    shutil.copy(TASKS, "tasks.py")
    float_ = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> f (float[batch, 4] x) => (float[batch, 3] y) { y '
        "= MatMul (x, w) }"
    )
    float_.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 3), np.float32), "w"))
    onnx.save(float_, "float.onnx")


def edited(name: str, change: Callable[[onnx.ModelProto], object]) -> Callable[[], object]:
    """Change int8.onnx and save it under another name."""

    def edit() -> None:
        model = onnx.load("int8.onnx")
        change(model)
        Path(name).write_bytes(model.SerializeToString())

    return edit


def constant(model: onnx.ModelProto, name: str, value: object) -> None:
    found = next(one for one in model.graph.initializer if one.name == name)
    found.CopyFrom(onnx.numpy_helper.from_array(np.asarray(value), name))


def renamed(model: onnx.ModelProto, old: str, new: str, domain: str = "") -> None:
    node = next(node for node in model.graph.node if node.op_type == old)
    node.op_type, node.domain = new, domain
    if domain:
        model.opset_import.append(onnx.helper.make_opsetid(domain, 1))


def text(path: str, content: str | bytes = "") -> Callable[[], object]:
    def put() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content.encode() if isinstance(content, str) else content)

    return put


def arrays(path: str, **values: object) -> Callable[[], object]:
    return lambda: np.savez(path, **values)  # type: ignore[arg-type]


def folder_of(path: str) -> Callable[[], object]:
    return lambda: Path(path).mkdir(parents=True)


def gone(path: str) -> Callable[[], object]:
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def cut(path: str) -> Callable[[], object]:
    return lambda: Path(path).write_bytes(Path(path).read_bytes()[: Path(path).stat().st_size // 2])


def flipped(path: str, part: float = 0.4) -> Callable[[], object]:
    """Flip one bit of the file, at this fraction of its length."""

    def flip() -> None:
        content = bytearray(Path(path).read_bytes())
        content[int(len(content) * part)] ^= 4
        Path(path).write_bytes(content)

    return flip


def replaced(path: str, old: str, new: str) -> Callable[[], object]:
    def replace() -> None:
        content = Path(path).read_text()
        assert old in content, (path, old)
        Path(path).write_text(content.replace(old, new))

    return replace


def record(path: str, **values: object) -> Callable[[], object]:
    """Change keys of a JSON record on purpose, and drop its checksum."""

    def change() -> None:
        content = json.loads(Path(path).read_text())
        content.pop("checksum", None)
        Path(path).write_text(json.dumps(content | values))

    return change


def coco(**values: object) -> Callable[[], object]:
    """COCO annotations of one image, with some keys changed. The image itself does not exist."""
    whole: dict[str, object] = {
        "images": [{"id": 1, "file_name": "a.png", "width": 32, "height": 32}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [1, 1, 8, 8],
                "area": 64,
                "iscrowd": 0,
            }
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    return text("coco.json", json.dumps(whole | values))


def classes(*names: str, images: int = 0, broken: bool = False) -> Callable[[], object]:
    """A folder with one folder of images per class."""

    def make() -> None:
        from PIL import Image

        for name in names:
            (Path("images") / name).mkdir(parents=True)
            for number in range(images):
                file = Path("images") / name / f"{number}.png"
                if broken:
                    file.write_bytes(b"no image")
                else:
                    Image.new("RGB", (40, 40)).save(file)

    return make


def image_file(shape: str = "1, 3, 16, 16") -> None:
    """A Q/DQ file whose input is images."""
    body = (
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[{shape}] x) => (float[n, 3] y) {{ '
        "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) p = GlobalAveragePool (d) y = "
        "Flatten (p) }"
    )
    model = onnx.parser.parse_model(body)
    for name, value in (("s", np.float32(0.1)), ("z", np.int8(0))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), name))
    onnx.save(model, "image.onnx")


def both(*steps: Callable[[], object]) -> Callable[[], object]:
    return lambda: [step() for step in steps]


SCAN = "scan int8.onnx --data data.npz --out new"
QUICK = "--no-recalibrate --force"


def command_line_cases() -> Iterator[Case]:
    for words in (
        "scn", "scan", "plan", "export", "bench", "report", "lint int8.onnx", "check", "yolo run",
        "yolo scan",
        f"{SCAN} --fast", f"{SCAN} extra", "plan runs/ok --samples 3", "bench runs/ok --rounds",
        "doctor now",
    ):  # fmt: skip
        yield Case("usage", words)
    for option, values in {
        "--mode": ("both",), "--signal": ("psnr",), "--unit": ("channel",), "--decode": ("detr",),
        "--samples": ("x", "0", "-5"),
        "--time-budget": ("soon", "-1", "nan"), "--memory": ("1.5", "0", "-1"),
        "--group": ("head", "a=", "=MatMul_h", "a=nothing.*"),
    }.items():  # fmt: skip
        for value in values:
            yield Case(f"scan {option}", f"{SCAN} {option} {value}")
    for option, values in {
        "--max-drop": ("1", "x", "pt", "nanpt", "-1pt", "200%", "1pt --target 0.5"),
        "--target": ("x", "nan", "inf"),
        "--skip": ("nothing", "MatMul_h --keep MatMul_h", "*x*["), "--keep": ("MatMul_q",),
        "--planner": ("best",),
        "--cost": ("joules --planner cost", "table"), "--threads": ("0", "-1", "many"),
        "--runtime": ("onnxrt", "tensorrt", "trtexec"),
    }.items():  # fmt: skip
        for value in values:
            yield Case(
                f"plan {option}", f"plan runs/ok {QUICK.split()[0]} --search {option} {value}"
            )
    for option, values in {
        "--rounds": ("0", "-3", "x"), "--threads": ("0", "-2"),
        "--runtime": ("cuda", "tensorrt", "trtexec"),
    }.items():  # fmt: skip
        for value in values:
            yield Case(f"bench {option}", f"bench runs/ok {option} {value}")
    yield Case("run --runtime", "run int8.onnx --data data.npz --out new --runtime tensort")
    yield Case("run --rounds", "run int8.onnx --data data.npz --out new --rounds 0")
    yield Case("run --threads", "run int8.onnx --data data.npz --out new --threads 0")
    yield Case("export --for", "export runs/ok --for coreml")
    yield Case("export --for of an ONNX source", "export runs/ok --for openvino")
    yield Case("lint --for", "lint int8.onnx --for tensorrt")
    yield Case("lint --format", "lint int8.onnx --for openvino --format xml")
    yield Case("check --format", "check int8.onnx --format yaml")


def task_cases() -> Iterator[Case]:
    yield Case("task: nothing there", "scan nowhere.py --out new")
    yield Case("task: a folder", "scan runs --out new")
    yield Case("task: no Python file", "scan data.npz --out new")
    yield Case("task: no such function", "scan tasks.py:god --out new")
    yield Case("task: no function", "scan tasks.py:NUMBER --out new")
    for name, content in {
        "syntax error": "def task(:\n", "not UTF-8": b"def task():\n    return '\xff'\n",
        "null bytes": b"\0\0",
        "empty": "", "missing module": "import nowhere_to_be_found\n",
        "raises on import": "1 / 0\n", "leaves": "import sys\nsys.exit(3)\n",
        "imports itself": "from mine import task\n",
    }.items():  # fmt: skip
        yield Case(f"task file: {name}", "scan mine.py:task --out new", text("mine.py", content))
    content = TASKS.read_text()
    for verb, function in re.findall(r"^def (\w+?)__(\w+)\(", content, re.MULTILINE):
        yield Case(
            f"task: {function.replace('_', ' ')}",
            f"{verb} tasks.py:{verb}__{function} --out new --no-recalibrate"[
                : None if verb == "run" else -17
            ],
        )


def onnx_cases() -> Iterator[Case]:
    for name, before in {
        "missing": lambda: None,
        "empty": text("bad.onnx"),
        "text": text("bad.onnx", "this is no model"),
        "a folder": folder_of("bad.onnx"),
        "half": both(lambda: shutil.copy("int8.onnx", "bad.onnx"), cut("bad.onnx")),
        "nothing to quantize": lambda: onnx.save(onnx.parser.parse_model(SINE), "bad.onnx"),
        "scale not a number": edited("bad.onnx", lambda m: constant(m, "sx", np.float32("nan"))),
        "scale of zero": edited("bad.onnx", lambda m: constant(m, "sx", np.float32(0))),
        "negative scale": edited("bad.onnx", lambda m: constant(m, "sx", np.float32(-0.1))),
        "scales of another number": edited(
            "bad.onnx", lambda m: constant(m, "sw", np.full(3, 0.1, np.float32))
        ),
        "unknown operation": edited("bad.onnx", lambda m: renamed(m, "Relu", "Relish")),
        "custom operation": edited("bad.onnx", lambda m: renamed(m, "Relu", "Mine", "my.ops")),
        "integer operation": edited(
            "bad.onnx", lambda m: renamed(m, "Relu", "QLinearSigmoid", "com.microsoft")
        ),
        "dynamic quantization": edited(
            "bad.onnx", lambda m: renamed(m, "Relu", "DynamicQuantizeLinear")
        ),
        "old opset": edited("bad.onnx", lambda m: setattr(m.opset_import[0], "version", 9)),
        "future opset": edited("bad.onnx", lambda m: setattr(m.opset_import[0], "version", 99)),
        "no opset": edited("bad.onnx", lambda m: m.ClearField("opset_import")),
        "no output": edited("bad.onnx", lambda m: m.graph.ClearField("output")),
        "value that nobody makes": edited(
            "bad.onnx", lambda m: m.graph.node[4].input.__setitem__(0, "nobody")
        ),
        "two of one name": edited(
            "bad.onnx", lambda m: m.graph.node[4].output.__setitem__(0, "xd")
        ),
        "weight cut short": edited(
            "bad.onnx", lambda m: setattr(m.graph.initializer[0], "raw_data", b"abc")
        ),
    }.items():
        yield Case(f"ONNX file: {name}", "scan bad.onnx --data data.npz --out new", before)
        if name in (
            "missing",
            "text",
            "half",
            "a folder",
            "value that nobody makes",
            "weight cut short",
        ):
            yield Case(f"lint of an ONNX file: {name}", "lint bad.onnx --for onnxruntime", before)
            yield Case(f"check of an ONNX file: {name}", "check bad.onnx --data data.npz", before)
    yield Case(
        "external data gone",
        "scan external/model.onnx --data data.npz --out new",
        gone("external/weights.bin"),
    )
    yield Case(
        "external data cut", "lint external/model.onnx --for openvino", cut("external/weights.bin")
    )
    for name, words in {
        "missing": "nowhere.onnx",
        "no model": "data.npz",
        "another model": "float.onnx",
    }.items():
        yield Case(f"--float-model: {name}", f"{SCAN} --float-model {words}")
    yield Case("--decode of no detector", f"{SCAN} --decode yolo --data coco.json", coco())
    yield Case("lint --plan: missing", "lint int8.onnx --for openvino --plan nowhere.json")
    yield Case("lint --plan: no JSON", "lint int8.onnx --for openvino --plan data.npz")
    yield Case("lint --plan: no plan", "lint int8.onnx --for openvino --plan runs/ok/run.json")
    yield Case(
        "lint --plan: a flipped bit",
        "lint int8.onnx --for openvino --plan runs/ok/plan.json",
        flipped("runs/ok/plan.json"),
    )


def data_cases() -> Iterator[Case]:
    x, y = np.zeros((60, 4), np.float32), np.arange(60) % 3
    yield Case("--data: none", "scan int8.onnx --out new")
    yield Case("--data: nothing there", "scan int8.onnx --data nowhere --out new")
    for name, before in {
        "no arrays": arrays("bad.npz"),
        "no labels": arrays("bad.npz", x=x),
        "labels of another number": arrays("bad.npz", x=x, y=y[:-1]),
        "labels that are no classes": arrays("bad.npz", x=x, y=y + 100),
        "negative labels": arrays("bad.npz", x=x, y=y - 1),
        "labels that are fractions": arrays("bad.npz", x=x, y=y + 0.5),
        "labels that are words": arrays("bad.npz", x=x, y=np.array(["a"] * 60)),
        "labels of two axes": arrays("bad.npz", x=x, y=np.zeros((60, 2, 2), int)),
        "inputs of another shape": arrays("bad.npz", x=np.zeros((60, 5), np.float32), y=y),
        "inputs of another rank": arrays("bad.npz", x=np.zeros((60, 4, 4), np.float32), y=y),
        "inputs that are words": arrays("bad.npz", x=np.array([["a"] * 4] * 60), y=y),
        "inputs that are objects": arrays("bad.npz", x=np.array([[None] * 4] * 60), y=y),
        "inputs that are not numbers": arrays("bad.npz", x=x * np.nan, y=y),
        "no samples": arrays("bad.npz", x=x[:0], y=y[:0]),
        "one sample": arrays("bad.npz", x=x[:1], y=y[:1]),
        "a single number": arrays("bad.npz", x=np.float32(1), y=np.int64(1)),
        "no archive": text("bad.npz", "no archive"),
        "an archive cut short": both(arrays("bad.npz", x=x, y=y), cut("bad.npz")),
        "a flipped bit": both(arrays("bad.npz", x=x, y=y), flipped("bad.npz", 0.3)),
    }.items():
        yield Case(f"--data: {name}", "scan int8.onnx --data bad.npz --out new", before)
    for name, before in {
        "no JSON": text("coco.json", "{"),
        "JSON of something else": text("coco.json", "[1, 2]"),
        "no images": coco(images=[]),
        "no categories": coco(categories=[]),
        "image without a file": coco(),
        "box of three numbers": coco(
            annotations=[{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3]}]
        ),
        "box of an unknown image": coco(
            annotations=[{"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 1, 2, 2]}]
        ),
        "box of an unknown class": coco(
            annotations=[{"id": 1, "image_id": 1, "category_id": 9, "bbox": [1, 1, 2, 2]}]
        ),
        "image without a name": coco(images=[{"id": 1}]),
    }.items():
        yield Case(
            f"--data: COCO, {name}",
            "scan image.onnx --data coco.json --out new",
            both(image_file, before),
        )
    for name, before in {
        "an empty folder": folder_of("images"),
        "empty class folders": classes("a", "b"),
        "one class": classes("a", images=8),
        "files that are no images": classes("a", "b", "c", images=8, broken=True),
        "two images": classes("a", "b", images=1),
    }.items():
        yield Case(
            f"--data: {name}", "scan image.onnx --data images --out new", both(image_file, before)
        )
    yield Case(
        "--data: images for a file of no images",
        "scan int8.onnx --data images --out new",
        classes("a", "b", images=8),
    )


def run_dir_cases() -> Iterator[Case]:
    for verb in ("plan", "export", "bench", "report"):
        yield Case(f"{verb} of nothing", f"{verb} nowhere")
        yield Case(f"{verb} of a file", f"{verb} data.npz")
        yield Case(f"{verb} of an empty folder", f"{verb} empty", folder_of("empty"))
    for name in ("run", "scan", "plan", "export", "bench", "frontier"):
        verb = {
            "run": "plan",
            "scan": "plan",
            "plan": "export",
            "export": "bench",
            "bench": "report",
            "frontier": "plan",
        }[name]
        file = f"runs/ok/{name}.json"
        for how, before in {
            "cut short": cut(file),
            "a flipped bit": flipped(file),
            "a list": text(file, "[]"),
            "a folder": both(gone(file), folder_of(file)),
        }.items():
            yield Case(f"{name}.json: {how}", f"{verb} runs/ok", before)
    yield Case(
        "run.json: a number that is a word",
        "report runs/ok",
        record("runs/ok/run.json", full_scale="one"),
    )
    yield Case(
        "plan.json: a unit that is none",
        "export runs/ok",
        record("runs/ok/plan.json", skip=["nothing"]),
    )
    yield Case(
        "frontier.npz: cut short",
        "plan runs/ok --target 0.3 --no-recalibrate",
        cut("runs/ok/frontier.npz"),
    )
    yield Case(
        "frontier.npz: no archive",
        "plan runs/ok --target 0.3 --no-recalibrate",
        text("runs/ok/frontier.npz", "x"),
    )
    yield Case("frontier: none yet", "plan runs/ok --frontier", gone("runs/ok/frontier.json"))
    for how, before in {
        "a flipped bit": flipped("runs/ok/journal.jsonl"),
        "garbage": text("runs/ok/journal.jsonl", "garbage\n"),
        "a folder": both(gone("runs/ok/journal.jsonl"), folder_of("runs/ok/journal.jsonl")),
        "of another version": text(
            "runs/ok/journal.jsonl", '{"op":"open","schema":99,"head":{}}\n'
        ),
        "of another model": replaced("tasks.py", '"int8.onnx"', '"branch.onnx"'),
    }.items():
        words = (
            "scan tasks.py:scan_good --out runs/task --resume"
            if "another model" in how
            else "plan runs/ok --search"
        )
        yield Case(f"journal: {how}", words, before)
    yield Case(
        "task changed: another score",
        "plan runs/task --search",
        replaced("tasks.py", "return hits(", "return 0.5 * hits("),
    )
    yield Case(
        "task changed: other data",
        "plan runs/task --search",
        replaced("tasks.py", "default_rng(2)", "default_rng(3)"),
    )
    yield Case(
        "task changed: another metric",
        "plan runs/task --search",
        replaced("tasks.py", 'metric="hits"', 'metric="misses"'),
    )
    yield Case("task gone", "plan runs/task --search", gone("tasks.py"))
    yield Case("its ONNX file gone", "plan runs/ok --search", gone("int8.onnx"))
    yield Case("its data gone", "export runs/ok", gone("data.npz"))
    for name in ("float", "int8", "partial"):
        yield Case(
            f"model.{name}.onnx: cut short",
            "bench runs/ok --rounds 2",
            cut(f"runs/ok/model.{name}.onnx"),
        )
    yield Case(
        "model.float.onnx: gone", "bench runs/ok --rounds 2", gone("runs/ok/model.float.onnx")
    )
    yield Case("--out: a used run", "scan int8.onnx --data data.npz --out runs/ok")
    yield Case("--out: a file", "scan int8.onnx --data data.npz --out data.npz")
    yield Case("--out: below a file", "scan int8.onnx --data data.npz --out data.npz/run")
    yield Case("--out: not writable", "scan int8.onnx --data data.npz --out /proc/run")
    yield Case("--out: not writable, task file", "scan tasks.py:scan_good --out /proc/run")
    yield Case("demo --out: a file", "demo --out data.npz")


def yolo_cases() -> Iterator[Case]:
    for words in (
        "--weights nowhere.pt --data "
        "coco.json", "--weights data.npz --data coco.json", "--weights bad.pt --data coco.json",
        "--weights bad.pt --data "
        "nowhere.yaml", "--weights bad.pt --data coco.json --batch "
                        "0", "--weights bad.pt --data coco.json --limit 0",
        "--weights bad.pt --data coco.json --calib-images "
        "0", "--weights bad.pt --data coco.json --imgsz "
             "0", "--weights bad.pt --data coco.json --imgsz x",
        "--weights bad.pt --data coco.json --calib-method "
        "best", "--weights bad.pt --data coco.json --output "
                "boxes", "--weights bad.pt --data coco.json --evaluator mine",
    ):  # fmt: skip
        yield Case(
            "yolo run", f"yolo run {words} --out new", both(coco(), text("bad.pt", "no weights"))
        )


def cases() -> list[Case]:
    return [
        *command_line_cases(),
        *task_cases(),
        *onnx_cases(),
        *data_cases(),
        *run_dir_cases(),
        *yolo_cases(),
    ]


def sentence(ended: Ended) -> str:
    """The sentence after "Error:", or the first error that `check` found; "" if that was not one
    line."""
    if ended.printed.startswith("error "):
        return str(FINDING.findall(ended.printed)[0])
    found = [
        line.removeprefix("Error: ")
        for line in ended.said.splitlines()
        if line.startswith("Error: ")
    ]
    return found[0] if len(found) == 1 else ""


def is_good(ended: Ended) -> bool:
    return ended.code in GOOD_CODES and bool(sentence(ended)) and "Traceback" not in ended.said


def results(chosen: list[Case], folder: Path) -> Iterator[tuple[Case, Ended]]:
    """Run the cases, each in a fresh copy of the prepared folder."""
    log, valid, here = folder / "log", folder / "valid", folder / "here"
    here.mkdir(parents=True)
    os.chdir(here)
    made(here)
    warm(
        "run int8.onnx --data data.npz --out runs/ok --target 0.3 --rounds 2 --threads 1 "
        f"{QUICK}".split(),
        log,
    )
    for words in (
        f"run tasks.py:scan_good --out runs/task --target 0.3 --rounds 2 --threads 1 {QUICK}",
        f"plan runs/ok {QUICK.split()[0]} --max-drop 1pt",
    ):
        ended = forked(words.split(), log)
        assert ended.code in (0, 2), ended.said
    shutil.copytree(here, valid)
    for case in chosen:
        os.chdir(folder)
        shutil.rmtree(here)
        shutil.copytree(valid, here)
        os.chdir(here)
        case.before()
        yield case, forked(case.words.split(), log)
    os.chdir("/")


def table(rows: list[tuple[Case, Ended]], folder: Path) -> str:
    lines = ["| # | given | command | sentence | exit |", "|---|---|---|---|---|"]
    for number, (case, ended) in enumerate(rows, 1):
        said = (
            sentence(ended)
            .replace(f"{folder}/here", ".")
            .replace(str(folder), ".")
            .replace("|", "\\|")
            .replace("\n", " ")
        )
        said = re.sub(r"\S*/site-packages/", "", said)
        lines.append(
            f"| {number} | {case.name} | `sensitivity {case.words}` | {said} | {ended.code} |"
        )
    return "\n".join(lines)


HEAD = """# Bad inputs

What the command line says of {number} bad inputs. Written by
`python benchmarks/bad_inputs.py --out docs/bad_inputs.md`, which fails where one of them ends in a
traceback, in silence or in more than one sentence.

"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only")
    parser.add_argument("--every", type=int, default=1, help="take every so many-th of them")
    options = parser.parse_args()
    chosen = [
        case
        for case in cases()
        if options.only is None or options.only in f"{case.name} {case.words}"
    ]
    chosen = chosen[:: options.every]
    out = options.out.resolve() if options.out else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        rows = list(results(chosen, folder))
        for case, ended in rows:
            if options.only is not None or not is_good(ended):
                print(
                    f"{case.name}: sensitivity {case.words}: {ended.code}\n{ended.said[-2500:]}\n",
                    flush=True,
                )
        if out:
            out.write_text(HEAD.format(number=len(rows)) + table(rows, folder) + "\n")
    bad = sum(not is_good(ended) for _, ended in rows)
    print(f"{len(rows)} bad inputs, {bad} that are not one clear sentence")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
