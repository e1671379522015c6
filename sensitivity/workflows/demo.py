"""The demo: the whole job on handwritten digits and a small RepVGG that was trained on them.

    reference = prepare(Path("runs/demo"))
    api.run(RunSettings(task=reference, out=Path("runs/demo"), max_drop="1pt"))

The run directory holds the weights and a task file that loads them, so that every verb can be used
on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sensitivity import optional
from sensitivity.errors import TaskError
from sensitivity.files import write_whole
from sensitivity.lock import locked
from sensitivity.tasks.base import Task
from sensitivity.tasks.classification import ArrayBatches, classification_task, from_arrays
from sensitivity.workflows.modelopt import quantize

if TYPE_CHECKING:
    from sensitivity.workflows.repvgg import PlainVGG

SEED = 0
SIZES = {"train": 700, "calib": 100, "rank": 400, "confirm": 300, "holdout": 297}
WIDTH, DEPTHS = 32, (4, 4)
EPOCHS, RATE, DECAY = 10, 0.3, 1e-2

WEIGHTS = Path(__file__).with_name("demo_weights.pt")
"""The weights of `trained`, as `save_trained` wrote them. Training takes as long as the rest of the
demo, and its last bits depend on the processor."""
DIGITS = Path(__file__).with_name("demo_digits.npz")
"""pixels: uint8[1797, 8, 8], 0 to 16. labels: uint8[1797]. UCI's Optical Recognition of Handwritten
Digits, the part for tests (E. Alpaydin and C. Kaynak, 1998, doi.org/10.24432/C50P49, CC BY 4.0), in
the order of scikit-learn's `load_digits`."""

INT8_PER_TENSOR = {
    "quant_cfg": [
        {"quantizer_name": "*", "enable": False},
        {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": 8, "axis": None}},
        {"quantizer_name": "*input_quantizer", "cfg": {"num_bits": 8, "axis": None}},
    ],
    "algorithm": "max",
}

TASK_FILE = '''\
"""Handwritten digits and a re-parameterised RepVGG, calibrated by ModelOpt.

The weights lie beside this file.

Written by `sensitivity demo`. Change it to see what happens: a task that measures
something else needs a run directory of its own.
"""

from pathlib import Path

from sensitivity.workflows import demo


def task():
    return demo.task(Path(__file__).with_name("weights.pt"))
'''


def prepare(folder: Path) -> str:
    """Write the demo's weights, unless `folder` holds some already, and its task file. Return the
    reference of the task.

    Raises WriteError if the folder cannot be written.
    """
    weights = folder / "weights.pt"
    with locked(folder):
        if not weights.exists():
            write_whole(weights, WEIGHTS.read_bytes())
        write_whole(folder / "task.py", TASK_FILE.encode())
    return f"{folder / 'task.py'}:task"


def task(weights: Path) -> Task:
    """Return the demo's task, with the weights that `prepare` wrote."""
    from sensitivity.workflows.repvgg import RepVGG

    splits = digits()
    model = RepVGG(WIDTH, DEPTHS, classes=10).plain()
    try:
        model.load_state_dict(optional.torch.load(weights, weights_only=True))
    except (OSError, RuntimeError) as error:
        raise TaskError(
            f"Expected the demo's weights in {weights}, got none; run 'sensitivity demo' again."
        ) from error
    return classification_task(calibrated(model, splits["calib"]), splits)


def digits() -> dict[str, ArrayBatches]:
    """Return 1,797 real digits, 8x8 pixels in the range 0 to 1, drawn at random into disjoint
    splits."""
    with np.load(DIGITS) as stored:
        pixels, labels = stored["pixels"], stored["labels"]
    return from_arrays(
        pixels[:, None].astype("float32") / 16,
        labels.astype(int),
        sizes=SIZES,
        batch=100,
        seed=SEED,
    )


def save_trained(file: Path) -> None:
    """Train the demo's model anew, which takes half a minute, and write its weights."""
    optional.torch.save(trained(digits()["train"]).state_dict(), file)


def trained(split: ArrayBatches) -> PlainVGG:
    """Return the trained and re-parameterised model, bit for bit the same each time on one
    machine."""
    from sensitivity.workflows.repvgg import RepVGG, repeatable, train

    x, y = optional.torch.from_numpy(split.x), optional.torch.from_numpy(split.y)
    with repeatable(SEED):
        model = RepVGG(WIDTH, DEPTHS, classes=10)
        # With channels last, these small images are trained in a sixth less time.
        for weight in model.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=optional.torch.channels_last)
        train(model, x, y, epochs=EPOCHS, rate=RATE, decay=DECAY, seed=SEED)
        return model.plain()


def calibrated(model: PlainVGG, calib: ArrayBatches) -> Any:
    """Quantize the model to INT8 with max ranges and one scale for each activation and each weight
    tensor.

    One scale per weight tensor is the default of ONNX Runtime's `quantize_static`, and all that
    some accelerators support. It is what hurts here, as it does RepVGG in the literature: where
    training has left an input channel almost unused, its identity branch divides by a tiny
    deviation, and re-parameterising puts that one huge number next to ordinary weights. One scale
    per output channel costs this model nothing, and is the better remedy where it is available.
    """

    def run(model: Any) -> None:
        for inputs, _ in calib:
            model(inputs)

    return quantize(model.eval(), INT8_PER_TENSOR, run)
